"""How reliable probabilities are: calibration error, Brier score, slope and intercept, with intervals.

Measured on each set of one prevalence separately: pooled over several sets, a probability would be right on
none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_training.metrics import Floats, Interval, brier, calibration_error, interval

BINS = 10
STEPS = 12  # of Newton's method; it has settled after six
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
        "labels": {name: _as_lists(row) for name, (row, _) in rows.items()},
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
    slope = np.ones(len(weights))
    offset = np.zeros(len(weights))
    intercept = np.zeros(len(weights))
    with np.errstate(all="ignore"):
        for _ in range(STEPS):
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
    drawn = {
        "ece": _centred(_resampled_error(truth, probability, weights), error),
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


def _resampled_error(truth: Floats, probability: Floats, weights: Floats) -> Floats:
    gaps = [np.abs(weights[:, part] @ (probability - truth)[part]) for part in _bins(probability, BINS)]
    return np.asarray(np.sum(gaps, axis=0) / weights.sum(1))


def _centred(resampled: Floats, value: float) -> Floats:
    """Resampling adds noise to every bin, and noise adds to the error: that bias is taken off.

    Without it the interval of a good model's error lies above the error.
    """
    return np.asarray(np.maximum(resampled - (resampled.mean() - value), 0.0))


def _residual(truth: Floats, value: Floats, weights: Floats) -> tuple[Floats, Floats]:
    chance = 1 / (1 + np.exp(-value))
    return weights * (truth - chance), weights * chance * (1 - chance)


def _bins(probability: Floats, bins: int) -> list[npt.NDArray[np.intp]]:
    order = np.argsort(probability, kind="stable")
    return np.array_split(order, min(bins, len(order)))


def _as_lists(row: Mapping[str, Interval]) -> dict[str, list[float]]:
    return {name: found.as_list() for name, found in row.items()}
