"""What the mark network alone takes for text goes only where a second witness confirms it."""

import cv2
import numpy as np
import pytest

from ai_pipeline.burnin.decide.texts import NOTHING_READ
from ai_pipeline.burnin.decide.witnesses import confirmed, look_like_letters
from ai_pipeline.burnin.find.annotation import Box, Mask, Picture, index_of, mask_of
from ai_pipeline.burnin.find.networks import Line
from tests.unit.ai_pipeline.burnin.cleaning_lab import Sees
from tests.unit.ai_pipeline.phantoms import KOREAN_FONT, burn

SHAPE = (200, 400)
PLACE = (20, 40, 120, 60)
BLANK: Picture = np.zeros(SHAPE, np.uint8)


class Reads(Sees):
    """Reads this line in every box."""

    def __init__(self, line: Line = NOTHING_READ) -> None:
        super().__init__(line, PLACE)


def at(*boxes: Box) -> Mask:
    return mask_of(boxes, SHAPE)


def drawn(*boxes: Box) -> Picture:
    return np.asarray(at(*boxes) * np.uint8(230), np.uint8)


def echoes() -> Picture:
    random = np.random.default_rng(1).rayleigh(40, SHAPE).astype(np.float32)
    return np.clip(cv2.GaussianBlur(random, (0, 0), 1.2), 0, 255).astype(np.uint8)


def curve() -> Picture:
    picture, places = BLANK.copy(), np.arange(20, 120)
    picture[50 + np.rint(6 * np.sin(places / 4)).astype(int), places] = 230
    return picture


WRITTEN = {
    "capitals": burn(BLANK, "KOWALSKA", (22, 40), 255, 18),
    "small letters": burn(BLANK, "kowalska maria", (22, 44), 200, 12),
    "numbers": burn(BLANK, "48271935", (22, 42), 255, 16),
    "another script": burn(BLANK, "홍길동 김민준", (22, 38), 255, 18, font_file=KOREAN_FONT),
}
DRAWN = {
    "ticks": drawn(*((left, 42, left + 2, 58) for left in range(22, 118, 10))),
    "a ruler": drawn((20, 50, 120, 52), *((left, 42, left + 2, 50) for left in range(22, 118, 10))),
    "two crosses": drawn((30, 49, 40, 51), (34, 45, 36, 55), (90, 49, 100, 51), (94, 45, 96, 55)),
    "a curve": curve(),
    "echoes": echoes(),
    "nothing": BLANK,
}


@pytest.mark.parametrize("what", WRITTEN)
def test_letters_that_nobody_reads_go_by_their_form(what: str) -> None:
    assert look_like_letters(WRITTEN[what], PLACE)
    found, doubtful = confirmed(at(PLACE), WRITTEN[what], Reads())
    assert np.array_equal(found, at(PLACE))
    assert doubtful == ()


@pytest.mark.parametrize("what", DRAWN)
def test_drawings_and_echoes_stay_and_are_listed(what: str) -> None:
    assert not look_like_letters(DRAWN[what], PLACE)
    found, doubtful = confirmed(at(PLACE), DRAWN[what], Reads())
    assert not found.any()
    assert doubtful == (PLACE,)


def test_what_a_reader_reads_goes_whatever_its_form() -> None:
    found, doubtful = confirmed(at(PLACE), DRAWN["ticks"], Reads(Line("K", 0.9, legible=True)))
    assert np.array_equal(found, at(PLACE))
    assert doubtful == ()


@pytest.mark.parametrize(
    "place",
    [(0, 40, 400, 59), (20, 40, 60, 100)],
    ids=["twenty-one of its heights wide", "higher than a line"],
)
def test_what_is_longer_or_higher_than_a_line_is_none(place: Box) -> None:
    found, _ = confirmed(at(place), BLANK, Reads(Line("KIM", 0.9, legible=True)))
    assert not found.any()


def test_of_lines_that_are_seen_as_one_high_block_each_is_judged() -> None:
    picture = burn(burn(WRITTEN["capitals"], "MARIA", (22, 64), 255, 18), "LEE", (22, 88), 255, 18)
    block = at((18, 38, 124, 110))
    found, _ = confirmed(block, picture, Reads())
    assert found[picture > 100].mean() > 0.98
    assert not found[~block].any()


def test_only_the_block_goes_not_all_of_its_box() -> None:
    slanting = at((20, 40, 60, 50), (58, 46, 120, 60))
    found, _ = confirmed(slanting, WRITTEN["capitals"], Reads(Line("KIM", 0.9, legible=True)))
    assert np.array_equal(found, slanting)
    assert not found[index_of(PLACE)].all()
