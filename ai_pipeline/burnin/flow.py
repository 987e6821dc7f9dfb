"""Colour and power Doppler: filled areas of red, blue and what lies between, which are no annotation."""

from __future__ import annotations

import cv2
import numpy as np

from ai_pipeline.burnin.marks import Mask, Picture

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
    return np.asarray(picture.max(axis=2) - picture.min(axis=2) > STRONG, np.bool_)


def red_or_blue(picture: Picture) -> Mask:
    """The pixels in the colours that Doppler paints flow in first."""
    red, green, blue = (picture[..., index].astype(np.int16) for index in range(3))
    return np.asarray(coloured(picture) & ((red > 1.4 * green + 10) | (blue > 1.4 * green + 10)), np.bool_)


def find_flow(picture: Picture) -> Mask:
    """The pixels that colour or power Doppler has painted."""
    flow = np.zeros(picture.shape[:2], np.bool_)
    if picture.ndim == 2:
        return flow
    strong, painted = coloured(picture), red_or_blue(picture)
    flags = strong.astype(np.uint8)
    thick = cv2.morphologyEx(flags, cv2.MORPH_OPEN, np.ones((THICK, THICK), np.uint8)).astype(np.bool_)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(flags, connectivity=8)
    area = stats[:, cv2.CC_STAT_AREA]
    hues = np.bincount(labels[painted], minlength=count)
    filled = np.bincount(labels[thick], minlength=count)
    width, height = stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]
    slender = np.maximum(width, height) >= BAR_SLENDER * np.minimum(width, height)
    full = area / (width * height)
    bars = (area >= SMALLEST) & ((full >= BAR_EXACT) | ((full >= BAR_FULL) & slender))
    hued = (hues >= RED_OR_BLUE * area) & ~bars
    hued[0] = False
    chosen = hued & (area >= SMALLEST) & (filled >= FILLED * area)
    reach = 2 * round(NEAR * min(picture.shape[:2])) + 1
    near = cv2.dilate(chosen[labels].astype(np.uint8), np.ones((reach, reach), np.uint8)).astype(np.bool_)
    chosen |= hued & (np.bincount(labels[near], minlength=count) == area)
    around = cv2.dilate(chosen[labels].astype(np.uint8), np.ones((3, 3), np.uint8))
    return np.asarray(around, np.bool_)
