"""Colour and power Doppler: filled areas of red, blue and what lies between, which are no annotation."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.annotation import Mask, Picture

STRONG = 60
"""Difference of the channels from which a pixel is coloured (grey levels)."""
SMALLEST = 100
"""Coloured pixels that hang together, from which they may be flow."""
RED_OR_BLUE = 0.2
"""Share of them that is red or blue: Doppler paints flow in these first, and yellow only inside them."""
THICK = 5
"""Flow is filled: what a square of this side fits into (pixels) makes a share of it; letters are strokes."""
FILLED = 0.3
BAR_EXACT, BAR_FULL, BAR_SLENDER = 0.97, 0.92, 2.5
"""A colour bar fills its box, all of it or most of one that is longer than wide: it is no flow."""
NEAR = 1 / 12
"""Share of the picture's shorter side, up to which specks in flow's colours beside flow are flow."""
FILLS, TOUCHES = 0.35, 0.15
"""Share of a place that is flow, from which flow fills it (letters are strokes with ground between), and from
which a single character that is read there is a vessel."""


def coloured(picture: Picture) -> Mask:
    """The pixels of an RGB picture whose channels differ clearly."""
    red, green, blue = cv2.split(np.ascontiguousarray(picture))
    brightest, darkest = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    return np.asarray(brightest - darkest > STRONG, np.bool_)


def red_or_blue(picture: Picture) -> Mask:
    """The pixels in the colours that Doppler paints flow in first."""
    found = coloured(picture)
    red, green, blue = picture[found].astype(np.int16).T
    found[found] = (red > 1.4 * green + 10) | (blue > 1.4 * green + 10)
    return found


def find_flow(picture: Picture) -> Mask:
    """The pixels that colour or power Doppler has painted."""
    if picture.ndim == 2:
        return np.zeros(picture.shape, np.bool_)
    strong = coloured(picture)
    if not strong.any():
        return strong
    flags = strong.astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(flags, connectivity=8)
    area = stats[:, cv2.CC_STAT_AREA]
    hues = np.bincount(labels[red_or_blue(picture)], minlength=count)
    thick = cv2.morphologyEx(flags, cv2.MORPH_OPEN, np.ones((THICK, THICK), np.uint8)).astype(np.bool_)
    filled = np.bincount(labels[thick], minlength=count)
    hued = (hues >= RED_OR_BLUE * area) & ~_bars(stats)
    hued[0] = False
    flow = hued & (area >= SMALLEST) & (filled >= FILLED * area)
    if not flow.any():
        return np.zeros_like(strong)
    near = _grown(flow[labels], 2 * round(NEAR * min(picture.shape[:2])) + 1)
    flow |= hued & (np.bincount(labels[near], minlength=count) == area)
    return _grown(flow[labels], 3)


def _bars(stats: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Which of the connected parts are rectangles, as colour bars are and flow is not."""
    width, height, area = (
        stats[:, column] for column in (cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT, cv2.CC_STAT_AREA)
    )
    slender = np.maximum(width, height) >= BAR_SLENDER * np.minimum(width, height)
    full = area / (width * height)
    return np.asarray((area >= SMALLEST) & ((full >= BAR_EXACT) | ((full >= BAR_FULL) & slender)), np.bool_)


def _grown(mask: Mask, side: int) -> Mask:
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)), np.bool_)
