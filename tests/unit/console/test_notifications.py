"""Who is told of what, as the console and the command line show it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from dicom_node.cli import app
from dicom_node.events import JOB_FAILED
from dicom_node.model.roles import UserRole
from dicom_node.notifications.sender import Notifier
from dicom_node.services import audit
from dicom_node.store.transitions import record
from tests.console_lab import ConsoleLab, Program, config_file
from tests.inbox_lab import CONFIG, Inbox
from tests.smtp_lab import WebServer


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer().running() as server:
        yield server


@pytest.fixture
def told(console: ConsoleLab, inbox: Inbox, web: WebServer) -> ConsoleLab:
    """A console of a node whose web server refused what it was told."""
    rule = {"name": "hook", "on": ["failure"], "url": web.url, "token": "T0KEN"}
    given = {**CONFIG, "outbox": {"refusals": 1}, "notifications": [rule]}
    node = Inbox(inbox.folder, given)
    notifier = Notifier(node.database, node.settings, "a test")
    notifier.run_once()
    with node.database.write() as session:
        record(session, JOB_FAILED)
    web.status = 404
    notifier.run_once()
    node.close()
    return ConsoleLab(node.settings, inbox.database)


def test_an_operator_sees_tests_and_repeats(told: ConsoleLab, web: WebServer) -> None:
    browser = told.browser(UserRole.OPERATOR)
    assert browser.get("/notifications") == 200
    for word in ("hook", "failure", "job failed for good × 1", "the server answers 404", "Send again"):
        assert word in browser.text
    assert browser.post("/notifications/hook/test") == 200
    assert "the server answers 404" in browser.text
    web.status = 200
    browser.post("/notifications/hook/test")
    assert "taken by the server" in browser.text
    assert web.calls[-1][1]["test"] is True
    assert browser.post("/notifications/1/retry") == 303
    assert browser.post("/notifications/1/retry") == 409
    assert browser.post("/notifications/none/test") == 404
    assert "KEY-IN-URL" not in browser.text
    with told.database.read() as session:
        actions = [row["action"] for row in audit.rows(session)]
    assert actions[:3] == ["notified_again", "notifier_tested", "notifier_tested"]


def test_secrets_stand_on_no_page(told: ConsoleLab) -> None:
    browser = told.browser(UserRole.ADMIN)
    for path, shown in (("/notifications", "hook"), ("/audit", "admin")):
        assert browser.get(path) == 200 and shown in browser.text
        assert "KEY-IN-URL" not in browser.text
        assert "T0KEN" not in browser.text


def test_a_program_lists_them(told: ConsoleLab) -> None:
    program = Program(told, UserRole.OPERATOR)
    failed = program.ask("GET", "/notifications?state=failed")[1]
    assert [row["rule"] for row in failed["notifications"]] == ["hook"]
    assert program.ask("POST", "/notifications/1/retry")[0] == 204
    assert program.ask("GET", "/notifications?state=failed")[1]["notifications"] == []


def test_the_command_line_does_the_same(told: ConsoleLab, web: WebServer, inbox: Inbox) -> None:
    rule = f'[[notifications]]\nname = "hook"\non = ["disk"]\nurl = "{web.url}"\n'
    config = config_file(inbox.settings, rule)
    run = CliRunner()
    listed = run.invoke(app, ["notifications", "list", "--json", "--config", str(config)])
    assert '"failed"' in listed.output
    failed = run.invoke(app, ["notifications", "test", "hook", "--config", str(config)])
    assert failed.exit_code == 1
    web.status = 200
    taken = run.invoke(app, ["notifications", "test", "hook", "--json", "--config", str(config)])
    assert (taken.exit_code, '"ok": true' in taken.output) == (0, True)
    assert "KEY-IN-URL" not in listed.output + failed.output + taken.output
    assert run.invoke(app, ["notifications", "retry", "1", "--config", str(config)]).exit_code == 0
