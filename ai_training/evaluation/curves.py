"""The points of ROC, precision-recall and reliability curves, reduced to as many as a plot can show."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from ai_training.evaluation.scored import Scored
from ai_training.metrics import Floats
from ai_training.reliability import reliability_curve

POINTS = 120


def curves(found: Scored, fewest: int) -> dict[str, Any]:
    """For each label with ``fewest`` positives: ``roc`` and ``pr`` as two lists, ``reliability`` as points.

    ``roc``: false and true positive rate; ``pr``: recall and precision; ``reliability``: mean probability,
    rate, images. ``rate`` is the label's prevalence, ``operating`` the shipped thresholds as (false positive
    rate, true positive rate) of "not absent" and "present".
    """
    result: dict[str, Any] = {}
    for k in found.with_positives(fewest):
        truth, logit, chance = found.truth[:, k], found.logit[:, k], found.chance[:, k]
        false, true, _ = roc_curve(truth, logit)
        precision, recall, _ = precision_recall_curve(truth, logit)
        label = found.labels[k]
        result[found.names[k]] = {
            "roc": _thin(false, true),
            "pr": _thin(recall, precision),
            "reliability": [[round(p, 4), round(r, 4), n] for p, r, n in reliability_curve(truth, chance)],
            "rate": round(float(truth.mean()), 4),
            "operating": [_point(truth, chance, cut) for cut in (label.absent_below, label.threshold)],
        }
    return result


def _thin(x: Floats, y: Floats) -> list[list[float]]:
    places = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).round().astype(int))
    return [[round(float(value), 4) for value in values[places]] for values in (x, y)]


def _point(truth: Floats, chance: Floats, cut: float) -> list[float]:
    called = chance >= cut
    return [round(float(called[truth <= 0].mean()), 4), round(float(called[truth > 0].mean()), 4)]
