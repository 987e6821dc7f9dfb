"""Users: signing in and out, who may sign in as what, who is signed in, who did what; files of every page."""

import re
from types import NoneType
from typing import Any, Literal

from fastapi import Response

from dicom_console.views import listing
from dicom_console.web import languages
from dicom_console.web.access import ANYONE, remember
from dicom_console.web.faces import ROWS, Asked, Faces, Number, Since, Text, Visit, see_other
from dicom_console.web.languages import N_
from dicom_console.web.pages import static
from dicom_node.base.connectors import every
from dicom_node.base.errors import FaultyInput, NotFound, RequestRefused, SignInRefused
from dicom_node.base.lifecycle import AuditAction, UserRole
from dicom_node.people import audit, users

faces = Faces()

_PLACE = re.compile(r"/([A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*)?")  # a page of ours, and no other site
_ELSEWHERE = "/sign-in/oidc"  # providers have the address below it to which they send browsers back
_YEAR = 365 * 24 * 3600

_FILES = {
    "style.css": "text/css", "icon.svg": "image/svg+xml", "upload.js": "text/javascript",
    "viewer.js": "text/javascript", "live.js": "text/javascript", "in_force.js": "text/javascript",
    "review.js": "text/javascript",
}  # fmt: skip
Change = Literal["role", "password", "disable", "enable", "sign-out", "remove"]


@faces.page("GET", "/sign-in", ANYONE)
def ask_to_sign_in(asked: Asked) -> Response:
    """Show the form to sign in.

    The form is bound to a token in the cookie; a browser without a session gets a new token.
    """
    token = asked.token or users.new_token()
    response = _sign_in_form(asked, token)
    remember(response, asked.site, token)
    return response


@faces.page("POST", "/sign-in", ANYONE)
def sign_in(asked: Asked) -> Response:
    """Sign the user of the form in, with a new session token."""
    name, password = asked.text("name")[:64], asked.form.get("password", "")
    given = password if isinstance(password, str) else ""
    try:
        token = users.sign_in(asked.site.database, name, given, asked.address, asked.token, asked.agent)
    except RequestRefused as error:
        return _sign_in_form(
            asked, asked.token, str(error), 403 if isinstance(error, SignInRefused) else 503, name
        )
    response = see_other("/")
    remember(response, asked.site, token)
    return response


@faces.page("GET", _ELSEWHERE, ANYONE)
def begin_elsewhere(asked: Asked) -> Response:
    """Send the browser to the provider of the hospital's accounts."""
    secret = users.new_token()
    try:
        way = _way(asked)
        response = see_other(way.begin(asked.settings, secret))
    except RequestRefused as error:
        return _elsewhere(asked, error)
    # It comes back from another site: lax. No page can be asked for by this cookie.
    response.set_cookie(
        _oidc_cookie(asked), secret, 60 * way.MINUTES, path="/", secure=asked.site.secure, httponly=True
    )
    return response


@faces.page("GET", f"{_ELSEWHERE}/back", ANYONE)
def come_back(asked: Asked) -> Response:
    """Start a session for a person whom the identity provider has sent back.

    The answer is a page that continues by itself: a browser that comes from another site sends no strict
    cookie.
    """
    secret, answer = asked.request.cookies.get(_oidc_cookie(asked), ""), dict(asked.request.query_params)
    try:
        database = asked.site.database
        token = _way(asked).finish(database, asked.settings, secret, answer, asked.address, asked.agent)
        response = _elsewhere(asked)
        remember(response, asked.site, token)
    except RequestRefused as error:
        response = _elsewhere(asked, error)
    response.delete_cookie(_oidc_cookie(asked), path="/", secure=asked.site.secure)
    return response


@faces.page("GET", f"{_ELSEWHERE}/leave", ANYONE)
def leave(asked: Asked) -> Response:
    """Send the browser to where its person signs out of the provider, too."""
    try:
        return see_other(_way(asked).sign_out_address(asked.settings) or "/sign-in")
    except RequestRefused as error:
        return _elsewhere(asked, error)


@faces.page("POST", "/sign-out", UserRole.VIEWER)
def sign_out(asked: Asked) -> Response:
    """End the session."""
    users.sign_out(asked.site.database, asked.token, asked.person)
    response = see_other("/sign-in", left="1")
    response.delete_cookie(asked.site.cookie, path="/", secure=asked.site.secure)
    return response


@faces.page("POST", "/language", ANYONE)
def choose_language(asked: Asked) -> Response:
    """Show pages in this browser in another language from now on."""
    back = asked.text("back")
    response = see_other(back if _PLACE.fullmatch(back) else "/")
    response.set_cookie(
        languages.COOKIE,
        asked.text("language")[:2],
        max_age=_YEAR,
        httponly=True,
        samesite="lax",
        secure=asked.site.secure,
    )
    return response


@faces.page("GET", "/static/{name}", ANYONE)
def file(name: str, asked: Asked) -> Response:
    """A static file, such as a style sheet, that pages need also before sign-in."""
    if name not in _FILES:
        return asked.page(
            "error.html", 404, text=N_("There is no such page."), besides="", code=404, again=False
        )
    return Response(static(name), media_type=_FILES[name], headers={"Cache-Control": "max-age=3600"})


def _sign_in_form(asked: Asked, token: str, problem: str = "", status: int = 200, name: str = "") -> Response:
    ways = any(way.is_configured(asked.settings) for way in every("sign_in"))
    return asked.page(
        "sign_in.html",
        status,
        token=token,
        problem=problem,
        name=name,
        elsewhere=f"{asked.settings.console.url.rstrip('/')}{_ELSEWHERE}" if ways else "",
        left=bool(asked.query("left")),
    )


def _elsewhere(asked: Asked, error: RequestRefused | None = None) -> Response:
    refusals = {SignInRefused: 403, NotFound: 404, NoneType: 200}
    return asked.page("sign_in_elsewhere.html", refusals.get(type(error), 503), problem=str(error or ""))


def _way(asked: Asked) -> Any:
    """What the connector gives by which people sign in elsewhere. Raises NotFound."""
    for way in every("sign_in"):
        if way.is_configured(asked.settings):
            return way
    raise NotFound("There is no such page.")


def _oidc_cookie(asked: Asked) -> str:
    return f"{asked.site.cookie}-oidc"


@faces.page("GET", "/users", UserRole.ADMIN)
def show(asked: Asked) -> Response:
    """List the users."""
    return _page(asked)


@faces.page("POST", "/users", UserRole.ADMIN)
def add(asked: Asked) -> Response:
    """Add the user of the form."""
    given = {key: asked.text(key) for key in ("name", "role", "sees")}
    try:
        password, role, senders = _password(asked), _role(given["role"]), given["sees"].split(";")
        users.add_user(asked.settings, given["name"], role, password, asked.person, senders=senders)
    except RequestRefused as error:
        return _page(asked, str(error), given)
    return see_other("/users")


@faces.page("POST", "/users/{name}/{change}", UserRole.ADMIN)
def change(asked: Asked, name: str, change: Change) -> Response:
    """Change role and senders, or the password; shut or open the account, sign the user out, or remove it."""
    settings, by = asked.settings, asked.person
    try:
        match change:
            case "role":
                role, senders = _role(asked.text("role")), asked.text("sees").split(";")
                users.change_user(settings, name, by, role=role, senders=senders)
            case "password":
                users.set_password(settings, name, _password(asked), by)
            case "sign-out":
                users.end_sessions(settings, name, by)
            case "remove":
                users.remove_user(settings, name, by)
            case _:
                users.change_user(settings, name, by, disabled=change == "disable")
    except RequestRefused as error:
        return _page(asked, str(error))
    return see_other("/users")


@faces.page("GET", "/sessions", UserRole.VIEWER)
def own_sessions(asked: Asked) -> Response:
    """List where the person is signed in."""
    found = users.list_sessions(asked.settings, asked.user.name, token=asked.token)
    return asked.page("sessions.html", sessions=found)


@faces.page("POST", "/sessions/{number}/end", UserRole.VIEWER)
def end_session(asked: Asked, number: Number) -> Response:
    """End one session: of the person, or of anybody by an admin."""
    users.end_session(asked.settings, number, asked.person, asked.user)
    return see_other("/users" if asked.text("back") == "users" else "/sessions")


@faces.page("GET", "/audit", UserRole.ADMIN)
def show_audit(
    asked: Asked, who: Text = "", what: AuditAction | Literal[""] = "", before: Since = None
) -> Response:
    """List audit records, the newest first; of one person or of one kind where asked for."""
    rows = asked.read(audit.rows, before=before, limit=ROWS + 1, actor=who.strip(), action=what or None)
    shown, more = rows[:ROWS], rows[ROWS - 1]["number"] if len(rows) > ROWS else None
    filters = {key: value for key, value in (("who", who.strip()), ("what", what)) if value}
    return asked.page(
        "audit.html",
        rows=shown,
        more=more,
        first=before is None,
        named=asked.read(
            listing.named, asked.settings, [{"study_instance_uid": row["study"]} for row in shown]
        ),
        filters=filters,
        kinds=sorted(AuditAction),
    )


def _page(asked: Visit, problem: str = "", given: dict[str, str] | None = None) -> Response:
    return asked.page(
        "users.html",
        400 if problem else 200,
        rows=users.list_users(asked.settings),
        sessions=users.list_sessions(asked.settings, token=asked.token),
        roles=list(UserRole),
        shortest=users.SHORTEST,
        longest=users.LONGEST,
        problem=problem,
        given=given or {},
    )


def _role(word: str) -> UserRole:
    try:
        return UserRole(word)
    except ValueError as error:
        raise FaultyInput("choose a role") from error


def _password(asked: Visit) -> str:
    """The password as it was typed, blanks and all. Raises FaultyInput where the second is another."""
    typed, again = asked.form.get("password", ""), asked.form.get("again", "")
    if not isinstance(typed, str) or typed != again:
        raise FaultyInput("the two passwords differ: type both again")
    return typed
