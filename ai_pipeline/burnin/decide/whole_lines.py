"""Lines stay or go whole: no letter of a line that stays is cut by what goes beside it.

Where both cannot be had the line goes. One place that was read more than once is judged by its best reading.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np

from ai_pipeline.burnin.annotation.pixels import (
    Box,
    Mask,
    Picture,
    brightest,
    centre_of,
    component_boxes,
    components,
    index_of,
)
from ai_pipeline.burnin.decide.allowed import NOTHING_MORE, Allowed
from ai_pipeline.burnin.decide.mask_shape import SMALLEST_LETTER
from ai_pipeline.burnin.decide.meaning import LEAST_CONFIDENCE
from ai_pipeline.burnin.decide.vocabulary import PRESETS
from ai_pipeline.burnin.decide.writing import FEW_CHARACTERS, Text, level_box, overlap, text_meaning
from ai_pipeline.burnin.find.text import TextBox, TextReader, paint
from ai_pipeline.contract import Meaning

BEYOND, LEVEL = 0.3, 0.6
"""How far a second reading's box reaches beyond the first one's at either end, at most, and their common
height, at least (heights of the higher, and of the first): a letter is wider."""
ACROSS = 1.4
"""Height of a box across several lines, at least (heights of each)."""
RIM = 0.15
"""What a box has above and below its letters (share of its height); boxes of close lines overlap by it."""
CUT = 0.05
"""Share of a line, without its rim, that lies in text that goes, from which the line cannot stay."""
LETTER, GAP = 9, 0.6
"""Side of the square in which a stroke stands out (pixels); what a row between two lines has of them, at most
(means of the rows from the middle of one to that of the other)."""
SLOPE, LEAST_ROWS = 0.2, 0.4
"""Slope of a level line, at most (heights); rows that a line keeps, at least, as a share of its box's."""
ALIGNED = 0.7
"""Distance of two lines of a block and of their ends or middles, at most (heights of a line)."""
AMBIGUOUS = re.compile(r"9\d|100 ?[^\s\dAaFfJjMmWwYy]?|FR ?\d\d|P (?:Low|Med|High)")
"""Settings that could be an age or a name elsewhere; a padlock beside a power is read as a letter, and no
letter of a sex or of years is taken for one."""
BLOCK = 2.5
"""Distance up to which a name proves that such a line is no setting (heights of the line)."""
COUNTER = re.compile(r"\d+ ?/ ?\d+")
"""A loop's frame: as the name of a preset it stands beside a patient's name, too, and proves no setting."""


def by_best_reading(texts: Sequence[Text]) -> list[Text]:
    """Texts with the meaning that another reading of the same place proves.

    A proof needs more than a few characters, and a second reading with a letter more is no second reading of
    the same: "45" does not prove "45Y" harmless.
    """
    proven = [
        text
        for text in texts
        if text.meaning not in {Meaning.IDENTITY, Meaning.SCALE} and len(text.letters) > FEW_CHARACTERS
    ]
    return [_as_proven(text, proven) for text in texts]


def without_boxes_across_lines(texts: Sequence[Text], shape: tuple[int, ...]) -> list[Text]:
    """The texts without uncertain ones that lie across several lines, if these lines are all read and proven.

    The detector took several lines for one in a blurred view; another view has read all of them.
    """
    proven = [text.box for text in texts if text.meaning is not Meaning.IDENTITY]
    return [text for text in texts if not _is_across_lines(text, proven, shape)]


def by_their_block(texts: Sequence[Text]) -> list[Text]:
    """Texts whose meaning the lines above and below prove: a power in per cent, a model's number.

    A number of two digits from 90 on could be an age, "FR 32" a Mrs of 32 and "P Low" a name, but between two
    settings of one block they are settings; "C 50" and "3/2/0" stand below others.
    """
    found = list(texts)
    for index in sorted(range(len(found)), key=lambda one: found[one].box.box[1]):  # each by those above it
        found[index] = _in_block(found[index], found)
    return found


def without_cut_lines(texts: Sequence[Text], goes: Callable[[Meaning], bool], picture: Picture) -> list[Text]:
    """The texts; texts that may stay by their meaning count as identity if a removed text overlaps them.

    Boxes of close lines with different fates are cut where one ends and the other begins.
    """
    found = list(texts)
    while True:
        fates = [(text.box.box, goes(text.meaning)) for text in found]
        found = [_with_own_rows(text, fates, goes(text.meaning), picture) for text in found]
        removed = [inner(text.box).box for text in found if goes(text.meaning)]
        cut = {
            index
            for index, text in enumerate(found)
            if not goes(text.meaning) and any(overlap(inner(text.box).box, one) > CUT for one in removed)
        }
        if not cut:
            return found
        found = [
            replace(text, meaning=Meaning.IDENTITY) if index in cut else text
            for index, text in enumerate(found)
        ]


def with_all_letters(
    texts: Sequence[Text],
    strokes: Mask,
    picture: Picture,
    reader: TextReader,
    margin: float,
    allowed: Allowed = NOTHING_MORE,
) -> list[Text]:
    """The texts; if drawn letters reach beyond the box that was read, the whole text is read again.

    ``strokes``: the drawn text; ``margin`` as in :func:`paint`. The meaning of such a text is that of the
    whole, and identity if that is not proven.
    """
    known = paint([text.box for text in texts], strokes.shape, margin)
    labels, _ = components(strokes)
    return [_read_whole(text, labels, known, picture, reader, allowed) for text in texts]


def around(
    residue: Sequence[TextBox], lines: Sequence[Box], stays: Mask, margin: float, *, spare: bool
) -> Mask:
    """The places of text that is still found, grown as :func:`paint` does, and of the ``lines`` it touches.

    ``lines``: the letters of each line that was read and stays, if all of it lies in ``stays``. A line is
    touched whole or, with ``spare``, not at all if the text lies beside it: one that reaches into it could be
    left in part.
    """
    place = paint(list(residue), stays.shape, margin)
    for line in lines:
        letters = index_of(line)
        if place[letters].any() and stays[letters].all():
            place[letters] = not (spare and all(overlap(line, box.box) <= 0 for box in residue))
    return place


def inner(box: TextBox) -> TextBox:
    """A box without its rim: the letters of a line."""
    corners = box.corners
    across, down = corners[1] - corners[0], corners[3] - corners[0]
    rim = RIM * (down if np.linalg.norm(down) <= np.linalg.norm(across) else across)
    towards = (1, 1, -1, -1) if np.linalg.norm(down) <= np.linalg.norm(across) else (1, -1, -1, 1)
    return TextBox(corners + np.outer(towards, rim).astype(np.float32), box.confidence)


def _with_own_rows(text: Text, fates: Sequence[tuple[Box, bool]], goes: bool, picture: Picture) -> Text:
    left, top, right, bottom = box = text.box.box
    level = abs(float(text.box.corners[0, 1] - text.box.corners[1, 1])) < SLOPE * (bottom - top)
    if not level or right - left < bottom - top:
        return text
    for other, fate in fates:
        row = _row_between(box, other, picture) if fate is not goes and _reaches_into(box, other) else None
        if row is not None:
            if centre_of(other)[1] < centre_of(box)[1]:
                top = max(top, row)
            else:
                bottom = min(bottom, row)
    if (top, bottom) == (box[1], box[3]) or bottom - top < LEAST_ROWS * (box[3] - box[1]):
        return text
    return replace(text, box=level_box((left, top, right, bottom), text.box.confidence))


def _row_between(box: Box, other: Box, picture: Picture) -> int | None:
    """Where the lower one of two close lines begins: at the row between them with the least of letters.

    None where no row has much less of them than the others: then it is not seen where one line ends.
    """
    upper, lower = sorted((box, other), key=lambda one: centre_of(one)[1])
    first, last = round(centre_of(upper)[1]), round(centre_of(lower)[1])
    rows, columns = index_of((max(box[0], other[0]), first, min(box[2], other[2]), max(last, first + 1)))
    grey = np.ascontiguousarray(brightest(picture[rows, columns]))
    square = np.ones((LETTER, LETTER), np.uint8)
    ink = cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, square).sum(axis=1, dtype=np.int64)
    if not ink.size or ink.min() >= GAP * ink.mean():
        return None
    return int(rows.start + np.median(np.flatnonzero(ink == ink.min())))


def _reaches_into(box: Box, other: Box) -> bool:
    """Whether a box overlaps that of another line, above or below it."""
    across = min(box[2], other[2]) - max(box[0], other[0])
    down = min(box[3], other[3]) - max(box[1], other[1])
    return across > 0 and 0 < down < LEVEL * min(box[3] - box[1], other[3] - other[1])


def _as_proven(text: Text, proven: Sequence[Text]) -> Text:
    if text.meaning is not Meaning.IDENTITY:
        return text
    for other in proven:
        if _is_same_place(text.box.box, other.box.box) and (not text.line.legible or text.may_say(other)):
            return replace(text, meaning=other.meaning)
    return text


def _in_block(text: Text, texts: Sequence[Text]) -> Text:
    if text.meaning is not Meaning.IDENTITY or text.line.confidence < LEAST_CONFIDENCE:
        return text
    written = text.line.text.strip()
    above = {_as_proof(other) for other in texts if _is_above(other.box.box, text.box.box)}
    below = {_as_proof(other) for other in texts if _is_above(text.box.box, other.box.box)}
    if above == {Meaning.LOGO} and re.fullmatch(r"[A-Z]\d{1,2}", written):
        return replace(text, meaning=Meaning.LOGO)
    last = re.fullmatch(r"C ?\d\d|\d/\d/\d", written)
    between = AMBIGUOUS.fullmatch(written) and below == {Meaning.ACOUSTIC} and not _is_near_name(text, texts)
    if above == {Meaning.ACOUSTIC} and (last or between):
        return replace(text, meaning=Meaning.ACOUSTIC)
    return text


def _is_near_name(text: Text, texts: Sequence[Text]) -> bool:
    """Whether what may be a name stands above, below or beside a text, in whatever column."""
    left, top, right, bottom = text.box.box
    reach = round(BLOCK * (bottom - top))
    around = (left - reach, top - reach, right + reach, bottom + reach)
    return any(
        other.meaning is Meaning.IDENTITY
        and overlap(other.box.box, around) > 0
        and not _is_same_place(text.box.box, other.box.box)
        and not AMBIGUOUS.fullmatch(other.line.text.strip())
        for other in texts
    )


def _as_proof(text: Text) -> Meaning:
    """What a line says of the next one."""
    written = text.line.text.strip()
    proves_nothing = written.upper() in PRESETS or COUNTER.fullmatch(written)
    return Meaning.IDENTITY if proves_nothing else text.meaning


def _is_above(box: Box, other: Box) -> bool:
    """Whether a line is the next one above another of its block."""
    reach = ALIGNED * min(box[3] - box[1], other[3] - other[1])
    edges = zip((box[0], box[2], centre_of(box)[0]), (other[0], other[2], centre_of(other)[0]), strict=True)
    return any(abs(one - another) <= reach for one, another in edges) and -reach <= other[1] - box[3] <= reach


def _is_across_lines(text: Text, proven: Sequence[TextBox], shape: tuple[int, ...]) -> bool:
    """Whether a text lies across two proven lines or more, with no room for a letter beside them."""
    if text.meaning is not Meaning.IDENTITY or text.line.confidence >= LEAST_CONFIDENCE:
        return False
    lines = [
        line
        for line in proven
        if text.box.height > ACROSS * line.height and overlap(line.box, text.box.box) > 0
    ]
    if len(lines) < 2:
        return False
    letter = max(3, round(min(line.height for line in lines) / 2))
    open_ = paint([text.box], shape, 0.0) & ~paint(lines, shape, 0.0)
    square = np.ones((letter, letter), np.uint8)
    return not cv2.erode(open_.astype(np.uint8), square, borderValue=0).any()


def _is_same_place(box: Box, proven: Box) -> bool:
    height = max(proven[3] - proven[1], box[3] - box[1])
    beyond = max(proven[0] - box[0], box[2] - proven[2])
    common = min(box[3], proven[3]) - max(box[1], proven[1])
    return beyond <= BEYOND * height and common >= LEVEL * (proven[3] - proven[1])


def _read_whole(
    text: Text,
    labels: np.typing.NDArray[np.int32],
    known: Mask,
    picture: Picture,
    reader: TextReader,
    allowed: Allowed,
) -> Text:
    left, top, right, bottom = box = text.box.box
    if text.meaning is Meaning.IDENTITY or right - left < bottom - top:
        return text
    here = [int(label) for label in np.unique(labels[index_of(box)]) if label]
    height = bottom - top
    rows, columns = index_of((left - 2 * height, top, right + 2 * height, bottom))
    missed = np.isin(labels[rows, columns], here) & ~known[rows, columns]
    parts = [part for part in component_boxes(components(missed)[1]) if max(_sides(part)) >= SMALLEST_LETTER]
    if not parts:
        return text
    start = columns.start
    whole = (
        min(left, *(start + part[0] for part in parts)),
        top,
        max(right, *(start + part[2] for part in parts)),
        bottom,
    )
    line_box = level_box(whole, text.box.confidence)
    line = reader.read(picture, line_box)
    again = Text(line_box, line, text_meaning(line_box, line, allowed))
    same = line.legible and again.letters == text.letters  # what was missed is a rim of these letters
    return replace(again, meaning=text.meaning) if same else again


def _sides(box: Box) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]
