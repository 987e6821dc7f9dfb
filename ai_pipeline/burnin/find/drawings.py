"""What the mark detector's maps say: which pixels are drawn, and which marks they make."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.annotation import MEANINGS, Annotation, AnnotationKind, Mask, Picture
from ai_pipeline.burnin.find.bars import completed
from ai_pipeline.burnin.find.flow import find_flow
from ai_pipeline.burnin.find.lines import lines_between
from ai_pipeline.burnin.find.mark_network import MarkFinder, MarkMaps

KINDS = (
    AnnotationKind.TEXT,
    AnnotationKind.CALIPER,
    AnnotationKind.MARKER,
    AnnotationKind.SCALE,
    AnnotationKind.LOGO,
)
"""The detector's classes, from 1 on (:data:`ai_training.networks.marks.CLASSES`)."""
SCALE = KINDS.index(AnnotationKind.SCALE) + 1
COMPACT, SCALE_SHARE = 0.8, 0.1
"""A part of the flow that fills so much of its box, and of which the detector takes so much for a scale, is a
colour bar."""
SOFT_EDGE = 5
"""A drawing is grown by a square of this side: its soft edge and the ringing of compression (pixels)."""
MAY_BE_TEXT = 0.4
"""Share of a drawing's pixels that look like text, from which it counts as text."""
SMALLEST = 2
"""Fewer pixels that lie together are no mark."""


@dataclass(frozen=True, slots=True, eq=False)
class Drawings:
    """The drawn pixels by kind (with their soft edges) and one mark for each connected drawing.

    ``source``: the picture, what the detector says of it, and the pixels that it takes for drawn.
    """

    masks: dict[AnnotationKind, Mask]
    marks: tuple[Annotation, ...]
    source: tuple[Picture, MarkMaps, Mask] | None = None

    def beside(self, read: Mask) -> Drawings:
        """The same with text that was ``read`` judged apart: a colour bar is none because its unit is."""
        if self.source is None or not read.any():
            return self
        picture, maps, drawn = self.source
        return _told(picture, maps, drawn, np.where(read, _agreed(drawn, maps), _agreed(drawn & ~read, maps)))


def find_drawings(picture: Picture, finder: MarkFinder, threshold: float) -> Drawings:
    """Everything that the detector takes for annotation in an ultrasound picture."""
    maps = finder.find(picture)
    drawn = maps.above(threshold) & ~_flow(picture, maps)
    return _told(picture, maps, drawn, _agreed(drawn, maps))


def _flow(picture: Picture, maps: MarkMaps) -> Mask:
    """Colour flow, less what is compact and looks like a scale to the detector: a colour bar with a rim."""
    flow = find_flow(picture)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(flow.astype(np.uint8), connectivity=8)
    area = stats[:, cv2.CC_STAT_AREA]
    box = stats[:, cv2.CC_STAT_WIDTH] * stats[:, cv2.CC_STAT_HEIGHT]
    scale = np.bincount(labels[maps.classes == SCALE], minlength=count)
    bars = (area >= COMPACT * box) & (scale >= SCALE_SHARE * area)
    return np.asarray(flow & ~bars[labels], np.bool_)


def no_drawings(shape: tuple[int, ...]) -> Drawings:
    """Nothing found: other pictures than ultrasound are not the detector's to judge."""
    return Drawings({kind: np.zeros(shape[:2], np.bool_) for kind in KINDS}, ())


def _told(picture: Picture, maps: MarkMaps, drawn: Mask, classes: npt.NDArray[np.uint8]) -> Drawings:
    masks, marks = {}, []
    for number, kind in enumerate(KINDS, start=1):
        own = classes == number
        masks[kind] = grown(own)
        marks += _marks(kind, own, maps)
    ends = [mark for mark in marks if mark.kind is AnnotationKind.CALIPER]
    masks[AnnotationKind.SCALE] = completed(picture, masks[AnnotationKind.SCALE])
    masks[AnnotationKind.CALIPER] |= grown(lines_between(picture, ends))
    return Drawings(masks, tuple(marks), (picture, maps, drawn))


def grown(mask: Mask) -> Mask:
    """The mask with the soft edges of what it covers."""
    kernel = np.ones((SOFT_EDGE, SOFT_EDGE), np.uint8)
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel), np.bool_)


def _agreed(drawn: Mask, maps: MarkMaps) -> npt.NDArray[np.uint8]:
    """The class of every drawn pixel, one for all that hang together; 0 where nothing is, or a speck.

    What may be text is text: under the policy clinical only that can go.
    """
    # With soft edges, so that the dots of a line hang together.
    count, labels = cv2.connectedComponents(grown(drawn).astype(np.uint8), connectivity=8)
    votes = np.stack(
        [
            np.bincount(labels[drawn & (maps.classes == number)], minlength=count)
            for number in range(1, len(KINDS) + 1)
        ]
    )
    area = votes.sum(axis=0)
    chosen = votes.argmax(axis=0) + 1
    chosen[votes[0] >= MAY_BE_TEXT * area] = 1
    chosen[area < SMALLEST] = 0
    chosen[0] = 0
    return np.where(drawn, chosen[labels], 0).astype(np.uint8)


def _marks(kind: AnnotationKind, own: Mask, maps: MarkMaps) -> list[Annotation]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(grown(own).astype(np.uint8), connectivity=8)
    if count == 1:
        return []
    inside = labels[own]
    pixels = np.bincount(inside, minlength=count)
    said = np.bincount(inside, weights=maps.marked[own], minlength=count)
    return [
        Annotation(
            kind,
            (int(left), int(top), int(left + width), int(top + height)),
            float(np.clip(said[index] / max(1, pixels[index]), 0, 1)),
            meaning=MEANINGS[kind],
        )
        for index, (left, top, width, height, _) in enumerate(stats)
        if index > 0
    ]
