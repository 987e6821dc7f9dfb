"""Vector scaling of logits, fitted out of fold, and the thresholds of answers."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import softmax

Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
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
    intercepts: Doubles

    def __call__(self, logits: Doubles) -> Doubles:
        """Convert ``logits [N, labels]`` to probabilities with the sum 1."""
        return np.asarray(softmax(self.slope * logits + self.intercepts, axis=1))


def scaled(logits: Doubles, truth: Ints) -> VectorScaling:
    """Fit the calibration that makes the labels ``truth [N]`` most likely."""
    labels, rows = logits.shape[1], np.arange(len(truth))

    def loss(parameters: Doubles) -> float:
        """The negative log-likelihood of slope and intercepts, with a penalty."""
        found = softmax(parameters[0] * logits + parameters[1:], axis=1)[rows, truth]
        # The squared intercepts count too: small classes must not run away.
        return float(-np.log(np.maximum(found, 1e-12)).mean() + 0.02 * (parameters[1:] ** 2).mean())

    best = minimize(loss, np.array([1.0, *np.zeros(labels)]), method="L-BFGS-B").x
    return VectorScaling(float(best[0]), best[1:] - best[1:].mean())


def cross_fitted(logits: Doubles, truth: Ints, folds: Ints) -> Doubles:
    """Calibrate ``logits`` fold by fold, each by a calibration fitted to the other folds."""
    found = np.zeros_like(logits)
    for fold in np.unique(folds):
        others = folds != fold
        found[~others] = scaled(logits[others], truth[others])(logits[~others])
    return found


def answer_threshold(probabilities: Doubles, truth: Ints) -> float:
    """The least probability of the likeliest class at which a share :data:`RIGHT` of the frames at or above
    it is classified rightly.
    """
    sure, right = probabilities.max(1), probabilities.argmax(1) == truth
    order = np.argsort(-sure, kind="stable")
    shares = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(shares >= RIGHT)
    return float(sure[order][enough[-1]]) if len(enough) else 1.0


def absence_threshold(probabilities: Doubles, truth: Ints) -> float:
    """The threshold below which the true class of a share :data:`MISSED` of the frames lies."""
    return float(np.quantile(probabilities[np.arange(len(truth)), truth], MISSED))
