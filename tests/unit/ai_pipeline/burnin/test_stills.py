"""What cleaning leaves of single pictures: no name wherever and however it is written."""

import contextlib
import resource
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import zxingcpp
from HersheyFonts import HersheyFonts

from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.find.annotation import CleaningPolicy, Picture
from ai_pipeline.burnin.frames import DisplayTables
from ai_pipeline.contract import ImageKind
from ai_pipeline.errors import CleaningFailed, PixelError
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.pipelines import create
from tests.ultrasound_lab import BORN, NAME, NUMBER, Reader
from tests.unit.ai_pipeline.burnin.cleaning_lab import (
    CLINICAL,
    LITTLE,
    RESEARCH,
    WHITE,
    cleaned_or_nothing,
    covered,
    shown,
)
from tests.unit.ai_pipeline.phantoms import (
    KOREAN_FONT,
    ArrayImage,
    Colour,
    burn,
    burned_box,
    cine,
    cleaned,
    echo,
    flow,
    noise,
    rgb,
    silent,
    write_dicom,
)


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
        labels.append(burned_box(before, made))
    return made, np.pad(vessel, ((0, 160), (0, 0))), labels


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(("paper", "ink"), [(255, 0), (0, 255), (0, 90)], ids=["paper", "screen", "faint"])
def test_of_a_frame_that_is_all_text_nothing_legible_leaves(paper: int, ink: int, quick: Reader) -> None:
    made = np.full((160, 300), paper, np.uint8)
    for line, text in enumerate(((NAME, "BORN " + BORN, "ID " + NUMBER) * 3)[:8]):
        made = burn(made, f"{text}   {text}", (2, 20 * line), ink, 17)  # from edge to edge
    image = ArrayImage(made[None])
    result = cleaned_or_nothing(image)
    assert result is None or (paper == 0 and quick.secrets(shown(image, result)) == [])


CLEAN_PICTURES = {
    "grey": lambda: ArrayImage(echo(11, LITTLE)[None]),
    "colour flow": lambda: ArrayImage(flow(echo(12, LITTLE))[0][None]),
    "16 bit": lambda: ArrayImage((echo(13, LITTLE).astype(np.uint16) * 257)[None], bits_stored=16),
    "black": lambda: ArrayImage(np.zeros((1, *LITTLE), np.uint8)),
    "white": lambda: ArrayImage(np.full((1, *LITTLE, 3), 255, np.uint8)),
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
    result = cleaned_or_nothing(CLEAN_PICTURES[kind](), RESEARCH)
    assert result is not None
    assert (result.mask.frames > 0).mean() <= 0.002


def test_noise_is_left_alone_or_refused() -> None:
    result = cleaned_or_nothing(ArrayImage(noise((1, 240, 320))))
    assert result is None or (result.mask.frames > 0).mean() < 0.02


@pytest.mark.parametrize("policy", [CLINICAL, RESEARCH])
def test_flow_and_spectrum_are_not_eaten_and_an_axis_label_is_whole_or_gone(policy: CleaningPolicy) -> None:
    made, flows, labels = spectrum()
    result = cleaned_or_nothing(ArrayImage(burn(made, NAME, (8, 4), WHITE, 16)[None]), policy)
    assert result is not None
    mask = result.mask.frames[0] > 0
    assert mask[flows].mean() <= 0.02
    assert mask[300:, 30:420].mean() <= 0.02
    for spot in labels:
        share = mask[spot][made[spot].max(axis=2) > 128].mean()
        assert share == 0.0 or share >= 0.95


def turned(before: Picture, way: int) -> Picture:
    """The name written so that it stands upright only once the picture is turned."""
    return np.rot90(burn(np.rot90(before, way).copy(), NAME, (30, 40), 255, 18), -way).copy()


def in_other_letters() -> tuple[Picture, Picture]:
    burned, lines = (
        echo(),
        {"홍길동": (10, 8), "김민준 여 1970-01-02": (150, 180), "王小明 山田 太郎": (10, 330)},
    )
    for text, spot in lines.items():
        burned = burn(burned, text, spot, 255, 22, font_file=KOREAN_FONT)
    return echo(), burned


def written_often() -> Picture:
    """Upside down, at the picture's edge, very small, dark grey on black, and on the sector's edge."""
    burned = burn(echo(), NAME, (120, 20), 255, 18, upside_down=True)
    for spot, grey, size in (
        ((0, -4), 255, 18),
        ((8, 40), 255, 9),
        ((8, 320), 28, 18),
        ((40, 150), 255, 18),
    ):
        burned = burn(burned, NAME, spot, grey, size)
    return burned


def written_by_hand_and_along_the_sides() -> Picture:
    burned = turned(turned(echo(), 1), 3)
    for spot in ((100, 10), (150, 180)):  # in the banner and on tissue
        burned = handwritten(burned, "Maria Kowalska", spot, 26)
    return burned


BRIGHT = np.asarray(170 + echo() * 0.3, np.uint8)  # tissue of 170 to 230
DARK = 255 - echo(size=LITTLE)
HARD_PLACES = {
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
    before = noise(shape, 0, 60)
    return before, burn(before, NAME, (20, 3), 255, 16)


@pytest.mark.parametrize("spot", HARD_PLACES)
def test_a_name_goes_wherever_and_however_it_is_written(spot: str, reader: Reader) -> None:
    before, burned = HARD_PLACES[spot]()
    image = ArrayImage(burned[None])
    result = cleaned_or_nothing(image)
    assert result is not None
    assert covered(before, burned, result) >= 0.95
    assert reader.secrets(shown(image, result)) == []
    assert (result.mask.frames > 0).mean() < 0.2


def test_a_name_goes_from_a_strip_of_hardly_more_than_it_or_nothing_leaves() -> None:
    before, burned = in_a_strip((24, 900))
    result = cleaned_or_nothing(ArrayImage(burned[None]))
    assert result is None or covered(before, burned, result) >= 0.95


def handwritten(picture: Picture, text: str, spot: tuple[int, int], size: int) -> Picture:
    """Joined strokes (Hershey's script), slanted and a little unsteady, as on a touch screen."""
    font, made, generator = HersheyFonts(), picture.copy(), np.random.default_rng(2)
    font.load_default_font("scripts")
    font.normalize_rendering(size)
    for stroke in font.strokes_for_text(text):
        points = np.array(stroke) + generator.normal(0, 0.4, (len(stroke), 2))
        points[:, 1] += points[:, 0] * 0.03
        # normalize_rendering puts the base line at 0.
        placed = np.rint((points + np.array((spot[0], spot[1] + size))) * 8).astype(np.int32)
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
    samples = noise(shape, 0, 60)
    result = cleaned_or_nothing(ArrayImage(samples[None]))
    assert result is None or not result.mask.frames.any()


WINDOWS = {
    "no width": {"WindowCenter": 128, "WindowWidth": 0},
    "not a number": {"WindowCenter": float("nan"), "WindowWidth": float("nan")},
    "far away": {"WindowCenter": 1e9, "WindowWidth": 1},
    "brighter than the name": {"WindowCenter": 4050, "WindowWidth": 50},
    "darker than the name and its box": {"WindowCenter": 60, "WindowWidth": 60, "VOILUTFunction": "SIGMOID"},
    "far wider than the samples": {"WindowCenter": 32768, "WindowWidth": 65536},
    "no slope": {"RescaleSlope": 0, "RescaleIntercept": 0},
}


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.filterwarnings("ignore:Value .* is not valid")
def test_no_window_hides_a_name_that_another_window_shows(window: str, tmp_path: Path, quick: Reader) -> None:
    burned = echo(size=LITTLE).astype(np.uint16)
    burned[4:32] = np.where(burn(np.zeros((28, LITTLE[1]), np.uint8), NAME, (10, 4)) > 127, 3800, 1500)
    path = write_dicom(tmp_path / "window.dcm", burned[None], BitsStored=12, HighBit=11, **WINDOWS[window])
    with contextlib.suppress(PixelError):
        result = cleaned_or_nothing(open_dicom(path))
        assert (
            result is None or quick.secrets((np.asarray(result.image.frames[0]) >> 4).astype(np.uint8)) == []
        )


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize(
    ("letters", "ground"),
    [((220, 0, 0), (0, 220, 0)), ((0, 0, 255), (255, 0, 0)), ((255, 0, 255), (0, 0, 255))],
    ids=["red on green", "blue on red", "magenta on blue"],
)
def test_a_name_that_only_its_colour_shows_goes_or_nothing_leaves(
    letters: Colour, ground: Colour, quick: Reader
) -> None:
    result = cleaned_or_nothing(
        ArrayImage(
            np.where(
                burn(np.zeros(LITTLE, np.uint8), NAME, (10, 50))[..., None] > 127, letters, ground
            ).astype(np.uint8)[None],
        )
    )
    assert result is None or quick.secrets(np.asarray(result.image.frames[0])) == []


@pytest.mark.parametrize("ink", [(230, 80, 70), (255, 160, 20), (240, 30, 30)])
def test_a_name_upside_down_in_the_colours_of_flow_goes(ink: Colour, quick: Reader) -> None:
    written = burn(flow(echo(size=(300, 480)))[0], NAME, (150, 150), ink, 20, upside_down=True)
    assert not quick.secrets(cleaned(written)[0][::-1, ::-1])


def test_where_filling_makes_up_a_colour_it_is_grey_and_shows_no_letters() -> None:
    picture = np.zeros((300, 480, 3), np.uint8)
    picture[80:] = echo(size=(220, 480))[..., None]
    picture[6:26, :200] = picture[30:50, :470] = (245, 235, 10)
    written = burn(picture, NAME, (206, 6), WHITE, 20)
    after, mask = cleaned(written)
    assert mask[(written != picture).any(axis=2)].all()
    (colour,) = np.unique(after[:30, 206:][mask[:30, 206:]], axis=0)
    assert np.ptp(colour) == 0


@pytest.mark.parametrize(
    ("panel", "ink"), [((0, 110, 0), (110, 40, 90)), ((110, 60, 0), (60, 110, 80))], ids=["green", "brown"]
)
def test_of_a_name_as_bright_as_its_panel_no_skyline_is_left(panel: Colour, ink: Colour) -> None:
    picture = np.zeros((600, 800, 3), np.uint8)
    picture[180:560, 150:650] = echo(size=(380, 500))[..., None]
    picture[20:70, 20:500] = panel
    written = burn(picture, "KOWALSKA MARIA 1957-08-23", (60, 30), ink, 22)
    after, _ = cleaned(written)
    rows, columns = burned_box(picture, written)
    assert (after != written).any(axis=2)[(written != picture).any(axis=2)].all()
    # Over the letters each row has one colour: no stroke reaches further up or down than another.
    assert (np.ptp(after[rows, columns], axis=1) == 0).all()
    beside = after[rows.start - 6 : rows.stop + 6, columns]
    assert (np.ptp(beside, axis=1) == 0).all()


def test_a_name_in_a_coloured_box_goes_and_the_box_is_no_bar_that_is_put_back(quick: Reader) -> None:
    below = np.full((40, 480, 3), (40, 60, 110), np.uint8)
    written = burn(np.concatenate([flow(echo(size=(300, 480)))[0], below]), NAME, (4, 304), WHITE, 28)
    assert quick.secrets(written)
    assert not quick.secrets(cleaned(written)[0])


@pytest.mark.parametrize(("bits", "stored_as"), [(4, np.uint8), (8, np.uint8), (12, np.uint16)])
def test_colour_is_read_as_a_viewer_shows_it(bits: int, stored_as: type[np.integer[Any]]) -> None:
    samples = (np.random.default_rng(1).random((1, 20, 30, 3)) * 2**bits).astype(stored_as)
    image = ArrayImage(samples, bits_stored=bits)
    tables = DisplayTables.from_frames([image.stored()], [image.display()])
    assert np.array_equal(tables.views(image.stored())[0], image.display())


@pytest.mark.usefixtures("less_enlarged")
@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("form", [zxingcpp.BarcodeFormat.QRCode, zxingcpp.BarcodeFormat.Code128])
@pytest.mark.parametrize(
    ("light", "dark"),
    [((255, 255, 255), (0, 0, 0)), ((0, 200, 0), (200, 0, 0))],
    ids=["black", "as bright as its ground"],
)
def test_a_code_for_machines_goes_as_a_name_does_or_nothing_leaves(
    form: zxingcpp.BarcodeFormat, frames: int, light: Colour, dark: Colour
) -> None:
    code = np.asarray(zxingcpp.create_barcode(f"{NAME} {BORN}", form).to_image())
    burned = rgb(np.stack(cine(frames, size=(260, 640))))
    burned[:, 100 : 100 + code.shape[0], 20 : 20 + code.shape[1]] = np.where(code[..., None] > 0, light, dark)
    result = cleaned_or_nothing(ArrayImage(burned))
    assert all(map(zxingcpp.read_barcodes, burned)), "a black one goes"
    assert result or any(dark), "a black one goes"
    assert not any(map(zxingcpp.read_barcodes, np.array(result.image.frames) if result else ()))


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
    assert clean(ArrayImage(echo(size=LITTLE)[None]), silent).image.verified
