"""A study that was given to a program, and objects as honest programs of others write them for it."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from ai_pipeline.contract import ProgramFile
from dicom_node.base.dicom.uids import derived_uid
from dicom_node.results.foreign.answer import judge_answer
from dicom_node.results.foreign.given import GivenInstance, GivenStudy
from dicom_node.results.foreign.verdict import JudgedAnswer, JudgedObject
from tests.modality import assign, data_set
from tests.result_images import context

STORAGE = "1.2.840.10008.5.1.4.1.1."
CT, SC, MR = STORAGE + "2", STORAGE + "7", STORAGE + "4"
ROWS, COLUMNS, SLICES = 32, 40, 4
SPACING, BETWEEN = 0.5, 2.0
FRAME_OF_REFERENCE = derived_uid("foreign test", "frame of reference")
STUDY, SERIES = derived_uid("foreign test", "study"), derived_uid("foreign test", "series")


def ct_slice(number: int, **attributes: Any) -> Dataset:
    """One slice of the study's CT, as its scanner sends it."""
    dataset = data_set(
        SpecificCharacterSet="ISO_IR 192", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], SOPClassUID=CT,
        SOPInstanceUID=derived_uid("foreign test", "slice", str(number)), StudyInstanceUID=STUDY,
        SeriesInstanceUID=SERIES, FrameOfReferenceUID=FRAME_OF_REFERENCE, PositionReferenceIndicator="",
        PatientID="PID-1", IssuerOfPatientID="HOSPITAL", PatientName="Ōta^Jane", PatientBirthDate="19700101",
        PatientSex="F", AccessionNumber="ACC-1", StudyID="1", ReferringPhysicianName="Referrer^Ann",
        StudyDescription="CT chest", StudyDate="20250102", StudyTime="101500", Modality="CT",
        Manufacturer="Scanner Maker", ManufacturerModelName="Scanner 1", InstitutionName="Hospital",
        SeriesDescription="thin", SeriesNumber=1, InstanceNumber=number, BodyPartExamined="CHEST",
        TimezoneOffsetFromUTC="+0100", KVP=120, AcquisitionNumber=1, RescaleIntercept=-1024, RescaleSlope=1,
        PixelSpacing=[SPACING, SPACING], SliceThickness=BETWEEN, ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        ImagePositionPatient=[-10.0, -8.0, BETWEEN * number], PatientPosition="HFS", Rows=ROWS,
        Columns=COLUMNS, SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2", BitsAllocated=16,
        BitsStored=12, HighBit=11, PixelRepresentation=0,
    )  # fmt: skip
    pixels = (np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) + number) % 4096
    dataset.PixelData = pixels.astype("<u2").tobytes()
    assign(dataset, **attributes)
    with_meta(dataset)
    return dataset


def with_meta(dataset: Dataset, **meta: Any) -> Dataset:
    """The data set with a header of a file that fits it."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.FileMetaInformationGroupLength = 0
    dataset.preamble = b"\0" * 128
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    assign(dataset.file_meta, **meta)
    return dataset


def ct_study(slices: Sequence[Dataset] = (), **values: Any) -> GivenStudy:
    """The call: a program with version 1.0 got all slices of the CT."""
    slices = slices or [ct_slice(number) for number in range(1, SLICES + 1)]
    given = {str(one.SOPInstanceUID): GivenInstance(one) for one in slices}
    about = context(pipeline="lung tool", pipeline_version="1.0")
    return replace(GivenStudy(about, slices[0], given, rule="lungs"), **values)


def derived_slice(number: int = 1, **attributes: Any) -> Dataset:
    """A slice with other pixels, as mercure's test module writes it: the source's header with new UIDs, a
    series number that is 1,000 higher, and a file header that still names the source.
    """
    dataset = ct_slice(number)
    source_uid = dataset.SOPInstanceUID
    pixels = np.frombuffer(dataset.PixelData, "<u2") // 2
    assign(
        dataset,
        SOPInstanceUID=generate_uid(),
        SeriesInstanceUID=derived_uid("foreign test", "a series of the maker"),
        SeriesNumber=1001,
        SeriesDescription="FILTER(thin)",
        PixelData=pixels.astype("<u2").tobytes(),
    )
    assign(dataset, **attributes)
    return with_meta(dataset, MediaStorageSOPInstanceUID=source_uid)


def part10(dataset: Dataset) -> bytes:
    """The file of a data set, whatever is wrong with it."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=False)
    return buffer.getvalue()


def files(*datasets: Dataset) -> list[ProgramFile]:
    """The files of an answer."""
    return [ProgramFile(f"{number}.dcm", part10(one)) for number, one in enumerate(datasets)]


def judged(*datasets: Dataset, study: GivenStudy | None = None, **values: Any) -> JudgedAnswer:
    """The verdict on an answer of these objects."""
    return judge_answer(files(*datasets), study or ct_study(), **values)


def verdict_on(dataset: Dataset, study: GivenStudy | None = None, **values: Any) -> JudgedObject:
    """The verdict on an answer of this object alone."""
    [found] = judged(dataset, study=study, **values).objects
    return found


def said(found: JudgedObject) -> str:
    """All reasons, repairs and notes in one text."""
    return "\n".join((*found.reasons, *found.repairs, *found.notes))


def without(values: Mapping[str, Any], dataset: Dataset) -> Dataset:
    """The data set without these attributes."""
    for keyword in values:
        delattr(dataset, keyword)
    return dataset
