"""Texts that another reading or a text beside them explains."""

import numpy as np
import pytest

from ai_pipeline.burnin.decide.meaning import NOTHING_MORE, meaning_of
from ai_pipeline.burnin.decide.neighbours import (
    by_best_reading,
    by_their_pair,
    cut_by_the_edge,
    judged_in_its_line,
    stands_alone,
)
from ai_pipeline.burnin.find.annotation import Box
from ai_pipeline.contract import Meaning
from tests.unit.ai_pipeline.burnin.cleaning_lab import IDENTITY
from tests.unit.ai_pipeline.burnin.texts_lab import LINE, SHAPE, meanings, text
from tests.unit.ai_pipeline.phantoms import burn


def test_a_worse_reading_of_a_setting_is_a_setting() -> None:
    assert (
        meanings(by_best_reading([text("C6 / M7"), text("C6Y M7"), text("", legible=False)]))
        == [Meaning.ACOUSTIC] * 3
    )


@pytest.mark.parametrize(
    ("proven", "other", "place"),
    [
        ("45", "45Y", LINE),
        ("MI 1.2", "MI 1.2 JK", LINE),
        ("MI 1.2", "KIM MI", LINE),
        ("12.3cm", "LEE JI", LINE),
        ("D 12cm", "12.03", LINE),
        ("MI 1.2 TIS 0.4", "M 1.2", (150, 40, 240, 60)),  # beside it
    ],
)
def test_a_reading_that_says_more_or_else_is_no_second_reading(proven: str, other: str, place: Box) -> None:
    assert by_best_reading([text(proven), text(other, place)])[1].meaning is IDENTITY


@pytest.mark.parametrize(
    ("word", "beside", "stays"),
    [
        ("H", "26.7 mm", True),
        ("10", "T4.4", True),
        ("H", "SMITH", False),
        ("45", "M", False),
        ("12", "03", False),
        ("J", "KIDNEY", False),
    ],
)
def test_a_whole_setting_or_result_beside_a_letter_makes_no_initials_of_it(
    word: str, beside: str, stays: bool
) -> None:
    texts = [text(word, (180, 40, 200, 58)), text(beside, (100, 40, 165, 58))]
    assert (judged_in_its_line(texts[0], texts, NOTHING_MORE).meaning is not IDENTITY) == stays


@pytest.mark.parametrize(
    ("first", "second", "below", "stays"),
    [
        ("PRF", "2.8k", True, True),
        ("Pancreas", "TR", False, True),
        ("96", "HR", True, True),  # a rate above its label
        ("60", "KIM", True, False),
        ("STONE", "ABDOMEN", True, False),  # a name above an examination
        ("DR", "KIM", True, False),
        ("MI", "45Y", False, False),
    ],
)
def test_a_label_and_its_value_or_a_place_and_its_plane_stay_together(
    first: str, second: str, below: bool, stays: bool
) -> None:
    place = (100, 60, 150, 78) if below else (160, 40, 200, 58)
    found = meanings(by_their_pair([text(first, (100, 40, 150, 58)), text(second, place)]))
    assert (IDENTITY not in found) == stays


@pytest.mark.parametrize(
    ("words", "stays"),
    [
        *((one, True) for one in ("LT UOQ", "ROV-CY", "LT BREAST 2:00", "RT BREAST 10:00 4 CM FN", "左乳")),
        *((one, False) for one in ("LT UOQ SMITH", "SMITH-CY", "2:00", "RT BREAST SMITH 2:00", "LT LONG")),
    ],
)
def test_a_side_and_its_address_are_one_thing(words: str, stays: bool) -> None:
    assert (meaning_of(words, 1.0) is Meaning.ORIENTATION) == stays


def test_a_misplaced_reading_of_a_line_that_stays_is_dropped() -> None:
    line, half, around = (100, 40, 180, 70), (102, 55, 178, 80), (60, 10, 240, 100)
    surely = text("RT LOBE", line, confidence=0.98)
    worse = [text("RTLQBE", half, confidence=0.84), text("RTLOBE", around)]
    assert by_best_reading([surely, *worse]) == [surely]
    assert len(by_best_reading([surely, text("KIM", half), text("RT LOBE KIM", around)])) == 3


@pytest.mark.parametrize(
    ("other", "place", "alone"),
    [
        ("KIM MINJUN", (400, 400, 480, 420), True),
        ("FOOT", (190, 100, 240, 120), True),  # two places are no name
        ("HAMD", (102, 98, 178, 122), True),  # another reading
        ("10", (400, 100, 430, 120), True),  # of a ruler
        ("45", (200, 100, 230, 120), False),  # an age
        ("45Y", (100, 125, 140, 145), False),
        ("MARIA", (120, 124, 200, 144), False),
        ("12.03.67", (500, 130, 600, 150), False),
        ("KIM, A", (300, 70, 360, 90), False),
    ],
)
def test_a_part_of_the_body_stands_alone_away_from_names_dates_numbers_and_commas(
    other: str, place: Box, *, alone: bool
) -> None:
    hand = text("HAND", (100, 100, 180, 120))
    assert stands_alone(hand, [hand, text(other, place)], 600, 1.0) == alone


def test_what_stands_on_top_of_a_picture_or_near_a_name_beside_the_image_does_not_stand_alone() -> None:
    assert not stands_alone(text("HAND", (100, 20, 180, 40)), [], 600, 1.0)
    below = text("KIM MINJUN", (100, 180, 180, 200))
    assert [
        stands_alone(text("HAND", (100, 100, 180, 120)), [below], 600, apart) for apart in (1.0, 6.0)
    ] == [
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("words", "left", "column", "cut"),
    [
        ("28", 0, 0, True),
        ("RIGHT", 0, 0, True),
        ("28", 30, 0, False),
        ("28", 0, 2, False),  # of an axis
        ("MI 1.2", 0, 0, False),
    ],
)
def test_a_number_or_a_word_that_the_edge_may_cut_is_no_proof(
    words: str, left: int, column: int, *, cut: bool
) -> None:
    picture = burn(np.zeros(SHAPE, np.uint8), "HH", (left, 40), 255, 20)
    one = text(words, (left, 38, left + 30, 64))
    axis = [text(str(10 * step), (left, 38 + 40 * step, left + 30, 64 + 40 * step)) for step in (1, 2)]
    assert cut_by_the_edge(one, [one, *axis[:column]], picture) == cut
