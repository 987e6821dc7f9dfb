"""Windows, tables and poses: from samples to what is shown."""

import numpy as np
import pytest
from pydicom.dataset import Dataset

from ai_pipeline.images.coordinates import POSES, Pose, shown, upright
from ai_pipeline.images.display import BAND_ROWS, GreyDisplay
from tests.unit.ai_pipeline.images.images_lab import lut
from tests.unit.ai_pipeline.phantoms import data_set, noise
from tests.unit.receive.objects import changed


def windowed(centre: float, width: float, slope: float = 1, intercept: float = -5) -> Dataset:
    return data_set(WindowCenter=centre, WindowWidth=width, RescaleSlope=slope, RescaleIntercept=intercept)


@pytest.mark.parametrize("kind", ["u1", "i1", "<u2", "<i2", ">u2", ">i2"])
@pytest.mark.parametrize("shape", [(1, 1), (BAND_ROWS + 1, 7), (40, 3)])
def test_the_table_is_looked_up_by_value(kind: str, shape: tuple[int, int]) -> None:
    ends = np.iinfo(kind)
    stored = np.random.default_rng(2).integers(ends.min, ends.max, shape, endpoint=True).astype(kind)

    shown = GreyDisplay.from_dataset(windowed(20, 101)).show(stored)

    # PS3.3 C.11.2.1.2.1: LINEAR, of the value after the Modality LUT
    shares = np.clip((stored.astype(float) - 5 - 19.5) / 100 + 0.5, 0, 1)
    np.testing.assert_array_equal(shown, np.rint(shares * 255).astype(np.uint8))


@pytest.mark.parametrize(("centre", "width"), [(128, 0), (128, -40), (128, float("nan"))])
def test_a_window_without_a_width_is_none(centre: float, width: float) -> None:
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    attributes = changed(windowed(centre, width, intercept=0), BitsStored=8)
    np.testing.assert_array_equal(GreyDisplay.from_dataset(attributes).show(stored), stored)


def test_a_window_narrower_than_one_is_no_threshold() -> None:
    display = GreyDisplay.from_dataset(windowed(0.5, 0.9, slope=0.001, intercept=0))
    assert len(np.unique(display.show(np.arange(1000, dtype=np.uint16).reshape(20, 50)))) > 200


@pytest.mark.parametrize("sequence", ["ModalityLUTSequence", "VOILUTSequence"])
@pytest.mark.parametrize("kind", ["US", "SS"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_the_first_value_of_a_lut_is_signed_as_the_samples_are(
    sequence: str, kind: str, signed: bool, packed: bool
) -> None:
    first = -1024 if signed else 40_000
    written = first % 65_536 - (65_536 if kind == "SS" and first % 65_536 > 32_767 else 0)
    table = np.arange(512, dtype="<u2") * 128
    item = lut([512, written, 16], table.tobytes() if packed else table.tolist(), kind)
    window = {"WindowCenter": 32768, "WindowWidth": 65536, "VOILUTFunction": "LINEAR_EXACT"}
    attributes = data_set(BitsStored=16, PixelRepresentation=int(signed), **{sequence: [item]}, **window)
    stored = np.arange(first - 100, first + 612).reshape(8, 89).astype(np.int16 if signed else np.uint16)

    shown = GreyDisplay.from_dataset(attributes).show(stored)

    assert np.abs(shown - (np.clip(np.arange(-100, 612), 0, 511).reshape(8, 89) / 2)).max() <= 1


def test_a_lut_of_bytes_is_read() -> None:
    attributes = data_set(VOILUTSequence=[lut([256, 0, 8], bytes(range(256)))], BitsStored=8)
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(GreyDisplay.from_dataset(attributes).show(stored), stored)


PICTURE = noise((30, 50))


@pytest.mark.parametrize(
    "pose",
    (*POSES, Pose(mirrored=True), Pose(90, mirrored=True), Pose(270, True, True)),
    ids=lambda pose: pose.name,
)
def test_putting_upright_undoes_the_pose_and_the_map_leads_every_pixel_to_where_it_has_gone(
    pose: Pose,
) -> None:
    picture = shown(PICTURE, pose)
    back, to_upright = upright(picture, pose)
    np.testing.assert_array_equal(back, PICTURE)
    for row, column in ((0, 0), (3, 7), (picture.shape[0] - 1, picture.shape[1] - 1)):
        ((x, y),), value = to_upright([(column + 0.5, row + 0.5)]), picture[row, column]
        assert back[int(y), int(x)] == (255 - value if pose.inverted else value)
        assert to_upright.inverse()([(x, y)])[0] == pytest.approx((column + 0.5, row + 0.5))


def test_turned_90_means_clockwise() -> None:
    assert shown(np.array([[1, 2], [3, 4]], np.uint8), Pose(90)).tolist() == [[3, 1], [4, 2]]
