"""Settings that the lines of their block prove."""

from itertools import product

import pytest

from ai_pipeline.burnin.decide.axes import as_scales
from ai_pipeline.burnin.decide.meaning import meaning_of
from ai_pipeline.burnin.decide.settings import by_their_block, by_their_rows
from ai_pipeline.burnin.decide.texts import Text
from ai_pipeline.burnin.decide.vocabulary import LABELS_ALSO_NAMES
from ai_pipeline.burnin.find.annotation import Box
from ai_pipeline.contract import Meaning
from tests.unit.ai_pipeline.burnin.cleaning_lab import ACOUSTIC, IDENTITY
from tests.unit.ai_pipeline.burnin.names_lab import NAMES, UNSAFE_LABELS
from tests.unit.ai_pipeline.burnin.texts_lab import block, meanings, text


@pytest.mark.parametrize(
    ("above", "below", "meaning"),
    [
        ("Har-mid", "Gn -2", ACOUSTIC),
        ("KIM", "Gn -2", IDENTITY),
        ("Har-mid", "", IDENTITY),
    ],
)
@pytest.mark.parametrize("between", ["97", "Nr 32", "B Max", "CHI", "Gain", "L/B"])
def test_what_stands_between_two_settings_is_one(
    between: str, above: str, below: str, meaning: Meaning
) -> None:
    lines = zip((above, between, below), (20, 40, 60), strict=True)
    assert by_their_block(block(*filter(all, lines)))[1].meaning is meaning


MISREAD, NO_SETTINGS = (
    ("C57M4", "CS/M4", "CB/M8", "CB/M11", "P47E3", "SRIB", "WMF 16W1", "PRF 0.3kH2", "21Hz1", "Qual nofn"),
    (
        *("EHR 45", "Sua 45", "Dru45", "MEI 3.5", "Q Low 4"),
        *("P4VE3", "100Y", "1004", "1006", "#100", "WM LOW", "WM LOW 45", "Fr. Omid", "FR AMID", "QUAN NORM"),
        *("CS M45", "Wolf Low", "Qualen M", "Quan Low", "Saul Low", "JM/4"),
        *("M 45", "F45", "Kim 4", "Ng 45", "JS", "12.03", "12/03"),
    ),
)


SURNAMES = """
    KIM Kim Lee LI Li Yu NG Ng Wu Ma Ali EVA Eva Ito Bo Jo Al An Ha Ono Ana Omar Noor Dang Thi Wang Anna
    Peng POWERS Carter Jean Åse Zoë Łuka O'Neil Mc McCoy deVries DiMaria LeRoy vanDyk Öz Ivo Gray Wall Line
    Smith J.KIM KIM,EVA Kim-Lee 김민준 李娜 Иван محمد
""".split()  # noqa: SIM905 - they are read as words
TAILS = (
    *("", " 4", " 45", ": 45", " 45Y", " 102", " 3.5", ": 7.4", " 0.80", " 3.5M", " D/0", " 3/4"),
    *(" 1/2/4", " Off", " 12.03", " 12/03/67", " 01.02.1967", " 123456", " F", " M 45", " H10.0MHz", " 50%"),
)


@pytest.mark.parametrize("front", ["", "Map ", "DR ", "D ", "MI 0.9 ", "Frame Rate 25 "])
def test_no_name_is_a_label_or_a_value(front: str) -> None:
    known = UNSAFE_LABELS | {"THI"} | {label.upper() for label in LABELS_ALSO_NAMES}
    texts = {
        f"{front}{write(name)}{tail}"
        for name in (*NAMES, *SURNAMES)
        if name.upper() not in known
        for write in (str, str.upper, str.title)
        for tail in TAILS
    }
    assert [text for text in texts if meaning_of(text, 1.0) is not IDENTITY] == []


def test_a_misread_setting_between_two_settings_is_one_and_no_name_initials_age_or_number_is() -> None:
    meanings = {
        between: by_their_block(block(("MI 0.9", 20), (between, 40), ("TIS 0.2", 60)))[1].meaning
        for between in (*NO_SETTINGS, *(name + tail for name in SURNAMES for tail in TAILS), *MISREAD)
    }
    assert [between for between, found in meanings.items() if found is not IDENTITY] == list(MISREAD)


def columns(*rows: tuple[str, str]) -> list[Text]:
    """Labels around one middle, their values around another."""
    return [
        text(words, (middle - 6 * len(words), 28 * row, middle + 6 * len(words), 28 * row + 30))
        for row, pair in enumerate(rows, start=1)
        for words, middle in zip(pair, (130, 220), strict=True)
    ]


def test_label_and_value_in_two_columns_stay_or_go_together_and_no_name_is_a_label() -> None:
    rows = (("FR", "27"), ("AO%", "100"), ("Frq", "12.0"), ("Map", "D/0"), ("D", "3.5"), ("DR", "75"))
    assert meanings(by_their_rows(columns(*rows))) == [ACOUSTIC] * 12
    for setting in (
        "F 8.5M",
        "D 7.4",
        "iClear 3",
        "iBeam",
        "F: H10.0MHz",
        "Enh 0.80",
        "Map D/0",
        "WMF 60 Hz",
    ):
        beside_a_name = by_their_block(block(("DR 60", 20), (setting, 40), ("KIM 45", 60)))
        assert [one.meaning is IDENTITY for one in beside_a_name] == [False, False, True]
    for name, value in product(SURNAMES, ("4", "45", "102", "3.5", "0.80", "D/0", "3/4", "Off", "50%")):
        assert (
            meanings(as_scales(by_their_rows(columns(*rows[:2], (name, value), *rows[4:])), []))[4:6]
            == [IDENTITY] * 2
        )


@pytest.mark.parametrize("name", ["KIM MINJUN", "01.02.", "Fr. Omid"])
@pytest.mark.parametrize("place", [(80, 40, 146, 58), (80, 75, 300, 93)])
def test_a_name_beside_an_age_or_in_another_column_proves_the_contrary(name: str, place: Box) -> None:
    lines = block(("Gn -3", 20), ("95", 40), ("DR 60", 60), left=150)
    assert by_their_block(lines)[1].meaning is ACOUSTIC
    assert by_their_block([*lines, text(name, place)])[1].meaning is IDENTITY


@pytest.mark.parametrize("between", ["95", "Edge 92", "B Low"])
@pytest.mark.parametrize(
    "lines",
    [
        ("ABDOMEN", "{}", "THYROID"),  # presets and frame counters stand beside a patient's name, too
        ("47/56", "{}", "62/73"),
        ("Gn -3", "{}", "ABDOMEN"),
        ("EF 64%", "{}", "FF3/E2"),  # a result, which may stand beside a name
        ("Gn -3", "{}", "EF 64%"),
    ],
)
def test_presets_frame_counters_and_results_prove_no_setting(between: str, lines: tuple[str, ...]) -> None:
    assert (
        by_their_block(block(*((words.format(between), 20 * n) for n, words in enumerate(lines))))[1].meaning
        is IDENTITY
    )


@pytest.mark.parametrize(("name", "meaning"), [([("KIM", 50)], IDENTITY), ([], ACOUSTIC)])
def test_a_name_within_reach_proves_the_contrary(name: list[tuple[str, int]], meaning: Meaning) -> None:
    # Boxes of close lines overlap.
    assert (
        by_their_block(block(("DR 60", 15), ("95", 30), ("Gn 10", 45), *name, high=19))[1].meaning is meaning
    )


def test_settings_below_settings_prove_what_is_a_setting_only_there() -> None:
    settings = ("Gn 60", "C 61", "FR 71", "E3/P3", "VPS 1.6", "3/3/4")
    _, *rest = lines = block(*zip(settings, range(40, 172, 22), strict=True), right=150, high=20)
    assert meanings(by_their_block(lines)) == [ACOUSTIC] * 6
    assert meanings(by_their_block(rest)) == [IDENTITY] * 5
    assert meanings(by_their_block([text("KIM MINJUN", (100, 40, 150, 60)), *rest])) == [IDENTITY] * 6
