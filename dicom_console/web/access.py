"""Access control: each endpoint names the role that it needs; without one it is refused to everybody."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlencode

from fastapi import BackgroundTasks, Body, Depends, HTTPException, Path, Query, Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData

from dicom_console.views import listing
from dicom_console.web import languages
from dicom_console.web.limits import HEALTH
from dicom_console.web.pages import render
from dicom_node.config.settings import Settings
from dicom_node.model.roles import UserRole
from dicom_node.services import entered, users
from dicom_node.services.audit import Person
from dicom_node.services.typed import PRINTABLE
from dicom_node.services.users import User
from dicom_node.store import sight
from dicom_node.store.database import Database

API: Final = "/api/"
"""Below this programs ask, with tokens."""
ANYONE: Final = "anyone"
"""The role of pages for who is not signed in."""
BY_ITSELF: Final = "x-by-itself"
"""The header of requests that a page makes without its reader."""
_FIELDS = 200  # of one form; that of a rule has one for each option of each pipeline
_FILES = 500  # each is open while it comes

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class NotSignedIn(Exception):
    """The page needs a signed-in user, and nobody is signed in."""


@dataclass(frozen=True, slots=True)
class Site:
    """The settings and objects that all requests share."""

    settings: Settings
    database: Database
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    """Tells this process from the one that takes its place under a new configuration."""

    @property
    def secure(self) -> bool:
        """Whether the console is served over TLS."""
        return self.settings.console.tls is not None

    @property
    def cookie(self) -> str:
        """The name of the session cookie; it contains the port, so that each node of a machine has its own.

        ``__Host-`` (RFC 6265bis 4.1.3.2): browsers accept the cookie only by TLS and from this host.
        """
        name = f"dicom-node-{self.settings.console.port}"
        return f"__Host-{name}" if self.secure else name

    def token_of(self, request: Request) -> str:
        """The token in the browser's cookie, "" without one."""
        return request.cookies.get(self.cookie, "")


@dataclass(frozen=True, slots=True)
class Visit:
    """One request: the user, the session and the form fields. ``form`` is filled only for a POST."""

    request: Request
    site: Site
    token: str
    signed_in: User | None
    form: FormData
    tasks: BackgroundTasks
    """What is done once the answer is sent."""

    @property
    def user(self) -> User:
        """The signed-in user. Only for endpoints that need a role. Raises NotSignedIn."""
        if self.signed_in is None:
            raise NotSignedIn
        return self.signed_in

    @property
    def person(self) -> Person:
        """The signed-in user and the address of the request, for the audit."""
        return Person(self.user.name, self.address)

    @property
    def address(self) -> str:
        """The network address of the client, "" if unknown."""
        return self.request.client.host if self.request.client else ""

    @property
    def agent(self) -> str:
        """The User-Agent header of the browser."""
        return self.request.headers.get("user-agent", "")

    @property
    def language(self) -> str:
        """The language of the pages for this reader."""
        return language_of(self.request)

    def text(self, name: str) -> str:
        """A field of the form as text, "" if it is missing or a file."""
        value = self.form.get(name, "")
        return value.strip() if isinstance(value, str) else ""

    def fields(self) -> dict[str, list[str]]:
        """All text fields of the form, each with its values."""
        return {
            key: [value for value in self.form.getlist(key) if isinstance(value, str)] for key in self.form
        }

    def query(self, name: str) -> str:
        """The value of a query parameter, "" if it is missing."""
        return self.request.query_params.get(name, "")

    def study_uid(self, number: int) -> str:
        """The Study Instance UID of a study, or its substitute if it has none. Raises NotFound."""
        with self.site.database.read() as session:
            return listing.uid(session, number)

    def number(self, name: str) -> int:
        """A field of the form as a whole number; 0 if the field is not a number."""
        value = self.text(name)
        return int(value) if value.isdecimal() and len(value) < 10 else 0

    def take_over(self) -> None:
        """Let the node load a changed configuration after the answer is sent."""
        self.tasks.add_task(entered.apply, self.site.settings)

    def in_force(self, what: str, address: str, *besides: str, name: str = "") -> Response:
        """The page after a change of the configuration.

        ``what``: a text of the catalogues with the placeholder ``%(name)s``. ``besides``: warnings, and steps
        that were not done; if there are any, the page stays until the user continues.
        """
        mark = self.site.mark
        return self.page("in_force.html", what=what, name=name, address=address, besides=besides, mark=mark)

    def page(self, template: str, status: int = 200, *, token: str = "", **values: object) -> Response:
        """A page with the console's common frame. ``token``: binds its forms, by default the session's
        token.
        """
        csrf = csrf_of(token or self.token)
        path = self.request.url.path
        return render(
            template, status, user=self.signed_in, language=self.language, csrf=csrf, path=path, **values
        )


def needs(
    role: UserRole | str, *, reads_form: bool = False, counts: bool = True
) -> Callable[[Endpoint], Endpoint]:
    """Declare the role that an endpoint needs, or ANYONE.

    ``reads_form``: the endpoint calls ``read_form`` itself. ``counts``: a request counts as activity of the
    user.
    """

    def declare(endpoint: Endpoint) -> Endpoint:
        endpoint.needs, endpoint.reads_form = role, reads_form  # type: ignore[attr-defined]
        endpoint.counts = counts  # type: ignore[attr-defined]
        return endpoint

    return declare


def language_of(request: Request) -> str:
    """The language chosen in this browser, else a language that the browser accepts."""
    chosen = request.cookies.get(languages.COOKIE, "")
    return languages.wanted(chosen, request.headers.get("accept-language", ""))


def csrf_of(token: str) -> str:
    """The CSRF token that a form must send besides the cookie: another site's form cannot know it."""
    return hashlib.sha256(f"csrf {token}".encode()).hexdigest()


def see_other(path: str, **query: str) -> Response:
    """A redirect after a change: the browser loads the page that shows the change."""
    given = urlencode({key: value for key, value in query.items() if value})
    return RedirectResponse(f"{path}?{given}" if given else path, status_code=303)


def back_to_form(asked: Visit, place: str) -> Response:
    """A redirect to the page whose form was sent: the page of a study, or the list at ``place``."""
    if asked.text("study").isdecimal():
        return see_other(f"/studies/{asked.text('study')}")
    return see_other(place, state=asked.text("state")[:16], to=asked.text("to")[:64])


def remember(response: Response, site: Site, token: str) -> None:
    """Set the session cookie, which the browser keeps until it is closed."""
    response.set_cookie(site.cookie, token, httponly=True, samesite="strict", secure=site.secure, path="/")


async def visit(request: Request, tasks: BackgroundTasks) -> Visit:
    """The request, if it may be answered. Raises NotSignedIn or HTTPException."""
    site: Site = request.app.state.site
    _check_host(request, site)
    _check_texts(request.query_params.multi_items(), request.path_params.items())
    token = site.token_of(request)
    needed = getattr(request.scope["endpoint"], "needs", None)
    user = None
    sight.SENDERS.set(())
    if request.url.path.startswith(API):
        return await _of_a_program(request, site, needed, tasks)
    if needed != ANYONE:  # those pages are there when the database is not
        user = await run_in_threadpool(_user, request, site, token) if token else None
        _check_role(needed, user)
    sight.SENDERS.set(user.senders if user else ())
    if request.method in ("GET", "HEAD"):
        return Visit(request, site, token, user, FormData(), tasks)
    reads_form = getattr(request.scope["endpoint"], "reads_form", False)
    form = FormData() if reads_form else await read_form(request)
    return Visit(request, site, token, user, form, tasks)


def _check_host(request: Request, site: Site) -> None:
    """Raise HTTPException where a page of another name asks: DNS rebinding makes that name ours."""
    if request.url.path in HEALTH:  # they say nothing, and probes ask by any address
        return
    connected_to, _ = request.scope.get("server") or ("", None)
    ours = {connected_to, "localhost", *site.settings.console.hosts}
    if host_of(request.headers.get("host", "")) not in {name.casefold() for name in ours}:
        raise HTTPException(
            421, "The console is not known by the name in this address: an admin adds it to console.hosts."
        )


def host_of(header: str) -> str:
    """The host of a Host header (RFC 9110 7.2), without its port and the brackets of IPv6."""
    name = header.strip().casefold()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].rstrip(".")


async def _of_a_program(
    request: Request, site: Site, needed: UserRole | str | None, tasks: BackgroundTasks
) -> Visit:
    """Only a token counts here, never a cookie: so no other site's page can use it."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    is_bearer = scheme.lower() == "bearer" and bool(token)
    user = await run_in_threadpool(users.user_of_token, site.database, token.strip()) if is_bearer else None
    _check_role(needed, user)
    sight.SENDERS.set(user.senders if user else ())
    return Visit(request, site, "", user, FormData(), tasks)


async def read_form(request: Request) -> FormData:
    """The form, if a page of this console sent it (CSRF token, same origin). Raises HTTPException."""
    site: Site = request.app.state.site
    token = site.token_of(request)
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise HTTPException(403, "This was asked for by another site.")
    form = await form_of(request)
    given = str(request.headers.get("x-csrf-token") or form.get("csrf"))
    if not (token and hmac.compare_digest(given.encode(), csrf_of(token).encode())):
        await form.close()
        raise HTTPException(403, "The page was too old: go back, load it again and repeat what you did.")
    try:
        _check_texts(form.multi_items())
    except HTTPException:
        await form.close()
        raise
    return form


async def form_of(request: Request) -> FormData:
    """The fields and files of the request, within the limits on their number."""
    return await request.form(max_files=_FILES, max_fields=_FIELDS)


def _check_texts(*given: Iterable[tuple[str, object]]) -> None:
    """Raise HTTPException for a NUL, which no text of PostgreSQL may have."""
    if any("\0" in text for items in given for pair in items for text in pair if isinstance(text, str)):
        raise HTTPException(400, "This address or form cannot be read.")


def _user(request: Request, site: Site, token: str) -> User | None:
    by_itself = BY_ITSELF in request.headers or not getattr(request.scope["endpoint"], "counts", True)
    idle = site.settings.console.idle_minutes
    return users.user_of_session(site.database, token, idle, counts=not by_itself)


def _check_role(needed: UserRole | str | None, user: User | None) -> None:
    if user is None:
        raise NotSignedIn
    if not (isinstance(needed, UserRole) and user.role.includes(needed)):
        raise HTTPException(403, f"This needs the role {needed}; {user.name} has the role {user.role}.")


Name = Annotated[str, Path(max_length=64, pattern=PRINTABLE)]
"""The name of a peer or a rule."""
Edition = Annotated[int | None, Query(alias="version", ge=0, le=2**31 - 1)]
"""Of the one that is changed, 0 to add one: another one is refused. Without it whichever is there."""
DespiteHold = Annotated[bool, Query()]
"""It may send at once what another rule holds for a person; without it that is refused (409)."""
Keys = Annotated[dict[str, Any], Body(max_length=200)]
"""The keys of one peer or rule, as the configuration file has them; without its name, which stands in the
address."""
Asked = Annotated[Visit, Depends(visit)]
Number = Annotated[int, Path(ge=1, le=2**31 - 1)]
"""A number in an address: what the database cannot hold is none."""
Since = Annotated[int | None, Query(ge=1, le=2**31 - 1)]
"""The last row of the page before, None for the first page."""
