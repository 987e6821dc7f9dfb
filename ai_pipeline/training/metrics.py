"""Figures that a sceptic accepts: AUC with intervals by patient, paired differences, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

Floats = npt.NDArray[np.floating]
Texts = npt.NDArray[np.str_]
RESAMPLES = 2000
SEED = 20240601  # one fixed draw of patients, so that the same weights give the same intervals


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval (percentiles of the bootstrap by patient)."""

    value: float
    low: float
    high: float

    def as_list(self) -> list[float]:
        return [round(self.value, 4), round(self.low, 4), round(self.high, 4)]


def patient_weights(patients: Sequence[str], resamples: int = RESAMPLES, seed: int = SEED) -> Floats:
    """``[resamples, N]``: how often each image counts when patients are drawn with replacement."""
    names, index = np.unique(np.asarray(patients), return_inverse=True)
    random = np.random.default_rng(seed)
    drawn = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return drawn[:, index].astype(np.float64)


def auc(truth: Floats, score: Floats) -> float:
    """Area under the ROC curve; NaN when one class is missing."""
    if truth.min() == truth.max():
        return float("nan")
    return float(roc_auc_score(truth, score))


def resampled_auc(truth: Floats, score: Floats, weights: Floats) -> Floats:
    """The AUC under each row of ``weights``; NaN where a resample holds one class only.

    The weighted AUC is a sum over pairs of a positive and a negative image, which for a few hundred images
    is one matrix product for all resamples (a test holds it equal to scikit-learn's).
    """
    positive, negative = truth > 0, truth <= 0
    wins = np.sign(score[positive][:, None] - score[negative][None, :]) / 2 + 0.5
    above, below = weights[:, positive], weights[:, negative]
    total = above.sum(1) * below.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(((above @ wins) * below).sum(1) / total)


def interval(value: float, resampled: Floats) -> Interval:
    """``value`` with the 2.5 and 97.5 percentiles of ``resampled`` (NaN left out)."""
    known = resampled[~np.isnan(resampled)]
    if not len(known):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.percentile(known, (2.5, 97.5))
    return Interval(value, float(low), float(high))


def mean_auc(truth: Floats, score: Floats, labels: Sequence[int]) -> float:
    """Mean AUC over the columns ``labels``."""
    return float(np.mean([auc(truth[:, label], score[:, label]) for label in labels]))


def resampled_mean_auc(truth: Floats, score: Floats, labels: Sequence[int], weights: Floats) -> Floats:
    """Mean AUC over ``labels`` under each row of ``weights``."""
    return np.asarray(np.mean([resampled_auc(truth[:, k], score[:, k], weights) for k in labels], axis=0))


def average_precision(truth: Floats, score: Floats) -> float:
    """Area under the precision-recall curve; NaN without positives."""
    return float(average_precision_score(truth, score)) if truth.any() else float("nan")


def sensitivity(truth: Floats, called: npt.NDArray[np.bool_]) -> float:
    """Share of positives that are called; NaN without positives."""
    return float(called[truth > 0].mean()) if (truth > 0).any() else float("nan")


def specificity(truth: Floats, called: npt.NDArray[np.bool_]) -> float:
    """Share of negatives that are not called; NaN without negatives."""
    return float((~called[truth <= 0]).mean()) if (truth <= 0).any() else float("nan")


def brier(truth: Floats, probability: Floats) -> float:
    """Mean squared difference of probability and truth."""
    return float(np.mean((probability - truth) ** 2))


def calibration_error(truth: Floats, probability: Floats, bins: int = 10) -> float:
    """Expected calibration error over ``bins`` with equally many images each."""
    order = np.argsort(probability, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    gaps = [abs(probability[part].mean() - truth[part].mean()) * len(part) for part in parts]
    return float(np.sum(gaps) / len(order))


def within_source_auc(truth: Floats, score: Floats, sources: Texts, fewest: int = 10) -> float:
    """Mean of the AUCs of every label in every source with at least ``fewest`` positives and negatives.

    AUCs are taken inside a source because the source itself predicts the label. NaN when nothing is left.
    """
    found: list[float] = []
    for source in np.unique(sources):
        inside = sources == source
        for label in range(truth.shape[1]):
            column = truth[inside, label]
            if min(column.sum(), (1 - column).sum()) >= fewest:
                found.append(auc(column, score[inside, label]))
    return float(np.mean(found)) if found else float("nan")
