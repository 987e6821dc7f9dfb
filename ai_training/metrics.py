"""Figures with 95 % intervals by patient (AUC, paired differences, precision and recall), and calibration.

Resampled figures take ``weights [resamples, N]`` of :func:`patient_weights`: how often each image counts.
Each resampled figure is the same sum as its plain figure, so that a test can hold both equal.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from ai_pipeline.chest.classifier import probability
from ai_pipeline.models.registry import Label

Floats = npt.NDArray[np.floating]
Texts = npt.NDArray[np.str_]
Bools = npt.NDArray[np.bool_]  # of each image: is it called?
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
        """Return ``[value, low, high]``, rounded to ``digits``."""
        return [round(value, digits) for value in (self.value, self.low, self.high)]


UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One label in one source: the smallest set of images for which an AUC is fair."""

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
    """The mean of ``values``, one for each of ``patients``, as ``[value, low, high]``; None without any."""
    return mean_interval(np.asarray(values), patient_weights(patients)).as_list() if len(patients) else None


def agreement(differences: Floats, digits: int) -> dict[str, Any]:
    """The agreement of two measures from their ``differences``: bias, 95 % limits of agreement (Bland,
    Altman), and the largest difference, rounded to ``digits``.
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
    """The AUC (:func:`auc`) with its interval; NaN without images. ``weights``: those of resamples."""
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
    """:func:`within_source_auc` with its interval; a resample draws patients, each with all images from all
    sources.
    """
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
    """The difference of :func:`within_source_auc`, that of ``score_a`` minus that of ``score_b``, with its
    interval over the same resamples; other parameters as there.
    """
    found, weights = cells(truth, sources, fewest, left_out), patient_weights(patients)
    value = _mean_of_cells(truth, score_a, found) - _mean_of_cells(truth, score_b, found)
    resampled = [_resampled_cells(truth, score, found, weights) for score in (score_a, score_b)]
    return interval(value, resampled[0] - resampled[1])


def cells(
    truth: Floats, sources: Texts, fewest: int, left_out: Collection[tuple[str, int]] = ()
) -> tuple[Cell, ...]:
    """Every pair of a label and a source with at least ``fewest`` positives and ``fewest`` negatives, without
    the pairs in ``left_out``. Images whose truth is NaN are left out of the label's cells.
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


def share(hits: Bools, among: Bools, weights: Floats) -> Interval:
    """The share of ``hits`` in the images ``among`` (both a Boolean for each image), with its interval
    (:func:`exact_at_the_ends` for 0 and 1); NaN if ``among`` has no image.
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


def dice(found: Bools, truth: Bools) -> float:
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
    """The mean of the AUCs of the cells ``found``; NaN without cells."""
    values = [auc(truth[cell.rows, cell.label], score[cell.rows, cell.label]) for cell in found]
    return float(np.mean(values)) if values else float("nan")


def _resampled_cells(truth: Floats, score: Floats, found: Sequence[Cell], weights: Floats) -> Floats:
    """The mean of the AUCs of the cells ``found`` in each resample, a row of ``weights``."""
    values = [
        resampled_auc(truth[cell.rows, cell.label], score[cell.rows, cell.label], weights[:, cell.rows])
        for cell in found
    ]
    return np.asarray(np.mean(values, axis=0)) if values else np.full(len(weights), np.nan)


def _in_blocks(
    figure: Callable[[Floats, Floats], Floats], truth: Floats, score: Floats, weights: Floats
) -> Floats:
    """Compute ``figure`` for every row of ``weights``, in blocks to save memory. ``figure`` gets the weights
    of positives and of negatives at each distinct score, rising: ``[resamples, scores]`` each.
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
    """The AUC from the weights of positives and negatives at each score."""
    below = np.cumsum(negative, axis=1) - negative / 2
    return np.asarray((positive * below).sum(1) / (positive.sum(1) * negative.sum(1)))


def _precision_of(positive: Floats, negative: Floats) -> Floats:
    """The average precision from the weights of positives and negatives at each score."""
    true = np.cumsum(positive[:, ::-1], axis=1)
    called = true + np.cumsum(negative[:, ::-1], axis=1)
    precision = np.where(called > 0, true / called, 0.0)
    return np.asarray((positive[:, ::-1] * precision).sum(1) / positive.sum(1))


SPECIFICITY = 0.90
THRESHOLDS = (
    "on the same images: absent below Youden's J; present from the higher of Youden's J and the cut "
    f"with specificity {SPECIFICITY}; indeterminate between them"
)
STEP = 1e-7  # least distance of two edges; cards round to seven digits


Curve = tuple[float, float]
"""Slope, above 0, and intercept: probability = 1 / (1 + exp(-(slope · logit + intercept)))."""


def moved(label: Label, curve: Curve, threshold: float) -> float:
    """The probability under ``curve`` at the logit where ``label`` has the probability ``threshold``, with
    so many digits that no film changes sides.
    """
    if threshold in (0.0, 1.0):  # never, or always
        return threshold
    logit = (math.log(threshold / (1 - threshold)) - label.intercept) / label.slope
    return round(1 / (1 + math.exp(min(-(curve[0] * logit + curve[1]), 700.0))), 9)


class LabelCalibration(NamedTuple):
    """How a label's logit becomes a decision (see :class:`ai_pipeline.models.registry.Label`).

    ``slope`` is positive; ``threshold`` and ``absent_below`` are probabilities, the former not below the
    latter.
    """

    slope: float
    intercept: float
    threshold: float
    absent_below: float

    def rounded(self) -> dict[str, float]:
        """The values rounded to six digits, as a model card holds them."""
        return {name: round(value, 6) for name, value in self._asdict().items()}


def calibrated(truth: Floats, logit: Floats) -> LabelCalibration:
    """Fit the calibration (Platt scaling) and two thresholds of a label to validation images; those whose
    truth is NaN are ignored. Below Youden's J the finding is absent. It is present only from a threshold at
    which the specificity on validation is also at least .90: eight labels at Youden's specificity of about
    .65 would give a healthy chest three false findings. Between the two it is indeterminate.
    """
    known = ~np.isnan(truth)
    truth, logit = truth[known], logit[known]
    if len(np.unique(truth)) < 2:  # nothing to learn from: such a label is never called
        return LabelCalibration(1.0, 0.0, 1.0, 1.0)
    slope, intercept = platt(truth, logit)
    probability = np.asarray(1 / (1 + np.exp(-(slope * logit + intercept))))
    false_rate, true_rate, cuts = roc_curve(truth, probability, drop_intermediate=False)
    youden = int(np.argmax(true_rate - false_rate))
    specific = int(np.flatnonzero(false_rate <= 1 - SPECIFICITY)[-1])
    absent_below = float(min(cuts[youden], 1.0))
    threshold = float(min(max(absent_below, cuts[specific]), 1.0))
    return LabelCalibration(slope, intercept, threshold, absent_below)


def deciles(probabilities: Floats) -> list[list[float]]:
    """Nine strictly rising edges per label that cut ``probabilities [N, labels]`` into ten equal shares.

    If many images have the same probability, edges that coincide are moved apart by 1e-7. An image on an edge
    belongs to the bin above it, so among such bins all but the lowest stay empty.
    """
    edges = np.clip(np.quantile(probabilities, np.linspace(0.1, 0.9, 9), axis=0).T, 0.0, 1.0)
    place = np.arange(9)
    steps = np.maximum.accumulate(np.round(edges / STEP).astype(np.int64) - place, axis=1) + place
    steps = np.minimum(steps, round(1 / STEP) - place[::-1])
    return [[round(float(step) * STEP, 7) for step in row] for row in steps]


def reference(
    images: str, labels: Sequence[str], probabilities: Floats, refused: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    """Make the model card's table ``[reference]`` (:mod:`ai_pipeline.models.reference`) from the set called
    ``images``. ``probabilities [N, labels]``; ``refused [N]``: whether the domain gate refuses each image. A
    label with nearly the same probability for everyone has no deciles and is left out, since it would seem to
    drift.
    """
    return {
        "set": images,
        "images": len(probabilities),
        "refused": round(float(refused.mean()), 4),
        "deciles": {
            name: edges
            for name, edges in zip(labels, deciles(probabilities), strict=True)
            if min(np.diff(edges)) > 1e-6
        },
    }


def prevalence(truth: Floats, labels: Sequence[str]) -> dict[str, float]:
    """The rate of each label among the images that the calibration was fitted to."""
    return {name: round(float(rate), 4) for name, rate in zip(labels, np.nanmean(truth, 0), strict=True)}


def probabilities(labels: Sequence[Label], logits: Floats) -> Floats:
    """Convert ``logits [N, labels]`` to calibrated probabilities of the same shape."""
    rows = [[probability(label, float(v)) for label, v in zip(labels, row, strict=True)] for row in logits]
    return np.array(rows, np.float64).reshape(logits.shape)


def platt(truth: Floats, logit: Floats) -> tuple[float, float]:
    """Fit the logistic curve from logit to probability; returns its slope, which is positive, and its
    intercept. If the fitted slope is not, the result is a nearly constant curve at the rate of the label.
    """
    model = LogisticRegression(C=100.0).fit(logit[:, None], truth)
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope <= 0:  # no better than chance on validation: the rate for everyone, in the same order
        rate = float(truth.mean())
        return 0.01, float(np.log(rate / (1 - rate)))
    return slope, intercept


BINS = 10
FARTHEST = 30.0  # a slope or intercept beyond it means that a resample is separable: no figure
NEAREST = 1e-6  # probabilities are moved this far from 0 and 1, whose logits are infinite


def calibration(
    truth: Floats, probability: Floats, names: Sequence[str], weights: Floats, fewest: int
) -> dict[str, Any]:
    """Calibration figures of every label with at least ``fewest`` positives, and their means. ``names``: of
    the labels, the columns of ``truth`` and ``probability``; ``weights``: those of resamples.

    ``prevalence`` is given for all labels. ``slope`` 1 and ``intercept`` 0 are perfect. A slope below 1 means
    that probabilities are too extreme, an intercept above 0 that they are too low (the intercept is that of
    slope 1).
    """
    counted = [k for k in range(len(names)) if truth[:, k].sum() >= fewest]
    rows = {names[k]: _label(truth[:, k], probability[:, k], weights) for k in counted}
    result: dict[str, Any] = {
        "images": len(truth),
        "prevalence": {name: round(float(truth[:, k].mean()), 4) for k, name in enumerate(names)},
        "labels": {
            name: ({name: found.as_list() for name, found in row.items()}) for name, (row, _) in rows.items()
        },
    }
    for figure in ("ece", "brier") if rows else ():
        value = float(np.mean([row[figure].value for row, _ in rows.values()]))
        resampled = np.mean([drawn[figure] for _, drawn in rows.values()], axis=0)
        result[f"mean_{figure}"] = interval(value, resampled).as_list()
    return result


def slope_and_intercept(truth: Floats, probability: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Calibration slope and intercept under each row of ``weights``; NaN if they do not exist for a resample.

    The slope is that of a logistic regression of the truth on the logit of the probability; the intercept is
    that of a regression with slope 1.
    """
    clipped = np.clip(probability.astype(np.float64), NEAREST, 1 - NEAREST)
    logit = np.log(clipped / (1 - clipped))
    slope, (offset, intercept) = np.ones(len(weights)), np.zeros((2, len(weights)))
    with np.errstate(all="ignore"):
        # Newton's method has settled after six.
        for _ in range(12):
            error, spread = _residual(truth, slope[:, None] * logit + offset[:, None], weights)
            a, b, c = spread.sum(1), spread @ logit, spread @ logit**2
            down, across = error.sum(1), error @ logit
            determinant = a * c - b * b
            offset = offset + (c * down - b * across) / determinant
            slope = slope + (a * across - b * down) / determinant
            error, spread = _residual(truth, logit + intercept[:, None], weights)
            intercept = intercept + error.sum(1) / spread.sum(1)
    slope = np.where(np.abs(slope) + np.abs(offset) < FARTHEST, slope, np.nan)
    return slope, np.where(np.abs(intercept) < FARTHEST, intercept, np.nan)


def reliability_curve(truth: Floats, probability: Floats, bins: int = BINS) -> list[tuple[float, float, int]]:
    """Mean probability, rate and number of images of each of ``bins`` equally full bins."""
    parts = _bins(probability, bins)
    return [(float(probability[part].mean()), float(truth[part].mean()), len(part)) for part in parts]


def _label(
    truth: Floats, probability: Floats, weights: Floats
) -> tuple[dict[str, Interval], Mapping[str, Floats]]:
    """The calibration figures of one label by name, with intervals, and their values in each resample (a row
    of ``weights``).
    """
    once = np.ones((1, len(truth)))
    slope, intercept = slope_and_intercept(truth, probability, weights)
    value_slope, value_intercept = slope_and_intercept(truth, probability, once)
    total = weights.sum(1)
    error = calibration_error(truth, probability, BINS)
    gaps = [np.abs(weights[:, part] @ (probability - truth)[part]) for part in _bins(probability, BINS)]
    resampled = np.sum(gaps, axis=0) / total
    drawn = {
        # Resampling adds noise to every bin, and noise adds to the error: without that bias being taken off,
        # the interval of a good model's error would lie above the error.
        "ece": np.asarray(np.maximum(resampled - (resampled.mean() - error), 0.0)),
        "brier": (weights @ (probability - truth) ** 2) / total,
        "slope": slope,
        "intercept": intercept,
    }
    values = {
        "ece": error,
        "brier": brier(truth, probability),
        "slope": float(value_slope[0]),
        "intercept": float(value_intercept[0]),
    }
    return {name: interval(values[name], drawn[name]) for name in values}, drawn


def _residual(truth: Floats, value: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """The weighted residuals of a logistic model with the linear predictor ``value``, and the weights of its
    information matrix.
    """
    chance = 1 / (1 + np.exp(-value))
    return weights * (truth - chance), weights * chance * (1 - chance)


def _bins(probability: Floats, bins: int) -> list[npt.NDArray[np.intp]]:
    """The indices of the images in equally full bins, by rising probability."""
    order = np.argsort(probability, kind="stable")
    return np.array_split(order, min(bins, len(order)))
