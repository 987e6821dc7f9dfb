"""Tables of results, which no vocabulary knows."""

import pytest

from ai_pipeline.burnin.decide.results import by_their_label, by_their_table, texts_together, whole_rows
from ai_pipeline.burnin.decide.texts import Text
from ai_pipeline.burnin.find.annotation import Box
from ai_pipeline.contract import Meaning
from tests.unit.ai_pipeline.burnin.cleaning_lab import IDENTITY
from tests.unit.ai_pipeline.burnin.texts_lab import block, meanings, text

ROWS = 600
"""Of the picture."""
HIGH, PITCH = 18, 26
"""Of a line, and from line to line (pixels)."""


def lines(*words: str, top: int = 200) -> list[Text]:
    return block(*((one, top + PITCH * row) for row, one in enumerate(words)), high=HIGH)


def cell(words: str, left: int, top: int) -> Text:
    return text(words, (left, top, left + 10 * len(words), top + HIGH))


def columns(*rows: tuple[str, ...]) -> list[Text]:
    """Label, number and perhaps a unit, each in a column of its own."""
    return [
        cell(words, 100 + 90 * column, 200 + PITCH * row)
        for row, parts in enumerate(rows)
        for column, words in enumerate(parts)
    ]


def stays(texts: list[Text]) -> list[bool]:
    return [one is not IDENTITY for one in meanings(whole_rows(by_their_table(texts, ROWS)))]


@pytest.mark.parametrize(
    "rows",
    [
        ("KSL 4.54cm", "SSL 3.20cm"),
        ("Torbiel 12.5 mm", "Jajnik 4.1 cm²"),
        ("Vejiga 230 ml", "Grosor 3.4 mm", "FEVI 64%"),
        ("VTD 34 cm/s", "PMR 2.1 m/s", "Puls 72 bpm"),
        ("Mesane 97 mmHg", "KC 0.68"),
        ("KU 24.1 cm 26w3d", "FU 19.8 cm", "SSW 26w3d"),
        ("+ Jidar 4.5 cm", "x Tihal 3.1 cm"),
        ("1 Lago 4.5 cm", "2 Lago 3.1 cm"),
    ],
)
def test_a_table_of_results_stays_whatever_its_labels_are(rows: tuple[str, ...]) -> None:
    assert all(stays(lines(*rows)))


@pytest.mark.parametrize(
    "texts",
    [
        columns(("Kist", "4.54 cm"), ("Duvar", "3.2 mm"), ("Hacim", "12 ml")),
        columns(("Kist", "4.54", "cm"), ("Duvar 1", "3.2", "mm"), ("Q2", "37", "%")),
        [*lines("Kist", "4.54 cm"), *lines("Duvar", "3.2 mm", top=270)],
        [*lines("Kist 4.54 cm"), cell("Duvar 3.2 mm", 320, 200)],
        [*lines("Kist", "75 mmHg"), cell("Duvar", 260, 200), cell("3.2 mm", 260, 226)],
    ],
    ids=["columns", "units apart", "label above", "side by side", "labels above, side by side"],
)
def test_label_and_number_stay_however_they_are_laid_out(texts: list[Text]) -> None:
    assert all(stays(texts))


@pytest.mark.parametrize(
    "rows",
    [
        ("KIM 45", "LEE 52"),
        ("KIM 45 kg", "LEE 52 kg"),
        ("KIM 172 cm", "LEE 168 cm"),
        ("KIM 12.03", "LEE 04.11"),
        ("KIM 1957", "LEE 1963"),
        ("KIM, MIN 4.5 cm", "LEE^JI 3.1 cm"),
        ("KIM 4.5 cm",),
        ("KIM 4.5 cm", "KIM 45"),
        ("KIM 32w4d", "LEE 12w1d"),
    ],
)
def test_what_has_no_unit_of_measure_or_stands_alone_is_no_table(rows: tuple[str, ...]) -> None:
    assert not any(stays(lines(*rows)))


@pytest.mark.parametrize("beside", ["12.03.2026", "48271935", "10:15", "2026-03-12"])
def test_a_row_beside_a_date_a_time_or_a_number_is_a_head_line(beside: str) -> None:
    table = lines("Kist 4.5 cm", "Duvar 3.2 cm")
    assert stays([*table, cell(beside, 500, 200), cell(beside, 500, 226)])[:2] == [False, False]


@pytest.mark.parametrize(("top", "kept"), [(10, False), (200, True)])
def test_a_row_beside_a_name_is_a_head_line_at_the_top_of_the_picture(top: int, kept: bool) -> None:
    table = lines("Kist 4.5 cm", "Duvar 3.2 cm", "Hacim 9 ml", top=top)
    names = [cell("KIM MINJUN", 500, top + PITCH * row) for row in range(3)]
    assert stays([*table, *names])[:2] == [kept, kept]


def test_two_rows_alone_right_below_a_name_may_be_its_head_line() -> None:
    name, *rest = lines("KIM MINJUN", "Kist 4.5 cm", "Duvar 3.2 cm")
    assert stays([name, *rest]) == [False, False, False]
    assert stays([*lines("KIM MINJUN", "Kist 4.5 cm", "Duvar 3.2 cm", "Hacim 9 ml")]) == [
        False,
        True,
        True,
        True,
    ]


@pytest.mark.parametrize(("first", "kept"), [("KIM 32w4d", False), ("KIM 45", False), ("Kist 9 ml", True)])
def test_on_top_of_a_panel_an_age_may_be_a_persons(first: str, kept: bool) -> None:
    assert stays(lines(first, "Kist 4.5 cm", "Duvar 3.2 cm", "SSW 32w4d")) == [kept, True, True, True]


def test_another_reading_of_a_row_stays_with_it_and_a_name_across_its_rows_does_not() -> None:
    table = lines("Kist 4.5 cm", "Duvar 3.2 cm", "Hacim 9 ml")
    again, name = (
        text("Kisl 4,5", (102, 201, 178, 217)),
        text("KIM MINJUN", (100, 260, 300, 278)),
    )
    assert stays([*table, again, name]) == [True, True, True, True, False]


NUMBER, LABEL = (190, 200, 260, 218), (100, 200, 160, 218)


@pytest.mark.parametrize(
    ("label", "number", "place", "kept"),
    [
        ("Kist", "4.5 cm", LABEL, [False, False]),
        ("Dist", "4.5 cm", LABEL, [True, True]),
        ("Kist", "4.5 cm", (190, 178, 230, 196), [False, False]),  # above it
        ("KIM MINJUN", "4.5 cm", (0, 200, 30, 218), [False, True]),  # far from it
    ],
)
def test_a_number_goes_with_its_label(label: str, number: str, place: Box, kept: list[bool]) -> None:
    assert stays([text(label, place), text(number, NUMBER)]) == kept


def test_a_label_goes_with_its_number() -> None:
    assert stays([text("Dist", LABEL), text("4.5 cm", NUMBER, confidence=0.6)]) == [False, False]


def test_a_long_line_is_judged_in_no_time() -> None:
    assert not any(stays(lines("a 1 " * 14, "1.1 " * 15, "a" * 120)))


def test_the_numbers_of_an_axis_are_no_part_of_a_row() -> None:
    axis = [text("20", (190, 200, 210, 218)), text("KIM", (140, 200, 176, 218))]
    assert meanings(whole_rows(axis))[0] is Meaning.SCALE


def test_a_column_of_labels_that_is_found_as_one_high_line_is_theirs() -> None:
    column = text("DF E", (97, 196, 123, 274))
    numbers = [
        cell(words, 190, 200 + PITCH * row) for row, words in enumerate(("13.2 mm", "11.2 mm", "14.9 mm"))
    ]
    assert all(stays([column, *numbers]))
    assert all(stays([column, cell("Di", 100, 200), cell("EF", 100, 252), *numbers]))


def test_a_number_like_a_date_is_a_result_where_its_unit_stands_apart() -> None:
    assert all(stays(columns(("Kist", "20.09", "mm"), ("Duvar", "3.2", "mm"))))
    assert stays(columns(("Kist", "20.09"), ("Duvar", "3.2 mm")))[:2] == [False, False]


@pytest.mark.parametrize(
    ("words", "over_tissue", "kept"),
    [("Kist", True, True), ("kist", True, True), ("Kist", False, False), ("KIM", True, False)],
    ids=["as in the table", "in small letters", "beside the tissue", "in no table"],
)
def test_a_caliper_that_is_named_as_a_result_keeps_its_name(
    words: str, over_tissue: bool, kept: bool
) -> None:
    table = by_their_table([*lines("Kist 4.5 cm", "Duvar 3.2 cm"), cell(words, 400, 400)], ROWS)
    found = by_their_label(table, [False, False, over_tissue])
    assert [one is not IDENTITY for one in meanings(found)] == [True, True, kept]


def test_a_label_of_a_row_that_goes_proves_no_name() -> None:
    alone = [*lines("KIM 4.5 cm"), cell("KIM", 400, 400)]
    assert stays(by_their_label(alone, [True, True])) == [False, False]


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (("Kist 4.5 cm", "1628 mm", "Duvar 3.2 cm", "Hacim 9 ml"), [True, True, True, True]),
        (("1628 mm", "Kist 4.5 cm", "Duvar 3.2 cm", "Hacim 9 ml"), [False, True, True, True]),
        (("Kist 4.5 cm", "Duvar 3.2 cm", "Hacim 9 ml", "1628 mm"), [True, True, True, False]),
        (("Kist 4.5 cm", "1628", "Duvar 3.2 cm", "Hacim 9 ml"), [True, False, True, True]),
        (("Kist 4.5 cm", "16285 mm", "Duvar 3.2 cm", "Hacim 9 ml"), [True, False, True, True]),
    ],
    ids=["between two rows", "on top", "at the end", "without a unit", "of five digits"],
)
def test_a_number_that_lost_its_point_stays_between_two_rows_with_its_unit(
    words: tuple[str, ...], kept: list[bool]
) -> None:
    assert stays(lines(*words)) == kept


def test_a_number_without_a_label_belongs_to_the_unit_apart_from_it() -> None:
    number, unit = cell("16.8", 100, 200), cell("mm", 160, 200)
    assert texts_together([number, unit]) == [(number, unit)]


def test_label_number_and_unit_belong_together_once() -> None:
    row = columns(("Kist", "4.5", "cm"))
    assert texts_together(row) == [tuple(row)]


def test_a_label_above_a_table_is_not_in_it_because_a_row_was_read_in_a_high_box() -> None:
    table = lines("Kist 4.5 cm", "Duvar 3.2 cm", "Hacim 9 ml")
    again, above = text("Kist 4.5 cm", (96, 193, 184, 225)), text("KIM", (100, 176, 150, 194))
    assert stays([above, *table, again]) == [False, True, True, True, True]


def test_a_due_date_below_two_results_is_no_name_near_them() -> None:
    assert stays(lines("Kist 4.54cm", "Ord 11w2d", "VGT 24.02.2026"))[:2] == [True, True]
    assert stays(lines("Kist 4.54cm", "Ord 11w2d", "KIM 24.02.2026"))[:2] == [False, False]
