"""Figures with 95 % intervals by patient: AUC, paired differences, precision and recall.

Resampled figures take ``weights [resamples, N]`` of :func:`patient_weights`: how often each image counts.
Each resampled figure is the same sum as its plain figure, so that a test can hold both equal.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

Floats = npt.NDArray[np.floating]
Texts = npt.NDArray[np.str_]
Called = npt.NDArray[np.bool_]  # of each image: is it called?
RESAMPLES = 2000
MANY, FEWER = 5000, 500  # above so many images so many resamples: their intervals are narrow, their sums long
SEED = 20240601  # one fixed draw of patients, so that the same weights give the same intervals


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval (percentiles of the bootstrap by patient)."""

    value: float
    low: float
    high: float

    def as_list(self, digits: int = 4) -> list[float]:
        return [round(value, digits) for value in (self.value, self.low, self.high)]


UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One label within one source: the smallest set of images in which an AUC is fair."""

    source: str
    label: int
    rows: npt.NDArray[np.intp]


def patient_weights(patients: Sequence[str], resamples: int | None = None, seed: int = SEED) -> Floats:
    """How often each image counts when patients are drawn with replacement: ``[resamples, N]``.

    2,000 resamples by default, 500 for more than 5,000 images.
    """
    if resamples is None:
        resamples = RESAMPLES if len(patients) <= MANY else FEWER
    names, index = np.unique(np.asarray(patients), return_inverse=True)
    random = np.random.default_rng(seed)
    drawn = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return drawn[:, index].astype(np.float32)


def interval(value: float, resampled: Floats) -> Interval:
    """``value`` with the 2.5 and 97.5 percentiles of ``resampled`` as its interval (NaN left out)."""
    known = resampled[~np.isnan(resampled)]
    if not len(known):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.percentile(known, (2.5, 97.5))
    return Interval(value, float(low), float(high))


def mean_interval(values: Floats, weights: Floats) -> Interval:
    """The mean of ``values [N]``, one for each image, with its interval."""
    return interval(float(values.mean()), (weights @ values) / weights.sum(1))


def mean_of(values: npt.ArrayLike, patients: Sequence[Any]) -> list[float] | None:
    """The mean of ``values``, one for each of ``patients``, with its interval; None without any."""
    return mean_interval(np.asarray(values), patient_weights(patients)).as_list() if len(patients) else None


def agreement(differences: Floats, digits: int) -> dict[str, Any]:
    """The agreement of two measures from their ``differences``: bias, 95 % limits of agreement (Bland,
    Altman), and the largest difference.
    """
    bias, spread = float(differences.mean()), float(differences.std(ddof=1))
    return {
        "bias": round(bias, digits),
        "limits": [round(bias - 1.96 * spread, digits), round(bias + 1.96 * spread, digits)],
        "worst": round(float(np.abs(differences).max()), digits),
    }


def auc(truth: Floats, score: Floats) -> float:
    """Area under the ROC curve; NaN if one class is missing."""
    if truth.min() == truth.max():
        return float("nan")
    return float(roc_auc_score(truth, score))


def auc_interval(truth: Floats, score: Floats, weights: Floats) -> Interval:
    """:func:`auc` with its interval; NaN without images."""
    value = auc(truth, score) if len(truth) else float("nan")
    return interval(value, resampled_auc(truth, score, weights))


def resampled_auc(truth: Floats, score: Floats, weights: Floats) -> Floats:
    """The AUC under each row of ``weights``; NaN if a resample holds one class only.

    For every positive it counts the negatives that score lower, ties as half (tests: equal to
    scikit-learn's).
    """
    return _in_blocks(_auc_of, truth, score, weights)


def average_precision(truth: Floats, score: Floats) -> float:
    """Area under the precision-recall curve; NaN without positives."""
    return float(average_precision_score(truth, score)) if truth.any() else float("nan")


def resampled_average_precision(truth: Floats, score: Floats, weights: Floats) -> Floats:
    """The average precision under each row of ``weights``; NaN if a resample has no positive."""
    return _in_blocks(_precision_of, truth, score, weights)


def mean_auc(truth: Floats, score: Floats, labels: Sequence[int]) -> float:
    """Mean AUC over the columns ``labels``; NaN without labels."""
    found = [auc(truth[:, label], score[:, label]) for label in labels]
    return float(np.mean(found)) if found else float("nan")


def resampled_mean_auc(truth: Floats, score: Floats, labels: Sequence[int], weights: Floats) -> Floats:
    """Mean AUC over ``labels`` under each row of ``weights``."""
    found = [resampled_auc(truth[:, k], score[:, k], weights) for k in labels]
    return np.asarray(np.mean(found, axis=0)) if found else np.full(len(weights), np.nan)


def mean_auc_interval(truth: Floats, score: Floats, labels: Sequence[int], weights: Floats) -> Interval:
    """:func:`mean_auc` with its interval."""
    return interval(mean_auc(truth, score, labels), resampled_mean_auc(truth, score, labels, weights))


def mean_auc_difference(
    truth: Floats, score: Floats, other: Floats, labels: Sequence[int], weights: Floats
) -> Interval:
    """:func:`mean_auc` of ``score`` less that of ``other`` on the same images, with its interval."""
    drawn = [resampled_mean_auc(truth, one, labels, weights) for one in (score, other)]
    value = mean_auc(truth, score, labels) - mean_auc(truth, other, labels)
    return interval(value, drawn[0] - drawn[1])


def within_source_auc(
    truth: Floats, score: Floats, sources: Texts, fewest: int = 10, left_out: Collection[tuple[str, int]] = ()
) -> float:
    """Mean of the AUCs of every label in every source with at least ``fewest`` positives and negatives.

    AUCs are computed within a source because the source itself predicts the label. ``left_out``: pairs of
    source and label that do not count. NaN if nothing is left.
    """
    return _mean_of_cells(truth, score, cells(truth, sources, fewest, left_out))


def within_source_interval(
    truth: Floats,
    score: Floats,
    sources: Texts,
    patients: Sequence[str],
    fewest: int = 10,
    left_out: Collection[tuple[str, int]] = (),
) -> Interval:
    """:func:`within_source_auc` with its interval; a patient is drawn with all images from all sources."""
    found = cells(truth, sources, fewest, left_out)
    resampled = _resampled_cells(truth, score, found, patient_weights(patients))
    return interval(_mean_of_cells(truth, score, found), resampled)


def within_source_difference(
    truth: Floats,
    score_a: Floats,
    score_b: Floats,
    sources: Texts,
    patients: Sequence[str],
    fewest: int = 10,
    left_out: Collection[tuple[str, int]] = (),
) -> Interval:
    """Paired difference of the means of within-source AUCs, ``score_a`` minus ``score_b``."""
    found, weights = cells(truth, sources, fewest, left_out), patient_weights(patients)
    value = _mean_of_cells(truth, score_a, found) - _mean_of_cells(truth, score_b, found)
    resampled = [_resampled_cells(truth, score, found, weights) for score in (score_a, score_b)]
    return interval(value, resampled[0] - resampled[1])


def cells(
    truth: Floats, sources: Texts, fewest: int, left_out: Collection[tuple[str, int]] = ()
) -> tuple[Cell, ...]:
    """Every pair of label and source with at least ``fewest`` positives and as many negatives; images whose
    truth is NaN are left out of the label's cells.
    """
    found: list[Cell] = []
    for source in np.unique(sources):
        rows = np.flatnonzero(np.asarray(sources) == source)
        for label in range(truth.shape[1]):
            known = rows[~np.isnan(truth[rows, label])]
            positives = truth[known, label].sum()
            if min(positives, len(known) - positives) >= fewest and (str(source), label) not in left_out:
                found.append(Cell(str(source), label, known))
    return tuple(found)


def share(hits: Called, among: Called, weights: Floats) -> Interval:
    """Share of the images ``among`` that are ``hits``, with its interval (:func:`exact_at_the_ends`); NaN if
    there are none.
    """
    if not among.any():
        return UNKNOWN
    value = float(hits[among].mean())
    if value in {0.0, 1.0}:
        return exact_at_the_ends(value, int(among.sum()))
    inside = weights[:, among]
    with np.errstate(invalid="ignore", divide="ignore"):
        return interval(value, (inside @ hits[among].astype(np.float64)) / inside.sum(1))


def exact_at_the_ends(share: float, among: int) -> Interval:
    """The interval of a share of 0 or 1 of ``among`` images: the exact binomial one of Clopper and Pearson.

    A bootstrap would give no interval: no resample of three hits in three images holds a miss.
    """
    reach = 0.025 ** (1 / among)
    return Interval(share, reach if share else 0.0, 1.0 if share else 1 - reach)


def ratio(above: Floats, below: Floats, weights: Floats) -> Interval:
    """``sum(above) / sum(below)`` of counts per image, with its interval; NaN when ``below`` is all zero."""
    if not below.any():
        return UNKNOWN
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled = (weights @ above) / (weights @ below)
    return interval(float(above.sum() / below.sum()), resampled)


def brier(truth: Floats, probability: Floats) -> float:
    """Mean squared difference of probability and truth."""
    return float(np.mean((probability - truth) ** 2))


def calibration_error(truth: Floats, probability: Floats, bins: int = 10) -> float:
    """Expected calibration error over ``bins`` with equally many images each."""
    order = np.argsort(probability, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    gaps = [abs(probability[part].mean() - truth[part].mean()) * len(part) for part in parts]
    return float(np.sum(gaps) / len(order))


def dice(found: Called, truth: Called) -> float:
    """The Dice coefficient of two masks of one size, 0 to 1."""
    return float(2 * (found & truth).sum() / max(int(found.sum() + truth.sum()), 1))


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes ``(left, top, right, bottom)``."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return common / (both - common)


def _mean_of_cells(truth: Floats, score: Floats, found: Sequence[Cell]) -> float:
    values = [auc(truth[cell.rows, cell.label], score[cell.rows, cell.label]) for cell in found]
    return float(np.mean(values)) if values else float("nan")


def _resampled_cells(truth: Floats, score: Floats, found: Sequence[Cell], weights: Floats) -> Floats:
    values = [
        resampled_auc(truth[cell.rows, cell.label], score[cell.rows, cell.label], weights[:, cell.rows])
        for cell in found
    ]
    return np.asarray(np.mean(values, axis=0)) if values else np.full(len(weights), np.nan)


def _in_blocks(
    figure: Callable[[Floats, Floats], Floats], truth: Floats, score: Floats, weights: Floats
) -> Floats:
    """``figure`` of the weights of positives and of negatives at each distinct score, rising: ``[resamples,
    scores]`` each.
    """
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    positive, found = truth[order] > 0, []
    # 32 MB of weights are worked on at once.
    step = max(1, 4_000_000 // weights.shape[1])
    for first in range(0, len(weights), step):
        sorted_weights = weights[first : first + step, order].astype(np.float64)
        parts = (np.add.reduceat(sorted_weights * of, starts, axis=1) for of in (positive, ~positive))
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(figure(*parts))
    return np.concatenate(found)


def _auc_of(positive: Floats, negative: Floats) -> Floats:
    below = np.cumsum(negative, axis=1) - negative / 2
    return np.asarray((positive * below).sum(1) / (positive.sum(1) * negative.sum(1)))


def _precision_of(positive: Floats, negative: Floats) -> Floats:
    true = np.cumsum(positive[:, ::-1], axis=1)
    called = true + np.cumsum(negative[:, ::-1], axis=1)
    precision = np.where(called > 0, true / called, 0.0)
    return np.asarray((positive[:, ::-1] * precision).sum(1) / positive.sum(1))
