"""Text in places that are known before the pixels are looked at.

Three sources, each with its own mask: the surroundings of all ultrasound regions, which may hold any text
(names, but also MI and TI); the rectangles of device rules, with their meanings; boxes that a person drew.
"""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from ai_pipeline.burnin.decide.outline import blocks
from ai_pipeline.burnin.devices.rules import LARGEST_DEVICE_SHARE, device_boxes
from ai_pipeline.burnin.find.annotation import (
    AnnotationKind,
    Mark,
    Mask,
    Picture,
    brightest,
    clipped,
    component_boxes,
    components,
    dilated,
    index_of,
    mask_of,
)
from ai_pipeline.burnin.find.traces import believed_regions
from ai_pipeline.contract import ImageHeader, Meaning
from ai_pipeline.errors import CleaningFailed

BLACK = 8
"""Grey level up to which a pixel is background (lossy compression leaves 2 or 3 in black)."""
LARGEST_SHARE = 0.3
"""Share of the picture that is drawn outside the regions, from which the regions are ignored."""


def find_banner(header: ImageHeader, picture: Picture) -> tuple[Mask, tuple[Mark, ...]]:
    """Find text outside every region of (0018,6011): its mask, and a mark for each block of text. The mask
    covers all that is not black, or all surroundings if they are coloured; it is empty without regions.
    """
    regions = believed_regions(header.ultrasound_regions, picture.shape)
    if not regions:
        return np.zeros(picture.shape[:2], np.bool_), ()
    outside = ~mask_of([region.box for region in regions], picture.shape)
    mask = blocks(_written(brightest(picture), outside)) & outside
    return mask, tuple(
        Mark(AnnotationKind.BANNER, box, 1.0, proof="outside the regions that the header names")
        for box in component_boxes(components(dilated(mask, max(5, round(0.02 * max(mask.shape)) | 1)))[1])
    )


def find_device_banner(
    header: ImageHeader,
    picture: Picture,
    folder: Path | None = None,
    meanings: Collection[Meaning] = frozenset(Meaning),
) -> tuple[Mask, tuple[Mark, ...]]:
    """Find the rectangles that device rules name for this image (each names what a device writes there, one
    of ``meanings``) and that are not empty: their mask, and a mark for each. A rectangle is masked whole, so
    that faint text is removed too; one of a single colour is left alone. ``folder``: the site's own rules.
    Raises :class:`ai_pipeline.errors.CleaningFailed` when the rules take too much of the picture, and
    :class:`ai_pipeline.errors.DeviceRuleError` when they cannot be read.
    """
    mask: Mask = np.zeros(picture.shape[:2], np.bool_)
    marks = []
    for rule, box in device_boxes(header, picture.shape, folder):
        place = index_of(box)
        if rule.meaning in meanings and np.ptp(picture[place], axis=(0, 1)).any():
            mask[place] = True
            proof = f"device rule {rule.name}"
            marks.append(Mark(AnnotationKind.BANNER, box, 1.0, meaning=rule.meaning, proof=proof))
    if (share := float(mask.mean())) > LARGEST_DEVICE_SHARE:
        names = sorted({mark.proof.removeprefix("device rule ") for mark in marks})
        raise CleaningFailed(f"device rules cover {share:.0%} of the picture: {', '.join(names)}")
    return mask, tuple(marks)


def find_by_hand(header: ImageHeader, picture: Picture) -> tuple[Mask, tuple[Mark, ...]]:
    """Return the mask of the boxes that a person drew (``removed_by_hand``), and a mark for each box. The
    boxes are masked whatever they hold. Raises :class:`ai_pipeline.errors.CleaningFailed` when they cover too
    much of the picture.
    """
    boxes = [box for drawn in header.removed_by_hand if (box := clipped(drawn, picture.shape))]
    mask = mask_of(boxes, picture.shape)
    if (share := float(mask.mean())) > LARGEST_DEVICE_SHARE:
        raise CleaningFailed(f"boxes drawn by hand cover {share:.0%} of the picture")
    return mask, tuple(Mark(AnnotationKind.BANNER, box, 1.0, proof="a person marked it") for box in boxes)


def _written(grey: Picture, outside: Mask) -> Mask:
    """The pixels ``outside`` the regions that may be text: neither black nor plain background. None of them
    if they are too many for text.
    """
    written = outside & (grey > BLACK)
    if written.mean() <= LARGEST_SHARE:
        return dilated(written, 3) & outside
    # Some scanners surround the echo with a colour. Blacked out letter by letter the text would stay legible.
    written = outside & (np.abs(grey.astype(np.int16) - np.bincount(grey[outside]).argmax()) > BLACK)
    return outside if written.any() and written.mean() <= LARGEST_SHARE else np.zeros_like(outside)
