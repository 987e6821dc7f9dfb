"""Spectra, M-mode and ECG are no text: nothing is made up in them, and only what is read there goes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ai_pipeline.burnin.annotation.kinds import CleaningPolicy
from ai_pipeline.burnin.annotation.pixels import Mask, Picture, index_of
from ai_pipeline.burnin.cleaning import CleaningResult, clean
from ai_pipeline.burnin.find.area import find_area
from ai_pipeline.burnin.find.text import shared_reader
from ai_pipeline.burnin.find.traces import find_strips, find_traces
from ai_pipeline.contract import UltrasoundRegion
from tests.unit.ai_pipeline.phantoms import ArrayImage, burn, cine, echo, silent, stacked

STRIP = (40, 200, 440, 340)
SPECTRUM = UltrasoundRegion(STRIP, spatial_format=3, data_type=3)
IMAGE = UltrasoundRegion((0, 0, 480, 190), spatial_format=1, data_type=1)
GREEN = (40, 230, 60)


def spectrum(seed: int = 4) -> Picture:
    """A small fan above a strip with the waves of a Doppler spectrum, in RGB."""
    picture = np.repeat(np.zeros((360, 480, 1), np.uint8), 3, axis=2)
    picture[:180, 120:360] = echo(seed, (180, 240))[..., None]
    random = np.random.default_rng(seed)
    left, _, right, bottom = STRIP
    x = np.arange(right - left)
    heights = (20 + 80 * np.abs(np.sin(x / 40)) ** 3).astype(int)
    for column, height in enumerate(heights):
        levels = np.clip(random.rayleigh(60, height) + 40, 0, 255).astype(np.uint8)
        picture[bottom - 20 - height : bottom - 20, left + column] = levels[:, None]
    picture[bottom - 20, left:right] = (200, 200, 60)
    return picture


def with_ecg(picture: Picture, colour: tuple[int, int, int] = GREEN, row: int = 340) -> tuple[Picture, Mask]:
    """The picture in RGB with an ECG, and where that is."""
    rgb = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture.copy()
    before = rgb.copy()
    x = np.arange(30, 450)
    beat = (x % 90).astype(float)
    y = row - 32 * np.exp(-(((beat - 30) / 2.0) ** 2)) - 5 * np.exp(-(((beat - 55) / 6.0) ** 2))
    points = np.stack([x, np.rint(y)], axis=1).astype(np.int32)
    cv2.polylines(rgb, [points[:, None]], False, colour, 2)
    return rgb, (rgb != before).any(axis=2)


def cleaned(result: CleaningResult) -> tuple[Picture, Mask]:
    return np.asarray(result.image.frames[0]), np.asarray(result.mask.frames[0]) > 0


@pytest.mark.parametrize("policy", CleaningPolicy)
def test_a_spectrum_that_the_header_names_stays_as_it_is(policy: CleaningPolicy) -> None:
    picture = burn(spectrum(), "KIM MINJUN", (4, 4), (255, 255, 255), 18)
    image = ArrayImage(picture[None], photometric="RGB", regions=(IMAGE, SPECTRUM))
    after, mask = cleaned(clean(image, silent, policy=policy))
    assert mask.any() and not mask[index_of(STRIP)].any()
    assert np.array_equal(after[index_of(STRIP)], picture[index_of(STRIP)])


def test_a_name_in_a_spectrum_is_blacked_out_and_the_rest_stays() -> None:
    before = spectrum()
    picture = burn(before, "KIM MINJUN", (60, 205), (255, 255, 255), 18)
    image = ArrayImage(picture[None], photometric="RGB", regions=(IMAGE, SPECTRUM))
    after, mask = cleaned(clean(image, silent))
    written = (picture != before).any(axis=2)
    assert (mask & written).sum() >= 0.97 * written.sum()
    inside = (after != picture).any(axis=2)
    inside[: STRIP[1]] = False
    assert inside.any() and not after[inside].any() and mask[inside].all()
    assert inside.sum() < 0.15 * (STRIP[2] - STRIP[0]) * (STRIP[3] - STRIP[1])


@pytest.mark.parametrize("colour", [GREEN, (240, 220, 30), (210, 210, 210)])
@pytest.mark.parametrize("row", [340, 351])
def test_an_ecg_below_a_sector_stays(colour: tuple[int, int, int], row: int) -> None:
    picture, ecg = with_ecg(echo(), colour, row)
    burned = burn(picture, "KIM MINJUN", (4, 4), (255, 255, 255), 18)
    after, mask = cleaned(clean(ArrayImage(burned[None], photometric="RGB"), silent))
    assert mask[:40, :150].any()
    if colour != (210, 210, 210):  # a grey one is told from tissue only outside the area
        assert not (mask & ecg).any() and np.array_equal(after[ecg], burned[ecg])


def test_a_name_across_an_ecg_cannot_be_read_and_the_ecg_stays() -> None:
    picture, ecg = with_ecg(echo())
    burned = burn(picture, "KIM MINJUN", (30, 322), (255, 255, 255), 18)
    written = (burned != picture).any(axis=2)
    after, mask = cleaned(clean(ArrayImage(burned[None], photometric="RGB"), silent))
    trace = find_traces(burned, find_area(burned, np.zeros(written.shape, np.bool_)))
    assert (trace & ecg).sum() > 0.95 * ecg.sum() and np.array_equal(after[trace], burned[trace])
    assert mask[written & ~trace].all()
    reader = shared_reader()
    assert not any(reader.read(after, box, 2).legible for box in reader.find(after))


def test_an_ecg_that_grows_in_a_cine_stays() -> None:
    frames = []
    for index, frame in enumerate(cine(18, size=(360, 480))):
        full, ecg = with_ecg(frame)
        swept = ecg.copy()
        swept[:, : 200 + 12 * index] = False
        full[swept] = 0
        frames.append(burn(full, "KIM MINJUN", (4, 4), (255, 255, 255), 18))
    result = clean(ArrayImage(stacked(frames), photometric="RGB"), silent)
    for index in (0, 9, 17):
        _, ecg = with_ecg(frames[index])
        shown = ecg & (frames[index] == np.array(GREEN)).all(axis=2)
        assert not ((np.asarray(result.mask.frames[index]) > 0) & shown).any()


@pytest.mark.parametrize("size", [10, 14, 18, 30])
@pytest.mark.parametrize(
    "text", ["KIM MINJUN 12.03.1967 SEOUL NATIONAL", "illimitable williamll mini lullaby"]
)
def test_a_line_of_text_is_no_trace(text: str, size: int) -> None:
    black = np.zeros((360, 480, 3), np.uint8)
    for colour in (GREEN, (255, 255, 255), (255, 230, 0)):
        burned = burn(black, text, (4, 300), colour, size)
        assert not find_traces(burned, np.zeros(black.shape[:2], np.bool_)).any()


def test_tissue_and_flow_are_no_trace() -> None:
    picture = echo()
    assert not find_traces(picture, find_area(picture, np.zeros(picture.shape, np.bool_))).any()


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
