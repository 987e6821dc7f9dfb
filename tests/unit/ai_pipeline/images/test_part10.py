"""Headers of Part 10 files that pydicom alone reads otherwise than DCMTK and PACSs do."""

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import open_dicom
from dicom_node.receive.inspection import inspect
from tests.modality import assign, ultrasound

BEHIND_HEADER = 132 + 8


def stray(element: int, value: bytes) -> bytes:
    return struct.pack("<HH2sH", 2, element, b"UI", len(value)) + value


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    """The bytes of a sound file."""
    path = tmp_path / "sound.dcm"
    ultrasound("stray").save_as(path, enforce_file_format=True)
    return path.read_bytes()


def split(whole: bytes) -> tuple[bytes, bytes]:
    """Preamble with header, and data set."""
    (length,) = struct.unpack_from("<I", whole, BEHIND_HEADER)
    return whole[: BEHIND_HEADER + 4 + length], whole[BEHIND_HEADER + 4 + length :]


@pytest.mark.parametrize(
    "behind",
    [
        stray(3, b"1.2.3.9\0"),
        stray(0x10, b"1.2.840.10008.1.2.2\0"),
        struct.pack("<HHI", 2, 0x10, 18) + b"1.2.840.10008.1.2\0",
        None,
    ],
    ids=["one element", "another transfer syntax", "in Implicit VR", "a whole second header"],
)
def test_the_first_header_counts_and_stray_elements_are_passed_over(
    behind: bytes | None, whole: bytes, tmp_path: Path
) -> None:
    head, data = split(whole)
    second = head[132:].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.2\0")
    path = tmp_path / "stray.dcm"
    path.write_bytes(head + (second if behind is None else behind) + data)
    dataset = pydicom.dcmread(path)
    assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    assert (open_dicom(path).stored(0) == pydicom.dcmread(tmp_path / "sound.dcm").pixel_array).all()


@pytest.mark.parametrize("wrong", [-150, -100, -20, 20, 100_000])
def test_a_wrong_group_length_hides_nothing(wrong: int, whole: bytes, tmp_path: Path) -> None:
    (length,) = struct.unpack_from("<I", whole, BEHIND_HEADER)
    path = tmp_path / "length.dcm"
    path.write_bytes(whole[:BEHIND_HEADER] + struct.pack("<I", length + wrong) + whole[BEHIND_HEADER + 4 :])
    dataset = pydicom.dcmread(path)
    assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert dataset == pydicom.dcmread(tmp_path / "sound.dcm")
    assert inspect(path).fault == ""


@pytest.mark.parametrize("pack", [zlib.compress, gzip.compress, bytes], ids=["zlib", "gzip", "not deflated"])
def test_data_that_are_not_deflated_as_dicom_says_are_refused_with_the_reason(
    whole: bytes, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    dataset = pydicom.dcmread(tmp_path / "sound.dcm")
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    path = tmp_path / "deflated.dcm"
    dataset.save_as(path, enforce_file_format=True)
    head, deflated = split(path.read_bytes())
    path.write_bytes(head + pack(zlib.decompress(deflated, -zlib.MAX_WBITS)))
    with pytest.raises(PixelError, match="not deflated without a header of zlib or gzip"):
        open_dicom(path)
    assert "not deflated without a header of zlib or gzip" in inspect(path).fault


def test_a_file_without_its_prefix_is_refused_with_the_reason(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bare.dcm"
    path.write_bytes(whole[132:])
    with pytest.raises(PixelError, match="the prefix DICM behind its preamble is missing"):
        open_dicom(path)


@pytest.mark.parametrize(
    "more",
    [
        {"PixelPresentation": "COLOR"},
        {"PixelPresentation": "MIXED"},
        {"RedPaletteColorLookupTableData": b"\1\2", "GreenPaletteColorLookupTableData": b"\1\3"},
        {"SegmentedBluePaletteColorLookupTableData": b"\0\1\2\0"},
    ],
    ids=["colour", "mixed", "tables alone", "a segmented table"],
)
def test_grey_samples_that_stand_for_colours_are_not_shown_as_grey(
    more: dict[str, str | bytes], tmp_path: Path
) -> None:
    dataset = assign(ultrasound("coloured"), PhotometricInterpretation="MONOCHROME2", **more)
    path = tmp_path / "palette.dcm"
    dataset.save_as(path, enforce_file_format=True)
    with pytest.raises(PixelError, match="supplemental palette"):
        open_dicom(path)
