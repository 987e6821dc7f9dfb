"""Curves, strips and the colours of flow, which are no text."""

import cv2
import numpy as np
import pytest

from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.find import networks
from ai_pipeline.burnin.find.annotation import Mask, Picture
from ai_pipeline.burnin.find.area import find_area
from ai_pipeline.burnin.find.drawings import find_bars
from ai_pipeline.burnin.find.text import shared_reader
from ai_pipeline.burnin.find.traces import colour_bars, find_flow, find_strips, find_traces
from ai_pipeline.burnin.tools import shared_tools
from ai_pipeline.contract import UltrasoundRegion
from tests.unit.ai_pipeline.burnin.area_lab import nothing
from tests.unit.ai_pipeline.burnin.cleaning_lab import YELLOW
from tests.unit.ai_pipeline.burnin.texts_lab import GREEN, STRIP, WHITE, spectrum
from tests.unit.ai_pipeline.phantoms import (
    ArrayImage,
    Colour,
    burn,
    cine,
    cleaned,
    echo,
    flow,
    parts,
    rgb,
    silent,
)

pytestmark = pytest.mark.usefixtures("less_enlarged")


def with_ecg(picture: Picture, colour: Colour = GREEN, row: int = 340) -> tuple[Picture, Mask]:
    """The picture in RGB with an ECG, and where that is."""
    drawn, x = rgb(picture), np.arange(30, 450)
    beat = (x % 90).astype(float)
    y = row - 32 * np.exp(-(((beat - 30) / 2.0) ** 2)) - 5 * np.exp(-(((beat - 55) / 6.0) ** 2))
    cv2.polylines(drawn, [np.stack([x, np.rint(y)], axis=1).astype(np.int32)[:, None]], False, colour, 2)
    return drawn, (drawn != picture[..., None]).any(axis=2)


def test_a_name_in_a_spectrum_is_blacked_out_and_the_rest_stays() -> None:
    before = spectrum()
    picture = burn(before, "KIM MINJUN", (60, 205), WHITE, 18)
    image = ArrayImage(
        picture[None],
        ultrasound_regions=(
            UltrasoundRegion((0, 0, 480, 190), spatial_format=1, data_type=1),
            UltrasoundRegion(STRIP, spatial_format=3, data_type=3),
        ),
    )
    after, mask = parts(clean(image, silent))
    assert mask[(picture != before).any(axis=2)].mean() >= 0.97
    inside = (after != picture).any(axis=2) & (np.arange(360) >= STRIP[1])[:, None]
    assert inside.any()
    assert not after[inside].any()
    assert mask[inside].all()
    assert inside.sum() < 0.15 * (STRIP[2] - STRIP[0]) * (STRIP[3] - STRIP[1])


@pytest.mark.parametrize(("colour", "row"), [(GREEN, 340), ((240, 220, 30), 351)])
def test_an_ecg_below_a_sector_is_a_trace_and_tissue_is_none(colour: Colour, row: int) -> None:
    picture, ecg = with_ecg(echo(), colour, row)
    trace = find_traces(picture, find_area(picture, nothing(picture)))
    assert trace[ecg].mean() > 0.95
    assert not trace[: row - 60].any()


@pytest.mark.parametrize("modality", ["US", "OT"])
def test_a_name_across_an_ecg_cannot_be_read_and_the_ecg_stays(modality: str) -> None:
    picture, ecg = with_ecg(echo())
    burned = burn(picture, "KIM MINJUN", (30, 322), WHITE, 18)
    after, mask = cleaned(burned, modality=modality)
    trace = find_traces(burned, find_area(burned, nothing(burned)))
    stays = trace & ((np.arange(480) > 160) | (modality == "US"))  # elsewhere the name's box goes whole
    assert trace[ecg].mean() > 0.95
    assert np.array_equal(after[stays], burned[stays])
    assert mask[(burned != picture).any(axis=2) & ~trace].all()
    assert not any(shared_reader().read(after, box, 2).legible for box in shared_reader().find(after))


def test_an_ecg_that_grows_in_a_cine_stays() -> None:
    drawn = [with_ecg(frame) for frame in cine(2, size=(360, 480))]
    for index, (full, ecg) in enumerate(drawn):
        ecg[:, 200 + 165 * index :] = False
        full[(full == GREEN).all(axis=2) & ~ecg] = 0
    frames = [burn(full, "KIM MINJUN", (4, 4), WHITE, 18) for full, _ in drawn]
    masks = np.asarray(clean(ArrayImage(np.stack(frames)), silent).mask.frames)
    assert masks.any()
    assert not masks[0][drawn[-1][1]].any()


@pytest.mark.parametrize("size", [10, 14, 18, 30])
@pytest.mark.parametrize(
    "text", ["KIM MINJUN 12.03.1967 SEOUL NATIONAL", "illimitable williamll mini lullaby"]
)
def test_a_line_of_text_is_no_trace(text: str, size: int) -> None:
    black = np.zeros((360, 480, 3), np.uint8)
    for colour in (GREEN, WHITE, YELLOW):
        assert not find_traces(burn(black, text, (4, 300), colour, size), black[..., 0] > 0).any()


@pytest.mark.parametrize(
    ("spatial_format", "data_type", "is_strip"),
    [
        (1, 1, False),
        (1, 2, False),
        (2, 1, True),
        (3, 3, True),
        (3, 4, True),
        (4, 10, True),
        (5, 13, False),
        (5, 14, False),
        (0, 0, False),
    ],
)
def test_strips_are_told_by_format_and_type(spatial_format: int, data_type: int, is_strip: bool) -> None:
    region = UltrasoundRegion(STRIP, spatial_format=spatial_format, data_type=data_type)
    assert find_strips((region,), (360, 480))[250, 100] == is_strip
    assert not find_strips((region, UltrasoundRegion((0, 0, 900, 90))), (360, 480)).any()


def test_a_bar_is_seen_by_its_form_and_letters_on_it_or_on_a_panel_are_not() -> None:
    picture = np.zeros((360, 480, 3), np.uint8)
    picture[40:240, 6:30] = np.linspace(255, 20, 200).astype(np.uint8)[:, None, None]
    picture[40:120, 440:464, 0] = np.linspace(250, 60, 80).astype(np.uint8)[:, None]
    picture[300:330, 100:300] = 180  # a panel of one colour
    cv2.putText(picture, "KIM MINJUN", (105, 322), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 2)
    found = find_bars(picture)
    assert found[60:200, 8:28].all()
    assert found[50:110, 444:460].all()
    assert not found[280:].any()
    cv2.putText(picture, "KIM", (6, 140), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1)
    assert not find_bars(picture)[128:142, 8:28].all()


def power() -> tuple[Picture, np.ndarray]:
    """A vessel of power Doppler: yellow inside, orange, red at its rim."""
    picture = rgb(echo())
    y, x = np.mgrid[0 : picture.shape[0], 0 : picture.shape[1]]
    depth = ((x - 240) / 60) ** 2 + ((y - 190) / 14) ** 2
    shade = np.stack([np.full_like(depth, 250), 230 * np.clip(1 - depth, 0, 1), 0 * depth], axis=2)
    return np.where(depth[..., None] < 1, shade, picture).astype(np.uint8), depth < 1


@pytest.mark.parametrize("made", [flow(echo()), power()], ids=["colour", "power"])
def test_flow_is_found(made: tuple[Picture, np.ndarray]) -> None:
    picture, vessel = made
    assert find_flow(picture)[vessel].mean() > 0.95


@pytest.mark.parametrize("colour", [YELLOW, (60, 80, 255), (255, 40, 40), WHITE])
def test_text_is_no_flow_whatever_its_colour(colour: Colour) -> None:
    assert not find_flow(burn(rgb(echo()), "KIM MINJUN 1970", (12, 10), colour, 20)).any()


def test_a_colour_bar_is_no_flow_in_one_piece_or_in_two_halves() -> None:
    whole = rgb(echo())
    halves = whole.copy()
    whole[40:140, 6:18] = np.linspace((255, 0, 0), (0, 0, 255), 100)[:, None].astype(np.uint8)
    upper = np.linspace((250, 240, 0), (150, 20, 0), 32)[:, None].astype(np.uint8)
    halves[40:72, 6:32], halves[72:76, 6:32], halves[76:108, 6:32] = upper, (20, 0, 0), upper[::-1]
    assert not any(find_flow(picture).any() for picture in (whole, halves, echo()))


def test_specks_in_flows_colours_are_flow_beside_it_alone() -> None:
    picture, vessel = power()
    last = np.flatnonzero(vessel.any(axis=1)).max()
    near, far = np.s_[last + 6 : last + 11, 240:245], np.s_[20:25, 20:25]
    picture[near] = picture[far] = (220, 90, 0)
    flows = find_flow(picture)
    assert flows[near].all()
    assert not flows[far].any()


def test_a_colour_bar_is_one_and_a_vessel_or_letters_are_none() -> None:
    picture, vessel = flow(echo())
    picture[40:100, 440:456] = 0
    picture[40:100, 440:456, 0] = np.linspace(70, 255, 60).astype(np.uint8)[:, None]
    bars = colour_bars(burn(picture, "KIM MINJUN", (4, 4), (255, 30, 30), 24))
    assert bars[42:98, 441:455].all()
    assert not bars[vessel].any()
    assert not bars[:40, :200].any()


@pytest.mark.parametrize(("rows", "columns"), [(400, 601), (560, 300)])
def test_tiles_say_what_the_whole_picture_says(
    monkeypatch: pytest.MonkeyPatch, rows: int, columns: int
) -> None:
    picture, finder = echo(7, (rows, columns)), shared_tools().finder
    picture[rows // 3 :: 97, 5:200] = 255  # lines across the tiles' borders
    picture[20:60, columns // 2 :: 31] = 200
    whole = finder.find(picture)
    monkeypatch.setattr(networks, "WHOLE", 0)
    monkeypatch.setattr(networks, "TILE", 384)
    tiled, drawn = finder.find(picture), whole.marked > 0.01  # where nothing is drawn the kinds are equal
    np.testing.assert_allclose(tiled.marked, whole.marked, atol=1e-4)
    assert (whole.marked > 0.5).any()
    assert (tiled.classes[drawn] == whole.classes[drawn]).mean() > 0.9999


@pytest.mark.parametrize(
    ("flat", "steep"),
    # The second as in video of an ATL HDI 5000, which has too few lines of colour for a wave of one pixel.
    [((76, 140, 139), (140, 190, 188)), ((100, 249, 182), (159, 220, 189))],
)
def test_steep_waves_of_an_ecg_that_are_paler_are_of_its_curve_and_letters_beside_it_are_not(
    flat: Colour, steep: Colour
) -> None:
    picture = np.zeros((360, 480, 3), np.uint8)
    picture[300:303, 60:260] = flat
    for left in (100, 200):
        picture[[*range(262, 282), *range(283, 302)], left : left + 4] = steep
    burned = burn(picture, "KIM MINJUN", (70, 312), flat, 14)
    trace = find_traces(burned, nothing(burned))
    assert trace[picture[..., 1] == steep[1]].all()
    assert trace[(burned != picture).any(axis=2)].mean() < 0.3
