"""Which pages and programs are for whom, and what each request and answer has to have."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import APIRouter, FastAPI

from dicom_console.app import create_app
from dicom_console.web import limits
from dicom_console.web.access import ANYONE
from dicom_console.web.faces import CurrentRequest
from dicom_node.base.config.settings import Settings
from dicom_node.base.lifecycle import Role, UserRole
from dicom_node.people import preflight, users
from dicom_node.people.preflight import Tried
from tests.console_lab import Browser, ConsoleLab, client_of, console_of, routes
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.ports import free_port

OPEN = {
    ("GET", "/sign-in"), ("POST", "/sign-in"), ("POST", "/language"), ("GET", "/static/{name}"),
    ("GET", "/sign-in/oidc"), ("GET", "/sign-in/oidc/back"), ("GET", "/sign-in/oidc/leave"),
    ("POST", "/answers/studies"), ("POST", "/answers/studies/{study}"),
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
    console = console_of(console)
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


def test_a_change_needs_the_token_of_its_form_on_a_page_of_this_site(operator: Browser) -> None:
    for csrf, origin, status in (
        ("", "same-origin", 403),
        ("0" * 64, "same-origin", 403),
        ("ü", "same-origin", 403),
        (None, "cross-site", 403),
        (None, "same-site", 403),
        (None, "same-origin", 303),
    ):
        assert operator.post("/outbox/retry-dead", csrf, headers={"Sec-Fetch-Site": origin}) == status


def test_every_answer_has_the_headers(viewer: Browser) -> None:
    for path in ("/", "/sign-in", "/no-such-page", "/studies/99", "/studies?after=x", "/audit"):
        viewer.get(path)
        assert {name: viewer.headers.get(name) for name in limits.HEADERS} == limits.HEADERS, path
        assert "Strict-Transport-Security" not in viewer.headers


def test_a_nul_that_postgresql_cannot_hold_is_no_address(viewer: Browser) -> None:
    for path in ("/outbox?to=%00", "/peers/%00", "/models/%00/1", "/studies?%00=1"):
        assert viewer.get(path) == 400, path


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


def test_a_name_that_is_not_listed_is_answered_by_421_and_what_to_do(console: ConsoleLab) -> None:
    client = client_of(console.app)
    for path in ("/sign-in", "/", "/api/v1/studies", "/metrics", "/static/style.css"):
        for host in ("evil.example.org", "testserver.evil.example.org", "192.0.2.9:80", ""):
            answer = client.get(path, headers={"Host": host})
            assert answer.status_code == 421, host
            assert "console.hosts" in answer.text
            assert "evil" not in answer.text
    assert client.get("/healthz", headers={"Host": "10.1.2.3:8080"}).status_code == 200
