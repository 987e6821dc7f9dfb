"""Pictures that cleaning was not made for: the name goes or nothing leaves, and nothing else is harmed."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ai_pipeline.burnin.annotation.kinds import CleaningPolicy
from ai_pipeline.burnin.cleaning import CleaningResult, clean
from ai_pipeline.contract import ImageKind, SourceImage
from ai_pipeline.errors import CleaningFailed, PixelError
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.pipelines import create
from tests.ultrasound_lab import BORN, NAME, NUMBER, Reader, told
from tests.unit.ai_pipeline import phantoms
from tests.unit.ai_pipeline.phantoms import ArrayImage, Picture, burn, echo, flow, silent, write_dicom

WHITE = (255, 255, 255)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


def cleaned_or_nothing(
    image: SourceImage, policy: CleaningPolicy = CleaningPolicy.CLINICAL
) -> CleaningResult | None:
    """The result, its pixels outside the mask proven to be the source's; None where nothing leaves."""
    try:
        result = clean(image, silent, policy=policy)
    except CleaningFailed as refusal:
        assert told(str(refusal).upper()) == []
        return None
    assert result.image.verified
    for index in range(image.header.frames):
        mask = np.asarray(result.mask.frames[index]) > 0
        assert np.array_equal(result.image.frames[index][~mask], image.stored(index)[~mask])
    return result


def shown(image: ArrayImage, result: CleaningResult, frame: int = 0) -> Picture:
    """A cleaned frame as a viewer shows it."""
    after = ArrayImage(np.asarray(result.image.frames), image.modality, image.photometric, image.bits_stored)
    return after.display(frame)


def covered(before: np.ndarray, burned: np.ndarray, result: CleaningResult, frame: int = 0) -> float:
    """Share of what was written that the mask holds."""
    written = before != burned if before.ndim == 2 else (before != burned).any(axis=2)
    return float((np.asarray(result.mask.frames[frame]) > 0)[written].mean())


def page(paper: int, ink: int) -> Picture:
    """A worksheet: text from edge to edge."""
    made: Picture = np.full((360, 480), paper, np.uint8)
    for line, text in enumerate((NAME, "BORN " + BORN, "ID " + NUMBER) * 6):
        made = burn(made, f"{text}   {text}", (2, 20 * line), ink, 17)
    return made


def spectrum() -> tuple[Picture, np.ndarray, dict[str, tuple[slice, slice]]]:
    """Colour flow above, a Doppler spectrum below with its velocities; where flow and labels are."""
    above, vessel = flow(echo(size=(300, 480)))
    made = np.concatenate([above, np.zeros((160, 480, 3), np.uint8)])
    generator = np.random.default_rng(3)
    for column in range(30, 420):
        height = 18 + round(60 * abs(np.sin(column / 31.0)) ** 3)
        made[400 - height : 400, column] = generator.integers(70, 230, (height, 1))
    made[300:400] = cv2.GaussianBlur(made[300:400], (5, 5), 1.2)
    made[400, 30:420] = 90
    labels = {}
    for text, row in (("60", 322), ("40", 345), ("20", 368), ("-20", 415), ("cm/s", 438)):
        before = made
        made = burn(made, text, (430, row), WHITE, 14)
        labels[text] = phantoms.burned_box(before, made)
    flows = np.zeros(made.shape[:2], np.bool_)
    flows[:300] = vessel
    return made, flows, labels


@pytest.mark.parametrize(("paper", "ink"), [(255, 0), (0, 255), (0, 90)], ids=["paper", "screen", "faint"])
def test_of_a_frame_that_is_all_text_nothing_legible_leaves(paper: int, ink: int, reader: Reader) -> None:
    image = ArrayImage(page(paper, ink)[None])
    result = cleaned_or_nothing(image)
    assert result is None or reader.secrets(shown(image, result)) == []


CLEAN_PICTURES: dict[str, Callable[[], ArrayImage]] = {
    "grey": lambda: ArrayImage(echo(11)[None]),
    "colour flow": lambda: ArrayImage(flow(echo(12))[0][None], photometric="RGB"),
    "16 bit": lambda: ArrayImage((echo(13).astype(np.uint16) * 257)[None], bits_stored=16),
    "black": lambda: ArrayImage(np.zeros((1, 240, 320), np.uint8)),
    "white": lambda: ArrayImage(np.full((1, 240, 320, 3), 255, np.uint8), photometric="RGB"),
}


@pytest.mark.parametrize("kind", CLEAN_PICTURES)
def test_a_picture_without_text_comes_back_as_it_was(kind: str) -> None:
    image = CLEAN_PICTURES[kind]()
    result = clean(image, silent)
    assert result.image.frames.tobytes() == image.frames.tobytes()
    assert not result.mask.frames.any()
    assert not any(mark.removed for mark in result.marks)


@pytest.mark.parametrize("kind", ["colour flow", "16 bit"])
def test_research_takes_hardly_anything_from_a_clean_picture(kind: str) -> None:
    result = cleaned_or_nothing(CLEAN_PICTURES[kind](), CleaningPolicy.RESEARCH)
    assert result is not None
    assert (result.mask.frames > 0).mean() <= 0.002


def test_noise_is_left_alone_or_refused() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (1, 240, 320), np.uint8)
    result = cleaned_or_nothing(ArrayImage(noise))
    assert result is None or (result.mask.frames > 0).mean() < 0.02


@pytest.mark.parametrize("policy", [CleaningPolicy.CLINICAL, CleaningPolicy.RESEARCH])
def test_flow_is_not_eaten_and_an_axis_label_is_whole_or_gone(policy: CleaningPolicy) -> None:
    made, flows, labels = spectrum()
    result = cleaned_or_nothing(
        ArrayImage(burn(made, NAME, (8, 4), WHITE, 16)[None], photometric="RGB"), policy
    )
    assert result is not None
    mask = result.mask.frames[0] > 0
    assert mask[flows].mean() <= 0.02
    halves = {}
    for text, place in labels.items():
        ink = made[place].max(axis=2) > 128
        halves[text] = float(mask[place][ink].mean())
    assert {text: share for text, share in halves.items() if 0.0 < share < 0.95} == {}


def test_the_spectrum_itself_stays() -> None:
    made, _, _ = spectrum()
    result = cleaned_or_nothing(ArrayImage(made[None], photometric="RGB"), CleaningPolicy.RESEARCH)
    assert result is not None
    assert (result.mask.frames[0] > 0)[300:, 30:420].mean() <= 0.02


def turned(before: Picture, way: int) -> Picture:
    """The name written so that it stands upright only once the picture is turned."""
    return np.rot90(burn(np.rot90(before, way).copy(), NAME, (30, 40), 255, 18), -way).copy()


HARD_PLACES: dict[str, Callable[[], tuple[Picture, Picture]]] = {
    "on the sector's edge": lambda: (echo(), burn(echo(), NAME, (40, 150), 255, 18)),
    "on bright tissue": lambda: (bright(), burn(bright(), NAME, (120, 150), 255, 18)),
    "grey on bright tissue": lambda: (bright(), burn(bright(), NAME, (120, 150), 120, 18)),
    "upside down": lambda: (echo(), burn(echo(), NAME, (120, 20), 255, 18, upside_down=True)),
    "upwards": lambda: (echo(), turned(echo(), 1)),
    "downwards": lambda: (echo(), turned(echo(), 3)),
    "at the picture's edge": lambda: (echo(), burn(echo(), NAME, (0, -4), 255, 18)),
    "very small": lambda: (echo(), burn(echo(), NAME, (8, 8), 255, 9)),
    "very large": lambda: (echo(), burn(echo(), "KOWALSKA", (8, 8), 255, 60)),
    "dark grey on black": lambda: (echo(), burn(echo(), NAME, (8, 8), 28, 18)),
    "in a tall strip": lambda: in_a_strip((1200, 160)),
    "in Korean": lambda: in_other_letters("홍길동", (10, 8)),
    "in Korean with a date": lambda: in_other_letters("김민준 여 1970-01-02", (150, 180)),
    "in Japanese": lambda: in_other_letters("山田 太郎", (200, 180)),
    "in Chinese": lambda: in_other_letters("王小明", (10, 330)),
    "by hand in the banner": lambda: (echo(), handwritten(echo(), "Maria Kowalska", (12, 10), 26)),
    "by hand and large": lambda: (echo(), handwritten(echo(), "Maria Kowalska", (12, 10), 44)),
    "by hand on tissue": lambda: (echo(), handwritten(echo(), "Maria Kowalska", (150, 180), 26)),
}


def in_a_strip(shape: tuple[int, int]) -> tuple[Picture, Picture]:
    before = np.random.default_rng(4).integers(0, 60, shape).astype(np.uint8)
    return before, burn(before, NAME, (20, 3), 255, 16)


def in_other_letters(text: str, place: tuple[int, int]) -> tuple[Picture, Picture]:
    return echo(), burn(echo(), text, place, 255, 22, font_file=phantoms.KOREAN_FONT)


def bright() -> Picture:
    """Tissue of 170 to 230."""
    return np.asarray(170 + echo() * 0.3, np.uint8)


@pytest.mark.parametrize("place", HARD_PLACES)
def test_a_name_goes_wherever_and_however_it_is_written(place: str) -> None:
    before, burned = HARD_PLACES[place]()
    result = cleaned_or_nothing(ArrayImage(burned[None]))
    assert result is not None and covered(before, burned, result) >= 0.95


def test_a_name_goes_from_a_strip_of_hardly_more_than_it_or_nothing_leaves() -> None:
    before, burned = in_a_strip((24, 1800))
    result = cleaned_or_nothing(ArrayImage(burned[None]))
    assert result is None or covered(before, burned, result) >= 0.95


def handwritten(picture: Picture, text: str, place: tuple[int, int], size: int) -> Picture:
    """Joined strokes (Hershey's script), slanted and a little unsteady, as on a touch screen."""
    from HersheyFonts import HersheyFonts

    font = HersheyFonts()
    font.load_default_font("scripts")
    font.normalize_rendering(size)
    made, generator = picture.copy(), np.random.default_rng(2)
    for stroke in font.strokes_for_text(text):
        points = np.array(stroke) + generator.normal(0, 0.4, (len(stroke), 2))
        points[:, 1] += points[:, 0] * 0.03
        # normalize_rendering puts the base line at 0.
        placed = np.rint((points + np.array((place[0], place[1] + size))) * 8).astype(np.int32)
        cv2.polylines(made, [placed], False, 255, 2, cv2.LINE_AA, 3)
    return made


def test_a_photo_loses_the_name_and_hardly_anything_else() -> None:
    from sklearn.datasets import load_sample_image

    photo = np.asarray(load_sample_image("flower.jpg"))[::2, ::2]
    burned = burn(photo, NAME, (20, 12), WHITE, 16)
    result = cleaned_or_nothing(ArrayImage(burned[None], modality="XC", photometric="RGB"))
    assert result is not None
    assert covered(photo, burned, result) >= 0.95
    assert (result.mask.frames > 0)[0, 40:].mean() < 0.02


def x_ray(data: Path | None) -> np.ndarray:
    """A chest of the public set as 12 bits; without the set, smooth bands."""
    if data is None:
        y, x = np.mgrid[0:512, 0:512]
        return np.asarray(1800 + 1200 * np.sin(x / 80.0) * np.cos(y / 110.0), np.uint16)
    file = min((data / "cxr_nih" / "images").iterdir())
    grey = cv2.resize(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), (512, 512))
    return np.asarray(grey, np.uint16) * 16


@pytest.mark.parametrize("source", ["synthetic", pytest.param("public", marks=pytest.mark.data)])
def test_a_name_in_a_chest_x_ray_goes_when_asked_for(
    source: str, request: pytest.FixtureRequest, reader: Reader
) -> None:
    before = x_ray(request.getfixturevalue("data") if source == "public" else None)
    ink = burn(np.zeros(before.shape, np.uint8), f"{NAME} {BORN}", (20, 470), 255, 18)
    burned = np.where(ink > 100, 4095, before).astype(np.uint16)
    image = ArrayImage(burned[None], modality="DX", bits_stored=12)
    assert reader.secrets(image.display()) != []
    result = create("ultrasound").run([image], silent, {"any_modality": True})
    cleaned, mask = result.images
    assert (cleaned.kind, mask.kind) == (ImageKind.CLEANED, ImageKind.MASK)
    after = ArrayImage(np.asarray(cleaned.frames), modality="DX", bits_stored=12)
    assert reader.secrets(after.display()) == []
    outside = np.asarray(mask.frames[0]) == 0
    assert np.array_equal(cleaned.frames[0][outside], burned[outside])


@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (16, 16), (1, 1, 3)])
def test_tiny_pictures_are_left_alone_or_refused(shape: tuple[int, ...]) -> None:
    samples = np.random.default_rng(4).integers(0, 60, shape).astype(np.uint8)
    image = ArrayImage(samples[None], photometric="RGB" if len(shape) == 3 else "MONOCHROME2")
    result = cleaned_or_nothing(image)
    assert result is None or not result.mask.frames.any()


WINDOWS: dict[str, dict[str, Any]] = {
    "no width": {"WindowCenter": 128, "WindowWidth": 0},
    "negative": {"WindowCenter": 128, "WindowWidth": -40},
}
HIDING: dict[str, dict[str, Any]] = {
    "not a number": {"WindowCenter": float("nan"), "WindowWidth": float("nan")},
    "far away": {"WindowCenter": 1e9, "WindowWidth": 1},
    "all white": {"WindowCenter": -1000, "WindowWidth": 2},
    "brighter than the name": {"WindowCenter": 3000, "WindowWidth": 100},
    "no slope": {"RescaleSlope": 0, "RescaleIntercept": 0},
}


@pytest.mark.parametrize("window", [*WINDOWS, *HIDING])
@pytest.mark.filterwarnings("ignore:Value .* is not valid")
def test_no_window_hides_a_name_that_another_window_shows(
    window: str, tmp_path: Path, reader: Reader
) -> None:
    burned = burn(echo(), NAME, (10, 8), 200, 18)
    attributes = {"BitsStored": 12, "HighBit": 11, **(WINDOWS | HIDING)[window]}
    path = write_dicom(tmp_path / "window.dcm", burned.astype(np.uint16)[None], **attributes)
    try:
        result = cleaned_or_nothing(open_dicom(path))
    except PixelError as error:
        assert told(str(error).upper()) == []
        return
    assert result is None or reader.secrets(np.asarray(result.image.frames[0]).astype(np.uint8)) == []


def test_a_still_that_takes_more_memory_than_there_may_be_is_refused_by_its_size_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = ArrayImage(np.broadcast_to(np.uint8(0), (1, 5000, 8000)))
    monkeypatch.setattr(ArrayImage, "stored", lambda *_: pytest.fail("it was decoded"))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2304 << 20, 2304 << 20))
    with pytest.raises(CleaningFailed, match="8000 × 5000 pixels: to clean it takes 3500 MiB"):
        clean(image, silent)


def test_a_small_still_is_cleaned_whatever_memory_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (512 << 20, 512 << 20))
    assert clean(ArrayImage(echo()[None]), silent).image.verified
