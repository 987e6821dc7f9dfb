"""Letters: whether a place is proven to hold some, and which pixels their strokes are.

In the image area, where tissue is, only proven letters are painted over. There are three independent
witnesses: the mark network, which marks the strokes of letters, and two text readers. Two of the three prove
letters, or one reader that is sure. A place that only one suspects is kept, and a person looks at it.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ai_pipeline.burnin.decide.coloured import COLOURED
from ai_pipeline.burnin.decide.texts import Text
from ai_pipeline.burnin.find.annotation import (
    Mask,
    Picture,
    brightest,
    clipped,
    colourfulness,
    components,
    dilated,
    index_of,
)
from ai_pipeline.burnin.find.area import FRAME, LONGEST, straight_lines
from ai_pipeline.burnin.find.networks import Line
from ai_pipeline.burnin.find.text import TextBox, paint
from ai_pipeline.burnin.find.traces import coloured

FEWEST, SURELY_FEWEST = 2, 3
"""Letters and digits that a witness reads, at least; and one that reads so surely that it needs no second."""
SURE_LETTERS = 0.85
"""Confidence of such a reading."""
LONG, OF_LONG, UNSURE = 6, 0.6, 0.9
"""Letters and digits of a long reading, and its confidence: in speckle no reader reads so many. Confidence
that no reader has of a misread number; a printed name is read more surely."""
TRACED = 0.15
"""Share of a text's box that is drawn, from which the mark network has its letters (they fill 20 %)."""


def are_letters(text: Text, drawn: float = 0.0) -> bool:
    """Whether the text at a place is proven to be letters.

    ``drawn``: the share of the place that the mark network takes for text, 0 to 1.
    """
    if text.proof == COLOURED or _is_sure(text.line) or _is_sure(text.small):
        return True
    return sum((_reads(text.line, FEWEST), _reads(text.small, FEWEST), drawn >= TRACED)) >= 2


def letter_strokes(texts: Sequence[Text], drawn: Mask, picture: Picture, margin: float) -> Mask:
    """The mask of the strokes of ``texts`` with their edges; ``margin`` as in :func:`paint`. The strokes that
    the mark network has found (``drawn``) may lack a letter, so the mask also holds the strongest thin
    structures in the text's box, and the colour that compression has spread around coloured strokes.
    """
    found: Mask = np.zeros_like(drawn)
    for text in texts:
        place = paint([text.box], drawn.shape, margin)
        letters = _strokes_of(text, drawn, picture) & place & ~frames_at(picture, text.box)
        found |= letters | (_spread_colour(picture, letters) & place)
    return found


def _strokes_of(text: Text, drawn: Mask, picture: Picture) -> Mask:
    """The strokes of one of the texts of :func:`letter_strokes`."""
    if text.proof == COLOURED:  # over tissue other strokes are bright, too
        return dilated(coloured(picture), 3)
    return drawn | strokes_in(picture, text.box)


def strokes_in(picture: Picture, box: TextBox, contrast: int | None = None) -> Mask:
    """The thin structures in a box, light or dark, with their soft edges. Where the brightest channel shows
    hardly any, as of red letters on green, each channel is looked at.

    ``contrast``: the least difference to the surroundings in grey levels; by default a threshold is computed
    from the box (N. Otsu, 1979).
    """
    found: Mask = np.zeros(picture.shape[:2], np.bool_)
    # Width of a stroke's soft edge (heights of the line), but a pixel at least.
    edge = max(1, round(0.05 * box.height))
    left, top, right, bottom = box.box
    place = clipped((left - 2, top - 2, right + 2, bottom + 2), picture.shape)
    around = clipped((left - 2 - edge, top - 2 - edge, right + 2 + edge, bottom + 2 + edge), picture.shape)
    if place is None or around is None:
        return found
    part = np.ascontiguousarray(picture[index_of(place)])
    drawn: Mask = np.zeros(part.shape[:2], np.bool_)
    # Thickness of a stroke, at most (heights of the line).
    square = np.ones((2 * max(2, round(0.35 * box.height)) + 1,) * 2, np.uint8)
    for grey in (brightest(part), *(cv2.split(part) if part.ndim == 3 else ())):
        # The median of a square is the ground of letters; OpenCV has none of more than 255 pixels.
        ground = cv2.medianBlur(grey, min(2 * max(1, round(box.height)) + 1, 255)).astype(np.float32)
        for way, above in ((cv2.MORPH_TOPHAT, grey - ground), (cv2.MORPH_BLACKHAT, ground - grey)):
            stands_out = cv2.morphologyEx(grey, way, square)
            # How far a stroke stands out from what is beside it, at least (grey levels).
            level = contrast or max(12, cv2.threshold(stands_out, 0, 255, cv2.THRESH_OTSU)[0])
            drawn |= (stands_out > level) & (above > level / 2)  # not the gaps between strokes
        if drawn.mean() > 0.04:  # less than any letters take of their box
            break
    found[index_of(place)] = drawn
    found[index_of(around)] = dilated(found[index_of(around)], 2 * edge + 1)
    return found


def frames_at(picture: Picture, box: TextBox) -> Mask:
    """The straight lines through and beside a box of text, as of the frame of a table: no strokes of its
    letters. A line that ends with the text is made of the feet of its letters.
    """
    found: Mask = np.zeros(picture.shape[:2], np.bool_)
    # Of letters that high a stroke may be as long.
    if box.height > LONGEST / 2:
        return found
    left, top, right, bottom = box.box
    place = clipped((left - LONGEST, top - LONGEST, right + LONGEST, bottom + LONGEST), picture.shape)
    if place is not None:
        straight = straight_lines(picture[index_of(place)], LONGEST, FRAME)
        labels, _ = components(straight)
        # How far the feet of letters may reach beyond the box of their line (pixels).
        reach, outside = round(box.height), np.ones(picture.shape[:2], np.bool_)
        outside[max(0, top - reach) : bottom + reach, max(0, left - reach) : right + reach] = False
        longer = np.isin(labels, np.unique(labels[straight & outside[index_of(place)]]))
        found[index_of(place)] = dilated(longer & straight, 5)
    return found


def _spread_colour(picture: Picture, letters: Mask) -> Mask:
    """The coloured pixels beside coloured ``letters``, to which compression spreads their colour."""
    if picture.ndim == 2 or not letters.any():
        return np.zeros_like(letters)
    # Difference of the strongest and the weakest colour of a coloured pixel, at least (grey levels).
    coloured = colourfulness(picture) >= 8
    # Share of the pixels of coloured letters that are coloured, at least.
    if coloured[letters].mean() < 0.8:
        return np.zeros_like(letters)
    # How far JPEG spreads the colour of a stroke, half of a block (pixels).
    return np.asarray(dilated(letters, 2 * 4 + 1) & coloured, np.bool_)


def _is_sure(line: Line) -> bool:
    """Whether a line was read with enough letters and confidence to be surely text."""
    fewest, least = (LONG, OF_LONG) if line.confidence < SURE_LETTERS else (SURELY_FEWEST, SURE_LETTERS)
    return _reads(line, fewest) and line.confidence >= least


def _reads(line: Line, fewest: int) -> bool:
    """Whether a line is legible and has at least ``fewest`` letters."""
    return line.legible and line.letters >= fewest
