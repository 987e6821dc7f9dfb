"""Who may ask for which page, and what every answer says."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from fastapi import APIRouter, FastAPI

from dicom_console.app import create_app
from dicom_console.web.access import ANYONE, Asked, Site
from dicom_console.web.limits import HEADERS
from dicom_node.model.roles import UserRole
from dicom_node.services import users
from tests.console_lab import ConsoleLab, routes
from tests.inbox_lab import Inbox
from tests.modality import ultrasound

MACHINES = {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics")}
ELSEWHERE = {("GET", f"/sign-in/oidc{path}") for path in ("", "/back", "/leave")}
ENDS_THE_SESSION = {"/sign-out", "/sessions/{number}/end"}
OPEN = {
    ("GET", "/sign-in"), ("POST", "/sign-in"), ("POST", "/language"), ("GET", "/static/{name}"),
    *ELSEWHERE, *MACHINES,
}  # fmt: skip


def endpoints(app: FastAPI) -> Iterator[tuple[str, str, object]]:
    """Method, path and declared role of everything that the application answers."""
    for route in routes(app.routes):
        for method in sorted(route.methods - {"HEAD"}):
            yield method, route.path, getattr(route.endpoint, "needs", None)


def concrete(path: str) -> str:
    """With values in place of its parameters."""
    return re.sub(
        r"\{\w+\}",
        "1",
        path.replace("{change}", "retry").replace("{name}", "style.css").replace("{which}", "images"),
    )


def test_every_page_is_for_its_role_and_those_above(console: ConsoleLab, inbox: Inbox) -> None:
    inbox.receive(ultrasound("one"))
    inbox.settle()
    found = list(endpoints(console.app))
    assert len(found) > 15
    assert {(method, path) for method, path, needed in found if needed == ANYONE} == OPEN
    for asking in (None, *UserRole):
        browser = console.browser(asking)
        csrf = browser.token()
        for method, path, needed in found:
            if path.startswith("/api/"):
                continue  # for programs: the next test
            if needed == ANYONE or (path in ENDS_THE_SESSION and asking) or (path == "/live" and asking):
                continue  # a stream does not end: test_live.py
            assert isinstance(needed, UserRole), path
            place = concrete(path)
            status = browser.get(place) if method == "GET" else browser.post(place, csrf)
            if asking is None:
                refusal = (303, "/sign-in") if method == "GET" else (401, None)
                assert (status, browser.headers.get("location")) == refusal, (method, path)
            elif asking.includes(needed):
                assert status in (200, 303, 400, 404, 409), (asking, method, path, status)
            else:
                assert status == 403, (asking, method, path)


def test_programs_are_let_in_by_the_role_of_their_tokens_user(console: ConsoleLab) -> None:
    found = [one for one in endpoints(console.app) if one[1].startswith("/api/")]
    assert len(found) > 12
    for asking in (None, *UserRole):
        browser = console.browser(asking)  # a cookie counts for nothing here
        token = users.add_token(console.settings, asking.value, "a test", 1) if asking else "dn_nobody"
        for method, path, needed in found:
            assert isinstance(needed, UserRole), path
            place = concrete(path)
            assert browser.client.request(method, place).status_code == 401, path
            bearer = {"Authorization": f"Bearer {token}"}
            status = browser.client.request(method, place, headers=bearer, json={}).status_code
            if asking is None:
                assert status == 401, path
            elif asking.includes(needed):
                assert status in (200, 400, 404, 409), (asking, method, path, status)
            else:
                assert status == 403, (asking, method, path)


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


def test_no_page_of_the_framework_is_served(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.ADMIN)
    assert [browser.get(path) for path in ("/docs", "/redoc", "/openapi.json")] == [404] * 3


@pytest.mark.parametrize("csrf", ["", "0" * 64, "ü"])
def test_a_change_needs_the_token_of_its_form(console: ConsoleLab, csrf: str) -> None:
    browser = console.browser(UserRole.OPERATOR)
    assert browser.post("/outbox/retry-dead", csrf) == 403
    assert "too old" in browser.text


def test_a_token_of_another_session_is_none(console: ConsoleLab) -> None:
    other = console.browser(UserRole.OPERATOR).token()
    assert console.browser(UserRole.OPERATOR).post("/outbox/retry-dead", other) == 403


@pytest.mark.parametrize(
    ("origin", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 303)]
)
def test_a_form_of_another_site_is_refused(console: ConsoleLab, origin: str, status: int) -> None:
    browser = console.browser(UserRole.OPERATOR)
    assert browser.post("/outbox/retry-dead", headers={"Sec-Fetch-Site": origin}) == status


@pytest.mark.parametrize(
    "path", ["/", "/sign-in", "/no-such-page", "/studies/99", "/studies?after=x", "/audit"]
)
def test_every_answer_has_the_headers(console: ConsoleLab, path: str) -> None:
    browser = console.browser(UserRole.VIEWER)
    browser.get(path)
    assert {name: browser.headers.get(name) for name in HEADERS} == HEADERS
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    assert "Strict-Transport-Security" not in browser.headers


def test_pages_hold_neither_style_nor_script_nor_addresses_of_others(
    console: ConsoleLab, inbox: Inbox
) -> None:
    inbox.receive(ultrasound("one"))
    inbox.settle()
    browser = console.browser(UserRole.ADMIN)
    for path in ("/", "/studies", "/studies/1", "/jobs", "/outbox", "/audit", "/studies/images/1"):
        assert browser.get(path) == 200, path
        assert not re.search(r"<style|<script(?! src=\"/)|style=|\son\w+=|https?://", browser.text), path


@pytest.mark.parametrize("path", ["/outbox?to=%00", "/peers/%00", "/models/%00/1", "/studies?%00=1"])
def test_a_nul_that_postgresql_cannot_hold_is_no_address(console: ConsoleLab, path: str) -> None:
    assert console.browser(UserRole.VIEWER).get(path) == 400


def test_a_nul_that_postgresql_cannot_hold_is_no_form(console: ConsoleLab) -> None:
    assert console.browser().post("/sign-in", name="a\0b", password="x") == 400
    assert console.browser(UserRole.VIEWER).post("/patients/search", patient="a\0b") == 400


def test_an_application_of_a_node_with_tls_tells_browsers_to_stay_with_it(inbox: Inbox) -> None:
    tls = {"certificate": "c.pem", "private_key": "k.pem"}
    console = inbox.settings.console.model_copy(update={"tls": tls})
    app = create_app(inbox.settings.model_copy(update={"console": console}), inbox.database)
    from tests.console_lab import Browser

    browser = Browser(app)
    browser.get("/sign-in")
    assert browser.headers["Strict-Transport-Security"].startswith("max-age=")
    cookie = browser.headers["set-cookie"]
    assert "; Secure" in cookie
    # What a browser asks of this prefix (RFC 6265bis 4.1.3.2), so that no neighbour sets it.
    assert cookie.startswith("__Host-")
    assert "; Path=/" in cookie
    assert "Domain" not in cookie


def test_two_nodes_of_a_machine_share_no_cookie(inbox: Inbox) -> None:
    def on(port: int) -> str:
        console = inbox.settings.console.model_copy(update={"port": port})
        return Site(inbox.settings.model_copy(update={"console": console}), inbox.database).cookie

    assert on(8080) != on(8081)
