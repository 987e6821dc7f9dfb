"""Dotted coloured lines between calipers: single pixels, found only because the lines' ends are known."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.annotation.kinds import Annotation
from ai_pipeline.burnin.annotation.pixels import Box, Mask, Picture

Flags = npt.NDArray[np.uint8]

LINE_EXCESS = 2.5
"""Mean yellow of a dotted line above its two sides (grey levels)."""
SMALLEST_END = 8
"""Side of a caliper's box with its soft edge, at least (pixels)."""
UNLIKE = 2.2
"""Ratio of a caliper's sides, and of the sizes of a line's two calipers, at most."""
MOST_ENDS = 8
"""Calipers of four measurements. More than these trace an outline or are colour flow: no line joins them."""


def lines_between(picture: Picture, calipers: Sequence[Annotation]) -> Mask:
    """The mask of coloured lines that join two of the calipers; empty for a grey picture."""
    ends = [mark.box for mark in calipers if _is_square(mark.box)]
    flags = np.zeros(picture.shape[:2], np.uint8)
    if picture.ndim == 2 or len(ends) > MOST_ENDS:
        return flags.astype(np.bool_)
    for first, second in combinations(ends, 2):
        sizes = sorted((max(_size(first)), max(_size(second))))
        if sizes[1] <= UNLIKE * sizes[0]:
            flags |= coloured_line(picture, _centre(first), _centre(second))
    return flags.astype(np.bool_)


def coloured_line(picture: Picture, start: tuple[int, int], end: tuple[int, int]) -> Flags:
    """The line from ``start`` to ``end`` (column, row) as 1 if it is yellower than both sides; else all 0.

    ``picture``: RGB. A line of less than 20 pixels gives all 0.
    """
    flags = np.zeros(picture.shape[:2], np.uint8)
    length = int(np.hypot(end[0] - start[0], end[1] - start[1]))
    if length < 20:
        return flags
    along = np.linspace(0.1, 0.9, length)
    columns, rows = (start[i] + (end[i] - start[i]) * along for i in (0, 1))
    across = np.array([start[1] - end[1], end[0] - start[0]]) / length
    yellowness = []
    for offset in (-6, -1, 0, 1, 6):
        c = np.clip(np.rint(columns + offset * across[0]).astype(int), 0, picture.shape[1] - 1)
        r = np.clip(np.rint(rows + offset * across[1]).astype(int), 0, picture.shape[0] - 1)
        pixels = picture[r, c].astype(np.int16)
        yellowness.append(float(np.mean(pixels[:, :2].min(axis=1) - pixels[:, 2])))
    if max(yellowness[1:4]) - max(yellowness[0], yellowness[4]) > LINE_EXCESS:
        cv2.line(flags, start, end, 1, 3)
    return flags


def _is_square(box: Box) -> bool:
    """Whether a box is that of a caliper: the ticks of a ruler look alike, but are not square."""
    shorter, longer = sorted(_size(box))
    return shorter >= SMALLEST_END and longer <= UNLIKE * shorter


def _size(box: Box) -> tuple[int, int]:
    left, top, right, bottom = box
    return right - left, bottom - top


def _centre(box: Box) -> tuple[int, int]:
    left, top, right, bottom = box
    return (left + right) // 2, (top + bottom) // 2
