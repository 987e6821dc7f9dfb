"""How a place that may hold text is read."""

from dataclasses import replace
from unittest.mock import Mock

import cv2
import numpy as np
import pytest

from ai_pipeline.burnin.decide.candidates import FAINT, Candidate
from ai_pipeline.burnin.decide.meaning import NOTHING_MORE
from ai_pipeline.burnin.decide.texts import NOTHING_READ
from ai_pipeline.burnin.decide.writing import find_texts
from ai_pipeline.burnin.find.annotation import Box, Picture, box_around, mask_of
from ai_pipeline.burnin.find.networks import Line
from ai_pipeline.burnin.find.text import TextBox, shared_reader
from ai_pipeline.burnin.find.traces import no_waves
from ai_pipeline.contract import Meaning
from tests.unit.ai_pipeline.burnin.cleaning_lab import ACOUSTIC, IDENTITY
from tests.unit.ai_pipeline.burnin.texts_lab import box, line
from tests.unit.ai_pipeline.phantoms import burn, echo, noise

PICTURE = np.zeros((100, 120), np.uint8)


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
    text = Candidate(PICTURE, box(20, 30, 80, 39), flow).text(reader)
    return text.line.text, text.small.text, text.meaning


def test_what_the_reader_of_small_letters_proves_is_read_once_but_in_a_spectrum_it_proves_nothing() -> None:
    reader = Reader(line("Gn -1.4"), line("Kim"))
    assert judged(reader) == ("Gn -1.4", "Gn -1.4", ACOUSTIC)
    assert reader.asked == 0
    assert judged(reader, flow=1.0)[2] is IDENTITY


@pytest.mark.parametrize("small", [line("Kim"), line("Gn -1.4", 0.4), line("On -1.4"), NOTHING_READ])
@pytest.mark.parametrize(("large", "meaning"), [(line("Gn -1.4"), ACOUSTIC), (line("Kim"), IDENTITY)])
def test_what_it_does_not_prove_is_judged_by_rapidocr(small: Line, large: Line, meaning: Meaning) -> None:
    reader = Reader(small, large)
    assert judged(reader) == (large.text, small.text, meaning)
    assert reader.asked == 1


def test_a_reader_of_small_letters_is_given_rows_and_columns_of_pixels_of_a_nearly_level_line() -> None:
    small = Mock()
    small.read.return_value = line("Gn")
    reader = shared_reader().beside(small)
    picture = noise(PICTURE.shape)
    assert {
        reader.read_small(picture, place).text
        for place in (box(20, 30, 80, 40, slope=1.0), box(20, 30, 80, 40, slope=20.0), box(20, 10, 30, 70))
    } == {"Gn"}
    level, sloping, upright = (call.args[0] for call in small.read.mock_calls)
    assert np.array_equal(level, picture[30:41, 20:80])
    assert (sloping.shape[:2], upright.shape[:2]) == ((10, 63), (10, 60))  # each along its line
    assert not shared_reader().read_small(picture, box(20, 30, 80, 40)).legible  # it has none


@pytest.mark.parametrize("known", [False, True])
def test_a_name_in_a_box_of_two_lines_is_read_by_itself_and_a_setting_where_all_would_go(known: bool) -> None:
    class Page(Reader):
        def find(self, _view: Picture, scale: float = 1.0, within: Box | None = None) -> list[TextBox]:
            boxes = (box(20, 20, 80, 40), box(20, 31, 80, 40)) if scale == 1.0 and within is None else ()
            return [replace(one, confidence=0.4) for one in boxes]

        def find_upright(self, *_: object) -> list[TextBox]:
            return []

        def read(self, _view: Picture, box: TextBox, _least: int) -> Line:
            return line("Gn -1.4" if box.height > 15 else "Kim")

    reader = Page(NOTHING_READ, NOTHING_READ)
    assert [
        (text.line.text, text.meaning)
        for text in find_texts(PICTURE, reader, np.full(PICTURE.shape, known), no_waves(PICTURE.shape))
    ] == [
        ("Gn -1.4", ACOUSTIC),
        ("Kim", IDENTITY),
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
    place = Candidate(
        np.zeros((200, 120), np.uint8),
        TextBox(np.array([(40, rows[0]), (40, rows[1]), (30, rows[1]), (30, rows[0])], np.float32), 0.9),
        0.0,
    )
    left, top, right, bottom = place.followed(Letters(NOTHING_READ, NOTHING_READ)).box.box
    assert (left, right) == (30, 40)
    assert top <= 30
    assert 110 <= bottom <= 150


@pytest.mark.parametrize("words", ["OKAFOR^LINA", "MRN 77120"])
@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("turns", [1, 3])
def test_a_small_upright_line_inside_an_ellipse_is_found(words: str, size: int, turns: int) -> None:
    """Of which enhanced contrast leaves nothing."""
    tissue = np.ascontiguousarray(np.rot90(echo(3, (230, 240)), -turns))
    written = burn(tissue, words, (90, 110), 200, size)
    left, top, right, bottom = box_around(np.rot90(written != tissue, turns), 0)
    picture = cv2.ellipse(
        np.ascontiguousarray(np.rot90(written, turns)), (115, 120), (60, 45), 0, 0, 360, 170, 1
    )
    found = mask_of([box.box for box in shared_reader().find_upright(picture, FAINT)], picture.shape)
    assert found[top:bottom, left:right].any(axis=1).mean() > 0.9


@pytest.mark.parametrize("turns", [1, 3])
def test_an_upright_line_is_read_the_way_that_is_surer(turns: int) -> None:
    page = np.rot90(burn(np.zeros((120, 200), np.uint8), "HANSEN^PETRA", (40, 50), 255, 20), turns).copy()
    (place,) = shared_reader().find_upright(page)
    assert place.is_upright
    for corners in (place.corners, np.roll(place.corners, 2, axis=0)):
        assert shared_reader().read(page, TextBox(corners, 0.9)).text.startswith("HANSEN")


class ReadsByPlace:
    """Reads the words that stand right of each column, where a line was written from column 100 on."""

    small = None

    def __init__(self, name: str, field: str, starts: int) -> None:
        self.name, self.field, self.starts = name, field, starts

    def read_small(self, _view: Picture, at: TextBox) -> Line:
        left, _, right, _ = at.box
        return line(
            " ".join(([self.name] * (left < self.starts - 4)) + [self.field] * (right > self.starts + 4))
        )

    def read(self, view: Picture, at: TextBox, _least: int) -> Line:
        return self.read_small(view, at)


@pytest.mark.parametrize(
    ("name", "field", "meanings"),
    [
        ("KIM MINJUN", "GA=21w0d", [IDENTITY, Meaning.MEASUREMENT]),
        ("KIM MINJUN", "DOB=1970", [IDENTITY]),
        ("KIM MINJUN", "GA 21w0d", [IDENTITY]),
        ("KIM MINJUN", "LEE=21w0d", [IDENTITY]),
    ],
)
def test_a_field_behind_a_name_stays_if_it_is_written_with_an_equals_sign_and_harmless(
    name: str, field: str, meanings: list[Meaning]
) -> None:
    before = burn(np.zeros((60, 400), np.uint8), name, (20, 20), 255, 20)
    starts = int(np.flatnonzero(before.any(axis=0))[-1]) + 10
    view = burn(before, field, (starts, 20), 255, 20)
    end = int(np.flatnonzero(view.any(axis=0))[-1]) + 2
    reader, place = ReadsByPlace(name, field, starts), Candidate(view, box(18, 18, end, 44), 0.0)
    found = place.fields(place.text(reader), reader, NOTHING_MORE)
    assert [text.meaning for text in found] == meanings
