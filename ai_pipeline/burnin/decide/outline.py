"""The outline of the mask of what is removed: blocks in place of letters.

The mask is sent as a Segmentation, so no text may be legible in its outline.
"""

from __future__ import annotations

import cv2
import numpy as np

from ai_pipeline.burnin.find.annotation import (
    Mask,
    Picture,
    box_around,
    component_boxes,
    components,
    index_of,
)
from ai_pipeline.burnin.find.text import LOW_SHARE, TextReader, paint

LETTER_GAP = 9
"""Side of the square by which drawn text is closed: letters become words, their holes are gone (pixels)."""
SMALLEST_LETTER = 8
"""Longer side of a letter with its soft edges, two pixels all around, at least (pixels)."""


def blocks(strokes: Mask) -> Mask:
    """Fill each line of the drawn text in the mask ``strokes`` to a block, so that the shapes of letters are
    not seen.
    """
    wide, square = np.pad(strokes, LETTER_GAP).astype(np.uint8), np.ones((LETTER_GAP, LETTER_GAP), np.uint8)
    closed = cv2.morphologyEx(wide, cv2.MORPH_CLOSE, square)
    closed = closed[LETTER_GAP:-LETTER_GAP, LETTER_GAP:-LETTER_GAP]
    contours, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    filled = np.zeros(strokes.shape, np.uint8)
    cv2.drawContours(filled, contours, -1, 1, -1)
    for contour in contours:
        rectangle = cv2.minAreaRect(contour)
        width, height = rectangle[1]
        low = min(width, height) <= max(24.0, LOW_SHARE * min(strokes.shape))
        # Share of its rectangle that a closed word fills, at least; an arc or a slope fills less.
        if low and cv2.contourArea(contour) >= 0.4 * width * height:
            cv2.fillPoly(filled, [np.rint(cv2.boxPoints(rectangle)).astype(np.int32)], 1)
    return np.asarray(filled, np.bool_) | strokes


def without_shapes_of_letters(mask: Mask, reader: TextReader) -> Mask:
    """Return the mask with blocks in place of letters' strokes: the mask leaves the node, and must not show
    what was written.
    """
    shown = blocks(mask)
    return shown | text_in_outline(shown, reader)


def text_in_outline(mask: Mask, reader: TextReader) -> Mask:
    """The mask of boxes around text that can still be read in the outline of ``mask`` itself, and must be
    covered too.
    """
    shaped = _without_rectangles(mask)
    if not shaped.any():
        return shaped
    picture: Picture = np.where(shaped, 255, 0).astype(np.uint8)
    within = box_around(shaped, LETTER_GAP)
    lines = [(box, reader.read(picture, box)) for box in reader.find(picture, within=within)]
    # Letters and digits that are read in a mask, from which its outline gives text away.
    return paint([box for box, line in lines if line.legible and line.letters >= 3], mask.shape, 0.1)


def _without_rectangles(mask: Mask) -> Mask:
    """The connected parts of ``mask`` that have another shape than a rectangle, level or not."""
    labels, stats = components(mask)
    keep = np.zeros(len(stats), np.bool_)
    for label, box in enumerate(component_boxes(stats), start=1):
        part = (labels[index_of(box)] == label).astype(np.uint8)
        _, (width, height), _ = cv2.minAreaRect(cv2.findNonZero(part))
        # Share of its rectangle that a part fills from which it is neither letter nor word: it is not read.
        keep[label] = stats[label, cv2.CC_STAT_AREA] < 0.85 * (width + 1) * (height + 1)
    return np.asarray(keep[labels], np.bool_)


def with_sides(mask: Mask, shorter: float = 0, longer: float = 0) -> Mask:
    """The connected parts of ``mask`` whose boxes have a shorter and a longer side of at least these
    (pixels).
    """
    labels, stats = components(mask)
    sides = stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]]
    keep = (sides.min(axis=1) >= shorter) & (sides.max(axis=1) >= longer) & (np.arange(len(stats)) > 0)
    return np.asarray(keep[labels], np.bool_)
