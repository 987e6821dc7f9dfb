"""Letters that are hardly lighter than their surroundings."""

import io

import numpy as np
import pytest
from PIL import Image

from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.decide.outline import blocks
from ai_pipeline.burnin.find.annotation import Mask, Picture, dilated
from ai_pipeline.burnin.find.area import faint_writing
from tests.unit.ai_pipeline.burnin.area_lab import BACKGROUNDS, PICTURES, RIM_ROWS
from tests.unit.ai_pipeline.phantoms import ArrayImage, burn, cleaned, echo, linear_echo, noise, parts, silent

pytestmark = pytest.mark.usefixtures("less_enlarged")

LINES = (("Name: KIM MINJUN", (8, 4), 18), ("ID 48271935", (374, 4), 14), ("1957-08-23", (8, 30), 12))


def inked(shape: tuple[int, ...]) -> Picture:
    """How much of each pixel the letters of the lines take, 0 to 255."""
    ink = np.zeros(shape[:2], np.uint8)
    for text, place, size in LINES:
        ink = np.maximum(ink, burn(np.zeros_like(ink), text, place, 255, size))
    return ink


def written(form: str, background: tuple[int, ...], contrast: tuple[int, ...]) -> tuple[Picture, Mask]:
    """A picture on a coloured background with lines of so much contrast in each channel; where tissue is."""
    tissue = PICTURES[form]
    ground = np.where((tissue > 0)[..., None], tissue[..., None], np.array(background)).astype(np.float64)
    shares = inked(tissue.shape)[..., None] / 255
    return np.clip(np.rint(ground + shares * np.array(contrast)), 0, 255).astype(np.uint8), tissue > 0


def compressed(picture: Picture, quality: int) -> Picture:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def found(picture: Picture, shown: Mask) -> Mask:
    writing, strong = faint_writing(picture, shown, np.zeros_like(shown))
    return blocks(writing) & ~strong


@pytest.mark.parametrize("form", PICTURES)
@pytest.mark.parametrize(
    ("background", "level"),
    [
        *((ground, level) for ground in BACKGROUNDS for level in (1, 2, 3, 6, 12)),
        ("grey", -1),
        ("blue", -4),
    ],
)
def test_letters_of_any_faint_level_are_found(form: str, background: str, level: int) -> None:
    picture, shown = written(form, BACKGROUNDS[background], (level, level, level))
    mask, letters = found(picture, shown), (picture != BACKGROUNDS[background]).any(axis=2) & ~shown
    assert letters.any()
    assert mask[letters].all()
    assert not (mask & dilated(shown, 5)).any()


@pytest.mark.parametrize("contrast", [(0, 0, 6), (5, 0, 0), (4, 4, 0), (-6, 6, 0)])
def test_coloured_letters_are_found_in_any_channel(contrast: tuple[int, ...]) -> None:
    picture, shown = written("convex", BACKGROUNDS["blue"], contrast)
    assert found(picture, shown)[((picture != BACKGROUNDS["blue"]).any(axis=2) & ~shown)].all()


@pytest.mark.parametrize("quality", [75, 92])
@pytest.mark.parametrize("level", [3, 6, 12])
def test_letters_that_were_compressed_are_found(quality: int, level: int) -> None:
    picture, shown = written("convex", BACKGROUNDS["black"], (level, level, level))
    assert found(compressed(picture, quality), shown)[(inked(shown.shape) >= 128) & ~shown].mean() >= 0.95


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_letters_that_8_bits_do_not_show_are_found_in_the_stored_levels(dtype: type) -> None:
    tissue = PICTURES["convex"]
    letters = (inked(tissue.shape) >= 128) & (tissue == 0)
    assert found(tissue.astype(dtype) * 128 + letters.astype(dtype) * 3, tissue > 0)[letters].all()


def test_dim_tissue_beside_the_area_and_noise_are_no_letters() -> None:
    tissue = PICTURES["linear"]
    shown, around = tissue > 0, noise(tissue.shape, 0, 6)
    assert not found(tissue, shown).any()
    assert not found(np.where(dilated(shown, 61) & ~shown, around, tissue), shown).any()
    assert found(np.where(shown, tissue, around), shown).mean() < 0.02


def test_what_compression_leaves_around_a_known_line_is_no_writing_unless_it_continues_one() -> None:
    tissue = PICTURES["linear"]
    shown, faint = tissue > 0, inked(tissue.shape) // 32
    bright = burn(tissue, "Gn -2", (8, 10), 255, 18)
    assert not faint_writing(compressed(bright, 85), shown, dilated((bright > 0) & ~shown, 5))[0].any()
    continued = np.maximum(burn(tissue, "|", (60, 4), 255, 18), np.where(shown, 0, faint))
    rule = dilated((continued > 100) & ~shown, 3)
    mask, _ = faint_writing(continued, shown, rule)
    assert mask[(faint > 0) & ~shown & ~rule].all()
    assert not (mask & rule).any()


def test_a_strong_curve_among_faint_letters_stays() -> None:
    picture, shown = written("convex", BACKGROUNDS["black"], (4, 4, 4))
    curve = np.zeros(shown.shape, np.bool_)
    curve[13:15, 60:90] = True
    mask = found(np.where(curve[..., None], (0, 200, 0), picture).astype(np.uint8), shown)
    assert mask.any()
    assert not (mask & curve).any()


def test_many_faint_lines_are_no_tissue_where_the_image_area_is_found() -> None:
    tissue, ink = PICTURES["linear"], np.zeros_like(PICTURES["linear"])
    for place in ((x, y) for y in (2, 22, 336) for x in (4, 240)):
        ink = burn(ink, "Name: KIM MINJUN", place, 255, 18)
    letters = (ink >= 128) & (tissue == 0)
    after, _ = cleaned(np.where(letters, 4, tissue).astype(np.uint8))
    assert not after[letters].any()


def test_tissue_too_dim_for_its_area_to_be_found_is_not_removed_as_writing() -> None:
    picture = echo() // 16
    assert np.mean(cleaned(picture)[0] != picture) < 0.06


def test_a_still_leaves_nothing_of_faint_lines_but_the_background() -> None:
    picture, tissue = written("linear", BACKGROUNDS["blue"], (4, 4, 4))
    result = clean(ArrayImage(picture[None]), silent)
    after, _ = parts(result)
    rim, levels = dilated(tissue, 2 * RIM_ROWS + 3), BACKGROUNDS["blue"]
    assert (after[~rim] == levels).all()
    assert (np.abs(after[~tissue].astype(int) - levels) <= 24).all()  # filled from both sides
    assert (after != picture).any(axis=2)[tissue].mean() < 0.005
    assert any(note.name == "burned_in" and "banner" in note.text for note in result.notes)


@pytest.mark.parametrize("shown_in", [(0, 1, 2, 3), (1,)], ids=["all", "one that is not sampled"])
def test_a_cine_leaves_nothing_of_faint_lines(shown_in: tuple[int, ...]) -> None:
    tissue = PICTURES["linear"] > 0
    ink = (inked(tissue.shape) >= 128) * 3
    frames = np.stack([np.where(tissue, linear_echo(at), ink * (at in shown_in)) for at in range(4)])
    assert not np.asarray(clean(ArrayImage(frames.astype(np.uint8)), silent).image.frames)[:, ~tissue].any()
