"""The image area, and the colour beside it."""

import numpy as np
import pytest

from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.find.annotation import Box, Mask, Picture, dilated
from ai_pipeline.burnin.find.area import find_area, strokes, without_panels
from ai_pipeline.burnin.tools import BackgroundFill, Holes
from ai_pipeline.contract import UltrasoundRegion
from tests.unit.ai_pipeline.burnin.area_lab import BACKGROUNDS, MOST_IN_RIM, PICTURES, RIM_ROWS, nothing
from tests.unit.ai_pipeline.burnin.texts_lab import WHITE
from tests.unit.ai_pipeline.phantoms import ArrayImage, Colour, burn, cleaned, linear_echo, noise, silent

pytestmark = pytest.mark.usefixtures("less_enlarged")


def shown(picture: Picture) -> Mask:
    """Where a phantom shows tissue."""
    return np.asarray(picture > 0, np.bool_)


def on(background: Colour, picture: Picture) -> Picture:
    return np.where(shown(picture)[..., None], picture[..., None], np.array(background)).astype(np.uint8)


@pytest.mark.parametrize("form", PICTURES)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_the_area_is_where_tissue_is(form: str, background: str) -> None:
    picture, truth = on(BACKGROUNDS[background], PICTURES[form]), shown(PICTURES[form])
    area = find_area(picture, nothing(picture))
    assert (area & truth).sum() >= 0.97 * truth.sum()
    assert not (area & ~dilated(truth, 7)).any()


@pytest.mark.parametrize(
    ("form", "place"),
    [("convex", (60, 150)), ("linear", (20, 335))],
)
def test_outside_the_area_the_colour_is_the_background_exactly(form: str, place: tuple[int, int]) -> None:
    background = BACKGROUNDS["blue"]
    burned = burn(on(background, PICTURES[form]), "KIM MINJUN", place, WHITE, 18)
    after, mask = cleaned(burned)
    rim, outside = (~dilated(shown(PICTURES[form]), side) for side in (7, 7 + 2 * RIM_ROWS))
    assert mask.any()
    assert np.array_equal(after[~mask], burned[~mask])
    assert (after[outside] == background).all()  # no structure at all, the name's included
    assert (np.abs(after[rim].astype(int) - background) <= MOST_IN_RIM).all()


def test_text_across_the_border_leaves_the_border_where_it_was() -> None:
    after, mask = cleaned(burn(linear_echo(), "KIM MINJUN", (60, 150), 255, 18))
    left = 480 // 5
    assert mask[:, : left - 3].any()
    assert mask[:, left + 3 :].any()
    assert not after[:, : left - 3 - RIM_ROWS].any()
    assert after[:, : left - 3].max() <= MOST_IN_RIM
    assert (after[:, left + 3 :][mask[:, left + 3 :]] > 0).mean() > 0.95


def test_a_full_bladder_is_of_the_area_and_a_panel_is_not() -> None:
    picture = linear_echo()
    picture[150:220, 200:280] = 0
    picture[:40] = noise((40, 480), 56, 65)  # the noise of compression
    area = without_panels(find_area(picture, nothing(picture)), picture, nothing(picture))
    assert area[150:220, 200:280].all()
    assert not area[:40].any()


def test_a_picture_without_background_is_all_area() -> None:
    tissue = linear_echo(1, (720, 960))[200:600, 240:720]
    assert find_area(tissue, nothing(tissue)).all()


def test_where_no_area_is_found_nothing_is_made_up() -> None:
    dark = burn(np.zeros((200, 300), np.uint8), "KIM MINJUN", (60, 80), 255, 18)
    assert not find_area(dark, strokes(dark)).any()
    assert not clean(ArrayImage(dark[None]), silent).image.frames.any()


def test_tissue_shows_between_the_strokes_of_letters() -> None:
    burned = burn(linear_echo(), "KIM MINJUN", (110, 150), 255, 18)
    assert find_area(burned, strokes(burned))[150:170, 110:200].all()


@pytest.mark.parametrize(("region", "bounds"), [((90, 70, 390, 330), True), ((0, 0, 200, 200), False)])
def test_regions_bound_the_area_where_they_hold_the_tissue(region: Box, bounds: bool) -> None:
    picture = linear_echo()
    picture[0:60, 0:60] = linear_echo(2, (720, 960))[300:360, 450:510]  # a thumbnail
    free = find_area(picture, nothing(picture))
    area = find_area(picture, nothing(picture), (UltrasoundRegion(region),))
    assert free[20:40, 20:40].all()
    assert area[20:40, 20:40].any() != bounds
    assert area[150, 240]


def test_the_background_beside_a_hole_is_a_panels_or_the_pictures() -> None:
    source = np.zeros((100, 200), np.uint16)
    source[:60], source[60:, 100:] = 900, np.arange(4000).reshape(100, 40).T
    source[80:, :50], source[26:50, :80] = 2, 1300
    mask = np.zeros(source.shape, np.bool_)
    mask[20:30, 20:60] = mask[75:85, 140:160] = mask[95:, :40] = True
    source[mask] = 4095
    filled = BackgroundFill(Holes.of(mask), ~mask, 0.0).fill(source)
    assert (filled[20:30, 20:60] == np.where(np.arange(20, 30) < 26, 900, 1300)[:, None]).all()
    assert (filled[75:85, 140:160] == 900).all()
    assert np.array_equal(filled[~mask], source[~mask])
    assert len(np.unique(filled[95:, :40])) == 1
    assert (BackgroundFill(Holes.of(mask), np.zeros_like(mask), 7.0).fill(source)[mask] == 7).all()


PANEL = (60, 40, 20)


def frame_with(colour: Colour) -> Picture:
    """A screen with a panel of one ``colour`` in which a name stands, and with echoes below it."""
    frame = np.zeros((80, 160, 3), np.uint8)
    frame[5:35, 10:150] = colour
    frame[15:23, 40:100] = 255
    frame[50:] = noise((30, 160))[..., None]
    return frame


def hole_in(frame: Picture) -> Mask:
    """Where the name stands."""
    mask: Mask = np.zeros(frame.shape[:2], np.bool_)
    mask[14:24, 38:102] = True
    return mask


@pytest.mark.parametrize(
    "later",
    [
        pytest.param((PANEL, PANEL), id="a panel that stays"),
        pytest.param((PANEL, (20, 60, 90), PANEL), id="a panel that changes and changes back"),
    ],
)
def test_each_frame_takes_its_own_background_whatever_was_before_it(later: tuple[Colour, ...]) -> None:
    frames = [frame_with(colour) for colour in later]
    mask = hole_in(frames[0])
    together = BackgroundFill(Holes.of(mask), ~mask, 0.0)
    for frame, colour in zip(frames, later, strict=True):
        assert (together.fill(frame)[mask] == colour).all()


def test_a_panel_is_looked_at_again_where_the_whole_background_changed() -> None:
    """A colour near that of the whole background is filled as that, up to the noise of compression."""
    frame = frame_with((4, 4, 4))
    mask = hole_in(frame)
    other = frame.copy()
    other[:50][(other[:50] == 0).all(axis=2)] = 200
    fill = BackgroundFill(Holes.of(mask), ~mask, 0.0)
    assert (fill.fill(frame)[mask] == 0).all()
    assert (fill.fill(other)[mask] == 4).all()
