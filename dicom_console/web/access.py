"""Access control: each endpoint names the role that it needs; without one it is refused to everybody."""

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from fastapi import HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData

from dicom_console.web import languages
from dicom_console.web.limits import HEALTH
from dicom_node.base.actions.action import role_of
from dicom_node.base.config.settings import Settings
from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store import sight
from dicom_node.base.store.database import Database
from dicom_node.people import users
from dicom_node.people.users import User

API: Final = "/api/"
"""Below this programs ask, with tokens."""
ANYONE: Final = "anyone"
"""The role of pages for who is not signed in."""
BY_ITSELF: Final = "x-by-itself"
"""The header of requests that a page makes without its reader."""
_FIELDS = 200  # of one form; that of a rule has one for each option of each pipeline
_FILES = 500  # each is open while it comes

Allowed = UserRole | str | Callable[..., Any]
"""The role that an endpoint needs, or the function that it calls, which declares its role; ANYONE: none."""
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


class NotSignedIn(Exception):
    """Raised if a page needs a signed-in user, and nobody is signed in."""


@dataclass(frozen=True, slots=True)
class Site:
    """Settings, database and further values that all requests to the console share."""

    settings: Settings
    database: Database
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    """Tells this process from the one that takes its place under a new configuration."""

    @property
    def secure(self) -> bool:
        """Whether the console itself serves TLS."""
        return self.settings.console.tls is not None

    @property
    def cookie(self) -> str:
        """Name of the session cookie; it contains the port, so that several nodes on a machine do not share
        one.

        With TLS it begins with ``__Host-`` (RFC 6265bis 4.1.3.2): browsers send it to this host only, and by
        TLS.
        """
        name = f"dicom-node-{self.settings.console.port}"
        return f"__Host-{name}" if self.secure else name

    def token_of(self, request: Request) -> str:
        """Return the session token in the request's cookie, "" without one; cookies of API requests are
        ignored.
        """
        return "" if request.url.path.startswith(API) else request.cookies.get(self.cookie, "")


def needs(role: Allowed, *, reads_form: bool = False, counts: bool = True) -> Callable[[Endpoint], Endpoint]:
    """Return a decorator that states the role that an endpoint needs.

    ``reads_form``: the endpoint calls ``read_form`` itself; ``counts``: a request counts as activity of the
    user, which keeps the session alive.
    """

    def declare(endpoint: Endpoint) -> Endpoint:
        """Store the requirements as attributes of the endpoint, and return it."""
        needed = role_of(role) if callable(role) else role
        vars(endpoint).update(needs=needed, reads_form=reads_form, counts=counts)
        return endpoint

    return declare


def language_of(request: Request) -> str:
    """Return the code of the language chosen in this browser, else of the best one that the browser
    accepts.
    """
    chosen = request.cookies.get(languages.COOKIE, "")
    return languages.wanted(chosen, request.headers.get("accept-language", ""))


def csrf_of(token: str) -> str:
    """Return the CSRF token for a session token: forms must send it besides the cookie, and pages of other
    sites cannot know it.
    """
    return hashlib.sha256(f"csrf {token}".encode()).hexdigest()


def remember(response: Response, site: Site, token: str) -> None:
    """Set the session cookie to ``token`` in a response; the browser keeps it until it is closed."""
    response.set_cookie(site.cookie, token, httponly=True, samesite="strict", secure=site.secure, path="/")


async def admitted(request: Request) -> tuple[User | None, FormData]:
    """Check host, user and role of a request, and return (user or None, form fields).

    Raises NotSignedIn or HTTPException.
    """
    site: Site = request.app.state.site
    endpoint = request.scope["endpoint"]
    _check_host(request, site)
    _check_texts(request.query_params.multi_items(), request.path_params.items())
    is_program = request.url.path.startswith(API)
    user, form = None, FormData()
    sight.SENDERS.set(())
    if is_program or getattr(endpoint, "needs", None) != ANYONE:  # those are there when the database is not
        user = await user_of(request, site)
    if not (is_program or request.method in ("GET", "HEAD") or getattr(endpoint, "reads_form", False)):
        form = await read_form(request)
    return user, form


def _check_host(request: Request, site: Site) -> None:
    """Raise HTTPException if the request names a host that is not this console's: with DNS rebinding, a page
    of another site could read its pages.
    """
    if request.url.path in HEALTH:  # they say nothing, and probes ask by any address
        return
    connected_to, _ = request.scope.get("server") or ("", None)
    ours = {connected_to, "localhost", *site.settings.console.hosts}
    host = request.headers.get("host", "").strip().casefold()  # with a port, IPv6 in brackets (RFC 9110 7.2)
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].rstrip(".")
    if name not in {one.casefold() for one in ours}:
        raise HTTPException(
            421, "The console is not known by the name in this address: an admin adds it to console.hosts."
        )


async def user_of(request: Request, site: Site, minutes: float = 0) -> User:
    """Return the user who sends the request, by session cookie or, below /api/, by token only; what is read
    from here on is limited to the senders that the user sees.

    ``minutes``: how long the body of the request may have been on its way, in which the user was not idle.
    Raises NotSignedIn, and HTTPException if the user lacks the role that the endpoint needs.
    """
    endpoint, user = request.scope["endpoint"], None
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    if request.url.path.startswith(API):
        if scheme.lower() == "bearer" and bearer:
            user = await run_in_threadpool(users.user_of_token, site.database, bearer.strip())
    elif token := site.token_of(request):
        counts = BY_ITSELF not in request.headers and getattr(endpoint, "counts", True)
        idle = site.settings.console.idle_minutes + minutes
        user = await run_in_threadpool(users.user_of_session, site.database, token, idle, counts=counts)
    if user is None:
        raise NotSignedIn
    needed = getattr(endpoint, "needs", None)
    if not (isinstance(needed, UserRole) and user.role.includes(needed)):
        raise HTTPException(403, f"This needs the role {needed}; {user.name} has the role {user.role}.")
    sight.SENDERS.set(user.senders)
    return user


async def read_form(request: Request) -> FormData:
    """Return the fields and files of a form that a page of this console sent (checked by CSRF token and
    origin).

    Raises HTTPException for any other.
    """
    site: Site = request.app.state.site
    token = site.token_of(request)
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise HTTPException(403, "This was asked for by another site.")
    form = await form_of(request)
    given = str(request.headers.get("x-csrf-token") or form.get("csrf"))
    try:
        if not (token and hmac.compare_digest(given.encode(), csrf_of(token).encode())):
            raise HTTPException(403, "The page was too old: go back, load it again and repeat what you did.")
        _check_texts(form.multi_items())
    except HTTPException:
        await form.close()
        raise
    return form


async def form_of(request: Request) -> FormData:
    """Return the fields and files in the request's body. Raises HTTPException if they are too many."""
    return await request.form(max_files=_FILES, max_fields=_FIELDS)


def _check_texts(*texts: Iterable[tuple[str, object]]) -> None:
    """Raise HTTPException if a name or value contains a NUL character, which PostgreSQL cannot store."""
    if any("\0" in text for items in texts for pair in items for text in pair if isinstance(text, str)):
        raise HTTPException(400, "This address or form cannot be read.")
