"""What a person says of pictures, and the objects that are made of them."""

import io
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from pydicom import dcmread
from pydicom.dataset import Dataset

from ai_pipeline.images.decode import open_dicom
from dicom_node.base.errors import FaultyInput
from dicom_node.people.captures import secondary_capture
from dicom_node.people.described import checked

TOMORROW = f"{date.today() + timedelta(days=2)}"
PATIENT = {"PatientID": "P-7", "PatientName": "Müller^Änne=山田^太郎", "Modality": "DX", "View": "PA"}
FAULTY: dict[str, tuple[dict[str, str], str]] = {
    "50,000 characters": ({"PatientName": "A" * 50_000}, "PatientName has more than 64 characters"),
    "a long accession number": ({"AccessionNumber": "1" * 17}, "AccessionNumber has more than 16"),
    "a backslash": ({"PatientID": "P\\7"}, "PatientID has a backslash"),
    "a line feed": ({"StudyDescription": "a\nb"}, "StudyDescription has a backslash, or characters"),
    "a text that turns round": ({"PatientName": "a\u202eb"}, "characters that cannot be seen"),
    "half a character": ({"PatientName": "a\ud800"}, "characters that cannot be seen"),
    "four groups": ({"PatientName": "a=b=c=d"}, "is no name of DICOM"),
    "six components": ({"PatientName": "a^b^c^d^e^f"}, "is no name of DICOM"),
    "three names with commas": ({"PatientName": "Müller, Änne, Dr."}, "PatientName has several commas"),
    "a day that is none": ({"StudyDate": "2024-02-30"}, "StudyDate is no day"),
    "no day at all": ({"PatientBirthDate": "yesterday"}, "PatientBirthDate is no day"),
    "a day to come": ({"StudyDate": TOMORROW}, "StudyDate is no day from 1895"),
    "born in the future": ({"PatientBirthDate": TOMORROW}, "PatientBirthDate is no day from 1880"),
    "born too long ago": ({"PatientBirthDate": "1600-01-01"}, "PatientBirthDate is no day from 1880"),
    "a study before birth": (
        {"PatientBirthDate": "2000-01-01", "StudyDate": "1999-12-31"},
        "StudyDate is before the birth date",
    ),
    "an unknown sex": ({"PatientSex": "X"}, "PatientSex is one of F, M, O"),
    "another modality": ({"Modality": "CT"}, "Modality is one of US, DX, CR, OT"),
    "another view": ({"View": "AXIAL"}, "View is one of PA, AP"),
    "nothing": ({"PatientID": ""}, "PatientID is missing"),
}


@pytest.mark.parametrize("case", FAULTY)
def test_a_field_that_cannot_be_is_refused_in_words(case: str) -> None:
    fields, why = FAULTY[case]
    with pytest.raises(FaultyInput) as refused:
        checked({**PATIENT, **fields}, needed=["PatientID"])
    assert why in str(refused.value)


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("Müller, Jürgen", "Müller^Jürgen"),
        ("Müller,Jürgen Karl", "Müller^Jürgen Karl"),
        ("Müller,", "Müller"),
        ("Müller^Jürgen^^Dr., MD", "Müller^Jürgen^^Dr., MD"),
        ("Yamada, Tarō = 山田、太郎", "Yamada^Tarō=山田^太郎"),
        ("van der Berg", "van der Berg"),
    ],
    ids=["as the console shows it", "two given names", "no given name", "of DICOM", "two groups", "one word"],
)
def test_a_name_typed_as_the_console_shows_it_is_one_of_dicom(typed: str, name: str) -> None:
    assert checked({"PatientName": typed}) == {"PatientName": name}


def test_all_faulty_fields_are_named_at_once() -> None:
    with pytest.raises(
        FaultyInput, match=r"PatientID is missing; StudyDate is no day .*; Modality is one of"
    ):
        checked({"PatientID": "", "StudyDate": "x", "Modality": "x"}, needed=["PatientID"])


@pytest.mark.parametrize("typed", ["1960-01-02", "19600102", "02.01.1960"])
def test_a_day_is_read_as_people_write_it(typed: str) -> None:
    assert checked({"PatientBirthDate": typed}) == {"PatientBirthDate": "19600102"}


def saved(picture: Image.Image, kind: str, **how: object) -> bytes:
    data = io.BytesIO()
    picture.save(data, kind, **how)
    return data.getvalue()


def captured(data: bytes, number: int = 1, upload: str = "upload-1") -> Dataset:
    return dcmread(io.BytesIO(secondary_capture(data, PATIENT, upload, number)))


def test_a_picture_becomes_a_secondary_capture_that_says_whose_it_is_and_where_from() -> None:
    made = captured(saved(Image.new("RGB", (61, 41), (9, 99, 199)), "PNG"))
    assert made.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
    assert made.ConversionType == "WSD"
    assert (made.Modality, made.ViewPosition) == ("DX", "PA")
    assert str(made.PatientName) == PATIENT["PatientName"]
    assert made.SpecificCharacterSet == "ISO_IR 192"
    assert made.StudyDate == made.DateOfSecondaryCapture
    assert made.SecondaryCaptureDeviceManufacturerModelName == "DICOM AI Node"
    assert "uploaded" in made.DerivationDescription
    assert "ContributingEquipmentSequence" not in made, "it is no result of the node"
    assert (made.pixel_array == (9, 99, 199)).all()


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_samples_of_8_to_16_bits_are_kept_as_they_are(kind: str, bits: int) -> None:
    samples = np.linspace(0, 2**bits - 1, 63 * 40).reshape(40, 63)
    picture = Image.fromarray(samples.astype(np.uint8 if bits == 8 else np.uint16))
    made = captured(saved(picture, kind))
    assert (made.BitsStored, made.HighBit) == (bits, bits - 1)
    assert np.array_equal(made.pixel_array, np.asarray(picture))
    assert "LossyImageCompression" not in made


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_picture_is_turned_as_it_was_held(kind: str, orientation: int) -> None:
    held = np.zeros((40, 64), np.uint8)
    held[:16, :32] = 200
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(held), kind, exif=exif)
    made = captured(data)
    with Image.open(io.BytesIO(data)) as picture:
        upright = np.asarray(ImageOps.exif_transpose(picture))
    assert made.pixel_array.shape == ((64, 40) if orientation > 4 else (40, 64))
    assert np.array_equal(made.pixel_array, upright)


def test_a_jpeg_says_that_it_lost_something() -> None:
    made = captured(saved(Image.new("L", (64, 40), 7), "JPEG"))
    assert (made.LossyImageCompression, made.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert float(made.LossyImageCompressionRatio) > 1


def test_two_uploads_of_one_picture_are_two_studies_and_two_pictures_of_one_are_one() -> None:
    data = saved(Image.new("L", (40, 30), 7), "PNG")
    first, again, second = captured(data), captured(data, upload="upload-2"), captured(data, 2)
    assert first.StudyInstanceUID != again.StudyInstanceUID
    assert first.SOPInstanceUID != again.SOPInstanceUID
    assert first.StudyInstanceUID == second.StudyInstanceUID
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    assert (first.InstanceNumber, second.InstanceNumber) == (1, 2)


@pytest.mark.parametrize("sides", [(1, 1), (3, 1), (1, 3)], ids=str)
def test_a_tiny_picture_with_its_padding_byte_is_read_back(sides: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "tiny.dcm"
    path.write_bytes(secondary_capture(saved(Image.new("L", sides, 7), "PNG"), PATIENT, "upload-1", 1))
    assert open_dicom(path).stored().tolist() == [[7] * sides[0]] * sides[1]
