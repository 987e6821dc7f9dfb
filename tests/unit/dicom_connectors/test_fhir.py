"""Reports as resources of FHIR R4."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_connectors.fhir.report import (
    MOST_OBSERVATIONS,
    FiledReport,
    ReportTransaction,
    observation_uid,
    patient_identifier,
)
from dicom_node.base.dicom.header import items
from dicom_node.base.errors import FaultyInput
from tests.golden_lab import written
from tests.modality import data_set
from tests.outbox_lab import SYSTEM, report_file

pytest.importorskip("fhir.resources", reason="needs the extra fhir")

ISSUERS = {"HOSPITAL": SYSTEM}
SCT = "http://snomed.info/sct"


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report of each pipeline, by name."""
    files = written(tmp_path_factory.mktemp("golden")).items()
    reports = {name.removesuffix("-sr"): path for name, path in files if name.endswith("-sr")}
    return {name: path for name, path in reports.items() if not name.startswith("deidentified")}


def resources(path: Path, **how: Any) -> list[dict[str, Any]]:
    bundle = json.loads(ReportTransaction(path, ISSUERS).bundle(**how))
    return [entry["resource"] for entry in bundle["entry"]]


def of_kind(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one for one in found if one["resourceType"] == kind]


def changed_file(path: Path, **attributes: Any) -> Path:
    document = dcmread(path)
    for keyword, value in attributes.items():
        if value is None:
            delattr(document, keyword)
        else:
            setattr(document, keyword, value)
    document.save_as(path, enforce_file_format=True)
    return path


def test_the_report_says_what_it_is(tmp_path: Path) -> None:
    path = report_file(tmp_path)
    [report] = of_kind(resources(path), "DiagnosticReport")
    assert report["identifier"][0]["value"] == f"urn:oid:{dcmread(path).SOPInstanceUID}"
    assert (report["status"], report["effectiveDateTime"]) == ("preliminary", "2025-01-02T10:15:00+01:00")
    assert report["issued"] == "2025-01-02T11:16:30+01:00"
    assert [one["code"] for one in report["category"][0]["coding"]] == ["RAD", "LP29684-5"]
    assert [one["code"] for one in report["code"]["coding"]] == ["18748-4"]
    assert report["subject"]["identifier"] == {
        "system": SYSTEM,
        "value": "PID-CR",
        "assigner": {"display": "HOSPITAL"},
    }
    assert report["basedOn"][0]["identifier"]["value"] == "ACCCR"
    head, *lines = report["conclusion"].splitlines()
    assert head == "AI, chest-lite0@1, not for diagnostic use, not assessed when made:"
    assert "Suspected: cardiomegaly. Not found: nodule of lung." in lines
    assert "Test^CR" not in json.dumps(resources(path))


def test_the_report_has_the_procedure_of_the_source(tmp_path: Path) -> None:
    path = report_file(tmp_path)
    document = dcmread(path)
    document.PerformedProcedureCodeSequence[0].CodingSchemeDesignator = "LN"
    document.save_as(path)
    [report] = of_kind(resources(path), "DiagnosticReport")
    performed = document.PerformedProcedureCodeSequence[0].CodeValue
    assert [one["code"] for one in report["code"]["coding"]] == [performed, "18748-4"]


def test_findings_are_coded_with_presence_and_numbers(tmp_path: Path) -> None:
    heart, nodule, measured = of_kind(resources(report_file(tmp_path)), "Observation")
    assert heart["code"]["coding"] == [{"system": SCT, "code": "8186001", "display": "Cardiomegaly"}]
    assert heart["valueCodeableConcept"]["coding"][0]["code"] == "415684004"
    assert [one["interpretation"][0]["coding"][0]["code"] for one in (heart, nodule)] == ["POS", "NEG"]
    assert nodule["valueCodeableConcept"]["text"] == "Absent"
    assert [one["valueQuantity"]["value"] for one in heart["component"]] == [83.0, 41.0]
    assert heart["bodySite"]["text"] == "Chest"
    assert measured["valueQuantity"] == {
        "value": 0.543,
        "unit": "{ratio}",
        "system": "http://unitsofmeasure.org",
        "code": "{ratio}",
    }
    assert measured["code"]["coding"][0]["system"].startswith("urn:oid:2.25.")


def test_every_pipeline_makes_one_bundle_of_conditional_entries_that_holds_its_references(
    reports: dict[str, Path],
) -> None:
    assert {"chest_xray", "command", "failure", "fetal_head", "ovarian", "ultrasound"} <= set(reports)
    for path in reports.values():
        text = ReportTransaction(path, ISSUERS).bundle()
        assert text == ReportTransaction(path, ISSUERS).bundle()
        bundle = json.loads(text)
        named = {entry["fullUrl"] for entry in bundle["entry"]}
        assert len(named) == len(bundle["entry"])
        for entry in bundle["entry"]:
            first = entry["resource"]["identifier"][0]
            assert entry["request"]["ifNoneExist"] == f"identifier={first['system']}|{first['value']}"
            assert set(_references(entry["resource"])) <= named


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from [part["reference"]] if "reference" in part else []
        for value in part.values():
            yield from _references(value)
    elif isinstance(part, list):
        for value in part:
            yield from _references(value)


def test_a_measurement_names_its_fetus(reports: dict[str, Path]) -> None:
    found = of_kind(resources(reports["fetal_head"]), "Observation")
    assert all(one["code"]["text"].endswith(", fetus 1") for one in found)
    [focus] = {json.dumps(one["focus"]) for one in found}
    assert json.loads(focus)[0]["display"] == "Fetus 1"
    assert not any("focus" in one for one in of_kind(resources(reports["chest_xray"]), "Observation"))
    assert {one["valueQuantity"]["code"] for one in found} == {"mm"}


def test_a_side_is_coded_beside_its_site(reports: dict[str, Path], tmp_path: Path) -> None:
    document = dcmread(reports["chest_xray"])
    side = data_set(
        RelationshipType="HAS CONCEPT MOD",
        ValueType="CODE",
        ConceptNameCodeSequence=[_code("272741003", "Laterality")],
        ConceptCodeSequence=[_code("7771000", "Left")],
    )
    for item in items(document):
        if item.get("ConceptNameCodeSequence") and item.ConceptNameCodeSequence[0].CodeValue == "363698007":
            item.ContentSequence = [side]
    path = tmp_path / "left.dcm"
    document.save_as(path, enforce_file_format=True)
    [first, *_] = of_kind(resources(path), "Observation")
    assert first["bodySite"]["text"] == "Chest, Left"
    [side_of, *_] = first["component"]
    assert side_of["code"]["coding"][0]["code"] == "272741003"
    assert side_of["valueCodeableConcept"]["coding"] == [
        {"system": SCT, "code": "7771000", "display": "Left"}
    ]


def _code(value: str, meaning: str) -> Dataset:
    return data_set(CodeValue=value, CodingSchemeDesignator="SCT", CodeMeaning=meaning)


def test_an_issuer_with_a_universal_id_needs_no_setting(tmp_path: Path) -> None:
    issuer = data_set(UniversalEntityID="1.2.3.4", UniversalEntityIDType="ISO")
    path = changed_file(report_file(tmp_path), IssuerOfPatientIDQualifiersSequence=[issuer])
    assert ReportTransaction(path, {}).patient["system"] == "urn:oid:1.2.3.4"


@pytest.mark.parametrize(
    ("issuer", "systems", "system"),
    [
        ("ELSEWHERE", ISSUERS, None),
        ("", ISSUERS, None),
        ("", {"": SYSTEM}, SYSTEM),
        ("HOSPITAL", {"": SYSTEM}, None),
    ],
)
def test_an_id_has_the_system_of_its_own_issuer(
    tmp_path: Path, issuer: str, systems: dict[str, str], system: str | None
) -> None:
    path = changed_file(report_file(tmp_path), IssuerOfPatientID=issuer)
    assert ReportTransaction(path, systems).patient.get("system") == system


def test_what_a_header_lacks_is_left_out(tmp_path: Path) -> None:
    gone = ("TimezoneOffsetFromUTC", "AccessionNumber", "StudyDescription", "IssuerOfPatientID")
    path = changed_file(
        report_file(tmp_path), PatientID="", ContributingEquipmentSequence=[], **dict.fromkeys(gone)
    )
    found = resources(path)
    [report] = of_kind(found, "DiagnosticReport")
    assert report["effectiveDateTime"] == "2025-01-02"
    assert report["conclusion"].startswith("AI, chest_xray@sr, not for diagnostic use"), "without a model"
    assert report["subject"] == {"type": "Patient", "display": "no Patient ID"}
    assert "basedOn" not in report
    assert "description" not in of_kind(found, "ImagingStudy")[0]
    changed_file(path, StudyDate="", StudyTime="")
    assert "effectiveDateTime" not in of_kind(resources(path), "DiagnosticReport")[0]


def test_a_file_without_content_is_no_report(tmp_path: Path) -> None:
    path = changed_file(report_file(tmp_path), ContentSequence=None)
    with pytest.raises(FaultyInput, match="no report"):
        ReportTransaction(path, {})


def test_a_space_before_a_patient_id_is_a_part_of_it() -> None:
    assert patient_identifier(data_set(PatientID=" 47 "), {})["value"] == " 47"


@pytest.mark.filterwarnings("ignore:Invalid value")
def test_signs_of_a_patient_id_are_no_part_of_an_address(tmp_path: Path) -> None:
    path = changed_file(report_file(tmp_path), PatientID="A&B|C/../D", StudyInstanceUID="1.2&x=3")
    bundle = json.loads(ReportTransaction(path, ISSUERS).bundle())
    assert bundle["entry"][0]["request"]["ifNoneExist"].endswith("urn:oid:1.2%26x%3D3")
    assert all("A&B" not in json.dumps(entry["request"]) for entry in bundle["entry"])


def test_only_its_own_observations_belong_to_a_report() -> None:
    report = {
        "resourceType": "DiagnosticReport",
        "identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}],
        "result": [
            {"reference": "Observation/1"},
            {"reference": "https://elsewhere.example/Observation/2"},
            {"reference": "Observation/../Patient"},
            {"display": "by hand"},
        ],
    }
    filed = FiledReport(report)
    assert filed.results == ["Observation/1"]
    mine = observation_uid("1.2.3", MOST_OBSERVATIONS - 1)
    assert filed.owns({"identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{mine}"}]})
    assert not filed.owns({"identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:1.2.4"}]})
    assert not filed.owns({"resourceType": "Observation"})
