"""Reports on a FHIR server: each once, replaced, entered in error, of nobody else."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_node.base.config.settings import (
    Settings,
)
from dicom_node.base.events import RESULT_APPEARED
from dicom_node.base.lifecycle import DeliveryState
from dicom_node.base.outcomes import Done, Outcome
from dicom_node.base.store.tables import Delivery, Removal
from dicom_node.base.store.transitions import utc_now
from dicom_node.deliver.removals import Removals
from dicom_node.deliver.scu import (
    DELETED,
    Destination,
    SendStatus,
    open_destination,
    open_remover,
)
from tests.hostile.valve import valve_before
from tests.outbox_lab import (
    SYSTEM,
    FhirServer,
    Outbox,
    add_report,
    fhir_peer,
    outgoing_report,
    report_file,
    start_fhir,
)

KINDS = ("Device", "DiagnosticReport", "ImagingStudy", "Observation")
ONE_REPORT = {"Device": 1, "DiagnosticReport": 1, "ImagingStudy": 1, "Observation": 3}
PATIENT = {"resourceType": "Patient", "identifier": [{"system": SYSTEM, "value": "PID-CR"}]}


@pytest.fixture(scope="module")
def fhir_server() -> Iterator[FhirServer]:
    with start_fhir() as server:
        yield server


@pytest.fixture
def server(fhir_server: FhirServer) -> FhirServer:
    """With nothing in it."""
    fhir_server.forget()
    return fhir_server


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
    elsewhere = destination(server, patient_systems={"ELSEWHERE": SYSTEM})
    [report] = elsewhere.send([outgoing_report(report_file(tmp_path))])
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
    assert remove(server, file) == DELETED
    assert statuses(server, "DiagnosticReport") == {"entered-in-error": 1, "preliminary": 1}
    assert statuses(server, "Observation") == {"entered-in-error": 3, "final": 1, "preliminary": 3}
    assert remove(server, file) == Done()


def test_a_report_that_comes_after_its_withdrawal_is_entered_in_error(
    tmp_path: Path, server: FhirServer
) -> None:
    outbox = Outbox(tmp_path, [fhir_peer(server.url, withdraw="delete")])
    uid = add_report(outbox)
    outbox.put(Delivery, state=DeliveryState.UNCONFIRMED, sent_at=utc_now())
    outbox.withdraw()
    removals = Removals(outbox.database, outbox.settings, "a test")
    assert removals.run_once() == 0
    assert send(server, outbox.file_of(uid)) == [SendStatus.STORED]
    outbox.put(Removal, next_at=utc_now())
    removals.run_once()
    assert statuses(server, "DiagnosticReport") == {"entered-in-error": 1}
    assert outbox.numbers()[RESULT_APPEARED.number] == 1


@pytest.mark.parametrize("passes", [0, 20], ids=["nothing", "half a status line"])
def test_an_answer_that_is_lost_makes_nothing_twice(tmp_path: Path, server: FhirServer, passes: int) -> None:
    with valve_before(server.port) as valve:
        valve.from_peer = passes
        outbox = Outbox(
            tmp_path, [fhir_peer(f"http://127.0.0.1:{valve.port}", patient_systems={})], answer_seconds=1
        )
        add_report(outbox)
        outbox.run_once()
        assert there(server) == ONE_REPORT
        assert outbox.states() == {"pending": 1}
        valve.open()
        outbox.run_until("confirmed")
    assert there(server) == ONE_REPORT
