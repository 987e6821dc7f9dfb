"""What the mark detector's maps say: which pixels are drawn, and which marks they make."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ai_pipeline.burnin.markfinder import MarkFinder, MarkMaps
from ai_pipeline.burnin.marks import MEANINGS, Mark, MarkKind, Mask, Picture

KINDS = (MarkKind.TEXT, MarkKind.CALIPER, MarkKind.MARKER, MarkKind.SCALE, MarkKind.LOGO)
"""The detector's classes, from 1 on (:data:`ai_pipeline.networks.marks.CLASSES`)."""
SOFT_EDGE = 5
"""A drawing is grown by a square of this side: its soft edge and the ringing of compression (pixels)."""
SMALLEST = 4
"""Fewer pixels that lie together are no mark."""


@dataclass(frozen=True, slots=True, eq=False)
class Drawings:
    """The drawn pixels by kind (with their soft edges) and one mark for each connected drawing."""

    masks: dict[MarkKind, Mask]
    marks: tuple[Mark, ...]


def find_drawings(picture: Picture, finder: MarkFinder, threshold: float) -> Drawings:
    """Everything that the detector takes for annotation in an ultrasound picture."""
    maps = finder.find(picture)
    drawn = _without_specks(maps.above(threshold))
    masks, marks = {}, []
    for number, kind in enumerate(KINDS, start=1):
        own = drawn & (maps.classes == number)
        masks[kind] = grown(own)
        marks += _marks(kind, own, maps)
    return Drawings(masks, tuple(marks))


def no_drawings(shape: tuple[int, ...]) -> Drawings:
    """Nothing found: other pictures than ultrasound are not the detector's to judge."""
    return Drawings({kind: np.zeros(shape[:2], np.bool_) for kind in KINDS}, ())


def grown(mask: Mask) -> Mask:
    """The mask with the soft edges of what it covers."""
    kernel = np.ones((SOFT_EDGE, SOFT_EDGE), np.uint8)
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel), np.bool_)


def _without_specks(mask: Mask) -> Mask:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= SMALLEST
    large[0] = False
    return np.asarray(large[labels], np.bool_) if count > 1 else mask


def _marks(kind: MarkKind, own: Mask, maps: MarkMaps) -> list[Mark]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(grown(own).astype(np.uint8), connectivity=8)
    if count == 1:
        return []
    inside = labels[own]
    pixels = np.bincount(inside, minlength=count)
    said = np.bincount(inside, weights=maps.marked[own], minlength=count)
    return [
        Mark(
            kind,
            (int(left), int(top), int(left + width), int(top + height)),
            float(np.clip(said[index] / max(1, pixels[index]), 0, 1)),
            meaning=MEANINGS[kind],
        )
        for index, (left, top, width, height, _) in enumerate(stats)
        if index > 0
    ]
