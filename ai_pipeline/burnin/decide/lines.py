"""Lines that stay: all strokes of their letters stay, or none does. Half a digit is another digit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from ai_pipeline.burnin.decide.layout import RIM, level_box
from ai_pipeline.burnin.decide.letters import frames_at, strokes_in
from ai_pipeline.burnin.find.annotation import Box, Mask, Picture, components, dilated, index_of, mask_of
from ai_pipeline.burnin.find.text import TextReader, paint

Rows = Sequence[Sequence[Box]]
"""Lines that say something only together: a label and its number."""


def letters_of(picture: Picture, line: Box) -> tuple[Mask, Mask]:
    """The strokes of the letters of a ``line``, also where they reach beyond it, and strokes that belong as
    much to what is beside it: letters that touch, or a letter that the line's end cuts.
    """
    around = _around(line)
    drawn = strokes_in(picture, level_box(around, 1.0)) & ~frames_at(picture, level_box(line, 1.0))
    labels, stats = components(drawn)
    share = np.bincount(labels[index_of(line)].ravel(), minlength=len(stats)) / np.maximum(
        stats[:, cv2.CC_STAT_AREA], 1
    )
    share[0] = 0
    ends = drawn & ~mask_of([(around[0] + 1, around[1] + 1, around[2] - 1, around[3] - 1)], drawn.shape)
    # Share of a stroke within the line, from which it is of a letter of the line, and from which it may be.
    own = (share >= 0.6) & ~np.isin(np.arange(len(stats)), labels[ends])
    shared = (share > 0.2) & ~own
    return np.asarray(own[labels], np.bool_), np.asarray(shared[labels], np.bool_)


def _around(line: Box) -> Box:
    """The place where strokes of a line's letters are looked for: half a height beyond it."""
    left, top, right, bottom = line
    reach = min(bottom - top, right - left) // 2
    return left - reach, top - reach, right + reach, bottom + reach


def cut_by(lines: Iterable[Box], going: Mask, never_back: Mask, picture: Picture) -> tuple[list[Box], Mask]:
    """The ``lines`` that cannot stay whole if the pixels ``going`` are filled, and those of these pixels that
    are strokes of the other lines' letters and have to be left. ``never_back``: pixels that go whatever is
    there.
    """
    cut, back = [], np.zeros_like(going)
    for line in lines:
        if not going[index_of(_around(line))].any():
            continue
        own, shared = letters_of(picture, line)
        if (shared & going).any() or (own & never_back).any():
            cut.append(line)
        else:
            back |= dilated(own & going, 3) & going
    return cut, back & ~never_back


def with_their_rows(lines: Iterable[Box], rows: Rows) -> set[Box]:
    """The lines, with the labels and numbers that mean nothing without them."""
    chosen = set(lines)
    return chosen | {line for row in rows if not chosen.isdisjoint(row) for line in row}


def whole(lines: Iterable[Box], picture: Picture, ground: Mask) -> Mask:
    """The mask that removes lines whole: over the image area (``ground``) their strokes, elsewhere their
    boxes.
    """
    found: Mask = np.zeros_like(ground)
    for line in lines:
        place = paint([level_box(line, 1.0)], found.shape, 3 * RIM)
        found |= place & (~ground | np.logical_or(*letters_of(picture, line)))
    return found


def reads_alike(line: Box, before: Picture, after: Picture, reader: TextReader) -> bool:
    """Whether one of the readers reads the same in a line before and after filling, and reads anything."""
    left, top, right, bottom = line
    rim = round(RIM * min(right - left, bottom - top))
    box = level_box((left - rim, top - rim, right + rim, bottom + rim), 1.0)
    ways = (reader.read_small, reader.read)
    return any((words := read(before, box).text) and words == read(after, box).text for read in ways)
