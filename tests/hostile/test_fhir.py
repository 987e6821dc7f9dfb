"""FHIR servers that name somebody, ignore the search or lead elsewhere."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle
from werkzeug.wrappers import Request, Response

from dicom_node.base.config.settings import Settings
from dicom_node.base.outcomes import Done
from dicom_node.deliver.scu import (
    Presence,
    open_remover,
)
from tests.hostile.peers_lab import FHIR_JSON, called
from tests.hostile.web import answering
from tests.outbox_lab import SYSTEM, Outbox, add_report, fhir_peer, outgoing_report, report_file

pytestmark = pytest.mark.usefixtures("impatient")

CANARY = "Canary^Anna"
OUTCOME = {
    "resourceType": "OperationOutcome",
    "issue": [
        {"severity": "error", "code": "business-rule", "diagnostics": CANARY, "details": {"text": CANARY}},
        {"severity": "error", "code": CANARY},
    ],
}


def test_nothing_that_a_server_says_is_in_log_or_database(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with answering(422, json.dumps(OUTCOME).encode(), Content_Type=FHIR_JSON) as (url, asked):
        outbox = Outbox(
            tmp_path, [fhir_peer(url, patient_systems={})], retry_seconds=0.01, retry_limit_seconds=0.01
        )
        add_report(outbox)
        outbox.run_until("dead", seconds=30)
        [row] = outbox.rows()
    assert (asked.count("POST /"), row["refusals"]) == (3, 3)
    assert "business-rule" in row["reason"]
    assert CANARY not in caplog.text
    assert CANARY not in str(row)
    assert not [one for one in asked if "PID-CR" in one]


@dataclass
class Record:
    """A server of this test: it validates what comes, and finds what the test says."""

    bundles: list[Bundle] = field(default_factory=list)
    found: list[dict[str, Any]] = field(default_factory=list)
    patients: list[dict[str, Any]] = field(default_factory=list)
    links: list[dict[str, str]] = field(default_factory=list)
    second_page: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, request: Request) -> Response:
        found = self.patients if request.path == "/Patient/_search" else self.found
        answer: dict[str, Any] = {"type": "searchset", "entry": [{"resource": one} for one in found]}
        if request.path == "/Patient/_search":
            answer["link"] = self.links
        if request.path == "/Patient":
            answer["entry"] = [{"resource": one} for one in self.second_page]
        if request.path.startswith("/Patient/p"):
            return _json(next(one for one in self.second_page if request.path.endswith(one["id"])))
        if request.path.startswith("/Observation/"):
            return _json({"resourceType": "Observation", "status": "final", "code": {"text": "x"}})
        if request.path == "/":
            self.bundles.append(Bundle.model_validate_json(request.data))
            entries = [{"response": {"status": "201 Created"}} for _ in self.bundles[-1].entry]
            answer = {"type": "transaction-response", "entry": entries}
        return _json({"resourceType": "Bundle", **answer})


def _json(content: dict[str, Any]) -> Response:
    return Response(json.dumps(content), content_type=FHIR_JSON)


Recording = tuple[str, Record, list[str]]  # with what was asked of it


@pytest.fixture
def record() -> Iterator[Recording]:
    record = Record()
    with answering(record) as (url, asked):
        yield url, record, asked


def test_a_server_that_ignores_the_search_has_nothing_of_ours(tmp_path: Path, record: Recording) -> None:
    url, server, _ = record
    server.found = [
        {
            "resourceType": "DiagnosticReport",
            "identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:9"}],
        }
    ]
    [confirmed] = called(fhir_peer(url)).confirm([outgoing_report(report_file(tmp_path))])
    assert confirmed.presence is Presence.NOT_FOUND


def test_a_patient_is_taken_only_by_the_identifier_asked_for(tmp_path: Path, record: Recording) -> None:
    url, server, _ = record
    server.patients = [
        {"resourceType": "Patient", "id": "7", "identifier": [{"system": "urn:x", "value": "PID-CR"}]}
    ]
    called(fhir_peer(url)).send([outgoing_report(report_file(tmp_path))])
    assert server.bundles[0].entry[0].resource.subject.reference is None


def outcome(severity: str, code: str) -> dict[str, Any]:
    return {"resourceType": "OperationOutcome", "issue": [{"severity": severity, "code": code}]}


def patient(name: str, *replaced_by: str, own: bool = True, **more: Any) -> dict[str, Any]:
    identifier = [{"system": SYSTEM if own else "urn:x", "value": "PID-CR"}]
    links = [{"type": "replaced-by", "other": {"reference": place}} for place in replaced_by]
    return {"resourceType": "Patient", "id": name, "identifier": identifier, "link": links, **more}


@pytest.mark.parametrize(
    ("first", "second", "links_to", "expected"),
    [
        ([patient("p1")], [], "", "Patient/p1"),
        ([patient("p1", active=False)], [], "", None),
        ([patient("p1", active=False), patient("p2")], [], "", "Patient/p2"),
        ([patient("p1", "Patient/p2")], [patient("p2")], "", "Patient/p2"),
        ([patient("p1", "Patient/p2", active=False)], [patient("p2", own=False)], "", "Patient/p2"),
        ([patient("p1", "Patient/p2"), patient("p2")], [patient("p2")], "", "Patient/p2"),
        ([patient("p1", "Patient/p2")], [patient("p2", active=False)], "", None),
        ([patient("p1", "Patient/p2")], [patient("p2", "Patient/p3"), patient("p3")], "", "Patient/p3"),
        ([patient("p1", "Patient/p2")], [patient("p2", "Patient/p1"), patient("p1", "Patient/p2")], "", None),
        ([patient("p1", "Patient/p2", "Patient/p3")], [patient("p2"), patient("p3")], "", None),
        ([patient("p1", "http://elsewhere.example/Patient/p2")], [patient("p2")], "", None),
        ([patient("p1")], [patient("p2")], "Patient?page=2", None),
        ([patient("p1")], [patient("p1")], "Patient?page=2", "Patient/p1"),
        ([patient("p1")], [], "http://elsewhere.example/Patient?page=2", None),
        ([patient("p1")], [], "Patient?identifier=PID%2DCR&page=2", None),
        ([patient("p1"), outcome("warning", "not-supported")], [], "", "Patient/p1"),
        ([patient("p1"), outcome("warning", "incomplete")], [], "", None),
        ([patient("p1")], [outcome("error", "exception")], "Patient?page=2", None),
    ],
    ids=[
        "active", "inactive", "one of two is active", "replaced", "replaced, by one without this ID",
        "replaced, and the other one found too", "by an inactive one", "by one that was replaced",
        "in a ring", "by two", "elsewhere", "two on two pages", "one on two pages", "a page elsewhere",
        "a page with the ID", "a remark", "not all were searched", "an error on the second page",
    ],
)  # fmt: skip
def test_a_report_is_filed_with_the_one_patient_in_force(
    tmp_path: Path,
    record: Recording,
    first: list[dict[str, Any]],
    second: list[dict[str, Any]],
    links_to: str,
    expected: str | None,
) -> None:
    url, server, asked = record
    server.patients, server.second_page = first, second
    if links_to:
        server.links = [{"relation": "self", "url": url}, {"relation": "next", "url": links_to}]
    called(fhir_peer(url)).send([outgoing_report(report_file(tmp_path))])
    assert server.bundles[0].entry[0].resource.subject.reference == expected
    assert not any("PID" in path for path in asked)


def test_references_to_elsewhere_are_not_followed(tmp_path: Path, record: Recording) -> None:
    url, server, asked = record
    item = outgoing_report(report_file(tmp_path))
    with answering() as (elsewhere, taken):
        server.found = [
            {
                "resourceType": "DiagnosticReport",
                "id": "1",
                "status": "final",
                "code": {"text": "x"},
                "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{item.sop_instance_uid}"}],
                "result": [{"reference": f"{elsewhere}/Observation/1"}, {"reference": "Observation/../../x"}],
            }
        ]
        peer = fhir_peer(url, withdraw="delete")
        answer = open_remover(peer, Settings(peers=(peer,))).remove(item)
    assert taken == []
    assert not isinstance(answer, Done)
    assert not any("x" in path.partition("?")[0] for path in asked)
