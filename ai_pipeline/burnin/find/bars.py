"""Grey and colour bars, found by their shape."""

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

GRADIENT = 60.0
"""Difference between the two ends of a bar, at least (grey levels)."""
BLACK = 8
"""Level up to which a pixel is of no bar (grey levels)."""
THICK, LARGEST, COMPACT, LONGER = 7, 0.03, 0.8, 1.5
"""Width of a bar that is seen by its form, at least (pixels); its share of the picture, at most; the share of
its box that it fills and the ratio of its sides, at least."""


def find_bars(picture: Picture) -> Mask:
    """The mask of vertical and horizontal bars, found by shape: slender, smooth, with ends of other colours.

    A bar has no thin stroke in any channel; letters have strokes.
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
