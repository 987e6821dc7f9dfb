"""FHIR servers that refuse, fail, lie, hang or talk of patients: an end in words, without what they said."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fhir.resources", reason="needs the extra fhir")

from fhir.resources.R4B.bundle import Bundle

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.scu import Destination, Presence, SendReport, SendStatus, http, open_destination, open_remover
from tests.fhir_lab import add_report, fhir_peer, outgoing_report, report_file
from tests.hostile.web import answering
from tests.outbox_lab import Outbox

JSON = "application/fhir+json"
CANARY = "Canary^Anna"
OUTCOME = {
    "resourceType": "OperationOutcome",
    "issue": [
        {"severity": "error", "code": "business-rule", "diagnostics": CANARY, "details": {"text": CANARY}},
        {"severity": "error", "code": CANARY},
    ],
}


def to(url: str, **more: Any) -> Destination:
    peer = fhir_peer(url, **more)
    return open_destination(peer, Settings(peers=(peer,)))


def sent(url: str, folder: Path, **more: Any) -> SendReport:
    [report] = to(url, **{"patient_systems": {}, **more}).send([outgoing_report(report_file(folder))])
    return report


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, SendStatus.REFUSED),
        (401, SendStatus.RETRY),
        (403, SendStatus.RETRY),
        (404, SendStatus.RETRY),
        (409, SendStatus.REFUSED),
        (412, SendStatus.REFUSED),
        (422, SendStatus.REFUSED),
        (429, SendStatus.RETRY),
        (500, SendStatus.RETRY),
        (503, SendStatus.RETRY),
    ],
)
def test_a_refusal_is_told_by_its_codes_alone(tmp_path: Path, status: int, expected: SendStatus) -> None:
    with answering(status, json.dumps(OUTCOME).encode(), Content_Type=JSON) as (url, _):
        report = sent(url, tmp_path)
        [confirmed] = to(url).confirm([outgoing_report(report_file(tmp_path))])
        [check] = to(url).test()
    assert (report.status, report.code) == (expected, f"HTTP {status}")
    assert report.text.endswith("(business-rule)")
    assert confirmed.presence is Presence.UNKNOWN and not check.ok
    assert CANARY not in f"{report} {confirmed} {check}"


def test_nothing_that_a_server_says_is_in_log_or_database(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with answering(422, json.dumps(OUTCOME).encode(), Content_Type=JSON) as (url, asked):
        outbox = Outbox(
            tmp_path, [fhir_peer(url, patient_systems={})], retry_seconds=0.01, retry_limit_seconds=0.01
        )
        add_report(outbox)
        outbox.run_until("dead", seconds=30)
        [row] = outbox.rows()
    assert (asked.count("POST /"), row["refusals"]) == (3, 3)
    assert "business-rule" in row["reason"]
    assert CANARY not in caplog.text and CANARY not in str(row)
    assert not [one for one in asked if "PID-CR" in one]


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_a_redirect_is_followed_by_nothing(tmp_path: Path, status: int) -> None:
    with (
        answering() as (elsewhere, taken),
        answering(status, Location=f"{elsewhere}/taken") as (url, asked),
    ):
        report = sent(url, tmp_path, token="secret")
        [confirmed] = to(url, token="secret").confirm([outgoing_report(report_file(tmp_path))])
        [check] = to(url, token="secret").test()
    assert len(asked) == 3 and taken == []
    assert report.status is SendStatus.RETRY and "not followed" in report.text
    assert confirmed.presence is Presence.UNKNOWN and "not followed" in confirmed.text
    assert not check.ok and "not followed" in check.text


def response(*statuses: object, kind: str = "transaction-response") -> bytes:
    entries = [{"response": {"status": status}} for status in statuses]
    return json.dumps({"resourceType": "Bundle", "type": kind, "entry": entries}).encode()


@pytest.mark.parametrize(
    ("body", "queried", "unqueried"),
    [
        (response("201 Created", "200 OK", "201"), SendStatus.STORED, SendStatus.STORED),
        (response("201", "422 Unprocessable"), SendStatus.REFUSED, SendStatus.REFUSED),
        (response("201", "500", kind="batch-response"), SendStatus.RETRY, SendStatus.RETRY),
        (response(), SendStatus.VERIFY, SendStatus.REFUSED),
        (response("created"), SendStatus.VERIFY, SendStatus.REFUSED),
        (response(None), SendStatus.VERIFY, SendStatus.REFUSED),
        (response("201", kind="searchset"), SendStatus.VERIFY, SendStatus.REFUSED),
        (json.dumps(OUTCOME).encode(), SendStatus.VERIFY, SendStatus.REFUSED),
        (b"", SendStatus.VERIFY, SendStatus.REFUSED),
        (b"[]", SendStatus.VERIFY, SendStatus.REFUSED),
        (b"null", SendStatus.VERIFY, SendStatus.REFUSED),
        (b'{"resourceType": "Bundle"', SendStatus.VERIFY, SendStatus.REFUSED),
        (b"[" * 100_000, SendStatus.VERIFY, SendStatus.REFUSED),
        (b"<html>sign in</html>", SendStatus.VERIFY, SendStatus.REFUSED),
        (b"\xff\xfe\x00", SendStatus.VERIFY, SendStatus.REFUSED),
    ],
)
def test_stored_is_what_the_answer_says_is_stored(
    tmp_path: Path, body: bytes, queried: SendStatus, unqueried: SendStatus
) -> None:
    with answering(body=body, Content_Type=JSON) as (url, _):
        assert sent(url, tmp_path).status is queried
        assert sent(url, tmp_path, confirm="none").status is unqueried


@pytest.mark.parametrize("confirm", ["query", "none"])
@pytest.mark.parametrize(
    "body", [b"[]", b"{}", b'{"resourceType": "Bundle", "type": "searchset", "entry": [1]}']
)
def test_no_nonsense_is_a_success_and_its_tries_have_an_end(
    tmp_path: Path, body: bytes, confirm: str, caplog: pytest.LogCaptureFixture
) -> None:
    with answering(body=body, Content_Type=JSON) as (url, asked):
        peer = fhir_peer(url, confirm=confirm, patient_systems={})
        outbox = Outbox(tmp_path, [peer], retry_seconds=0.01, retry_limit_seconds=0.01, confirm_seconds=0.01)
        add_report(outbox)
        outbox.run_until("dead", seconds=30)
        [row] = outbox.rows()
        [check] = open_destination(peer, outbox.settings).test()
    assert 3 <= sum(one.startswith("POST") for one in asked) < 20
    assert "defect" not in row["reason"] and len(row["reason"]) > 20, row["reason"]
    assert not any(record.exc_info for record in caplog.records)
    assert not check.ok


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler, bytes], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer(self, body)

        do_GET = do_POST = do_PUT = _any

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def json_answer(handler: BaseHTTPRequestHandler, content: object, status: int = 200) -> None:
    body = json.dumps(content).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", JSON)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def test_an_answer_without_an_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAXIMUM_ANSWER_BYTES", 2**20)
    written = []

    def endless(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _at in range(512):
                written.append(handler.wfile.write(b" " * 2**16))
        except ConnectionError:
            pass

    with serving(endless) as url:
        report = sent(url, tmp_path)
    assert report.status is SendStatus.UNREACHABLE
    assert sum(written) < 16 * 2**20


def test_a_server_that_trickles_is_cut_off(tmp_path: Path) -> None:
    def trickle(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _at in range(600):
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.05)
        except ConnectionError:
            pass

    with serving(trickle) as url:
        peer = fhir_peer(url, patient_systems={})
        outbox = Outbox(tmp_path, [peer], answer_seconds=0.5, minimum_kib_per_second=16384)
        began = time.monotonic()
        [report] = open_destination(peer, outbox.settings).send([outgoing_report(report_file(tmp_path))])
    assert report.status is SendStatus.HUNG and time.monotonic() - began < 15


class Record:
    """A server of this test: it validates what comes, and finds what the test says."""

    def __init__(self) -> None:
        self.bundles: list[Bundle] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.found: list[dict[str, Any]] = []
        self.patients: list[dict[str, Any]] = []
        self.patient_status = 200
        self.metadata: dict[str, Any] = {}

    def __call__(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        self.headers.append(dict(handler.headers))
        self.paths.append(handler.path)
        if handler.path.startswith("/metadata"):
            return json_answer(handler, self.metadata)
        if handler.path == "/Patient/_search":
            return json_answer(handler, _searchset(self.patients), self.patient_status)
        if handler.command == "POST":
            self.bundles.append(Bundle.model_validate_json(body))
            entries = [{"response": {"status": "201 Created"}} for _ in self.bundles[-1].entry]
            return json_answer(
                handler, {"resourceType": "Bundle", "type": "transaction-response", "entry": entries}
            )
        if handler.path.startswith("/Observation/"):
            return json_answer(
                handler, {"resourceType": "Observation", "status": "final", "code": {"text": "x"}}
            )
        return json_answer(handler, _searchset(self.found))


def _searchset(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": one} for one in found]}


@pytest.fixture
def record() -> Iterator[tuple[str, Record]]:
    record = Record()
    with serving(record) as url:
        yield url, record


def test_a_report_with_many_findings_is_one_transaction(tmp_path: Path, record: tuple[str, Record]) -> None:
    url, server = record
    [report] = to(url).send([outgoing_report(report_file(tmp_path, findings=40))])
    assert report.status is SendStatus.STORED
    [bundle] = server.bundles
    assert len(bundle.entry) == 44


@pytest.mark.parametrize(
    ("login", "header"),
    [
        ({"token": "T0KEN"}, "Bearer T0KEN"),
        ({"username": "node", "password": "secret"}, "Basic bm9kZTpzZWNyZXQ="),
        ({}, None),
    ],
)
def test_each_request_has_the_login_and_no_other(
    tmp_path: Path,
    record: tuple[str, Record],
    monkeypatch: pytest.MonkeyPatch,
    login: dict[str, str],
    header: str | None,
) -> None:
    url, server = record
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password other\n", encoding="ascii")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    item = outgoing_report(report_file(tmp_path))
    destination = to(url, **login)
    destination.send([item])
    destination.confirm([item])
    destination.test()
    assert len(server.headers) == 4
    assert {one.get("Authorization") for one in server.headers} == {header}


def test_a_server_that_ignores_the_search_has_nothing_of_ours(
    tmp_path: Path, record: tuple[str, Record]
) -> None:
    url, server = record
    server.found = [
        {
            "resourceType": "DiagnosticReport",
            "identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:9"}],
        }
    ]
    [confirmed] = to(url).confirm([outgoing_report(report_file(tmp_path))])
    assert confirmed.presence is Presence.NOT_FOUND


def test_a_patient_is_taken_only_by_the_identifier_asked_for(
    tmp_path: Path, record: tuple[str, Record]
) -> None:
    url, server = record
    server.patients = [
        {"resourceType": "Patient", "id": "7", "identifier": [{"system": "urn:x", "value": "PID-CR"}]}
    ]
    to(url).send([outgoing_report(report_file(tmp_path))])
    assert server.bundles[0].entry[0].resource.subject.reference is None


@pytest.mark.parametrize(
    ("status", "stored"), [(403, True), (404, True), (405, True), (401, False), (500, False)]
)
def test_who_may_not_read_patients_sends_reports_all_the_same(
    tmp_path: Path, record: tuple[str, Record], status: int, stored: bool
) -> None:
    url, server = record
    server.patient_status = status
    [report] = to(url).send([outgoing_report(report_file(tmp_path))])
    assert (report.status is SendStatus.STORED) == stored == bool(server.bundles)


def test_references_to_elsewhere_are_not_followed(tmp_path: Path, record: tuple[str, Record]) -> None:
    url, server = record
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
    assert taken == [] and not answer.gone and not any("x" in path.partition("?")[0] for path in server.paths)


def capable(**changed: Any) -> dict[str, Any]:
    kinds = ("Device", "DiagnosticReport", "ImagingStudy", "Observation")
    rest = {
        "mode": "server",
        "interaction": [{"code": "transaction"}],
        "resource": [{"type": kind, "conditionalCreate": True} for kind in kinds],
    }
    known = {"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1", "rest": [rest]}
    return {**known, **{key: value for key, value in changed.items() if key == "fhirVersion"}} | (
        {"rest": [{**rest, **changed["rest"]}]} if "rest" in changed else {}
    )


@pytest.mark.parametrize(
    ("metadata", "failed"),
    [
        (capable(), []),
        (capable(fhirVersion="4.3.0"), []),
        (capable(fhirVersion="5.0.0"), ["FHIR"]),
        (capable(rest={"interaction": [{"code": "batch"}]}), ["transaction"]),
        (capable(rest={"resource": []}), ["conditional create"]),
        ({"resourceType": "Patient"}, ["FHIR"]),
        ({"resourceType": "CapabilityStatement", "rest": []}, ["FHIR"]),
    ],
)
def test_a_test_says_what_the_server_lacks(
    record: tuple[str, Record], metadata: dict[str, Any], failed: list[str]
) -> None:
    url, server = record
    server.metadata = metadata
    assert [one.name for one in to(url).test() if not one.ok] == failed


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"deidentify": True, "results": ("sr", "cleaned")}, "deidentify"),
        ({"results": ("sr", "gsps")}, "reports alone"),
        ({"may": ("send", "receive")}, "receive"),
        ({"iocm": True}, "iocm"),
        ({"assessments": True}, "assessments"),
        ({"confirm": "commitment"}, "dimse"),
        ({"token": "x", "username": "y"}, "not both"),
        ({"url": ""}, "needs url"),
        ({"patient_systems": {"A": "HOSPITAL"}}, "pattern"),
    ],
)
def test_what_does_not_go_together_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PeerSettings.model_validate(fhir_peer("http://x.example").model_dump() | wrong)
