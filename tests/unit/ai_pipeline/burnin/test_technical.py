"""What the header says of the machine's settings stays in the picture, and no name with it."""

import pytest

from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.decide.meaning import Allowed, meaning_of
from ai_pipeline.burnin.decide.technical import is_technical
from ai_pipeline.contract import Meaning
from tests.unit.ai_pipeline.burnin.cleaning_lab import ACOUSTIC, IDENTITY
from tests.unit.ai_pipeline.burnin.names_lab import NAMES
from tests.unit.ai_pipeline.phantoms import ArrayImage, burn, echo, image_header, silent

STATED = ("4VC-D", "Small Parts Thyroid", "LOGIQ E10", "Affiniti 70", "1.12", "16.3", "E10")
ALLOWED = Allowed.from_options([], "remove", image_header(technical=STATED))


@pytest.mark.parametrize("value", STATED)
def test_a_value_of_a_technical_form_or_of_words_of_the_field_counts(value: str) -> None:
    assert is_technical(value)


@pytest.mark.parametrize(
    "value",
    [
        *("Smith", "SMITH C5-1", "Thyroid Smith", "Dr. Huber", "Station Nord", "Small", "Long", "Edge"),
        *("M45", "F072", "45Y", "45", "Thyroid 45", "12.03.1967", "20260107", "10:32", "", "-", "SMITH1"),
        *("JONES45", "A4711", "Smith/E10", "C5-1 LI1", "Philips 67", "Ge 45", "Lov", "Thyroid M B"),
    ],
)
def test_what_may_be_a_name_an_age_or_a_date_does_not_count(value: str) -> None:
    assert not is_technical(value)


def test_a_name_on_both_sides_of_a_setting_is_not_proven_by_the_other_side() -> None:
    assert meaning_of("LONG E10 KIDNEY", 0.97, ALLOWED) is IDENTITY


def test_no_name_counts_whatever_stands_beside_it() -> None:
    ways = [
        f"{first}{name}{last}"
        for name in NAMES
        for first in ("", "C5-1 ", "LOGIQ ")
        for last in ("", " 5", "45")
    ]
    assert [way for way in ways if is_technical(way)] == []


@pytest.mark.parametrize(
    "text",
    [
        "4VC-D",
        "4vc-d",
        "SMALL PARTS THYROID",
        "SmallParts Thyroid",
        "Affiniti 70",
        "1.12",
        "E10 MI 0.9",
        "4VC-D, 16.3 cm",
        "LOGIQ E10",
    ],
)
def test_a_stated_setting_stays(text: str) -> None:
    assert meaning_of(text, 0.97, ALLOWED) is ACOUSTIC


@pytest.mark.parametrize(
    "text",
    [
        "4VC-D SMITH",
        "SMITH E10",
        "XE10",
        "E10Y",
        "E100",
        "1.12 12 67",
        "1.12.67",
        "11.12",
        "Affiniti 70 45",
        "E10 J D",
        "4VC-D 45",
        "Affiniti",
        "LOGIQ E10 12.03.1967",
        "SMITH1.12",
    ],
)
def test_beside_a_stated_setting_the_rest_has_to_be_proven(text: str) -> None:
    assert meaning_of(text, 0.97, ALLOWED) is IDENTITY


@pytest.mark.parametrize("text", ["4VC-D", "Affiniti 70", "1.12"])
def test_without_the_header_they_go(text: str) -> None:
    assert meaning_of(text, 0.97) is IDENTITY


def test_a_stated_setting_has_to_be_read_surely() -> None:
    assert meaning_of("4VC-D", 0.7, ALLOWED) is IDENTITY


def test_in_a_picture_the_stated_transducer_stays_and_a_typed_name_goes() -> None:
    picture = burn(burn(echo(), "SMITH", (10, 8), 255, 18), "4VC-D", (400, 40), 255, 18)
    header = image_header(technical=("SMITH", "4VC-D"))
    result = clean(
        ArrayImage(picture[None], like=header), silent, allowed=Allowed.from_options([], "remove", header)
    )
    removed = {reading.text: reading.removed for reading in result.readings}
    assert removed == {"SMITH": True, "4VC-D": False}
    assert Meaning.ACOUSTIC in {reading.meaning for reading in result.readings}
