"""Letters a few grey levels from the background, which no reader sees and a narrow window shows, go too."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ai_pipeline.burnin.annotation.pixels import Mask, Picture, dilated
from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.decide.mask_shape import blocks
from ai_pipeline.burnin.find.faint import faint_writing
from ai_pipeline.burnin.planning import RIM
from tests.unit.ai_pipeline.phantoms import ArrayImage, burn, echo, linear_echo, silent

PICTURES = {"convex": echo(), "linear": linear_echo()}
BACKGROUNDS = {"black": (0, 0, 0), "grey": (12, 12, 12), "blue": (18, 24, 48)}
LINES = (("Name: KIM MINJUN", (8, 4), 18), ("ID 48271935", (374, 4), 14), ("1957-08-23", (8, 30), 12))


def inked(shape: tuple[int, ...]) -> Picture:
    """How much of each pixel the letters of the lines take, 0 to 255."""
    ink: Picture = np.zeros(shape[:2], np.uint8)
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
    [*((ground, level) for ground in BACKGROUNDS for level in (1, 2, 3, 6, 12)), ("grey", -1), ("blue", -4)],
)
def test_letters_of_any_faint_level_are_found(form: str, background: str, level: int) -> None:
    picture, shown = written(form, BACKGROUNDS[background], (level, level, level))
    mask = found(picture, shown)
    letters = (picture != BACKGROUNDS[background]).any(axis=2) & ~shown
    assert letters.any() and mask[letters].all()
    assert not (mask & dilated(shown, 5)).any()


@pytest.mark.parametrize("contrast", [(0, 0, 6), (5, 0, 0), (4, 4, 0), (-6, 6, 0)])
def test_coloured_letters_are_found_in_any_channel(contrast: tuple[int, ...]) -> None:
    picture, shown = written("convex", BACKGROUNDS["blue"], contrast)
    letters = (picture != BACKGROUNDS["blue"]).any(axis=2) & ~shown
    assert found(picture, shown)[letters].all()


@pytest.mark.parametrize("quality", [75, 92])
@pytest.mark.parametrize("level", [3, 6, 12])
def test_letters_that_were_compressed_are_found(quality: int, level: int) -> None:
    picture, shown = written("convex", BACKGROUNDS["black"], (level, level, level))
    mask = found(compressed(picture, quality), shown)
    assert mask[(inked(shown.shape) >= 128) & ~shown].mean() >= 0.95


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_letters_that_8_bits_do_not_show_are_found_in_the_stored_levels(dtype: type) -> None:
    tissue = PICTURES["convex"]
    letters = (inked(tissue.shape) >= 128) & (tissue == 0)
    samples = tissue.astype(dtype) * 128 + letters.astype(dtype) * 3
    assert found(samples, tissue > 0)[letters].all()


def test_dim_tissue_beside_the_area_and_noise_are_no_letters() -> None:
    tissue = PICTURES["linear"]
    shown = tissue > 0
    noise = np.random.default_rng(4).integers(0, 6, tissue.shape)
    assert not found(np.where(shown, tissue, 0).astype(np.uint8), shown).any()
    below = np.where(dilated(shown, 61) & ~shown, noise, tissue).astype(np.uint8)
    assert not found(below, shown).any()
    everywhere = np.where(shown, tissue, noise).astype(np.uint8)
    assert found(everywhere, shown).mean() < 0.02


def test_what_compression_leaves_around_a_known_line_is_no_writing_unless_it_continues_one() -> None:
    tissue = PICTURES["linear"]
    shown = tissue > 0
    bright = burn(tissue, "Gn -2", (8, 10), 255, 18)
    known = dilated((bright > 0) & ~shown, 5)
    assert not faint_writing(compressed(bright, 85), shown, known)[0].any()
    beside = inked(tissue.shape) // 32
    continued = np.maximum(burn(tissue, "|", (60, 4), 255, 18), np.where(shown, 0, beside))
    rule = dilated((continued > 100) & ~shown, 3)
    mask, _ = faint_writing(continued, shown, rule)
    letters = (beside > 0) & ~shown & ~rule
    assert mask[letters].all() and not (mask & rule).any()


def test_a_strong_curve_among_faint_letters_stays() -> None:
    picture, shown = written("convex", BACKGROUNDS["black"], (4, 4, 4))
    curve = np.zeros(shown.shape, np.bool_)
    curve[13:15, 60:90] = True
    mask = found(np.where(curve[..., None], (0, 200, 0), picture).astype(np.uint8), shown)
    assert mask.any() and not (mask & curve).any()


def test_many_faint_lines_are_no_tissue_where_the_image_area_is_found() -> None:
    tissue = PICTURES["linear"]
    ink = np.zeros_like(tissue)
    for number, place in enumerate((x, y) for y in (2, 22, 336) for x in (4, 240)):
        ink = np.maximum(ink, burn(np.zeros_like(tissue), f"Name: KIM MINJUN {number}", place, 255, 18))
    letters = (ink >= 128) & (tissue == 0)
    cleaned = clean(ArrayImage(np.where(letters, 4, tissue).astype(np.uint8)[None]), silent)
    assert not np.asarray(cleaned.image.frames[0])[letters].any()


def test_tissue_too_dim_for_its_area_to_be_found_is_not_removed_as_writing() -> None:
    picture = echo() // 16
    cleaned = np.asarray(clean(ArrayImage(picture[None]), silent).image.frames[0])
    assert np.mean(cleaned != picture) < 0.06


def test_a_still_leaves_nothing_of_faint_lines_but_the_background() -> None:
    picture, shown = written("linear", BACKGROUNDS["blue"], (4, 4, 4))
    cleaned = clean(ArrayImage(picture[None], photometric="RGB"), silent)
    result = np.asarray(cleaned.image.frames[0])
    rim, levels = dilated(shown, 2 * round(RIM * min(shown.shape)) + 3), BACKGROUNDS["blue"]
    assert (result[~rim] == levels).all()
    assert (np.abs(result[~shown].astype(int) - levels) <= 24).all()  # filled from both sides
    assert (result != picture).any(axis=2)[shown].mean() < 0.005
    assert any(note.name == "burned_in" and "banner" in note.text for note in cleaned.notes)


def test_a_deep_still_and_a_cine_leave_nothing_of_faint_lines() -> None:
    tissue = PICTURES["linear"]
    letters = (inked(tissue.shape) >= 128) & (tissue == 0)
    deep = (tissue.astype(np.uint16) * 128 + letters * 9).astype(np.uint16)
    still = clean(ArrayImage(deep[None], bits_stored=16), silent)
    assert not np.asarray(still.image.frames[0])[tissue == 0].any()
    frames = np.stack([np.where(tissue > 0, linear_echo(seed), letters * 3) for seed in (1, 2, 3)])
    cine = clean(ArrayImage(frames.astype(np.uint8)), silent)
    assert not np.asarray(cine.image.frames)[:, tissue == 0].any()
