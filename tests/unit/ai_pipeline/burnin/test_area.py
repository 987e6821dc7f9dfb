"""The image area is found, and outside it nothing is made up: what goes takes the background's colour.

In the rim around it, in which tissue may lie too, a hole is filled from both sides.
"""

from __future__ import annotations

import numpy as np
import pytest

from ai_pipeline.burnin.annotation.pixels import Mask, Picture, dilated
from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.fill.background import with_background
from ai_pipeline.burnin.find.area import find_area, strokes
from ai_pipeline.burnin.planning import RIM
from ai_pipeline.contract import UltrasoundRegion
from tests.unit.ai_pipeline.phantoms import ArrayImage, burn, echo, linear_echo, silent

PICTURES = {"convex": echo(), "linear": linear_echo()}
PLACES = {"above": (150, 4), "beside": (2, 200), "across": (60, 150), "below": (20, 335)}
RIM_ROWS, MOST_IN_RIM = round(RIM * 360), 16
"""Width of the rim of the phantoms (pixels); what filling leaves there, at most (grey levels)."""
BACKGROUNDS = {"black": (0, 0, 0), "blue": (18, 24, 48)}


def shown(picture: Picture) -> Mask:
    """Where a phantom shows tissue."""
    return np.asarray(picture > 0, np.bool_)


def on(background: tuple[int, int, int], picture: Picture) -> Picture:
    return np.where(shown(picture)[..., None], picture[..., None], np.array(background)).astype(np.uint8)


def nothing(picture: Picture) -> Mask:
    return np.zeros(picture.shape[:2], np.bool_)


@pytest.mark.parametrize("form", PICTURES)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_the_area_is_where_tissue_is(form: str, background: str) -> None:
    picture = on(BACKGROUNDS[background], PICTURES[form])
    truth = shown(PICTURES[form])
    area = find_area(picture, nothing(picture))
    assert (area & truth).sum() >= 0.97 * truth.sum()
    assert not (area & ~dilated(truth, 7)).any()


@pytest.mark.parametrize("form", PICTURES)
@pytest.mark.parametrize("place", PLACES)
def test_outside_the_area_the_colour_is_the_background_exactly(form: str, place: str) -> None:
    background = BACKGROUNDS["blue"]
    burned = burn(on(background, PICTURES[form]), "KIM MINJUN", PLACES[place], (255, 255, 255), 18)
    result = clean(ArrayImage(burned[None], photometric="RGB"), silent)
    cleaned, mask = np.asarray(result.image.frames[0]), np.asarray(result.mask.frames[0]) > 0
    rim, outside = (~dilated(shown(PICTURES[form]), side) for side in (7, 7 + 2 * RIM_ROWS))
    assert mask.any() and np.array_equal(cleaned[~mask], burned[~mask])
    assert (cleaned[outside] == background).all()  # no structure at all, the name's included
    assert (np.abs(cleaned[rim].astype(int) - background) <= MOST_IN_RIM).all()


def test_text_across_the_border_leaves_the_border_where_it_was() -> None:
    picture = linear_echo()
    burned = burn(picture, "KIM MINJUN", (60, 150), 255, 18)
    result = clean(ArrayImage(burned[None]), silent)
    cleaned, mask = np.asarray(result.image.frames[0]), np.asarray(result.mask.frames[0]) > 0
    left = 480 // 5
    assert mask[:, : left - 3].any() and mask[:, left + 3 :].any()
    assert not cleaned[:, : left - 3 - RIM_ROWS].any() and cleaned[:, : left - 3].max() <= MOST_IN_RIM
    assert (cleaned[:, left + 3 :][mask[:, left + 3 :]] > 0).mean() > 0.95


def test_a_full_bladder_is_of_the_area_and_a_panel_is_not() -> None:
    picture = linear_echo()
    picture[150:220, 200:280] = 0
    picture[:40] = 60
    area = find_area(picture, nothing(picture))
    assert area[150:220, 200:280].all() and not area[:40].any()


def test_a_picture_without_background_is_all_area() -> None:
    tissue = linear_echo(1, (720, 960))[200:600, 240:720]
    assert find_area(tissue, nothing(tissue)).all()


def test_where_no_area_is_found_nothing_is_made_up() -> None:
    dark = burn(np.zeros((200, 300), np.uint8), "KIM MINJUN", (60, 80), 255, 18)
    assert not find_area(dark, strokes(dark)).any()
    assert not clean(ArrayImage(dark[None]), silent).image.frames.any()


def test_tissue_shows_between_the_strokes_of_letters() -> None:
    picture = linear_echo()
    burned = burn(picture, "KIM MINJUN", (110, 150), 255, 18)
    assert find_area(burned, strokes(burned))[150:170, 110:200].all()


@pytest.mark.parametrize(("region", "bounds"), [((90, 70, 390, 330), True), ((0, 0, 200, 200), False)])
def test_regions_bound_the_area_where_they_hold_the_tissue(
    region: tuple[int, int, int, int], bounds: bool
) -> None:
    picture = linear_echo()
    picture[0:60, 0:60] = linear_echo(2, (720, 960))[300:360, 450:510]  # a thumbnail
    free = find_area(picture, nothing(picture))
    area = find_area(picture, nothing(picture), (UltrasoundRegion(region),))
    assert free[20:40, 20:40].all()
    assert area[20:40, 20:40].any() != bounds and area[150, 240]


def test_the_background_beside_a_hole_is_a_panels_or_the_pictures() -> None:
    source = np.zeros((100, 200), np.uint16)
    source[:50], source[60:, 100:] = 900, np.arange(4000).reshape(40, 100)
    source[80:, :50] = 2
    mask = np.zeros(source.shape, np.bool_)
    mask[20:30, 20:60] = mask[75:85, 140:160] = mask[95:, :40] = True
    source[mask] = 4095
    filled = with_background(source, mask, ~mask, 0.0)
    assert (filled[20:30, 20:60] == 900).all()
    assert (filled[75:85, 140:160] == 900).all() and np.array_equal(filled[~mask], source[~mask])
    assert len(np.unique(filled[95:, :40])) == 1
    assert (with_background(source, mask, np.zeros_like(mask), 7.0)[mask] == 7).all()
