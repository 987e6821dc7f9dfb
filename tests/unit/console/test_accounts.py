"""An admin makes users, gives them roles and passwords, shuts accounts and signs people out."""

from __future__ import annotations

import pytest

from dicom_node.errors import SignInRefused
from dicom_node.model.roles import UserRole
from dicom_node.services import users
from tests.console_lab import PASSWORD, ConsoleLab, Program

WORDS = "four words are easy"


def of(console: ConsoleLab, name: str) -> dict[str, object]:
    return next(row for row in users.list_users(console.settings) if row["name"] == name)


def may_sign_in(console: ConsoleLab, name: str, password: str) -> bool:
    try:
        return bool(users.sign_in(console.database, name, password, "192.0.2.7"))
    except SignInRefused:
        return False


def test_a_user_is_added_and_signs_in(console: ConsoleLab) -> None:
    admin = console.browser(UserRole.ADMIN)
    assert admin.post("/users", name="anna", role="reader", password=WORDS, again=WORDS) == 303
    assert (of(console, "anna")["role"], may_sign_in(console, "anna", WORDS)) == ("reader", True)
    [added] = console.audited("user_added")[:1]
    assert added["user"] == "anna" and WORDS not in str(added)
    admin.get("/users")
    assert "anna" in admin.text and "last seen" in admin.text


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"again": "another of four words"}, "the two passwords differ"),
        ({"password": "short", "again": "short"}, "a password has 12"),
        ({"name": "admin"}, "is there already"),
        ({"name": "a b"}, "letters of ASCII"),
        ({"role": "king"}, "choose a role"),
    ],
)
def test_what_cannot_be_is_said_and_the_form_stays(
    console: ConsoleLab, fields: dict[str, str], problem: str
) -> None:
    admin = console.browser(UserRole.ADMIN)
    given = {"name": "anna", "role": "reader", "password": WORDS, "again": WORDS, **fields}
    assert admin.post("/users", **given) == 400
    assert problem in admin.text and WORDS not in admin.text
    assert [row["name"] for row in users.list_users(console.settings)].count("anna") == 0


def test_another_role_signs_the_user_out(console: ConsoleLab) -> None:
    admin, reader = console.browser(UserRole.ADMIN), console.browser(UserRole.READER)
    assert admin.post("/users/reader/role", role="viewer") == 303
    assert of(console, "reader")["role"] == "viewer" and of(console, "reader")["sessions"] == 0
    assert reader.get("/studies") == 303  # to sign in


def test_a_shut_account_opens_nothing_until_it_is_opened(console: ConsoleLab) -> None:
    admin, program = console.browser(UserRole.ADMIN), Program(console, UserRole.VIEWER)
    assert program.ask("GET", "/jobs")[0] == 200
    assert admin.post("/users/viewer/disable") == 303
    assert program.ask("GET", "/jobs")[0] == 401
    assert not may_sign_in(console, "viewer", PASSWORD)
    assert admin.post("/users/viewer/enable") == 303
    assert program.ask("GET", "/jobs")[0] == 200 and may_sign_in(console, "viewer", PASSWORD)


def test_a_new_password_is_the_only_one(console: ConsoleLab) -> None:
    admin = console.browser(UserRole.ADMIN)
    assert admin.post("/users/viewer/password", password=WORDS, again=WORDS) == 303
    assert may_sign_in(console, "viewer", WORDS) and not may_sign_in(console, "viewer", PASSWORD)


def test_sessions_end_and_accounts_go(console: ConsoleLab) -> None:
    admin, reader = console.browser(UserRole.ADMIN), console.browser(UserRole.READER)
    assert admin.post("/users/reader/sign-out") == 303
    assert reader.get("/studies") == 303
    assert admin.post("/users/reader/remove") == 303
    assert "reader" not in [row["name"] for row in users.list_users(console.settings)]


@pytest.mark.parametrize("change", ["role", "disable", "remove"])
def test_nobody_shuts_the_own_account(console: ConsoleLab, change: str) -> None:
    admin = console.browser(UserRole.ADMIN)
    assert admin.post(f"/users/admin/{change}", role="viewer") == 400
    assert "another admin" in admin.text and of(console, "admin")["role"] == "admin"


@pytest.mark.parametrize("role", [UserRole.VIEWER, UserRole.READER, UserRole.OPERATOR])
def test_only_admins_see_and_change_users(console: ConsoleLab, role: UserRole) -> None:
    browser = console.browser(role)
    assert browser.get("/users") == 403
    assert browser.post("/users", name="anna", role="admin", password=WORDS, again=WORDS) == 403
