"""A line stays or goes whole; one place that was read twice is judged once."""

from __future__ import annotations

import numpy as np
import pytest

from ai_pipeline.burnin.annotation.pixels import Box, Mask
from ai_pipeline.burnin.decide.meaning import meaning_of
from ai_pipeline.burnin.decide.whole_lines import (
    around,
    by_best_reading,
    by_their_block,
)
from ai_pipeline.burnin.decide.writing import Text
from ai_pipeline.burnin.find.line_network import Line
from ai_pipeline.burnin.find.text import TextBox, paint
from ai_pipeline.contract import Meaning

SHAPE = (200, 300)
PLAIN = np.zeros(SHAPE, np.uint8)
LINE: Box = (100, 40, 180, 60)


def text(words: str, box: Box = LINE, *, confidence: float = 0.95, legible: bool = True) -> Text:
    left, top, right, bottom = box
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)
    meaning = meaning_of(words, confidence) if legible else Meaning.IDENTITY
    return Text(TextBox(corners, 0.9), Line(words, confidence, legible=legible), meaning)


def goes(meaning: Meaning) -> bool:
    return meaning is Meaning.IDENTITY


def meanings(texts: list[Text]) -> list[Meaning]:
    return [one.meaning for one in texts]


def test_a_worse_reading_of_a_setting_is_a_setting() -> None:
    found = by_best_reading([text("C6 / M7"), text("C6Y M7"), text("", legible=False)])
    assert meanings(found) == [Meaning.ACOUSTIC] * 3


@pytest.mark.parametrize(
    ("proven", "other"),
    [("45", "45Y"), ("MI 1.2", "MI 1.2 JK"), ("MI 1.2", "KIM MI"), ("12.3cm", "LEE JI"), ("D 12cm", "12.03")],
)
def test_a_reading_that_says_more_or_else_is_no_second_reading(proven: str, other: str) -> None:
    assert by_best_reading([text(proven), text(other)])[1].meaning is Meaning.IDENTITY


def test_a_name_beside_a_setting_is_no_second_reading_of_it() -> None:
    found = by_best_reading([text("MI 1.2 TIS 0.4"), text("M 1.2", (150, 40, 240, 60))])
    assert found[1].meaning is Meaning.IDENTITY


class Reader:
    """Reads one text, whatever it is shown."""

    def __init__(self, words: str) -> None:
        self.words, self.seen = words, [(0, 0, 0, 0)]

    def read(self, _picture: object, box: TextBox, _least: int = 1) -> Line:
        self.seen.append(box.box)
        return Line(self.words, 0.95, legible=True)


def drawn(*boxes: Box) -> Mask:
    mask = np.zeros(SHAPE, np.bool_)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(
    ("above", "below", "meaning"),
    [
        ("Har-mid", "Gn -2", Meaning.ACOUSTIC),
        ("KIM", "Gn -2", Meaning.IDENTITY),
        ("Har-mid", "", Meaning.IDENTITY),
    ],
)
@pytest.mark.parametrize("between", ["97", "FR 32", "P Low"])
def test_what_stands_between_two_settings_is_one(
    between: str, above: str, below: str, meaning: Meaning
) -> None:
    block = [text(above, (80, 20, 180, 38)), text(between, (150, 40, 180, 58))]
    block += [text(below, (120, 60, 180, 78))] if below else []
    assert by_their_block(block)[1].meaning is meaning


NO_SETTINGS = (
    *("C57M4", "CS/M4", "CB/M8", "CB/M11", "P47E3", "P4VE3", "100Y", "1004", "1006", "#100", "WM LOW"),
    *("WM LOW 45", "Fr. Omid", "FR AMID", "QUAN NORM", "CS M45", "Wolf Low", "Qualen M", "Quan Low"),
    *("Saul Low", "JM/4"),
)


def test_no_initials_age_or_number_between_two_settings_is_one() -> None:
    def meaning(between: str) -> Meaning:
        lines = (("Gn -3", 20), (between, 40), ("FF3/E2", 60))
        return by_their_block([text(words, (120, top, 180, top + 18)) for words, top in lines])[1].meaning

    assert [between for between in NO_SETTINGS if meaning(between) is not Meaning.IDENTITY] == []


@pytest.mark.parametrize("name", ["KIM MINJUN", "01.02.", "Fr. Omid"])
@pytest.mark.parametrize("place", [(80, 40, 146, 58), (80, 75, 300, 93)])
def test_a_name_beside_an_age_or_in_another_column_proves_the_contrary(name: str, place: Box) -> None:
    block = [
        text("Gn -3", (150, 20, 180, 38)),
        text("95", (150, 40, 180, 58)),
        text("DR 60", (150, 60, 190, 78)),
    ]
    assert by_their_block(block)[1].meaning is Meaning.ACOUSTIC
    assert by_their_block([*block, text(name, place)])[1].meaning is Meaning.IDENTITY


@pytest.mark.parametrize("between", ["95", "FR 92", "P Low"])
@pytest.mark.parametrize(
    "lines",
    [
        ("ABDOMEN", "{}", "THYROID"),  # presets and frame counters stand beside a patient's name, too
        ("47/56", "{}", "62/73"),
        ("Gn -3", "{}", "ABDOMEN"),
        ("64%", "{}", "FF3/E2"),  # a result's value, which could be a stenosis beside a name
        ("Gn -3", "{}", "64%"),
    ],
)
def test_presets_frame_counters_and_results_prove_no_setting(between: str, lines: tuple[str, ...]) -> None:
    block = [text(words.format(between), (120, 20 * n, 180, 20 * n + 18)) for n, words in enumerate(lines)]
    assert by_their_block(block)[1].meaning is Meaning.IDENTITY


def test_a_name_within_reach_proves_the_contrary() -> None:
    lines = [("Har-high", 15), ("95", 30), ("Gn 10", 45)]  # boxes of close lines overlap
    for name, count in ((("KIM", 50),), 1), ((), 0):
        block = [text(words, (100, top, 160, top + 19)) for words, top in [*lines, *name]]
        meaning = by_their_block(block)[1].meaning
        assert meaning is (Meaning.IDENTITY if count else Meaning.ACOUSTIC)


def mask_around(residue: Box, *, spare: bool, stays: Mask | None = None) -> Mask:
    line: Box = (100, 40, 180, 56)
    stays = paint([text("Gn 50", line).box], SHAPE, 0.15) if stays is None else stays
    return around([text("KIM", residue).box], [line], stays, 0.6, spare=spare)


def test_what_is_around_a_name_that_is_found_late_does_not_cut_the_line_below() -> None:
    found = mask_around((100, 22, 180, 40), spare=True)
    assert found[12:40, 100:180].all() and not found[40:56, 100:180].any()


def test_a_line_that_a_late_name_reaches_into_goes_whole() -> None:
    assert mask_around((100, 24, 180, 42), spare=True)[40:56, 100:180].all()


@pytest.mark.parametrize(
    ("residue", "spare"),
    [((100, 24, 180, 42), False), ((60, 38, 120, 58), True), ((160, 38, 260, 58), True)],
)
def test_a_line_that_a_late_name_shares_goes_whole(residue: Box, *, spare: bool) -> None:
    assert mask_around(residue, spare=spare)[40:56, 100:180].all()


def test_a_line_is_not_spared_that_does_not_stay_whole() -> None:
    part = drawn((100, 40, 180, 50))
    assert mask_around((100, 24, 180, 42), spare=True, stays=part)[40:50, 100:180].all()


def test_a_model_below_its_makers_name_is_a_logo() -> None:
    block = [text("Voluson", (20, 20, 60, 32)), text("E6", (30, 34, 50, 46)), text("E6", (200, 34, 220, 46))]
    assert meanings(by_their_block(block)) == [Meaning.LOGO, Meaning.LOGO, Meaning.IDENTITY]


def test_settings_below_settings_prove_what_is_a_setting_only_there() -> None:
    block = [
        text("Gn 60", (100, 40, 150, 60)),
        text("C 61", (100, 62, 150, 82)),
        text("3/3/4", (100, 84, 150, 104)),
    ]
    assert meanings(by_their_block(block)) == [Meaning.ACOUSTIC] * 3
    assert meanings(by_their_block(block[2:])) == [Meaning.IDENTITY]
    below_a_name = [text("KIM MINJUN", (100, 40, 150, 60)), *block[1:]]
    assert meanings(by_their_block(below_a_name)) == [Meaning.IDENTITY] * 3
