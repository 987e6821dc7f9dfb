"""``dicom-node users``."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from dicom_node.errors import ExitCode
from dicom_node.services import audit
from tests.unit.cli.conftest import Run, in_database

PASSWORD = "correct horse battery"


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Typed(io.StringIO):
        def readline(self, *_: object) -> str:
            return PASSWORD + "\n"

    monkeypatch.setattr(sys, "stdin", Typed())


def test_users_are_added_listed_and_removed(run: Run, filled: Path, typed: None) -> None:
    assert run("users", "add", "anna", "--role", "admin", "--config", filled).status == 0
    assert run("users", "add", "ben", "--role", "viewer", "--config", filled).status == 0
    assert run("users", "password", "ben", "--config", filled).status == 0
    assert run("users", "remove", "anna", "--config", filled).status == 0
    [row] = run("users", "list", "--json", "--config", filled).json
    assert (row["name"], row["role"]) == ("ben", "viewer")
    with in_database(filled) as session:
        rows = audit.rows(session)
    assert [(row["actor"], row["action"]) for row in rows] == [
        ("command line", word) for word in ("user_removed", "password_set", "user_added", "user_added")
    ]


def test_a_user_gets_another_role_and_is_shut_out(run: Run, filled: Path, typed: None) -> None:
    run("users", "add", "anna", "--role", "viewer", "--config", filled)
    assert run("users", "change", "anna", "--role", "reader", "--disable", "--config", filled).status == 0
    [row] = run("users", "list", "--json", "--config", filled).json
    assert (row["role"], row["disabled"], row["sessions"]) == ("reader", True, 0)
    assert "disabled" in run("users", "list", "--config", filled).out
    assert run("users", "change", "anna", "--enable", "--config", filled).status == 0
    [row] = run("users", "list", "--json", "--config", filled).json
    assert (row["role"], row["disabled"]) == ("reader", False)
    assert run("users", "change", "anna", "--config", filled).status == ExitCode.USAGE


def test_a_name_is_given_once(run: Run, filled: Path, typed: None) -> None:
    run("users", "add", "anna", "--role", "admin", "--config", filled)
    assert (
        run("users", "add", "Anna", "--role", "viewer", "--config", filled).status == ExitCode.CANNOT_CREATE
    )


@pytest.mark.parametrize("name", ["command line", "", "a" * 65, "<script>"])
def test_a_name_is_plain(run: Run, filled: Path, typed: None, name: str) -> None:
    assert run("users", "add", name, "--role", "viewer", "--config", filled).status == ExitCode.DATA


@pytest.mark.parametrize("verb", ["password", "remove"])
def test_a_user_who_is_not_there_is_told(run: Run, filled: Path, typed: None, verb: str) -> None:
    assert run("users", verb, "nobody", "--config", filled).status == ExitCode.NOT_FOUND


@pytest.mark.parametrize(
    "password", ["", "elevenchars", "x" * 257, "anna12345678"], ids=["none", "short", "long", "the name"]
)
def test_a_password_that_is_easy_to_guess_is_refused(
    run: Run, filled: Path, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(password + "\n"))
    done = run("users", "add", "anna", "--role", "viewer", "--config", filled)
    assert done.status == ExitCode.DATA
    assert not password or password not in done.err
    assert run("users", "list", "--json", "--config", filled).json == []


def test_what_the_command_line_changes_is_audited(run: Run, filled: Path) -> None:
    assert run("outbox", "retry", "--dead", "--config", filled).status == 0
    with in_database(filled) as session:
        [row] = audit.rows(session)
    assert (row["actor"], row["action"], row["fields"]["all_dead"]) == ("command line", "delivery_retried", 2)


def test_tokens_are_made_listed_and_taken_back(run: Run, filled: Path, typed: None) -> None:
    assert run("users", "add", "anna", "--role", "viewer", "--config", filled).status == 0
    made = run("tokens", "add", "anna", "--for", "the dashboard", "--days", 30, "--config", filled)
    assert (made.status, made.out.strip().startswith("dn_")) == (0, True)
    [row] = run("tokens", "list", "--json", "--config", filled).json
    assert (row["user"], row["purpose"], row["used_at"]) == ("anna", "the dashboard", None)
    assert run("tokens", "remove", row["token"], "--config", filled).status == 0
    assert run("tokens", "remove", row["token"], "--config", filled).status == 66
    assert run("tokens", "add", "ben", "--for", "nothing", "--config", filled).status == 66
    assert run("tokens", "list", "--json", "--config", filled).json == []
