"""Grey and colour bars: seen by their form, or by the mark detector and followed to their dark ends."""

from __future__ import annotations

import cv2
import numpy as np

from ai_pipeline.burnin.annotation.pixels import (
    Mask,
    Picture,
    brightest,
    component_boxes,
    components,
    dilated,
    index_of,
)
from ai_pipeline.burnin.find.area import thin

SLENDER = 2.5
"""Height of a bar, as far as it was found, at least (widths of it)."""
NARROWEST, WIDEST = 4, 40
"""Width of a bar (pixels)."""
EVEN, STEP = 5.0, 10.0
"""Standard deviation within a row of a bar, and difference from the row before, at most (grey levels)."""
GRADIENT = 60.0
"""Difference between the two ends of a bar, at least (grey levels)."""
RETURN = 5.0
"""A bar is monotonic: what turns back by more than this is tissue (grey levels)."""
MOST_OF = 0.6
"""Height of a column of a bar, at least, as a share of the highest one."""
BLACK = 8
"""Level at which a bar ends (grey levels)."""
THICK, LARGEST, COMPACT, LONGER = 7, 0.03, 0.8, 1.5
"""Width of a bar that is seen by its form, at least (pixels); its share of the picture, at most; the share of
its box that it fills and the ratio of its sides, at least."""


def find_bars(picture: Picture) -> Mask:
    """Upright and level bars by their form alone: slender, smooth, of a colour that runs from end to end.

    Letters have strokes: a bar without any, in each channel, is no text, whatever a detector or its place
    says.
    """
    strokes: Mask = np.logical_or.reduce([thin(channel) for channel in cv2.split(picture)])
    smooth = (brightest(picture) > BLACK) & ~strokes
    opened = cv2.morphologyEx(smooth.astype(np.uint8), cv2.MORPH_OPEN, np.ones((THICK, THICK), np.uint8))
    labels, stats = components(opened.astype(np.bool_))
    found = np.zeros_like(strokes)
    for label, box in enumerate(component_boxes(stats), start=1):
        own = labels[index_of(box)] == label
        if _is_bar(own, picture[index_of(box)]) and own.sum() <= LARGEST * found.size:
            found |= labels == label
    return dilated(found, 3)


def _is_bar(own: Mask, part: Picture) -> bool:
    """Whether the pixels of a smooth component, cut out to its box, are a bar."""
    longer, shorter = max(own.shape), min(own.shape)
    if own.mean() < COMPACT or longer < LONGER * shorter:
        return False
    ends = part if own.shape[0] == longer else part.swapaxes(0, 1)
    first, last = (rows.reshape(-1, *rows.shape[2:]).mean(axis=0) for rows in (ends[:THICK], ends[-THICK:]))
    return float(np.abs(first - last).max()) >= GRADIENT


def extended_bars(picture: Picture, bars: Mask) -> Mask:
    """The mask ``bars`` of a grey or RGB picture, its vertical bars extended to where they end."""
    colour = picture if picture.ndim == 3 else picture[..., None]
    result = bars.copy()
    labels, stats = components(bars)
    for label, box in enumerate(component_boxes(stats), start=1):
        top, height = box[1], box[3] - box[1]
        left, width = _stem(labels[index_of(box)] == label, box[0])
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
    """The last row of the bar in direction ``way`` (1: down, -1: up), from a ``row`` inside it."""
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
