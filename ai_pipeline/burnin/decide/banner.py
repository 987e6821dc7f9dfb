"""What the header knows of the scanner's own writing.

Two sources, each with a mask of its own: what lies outside all ultrasound regions may be anything (names, but
MI and TI too), what device rules name is what they say it is.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np

from ai_pipeline.burnin.annotation import Annotation, AnnotationKind, Mask, Picture, brightest, contrast
from ai_pipeline.burnin.decide.mask_shape import blocks
from ai_pipeline.burnin.devices.known import device_boxes
from ai_pipeline.contract import ImageHeader, Meaning
from ai_pipeline.errors import CleaningFailed

BLACK = 8
"""Pixels up to this grey level hold nothing (lossy compression leaves 2 or 3 in black)."""
LARGEST_SHARE = 0.3
"""More writing outside the regions than this share of the picture: the regions are not to be believed."""
EVERY = frozenset(Meaning)
LARGEST_DEVICE_SHARE = 0.5
"""More of the picture than this under device rules: they are for another layout of the device."""


def find_banner(header: ImageHeader, picture: Picture) -> tuple[Mask, tuple[Annotation, ...]]:
    """Return what is written outside every region of (0018,6011), with one mark per connected block.

    On black that are the lines of what is not black; on a coloured surrounding all of it.

    Regions that reach beyond the image are ignored: they describe the image before it was scaled or cut
    (seen in real files). Then, as without any region, nothing is claimed here.
    """
    nothing: Mask = np.zeros(picture.shape[:2], np.bool_)
    regions = [region.box for region in header.ultrasound_regions]
    rows, columns = picture.shape[:2]
    # Maximum edges one too large are common: some makers write them as exclusive.
    if not regions or any(right > columns + 1 or bottom > rows + 1 for _, _, right, bottom in regions):
        return nothing, ()
    outside = np.ones((rows, columns), np.bool_)
    for left, top, right, bottom in regions:
        outside[top:bottom, left:right] = False
    mask = blocks(_written(brightest(picture), outside)) & outside
    return mask, tuple(
        Annotation(AnnotationKind.BANNER, box, contrast(picture, mask, box)) for box in _blocks(mask)
    )


def find_device_banner(
    header: ImageHeader,
    picture: Picture,
    folder: Path | None = None,
    meanings: Collection[Meaning] = EVERY,
) -> tuple[Mask, tuple[Annotation, ...]]:
    """Return the rectangles of device rules in which something is written, whole, with one mark for each.

    Whole, because a rule is believed more than what can be seen: faint writing goes too. Where a rectangle is
    of one colour nothing is written, and nothing is claimed. The confidence of a mark is the contrast in it.
    Raises :class:`ai_pipeline.contract.CleaningFailed` when the rules take too much of the picture, and
    :class:`ai_pipeline.burnin.devices.rules.DeviceRuleError` when they cannot be read.
    """
    mask: Mask = np.zeros(picture.shape[:2], np.bool_)
    marks, rules = [], set()
    for found in device_boxes(header, picture.shape, folder):
        strength = _range(picture[found.place])
        if found.meaning in meanings and strength > 0:
            mask[found.place] = True
            rules.add(found.rule)
            marks.append(Annotation(AnnotationKind.BANNER, found.box, strength, meaning=found.meaning))
    share = float(mask.mean())
    if share > LARGEST_DEVICE_SHARE:
        raise CleaningFailed(f"device rules cover {share:.0%} of the picture: {', '.join(sorted(rules))}")
    return mask, tuple(marks)


def _written(grey: Picture, outside: Mask) -> Mask:
    """The pixels outside the regions that hold something; none when there is too much for writing."""
    written = outside & (grey > BLACK)
    if written.mean() <= LARGEST_SHARE:
        around = cv2.dilate(written.astype(np.uint8), np.ones((3, 3), np.uint8))
        return np.asarray(around.astype(np.bool_) & outside, np.bool_)
    # Some scanners surround the echo with a colour. Blacked out letter by letter the text would stay legible.
    background = int(np.bincount(grey[outside]).argmax())
    written = outside & (np.abs(grey.astype(np.int16) - background) > BLACK)
    return outside if written.any() and written.mean() <= LARGEST_SHARE else np.zeros_like(outside)


def _blocks(mask: Mask) -> list[tuple[int, int, int, int]]:
    reach = max(5, round(0.02 * max(mask.shape)) | 1)
    joined = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((reach, reach), np.uint8))
    count, _, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    return [
        (int(left), int(top), int(left + width), int(top + height))
        for left, top, width, height, _ in stats[1:count]
    ]


def _range(part: Picture) -> float:
    """Brightest against darkest in the channel where they differ most, 0 to 1."""
    pixels = part.reshape(part.shape[0] * part.shape[1], -1)
    return float((pixels.max(axis=0).astype(int) - pixels.min(axis=0)).max()) / 255.0
