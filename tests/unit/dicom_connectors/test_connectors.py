"""Connectors: HL7 and FHIR reports, notifications, audit messages, the bucket, traces."""

import json
import logging
import socket
import ssl
import threading
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from typing import Any, Self
from xml.etree.ElementTree import Element, fromstring

import hl7
import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from hypothesis import example, given, settings, strategies
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from pydantic import ValidationError
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from sqlalchemy import select

from ai_pipeline.contract import Code, Decision, Measurement, PipelineResult
from dicom_connectors.audit_syslog import sender as syslog
from dicom_connectors.audit_syslog.message import KINDS, AuditSource, audit_message, check_message
from dicom_connectors.audit_syslog.sender import AuditSender
from dicom_connectors.audit_syslog.settings import AuditSettings
from dicom_connectors.bucket.connector import probe
from dicom_connectors.bucket.handover import HandOver, LocalCopies, oldest_waiting, refuse_another_key
from dicom_connectors.fhir.report import MOST_OBSERVATIONS, FiledReport, ReportTransaction, observation_uid
from dicom_connectors.hl7.destination import parsed_acknowledgement
from dicom_connectors.hl7.oru import MessageContext, SentReport, control_id, oru_of, withdrawal_of
from dicom_connectors.notifications import sender as notifications_sender
from dicom_connectors.notifications.gather import EVENTS, Message
from dicom_connectors.notifications.sender import Notifier, call_webhook, send_mail
from dicom_connectors.notifications.settings import MailSettings, NotificationSettings
from dicom_connectors.traces import sender as traces_sender
from dicom_console.views import metrics
from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.header import items
from dicom_node.base.errors import ConfigurationError, FaultyInput, NotAllowedNow, NotInSpool, StoreAway
from dicom_node.base.events import (
    ARCHIVE_ANSWERED,
    ASSOCIATION_REJECTED,
    AUDIT_NOT_MADE,
    AUDIT_NOT_SENT,
    AUDIT_SENT_AGAIN,
    DELIVERY_SENT,
    NODE_STARTED,
    NODE_STOPPING,
    STORE_AWAY,
    STORE_BACK,
    STUDY_COMPLETE,
    STUDY_RERUN,
)
from dicom_node.base.files import Bucket, bucket_of
from dicom_node.base.lifecycle import (
    AuditAction,
    DeliveryState,
    JobState,
    NotificationState,
    RejectionReason,
    ResultKind,
    Role,
    StudyState,
)
from dicom_node.base.logs import printable
from dicom_node.base.sitekey import path_of as path_of_key
from dicom_node.base.store.tables import (
    AuditRow,
    Delivery,
    EventRow,
    Job,
    Notification,
    Result,
    Study,
    StudyTrace,
)
from dicom_node.base.store.transitions import record, settle_study, utc_now
from dicom_node.deliver.delivery_worker import DeliveryWorker
from dicom_node.jobs.worker.run import Worker
from dicom_node.people import audit, notifications
from dicom_node.people.preflight import Tried, check
from dicom_node.people.processes import report_silence
from dicom_node.results import sr
from dicom_node.results.build import build, build_rejection
from dicom_node.results.envelope import StatedFinding
from dicom_node.serve.background import Background
from dicom_node.studies.indexing import compare, purge, reindex
from tests.certificates_lab import self_signed
from tests.collector_lab import Collector, running_collector
from tests.golden_lab import written
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import data_set, ultrasound
from tests.outbox_lab import SYSTEM, report_file
from tests.pacs_lab import Pacs
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
from tests.rows import a_result
from tests.s3_lab import S3, SECRET, start_s3
from tests.smtp_lab import MailServer, WebServer
from tests.unit.base.config.test_settings import write
from tests.unit.jobs.worker_lab import configuration, confirm, work
from tests.unit.receive.objects import changed
from tests.waiting import wait_until

pytest.importorskip("hl7apy", reason="needs the extra hl7")

RIS = MessageContext("AINODE", "RIS")


HOSTILE = "a|b^c~d&e\\F\\g\rOBX|99|TX|evil||injected\n\x0bMSH|^~\\&\x1c\r ü 漢 \u2028end"


PLAIN = "a|b^c~d&e\\F\\g OBX|99|TX|evil||injected MSH|^~\\&  ü 漢  end"


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return written(tmp_path_factory.mktemp("golden"))


def read(path: Path, with_context: MessageContext = RIS, rule: str = "") -> hl7.Message:
    return hl7.parse(oru_of(SentReport(path, rule), with_context).decode())


def read_withdrawal(
    folder: Path, withdrawn: list[Path], sent: list[SentReport], with_context: MessageContext = RIS
) -> hl7.Message:
    note = build_rejection(
        withdrawn, RejectionReason.SAFETY, "wrong|film", ANALYSED_AT, "AINODE", INSTALLATION
    )
    (folder / "note.dcm").write_bytes(note.data or b"")
    return hl7.parse(withdrawal_of(folder / "note.dcm", sent, with_context).decode())


def rows(message: hl7.Message) -> list[tuple[str, ...]]:
    """Type, observation, value, units and status of each OBX."""
    return [tuple(text(row, number) for number in (2, 3, 5, 6, 11)) for row in message["OBX"]]


def text(segment: Any, number: int) -> str:
    return str(segment[number]) if number < len(segment) else ""


def a_report(folder: Path, **attributes: Any) -> Path:
    """A report whose patient and study have these attributes."""
    one = source(write_image(folder / "cr.dcm", CR, grey_image(), **attributes))
    said = finding(Code("1", "99SITE", "A finding"), 0.9, one.image.uid)
    return report_of(folder, one, PipelineResult(findings=(said,)))


def report_of(folder: Path, one: Any, found: PipelineResult) -> Path:
    [built] = build(context(kinds=[ResultKind.SR]), [one], found)
    (folder / "sr.dcm").write_bytes(built.data or b"")
    return folder / "sr.dcm"


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
        *(text(common, 3), "^CR study", "20250102101500+0100", "ACCCR", "P")
    ]
    assert text(common, 1) == "RE"
    assert rows(message) == [
        ("TX", "121077^Conclusion^DCM", "AI: Cardiothoracic ratio 0.75.", "", "P"),
        ("TX", "121077^Conclusion^DCM", "Suspected: cardiomegaly. Not found: nodule of lung.", "", "P"),
        (
            *("TX", "121106^Comment^DCM"),
            *("AI result - not for diagnostic use, model chest-lite0 version 1", "", "P"),
        ),
        ("CWE", "8186001^Cardiomegaly^SCT", "415684004^Suspected^SCT", "", "P"),
        ("CWE", "786838002^Nodule of lung^SCT", "272519000^Absent^SCT", "", "P"),
        ("NM", "CARDIOTHORACIC^Cardiothoracic ratio^99AINODE", "0.75", "{ratio}^{ratio}^UCUM", "P"),
        ("ST", "110180^Study Instance UID^DCM", str(report.StudyInstanceUID), "", "P"),
        ("RP", "113014^DICOM Study^DCM", "https://ai/studies/3^^TEXT^HTML", "", "P"),
    ]
    assert [text(row, 4) for row in message["OBX"]] == [
        *("121077.1", "121077.2", "121106.1", "8186001.1", "786838002.1", "CARDIOTHORACIC.1"),
        *("110180.1", "113014.1"),
    ]


@pytest.mark.parametrize("name", ["chest_xray-sr", "fetal_head-sr", "failure-sr", "command-sr", "rejection"])
def test_messages_are_what_the_tables_of_2_5_1_allow(golden: dict[str, Path], name: str) -> None:
    report = SentReport(golden["chest_xray-sr" if name == "rejection" else name])
    if name == "rejection":
        message = withdrawal_of(golden[name], [report, SentReport(golden["fetal_head-sr"])], RIS)
    else:
        message = oru_of(report, RIS)
    assert parse_message(message.decode(), validation_level=VALIDATION_LEVEL.TOLERANT).validate()


def test_a_failure_says_that_the_ai_did_not_run(golden: dict[str, Path]) -> None:
    first, *_ = rows(read(golden["failure-sr"]))
    assert first[2] == "AI did not run: the model file is missing"


def test_the_same_file_gives_the_same_bytes(golden: dict[str, Path]) -> None:
    path = golden["chest_xray-sr"]
    assert oru_of(SentReport(path), RIS) == oru_of(SentReport(path), RIS)
    number = text(read(path)["MSH"][0], 10)
    assert number == control_id(str(dcmread(path).SOPInstanceUID))
    assert len(number) == 20


def test_a_report_that_replaces_another_deletes_the_rows_that_it_lacks(
    golden: dict[str, Path], tmp_path: Path
) -> None:
    newer, former = SentReport(a_report(tmp_path)), SentReport(golden["chest_xray-sr"])
    message = hl7.parse(oru_of(newer, RIS, [former]).decode())
    places = [(text(row, 3).partition("^")[0], text(row, 4)) for row in message["OBX"]]
    assert len(set(places)) == len(places)
    assert [text(row, 1) for row in message["OBX"]] == [str(number + 1) for number in range(len(places))]
    status = {place: row[4] for place, row in zip(places, rows(message), strict=True)}
    assert status["1", "1.1"] == status["121077", "121077.1"] == "P"
    assert status["8186001", "8186001.1"] == status["CARDIOTHORACIC", "CARDIOTHORACIC.1"] == "D"


def test_a_withdrawal_takes_back_each_row_that_was_sent_and_nothing_else(
    golden: dict[str, Path], tmp_path: Path
) -> None:
    chest, failed = golden["chest_xray-sr"], golden["failure-sr"]
    context = MessageContext("AINODE", "RIS", {"OBR-19": "{report}"}, "https://ai/studies/3")
    sent = [read(chest, context, "chest"), read(failed, context, "second")]
    names = [chest, failed, golden["chest_xray-sc"]]
    reports = [SentReport(chest, "chest"), SentReport(failed, "second")]
    taken_back = read_withdrawal(tmp_path, names, reports, context)

    def orders(message: hl7.Message) -> list[tuple[str, ...]]:
        same = [("ORC", 3), ("OBR", 3), ("OBR", 4), ("OBR", 7), ("OBR", 18), ("OBR", 19)]
        return list(
            zip(*([text(row, number) for row in message[name]] for name, number in same), strict=True)
        )

    def identified(message: hl7.Message) -> list[tuple[str, ...]]:
        return [tuple(text(row, number) for number in (2, 3, 4, 5, 6, 19)) for row in message["OBX"]]

    assert orders(taken_back) == [*orders(sent[0]), *orders(sent[1])]
    assert identified(taken_back) == [*identified(sent[0]), *identified(sent[1])]
    assert [text(row, 25) for row in taken_back["OBR"]] == ["X", "X"]
    assert {row[4] for row in rows(taken_back)} == {"W"}
    assert text(sent[0]["PID"][0], 3) == text(taken_back["PID"][0], 3)
    assert [hl7.Message.unescape(taken_back, text(row, 3)) for row in taken_back["NTE"]] == [
        "AI result withdrawn. Rejected for Patient Safety Reasons: wrong|film"
    ] * 2
    # The second report never went to this receiver.
    assert identified(read_withdrawal(tmp_path, names, reports[:1], context)) == identified(sent[0])


def test_numbers_of_one_quantity_are_told_apart_by_their_codes(tmp_path: Path) -> None:
    one = source(write_image(tmp_path / "cr.dcm", CR, grey_image()))

    def width(site: Code) -> Measurement:
        line = (((1.0, 1.0), (9.0, 1.0)),)
        millimetres = Code("mm", "UCUM", "mm")
        quantity = Code("103355008", "SCT", "Width")
        return Measurement(one.image.uid, site.meaning, quantity, 8.0, millimetres, line, None, site)

    heart, chest = Code("80891009", "SCT", "Heart"), Code("51185008", "SCT", "Chest")
    path = report_of(tmp_path, one, PipelineResult(measurements=(width(heart), width(chest))))
    numbers = [row[1].split("^") for row in rows(read(path)) if row[0] == "NM"]
    assert [code[1] for code in numbers] == ["Width of Heart", "Width of Chest"]
    assert len({code[0] for code in numbers}) == 2
    assert all(code[2] == "99AINODE" for code in numbers)
    assert [code[3:] for code in numbers] == [["103355008", "Width", "SCT"]] * 2


def test_the_side_of_a_finding_is_coded_beside_it(tmp_path: Path) -> None:
    one = source(write_image(tmp_path / "cr.dcm", CR, grey_image()))
    lung = Code("39607008", "SCT", "Lung")
    said = [
        replace(finding(Code("1", "99SITE", "A finding"), 0.9, one.image.uid), site=lung, side=side)
        for side in "LR"
    ]
    message = read(report_of(tmp_path, one, PipelineResult(findings=tuple(said))))
    coded = [row for row in message["OBX"] if text(row, 2) == "CWE"]
    values = [(text(row, 4), text(row, 3), text(row, 5)) for row in coded]
    suspected, sites = "415684004^Suspected^SCT", "39607008^Lung^SCT"
    left, right = "7771000^Left^SCT", "24028007^Right^SCT"
    (of_left, *_), *_, (of_right, *_) = values
    assert of_left != of_right
    assert values == [
        (of_left, "1^A finding^99SITE", suspected),
        (of_left, "363698007^Finding Site^SCT", sites),
        (of_left, "272741003^Laterality^SCT", left),
        (of_right, "1^A finding^99SITE", suspected),
        (of_right, "363698007^Finding Site^SCT", sites),
        (of_right, "272741003^Laterality^SCT", right),
    ]


def test_numbers_of_twins_name_their_fetus(golden: dict[str, Path]) -> None:
    message = read(golden["fetal_head-sr"])
    subjects = [text(row, 5) for row in message["OBX"] if text(row, 3).startswith("121030^")]
    assert subjects
    assert set(subjects) == {"fetus 1"}


def test_each_rule_has_its_own_filler_order_number(golden: dict[str, Path], tmp_path: Path) -> None:
    first = read(golden["chest_xray-sr"], rule="chest")
    newer, other = read(golden["failure-sr"], rule="chest"), read(golden["failure-sr"], rule="second")
    same_study = {dcmread(golden[name]).StudyInstanceUID for name in ("chest_xray-sr", "failure-sr")}
    numbers = [text(one["OBR"][0], 3) for one in (first, newer, other)]
    assert len(same_study) == 1
    assert numbers[0] == numbers[1] != numbers[2]
    assert all(0 < len(number) <= 22 for number in numbers)  # as long as 2.5.1 allows
    assert all(text(one["OBR"][0], 3) == text(one["ORC"][0], 3) for one in (first, newer, other))


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
        SentReport(tmp_path / "sr.dcm"),
        MessageContext("AINODE", "RIS", {"OBR-5": "{accession}", "MSH-6": "|"}),
    )
    assert not {0x0A, 0x0B, 0x1C} & set(message)
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


@pytest.mark.parametrize("name", ["", "Namesake^Ann"])
def test_a_patient_without_an_id_makes_no_pid(tmp_path: Path, name: str) -> None:
    nobody = {"PatientName": name, "PatientID": "", "IssuerOfPatientID": None}
    message = read(a_report(tmp_path, **nobody), MessageContext("AINODE", "RIS", {"PV1-19": "{study_id}"}))
    assert {str(segment[0]) for segment in message} == {"MSH", "ORC", "OBR", "OBX"}
    assert text(message["OBR"][0], 18) == "ACCCR"
    given = MessageContext("AINODE", "RIS", {"PID-3": "{accession}"})
    assert text(read(a_report(tmp_path, **nobody), given)["PID"][0], 3) == "ACCCR"


def test_a_patient_without_a_name_has_a_name_of_type_unspecified(tmp_path: Path) -> None:
    patient = read(a_report(tmp_path, PatientName="", PatientBirthDate=""))["PID"][0]
    assert [text(patient, number) for number in (3, 5, 7)] == ["PID-CR^^^HOSPITAL^PI", "^^^^^^U", ""]


def test_null_of_hl7_is_never_sent(tmp_path: Path) -> None:
    """A value "" in quotes tells a receiver to delete what it has."""
    message = read(a_report(tmp_path, PatientName='""^""', StudyDescription='""'))
    assert '""' not in str(message["PID"][0]) + str(message["OBR"][0])


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
    assert text(segment["MSH"], 6) == "RIS 1"
    assert text(segment["ORC"], 5) == "CM"
    assert text(segment["PV1"], 2) == "U"
    assert text(segment["PV1"], 19) == "PID-CR"


MSH = b"MSH|^~\\&|RIS||AINODE||2025||ACK^R01^ACK|7|P|2.5.1\r"


@pytest.mark.parametrize(
    ("segments", "shown", "text"),
    [
        (b"MSA|AA|N1\r", "AA", ""),
        (b"MSA|AA|N1|all is well, Mr Probe\r", "AA", ""),
        (b"MSA|AE|N1\rERR|||101^Required field missing|E||||Mr Probe\r", "AE 101", "required field missing"),
        (b"MSA|AE|N1\nERR|PID^1^3^101&Required\n", "AE", "found an error"),
        (b"MSA|AE|N1\rERR|PID^1^3^103\r", "AE 103", "table value not found"),
        (b"MSA|AR|N1|no|||204^Unknown\r", "AR 204", "unknown key identifier"),
        (b"MSA|CR|N1\rERR|||Probe^Mr\r", "CR", "rejects the message"),
    ],
)
def test_codes_are_read_and_texts_are_not(segments: bytes, shown: str, text: str) -> None:
    answer = parsed_acknowledgement(MSH + segments)
    assert answer is not None
    assert answer.control_id == "N1"
    assert answer.shown == shown
    assert text in answer.text
    assert "Probe" not in f"{answer.shown}{answer.text}"


def test_other_delimiters_are_those_of_the_answer() -> None:
    answer = parsed_acknowledgement(b"MSH#*~\\&#RIS\rMSA#AE#N1\rERR###101*x\r")
    assert answer is not None
    assert (answer.shown, answer.control_id) == ("AE 101", "N1")


@pytest.mark.parametrize(
    "block",
    [b"", b"MSH", b"MSH|^", MSH, MSH + b"MSA|AA\r", MSH + b"MSA|ZZ|N1\r", b"MSA|AA|N1\r", b"\xff" * 9000],
)
def test_what_is_no_acknowledgement_is_none(block: bytes) -> None:
    assert parsed_acknowledgement(block) is None


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
    assert [one["code"] for one in report["code"]["coding"]] == ["43468-8", "18748-4"]
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


def notifying_node(folder: Path, *rules: dict[str, Any], **other: Any) -> Inbox:
    return Inbox(folder, {**CONFIG, **other, "notifications": list(rules)})


def hook(web: WebServer, **other: Any) -> dict[str, Any]:
    return {"name": "hook", "on": ["failure", "disk"], "url": web.url, "every_minutes": 0, **other}


def happens(inbox: Inbox, event: events.EventType, study: int | None = None, **fields: Any) -> None:
    inbox.write(record, event, study, **fields)


def notifier(inbox: Inbox) -> Notifier:
    made = Notifier(inbox.database, inbox.settings, "a test")
    made.run_once()
    return made


def test_what_happens_is_told_once_and_not_what_was_before(tmp_path: Path, web: WebServer) -> None:
    inbox = notifying_node(tmp_path, hook(web))
    happens(inbox, events.JOB_FAILED, reason="before")
    first = notifier(inbox)
    happens(inbox, events.JOB_FAILED, reason="after")
    happens(inbox, events.DELIVERY_DEAD)  # nobody asked for that
    for again in (first, Notifier(inbox.database, inbox.settings, "a test")):
        again.run_once()
    [(_, body)] = web.calls
    assert [group["number"] for group in body["groups"]] == [events.JOB_FAILED.number]
    assert body["groups"][0]["events"][0]["fields"] == {"reason": "after"}
    assert "after" in body["text"]


def test_an_event_that_appears_behind_others_is_told(tmp_path: Path, web: WebServer) -> None:
    """On PostgreSQL a transaction may commit after one with a higher number."""
    inbox = notifying_node(tmp_path, hook(web))
    made = notifier(inbox)
    happens(inbox, events.JOB_FAILED)
    before = inbox.events()[0].id
    inbox.add(EventRow(id=before + 2, at=utc_now(), number=events.JOB_FAILED.number, fields={}))
    made.run_once()
    inbox.add(EventRow(id=before + 1, at=utc_now(), number=events.JOB_FAILED.number, fields={}))
    made.run_once()
    assert [body["total"] for _, body in web.calls] == [2, 1]


def test_a_flood_becomes_one_notification(tmp_path: Path, web: WebServer) -> None:
    inbox = notifying_node(tmp_path, hook(web, every_minutes=60))
    made = notifier(inbox)
    happens(inbox, events.JOB_FAILED)
    made.run_once()
    for number in range(200):
        happens(inbox, events.DISK_LOW, free_mib=number)
    made.run_once()
    assert len(web.calls) == 1
    inbox.put(Notification, created_at=utc_now().replace(year=2020))
    made.run_once()
    _, body = web.calls[1]
    [group] = body["groups"]
    assert (group["count"], len(group["events"])) == (200, 5)
    assert "and 195 more" in body["text"]


def test_a_crash_after_handing_over_repeats_the_key(
    tmp_path: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = notifying_node(tmp_path, hook(web))
    made = notifier(inbox)
    happens(inbox, events.JOB_FAILED)
    monkeypatch.setattr(made, "_note", lambda *_: (_ for _ in ()).throw(SystemExit))
    with pytest.raises(SystemExit):
        made.run_once()
    Notifier(inbox.database, inbox.settings, "a test").run_once()
    assert len(web.calls) == 2
    assert len({body["id"] for _, body in web.calls}) == 1


def test_what_is_refused_for_good_is_given_up_and_can_be_sent_again(tmp_path: Path, web: WebServer) -> None:
    inbox = notifying_node(tmp_path, hook(web, on=["failure", "dead_letter"]), outbox={"retry_seconds": 0.01})
    made = notifier(inbox)
    happens(inbox, events.JOB_FAILED)
    web.status = 404
    wait_until(
        lambda: made.run_once() == 0 and inbox.rows(Notification)[-1].state == "failed", 60, "given up"
    )
    assert len(web.calls) == 3
    [told] = [row for row in inbox.events() if row.number == events.NOTIFICATION_GIVEN_UP.number]
    assert told.fields["notification"] == "hook"
    assert len(inbox.rows(Notification)) == 1, "that it cannot be sent is not sent"
    web.status = 200
    number = inbox.rows(Notification)[0].id
    notifications.notify_again(inbox.settings, [number])
    made.run_once()
    assert inbox.rows(Notification)[0].state is NotificationState.SENT
    with pytest.raises(NotAllowedNow):
        notifications.notify_again(inbox.settings, [number])


def test_no_patient_is_named(tmp_path: Path, web: WebServer) -> None:
    inbox = notifying_node(tmp_path / "var", hook(web))
    inbox.settle(changed(ultrasound("one"), PatientID="SECRET-1"))
    made = notifier(inbox)
    happens(inbox, events.JOB_FAILED, 1)
    made.run_once()
    [(_, body)] = web.calls
    assert "job failed for good" in body["text"]
    assert "SECRET-1" not in str(body)


def test_findings_that_were_asked_for_are_told(
    tmp_path: Path, web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"a.dcm": [("Pneumothorax", "present"), ("Mass", "present")], "b.dcm": [("Mass", "absent")]}
    lines = ("AI: Suspected: pneumothorax and lung mass.", "Not assessed: nodule of lung.")

    def stated(report: Path) -> sr.StatedReport:
        found = [
            StatedFinding("", ("", ""), name, Decision(word), "", "") for name, word in said[report.name]
        ]
        return sr.StatedReport(found, (), "\n".join(lines), "")

    monkeypatch.setattr(sr, "read_report", stated)
    inbox = notifying_node(tmp_path, hook(web, on=[], findings=["pneumo*"]))
    inbox.settle(ultrasound("one"))
    made = notifier(inbox)
    [job] = inbox.jobs()
    inbox.add(*(a_result(job, sop_instance_uid=name, path=name) for name in ("a.dcm", "b.dcm", "c.dcm")))
    happens(inbox, events.JOB_SUCCEEDED, 1, job=job.id)
    made.run_once()
    [(_, body)] = web.calls
    [event] = body["groups"][0]["events"]
    assert event["findings"] == ["Pneumothorax", "(the report cannot be read)"]
    assert event["result"] == [*lines, "(the report cannot be read)"]
    first = body["text"].splitlines()[1:4]
    assert [line.strip() for line in first] == event["result"], "the message begins with the short result"


def test_a_peer_that_is_silent_is_told_once_for_each_silence(tmp_path: Path) -> None:
    inbox = notifying_node(
        tmp_path, peers=[{**CONFIG["peers"][0], "silent_hours": 1e-9}, *CONFIG["peers"][1:]]
    )
    report_silence(inbox.database, inbox.settings)
    happens(inbox, events.NODE_STARTED)
    for came in ([], [ultrasound("one")]):
        inbox.index(*came)
        for _ in range(2):
            report_silence(inbox.database, inbox.settings)
    told = [row.fields["peer"] for row in inbox.events() if row.number == events.PEER_SILENT.number]
    assert told == ["modality", "modality"]


def rule(**other: Any) -> NotificationSettings:
    return NotificationSettings.model_validate({"name": "n", "on": ["disk"], "url": "https://h/x", **other})


def test_check_finds_events_that_are_none(tmp_path: Path) -> None:
    text = f'''[node]
data_dir = "{tmp_path / "var"}"
[[notifications]]
name = "n"
events = [1, 3006]
url = "http://h/KEY"
[[notifications]]
name = "m"
on = ["disk"]
to = ["a@example.org"]
'''
    found = check([write(tmp_path / "node.toml", text)])
    assert {"notifications.n.events", "notifications.m.to"} <= {problem.key for problem in found.problems}
    said = " ".join([*map(str, found.problems), *(line.text for line in found.tried)])
    assert "unencrypted" in said
    assert "KEY" not in said


def test_errors_of_the_node_belong_to_an_occasion() -> None:
    named = {kind for kinds in EVENTS.values() for kind in kinds}
    assert {kind for kind in events.all_types() if kind.level >= logging.ERROR} - named == set()


MESSAGE = Message("Müller: a job failed", "It failed.\n.\nEnd.\n", {"total": 1})
TO = ("anna@example.org", "bert@example.org")


def mail_settings(server: MailServer, **other: Any) -> MailSettings:
    given = {"host": "127.0.0.1", "port": server.port, "security": "none", "sender": "node@example.org"}
    return MailSettings.model_validate(given | other)


def test_an_email_comes_whole_and_says_what_it_is() -> None:
    with MailServer().running() as server:
        assert send_mail(mail_settings(server), TO, MESSAGE, "k-1").taken
    [mail] = server.mails
    assert server.recipients == [list(TO)]
    assert (mail["Subject"], mail["Message-ID"]) == (MESSAGE.subject, "<k-1@example.org>")
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_content().replace("\r\n", "\n") == MESSAGE.text


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_password_goes_over_tls_to_a_server_that_is_known(tmp_path: Path, security: str) -> None:
    certificate, context = self_signed(tmp_path, "mail"), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = MailServer(tls=context, starttls=security == "starttls")
    with server.running():
        login = {"security": security, "username": "node", "password": "S3CRET"}
        trusted = mail_settings(server, **login, authorities=certificate[0])
        assert send_mail(trusted, TO, MESSAGE, "k").taken
        assert server.logins == ["\0node\0S3CRET"]
        server.starttls = security == "starttls"
        answer = send_mail(mail_settings(server, **login), TO, MESSAGE, "k")
    assert (answer.taken, answer.for_good) == (False, False)
    assert "not trusted" in answer.text
    assert len(server.logins) == len(server.mails) == 1


def test_without_the_tls_that_was_asked_for_nothing_is_sent() -> None:
    with MailServer().running() as server:
        answer = send_mail(mail_settings(server, security="starttls"), TO, MESSAGE, "k")
    assert (answer.taken, server.mails) == (False, [])
    assert "starttls" in answer.text


@pytest.mark.parametrize(
    ("command", "said", "for_good"),
    [
        ("DATA", "554 SECRET-WORDS", True),
        ("DATA", "451 SECRET-WORDS", False),
        ("RCPT", "550 SECRET-WORDS", True),
        ("RCPT", "450 SECRET-WORDS", False),
        ("MAIL", "530 SECRET-WORDS", True),
        ("EHLO", "not SMTP", False),
    ],
)
def test_a_refusal_is_told_without_the_words_of_the_server(command: str, said: str, for_good: bool) -> None:
    with MailServer(answers={command: said, "HELO": said}).running() as server:
        answer = send_mail(mail_settings(server), TO, MESSAGE, "k")
    assert (answer.taken, answer.for_good) == (False, for_good), answer
    assert "SECRET" not in answer.text


@pytest.mark.parametrize("bad", [{"seconds_between_bytes": 0.1}, {"talks_without_end": True}])
def test_a_server_that_trickles_or_never_ends_is_cut_off(
    bad: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications_sender, "SECONDS", 0.6)
    with MailServer(**bad).running() as server:
        began = time.monotonic()
        answer = send_mail(mail_settings(server), TO, MESSAGE, "k")
    assert not answer.taken
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    "mistake",
    [
        {"sender": ""},
        {"sender": "Node <node@example.org>"},
        {"sender": "node@example.org\nBcc: x@example.org"},
        {"username": "u", "password": "SECRET"},
    ],
)
def test_settings_that_would_harm_are_mistakes(mistake: dict[str, str]) -> None:
    with pytest.raises(ValidationError) as caught:
        mail_settings(MailServer(port=25), **mistake)
    assert "SECRET" not in str(caught.value)


def test_a_webhook_gets_json_and_the_key_of_its_notification() -> None:
    with WebServer().running() as server:
        assert call_webhook(rule(url=server.url, token="T0KEN"), MESSAGE, "k-1").taken
    [(headers, body)] = server.calls
    assert (headers["Idempotency-Key"], headers["Authorization"]) == ("k-1", "Bearer T0KEN")
    assert body == {"id": "k-1", "subject": MESSAGE.subject, "text": MESSAGE.text, "total": 1}


def test_a_redirect_is_not_followed() -> None:
    with WebServer().running() as other, WebServer(status=307, location=other.url).running() as server:
        answer = call_webhook(rule(url=server.url, token="T0KEN"), MESSAGE, "k")
    assert (answer.taken, answer.for_good, other.calls) == (False, True, [])


def test_address_and_token_of_a_webhook_are_shown_nowhere() -> None:
    given = rule(url=WebServer().url, token="T0KEN")
    for shown in (repr(given), str(given), given.model_dump_json()):
        assert "KEY-IN-URL" not in shown
        assert "T0KEN" not in shown


def b64(detail: Element) -> str:
    return b64decode(detail.get("value", "")).decode()


SOURCE = AuditSource("AINODE", "STATION", "host.example.org", "hospital")


def row(action: AuditAction, **fields: object) -> AuditRow:
    at = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
    return AuditRow(at=at, actor="anna", address="192.0.2.7", action=action, fields=fields)


@pytest.mark.parametrize("study", ["1.2.3", ""])
def test_each_action_is_a_message_of_the_schema(study: str) -> None:
    for action in AuditAction:
        text = audit_message(row(action, peer="pacs", empty=[]), study, "P-1" if study else "", SOURCE)
        check_message(text)
        root = fromstring(text)
        event = root[0]
        assert event.get("EventDateTime") == "2026-01-02T03:04:05.678+00:00"
        assert event.get("EventActionCode") in set("CRUDE")
        assert event[0].get("csd-code") == KINDS[action].event.value
        ids = [found.get("ParticipantObjectID") for found in root.iter("ParticipantObjectIdentification")]
        alerted = [one for one in ids if str(one).startswith("dicom-node://") or one == "192.0.2.7"]
        assert bool(alerted) is (KINDS[action].event == codes.DCM.SecurityAlert)
        assert ids == (["1.2.3", "P-1"] if study else [] if alerted else [action.value]) + alerted


@pytest.mark.parametrize(
    ("action", "fields", "subject", "words"),
    [
        (
            AuditAction.USER_ADDED,
            {"user": "Ä b"},
            "dicom-node://host.example.org/users/%C3%84%20b",
            "user added: user=Ä b",
        ),
        (
            AuditAction.PEER_TESTED,
            {"peers": ["a", "b"]},
            "dicom-node://host.example.org/peers/a%2Cb",
            "peer tested: ",
        ),
        (AuditAction.CONFIG_RELOADED, {}, "dicom-node://host.example.org/configuration", "config reloaded"),
        (AuditAction.CALLER_REFUSED, {"reason": "no TLS"}, "192.0.2.7", "caller refused: reason=no TLS"),
    ],
)
def test_an_alert_names_its_subject_and_describes_it(
    action: AuditAction, fields: dict[str, object], subject: str, words: str
) -> None:
    """PS3.15 A.5.3.11: the URI of the resource or the node's address, a type code, "Alert Description"."""
    [found] = fromstring(audit_message(row(action, **fields), "", "", SOURCE)).iter(
        "ParticipantObjectIdentification"
    )
    of = "110182" if action is AuditAction.CALLER_REFUSED else "12"
    assert (found.get("ParticipantObjectID"), found.get("ParticipantObjectTypeCode")) == (subject, "2")
    assert (found.get("ParticipantObjectTypeCodeRole"), found[0].get("csd-code")) == ("13", of)
    details = {one.get("type"): b64(one) for one in found.iter("ParticipantObjectDetail")}
    assert details["Alert Description"].startswith(words)


def test_who_saw_a_study_is_told_with_its_patient() -> None:
    root = fromstring(audit_message(row(AuditAction.STUDY_SEEN), "1.2.3", "P-1", SOURCE))
    said = [
        (one.get("UserID"), one.get("NetworkAccessPointID"), one.get("UserIsRequestor"))
        for one in root.findall("ActiveParticipant")
    ]
    assert said[0] == ("anna", "192.0.2.7", "true")
    assert said[1][2] == "false"
    assert root.findall("ActiveParticipant")[1].get("AlternativeUserID") == "AETITLES=AINODE"
    [source] = root.findall("AuditSourceIdentification")
    assert (source.get("AuditSourceID"), source.get("AuditEnterpriseSiteID")) == ("STATION", "hospital")


def test_what_a_caller_wrote_cannot_change_the_message() -> None:
    bad = row(AuditAction.SIGN_IN_REFUSED, note='"/><x>\x00\u202e')
    bad.actor = 'x" UserIsRequestor="false"/><!--\x1b\n'
    root = fromstring(audit_message(bad, "", 'P<&">\x00', SOURCE))
    assert root.findall("ActiveParticipant")[0].get("UserIsRequestor") == "true"
    [detail] = root.iter("ParticipantObjectDetail")
    assert b64(detail) == '"/><x>\x00\u202e'


HEAD = b"DICOM+RFC3881 - \xef\xbb\xbf"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    (folder / "both.pem").write_text("".join(file.read_text() for file in self_signed(folder, "audit")))
    return folder


class Repository:
    """An audit record repository.

    ``reset``: it goes away with something unread; ``abrupt``: it reads all, and ends without close_notify.
    """

    def __init__(self, folder: Path, *, port: int = 0, wants: Path | None = None) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        if wants:
            self.context.load_verify_locations(wants)
            self.context.verify_mode = ssl.CERT_REQUIRED
        self.reset = self.silent = self.abrupt = False
        self.data = b""
        self.listening = socket.create_server(("127.0.0.1", port))
        self.port = self.listening.getsockname()[1]

    @contextmanager
    def running(self) -> Iterator[Self]:
        threading.Thread(target=self._serve, daemon=True).start()
        yield self
        self.listening.close()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self.listening.accept()
            except OSError:
                return
            with suppress(OSError), self.context.wrap_socket(plain, server_side=True) as connection:
                if self.silent:
                    connection.recv(1)
                    threading.Event().wait(3)
                if self.reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    continue
                while piece := connection.recv(65536):
                    self.data += piece
                if not self.abrupt:
                    connection.unwrap()

    def messages(self) -> list[bytes]:
        """By their octet counts (RFC 5425 4.3.1)."""
        found, left = [], self.data
        while left:
            length, _, left = left.partition(b" ")
            found.append(left[: int(length)])
            left = left[int(length) :]
        return found


def auditing_node(folder: Path, port: int, **other: Any) -> Inbox:
    given = {"syslog": f"127.0.0.1:{port}", "seconds": 1.0, **other}
    return Inbox(folder / "var", {**CONFIG, "outbox": {"retry_seconds": 0.01}, "audit": given})


def note(inbox: Inbox, action: AuditAction, study: int | None = None) -> None:
    inbox.write(audit.note, audit.Person("anna", "192.0.2.7"), action, study_id=study)


def send(inbox: Inbox) -> int:
    """How many a sender that begins now sends."""
    return AuditSender(inbox.database, inbox.settings, "a test").run_once()


def actions(messages: list[bytes]) -> list[str | None]:
    roots = [fromstring(message.partition(HEAD)[2]) for message in messages]
    return [root[0].findtext("EventOutcomeDescription") for root in roots]


def test_each_record_is_sent_once_in_order_and_names_its_patient(tmp_path: Path, certificate: Path) -> None:
    with Repository(certificate).running() as repository:
        inbox = auditing_node(tmp_path, repository.port, authorities=certificate / "cert.pem")
        inbox.settle(changed(ultrasound("one"), PatientID="P-1"))
        sender = AuditSender(inbox.database, inbox.settings, "a test")
        note(inbox, AuditAction.SIGNED_IN)
        note(inbox, AuditAction.STUDY_SEEN, 1)
        assert sender.run_once() == 2
        note(inbox, AuditAction.SIGNED_OUT)
        assert AuditSender(inbox.database, inbox.settings, "a test").run_once() == 1
        assert sender.run_once() == 0
    messages = repository.messages()
    assert actions(messages) == ["signed_in", "study_seen", "signed_out"]
    assert messages[0].startswith(b"<85>1 20")
    assert b'ParticipantObjectID="P-1"' in messages[1]
    assert not any("P-1" in str(row.fields) for row in inbox.events())


def test_starts_transfers_queries_and_refused_callers_are_audited_too(
    tmp_path: Path, certificate: Path
) -> None:
    """PS3.15 A.5.3.1, A.5.3.7, A.5.3.10, A.5.3.11: what no person did."""
    with Repository(certificate).running() as repository:
        inbox = auditing_node(tmp_path, repository.port, authorities=certificate / "cert.pem")
        inbox.write(record, NODE_STARTED)
        inbox.opened("a1")
        inbox.receive(changed(ultrasound("one"), PatientID="P-1"), association="a1")
        inbox.released("a1")
        inbox.tell(ASSOCIATION_REJECTED, calling="STRANGER", meaning="calling AE title not recognized")
        inbox.settle()
        with inbox.database.write() as session:  # at one time: they go in one message
            for uid in ("1.2.1", "1.2.2"):
                record(session, DELIVERY_SENT, 1, destination="pacs", instance=uid)
        inbox.write(record, STUDY_RERUN, 1)
        inbox.write(record, STUDY_COMPLETE, 1)  # the rules again: nothing was received
        inbox.write(record, ARCHIVE_ANSWERED, 1, peer="pacs", asked="prior", found=2, fetched=1)
        inbox.write(record, NODE_STOPPING)
        sender = AuditSender(inbox.database, inbox.settings, "a test")
        sent: list[int] = []
        wait_until(lambda: sent.append(sender.run_once()) or sum(sent) >= 6, 60, "sent")
        assert sender.run_once() == 0
    messages = {text["what"]: text for text in map(_read, repository.messages())}
    assert {what: text["codes"] for what, text in messages.items()} == {
        "node_started": ["110100", "110120"],
        "node_stopping": ["110100", "110121"],
        "images_received": ["110104"],
        "results_sent": ["110104"],
        "peer_asked": ["110112"],
        "caller_refused": ["110113", "110126"],
    }
    received, results, asked = (messages[what] for what in ("images_received", "results_sent", "peer_asked"))
    assert received["participants"] == {"MODALITY": "110153", "dicom-node": "110152"}
    assert received["objects"][1:] == ["P-1"]
    assert results["participants"] == asked["participants"] == {"PACS": "110152", "dicom-node": "110153"}
    assert results["details"] == ["pacs", '["1.2.1", "1.2.2"]']
    assert asked["details"] == ["pacs", "prior"]
    assert "STRANGER" in messages["caller_refused"]["participants"]


def test_the_stop_is_sent_at_the_stop(tmp_path: Path, certificate: Path) -> None:
    with Repository(certificate).running() as repository:
        inbox = auditing_node(tmp_path, repository.port, authorities=certificate / "cert.pem")
        background = Background(
            inbox.database, inbox.settings, Role.CONSOLE, "all", say=lambda *_, **__: None, database_file=0
        )
        background.start()
        inbox.write(record, NODE_STARTED)
        for _ in range(120):  # more than are read at once wait before it
            inbox.write(record, ASSOCIATION_REJECTED, calling="STRANGER")
        inbox.write(record, NODE_STOPPING)
        background.stop()
        [service] = background._services
        service.at_stop.__self__._next_at = inf  # as after a failure
        background.leave()
    sent = actions(repository.messages())
    assert (sent[0], sent[-1], len(sent)) == ("node_started", "node_stopping", 122)


def _read(message: bytes) -> dict[str, Any]:
    root = fromstring(message.partition(HEAD)[2])
    details = [one for one in root.iter("ParticipantObjectDetail") if one.get("type") != "event"]
    return {
        "what": root[0].findtext("EventOutcomeDescription"),
        "codes": [code.get("csd-code") for code in root[0] if code.get("csd-code")],
        "participants": {
            one.get("UserID"): next((role.get("csd-code") for role in one), "")
            for one in root.findall("ActiveParticipant")
        },
        "objects": [one.get("ParticipantObjectID") for one in root.iter("ParticipantObjectIdentification")],
        "details": [b64(one) for one in details],
    }


def test_what_a_repository_did_not_read_is_sent_again(tmp_path: Path, certificate: Path) -> None:
    with Repository(certificate).running() as repository:
        inbox = auditing_node(tmp_path, repository.port, authorities=certificate / "cert.pem")
        sender = AuditSender(inbox.database, inbox.settings, "a test")
        for _ in range(150):
            note(inbox, AuditAction.STUDY_SEARCHED)
        repository.reset = True
        assert sender.run_once() == 0
        repository.reset = False
        wait_until(lambda: sender.run_once() == 150, 60, "sent")
    assert len(repository.messages()) == 150
    assert [row.number for row in inbox.events()] == [AUDIT_NOT_SENT.number, AUDIT_SENT_AGAIN.number]


def test_a_repository_that_is_not_there_or_hangs_holds_up_nothing_else(
    tmp_path: Path, certificate: Path
) -> None:
    repository = Repository(certificate)
    repository.silent = True
    with repository.running():
        inbox = auditing_node(tmp_path, repository.port, authorities=certificate / "cert.pem", seconds=0.5)
        note(inbox, AuditAction.SIGNED_IN)
        assert send(inbox) == 0
    assert send(inbox) == 0


@pytest.mark.parametrize("known", [False, True])
def test_a_certificate_is_checked_on_both_sides(tmp_path: Path, certificate: Path, known: bool) -> None:
    wants = certificate / "cert.pem"
    ours = {"authorities": wants, "certificate": certificate / "both.pem"} if known else {}
    with Repository(certificate, wants=wants).running() as repository:
        for name, given, sent in (("ours", ours, int(known)), ("other", {"authorities": wants}, 0)):
            inbox = auditing_node(tmp_path / name, repository.port, **given)
            note(inbox, AuditAction.SIGNED_IN)
            assert send(inbox) == sent
    assert len(repository.messages()) == int(known)


FORBIDDEN = [
    0xFFFE,
    0xFFFF,
    0x1FFFE,
    0x10FFFF,
    0xFDD0,
    0xFDEF,
    0xD800,
    0xDFFF,
    0x00,
    0x0B,
    0x1F,
    0x7F,
    0x85,
    0x9F,
]


@pytest.fixture(scope="module")
def receiver() -> Iterator[socket.socket]:
    """Of datagrams."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(5)
        yield listening


@settings(max_examples=400, deadline=None)
@given(
    text=strategies.text(
        strategies.characters(codec=None) | strategies.sampled_from([chr(code) for code in FORBIDDEN]),
        min_size=1,
    )
)
@example(text="".join(map(chr, FORBIDDEN)))
def test_whatever_stands_in_a_header_a_repository_reads_the_message(
    receiver: socket.socket, text: str
) -> None:
    """Patient ID, UID, user, address, and the details of a record, by a real datagram."""
    row = AuditRow(
        id=1,
        at=datetime.now(UTC),
        actor=text,
        address=text,
        action=AuditAction.STUDY_SEEN,
        study_id=1,
        fields={"note": text, "more": [text]},
    )
    to = AuditSettings(syslog=f"127.0.0.1:{receiver.getsockname()[1]}", transport="udp")
    syslog.send(to, [syslog.frame(audit_message(row, text, text, SOURCE), row.at, SOURCE.host)])
    root = fromstring(receiver.recv(65535).partition(HEAD)[2])
    patient = root[-1].get("ParticipantObjectID") or ""
    assert patient == printable(text)
    assert not {ord(sign) for sign in patient} & set(FORBIDDEN)
    details = [detail.get("value", "") for detail in root.iter("ParticipantObjectDetail")]
    assert b64decode(details[0]) == text.encode(errors="backslashreplace")
    assert isinstance(json.loads(b64decode(details[1])), list)


def test_a_record_without_a_valid_message_is_an_event_and_holds_up_no_others(
    tmp_path: Path, receiver: socket.socket
) -> None:
    """Over UDP one of 70 kB would be cut short, and no parser would read it."""
    inbox = auditing_node(tmp_path, receiver.getsockname()[1], transport="udp")
    inbox.write(audit.note, audit.Person("anna"), AuditAction.CONFIG_RELOADED, files="x" * 70_000)
    note(inbox, AuditAction.SIGNED_OUT)
    sender = AuditSender(inbox.database, inbox.settings, "a test")
    assert sender.run_once() == 1
    assert sender.run_once() == 0
    assert actions([receiver.recv(65535)]) == ["signed_out"]
    [event] = inbox.events()
    assert (event.number, event.fields["record"]) == (AUDIT_NOT_MADE.number, 1)
    assert inbox.scalars(select(AuditRow.reported).order_by(AuditRow.id)) == [False, True]


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """One service; each test has a prefix of its own."""
    with start_s3() as service:
        yield service


IMAGE = ultrasound("handed-over", size=(48, 40))


class Site:
    """Machines with a folder each, one database and one bucket; the first one is ``a``."""

    def __init__(self, folder: Path, s3: S3) -> None:
        self.s3, self.folder = s3, folder
        self.config = {**configuration(), "object_store": s3.settings(folder.name)}
        self.open: list[Inbox] = []
        self.a = self.machine("a")

    def machine(self, name: str, database: str = "site.db") -> Inbox:
        self.open.append(Inbox(self.folder / name, self.config, url=f"sqlite:///{self.folder / database}"))
        return self.open[-1]

    def bucket(self) -> Bucket:
        return self.s3.bucket(self.folder.name)

    def stored(self) -> list[str]:
        return list(self.bucket().keys(""))


@pytest.fixture
def site(tmp_path: Path, s3: S3) -> Iterator[Site]:
    site = Site(tmp_path, s3)
    yield site
    for machine in site.open:
        machine.close()


def handing(node: Inbox, site: Site) -> HandOver:
    return HandOver(node.database, node.settings, site.bucket())


def waiting(node: Inbox) -> int:
    return node.read(oldest_waiting)[0]


def fetched(node: Inbox, path: str) -> Path:
    return node.read(node.files.here, path)


def path_of(node: Inbox) -> str:
    return node.instance(IMAGE.SOPInstanceUID).path


def test_a_study_is_worked_on_when_another_machine_can_have_it(site: Site) -> None:
    site.a.settle(IMAGE)
    assert (waiting(site.a), site.a.jobs()) == (1, []), "it is complete, but on this disk only"
    assert handing(site.a, site).run_once() == 1
    site.a.settle()
    assert (waiting(site.a), len(site.a.jobs())) == (0, 1)
    b = site.machine("b")
    assert work(b) == 1, "its image is fetched"
    for there, here, path in ((site.a, b, path_of(b)), (b, site.a, site.a.rows(Result)[0].path)):
        assert fetched(here, path).read_bytes() == (there.folder / path).read_bytes()
    assert not [key for key in site.stored() if str(IMAGE.PatientID) in key or "Name" in key]


@contextmanager
def stopped(s3: S3) -> Iterator[None]:
    """While nobody answers."""
    s3.stop()
    try:
        yield
    finally:
        s3.go_on()


def test_a_store_that_is_away_is_told_once_and_gets_all_when_it_is_back(site: Site) -> None:
    site.a.index(IMAGE, ultrasound("another", size=(48, 40)))
    handing_over = handing(site.a, site)
    with stopped(site.s3):
        assert [handing_over.run_once() for _ in range(2)] == [0, 0]
        assert waiting(site.a) == 2
    wait_until(lambda: handing_over.run_once() >= 0 and not waiting(site.a), 60, "the store is back")
    told = [row.number for row in site.a.rows(EventRow)]
    assert [told.count(event.number) for event in (STORE_AWAY, STORE_BACK)] == [1, 1]


def test_a_damaged_and_a_lost_object_are_errors_and_are_not_kept(site: Site, tmp_path: Path) -> None:
    site.a.index(IMAGE)
    handing(site.a, site).run_once()
    b, path = site.machine("b"), path_of(site.a)
    (tmp_path / "other").write_bytes(b"another object")
    for break_it, said in (
        (lambda: site.bucket().put(path, tmp_path / "other"), "damaged"),
        (lambda: site.bucket().delete(path), "lost"),
    ):
        break_it()
        with pytest.raises(NotInSpool, match=said):
            fetched(b, path)
    assert not [file for file in (b.folder / path).parent.iterdir() if file.is_file()]
    assert fetched(site.a, path).is_file(), "where it was received it is still whole"


def test_what_is_purged_is_gone_everywhere(site: Site) -> None:
    site.a.index(IMAGE)
    handing(site.a, site).run_once()
    site.a.settle()
    b = site.machine("b")
    work(b)
    confirm(site.a)
    path = path_of(b)
    copies = LocalCopies(b.database, b.settings, site.bucket())
    assert copies.trim(in_use_seconds=-1) == 0, "there is room"
    assert purge(site.a.database, site.a.settings, utc_now().replace(year=2100)) == 1
    assert site.bucket().size(path) is None
    assert copies.trim(in_use_seconds=-1) == 1
    assert not (b.folder / path).exists()


def test_a_database_of_yesterday_and_the_bucket_give_the_same_content(site: Site) -> None:
    site.a.index(IMAGE)
    handing(site.a, site).run_once()
    later = site.machine("later", database="restored.db")
    assert len(compare(later.database, later.spool, later.files).unknown) == 1
    assert reindex(later.database, later.spool, later.files, lambda *_: None) == 1
    later.index()
    handing(later, site).run_once()
    assert not str(compare(later.database, later.spool, later.files))
    site.bucket().delete(path_of(later))
    (later.folder / path_of(later)).unlink()
    assert "without a file" in str(compare(later.database, later.spool, later.files))


def test_a_job_waits_for_the_store_and_loses_no_try(site: Site) -> None:
    site.a.index(IMAGE)
    handing(site.a, site).run_once()
    site.a.settle()
    with stopped(site.s3):
        assert Worker(site.a.settings, site.a.database).run_once()
    (job,) = site.a.jobs()
    assert (job.state, job.tries, "object store" in job.reason) == (JobState.QUEUED, 0, True)
    site.a.put(Job, job.id, run_at=utc_now())
    time.sleep(1.1)  # it is not asked again at once
    assert work(site.a) == 1
    rows = site.a.rows(Result)
    assert rows
    assert {site.bucket().size(row.path) for row in rows} == {row.bytes for row in rows}


def test_a_machine_with_another_site_key_is_refused(site: Site) -> None:
    refuse_another_key(site.a.settings)
    refuse_another_key(site.a.settings)
    b = site.machine("b")
    with pytest.raises(ConfigurationError, match="differs from the key of the site's other machines"):
        refuse_another_key(b.settings)
    path_of_key(b.folder).write_bytes(path_of_key(site.a.folder).read_bytes())
    refuse_another_key(b.settings)
    site.bucket().get("keys/site-key.check", site.folder / "left")
    assert path_of_key(site.a.folder).read_text().strip() != (site.folder / "left").read_bytes().hex()


def test_no_secret_is_shown(site: Site) -> None:
    settings: Settings = site.a.settings
    assert SECRET not in repr(settings) + json.dumps(json.loads(settings.model_dump_json()))
    assert bucket_of(settings) is bucket_of(settings)
    with pytest.raises(StoreAway) as told:
        site.s3.bucket(endpoint="http://127.0.0.1:9", seconds=1).size("x")
    assert SECRET not in repr(told.value)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({}, ""),
        ({"url": "s3://another"}, "no bucket of this name"),
        ({"endpoint": "http://127.0.0.1:9"}, "not answer"),
    ],
)
def test_a_bucket_is_tried_and_what_is_wrong_with_it_is_one_sentence(
    s3: S3, tmp_path: Path, other: dict[str, object], said: str
) -> None:
    given = {"node": {"data_dir": tmp_path}, "object_store": s3.settings(tmp_path.name) | other}
    [found] = probe(Settings.model_validate(given))
    assert isinstance(found, Tried)
    assert found.ok is (not said)
    assert said in found.text
    assert found.ok or "look at" in found.text
    assert not [*s3.bucket(tmp_path.name).keys("")], "nothing is left in it"


@pytest.fixture
def elsewhere(tmp_path: Path, s3: S3, pacs: Pacs) -> Iterator[Inbox]:
    """A machine that delivers, of a site where another one has worked."""
    config = configuration() | {"object_store": s3.settings(tmp_path.name)}
    config["outbox"] = {"retry_seconds": 0.05, "retry_limit_seconds": 0.2}
    config["peers"][1] |= {"port": pacs.port, "results": ["sr"]}
    url = f"sqlite:///{tmp_path / 'site.db'}"
    here, there = (Inbox(tmp_path / name, config, url=url) for name in ("here", "there"))
    here.index(ultrasound("one", size=(48, 40)))
    HandOver(here.database, here.settings, s3.bucket(tmp_path.name)).run_once()
    here.settle()
    assert work(here) == 1
    here.close()
    yield there
    there.close()


def the_delivery(node: Inbox) -> tuple[DeliveryState, str, int]:
    row = node.rows(Delivery)[0]
    return row.state, row.reason, row.refusals


def test_a_delivery_waits_for_the_bucket(elsewhere: Inbox, s3: S3, pacs: Pacs) -> None:
    outbox = DeliveryWorker(elsewhere.database, elsewhere.settings)
    with stopped(s3):
        wait_until(lambda: outbox.run_once() > 0, 60, "it is tried")
        assert the_delivery(elsewhere) == (DeliveryState.PENDING, "the object store does not answer", 0)
        assert not pacs.stored
    time.sleep(1.1)  # the bucket is not asked again at once
    confirmed = lambda: (outbox.run_once(), the_delivery(elsewhere)[0])[1] is DeliveryState.CONFIRMED
    wait_until(confirmed, 60, "it is confirmed")
    assert len(pacs.stored) == 1


def test_a_result_that_the_bucket_lost_is_a_dead_letter(
    elsewhere: Inbox, s3: S3, pacs: Pacs, tmp_path: Path
) -> None:
    s3.bucket(tmp_path.name).delete(*(row.path for row in elsewhere.rows(Result)))
    outbox = DeliveryWorker(elsewhere.database, elsewhere.settings)
    wait_until(lambda: outbox.run_once() > 0, 60, "it is tried")
    state, reason, _ = the_delivery(elsewhere)
    assert state is DeliveryState.DEAD
    assert "missing or damaged" in reason
    assert not pacs.stored


pytest.importorskip("opentelemetry.proto", reason="needs the extra telemetry")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with running_collector() as found:
        yield found


@pytest.fixture
def node(open_inbox: Callable[..., Inbox], collector: Collector) -> Inbox:
    return open_inbox({**configuration(), "telemetry": {"endpoint": collector.endpoint, "seconds": 0.5}})


def deliver(node: Inbox, name: str) -> None:
    node.settle(ultrasound(name, size=(48, 40)))
    work(node)
    confirm(node)


def traces(node: Inbox) -> traces_sender.TraceSender:
    """A sender that has just started: it waits for nothing."""
    return traces_sender.TraceSender(node.database, node.settings, "me")


def dropped(node: Inbox) -> float:
    [found] = [one for one in node.read(metrics.gauges, node.settings) if one.name == "traces_dropped"]
    return found.value


def told(node: Inbox) -> list[int]:
    return [row.number for row in node.events() if row.number in (6040, 6041)]


def test_what_a_collector_does_not_take_for_five_minutes_is_dropped_and_counted(
    node: Inbox, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector.answer = 503
    deliver(node, "one")
    one = traces(node)
    assert (one.run_once(), one.run_once()) == (0, 0)
    assert collector.refused == 1, "after a failure it waits"
    assert (dropped(node), told(node)) == (0, [6040])
    monkeypatch.setattr(traces_sender, "utc_now", lambda: utc_now() + timedelta(minutes=6))
    assert traces(node).run_once() == 0
    assert dropped(node) == 1
    monkeypatch.undo()
    collector.answer = 200
    assert traces(node).run_once() == 0, "what was dropped does not come back"
    deliver(node, "two")
    assert one._failures
    one._next_at = 0
    assert one.run_once() == 1
    assert told(node)[-1] == 6041
    assert (dropped(node), len({span.trace_id for span in collector.spans()})) == (1, 1)


@pytest.mark.parametrize("answer", [400, 401, 302, 308])
def test_what_a_collector_refuses_is_dropped_at_once_and_follows_no_redirect(
    node: Inbox, collector: Collector, answer: int
) -> None:
    collector.answer = answer
    deliver(node, "one")
    assert traces(node).run_once() == 0
    assert (dropped(node), collector.refused, collector.bodies) == (1, 1, [])


def test_a_collector_that_hangs_is_cut_off(node: Inbox, collector: Collector) -> None:
    collector.goes_on.clear()
    deliver(node, "one")
    begun = time.monotonic()
    assert traces(node).run_once() == 0
    assert time.monotonic() - begun < 20
    collector.goes_on.set()
    assert traces(node).run_once() == 1


def test_what_is_sent_twice_is_one_trace_with_the_same_spans(node: Inbox, collector: Collector) -> None:
    deliver(node, "one")
    assert traces(node).run_once() == 1
    node.put(StudyTrace, until=None)  # killed before it could note it
    assert traces(node).run_once() == 1
    assert {*Counter(span.span_id for span in collector.spans()).values()} == {2}
    assert traces(node).run_once() == 0


def test_a_dead_letter_is_a_failed_span_of_a_failed_study(node: Inbox, collector: Collector) -> None:
    node.settle(ultrasound("one", size=(48, 40)))
    work(node)
    node.put(Delivery, state=DeliveryState.DEAD, reason="refused")
    node.write(settle_study, 1)
    assert [row.state for row in node.rows(Study)] == [StudyState.FAILED]
    assert traces(node).run_once() == 1
    failed = {span.name for span in collector.spans() if span.status.code == Status.STATUS_CODE_ERROR}
    assert failed == {"study", "deliver pacs"}
