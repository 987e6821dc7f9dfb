"""A mask that a program drew on a series: on each slice the part of that slice alone."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from dicom_console.views.pictures import Shown
from dicom_console.views.viewer import mask_png
from dicom_node.base.errors import NotFound
from dicom_node.base.lifecycle import ResultKind
from tests import ct_lab

SLICES = ct_lab.ct_slices("masked", 3)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    folder = ct_lab.answer(tmp_path_factory.mktemp("masks"), SLICES)
    return Shown(folder / "seg.dcm", 1, ResultKind.SEG)


def painted(shown: Shown, image: str) -> np.ndarray:
    """Where something is drawn."""
    return np.asarray(Image.open(io.BytesIO(mask_png(shown, 1, image))))[..., 3] > 0


@pytest.mark.parametrize("place", range(3))
def test_a_slice_shows_its_own_part_of_a_mask(shown: Shown, place: int) -> None:
    volume = np.stack([one.pixel_array for one in SLICES])
    drawn = volume[place] > np.percentile(volume, 80)
    assert (painted(shown, SLICES[place].SOPInstanceUID) == drawn).all()


def test_a_label_map_shows_the_pixels_of_its_label(shown: Shown, tmp_path: Path) -> None:
    labels = dcmread(shown.path)
    pixels = (labels.pixel_array > 0).astype(np.uint8)
    pixels[:, :10] = 2
    labels.SegmentationType = "LABELMAP"
    labels.BitsAllocated = labels.BitsStored = 8
    labels.HighBit = 7
    labels.PixelData = pixels.tobytes()
    labels.save_as(tmp_path / "labels.dcm", enforce_file_format=True)
    made = Shown(tmp_path / "labels.dcm", 1, ResultKind.SEG)
    assert (painted(made, SLICES[1].SOPInstanceUID) == (pixels[1] == 1)).all()


@pytest.mark.parametrize(
    ("segment", "image"), [(2, ""), (1, "1.2.3")], ids=["no such segment", "of another image"]
)
def test_what_is_not_in_a_mask_is_not_shown(shown: Shown, segment: int, image: str) -> None:
    with pytest.raises(NotFound):
        mask_png(shown, segment, image)
