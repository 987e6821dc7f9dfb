"""The REST API: tokens, what it answers, and what programs that watch the node may ask."""

import fcntl
import json
import os
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from pydantic import SecretStr
from sqlalchemy import delete
from sqlalchemy.orm import Session

from dicom_console.app import create_app
from dicom_console.views import changes
from dicom_node.errors import FaultyInput, NotFound
from dicom_node.events import NODE_READY
from dicom_node.model.kinds import AuditAction
from dicom_node.model.roles import UserRole
from dicom_node.services import entered, users
from dicom_node.store.tables import ApiToken, EventRow
from dicom_node.store.transitions import utc_now
from tests.console_lab import ConsoleLab, Program, client_of
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.inbox.objects import changed


def arrive(inbox: Inbox) -> None:
    inbox.settle(changed(ultrasound("one"), PatientID="SECRET-1"), ultrasound("two"))


def test_studies_are_listed_searched_and_shown(console: ConsoleLab, inbox: Inbox) -> None:
    arrive(inbox)
    program = Program(console, UserRole.VIEWER)
    _, found = program.ask("GET", "/studies", params={"state": "queued", "order": "waiting"})
    assert ([row["id"] for row in found["studies"]], found["next"]) == ([1, 2], None)
    _, found = program.ask("POST", "/studies/search", json={"patient": "SECRET-*"})
    assert [row["patient_id"] for row in found["studies"]] == ["SECRET-1"]
    _, study = program.ask("GET", "/studies/1")
    assert (study["images"][0]["modality"], study["jobs"][0]["rule"]) == ("US", "ultrasound")
    assert program.ask("GET", "/studies/99") == (404, {"error": "there is no such study"})
    rows = console.audit_rows()
    actions = {row["action"] for row in rows if row["actor"] == "viewer"}
    assert actions == {"list_seen", "study_searched", "study_seen"} and "SECRET" not in str(rows)


def test_what_an_operator_may_change(console: ConsoleLab, inbox: Inbox) -> None:
    arrive(inbox)
    program = Program(console, UserRole.OPERATOR)
    for path, sent, status in (
        ("/jobs/1/cancel", {}, 204),
        ("/jobs/1/cancel", {}, 409),
        ("/studies/1/rerun", {}, 200),
        ("/outbox/1/discard", {"because": "x"}, 400),
        ("/outbox/1/discard", {"because": "for a test"}, 404),
        ("/studies/1/send", {"peer": "nobody"}, 404),
    ):
        answer = program.ask("POST", path, json=sent)
        assert answer[0] == status and (status < 400 or set(answer[1]) == {"error"}), path
    assert [row["job"] for row in program.ask("GET", "/jobs", params={"state": "cancelled"})[1]["jobs"]] == [
        1
    ]
    assert program.ask("GET", "/outbox")[1] == {"deliveries": [], "next": None}
    peers = [row["name"] for row in program.ask("GET", "/peers")[1]]
    assert peers == [peer.name for peer in console.settings.peers]


def test_a_token_ends_with_its_time_its_removal_or_its_user(console: ConsoleLab) -> None:
    for end in (
        lambda number: console.put(ApiToken, number, expires_at=utc_now() - timedelta(days=1)),
        lambda number: users.remove_token(console.settings, number),
        lambda _: users.remove_user(console.settings, "reader"),
    ):
        program = Program(console, UserRole.READER)
        assert program.ask("GET", "/jobs")[0] == 200
        end(users.list_tokens(console.settings)[-1]["token"])
        assert program.ask("GET", "/jobs")[0] == 401
    with pytest.raises(NotFound):
        users.add_token(console.settings, "reader", "a test", 1)
    for purpose, days in (("", 1), ("x" * 65, 1), ("a\x00b", 1), ("a test", 0), ("a test", 10**6)):
        with pytest.raises(FaultyInput):
            users.add_token(console.settings, "viewer", purpose, days)


PEER: dict[str, Any] = {"ae_title": "US2", "may": ["send"], "quiet_seconds": 7}


@pytest.fixture
def asked_nodes(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Each time that nodes are asked to take the configuration over."""
    asked: list[object] = []
    monkeypatch.setattr(entered, "apply", asked.append)
    return asked


def test_an_admins_program_adds_changes_and_removes_a_peer(
    console: ConsoleLab, asked_nodes: list[object]
) -> None:
    admin = Program(console, UserRole.ADMIN)
    status, answer = admin.ask("PUT", "/peers/us2", json=PEER, params={"version": 0})
    assert (status, answer["name"], answer["version"]) == (200, "us2", 1)
    status, answer = admin.ask("PUT", "/peers/us2", json=PEER, params={"version": 0})
    assert status == 409 and "already" in answer["error"]
    assert admin.ask("PUT", "/peers/us2", json=PEER | {"quiet_seconds": 8})[1]["version"] == 2
    gone = [admin.ask("DELETE", "/peers/us2", params={"version": version})[0] for version in (1, 2, 2)]
    assert gone == [409, 204, 404] and len(asked_nodes) == 3
    actions = [row["action"] for row in console.audit_rows()]
    assert actions[:3] == [AuditAction.PEER_REMOVED, AuditAction.PEER_SAVED, AuditAction.PEER_SAVED]


WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"ae_titel": "US2"}, "ae_titel"),
    ({**PEER, "name": "us3"}, "the address says us2"),
    ({**PEER, "password": "x"}, "configuration files"),
    ({**PEER, "host": "${HOST}"}, "configuration files"),
    ({**PEER, "ae_title": None}, "no TOML"),
    ({**PEER, "host": "\ud800"}, "no setting has"),
    ({**PEER, "may": [{"a b": 1}]}, "must be one of"),
    ({**PEER, "quiet_seconds": 1e400}, "quiet_seconds"),
    ({"x\nname": "us3"}, "TOML"),
)


def test_what_is_wrong_is_said_and_nothing_is_saved(console: ConsoleLab, asked_nodes: list[object]) -> None:
    admin = Program(console, UserRole.ADMIN)
    headers = {"Authorization": f"Bearer {admin.token}", "Content-Type": "application/json"}
    for keys, says in WRONG:
        answer = admin.client.put("/api/v1/peers/us2", content=json.dumps(keys), headers=headers)
        assert answer.status_code == 400 and says in answer.json()["error"], answer.text
    assert console.read(entered.listed, "peers") == {} and asked_nodes == []


EXAMPLES = 2  # of each operation


def test_no_request_that_the_schema_allows_makes_it_fail(console: ConsoleLab, inbox: Inbox) -> None:
    """By schemathesis, which takes a second to load: what the schema allows, and what it does not."""
    schemathesis = pytest.importorskip("schemathesis", reason="of the extra test: make test installs it")
    inbox.settle(ultrasound("one"))
    token = users.add_token(console.settings, UserRole.ADMIN.value, "a test", 1)
    headers = {"Authorization": f"Bearer {token}"}
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", console.app, headers=headers)
    asked: dict[int, int] = {}
    operations = [one.ok() for one in schema.get_all_operations()]
    assert len(operations) > 12
    for operation in operations:

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        @given(case=operation.as_strategy())
        def try_it(case: Any) -> None:
            answer = case.call(headers=headers)
            asked[answer.status_code] = asked.get(answer.status_code, 0) + 1
            case.validate_response(answer, checks=[schemathesis.checks.not_a_server_error])

        try_it()
    assert asked[200] > 10


def test_health_is_answered_without_a_database(console: ConsoleLab, inbox: Inbox) -> None:
    inbox.database.dispose()
    (inbox.folder / "node.db").rename(inbox.folder / "away.db")
    (inbox.folder / "node.db").mkdir()
    browser = console.browser()
    assert (browser.get("/healthz"), browser.text) == (200, "ok\n")
    assert browser.get("/readyz") == 503 and browser.headers["content-type"].startswith("text/plain")
    status, text = numbers(console)
    assert status == 503 and text.startswith("The database of the node does not answer.")


def test_ready_is_a_node_that_receives_and_has_room(console: ConsoleLab) -> None:
    browser = console.browser()
    assert browser.get("/readyz") == 503 and "no node" in browser.text
    file = console.settings.node.data_dir / "all.lock"
    file.write_text(str(os.getpid()), encoding="ascii")
    assert browser.get("/readyz") == 503, "a file that its process does not hold is of no node"
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        console.change("spool", minimum_free_mib=2**40)
        assert browser.get("/readyz") == 503 and "minimum_free_mib" in browser.text
        console.change("spool", minimum_free_mib=0)
        assert (browser.get("/readyz"), browser.text) == (200, "ready\n")


def numbers(console: ConsoleLab) -> tuple[int, str]:
    """Status and text of /metrics, asked for with the token."""
    console.change("console", metrics_token=SecretStr("t0ken"))
    answer = console.browser().client.get("/metrics", headers={"Authorization": "Bearer t0ken"})
    return answer.status_code, answer.text


def test_metrics_count_and_name_nobody(console: ConsoleLab, inbox: Inbox) -> None:
    inbox.settle(changed(ultrasound("one"), PatientID="SECRET-1"))
    status, text = numbers(console)
    assert status == 200 and "SECRET" not in text and "1.2." not in text
    for line in ("objects_received 1.0", 'jobs{state="queued"} 1.0', 'deliveries{state="dead"} 0.0'):
        assert f"dicom_node_{line}" in text


def test_metrics_are_for_who_has_the_token_from_wherever_they_are_asked_for(console: ConsoleLab) -> None:
    for token, sent, status in (
        ("", "", 403),
        ("", "Bearer ", 403),
        ("t0ken", "", 403),
        ("t0ken", "Bearer token", 403),
        ("t0ken", "Bearer t0ken", 200),
    ):
        console.change("console", metrics_token=SecretStr(token))
        for here in ("127.0.0.1", "::1", "192.0.2.1"):
            client = client_of(console.app, caller=here)
            assert client.get("/metrics", headers={"Authorization": sent}).status_code == status, sent


def test_a_port_for_metrics_needs_no_token_and_answers_nothing_else(console: ConsoleLab) -> None:
    console.change("console", metrics_port=9112)
    app = create_app(console.settings, console.database)
    client = client_of(app, "http://127.0.0.1:9112")
    assert {client.get(path).status_code for path in ("/healthz", "/metrics")} == {200}
    assert {client.get(path).status_code for path in ("/", "/sign-in", "/api/v1/studies")} == {404}
    at_the_console = client_of(app, "http://127.0.0.1:8080", Host="127.0.0.1:9112")
    assert at_the_console.get("/metrics").status_code == 403


def test_a_name_that_is_not_listed_is_answered_by_421_and_what_to_do(console: ConsoleLab) -> None:
    client = client_of(console.app)
    for path in ("/sign-in", "/", "/api/v1/studies", "/metrics", "/static/style.css"):
        for host in ("evil.example.org", "testserver.evil.example.org", "192.0.2.9:80", ""):
            answer = client.get(path, headers={"Host": host})
            assert answer.status_code == 421, host
            assert "console.hosts" in answer.text and "evil" not in answer.text
    assert client.get("/healthz", headers={"Host": "10.1.2.3:8080"}).status_code == 200


def test_an_event_that_is_committed_behind_others_or_under_a_number_of_before_is_seen(inbox: Inbox) -> None:
    def seen(number: int) -> str:
        inbox.add(EventRow(id=number, at=utc_now(), number=NODE_READY.number, fields={}))
        return str(changes.newest(inbox.database))

    last, behind = seen(9_002), seen(9_001)
    assert last != behind == str(changes.newest(inbox.database))
    inbox.write(Session.execute, delete(EventRow).where(EventRow.id == 9_002))
    assert seen(9_002) != behind
