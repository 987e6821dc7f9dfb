"""Lines of letters too small for any reader: the picture is withheld, and never called verified."""

import cv2
import numpy as np
import pytest

from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.decide.tiny import tiny_lines, tiny_rows
from ai_pipeline.burnin.find.annotation import Picture
from ai_pipeline.burnin.find.text import shared_reader
from ai_pipeline.errors import CleaningFailed
from tests.unit.ai_pipeline.phantoms import ArrayImage, burn, echo, silent
from tests.unit.heads import drawn_head

HEAD_LINE = "NGUYEN THI HOA 24.04.2019 16:43:32"


def screen(
    words: str = HEAD_LINE, shrunk: float = 0.5, at: tuple[int, int] = (40, 8), level: int = 255
) -> Picture:
    """A screen whose head line has letters of nine pixels, saved at a part of its size."""
    ground = np.maximum(np.pad(echo(1, (700, 1200)), ((40, 0), (0, 0))), 14)
    large = burn(np.asarray(ground, np.uint8), words, at, level, 13)
    return np.asarray(cv2.resize(large, None, fx=shrunk, fy=shrunk, interpolation=cv2.INTER_AREA))


def nothing(picture: Picture) -> np.ndarray:
    return np.zeros(picture.shape[:2], np.bool_)


@pytest.mark.parametrize("shrunk", [0.7, 0.6, 0.5, 0.45])
@pytest.mark.parametrize("at", [(40, 8), (300, 420)], ids=["above the image", "in it"])
def test_a_line_of_tiny_letters_is_seen(shrunk: float, at: tuple[int, int]) -> None:
    picture = screen(shrunk=shrunk, at=at)
    [row, *_] = tiny_lines(picture, nothing(picture), shared_reader())
    assert at[1] * shrunk - 3 <= row[1] < row[3] <= (at[1] + 16) * shrunk + 3


def test_what_is_explained_is_no_such_line() -> None:
    picture = screen()
    known = nothing(picture)
    known[:16] = True
    assert tiny_lines(picture, known, shared_reader()) == []


def test_tissue_and_ticks_at_equal_distances_are_none() -> None:
    picture = screen("")
    picture[8:13, 100:400:6] = 255
    assert tiny_rows(picture[:16], nothing(picture)[:16]) == []
    assert tiny_lines(picture, nothing(picture), shared_reader()) == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_bright_edge_of_bone_with_speckle_is_none(dark: bool) -> None:
    picture, _ = drawn_head()
    seen = np.subtract(255, picture, dtype=np.uint8) if dark else picture
    assert tiny_rows(seen, nothing(seen)) == []


@pytest.mark.parametrize(("frames", "shrunk", "level"), [(1, 0.45, 255), (1, 0.5, 150), (2, 0.45, 255)])
def test_a_picture_on_which_such_a_line_stays_is_withheld(frames: int, shrunk: float, level: int) -> None:
    image = ArrayImage(np.stack([screen(shrunk=shrunk, level=level)] * frames))
    with pytest.raises(CleaningFailed, match="letters too small to be read") as refusal:
        clean(image, silent)
    assert refusal.value.places


def with_dotted_line(climb: int) -> Picture:
    """Tissue with a dotted line between two calipers, which climbs by so many pixels."""
    picture = screen("")
    for part in range(0, 110, 4):
        column, row = 250 + part, 170 + round(climb * part / 110)
        cv2.rectangle(picture, (column, row), (column + 1, row + 1), 230, -1)
    for column, row in ((244, 170), (364, 170 + climb)):
        cv2.drawMarker(picture, (column, row), 255, cv2.MARKER_DIAMOND, 9)
    return picture


@pytest.mark.parametrize("climb", [-9, -7, -5, 5, 7, 9])
def test_a_dotted_line_between_calipers_is_none(climb: int) -> None:
    picture = with_dotted_line(climb)
    assert tiny_lines(picture, nothing(picture), shared_reader()) == []


@pytest.mark.parametrize("climb", [-3, 3])
def test_letters_that_climb_a_little_are_a_line(climb: int) -> None:
    picture = screen()
    turned = cv2.getRotationMatrix2D((300, 20), float(np.rad2deg(np.arctan(climb / 130))), 1.0)
    slanted = np.asarray(cv2.warpAffine(picture, turned, picture.shape[::-1]))
    assert tiny_lines(slanted, nothing(slanted), shared_reader())
