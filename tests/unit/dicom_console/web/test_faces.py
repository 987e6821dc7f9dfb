"""The REST API: tokens, what it answers, and what programs may change."""

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from dicom_node.base.errors import FaultyInput, NotFound
from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store.tables import ApiToken
from dicom_node.base.store.transitions import utc_now
from dicom_node.people import entered, users
from tests.console_lab import ConsoleLab, Program
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.receive.objects import changed


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
    assert actions == {"list_seen", "study_searched", "study_seen"}
    assert "SECRET" not in str(rows)


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
        assert answer[0] == status, path
        assert status < 400 or set(answer[1]) == {"error"}, path
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
    monkeypatch.setattr(entered, "apply_now", asked.append)
    return asked


def test_an_admins_program_adds_changes_and_removes_a_peer(
    console: ConsoleLab, asked_nodes: list[object]
) -> None:
    admin = Program(console, UserRole.ADMIN)
    status, answer = admin.ask("PUT", "/peers/us2", json=PEER, params={"version": 0})
    assert (status, answer["name"]) == (200, "us2")
    first = answer["version"]
    status, answer = admin.ask("PUT", "/peers/us2", json=PEER, params={"version": 0})
    assert status == 409
    assert "already" in answer["error"]
    second = admin.ask("PUT", "/peers/us2", json=PEER | {"quiet_seconds": 8})[1]["version"]
    gone = [admin.ask("DELETE", "/peers/us2", params={"version": one})[0] for one in (first, second, second)]
    assert gone == [409, 200, 404]
    assert len(asked_nodes) == 3
    assert admin.ask("POST", "/entered/2/undo")[1]["version"] == 4
    changes = [row["saved"].partition(": ")[2] for row in admin.ask("GET", "/entered")[1]]
    assert changes == ["as in version 2", "peer us2 removed", "peer us2", "peer us2"]
    actions = [row["action"] for row in reversed(console.audit_rows()) if "peer_" in row["action"]]
    assert actions == ["peer_saved", "peer_saved", "peer_removed", "peer_saved"]


def test_what_is_wrong_is_said_and_nothing_is_saved(console: ConsoleLab, asked_nodes: list[object]) -> None:
    admin = Program(console, UserRole.ADMIN)
    headers = {"Authorization": f"Bearer {admin.token}", "Content-Type": "application/json"}
    for keys, says in (
        ({"ae_titel": "US2"}, "ae_titel"),
        ({**PEER, "name": "us3"}, "the address says us2"),
        ({**PEER, "password": "x"}, "configuration files"),
        ({**PEER, "host": "${HOST}"}, "configuration files"),
        ({**PEER, "ae_title": None}, "no TOML"),
        ({**PEER, "host": "\ud800"}, "no setting has"),
        ({**PEER, "may": [{"a b": 1}]}, "must be one of"),
        ({**PEER, "quiet_seconds": 1e400}, "quiet_seconds"),
        ({"x\nname": "us3"}, "TOML"),
    ):
        answer = admin.client.put("/api/v1/peers/us2", content=json.dumps(keys), headers=headers)
        assert answer.status_code == 400, answer.text
        assert says in answer.json()["error"], answer.text
    assert entered.entered_versions(console.settings) == []
    assert asked_nodes == []


def test_no_request_that_the_schema_allows_makes_it_fail(console: ConsoleLab, inbox: Inbox) -> None:
    """By schemathesis, which takes a second to load: what the schema allows, and what it does not."""
    schemathesis = pytest.importorskip("schemathesis", reason="of the extra test: make test installs it")
    inbox.settle(ultrasound("one"))
    headers = {"Authorization": f"Bearer {Program(console, UserRole.ADMIN).token}"}
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", console.app, headers=headers)
    asked: dict[int, int] = {}
    operations = [one.ok() for one in schema.get_all_operations()]
    assert len(operations) > 12
    for operation in operations:

        @settings(
            max_examples=2,  # of each operation
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


def test_a_method_that_an_address_has_not_is_answered_with_those_that_it_has(console: ConsoleLab) -> None:
    answer = console.browser(UserRole.VIEWER).client.put("/studies")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")
