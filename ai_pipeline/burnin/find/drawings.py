"""Turn the mark detector's maps into drawn pixels of each kind and into annotations."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.find.annotation import (
    MEANINGS,
    AnnotationKind,
    Mark,
    Mask,
    Picture,
    box_around,
    brightest,
    colourfulness,
    component_boxes,
    components,
    dilated,
    index_of,
)
from ai_pipeline.burnin.find.area import thin
from ai_pipeline.burnin.find.networks import MarkFinder, MarkMaps
from ai_pipeline.burnin.find.traces import colour_bars, coloured, find_flow

KINDS = (
    AnnotationKind.TEXT,
    AnnotationKind.CALIPER,
    AnnotationKind.MARKER,
    AnnotationKind.SCALE,
    AnnotationKind.LOGO,
)
"""The detector's classes, from 1 on (:data:`ai_training.ultrasound.marks.CLASSES`)."""
DRAWN = "drawn, as the mark network sees it"


@dataclass(frozen=True, slots=True, eq=False)
class Drawings:
    """The annotation that the mark network finds in a picture: a mask of pixels by kind, with their soft
    edges, and one mark for each connected drawing. ``source``: the picture, the network's output, and the
    drawn pixels; ``classes``: the class of each pixel.
    """

    masks: dict[AnnotationKind, Mask]
    marks: tuple[Mark, ...]
    source: tuple[Picture, MarkMaps, Mask] | None = None
    classes: npt.NDArray[np.uint8] | None = None

    def classified_apart(self, text: Mask) -> Drawings:
        """Return a copy in which the pixels ``text`` are classified apart from the drawing they touch, as a
        unit beside a bar.
        """
        if self.source is None or not text.any():
            return self
        picture, maps, drawn = self.source
        classes = np.where(text, _majority_classes(drawn, maps), _majority_classes(drawn & ~text, maps))
        if self.classes is not None and np.array_equal(classes, self.classes):
            return self
        return _drawings(picture, maps, drawn, classes)


def find_drawings(picture: Picture, finder: MarkFinder, threshold: float, measured: Mask) -> Drawings:
    """Find all annotation in an ultrasound picture, grey or RGB, by the mark network ``finder``.
    ``threshold`` 0 to 1: the probability from which a pixel counts as drawn. ``measured``: spectra, M-mode
    and curves, which the network takes for letters and which are no annotation.
    """
    maps = finder.find(picture)
    # Colour flow without colour bars, which are compact and classified as a scale.
    flow = find_flow(picture)
    labels, stats = components(flow)
    area = stats[:, cv2.CC_STAT_AREA]
    # A part of the flow is a colour bar where it fills this share of its box, and the detector takes this
    # share of it for a scale.
    bars = area >= 0.8 * stats[:, cv2.CC_STAT_WIDTH] * stats[:, cv2.CC_STAT_HEIGHT]
    bars &= (
        np.bincount(labels[maps.classes == 1 + KINDS.index(AnnotationKind.SCALE)], minlength=len(stats))
        >= 0.1 * area
    )
    marked = maps.marked >= threshold
    # Letters in the colours of flow: the network marks most of them (.65 and more), and nothing of flow.
    bars |= np.bincount(labels[marked], minlength=len(stats)) >= 0.5 * area
    drawn = marked & ~(flow & ~bars[labels]) & ~measured
    return _drawings(picture, maps, drawn, _majority_classes(drawn, maps))


def _drawings(picture: Picture, maps: MarkMaps, drawn: Mask, classes: npt.NDArray[np.uint8]) -> Drawings:
    """Make the masks and marks of the ``drawn`` pixels with these ``classes``; ``maps``: the network's
    output.
    """
    masks, marks = {}, []
    for number, kind in enumerate(KINDS, start=1):
        own = classes == number
        masks[kind] = grown(own)
        labels, stats = components(grown(own))
        inside = labels[own]
        means = np.bincount(inside, weights=maps.marked[own], minlength=len(stats)) / np.maximum(
            1, np.bincount(inside, minlength=len(stats))
        )
        marks += [
            Mark(
                kind,
                box,
                float(np.clip(means[label], 0, 1)),
                meaning=MEANINGS[kind],
                proof=DRAWN,
            )
            for label, box in enumerate(component_boxes(stats), start=1)
        ]
    return Drawings(masks, tuple(marks), (picture, maps, drawn), classes)


def grown(mask: Mask) -> Mask:
    """Grow the mask by the soft edges of the drawings that it covers."""
    # Side of the square by which a drawing is grown: its soft edge and the ringing of compression (pixels).
    return dilated(mask, 5)


def is_mirrored(part: Picture) -> bool:
    """Whether what is drawn in a part of a picture is its own mirror image, left to right and upside down, as
    marks of focus are. Of words and pairs of letters hardly any are.
    """
    plane = colourfulness(part) if part.ndim == 3 and coloured(part).any() else brightest(part)
    _, light = cv2.threshold(np.ascontiguousarray(plane), 0, 255, cv2.THRESH_OTSU)
    if not light.any():
        return False
    shape = light[index_of(box_around(light > 0, 0))] > 0
    # Share of a sign that its mirror image covers, at least.
    return all((shape & way).sum() >= 0.75 * (shape | way).sum() for way in (shape[:, ::-1], shape[::-1]))


def _majority_classes(drawn: Mask, maps: MarkMaps) -> npt.NDArray[np.uint8]:
    """The class of every drawn pixel, one for each connected drawing; 0 elsewhere.

    Text takes precedence: the policy clinical removes nothing else.
    """
    labels, stats = components(grown(drawn))  # with soft edges, so that the dots of a line are connected
    own = labels[drawn]
    places = own * (len(KINDS) + 1) + maps.classes[drawn]
    votes = np.bincount(places, minlength=len(stats) * (len(KINDS) + 1)).reshape(len(stats), -1).T[1:]
    area = votes.sum(axis=0)
    chosen = votes.argmax(axis=0) + 1
    # Share of a drawing's pixels that the detector takes for text, from which all of it counts as text; and
    # the pixels of a drawing, at least.
    chosen[votes[0] >= 0.4 * area] = 1
    chosen[area < 2] = 0
    chosen[0] = 0
    classes = np.zeros(drawn.shape, np.uint8)
    classes[drawn] = chosen[own]
    return classes


THICK, LARGEST, BAR_COMPACT, BAR_LONGER = 7, 0.03, 0.8, 1.5
"""Width of a bar that is seen by its form, at least (pixels); its share of the picture, at most; the share of
its box that it fills and the ratio of its sides, at least."""


def find_bars(picture: Picture) -> Mask:
    """The mask of vertical and horizontal bars, found by shape: slender, smooth, with ends of other colours;
    and of rectangles in Doppler's colours.

    A bar has no thin stroke in any channel; letters have strokes.
    """
    strokes: Mask = np.logical_or.reduce([thin(channel) for channel in cv2.split(picture)])
    opened = cv2.morphologyEx(
        ((brightest(picture) > 8) & ~strokes).astype(np.uint8),
        cv2.MORPH_OPEN,
        np.ones((THICK, THICK), np.uint8),
    )
    labels, stats = components(opened.astype(np.bool_))
    found = np.zeros_like(strokes)
    for label, box in enumerate(component_boxes(stats), start=1):
        own = labels[index_of(box)] == label
        if _is_bar(own, picture[index_of(box)]) and own.sum() <= LARGEST * found.size:
            found |= labels == label
    return dilated(found | colour_bars(picture), 3)


def _is_bar(own: Mask, part: Picture) -> bool:
    """Whether the pixels ``own`` of a smooth component, cut out to its box, are a bar of grey levels or
    colours; ``part``: the picture in that box.
    """
    longer, shorter = max(own.shape), min(own.shape)
    # Doppler's colours fade to black, and no letters are so smooth and coloured.
    fades = part.ndim == 3 and coloured(part)[own].mean() > 0.4
    if own.mean() < (0.6 if fades else BAR_COMPACT) or longer < BAR_LONGER * shorter:
        return False
    ends = part if own.shape[0] == longer else part.swapaxes(0, 1)
    first, last = (rows.reshape(-1, *rows.shape[2:]).mean(axis=0) for rows in (ends[:THICK], ends[-THICK:]))
    # Difference between the two ends of a bar, at least (grey levels).
    return float(np.abs(first - last).max()) >= 60.0
