"""Colour and power Doppler: filled areas from red to blue, which are not annotation."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.find.annotation import Mask, Picture, colourfulness, components, dilated

STRONG = 60
"""Difference of the channels from which a pixel is coloured (grey levels)."""
SMALLEST = 100
"""Connected coloured pixels, from which they may be flow."""
RED_OR_BLUE = 0.2
"""Share of them that is red or blue: Doppler shows flow in these first, and yellow only inside them."""
THICK, FILLED = 5, 0.3
"""Flow is an area, letters are strokes: share of it that squares of this side (pixels) cover, at least."""
BAR_EXACT, BAR_FULL, BAR_SLENDER = 0.97, 0.92, 2.5
"""Share of its box that a colour bar fills, or fills where the box is so many times longer than wide."""
NEAR = 1 / 12
"""Distance from flow up to which small areas in its colours are flow (share of the shorter side)."""
FILLS, TOUCHES = 0.35, 0.15
"""Share of a place that is flow: from the first on it is no text, from the second on a single character is a
vessel."""


def coloured(picture: Picture) -> Mask:
    """The mask of the pixels of an RGB picture whose channels differ clearly."""
    return np.asarray(colourfulness(picture) > STRONG, np.bool_)


def red_or_blue(picture: Picture) -> Mask:
    """The mask of the pixels of an RGB picture in red or blue, as Doppler shows flow."""
    found = coloured(picture)
    red, green, blue = picture[found].astype(np.int16).T
    found[found] = (red > 1.4 * green + 10) | (blue > 1.4 * green + 10)
    return found


def find_flow(picture: Picture) -> Mask:
    """The mask of the pixels that colour or power Doppler has coloured; empty for a grey picture."""
    if picture.ndim == 2:
        return np.zeros(picture.shape, np.bool_)
    strong = coloured(picture)
    if not strong.any():
        return strong
    labels, stats = components(strong)
    area = stats[:, cv2.CC_STAT_AREA]
    hues = np.bincount(labels[red_or_blue(picture)], minlength=len(stats))
    square = np.ones((THICK, THICK), np.uint8)
    thick = cv2.morphologyEx(strong.astype(np.uint8), cv2.MORPH_OPEN, square).astype(np.bool_)
    filled = np.bincount(labels[thick], minlength=len(stats))
    hued = (hues >= RED_OR_BLUE * area) & ~_bars(stats)
    hued[0] = False
    flow = hued & (area >= SMALLEST) & (filled >= FILLED * area)
    if not flow.any():
        return np.zeros_like(strong)
    near = dilated(flow[labels], 2 * round(NEAR * min(picture.shape[:2])) + 1)
    flow |= hued & (np.bincount(labels[near], minlength=len(stats)) == area)
    return dilated(flow[labels], 3)


def colour_bars(picture: Picture) -> Mask:
    """The mask of the colour bars: filled rectangles in Doppler's colours, which letters never are."""
    if picture.ndim == 2:
        return np.zeros(picture.shape, np.bool_)
    labels, stats = components(coloured(picture))
    bars = _bars(stats) & (np.bincount(labels[red_or_blue(picture)], minlength=len(stats)) > 0)
    bars[0] = False
    return np.asarray(bars[labels], np.bool_)


def _bars(stats: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Which of the connected parts are rectangles, as colour bars are and flow is not."""
    width, height, area = (
        stats[:, column] for column in (cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT, cv2.CC_STAT_AREA)
    )
    slender = np.maximum(width, height) >= BAR_SLENDER * np.minimum(width, height)
    full = area / (width * height)
    return np.asarray((area >= SMALLEST) & ((full >= BAR_EXACT) | ((full >= BAR_FULL) & slender)), np.bool_)
