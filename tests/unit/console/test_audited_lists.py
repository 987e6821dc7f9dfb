"""Who sees lists with Patient IDs, or takes one away, stands in the audit."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from dicom_node.model.roles import UserRole
from dicom_node.services import audit
from dicom_node.store.accounts import AuditRow
from dicom_node.store.transitions import utc_now
from tests.console_lab import ConsoleLab, Program
from tests.inbox_lab import Inbox


@pytest.fixture
def console(node: Inbox) -> ConsoleLab:
    return ConsoleLab(node.settings, node.database)


def noted(console: ConsoleLab, action: str) -> list[tuple[Any, ...]]:
    with console.database.read() as session:
        rows = audit.rows(session)
    return [(row["actor"], row["fields"]) for row in rows if row["action"] == action]


@pytest.mark.parametrize(("path", "name"), [("/studies", "studies"), ("/patients", "patients")])
def test_a_list_is_noted_once_for_each_person_until_some_minutes_are_over(
    console: ConsoleLab, path: str, name: str
) -> None:
    reader, admin = console.browser(UserRole.READER), console.browser(UserRole.ADMIN)
    for browser in (reader, reader, admin):
        assert browser.get(path) == 200
        assert "ID-one" in browser.text
    assert noted(console, "list_seen") == [("admin", {"list": name}), ("reader", {"list": name})]
    with console.database.write() as session:
        session.execute(update(AuditRow).values(at=utc_now() - timedelta(minutes=6)))
    reader.get(path)
    assert len(noted(console, "list_seen")) == 3


def test_a_list_for_a_program_is_noted_too(console: ConsoleLab) -> None:
    program = Program(console, UserRole.VIEWER)
    for _ in range(2):
        assert "ID-one" in str(program.ask("GET", "/studies"))
    assert noted(console, "list_seen") == [("viewer", {"list": "studies"})]


def test_each_export_is_noted(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.READER)
    for _ in range(2):
        assert browser.get("/models/obedient/1/feedback.csv") == 200
    assert noted(console, "exported") == [("reader", {"list": "feedback"})] * 2
