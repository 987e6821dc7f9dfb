"""How outlines of heads agree with a sonographer's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]


def dice(found: Bools, truth: Bools) -> float:
    """Dice of two masks of one size, 0 to 1."""
    return float(2 * (found & truth).sum() / max(int(found.sum() + truth.sum()), 1))
