"""What is read off the validation split once a network is trained: probabilities, thresholds, the gate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve

Floats = npt.NDArray[np.floating]
SPECIFICITY = 0.90


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """How a label's logit becomes a decision (see :class:`ai_pipeline.registry.Label`)."""

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


def platt(truth: Floats, logit: Floats) -> tuple[float, float]:
    """``(slope, intercept)`` of the logistic curve from logit to probability; the slope is kept positive."""
    model = LogisticRegression(C=100.0).fit(logit[:, None], truth)
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope <= 0:  # no better than chance on validation: say the rate to everyone, keep the order
        rate = float(truth.mean())
        return 0.01, float(np.log(rate / (1 - rate)))
    return slope, intercept


def _logistic(value: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-value)))
