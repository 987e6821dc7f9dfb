"""Who is signed in, one by one, and the end of one."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from dicom_node.errors import NotFound
from dicom_node.model.roles import UserRole
from dicom_node.services import users
from dicom_node.store.accounts import UserSession
from tests.console_lab import PASSWORD, Browser, ConsoleLab

_TAIL = "AppleWebKit/537.36 (KHTML, like Gecko)"


def signed_in(console: ConsoleLab, role: UserRole, agent: str) -> Browser:
    browser = console.browser()
    browser.client.headers["user-agent"] = agent
    assert browser.sign_in(role.value) == 303
    return browser


def numbers(console: ConsoleLab, user: str) -> list[int]:
    return [row["session"] for row in users.list_sessions(console.settings, user)]


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0", "Firefox 144, Linux"),
        (f"Mozilla/5.0 (Windows NT 10.0) {_TAIL} Chrome/141.0 Safari/537.36 Edg/141.0", "Edge 141, Windows"),
        (f"Mozilla/5.0 (Linux; Android 15) {_TAIL} Chrome/141.0 Mobile Safari/537.36", "Chrome 141, Android"),
        (f"Mozilla/5.0 (iPhone; like Mac OS X) {_TAIL} Version/18.1 Safari/604.1", "Safari 18, iOS"),
        ("<script>alert(1)</script>", ""),
        ("Firefox/" + "9" * 5000, "Firefox 9999"),
        (" " * 100_000 + "Firefox/144", ""),
        ("", ""),
    ],
)
def test_a_browser_is_named_in_few_words_of_our_own(agent: str, name: str) -> None:
    assert users.browser_name(agent) == name


def test_a_person_sees_and_ends_the_own_sessions_only(console: ConsoleLab) -> None:
    here = signed_in(console, UserRole.VIEWER, "Mozilla/5.0 (X11; Linux x86_64) Firefox/144.0")
    there = signed_in(console, UserRole.VIEWER, "Mozilla/5.0 (Windows NT 10.0) Firefox/143.0")
    other = signed_in(console, UserRole.READER, "Mozilla/5.0 (Windows NT 10.0) Firefox/142.0")
    assert here.get("/sessions") == 200
    assert "Firefox 144, Linux" in here.text and "Firefox 143, Windows" in here.text
    assert "Firefox 142" not in here.text and here.text.count("this browser") == 1
    [number] = [
        row["session"] for row in users.list_sessions(console.settings, "viewer") if "143" in row["browser"]
    ]
    [foreign] = numbers(console, "reader")
    assert here.post(f"/sessions/{foreign}/end") == 404
    assert here.post(f"/sessions/{number}/end") == 303
    assert (there.get("/"), here.get("/"), other.get("/")) == (303, 200, 200)
    assert console.audited("user_changed")[0] == {"user": "viewer", "signed_out": True, "ended": number}


def test_an_admin_ends_anybody_s(console: ConsoleLab) -> None:
    admin = console.browser(UserRole.ADMIN)
    reader = console.browser(UserRole.READER)
    admin.get("/users")
    [number] = numbers(console, "reader")
    assert f'action="/sessions/{number}/end"' in admin.text
    assert (
        admin.post(f"/sessions/{number}/end", back="users") == 303 and admin.headers["location"] == "/users"
    )
    assert reader.get("/") == 303 and admin.get("/") == 200


def test_a_program_and_a_form_without_its_token_end_nothing(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.VIEWER)
    [number] = numbers(console, "viewer")
    assert browser.post(f"/sessions/{number}/end", csrf="wrong") == 403
    assert numbers(console, "viewer") == [number]


def test_no_list_has_a_token(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.ADMIN)
    token = browser.client.cookies[console.cookie]
    with console.database.read() as session:
        hashed = session.scalars(select(UserSession.token_sha256)).one()
    browser.get("/users")
    shown = browser.text + str(users.list_sessions(console.settings))
    browser.get("/sessions")
    assert not any(secret in shown + browser.text for secret in (token, hashed))


def test_who_was_idle_for_too_long_is_not_listed_and_nobody_is_found_by_a_wrong_number(
    console: ConsoleLab,
) -> None:
    users.sign_in(console.database, "viewer", PASSWORD, "192.0.2.1", agent="x" * 10_000)
    [row] = users.list_sessions(console.settings)
    assert (row["address"], row["browser"], row["own"]) == ("192.0.2.1", "", False)
    with console.database.write() as session:
        one = session.scalars(select(UserSession)).one()
        one.seen_at = one.seen_at.replace(year=2020)
    assert users.list_sessions(console.settings) == []
    with pytest.raises(NotFound, match="users sessions shows them"):
        users.end_session(console.settings, 999)
