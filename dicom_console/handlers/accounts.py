"""Users of the console: who may sign in, as what, and who is signed in."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response

from dicom_console.web.access import Asked, Number, Visit, needs, see_other
from dicom_node.errors import FaultyInput, RequestRefused
from dicom_node.model.roles import UserRole
from dicom_node.services import users

router = APIRouter()

Change = Literal["role", "password", "disable", "enable", "sign-out", "remove"]


@router.get("/users")
@needs(UserRole.ADMIN)
def show(asked: Asked) -> Response:
    """List the users."""
    return _page(asked)


@router.post("/users")
@needs(UserRole.ADMIN)
def add(asked: Asked) -> Response:
    """Add the user of the form."""
    name, role, sees = asked.text("name"), asked.text("role"), asked.text("sees")
    try:
        password, senders = _password(asked), sees.split(";")
        users.add_user(asked.site.settings, name, _role(role), password, asked.person, senders=senders)
    except RequestRefused as error:
        return _page(asked, str(error), 400, {"name": name, "role": role, "sees": sees})
    return see_other("/users")


@router.post("/users/{name}/{change}")
@needs(UserRole.ADMIN)
def change(asked: Asked, name: str, change: Change) -> Response:
    """Change role and senders, or the password; shut or open the account, sign the user out, or remove it."""
    settings, by = asked.site.settings, asked.person
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
        return _page(asked, str(error), 400)
    return see_other("/users")


@router.get("/sessions")
@needs(UserRole.VIEWER)
def own_sessions(asked: Asked) -> Response:
    """List where the person is signed in."""
    found = users.list_sessions(asked.site.settings, asked.user.name, token=asked.token)
    return asked.page("sessions.html", sessions=found)


@router.post("/sessions/{number}/end")
@needs(UserRole.VIEWER)
def end_session(asked: Asked, number: Number) -> Response:
    """End one session: of the person, or of anybody by an admin."""
    users.end_session(asked.site.settings, number, asked.person, asked.user)
    return see_other("/users" if asked.text("back") == "users" else "/sessions")


def _page(
    asked: Visit, problem: str = "", status: int = 200, given: dict[str, str] | None = None
) -> Response:
    return asked.page(
        "users.html",
        status,
        rows=users.list_users(asked.site.settings),
        sessions=users.list_sessions(asked.site.settings, token=asked.token),
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
