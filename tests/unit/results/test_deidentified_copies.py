"""Copies of received images that do not say who the patient is, and answers that are mapped back."""

from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicom_node.base.errors import ResultRefused
from dicom_node.base.sitekey import SiteKey
from dicom_node.results.deidentified.copies import SentAs, deidentified_copy, why_no_copy
from dicom_node.results.deidentified.pseudonyms import Pseudonyms
from tests.ct_lab import ct_slices
from tests.modality import data_set, part_10

PSEUDONYMS = Pseudonyms(SiteKey(b"k" * 32), "remote-vendor")
NAMES = {
    "PatientName": "Okafor^Lina", "PatientID": "HOSP-774411", "PatientBirthDate": "19580311",
    "OtherPatientNames": "Adeyemi^Lina", "ReferringPhysicianName": "Szymanski^Ewa",
    "AccessionNumber": "ACC8812", "InstitutionName": "Klinikum Musterdorf", "StationName": "CTROOM2",
    "StudyDescription": "for Dr Szymanski", "PatientComments": "mother of Chidi", "StudyID": "ST90021",
    "DeviceSerialNumber": "SN-55661", "PerformingPhysicianName": "Brandt^Uwe", "StudyDate": "20261130",
    "ProtocolName": "Okafor chest", "ImageComments": "see Okafor 1958", "ConvolutionKernel": "LINA",
}  # fmt: skip


def image(**other: object) -> Dataset:
    """A slice with names wherever a scanner may write them."""
    made = dcmread(BytesIO(part_10(ct_slices("copies", 1, side=32)[0])))
    for keyword, value in {**NAMES, **other}.items():
        setattr(made, keyword, value)
    made.ReferencedStudySequence = [data_set(ReferencedSOPInstanceUID=made.StudyInstanceUID)]
    made.RequestAttributesSequence = [data_set(RequestedProcedureID="RP4471", ScheduledProcedureStepID="OK1")]
    block = made.private_block(0x0011, "OKAFOR INC", create=True)
    block.add_new(1, "LO", "Lina Okafor")
    return made


def copied(source: Dataset) -> Dataset:
    return dcmread(BytesIO(deidentified_copy(source, PSEUDONYMS)))


def test_no_byte_of_a_copy_says_who_the_patient_is() -> None:
    source = image()
    data = deidentified_copy(source, PSEUDONYMS)
    identity = [*NAMES.values(), "Okafor", "Lina", "Szymanski", "Chidi", "774411", "RP4471"]
    levels = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
    uids = [str(source[keyword].value) for keyword in levels]
    assert [text for text in (*identity, *uids) if text.encode() in data] == []


def test_a_copy_bears_its_pseudonym_and_says_that_it_is_one() -> None:
    copy = copied(image())
    assert copy.PatientID.startswith("AI-")
    assert copy.PatientName == f"{copy.PatientID}^"
    assert copy.PatientIdentityRemoved == "YES"
    assert copy.DeidentificationMethodCodeSequence[0].CodeValue == "113100"


def test_pixels_and_geometry_of_a_copy_are_those_of_the_image() -> None:
    source = image()
    copy = copied(source)
    assert np.array_equal(copy.pixel_array, source.pixel_array)
    for keyword in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "SliceThickness",
                    "RescaleSlope", "RescaleIntercept", "Modality", "BodyPartExamined"):  # fmt: skip
        assert copy[keyword].value == source[keyword].value


def test_copies_of_one_study_belong_together_and_another_server_knows_others() -> None:
    first, second = (copied(one) for one in ct_slices("copies", 2, side=32))
    other = dcmread(BytesIO(deidentified_copy(image(), Pseudonyms(SiteKey(b"k" * 32), "remote-other"))))
    assert first.StudyInstanceUID == second.StudyInstanceUID
    assert first.FrameOfReferenceUID == second.FrameOfReferenceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert other.PatientID != copied(image()).PatientID
    assert other.StudyInstanceUID != first.StudyInstanceUID


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1"}, "only CT, MR, PET"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "only CT, MR, PET"),
        ({"BurnedInAnnotation": "YES"}, "burned into the pixels"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]}, "secondary image"),
        ({"PatientName": "Axial^Anna", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL ANNA"]}, "cannot be made"),
    ],
)
def test_what_may_show_or_hold_a_name_is_not_copied(change: dict[str, object], why: str) -> None:
    with pytest.raises(ResultRefused, match=why) as refusal:
        deidentified_copy(image(**change), PSEUDONYMS)
    assert "Anna" not in str(refusal.value)


def test_an_overlay_in_bits_of_the_pixels_is_not_copied() -> None:
    source = image()
    source.add_new(0x60000102, "US", 12)
    assert "overlay" in why_no_copy(source)


def answer(copy: Dataset, **other: object) -> bytes:
    """What a server derives from a copy."""
    made = dcmread(BytesIO(part_10(copy)))
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.SourceImageSequence = [
        data_set(ReferencedSOPClassUID=copy.SOPClassUID, ReferencedSOPInstanceUID=copy.SOPInstanceUID)
    ]
    for keyword, value in other.items():
        setattr(made, keyword, value)
    return part_10(made)


def test_an_answer_is_of_the_patient_and_refers_to_the_images_again() -> None:
    source = image()
    given = answer(copied(source))
    back = dcmread(BytesIO(SentAs.of([source], PSEUDONYMS).mapped_back(given)))
    assert (back.PatientID, str(back.PatientName)) == (source.PatientID, str(source.PatientName))
    assert back.PatientBirthDate == source.PatientBirthDate
    assert back.StudyInstanceUID == source.StudyInstanceUID
    assert back.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert back.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert (
        back.SOPInstanceUID
        == dcmread(BytesIO(given)).SOPInstanceUID
        == back.file_meta.MediaStorageSOPInstanceUID
    )


@pytest.mark.parametrize("patient", ["AI-ANOTHER", "HOSP-774411", ""])
def test_an_answer_of_another_pseudonym_is_not_mapped(patient: str) -> None:
    source = image()
    given = answer(copied(source), PatientID=patient)
    assert SentAs.of([source], PSEUDONYMS).mapped_back(given) == given


@pytest.mark.parametrize("data", [b"", b"no DICOM", bytes(132), bytes(128) + b"DICM" + b"\xff" * 40])
def test_what_cannot_be_read_is_left_to_the_gate(data: bytes) -> None:
    assert SentAs.of([image()], PSEUDONYMS).mapped_back(data) == data
