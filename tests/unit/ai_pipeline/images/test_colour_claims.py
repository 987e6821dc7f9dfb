"""Colours whose claims are wrong in the header, in the code stream or in both; models that are retired."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import JPEGBaseline8Bit

from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import open_dicom
from tests.unit.ai_pipeline.images.test_decode import BARE, SOURCE, YCC, assert_colours, jpeg, relabelled
from tests.unit.ai_pipeline.phantoms import encapsulated, write_dicom

JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0\0"
RGB = jpeg(rgb=True, markers=False, identifiers=b"\1\2\3")


@pytest.mark.parametrize(
    ("stream", "photometric"),
    [(RGB[:2] + JFIF + RGB[2:], "RGB"), (BARE[:2] + ADOBE_RGB + BARE[2:], "YBR_FULL_422")],
)
def test_pixels_may_show_that_the_header_is_right(tmp_path: Path, stream: bytes, photometric: str) -> None:
    path = encapsulated(tmp_path / "x.dcm", SOURCE[None], [stream], JPEGBaseline8Bit)
    assert_colours(relabelled(path, photometric), photometric)


@pytest.mark.parametrize(
    ("samples", "photometric", "changes", "named"),
    [
        (SOURCE, "YBR_FULL", {}, "the pixels contradict"),
        (YCC, "RGB", {}, "the pixels contradict"),
        (SOURCE, "HSV", {}, "HSV is not decoded"),
        (SOURCE, "MONOCHROME2", {}, r"Samples per Pixel \(0028,0002\) is 3"),
        (SOURCE[..., 0], "RGB", {}, r"Samples per Pixel \(0028,0002\) is 1"),
        (
            YCC,
            "YBR_FULL_422",
            {"PlanarConfiguration": 1, "PixelData": YCC[:, ::2].tobytes() + bytes(38400)},
            "not 0",
        ),
    ],
)
def test_a_claim_that_the_picture_disproves_leaves_it_out(
    tmp_path: Path, samples: Any, photometric: str, changes: dict[str, Any], named: str
) -> None:
    path = relabelled(write_dicom(tmp_path / "x.dcm", samples[None], **changes), photometric)
    with pytest.raises(PixelError, match=named):
        open_dicom(path).stored()


def test_partial_ranges_and_few_bits_are_shown_in_full(tmp_path: Path) -> None:
    partial = np.rint(YCC * np.array([219, 224, 224]) / 255 + (16, 16, 16)).astype(np.uint8)
    pairs = np.stack(
        [partial[:, ::2, 0], partial[:, 1::2, 0], partial[:, ::2, 1], partial[:, ::2, 2]], axis=-1
    )
    path = write_dicom(tmp_path / "x.dcm", SOURCE[None], PixelData=pairs.tobytes())
    assert_colours(relabelled(path, "YBR_PARTIAL_422"), "YBR_PARTIAL_422")
    few = dcmread(write_dicom(path, SOURCE[None] >> 2))
    few.BitsStored, few.HighBit = 6, 5
    few.save_as(path)
    assert abs(open_dicom(path).display().astype(int) - SOURCE).max() < 4
