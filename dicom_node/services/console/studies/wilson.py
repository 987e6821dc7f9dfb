"""A share of few, with its interval."""

from __future__ import annotations

import math

_Z = 1.96  # of a 95 % interval


def wilson(successes: int, tries: int) -> list[float] | None:
    """A share with its 95 % interval, which holds for few tries too; None of none."""
    if not tries:
        return None
    share = successes / tries
    middle = (share + _Z**2 / (2 * tries)) / (1 + _Z**2 / tries)
    half = _Z * math.sqrt(share * (1 - share) / tries + _Z**2 / (4 * tries**2)) / (1 + _Z**2 / tries)
    return [share, max(middle - half, 0.0), min(middle + half, 1.0)]
