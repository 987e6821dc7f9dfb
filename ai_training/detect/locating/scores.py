"""Figures for boxes: T(IoU), pointing game, average precision, FROC; every interval is 95 %, by patient.

They answer two questions. *Where is it?* Every true box is asked for by its label, as if the finding were
known to be present (:func:`place_figures`). *Is it there, and where?* Every label is asked of every image
(:func:`detection_figures`); since the lists of boxes are not exhaustive, an image that has a label but no box
for it does not count for that label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ai_training.metrics import (
    Floats,
    average_precision,
    interval,
    mean_interval,
    overlap,
    patient_weights,
    resampled_average_precision,
)

CUTS = (0.1, 0.3, 0.5)  # T(IoU), as the literature on these boxes has it (X. Wang et al., CVPR 2017)
PRECISION_CUT = 0.4  # of mAP, as in the RSNA and VinBigData challenges
FROC_CUT = 0.3  # a box that overlaps less is a false one
FROC_AT = (0.125, 0.25, 0.5, 1.0)  # false boxes an image
PLACE_NAMES = ("T(IoU.1)", "T(IoU.3)", "T(IoU.5)", "mean T", "IoU", "pointing")
Corners = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Place:
    """A predicted place of a finding, valid if the image has the finding.

    ``corners`` (left, top, right, bottom) and ``point`` (x, y), the most likely point, are shares of the
    image's sides. ``score``: how sure the place is, 0 to 1.
    """

    corners: Corners
    point: tuple[float, float]
    score: float


@dataclass(frozen=True, slots=True)
class Detection:
    """One predicted box: image, label, ``score``, and its IoU with the true box of that label in the
    image.
    """

    label: int
    image: int
    score: float
    overlap: float


def place_figures(truth: Sequence[Corners], predictions: Sequence[Place | None]) -> npt.NDArray[np.float64]:
    """The scores of each predicted place: ``[boxes, 6]``, columns as :data:`PLACE_NAMES`; 0 without a
    prediction.
    """
    rows = np.zeros((len(truth), len(PLACE_NAMES)))
    for row, (wanted, place) in enumerate(zip(truth, predictions, strict=True)):
        if place is None:
            continue
        found = overlap(wanted, place.corners)
        reached = [float(found >= cut) for cut in CUTS]
        x, y = place.point
        inside = wanted[0] <= x <= wanted[2] and wanted[1] <= y <= wanted[3]
        rows[row] = (*reached, sum(reached) / len(CUTS), found, float(inside))
    return rows


def means(figures: npt.NDArray[np.float64], patients: Sequence[str]) -> dict[str, list[float]]:
    """The mean of each column with its 95 % interval, by patient.

    If ``figures`` is the difference of two tables, these are paired differences.
    """
    weights = patient_weights(patients)
    columns = enumerate(PLACE_NAMES)
    return {name: mean_interval(figures[:, column], weights).as_list() for column, name in columns}


def detection_figures(
    arms: Mapping[str, Sequence[Detection]],
    positives: npt.NDArray[np.bool_],
    asked: npt.NDArray[np.bool_],
    patients: Sequence[str],
) -> dict[str, dict[str, list[float]]]:
    """mAP and FROC of each arm, and the paired differences to the first one (``"A - B"``).

    ``positives`` and ``asked``, both ``[images, labels]``: images with a box of a label, and images in which
    a detection of it counts. An image holds at most one box of a label here.
    """
    weights = patient_weights(patients)
    made = {name: _resampled(found, positives, asked, weights) for name, found in arms.items()}
    result = {name: _as_lists(values) for name, values in made.items()}
    first, *others = made
    for other in others:
        pairs = {name: _minus(made[first][name], made[other][name]) for name in made[first]}
        result[f"{first} - {other}"] = _as_lists(pairs)
    return result


_Resampled = tuple[float, Floats]


def _resampled(
    found: Sequence[Detection],
    positives: npt.NDArray[np.bool_],
    asked: npt.NDArray[np.bool_],
    weights: Floats,
) -> dict[str, _Resampled]:
    counted = [one for one in found if asked[one.image, one.label]]
    labels = [label for label in range(positives.shape[1]) if positives[:, label].any()]
    precisions = [_precision([d for d in counted if d.label == k], positives[:, k], weights) for k in labels]
    value = float(np.mean([plain for plain, _ in precisions]))
    rows = np.array([resampled for _, resampled in precisions])
    with np.errstate(invalid="ignore"):  # a resample may hold no box at all
        mean = np.nansum(rows, axis=0) / (~np.isnan(rows)).sum(0)
    figures = {"mAP@.4": (value, mean)}
    figures |= _froc(counted, positives, weights)
    return figures


def _precision(found: Sequence[Detection], positives: npt.NDArray[np.bool_], weights: Floats) -> _Resampled:
    """Average precision of one label: the area under the curve of the boxes drawn, which ends at the share of
    the truth that any of them reaches. Only the best of several boxes on one truth is a hit."""
    hits = _hits(found, PRECISION_CUT).astype(np.float64)
    score = np.array([one.score for one in found])
    images = np.array([one.image for one in found], np.intp)
    if not hits.any():
        return 0.0, np.zeros(len(weights))
    reached = weights[:, images] @ hits / np.maximum(weights @ positives, 1e-9)
    plain = average_precision(hits, score) * hits.sum() / positives.sum()
    with np.errstate(invalid="ignore"):
        rows = resampled_average_precision(hits, score, weights[:, images])
    return float(plain), np.where(weights @ positives > 0, np.nan_to_num(rows) * reached, np.nan)


def _froc(
    found: Sequence[Detection], positives: npt.NDArray[np.bool_], weights: Floats
) -> dict[str, _Resampled]:
    """The share of all boxes that is found where so many false ones are drawn an image, labels together."""
    ordered = sorted(found, key=lambda one: -one.score)
    hits = _hits(ordered, FROC_CUT)
    images = np.array([one.image for one in ordered], np.intp)
    every = np.vstack([np.ones(weights.shape[1], weights.dtype), weights])
    drawn = every[:, images].astype(np.float64)
    hit = hits.astype(np.float64)
    true = np.cumsum(drawn * hit, axis=1) / np.maximum(every @ positives.sum(1), 1e-9)[:, None]
    false = np.cumsum(drawn * (1.0 - hit), axis=1) / every.sum(1)[:, None]
    figures: dict[str, _Resampled] = {}
    for rate in FROC_AT:
        allowed = np.where(false <= rate, true, 0.0).max(axis=1)
        figures[f"sensitivity at {rate:g} false boxes an image"] = (float(allowed[0]), allowed[1:])
    return figures


def _hits(found: Sequence[Detection], cut: float) -> npt.NDArray[np.bool_]:
    best: dict[tuple[int, int], float] = {}
    for one in found:
        if one.overlap >= cut:
            key = one.label, one.image
            best[key] = max(best.get(key, -np.inf), one.score)
    taken: set[tuple[int, int]] = set()
    hits = np.zeros(len(found), bool)
    for row, one in enumerate(found):
        key = one.label, one.image
        if one.overlap >= cut and key not in taken and one.score == best[key]:
            taken.add(key)
            hits[row] = True
    return hits


def _minus(a: _Resampled, b: _Resampled) -> _Resampled:
    return a[0] - b[0], a[1] - b[1]


def _as_lists(figures: Mapping[str, _Resampled]) -> dict[str, list[float]]:
    return {name: interval(*values).as_list() for name, values in figures.items()}
