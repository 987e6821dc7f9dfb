"""A second witness for what the mark network alone takes for text: nothing goes by that network alone.

It also marks beats of a spectrum, ticks, axes and pairs of crosses. What no reader reads there must have the
form of letters: in a line no longer and no higher than a line of text, strokes that cross most columns more
than once, and that stand out from one ground. A wave is crossed once, echoes have every level of grey.
"""

from __future__ import annotations

import cv2
import numpy as np

from ai_pipeline.burnin.decide.candidates import Candidate
from ai_pipeline.burnin.decide.layout import level_box
from ai_pipeline.burnin.decide.letters import strokes_in
from ai_pipeline.burnin.decide.outline import LETTER_GAP, SMALLEST_LETTER
from ai_pipeline.burnin.find.annotation import (
    Box,
    Mask,
    Picture,
    brightest,
    component_boxes,
    components,
    index_of,
)
from ai_pipeline.burnin.find.text import LOW_SHARE, SMALLEST_LINE, TextReader
from ai_pipeline.burnin.find.traces import crossings

LONGEST_LINE = 20
"""Length of a line that nobody reads, at most (its heights): a ruler is longer."""
ONCE = 1.15
"""Crossings of a column by letters, on average at least: ticks, curves and crosses are crossed once."""
TWO_LEVELS = 0.75
"""Share of the variance of grey levels that lies between strokes and ground (N. Otsu, 1979), from which they
are letters: of echoes, as of one bell-shaped distribution, it is .64."""


def confirmed(drawn: Mask, picture: Picture, reader: TextReader) -> tuple[Mask, tuple[Box, ...]]:
    """The blocks of the mark network (``drawn``) that a second witness confirms as text; and the boxes of the
    other blocks that are shaped like lines.
    """
    found: Mask = np.zeros_like(drawn)
    doubtful: list[Box] = []
    labels, stats = components(drawn)
    for label, place in enumerate(component_boxes(stats), start=1):
        block = np.asarray(labels == label, np.bool_)
        for line in _lines_of(block, place, picture):
            if not _is_line(line, picture.shape):
                continue
            if _is_read(picture, line, reader) or look_like_letters(picture, line):
                found[index_of(line)] |= block[index_of(line)]
            else:
                doubtful.append(line)
    return found, tuple(doubtful)


def _is_read(picture: Picture, box: Box, reader: TextReader) -> bool:
    """Whether one of the readers reads a letter or a digit in a box."""
    text = Candidate(picture, level_box(box, 1.0), 0.0).text(reader)
    return text.line.legible or text.small.legible


def look_like_letters(picture: Picture, box: Box) -> bool:
    """Whether what is drawn in a box has the form of letters, and neither of a curve nor of echoes."""
    grey = np.ascontiguousarray(brightest(picture[index_of(box)]))
    level, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)
    light = np.asarray(grey > level, np.bool_)
    if light.all() or not light.any():
        return False
    drawn = light if light.mean() <= 0.5 else ~light
    share = float(light.mean())
    between = share * (1 - share) * float(grey[light].mean() - grey[~light].mean()) ** 2
    return between >= TWO_LEVELS * float(grey.var()) and crossings(drawn[:, drawn.any(axis=0)]) > ONCE


def _is_line(box: Box, shape: tuple[int, ...]) -> bool:
    """Whether a box has the size of a line of text in a picture of ``shape``."""
    width, height = box[2] - box[0], box[3] - box[1]
    lower, longer = sorted((width, height))
    return lower <= max(24.0, LOW_SHARE * min(shape[:2])) and longer <= LONGEST_LINE * lower


def _lines_of(block: Mask, place: Box, picture: Picture) -> list[Box]:
    """The lines of a block: itself, or, where it is higher than a line of text, its rows of strokes."""
    if _is_line(place, picture.shape):
        return [place]
    left, top, _, _ = place
    drawn = (strokes_in(picture, level_box(place, 1.0)) & block)[index_of(place)]
    joined = cv2.morphologyEx(
        drawn.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((1, 2 * LETTER_GAP), np.uint8)
    ).astype(np.bool_)
    rows = component_boxes(components(joined)[1])
    return [
        (left + first, top + upper, left + last, top + lower)
        for first, upper, last, lower in rows
        if lower - upper >= SMALLEST_LINE and last - first >= SMALLEST_LETTER
    ]
