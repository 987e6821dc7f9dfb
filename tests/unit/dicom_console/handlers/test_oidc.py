"""Signing in by an OpenID provider that says whatever a test wants: claims, algorithms, keys and answers."""

import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from werkzeug.wrappers import Request, Response

from dicom_connectors.oidc.settings import OidcSettings
from dicom_node.base.errors import NotAllowedNow
from dicom_node.base.lifecycle import UserRole
from dicom_node.people import users
from tests.console_lab import PASSWORD, Browser, ConsoleLab
from tests.hostile.web import answering

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
        return self.finish(browser, self.begin(browser))

    def finish(self, browser: Browser, asked: dict[str, str]) -> int:
        """The way back, with what the provider answers to this request."""
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
    assert provider.finish(browser, asked) == 200
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
        status = provider.finish(browser, asked)
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
    assert provider.finish(browser, asked) == 503
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
