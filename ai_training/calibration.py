"""What a model's numbers mean: Platt curves, thresholds, references, how well it is calibrated."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve

from ai_pipeline.chest.classifier import probability
from ai_pipeline.models.registry import Label
from ai_training.metrics import Floats, Interval, brier, calibration_error, interval

SPECIFICITY = 0.90
THRESHOLDS = (
    "on the same images: absent below Youden's J; present from the higher of Youden's J and the cut "
    f"with specificity {SPECIFICITY}; indeterminate between them"
)
STEP = 1e-7  # least distance of two edges; cards round to seven digits


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
        """The values rounded to six digits, as a card holds them."""
        return {name: round(value, 6) for name, value in self._asdict().items()}


def calibrated(truth: Floats, logit: Floats) -> LabelCalibration:
    """Platt scaling and two thresholds for a label, from validation images whose truth is not NaN.

    Below Youden's J the finding is absent. It is present only from a threshold at which the specificity on
    validation is also at least .90: eight labels at Youden's specificity of about .65 would give a healthy
    chest three false findings. Between the two it is indeterminate.
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
    """The card's table ``[reference]`` (:mod:`ai_pipeline.models.reference`) from the set called ``images``.

    ``probabilities [N, labels]``; ``refused [N]``: by the gate. A label with nearly the same probability for
    everyone has no deciles and is left out, since it would seem to drift.
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
    """The calibrated probabilities from ``logits``, both ``[N, labels]``."""
    rows = [[probability(label, float(v)) for label, v in zip(labels, row, strict=True)] for row in logits]
    return np.array(rows, np.float64).reshape(logits.shape)


def platt(truth: Floats, logit: Floats) -> tuple[float, float]:
    """``(slope, intercept)`` of the logistic curve from logit to probability; the slope is positive."""
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
    """Calibration figures of every label with at least ``fewest`` positives, and their means.

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
    chance = 1 / (1 + np.exp(-value))
    return weights * (truth - chance), weights * chance * (1 - chance)


def _bins(probability: Floats, bins: int) -> list[npt.NDArray[np.intp]]:
    order = np.argsort(probability, kind="stable")
    return np.array_split(order, min(bins, len(order)))
