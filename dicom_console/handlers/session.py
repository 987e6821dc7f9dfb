"""Signing in and out, and the files that every page needs."""

from __future__ import annotations

import re
from types import NoneType

from fastapi import APIRouter, Response

from dicom_console.web import languages
from dicom_console.web.access import ANYONE, Asked, needs, remember, see_other
from dicom_console.web.languages import N_
from dicom_console.web.pages import static
from dicom_node.errors import NotFound, RequestRefused, SignInRefused
from dicom_node.model.roles import UserRole
from dicom_node.services import oidc, users

router = APIRouter()

_PLACE = re.compile(r"/([A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*)?")  # a page of ours, and no other site
_YEAR = 365 * 24 * 3600

_FILES = {
    "style.css": "text/css", "icon.svg": "image/svg+xml", "upload.js": "text/javascript",
    "viewer.js": "text/javascript", "live.js": "text/javascript", "in_force.js": "text/javascript",
    "review.js": "text/javascript", "several.js": "text/javascript",
}  # fmt: skip


@router.get("/sign-in")
@needs(ANYONE)
def ask(asked: Asked) -> Response:
    """Show the form to sign in.

    The form is bound to a token in the cookie; a browser without a session gets a new token.
    """
    token = asked.token or users.new_token()
    response = _form(asked, token)
    remember(response, asked.site, token)
    return response


@router.post("/sign-in")
@needs(ANYONE)
def begin(asked: Asked) -> Response:
    """Sign the user of the form in, with a new session token."""
    name, password = asked.text("name"), asked.form.get("password", "")
    try:
        given = password if isinstance(password, str) else ""
        site = asked.site
        who = asked.address, asked.token, asked.agent
        token = users.sign_in(site.database, name[:64], given, *who)
    except RequestRefused as error:
        return _form(
            asked, asked.token, str(error), 403 if isinstance(error, SignInRefused) else 503, name[:64]
        )
    response = see_other("/")
    remember(response, asked.site, token)
    return response


@router.get("/sign-in/oidc")
@needs(ANYONE)
def begin_elsewhere(asked: Asked) -> Response:
    """Send the browser to the provider of the hospital's accounts."""
    secret = users.new_token()
    try:
        response = see_other(oidc.begin(asked.site.settings, secret))
    except RequestRefused as error:
        return _elsewhere(asked, error)
    # It comes back from another site: lax. No page can be asked for by this cookie.
    response.set_cookie(
        _oidc_cookie(asked), secret, 60 * oidc.MINUTES, path="/", secure=asked.site.secure, httponly=True
    )
    return response


@router.get(oidc.BACK)
@needs(ANYONE)
def come_back(asked: Asked) -> Response:
    """Start a session for a person whom the identity provider has sent back.

    The answer is a page that continues by itself: a browser that comes from another site sends no strict
    cookie.
    """
    secret, answer = asked.request.cookies.get(_oidc_cookie(asked), ""), dict(asked.request.query_params)
    site = asked.site
    try:
        token = oidc.finish(site.database, site.settings, secret, answer, asked.address, asked.agent)
    except RequestRefused as error:
        response = _elsewhere(asked, error)
    else:
        response = _elsewhere(asked)
        remember(response, site, token)
    response.delete_cookie(_oidc_cookie(asked), path="/", secure=site.secure)
    return response


@router.get("/sign-in/oidc/leave")
@needs(ANYONE)
def leave(asked: Asked) -> Response:
    """Send the browser to where its person signs out of the provider, too."""
    try:
        return see_other(oidc.sign_out_address(asked.site.settings) or "/sign-in")
    except RequestRefused as error:
        return _elsewhere(asked, error)


@router.post("/sign-out")
@needs(UserRole.VIEWER)
def end(asked: Asked) -> Response:
    """End the session."""
    users.sign_out(asked.site.database, asked.token, asked.person)
    response = see_other("/sign-in", left="1")
    response.delete_cookie(asked.site.cookie, path="/", secure=asked.site.secure)
    return response


@router.post("/language")
@needs(ANYONE)
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


@router.get("/static/{name}")
@needs(ANYONE)
def file(name: str, asked: Asked) -> Response:
    """A static file, such as a style sheet, that pages need also before sign-in."""
    if name not in _FILES:
        return asked.page(
            "error.html", 404, text=N_("There is no such page."), besides="", code=404, again=False
        )
    return Response(static(name), media_type=_FILES[name], headers={"Cache-Control": "max-age=3600"})


def _form(asked: Asked, token: str, problem: str = "", status: int = 200, name: str = "") -> Response:
    console = asked.site.settings.console
    elsewhere = f"{console.url.rstrip('/')}/sign-in/oidc" if console.oidc else ""
    left = bool(asked.query("left"))
    return asked.page(
        "sign_in.html",
        status,
        token=token,
        problem=problem,
        name=name,
        elsewhere=elsewhere,
        left=left,
    )


def _elsewhere(asked: Asked, error: RequestRefused | None = None) -> Response:
    refusals = {SignInRefused: 403, NotFound: 404, NoneType: 200}
    return asked.page("sign_in_elsewhere.html", refusals.get(type(error), 503), problem=str(error or ""))


def _oidc_cookie(asked: Asked) -> str:
    return f"{asked.site.cookie}-oidc"
