"""From logits to probabilities and decisions; each fold is measured with a calibration fitted
on the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
STIFFNESS = 0.02
"""Weight of the squared intercepts beside the mean log-likelihood: small classes must not run away."""
RIGHT = 0.8
"""Least share of answers that are right, where the model answers."""
MISSED = 0.02
"""Share of the frames whose own class may be called absent."""


@dataclass(frozen=True, slots=True, eq=False)
class VectorScaling:
    """A calibration: softmax(``slope`` · logit + ``intercepts``), with one slope for all classes (C. Guo et
    al., ICML 2017: vector scaling with tied slopes).
    """

    slope: float
    intercepts: Floats

    def __call__(self, logits: Floats) -> Floats:
        """``[N, labels]`` logits → probabilities with the sum 1."""
        return softmax(self.slope * logits + self.intercepts)


def softmax(scores: Floats) -> Floats:
    """``scores [N, labels]`` as probabilities with the sum 1."""
    odds = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(odds / odds.sum(1, keepdims=True))


def scaled(logits: Floats, truth: Ints) -> VectorScaling:
    """The scaling that makes ``truth [N]`` most likely."""
    labels, rows = logits.shape[1], np.arange(len(truth))

    def loss(parameters: Floats) -> float:
        found = softmax(parameters[0] * logits + parameters[1:])[rows, truth]
        return float(-np.log(np.maximum(found, 1e-12)).mean() + STIFFNESS * (parameters[1:] ** 2).mean())

    best = minimize(loss, np.array([1.0, *np.zeros(labels)]), method="L-BFGS-B").x
    return VectorScaling(float(best[0]), best[1:] - best[1:].mean())


def cross_fitted(logits: Floats, truth: Ints, folds: Ints) -> Floats:
    """Calibrated probabilities of each fold, by a scaling fitted to the other folds."""
    found = np.zeros_like(logits)
    for fold in np.unique(folds):
        others = folds != fold
        found[~others] = scaled(logits[others], truth[others])(logits[~others])
    return found


def answer_threshold(probabilities: Floats, truth: Ints) -> float:
    """The least probability of the likeliest class from which on a share :data:`RIGHT` of the answers is
    right.
    """
    sure, right = probabilities.max(1), probabilities.argmax(1) == truth
    order = np.argsort(-sure, kind="stable")
    shares = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(shares >= RIGHT)
    return float(sure[order][enough[-1]]) if len(enough) else 1.0


def absence_threshold(probabilities: Floats, truth: Ints) -> float:
    """The threshold below which the true class of a share :data:`MISSED` of the frames lies."""
    return float(np.quantile(probabilities[np.arange(len(truth)), truth], MISSED))
