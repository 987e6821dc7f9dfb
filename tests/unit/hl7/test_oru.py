"""ORU^R01 of reports: built by hl7apy, read here by python-hl7."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

pytest.importorskip("hl7apy", reason="needs the extra hl7")

import hl7
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message

from ai_pipeline.contract import Code, PipelineResult
from dicom_node import results
from dicom_node.hl7 import MessageContext, control_id, oru_of
from dicom_node.model.kinds import RejectionReason, ResultKind
from tests.golden_lab import objects
from tests.result_images import (
    ANALYSED_AT,
    CR,
    INSTALLATION,
    context,
    finding,
    grey_image,
    source,
    write_image,
)

RIS = MessageContext("AINODE", "RIS")
HOSTILE = "a|b^c~d&e\\F\\g\rOBX|99|TX|evil||injected\n\x0bMSH|^~\\&\x1c\r ü 漢 \u2028end"
PLAIN = "a|b^c~d&e\\F\\g OBX|99|TX|evil||injected MSH|^~\\&  ü 漢  end"


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("golden")
    files = {}
    for name, one in objects(folder):
        if one.data is not None:
            files[name] = folder / f"{name}.dcm"
            files[name].write_bytes(one.data)
    return files


def read(path: Path, with_context: MessageContext = RIS) -> hl7.Message:
    message = oru_of(path, with_context)
    assert message is not None
    return hl7.parse(message.decode())


def rows(message: hl7.Message) -> list[tuple[str, ...]]:
    """Type, observation, value, units and status of each OBX."""
    return [tuple(text(row, number) for number in (2, 3, 5, 6, 11)) for row in message["OBX"]]


def text(segment: Any, number: int) -> str:
    return str(segment[number]) if number < len(segment) else ""


def a_report(folder: Path, **attributes: Any) -> Path:
    """A report whose patient and study have these attributes."""
    one = source(write_image(folder / "cr.dcm", CR, grey_image(), **attributes))
    said = finding(Code("1", "99SITE", "A finding"), 0.9, one.image.uid)
    [built] = results.build(context(kinds=[ResultKind.SR]), [one], PipelineResult(findings=(said,)))
    path = folder / "sr.dcm"
    path.write_bytes(built.data or b"")
    return path


def test_a_report_becomes_patient_order_and_observations(golden: dict[str, Path]) -> None:
    message = read(golden["chest_xray-sr"], MessageContext("AINODE", "RIS", {}, "https://ai/studies/3"))
    report = dcmread(golden["chest_xray-sr"])
    header, patient, order, common = (message[name][0] for name in ("MSH", "PID", "OBR", "ORC"))
    assert [text(header, number) for number in (3, 5, 7, 9, 11, 12, 18)] == [
        *("AINODE", "RIS", "20250102111630+0100", "ORU^R01^ORU_R01", "P", "2.5.1", "UNICODE UTF-8")
    ]
    assert [text(patient, number) for number in (3, 5, 7, 8)] == [
        *("PID-CR^^^HOSPITAL^PI", "Test^CR^^^^^L^A", "19700101", "F")
    ]
    assert [text(order, number) for number in (3, 4, 7, 18, 25)] == [
        *(str(report.StudyInstanceUID), "^CR study", "20250102101500+0100", "ACCCR", "P")
    ]
    assert [text(common, number) for number in (1, 3)] == ["RE", str(report.StudyInstanceUID)]
    assert rows(message) == [
        ("TX", "121077^Conclusion^DCM", "AI: Cardiothoracic ratio 0.75.", "", "P"),
        ("TX", "121077^Conclusion^DCM", "Suspected: cardiomegaly. Not found: nodule of lung.", "", "P"),
        (
            *("TX", "121106^Comment^DCM"),
            *("AI result - not for diagnostic use, model chest-lite0 version 1", "", "P"),
        ),
        ("CWE", "8186001^Cardiomegaly^SCT", "415684004^Suspected^SCT", "", "P"),
        ("CWE", "786838002^Nodule of lung^SCT", "272519000^Absent^SCT", "", "P"),
        ("NM", "CARDIOTHORACIC^Cardiothoracic ratio^99AINODE", "0.75", "{ratio}^{ratio}^UCUM", "F"),
        ("RP", "113014^DICOM Study^DCM", "https://ai/studies/3^^TEXT^HTML", "", "P"),
    ]
    assert [text(row, 4) for row in message["OBX"]] == [str(number) for number in range(1, 8)]


@pytest.mark.parametrize("name", ["chest_xray-sr", "fetal_head-sr", "failure-sr", "command-sr", "rejection"])
def test_messages_are_what_the_tables_of_2_5_1_allow(golden: dict[str, Path], name: str) -> None:
    message = oru_of(golden[name], RIS)
    assert message is not None
    assert parse_message(message.decode(), validation_level=VALIDATION_LEVEL.TOLERANT).validate()


def test_a_failure_says_that_the_ai_did_not_run(golden: dict[str, Path]) -> None:
    first, *_ = rows(read(golden["failure-sr"]))
    assert first[2] == "AI did not run: the model file is missing"


def test_other_objects_make_no_message(golden: dict[str, Path]) -> None:
    assert oru_of(golden["chest_xray-sc"], RIS) is None
    assert oru_of(golden["chest_xray-gsps"], RIS) is None


def test_the_same_file_gives_the_same_bytes(golden: dict[str, Path]) -> None:
    path = golden["chest_xray-sr"]
    assert oru_of(path, RIS) == oru_of(path, RIS)
    number = text(read(path)["MSH"][0], 10)
    assert number == control_id(str(dcmread(path).SOPInstanceUID)) and len(number) == 20
    assert control_id("1.2.3") != control_id("1.2.4")


def test_a_report_that_replaces_another_is_a_correction(golden: dict[str, Path], tmp_path: Path) -> None:
    report = dcmread(golden["chest_xray-sr"])
    report.PredecessorDocumentsSequence = [Dataset()]
    report.save_as(tmp_path / "sr.dcm")
    message = read(tmp_path / "sr.dcm")
    assert text(message["OBR"][0], 25) == "P" and {row[4] for row in rows(message)} == {"P"}


def test_a_note_takes_each_of_its_reports_back(golden: dict[str, Path], tmp_path: Path) -> None:
    reports = [golden["chest_xray-sr"], golden["failure-sr"], golden["chest_xray-sc"]]
    note = results.build_rejection(
        reports, RejectionReason.SAFETY, "wrong|film", ANALYSED_AT, "AINODE", INSTALLATION
    )
    (tmp_path / "note.dcm").write_bytes(note.data or b"")
    context = MessageContext("AINODE", "RIS", {"OBR-3": "{report}"})
    message = read(tmp_path / "note.dcm", context)
    withdrawn = {str(dcmread(path).SOPInstanceUID) for path in reports[:2]}
    assert {text(row, 3) for row in message["OBR"]} == {text(row, 3) for row in message["ORC"]} == withdrawn
    assert [text(row, 25) for row in message["OBR"]] == ["X", "X"]
    assert {row[4] for row in rows(message)} == {"W"}
    assert hl7.Message.unescape(message, rows(message)[0][2]) == (
        "AI result withdrawn. Rejected for Patient Safety Reasons: wrong|film"
    )
    reported, taken_back = read(golden["chest_xray-sr"]), read(golden["rejection"])
    for name, number in (("PID", 3), ("OBR", 3), ("OBR", 4), ("OBR", 18)):
        assert text(reported[name][0], number) == text(taken_back[name][0], number)


def test_hostile_text_of_a_header_stays_in_its_field(golden: dict[str, Path], tmp_path: Path) -> None:
    report = dcmread(golden["chest_xray-sr"])
    for keyword in ("PatientID", "IssuerOfPatientID", "StudyDescription", "AccessionNumber"):
        report[keyword]._value = HOSTILE  # as a faulty file brings it past all checks of pydicom
    for item in report.ContentSequence:
        if item.ValueType == "TEXT":
            item["TextValue"]._value = HOSTILE.replace("\r", "\x0b")
    report.PatientName = "Evil|A\x1c^Given&\x0b^^^=漢\\字"
    report.save_as(tmp_path / "sr.dcm", enforce_file_format=False)
    message = oru_of(
        tmp_path / "sr.dcm", MessageContext("AINODE", "RIS", {"OBR-5": "{accession}", "MSH-6": "|"})
    )
    assert message is not None and not {0x0A, 0x0B, 0x1C} & set(message)
    parsed = hl7.parse(message.decode())
    assert {str(segment[0]) for segment in parsed} == {"MSH", "PID", "ORC", "OBR", "OBX"}
    assert len(parsed["MSH"]) == len(parsed["PID"]) == len(parsed["OBR"]) == 1
    whole = parsed.unescape
    assert whole(str(parsed["PID"][0][3][0][0])) == PLAIN
    assert whole(str(parsed["PID"][0][3][0][3][0])) == PLAIN
    assert whole(str(parsed["OBR"][0][5])) == whole(str(parsed["OBR"][0][18])) == PLAIN
    assert str(parsed["MSH"][0][6]) == "\\F\\"
    assert [whole(str(row[5])) for row in parsed["OBX"] if str(row[2]) == "TX"][-1].startswith(
        "a|b^c~d&e\\F\\g"
    )
    assert str(parsed["PID"][0][5]) == "Evil\\F\\A^Given\\T\\^^^^^L^A~漢\\E\\字^^^^^^L^I"


def test_names_and_values_without_a_patient(tmp_path: Path) -> None:
    nobody = {"PatientName": "", "PatientID": "", "IssuerOfPatientID": None, "PatientBirthDate": ""}
    patient = read(a_report(tmp_path, **nobody))["PID"][0]
    assert [text(patient, number) for number in (3, 5, 7)] == ["", "", ""] and text(patient, 8) == "F"


def test_local_schemes_begin_with_99(tmp_path: Path) -> None:
    [coded] = [row for row in rows(read(a_report(tmp_path))) if row[0] == "CWE"]
    assert coded[1] == "1^A finding^99SITE"


def test_null_of_hl7_is_never_sent(tmp_path: Path) -> None:
    """A value "" in quotes tells a receiver to delete what it has."""
    patient = read(a_report(tmp_path, PatientName='""^""', PatientID='""'))["PID"][0]
    assert '""' not in str(patient)


def test_fields_are_filled_as_the_site_says(golden: dict[str, Path]) -> None:
    fields = {
        "PID-3.5": "MR",
        "OBR-3": "{accession}",
        "OBR-4.1": "XRCH",
        "OBR-4.3": "L",
        "MSH-6": "RIS {study_id}",
        "ORC-5": "CM",
        "PV1-19": "{patient_id}",
    }
    message = read(golden["chest_xray-sr"], MessageContext("AINODE", "RIS", fields))
    segment = {name: message[name][0] for name in ("MSH", "PID", "PV1", "ORC", "OBR")}
    assert text(segment["PID"], 3) == "PID-CR^^^HOSPITAL^MR"
    assert text(segment["OBR"], 3) == text(segment["ORC"], 3) == "ACCCR"
    assert text(segment["OBR"], 4) == "XRCH^CR study^L"
    assert text(segment["MSH"], 6) == "RIS 1" and text(segment["ORC"], 5) == "CM"
    assert text(segment["PV1"], 2) == "U" and text(segment["PV1"], 19) == "PID-CR"
