"""Signing in, staying so, and not being let in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.errors import SignInRefused
from dicom_node.model.kinds import AuditAction
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, users
from dicom_node.services.audit import Person
from dicom_node.store.accounts import UserAccount, UserSession
from tests.console_lab import PASSWORD, ConsoleLab
from tests.inbox_lab import Inbox

WRONG = "another horse battery"


def test_a_user_signs_in_and_out(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.VIEWER)
    assert browser.get("/") == 200
    assert browser.post("/sign-out") == 303
    assert browser.get("/") == 303
    with console.database.read() as session:
        actions = [row["action"] for row in audit.rows(session)]
    assert actions[:2] == ["signed_out", "signed_in"]


def test_the_token_of_a_session_that_was_ended_is_worth_nothing(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.VIEWER)
    token = browser.client.cookies[console.cookie]
    browser.post("/sign-out")
    browser.client.cookies.set(console.cookie, token)
    assert browser.get("/") == 303


def test_signing_in_changes_the_token(console: ConsoleLab) -> None:
    browser = console.browser()
    browser.get("/sign-in")
    before = browser.client.cookies[console.cookie]
    browser.sign_in("viewer")
    assert browser.client.cookies[console.cookie] != before


def test_the_cookie_is_kept_from_scripts_and_other_sites(console: ConsoleLab) -> None:
    browser = console.browser()
    browser.sign_in("viewer")
    cookie = browser.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert "Max-Age" not in cookie


def test_neither_password_nor_token_stands_in_the_database(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.VIEWER)
    token = browser.client.cookies[console.cookie]
    console.database.dispose()
    stored = b"".join(path.read_bytes() for path in console.settings.node.data_dir.glob("node.db*"))
    assert b"viewer" in stored and token.encode() not in stored
    assert PASSWORD.encode() not in stored


def test_an_unknown_name_looks_like_a_wrong_password(console: ConsoleLab) -> None:
    answers = []
    for name in ("viewer", "nobody", "' OR 1=1 --", "%"):
        browser = console.browser()
        answers.append((browser.sign_in(name, WRONG), browser.text.count("Name or password is wrong.")))
    assert answers == [(403, 1)] * 4


def test_a_name_counts_whatever_its_capitals(console: ConsoleLab) -> None:
    assert console.browser().sign_in("Viewer") == 303


@pytest.mark.parametrize(
    ("refusals", "limit"),
    [
        (lambda n: Person("viewer", "192.0.2.1"), users.REFUSALS_OF_A_NAME_FROM_ONE_ADDRESS),
        (lambda n: Person(f"user{n}", "192.0.2.1"), users.REFUSALS_OF_AN_ADDRESS),
        (lambda n: Person("viewer", f"192.0.2.{n}"), users.REFUSALS_OF_A_NAME),
    ],
    ids=["a name from one address", "an address", "a name"],
)
def test_after_so_many_refusals_nothing_is_looked_at(
    console: ConsoleLab, refusals: object, limit: int
) -> None:
    def refuse(numbers: range) -> None:
        with console.database.write() as session:
            for number in numbers:
                by = refusals(number + 10)  # type: ignore[operator]
                audit.note(session, by, AuditAction.SIGN_IN_REFUSED)

    refuse(range(limit - 1))
    users.sign_in(console.database, "viewer", PASSWORD, "192.0.2.1")
    refuse(range(limit - 1, limit))
    with pytest.raises(SignInRefused, match="Too many attempts"):
        users.sign_in(console.database, "viewer", PASSWORD, "192.0.2.1")


def test_wrong_passwords_end_in_a_wait(console: ConsoleLab) -> None:
    browser = console.browser()
    statuses = [browser.sign_in("viewer", WRONG) for _ in range(6)]
    assert statuses == [403] * 6
    assert "Too many attempts" in browser.text
    assert browser.sign_in("viewer") == 403
    assert console.browser().sign_in("admin") == 303


@pytest.mark.parametrize("url", ["", pytest.param("postgres_url", marks=pytest.mark.debian("postgresql"))])
def test_a_name_that_is_no_user_s_is_refused_like_one_that_is(
    tmp_path: Path, request: pytest.FixtureRequest, url: str
) -> None:
    node = Inbox(tmp_path / "own", url=request.getfixturevalue(url) if url else "")
    console = ConsoleLab(node.settings, node.database)

    def told(name: str) -> str:
        with pytest.raises(SignInRefused) as refused:
            users.sign_in(console.database, name, WRONG, "192.0.2.1")
        return str(refused.value)

    for number in range(6):
        told(f"nobody{number}")
    said = {name: [told(name) for _ in range(6)] for name in ("viewer", "stranger")}
    assert said["stranger"] == said["viewer"]
    assert told("STRANGER") == told("VIEWER") == said["viewer"][-1] != said["viewer"][0]
    node.close()


@pytest.mark.parametrize(
    ("seen", "created", "signed_in"),
    [(14, 14, True), (16, 16, False), (1, 11 * 60, True), (1, 12 * 60 + 1, False)],
)
def test_a_session_ends_by_itself(console: ConsoleLab, seen: float, created: float, signed_in: bool) -> None:
    browser = console.browser(UserRole.VIEWER)
    now = datetime.now(UTC)
    with console.database.write() as session:
        row = session.scalars(select(UserSession)).one()
        row.seen_at, row.created_at = now - timedelta(minutes=seen), now - timedelta(minutes=created)
    assert (browser.get("/") == 200) is signed_in


def test_being_seen_puts_the_end_off(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.VIEWER)
    with console.database.write() as session:
        session.scalars(select(UserSession)).one().seen_at = datetime.now(UTC) - timedelta(minutes=10)
    browser.get("/")
    with console.database.read() as session:
        assert datetime.now(UTC) - session.scalars(select(UserSession)).one().seen_at < timedelta(minutes=1)


def test_another_password_signs_out_who_had_the_old_one(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.VIEWER)
    users.set_password(console.settings, "viewer", WRONG)
    assert browser.get("/") == 303
    assert browser.sign_in("viewer") == 403
    assert browser.sign_in("viewer", WRONG) == 303


def test_who_is_removed_is_signed_out(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.VIEWER)
    users.remove_user(console.settings, "viewer")
    assert browser.get("/") == 303
    assert browser.sign_in("viewer") == 403
    with console.database.read() as session:
        names = list(session.scalars(select(UserAccount.name)))
    assert sorted(names) == ["admin", "operator", "reader"]
