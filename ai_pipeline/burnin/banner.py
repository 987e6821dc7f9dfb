"""What DICOM itself says: pixels outside all ultrasound regions are the scanner's own writing."""

from __future__ import annotations

import cv2
import numpy as np

from ai_pipeline.burnin.marks import Mark, MarkKind, Mask, Picture, brightest, contrast
from ai_pipeline.contract import ImageHeader
from ai_pipeline.headers import ultrasound_regions

BLACK = 8
"""Pixels up to this grey level hold nothing (lossy compression leaves 2 or 3 in black)."""
LARGEST_SHARE = 0.3
"""More non-black outside the regions than this share of the picture: the regions are not to be believed."""


def find_banner(header: ImageHeader, picture: Picture) -> tuple[Mask, tuple[Mark, ...]]:
    """Return the non-black pixels outside every region of (0018,6011), with one mark per connected block.

    Regions that reach beyond the image are ignored: they describe the image before it was scaled or cut
    (seen in real files). Then, as without any region, nothing is claimed here.
    """
    nothing: Mask = np.zeros(picture.shape[:2], np.bool_)
    regions = ultrasound_regions(header)
    rows, columns = picture.shape[:2]
    # Maximum edges one too large are common: some makers write them as exclusive.
    if not regions or any(right > columns + 1 or bottom > rows + 1 for _, _, right, bottom in regions):
        return nothing, ()
    outside = np.ones((rows, columns), np.bool_)
    for left, top, right, bottom in regions:
        outside[top:bottom, left:right] = False
    grey = brightest(picture)
    written = outside & (grey > BLACK)
    if not written.any() or written.mean() > LARGEST_SHARE:
        return nothing, ()
    mask = cv2.dilate(written.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(np.bool_) & outside
    return mask, tuple(Mark(MarkKind.BANNER, box, contrast(picture, written, box)) for box in _blocks(mask))


def _blocks(mask: Mask) -> list[tuple[int, int, int, int]]:
    reach = max(5, round(0.02 * max(mask.shape)) | 1)
    joined = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((reach, reach), np.uint8))
    count, _, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    return [
        (int(left), int(top), int(left + width), int(top + height))
        for left, top, width, height, _ in stats[1:count]
    ]
