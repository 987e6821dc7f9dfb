"""Numbers of axes, rulers and colour bars: known by their places, which fit their values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, permutations

import numpy as np

from ai_pipeline.burnin.decide.layout import ALIGNED, is_same_place
from ai_pipeline.burnin.decide.letters import UNSURE
from ai_pipeline.burnin.decide.texts import FEW_CHARACTERS, TOGETHER, Text
from ai_pipeline.burnin.find.annotation import Box, Mask, centre_of, gaps, mask_of
from ai_pipeline.contract import Meaning

AXIS = re.compile(r"\W{0,2}(\d{1,3}(?:[.,]\d{1,2})?|[.,]\d{1,2})\W{0,2}(?:[cm]?m/s|[cm]m|s|dB|k(?:Hz)?|%)?")
"""A number of an axis, as it is read, with what is read of its tick and with its unit."""


def as_scales(texts: Sequence[Text], bars: Mask) -> list[Text]:
    """Return the texts, with those marked as SCALE that are numbers along an axis (at places that fit their
    values; a minus sign may be lost) or at both ends of a bar.
    """
    found = list(texts)
    numbers = {
        index: (float(match[1].replace(",", ".")), text.box.box)
        for index, text in enumerate(texts)
        # The value of a label that goes is no number of an axis.
        if text.proof != TOGETHER and (match := AXIS.fullmatch(text.line.text.strip()))
    }
    scales: set[int] = set()
    for first, second in permutations(numbers, 2):
        (value, box), (other, end) = numbers[first], numbers[second]
        for along in (0, 1):
            if not _in_line(box, end, along):
                continue
            for step in (other - value, other + value):
                places = {
                    index
                    for index, (number, place) in numbers.items()
                    if _in_line(box, place, along)
                    and _is_on_axis(number, place, value, box, end, step, along)
                }
                # Numbers of an axis, at least.
                if len({round(centre_of(numbers[one][1])[along] / 12) for one in places}) >= 3:
                    ticks = [numbers[one][1] for one in places]
                    scales |= places | {
                        index for index, text in enumerate(texts) if _is_misread(text, ticks, along)
                    }
        if value == other or not value:
            scales |= {first, second} if _are_at_ends(box, end, bars) else set()
    # The tick before a number may be read as a digit more: "42" where another reading has "+2".
    scales |= {
        index
        for index, text in enumerate(texts)
        if any(
            text.letters[1:] == texts[one].letters and is_same_place(text.box.box, texts[one].box.box)
            for one in scales
        )
    }
    for index in scales:
        if found[index].meaning is Meaning.IDENTITY:
            found[index] = replace(found[index], meaning=Meaning.SCALE, proof="a number of an axis or a bar")
    return found


def beside_velocities(texts: Sequence[Text], shape: tuple[int, ...]) -> Mask:
    """The mask of the rows of a picture of ``shape`` beside each upright axis of velocities, and a quarter of
    its height beyond its ends: a spectrum, though no region of the header says so.
    """
    numbers = [text.box.box for text in texts if text.letters.isdigit()]
    axes = (
        # In its column, and at most so far from the unit (heights of it): other numbers may stand beyond.
        [box for box in numbers if gaps(box, unit)[0] < 0 and gaps(box, unit)[1] < 12 * (unit[3] - unit[1])]
        for unit in (text.box.box for text in texts if re.search("[cm]?m/s$", text.line.text))
    )
    return mask_of(
        (
            (0, max(0, (5 * top - bottom) // 4), shape[1], (5 * bottom - top) // 4)
            for axis in axes
            # Of numbers at different heights; a colour bar has two.
            if sum(all(gaps(box, other)[1] > 0 for other in axis[:n]) for n, box in enumerate(axis)) >= 3
            for top, bottom in [(min(box[1] for box in axis), max(box[3] for box in axis))]
        ),
        shape,
    )


def _is_misread(text: Text, ticks: Sequence[Box], along: int) -> bool:
    """Whether a text is an unsure reading of a number of an axis: at the place of one of its numbers
    (``ticks``), or in the middle between two. Text that is read as another number does not count: it may be
    an age.
    """
    box, line = text.box.box, [tick for tick in ticks if _in_line(text.box.box, tick, along)]
    return (
        max(text.line.confidence, text.small.confidence) < UNSURE
        and len(text.letters) <= FEW_CHARACTERS
        and not text.letters.isdigit()
        and (
            any(is_same_place(box, tick) for tick in ticks)
            or any(
                abs(sum(centre_of(tick)[along] - centre_of(box)[along] for tick in pair))
                <= 0.5 * text.box.height
                for pair in combinations(line, 2)
            )
        )
    )


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


def _is_on_axis(number: float, place: Box, value: float, box: Box, end: Box, step: float, along: int) -> bool:
    """Whether ``number`` at the box ``place`` fits an axis with ``value`` at ``box`` that rises by ``step``
    to the box ``end``; ``along``: 0 for a row, 1 for a column.
    """
    start, stop, here = (centre_of(one)[along] for one in (box, end, place))
    rise = step / (stop - start)
    # How far a number stands from its place on the axis, at most: a quarter of its height.
    return bool(rise) and abs(abs(value + rise * (here - start)) - number) <= abs(
        rise * 0.25 * (box[3] - box[1])
    )


def _are_at_ends(box: Box, other: Box, bars: Mask) -> bool:
    """Whether two boxes stand above and below an upright bar, or above and below its halves."""
    height = box[3] - box[1]
    rows, near = np.asarray(bars[box[3] : other[1], box[0] : box[2]].any(axis=1)), round(1.5 * height)
    return bool(
        abs(centre_of(box)[0] - centre_of(other)[0]) <= height
        and rows[:near].any()
        and rows[-near:].any()
        and rows.mean() >= 0.6  # of the rows between the limits show the bar, at least
    )
