"""Numbers of axes and bars."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from ai_pipeline.burnin.decide.axes import as_scales, beside_velocities
from ai_pipeline.burnin.find.annotation import mask_of
from ai_pipeline.burnin.find.networks import Line
from ai_pipeline.contract import Meaning
from tests.unit.ai_pipeline.burnin.cleaning_lab import IDENTITY
from tests.unit.ai_pipeline.burnin.texts_lab import meanings, text


@pytest.mark.parametrize(
    ("numbers", "rows"),
    [
        ((("+20", 100), ("-10", 250), ("-20", 300)), range(45, 375)),
        ((("+20", 100), ("-20", 300)), ()),  # a colour bar
        ((("45", 0), ("+20", 100), ("67", 560)), ()),
    ],
)
def test_rows_beside_an_axis_of_velocities_are_a_spectrum(
    numbers: Sequence[tuple[str, int]], rows: Sequence[int]
) -> None:
    texts = [text(words, (400, y, 440, y + 20)) for words, y in (("cm/s", 200), *numbers)]
    assert np.flatnonzero(beside_velocities(texts, (600, 480)).all(axis=1)).tolist() == list(rows)


def test_numbers_of_an_axis_and_of_a_bar_are_a_scale_where_their_values_put_them() -> None:
    rows = (("-20", 40), ("10·", 100), ("cm/s", 160), ("-10", 220), ("95", 250), ("410", 222))
    named = [replace(text(one, (300, top, 324, top + 18)), meaning=IDENTITY) for one, top in rows]
    no_bar, bar, half = (mask_of([(305, 60, 318, end)], (400, 400)) for end in (0, 216, 150))
    assert [one.meaning is Meaning.SCALE for one in as_scales(named, no_bar)] == [
        True,
        True,
        False,
        True,
        False,
        True,  # its tick was read as a digit
    ]
    assert Meaning.SCALE not in meanings(as_scales(named[:2], no_bar))
    ends = [replace(one, line=Line("62.5", 0.9, legible=True)) for one in (named[0], named[3])]
    bar[130:150] = False  # in two halves
    assert meanings(as_scales(ends, bar)) == [Meaning.SCALE] * 2
    assert Meaning.SCALE not in meanings(as_scales(ends, half))


@pytest.mark.parametrize(
    ("words", "sure", "stays"),
    [
        ("4n", 0.85, True),
        ("Rn-", 0.6, True),
        ("45", 0.6, False),
        ("45", 1.0, False),
        ("4n5Y", 0.6, False),
        *((name, 1.0, False) for name in ("Li", "Kim", "Ng", "Ax", "RL")),
    ],
)
def test_a_misread_number_between_two_of_an_axis_is_one_and_no_age_or_name_is(
    words: str, sure: float, stays: bool
) -> None:
    rows = (("60", 1.0, 40), ("50", 1.0, 100), (words, sure, 160), ("30", 1.0, 220), ("LEE", 1.0, 310))
    column = [
        replace(text(one, (300, top, 324, top + 18)), meaning=IDENTITY, line=Line(one, how, legible=True))
        for one, how, top in rows
    ]
    assert [one.meaning is Meaning.SCALE for one in as_scales(column, mask_of([], (400, 400)))] == [
        True,
        True,
        stays,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("limits", "stay"), [(("62.5", "62.5"), True), (("0", "30"), True), (("20", "30"), False)]
)
def test_numbers_at_both_ends_of_a_bar_are_its_limits_if_they_are_equal_or_one_is_zero(
    limits: tuple[str, str], stay: bool
) -> None:
    bar = mask_of([(305, 60, 318, 216)], (400, 400))
    boxes = [(300, 40, 324, 58), (300, 220, 324, 238)]
    ends = [replace(text(number, box), meaning=IDENTITY) for number, box in zip(limits, boxes, strict=True)]
    assert (Meaning.SCALE in meanings(as_scales(ends, bar))) is stay
