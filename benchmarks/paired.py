"""The ratio of two ways that were measured in turn."""

import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
Ratio = tuple[float, float, float]


def paired_ratio(ours: Sequence[float], others: Sequence[float]) -> Ratio:
    """The geometric mean of the ratios of ``ours`` to ``others``, pair by pair, with its 95 % interval
    (bootstrap over pairs): value, low, high.
    """
    logs = np.log(np.array(ours) / np.array(others))
    drawn = np.random.default_rng(1).integers(0, len(logs), (RESAMPLES, len(logs)))
    low, high = np.percentile(logs[drawn].mean(1), (2.5, 97.5))
    return math.exp(logs.mean()), math.exp(low), math.exp(high)


def ratio_text(ratio: Ratio) -> str:
    """As the tables say it: ``1.02 [1.01, 1.03]``."""
    value, low, high = ratio
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"
