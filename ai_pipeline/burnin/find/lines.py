"""The lines between calipers: dots of a pixel each, too faint to be found but by where they must be."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.annotation import Annotation, Mask, Picture, brightest

Flags = npt.NDArray[np.uint8]

LINE_EXCESS = 2.5
"""Mean yellow of a dotted line above its two sides (grey levels)."""
SMALLEST_END = 8
"""Sides of a caliper's box, its soft edge included, at least (pixels)."""
UNLIKE = 2.2
"""The ends of one line are square and of one size, within this factor."""
MOST_ENDS = 8
"""Calipers of four measurements. More of them trace an outline, or are colour flow: no line joins them."""


def lines_between(picture: Picture, calipers: Sequence[Annotation]) -> Mask:
    """The dotted lines, white or coloured, that join two of the calipers."""
    ends = [mark for mark in calipers if _is_square(mark)]
    if len(ends) > MOST_ENDS:
        ends = []
    thin = cv2.morphologyEx(brightest(picture), cv2.MORPH_TOPHAT, np.ones((9, 9), np.uint8))
    flags = np.zeros(picture.shape[:2], np.uint8)
    for first, second in combinations(ends, 2):
        if _alike(first, second):
            one, other = _centre(first), _centre(second)
            flags |= dotted_line(np.asarray(thin, np.uint8), one, other)
            if picture.ndim == 3:
                flags |= coloured_line(picture, one, other)
    return flags.astype(np.bool_)


def coloured_line(picture: Picture, start: tuple[int, int], end: tuple[int, int]) -> Flags:
    """Return the line between two coloured marks if it is yellower than its sides (its dots are faint)."""
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


def dotted_line(thin: Picture, start: tuple[int, int], end: tuple[int, int]) -> Flags:
    """Return the dots between two crosses, when there are dots at regular distances."""
    flags = np.zeros(thin.shape, np.uint8)
    length = int(np.hypot(end[0] - start[0], end[1] - start[1]))
    if length < 20:
        return flags
    cv2.line(flags, start, end, 1, 3)
    steps = np.linspace(0, 1, length)
    columns = np.rint(start[0] + (end[0] - start[0]) * steps).astype(int)
    rows = np.rint(start[1] + (end[1] - start[1]) * steps).astype(int)
    along = cv2.dilate(thin, np.ones((3, 3), np.uint8))[rows, columns] > 60
    starts = np.flatnonzero(np.diff(along.astype(np.int8)) == 1)
    gaps = np.diff(starts)
    regular = gaps.size >= 4 and float(np.std(gaps)) <= 0.35 * float(np.mean(gaps))
    if not regular or not 0.15 <= float(along.mean()) <= 0.9:
        return np.zeros(thin.shape, np.uint8)
    return flags & (thin > 30).astype(np.uint8)


def _is_square(mark: Annotation) -> bool:
    """Calipers are: a ruler's ticks are not, though they look like the end of one."""
    width, height = _size(mark)
    return min(width, height) >= SMALLEST_END and max(width, height) <= UNLIKE * min(width, height)


def _alike(one: Annotation, other: Annotation) -> bool:
    sizes = sorted((max(_size(one)), max(_size(other))))
    return sizes[1] <= UNLIKE * sizes[0]


def _size(mark: Annotation) -> tuple[int, int]:
    left, top, right, bottom = mark.box
    return right - left, bottom - top


def _centre(mark: Annotation) -> tuple[int, int]:
    left, top, right, bottom = mark.box
    return (left + right) // 2, (top + bottom) // 2
