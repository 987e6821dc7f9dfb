"""Rows of strokes that are text by their form, too low for any reader: letters of four to nine pixels.

Along a row of letters the strokes of a line change as often as its letters are high: tissue has streaks,
which change a third as often, and a ruler's ticks stand at equal distances.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from ai_pipeline.burnin.decide.layout import overlap
from ai_pipeline.burnin.find.annotation import (
    Box,
    Mask,
    Picture,
    brightest,
    clipped,
    component_boxes,
    components,
    index_of,
)
from ai_pipeline.burnin.find.text import TextReader, working_scale

LEVELS = (8, 12, 18, 24, 36, 48)
"""How far strokes stand out from what is in their row of pixels (grey levels): letters over tissue show at
one of these without the tissue around them."""
THICKNESS = 7
"""Length of a row of pixels in which a stroke stands out (pixels): blurred letters do so beside each other,
the streaks of tissue do not."""
WORD_GAP = 7
"""Gap between two strokes of one row, at most twice this (pixels)."""
LOWEST, HIGHEST = 3, 9
"""Height of letters without their ascenders that no reader reads (pixels)."""
SHORTEST = 28
"""Length of a row, at least (pixels), and in its heights."""
SLENDER = 6.0
LETTERS = 0.5
"""Strokes that a row crosses on a stretch as long as its letters are high, at least."""
BODY = 0.15
"""Share of a row of pixels that strokes take, from which it belongs to the letters' bodies."""
THIN, MOSTLY, CLIMBS = 0.35, 0.45, 0.4
"""What a thin line that slopes has of a row's height in a column, at most; the share of the columns with so
little, and how far the line climbs along the row, at least (share of its height)."""
EQUAL = 0.8
"""Share of the distances between strokes that are equal, from which they are a ruler's ticks."""


QUIET = 0.4
"""How far pixels above and below a row stand out, at most (share of what its strokes do): streaks of tissue
that lie askew go on there."""
ONE_PIECE = 0.85
"""Length of one bright piece, from which it is a bar (share of a row): an edge of bone with speckle is such a
bar; of 1,969 rows of drawn letters, blurred or not, the ground shows between all."""
BRIGHT = 0.6
"""How far a bright piece stands out from what is above and below the row (share of what its strokes do)."""
LEADING = 4
"""Distance from a row within which there is such a line of pixels (pixels)."""
ENLARGED = 4.0
"""Scale at which the text detector looks at a row again: letters of five pixels are 20 there."""
AROUND = 16
"""What it is shown around the row (pixels)."""
SEEN, SURELY_SEEN, LONG = 0.3, 0.6, 8.0
"""Confidence of the detector from which a row is text, and from which a short one is; length of a long row
(its heights): such rows tissue hardly has."""


def tiny_lines(picture: Picture, known: Mask, reader: TextReader) -> list[Box]:
    """Find the rows of :func:`tiny_rows` that the text detector, the second witness, also takes for text once
    they are enlarged.
    """
    found: list[Box] = []
    for row in tiny_rows(picture, known):
        if not any(overlap(row, other) > 0.5 for other in found) and _is_seen(row, picture, reader):
            found.append(row)
    return found


def _is_seen(row: Box, picture: Picture, reader: TextReader) -> bool:
    """Whether the text detector finds text in a ``row`` that is enlarged and shown in full contrast."""
    left, top, right, bottom = row
    place = clipped((left - AROUND, top - AROUND, right + AROUND, bottom + AROUND), picture.shape)
    if place is None:
        return False
    part = np.ascontiguousarray(brightest(picture[index_of(place)]))
    part = np.asarray(cv2.normalize(part, part.copy(), 0, 255, cv2.NORM_MINMAX), np.uint8)
    own = left - place[0], top - place[1], right - place[0], bottom - place[1]
    least = SEEN if right - left >= LONG * (bottom - top) else SURELY_SEEN
    return any(
        box.confidence >= least and overlap(own, box.box) > 0.3
        for box in reader.find(part, ENLARGED / working_scale(part))
    )


def tiny_rows(picture: Picture, known: Mask) -> list[Box]:
    """Find the rows of tiny strokes, light or dark, in ``picture``, uint8 grey or RGB, that form lines of
    letters. ``known``: pixels ``[rows, columns]`` that are explained already.
    """
    light = np.ascontiguousarray(brightest(picture))
    row_of_pixels = np.ones((1, THICKNESS), np.uint8)
    return [
        row
        for grey in (light, np.subtract(255, light, dtype=np.uint8))
        for contrast in (cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, row_of_pixels),)
        for level in LEVELS
        for row in _rows(np.asarray(contrast > level, np.bool_) & ~known)
        if _is_apart(row, contrast) and not _is_bar(row, grey)
    ]


def _is_apart(row: Box, contrast: Picture) -> bool:
    """Whether there is a line of pixels above and one below a ``row`` of strokes in which little stands
    out.
    """
    left, top, right, bottom = row
    first = max(0, top - LEADING)
    profile = contrast[first : bottom + LEADING, left:right].mean(axis=1)
    above, own, below = np.split(profile, [top - first, bottom - first])
    letters = float(np.sort(own)[len(own) // 2 :].mean())
    return all(
        float(np.append(beside, edge).min()) <= QUIET * letters
        for beside, edge in ((above, own[0]), (below, own[-1]))
    )


def _is_bar(row: Box, grey: Picture) -> bool:
    """Whether a ``row`` of light strokes is a bar in one piece, such as an edge of bone with speckle."""
    left, top, right, bottom = row
    first = max(0, top - LEADING)
    part = grey[first : bottom + LEADING, left:right]
    own, beside = part[top - first : bottom - first], np.delete(part, np.s_[top - first : bottom - first], 0)
    if not beside.size:
        return False
    ground, strokes = float(np.median(beside)), float(np.quantile(own, 0.95))
    _, stats = components(part > ground + BRIGHT * (strokes - ground))
    return bool(stats[1:, cv2.CC_STAT_WIDTH].max(initial=0) >= ONE_PIECE * (right - left))


def _rows(drawn: Mask) -> Iterator[Box]:
    """The rows of letters among the strokes ``drawn``."""
    joined = cv2.morphologyEx(
        drawn.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((1, 2 * WORD_GAP + 1), np.uint8)
    ).astype(np.bool_)
    labels, stats = components(joined)
    widths, heights = stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]
    possible = (widths >= SHORTEST) & (widths >= SLENDER * heights)
    possible &= (heights > LOWEST) & (heights <= HIGHEST + 3)
    boxes = component_boxes(stats)
    for label in np.flatnonzero(possible[1:]) + 1:
        box = boxes[label - 1]
        strokes = drawn[index_of(box)] & (labels[index_of(box)] == label)
        if are_letters_by_form(strokes) and not _is_line(strokes):
            yield box


def _is_line(strokes: Mask) -> bool:
    """Whether the strokes of a row, cut out to its box, are a thin line that slopes, such as the dotted one
    between two calipers: most columns hold little of the row's height, and that climbs along the row.
    """
    height = strokes.shape[0]
    places = np.flatnonzero(strokes.any(axis=0))
    first, last = strokes[:, places].argmax(axis=0), height - 1 - strokes[::-1, places].argmax(axis=0)
    thin = last - first + 1 <= THIN * height
    if thin.mean() <= MOSTLY:
        return False
    slope = float(np.polyfit(places[thin], (first + last)[thin] / 2, 1)[0])
    return bool(abs(slope) * (places[-1] - places[0]) >= CLIMBS * height)


def are_letters_by_form(
    strokes: Mask, heights: tuple[int, int] = (LOWEST, HIGHEST), least: float = LETTERS
) -> bool:
    """Whether the strokes of a row, cut out to its box, change as those of letters do. ``heights``: of the
    letters, from and to (pixels); ``least``: the strokes that a row crosses on a stretch as long as that.
    """
    body = strokes[strokes.mean(axis=1) >= BODY]
    if not heights[0] <= len(body) <= heights[1]:
        return False
    starts = np.diff(np.pad(body, ((0, 0), (1, 0))).astype(np.int8), axis=1) == 1
    crossed = starts.sum(axis=1)
    if float(np.median(crossed)) * len(body) < least * strokes.shape[1]:
        return False
    middle = int(np.argsort(crossed)[len(crossed) // 2])
    distances = np.diff(np.flatnonzero(starts[middle]))
    return float((np.abs(distances - np.median(distances)) <= 1).mean()) < EQUAL
