"""What a report says of a line that went, without its words."""

import pytest

from ai_pipeline.burnin.cleaning import counted
from ai_pipeline.burnin.decide.contents import contents_of
from ai_pipeline.burnin.decide.layout import level_box
from ai_pipeline.burnin.decide.texts import Text
from ai_pipeline.burnin.find.annotation import AnnotationKind, Mark, merged
from ai_pipeline.burnin.find.networks import Line
from ai_pipeline.contract import Meaning
from tests.unit.ai_pipeline.burnin.cleaning_lab import CALIPER, IDENTITY, TEXT

BOX = (10, 10, 110, 30)


@pytest.mark.parametrize(
    ("words", "kinds"),
    [
        ("KOWALSKA MARIA", ("possible name",)),
        ("K", ("possible name",)),
        ("1957-08-23", ("date",)),
        ("10:15:07", ("date",)),
        ("48271935", ("identifier",)),
        ("ID 48271935", ("possible name", "identifier")),
        ("KOWALSKA MARIA 23.08.1957 48271935", ("possible name", "date", "identifier")),
        ("FREQ 7.5MHz", ("setting",)),
        ("KSL 4.54 cm", ("result",)),
        ("LEFT OVARY X", ("view",)),
        ("LIVER 23.08.1957", ("view", "date")),
    ],
)
def test_a_line_that_goes_is_told_by_its_form(words: str, kinds: tuple[str, ...]) -> None:
    assert contents_of(Text(level_box(BOX, 0.9), Line(words, 0.95, legible=True), IDENTITY)) == kinds


def test_what_nobody_read_is_told_so() -> None:
    assert contents_of(Text(level_box(BOX, 0.9), Line("KIM", 0.2, legible=False), IDENTITY)) == (
        "unread text",
    )


@pytest.mark.parametrize(
    ("meaning", "kind"),
    [
        (Meaning.MEASUREMENT, "result"),
        (Meaning.ACOUSTIC, "setting"),
        (Meaning.ORIENTATION, "view"),
        (Meaning.SCALE, "scale number"),
        (Meaning.LOGO, "logo"),
    ],
)
def test_a_harmless_line_is_told_by_its_meaning(meaning: Meaning, kind: str) -> None:
    assert contents_of(Text(level_box(BOX, 0.9), Line("KIM", 0.95, legible=True), meaning)) == (kind,)


def mark(*contents: str, box: tuple[int, int, int, int] = BOX, kind: AnnotationKind = TEXT) -> Mark:
    return Mark(kind, box, 0.9, contents=contents)


def test_kinds_are_counted_and_a_name_comes_first() -> None:
    marks = [
        mark("setting"),
        mark("date"),
        mark("setting"),
        mark("possible name", "date"),
        mark(kind=CALIPER),
    ]
    assert counted(marks) == "1 possible name, 2 dates, 2 settings, 1 caliper"


def test_text_of_which_only_its_place_is_known_is_unread() -> None:
    assert counted([mark()]) == "1 unread text"


def test_marks_that_are_told_as_one_keep_all_their_kinds() -> None:
    (one,) = merged([mark("date"), mark("possible name", box=(112, 10, 180, 30))], 9)
    assert set(one.contents) == {"date", "possible name"}
