"""Users of the console: who may sign in, as what, who is signed in, and who did what."""

from __future__ import annotations

from typing import Literal

from fastapi import Response

from dicom_console.views import listing
from dicom_console.web.faces import ROWS, Asked, Faces, Number, Since, Text, Visit, page_and_next, see_other
from dicom_node.errors import FaultyInput, RequestRefused
from dicom_node.model.kinds import AuditAction
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, users

faces = Faces()

Change = Literal["role", "password", "disable", "enable", "sign-out", "remove"]


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
    shown, more = page_and_next(rows, "number")
    filters = {key: value for key, value in (("who", who.strip()), ("what", what)) if value}
    return asked.page(
        "audit.html",
        rows=shown,
        more=more,
        first=before is None,
        named=asked.read(listing.named, [{"study_instance_uid": row["study"]} for row in shown]),
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
