"""Stamps of chest films: words of the table are read, other text is dropped."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from ai_pipeline.burnin.find.line_network import Line
from ai_pipeline.burnin.find.text import shared_reader
from ai_pipeline.chest import stamps
from ai_pipeline.chest.anatomy import Anatomy
from ai_pipeline.chest.stamps import Stamps, read_stamps, stamps_in, words_of
from ai_pipeline.images.coordinates import Affine
from tests.unit.chests import drawn_chest

SIDE = 640


def stamped(*texts: tuple[str, float, float], size: int = 26) -> np.ndarray:
    """A drawn chest with white words whose top left corner is at shares of its width and height."""
    image = Image.fromarray(cv2.GaussianBlur(drawn_chest(SIDE)[0], (0, 0), 3) // 2)
    for text, x, y in texts:
        font = ImageFont.load_default(size)
        ImageDraw.Draw(image).text((x * SIDE, y * SIDE), text, fill=235, font=font)
    return np.array(image)


def outlined() -> Anatomy:
    return Anatomy(drawn_chest(SIDE)[1], Affine(1.0, 0.0, 0.0, 0.0, 1.0, 0.0), None)


def read(picture: np.ndarray) -> Stamps:
    return stamps_in(picture, outlined(), shared_reader())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("AP", ("AP",)),
        ("A.P. 10:35", ("AP",)),
        ("Portable", ("PORTABLE",)),
        ("APPORTABLE", ("AP", "PORTABLE")),
        ("AP SEMI-ERECT", ("AP", "SEMIERECT")),
        ("Semi Upright", ("SEMIUPRIGHT",)),
        ("L AP", ("L", "AP")),
        ("DR ERECT", ("ERECT",)),
        ("L SMITH", ()),
        ("PITTSBURGH PA", ()),
        ("PAUL", ()),
        ("PORTABLES", ()),
        ("l", ()),
        ("", ()),
    ],
)
def test_whole_words_of_the_table_count_and_nothing_else(text: str, words: tuple[str, ...]) -> None:
    assert words_of(Line(text, 0.99, legible=True)) == words


def test_a_line_that_was_not_read_for_certain_is_none() -> None:
    assert words_of(Line("PORTABLE", 0.7, legible=True)) == ()


def test_projection_position_and_side_are_read_from_the_margins() -> None:
    found = read(
        stamped(("PORTABLE", 0.03, 0.03), ("AP", 0.9, 0.9), ("SUPINE", 0.03, 0.92), ("L", 0.93, 0.04))
    )

    assert (found.projection, found.position, found.portable, found.mirrored) == ("AP", "supine", True, False)
    assert found.is_ap
    assert found.marker is not None
    assert found.marker.letter == "L"
    assert (found.marker.x, found.marker.y) == pytest.approx((0.94, 0.07), abs=0.03)


def test_a_name_leaves_nothing() -> None:
    assert read(stamped(("SMITH JOHN", 0.03, 0.03), ("L SMITH", 0.75, 0.92))) == Stamps()


def test_words_between_the_lungs_are_not_read() -> None:
    picture = stamped(("PORTABLE", 0.4, 0.35))

    assert read(picture) == Stamps()
    assert stamps_in(picture, None, shared_reader()).portable


def test_a_mirrored_word_shows_a_mirrored_picture() -> None:
    found = read(np.ascontiguousarray(stamped(("PORTABLE", 0.03, 0.03))[:, ::-1]))

    assert found == Stamps(portable=True, mirrored=True)


def test_a_large_film_is_read_at_the_size_of_a_small_one() -> None:
    large = cv2.resize(stamped(("PORTABLE", 0.03, 0.03)), (1920, 1920), interpolation=cv2.INTER_CUBIC)

    assert stamps_in(large, None, shared_reader()).portable


@pytest.mark.parametrize(
    ("said", "is_ap"),
    [
        (Stamps(projection="AP"), True),
        (Stamps(portable=True), True),
        (Stamps(position="supine"), True),
        (Stamps(position="semi-erect"), True),
        (Stamps(position="erect"), False),
        (Stamps(projection="PA"), False),
        (Stamps(), False),
    ],
)
def test_what_was_taken_in_bed_counts_as_ap(said: Stamps, is_ap: bool) -> None:
    assert said.is_ap is is_ap


def test_a_failing_reader_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise FileNotFoundError("no such model")

    monkeypatch.setattr(stamps, "_reader", fails)

    assert read_stamps(stamped(), None) is None
    assert capfd.readouterr() == ("", "")
