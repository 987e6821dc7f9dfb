"""Grey levels whose header is faulty in one attribute are shown as without it; bits are where they lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import open_dicom
from tests.unit.ai_pipeline.phantoms import echo, write_dicom

DEEP = echo(3, (96, 128)).astype(np.uint16) * 16
TWELVE = {"BitsStored": 12, "HighBit": 11}


def table(descriptor: list[int], words: int) -> dict[str, Any]:
    """A VOI LUT of so many entries."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", descriptor)
    item.add_new("LUTData", "OW", bytes(2 * words))
    return {"VOILUTSequence": [item]}


@pytest.mark.parametrize(
    ("shift", "faulty"),
    [
        (0, {"VOILUTSequence": [Dataset()]}),
        (0, table([4096, 0, 16], 2000)),
        (0, table([4096, 0], 4096)),
        (0, {"RescaleSlope": "0", "RescaleIntercept": "0"}),
        (0, {"RescaleSlope": None, "RescaleIntercept": "0"}),
        (4, {"HighBit": 15}),
    ],
)
def test_a_faulty_attribute_of_greys_is_as_none(tmp_path: Path, shift: int, faulty: dict[str, Any]) -> None:
    plain = open_dicom(write_dicom(tmp_path / "plain.dcm", DEEP[None], **TWELVE)).display()
    image = open_dicom(write_dicom(tmp_path / "x.dcm", DEEP[None] << shift, **TWELVE | faulty))
    assert np.array_equal(image.display(), plain)


def test_a_palette_of_signed_samples_begins_at_a_signed_value(tmp_path: Path) -> None:
    samples = (DEEP // 16).astype(np.int16) - 128
    palettes = {f"{one}PaletteColorLookupTableData": bytes(range(256)) for one in ("Red", "Green", "Blue")}
    path = write_dicom(
        tmp_path / "x.dcm",
        samples[None].astype(np.int8),
        PhotometricInterpretation="PALETTE COLOR",
        **palettes,
    )
    dataset = dcmread(path)
    for tag in (0x00281101, 0x00281102, 0x00281103):
        dataset.add_new(tag, "US", [256, 0x10000 - 128, 8])
    dataset.save_as(path)
    assert np.array_equal(open_dicom(path).stored()[..., 0], DEEP // 16)


def test_one_uncompressed_frame_more_than_the_header_says_is_told(tmp_path: Path) -> None:
    frames = np.stack([DEEP] * 40)
    with pytest.raises(PixelError, match="the pixel data are"):
        open_dicom(write_dicom(tmp_path / "x.dcm", frames, NumberOfFrames=39))
