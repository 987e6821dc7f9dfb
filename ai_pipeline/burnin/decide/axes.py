"""Numbers of axes, rulers and colour bars: known by their places, which fit their values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations

import numpy as np

from ai_pipeline.burnin.decide.layout import ALIGNED, is_same_place
from ai_pipeline.burnin.decide.letters import UNSURE
from ai_pipeline.burnin.decide.texts import FEW_CHARACTERS, TOGETHER, Text
from ai_pipeline.burnin.find.annotation import Box, Mask, centre_of, gaps, mask_of
from ai_pipeline.contract import Meaning

AXIS = re.compile(r"\W{0,2}(\d{1,3}(?:[.,]\d{1,2})?|[.,]\d{1,2})\W{0,2}(?:[cm]?m/s|[cm]m|s|dB|k(?:Hz)?|%)?")
"""A number of an axis, as it is read, with what is read of its tick and with its unit."""


@dataclass(frozen=True, slots=True)
class _Number:
    """A text that may be a number of an axis: its place in the list of texts, its ``value``, and its box."""

    index: int
    value: float
    box: Box


def as_scales(texts: Sequence[Text], bars: Mask) -> list[Text]:
    """Return the texts, with those marked as SCALE that are numbers along an axis (at places that fit their
    values; a minus sign may be lost) or at both ends of a bar.
    """
    numbers = _numbers_in(texts)
    scales: set[int] = set()
    for first, second in permutations(numbers, 2):
        for along in (0, 1):
            scales |= _axis_through(first, second, numbers, texts, along)
        if _are_limits(first, second, bars):
            scales |= {first.index, second.index}
    scales |= _with_a_tick(texts, [texts[index] for index in scales])
    return [
        replace(text, meaning=Meaning.SCALE, proof="a number of an axis or a bar")
        if index in scales and text.meaning is Meaning.IDENTITY
        else text
        for index, text in enumerate(texts)
    ]


def beside_velocities(texts: Sequence[Text], shape: tuple[int, ...]) -> Mask:
    """The mask of the rows of a picture of ``shape`` beside each upright axis of velocities, and a quarter of
    its height beyond its ends: a spectrum, though no region of the header says so.
    """
    numbers = [text.box.box for text in texts if text.letters.isdigit()]
    units = [text.box.box for text in texts if re.search("[cm]?m/s$", text.line.text)]
    axes = [[box for box in numbers if _is_near_unit(box, unit)] for unit in units]
    # Of numbers at different heights; a colour bar has two.
    return mask_of([_rows_beside(axis, shape[1]) for axis in axes if _heights(axis) >= 3], shape)


def _numbers_in(texts: Sequence[Text]) -> list[_Number]:
    """The texts that are numbers as an axis has them."""
    return [
        _Number(index, float(match[1].replace(",", ".")), text.box.box)
        for index, text in enumerate(texts)
        # The value of a label that goes is no number of an axis.
        if text.proof != TOGETHER and (match := AXIS.fullmatch(text.line.text.strip()))
    ]


def _axis_through(
    first: _Number, second: _Number, numbers: Sequence[_Number], texts: Sequence[Text], along: int
) -> set[int]:
    """The indices of the ``texts`` on the axis that runs through two numbers, in a row (``along`` 0) or in a
    column (``along`` 1): its numbers, and unsure readings of them. None if too few numbers fit.
    """
    found: set[int] = set()
    if not _in_line(first.box, second.box, along):
        return found
    for step in (second.value - first.value, second.value + first.value):
        fitting = [
            number
            for number in numbers
            if _in_line(first.box, number.box, along) and _is_on_axis(number, first, second, step, along)
        ]
        ticks = [number.box for number in fitting]
        # Numbers of an axis, at least.
        if len({round(centre_of(tick)[along] / 12) for tick in ticks}) >= 3:
            found |= {number.index for number in fitting}
            found |= {index for index, text in enumerate(texts) if _is_misread(text, ticks, along)}
    return found


def _is_on_axis(number: _Number, first: _Number, second: _Number, step: float, along: int) -> bool:
    """Whether ``number`` fits an axis that starts at ``first`` and rises by ``step`` to the place of
    ``second``; ``along``: 0 for a row, 1 for a column.
    """
    start, stop, here = (centre_of(place.box)[along] for place in (first, second, number))
    rise = step / (stop - start)
    # How far a number stands from its place on the axis, at most: a quarter of its height.
    return bool(rise) and abs(abs(first.value + rise * (here - start)) - number.value) <= abs(
        rise * 0.25 * (first.box[3] - first.box[1])
    )


def _is_misread(text: Text, ticks: Sequence[Box], along: int) -> bool:
    """Whether a text is an unsure reading of a number of an axis: at the place of one of its numbers
    (``ticks``), or in the middle between two. Text that is read as another number does not count: it may be
    an age.
    """
    box = text.box.box
    if (
        max(text.line.confidence, text.small.confidence) >= UNSURE
        or len(text.letters) > FEW_CHARACTERS
        or text.letters.isdigit()
    ):
        return False
    line = [tick for tick in ticks if _in_line(box, tick, along)]
    return any(is_same_place(box, tick) for tick in ticks) or any(
        _is_midway(text, pair, along) for pair in combinations(line, 2)
    )


def _is_midway(text: Text, ticks: tuple[Box, Box], along: int) -> bool:
    """Whether a text stands in the middle between two numbers of an axis."""
    here = centre_of(text.box.box)[along]
    return abs(sum(centre_of(tick)[along] - here for tick in ticks)) <= 0.5 * text.box.height


def _with_a_tick(texts: Sequence[Text], scales: Sequence[Text]) -> set[int]:
    """The indices of the ``texts`` that are another reading of a number in ``scales``, with its tick read as
    a digit: "42" where another reading has "+2".
    """
    return {
        index
        for index, text in enumerate(texts)
        if any(
            text.letters[1:] == scale.letters and is_same_place(text.box.box, scale.box.box)
            for scale in scales
        )
    }


def _is_near_unit(number: Box, unit: Box) -> bool:
    """Whether a number stands in the column of the unit of velocities, and not far from it."""
    across, down = gaps(number, unit)
    # At most so far from the unit (heights of it): other numbers may stand beyond.
    return across < 0 and down < 12 * (unit[3] - unit[1])


def _heights(axis: Sequence[Box]) -> int:
    """How many of the boxes stand above or below all before them."""
    return sum(all(gaps(box, other)[1] > 0 for other in axis[:before]) for before, box in enumerate(axis))


def _rows_beside(axis: Sequence[Box], width: int) -> Box:
    """The box of the rows beside an upright axis in a picture of this ``width``."""
    top = min(box[1] for box in axis)
    bottom = max(box[3] for box in axis)
    return 0, max(0, (5 * top - bottom) // 4), width, (5 * bottom - top) // 4


def _in_line(box: Box, other: Box, along: int) -> bool:
    """Whether two boxes stand one below the other (``along`` 1) or in one row (``along`` 0), farther apart
    than words.
    """
    height, across = box[3] - box[1], 1 - along
    ends = (box[across], box[across + 2], centre_of(box)[across])
    others = (other[across], other[across + 2], centre_of(other)[across])
    near = any(abs(one - another) <= ALIGNED * height for one, another in zip(ends, others, strict=True))
    gap = max(box[along], other[along]) - min(box[along + 2], other[along + 2])
    return box == other or (near and gap > (1.5 - along) * height)


def _are_limits(first: _Number, second: _Number, bars: Mask) -> bool:
    """Whether two numbers are the limits of an upright bar, above and below it, or of one of its halves."""
    if first.value not in {0, second.value}:
        return False
    box, other = first.box, second.box
    height = box[3] - box[1]
    rows, near = np.asarray(bars[box[3] : other[1], box[0] : box[2]].any(axis=1)), round(1.5 * height)
    return bool(
        abs(centre_of(box)[0] - centre_of(other)[0]) <= height
        and rows[:near].any()
        and rows[-near:].any()
        and rows.mean() >= 0.6  # of the rows between the limits show the bar, at least
    )
