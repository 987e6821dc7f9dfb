"""Signing in by OpenID Connect, where provider, browser or somebody between them is hostile."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from dicom_node.errors import NotAllowedNow
from dicom_node.model.roles import UserRole
from dicom_node.services import users
from tests.console_lab import PASSWORD, ConsoleLab
from tests.unit.console import forger
from tests.unit.console.forger import CLIENT, SECRET, Answer, Forger, forging

CONSOLE = "https://ai-node.example.org"


@pytest.fixture
def provider(console: ConsoleLab) -> Iterator[Forger]:
    """A provider that is good until a test says otherwise; the console signs people in by it."""
    with forging() as one:
        console.change("console", url=CONSOLE, oidc=one.settings(seconds=3))
        yield one


def accounts(console: ConsoleLab) -> dict[str, str]:
    """Role by name, of the provider's accounts."""
    return {row["name"]: row["role"] for row in users.list_users(console.settings) if row["issuer"]}


def refusals(console: ConsoleLab) -> list[object]:
    return [row.get("because") for row in console.audited("sign_in_refused")]


def test_what_is_right_is_let_in_and_asked_for_as_the_standard_has_it(
    console: ConsoleLab, provider: Forger
) -> None:
    browser = console.browser()
    asked = provider.begin(browser)
    assert asked["redirect_uri"] == f"{CONSOLE}/sign-in/oidc/back"
    assert (asked["response_type"], asked["scope"]) == ("code", "openid profile")
    assert (asked["client_id"], asked["code_challenge_method"]) == (CLIENT, "S256")
    assert len({asked["state"], asked["nonce"], asked["code_challenge"]}) == 3
    cookie = browser.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=lax", "Max-Age=600"} <= set(cookie.split("; "))
    assert provider.come_back(browser, provider.code(asked), asked["state"]) == 200
    assert browser.get("/") == 200 and "anna@127.0.0.1" in browser.text
    assert accounts(console) == {"anna@127.0.0.1": "reader"}


@pytest.mark.parametrize(
    "claims",
    [
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
    ],
    ids=lambda claims: next(iter(claims)),  # not by their times, which differ between processes
)
def test_a_token_that_is_not_for_this_sign_in_lets_nobody_in(
    console: ConsoleLab, provider: Forger, claims: dict[str, Any]
) -> None:
    provider.claims = claims
    browser = console.browser()
    assert provider.sign_in(browser) == 403
    assert "not for this sign-in, or not signed" in browser.text
    assert browser.get("/") == 303 and accounts(console) == {} and len(refusals(console)) == 1


@pytest.mark.parametrize(
    "sign",
    [
        forger.unsigned,
        forger.by_a_stranger,
        forger.by_the_public_key,
        forger.by_the_secret,
        lambda claims: "no token",
        lambda claims: 7,
        lambda claims: None,
    ],
)
def test_a_token_that_the_provider_did_not_sign_lets_nobody_in(
    console: ConsoleLab, provider: Forger, sign: Callable[[dict[str, Any]], str]
) -> None:
    provider.sign = sign
    browser = console.browser()
    assert provider.sign_in(browser) == 403
    assert browser.get("/") == 303 and accounts(console) == {} and len(refusals(console)) == 1


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
    browser = console.browser()
    assert browser.get(f"/sign-in/oidc/back{answer}") == 403
    assert provider.asked == []


def test_who_says_no_at_the_provider_and_who_comes_from_another_are_refused(
    console: ConsoleLab, provider: Forger
) -> None:
    browser = console.browser()
    state = provider.begin(browser)["state"]
    assert (
        browser.get(f"/sign-in/oidc/back?error=access_denied&error_description=%3Cb%3E&state={state}") == 403
    )
    assert "The provider did not sign you in" in browser.text and "<b>" not in browser.text
    asked = provider.begin(browser)
    other = "&iss=https://other.example.org"
    assert provider.come_back(browser, provider.code(asked), asked["state"], other) == 403
    assert "of another provider" in browser.text


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


def test_a_local_user_cannot_be_made_with_the_name_of_such_an_account(
    console: ConsoleLab, provider: Forger
) -> None:
    assert provider.sign_in(console.browser()) == 200
    with pytest.raises(Exception, match="letters of ASCII"):
        users.add_user(console.settings, "anna@127.0.0.1", UserRole.ADMIN, PASSWORD)


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
    admin = console.browser(UserRole.ADMIN)
    admin.get("/users")
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
    browser = console.browser()
    assert provider.begin(browser)["acr_values"] == "mfa phr"
    for acr, status in ((None, 403), ("pwd", 403), (["mfa"], 403), ("phr", 200)):
        provider.claims = {"acr": acr}
        assert provider.sign_in(console.browser()) == status, acr


def slow() -> Answer:
    time.sleep(6)
    return 200, b"{}"


@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/token", "/keys", "/userinfo"])
@pytest.mark.parametrize(
    "answer",
    [
        slow,
        lambda: (500, b"{}"),
        lambda: (302, b""),
        lambda: (200, b""),
        lambda: (200, b"[]"),
        lambda: (200, b"{}"),
        lambda: (200, b"[" * 200_000),
        lambda: (200, b'{"a": "' + b"x" * 2**19 + b'"}'),
        lambda: (200, b"x" * (17 * 2**20)),
    ],
    ids=["slow", "500", "redirect", "empty", "list", "object", "deep", "large", "endless"],
)
def test_a_provider_that_answers_badly_is_named_and_holds_up_nobody(
    console: ConsoleLab,
    provider: Forger,
    caplog: pytest.LogCaptureFixture,
    path: str,
    answer: Callable[[], Answer],
) -> None:
    provider.claims = {"groups": None} if path == "/userinfo" else {}
    browser = console.browser()
    asked = provider.begin(browser)
    provider.answers[path] = answer
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
    further = "&next=https://evil.example.org&redirect_uri=//evil.example.org"
    assert provider.come_back(browser, provider.code(asked), asked["state"], further) == 200
    assert "evil" not in browser.text and 'content="0; url=/"' in browser.text


def test_refusals_of_an_address_end_in_a_wait(console: ConsoleLab, provider: Forger) -> None:
    browser = console.browser()
    for _ in range(users.REFUSALS_OF_AN_ADDRESS):
        assert browser.get("/sign-in/oidc/back?state=x&code=y") == 403
    assert provider.sign_in(browser) == 403 and "Too many attempts" in browser.text
    assert len(refusals(console)) == users.REFUSALS_OF_AN_ADDRESS


def test_without_the_setting_there_is_no_such_sign_in(console: ConsoleLab) -> None:
    console.change("console", oidc=None)
    browser = console.browser()
    browser.get("/sign-in")
    assert "hospital" not in browser.text
    assert [browser.get(f"/sign-in/oidc{path}") for path in ("", "/back", "/leave")] == [404, 404, 404]


def test_the_way_out_is_the_provider_s_own_address(console: ConsoleLab, provider: Forger) -> None:
    browser = console.browser()
    assert browser.get("/sign-in/oidc/leave") == 303 and browser.headers["location"] == "/sign-in"
    provider.described = {"end_session_endpoint": f"{provider.issuer}/out"}
    browser.get("/sign-in/oidc/leave")
    back = "https%3A%2F%2Fai-node.example.org%2Fsign-in"
    assert browser.headers["location"] == (
        f"{provider.issuer}/out?client_id={CLIENT}&post_logout_redirect_uri={back}"
    )


def test_no_secret_is_shown_by_settings_or_errors(provider: Forger) -> None:
    given = provider.settings()
    assert SECRET not in repr(given) + str(given) + json.dumps(given.model_dump(mode="json"))
