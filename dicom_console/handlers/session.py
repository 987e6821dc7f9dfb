"""Signing in and out; users, their roles and sessions; the audit; static files."""

import json
import re
from collections.abc import Iterator
from types import NoneType
from typing import Annotated, Any, Literal

from fastapi import Query, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from dicom_console.web import languages
from dicom_console.web.access import ANYONE, remember
from dicom_console.web.faces import (
    ROWS,
    ConsoleRequest,
    CurrentRequest,
    Faces,
    Number,
    see_other,
)
from dicom_console.web.languages import N_
from dicom_console.web.pages import static
from dicom_node.base.actions.inputs import moment, whole_or_end
from dicom_node.base.connectors import every
from dicom_node.base.errors import FaultyInput, NotFound, RequestRefused, SignInRefused
from dicom_node.base.lifecycle import AuditAction, UserRole
from dicom_node.base.store.views import View, find_study
from dicom_node.people import PRINTABLE, Row, ServiceRequest, ServiceResult, audit, users

faces = Faces()

_PLACE = re.compile(r"/([A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*)?")  # a page of ours, and no other site
_ELSEWHERE = "/sign-in/oidc"  # providers have the address below it to which they send browsers back
_YEAR = 365 * 24 * 3600
_AUDIT_FILTERS = ("who", "what", "since", "until", "study", "patient")
_EXPORTED_AT_ONCE = 1000

_FILES = {
    "style.css": "text/css", "icon.svg": "image/svg+xml", "upload.js": "text/javascript",
    "viewer.js": "text/javascript", "live.js": "text/javascript", "in_force.js": "text/javascript",
    "review.js": "text/javascript",
}  # fmt: skip
Change = Literal["role", "password", "disable", "enable", "sign-out", "remove"]


@faces.page("GET", "/sign-in", ANYONE)
def ask_to_sign_in(request: CurrentRequest) -> Response:
    """Show the sign-in form.

    It is bound to the token in the session cookie; a browser without one gets a new token.
    """
    token = request.token or users.new_token()
    response = _sign_in_form(request, token)
    remember(response, request.site, token)
    return response


@faces.page("POST", "/sign-in", ANYONE)
def sign_in(request: CurrentRequest) -> Response:
    """Sign the user in with name and password of the form, under a new session token."""
    name, password = request.text("name")[:64], request.form.get("password", "")
    given = password if isinstance(password, str) else ""
    try:
        token = users.sign_in(
            request.site.database, name, given, request.address, request.token, request.agent
        )
    except RequestRefused as error:
        return _sign_in_form(
            request, request.token, str(error), 403 if isinstance(error, SignInRefused) else 503, name
        )
    response = see_other("/")
    remember(response, request.site, token)
    return response


@faces.page("GET", _ELSEWHERE, ANYONE)
def begin_elsewhere(request: CurrentRequest) -> Response:
    """Send the browser to the identity provider of the hospital's accounts."""
    secret = users.new_token()
    try:
        way = _sign_in_connector(request)
        response = see_other(way.begin(request.settings, secret))
    except RequestRefused as error:
        return _hospital_sign_in_page(request, error)
    # It comes back from another site: lax. No page can be asked for by this cookie.
    response.set_cookie(
        _oidc_cookie(request), secret, 60 * way.MINUTES, path="/", secure=request.site.secure, httponly=True
    )
    return response


@faces.page("GET", f"{_ELSEWHERE}/back", ANYONE)
def come_back(request: CurrentRequest) -> Response:
    """Open a session for a person whom the identity provider has sent back.

    It answers with a page that goes on by itself, because browsers that come from another site do not send
    the session cookie (SameSite=Strict).
    """
    secret, answer = request.http.cookies.get(_oidc_cookie(request), ""), dict(request.http.query_params)
    try:
        database = request.site.database
        token = _sign_in_connector(request).finish(
            database, request.settings, secret, answer, request.address, request.agent
        )
        response = _hospital_sign_in_page(request)
        remember(response, request.site, token)
    except RequestRefused as error:
        response = _hospital_sign_in_page(request, error)
    response.delete_cookie(_oidc_cookie(request), path="/", secure=request.site.secure)
    return response


@faces.page("GET", f"{_ELSEWHERE}/leave", ANYONE)
def leave(request: CurrentRequest) -> Response:
    """Redirect the browser to the identity provider's sign-out page, or to the sign-in page if it
    has none.
    """
    try:
        return see_other(_sign_in_connector(request).sign_out_address(request.settings) or "/sign-in")
    except RequestRefused as error:
        return _hospital_sign_in_page(request, error)


@faces.page("POST", "/sign-out", UserRole.VIEWER)
def sign_out(request: CurrentRequest) -> Response:
    """End the session, and show the sign-in form."""
    users.sign_out(request.site.database, request.token, request.person)
    response = see_other("/sign-in", left="1")
    response.delete_cookie(request.site.cookie, path="/", secure=request.site.secure)
    return response


@faces.page("POST", "/language", ANYONE)
def choose_language(request: CurrentRequest) -> Response:
    """Set the language of pages in this browser, and redirect back."""
    back = request.text("back")
    response = see_other(back if _PLACE.fullmatch(back) else "/")
    response.set_cookie(
        languages.COOKIE,
        request.text("language")[:2],
        max_age=_YEAR,
        httponly=True,
        samesite="lax",
        secure=request.site.secure,
    )
    return response


@faces.page("GET", "/static/{name}", ANYONE)
def file(name: str, request: CurrentRequest) -> Response:
    """Return a static file, such as a style sheet; no sign-in is needed."""
    if name not in _FILES:
        return request.page(
            "error.html", 404, text=N_("There is no such page."), besides="", code=404, again=False
        )
    return Response(static(name), media_type=_FILES[name], headers={"Cache-Control": "max-age=3600"})


def _sign_in_form(
    request: CurrentRequest, token: str, problem: str = "", status: int = 200, name: str = ""
) -> Response:
    """Return the sign-in page.

    ``token``: the session token that the form is bound to; ``problem``: why a sign-in was refused, "" for
    none; ``name``: the user name as typed.
    """
    ways = any(way.is_configured(request.settings) for way in every("sign_in"))
    return request.page(
        "sign_in.html",
        status,
        token=token,
        problem=problem,
        name=name,
        elsewhere=f"{request.settings.console.url.rstrip('/')}{_ELSEWHERE}" if ways else "",
        left=bool(request.query("left")),
    )


def _hospital_sign_in_page(request: CurrentRequest, error: RequestRefused | None = None) -> Response:
    """Return the page on signing in with an account of the hospital.

    ``error``: why that failed, None if it succeeded.
    """
    refusals = {SignInRefused: 403, NotFound: 404, NoneType: 200}
    return request.page("sign_in_elsewhere.html", refusals.get(type(error), 503), problem=str(error or ""))


def _sign_in_connector(request: CurrentRequest) -> Any:
    """Return the module of the configured connector for hospital accounts. Raises NotFound without one."""
    for way in every("sign_in"):
        if way.is_configured(request.settings):
            return way
    raise NotFound("There is no such page.")


def _oidc_cookie(request: CurrentRequest) -> str:
    """Return the name of the cookie that holds the secret of a sign-in at the identity provider."""
    return f"{request.site.cookie}-oidc"


@faces.page("GET", "/users", users.list_users)
def show(request: CurrentRequest) -> Response:
    """Show the users and their sessions."""
    return _page(request)


@faces.page("POST", "/users", users.add_user)
def add(request: CurrentRequest) -> Response:
    """Add the user in the form, and show the list of users."""
    given = {key: request.text(key) for key in ("name", "role", "sees")}
    try:
        password, role, senders = _password(request), _role(given["role"]), given["sees"].split(";")
        users.add_user(request.settings, given["name"], role, password, request.person, senders=senders)
    except RequestRefused as error:
        return _page(request, str(error), given)
    return see_other("/users")


@faces.page("POST", "/users/{name}/{change}", users.change_user)
def change(request: CurrentRequest, name: str, change: Change) -> Response:
    """Change role, senders or password of a user; disable or enable the account, sign the user out, or remove
    it.
    """
    settings, by = request.settings, request.person
    try:
        match change:
            case "role":
                role, senders = _role(request.text("role")), request.text("sees").split(";")
                users.change_user(settings, name, by, role=role, senders=senders)
            case "password":
                users.set_password(settings, name, _password(request), by)
            case "sign-out":
                users.end_sessions(settings, name, by)
            case "remove":
                users.remove_user(settings, name, by)
            case _:
                users.change_user(settings, name, by, disabled=change == "disable")
    except RequestRefused as error:
        return _page(request, str(error))
    return see_other("/users")


@faces.page("GET", "/sessions", UserRole.VIEWER)
def own_sessions(request: CurrentRequest) -> Response:
    """Show the signed-in person's own sessions."""
    found = users.list_sessions(request.settings, request.user.name, token=request.token)
    return request.page("sessions.html", sessions=found)


@faces.page("POST", "/sessions/{number}/end", users.end_session)
def end_session(request: CurrentRequest, number: Number) -> Response:
    """End a session: one's own, or as an admin that of any user."""
    users.end_session(request.settings, number, request.person, request.user)
    return see_other("/users" if request.text("back") == "users" else "/sessions")


class Audited(ServiceResult):
    """A page of audit records; ``next``: ``before`` of the next page, null at the end."""

    records: list[Row]
    next: int | None


class AuditFilter(ServiceRequest):
    """Which audit records are wanted: all that pass each filter; "" and false let all pass.

    ``who``: the person; ``what``: the action; ``since``, ``until``: from this time, before that one, such as
    2026-03-01; ``study``: UID of a study or its last figures; ``patient``: with it all studies of its
    patient (no address has a Patient ID).
    """

    who: str = Field("", max_length=64, pattern=PRINTABLE)
    what: AuditAction | Literal[""] = ""
    since: str = Field("", max_length=32)
    until: str = Field("", max_length=32)
    study: str = Field("", max_length=64, pattern=PRINTABLE)
    patient: bool = False
    before: int | None = Field(None, ge=1, le=2**31 - 1)

    def rows(self, session: Any, before: int | None, limit: int) -> list[View]:
        """Return the records that pass, older than the record ``before``. Raises FaultyInput, NotFound."""
        try:
            since, until = moment(self.since.strip()), moment(self.until.strip())
        except ValueError as error:
            raise FaultyInput(str(error)) from None
        study = find_study(session, whole_or_end(self.study)) if self.study.strip() else None
        patient = (study.patient_id or "") if study is not None and self.patient else ""
        return audit.rows(
            session,
            actor=self.who.strip(),
            action=self.what or None,
            since=since,
            until=until,
            patient=patient,
            study_instance_uid="" if study is None or patient else self.study.strip(),
            before=before,
            limit=limit,
        )


@faces.handler("GET", "/audit", audit.rows)
def list_audit(request: CurrentRequest, wanted: Annotated[AuditFilter, Query()]) -> Audited:
    """Return audit records, the newest first."""
    rows = request.read(wanted.rows, wanted.before, ROWS + 1)
    more = rows[ROWS - 1]["number"] if len(rows) > ROWS else None
    return Audited(records=[Row(**row) for row in rows[:ROWS]], next=more)


@faces.page_of(list_audit)
def _audit_page(request: ConsoleRequest, found: Audited) -> Response:
    """Return the page of audit records."""
    return request.page(
        "audit.html",
        rows=found.records,
        more=found.next,
        first=not request.query("before"),
        named=request.named([{"study_instance_uid": row["study"]} for row in found.records]),
        filters={key: request.query(key) for key in _AUDIT_FILTERS if request.query(key)},
        kinds=sorted(AuditAction),
    )


@faces.page("GET", "/audit/export", audit.rows)
def export_audit(request: CurrentRequest, wanted: Annotated[AuditFilter, Query()]) -> Response:
    """Return all audit records that pass the filters as a file: a JSON object a line, the newest first."""
    with request.site.database.write() as session:
        audit.note(session, request.person, AuditAction.EXPORTED, list="audit")

    def lines() -> Iterator[str]:
        """Yield the records, read a few at a time."""
        before = None
        while rows := request.read(wanted.rows, before, _EXPORTED_AT_ONCE):
            yield from (f"{json.dumps(row)}\n" for row in rows)
            before = rows[-1]["number"]

    request.read(wanted.rows, None, 1)  # a faulty filter is an answer, not half a file
    name = {"Content-Disposition": 'attachment; filename="audit.jsonl"'}
    return StreamingResponse(lines(), media_type="application/x-ndjson", headers=name)


def _page(request: ConsoleRequest, problem: str = "", given: dict[str, str] | None = None) -> Response:
    """Return the page of users.

    ``problem``: why a change was refused, "" for none; ``given``: the form's values, to be corrected.
    """
    return request.page(
        "users.html",
        400 if problem else 200,
        rows=users.list_users(request.settings),
        sessions=users.list_sessions(request.settings, token=request.token),
        roles=list(UserRole),
        shortest=users.SHORTEST,
        longest=users.LONGEST,
        problem=problem,
        given=given or {},
    )


def _role(word: str) -> UserRole:
    """Return the role named ``word``. Raises FaultyInput if there is none."""
    try:
        return UserRole(word)
    except ValueError as error:
        raise FaultyInput("choose a role") from error


def _password(request: ConsoleRequest) -> str:
    """Return the new password in the form, exactly as typed. Raises FaultyInput if its repetition differs."""
    typed, again = request.form.get("password", ""), request.form.get("again", "")
    if not isinstance(typed, str) or typed != again:
        raise FaultyInput("the two passwords differ: type both again")
    return typed
