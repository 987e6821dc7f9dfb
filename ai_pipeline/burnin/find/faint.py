"""Text nearly as dark as its background: no text reader sees it, but a viewer with a narrow window shows it.

Outside the image area a stroke that differs by one grey level counts as text. In the area and near it dim
tissue looks the same: there only legible text counts.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.find.annotation import Mask, component_boxes, components, dilated, mask_of
from ai_pipeline.contract import PixelArray

STROKE = 15
"""Thickness up to which what is lighter or darker than all around may be a stroke of a letter (pixels)."""
RINGING = 17
"""Side of the square by which other things are grown: what compression leaves around them (pixels)."""
LETTER_GAP, SMALLEST = 9, 12
"""Gap up to which strokes are of one thing, and the longer side of one, at least (pixels)."""
BESIDE = 0.04
"""Distance from the hull of the image area up to which dim tissue may lie (share of the shorter side)."""


def faint_writing(samples: PixelArray, area: Mask, known: Mask) -> tuple[Mask, Mask]:
    """Two masks: faint text on the background, outside the image ``area`` and not touching it; and strong
    drawings such as an ECG, with their surroundings, which are no faint text.

    ``samples``: as stored, of any depth, grey or colour: a window may show each level. ``known``: annotation
    that is already judged. The traces of compression around it are no text, unless they continue a line.
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
    closed = cv2.morphologyEx((faint & ~around).astype(np.uint8), cv2.MORPH_CLOSE, gap)
    labels, stats = components(closed.astype(np.bool_))
    far = ~dilated(hull, 2 * round(BESIDE * min(area.shape)) + 1)
    large = stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1) >= SMALLEST
    writing = _present(labels[far], len(stats)) & large
    # Their rows, as far as the line may continue on both sides.
    boxes = [box for box, one in zip(component_boxes(stats), writing[1:], strict=True) if one]
    # How far a line continues beside what is seen of it, at most (heights).
    reaches = ((box, 6 * (box[3] - box[1])) for box in boxes)
    rows = mask_of([(box[0] - reach, box[1], box[2] + reach, box[3]) for box, reach in reaches], area.shape)
    return np.asarray(writing[labels], np.bool_) | (rows & faint & ~known), strong


def _present(labels: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.bool_]:
    """Which of so many labels are among these; 0 is none."""
    found = np.bincount(labels, minlength=count) > 0
    found[0] = False
    return found


def _contrast(samples: PixelArray) -> npt.NDArray[np.float32]:
    """How far each pixel stands out from what is around, in the channel where it does most."""
    square = np.ones((STROKE, STROKE), np.uint8)
    found = None
    for channel in cv2.split(np.ascontiguousarray(samples)) if samples.ndim == 3 else [samples]:
        plane = np.ascontiguousarray(channel if channel.dtype == np.uint8 else channel.astype(np.float32))
        for way in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT):
            stands_out = cv2.morphologyEx(plane, way, square)
            found = stands_out if found is None else np.maximum(found, stands_out)
    return np.asarray(found, np.float32)
