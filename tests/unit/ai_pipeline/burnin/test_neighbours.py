"""Texts that another reading or a text beside them explains."""

import pytest

from ai_pipeline.burnin.decide.meaning import NOTHING_MORE, meaning_of
from ai_pipeline.burnin.decide.neighbours import by_best_reading, by_their_pair, judged_in_its_line
from ai_pipeline.burnin.find.annotation import Box
from ai_pipeline.contract import Meaning
from tests.unit.ai_pipeline.burnin.cleaning_lab import IDENTITY
from tests.unit.ai_pipeline.burnin.texts_lab import LINE, meanings, text


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
