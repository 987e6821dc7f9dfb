"""Signing in, by password and OpenID Connect, staying so, accounts, and who may ask for which page."""

import base64
import hashlib
import hmac
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import product
from select import poll
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
import uvicorn
from fastapi import APIRouter, FastAPI
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from werkzeug.wrappers import Request, Response

from dicom_connectors.oidc.settings import OidcSettings
from dicom_console.app import create_app
from dicom_console.web import limits
from dicom_console.web.access import ANYONE
from dicom_console.web.faces import Asked
from dicom_node.base.config.settings import ConsoleSettings
from dicom_node.base.errors import NotAllowedNow, NotFound, SignInRefused
from dicom_node.base.kinds import AuditAction, UserRole
from dicom_node.base.store.tables import UserSession
from dicom_node.people import audit, users
from tests.console_lab import PASSWORD, Browser, ConsoleLab, client_of, routes
from tests.hostile.web import answering
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.waiting import wait_until

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
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; ")) and "Max-Age" not in cookie
    assert token != before and browser.get("/") == 200
    assert (browser.post("/sign-out"), browser.get("/")) == (303, 303)
    browser.client.cookies.set(console.cookie, token)
    assert browser.get("/") == 303
    assert [row["action"] for row in console.audit_rows()][:2] == ["signed_out", "signed_in"]


def test_neither_password_nor_token_stands_in_the_database(console: ConsoleLab) -> None:
    token = console.browser(UserRole.VIEWER).client.cookies[console.cookie]
    console.database.dispose()
    stored = b"".join(path.read_bytes() for path in console.settings.node.data_dir.glob("node.db*"))
    assert b"viewer" in stored and token.encode() not in stored
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
    console.read(users.attempt_of, console.read(users.find, "viewer"), "viewer", address)
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
def test_a_session_ends_by_itself(console: ConsoleLab, seen: float, created: float, signed_in: bool) -> None:
    browser = console.browser(UserRole.VIEWER)
    now = datetime.now(UTC)
    console.put(
        UserSession, seen_at=now - timedelta(minutes=seen), created_at=now - timedelta(minutes=created)
    )
    assert (browser.get("/") == 200) is signed_in


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
    assert "Firefox 144, Linux" in here.page("/sessions") and "Firefox 143, Windows" in here.text
    assert "Firefox 142" not in here.text and here.text.count("this browser") == 1
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


# An OpenID provider that says whatever a test wants: claims, algorithms, keys and answers of any kind.

CLIENT, SECRET = "dicom-ai-node", "a secret of console and forger"
KEY, STRANGER = RSAKey.generate_key(2048, {"kid": "1"}), RSAKey.generate_key(2048, {"kid": "1"})


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@dataclass
class Forger:
    """``claims``: over the right ones, None takes one away. ``answers``: other ones, by path."""

    issuer: str = ""
    claims: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Callable[[], tuple[int, bytes]]] = field(default_factory=dict)
    sign: Callable[[dict[str, Any]], str] = lambda claims: jwt.encode(
        {"alg": "RS256", "kid": "1"}, claims, KEY
    )
    userinfo: dict[str, Any] = field(default_factory=dict)
    described: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    """Code → the request that it was given for: each is good once."""

    def settings(self, **others: Any) -> OidcSettings:
        """How a console comes to it."""
        roles = {"readers": "reader", "admins": "admin"}
        given = {"issuer": self.issuer, "client_id": CLIENT, "client_secret": SECRET, "roles": roles}
        return OidcSettings.model_validate(given | others)

    def begin(self, browser: Browser) -> dict[str, str]:
        """Begin a sign-in: what the browser brings to the provider."""
        assert browser.get("/sign-in/oidc") == 303, browser.text
        address = urlsplit(browser.headers["location"])
        assert f"{address.scheme}://{address.netloc}{address.path}" == f"{self.issuer}/authorize"
        return dict(parse_qsl(address.query))

    def sign_in(self, browser: Browser) -> int:
        """The whole way: the status with which the console answers."""
        asked = self.begin(browser)
        return self.come_back(browser, self.code(asked), asked["state"])

    def code(self, asked: dict[str, str]) -> str:
        """The code that the provider gives for this request."""
        code = f"code{len(self.codes)}"
        self.codes[code] = asked
        return code

    @staticmethod
    def come_back(browser: Browser, code: str, state: str) -> int:
        """Go back to the console with it."""
        return browser.get(f"/sign-in/oidc/back?code={code}&state={state}")

    def answer(self, request: Request) -> Response:
        """What is answered to the console."""
        self.asked.append(request.path)
        if request.path in self.answers:
            status, body = self.answers[request.path]()
            return Response(body, status)
        found: dict[str, Any]
        match request.path:
            case "/.well-known/openid-configuration":
                names = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
                found = {name: f"{self.issuer}/{place}" for name, place in names.items()}
                found |= {"issuer": self.issuer, "userinfo_endpoint": f"{self.issuer}/userinfo"}
                found |= self.described
            case "/keys":
                found = {"keys": [KEY.as_dict(private=False)]}
            case "/userinfo":
                assert request.headers["Authorization"] == "Bearer access"
                found = self.userinfo
            case _:
                given = request.form
                asked = self.codes.pop(given.get("code", ""), None)
                verifier = given.get("code_verifier", "").encode()
                fits = asked and b64(hashlib.sha256(verifier).digest()).decode() == asked["code_challenge"]
                if not asked or not fits or given["redirect_uri"] != asked["redirect_uri"]:
                    return Response('{"error": "invalid_grant"}', 400)
                found = {"access_token": "access", "token_type": "Bearer", "id_token": self._token(asked)}
        return Response(json.dumps(found))

    def _token(self, asked: dict[str, str]) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer, "aud": CLIENT, "sub": "1234", "iat": now, "exp": now + 300,
            "nonce": asked["nonce"], "groups": ["readers"], "preferred_username": "anna",
        } | self.claims  # fmt: skip
        return self.sign({key: value for key, value in claims.items() if value is not None})


def unsigned(claims: dict[str, Any]) -> str:
    """Algorithm "none"."""
    return b".".join([b64(b'{"alg":"none"}'), b64(json.dumps(claims).encode()), b""]).decode()


def by_a_stranger(claims: dict[str, Any]) -> str:
    """Of the same key ID, by another key."""
    return jwt.encode({"alg": "RS256", "kid": "1"}, claims, STRANGER)


def by_the_public_key(claims: dict[str, Any]) -> str:
    """HS256 with what everybody knows as its secret."""
    signed = b".".join([b64(b'{"alg":"HS256","kid":"1"}'), b64(json.dumps(claims).encode())])
    return (signed + b"." + b64(hmac.digest(KEY.as_pem(private=False), signed, "sha256"))).decode()


def by_the_secret(claims: dict[str, Any]) -> str:
    """HS256 with the client's secret."""
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(SECRET))


CONSOLE = "https://ai-node.example.org"


@pytest.fixture
def provider(console: ConsoleLab) -> Iterator[Forger]:
    """A provider that is good until a test says otherwise; the console signs people in by it."""
    forger = Forger()
    with answering(forger.answer) as (forger.issuer, _):
        console.change("console", url=CONSOLE, oidc=forger.settings(seconds=3))
        yield forger


def accounts(console: ConsoleLab) -> dict[str, str]:
    """Role by name, of the provider's accounts."""
    return {row["name"]: row["role"] for row in users.list_users(console.settings) if row["issuer"]}


def test_what_is_right_is_let_in_and_asked_for_as_the_standard_has_it(
    console: ConsoleLab, provider: Forger
) -> None:
    browser = console.browser()
    asked = provider.begin(browser)
    assert asked["redirect_uri"] == f"{CONSOLE}/sign-in/oidc/back"
    assert (asked["response_type"], asked["scope"]) == ("code", "openid profile")
    assert (asked["client_id"], asked["code_challenge_method"]) == (CLIENT, "S256")
    assert len({asked["state"], asked["nonce"], asked["code_challenge"]}) == 3
    assert {"HttpOnly", "SameSite=lax", "Max-Age=600"} <= set(browser.headers["set-cookie"].split("; "))
    assert provider.come_back(browser, provider.code(asked), asked["state"]) == 200
    assert browser.get("/") == 200 and "anna@127.0.0.1" in browser.text
    assert accounts(console) == {"anna@127.0.0.1": "reader"}


@pytest.mark.parametrize(
    ("part", "value"),
    [
        *(
            ("claims", claims)
            for claims in (
                {"iss": "https://other.example.org"},
                {"iss": ["https://other.example.org"]},
                {"iss": None},
                {"aud": "another"},
                {"aud": [CLIENT, "another"]},  # for both, and no azp says which
                {"aud": None},
                {"azp": "another"},
                {"exp": int(time.time()) - 120},
                {"exp": None},
                {"exp": "soon"},
                {"iat": int(time.time()) + 3600},
                {"nonce": "of another sign-in"},
                {"nonce": None},
                {"sub": None},
                {"sub": ""},
                {"sub": 1234},
                {"sub": "x" * 256},
                {"sub": "line\nbreak"},
            )
        ),
        ("sign", unsigned),
        ("sign", by_a_stranger),
        ("sign", by_the_public_key),
        ("sign", by_the_secret),
        *(("sign", lambda claims, token=token: token) for token in ("no token", 7, None)),
    ],
    # not by their times, which differ between processes
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_token_that_is_not_for_this_sign_in_or_not_signed_by_the_provider_lets_nobody_in(
    console: ConsoleLab, provider: Forger, part: str, value: Any
) -> None:
    setattr(provider, part, value)
    browser = console.browser()
    assert provider.sign_in(browser) == 403
    assert part == "sign" or "not for this sign-in, or not signed" in browser.text
    assert (
        browser.get("/") == 303 and accounts(console) == {} and len(console.audited("sign_in_refused")) == 1
    )


def test_an_answer_is_good_once_and_in_the_browser_that_began(console: ConsoleLab, provider: Forger) -> None:
    victim, thief = console.browser(), console.browser()
    asked = provider.begin(victim)
    code, state = provider.code(asked), asked["state"]
    assert provider.come_back(thief, code, state) == 403  # a stolen answer
    assert "not begun in this browser" in thief.text
    assert provider.come_back(victim, code, "another") == 403  # an answer that another put under
    asked = provider.begin(victim)
    code, state = provider.code(asked), asked["state"]
    secret = victim.client.cookies[f"{console.cookie}-oidc"]
    assert provider.come_back(victim, code, state) == 200
    assert provider.come_back(victim, code, state) == 403
    victim.client.cookies.set(f"{console.cookie}-oidc", secret)
    assert provider.come_back(victim, code, state) == 403  # with the cookie, too: the code is used
    assert "does not know this sign-in any more" in victim.text


@pytest.mark.parametrize(
    "answer", ["", "?state=&code=x", "?code=x", "?error=access_denied&state=", "?state=%ED%A0%80&code=x"]
)
def test_an_answer_to_no_question_asks_nothing_of_the_provider(
    console: ConsoleLab, provider: Forger, answer: str
) -> None:
    assert console.browser().get(f"/sign-in/oidc/back{answer}") == 403
    assert provider.asked == []


def test_a_session_of_before_is_not_the_session_of_after(console: ConsoleLab, provider: Forger) -> None:
    browser, thief = console.browser(), console.browser()
    browser.get("/sign-in")
    before = browser.client.cookies[console.cookie]
    assert provider.sign_in(browser) == 200
    assert browser.client.cookies[console.cookie] != before
    thief.client.cookies.set(console.cookie, before)
    assert (browser.get("/"), thief.get("/")) == (200, 303)


@pytest.mark.parametrize(
    ("groups", "role"),
    [
        ("admins", "admin"),
        (["readers", "admins", "others"], "admin"),
        (["readers", 7, None, ["admins"], {"admins": 1}], "reader"),
        (["x" * 100] * 300 + ["readers"], "reader"),
    ],
)
def test_groups_of_any_form_give_the_highest_role(
    console: ConsoleLab, provider: Forger, groups: object, role: str
) -> None:
    provider.claims = {"groups": groups}
    assert provider.sign_in(console.browser()) == 200
    assert list(accounts(console).values()) == [role]


@pytest.mark.parametrize(
    "groups", [None, [], "", 7, True, {"admins": True}, [["admins"]], ["ADMINS"], "admins,readers"]
)
def test_without_a_group_of_the_table_nobody_is_let_in(
    console: ConsoleLab, provider: Forger, groups: object
) -> None:
    provider.claims, provider.userinfo = {"groups": groups}, {"sub": "1234"}
    browser = console.browser()
    assert provider.sign_in(browser) == 403
    assert "None of your groups may use this console" in browser.text
    assert accounts(console) == {} and console.audited("sign_in_refused")[0]["user"] == "anna@127.0.0.1"


@pytest.mark.parametrize(
    ("groups", "senders"),
    [
        (["readers"], None),
        (["readers", "Room-3"], ["US3"]),
        (["readers", "Room-3", "all"], []),
        (["admins"], []),
    ],
)
def test_where_groups_are_limited_to_senders_who_is_in_none_of_them_is_refused(
    console: ConsoleLab, provider: Forger, groups: list[str], senders: list[str] | None
) -> None:
    console.change("console", oidc=provider.settings(senders={"Room-3": ["US3"], "all": ["*"]}))
    provider.claims = {"groups": groups}
    assert provider.sign_in(console.browser()) == (403 if senders is None else 200)
    of_hospital = [row["senders"] for row in users.list_users(console.settings) if row["issuer"]]
    assert of_hospital == [senders][: senders is not None]


@pytest.mark.parametrize(("sub", "status"), [("1234", 200), ("5678", 403), (None, 403)])
def test_groups_that_are_not_in_the_token_are_asked_for_and_must_be_of_the_same_person(
    console: ConsoleLab, provider: Forger, sub: str | None, status: int
) -> None:
    provider.claims, provider.userinfo = {"groups": None}, {"sub": sub, "groups": ["admins"]}
    assert provider.sign_in(console.browser()) == status


@pytest.mark.parametrize(
    "name", ["admin", "Admin", "admin@127.0.0.1", "ADMIN@127.0.0.1", "a\u0000dmin", "", 7, None, "x" * 9999]
)
def test_no_name_at_the_provider_is_that_of_another_account(
    console: ConsoleLab, provider: Forger, name: object
) -> None:
    provider.claims = {"preferred_username": name}
    assert provider.sign_in(console.browser()) == 200
    local = [row for row in users.list_users(console.settings) if row["name"] == "admin"]
    assert [(row["role"], row["issuer"], row["sessions"]) for row in local] == [("admin", None, 0)]
    [mine] = accounts(console)
    assert "@" in mine and len(mine) <= 64 and mine.isprintable()
    provider.claims = {"preferred_username": name, "sub": "5678", "groups": ["admins"]}
    browser = console.browser()
    again = provider.sign_in(browser)
    if name in ("", 7, None):  # then the name is the sub
        assert again == 200
        return
    assert again == 403 and "Another person" in browser.text
    assert list(accounts(console).values()) == ["reader"]


def test_such_an_account_has_no_password_no_token_and_no_role_of_ours(
    console: ConsoleLab, provider: Forger
) -> None:
    assert provider.sign_in(console.browser()) == 200
    for password in ("", PASSWORD):
        assert console.browser().sign_in("anna@127.0.0.1", password) == 403
    for change in (
        lambda: users.set_password(console.settings, "anna@127.0.0.1", PASSWORD),
        lambda: users.add_token(console.settings, "anna@127.0.0.1", "a program", 1),
        lambda: users.change_user(console.settings, "anna@127.0.0.1", role=UserRole.ADMIN),
    ):
        with pytest.raises(NotAllowedNow, match="is an account of"):
            change()
    admin = console.at("/users", UserRole.ADMIN)
    assert "hospital's account" in admin.text
    assert 'action="/users/anna@127.0.0.1/password"' not in admin.text


def test_who_is_disabled_here_stays_out_whatever_the_provider_says(
    console: ConsoleLab, provider: Forger
) -> None:
    browser, admin = console.browser(), console.browser(UserRole.ADMIN)
    assert provider.sign_in(browser) == 200 and browser.get("/") == 200
    assert admin.post("/users/anna@127.0.0.1/disable") == 303
    assert browser.get("/") == 303
    assert provider.sign_in(browser) == 403 and "disabled here" in browser.text
    assert admin.post("/users/anna@127.0.0.1/enable") == 303
    assert provider.sign_in(browser) == 200


def test_another_role_counts_from_the_next_sign_in_and_none_ends_all_sessions(
    console: ConsoleLab, provider: Forger
) -> None:
    browser, second = console.browser(), console.browser()
    assert provider.sign_in(browser) == 200
    provider.claims = {"groups": ["admins"], "preferred_username": "renamed"}
    assert browser.get("/users") == 403
    assert provider.sign_in(second) == 200 and second.get("/users") == 200
    assert accounts(console) == {"anna@127.0.0.1": "admin"}, "the name of the first sign-in stays"
    provider.claims = {"groups": []}
    assert provider.sign_in(second) == 403
    assert (browser.get("/"), second.get("/")) == (303, 303)


def test_a_second_factor_that_is_asked_for_must_be_in_the_token(
    console: ConsoleLab, provider: Forger
) -> None:
    console.change("console", oidc=provider.settings(acr_values=("mfa", "phr")))
    assert provider.begin(console.browser())["acr_values"] == "mfa phr"
    for acr, status in ((None, 403), ("pwd", 403), (["mfa"], 403), ("phr", 200)):
        provider.claims = {"acr": acr}
        assert provider.sign_in(console.browser()) == status, acr


def slow() -> tuple[int, bytes]:
    time.sleep(6)
    return 200, b"{}"


BAD_ANSWERS: dict[str, Callable[[], tuple[int, bytes]]] = {
    "slow": slow,
    "500": lambda: (500, b"{}"),
    "redirect": lambda: (302, b""),
    "empty": lambda: (200, b""),
    "list": lambda: (200, b"[]"),
    "object": lambda: (200, b"{}"),
    "deep": lambda: (200, b"[" * 200_000),
    "large": lambda: (200, b'{"a": "' + b"x" * 2**19 + b'"}'),
    "endless": lambda: (200, b"x" * (17 * 2**20)),
}


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        *product(["/token"], BAD_ANSWERS),
        *product(["/.well-known/openid-configuration", "/keys", "/userinfo"], ["slow", "object", "endless"]),
    ],
)
def test_a_provider_that_answers_badly_is_named_and_holds_up_nobody(
    console: ConsoleLab, provider: Forger, caplog: pytest.LogCaptureFixture, path: str, answer: str
) -> None:
    provider.claims = {"groups": None} if path == "/userinfo" else {}
    browser = console.browser()
    asked = provider.begin(browser)
    provider.answers[path] = BAD_ANSWERS[answer]
    with caplog.at_level(logging.DEBUG):
        began = time.monotonic()
        status = provider.come_back(browser, provider.code(asked), asked["state"])
    assert time.monotonic() - began < 5
    assert status in (403, 503) and browser.get("/") == 303 and accounts(console) == {}
    logged = " ".join(record.getMessage() for record in caplog.records if record.name.startswith("dicom"))
    assert SECRET not in logged and "eyJ" not in logged and asked["state"] not in logged
    assert console.browser().sign_in("admin") == 303, "users of this node sign in meanwhile"


@pytest.mark.parametrize(
    "described",
    [
        {"issuer": "https://other.example.org"},
        {"token_endpoint": "http://169.254.169.254/latest"},
        {"token_endpoint": "file:///etc/passwd"},
        {"token_endpoint": None},
        {"token_endpoint": 7},
        {"jwks_uri": "http://example.org/keys"},
    ],
    ids=str,
)
def test_a_provider_that_leads_elsewhere_is_not_followed(
    console: ConsoleLab, provider: Forger, described: dict[str, Any]
) -> None:
    browser = console.browser()
    asked = provider.begin(browser)
    provider.described = described
    assert provider.come_back(browser, provider.code(asked), asked["state"]) == 503
    assert browser.get("/") == 303


def test_where_a_browser_goes_is_no_choice_of_who_asks(console: ConsoleLab, provider: Forger) -> None:
    browser = console.browser()
    for header in (
        {"host": "localhost"},
        {"x-forwarded-host": "evil.example.org"},
        {"forwarded": "host=evil"},
    ):
        answer = browser.client.get("/sign-in/oidc?next=https://evil.example.org", headers=header)
        query = parse_qs(urlsplit(answer.headers["location"]).query)
        assert query["redirect_uri"] == [f"{CONSOLE}/sign-in/oidc/back"] and "evil" not in str(answer.headers)
    assert browser.client.get("/sign-in/oidc", headers={"host": "evil.example.org"}).status_code == 421
    asked = provider.begin(browser)
    state = f"{asked['state']}&next=https://evil.example.org&redirect_uri=//evil.example.org"
    assert provider.come_back(browser, provider.code(asked), state) == 200
    assert "evil" not in browser.text and 'content="0; url=/"' in browser.text


WORDS = "four words are easy"


def of(console: ConsoleLab, name: str) -> dict[str, object]:
    return next(row for row in users.list_users(console.settings) if row["name"] == name)


def test_a_user_is_added_and_signs_in(console: ConsoleLab) -> None:
    admin = console.browser(UserRole.ADMIN)
    assert admin.post("/users", name="anna", role="reader", password=WORDS, again=WORDS) == 303
    assert of(console, "anna")["role"] == "reader"
    assert console.browser().sign_in("anna", WORDS) == 303
    [added] = console.audited("user_added")[:1]
    assert added["user"] == "anna" and WORDS not in str(added)
    assert "anna" in admin.page("/users") and "last seen" in admin.text


def test_what_cannot_be_is_said_and_the_form_stays(console: ConsoleLab) -> None:
    admin = console.browser(UserRole.ADMIN)
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
        assert problem in admin.text and given["password"] not in admin.text
        assert [row["name"] for row in users.list_users(console.settings)].count("anna") == 0


def test_nobody_shuts_the_own_account(console: ConsoleLab) -> None:
    admin = console.browser(UserRole.ADMIN)
    for change in ("role", "disable", "remove"):
        assert admin.post(f"/users/admin/{change}", role="viewer") == 400
        assert "another admin" in admin.text and of(console, "admin")["role"] == "admin"


OPEN = {
    ("GET", "/sign-in"), ("POST", "/sign-in"), ("POST", "/language"), ("GET", "/static/{name}"),
    ("GET", "/sign-in/oidc"), ("GET", "/sign-in/oidc/back"), ("GET", "/sign-in/oidc/leave"),
    ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics"),
}  # fmt: skip


def endpoints(app: FastAPI) -> Iterator[tuple[str, str, object]]:
    """Method, path and declared role of everything that the application answers."""
    for route in routes(app.routes):
        for method in sorted(route.methods - {"HEAD"}):
            yield method, route.path, getattr(route.endpoint, "needs", None)


PARAMETERS = {"change": "retry", "name": "style.css", "which": "images"}


def visits(
    console: ConsoleLab, *, api: bool
) -> Iterator[tuple[Browser, UserRole | None, str, str, UserRole]]:
    """At each endpoint nobody, who just may, and who just may not: roles include those before them."""
    roles = [None, *UserRole]
    for asking in roles:
        browser = console.browser(asking)
        for method, path, needed in endpoints(console.app):
            if path.startswith("/api/") is api and needed != ANYONE:
                assert isinstance(needed, UserRole), path
                if asking is None or 0 <= roles.index(needed) - roles.index(asking) <= 1:
                    place = re.sub(r"\{(\w+)\}", lambda found: PARAMETERS.get(found[1], "1"), path)
                    yield browser, asking, method, place, needed


def test_every_page_is_for_its_role_and_those_above(console: ConsoleLab, inbox: Inbox) -> None:
    inbox.settle(ultrasound("one"))
    found = list(endpoints(console.app))
    assert len(found) > 15
    assert {(method, path) for method, path, needed in found if needed == ANYONE} == OPEN
    for browser, asking, method, place, needed in visits(console, api=False):
        # Two end the session; a stream does not end: test_live.py.
        if asking and place in ("/sign-out", "/sessions/1/end", "/live"):
            continue
        status = browser.get(place) if method == "GET" else browser.post(place)
        if asking is None:
            refusal = (303, "/sign-in") if method == "GET" else (401, None)
            assert (status, browser.headers.get("location")) == refusal, (method, place)
        else:
            allowed = (200, 303, 400, 404, 409) if asking is needed else (403,)
            assert status in allowed, (asking, method, place, status)


def test_programs_are_let_in_by_the_role_of_their_tokens_user(console: ConsoleLab) -> None:
    """Those of the REST API and, where the settings serve it, of DICOMweb."""
    console.change("console", dicomweb_store=True)
    console = ConsoleLab(console.settings, console.database)
    tokens = {role: users.add_token(console.settings, role.value, "a test", 1) for role in UserRole}
    asked = list(visits(console, api=True))
    assert len(asked) > 36 and any("/dicomweb/" in place for _, _, _, place, _ in asked)
    for browser, asking, method, place, needed in asked:  # a cookie counts for nothing here
        if asking in (None, needed):
            assert browser.client.request(method, place).status_code == 401, place
        bearer = {"Authorization": f"Bearer {tokens[asking] if asking else 'dn_nobody'}"}
        status = browser.client.request(method, place, headers=bearer, json={}).status_code
        allowed = (401,) if asking is None else (200, 400, 404, 409, 415) if asking is needed else (403,)
        assert status in allowed, (asking, method, place, status)


def test_an_endpoint_without_a_role_is_refused_to_all(console: ConsoleLab) -> None:
    router = APIRouter()

    @router.get("/forgotten")
    def forgotten(asked: Asked) -> str:
        return "secret"

    console.app.include_router(router)
    assert console.browser().get("/forgotten") == 303
    browser = console.browser(UserRole.ADMIN)
    assert browser.get("/forgotten") == 403
    assert "secret" not in browser.text


def test_a_change_needs_the_token_of_its_form_on_a_page_of_this_site(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.OPERATOR)
    for csrf, origin, status in (
        ("", "same-origin", 403),
        ("0" * 64, "same-origin", 403),
        ("ü", "same-origin", 403),
        (None, "cross-site", 403),
        (None, "same-site", 403),
        (None, "same-origin", 303),
    ):
        assert browser.post("/outbox/retry-dead", csrf, headers={"Sec-Fetch-Site": origin}) == status


def test_every_answer_has_the_headers(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.VIEWER)
    for path in ("/", "/sign-in", "/no-such-page", "/studies/99", "/studies?after=x", "/audit"):
        browser.get(path)
        assert {name: browser.headers.get(name) for name in limits.HEADERS} == limits.HEADERS, path
        assert "Strict-Transport-Security" not in browser.headers


def test_a_nul_that_postgresql_cannot_hold_is_no_address(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.VIEWER)
    for path in ("/outbox?to=%00", "/peers/%00", "/models/%00/1", "/studies?%00=1"):
        assert browser.get(path) == 400, path


def test_an_application_of_a_node_with_tls_tells_browsers_to_stay_with_it(console: ConsoleLab) -> None:
    console.change("console", tls={"certificate": "c.pem", "private_key": "k.pem"})
    browser = Browser(create_app(console.settings, console.database))
    browser.get("/sign-in")
    assert browser.headers["Strict-Transport-Security"].startswith("max-age=")
    # What a browser asks of this prefix (RFC 6265bis 4.1.3.2), so that no neighbour sets it.
    name, *attributes = browser.headers["set-cookie"].split("; ")
    assert name.startswith("__Host-")
    assert {"Secure", "Path=/"} <= set(attributes)
    assert not any(attribute.startswith("Domain") for attribute in attributes)


@pytest.fixture
def port(console: ConsoleLab, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The console at a real port, with little patience."""
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.3)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        console.app, http=limits.TimedProtocol, ws="none", lifespan="off", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    wait_until(lambda: server.started, 60, "started")
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join(20)


POST = b"POST /sign-in HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nCookie: a=x\r\nContent-Type: "


@pytest.mark.parametrize(
    ("pieces", "answer"),
    [
        ((), b""),
        ((b"GET / HT",), b""),
        ((b"GET /sign-in HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /sl"), b""),
        ((POST + b"application/x-www-form-urlencoded\r\nContent-Length: 9\r\n\r\n", b"csrf"), b" 408 "),
    ],
    ids=["silent", "half a head", "a second one that ends half-way", "half a body"],
)
def test_a_request_that_does_not_come_is_cut_off(port: int, pieces: tuple[bytes, ...], answer: bytes) -> None:
    began = time.monotonic()
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as connection,
        connection.makefile("rb") as file,
    ):
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.05)
        assert answer in file.read()  # until the end
    assert time.monotonic() - began < 20


def test_a_form_that_is_too_large_is_refused(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.OPERATOR)
    assert browser.post("/studies/search", patient="x" * (limits.FORM_BYTES - 200)) == 303
    assert browser.post("/studies/search", patient="x" * limits.FORM_BYTES) == 413


MORE_THAN_FITS = 100  # answers of 17 KB: more than system and console keep for a connection


@contextmanager
def asking(port: int) -> Iterator[socket.socket]:
    """A connection that asks again and again, and has read nothing yet."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        connection.setblocking(False)
        with suppress(BlockingIOError):
            connection.send(b"GET /static/style.css HTTP/1.1\r\nHost: localhost\r\n\r\n" * MORE_THAN_FITS)
        yield connection


def test_who_takes_no_answer_is_cut_off(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ANSWER_SECONDS", 0.3)
    watch = poll()
    with asking(port) as connection:
        watch.register(connection, 0)
        wait_until(lambda: bool(watch.poll(0)), 30, "the end of the connection, looked up without reading")


def test_an_answer_that_is_taken_slowly_comes_whole(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEAD_SECONDS", 30)  # a busy machine goes on with the next request late
    monkeypatch.setattr(limits, "ANSWER_SECONDS", 2.5)
    with asking(port) as connection:
        connection.setblocking(True)
        took, answers = time.monotonic(), b""
        while answers.count(b"HTTP/1.1 200") < MORE_THAN_FITS:
            piece = connection.recv(2**18)
            assert piece, "it was cut"
            answers += piece
            time.sleep(0.012)
        assert time.monotonic() - took > 5
