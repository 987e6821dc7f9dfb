"""Lines of coloured strokes over tissue: names in a script that no reader knows, and what is none."""

import cv2
import numpy as np
import pytest

from ai_pipeline.burnin.decide.coloured import coloured_lines
from ai_pipeline.burnin.find.annotation import Picture
from ai_pipeline.burnin.find.text import shared_reader
from ai_pipeline.burnin.find.traces import coloured
from tests.unit.ai_pipeline.phantoms import cleaned, echo, flow, rgb

Colour = tuple[int, int, int]
GREEN, YELLOW, CYAN, MAGENTA = (0, 220, 40), (255, 225, 0), (0, 225, 240), (250, 60, 250)
SCRIPT, SCRIPT_COMPLEX = cv2.FONT_HERSHEY_SCRIPT_SIMPLEX, cv2.FONT_HERSHEY_SCRIPT_COMPLEX


def bright(seed: int, size: tuple[int, int] = (300, 420)) -> Picture:
    """Tissue that is as bright as letters."""
    tissue = echo(seed, size).astype(int)
    return rgb(np.where(tissue > 0, np.clip(2 * tissue + 90, 0, 235), 0).astype(np.uint8))


def written(
    picture: Picture, text: str, at: tuple[int, int], colour: Colour, font: int, scale: float = 0.5
) -> tuple[Picture, np.ndarray]:
    """A copy with ``text`` drawn by strokes, and the mask of these."""
    drawn = picture.copy()
    cv2.putText(drawn, text, at, font, scale, colour, 1, cv2.LINE_AA)
    return drawn, (drawn != picture).any(axis=2)


def found(picture: Picture) -> list[tuple[int, int, int, int]]:
    """The lines of coloured strokes where nothing is known."""
    return coloured_lines(picture, np.zeros(picture.shape[:2], np.bool_), shared_reader())


@pytest.mark.parametrize("colour", [GREEN, YELLOW, CYAN, MAGENTA], ids=["green", "yellow", "cyan", "magenta"])
@pytest.mark.parametrize("font", [SCRIPT, SCRIPT_COMPLEX], ids=["script", "double"])
def test_a_name_in_coloured_script_over_tissue_goes(colour: Colour, font: int) -> None:
    picture, strokes = written(bright(3), "Wojcik, Agnes M.", (140, 190), colour, font)
    result, _ = cleaned(picture)
    assert coloured(result)[strokes].mean() < 0.02


def glyphs(picture: Picture, seed: int, colour: Colour) -> tuple[Picture, np.ndarray]:
    """A copy with two words in a script that nobody has, 14 pixels high, and the mask of its strokes."""
    random, drawn, left = np.random.default_rng(seed), picture.copy(), 140
    for number in range(14):
        width, corners = int(random.integers(8, 14)), int(random.integers(3, 5))
        columns, rows = left + random.integers(0, width, corners), 180 + random.integers(0, 14, corners)
        rows[:2] = 180, 193
        points = np.stack([columns, rows], axis=1).astype(np.int32)
        cv2.polylines(drawn, [points.reshape(-1, 1, 2)], False, colour, 1, cv2.LINE_AA)
        left += width + (8 if number == 6 else 3)
    return drawn, (drawn != picture).any(axis=2)


@pytest.mark.parametrize(("seed", "colour"), [(2, MAGENTA), (3, (0, 150, 30)), (4, GREEN)])
def test_a_script_that_no_reader_knows_goes(seed: int, colour: Colour) -> None:
    picture, strokes = glyphs(bright(seed), seed, colour)
    result, _ = cleaned(picture)
    assert not coloured(result)[strokes].any()


def test_only_the_strokes_of_such_a_line_are_filled() -> None:
    picture, strokes = written(bright(4), "Wojcik, Agnes M.", (140, 190), GREEN, SCRIPT)
    _, mask = cleaned(picture)
    near = cv2.dilate(strokes.astype(np.uint8), np.ones((31, 31), np.uint8)) > 0
    assert not mask[~near].any()


def test_a_coloured_line_that_is_read_and_harmless_stays() -> None:
    picture, strokes = written(bright(5), "Dist 4.5 cm", (140, 190), YELLOW, cv2.FONT_HERSHEY_SIMPLEX, 0.6)
    result, mask = cleaned(picture)
    assert not mask[strokes].any()
    assert np.array_equal(result[strokes], picture[strokes])


def test_a_grey_picture_has_none() -> None:
    grey = cv2.putText(bright(3)[..., 0].copy(), "Wojcik", (60, 140), SCRIPT, 0.5, 255)
    assert coloured_lines(grey, np.zeros(grey.shape, np.bool_), shared_reader()) == []


def test_what_is_known_is_not_found_again() -> None:
    picture, strokes = written(bright(3), "Wojcik, Agnes M.", (140, 190), GREEN, SCRIPT)
    [row] = found(picture)
    assert row[1] <= np.flatnonzero(strokes.any(axis=1)).mean() <= row[3]
    assert coloured_lines(picture, strokes, shared_reader()) == []


def crosses(picture: Picture) -> None:
    for column in range(60, 330, 38):
        cv2.drawMarker(picture, (column, 140), GREEN, cv2.MARKER_CROSS, 11)


def dots(picture: Picture) -> None:
    for angle in range(0, 360, 4):
        turned = np.deg2rad(angle)
        cv2.circle(
            picture, (round(200 + 90 * np.cos(turned)), round(150 + 30 * np.sin(turned))), 1, GREEN, -1
        )


def ruler(picture: Picture) -> None:
    for number, column in enumerate(range(40, 400, 9)):
        cv2.line(picture, (column, 140), (column, 148 if number % 5 else 154), YELLOW)


def line(picture: Picture) -> None:
    for part in range(0, 200, 8):
        cv2.line(picture, (80 + part, 140 + part // 8), (84 + part, 140 + part // 8), CYAN, 2)


@pytest.mark.parametrize("draw", [crosses, dots, ruler, line])
def test_calipers_contours_rulers_and_dashes_are_none(draw: object) -> None:
    picture = bright(6)
    assert callable(draw)
    draw(picture)
    assert found(picture) == []


def test_flow_is_none() -> None:
    picture, _ = flow(bright(7)[..., 0])
    assert found(picture) == []
