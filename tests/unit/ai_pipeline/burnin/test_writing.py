"""Two readers read a place: that of small letters first, and rapidocr what the first does not prove."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from ai_pipeline.burnin.annotation.pixels import Box, Picture
from ai_pipeline.burnin.decide.writing import NOTHING_READ, Candidate, find_texts
from ai_pipeline.burnin.find.line_network import Line, LineReader
from ai_pipeline.burnin.find.text import TextBox, TextReader, shared_reader
from ai_pipeline.burnin.find.traces import no_waves
from ai_pipeline.contract import Meaning

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


def test_what_the_reader_of_small_letters_proves_is_read_once() -> None:
    reader = Reader(line("Gn -1.4"), line("Kim"))
    assert judged(reader) == ("Gn -1.4", "Gn -1.4", Meaning.ACOUSTIC)
    assert reader.asked == 0


@pytest.mark.parametrize("small", [line("Kim"), line("Gn -1.4", 0.4), line("On -1.4"), NOTHING_READ])
@pytest.mark.parametrize(
    ("large", "meaning"), [(line("Gn -1.4"), Meaning.ACOUSTIC), (line("Kim"), Meaning.IDENTITY)]
)
def test_what_it_does_not_prove_is_judged_by_rapidocr(small: Line, large: Line, meaning: Meaning) -> None:
    reader = Reader(small, large)
    assert judged(reader) == (large.text, small.text, meaning)
    assert reader.asked == 1


def test_in_a_spectrum_it_proves_nothing() -> None:
    assert judged(Reader(line("Gn -1.4"), line("Kim")), flow=1.0)[2] is Meaning.IDENTITY


def test_a_reader_of_small_letters_is_given_rows_and_columns_of_pixels_of_a_nearly_level_line() -> None:
    seen: list[Picture] = []

    class Small:
        def read(self, crop: Picture) -> Line:
            seen.append(crop)
            return line("Gn")

    reader = shared_reader().beside(cast(LineReader, Small()))
    picture = np.random.default_rng(1).integers(0, 255, PICTURE.shape).astype(np.uint8)
    assert reader.read_small(picture, box(20, 30, 80, 40, slope=1.0)).text == "Gn"
    assert np.array_equal(seen[-1], picture[30:41, 20:80])
    reader.read_small(picture, box(20, 30, 80, 40, slope=20.0))
    assert seen[-1].shape[:2] == (10, 63)  # along the slope
    reader.read_small(picture, box(20, 10, 30, 70))
    assert seen[-1].shape[:2] == (10, 60)  # along the vertical line
    assert not shared_reader().read_small(picture, box(20, 30, 80, 40)).legible  # it has none


def test_a_name_in_a_box_of_two_lines_is_read_by_itself() -> None:
    class Page(Reader):
        def find(self, _view: Picture, scale: float = 1.0, within: Box | None = None) -> list[TextBox]:
            return [box(20, 20, 80, 40), box(20, 31, 80, 40)] if scale == 1.0 and within is None else []

        def find_upright(self, *_: object) -> list[TextBox]:
            return []

        def read(self, _view: Picture, box: TextBox, _least: int) -> Line:
            return line("Gn -1.4" if box.height > 15 else "Kim")

    reader = Page(NOTHING_READ, NOTHING_READ)
    found = find_texts(
        PICTURE, cast(TextReader, reader), np.zeros(PICTURE.shape, np.bool_), no_waves(PICTURE.shape)
    )
    assert [(text.line.text, text.meaning) for text in found] == [
        ("Gn -1.4", Meaning.ACOUSTIC),
        ("Kim", Meaning.IDENTITY),
    ]
