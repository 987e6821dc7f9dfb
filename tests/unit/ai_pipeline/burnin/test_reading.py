"""How a place is read: by two readers, which letters are proven, and which pixels are their strokes."""

from collections.abc import Callable, Sequence
from typing import cast
from unittest.mock import Mock

import numpy as np
import pytest

from ai_pipeline.burnin.decide.writing import (
    NOTHING_READ,
    OF_LONG,
    SURE_LETTERS,
    TRACED,
    Candidate,
    Text,
    are_letters,
    find_texts,
    letter_strokes,
    level_box,
    strokes_in,
)
from ai_pipeline.burnin.find.annotation import Box, Mask, Picture, dilated
from ai_pipeline.burnin.find.networks import (
    HEIGHT,
    LEGIBLE,
    NARROWEST,
    STEP,
    SYMBOLS,
    UNKNOWN,
    WIDEST,
    Line,
    LineReader,
    decoded,
    known,
    prepared,
)
from ai_pipeline.burnin.find.text import TextBox, TextReader, shared_reader
from ai_pipeline.burnin.find.traces import no_waves
from ai_pipeline.contract import Meaning
from tests.unit.ai_pipeline.phantoms import burn

PICTURE = np.zeros((100, 120), np.uint8)


def box(left: float, top: float, right: float, bottom: float, slope: float = 0.0) -> TextBox:
    corners = [(left, top), (right, top + slope), (right, bottom + slope), (left, bottom)]
    return TextBox(np.array(corners, np.float32), 0.9)


def line(words: str, confidence: float = 0.97) -> Line:
    return Line(words, confidence, legible=confidence >= 0.5)


class Reader:
    """The two readers, each with one text; ``asked`` counts how often rapidocr was."""

    def __init__(self, small: Line, large: Line) -> None:
        self.small, self.large, self.asked = small, large, 0

    def read_small(self, _view: Picture, _box: TextBox) -> Line:
        return self.small

    def read(self, _view: Picture, _box: TextBox, _least: int) -> Line:
        self.asked += 1
        return self.large


def judged(reader: Reader, flow: float = 0.0) -> tuple[str, str, Meaning]:
    text = Candidate(PICTURE, box(20, 30, 80, 39), flow).text(cast(TextReader, reader))
    return text.line.text, text.small.text, text.meaning


def test_what_the_reader_of_small_letters_proves_is_read_once_but_in_a_spectrum_it_proves_nothing() -> None:
    reader = Reader(line("Gn -1.4"), line("Kim"))
    assert judged(reader) == ("Gn -1.4", "Gn -1.4", Meaning.ACOUSTIC) and reader.asked == 0
    assert judged(reader, flow=1.0)[2] is Meaning.IDENTITY


@pytest.mark.parametrize("small", [line("Kim"), line("Gn -1.4", 0.4), line("On -1.4"), NOTHING_READ])
@pytest.mark.parametrize(
    ("large", "meaning"), [(line("Gn -1.4"), Meaning.ACOUSTIC), (line("Kim"), Meaning.IDENTITY)]
)
def test_what_it_does_not_prove_is_judged_by_rapidocr(small: Line, large: Line, meaning: Meaning) -> None:
    reader = Reader(small, large)
    assert judged(reader) == (large.text, small.text, meaning) and reader.asked == 1


def test_a_reader_of_small_letters_is_given_rows_and_columns_of_pixels_of_a_nearly_level_line() -> None:
    small = Mock()
    small.read.return_value = line("Gn")
    reader = shared_reader().beside(cast(LineReader, small))
    picture = np.random.default_rng(1).integers(0, 255, PICTURE.shape).astype(np.uint8)
    places = (box(20, 30, 80, 40, slope=1.0), box(20, 30, 80, 40, slope=20.0), box(20, 10, 30, 70))
    assert {reader.read_small(picture, place).text for place in places} == {"Gn"}
    level, sloping, upright = (call.args[0] for call in small.read.mock_calls)
    assert np.array_equal(level, picture[30:41, 20:80])
    assert (sloping.shape[:2], upright.shape[:2]) == ((10, 63), (10, 60))  # each along its line
    assert not shared_reader().read_small(picture, box(20, 30, 80, 40)).legible  # it has none


def test_a_name_in_a_box_of_two_lines_is_read_by_itself() -> None:
    class Page(Reader):
        def find(self, _view: Picture, scale: float = 1.0, within: Box | None = None) -> list[TextBox]:
            return [box(20, 20, 80, 40), box(20, 31, 80, 40)] if scale == 1.0 and within is None else []

        def find_upright(self, *_: object) -> list[TextBox]:
            return []

        def read(self, _view: Picture, box: TextBox, _least: int) -> Line:
            return line("Gn -1.4" if box.height > 15 else "Kim")

    reader, known = cast(TextReader, Page(NOTHING_READ, NOTHING_READ)), np.zeros(PICTURE.shape, np.bool_)
    found = find_texts(PICTURE, reader, known, no_waves(PICTURE.shape))
    assert [(text.line.text, text.meaning) for text in found] == [
        ("Gn -1.4", Meaning.ACOUSTIC),
        ("Kim", Meaning.IDENTITY),
    ]


@pytest.mark.parametrize("runs_up", [False, True])
@pytest.mark.parametrize("found", [(20, 60), (80, 120), (60, 90)])
def test_an_upright_line_is_followed_to_both_of_its_ends(found: tuple[int, int], runs_up: bool) -> None:
    class Letters(Reader):
        """A letter every 10 rows from row 20 to row 120; above them noise is read as one more."""

        def read(self, _view: Picture, box: TextBox, _least: int = 1) -> Line:
            _, top, _, bottom = box.box
            return line("HANSENPETRA"[: ((min(bottom, 120) - max(top, 20)) // 10)] + "I" * (top < 10))

    rows = found[::-1] if runs_up else found
    corners = [(40, rows[0]), (40, rows[1]), (30, rows[1]), (30, rows[0])]
    place = Candidate(np.zeros((200, 120), np.uint8), TextBox(np.array(corners, np.float32), 0.9), 0.0)
    left, top, right, bottom = place.followed(cast(TextReader, Letters(NOTHING_READ, NOTHING_READ))).box.box
    assert (left, right) == (30, 40) and top <= 30 and 110 <= bottom <= 150


@pytest.mark.parametrize("turns", [1, 3])
def test_an_upright_line_is_read_the_way_that_is_surer(turns: int) -> None:
    page = np.rot90(burn(np.zeros((120, 200), np.uint8), "HANSEN^PETRA", (40, 50), 255, 20), turns).copy()
    (place,) = shared_reader().find_upright(page)
    assert place.is_upright
    for corners in (place.corners, np.roll(place.corners, 2, axis=0)):
        assert shared_reader().read(page, TextBox(corners, 0.9)).text.startswith("HANSEN")


PLACE = (28, 30, 150, 56)


def text_of(large: Line = NOTHING_READ, small: Line = NOTHING_READ) -> Text:
    return Text(level_box(PLACE, 0.9), large, Meaning.IDENTITY, small)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("one", "other", "drawn", "proven"),
    [
        (NOTHING_READ, NOTHING_READ, 0.0, False),
        (NOTHING_READ, NOTHING_READ, 1.0, False),  # each witness alone
        (line("Kim", SURE_LETTERS - 0.01), NOTHING_READ, 0.0, False),
        (line("Kim", SURE_LETTERS - 0.01), NOTHING_READ, TRACED - 0.01, False),
        (line("Kim", SURE_LETTERS - 0.01), NOTHING_READ, TRACED, True),  # two of three
        (line("Ki", SURE_LETTERS - 0.01), line("Kl", SURE_LETTERS - 0.01), 0.0, True),
        (line("Ki", SURE_LETTERS - 0.01), line("K", SURE_LETTERS - 0.01), 0.0, False),  # one letter is none
        (line("K-", SURE_LETTERS - 0.01), NOTHING_READ, TRACED, False),
        (line("Kim", SURE_LETTERS), NOTHING_READ, 0.0, True),  # one that is sure
        (line("Ki", SURE_LETTERS), NOTHING_READ, 0.0, False),
        (line("Kim 198", OF_LONG), NOTHING_READ, 0.0, True),  # one that reads many letters
        (line("Kim 198", OF_LONG - 0.01), NOTHING_READ, 0.0, False),
        (line("Kim 19", SURE_LETTERS - 0.01), NOTHING_READ, 0.0, False),
        (
            line("\ufffd\ufffd\ufffd", SURE_LETTERS),
            NOTHING_READ,
            0.0,
            True,
        ),  # in a script that it does not know
        (Line("Kim", SURE_LETTERS, legible=False), NOTHING_READ, TRACED, False),
    ],
)
def test_two_of_three_witnesses_or_one_reader_that_is_sure(
    one: Line, other: Line, drawn: float, *, proven: bool, turned: bool
) -> None:
    assert are_letters(text_of(other, one) if turned else text_of(one, other), drawn) == proven


def speckle(level: int) -> Picture:
    return np.clip(np.random.default_rng(7).normal(level, level / 10, (90, 180)), 0, 255).astype(np.uint8)


def written_over(level: int, colour: int) -> tuple[Picture, Mask]:
    """A name over speckle, and the pixels of its letters."""
    burned = burn(speckle(level), "KIM MINJUN", (30, 32), colour, 18)
    return burned, np.abs(burned.astype(int) - speckle(level)) > 40


@pytest.mark.parametrize(("level", "colour"), [(0, 255), (50, 255), (120, 255), (200, 10)])
def test_strokes_are_found_over_speckle_and_pixels_beside_them_are_not(level: int, colour: int) -> None:
    picture, ink = written_over(level, colour)
    found = strokes_in(picture, level_box(PLACE, 0.9))
    assert found[ink].mean() >= 0.99
    assert (found & ~dilated(ink, 7)).sum() <= 0.02 * found.sum()  # specks of speckle


@pytest.mark.parametrize(
    "drawn",
    [np.zeros_like, lambda ink: dilated(ink, 3), lambda ink: ink & (np.arange(ink.shape[1]) < 90)],
    ids=["nothing", "all", "half"],
)
def test_all_letters_go_whatever_the_mark_network_has_drawn(drawn: Callable[[Mask], Mask]) -> None:
    picture, ink = written_over(50, 255)
    found = letter_strokes([text_of()], drawn(ink), picture, 0.15)
    assert found[ink].mean() >= 0.99 and found[drawn(ink)].all() and not (found & ~dilated(ink, 7)).any()


def test_strokes_of_other_places_are_not_taken_nor_any_beyond_the_picture() -> None:
    picture, ink = written_over(50, 255)
    elsewhere = np.zeros_like(ink)
    elsewhere[70:80, 20:60] = True
    assert not letter_strokes([text_of()], elsewhere, picture, 0.15)[elsewhere].any()
    assert not letter_strokes([], ink, picture, 0.15).any()
    assert not strokes_in(picture, level_box((400, 300, 450, 320), 0.9)).any()


def shares(outputs: Sequence[str], sure: float = 0.9) -> np.ndarray:
    """``[columns, symbols]``; "" is the blank."""
    found = np.full((len(outputs), len(SYMBOLS) + 1), (1 - sure) / len(SYMBOLS), np.float32)
    for column, symbol in enumerate(outputs):
        found[column, SYMBOLS.index(symbol) + 1 if symbol else 0] = sure
    return found


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        (["G", "G", "", "n", "n", "n"], "Gn"),
        (["1", "", "1", "1"], "11"),  # a blank parts two equal letters
        (["", "", ""], ""),
        ([" ", "G", " ", "", " ", "5", " "], "G 5"),
        ([" ", "", " "], ""),
        ([], ""),
    ],
)
def test_repeated_symbols_are_one_and_blanks_none(outputs: Sequence[str], text: str) -> None:
    assert decoded(shares(outputs)) == (text, pytest.approx(0.9 if text else 0.0))


def test_the_confidence_is_that_of_the_symbols_and_not_of_the_blanks() -> None:
    outputs = np.concatenate([shares(["G"], 0.6), shares([""] * 9, 1.0), shares(["n"], 0.8)])
    assert decoded(outputs)[1] == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("rows", "columns", "wide"),
    [(10, 50, 160), (10, 51, 164), (32, 3, NARROWEST), (3, 4000, WIDEST), (200, 400, 64)],
)
def test_a_line_is_made_32_high_and_no_wider_than_the_limit(rows: int, columns: int, wide: int) -> None:
    line = prepared(np.random.default_rng(1).integers(0, 255, (rows, columns)).astype(np.uint8))
    assert line.shape == (HEIGHT, wide) and line.dtype == np.float32 and wide % STEP == 0
    assert (line.min(), line.max()) == (-1, pytest.approx(1))


def test_dark_is_minus_one_faint_letters_stand_out_and_colour_is_its_brightest_channel() -> None:
    crop = np.full((HEIGHT, 64), 40, np.uint8)
    assert (prepared(crop) == -1).all()
    crop[:, 20:24] = 44
    assert prepared(crop).max() == pytest.approx(4 * 2 / 20 - 1)  # four levels are not made to twenty
    blue = np.stack([np.zeros_like(crop), np.zeros_like(crop), crop], axis=2)
    assert np.array_equal(prepared(blue), prepared(crop))


def reading(outputs: Sequence[str], sure: float, crop: np.ndarray) -> tuple[Line, int]:
    """What is read, and how often the network was run."""
    run = Mock(return_value={"symbols": shares(outputs, sure)[None]})
    return LineReader(run).read(crop), run.call_count


@pytest.mark.parametrize("shape", [(0, 40), (40, 0), (2, 40), (40, 2), (2, 40, 3)])
def test_an_empty_crop_holds_no_line_and_asks_no_network(shape: tuple[int, ...]) -> None:
    assert reading(["G"], 0.99, np.zeros(shape, np.uint8)) == (Line("", 0.0, legible=False), 0)


@pytest.mark.parametrize(
    ("outputs", "sure", "legible"),
    [
        (["G", "n"], LEGIBLE + 0.01, True),
        (["G", "n"], LEGIBLE - 0.01, False),
        (["-", "", "-"], 0.99, False),  # signs alone
        ([UNKNOWN, "", UNKNOWN], 0.99, True),  # letters of another script are letters
        ([""], 0.99, False),
    ],
)
def test_a_line_is_legible_with_a_letter_that_is_read_surely(
    outputs: Sequence[str], sure: float, *, legible: bool
) -> None:
    assert reading(outputs, sure, np.zeros((10, 40), np.uint8))[0].legible == legible


def test_unknown_letters_count_and_no_line_is_shown_in_a_repr() -> None:
    line = Line(known("Gn 한글 -"), 0.9, legible=True)
    assert line.text == f"Gn {UNKNOWN * 2} -" and line.letters == 4 and "Gn" not in repr(line)
