"""The image area: where a picture shows the patient. Outside it there is background of one colour.

Only inside the area may pixels be made up from those around them. The area is where pixels other than
background are dense (tissue), and gaps between tissue in the same row and column, such as a full bladder.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ai_pipeline.burnin.find.annotation import Mask, Picture, brightest, components, dilated, mask_of
from ai_pipeline.burnin.find.traces import believed_regions
from ai_pipeline.contract import UltrasoundRegion

NOISE = 4
"""Range of the background's pixels around each, at most: the noise of compression (grey levels)."""
EVEN = 1
"""Range of a panel's pixels around each, at most (grey levels)."""
FEWEST = 0.02
"""Share of the picture that is background, at least; with less all of it is image."""
WINDOWS = (9, 15, 31, 63)
"""Sides of the squares (pixels) in which tissue is separated from background; the first that is enough."""
DENSE, SURE = 0.5, 0.8
"""Share of what it shows that is not background, from which it is tissue: in the smallest square, and in
larger ones. Where annotation covers the border itself, what may be either is background."""
THIN = 9
"""Side of the square that fits into tissue; ticks, letters and frames are thinner (pixels)."""
SMALLEST = 0.01
"""Share of the picture that an image area takes, at least: a body mark or a logo is smaller."""
STROKE, CONTRAST = 9, 40
"""Thickness of a stroke of a letter, at most (pixels), and its contrast, at least (grey levels)."""


def find_area(picture: Picture, drawn: Mask, regions: Sequence[UltrasoundRegion] = ()) -> Mask:
    """The image area of an ultrasound picture, uint8 grey or RGB; the whole picture if it has no background.

    ``drawn``: the strokes of all annotation, with their soft edges; they are neither tissue nor background.
    ``regions`` of the header bound the area if the tissue is inside them.
    """
    grey = brightest(picture)
    around = np.ones((5, 5), np.uint8)
    range_around: Picture = np.asarray(cv2.dilate(grey, around) - cv2.erode(grey, around), np.uint8)
    background = _background(picture, grey, (range_around <= NOISE) & ~drawn)
    if background is None:
        return np.ones(grey.shape, np.bool_)
    uneven = range_around > EVEN  # a panel has one colour, tissue has none
    # Difference from which a pixel may be tissue that is dark (grey levels).
    differs = brightest(cv2.absdiff(picture, tuple(map(float, np.append(background, 0))))) > 3
    tissue = _tissue(differs & uneven, ~drawn)
    labels, stats = components(tissue)
    area: Mask = np.zeros_like(tissue)
    for label in range(1, len(stats)):
        if stats[label, cv2.CC_STAT_AREA] >= SMALLEST * tissue.size:
            area |= _between(labels == label)
    believed = believed_regions(regions, tissue.shape)
    inside = mask_of([region.box for region in believed], tissue.shape)
    # They bound the area if they hold the tissue.
    # Share of the tissue that lies in the header's regions, from which they are right.
    return area & inside if believed and (inside & tissue).sum() >= 0.95 * tissue.sum() else area


def strokes(picture: Picture) -> Mask:
    """Light or dark pixels in lines as thin as the strokes of letters, with their soft edges."""
    return dilated(thin(brightest(picture)), 5)


def thin(grey: Picture) -> Mask:
    """Pixels of one channel that stand out, light or dark, in lines as thin as the strokes of letters."""
    square, grey = np.ones((STROKE, STROKE), np.uint8), np.ascontiguousarray(grey)
    light, dark = (cv2.morphologyEx(grey, way, square) for way in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT))
    return np.asarray(np.maximum(light, dark) > CONTRAST, np.bool_)


def _background(picture: Picture, grey: Picture, plain: Mask) -> Picture | None:
    """The colour of the background: the commonest of what is ``plain``, if there is enough of it."""
    counts = np.bincount(grey[plain], minlength=256)
    level = int(counts.argmax())
    if counts[max(0, level - NOISE) : level + NOISE + 1].sum() < FEWEST * grey.size:
        return None
    return np.asarray(np.median(picture[plain & (grey == level)], axis=0), np.uint8)


def _tissue(bright: Mask, shown: Mask) -> Mask:
    """Where most of what is shown around a pixel is not background."""
    seen = shown.astype(np.float32)
    own = (bright & shown).astype(np.float32)
    dense: Mask = np.zeros(bright.shape, np.bool_)
    open_ = np.ones(bright.shape, np.bool_)
    for side in WINDOWS:
        among, count = (
            cv2.boxFilter(plane, -1, (side, side), borderType=cv2.BORDER_REPLICATE) for plane in (seen, own)
        )
        # Share of such a square that no annotation covers, at least.
        enough = open_ & (among >= 0.25)
        dense |= enough & (count >= (DENSE if side == WINDOWS[0] else SURE) * among)
        open_ &= ~enough
        if not open_.any():
            break
    return np.asarray(
        cv2.morphologyEx(dense.astype(np.uint8), cv2.MORPH_OPEN, np.ones((THIN, THIN), np.uint8)), np.bool_
    )


def _between(tissue: Mask) -> Mask:
    """The tissue, and what lies between it both in its row and in its column."""
    filled: Mask = np.ones_like(tissue)
    for axis, place in enumerate(np.ogrid[: tissue.shape[0], : tissue.shape[1]]):
        first = np.expand_dims(tissue.argmax(axis=axis), axis)
        last = tissue.shape[axis] - 1 - np.expand_dims(np.flip(tissue, axis).argmax(axis=axis), axis)
        filled &= (first <= place) & (place <= last) & tissue.any(axis=axis, keepdims=True)
    return filled
