"""The one decoder: every file decodes, or fails with a cause and without PHI."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import (
    decoded_sha256,
    open_dicom,
    open_image,
    open_picture,
    samples_photometric,
)
from ai_pipeline.images.header import age_years
from tests.unit.ai_pipeline.phantoms import echo, write_dicom


def shipped(name: str) -> Path:
    """A test file that is installed with pydicom."""
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return Path(path)


@pytest.mark.data
def test_every_public_file_decodes_or_says_why_not(data: Path) -> None:
    with (data / "dicom" / "manifest.csv").open() as rows:
        wrong = []
        for row in csv.DictReader(rows):
            try:
                image = open_dicom(data / "dicom" / row["file"])
                for frame in {0, image.header.frames - 1}:
                    assert image.display(frame).dtype == np.uint8
                decodes = "y"
            except PixelError as error:
                assert str(error)
                decodes = "n"
            if decodes != row["decodes"]:
                wrong.append(row["file"])
        assert wrong == []


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_the_hash_is_of_the_samples_and_not_of_their_encoding(tmp_path: Path, syntax: str) -> None:
    samples = np.stack([echo(seed) for seed in (1, 2)])
    plain = write_dicom(tmp_path / "plain.dcm", samples)
    packed = write_dicom(tmp_path / "packed.dcm", samples, syntax)
    other = write_dicom(tmp_path / "other.dcm", samples[::-1].copy())
    assert decoded_sha256(plain) == decoded_sha256(open_dicom(packed)) != decoded_sha256(other)


@pytest.mark.parametrize("name", ["image_dfl.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm"])
def test_unusual_encodings_decode(name: str) -> None:
    image = open_dicom(shipped(name))
    assert image.stored().shape == (image.header.rows, image.header.columns)


def test_palette_and_ybr_become_rgb() -> None:
    palette = open_dicom(shipped("examples_palette.dcm"))
    assert palette.stored().shape == (350, 800, 3)
    assert palette.stored().dtype == np.uint8
    assert samples_photometric(palette.header) == "RGB"
    ybr = open_dicom(shipped("SC_ybr_full_422_uncompressed.dcm"))
    assert tuple(ybr.stored()[5, 50]) == (254, 0, 0)


def test_monochrome1_is_shown_bright_where_it_is_dense(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (4, 1))[None]
    image = open_dicom(write_dicom(tmp_path / "one.dcm", ramp, PhotometricInterpretation="MONOCHROME1"))
    assert image.display()[0, 0] == 255
    assert image.display()[0, -1] == 0
    assert np.array_equal(image.stored(), ramp[0])


def test_a_window_is_applied_as_the_standard_says(tmp_path: Path) -> None:
    ramp = np.arange(4096, dtype=np.uint16).reshape(1, 64, 64)
    path = write_dicom(
        tmp_path / "w.dcm", ramp, BitsStored=12, HighBit=11, WindowCenter=2048, WindowWidth=1025
    )
    shown = open_dicom(path).display().ravel()
    assert shown[1535] == 0  # PS3.3 C.11.2.1.2.1: x <= c - 0.5 - (w - 1) / 2
    assert shown[2560] == 255
    assert abs(int(shown[2048]) - 128) <= 1


def test_what_lies_above_bits_stored_is_cleared(tmp_path: Path) -> None:
    samples = np.full((1, 8, 8), 0x8000 | 0x0123, np.uint16)
    path = write_dicom(tmp_path / "overlay.dcm", samples, BitsStored=12, HighBit=11)
    assert int(open_dicom(path).stored().max()) == 0x0123


def test_deep_images_without_a_window_are_shown_by_percentiles(tmp_path: Path) -> None:
    samples = np.random.default_rng(1).integers(1000, 1100, (1, 64, 64)).astype(np.uint16)
    samples[0, 0, 0] = 65535
    image = open_dicom(write_dicom(tmp_path / "deep.dcm", samples))
    assert image.grey_display().choice == "percentiles"
    assert image.display()[1:].std() > 50  # one hot pixel does not turn the rest black


@pytest.mark.parametrize(
    ("attributes", "cause"),
    [
        ({"Rows": 0}, "Rows is 0"),
        ({"Rows": 100}, "172800 bytes, the header describes 48000"),
        ({"Columns": 500}, "pixel data is less than expected"),
        ({"BitsAllocated": 0}, "BitsAllocated is 0"),
    ],
)
def test_a_damaged_image_names_the_cause_and_no_person(
    tmp_path: Path, attributes: dict[str, int], cause: str
) -> None:
    path = write_dicom(tmp_path / "bad.dcm", echo()[None], **attributes)
    with pytest.raises(PixelError, match=cause) as failure:
        open_dicom(path).stored()
    assert "Secret" not in str(failure.value)


def test_a_truncated_file_is_a_pixel_error(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "cut.dcm", echo()[None])
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(PixelError):
        open_dicom(path).stored()


def test_what_is_neither_dicom_nor_picture_is_a_pixel_error(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("hello")
    with pytest.raises(PixelError, match="neither"):
        open_image(path)
    with pytest.raises(PixelError):
        open_dicom(path)


def test_a_frame_that_is_not_there_is_a_pixel_error(tmp_path: Path) -> None:
    image = open_dicom(write_dicom(tmp_path / "one.dcm", echo()[None]))
    with pytest.raises(PixelError, match="no frame 2"):
        image.stored(1)


@pytest.mark.parametrize(
    ("age", "birth", "study", "years"),
    [
        ("045Y", "", "", 45.0),
        ("006M", "", "", 0.5),
        ("", "19700101", "20200101", 50.0),
        ("", "18600101", "20200101", None),
        ("099X", "", "", None),
    ],
)
def test_the_age_comes_from_the_age_or_the_dates(
    age: str, birth: str, study: str, years: float | None
) -> None:
    dataset = Dataset()
    dataset.add(DataElement("PatientAge", "LO", age))  # LO: any text may stand in a received object
    dataset.PatientBirthDate, dataset.StudyDate = birth, study
    found = age_years(dataset)
    assert (found is None) if years is None else (found is not None and abs(found - years) < 0.01)


def test_the_ultrasound_regions_are_boxes(tmp_path: Path) -> None:
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 10, 20
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 109, 219
    region.RegionSpatialFormat, region.RegionDataType = 3, 4
    path = write_dicom(tmp_path / "us.dcm", echo()[None], SequenceOfUltrasoundRegions=[region])
    (found,) = open_dicom(path).header.ultrasound_regions
    assert found.box == (10, 20, 110, 220)
    assert (found.spatial_format, found.data_type) == (3, 4)


def test_a_picture_has_the_same_uid_each_time(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(echo()).save(path)
    assert open_picture(path, "US").uid == open_picture(path, "US").uid
    assert np.array_equal(open_picture(path, "US").display(), echo())
    with pytest.raises(PixelError, match="modality"):
        open_image(path)


def test_an_image_does_not_tell_its_patient_s_name_when_it_is_printed(tmp_path: Path) -> None:
    path = tmp_path / "named.dcm"
    dataset = get_testdata_file("CT_small.dcm", read=True)
    dataset.PatientName = "Invented^Name"
    dataset.save_as(path)

    assert "Invented" not in repr(open_dicom(path))
