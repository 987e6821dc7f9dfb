"""Signing in and out, and the files that every page needs."""

from __future__ import annotations

from fastapi import APIRouter, Response

from dicom_console.web.access import ANYONE, Asked, needs, remember, see_other
from dicom_console.web.pages import static
from dicom_node.errors import SignInRefused
from dicom_node.model.roles import UserRole
from dicom_node.services import users

router = APIRouter()

_FILES = {
    "style.css": "text/css", "icon.svg": "image/svg+xml", "upload.js": "text/javascript",
    "viewer.js": "text/javascript", "live.js": "text/javascript", "in_force.js": "text/javascript",
    "review.js": "text/javascript", "several.js": "text/javascript",
}  # fmt: skip


@router.get("/sign-in")
@needs(ANYONE)
def ask(asked: Asked) -> Response:
    """Show the form to sign in. The browser first gets a token of no session: the form is bound to it."""
    token = asked.token or users.new_token()
    response = _form(asked, token)
    remember(response, asked.site, token)
    return response


@router.post("/sign-in")
@needs(ANYONE)
def begin(asked: Asked) -> Response:
    """A new session, under a new token."""
    name, password = asked.text("name"), asked.form.get("password", "")
    try:
        given = password if isinstance(password, str) else ""
        token = users.sign_in(asked.site.database, name[:64], given, asked.address, asked.token)
    except SignInRefused as error:
        return _form(asked, asked.token, str(error), 403, name[:64])
    response = see_other("/")
    remember(response, asked.site, token)
    return response


@router.post("/sign-out")
@needs(UserRole.VIEWER)
def end(asked: Asked) -> Response:
    """End the session."""
    users.sign_out(asked.site.database, asked.token, asked.person)
    response = see_other("/sign-in")
    response.delete_cookie(asked.site.cookie, path="/", secure=asked.site.secure)
    return response


@router.get("/static/{name}")
@needs(ANYONE)
def file(name: str, asked: Asked) -> Response:
    """A file that every page needs."""
    if name not in _FILES:
        return asked.page("error.html", 404, text="There is no such page.", code=404, again=False)
    return Response(static(name), media_type=_FILES[name], headers={"Cache-Control": "max-age=3600"})


def _form(asked: Asked, token: str, problem: str = "", status: int = 200, name: str = "") -> Response:
    return asked.page("sign_in.html", status, token=token, problem=problem, name=name)
