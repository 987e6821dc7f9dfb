"""Who gets into the console and what each may; its pages, and what is entered on them."""

import asyncio
import base64
import errno
import fcntl
import hashlib
import hmac
import json
import logging
import operator
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from ipaddress import ip_network
from itertools import count, product
from pathlib import Path
from select import poll
from string import Formatter
from typing import Any, get_args
from unittest.mock import Mock
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest
import uvicorn
from babel.messages import Message
from babel.messages.pofile import read_po
from fastapi import APIRouter, FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from pydantic import SecretStr
from sqlalchemy import JSON, Column, Enum, String, Table, Text, delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from werkzeug.wrappers import Request, Response

from ai_pipeline.chest import trial
from ai_pipeline.pipelines import cards
from dicom_connectors.notifications.sender import Notifier
from dicom_connectors.oidc.settings import OidcSettings
from dicom_console import catalogues
from dicom_console.app import create_app
from dicom_console.forms import rule as form
from dicom_console.handlers.happened import TREND_SPANS
from dicom_console.views import activity, changes, listing, metrics, search
from dicom_console.web import languages, limits
from dicom_console.web.access import ANYONE
from dicom_console.web.faces import CurrentRequest
from dicom_node.base import events
from dicom_node.base.config import loading
from dicom_node.base.config.rule import Conditions, RuleSettings
from dicom_node.base.config.settings import ConsoleSettings, Settings
from dicom_node.base.errors import FaultyInput, NotAllowedNow, NotFound, SignInRefused
from dicom_node.base.lifecycle import (
    AuditAction,
    DeliveryState,
    JobState,
    ReaderVerdict,
    RequestedState,
    ResultKind,
    Role,
    StepStatus,
    StudyState,
    UserRole,
)
from dicom_node.base.store import requested
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import (
    ApiToken,
    Association,
    Base,
    DecisionRow,
    Delivery,
    EventRow,
    Feedback,
    HeldResult,
    Job,
    ReceivedObject,
    ReportedFinding,
    RequestedCommitment,
    Result,
    SiteProcess,
    Study,
    UserSession,
    UtcDateTime,
)
from dicom_node.base.store.transitions import append, record, utc_now
from dicom_node.base.store.views import View, list_events
from dicom_node.people import audit, entered, preflight, site_models, users
from dicom_node.people.preflight import Tried
from dicom_node.receive.policy import Failure
from tests.console_lab import (
    OWN_MODEL,
    PASSWORD,
    Browser,
    ConsoleLab,
    Program,
    client_of,
    config_file,
    own_model,
    routes,
)
from tests.forked import run_forked
from tests.hostile.web import answering
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import ultrasound
from tests.ports import free_port
from tests.rows import NOW, Stored, a_job, a_result, a_study, an_association
from tests.smtp_lab import WebServer
from tests.unit.dicom_console.illustrated import illustrated
from tests.unit.receive.objects import changed, small_xray
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
    assert browser.get("/") == 200
    assert "anna@127.0.0.1" in browser.text
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
    assert browser.get("/") == 303
    assert accounts(console) == {}
    assert len(console.audited("sign_in_refused")) == 1


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
    assert accounts(console) == {}
    assert console.audited("sign_in_refused")[0]["user"] == "anna@127.0.0.1"


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
    assert "@" in mine
    assert len(mine) <= 64
    assert mine.isprintable()
    provider.claims = {"preferred_username": name, "sub": "5678", "groups": ["admins"]}
    browser = console.browser()
    again = provider.sign_in(browser)
    if name in ("", 7, None):  # then the name is the sub
        assert again == 200
        return
    assert again == 403
    assert "Another person" in browser.text
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
    assert provider.sign_in(browser) == 200
    assert browser.get("/") == 200
    assert admin.post("/users/anna@127.0.0.1/disable") == 303
    assert browser.get("/") == 303
    assert provider.sign_in(browser) == 403
    assert "disabled here" in browser.text
    assert admin.post("/users/anna@127.0.0.1/enable") == 303
    assert provider.sign_in(browser) == 200


def test_another_role_counts_from_the_next_sign_in_and_none_ends_all_sessions(
    console: ConsoleLab, provider: Forger
) -> None:
    browser, second = console.browser(), console.browser()
    assert provider.sign_in(browser) == 200
    provider.claims = {"groups": ["admins"], "preferred_username": "renamed"}
    assert browser.get("/users") == 403
    assert provider.sign_in(second) == 200
    assert second.get("/users") == 200
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
    assert status in (403, 503)
    assert browser.get("/") == 303
    assert accounts(console) == {}
    logged = " ".join(record.getMessage() for record in caplog.records if record.name.startswith("dicom"))
    assert SECRET not in logged
    assert "eyJ" not in logged
    assert asked["state"] not in logged
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
        assert query["redirect_uri"] == [f"{CONSOLE}/sign-in/oidc/back"]
        assert "evil" not in str(answer.headers)
    assert browser.client.get("/sign-in/oidc", headers={"host": "evil.example.org"}).status_code == 421
    asked = provider.begin(browser)
    state = f"{asked['state']}&next=https://evil.example.org&redirect_uri=//evil.example.org"
    assert provider.come_back(browser, provider.code(asked), state) == 200
    assert "evil" not in browser.text
    assert 'content="0; url=/"' in browser.text


WORDS = "four words are easy"


def of(console: ConsoleLab, name: str) -> dict[str, object]:
    return next(row for row in users.list_users(console.settings) if row["name"] == name)


def test_a_user_is_added_and_signs_in(console: ConsoleLab) -> None:
    admin = console.browser(UserRole.ADMIN)
    assert admin.post("/users", name="anna", role="reader", password=WORDS, again=WORDS) == 303
    assert of(console, "anna")["role"] == "reader"
    assert console.browser().sign_in("anna", WORDS) == 303
    [added] = console.audited("user_added")[:1]
    assert added["user"] == "anna"
    assert WORDS not in str(added)
    assert "anna" in admin.page("/users")
    assert "last seen" in admin.text


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
        assert problem in admin.text
        assert given["password"] not in admin.text
        assert [row["name"] for row in users.list_users(console.settings)].count("anna") == 0


def test_nobody_shuts_the_own_account(console: ConsoleLab) -> None:
    admin = console.browser(UserRole.ADMIN)
    for change in ("role", "disable", "remove"):
        assert admin.post(f"/users/admin/{change}", role="viewer") == 400
        assert "another admin" in admin.text
        assert of(console, "admin")["role"] == "admin"


OPEN = {
    ("GET", "/sign-in"), ("POST", "/sign-in"), ("POST", "/language"), ("GET", "/static/{name}"),
    ("GET", "/sign-in/oidc"), ("GET", "/sign-in/oidc/back"), ("GET", "/sign-in/oidc/leave"),
    ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics"),
}  # fmt: skip


def endpoints(app: FastAPI) -> Iterator[tuple[str, str, object]]:
    """Method, path and declared role of everything that the application answers."""
    for route in routes(app.routes):
        yield from (
            (method, route.path, getattr(route.endpoint, "needs", None))
            for method in sorted(route.methods - {"HEAD"})
        )


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
    assert len(asked) > 36
    assert any("/dicomweb/" in place for _, _, _, place, _ in asked)
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
    def forgotten(asked: CurrentRequest) -> str:
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


def a_dead_delivery(console: ConsoleLab) -> None:
    """The first job's picture, given up."""
    job = console.rows(Job)[0]
    console.delivery(job, DeliveryState.DEAD, ResultKind.SC)
    console.put(Job, job.id, state=JobState.SUCCEEDED)
    console.put(Study, job.study_id, state=StudyState.FAILED)


def test_the_overview_counts_what_needs_a_person(console: ConsoleLab, inbox: Inbox) -> None:
    inbox.settle(ultrasound("one"))
    a_dead_delivery(console)
    browser = console.at("/", UserRole.VIEWER)
    figures = {
        label: int(number)
        for number, label in re.findall(r"<strong>(\d+)</strong><span>([^<]+)", browser.text)
    }
    assert figures == {
        "studies being received": 0,
        "jobs running": 0,
        "jobs waiting": 0,
        "jobs held": 0,
        "deliveries on their way": 0,
        "deliveries given up": 1,
        "studies in quarantine": 0,
        "studies failed": 1,
    }
    for address in set(re.findall(r'class="figure[^>]*href="([^"]+)"', browser.text)):
        assert browser.get(address) == 200, address


def test_a_patient_is_found_and_no_address_says_which(console: ConsoleLab, inbox: Inbox) -> None:
    for number, name in ((1, "Nowak^Anna"), (22, "Kim^Min-jun")):
        about = {"PatientID": f"SECRET-{number}", "AccessionNumber": f"ACC{number}"}
        inbox.receive(changed(ultrasound(name), PatientName=name, **about))
    inbox.settle()
    browser = console.browser(UserRole.VIEWER)
    for name, wanted, found in (
        ("patient", "SECRET-*", {"SECRET-1", "SECRET-22"}),
        ("patient", "SECRET-", set()),
        ("accession", "ACC22", {"SECRET-22"}),
        ("name", "anna NOWAK", {"SECRET-1"}),
        ("name", "Now", {"SECRET-1"}),
    ):
        browser.post("/studies/search", **{name: wanted})
        assert wanted not in browser.headers["location"]
        assert "nowak" not in browser.headers["location"].lower()
        browser.follow()
        assert set(re.findall(r"<small>(SECRET-\d+)\b", browser.text)) == found, wanted
    searched = [row["searched_by"] for row in console.audited("study_searched")]
    assert searched == [["name"], ["name"], ["accession"], ["patient"], ["patient"]]
    assert "SECRET" not in str(console.audit_rows())


@pytest.mark.parametrize("order", search.Order)
def test_pages_together_show_each_study_once(database: Database, order: search.Order) -> None:
    stored, moments = Stored(database), [NOW + timedelta(seconds=n // 3) for n in range(2 * search.PAGE + 7)]
    both = zip(
        moments, [f"202601{n % 28 + 1:02}" for n in range(len(moments))], strict=True
    )  # some at the same moment
    stored.add(*(a_study(f"1.2.{n}", at=at, study_date=day) for n, (at, day) in enumerate(both)))
    seen: list[dict[str, object]] = []
    after: int | None = None
    for _ in range(3):
        rows, after = stored.read(search.search, search.Search(order=order), after)
        seen += rows
    assert after is None
    assert len({row["id"] for row in seen}) == len(seen) == 2 * search.PAGE + 7
    key = "study_date" if order in (search.Order.DATE, search.Order.OLDEST_DATE) else "last_received_at"
    values = [str(row[key]) for row in seen]
    assert values == sorted(values, reverse=order in (search.Order.RECEIVED, search.Order.DATE))


def test_the_page_of_a_study_shows_what_came_and_became_of_it(console: ConsoleLab, inbox: Inbox) -> None:
    header = {"PatientName": "Müller^Änne", "PatientID": "<i>P", "SpecificCharacterSet": "ISO_IR 100"}
    inbox.settle(changed(ultrasound("one"), **header))
    a_dead_delivery(console)
    browser = console.browser(UserRole.VIEWER)
    for _ in range(2):
        text = browser.page("/studies/1")
    assert "<i>P" not in text + browser.page("/studies"), "markup in a header is text"
    for shown in (
        "Müller, Änne",
        "&lt;i&gt;P",
        "MODALITY",
        "object indexed",
        "/studies/images/1/1?longest=320",
    ):
        assert shown in text, shown
    assert 'class="state dead"' in text
    assert "Run the alerts again" not in text
    assert len(console.audited("study_seen")) == 1  # within minutes


def test_numbers_and_lists_are_the_same_of_both_databases(database: Database, inbox: Inbox) -> None:
    stored = Stored(database)
    stored.add(study := a_study("1.2.3", StudyState.DELIVERING, patient_id="P%1", accession_number="A1"))
    stored.add(job := a_job(study, JobState.QUEUED))
    stored.delivery(job, DeliveryState.PENDING, ResultKind.SC)
    stored.write(audit.note, audit.COMMAND_LINE, AuditAction.STUDY_RERUN, study_id=study.id)
    for wanted in (
        search.Search(patient="P%1"),
        search.Search(patient="P%*"),
        search.Search(accession="A1", since="20260102", until="20260102"),
    ):
        assert [row["id"] for row in stored.read(search.search, wanted)[0]] == [study.id]
    assert stored.read(search.search, search.Search(patient="p%1", modality="US"))[0] == []
    [shown] = stored.read(listing.show, inbox.settings, study.id)["results"]
    assert shown["deliveries"][0]["state"] == "pending"
    assert stored.read(metrics.overview, inbox.settings)["deliveries"]["open"] == 1
    gauges = stored.read(metrics.gauges, inbox.settings)
    assert {one.name: one.value for one in gauges if not one.labels}["jobs_oldest_seconds"] > 0
    assert stored.read(audit.rows)[0]["study"] == "1.2.3"


_TITLE, _ADDRESS = "GE CT^1", "192.0.2.77"


_FIELDS = {
    "calling": _TITLE, "called": "AINODE", "address": _ADDRESS, "meaning": "no", "status": "A700",
    "peer": "pacs", "destination": "pacs", "study": "1.2", "instance": "1.2", "job": 1, "reason": "x",
    **dict.fromkeys(get_args(Failure), 1),
}  # fmt: skip


_BOXES = [[0, 0, 9, 9]]


_JSON: dict[str, Any] = {
    "fields": _FIELDS, "content": _FIELDS, "record": _FIELDS, "attributes": {}, "options": {}, "filters": {},
    "search": {}, "deliveries": [1], "boxes": _BOXES, "places": _BOXES,
}  # fmt: skip


_PEERS = [
    {"name": "get", "ae_title": "GET", "may": ["query"], "host": "h", "port": 4, "retrieve": "get"},
    {"name": "ups", "ae_title": "UPS", "may": ["send"], "host": "h", "port": 4, "worklist": ["A^B"]},
    {"name": "asks", "ae_title": "ASKS", "may": ["send"], "host": "h", "port": 4,
     "commit_after": "delivered"},
    {"name": "steps", "ae_title": "STEPS", "may": ["send"], "mpps": True, "silent_hours": 1.5},
    {"name": "hl7", "ae_title": "RIS", "transport": "hl7", "may": ["receive"], "host": "h", "port": 4,
     "hl7_fields": {"MSH-6": "RIS"}},
    {"name": "fhir", "ae_title": "F", "transport": "fhir", "may": ["receive"], "url": "https://h/fhir"},
    {"name": "web", "ae_title": "W", "transport": "dicomweb", "may": ["receive"], "url": "https://h/dicom-web",
     "deidentify": True, "results": ["cleaned"], "retain": ["modified_dates"]},
]  # fmt: skip


_NUMBERS = count(1000)


def _value(column: Column[Any], member: StrEnum | None) -> Any:
    """A value that the column takes; a number or a text that no other row has where it has to be unique."""
    if column.foreign_keys:
        return 1
    if isinstance(column.type, Enum):
        return member or next(iter(column.type.enum_class))  # type: ignore[arg-type]
    if isinstance(column.type, String | Text):
        names = {"calling_ae": _TITLE, "address": _ADDRESS, "peer": "asks", "destination": "pacs"}
        return names.get(column.name) or f"1.2.{next(_NUMBERS)}"
    if isinstance(column.type, JSON):
        return _JSON.get(column.name, ["1.2 3"])
    if isinstance(column.type, UtcDateTime):
        return utc_now()
    kinds: dict[type, Any] = {bytes: b"", date: utc_now().date(), bool: True, float: 0.5}
    return kinds.get(column.type.python_type, next(_NUMBERS) if column.primary_key else 1)


def _rows(table: Table) -> Iterator[dict[str, Any]]:
    """For each word of each enumeration one row with all columns, and one with as few as the table allows."""
    numbered = table.columns.get("id")
    columns = [one for one in table.columns if one is not numbered or isinstance(one.type, String)]
    words = [(one, word) for one in columns for word in getattr(one.type, "enum_class", None) or ()]
    for chosen, word in words or [(None, None)]:
        for is_whole in (True, False):
            yield {
                one.name: _value(one, word if one is chosen else None)
                for one in columns
                if is_whole or one is chosen or not (one.nullable or one.default)
            }


def fill(database: Database) -> None:
    """Add the rows. What a constraint refuses is no kind of row."""
    stored = Stored(database)
    for table in Base.metadata.sorted_tables:
        for row in _rows(table):
            with suppress(IntegrityError):
                stored.write(Session.execute, table.insert().values(row))
    kinds = [one.number for one in events.all_types()]
    told = [{"number": number, "fields": fields} for number in kinds for fields in ({}, _FIELDS)]
    stored.add(*(EventRow(at=utc_now(), study_id=1, **one) for one in told))


@pytest.mark.parametrize("language", ["de"])
def test_each_page_is_shown_with_every_kind_of_row_and_in_each_language(node: Inbox, language: str) -> None:
    fill(node.database)
    config = illustrated()
    config["peers"] += _PEERS
    settings = Settings.model_validate({**config, "node": {"data_dir": node.folder}})
    console = ConsoleLab(settings, node.database)
    browser = console.browser(UserRole.ADMIN)
    assert browser.post("/language", language=language, back="/studies") == 303
    assert browser.headers["location"] == "/studies"
    names = [peer.name for peer in settings.peers]
    paths = {f"/peers/why?caller={caller}" for caller in (*names, "GE+CT^1", _ADDRESS)}
    for route in routes(console.app.routes):
        if "GET" in route.methods and not re.match(r"/api/|/live|/sign-in/oidc|/dicomweb", route.path):
            for name in names if "/{name}" in route.path else [""]:
                for number in range(1, 25) if route.path.endswith("/{number}") else [1]:
                    path = route.path.replace("{name}", name).replace("{number}", str(number))
                    paths.add(re.sub(r"\{\w+\}", "1", path))
    for path in sorted(paths):
        assert browser.get(path) != 500, path
        if browser.status == 200 and browser.headers["content-type"].startswith("text/html"):
            assert f'<html lang="{language}">' in browser.text, path
            assert "%(" not in browser.text, path


NIGHT = datetime(2026, 3, 1, 3, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return NIGHT + timedelta(minutes=minutes)


@pytest.fixture
def site(console: ConsoleLab) -> ConsoleLab:
    """A night: US1 is rejected, a day before a stranger was; US1 sends two objects."""
    rejected = {"calling": "US1", "address": "192.0.2.21", "reason": "called AE title not recognised"}
    console.write(append, events.Event(events.ASSOCIATION_REJECTED, at(1), rejected))
    console.write(append, events.Event(events.ASSOCIATION_REJECTED, at(-1440), {"calling": "STRANGER"}))
    console.write(append, events.Event(events.LISTENER_STARTED, at(-2), {"port": 11112}))
    console.write(append, events.Event(events.ECHOED, at(2), {"calling": "CT9"}))
    console.add(
        an_association("a", at(3), at(3.1), objects=2), an_association("b", at(-1440), at(-1439.9), 2)
    )
    return console


def shown(site: ConsoleLab, **asked: object) -> str:
    return str(site.at(f"/events?{urlencode({'at': NIGHT.isoformat(), **asked})}", UserRole.VIEWER).text)


def test_events_and_associations_around_a_time_the_newest_first_or_those_of_a_peer(site: ConsoleLab) -> None:
    page = shown(site)
    places = [page.index(text) for text in ("listener started", "association rejected", "C-ECHO answered")]
    assert places == sorted(places, reverse=True)
    assert "STRANGER" not in page
    assert page.count("192.0.2.21") == 2
    assert "released" in page  # one event, one association
    for peer in ("US1", "us1", "192.0.2.21"):
        page = shown(site, peer=peer)
        assert "association rejected" in page
        assert "released" in page
        assert "listener started" not in page
        assert "C-ECHO" not in page


@pytest.mark.parametrize("moment", ["0001-01-01T00:00Z", "9999-12-31T23:59Z"])
def test_a_time_at_the_end_of_all_times_is_no_defect(site: ConsoleLab, moment: str) -> None:
    assert site.at(f"/events?at={moment}", UserRole.VIEWER).status == 409


def test_warnings_and_errors_alone(site: ConsoleLab) -> None:
    page = shown(site, problems="true")
    assert "association rejected" in page
    assert "C-ECHO" not in page
    assert "listener started" not in page
    assert "No events" in shown(site, problems="true", number=events.ECHOED.number)


WORKER = {"machine": "m", "place": "p", "process": "worker-1"}


PACS = {"destination": "pacs"}


def happened(inbox: Inbox, kind: events.EventType, minutes_ago: float, **fields: Any) -> None:
    inbox.add(EventRow(at=utc_now() - timedelta(minutes=minutes_ago), number=kind.number, fields=fields))


def found(inbox: Inbox) -> list[View]:
    return inbox.read(metrics.problems, inbox.settings, {})


@pytest.mark.parametrize(
    ("bad", "good", "fields"),
    [
        (events.PROCESS_LOST, events.PROCESS_BACK, WORKER),
        (events.DESTINATION_AWAY, events.DESTINATION_BACK, PACS),
        (events.INDEXING_FAILED, events.INDEXING_BACK, {}),
        (events.SPOOL_DIFFERS, events.SPOOL_AGREES, {}),
        (events.AUDIT_NOT_SENT, events.AUDIT_SENT_AGAIN, {}),
        (events.TRACES_NOT_SENT, events.TRACES_SENT_AGAIN, {}),
        (events.CONFIGURATION_REFUSED, events.CONFIGURATION_RELOADED, {}),
        (events.CONSOLE_CANNOT_START, events.CONSOLE_STARTED, {}),
    ],
)
def test_an_alarm_is_over_once_its_end_was_told(
    inbox: Inbox, bad: events.EventType, good: events.EventType, fields: Mapping[str, Any]
) -> None:
    happened(inbox, good, 9, **fields)
    happened(inbox, bad, 5, **fields, silent_seconds=40)
    assert [row["over"] for row in found(inbox)] == [None], "the end of the one before"
    happened(inbox, good, 3, **{key: f"another {value}" for key, value in fields.items()})
    if fields:
        assert [row["over"] for row in found(inbox)] == [None], "the end of another one"
    happened(inbox, good, 1, **fields)
    assert found(inbox)[0]["over"]


def test_what_is_told_again_and_again_is_one_line_and_acts_of_people_are_none(inbox: Inbox) -> None:
    for minute in range(30):
        happened(inbox, events.CHILD_DIED, minute, process="worker-1", exit_status=minute)
        happened(inbox, events.DELIVERY_RETRIED, minute, by="anna")
        happened(inbox, events.JOB_CANCELLED, minute, job=minute)
    happened(inbox, events.ASSOCIATION_REJECTED, 60, calling="US9")
    assert [(row["number"], row["times"]) for row in found(inbox)] == [(6004, 30), (1004, 1)]
    assert found(inbox)[0]["fields"]["exit_status"] == 0, "the last one"


def test_a_rejected_caller_is_told_in_words_until_it_got_through(console: ConsoleLab, inbox: Inbox) -> None:
    numbers = {"result": 1, "source": 1, "reason": 3, "listener": "l-1"}
    who = {"calling": "US9", "called": "AINODE", "address": "192.0.2.9", "meaning": "not recognized"}
    happened(inbox, events.ASSOCIATION_REJECTED, 5, **numbers, **who)
    [row] = found(inbox)
    assert (row["fields"], row["caller"], row["over"]) == (who, "US9", None)
    assert '<a href="/peers/why?caller=US9">Why?</a>' in console.at("/", UserRole.VIEWER).text
    opened = {"calling_ae": "US9", "called_ae": "AINODE", "address": "192.0.2.9"}
    for name, minutes in (("before", 9), ("after", 1)):
        at = utc_now() - timedelta(minutes=minutes)
        inbox.add(Association(id=name, listener="l-1", opened_at=at, **opened))
        assert bool(found(inbox)[0]["over"]) == (name == "after")


def test_problems_of_a_study_end_by_its_own_events(console: ConsoleLab, inbox: Inbox) -> None:
    inbox.settle(ultrasound("one"))
    inbox.settle(ultrasound("two"))
    one, two = (row.id for row in inbox.rows(Study))
    for bad, good, fields in (
        (events.STUDY_QUARANTINED, events.STUDY_RELEASED, {}),
        (events.JOB_FAILED, events.JOB_SUCCEEDED, {"rule": "chest"}),
        (events.JOB_TAKEN_OVER, events.JOB_SUCCEEDED, {"rule": "chest"}),
        (events.DELIVERY_DEAD, events.DELIVERY_CONFIRMED, {"delivery": 7}),
    ):
        inbox.write(record, bad, one, **fields)
        inbox.write(record, good, two, **fields)
        if fields:
            inbox.write(record, good, one, **dict.fromkeys(fields, "another"))
        assert (found(inbox)[0]["number"], found(inbox)[0]["over"]) == (bad.number, None)
        inbox.write(record, good, one, **fields)
        assert [row["how"] for row in found(inbox) if row["number"] == bad.number] == [good.text]
    assert '<li class="over">' in console.at("/", UserRole.VIEWER).text


@pytest.fixture
def busy(node: Inbox) -> Inbox:
    """Its results were delivered 40 s after the last image, and a reader agreed with one finding of two."""
    [study] = node.rows(Study)
    confirmed_at = study.last_received_at + timedelta(seconds=40)
    node.put(Delivery, state=DeliveryState.CONFIRMED, confirmed_at=confirmed_at)
    said = {"at": utc_now(), "actor": "r", "study_id": study.id, "decision": "present"}
    for place, verdict in enumerate((ReaderVerdict.ACCEPTED, ReaderVerdict.REJECTED)):
        node.add(Feedback(**said, finding=f"F{place}", verdict=verdict, model="m", version="1"))
    for kind in (events.DELIVERY_RETRIED, events.DELIVERY_RETRIED, events.DELIVERY_DEAD):
        node.add(EventRow(at=utc_now(), number=kind.number, fields={"destination": "pacs"}))
    return node


def total(series: activity.Series) -> float:
    return sum(value for value in series.values if value is not None)


@pytest.mark.parametrize("days", activity.SPANS)
def test_each_span_counts_the_same_study_once(busy: Inbox, days: int) -> None:
    found = busy.read(activity.activity, days)
    reports = {row.result_id for row in busy.rows(ReportedFinding)}
    assert total(found.received) == 1
    assert len(found.hours) == len(found.received.values)
    assert found.times == sorted(found.times)
    median, p95 = found.turnaround
    assert 30 <= max(value for value in median.values if value is not None) <= 45
    assert max(value for value in p95.values if value is not None) <= 45
    assert sum(map(total, found.findings)) >= len(reports)
    assert [(one.name, total(one)) for one in found.agreement] == [("m@1", 0.5)]
    assert {"peer": "pacs", "given_up": 1, "failed": 2, "associations": 0} in found.failures


def test_the_page_draws_them_and_programs_get_numbers(busy: Inbox) -> None:
    console = ConsoleLab(busy.settings, busy.database)
    browser = console.browser(UserRole.VIEWER)
    for days in TREND_SPANS:
        assert browser.page(f"/trends?days={days}").count("<svg") == 4
    assert (browser.get("/trends?days=8"), browser.get("/trends?days=x")) == (409, 400)
    status, found = Program(console, UserRole.VIEWER).ask("GET", "/trends?days=30")
    assert status == 200
    assert sum(found["received"]["values"]) == 1


def test_histograms_count_each_delivery_and_job_once(busy: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_SETTLED", timedelta(0))
    console = ConsoleLab(busy.settings, busy.database)

    def counted() -> dict[str, float]:
        _, text = numbers(console)
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines if "_seconds_count" in name or "_bucket" in name}

    assert not [name for name in counted() if "turnaround" in name], "of before the console"
    busy.put(Delivery, confirmed_at=utc_now() + timedelta(milliseconds=1))
    busy.put(Job, finished_at=utc_now() + timedelta(milliseconds=1))
    found = [counted() for _ in range(2)][-1]
    label = f'{{modality="US",peer="pacs",rule="{busy.jobs()[0].rule}"}}'
    assert found[f"dicom_node_turnaround_seconds_count{label}"] == len(busy.rows(Delivery))
    assert found["dicom_node_job_seconds_count" + label.replace('peer="pacs",', "")] == 1


FILE = Path(__file__).resolve().parents[3] / "config" / "alerts.yaml"


_NUMBER = r"dicom_node_(\w+)(?:\{(\w+)=\"(\w+)\"\})?"


_EXPRESSION = re.compile(rf"{_NUMBER} ([<>]) (?:(\d+)|{_NUMBER})")


_COMPARED: dict[str, Callable[[float, float], bool]] = {"<": operator.lt, ">": operator.gt}


@pytest.fixture(scope="module")
def alerts() -> dict[str, str]:
    """The expression of each alert that asks for numbers of ours."""
    [group] = pytest.importorskip("yaml").safe_load(FILE.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[mh]", rule.get("for", "1m"))
        assert rule["labels"]["severity"] in ("warning", "critical")
    found = {rule["alert"]: rule["expr"] for rule in group["rules"]}
    assert found.pop("NobodyAnswers") == 'up{job="dicom-node"} == 0'
    return found


@pytest.fixture
def filled(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> Inbox:
    """A node that has received a study and delivered its result, with a disk that lasts."""
    monkeypatch.setattr(metrics, "days_left", lambda *_: 400.0)
    inbox.settle(ultrasound("one"))
    inbox.delivery(inbox.jobs()[0], DeliveryState.CONFIRMED, created_at=utc_now())
    inbox.put(Delivery, next_at=utc_now())
    return inbox


def raised(inbox: Inbox, alerts: dict[str, str], settings: Settings | None = None) -> set[str]:
    """The alerts whose expression holds now. Fails where one asks for what there is not."""
    numbers = {
        (one.name, *(one.labels[0] if one.labels else (None, None))): one.value
        for one in inbox.read(metrics.gauges, settings or inbox.settings)
    }
    found = set()
    for alert, expression in alerts.items():
        asked = _EXPRESSION.fullmatch(expression)
        assert asked, expression
        limit = float(asked[5]) if asked[5] else numbers[asked[6], asked[7], asked[8]]
        if _COMPARED[asked[4]](numbers[asked[1], asked[2], asked[3]], limit):
            found.add(alert)
    return found


def test_each_alert_is_raised_by_what_it_is_for(
    filled: Inbox, alerts: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = utc_now()
    a_day_ago, an_hour_ago = now - timedelta(days=1), now - timedelta(hours=1)
    [result] = filled.rows(Result)
    place = {"machine": "b", "place": "worker-1", "name": "main", "pid": 1, "version": "1"}
    filled.add(SiteProcess(**place, since=now, seen_at=now, lost=False))
    not_handed_over = {"received_at": an_hour_ago, "sha256": ""}
    handed_over = {"received_at": now, "sha256": "0" * 64}
    for table, wrong, alert, right in (
        (ReceivedObject, {"received_at": a_day_ago}, "NothingIsReceived", {}),
        (ReceivedObject, not_handed_over, "ObjectsAreNotHandedOver", handed_over),
        (Job, {"created_at": a_day_ago}, "JobsWaitLong", {"created_at": now}),
        (Delivery, {"state": DeliveryState.DEAD}, "DeadLetters", {"state": DeliveryState.CONFIRMED}),
        (Study, {"state": StudyState.FAILED}, "StudiesFailed", {}),
        (Study, {"state": StudyState.QUARANTINED}, "StudiesInQuarantine", {"state": StudyState.DELIVERED}),
        (SiteProcess, {"lost": True}, "ProcessIsLost", {"lost": False}),
        (Result, {"created_at": a_day_ago}, None, {}),
        (Delivery, {"state": DeliveryState.PENDING}, "ResultsWaitLong", {}),
    ):
        filled.put(table, **wrong)
        assert raised(filled, alerts) == ({alert} if alert else set())
        if right:
            filled.put(table, **right)
    filled.add(HeldResult(result_id=result.id, study_id=result.study_id, since=now - timedelta(2)))
    filled.put(Delivery, state=DeliveryState.UNASSESSED)
    assert raised(filled, alerts) == {"ResultsWaitForAPerson"}
    filled.put(Delivery, state=DeliveryState.CONFIRMED)
    filled.receive(ultrasound("two"))
    assert raised(filled, alerts) == set()
    [waiting] = filled.spool.pending()
    os.utime(waiting, (time.time() - 600, time.time() - 600))
    assert raised(filled, alerts) == {"ObjectsAreNotIndexed"}
    filled.index()
    monkeypatch.setattr(metrics, "days_left", lambda *_: 3.0)
    spool = filled.settings.spool.model_copy(update={"minimum_free_mib": 2**40})
    full = filled.settings.model_copy(update={"spool": spool})
    assert raised(filled, alerts, full) == {"DiskFillsUp", "DiskIsFull"}


def test_the_dashboard_shows_numbers_that_there_are(filled: Inbox) -> None:
    found = list(filled.read(metrics.gauges, filled.settings))
    numbers, labels = {one.name for one in found}, {key for one in found for key, _ in one.labels}
    labels |= {"machine", "place", "process"}  # of processes, of which none runs here
    labels |= {"peer", "rule"}  # of histograms (of the trends below)
    numbers |= {"process_silent_seconds", "turnaround_seconds_bucket", "job_seconds_bucket"}
    content = json.loads(FILE.with_name("grafana.json").read_text(encoding="utf-8"))
    asked = [target for panel in content["panels"] for target in panel["targets"]]
    for target in asked:
        named = re.findall(r"dicom_node_(\w+)", target["expr"])
        assert named, target
        assert set(named) <= numbers, target
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels, target
    states = {value for one in found for key, value in one.labels if key == "state"}
    assert {state for one in asked for state in re.findall(r'state="(\w+)"', one["expr"])} <= states


FIRST, SECOND = "1.2.840.1.6185059.5457", "1.2.840.2.6185059.5457"


@pytest.fixture
def site_plain_lists(console: ConsoleLab, inbox: Inbox) -> ConsoleLab:
    """Two studies of one association, whose UIDs have the same dozen figures at their ends."""
    for name, uid in (("one", FIRST), ("two", SECOND)):
        inbox.receive(changed(ultrasound(name), StudyInstanceUID=uid), association="a")
    inbox.settle()
    return console


def test_what_happened_to_a_study_has_nothing_of_another_one(site_plain_lists: ConsoleLab) -> None:
    now = utc_now()  # the listener stopped, and the association's own end is told after that
    site_plain_lists.add(an_association("a", now, closed_at=now))
    site_plain_lists.write(record, events.OBJECT_CONFLICT, 2, association="a", instance="1.2")
    site_plain_lists.write(record, events.ASSOCIATION_ABORTED, None, association="a")
    shown = site_plain_lists.read(list_events, study_instance_uid=FIRST)
    assert events.ASSOCIATION_ABORTED.number in {row["number"] for row in shown}
    assert {row["study_instance_uid"] for row in shown} == {FIRST, None}


def test_only_a_job_of_the_newest_revision_can_be_run(site_plain_lists: ConsoleLab) -> None:
    site_plain_lists.put(Study, 1, revision=2)
    site_plain_lists.put(Job, 1, state=JobState.CANCELLED, reason="replaced by revision 2 of the study")
    new = a_job(site_plain_lists.get(Study, 1), JobState.FAILED, study_revision=2)
    site_plain_lists.add(new)
    browser = site_plain_lists.browser(UserRole.OPERATOR)
    for path in ("/jobs", "/studies/1"):
        browser.get(path)
        assert [f"/jobs/{number}/retry" in browser.text for number in (1, new.id)] == [False, True], path


def test_each_viewer_is_a_link_with_the_numbers_of_the_study(console: ConsoleLab, inbox: Inbox) -> None:
    image = changed(ultrasound("one"), AccessionNumber="A 1&x")
    inbox.settle(image)
    viewers = {
        "OHIF": "https://ohif.example.org/viewer?StudyInstanceUIDs={study}",
        "Weasis": "weasis://$dicom:rs --request accession={accession}",
    }
    console.change("console", open_in=viewers)
    shown = console.at("/studies/1", UserRole.VIEWER).text
    assert f'href="https://ohif.example.org/viewer?StudyInstanceUIDs={image.StudyInstanceUID}"' in shown
    assert "accession=A%201%26x" in shown
    assert "Open in Weasis" in shown
    assert 'rel="noopener noreferrer"' in shown


TRANSLATED = [language for language in languages.LANGUAGES if language != "en"]


PLACES = re.compile(r"%\(\w+\)s|%%|\{time\}|<[^>]*>")


def messages(language: str) -> list[Message]:
    with (languages.CATALOGUES / f"{language}.po").open("rb") as file:
        return [one for one in read_po(file, locale=language) if one.id]


def forms(text: object) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else tuple(text or ())  # type: ignore[arg-type]


def test_each_text_of_the_pages_has_a_translation_and_no_other_is_there() -> None:
    texts = set(catalogues.texts())
    for language in TRANSLATED:
        ids = {one.id if isinstance(one.id, str) else tuple(one.id) for one in messages(language)}
        assert (texts - ids, ids - texts) == (set(), set()), language
        assert [one.id for one in messages(language) if not all(forms(one.string) or [""])] == [], language


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_translation_has_the_places_and_the_marks_of_its_text(language: str) -> None:
    """Texts are put into pages as they are: marks of HTML that a text has not would be a hole."""
    for one in messages(language):
        texts, translations = forms(one.id), forms(one.string)
        for translation in translations:
            expected = {tuple(sorted(PLACES.findall(text))) for text in texts}
            assert tuple(sorted(PLACES.findall(translation))) in expected, one.id
            assert "%" not in PLACES.sub("", translation), one.id
            assert "<" not in PLACES.sub("", translation), one.id
    assert list(Formatter().parse("{time}"))  # what a script of ours puts in


@pytest.mark.parametrize(
    ("chosen", "accepted", "language"),
    [
        ("", "", "en"),
        ("", "de-CH, en;q=0.7", "de"),
        ("", "it, fr;q=0.3, es;q=0.9", "es"),
        ("", "en-GB,de;q=0.9", "en"),
        ("", "de;q=0, fr", "fr"),
        ("es", "de", "es"),
        ("../../etc", "x" * 100_000, "en"),
        ("xx", "de;q=9999, \x00;q=, ;;;,,", "en"),
    ],
)
def test_the_language_is_the_chosen_one_else_the_browsers(chosen: str, accepted: str, language: str) -> None:
    assert languages.wanted(chosen, accepted) == language


IMAGES = [ultrasound("stepped", number=number) for number in (1, 2, 3)]


STUDY = str(IMAGES[0].StudyInstanceUID)


def report(inbox: Inbox) -> None:
    """Two of three images arrive; one step has ended, one goes on."""
    inbox.settle(*IMAGES[:2])
    for uid, status, named in (
        ("1.2.1", StepStatus.COMPLETED, [str(image.SOPInstanceUID) for image in IMAGES]),
        ("1.2.2", StepStatus.IN_PROGRESS, []),
    ):
        report = {"step": uid, "peer": "modality", "calling": "MODALITY", "status": status, "number": 1}
        inbox.write(requested.keep_step, report | {"studies": [STUDY], "objects": named}, utc_now())


def test_the_page_of_a_study_has_its_steps(console: ConsoleLab, inbox: Inbox) -> None:
    browser = console.browser(UserRole.VIEWER)
    inbox.settle(ultrasound("without"))
    report(inbox)
    assert "Performed procedure steps" not in browser.page("/studies/1")
    table = browser.page("/studies/2").partition("Performed procedure steps")[2].partition("</section>")[0]
    rows = [row for row in table.split("<tr>") if "MODALITY" in row]
    assert ["COMPLETED" in row for row in rows] == [True, False]
    assert '<td data-label="objects">3</td><td data-label="missing">1</td>' in rows[0]


@pytest.fixture
def told(console: ConsoleLab, inbox: Inbox, web: WebServer) -> ConsoleLab:
    """A console of a node whose web server refused what it was told."""
    rule = {"name": "hook", "on": ["failure"], "url": web.url, "token": "T0KEN"}
    node = Inbox(inbox.folder, {**CONFIG, "outbox": {"refusals": 1}, "notifications": [rule]})
    notifier = Notifier(node.database, node.settings, "a test")
    notifier.run_once()
    node.write(record, events.JOB_FAILED)
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
    hook = f'[[notifications]]\nname = "hook"\non = ["failure"]\nurl = "{web.url}"\n'
    words = ("notifications", "test", "hook", "--finding", "Pneumothorax")
    assert not run_forked("dicom_node", *words, "--config", config_file(told.settings, hook)).returncode
    assert "Suspected: Pneumothorax" in web.calls[-1][1]["text"]
    assert web.calls[-1][1]["test"] is True
    assert [browser.post("/notifications/1/retry") for _ in range(2)] == [303, 409]
    assert browser.post("/notifications/none/test") == 404
    assert "T0KEN" not in browser.text
    assert [row["action"] for row in told.audit_rows()[:3]] == [
        "notified_again",
        "notifier_tested",
        "notifier_tested",
    ]


CERTIFIED = {"tls": {"certificate": "none.pem", "private_key": "none.key"}}


@pytest.mark.parametrize(
    ("keys", "role", "told"),
    [
        *(({"host": host}, Role.ALL, {}) for host in ("127.0.0.1", "::1", "localhost", "127.8.9.1")),
        *(({"host": host}, Role.ALL, {"console.host": "[console.tls]"}) for host in ("0.0.0.0", "::")),
        ({"host": "0.0.0.0", "enabled": False}, Role.ALL, {}),
        ({"host": "0.0.0.0"}, Role.WORKER, {}),
        (
            {"host": "console.example.org"},
            Role.ALL,
            {"console.host": "[console.tls]"},
        ),
        (CERTIFIED, Role.ALL, {"console.tls.certificate": "", "console.tls.private_key": ""}),
    ],
)
def test_the_address_of_a_console_needs_tls_unless_it_is_of_this_machine(
    tmp_path: Path, keys: dict[str, object], role: Role, told: dict[str, str]
) -> None:
    given = {"enabled": True, "port": free_port(), **keys}
    settings = Settings.model_validate({"node": {"data_dir": tmp_path}, "console": given})
    found = [*preflight.check_console(settings, role)]
    remedies = {one[0]: one[2] for one in found if not isinstance(one, Tried)}
    assert set(remedies) == set(told)
    assert all(word in remedies[key] for key, word in told.items())


# The REST API: tokens, what it answers, and what programs that watch the node may ask


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


def test_health_is_answered_without_a_database(console: ConsoleLab, inbox: Inbox) -> None:
    inbox.database.dispose()
    (inbox.folder / "node.db").rename(inbox.folder / "away.db")
    (inbox.folder / "node.db").mkdir()
    browser = console.browser()
    assert (browser.get("/healthz"), browser.text) == (200, "ok\n")
    assert browser.get("/readyz") == 503
    assert browser.headers["content-type"].startswith("text/plain")
    status, text = numbers(console)
    assert status == 503
    assert text.startswith("The database of the node does not answer.")


def test_ready_is_a_node_that_receives_and_has_room(console: ConsoleLab) -> None:
    browser = console.browser()
    assert browser.get("/readyz") == 503
    assert "no node" in browser.text
    file = console.settings.node.data_dir / "all.lock"
    file.write_text(str(os.getpid()), encoding="ascii")
    assert browser.get("/readyz") == 503, "a file that its process does not hold is of no node"
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        console.change("spool", minimum_free_mib=2**40)
        assert browser.get("/readyz") == 503
        assert "minimum_free_mib" in browser.text
        console.change("spool", minimum_free_mib=0)
        assert (browser.get("/readyz"), browser.text) == (200, "ready\n")


def numbers(console: ConsoleLab) -> tuple[int, str]:
    """Status and text of /metrics, asked for with the token."""
    console.change("console", metrics_token=SecretStr("t0ken"))
    answer = console.browser().client.get("/metrics", headers={"Authorization": "Bearer t0ken"})
    return answer.status_code, answer.text


def test_metrics_count_and_name_nobody(console: ConsoleLab, inbox: Inbox) -> None:
    inbox.settle(changed(ultrasound("one"), PatientID="SECRET-1"))
    status, text = numbers(console)
    assert status == 200
    assert "SECRET" not in text
    assert "1.2." not in text
    for line in ("objects_received 1.0", 'jobs{state="queued"} 1.0', 'deliveries{state="dead"} 0.0'):
        assert f"dicom_node_{line}" in text


def test_metrics_are_for_who_has_the_token_from_wherever_they_are_asked_for(console: ConsoleLab) -> None:
    for token, sent, status in (
        ("", "", 403),
        ("", "Bearer ", 403),
        ("t0ken", "", 403),
        ("t0ken", "Bearer token", 403),
        ("t0ken", "Bearer t0ken", 200),
    ):
        console.change("console", metrics_token=SecretStr(token))
        for here in ("127.0.0.1", "::1", "192.0.2.1"):
            client = client_of(console.app, caller=here)
            assert client.get("/metrics", headers={"Authorization": sent}).status_code == status, sent


def test_a_port_for_metrics_needs_no_token_and_answers_nothing_else(console: ConsoleLab) -> None:
    console.change("console", metrics_port=9112)
    app = create_app(console.settings, console.database)
    client = client_of(app, "http://127.0.0.1:9112")
    assert {client.get(path).status_code for path in ("/healthz", "/metrics")} == {200}
    assert {client.get(path).status_code for path in ("/", "/sign-in", "/api/v1/studies")} == {404}
    assert client_of(app, "http://127.0.0.1:8080", Host="127.0.0.1:9112").get("/metrics").status_code == 403


def test_a_name_that_is_not_listed_is_answered_by_421_and_what_to_do(console: ConsoleLab) -> None:
    client = client_of(console.app)
    for path in ("/sign-in", "/", "/api/v1/studies", "/metrics", "/static/style.css"):
        for host in ("evil.example.org", "testserver.evil.example.org", "192.0.2.9:80", ""):
            answer = client.get(path, headers={"Host": host})
            assert answer.status_code == 421, host
            assert "console.hosts" in answer.text
            assert "evil" not in answer.text
    assert client.get("/healthz", headers={"Host": "10.1.2.3:8080"}).status_code == 200


def test_an_event_that_is_committed_behind_others_or_under_a_number_of_before_is_seen(inbox: Inbox) -> None:
    def seen(number: int) -> str:
        inbox.add(EventRow(id=number, at=utc_now(), number=events.NODE_READY.number, fields={}))
        return str(changes.change_mark(inbox.database))

    last, behind = seen(9_002), seen(9_001)
    assert last != behind == str(changes.change_mark(inbox.database))
    inbox.write(Session.execute, delete(EventRow).where(EventRow.id == 9_002))
    assert seen(9_002) != behind


# What the console makes of a request: its method, where it came from


def test_a_method_that_an_address_has_not_is_answered_with_those_that_it_has(console: ConsoleLab) -> None:
    answer = console.browser(UserRole.VIEWER).client.put("/studies")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")


def test_a_browser_that_leaves_while_it_is_answered_is_no_defect(
    console: ConsoleLab, caplog: pytest.LogCaptureFixture
) -> None:
    cookies = console.browser(UserRole.VIEWER).client.cookies
    headers = [(b"host", b"testserver"), (b"cookie", f"{console.cookie}={cookies[console.cookie]}".encode())]
    scope = {
        "type": "http",
        "asgi": {"spec_version": "2.3"},
        "method": "GET",
        "scheme": "http",
        "path": "/live",
        "query_string": b"",
        "headers": headers,
        "server": ("testserver", 80),
    }
    answers: list[Any] = []

    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    asyncio.run(console.app(scope, gone, send))  # type: ignore[arg-type]
    assert answers[0]["status"] == 200
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("passed", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("203.0.113.9, 192.0.2.7", "192.0.2.7"),  # the first was written by the visitor
        ("192.0.2.7,10.1.2.3", "192.0.2.7"),  # two proxies
        ("192.0.2.1:4711", "192.0.2.1"),
        ("[2001:db8::1]:4711, 10.0.0.9:80", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("192.0.2.1, [2001:db8::2]", "2001:db8::2"),
        ("192.0.2.1, unknown", "10.0.0.1"),
        ("192.0.2.7, <script>", "10.0.0.1"),
        ("192.0.2.1:", "10.0.0.1"),
        ("", "10.0.0.1"),
    ],
)
def test_each_visitor_behind_a_trusted_proxy_has_an_address(passed: str, address: str) -> None:
    headers, trusted = [(b"x-forwarded-for", passed.encode())], [ip_network("10.0.0.0/8")]
    for sender, found in (("10.0.0.1", address), ("::ffff:10.0.0.1", address), ("192.0.2.8", "192.0.2.8")):
        scope = {"client": (sender, 5), "headers": headers}
        assert limits.address_of(scope, trusted).removeprefix("::ffff:") == found


# Peers, rules and models by page and command: checked, locked, tested, never overwritten unseen


def test_peers_are_listed_with_what_they_did_last_and_no_secret(console: ConsoleLab, inbox: Inbox) -> None:
    secret = {"username": "someone", "password": "hidden-word", "url": "https://pacs.example/orthanc"}
    peers = [one.model_copy(update=secret if one.name == "pacs" else {}) for one in console.settings.peers]
    console.take(console.settings.model_copy(update={"peers": tuple(peers)}))
    inbox.opened("one")
    inbox.receive(ultrasound("one"), association="one")
    inbox.released("one")
    inbox.tell(
        events.ASSOCIATION_REJECTED, "two", calling="STRANGER", meaning="calling AE title not recognized"
    )
    inbox.settle()
    browser = console.browser(UserRole.VIEWER)
    below = ("", "/modality", "/pacs", "/why?caller=STRANGER")
    listed, modality, pacs, stranger = (browser.page(f"/peers{path}") for path in below)
    assert re.search(r"modality</a>.*?released", listed, re.DOTALL)
    assert "pacs.example" not in listed, "results go by DIMSE: its host and port are the address"
    assert "/peers/why?caller=STRANGER" in listed
    assert "ae_title = &#34;STRANGER&#34;" in stranger
    assert "Test the connection" not in modality
    assert not any(word in listed + modality + pacs + stranger for word in ("hidden-word", "someone"))
    assert browser.get("/peers/nobody") == 404
    assert "did not call in this time" in browser.page("/peers/why?caller=NEVER")


def test_the_page_of_a_peer_lists_the_commitments_that_wait_for_a_report(
    console: ConsoleLab, inbox: Inbox
) -> None:
    asking = {"host": "127.0.0.1", "port": 104, "commit_after": "delivered"}
    known = console.settings.peers
    peers = [one.model_copy(update=asking if one.name == "modality" else {}) for one in known]
    browser = console.browser(UserRole.VIEWER)
    assert "Storage commitment" not in browser.page("/peers/modality")
    console.take(console.settings.model_copy(update={"peers": tuple(peers)}))
    assert "It has a report on all that it asked for." in browser.page("/peers/modality")
    for uid in ("2.25.1", "2.25.2"):
        inbox.write(requested.keep_request, "modality", "MODALITY", uid, ["1.2 1.3", "1.4 1.3"], utc_now())
    inbox.put(RequestedCommitment, reason="cannot connect")
    inbox.put(RequestedCommitment, 1, state=RequestedState.REPORTED)
    assert "…2.25.2" in browser.page("/peers/modality")
    assert "2.25.1" not in browser.text
    assert '<td data-label="objects">2</td>' in browser.text
    assert "cannot connect" in browser.text
    counted = {
        one.labels: one.value for one in inbox.read(metrics.gauges, console.settings) if "commit" in one.name
    }
    assert counted == {(("state", "waiting"),): 1, (("state", "decided"),): 0}


def test_rules_say_what_they_make_of_recent_studies(console: ConsoleLab, inbox: Inbox) -> None:
    inbox.settle(ultrasound("one"), small_xray("two"))
    assert "no rule applies; closest is ultrasound" in console.browser(UserRole.VIEWER).page("/rules")
    assert [job.rule for job in inbox.jobs()] == ["ultrasound"]


def model_in(console: ConsoleLab, slot: str) -> str:
    """The model that runs in a slot, "" for none."""
    return site_models.models_in_use(console.settings)[slot]


def test_a_model_of_the_sites_own_is_put_into_use_and_back(console: ConsoleLab, tmp_path: Path) -> None:
    admin = console.browser(UserRole.ADMIN)
    place = f"/models/{OWN_MODEL}"
    assert admin.post(f"{place}/activate", pipeline="chest_xray") == 409
    assert "workers.models_dir" in admin.text
    shipped = model_in(console, "chest_xray")
    own_model(tmp_path / "models")
    console.change("workers", models_dir=tmp_path / "models")
    assert 'name="pipeline" value="chest_xray"' in admin.page(place)
    assert "Let chest_xray use it" in admin.text
    assert admin.post(f"{place}/activate", pipeline="nothing") == 404
    assert admin.post(f"{place}/activate", pipeline="chest_xray") == 303, admin.text
    assert model_in(console, "chest_xray") == "chest-efficientnet-lite0@9.9"
    admin.follow()
    assert "Roll back" in admin.text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "note", Mock(side_effect=RuntimeError("the audit takes nothing")))
        patch.setattr(trial, "try_out", lambda *_: None)
        for address in (f"{place}/activate", "/models/chest_xray/rollback"):
            assert admin.post(address, pipeline="chest_xray") == 500
    assert model_in(console, "chest_xray") == "chest-efficientnet-lite0@9.9", "changed without a record"
    assert [admin.post("/models/chest_xray/rollback") for _ in range(2)] == [303, 409]
    assert model_in(console, "chest_xray") == shipped
    assert len(console.audited("model_activated")) == len(console.audited("model_rollback")) == 1


FORM = {"name": "us2", "ae_title": "US2", "may": "send"}


RULE = """\
name = "second"
when = { station = "ROOM2" }
pipeline = "ultrasound"
send_to = ["pacs"]
"""


@pytest.fixture
def config(inbox: Inbox) -> Path:
    """A configuration file with the peers of the node."""
    return config_file(inbox.settings, "[console]\nlocal_peers = true\n")


def test_what_waits_for_a_lost_decision_says_so_until_an_admin_settles_it(
    console: ConsoleLab, inbox: Inbox
) -> None:
    happened(inbox, events.DECISIONS_UNKNOWN, 1)
    console.add(study := a_study("1.2.3", StudyState.DELIVERING))
    console.add(job := a_job(study, JobState.SUCCEEDED))
    console.add(result := a_result(job))
    lost = {
        "machine": "m", "copied": True, "action": "result_withdrawn", "record": {"actor": "anna"},
        "study_uid": "1.2.3", "holds": True, "waits_for": "1 result is not built", "applied_at": None,
    }  # fmt: skip
    console.add(Delivery(result_id=result.id, destination="pacs", next_at=NOW))
    console.add(DecisionRow(id="d1", at=NOW, **lost))
    browser = console.browser(UserRole.ADMIN)
    assert "1 result is not built" in browser.page("/decisions")
    for place in ("/outbox", "/studies", f"/studies/{study.id}"):
        assert "waits for a decision of a person" in browser.page(place), place
    assert "decisions from before a restore wait" in browser.page("/")
    assert 'class="error"' in browser.text
    assert ("decisions", False) in [
        (one.subject, one.ok)  # type: ignore[union-attr]
        for one in preflight._probe_database(console.settings)
    ]
    assert browser.post("/decisions/d1/settle", because="sent by hand") == 303
    assert "No decision waits" in browser.page("/decisions")
    assert "the database lost decisions" in browser.page("/")
    assert 'class="error"' not in browser.text


def test_a_peer_is_added_changed_and_removed_by_an_admin(console: ConsoleLab, config: Path) -> None:
    browser = console.browser(UserRole.ADMIN)
    assert 'maxlength="16"' not in browser.page("/peers/new"), "a title that is too long is refused, not cut"
    rest = "quiet_seconds = 7\nsilent_hours = 24"
    assert browser.post("/peers/new", **FORM, version="0", rest=rest) == 200, browser.text
    assert "us2 is saved" in browser.text
    settings = loading.load([config])
    assert (settings.peer("us2").quiet_seconds, settings.peer("us2").may) == (7, ("send",))
    assert "silent_hours = 24" in browser.page("/peers/us2/change")
    assert browser.post("/peers/us2/change", **FORM, version=browser.field("version"), rest="") == 200
    assert loading.load([config]).peer("us2").quiet_seconds is None
    console.add(study := a_study("1.2.3"))
    console.add(job := a_job(study, JobState.SUCCEEDED))
    console.add(result := a_result(job))
    console.add(Delivery(result_id=result.id, destination="us2", next_at=NOW))
    console.take(loading.load([config]))
    assert "1 result waits for it, and will be given up" in browser.page("/peers/us2")
    browser.page("/peers/us2/change")
    assert browser.post("/peers/us2/remove", version=browser.field("version")) == 200
    assert [peer.name for peer in loading.load([config]).peers] == ["pacs"]
    assert [row["action"] for row in console.audit_rows()[:3]] == ["peer_removed", "peer_saved", "peer_saved"]
    assert "peer us2 removed" in browser.page("/entered")
    assert browser.post("/entered/1/undo") == 200
    assert loading.load([config]).peer("us2").quiet_seconds == 7


def test_mistakes_of_a_peer_stand_beside_their_fields_all_at_once(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.ADMIN)
    wrong = {
        "ae_title": "x" * 17,
        "port": "many",
        "may": "receive",
        "host": "h",
        "rest": "colour = 1\ncharset = 2",
    }
    assert browser.post("/peers/new", **FORM | wrong, version="0") == 400
    assert "more than 16 characters" in browser.fault("ae_title")
    assert browser.fault("port") == "must be a number"
    assert "choose at least one" in browser.fault("results")
    assert "colour: unknown key" in browser.fault("rest")
    assert "charset: 2" in browser.fault("rest")
    assert "peers." not in browser.text
    assert browser.post("/peers/new", **FORM | {"may": "receive", "results": "sr"}, version="0") == 400
    assert "host and port are missing" in browser.fault("host")
    assert browser.post("/peers/new", **FORM | {"name": "pacs"}, version="0") == 409
    assert "is in the configuration files" in browser.fault("name")


def test_the_second_of_two_admins_is_told_and_nothing_is_lost(console: ConsoleLab, config: Path) -> None:
    first, second = console.browser(UserRole.ADMIN), console.browser(UserRole.ADMIN)
    first.post("/peers/new", **FORM, version="0")
    second.get("/peers/us2/change")
    seen = second.field("version")
    first.post("/peers/us2/change", **FORM | {"ae_title": "FIRST"}, version=seen)
    assert second.post("/peers/us2/change", **FORM | {"ae_title": "SECOND"}, version=seen) == 409
    assert "admin: peer us2" in second.text
    assert 'value="SECOND"' in second.text, "what was entered is still there"
    assert 'href="/peers/us2/change"' in second.text, "and what it is now can be opened"
    assert loading.load([config]).peer("us2").ae_title == "FIRST"
    assert second.post("/peers/new", **FORM, version="0") == 409
    first.get("/peers/us2/change")
    first.post("/peers/us2/remove", version=first.field("version"))
    assert second.post("/peers/us2/change", **FORM, version=seen) == 409
    assert "removed" in second.text


def test_what_check_refuses_or_a_browser_must_not_do_is_not_saved(console: ConsoleLab, inbox: Inbox) -> None:
    browser = console.browser(UserRole.ADMIN)
    for typed, said in (
        ({"ae_title": "MODALITY"}, "the same AE title"),
        ({"ae_title": "x" * 17}, "ae_title"),
        ({"name": "PACS"}, "differs from pacs in capitals only"),
        ({"may": "receive"}, "host and port are missing"),
        ({"may": ""}, "to be queried"),
        ({"port": "99999"}, "port"),
        ({"port": "x"}, "must be a number"),
        ({"rest": "nonsense = 1"}, "nonsense"),
        ({"rest": "= 1"}, "no TOML"),
        ({"rest": "x = " + "[" * 5000}, "no TOML"),
        ({"rest": "tls = 2020-01-01"}, "of a kind that no setting has"),
        ({"rest": "port = 1"}, "there is a field"),
        ({"rest": 'assume_charset = "LATIN"'}, "assume_charset"),
        ({"rest": 'password = "x"'}, "belongs in the configuration files"),
        ({"host": "${file:/etc/passwd}"}, "for the configuration files only"),
        ({"rest": 'url = "http://u:p@h"'}, "belongs in the configuration files"),
        ({"rest": "entered = false"}, "entered"),
    ):
        assert browser.post("/peers/new", **{**FORM, **typed}, version="0") == 400, typed
        assert said in browser.text.replace("&#39;", "'"), typed
    assert entered_in(inbox) == ""


@pytest.mark.parametrize(
    ("step", "does", "says"),
    [
        ("write_new", Mock(side_effect=OSError(errno.ENOSPC, "no space")), "no space"),
        ("write_new", Mock(side_effect=FileExistsError), "somebody else"),
        ("bucket_of", Mock(), "share no folder"),
    ],
)
def test_where_nothing_can_be_entered_the_reason_is_said_and_nothing_is_noted(
    console: ConsoleLab, monkeypatch: pytest.MonkeyPatch, step: str, does: Mock, says: str
) -> None:
    monkeypatch.setattr(entered, step, does)
    browser = console.browser(UserRole.ADMIN)
    assert browser.post("/peers/new", **FORM, version="0") == 409
    assert says in browser.fault("name")
    assert console.audited("peer_saved") == []


def test_what_a_hand_wrote_stays(inbox: Inbox, config: Path) -> None:
    settings = loading.load([config])
    us2 = {"name": "us2", "ae_title": "US2", "may": ["send"]}
    seen = entered.save_entry(settings, "peers", us2, 0).version
    file = inbox.folder / "entered" / "000001.toml"
    file.write_text("# of the site\n" + file.read_text().replace('"US2"', '"HAND"  # moved'))
    with pytest.raises(NotAllowedNow):
        entered.save_entry(settings, "peers", us2, seen)
    check = entered._checked

    def edited_meanwhile(*given: Any) -> entered.Warned:
        file.write_text(f"{file.read_text()}# once more\n")
        return check(*given)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(NotAllowedNow):
        patch.setattr(entered, "_checked", edited_meanwhile)
        entered.remove_entry(settings, "peers", "us2")
    entered.save_entry(settings, "peers", {**us2, "ae_title": "HAND", "quiet_seconds": 7})
    text = entered_in(inbox)
    assert text.startswith("# of the site\n")
    assert 'ae_title = "HAND"  # moved' in text
    assert "quiet_seconds = 7" in text
    assert "# once more" in text
    assert sorted(one.name for one in file.parent.iterdir()) == ["000001.toml", "000002.toml"], (
        "no file is left behind"
    )


def test_a_peer_that_a_rule_sends_to_stays(inbox: Inbox, config: Path) -> None:
    settings = loading.load([config])
    pacs2 = {"name": "pacs2", "ae_title": "P2", "host": "127.0.0.1", "port": 2, "may": ["receive"]}
    entered.save_entry(settings, "peers", pacs2)
    settings = loading.load([config])
    entered.save_entry(settings, "rules", entered.parse_entry("rules", RULE.replace('"pacs"', '"pacs2"')))
    with pytest.raises(FaultyInput, match="no such peer"):
        entered.remove_entry(loading.load([config]), "peers", "pacs2")
    with pytest.raises(NotAllowedNow):
        entered.remove_entry(loading.load([config]), "rules", "second", version=7)
    with pytest.raises(NotAllowedNow):
        entered.save_entry(loading.load([config]), "peers", {**pacs2, "name": "pacs"})


def test_a_browser_points_the_node_at_itself_only_where_a_file_allows_it(
    inbox: Inbox, console: ConsoleLab
) -> None:
    strict = inbox.settings.model_copy(update={"console": ConsoleSettings()})
    refused, allowed = (one.browser(UserRole.ADMIN) for one in (ConsoleLab(strict, inbox.database), console))
    for number, (keys, name) in enumerate(
        (
            ({"host": "127.0.0.1", "port": "104"}, "host"),
            ({"host": "localhost", "port": "104"}, "host"),
            ({"host": "169.254.169.254", "port": "80"}, "host"),
            ({"host": "192.0.2.1", "port": "1", "rest": 'query_host = "::1"'}, "rest"),
            ({"rest": 'transport = "orthanc"\nurl = "http://2130706433:8042"'}, "rest"),
            ({"rest": 'transport = "dicomweb"\nurl = "http://[::ffff:169.254.169.254]/latest"'}, "rest"),
        )
    ):
        named = {"name": f"us{number}", "ae_title": f"US{number}", "may": "receive", "results": "sr"}
        assert refused.post("/peers/new", **named | keys, version="0") == 400, keys
        assert "console.local_peers" in refused.fault(name), keys
        assert allowed.post("/peers/new", **named | keys, version="0") == 200, keys


OFFERED = [card for card in cards() if card.name not in entered.PROGRAMS]


FIELDS = {
    "name": "second", "version": "0", "when.station": "ROOM2; ROOM3", "pipeline": "ultrasound",
    "options.ultrasound.policy": "research", "options.chest_xray.heatmaps": "true", "send_to": "pacs",
    "priority": "stat", "max_study_age_days": "0.5", "assess_first": "true", "rest": "",
    "despite_hold": "true",
}  # fmt: skip


TEXT = """\
name = "second"
when = { station = ["ROOM2", "ROOM3"] }
pipeline = "ultrasound"
options = { policy = "research" }
send_to = ["pacs"]
priority = "stat"
max_study_age_days = 0.5
assess_first = true
"""


@pytest.fixture
def admin(console: ConsoleLab) -> Browser:
    return console.browser(UserRole.ADMIN)


def entered_in(inbox: Inbox) -> str:
    return "".join(file.read_text() for file in sorted(inbox.folder.glob("entered/*.toml"))[-1:])


def test_the_form_makes_the_lines_of_the_file_once_it_was_seen_what_they_make(
    admin: Browser, inbox: Inbox
) -> None:
    assert admin.post("/rules/new", **FIELDS, act="save") == 200
    assert "Not saved yet" in admin.text
    mark = admin.field("tried")
    assert admin.post("/rules/new", **FIELDS | {"priority": "low"}, act="save", tried=mark) == 200
    assert "Not saved yet" in admin.text, "it was changed after it had been tried"
    assert entered_in(inbox) == ""
    assert admin.post("/rules/new", **FIELDS, act="save", tried=mark) == 200
    assert TEXT in entered_in(inbox)
    admin.page("/rules/second/change")
    for shown in ('"ROOM2; ROOM3"', '"0.5"', '"ultrasound" checked', '"pacs" checked', '"research" selected'):
        assert f"value={shown}" in admin.text, shown
    assert admin.post("/rules/second/change", **FIELDS, act="try") == 409, "what another admin added"
    assert "there is a rule second already" in admin.text
    assert 'value="ROOM2; ROOM3"' in admin.text


def test_a_mistake_stands_beside_its_field_and_nothing_typed_is_lost(admin: Browser, inbox: Inbox) -> None:
    for typed, place, said in (
        ({"name": ""}, "name", "must not be empty"),
        ({"name": "a b"}, "name", "no space"),
        ({"when.station": ""}, "when", "fill in at least one"),
        ({"when.modality": "CT"}, "when.modality", "takes no such images"),
        ({"when.modality": "ultrasound"}, "when.modality", "a code in capital letters"),
        ({"when.calling_ae": "NOBODY"}, "when.calling_ae", "never holds"),
        ({"pipeline": ""}, "pipeline", "choose one"),
        ({"send_to": "nobody"}, "send_to", "no such peer"),
        ({"send_to": "modality"}, "send_to", "may not receive"),
        ({"max_study_age_days": "a week"}, "max_study_age_days", "must be a number"),
        ({"max_study_age_days": "-1"}, "max_study_age_days", "must be at least 0"),
        ({"options.ultrasound.keep_words": "R-CY"}, "options.ultrasound.keep_words", "under clinical only"),
        ({"rest": "= 1"}, "rest", "no TOML"),
        ({"rest": 'priority = "low"'}, "rest", "there is a field"),
        ({"rest": "when = { station = 'ROOM7' }"}, "rest", "there is a field"),
    ):
        filled = {**FIELDS, **typed}
        assert admin.post("/rules/new", **filled, act="save") == 400, typed
        assert said in admin.fault(place), typed
        for name, value in filled.items():
            if value and name not in typed and name.startswith(("when.", "name", "options.ultrasound")):
                assert value in admin.text, (typed, name)
        for value in filter(None, typed.values()):
            assert value.replace("'", "&#39;").replace('"', "&#34;") in admin.text, typed
    assert entered_in(inbox) == ""


@pytest.mark.parametrize(
    "content",
    [
        {"when": {"modality": "US"}},
        {"when": {"study_description": "head; neck", "station": [" x"]}},
        {"when": {"modality": ["US", "IVUS"]}, "options": {"clean": False, "keep_words": ["R-CY", "L-M"]}},
        {"when": {"modality": "US"}, "options": {"keep_words": ["a;b"], "unknown": [1, 2]}},
        {"when": {"modality": "DX"}, "pipeline": "chest_xray", "options": {"prevalence": {"Effusion": 0.05}}},
        {"when": {"modality": "US"}, "tell_pacs_refusals": True, "priority": "low"},
        {"when": {"modality": "US"}, "max_study_age_days": 0, "secondary_captures_from": ["grabber"]},
        {"when": {"modality": "DX"}, "priors": "pacs", "no_call": []},
    ],
)
def test_fields_and_what_none_can_show_make_the_same_rule_again(content: dict[str, Any]) -> None:
    rule = {"name": "one", "pipeline": "ultrasound", "send_to": ["pacs"], **content}
    again, problems = form.as_content(form.as_form(rule), "")
    assert problems == []
    assert RuleSettings(**again) == RuleSettings(**rule)


def test_every_key_of_a_rule_has_a_field(admin: Browser) -> None:
    admin.get("/rules/new")
    names = set(re.findall(r'name="([^"]+)"', admin.text))
    as_text = {"then", "priors", "no_call"}
    assert set(RuleSettings.model_fields) - {"when", "options", "entered"} - as_text <= names
    assert "rest" in names, "conditions on results are written as text"
    assert "then = [" in admin.text, "conditions on results are written as text"
    assert {f"when.{key}" for key in Conditions.model_fields} <= names
    assert set(form.CONDITIONS) == set(Conditions.model_fields)
    for card in OFFERED:
        assert {f"options.{card.name}.{key}" for key in card.options.model_fields} <= names
    assert not {"command", "container"} & set(
        re.findall(r'type="radio" name="pipeline" value="(\w+)"', admin.text)
    )


def test_every_choice_of_an_option_is_one_that_its_pipeline_takes(admin: Browser) -> None:
    for card in OFFERED:
        fields = FIELDS | {"pipeline": card.name, "options.ultrasound.policy": ""}
        fields |= {"when.modality": next(iter(card.modalities))}
        for option in card.options.listed():
            for value in option.choices:
                sent = fields | {f"options.{card.name}.{option.key}": value}
                assert admin.post("/rules/new", **sent, act="try") == 200, (card.name, option.key, value)
                assert f"{option.key} = &#34;{value}&#34;" in admin.text


FIELDS_holds = {
    "name": "held", "version": "0", "when.station": "ROOM2", "pipeline": "ultrasound", "send_to": "pacs",
    "priority": "routine", "max_study_age_days": "7", "assess_first": "true", "rest": "",
}  # fmt: skip


SAYS = "gets by it at once what held holds of the same study"


def test_the_form_of_a_rule_saves_it_only_with_the_tick(console: ConsoleLab, admin: Browser) -> None:
    assert admin.post("/rules/new", **FIELDS_holds, act="try") == 200
    assert SAYS in admin.text
    mark = admin.field("tried")
    assert admin.post("/rules/new", **FIELDS_holds, act="save", tried=mark) == 200
    assert 'name="despite_hold"' in admin.text
    assert not entered.entered_versions(console.settings)
    assert admin.post("/rules/new", **FIELDS_holds, act="save", tried=mark, despite_hold="true") == 200
    assert "held is saved." in admin.text
    assert SAYS in admin.text, "the page that says that it is saved shows the warnings"
    assert "in_force.js" not in admin.text, "and stays until it was read"
    assert "rule held" in entered.entered_versions(console.settings)[0].saved
    assert SAYS in str(console.audited("rule_saved"))


@pytest.mark.parametrize(
    ("held", "free", "expected"),
    [
        ({"modality": "US"}, {"modality": "US"}, True),
        ({"modality": "US"}, {"modality": ["DX", "CR"]}, False),
        ({"modality": "US"}, {"modality": ["DX", "U*"]}, True),
        ({"modality": "*"}, {"modality": "US"}, True),
        ({"station": "ROOM*"}, {"station": "ROOM2"}, True),
        ({"station": "ROOM*"}, {"station": "WARD"}, False),
        ({"station": "ROOM*"}, {"station": "*2"}, True),
        ({"calling_ae": "US1"}, {"station": "WARD"}, True),
        ({"calling_ae": "US1"}, {"calling_ae": "US2"}, False),
    ],
)
def test_rules_that_never_take_the_same_image_undercut_nothing(
    held: dict[str, Any], free: dict[str, Any], expected: bool
) -> None:
    rules = [
        {"name": "held", "when": held, "pipeline": "ultrasound", "send_to": ["pacs"], "assess_first": True},
        {"name": "free", "when": free, "pipeline": "ultrasound", "send_to": ["pacs"]},
    ]
    assert bool(list(loading.undercuts(Settings.model_validate({"rules": rules})))) is expected
