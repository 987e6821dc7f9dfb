"""What a header says, also with faulty numbers."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from ai_pipeline.burnin.cleaning import overlay_note
from ai_pipeline.errors import HeaderError, PixelError
from ai_pipeline.images.decode import open_dicom, open_image, open_picture
from ai_pipeline.images.header import age_years, read_header
from ai_pipeline.images.numbers import decimal, decimal_of, is_empty, value_of, whole, whole_of
from tests.modality import chest
from tests.unit.ai_pipeline.images.images_lab import embedded, grey, with_planes, writing
from tests.unit.ai_pipeline.phantoms import data_set, echo, write_dicom


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
    dataset = data_set(PatientBirthDate=birth, StudyDate=study)
    dataset.add(DataElement("PatientAge", "LO", age))  # LO: any text may stand in a received object
    assert age_years(dataset) == (years and pytest.approx(years, abs=0.01))


def test_the_ultrasound_regions_are_boxes(tmp_path: Path) -> None:
    corners = {
        f"RegionLocation{name}": place
        for name, place in zip(("MinX0", "MinY0", "MaxX1", "MaxY1"), (10, 20, 109, 219), strict=True)
    }
    region = data_set(**corners, RegionSpatialFormat=3, RegionDataType=4)
    path = write_dicom(tmp_path / "us.dcm", echo()[None], SequenceOfUltrasoundRegions=[region])
    (found,) = open_dicom(path).header.ultrasound_regions
    assert (found.box, found.spatial_format, found.data_type) == ((10, 20, 110, 220), 3, 4)


def test_a_picture_has_the_same_uid_each_time(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(echo()).save(path)
    assert open_picture(path, "US").uid == open_picture(path, "US").uid
    assert np.array_equal(open_picture(path, "US").display(), echo())
    with pytest.raises(PixelError, match="modality"):
        open_image(path)


def test_an_image_does_not_tell_its_patient_s_name_when_it_is_printed(tmp_path: Path) -> None:
    assert "Secret" not in repr(open_dicom(write_dicom(tmp_path / "named.dcm", echo()[None])))


@pytest.mark.parametrize(
    ("syntax", "signed", "bit", "low"),
    [
        (ExplicitVRLittleEndian, False, 12, 0),
        (ExplicitVRLittleEndian, True, 15, 0),
        (RLELossless, True, 12, 0),
        (JPEGLSLossless, False, 15, 0),
        (ExplicitVRLittleEndian, False, 1, 4),
        (RLELossless, True, 0, 4),
    ],
)
def test_a_plane_above_or_below_the_stored_bits_never_reaches_the_samples(
    tmp_path: Path, syntax: str, signed: bool, bit: int, low: int
) -> None:
    path = embedded(tmp_path / "one.dcm", syntax, grey(signed), bit, low)
    raw = pixel_array(dcmread(path), raw=True, correct_unused_bits=False)
    assert np.any(raw.view(np.uint16) >> bit & 1), "the file holds no plane: nothing is tested"
    stored = open_dicom(path).stored()
    assert np.array_equal(stored, grey(signed)[0])
    assert stored.dtype.kind == ("i" if signed else "u")


def test_a_high_bit_that_is_only_wrong_changes_nothing(tmp_path: Path) -> None:
    values = grey(signed=False)
    path = write_dicom(tmp_path / "wrong.dcm", values, BitsStored=12, HighBit=15)
    assert np.array_equal(open_dicom(path).stored(), values[0])


def told(path: Path) -> str:
    note = overlay_note(open_dicom(path).header)
    return note.text if note else ""


def test_a_reader_is_told_how_many_planes_the_source_shows_and_none_without_a_drawn_pixel(
    tmp_path: Path,
) -> None:
    path = write_dicom(tmp_path / "two.dcm", grey(signed=False), BitsStored=12, HighBit=11)
    assert told(path) == told(with_planes(path, {0x6002: writing() * 0})) == ""
    assert told(with_planes(path, {0x6000: writing(), 0x601E: writing()})) == (
        "the source carries 2 overlay planes with drawn pixels; "
        "what they show is not part of the cleaned image"
    )
    hidden = embedded(tmp_path / "hidden.dcm", ExplicitVRLittleEndian, grey(signed=False), 12)
    assert told(hidden).startswith("the source carries 1 overlay plane in unused bits of its pixels;")
    with_planes(hidden, {0x6002: writing()})
    assert "1 overlay plane with drawn pixels and 1 overlay plane in unused bits" in told(hidden)


NUMBERS_ONLY = pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom, which quotes values


NONE = (
    *("", " ", "NaN", "inf", "1e999", "9" * 5000, "1\\2", "a", "\x1b\x07", "\uffff", "\\", "0x1", "1_000"),
    *("٣", "²", "--1", None, [1, 2], b"1", float("nan"), float("inf"), 10**400),
)


RAW = (b"9" * 5000, b"1e999 ", b"NaN ", b"-5", b" ", b"\xef\xbf\xbf ", b"1\\2 ", b"\x1b\x07", b"\xc2\xb2")


@NUMBERS_ONLY
def test_what_is_no_number_is_none() -> None:
    assert [value for value in NONE if (whole(value), decimal(value)) != (None, None)] == []


@NUMBERS_ONLY
def test_a_number_is_taken_within_its_limits() -> None:
    assert [whole(one) for one in ("7", " 007 ", "+7", 7, 7.0, "7\0")] == [7] * 6
    assert [whole(one) for one in ("-1", -1, 2**31, "2147483648", 1.5, "1.5")] == [None] * 6
    assert whole("-1", least=-1) == -1
    assert [decimal(one) for one in ("1.5", "1.5e0", ".5", "-2", 3)] == [1.5, 1.5, 0.5, -2.0, 3.0]
    assert [decimal(one) for one in ("1e17", "-1e300", 1e300)] == [None] * 3


@NUMBERS_ONLY
@pytest.mark.parametrize("keyword", ["InstanceNumber", "RescaleSlope", "WindowCenter", "Rows", "CineRate"])
def test_an_attribute_gives_a_number_or_the_default_and_no_error(keyword: str) -> None:
    for raw in RAW:
        dataset = with_raw(Dataset(), keyword, raw)
        assert whole_of(dataset, keyword, 4) in (4, *range(2**16)), raw
        assert abs(decimal_of(dataset, keyword, 4.0)) < 1e17, raw
        assert is_empty(dataset, keyword) == (not raw.strip()), raw
        value_of(dataset, keyword)


@NUMBERS_ONLY
@pytest.mark.parametrize("raw", [one for one in RAW if one.strip()], ids=lambda raw: ascii(raw)[2:12])
def test_a_number_of_frames_that_is_none_is_said(raw: bytes) -> None:
    image = with_raw(chest("one", np.zeros((4, 5), "u2")), "NumberOfFrames", raw)
    with pytest.raises(HeaderError, match="Number of Frames"):
        read_header(image)


def with_raw(dataset: Dataset, keyword: str, raw: bytes) -> Dataset:
    """The data set with these very bytes as the value."""
    tag = Tag(keyword)
    vr = {"Rows": "US", "PatientAge": "AS"}.get(
        keyword, "IS" if keyword in {"InstanceNumber", "CineRate", "NumberOfFrames"} else "DS"
    )
    dataset[tag] = RawDataElement(tag, vr, len(raw), raw, 0, False, True)
    return dataset
