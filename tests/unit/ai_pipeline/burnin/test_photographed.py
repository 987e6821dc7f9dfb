"""A photographed print or screen is withheld: its lines slant, or its letters are too small."""

import math

import numpy as np
import pytest

from ai_pipeline.burnin.decide.photographed import are_tiny, slant_of
from ai_pipeline.burnin.decide.texts import Text
from ai_pipeline.burnin.find.networks import Line
from ai_pipeline.burnin.find.text import TextBox
from ai_pipeline.contract import Meaning


def line(
    degrees: float = 0.0, words: str = "KOWALSKA", *, size: tuple[float, float] = (120, 16), **how: float
) -> Text:
    """A line of this slant and size; without words nobody could read it."""
    along = np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])
    below = np.array([-along[1], along[0]])
    corners = 100 + np.stack([along * 0, along * size[0], along * size[0] + below * size[1], below * size[1]])
    box = TextBox(corners.astype(np.float32), how.get("confidence", 0.9))
    return Text(box, Line(words, 0.9, legible=bool(words)), Meaning.IDENTITY)


@pytest.mark.parametrize("degrees", [17.0, -12.0, 6.0, 40.0])
def test_the_slant_of_a_photograph_is_measured(degrees: float) -> None:
    lines = [line(degrees + more) for more in (-1.0, 0.0, 1.0)]
    assert slant_of(lines) == pytest.approx(degrees, abs=0.1)


def test_lines_along_a_vertical_do_not_slant() -> None:
    assert slant_of([line(90.0)] * 3) == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize(
    "lines",
    [
        [line(17.0)] * 2,
        [line(17.0, "KIM")] * 3,
        [line(17.0, size=(40, 16))] * 3,
        [line(17.0, "")] * 3,
        [line(-20.0), line(0.0), line(20.0)],
        [line(17.0)] * 3 + [line(0.0, size=(300, 16))] * 2,
    ],
    ids=[
        "two lines",
        "short words",
        "short boxes",
        "nobody reads them",
        "of all slants",
        "most lines are level",
    ],
)
def test_few_or_unlike_lines_show_no_slant(lines: list[Text]) -> None:
    assert slant_of(lines) == 0.0


@pytest.mark.parametrize(
    ("lines", "tiny"),
    [
        ([line(words="", size=(40, 8))] * 3, True),
        ([line(words="", size=(40, 8))] * 2, False),
        ([line(size=(40, 8))] * 3, False),
        ([line(words="", size=(40, 12))] * 3, False),
        ([line(words="", size=(20, 8))] * 3, False),
        ([line(words="", size=(40, 8), confidence=0.5)] * 3, False),
    ],
    ids=["three", "two", "read", "higher", "short", "unsure"],
)
def test_lines_too_small_for_any_reader_are_noticed(lines: list[Text], tiny: bool) -> None:
    assert are_tiny(lines) is tiny
