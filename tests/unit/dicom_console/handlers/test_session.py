"""Signing in and out, sessions, and the users that an admin enters."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from dicom_console.app import create_app
from dicom_node.base.config.settings import ConsoleSettings
from dicom_node.base.errors import NotFound, SignInRefused
from dicom_node.base.lifecycle import AuditAction, UserRole
from dicom_node.base.store.tables import Study, UserSession
from dicom_node.people import audit, users
from tests.console_lab import PASSWORD, Browser, ConsoleLab, client_of
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.receive.objects import changed

HERE = "192.0.2.1"
WRONG = "another horse battery"


def test_a_user_signs_in_and_out_and_the_token_of_an_ended_session_is_worth_nothing(
    console: ConsoleLab,
) -> None:
    browser = console.browser()
    browser.get("/sign-in")
    before = browser.client.cookies[console.cookie]
    browser.sign_in("viewer")
    cookie, token = browser.headers["set-cookie"], browser.client.cookies[console.cookie]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert "Max-Age" not in cookie
    assert token != before
    assert browser.get("/") == 200
    assert (browser.post("/sign-out"), browser.get("/")) == (303, 303)
    browser.client.cookies.set(console.cookie, token)
    assert browser.get("/") == 303
    assert [row["action"] for row in console.audit_rows()][:2] == ["signed_out", "signed_in"]


def test_neither_password_nor_token_stands_in_the_database(console: ConsoleLab) -> None:
    token = console.browser(UserRole.VIEWER).client.cookies[console.cookie]
    console.database.dispose()
    stored = b"".join(path.read_bytes() for path in console.settings.node.data_dir.glob("node.db*"))
    assert b"viewer" in stored
    assert token.encode() not in stored
    assert PASSWORD.encode() not in stored


def refuse(console: ConsoleLab, who: Callable[[int], audit.Person], numbers: range) -> None:
    for number in numbers:
        console.write(audit.note, who(number), AuditAction.SIGN_IN_REFUSED)


@pytest.mark.parametrize(
    ("who", "address", "limit"),
    [
        (lambda n: audit.Person("viewer", HERE), HERE, users.REFUSALS_OF_A_NAME_FROM_ONE_ADDRESS),
        (lambda n: audit.Person(f"user{n}", HERE), HERE, users.REFUSALS_OF_AN_ADDRESS),
        (lambda n: audit.Person("viewer", f"192.0.2.{n + 2}"), HERE, users.REFUSALS_OF_A_NAME),
        (
            lambda n: audit.Person(f"user{n}", f"2001:db8::{n:x}"),
            "2001:DB8:0:0::ffff",
            users.REFUSALS_OF_AN_ADDRESS,
        ),
        (lambda n: audit.Person("viewer", f"::ffff:{HERE}"), HERE, users.REFUSALS_OF_A_NAME_FROM_ONE_ADDRESS),
    ],
    ids=["a name from one address", "an address", "a name", "a network of IPv6", "another spelling"],
)
def test_after_so_many_refusals_nothing_is_looked_at(
    console: ConsoleLab, who: Callable[[int], audit.Person], address: str, limit: int
) -> None:
    refuse(console, who, range(limit - 1))
    console.read(users.check_attempt, console.read(users.find, "viewer"), "viewer", address)
    refuse(console, who, range(limit - 1, limit))
    with pytest.raises(SignInRefused, match="Too many attempts"):
        users.sign_in(console.database, "viewer", PASSWORD, address)


def test_who_signed_in_there_lately_counts_alone(console: ConsoleLab) -> None:
    """A morning's mistakes of all behind one address of a hospital, and a stranger's elsewhere."""
    users.sign_in(console.database, "viewer", PASSWORD, HERE)
    refuse(console, lambda n: audit.Person(f"user{n}", HERE), range(users.REFUSALS_OF_AN_ADDRESS))
    refuse(console, lambda n: audit.Person("viewer", f"198.51.100.{n}"), range(users.REFUSALS_OF_A_NAME))
    refuse(
        console, lambda n: audit.Person("viewer", HERE), range(users.REFUSALS_OF_A_NAME_FROM_ONE_ADDRESS - 1)
    )
    users.sign_in(console.database, "viewer", PASSWORD, HERE)
    refuse(console, lambda n: audit.Person("viewer", HERE), range(1))
    for name in ("viewer", "admin"):
        with pytest.raises(SignInRefused, match="Too many attempts"):
            users.sign_in(console.database, name, PASSWORD, HERE)


def test_who_was_not_refused_signs_in_beside_many_refusals_of_the_same_address(console: ConsoleLab) -> None:
    """Twenty wrong passwords shut out everybody behind a proxy that is not trusted."""
    refuse(console, lambda n: audit.Person(f"user{n}", "testclient"), range(users.SUSPECT_REFUSALS))
    assert console.browser().sign_in("viewer") == 303
    assert console.browser().sign_in("admin", WRONG) == 403
    assert console.browser().sign_in("admin") == 403, "refused once, and the address is suspect"


def test_the_word_of_a_trusted_proxy_is_the_address_of_the_visitor(console: ConsoleLab) -> None:
    console.change("console", trusted_proxies=ConsoleSettings(trusted_proxies=("10.0.0.1",)).trusted_proxies)
    app = create_app(console.settings, console.database)
    browser, headers = Browser(app), {"x-forwarded-for": "203.0.113.9, 192.0.2.7"}
    browser.client = client_of(app, "http://localhost", "10.0.0.1", **headers)
    browser.sign_in("viewer", WRONG)
    assert console.audit_rows()[0]["address"] == "192.0.2.7"


def test_a_name_that_is_no_user_s_is_refused_like_one_that_is(console: ConsoleLab) -> None:
    def told(name: str) -> str:
        with pytest.raises(SignInRefused) as refused:
            users.sign_in(console.database, name, WRONG, "192.0.2.1")
        return str(refused.value)

    for number in range(6):
        told(f"nobody{number}")
    said = {name: [told(name) for _ in range(6)] for name in ("viewer", "' OR 1=1 --")}
    assert said["' OR 1=1 --"] == said["viewer"]
    assert told("' or 1=1 --") == told("VIEWER") == said["viewer"][-1] != said["viewer"][0]


@pytest.mark.parametrize(
    ("seen", "created", "signed_in"),
    [(14, 14, True), (16, 16, False), (1, 11 * 60, True), (1, 12 * 60 + 1, False)],
)
def test_a_session_ends_by_itself(
    console: ConsoleLab, viewer: Browser, seen: float, created: float, signed_in: bool
) -> None:
    now = datetime.now(UTC)
    console.put(
        UserSession, seen_at=now - timedelta(minutes=seen), created_at=now - timedelta(minutes=created)
    )
    assert (viewer.get("/") == 200) is signed_in


@pytest.mark.parametrize(
    ("path", "fields", "password"),
    [
        (
            "password",
            {"password": "four words are easy", "again": "four words are easy"},
            "four words are easy",
        ),
        ("role", {"role": "reader"}, PASSWORD),
        ("remove", {}, None),
    ],
)
def test_who_is_changed_is_signed_out(
    console: ConsoleLab, path: str, fields: dict[str, str], password: str | None
) -> None:
    browser, admin = console.browser(UserRole.VIEWER), console.browser(UserRole.ADMIN)
    assert admin.post(f"/users/viewer/{path}", **fields) == 303
    assert browser.get("/") == 303
    found = [word for word in (PASSWORD, "four words are easy") if browser.sign_in("viewer", word) == 303]
    assert found == ([password] if password else [])
    rows = {row["name"]: row["role"] for row in users.list_users(console.settings)}
    assert rows.get("viewer") == (fields.get("role", "viewer") if password else None)


def test_a_person_sees_and_ends_the_own_sessions_only(console: ConsoleLab) -> None:
    agents = ("X11; Linux x86_64) Firefox/144.0", "Windows NT 10.0) Firefox/143.0", "X11) Firefox/142.0")
    here, there, other = (console.browser() for _ in agents)
    for browser, name, agent in zip(
        (here, there, other), ("viewer", "viewer", "reader"), agents, strict=True
    ):
        browser.client.headers["user-agent"] = f"Mozilla/5.0 ({agent}"
        assert browser.sign_in(name) == 303
    assert "Firefox 144, Linux" in here.page("/sessions")
    assert "Firefox 143, Windows" in here.text
    assert "Firefox 142" not in here.text
    assert here.text.count("this browser") == 1
    number = {row["browser"][:11]: row["session"] for row in users.list_sessions(console.settings)}
    assert here.post(f"/sessions/{number['Firefox 142']}/end") == 404
    assert here.post(f"/sessions/{number['Firefox 143']}/end") == 303
    assert (there.get("/"), here.get("/"), other.get("/")) == (303, 200, 200)
    ended = {"user": "viewer", "signed_out": True, "ended": number["Firefox 143"]}
    assert console.audited("user_changed")[0] == ended


def test_who_was_idle_for_too_long_is_not_listed_and_nobody_is_found_by_a_wrong_number(
    console: ConsoleLab,
) -> None:
    users.sign_in(console.database, "viewer", PASSWORD, "192.0.2.1", agent="x" * 10_000)
    [row] = users.list_sessions(console.settings)
    assert (row["address"], row["browser"], row["own"]) == ("192.0.2.1", "", False)
    console.put(UserSession, seen_at=datetime(2020, 1, 1, tzinfo=UTC))
    assert users.list_sessions(console.settings) == []
    with pytest.raises(NotFound, match="users sessions shows them"):
        users.end_session(console.settings, 999)


WORDS = "four words are easy"


def of(console: ConsoleLab, name: str) -> dict[str, object]:
    return next(row for row in users.list_users(console.settings) if row["name"] == name)


def test_a_user_is_added_and_signs_in(console: ConsoleLab, admin: Browser) -> None:
    assert admin.post("/users", name="anna", role="reader", password=WORDS, again=WORDS) == 303
    assert of(console, "anna")["role"] == "reader"
    assert console.browser().sign_in("anna", WORDS) == 303
    [added] = console.audited("user_added")[:1]
    assert added["user"] == "anna"
    assert WORDS not in str(added)
    assert "anna" in admin.page("/users")
    assert "last seen" in admin.text


def test_what_cannot_be_is_said_and_the_form_stays(console: ConsoleLab, admin: Browser) -> None:
    for fields, problem in (
        ({"again": "another of four words"}, "the two passwords differ"),
        *(({"password": word, "again": word}, "a password has 12") for word in ("elevenchars", "x" * 257)),
        ({"password": "anna12345678", "again": "anna12345678"}, "little more than the name"),
        ({"name": "admin"}, "is there already"),
        ({"name": "a b"}, "letters of ASCII"),
        ({"role": "king"}, "choose a role"),
    ):
        given = {"name": "anna", "role": "reader", "password": WORDS, "again": WORDS, **fields}
        assert admin.post("/users", **given) == 400, problem
        assert problem in admin.text
        assert given["password"] not in admin.text
        assert [row["name"] for row in users.list_users(console.settings)].count("anna") == 0


def test_nobody_shuts_the_own_account(console: ConsoleLab, admin: Browser) -> None:
    for change in ("role", "disable", "remove"):
        assert admin.post(f"/users/admin/{change}", role="viewer") == 400
        assert "another admin" in admin.text
        assert of(console, "admin")["role"] == "admin"


def test_an_admin_finds_and_exports_the_audit_of_a_patient_whose_id_is_in_no_address(
    console: ConsoleLab, inbox: Inbox
) -> None:
    for name, patient in (("one", "SECRET-1"), ("two", "SECRET-1"), ("three", "SECRET-2")):
        inbox.settle(changed(ultrasound(name), PatientID=patient))
    one, two, three = inbox.rows(Study)
    for study in (one, two, three):
        console.write(audit.note, audit.Person("anna"), AuditAction.STUDY_SEEN, study_id=study.id)
    admin = console.at("/audit", UserRole.ADMIN)
    asked = f"study={one.study_instance_uid}&patient=1&what=study_seen"

    def links(address: str) -> set[int]:
        return {int(number) for number in re.findall(r'href="/studies/(\d+)"', admin.page(address))}

    assert links(f"/audit?{asked}") == {one.id, two.id}
    assert not re.search(r'(href|action)="[^"]*SECRET', admin.text)
    assert links(f"/audit?study={three.study_instance_uid}") == {three.id}
    assert links("/audit?what=study_seen&until=2020-01-01") == set()
    assert admin.get("/audit?since=yesterday") == 409
    lines = [json.loads(line) for line in admin.page(f"/audit/export?{asked}").splitlines()]
    assert [row["study"] for row in lines] == [two.study_instance_uid, one.study_instance_uid]
    assert console.audited("exported") == [{"list": "audit"}]
    assert console.browser(UserRole.OPERATOR).get("/audit/export") == 403
