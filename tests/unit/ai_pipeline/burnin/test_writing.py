"""A place that is not proven is read once more, along rows and columns of pixels."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from ai_pipeline.burnin.annotation.pixels import Box, Picture
from ai_pipeline.burnin.decide.writing import Candidate, find_texts
from ai_pipeline.burnin.find.read_lines import Line
from ai_pipeline.burnin.find.text import TextBox, TextReader
from ai_pipeline.burnin.find.traces import no_waves
from ai_pipeline.contract import Meaning

SLOPING = np.array([(20.4, 30.6), (79.6, 30.2), (79.7, 38.3), (20.5, 38.7)], np.float32)
PICTURE = np.zeros((100, 120), np.uint8)


class Reader:
    """Reads one text along the detector's box, another along rows and columns."""

    def __init__(self, first: tuple[str, float], level: tuple[str, float]) -> None:
        self.first, self.level = first, level
        self.boxes: list[TextBox] = []

    def read(self, _view: Picture, box: TextBox, _least: int) -> Line:
        self.boxes.append(box)
        words, confidence = self.level if np.array_equal(box.corners, np.rint(box.corners)) else self.first
        return Line(words, confidence, legible=confidence >= 0.5)


def judged(reader: Reader) -> tuple[str, Meaning]:
    text = Candidate(PICTURE, TextBox(SLOPING, 0.9), 0.0).text(cast(TextReader, reader))
    assert np.array_equal(text.box.corners, SLOPING)
    return text.line.text, text.meaning


def test_a_setting_that_is_blurred_along_a_sloping_box_is_read_along_the_pixels() -> None:
    reader = Reader(("On -1.8", 0.8), ("Gn -1.8", 0.97))
    assert judged(reader) == ("Gn -1.8", Meaning.ACOUSTIC)
    assert reader.boxes[1].box == (20, 30, 80, 39)


@pytest.mark.parametrize(
    ("first", "level"),
    [
        (("Kim", 0.9), ("Gn -1.4", 0.97)),  # says something else
        (("Gn -1.4 JK", 0.9), ("Gn -1.4", 0.97)),  # says more
        (("On -1.4", 0.9), ("Gn -1.4", 0.7)),  # is unsure
        (("C 45", 0.9), ("G 45", 0.97)),  # is too short
        (("06/78", 0.9), ("66/78", 0.97)),  # has no keyword
        (("45Y", 0.9), ("45", 0.97)),  # proves a ruler's number
        (("Lt Lon", 0.9), ("Lt Lov", 0.97)),  # proves no setting
        (("", 0.3), ("Gn -1.4", 0.97)),  # nothing was read: script that the recogniser does not know
    ],
)
def test_nothing_else_is_proven_by_the_second_reading(
    first: tuple[str, float], level: tuple[str, float]
) -> None:
    assert judged(Reader(first, level)) == (first[0], Meaning.IDENTITY)


def test_what_is_proven_is_read_once() -> None:
    reader = Reader(("Gn -1.4", 0.97), ("Kim", 0.97))
    assert judged(reader)[1] is Meaning.ACOUSTIC
    assert len(reader.boxes) == 1


def test_a_name_in_a_box_of_two_lines_is_read_by_itself() -> None:
    def box(top: float, bottom: float) -> TextBox:
        return TextBox(np.array([(20, top), (80, top), (80, bottom), (20, bottom)], np.float32), 0.9)

    class Page(Reader):
        def find(self, _view: Picture, scale: float = 1.0, within: Box | None = None) -> list[TextBox]:
            return [box(20, 40), box(31, 40)] if scale == 1.0 and within is None else []

        def read(self, _view: Picture, box: TextBox, _least: int) -> Line:
            return Line("Gn -1.4" if box.height > 15 else "Kim", 0.95, legible=True)

    reader = Page(("", 0.0), ("", 0.0))
    found = find_texts(
        PICTURE, cast(TextReader, reader), np.zeros(PICTURE.shape, np.bool_), no_waves(PICTURE.shape)
    )
    assert [(text.line.text, text.meaning) for text in found] == [
        ("Gn -1.4", Meaning.ACOUSTIC),
        ("Kim", Meaning.IDENTITY),
    ]
