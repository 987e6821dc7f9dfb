"""What is read off the validation split once a network is trained: probabilities, thresholds, deciles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve

Floats = npt.NDArray[np.floating]
SPECIFICITY = 0.90
SENSITIVITY = 0.90
ENOUGH = 25  # positives that a cut by sensitivity needs: of fewer, one image more or less moves it too far
STEP = 1e-7  # least distance of two edges; cards round to seven digits


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """How a label's logit becomes a decision (see :class:`ai_pipeline.models.registry.Label`)."""

    slope: float
    intercept: float
    threshold: float
    absent_below: float


def operating_point(truth: Floats, logit: Floats) -> OperatingPoint:
    """Platt scaling, then two thresholds, all from validation images.

    Below Youden's J the finding is absent. It is present only where the specificity on validation is also
    at least .90: eight labels at Youden's specificity of about .65 would give a healthy chest three false
    findings. Between the two it is indeterminate.
    """
    if truth.min() == truth.max():  # nothing to learn from: such a label is never called
        return OperatingPoint(1.0, 0.0, 1.0, 1.0)
    slope, intercept = platt(truth, logit)
    probability = _logistic(slope * logit + intercept)
    false_rate, true_rate, cuts = roc_curve(truth, probability, drop_intermediate=False)
    youden = int(np.argmax(true_rate - false_rate))
    specific = int(np.flatnonzero(false_rate <= 1 - SPECIFICITY)[-1])
    absent_below = float(min(cuts[youden], 1.0))
    threshold = float(min(max(absent_below, cuts[specific]), 1.0))
    return OperatingPoint(slope, intercept, threshold, absent_below)


def sensitive_cut(truth: Floats, probability: Floats) -> float | None:
    """The highest cut with a sensitivity of at least .9; None with fewer than 25 positives."""
    positives = probability[truth > 0]
    if len(positives) < ENOUGH:
        return None
    kept = int(np.ceil(SENSITIVITY * len(positives)))
    return float(np.sort(positives)[::-1][kept - 1])


def deciles(probabilities: Floats) -> list[list[float]]:
    """Nine strictly rising edges per label that cut ``probabilities [N, labels]`` into ten equal shares.

    Where many images have one probability its edges are drawn apart by 1e-7; an image on an edge belongs to
    the bin above it, so of such a run all but the lowest bin stay empty.
    """
    edges = np.quantile(probabilities, np.linspace(0.1, 0.9, 9), axis=0).T
    return [_rising(row) for row in np.clip(edges, 0.0, 1.0)]


def prevalence(truth: Floats, labels: Sequence[str]) -> dict[str, float]:
    """The rate of each label among the images that the calibration was made on."""
    return {name: round(float(rate), 4) for name, rate in zip(labels, truth.mean(0), strict=True)}


def platt(truth: Floats, logit: Floats) -> tuple[float, float]:
    """``(slope, intercept)`` of the logistic curve from logit to probability; the slope is kept positive."""
    model = LogisticRegression(C=100.0).fit(logit[:, None], truth)
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope <= 0:  # no better than chance on validation: say the rate to everyone, keep the order
        rate = float(truth.mean())
        return 0.01, float(np.log(rate / (1 - rate)))
    return slope, intercept


def _rising(edges: Floats) -> list[float]:
    steps = np.round(edges / STEP).astype(np.int64)
    for index in range(1, len(steps)):
        steps[index] = max(steps[index], steps[index - 1] + 1)
    steps[-1] = min(steps[-1], round(1 / STEP))
    for index in range(len(steps) - 2, -1, -1):
        steps[index] = min(steps[index], steps[index + 1] - 1)
    return [round(float(step) * STEP, 7) for step in steps]


def _logistic(value: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-value)))
