"""Reports to a FHIR server: Medplum's router with HL7's own validation; ours is only its HTTP (fhir_lab)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_node.config.settings import Settings
from dicom_node.events import DELIVERY_IN_DOUBT, RESULT_REMOVED
from dicom_node.model.kinds import RejectionReason
from dicom_node.outbox.delivery_worker import DeliveryWorker
from dicom_node.outbox.removals import Removals
from dicom_node.scu import (
    Destination,
    Outgoing,
    Presence,
    RemovalAnswer,
    SendReport,
    SendStatus,
    open_destination,
    open_remover,
)
from dicom_node.services import results
from tests.fhir_lab import (
    SYSTEM,
    FhirServer,
    add_report,
    fhir_peer,
    outgoing_report,
    report_file,
    start_fhir,
)
from tests.hostile.valve import valve_before
from tests.outbox_lab import Outbox
from tests.waiting import wait_until
from tests.wire.test_delivery_kill import LEASE_SECONDS, worker_process

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


def remove(server: FhirServer, file: Path) -> RemovalAnswer:
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


def test_the_same_twice_makes_nothing_twice(tmp_path: Path, server: FhirServer) -> None:
    file = report_file(tmp_path)
    assert send(server, file) + send(server, file) == [SendStatus.STORED] * 2
    assert there(server) == ONE_REPORT
    [confirmed] = destination(server).confirm([outgoing_report(file)])
    assert confirmed.presence is Presence.FOUND


def test_two_reports_of_a_study_share_study_and_model(tmp_path: Path, server: FhirServer) -> None:
    other = report_file(tmp_path, "other")
    assert send(server, report_file(tmp_path), other) == [SendStatus.STORED] * 2
    assert there(server) == {**ONE_REPORT, "DiagnosticReport": 2, "Observation": 6}


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
    [report] = destination(server, patient_systems={"ELSEWHERE": SYSTEM}).send(
        [outgoing_report(report_file(tmp_path))]
    )
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


def test_an_earlier_report_that_comes_late_changes_nothing(tmp_path: Path, server: FhirServer) -> None:
    first = report_file(tmp_path, "first", measured=False)
    second = report_file(tmp_path, "second", outgoing_report(first).sop_instance_uid, measured=False)
    third = report_file(tmp_path, "third", outgoing_report(second).sop_instance_uid, measured=False)
    send(server, first, second, third)
    before = server.all_of("DiagnosticReport")
    assert send(server, second) == [SendStatus.STORED]
    assert server.all_of("DiagnosticReport") == before


def test_a_report_that_a_person_amended_is_not_overwritten(tmp_path: Path, server: FhirServer) -> None:
    first = report_file(tmp_path, "first", measured=False)
    send(server, first)
    [report] = server.all_of("DiagnosticReport")
    server.put({**report, "status": "amended", "conclusion": "No cardiomegaly."})
    second = report_file(tmp_path, "second", outgoing_report(first).sop_instance_uid, measured=False)
    [answer] = destination(server).send([outgoing_report(second)])
    assert answer.status is SendStatus.REFUSED and "amended" in answer.text
    assert [one["conclusion"] for one in server.all_of("DiagnosticReport")] == ["No cardiomegaly."]


def test_a_withdrawn_report_is_entered_in_error(tmp_path: Path, server: FhirServer) -> None:
    file = report_file(tmp_path)
    send(server, file, report_file(tmp_path, "other"))
    [mine, _] = server.all_of("DiagnosticReport")
    added = server.create(
        {"resourceType": "Observation", "status": "final", "code": {"text": "Seen by a physician"}}
    )
    server.put({**mine, "result": [*mine["result"], {"reference": added}]})
    assert remove(server, file) == RemovalAnswer(True)
    assert statuses(server, "DiagnosticReport") == {"entered-in-error": 1, "preliminary": 1}
    assert statuses(server, "Observation") == {"entered-in-error": 3, "final": 1, "preliminary": 3}
    assert remove(server, file) == RemovalAnswer(True)


def test_what_a_person_withdraws_is_withdrawn_there(tmp_path: Path, server: FhirServer) -> None:
    outbox = Outbox(tmp_path, [fhir_peer(server.url, withdraw="delete")])
    add_report(outbox)
    outbox.run_until("confirmed")
    study = server.all_of("ImagingStudy")[0]["identifier"][0]["value"].removeprefix("urn:oid:")
    left = results.withdraw_by_uid(
        outbox.settings, study, None, reason=RejectionReason.QUALITY, because="of the wrong side"
    )
    assert left == {}
    assert Removals(outbox.database, outbox.settings, "a test").run_once() == 1
    assert outbox.numbers()[RESULT_REMOVED.number] == 1
    assert statuses(server, "DiagnosticReport") == {"entered-in-error": 1}


def test_without_that_it_is_left_to_a_person(tmp_path: Path, server: FhirServer) -> None:
    outbox = Outbox(tmp_path, [fhir_peer(server.url)])
    uid = add_report(outbox)
    outbox.run_until("confirmed")
    study = server.all_of("ImagingStudy")[0]["identifier"][0]["value"].removeprefix("urn:oid:")
    left = results.withdraw_by_uid(
        outbox.settings, study, None, reason=RejectionReason.QUALITY, because="of the wrong side"
    )
    assert left == {"ehr": [uid]}


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


def test_a_worker_that_is_killed_after_it_sent_asks_first(tmp_path: Path, server: FhirServer) -> None:
    class Killed(BaseException):
        """As kill -9: nothing of the worker goes on."""

    class Dying:
        def __init__(self, real: Destination) -> None:
            self.real = real

        def send(self, objects: list[Outgoing]) -> list[SendReport]:
            self.real.send(objects)
            raise Killed

    outbox = Outbox(tmp_path, [fhir_peer(server.url)])
    add_report(outbox)
    dying: Any = lambda peer, settings: Dying(open_destination(peer, settings))
    with pytest.raises(Killed):
        DeliveryWorker(outbox.database, outbox.settings, open_destination=dying, lease_seconds=0.2).run_once()
    threading.Event().wait(0.3)
    outbox.run_until("confirmed")
    assert outbox.numbers()[DELIVERY_IN_DOUBT.number] == 1
    assert there(server) == ONE_REPORT and server.all_of("DiagnosticReport")[0]["meta"]


def test_a_process_that_is_killed_before_the_answer_makes_nothing_twice(
    tmp_path: Path, server: FhirServer
) -> None:
    with valve_before(server.port) as valve:
        valve.from_peer = 0
        url = f"http://127.0.0.1:{valve.port}"
        outbox = Outbox(tmp_path, [fhir_peer(url, patient_systems={})], answer_seconds=60)
        add_report(outbox)
        with worker_process(outbox):
            wait_until(lambda: server.all_of("DiagnosticReport"), 60, "the report is there")
            assert outbox.states() == {"sending": 1}
        valve.open()
        outbox.run_until("confirmed", worker=outbox.worker(lease_seconds=LEASE_SECONDS))
    assert outbox.numbers()[DELIVERY_IN_DOUBT.number] == 1
    assert there(server) == ONE_REPORT


def test_an_observation_that_was_deleted_there_is_not_missed(tmp_path: Path, server: FhirServer) -> None:
    file = report_file(tmp_path)
    send(server, file)
    [gone, *_] = server.all_of("Observation")
    server.delete(f"Observation/{gone['id']}")
    assert remove(server, file) == RemovalAnswer(True)
    assert statuses(server, "Observation") == {"entered-in-error": 2}


def test_other_results_do_not_go_there(tmp_path: Path, server: FhirServer) -> None:
    item = outgoing_report(report_file(tmp_path))
    picture = Outgoing("1.2.840.10008.5.1.4.1.1.7", "1.2.3", item.study_instance_uid, "1.2.4", item.path, "")
    [answer] = destination(server).send([picture])
    assert answer.status is SendStatus.NARROWED and there(server)["DiagnosticReport"] == 0


def test_the_peer_is_tried(server: FhirServer) -> None:
    checks = destination(server).test()
    assert [(one.name, one.ok, one.text) for one in checks] == [
        ("FHIR", True, "version 4.0.1"),
        ("transaction", True, "supported"),
        ("conditional create", True, "supported"),
        ("search", True, "search for reports answered"),
    ]
