"""Computed on the validation split after training: calibrated probabilities, thresholds, deciles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_curve

from ai_pipeline.chest.classifier import probability
from ai_pipeline.models.registry import Label

Floats = npt.NDArray[np.floating]
SPECIFICITY = 0.90
THRESHOLDS = (
    "on the same images: absent below Youden's J; present from the higher of Youden's J and the cut "
    f"with specificity {SPECIFICITY}; indeterminate between them"
)
APART = 1e-6  # of probability: nearer edges of tenths are none
STEP = 1e-7  # least distance of two edges; cards round to seven digits


@dataclass(frozen=True, slots=True)
class LabelCalibration:
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
        return {name: round(value, 6) for name, value in asdict(self).items()}


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
    probability = _logistic(slope * logit + intercept)
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
    edges = np.quantile(probabilities, np.linspace(0.1, 0.9, 9), axis=0).T
    return [_rising(row) for row in np.clip(edges, 0.0, 1.0)]


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
            if min(np.diff(edges)) > APART
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


def _rising(edges: Floats) -> list[float]:
    place = np.arange(len(edges))
    steps = np.maximum.accumulate(np.round(edges / STEP).astype(np.int64) - place) + place
    steps = np.minimum(steps, round(1 / STEP) - place[::-1])
    return [round(float(step) * STEP, 7) for step in steps]


def _logistic(value: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-value)))
