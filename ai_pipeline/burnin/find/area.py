"""The image area: where a picture shows the patient. Outside it there is background of one colour.

Only inside the area may pixels be made up from those around them. The area is where pixels other than
background are dense (tissue), and gaps between tissue in the same row and column, such as a full bladder.

Text may be nearly as dark as its background: no text reader sees it, but a viewer with a narrow window does
show it. Outside the image area a stroke that differs by one grey level counts as text. In the area and near
it dim tissue looks the same: there only legible text counts.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.find.annotation import (
    Mask,
    Picture,
    brightest,
    component_boxes,
    components,
    dilated,
    index_of,
    mask_of,
)
from ai_pipeline.burnin.find.traces import believed_regions
from ai_pipeline.contract import PixelArray, UltrasoundRegion

NOISE = 4
"""Range of the background's pixels around each, at most: the noise of compression (grey levels)."""
WINDOWS = (9, 15, 31, 63)
"""Sides of the squares (pixels) in which tissue is separated from background; the first that is enough."""
DENSE, SURE = 0.5, 0.8
"""Share of what it shows that is not background, from which it is tissue: in the smallest square, and in
larger ones. Where annotation covers the border itself, what may be either is background."""
THIN = 9
"""Side of the square that fits into tissue; ticks, letters and frames are thinner (pixels)."""
STROKE, CONTRAST = 9, 40
"""Thickness of a stroke of a letter, at most (pixels), and its contrast, at least (grey levels)."""


def find_area(picture: Picture, drawn: Mask, regions: Sequence[UltrasoundRegion] = ()) -> Mask:
    """Find the image area (the part that shows tissue) of an ultrasound picture, uint8 grey or RGB, as a
    mask; the whole picture if it has no background. ``drawn``: the strokes of all annotation, with their soft
    edges; they are neither tissue nor background. ``regions`` of the header bound the area if the tissue is
    inside them.
    """
    grey = brightest(picture)
    around = np.ones((5, 5), np.uint8)
    range_around: Picture = np.asarray(cv2.dilate(grey, around) - cv2.erode(grey, around), np.uint8)
    background = _background(picture, grey, (range_around <= NOISE) & ~drawn)
    if background is None:
        return np.ones(grey.shape, np.bool_)
    uneven = range_around > 1  # a panel has one colour, tissue has none
    # Difference from which a pixel may be tissue that is dark (grey levels).
    differs = brightest(cv2.absdiff(picture, tuple(map(float, np.append(background, 0))))) > 3
    tissue = _tissue(differs & uneven, ~drawn)
    believed = believed_regions(regions, tissue.shape)
    inside = mask_of([region.box for region in believed], tissue.shape)
    # Share of the tissue that lies in the header's regions, from which they are right.
    bounded = bool(believed) and (inside & tissue).sum() >= 0.5 * tissue.sum()
    labels, stats = components(tissue)
    area: Mask = np.zeros_like(tissue)
    for label in range(1, len(stats)):
        own = labels == label
        # Share of the picture that an image area takes, at least: a body mark or a logo is smaller.
        if stats[label, cv2.CC_STAT_AREA] >= 0.01 * tissue.size:
            # Tissue that crosses their border, most of it within, is tissue beyond it.
            area |= _between(own) & (inside | (own & (inside[own].mean() >= 0.5)) | (not bounded))
    return area


def without_panels(area: Mask, picture: Picture, drawn: Mask) -> Mask:
    """The parts of the image ``area`` that are no panels behind text, which compression makes uneven.
    ``drawn`` as in :func:`find_area`.
    """
    labels, stats = components(area)
    panels = [
        label
        for label, box in enumerate(component_boxes(stats), start=1)
        if is_panel(picture[index_of(box)], ((labels == label) & ~drawn)[index_of(box)])
    ]
    return area & ~np.isin(labels, panels)


def is_panel(part: Picture, own: Mask) -> bool:
    """Whether the pixels ``own`` of a component, cut out to its box, are a panel behind text: wide, and each
    row of one colour. ``part``: the picture in that box.
    """
    # Width of a panel (heights), at least.
    if own.shape[1] < 3 * own.shape[0]:
        return False
    alike = [
        np.abs(row[seen].astype(np.int16) - np.median(row[seen], axis=0)).reshape(seen.sum(), -1).max(axis=1)
        for row, seen in zip(part, own, strict=True)
        if seen.any()
    ]
    # Share of its pixels in their row's colour, and how far they differ from it by the noise of compression
    # (grey levels).
    return bool(alike) and float((np.concatenate(alike) <= 10).mean()) >= 0.8


def strokes(picture: Picture) -> Mask:
    """The mask of light or dark pixels in lines as thin as the strokes of letters, with their soft edges."""
    return dilated(thin(brightest(picture)), 5)


def thin(grey: Picture) -> Mask:
    """The mask of pixels of one channel that stand out, light or dark, in lines as thin as the strokes of
    letters.
    """
    square, grey = np.ones((STROKE, STROKE), np.uint8), np.ascontiguousarray(grey)
    light, dark = (cv2.morphologyEx(grey, way, square) for way in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT))
    return np.asarray(np.maximum(light, dark) > CONTRAST, np.bool_)


TICK, LONGEST = 6, 60
"""How far a tick reaches from its ruler's line, and the length of a letter's stroke, at most (pixels)."""


FRAME = 12
"""Contrast of the frame of a table, at least (grey levels): so long and straight is nothing in tissue."""


def straight_lines(picture: Picture, longest: int = 0, contrast: int = CONTRAST) -> Mask:
    """The mask of thin light lines along rows and columns that are longer than a stroke of a letter, as of
    rulers and frames. ``longest``: length of a stroke, by default a tenth of the picture (pixels);
    ``contrast``: that of a line, at least (grey levels).
    """
    grey = np.ascontiguousarray(brightest(picture))
    length = longest or max(LONGEST, min(picture.shape[:2]) // 10)
    light = cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, np.ones((STROKE, STROKE), np.uint8))
    level, upright = (
        cv2.morphologyEx(light, cv2.MORPH_OPEN, np.ones(side, np.uint8))
        for side in ((1, length), (length, 1))
    )
    return np.asarray(np.maximum(level, upright) > contrast, np.bool_)


def _background(picture: Picture, grey: Picture, plain: Mask) -> Picture | None:
    """The colour of the background: the commonest colour of the ``plain`` pixels of ``picture``; None if too
    few have it.
    """
    counts = np.bincount(grey[plain], minlength=256)
    level = int(counts.argmax())
    # Share of the picture that is background, at least; with less all of it is image.
    if counts[max(0, level - NOISE) : level + NOISE + 1].sum() < 0.02 * grey.size:
        return None
    return np.asarray(np.median(picture[plain & (grey == level)], axis=0), np.uint8)


def _tissue(bright: Mask, shown: Mask) -> Mask:
    """The mask of pixels in whose surroundings most of the ``shown`` pixels are ``bright``, which the
    background is not.
    """
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
    """The mask of the tissue, and of what lies between it both in its row and in its column."""
    filled: Mask = np.ones_like(tissue)
    for axis, place in enumerate(np.ogrid[: tissue.shape[0], : tissue.shape[1]]):
        first = np.expand_dims(tissue.argmax(axis=axis), axis)
        last = tissue.shape[axis] - 1 - np.expand_dims(np.flip(tissue, axis).argmax(axis=axis), axis)
        filled &= (first <= place) & (place <= last) & tissue.any(axis=axis, keepdims=True)
    return filled


RINGING = 17
"""Side of the square by which other things are grown: what compression leaves around them (pixels)."""
LETTER_GAP, SMALLEST_FAINT = 9, 12
"""Gap up to which strokes are of one thing, and the longer side of one, at least (pixels)."""


def faint_writing(samples: PixelArray, area: Mask, known: Mask) -> tuple[Mask, Mask]:
    """Two masks: faint text on the background, outside the image ``area`` and not touching it; and strong
    drawings such as an ECG, with their surroundings, which are no faint text.

    ``samples``: as stored, of any depth, grey or colour: a window of the display may make any level visible.
    ``known``: annotation that is judged already; what compression left around it is not counted as text,
    unless it continues a line.
    """
    convex = np.zeros(area.shape, np.uint8)  # the smallest convex area that holds the image area
    if area.any():
        outlines, _ = cv2.findContours(area.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.fillConvexPoly(convex, cv2.convexHull(np.concatenate(outlines)), 1)
    hull, contrast = convex.astype(np.bool_), _contrast(samples)
    around = dilated(known, RINGING)
    plain = contrast[~hull & ~around]
    if not plain.size or not plain.any():
        return np.zeros_like(area), np.zeros_like(area)
    stands_out = contrast >= 1.0 + 2.0 * float(np.median(plain))
    # Of 8 bits, often dark, the range is all that there may be.
    span = 255.0 if samples.dtype == np.uint8 else float(samples.max()) - float(samples.min())
    # Contrast from which the text reader or the mark detector see a stroke (share of the picture's range).
    strong = dilated((contrast > (40 / 255) * span) & ~around, RINGING)
    labels, stats = components((stands_out & ~around) | hull)
    faint = stands_out & ~_present(labels[hull], len(stats))[labels] & ~strong  # without tissue
    gap = np.ones((LETTER_GAP, LETTER_GAP), np.uint8)
    labels, stats = components(
        cv2.morphologyEx((faint & ~around).astype(np.uint8), cv2.MORPH_CLOSE, gap).astype(np.bool_)
    )
    # Distance from the hull up to which dim tissue may lie: .04 of the shorter side.
    far = ~dilated(hull, 2 * round(0.04 * min(area.shape)) + 1)
    large = stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1) >= SMALLEST_FAINT
    writing = _present(labels[far], len(stats)) & large
    # Their rows, as far as the line may continue on both sides.
    boxes = [box for box, one in zip(component_boxes(stats), writing[1:], strict=True) if one]
    # How far a line continues beside what is seen of it, at most (heights).
    reaches = ((box, 6 * (box[3] - box[1])) for box in boxes)
    rows = mask_of([(box[0] - reach, box[1], box[2] + reach, box[3]) for box, reach in reaches], area.shape)
    return np.asarray(writing[labels], np.bool_) | (rows & faint & ~known), strong


def _present(labels: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.bool_]:
    """Which of ``count`` labels occur in ``labels``; 0 is no label."""
    found = np.bincount(labels, minlength=count) > 0
    found[0] = False
    return found


def _contrast(samples: PixelArray) -> npt.NDArray[np.float32]:
    """How far each pixel stands out from its surroundings, in the channel where it does most."""
    # Thickness up to which what is lighter or darker than all around may be a stroke of a letter (pixels).
    square = np.ones((15, 15), np.uint8)
    planes = np.atleast_3d(samples if samples.dtype == np.uint8 else samples.astype(np.float32))
    stands_out = [
        cv2.morphologyEx(np.ascontiguousarray(planes[..., channel]), way, square)
        for channel in range(planes.shape[2])
        for way in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT)
    ]
    return np.asarray(np.maximum.reduce(stands_out), np.float32)


def amplified(samples: PixelArray) -> Picture:
    """A picture of how each pixel differs from its surroundings, in the channel where it does most, on a
    logarithmic scale: small differences become visible.
    """
    planes = np.atleast_3d(samples).astype(np.float32)
    differs = planes - cv2.blur(planes, (31, 31)).reshape(planes.shape)
    strongest = np.take_along_axis(differs, np.abs(differs).argmax(axis=2)[..., None], axis=2)[..., 0]
    return np.asarray(
        np.clip(128 + np.sign(strongest) * 40 * np.log2(1 + np.abs(strongest)), 0, 255), np.uint8
    )
