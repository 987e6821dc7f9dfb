"""Burned-in annotation of one picture: it goes, nothing else changes, and in doubt nothing leaves."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ai_pipeline.burnin.annotation.kinds import Annotation, AnnotationKind, CleaningPolicy, merged
from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.fill.inpaint import inpaint
from ai_pipeline.burnin.fill.inpainters import Classical
from ai_pipeline.burnin.find.line_network import Line
from ai_pipeline.burnin.find.text import TextBox, TextReader, shared_reader
from ai_pipeline.burnin.tools import shared_tools
from ai_pipeline.burnin.unchanged_outside import unchanged_outside
from ai_pipeline.contract import PixelArray, UltrasoundRegion
from ai_pipeline.errors import CleaningFailed
from tests.unit.ai_pipeline.phantoms import NAME, ArrayImage, Picture, burn, burned_box, echo, flow, silent


@pytest.fixture(scope="module")
def reader() -> TextReader:
    return shared_reader()


def legible(picture: Picture, reader: TextReader) -> int:
    """How many places can still be read, at two sizes."""
    return sum(
        reader.read(picture, box).legible for scale in (1.0, 0.7) for box in reader.find(picture, scale)
    )


WAYS = {
    "light on dark": (echo(), {}),
    "on tissue": (echo(), {"place": (150, 190), "size": 16}),
    "dark on light": ((255 - echo()).astype(np.uint8), {"colour": 0}),
    "upside down": (echo(), {"upside_down": True}),
    "small": (echo(), {"size": 10}),
    "large": (echo(), {"size": 34, "text": "KIM MINJUN"}),
    "faint": (echo(), {"colour": 40, "size": 20}),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_burned_name_is_gone_and_the_rest_is_untouched(way: str, reader: TextReader) -> None:
    picture, how = WAYS[way]
    burned = burn(picture, **how)
    assert legible(burned, reader) > 0 or way == "faint"
    result = clean(ArrayImage(burned[None]), silent, policy=CleaningPolicy.RESEARCH)
    cleaned, mask = np.asarray(result.image.frames[0]), result.mask.frames[0] > 0
    assert result.image.verified
    assert legible(cleaned, reader) == 0
    assert np.array_equal(cleaned[~mask], burned[~mask])
    where = burned_box(picture, burned)
    written = picture[where] != burned[where]
    assert (mask[where] & written).sum() >= 0.97 * written.sum()
    assert mask.mean() < 0.2


@pytest.mark.parametrize(
    ("dtype", "bits", "photometric"),
    [(np.uint16, 12, "MONOCHROME2"), (np.uint16, 16, "MONOCHROME1"), (np.int16, 16, "MONOCHROME2")],
)
def test_deep_grey_is_filled_in_its_own_type(
    dtype: type[np.integer], bits: int, photometric: str, reader: TextReader
) -> None:
    low = -(2 ** (bits - 1)) if np.dtype(dtype).kind == "i" else 0
    deep = (burn(echo()).astype(np.int64) * (2**bits - 1) // 255 + low).astype(dtype)
    image = ArrayImage(deep[None], modality="CR", photometric=photometric, bits_stored=bits)
    result = clean(image, silent, policy=CleaningPolicy.RESEARCH)
    mask = result.mask.frames[0] > 0
    assert result.image.frames.dtype == dtype
    assert result.image.photometric == photometric
    assert mask.any()
    assert np.array_equal(result.image.frames[0][~mask], deep[~mask])
    after = ArrayImage(np.asarray(result.image.frames), photometric=photometric, bits_stored=bits)
    assert legible(after.display(), reader) == 0


def test_a_picture_without_marks_comes_back_as_it_was(reader: TextReader) -> None:
    picture = echo(3)
    result = clean(ArrayImage(picture[None]), silent, policy=CleaningPolicy.RESEARCH)
    assert np.array_equal(result.image.frames[0], picture)
    assert result.image.verified
    assert not result.mask.frames.any()
    assert result.marks == ()
    assert [note.name for note in result.notes] == ["burned_in"]


def test_colour_flow_stays_while_calipers_go(reader: TextReader) -> None:
    colour, vessel = flow(echo())
    yellow = burn(colour, "+", (160, 120), (255, 230, 0), 20)
    yellow = burn(yellow, "+", (300, 110), (255, 230, 0), 20)
    result = clean(ArrayImage(yellow[None], photometric="RGB"), silent, policy=CleaningPolicy.RESEARCH)
    mask = result.mask.frames[0] > 0
    assert not (mask & vessel).any()
    drawn = (colour != yellow).any(axis=2)
    assert (mask & drawn).sum() >= 0.9 * drawn.sum()


def test_drawings_are_left_alone_on_an_x_ray(reader: TextReader) -> None:
    colour, _ = flow(echo())
    marked = burn(colour, "+", (160, 120), (255, 230, 0), 20)
    result = clean(
        ArrayImage(marked[None], modality="DX", photometric="RGB"), silent, policy=CleaningPolicy.RESEARCH
    )
    assert all(mark.kind is AnnotationKind.TEXT for mark in result.marks)


def test_what_lies_outside_the_ultrasound_regions_is_blacked_out(reader: TextReader) -> None:
    picture = echo()
    burned = burn(picture, NAME, (5, 3), 180, 14)
    image = ArrayImage(burned[None], regions=(UltrasoundRegion((0, 30, 480, 360)),))
    result = clean(image, silent, policy=CleaningPolicy.RESEARCH)
    assert not result.image.frames[0][:30].any()
    assert AnnotationKind.BANNER in {mark.kind for mark in result.marks}


def test_regions_that_do_not_fit_the_image_are_not_believed(reader: TextReader) -> None:
    picture = echo(4)
    image = ArrayImage(picture[None], regions=(UltrasoundRegion((0, 0, 900, 90)),))
    assert np.array_equal(clean(image, silent, policy=CleaningPolicy.RESEARCH).image.frames[0], picture)


def test_where_text_cannot_be_got_rid_of_nothing_leaves(reader: TextReader) -> None:
    class SeesText(TextReader):
        """Reads text at another place each time, as if filling never helped."""

        def __init__(self) -> None:
            self.calls = 0

        def find(self, picture: Picture, scale: float = 1.0, within: object = None) -> list[TextBox]:
            self.calls += 1
            top = 10.0 + 20 * (self.calls % 15)
            corners = np.array([[10, top], [60, top], [60, top + 9], [10, top + 9]], np.float32)
            return [TextBox(corners, 0.9)]

        def read(self, picture: Picture, box: TextBox, least: int = 1) -> Line:
            return Line("KIM MINJUN", 0.99, legible=True)

    stubborn = replace(shared_tools(), reader=SeesText())
    with pytest.raises(CleaningFailed, match="still found"):
        clean(ArrayImage(echo()[None]), silent, tools=stubborn)


@pytest.mark.debian("tesseract-ocr")
def test_a_second_engine_reads_nothing_either(tmp_path: Path, reader: TextReader) -> None:
    burned = burn(burn(echo()), "ID 12345678", (12, 330), 255, 16)
    result = clean(ArrayImage(burned[None]), silent, policy=CleaningPolicy.RESEARCH)
    assert "12345678" in tesseract(tmp_path / "before.png", burned)
    words = tesseract(tmp_path / "after.png", np.asarray(result.image.frames[0])).split()
    assert [word for word in words if sum(c.isalnum() for c in word) >= 3] == []


def tesseract(path: Path, picture: PixelArray) -> str:
    """What tesseract reads in the picture, enlarged twice."""
    image = Image.fromarray(np.asarray(picture))
    image.resize((image.width * 2, image.height * 2)).save(path)
    program = shutil.which("tesseract")
    assert program
    return subprocess.run(
        [program, path, "-", "--psm", "11"], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_filling_keeps_type_and_every_other_pixel(dtype: type[np.generic]) -> None:
    source = (echo().astype(np.float64) * 3 - 100).astype(dtype)
    mask = np.zeros(source.shape, np.bool_)
    mask[100:140, 200:260] = True
    filled = inpaint(source, mask, Classical("navier-stokes"))
    assert unchanged_outside(source, filled, mask)
    assert not np.array_equal(source, filled)
    assert not unchanged_outside(source, inpaint(source, ~mask, Classical("navier-stokes")), mask)


def test_a_hole_in_black_beside_writing_that_stays_is_black() -> None:
    black = np.zeros((60, 200), np.uint8)
    source = burn(black, "MI 0.9", (70, 20), 255, 18)
    writing, mask = source > 0, np.zeros(source.shape, np.bool_)
    mask[15:45, 20:76] = True
    filler = Classical("navier-stokes")
    assert inpaint(source, mask, filler)[mask].max() > 20
    assert inpaint(source, mask, filler, writing)[mask].max() == 0


def test_ticks_near_each_other_are_told_as_one_ruler() -> None:
    ticks = [Annotation(AnnotationKind.MARKER, (10, y, 14, y + 2), y / 100) for y in range(0, 100, 10)]
    text = Annotation(AnnotationKind.TEXT, (12, 5, 40, 15), 0.9)
    assert merged([*ticks, text], 12) == (Annotation(AnnotationKind.MARKER, (10, 0, 14, 92), 0.9), text)
