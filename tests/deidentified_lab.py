"""An ultrasound whose header names its patient wherever PS3.15 Table E.1-1 says that a header may."""

from collections.abc import Set
from pathlib import Path
from typing import Any

import numpy as np
from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as table
from pydicom import dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from ai_pipeline.contract import PipelineResult, QualityNote
from dicom_node.base.dicom.header import quiet_pydicom
from dicom_node.base.lifecycle import DEIDENTIFIED_KINDS, Retained
from dicom_node.base.sitekey import SiteKey
from dicom_node.results.context import ResultContext
from dicom_node.results.deidentified.build import Deidentified, build_deidentified
from dicom_node.results.deidentified.pseudonyms import Pseudonyms
from dicom_node.results.source import SourceObject
from tests.modality import assign, data_set
from tests.result_images import NODULE, US, context, finding, source, speckle, without_text, write_image

SECRET = "ZQX"  # begins every text that must not be found again
BIRTH_DATE, EXAMINED, OTHER_DATE = "19410309", "20260107", "20190405"
UID_ROOT = "1.2.826.0.1.3680043.9.9999"
HERE, THERE = SiteKey(b"here" * 8), SiteKey(b"away" * 8)
_NEEDED = {  # without these it is no image of a patient, or the node refuses it as faulty
    "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "MediaStorageSOPInstanceUID",
    "TimezoneOffsetFromUTC", "PatientName", "PatientID", "IssuerOfPatientID",
}  # fmt: skip


def write_named(path: Path, patient: str = "1", study: str = "1", pixels: Any = None, **more: Any) -> Path:
    """Every attribute of the table with a secret, at the root, in items of sequences and in private tags."""
    frames = speckle() if pixels is None else pixels
    with quiet_pydicom():
        sop_class = more.pop("sop_class", US)
        attributes = {
            "PatientName": f"{SECRET}Mustermann^{SECRET}Erika",
            "PatientID": f"{SECRET}PID{patient}",
            "IssuerOfPatientID": f"{SECRET}HOSPITAL",
            "StudyInstanceUID": f"{UID_ROOT}.1.{study}",
            "SeriesInstanceUID": f"{UID_ROOT}.2.{study}",
            "SOPInstanceUID": f"{UID_ROOT}.3.{study}",
            **more,
        }
        write_image(path, sop_class, frames, **attributes)
        dataset = dcmread(path)
        for number, tag in enumerate(sorted(tag for tag in table.ALL_TAGS if len(tag) == 2)):
            _set(dataset, Tag(tag), number)
        # Dates that others would know her by; the rest of the table was filled with OTHER_DATE.
        assign(
            dataset,
            PatientBirthDate=BIRTH_DATE,
            StudyDate=EXAMINED,
            Manufacturer="Scanner Maker",
            BodyPartExamined="BREAST",
            VOILUTFunction=SECRET,
            PixelSpacingCalibrationDescription=f"{SECRET}calibration",
        )
        for inner in dataset.get("SequenceOfUltrasoundRegions", []):
            inner.add_new(0x00091001, "LO", f"{SECRET}private in a region")
        block = dataset.private_block(0x0009, f"{SECRET} MAKER", create=True)
        block.add_new(1, "LO", f"{SECRET}Mustermann^{SECRET}Erika")
        block.add_new(2, "SQ", [_named_item()])
        dataset.add_new(0x60000010, "US", 8)
        dataset.add_new(0x60000022, "LO", f"{SECRET}overlay")
        dataset.save_as(path, enforce_file_format=True)
    return path


def result_of(image: SourceObject, *, verified: bool = True) -> PipelineResult:
    """What the ultrasound pipeline gives: one mark, the image without it, the mask in the mark's strokes."""
    uid, strokes = image.image.uid, np.s_[0, 6:20, 10:90:4]
    frame = 1 if image.image.header.frames > 1 else None
    return PipelineResult(
        findings=(finding(NODULE, 0.8, uid, (10, 6, 90, 20), frame=frame),),
        images=without_text(image, strokes, verified=verified),
        quality=(QualityNote("area", "the marks cover 2 % of the image", uid),),
        models=context().models,
    )


def deidentified(
    path: Path,
    key: SiteKey = HERE,
    ctx: ResultContext | None = None,
    *,
    verified: bool = True,
    domain: str = "",
    options: Set[Retained] = frozenset(),
) -> Deidentified:
    """The de-identified results of one image."""
    image = source(path)
    ctx = ctx or context(kinds=tuple(DEIDENTIFIED_KINDS), pipeline="ultrasound")
    result = result_of(image, verified=verified)
    return build_deidentified(ctx, [image], result, Pseudonyms(key, domain), options)


def _set(dataset: Dataset, tag: Any, number: int) -> None:
    if keyword_for_tag(tag) in _NEEDED or tag.group < 8 or not dictionary_has_tag(tag):
        return
    vr = dictionary_VR(tag).split(" ")[0]
    value: Any = {
        "DA": OTHER_DATE,
        "DT": f"{OTHER_DATE}101112",
        "TM": "101112",
        "UI": f"{UID_ROOT}.7.{number}",
        "AS": "085Y",
        "DS": "12345678.5",
        "IS": "12345678",
        "SQ": [_named_item()],
        "PN": f"{SECRET}^{number}",
        "AT": 0x00100010,
        "OB": SECRET.encode() + b"\0",
        "OW": SECRET.encode() + b"\0",
        "UN": SECRET.encode() + b"\0",
        "UR": f"http://{SECRET}.example/{number}",
    }.get(vr, f"{SECRET}{number}")
    if vr in {"US", "UL", "SS", "SL", "FL", "FD", "UV", "SV", "OD", "OF", "OL", "OV"}:
        return
    dataset.add_new(tag, vr, value)
    assert dictionary_VM(tag)


def _named_item() -> Dataset:
    return data_set(
        PatientName=f"{SECRET}Inner^Person",
        PatientID=f"{SECRET}INNER",
        InstitutionName=f"{SECRET}Clinic",
        PatientBirthDate=BIRTH_DATE,
        ReferencedSOPInstanceUID=f"{UID_ROOT}.8.1",
        CodeMeaning=f"{SECRET}meaning",
        PersonIdentificationCodeSequence=[
            data_set(PersonName=f"{SECRET}Deep^Down", TextValue=f"{SECRET}said")
        ],
    )
