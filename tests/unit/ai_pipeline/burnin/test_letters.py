"""Which places hold proven letters, and which pixels are their strokes."""

from __future__ import annotations

import numpy as np
import pytest

from ai_pipeline.burnin.annotation.pixels import Mask, Picture, dilated
from ai_pipeline.burnin.decide.letters import OF_LONG, SURE, TRACED, are_letters, letter_strokes, strokes_in
from ai_pipeline.burnin.decide.writing import NOTHING_READ, Text, level_box
from ai_pipeline.burnin.find.line_network import Line
from ai_pipeline.contract import Meaning
from tests.unit.ai_pipeline.phantoms import burn

PLACE = (28, 30, 150, 56)


def line(words: str, confidence: float = SURE - 0.01) -> Line:
    return Line(words, confidence, legible=True)


def text(large: Line = NOTHING_READ, small: Line = NOTHING_READ) -> Text:
    return Text(level_box(PLACE, 0.9), large, Meaning.IDENTITY, small)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("one", "other", "drawn", "proven"),
    [
        (NOTHING_READ, NOTHING_READ, 0.0, False),
        (NOTHING_READ, NOTHING_READ, 1.0, False),  # each witness alone
        (line("Kim"), NOTHING_READ, 0.0, False),
        (line("Kim"), NOTHING_READ, TRACED - 0.01, False),
        (line("Kim"), NOTHING_READ, TRACED, True),  # two of three
        (line("Ki"), line("Kl"), 0.0, True),
        (line("Ki"), line("K"), 0.0, False),  # one letter is none
        (line("K-"), NOTHING_READ, TRACED, False),
        (line("Kim", SURE), NOTHING_READ, 0.0, True),  # one that is sure
        (line("Ki", SURE), NOTHING_READ, 0.0, False),
        (line("Kim 198", OF_LONG), NOTHING_READ, 0.0, True),  # one that reads many letters
        (line("Kim 198", OF_LONG - 0.01), NOTHING_READ, 0.0, False),
        (line("Kim 19"), NOTHING_READ, 0.0, False),
        (line("\ufffd\ufffd\ufffd", SURE), NOTHING_READ, 0.0, True),  # in a script that it does not know
        (Line("Kim", SURE, legible=False), NOTHING_READ, TRACED, False),
    ],
)
def test_two_of_three_witnesses_or_one_reader_that_is_sure(
    one: Line, other: Line, drawn: float, *, proven: bool, turned: bool
) -> None:
    assert are_letters(text(other, one) if turned else text(one, other), drawn) == proven


def speckle(level: int) -> Picture:
    random = np.random.default_rng(7)
    return np.clip(random.normal(level, level / 10, (90, 180)), 0, 255).astype(np.uint8)


def written(level: int, colour: int) -> tuple[Picture, Mask]:
    """A name over speckle, and the pixels of its letters."""
    burned = burn(speckle(level), "KIM MINJUN", (30, 32), colour, 18)
    return burned, np.abs(burned.astype(int) - speckle(level)) > 40


@pytest.mark.parametrize(("level", "colour"), [(0, 255), (50, 255), (120, 255), (200, 10)])
def test_strokes_are_found_over_speckle_and_pixels_beside_them_are_not(level: int, colour: int) -> None:
    picture, ink = written(level, colour)
    found = strokes_in(picture, level_box(PLACE, 0.9))
    assert found[ink].mean() >= 0.99
    assert (found & ~dilated(ink, 7)).sum() <= 0.02 * found.sum()  # specks of speckle


@pytest.mark.parametrize("drawn", ["nothing", "all", "half"])
def test_all_letters_go_whatever_the_mark_network_has_drawn(drawn: str) -> None:
    picture, ink = written(50, 255)
    strokes = {"nothing": np.zeros_like(ink), "all": dilated(ink, 3), "half": ink.copy()}[drawn]
    if drawn == "half":
        strokes[:, 90:] = False
    found = letter_strokes([text()], strokes, picture, 0.15)
    assert found[ink].mean() >= 0.99 and found[strokes].all()
    assert not (found & ~dilated(ink, 7)).any()


def test_strokes_of_other_places_are_not_taken() -> None:
    picture, ink = written(50, 255)
    elsewhere = np.zeros_like(ink)
    elsewhere[70:80, 20:60] = True
    assert not letter_strokes([text()], elsewhere, picture, 0.15)[elsewhere].any()
    assert not letter_strokes([], ink, picture, 0.15).any()


def test_a_box_beyond_the_picture_has_no_strokes() -> None:
    assert not strokes_in(speckle(50), level_box((400, 300, 450, 320), 0.9)).any()
