"""What a site lets stay besides: its own words, the date of the examination; a name beside them goes."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from ai_pipeline.burnin.card import UltrasoundOptions
from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.decide.allowed import Allowed
from ai_pipeline.burnin.decide.meaning import meaning_of
from ai_pipeline.contract import Meaning
from tests.unit.ai_pipeline.phantoms import ArrayImage, burn, echo, image_header, silent

HEADER = image_header(
    age_years=40.0,
    attributes={"StudyDate": "20260107", "AcquisitionDate": "20260108", "ContentDate": "x"},
)
ALLOWED = Allowed.from_options(["R-CY", "rt3"], "keep", HEADER)


STAYS = (
    "07.01.2026", "7/1/26", "01/07/2026", "2026-01-07", "20260107", "07-Jan-2026", "Jan 7, 2026",
    "08 JANUARY 2026 10:32:11", "07.01.2026 10:32", "10:32:11 AM", "R-CY", "r-cy:", "RT3", "R-CY 5.2 cm",
    "rt3 LONG LIVER",
)  # fmt: skip
GOES = (
    "09.01.2026", "07.01.1956", "07.01.2026 09.03.1941", "R-CY SMITH", "DOB 07.01.2026", "107.01.20263",
    "20260107123", "SMITH 10:32", "4071-R-CY", "26:61",
    "20260107-12", "20260107 45", "2026-01-07-12", "20260107.12", "A20260107", "20260107 B",
    "20260107 12/56", "07.01.2026 10:32 45", "D 20260107-12",
)  # fmt: skip


def test_what_is_allowed_stays() -> None:
    assert [text for text in STAYS if meaning_of(text, 0.99, ALLOWED) is Meaning.IDENTITY] == []


def test_what_stands_beside_it_or_looks_like_it_goes() -> None:
    assert [text for text in GOES if meaning_of(text, 0.99, ALLOWED) is not Meaning.IDENTITY] == []


def test_without_the_options_all_of_it_goes() -> None:
    texts = ("07.01.2026", "10:32:11", "R-CY", "RT3")
    assert [text for text in texts if meaning_of(text, 0.99) is not Meaning.IDENTITY] == []


def test_what_is_not_read_surely_goes_all_the_same() -> None:
    assert meaning_of("R-CY", 0.8, ALLOWED) is Meaning.IDENTITY


def test_dates_are_those_of_the_header_and_none_of_a_newborn() -> None:
    assert ALLOWED.dates == {date(2026, 1, 7), date(2026, 1, 8)}
    assert Allowed.from_options([], "keep", replace(HEADER, age_years=0.0)).dates == frozenset()
    assert Allowed.from_options([], "keep", replace(HEADER, age_years=None)).dates == frozenset()
    assert Allowed.from_options([], "remove", HEADER) == Allowed()


@pytest.mark.parametrize(
    ("options", "option", "remedy"),
    [
        ({"dates": "yes"}, "dates", "must be remove or keep"),
        ({"keep_words": "R-CY"}, "keep_words", "must be a list of words"),
        ({"keep_words": ["R CY"]}, "keep_words", "'R CY' is not one word"),
        ({"keep_words": [""]}, "keep_words", "of 1 to 24 characters"),
        ({"keep_words": ["x"] * 201}, "keep_words", "at most 200 words"),
    ],
)
def test_a_faulty_option_is_told(options: dict[str, object], option: str, remedy: str) -> None:
    assert remedy in UltrasoundOptions.faults(options)[option]


def test_under_research_nothing_stays_and_the_options_say_so() -> None:
    found = UltrasoundOptions.faults({"policy": "research", "dates": "keep", "keep_words": ["R-CY"]})
    assert sorted(found) == ["dates", "keep_words"]
    assert UltrasoundOptions.faults({"dates": "keep", "keep_words": ["R-CY"]}) == {}


def test_in_a_picture_the_date_of_the_examination_stays_and_the_name_goes() -> None:
    picture = np.repeat(echo()[..., None], 3, axis=2)
    picture = burn(picture, "KIM MINJUN 09.03.1967", (10, 8), (255, 255, 255), 18)
    picture = burn(picture, "07.01.2026 10:32:11", (250, 330), (255, 255, 255), 18)
    image = ArrayImage(picture[None], photometric="RGB")
    for allowed, stays in ((ALLOWED, True), (Allowed(), False)):
        removed = {one.text[:10]: one.removed for one in clean(image, silent, allowed=allowed).readings}
        assert removed["07.01.2026"] is not stays
        assert any("KIM" in text and gone for text, gone in removed.items())
