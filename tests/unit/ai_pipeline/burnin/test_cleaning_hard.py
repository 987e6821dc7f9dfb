"""Pictures and cines that cleaning was not made for: the name goes or nothing leaves."""

import contextlib
import logging
import resource
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from HersheyFonts import HersheyFonts
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames

from ai_pipeline.burnin import cine as cines
from ai_pipeline.burnin.cleaning import CleaningResult, clean
from ai_pipeline.burnin.find.annotation import CleaningPolicy, Picture
from ai_pipeline.contract import ImageKind, SourceImage
from ai_pipeline.errors import CleaningFailed, PixelError
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.pipelines import create
from tests.ultrasound_lab import BORN, ENCODINGS, NAME, NUMBER, SECRETS, Reader, told, write
from tests.unit.ai_pipeline import phantoms
from tests.unit.ai_pipeline.phantoms import ArrayImage, burn, cine, echo, flow, silent, stacked, write_dicom
from tests.unit.inbox.objects import changed

WHITE = (255, 255, 255)
SMALL = (120, 200)  # hardly more than the text takes: most of the time is the search for it


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


@pytest.fixture(scope="module")
def quick() -> Reader:
    return Reader(side=240)


def cleaned_or_nothing(
    image: SourceImage, policy: CleaningPolicy = CleaningPolicy.CLINICAL
) -> CleaningResult | None:
    """The result, its pixels outside the mask proven to be the source's; None where nothing leaves."""
    try:
        result = clean(image, silent, policy=policy)
    except CleaningFailed as refusal:
        chain = (refusal, refusal.__cause__, refusal.__context__)
        assert told(repr(chain).upper()) == [], "no error names anybody"
        return None
    frames, mask = np.asarray(result.image.frames), np.asarray(result.mask.frames) > 0
    source = np.stack([image.stored(index) for index in range(image.header.frames)])
    assert result.image.verified and np.array_equal(frames[~mask], source[~mask])
    return result


def shown(image: ArrayImage, result: CleaningResult, frame: int = 0) -> Picture:
    """A cleaned frame as a viewer shows it."""
    return image.show(np.asarray(result.image.frames[frame]))


def covered(before: np.ndarray, burned: np.ndarray, result: CleaningResult, frame: int = 0) -> float:
    """Share of what was written that the mask holds."""
    written = before != burned if before.ndim == 2 else (before != burned).any(axis=2)
    return float((np.asarray(result.mask.frames[frame]) > 0)[written].mean())


def page(paper: int, ink: int) -> Picture:
    """A worksheet: text from edge to edge."""
    made: Picture = np.full((160, 300), paper, np.uint8)
    for line, text in enumerate(((NAME, "BORN " + BORN, "ID " + NUMBER) * 3)[:8]):
        made = burn(made, f"{text}   {text}", (2, 20 * line), ink, 17)
    return made


def spectrum() -> tuple[Picture, np.ndarray, list[tuple[slice, slice]]]:
    """Colour flow above, a Doppler spectrum below with its velocities; where flow and labels are."""
    above, vessel = flow(echo(size=(300, 480)))
    made, generator = np.concatenate([above, np.zeros((160, 480, 3), np.uint8)]), np.random.default_rng(3)
    for column in range(30, 420):
        height = 18 + round(60 * abs(np.sin(column / 31.0)) ** 3)
        made[400 - height : 400, column] = generator.integers(70, 230, (height, 1))
    made[300:400] = cv2.GaussianBlur(made[300:400], (5, 5), 1.2)
    made[400, 30:420] = 90
    labels = []
    for text, row in (("60", 322), ("40", 345), ("20", 368), ("-20", 415), ("cm/s", 438)):
        before, made = made, burn(made, text, (430, row), WHITE, 14)
        labels.append(phantoms.burned_box(before, made))
    return made, np.pad(vessel, ((0, 160), (0, 0))), labels


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(("paper", "ink"), [(255, 0), (0, 255), (0, 90)], ids=["paper", "screen", "faint"])
def test_of_a_frame_that_is_all_text_nothing_legible_leaves(paper: int, ink: int, quick: Reader) -> None:
    image = ArrayImage(page(paper, ink)[None])
    result = cleaned_or_nothing(image)
    assert result is None or (paper == 0 and quick.secrets(shown(image, result)) == [])


CLEAN_PICTURES: dict[str, Callable[[], ArrayImage]] = {
    "grey": lambda: ArrayImage(echo(11, SMALL)[None]),
    "colour flow": lambda: ArrayImage(flow(echo(12, SMALL))[0][None], photometric="RGB"),
    "16 bit": lambda: ArrayImage((echo(13, SMALL).astype(np.uint16) * 257)[None], bits_stored=16),
    "black": lambda: ArrayImage(np.zeros((1, *SMALL), np.uint8)),
    "white": lambda: ArrayImage(np.full((1, *SMALL, 3), 255, np.uint8), photometric="RGB"),
}


@pytest.mark.parametrize("kind", CLEAN_PICTURES)
def test_a_picture_without_text_comes_back_as_it_was(kind: str) -> None:
    image = CLEAN_PICTURES[kind]()
    result = clean(image, silent)
    assert result.image.frames.tobytes() == image.frames.tobytes()
    assert not result.mask.frames.any() and not any(mark.removed for mark in result.marks)


@pytest.mark.parametrize("kind", ["colour flow", "16 bit"])
def test_research_takes_hardly_anything_from_a_clean_picture(kind: str) -> None:
    result = cleaned_or_nothing(CLEAN_PICTURES[kind](), CleaningPolicy.RESEARCH)
    assert result is not None and (result.mask.frames > 0).mean() <= 0.002


def test_noise_is_left_alone_or_refused() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (1, 240, 320), np.uint8)
    result = cleaned_or_nothing(ArrayImage(noise))
    assert result is None or (result.mask.frames > 0).mean() < 0.02


@pytest.mark.parametrize("policy", [CleaningPolicy.CLINICAL, CleaningPolicy.RESEARCH])
def test_flow_and_spectrum_are_not_eaten_and_an_axis_label_is_whole_or_gone(policy: CleaningPolicy) -> None:
    made, flows, labels = spectrum()
    image = ArrayImage(burn(made, NAME, (8, 4), WHITE, 16)[None], photometric="RGB")
    result = cleaned_or_nothing(image, policy)
    assert result is not None
    mask = result.mask.frames[0] > 0
    assert mask[flows].mean() <= 0.02 and mask[300:, 30:420].mean() <= 0.02
    for place in labels:
        share = mask[place][made[place].max(axis=2) > 128].mean()
        assert share == 0.0 or share >= 0.95


def turned(before: Picture, way: int) -> Picture:
    """The name written so that it stands upright only once the picture is turned."""
    return np.rot90(burn(np.rot90(before, way).copy(), NAME, (30, 40), 255, 18), -way).copy()


def in_other_letters() -> tuple[Picture, Picture]:
    burned, lines = (
        echo(),
        {"홍길동": (10, 8), "김민준 여 1970-01-02": (150, 180), "王小明 山田 太郎": (10, 330)},
    )
    for text, place in lines.items():
        burned = burn(burned, text, place, 255, 22, font_file=phantoms.KOREAN_FONT)
    return echo(), burned


def written_often() -> Picture:
    """Upside down, at the picture's edge, very small, dark grey on black, and on the sector's edge."""
    burned = burn(echo(), NAME, (120, 20), 255, 18, upside_down=True)
    for place, grey, size in (
        ((0, -4), 255, 18),
        ((8, 40), 255, 9),
        ((8, 320), 28, 18),
        ((40, 150), 255, 18),
    ):
        burned = burn(burned, NAME, place, grey, size)
    return burned


def written_by_hand_and_along_the_sides() -> Picture:
    burned = turned(turned(echo(), 1), 3)
    for place in ((100, 10), (150, 180)):  # in the banner and on tissue
        burned = handwritten(burned, "Maria Kowalska", place, 26)
    return burned


BRIGHT = np.asarray(170 + echo() * 0.3, np.uint8)  # tissue of 170 to 230
DARK = 255 - echo(size=SMALL)
HARD_PLACES: dict[str, Callable[[], tuple[Picture, Picture]]] = {
    "small, faint, upside down and on edges": lambda: (echo(), written_often()),
    "white and grey on bright tissue": lambda: (
        BRIGHT,
        burn(burn(BRIGHT, NAME, (120, 150), 255, 18), NAME, (120, 220), 120, 18),
    ),
    "dark on light": lambda: (DARK, burn(DARK, NAME, (12, 10), 0, 18)),
    "by hand, upwards and downwards": lambda: (echo(), written_by_hand_and_along_the_sides()),
    "very large": lambda: (echo(), burn(echo(), "KOWALSKA", (8, 8), 255, 60)),
    "in a tall strip": lambda: in_a_strip((320, 150)),
    "in other letters": in_other_letters,
}


def in_a_strip(shape: tuple[int, int]) -> tuple[Picture, Picture]:
    before = np.random.default_rng(4).integers(0, 60, shape).astype(np.uint8)
    return before, burn(before, NAME, (20, 3), 255, 16)


@pytest.mark.parametrize("place", HARD_PLACES)
def test_a_name_goes_wherever_and_however_it_is_written(place: str, reader: Reader) -> None:
    before, burned = HARD_PLACES[place]()
    image = ArrayImage(burned[None])
    result = cleaned_or_nothing(image)
    assert result is not None and covered(before, burned, result) >= 0.95
    assert reader.secrets(shown(image, result)) == [] and (result.mask.frames > 0).mean() < 0.2


def test_a_name_goes_from_a_strip_of_hardly_more_than_it_or_nothing_leaves() -> None:
    before, burned = in_a_strip((24, 900))
    result = cleaned_or_nothing(ArrayImage(burned[None]))
    assert result is None or covered(before, burned, result) >= 0.95


def handwritten(picture: Picture, text: str, place: tuple[int, int], size: int) -> Picture:
    """Joined strokes (Hershey's script), slanted and a little unsteady, as on a touch screen."""
    font, made, generator = HersheyFonts(), picture.copy(), np.random.default_rng(2)
    font.load_default_font("scripts")
    font.normalize_rendering(size)
    for stroke in font.strokes_for_text(text):
        points = np.array(stroke) + generator.normal(0, 0.4, (len(stroke), 2))
        points[:, 1] += points[:, 0] * 0.03
        # normalize_rendering puts the base line at 0.
        placed = np.rint((points + np.array((place[0], place[1] + size))) * 8).astype(np.int32)
        cv2.polylines(made, [placed], False, 255, 2, cv2.LINE_AA, 3)
    return made


@pytest.mark.usefixtures("less_enlarged")
def test_a_name_in_a_chest_x_ray_goes_when_asked_for(quick: Reader) -> None:
    y, x = np.mgrid[0:160, 0:300]
    before = 1800 + 1200 * np.sin(x / 80.0) * np.cos(y / 110.0)
    ink = burn(np.zeros(before.shape, np.uint8), f"{NAME} {BORN}", (20, 120), 255, 18)
    burned = np.where(ink > 100, 4095, before).astype(np.uint16)
    image = ArrayImage(burned[None], modality="DX", bits_stored=12)
    assert quick.secrets(image.display()) != []
    cleaned, mask = create("ultrasound").run([image], silent, {"any_modality": True}).images
    assert (cleaned.kind, mask.kind) == (ImageKind.CLEANED, ImageKind.MASK)
    assert quick.secrets(image.show(np.asarray(cleaned.frames[0]))) == []
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
    "not a number": {"WindowCenter": float("nan"), "WindowWidth": float("nan")},
    "far away": {"WindowCenter": 1e9, "WindowWidth": 1},
    "brighter than the name": {"WindowCenter": 3000, "WindowWidth": 100},
    "no slope": {"RescaleSlope": 0, "RescaleIntercept": 0},
}


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.filterwarnings("ignore:Value .* is not valid")
def test_no_window_hides_a_name_that_another_window_shows(window: str, tmp_path: Path, quick: Reader) -> None:
    burned = burn(echo(size=SMALL), NAME, (10, 8), 200, 18)
    attributes = {"BitsStored": 12, "HighBit": 11, **WINDOWS[window]}
    path = write_dicom(tmp_path / "window.dcm", burned.astype(np.uint16)[None], **attributes)
    with contextlib.suppress(PixelError):
        result = cleaned_or_nothing(open_dicom(path))
        assert result is None or quick.secrets(np.asarray(result.image.frames[0]).astype(np.uint8)) == []


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
    assert clean(ArrayImage(echo(size=SMALL)[None]), silent).image.verified


LONG, WARM = 24, 8  # frames; the first are a window


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(("shown_in", "colour"), [(3, True), (5, False)])
def test_a_name_in_one_frame_goes_whichever_it_is(
    shown_in: int, colour: bool, quick: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cines, "WINDOW", 4)
    frames = [flow(frame)[0] if colour else frame for frame in cine(6, size=SMALL)]
    frames[shown_in] = burn(frames[shown_in], NAME, (30, 70), WHITE if colour else 255, 16)
    image = ArrayImage(stacked(frames), photometric="RGB" if colour else "MONOCHROME2")
    assert frames_with_secrets(image.frames, [shown_in], quick) == [shown_in]
    assert left_over(image, [shown_in], quick) == []


TEXTS = (NAME, "BORN " + BORN, "ID " + NUMBER)


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(
    "written",
    [
        lambda frame, number: burn(frame, NAME, (10 + 9 * number, 20 + 11 * number), 255, 16),
        lambda frame, number: burn(frame, NAME, (8, 10), 80 * number, 16),
        lambda frame, number: burn(frame, TEXTS[number % 3], (8, 10), 255, 16),
    ],
    ids=["moves", "fades in", "takes turns with others"],
)
def test_a_name_that_moves_or_fades_in_or_takes_turns_goes_from_every_frame(
    written: Callable[[Picture, int], Picture], quick: Reader
) -> None:
    frames = [written(frame, number) for number, frame in enumerate(cine(4, size=SMALL))]
    assert left_over(ArrayImage(stacked(frames)), (1, 2, 3), quick) == []


def left_over(image: ArrayImage, numbers: Sequence[int], reader: Reader) -> list[int]:
    """Frames in which a secret can be read after cleaning; none where nothing leaves."""
    result = cleaned_or_nothing(image)
    return frames_with_secrets(np.asarray(result.image.frames), numbers, reader) if result else []


def frames_with_secrets(frames: np.ndarray, numbers: Sequence[int], reader: Reader) -> list[int]:
    return [number for number in numbers if reader.secrets(np.asarray(frames[number]))]


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(
    "left", [0.02, 0.5, 0.97], ids=["its header", "half of it", "all but its last bytes"]
)
def test_of_a_cine_with_a_damaged_frame_nothing_leaves(left: float, tmp_path: Path) -> None:
    path = write(ENCODINGS["cine-jpeg-ybr-full-422"], tmp_path)
    ds = dcmread(path)
    frames = list(generate_frames(ds.PixelData, number_of_frames=ds.NumberOfFrames))
    frames[2] = frames[2][: int(len(frames[2]) * left)]
    changed(ds, PixelData=encapsulate(frames)).save_as(path)
    with pytest.raises(PixelError):
        create("ultrasound").run([open_dicom(path)], silent, {})


def test_of_a_cine_that_ends_too_early_nothing_leaves(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "short.dcm", stacked([burn(frame, NAME) for frame in cine(6)]))
    path.write_bytes(path.read_bytes()[:-100_000])
    with pytest.raises(PixelError):
        clean(open_dicom(path), silent)


@pytest.mark.usefixtures("less_enlarged")
def test_a_long_cine_takes_no_more_memory_than_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What frames and arrays take; the pages of the temporary file can be given back, and are not counted."""
    monkeypatch.setattr(cines, "WINDOW", WARM)
    base = np.stack([burn(flow(echo(seed, SMALL))[0], NAME, (12, 10), WHITE, 16) for seed in range(4)])
    short, long = (
        write_dicom(tmp_path / f"{count}.dcm", np.tile(base, (count // 4, 1, 1, 1))) for count in (WARM, LONG)
    )
    peaks = []
    tracemalloc.start()
    try:
        for path in (short, short, long):  # the first also loads what stays
            tracemalloc.reset_peak()
            held, _ = tracemalloc.get_traced_memory()
            clean(open_dicom(path), silent)
            peaks.append(tracemalloc.get_traced_memory()[1] - held)
    finally:
        tracemalloc.stop()
    whole = LONG * base[0].nbytes
    assert peaks[2] - peaks[1] < 0.4 * whole, f"of {whole}"


@pytest.mark.usefixtures("less_enlarged")
def test_nothing_that_the_pipeline_says_repeats_a_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    files = [write(ENCODINGS[name], tmp_path) for name in ("still-jpeg-rgb", "cine-grey")]
    result = create("ultrasound").run([open_dicom(file) for file in files], silent, {})
    assert len(result.images) == 4 and told("".join(one.text for one in result.readings)) != []
    said = [repr(result), caplog.text, *capfd.readouterr()]
    assert [secret for secret in SECRETS for text in said if secret in text] == []
