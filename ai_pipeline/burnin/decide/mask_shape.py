"""The shape of a mask: it is handed out as a segmentation, so it must not spell what it hides."""

from __future__ import annotations

import cv2
import numpy as np

from ai_pipeline.burnin.annotation import Mask, Picture
from ai_pipeline.burnin.find.text import LOW_SHARE, SMALLEST_LINE, TextBox, TextReader, paint

LETTER_GAP = 9
"""Drawn text is closed with a square of this side: letters become words, their holes are gone (pixels)."""
SMALLEST_LETTER = 8
"""Longer side of a letter with its soft edges, two pixels all around (pixels)."""
FULL = 0.4
"""Share of its rectangle that a closed word fills at least; an arc or a slope fills less."""
SPELLED = 3
"""Letters and digits from which a mask tells something."""


def blocks(strokes: Mask) -> Mask:
    """Drawn text as the blocks that its lines make, without the shapes of its letters."""
    kernel = np.ones((LETTER_GAP, LETTER_GAP), np.uint8)
    closed = cv2.morphologyEx(np.pad(strokes, LETTER_GAP).astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    closed = closed[LETTER_GAP:-LETTER_GAP, LETTER_GAP:-LETTER_GAP]
    contours, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    filled = np.zeros(strokes.shape, np.uint8)
    cv2.drawContours(filled, contours, -1, 1, -1)
    for contour in contours:
        rectangle = cv2.minAreaRect(contour)
        width, height = rectangle[1]
        low = min(width, height) <= max(24.0, LOW_SHARE * min(strokes.shape))
        if low and cv2.contourArea(contour) >= FULL * width * height:
            cv2.fillPoly(filled, [np.rint(cv2.boxPoints(rectangle)).astype(np.int32)], 1)
    return np.asarray(filled, np.bool_) | strokes


def without_rims(mask: Mask) -> Mask:
    """Drop what is left around a text that stays: too low to be a line of its own."""
    return _with_sides(mask, shorter=SMALLEST_LINE)


def without_specks(mask: Mask) -> Mask:
    """Drop what is too small for a letter, soft edges included; it tells nobody who a patient is."""
    return _with_sides(mask, longer=SMALLEST_LETTER)


def spelled(mask: Mask, reader: TextReader) -> Mask:
    """What a reader would have to be denied beside ``mask``: the boxes of what the mask itself spells."""
    picture: Picture = np.where(mask, 255, 0).astype(np.uint8)
    return paint([box for box in reader.find(picture) if _tells(picture, box, reader)], mask.shape, 0.1)


def _with_sides(mask: Mask, shorter: float = 0, longer: float = 0) -> Mask:
    """The parts that hang together whose boxes have sides of at least these."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    sides = stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]]
    keep = (sides.min(axis=1) >= shorter) & (sides.max(axis=1) >= longer) & (np.arange(count) > 0)
    return np.asarray(keep[labels], np.bool_)


def _tells(picture: Picture, box: TextBox, reader: TextReader) -> bool:
    line = reader.read(picture, box)
    return line.legible and sum(map(str.isalnum, line.text)) >= SPELLED
