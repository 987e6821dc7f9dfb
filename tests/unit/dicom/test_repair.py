"""Faults of a source's header do not become ours, and are told by attribute, never by value."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from ai_pipeline.contract import PipelineResult
from dicom_node import results
from dicom_node.dicom.repair import Repairs, repair
from dicom_node.model.kinds import ResultKind
from tests.result_images import CR, context, grey_image, source, write_image


def header_with(keyword: str, value: Any) -> Dataset:
    header = Dataset()
    tag = pydicom.datadict.tag_for_keyword(keyword)
    assert tag is not None
    vr = pydicom.datadict.dictionary_VR(tag)
    header[keyword] = DataElement(tag, vr, value, validation_mode=config.IGNORE)
    return header


@pytest.mark.parametrize(
    ("keyword", "given", "right"),
    [
        ("StudyDate", "1994.11.05", "19941105"),
        ("StudyDate", "1994-11-05", "19941105"),
        ("StudyTime", "11:20:00", "112000"),
        ("StudyTime", "11:20:00.12345678", "112000.123456"),
        ("AcquisitionDateTime", "2025-01-02T10:15:00.5+01:00", "20250102101500.5+0100"),
        ("InstanceNumber", "4.000000", "4"),
        ("PatientWeight", "81.63270000000000001", "81.6327"),
        ("PatientAge", "75Y", "075Y"),
        ("BodyPartExamined", "Chest", "CHEST"),
        ("PatientSex", "f", "F"),
    ],
)
def test_what_can_be_put_right_is_put_right(keyword: str, given: str, right: str) -> None:
    header = header_with(keyword, given)
    assert repair(header) == Repairs(repaired=(keyword,))
    assert str(header[keyword].value) == right


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyDate", "20251332"),
        ("StudyTime", "99:00"),
        ("AcquisitionDateTime", "yesterday"),
        ("PatientWeight", "1e999"),
        ("PatientAge", "old"),
        ("BodyPartExamined", "ABDOM/RAD"),
        ("SmokingStatus", "0000"),
        ("ImageLaterality", "0000"),
    ],
)
def test_what_means_nothing_is_left_out_or_emptied(keyword: str, value: str) -> None:
    header = header_with(keyword, value)
    assert repair(header) == Repairs(left_out=(keyword,))
    assert keyword not in header
    header = header_with(keyword, value)
    repair(header, emptied=[keyword])
    assert header[keyword].value in (None, "")


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyDate", "20250102"),
        ("StudyTime", "235960"),
        ("AcquisitionDateTime", "202501"),
        ("AcquisitionDateTime", "20250102101500.000001+0100"),
        ("InstanceNumber", "+0007"),
        ("PatientWeight", "127."),
        ("PixelSpacing", ["1.171875e+00", "0.5"]),
        ("ReferringPhysicianName", "Who: 1994.11.05"),
    ],
)
def test_what_is_right_stays_to_the_letter(keyword: str, value: Any) -> None:
    header = header_with(keyword, value)
    before = header.to_json()
    assert not repair(header)
    assert header.to_json() == before


def test_items_are_repaired_and_broken_codes_and_references_left_out() -> None:
    region, code, reference, header = Dataset(), Dataset(), Dataset(), Dataset()
    region["PatientAge"] = header_with("PatientAge", "9M")["PatientAge"]
    code.CodeValue, code.CodingSchemeDesignator = "1", "SCT"
    reference.ReferencedSOPClassUID = "1.2.3"
    reference["ReferencedSOPInstanceUID"] = header_with("ReferencedSOPInstanceUID", "999.999.1")[0x00081155]
    header.SequenceOfUltrasoundRegions = [region]
    header.ProcedureCodeSequence = [code]
    header.ReferencedStudySequence = [reference]
    header["StudyInstanceUID"] = header_with("StudyInstanceUID", "999.999.01")["StudyInstanceUID"]
    assert repair(header) == Repairs(
        repaired=("PatientAge",),
        left_out=("ProcedureCodeSequence", "ReferencedSOPInstanceUID", "ReferencedStudySequence"),
        kept=("StudyInstanceUID",),
    )
    assert header.SequenceOfUltrasoundRegions[0].PatientAge == "009M"
    assert header.StudyInstanceUID == "999.999.01"


def test_all_results_of_a_faulty_source_bear_the_repaired_values(tmp_path: Path) -> None:
    odd = {
        "PatientSex": "W",
        "StudyDate": "2025.01.02",
        "StudyTime": "10:15",
        "PatientAge": "75Y",
        "PatientName": "Mononym",
        "SmokingStatus": "0000",
        "StudyInstanceUID": "999.999.2",
    }
    with pytest.warns(UserWarning):
        path = write_image(tmp_path / "cr.dcm", CR, grey_image(), **odd)
    given = source(path)
    assert results.repairs_of([given]) == {
        given.image.uid: Repairs(
            ("PatientAge", "StudyDate", "StudyTime"), ("PatientSex", "SmokingStatus"), ("StudyInstanceUID",)
        )
    }
    built = results.build(context(), [given], PipelineResult())
    pages = {ResultKind.SUMMARY, ResultKind.PDF}
    assert {one.kind for one in built} == pages | {ResultKind.SR, ResultKind.GSPS, ResultKind.SC}
    for one in built:
        assert one.data is not None
        read = pydicom.dcmread(io.BytesIO(one.data))
        assert (read.StudyDate, read.StudyTime, read.PatientAge) == ("20250102", "1015", "075Y")
        assert (read.PatientSex, read.PatientName) == ("", "Mononym")
        assert "SmokingStatus" not in read
        assert read.StudyInstanceUID == "999.999.2"
