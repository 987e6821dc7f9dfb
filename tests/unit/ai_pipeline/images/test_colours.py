"""The colours of a picture, whatever its header claims."""

from pathlib import Path
from typing import Any

import numpy as np
import openjpeg
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit

from ai_pipeline.errors import PixelError
from ai_pipeline.images import colours
from ai_pipeline.images.decode import open_dicom
from dicom_node.receive.inspection import inspect
from tests.unit.ai_pipeline.images.images_lab import (
    DEEP,
    EVERY,
    SOURCE,
    YCC,
    assert_colours,
    encoded,
    jpeg,
    lut,
    relabelled,
)
from tests.unit.ai_pipeline.phantoms import Picture, echo, encapsulated, write_dicom

BARE = jpeg(markers=False)


JPEGS = {
    "JFIF": jpeg(),
    "bare, half the chrominance": jpeg(subsampling=1, markers=False),
    "bare, a quarter of the chrominance": jpeg(subsampling=2, markers=False),
    "bare": BARE,
    "bare, components 0 to 2": jpeg(markers=False, identifiers=b"\0\1\2"),
    "Adobe YCC": BARE[:2] + b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0\x01" + BARE[2:],
    "Adobe RGB": jpeg(rgb=True, identifiers=b"\1\2\3"),
    "components R, G, B": jpeg(rgb=True, markers=False),
    "components r, g, b": jpeg(rgb=True, markers=False, identifiers=b"rgb"),
}


@pytest.mark.parametrize("stream", JPEGS)
def test_a_jpeg_has_the_colours_of_its_code_stream(tmp_path: Path, stream: str) -> None:
    path = encapsulated(tmp_path / "x.dcm", SOURCE[None], [JPEGS[stream]], JPEGBaseline8Bit)
    for photometric in EVERY:
        assert_colours(path, photometric)


@pytest.mark.parametrize(
    ("samples", "how", "names"),
    [
        (SOURCE, {"use_mct": True}, EVERY),
        (SOURCE, {"use_mct": True, "compression_ratios": [8.0]}, EVERY),
        (SOURCE, {"use_mct": False}, ["RGB", "YBR_ICT"]),
        (YCC, {"use_mct": False}, ["YBR_FULL", "YBR_RCT"]),
    ],
    ids=["transformed", "lossy", "RGB", "YCbCr"],
)
def test_a_jpeg_2000_is_rgb_if_it_was_transformed_else_what_the_header_says_or_the_pixels_show(
    tmp_path: Path, samples: Picture, how: dict[str, Any], names: list[str]
) -> None:
    frame = openjpeg.encode(samples, photometric_interpretation=1, **how)
    path = encapsulated(tmp_path / "x.dcm", SOURCE[None], [frame], JPEG2000Lossless)
    for photometric in names:
        assert_colours(path, photometric)


def test_components_with_more_samples_than_the_first_are_no_chrominance() -> None:
    of_frame = b"\x08\0\x08\0\x08\3" + bytes((1, 0x11, 0, 2, 0x22, 0, 3, 0x11, 0))
    assert colours.of_jpeg([(0xC0, of_frame)], "RGB") == colours.UNKNOWN


def test_a_picture_whose_colours_nobody_can_know_is_left_out(tmp_path: Path) -> None:
    bare = encoded(np.full((240, 320, 3), (90, 160, 40), np.uint8), subsampling=0).replace(b"JFIF", b"----")
    path = encapsulated(tmp_path / "x.dcm", SOURCE[None], [bare], JPEGBaseline8Bit)
    with pytest.raises(PixelError, match="contradict each other"):
        open_dicom(path).stored()


@pytest.mark.parametrize("samples", [SOURCE, YCC], ids=["RGB", "YCbCr"])
def test_uncompressed_chrominance_at_each_pixel_is_taken(tmp_path: Path, samples: Picture) -> None:
    path = write_dicom(tmp_path / "x.dcm", np.stack([samples] * 2), PhotometricInterpretation="YBR_FULL_422")
    assert inspect(path).fault == ""
    assert_colours(path, "YBR_FULL_422")


JFIF = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
PLAIN_RGB = jpeg(rgb=True, markers=False, identifiers=b"\1\2\3")


@pytest.mark.parametrize(
    ("stream", "photometric"),
    [
        (PLAIN_RGB[:2] + JFIF + PLAIN_RGB[2:], "RGB"),
        (BARE[:2] + b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0\0" + BARE[2:], "YBR_FULL_422"),
    ],
)
def test_pixels_may_show_that_the_header_is_right(tmp_path: Path, stream: bytes, photometric: str) -> None:
    assert_colours(encapsulated(tmp_path / "x.dcm", SOURCE[None], [stream], JPEGBaseline8Bit), photometric)


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
        # grey samples that nothing explains
        (
            SOURCE[..., 0],
            "PALETTE COLOR",
            {},
            "the Red Palette Color Lookup Table or its descriptor is missing",
        ),
        (SOURCE[..., 0], "MONOCHROME3", {}, r"Photometric Interpretation \(0028,0004\) is no term"),
        # a damaged header
        (echo(), "MONOCHROME2", {"Rows": 0}, "Rows is 0"),
        (echo(), "MONOCHROME2", {"Rows": 100}, "172800 bytes, the header describes 48000"),
        (echo(), "MONOCHROME2", {"Columns": 500}, "pixel data is less than expected"),
        (echo(), "MONOCHROME2", {"BitsAllocated": 0}, "BitsAllocated is 0"),
    ],
)
def test_a_claim_that_the_picture_disproves_leaves_it_out_and_the_cause_names_no_person(
    tmp_path: Path, samples: Any, photometric: str, changes: dict[str, Any], named: str
) -> None:
    path = relabelled(write_dicom(tmp_path / "x.dcm", samples[None], **changes), photometric)
    with pytest.raises(PixelError, match=named) as failure:
        open_dicom(path).stored()
    assert "Secret" not in str(failure.value)


def test_partial_ranges_and_few_bits_are_shown_in_full(tmp_path: Path) -> None:
    partial = np.rint(YCC * np.array([219, 224, 224]) / 255 + (16, 16, 16)).astype(np.uint8)
    pairs = np.stack(
        [partial[:, ::2, 0], partial[:, 1::2, 0], partial[:, ::2, 1], partial[:, ::2, 2]], axis=-1
    )
    path = write_dicom(tmp_path / "x.dcm", SOURCE[None], PixelData=pairs.tobytes())
    assert_colours(path, "YBR_PARTIAL_422")
    write_dicom(path, SOURCE[None] >> 2, BitsStored=6, HighBit=5)
    assert abs(open_dicom(path).display().astype(int) - SOURCE).max() < 4


TWELVE = {"BitsStored": 12, "HighBit": 11}


@pytest.mark.parametrize(
    ("shift", "faulty"),
    [
        (0, {"VOILUTSequence": [Dataset()]}),
        (0, {"VOILUTSequence": [lut([4096, 0, 16], bytes(2 * 2000))]}),
        (0, {"VOILUTSequence": [lut([4096, 0], bytes(2 * 4096))]}),
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
    path = write_dicom(
        tmp_path / "x.dcm",
        ((DEEP // 16).astype(np.int16) - 128)[None].astype(np.int8),
        PhotometricInterpretation="PALETTE COLOR",
        **{f"{one}PaletteColorLookupTableData": bytes(range(256)) for one in ("Red", "Green", "Blue")},
    )
    dataset = dcmread(path)
    for tag in (0x00281101, 0x00281102, 0x00281103):
        dataset.add_new(tag, "US", [256, 0x10000 - 128, 8])
    dataset.save_as(path)
    assert np.array_equal(open_dicom(path).stored()[..., 0], DEEP // 16)
