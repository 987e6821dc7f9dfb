"""Grey and colour bars to their dark ends: a bar goes on until it is black."""

from __future__ import annotations

import cv2
import numpy as np

from ai_pipeline.burnin.annotation import Mask, Picture

SLENDER = 2.5
"""A bar is so many times longer than wide at least, as far as it was found."""
NARROWEST, WIDEST = 4, 40
"""Width of a bar (pixels)."""
EVEN, STEP = 5.0, 10.0
"""Along a bar a row is even (standard deviation), and differs little from the last (grey levels)."""
GRADIENT = 60.0
"""From its bright to its dark end a bar covers so much at least (grey levels)."""
RETURN = 5.0
"""A bar grows darker or brighter all the way: what goes to and fro is tissue (grey levels)."""
MOST_OF = 0.6
"""Columns of a bar are so much of its height at least."""
BLACK = 8
"""Where a bar has faded to this there is nothing left of it (grey levels)."""


def completed(picture: Picture, bars: Mask) -> Mask:
    """``bars`` with the upright ones among them followed to where they end."""
    colour = picture if picture.ndim == 3 else picture[..., None]
    result = bars.copy()
    count, labels, stats, _ = cv2.connectedComponentsWithStats(bars.astype(np.uint8), connectivity=8)
    for label in range(1, count):
        left, top, width, height, _ = (int(value) for value in stats[label])
        own = labels[top : top + height, left : left + width] == label
        left, width = _stem(own, left)
        if NARROWEST <= width <= WIDEST and height >= SLENDER * width:
            inside = slice(left + width // 4, left + width - width // 4)
            first = _follow(colour[:, inside], top + height // 4, -1)
            last = _follow(colour[:, inside], top + height - height // 4 - 1, 1)
            levels = colour[first : last + 1, inside].mean(axis=1)
            if float(np.ptp(levels, axis=0).max()) >= GRADIENT:
                result[first : last + 1, left : left + width] = True
    return result


def _stem(own: Mask, left: int) -> tuple[int, int]:
    """First column and width of the bar itself, without the ticks and numbers that touch it."""
    tall = np.flatnonzero(own.sum(axis=0) >= MOST_OF * own.sum(axis=0).max())
    return left + int(tall[0]), int(tall[-1] - tall[0]) + 1


def _follow(strip: Picture, row: int, way: int) -> int:
    """The last row of the bar in this direction, from a row that is surely in it."""
    before = darkest = brightest = strip[row].mean(axis=0)
    while 0 <= row + way < len(strip):
        pixels = strip[row + way].astype(np.float32)
        level = pixels.mean(axis=0)
        uneven = float(pixels.std(axis=0).max()) > EVEN
        returns = bool(((level > darkest + RETURN) & (level < brightest - RETURN)).any())
        stepped = float(np.abs(level - before).max()) > STEP
        if uneven or returns or stepped or float(level.max()) <= BLACK:
            break
        darkest, brightest = np.minimum(darkest, level), np.maximum(brightest, level)
        row, before = row + way, level
    return row
