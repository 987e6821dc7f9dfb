"""Lines of coloured strokes: letters that a device has drawn in a colour, though no reader knows their script
or no grey view shows them over bright tissue. Tissue is grey, so what has a colour and is no flow was drawn.

Two witnesses prove such a line: its strokes change as letters do (:mod:`ai_pipeline.burnin.decide.tiny`), and
the text detector finds text among them where nothing but the colour is shown.
"""

from __future__ import annotations

import cv2
import numpy as np

from ai_pipeline.burnin.decide.layout import overlap
from ai_pipeline.burnin.decide.tiny import are_letters_by_form
from ai_pipeline.burnin.find.annotation import (
    Box,
    Mask,
    Picture,
    clipped,
    colourfulness,
    component_boxes,
    components,
    index_of,
    mask_of,
)
from ai_pipeline.burnin.find.text import TextReader, working_scale
from ai_pipeline.burnin.find.traces import coloured, find_flow

COLOURED = "a line of coloured strokes"
"""Why such a line is text."""
LOWEST, HIGHEST = 5, 40
"""Height of its letters (pixels)."""
SHORTEST, SLENDER = 28, 2.0
"""Length of a line, at least (pixels), and in its heights."""
CROSSED = 0.4
"""Strokes that it crosses on a stretch as long as its letters are high, at least."""
WORD_GAP = 7
"""Gap between two strokes of one line, at most twice this (pixels)."""
SHOWN = 32.0
"""Height at which the text detector is shown a line (pixels)."""
SEEN, COVERED = 0.5, 0.5
"""Confidence of the detector from which it has found text, and the share of the line that it finds."""


def coloured_lines(picture: Picture, known: Mask, reader: TextReader) -> list[Box]:
    """Find the lines of coloured strokes in ``picture``, uint8 RGB; a grey one has none. ``known``: pixels
    ``[rows, columns]`` that are explained already.
    """
    if picture.ndim == 2:
        return []
    drawn = coloured(picture)
    if not drawn.any():
        return []
    drawn = drawn & ~find_flow(picture) & ~known
    return [row for row in _rows(drawn) if _is_seen(row, picture, drawn, reader)]


def _rows(drawn: Mask) -> list[Box]:
    """The rows among the strokes ``drawn`` that have the form of letters."""
    joined = cv2.morphologyEx(
        drawn.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((1, 2 * WORD_GAP + 1), np.uint8)
    ).astype(np.bool_)
    labels, stats = components(joined)
    return [
        box
        for label, box in enumerate(component_boxes(stats), start=1)
        if box[2] - box[0] >= max(SHORTEST, SLENDER * (box[3] - box[1]))
        and are_letters_by_form(
            drawn[index_of(box)] & (labels[index_of(box)] == label), (LOWEST, HIGHEST), CROSSED
        )
    ]


def _is_seen(row: Box, picture: Picture, drawn: Mask, reader: TextReader) -> bool:
    """Whether the text detector finds text in most of a ``row``, where only its colour is shown."""
    left, top, right, bottom = row
    rim = 2 * (bottom - top)
    place = clipped((left - rim, top - rim, right + rim, bottom + rim), picture.shape)
    if place is None:
        return False
    part = np.where(drawn[index_of(place)], colourfulness(picture[index_of(place)]), 0).astype(np.uint8)
    own = left - place[0], top - place[1], right - place[0], bottom - place[1]
    found = [
        box.box
        for box in reader.find(part, SHOWN / (bottom - top) / working_scale(part))
        if box.confidence >= SEEN and overlap(box.box, own) > 0.3
    ]
    return bool(mask_of(found, part.shape[:2])[index_of(own)].any(axis=0).mean() >= COVERED)
