"""Which places hold letters, and which pixels their strokes are."""

from collections.abc import Callable

import numpy as np
import pytest

from ai_pipeline.burnin.decide.layout import level_box
from ai_pipeline.burnin.decide.letters import (
    OF_LONG,
    SURE_LETTERS,
    TRACED,
    are_letters,
    frames_at,
    letter_strokes,
    strokes_in,
)
from ai_pipeline.burnin.decide.texts import NOTHING_READ, Text
from ai_pipeline.burnin.find.annotation import Mask, Picture, dilated
from ai_pipeline.burnin.find.networks import Line
from ai_pipeline.contract import Meaning
from tests.unit.ai_pipeline.burnin.texts_lab import line
from tests.unit.ai_pipeline.phantoms import burn

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
    assert found[ink].mean() >= 0.99
    assert found[drawn(ink)].all()
    assert not (found & ~dilated(ink, 7)).any()


def test_strokes_of_other_places_are_not_taken_nor_any_beyond_the_picture() -> None:
    picture, ink = written_over(50, 255)
    elsewhere = np.zeros_like(ink)
    elsewhere[70:80, 20:60] = True
    assert not letter_strokes([text_of()], elsewhere, picture, 0.15)[elsewhere].any()
    assert not letter_strokes([], ink, picture, 0.15).any()
    assert not strokes_in(picture, level_box((400, 300, 450, 320), 0.9)).any()


@pytest.mark.parametrize("level", [90, 255], ids=["faint", "bright"])
def test_the_frame_of_a_table_is_no_stroke_of_the_letters_in_it(level: int) -> None:
    picture, ink = written_over(50, 255)
    frame = np.zeros_like(ink)
    frame[26, 10:170] = frame[60, 10:170] = frame[10:90, 22] = True
    picture[frame] = level
    found = letter_strokes([text_of()], frame | ink, picture, 0.3)
    assert not found[frame].any()
    assert found[ink].mean() >= 0.99


@pytest.mark.parametrize(("end", "is_frame"), [(150, False), (170, False), (185, True)])
def test_a_line_that_ends_with_the_text_is_of_its_letters(end: int, *, is_frame: bool) -> None:
    picture = np.full((100, 240), 50, np.uint8)
    picture[54, 28:end] = 255
    assert frames_at(picture, level_box(PLACE, 0.9)).any() == is_frame


def test_a_long_stroke_of_large_letters_is_no_frame() -> None:
    picture = np.full((140, 300), 50, np.uint8)
    picture[20:110, 40:46] = picture[104:110, 40:110] = 255
    assert not frames_at(picture, level_box((30, 14, 290, 116), 0.9)).any()
