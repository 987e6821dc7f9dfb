"""The REST API of what is entered: peers, rules, registered patients; who may, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dicom_node.config import loading
from dicom_node.model.kinds import AuditAction
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, entered
from tests.console_lab import ConsoleLab, Program
from tests.inbox_lab import Inbox
from tests.modality import ultrasound

PEER: dict[str, Any] = {"ae_title": "US2", "may": ["send"], "quiet_seconds": 7}
RULE: dict[str, Any] = {"when": {"station": "ROOM2"}, "pipeline": "ultrasound", "send_to": ["pacs"]}


@pytest.fixture
def asked_nodes(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Each time that nodes are asked to take the configuration over."""
    asked: list[object] = []
    monkeypatch.setattr(entered, "apply", asked.append)
    return asked


def test_an_admins_program_adds_changes_and_removes_a_peer(
    console: ConsoleLab, inbox: Inbox, asked_nodes: list[object]
) -> None:
    admin = Program(console, UserRole.ADMIN)
    status, answer = admin.ask("PUT", "/peers/us2", json=PEER, params={"version": 0})
    assert (status, answer["name"], answer["version"]) == (200, "us2", 1)
    file = inbox.folder / "node.toml"
    file.write_text(f'[node]\ndata_dir = "{inbox.folder}"\n')
    assert loading.load([file]).peer("us2").quiet_seconds == 7
    status, answer = admin.ask("PUT", "/peers/us2", json=PEER, params={"version": 0})
    assert status == 409 and "already" in answer["error"]
    assert admin.ask("PUT", "/peers/us2", json=PEER | {"quiet_seconds": 8})[1]["version"] == 2
    assert admin.ask("DELETE", "/peers/us2", params={"version": 1})[0] == 409
    assert admin.ask("DELETE", "/peers/us2", params={"version": 2}) == (204, None)
    assert admin.ask("DELETE", "/peers/us2")[0] == 404
    assert len(asked_nodes) == 3
    with console.database.read() as session:
        actions = [row["action"] for row in audit.rows(session)]
    assert actions[:3] == [AuditAction.PEER_REMOVED, AuditAction.PEER_SAVED, AuditAction.PEER_SAVED]


def test_a_rule_is_tried_saved_listed_and_removed(
    console: ConsoleLab, inbox: Inbox, asked_nodes: list[object]
) -> None:
    inbox.receive(ultrasound("one"))
    inbox.settle()
    admin = Program(console, UserRole.ADMIN)
    status, tried = admin.ask("POST", "/rules/second/try", json=RULE | {"when": {"modality": "US"}})
    assert status == 200 and [row["name"] for row in tried[0]["then"]["rules"]] == ["ultrasound", "second"]
    assert tried[0]["changes"] and asked_nodes == []
    assert admin.ask("PUT", "/rules/second", json=RULE)[0] == 200
    with console.database.read() as session:
        assert "second" in entered.listed(session, "rules")
    status, listed = admin.ask("GET", "/rules")
    assert status == 200 and {row["name"]: row["version"] for row in listed}["ultrasound"] is None
    assert admin.ask("DELETE", "/rules/second") == (204, None)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"ae_titel": "US2"}, "ae_titel"),
        ({**PEER, "name": "us3"}, "the address says us2"),
        ({**PEER, "password": "x"}, "configuration files"),
        ({**PEER, "host": "${HOST}"}, "configuration files"),
        ({**PEER, "ae_title": None}, "no TOML"),
        ({**PEER, "host": "\ud800"}, "no setting has"),
        ({**PEER, "may": [{"a b": 1}]}, "must be one of"),
        ({**PEER, "quiet_seconds": 1e400}, "quiet_seconds"),
        ({"x\nname": "us3"}, "TOML"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_saved(
    console: ConsoleLab, asked_nodes: list[object], keys: dict[str, Any], says: str
) -> None:
    admin = Program(console, UserRole.ADMIN)
    sent = {"content": json.dumps(keys), "headers": {"Content-Type": "application/json"}}
    headers = {"Authorization": f"Bearer {admin.token}", **sent["headers"]}  # type: ignore[dict-item]
    answer = admin.client.put("/api/v1/peers/us2", content=sent["content"], headers=headers)
    assert answer.status_code == 400 and says in answer.json()["error"], answer.text
    with console.database.read() as session:
        assert entered.listed(session, "peers") == {} and asked_nodes == []


def test_a_body_of_many_brackets_is_refused(console: ConsoleLab) -> None:
    admin = Program(console, UserRole.ADMIN)
    headers = {"Authorization": f"Bearer {admin.token}", "Content-Type": "application/json"}
    for depth in (900, 9000):
        body = '{"may": ' + "[" * depth + "]" * depth + "}"
        assert admin.client.put("/api/v1/rules/one", content=body, headers=headers).status_code == 400


def test_what_stands_in_the_files_stays_locked(console: ConsoleLab) -> None:
    admin = Program(console, UserRole.ADMIN)
    status, answer = admin.ask("PUT", "/peers/pacs", json=PEER)
    assert status == 409 and "configuration files" in answer["error"]
    assert admin.ask("DELETE", "/peers/pacs")[0] == 404
    status, answer = admin.ask("PUT", "/peers/pacs/shows", json={"shows": ["sr", "sc"]})
    assert (status, answer) == (200, {"line": 'results = ["sr", "sc"]\n'})
    assert admin.ask("PUT", "/peers/pacs/shows", json={"shows": ["rejection"]})[0] == 400


def test_an_operators_program_registers_patients_and_changes_no_peer(console: ConsoleLab) -> None:
    operator = Program(console, UserRole.OPERATOR)
    about = {"PatientID": "P-7", "PatientName": "Nowak^Anna", "PatientBirthDate": "1957-08-23"}
    status, answer = operator.ask("POST", "/patients/registered", json=about)
    assert status == 200
    number = answer["registration"]
    assert operator.ask("POST", "/patients/registered", json=about)[0] == 400
    assert operator.ask("POST", "/patients/registered", json=about | {"PatientSex": "?"})[0] == 400
    [row] = operator.ask("GET", "/patients/registered")[1]
    assert (row["id"], row["PatientID"], row["PatientName"]) == (number, "P-7", "Nowak^Anna")
    assert operator.ask("DELETE", f"/patients/registered/{number}") == (204, None)
    assert operator.ask("GET", "/patients/registered") == (200, [])
    assert operator.ask("PUT", "/peers/us2", json=PEER)[0] == 403
    assert Program(console, UserRole.VIEWER).ask("GET", "/patients/registered")[0] == 403
    with console.database.read() as session:
        assert "Nowak" not in str(audit.rows(session))


def test_a_peer_that_gets_no_results_is_sent_no_test_study(console: ConsoleLab, tmp_path: Path) -> None:
    operator = Program(console, UserRole.OPERATOR)
    assert operator.ask("POST", "/peers/modality/test-study")[0] == 409
    assert operator.ask("POST", "/peers/nobody/test-study")[0] == 404
