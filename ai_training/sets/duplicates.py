"""Find pictures that look nearly alike, for sets that do not say which patient they show."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
from scipy.sparse.csgraph import connected_components

from ai_training.sets.files import read_grey

SIDE, APART = 16, 44
"""Two pictures are alike when their difference hashes, 16 × 16 bits, are at most so many bits apart."""


@cache
def near_duplicates(paths: tuple[Path, ...]) -> tuple[str, ...]:
    """The group of each picture: similar pictures share a group, also if linked by a third. Raises
    DataMissing.
    """
    if not paths:
        return ()
    small = [cv2.resize(read_grey(p), (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA) for p in paths]
    bits = np.stack([(one[:, 1:] > one[:, :-1]).ravel() for one in small]).astype(np.float32) * 2 - 1
    apart = (SIDE**2 - bits @ bits.T) / 2
    _, groups = connected_components(apart <= APART, directed=False)
    return tuple(f"g{group}" for group in groups)
