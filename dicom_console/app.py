"""The console's application: its routes, and the answers to errors."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from dicom_console.handlers import (
    accounts,
    assessments,
    audit,
    dicomweb,
    events,
    fetches,
    images,
    jobs,
    live,
    machines,
    models,
    notifications,
    outbox,
    overview,
    patients,
    peers,
    reviews,
    rules,
    session,
    stow,
    studies,
    trends,
    uploads,
)
from dicom_console.views.durations import Durations
from dicom_console.web.access import API, NotSignedIn, Site, csrf_of, language_of, needs, see_other, visit
from dicom_console.web.faces import VERSION, described
from dicom_console.web.languages import N_
from dicom_console.web.limits import WATCHED, Guarded, headers
from dicom_console.web.pages import render
from dicom_node.config.settings import Settings
from dicom_node.errors import (
    DatabaseUnusable,
    FaultyInput,
    NodeError,
    NotFound,
    RequestRefused,
    StorageError,
    TooManyAtOnce,
    UnknownPeer,
)
from dicom_node.model.roles import UserRole
from dicom_node.store import faults
from dicom_node.store.database import Database

_LOGGER = logging.getLogger(__name__)
_BOTH = (
    studies.faces,
    assessments.faces,
    patients.faces,
    jobs.faces,
    outbox.faces,
    events.faces,
    trends.faces,
    fetches.faces,
    notifications.faces,
    peers.faces,
    rules.faces,
    reviews.faces,
    uploads.faces,
)
"""What people and programs share."""
_PAGES = (session, overview, images, models, accounts, audit, live, machines)
_AWAY = N_("The database of the node does not answer. The node still stores received images.")
_COMES = N_("This page comes by itself when it answers again.")
_REPEAT = N_(
    "Your request was not carried out, or only in part: when pages are shown again, check and repeat it."
)
_STATUSES: Mapping[type[NodeError], int] = {
    NotFound: 404,
    UnknownPeer: 404,
    TooManyAtOnce: 503,
    RequestRefused: 409,
    StorageError: 503,
}


def create_app(settings: Settings, database: Database) -> FastAPI:
    """The console's application for this node."""
    # No pages of the framework's own: they load scripts from elsewhere.
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, dependencies=[Depends(visit)])
    app.state.site = Site(settings, database)
    app.state.live = live.Live()
    app.state.durations = Durations()
    for pages in _PAGES:
        app.include_router(pages.router)
    if settings.console.dicomweb:
        app.include_router(dicomweb.router)
    if settings.console.dicomweb_store:
        app.include_router(stow.router)
    for faces in _BOTH:
        app.include_router(faces.people)
        app.include_router(faces.programs)
    app.add_api_route(f"{VERSION}/openapi.json", schema, methods=["GET"])
    app.add_middleware(
        Guarded,
        tls=settings.console.tls is not None,
        metrics_port=settings.console.metrics_port,
        proxies=settings.console.trusted_proxies,
        bodies=dict.fromkeys(_large(settings), settings.console.upload_mib * 2**20),
    )
    app.add_exception_handler(NotSignedIn, _ask_to_sign_in)
    app.add_exception_handler(HTTPException, _of_status)
    app.add_exception_handler(NodeError, _of_the_node)
    app.add_exception_handler(RequestValidationError, _misread)
    app.add_exception_handler(faults.ANY, _of_the_database)
    app.add_exception_handler(Exception, _defect)
    return app


def _large(settings: Settings) -> tuple[str, ...]:
    """Addresses that take more than a form."""
    return (*uploads.PATHS, *(stow.PATHS if settings.console.dicomweb_store else ()))


@needs(UserRole.VIEWER)
def schema() -> dict[str, Any]:
    """The description of the REST API in the format of OpenAPI."""
    return described([faces.programs for faces in _BOTH])


async def _ask_to_sign_in(request: Request, _error: Exception) -> Response:
    if request.url.path.startswith(API):
        response = _error_page(request, 401, N_("This needs a token: Authorization: Bearer …"))
        response.headers["WWW-Authenticate"] = "Bearer"
        return response
    if request.method == "GET":
        return see_other("/sign-in")
    return _error_page(request, 401, N_("You are signed out: sign in, then repeat what you did."))


async def _of_status(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    texts = {404: N_("There is no such page."), 405: N_("There is no such page.")}
    response = _error_page(request, error.status_code, texts.get(error.status_code, error.detail))
    response.headers.update(error.headers or {})  # Allow (RFC 9110 15.5.6)
    return response


async def _misread(request: Request, _error: Exception) -> Response:
    return _error_page(request, 400, N_("This address or form cannot be read."))


async def _of_the_node(request: Request, error: Exception) -> Response:
    if isinstance(error, DatabaseUnusable):
        return _away(request, error)
    status = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 500)
    if isinstance(error, FaultyInput) and request.url.path.startswith(API):
        status = 400  # of a request's content; 409 is for the state of things
    return _error_page(request, status, str(error))


async def _of_the_database(request: Request, error: Exception) -> Response:
    """One that is away says so, what is no such fault is a defect."""
    site: Site = request.app.state.site
    fault = faults.meaning(error, site.settings.database_url)
    return await _of_the_node(request, fault) if fault else await _defect(request, error)


def _away(request: Request, error: DatabaseUnusable) -> Response:
    """What is wrong with the database, and where it is, stands in the log, once, for those who run it."""
    site: Site = request.app.state.site
    site.database.outage.is_away(f"pages are not answered: {error}")
    if request.url.path.startswith(API) or request.url.path in WATCHED:
        return _error_page(request, 503, _AWAY)
    reads = request.method == "GET"
    return _error_page(request, 503, _AWAY, _COMES if reads else _REPEAT, again=reads)


async def _defect(request: Request, error: Exception) -> Response:
    """Without the error's text, which may quote a data set; made outside of what adds the headers."""
    site: Site = request.app.state.site
    _LOGGER.error("a page failed", exc_info=error)
    response = _error_page(request, 500, N_("This page failed. The log of the node says where."))
    response.headers.update(headers(tls=site.secure))
    return response


def _error_page(
    request: Request, status: int, text: str, besides: str = "", *, again: bool = False
) -> Response:
    """``again``: the page asks for itself again until it is answered."""
    if request.url.path.startswith(API):
        return JSONResponse({"error": text}, status)
    if request.url.path in WATCHED:
        return PlainTextResponse(f"{text}\n", status)
    site: Site = request.app.state.site
    token = site.token_of(request)
    return render(
        "error.html",
        status,
        user=None,
        language=language_of(request),
        csrf=csrf_of(token),
        path=request.url.path,
        text=text,
        besides=besides,
        code=status,
        again=again,
    )
