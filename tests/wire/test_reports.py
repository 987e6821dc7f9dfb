"""Reports to a FHIR server and, over MLLP, to a RIS: delivered, replaced, withdrawn, each once."""

import logging
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete
from sqlalchemy.orm import Session

from dicom_connectors.hl7.oru import control_id
from dicom_node.base.config.settings import ConsoleSettings, ListenerSettings, Settings, TlsSettings
from dicom_node.base.kinds import ResultKind
from dicom_node.base.outcomes import Done, Outcome
from dicom_node.base.store.tables import Delivery
from dicom_node.deliver.scu import Destination, SendStatus, open_destination, open_remover
from tests.certificates_lab import Authority
from tests.fhir_lab import SYSTEM, FhirServer, add_report, fhir_peer, outgoing_report, report_file, start_fhir
from tests.hostile.valve import valve_before
from tests.mllp_lab import LOSE, WRONG_MESSAGE, Receiver, run_receiver
from tests.outbox_lab import Outbox

KINDS = ("Device", "DiagnosticReport", "ImagingStudy", "Observation")
ONE_REPORT = {"Device": 1, "DiagnosticReport": 1, "ImagingStudy": 1, "Observation": 3}
PATIENT = {"resourceType": "Patient", "identifier": [{"system": SYSTEM, "value": "PID-CR"}]}


@pytest.fixture(scope="module")
def running() -> Iterator[FhirServer]:
    with start_fhir() as server:
        yield server


@pytest.fixture
def server(running: FhirServer) -> FhirServer:
    """With nothing in it."""
    running.forget()
    return running


def there(server: FhirServer) -> dict[str, int]:
    return {kind: len(server.all_of(kind)) for kind in KINDS}


def destination(server: FhirServer, **more: Any) -> Destination:
    peer = fhir_peer(server.url, **more)
    return open_destination(peer, Settings(peers=(peer,)))


def send(server: FhirServer, *files: Path) -> list[SendStatus]:
    return [report.status for report in destination(server).send([outgoing_report(one) for one in files])]


def remove(server: FhirServer, file: Path) -> Outcome:
    peer = fhir_peer(server.url, withdraw="delete")
    return open_remover(peer, Settings(peers=(peer,))).remove(outgoing_report(file))


def statuses(server: FhirServer, kind: str) -> Counter[str]:
    return Counter(one["status"] for one in server.all_of(kind))


def test_a_report_is_delivered_and_shown(tmp_path: Path, server: FhirServer) -> None:
    outbox = Outbox(tmp_path, [fhir_peer(server.url)])
    uid = add_report(outbox)
    outbox.run_until("confirmed")
    assert there(server) == ONE_REPORT
    [report] = server.all_of("DiagnosticReport")
    assert report["identifier"] == [{"use": "official", "system": "urn:dicom:uid", "value": f"urn:oid:{uid}"}]
    assert report["conclusion"].startswith(
        "AI, chest-lite0@1, not for diagnostic use, not assessed when made:\n"
    )
    assert {one["reference"].partition("/")[0] for one in report["result"]} == {"Observation"}
    assert set(outbox.study_states()) == {"delivered"}


def test_the_patient_is_named_where_the_server_knows_exactly_one(tmp_path: Path, server: FhirServer) -> None:
    known = server.create(PATIENT)
    send(server, report_file(tmp_path))
    for kind in ("DiagnosticReport", "Observation", "ImagingStudy"):
        assert {one["subject"]["reference"] for one in server.all_of(kind)} == {known}
    server.create(PATIENT)
    send(server, report_file(tmp_path, "other"))
    assert sum("reference" not in one["subject"] for one in server.all_of("DiagnosticReport")) == 1


def test_an_id_of_another_issuer_is_nobodys_here(tmp_path: Path, server: FhirServer) -> None:
    server.create(PATIENT)
    item = outgoing_report(report_file(tmp_path))
    [report] = destination(server, patient_systems={"ELSEWHERE": SYSTEM}).send([item])
    [filed] = server.all_of("DiagnosticReport")
    assert report.status is SendStatus.STORED
    assert filed["subject"] == {
        "type": "Patient",
        "identifier": {"value": "PID-CR", "assigner": {"display": "HOSPITAL"}},
    }


def test_a_newer_report_takes_the_place_of_the_earlier_one(tmp_path: Path, server: FhirServer) -> None:
    first = report_file(tmp_path, "first", measured=False)
    second = report_file(tmp_path, "second", outgoing_report(first).sop_instance_uid, measured=False)
    third = report_file(tmp_path, "third", outgoing_report(second).sop_instance_uid, measured=False)
    assert send(server, first, second) == [SendStatus.STORED] * 2
    [report] = server.all_of("DiagnosticReport")
    assert (report["status"], len(report["result"])) == ("preliminary", 2)
    assert statuses(server, "Observation") == {"entered-in-error": 2, "preliminary": 2}
    assert send(server, third) == [SendStatus.STORED]
    uses = [
        (one["use"], one["value"].split(":")[-1])
        for one in server.all_of("DiagnosticReport")[0]["identifier"]
    ]
    uids = [outgoing_report(one).sop_instance_uid for one in (third, second, first)]
    assert uses == list(zip(("official", "old", "old"), uids, strict=True))


def test_a_withdrawn_report_is_entered_in_error(tmp_path: Path, server: FhirServer) -> None:
    file = report_file(tmp_path)
    send(server, file, report_file(tmp_path, "other"))
    [mine, _] = server.all_of("DiagnosticReport")
    added = server.create(
        {"resourceType": "Observation", "status": "final", "code": {"text": "Seen by a physician"}}
    )
    server.put({**mine, "result": [*mine["result"], {"reference": added}]})
    assert remove(server, file) == Done()
    assert statuses(server, "DiagnosticReport") == {"entered-in-error": 1, "preliminary": 1}
    assert statuses(server, "Observation") == {"entered-in-error": 3, "final": 1, "preliminary": 3}
    assert remove(server, file) == Done()


@pytest.mark.parametrize("passes", [0, 20], ids=["nothing", "half a status line"])
def test_an_answer_that_is_lost_makes_nothing_twice(tmp_path: Path, server: FhirServer, passes: int) -> None:
    with valve_before(server.port) as valve:
        valve.from_peer = passes
        outbox = Outbox(
            tmp_path, [fhir_peer(f"http://127.0.0.1:{valve.port}", patient_systems={})], answer_seconds=1
        )
        add_report(outbox)
        outbox.worker().run_once()
        assert there(server) == ONE_REPORT and outbox.states() == {"pending": 1}
        valve.open()
        outbox.run_until("confirmed")
    assert there(server) == ONE_REPORT


REPORT = [ResultKind.SR]


@pytest.fixture
def ris() -> Iterator[Receiver]:
    with run_receiver(Receiver()) as receiver:
        yield receiver


def test_a_report_is_one_message_and_confirmed_by_its_acknowledgement(tmp_path: Path, ris: Receiver) -> None:
    outbox = Outbox(tmp_path, [ris.peer(hl7_fields={"MSH-6": "HOSPITAL"})])
    outbox.settings = outbox.settings.model_copy(
        update={"console": ConsoleSettings(url="https://ai.example.org/")}
    )
    [uid] = outbox.add_study(["ris"], REPORT)
    outbox.run_until("confirmed")
    assert outbox.study_states() == ["delivered"]
    [row] = outbox.rows()
    assert (row["status"], row["attempts"], row["queries"]) == ("AA", 1, 0)
    [message] = ris.received
    assert ris.numbers() == [control_id(uid)]
    assert str(message["PID"][0][5]) == "Probe^Ä^^^^^L^A"
    assert str(message["MSH"][0][6]) == "HOSPITAL"
    assert "https://ai.example.org/studies/1^^TEXT^HTML" in [str(obx[5]) for obx in message["OBX"]]


@pytest.mark.parametrize("code", ["AE", "CR"])
def test_a_refusal_is_a_dead_letter_with_its_code_and_without_its_words(
    tmp_path: Path, ris: Receiver, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answer = (
        f"MSH|^~\\&|RIS||AINODE||2025||ACK|1|P|2.5.1\rMSA|{code}|{{number}}|Mr Canary is unknown\r"
        "ERR|||204^Canary|E||||Canary\r"
    )

    def refuse(message: object, times: int) -> bytes:
        return b"\x0b" + answer.format(number=ris.numbers()[-1]).encode() + b"\x1c\x0d"

    ris.answer = refuse
    outbox = Outbox(tmp_path, [ris.peer()])
    outbox.add_study(["ris"], REPORT)
    outbox.run_until("dead")
    [row] = outbox.rows()
    assert (row["status"], row["attempts"]) == (f"{code} 204", 3)
    assert "unknown key identifier" in row["reason"]
    assert "Canary" not in f"{row}{caplog.text}"


@pytest.mark.parametrize("fault", [LOSE, WRONG_MESSAGE, b"\x0bMSH|^~\\&|RIS"])
def test_a_lost_or_wrong_acknowledgement_is_sent_again_under_the_same_number(
    tmp_path: Path, ris: Receiver, fault: str | bytes
) -> None:
    ris.answer = lambda message, times: fault if times < 3 else "AA"
    outbox = Outbox(tmp_path, [ris.peer()])
    [uid] = outbox.add_study(["ris"], REPORT)
    outbox.run_until("confirmed")
    assert ris.numbers() == [control_id(uid)] * 3
    assert len({str(message) for message in ris.received}) == 1
    assert outbox.rows()[0]["attempts"] == 3


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not as an HL7 receiver does"),
        (b"\x0bMSH|^~\\&|x\rMSA\x1c\x0d", "not as an HL7 receiver does"),
        (b"\x0b\x1c\x0d", "not as an HL7 receiver does"),
        (b"\x0b" + b"A" * 70_000, "longer than 64 KiB"),
    ],
)
def test_no_nonsense_is_an_acknowledgement(
    tmp_path: Path, ris: Receiver, answer: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    ris.answer = lambda message, times: answer
    outbox = Outbox(tmp_path, [ris.peer()], retry_seconds=0.01, retry_limit_seconds=0.01)
    outbox.add_study(["ris"], REPORT)
    outbox.run_until("dead")
    assert reason in outbox.rows()[0]["reason"] and len(ris.received) == 3
    assert not any(record.exc_info for record in caplog.records)


def test_a_report_that_never_went_there_is_not_withdrawn_there(tmp_path: Path, ris: Receiver) -> None:
    other = Receiver()
    with run_receiver(other):
        outbox = Outbox(tmp_path, [ris.peer(iocm=True), other.peer(name="other", iocm=True)])
        outbox.add_study(["ris", "other"], REPORT * 2)
        outbox.write(Session.execute, delete(Delivery).where(Delivery.id.in_((2, 3))))  # one report each
        outbox.run_until("confirmed")
        assert outbox.withdraw() == {}
        outbox.run_until("confirmed")
    for receiver in (ris, other):
        report, note = receiver.received
        assert len(note["OBR"]) == 1 and len(set(receiver.numbers())) == 2
        assert [str(row[5]) for row in note["OBX"]] == [str(row[5]) for row in report["OBX"]]


def test_tls_needs_the_right_authority_on_both_sides(tmp_path: Path) -> None:
    ours, foreign = Authority(tmp_path, "ca"), Authority(tmp_path, "foreign")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ours.certificate))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(*ours.certify("ris"))
    node, stranger = ours.certify("node"), foreign.certify("stranger")
    with run_receiver(Receiver(), tls=context) as receiver:
        outbox = Outbox(tmp_path, [receiver.peer(tls=True)])
        outbox.add_study(["ris"], REPORT)
        for (certificate, key), authority, state in (
            (node, foreign, "pending"),
            (stranger, ours, "pending"),
            (node, ours, "confirmed"),
        ):
            tls = TlsSettings(certificate=certificate, private_key=key, trusted=authority.certificate)
            outbox.settings = outbox.settings.model_copy(update={"listener": ListenerSettings(tls=tls)})
            [check] = open_destination(outbox.settings.peers[0], outbox.settings).test()
            assert check.ok is (state == "confirmed"), check.text
            time.sleep(0.6)
            outbox.worker().run_once()
            assert outbox.states() == {state: 1}, outbox.rows()
        assert "TLSv1" in check.text and len(receiver.received) == 1
