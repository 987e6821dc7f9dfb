"""The console's application: its routes, and the answers to errors."""

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from ai_pipeline.errors import disk_fault
from dicom_console.handlers import (
    answers,
    entered,
    happened,
    images,
    live,
    messages,
    models,
    patients,
    peers,
    reviews,
    rules,
    screens,
    session,
    stow,
    studies,
    trials,
    tried_programs,
    uploads,
    work,
)
from dicom_console.views.metrics import Durations
from dicom_console.web.access import API, NotSignedIn, Site, csrf_of, language_of, needs
from dicom_console.web.faces import VERSION, console_request, described, see_other
from dicom_console.web.languages import N_
from dicom_console.web.limits import WATCHED, Guarded, headers
from dicom_console.web.pages import render
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import (
    DatabaseUnusable,
    FaultyInput,
    NodeError,
    NotFound,
    RequestRefused,
    StorageError,
    Unavailable,
)
from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store.database import ANY_ERROR, Database, meaning_of
from dicom_node.people.answers import AnswerDoor

_LOGGER = logging.getLogger(__name__)
FACES = (
    session.faces,
    images.faces,
    models.faces,
    live.faces,
    studies.faces,
    patients.faces,
    work.faces,
    happened.faces,
    peers.faces,
    rules.faces,
    entered.faces,
    reviews.faces,
    messages.faces,
    screens.faces,
    uploads.faces,
    trials.faces,
    tried_programs.faces,
)
"""What people and programs ask for."""
_AWAY = N_("The database of the node does not answer. The node still stores received images.")
_COMES = N_("This page comes by itself when it answers again.")
_REPEAT = N_(
    "Your request was not carried out, or only in part: when pages are shown again, check and repeat it."
)
_STATUSES: Mapping[type[NodeError], int] = {
    NotFound: 404,
    Unavailable: 503,
    RequestRefused: 409,
    StorageError: 503,
}


def create_app(settings: Settings, database: Database) -> FastAPI:
    """Return the console's web application: all routes, and pages for errors."""
    # No pages of the framework's own: they load scripts from elsewhere.
    app = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(console_request)],
        exception_handlers={
            NotSignedIn: _ask_to_sign_in,
            HTTPException: _answer_http_error,
            NodeError: _answer_node_error,
            RequestValidationError: _answer_invalid,
            ANY_ERROR: _answer_database_error,
            OSError: _answer_system_error,
            Exception: _answer_defect,
        },
    )
    app.state.site = Site(settings, database)
    app.state.live = live.Live()
    app.state.durations = Durations()
    app.state.answers = AnswerDoor(database, settings)
    for faces in FACES:
        app.include_router(faces.people)
        app.include_router(faces.programs)
    app.include_router(answers.router)
    if settings.console.dicomweb_store:
        app.include_router(stow.router)
    app.add_api_route(f"{VERSION}/openapi.json", schema, methods=["GET"])
    large = (
        *uploads.PATHS,
        trials.PATH,
        *answers.PATHS,
        *(stow.PATHS if settings.console.dicomweb_store else ()),
    )
    app.add_middleware(
        Guarded,
        tls=settings.console.tls is not None,
        metrics_port=settings.console.metrics_port,
        proxies=settings.console.trusted_proxies,
        bodies=dict.fromkeys(large, settings.console.upload_mib * 2**20),
    )
    return app


@needs(UserRole.VIEWER)
def schema() -> dict[str, Any]:
    """Return the description of the REST API in the format of OpenAPI."""
    return described([faces.programs for faces in FACES])


async def _ask_to_sign_in(request: Request, _error: Exception) -> Response:
    """Answer a request that nobody has signed in for: 401 for programs and forms; browsers are sent to the
    sign-in page.
    """
    if request.url.path.startswith(API):
        response = _error_page(request, 401, N_("This needs a token: Authorization: Bearer …"))
        response.headers["WWW-Authenticate"] = "Bearer"
        return response
    if request.method == "GET":
        return see_other("/sign-in")
    return _error_page(request, 401, N_("You are signed out: sign in, then repeat what you did."))


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """Answer an HTTPException with an error page of its status."""
    assert isinstance(error, HTTPException)
    texts = {404: N_("There is no such page."), 405: N_("There is no such page.")}
    response = _error_page(request, error.status_code, texts.get(error.status_code, error.detail))
    response.headers.update(error.headers or {})  # Allow (RFC 9110 15.5.6)
    return response


async def _answer_invalid(request: Request, _error: Exception) -> Response:
    """Answer a request whose address or form is not valid with an error page, status 400."""
    return _error_page(request, 400, N_("This address or form cannot be read."))


async def _answer_node_error(request: Request, error: Exception) -> Response:
    """Answer a NodeError with an error page whose status fits its class."""
    is_api = request.url.path.startswith(API)
    if isinstance(
        error, DatabaseUnusable
    ):  # for those who run the node the log says, once, what is wrong with it
        site: Site = request.app.state.site
        site.database.outage.begin(f"pages are not answered: {error}")
        if is_api or request.url.path in WATCHED:
            return _error_page(request, 503, _AWAY)
        reads = request.method == "GET"
        return _error_page(request, 503, _AWAY, _COMES if reads else _REPEAT, again=reads)
    status = next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 500)
    if isinstance(error, FaultyInput) and is_api:
        status = 400  # of a request's content; 409 is for the state of things
    return _error_page(request, status, str(error))


async def _answer_database_error(request: Request, error: Exception) -> Response:
    """Answer an error of the database: 503 while the database does not respond, else as a defect with 500."""
    site: Site = request.app.state.site
    fault = meaning_of(error, site.settings.database_url)
    return await _answer_node_error(request, fault) if fault else await _answer_defect(request, error)


async def _answer_system_error(request: Request, error: Exception) -> Response:
    """Answer an error of the operating system: 503 for what the disk does, else as a defect with 500."""
    if fault := disk_fault(error):
        return await _answer_node_error(request, StorageError(fault))
    return await _answer_defect(request, error)


async def _answer_defect(request: Request, error: Exception) -> Response:
    """Answer an unexpected error with 500, and log it; its text is not shown, because it may quote a data
    set.
    """
    site: Site = request.app.state.site
    _LOGGER.error("a page failed", exc_info=error)
    response = _error_page(request, 500, N_("This page failed. The log of the node says where."))
    response.headers.update(headers(tls=site.secure))
    return response


def _error_page(
    request: Request, status: int, text: str, besides: str = "", *, again: bool = False
) -> Response:
    """Return the answer to a failed request: JSON for programs, plain text for monitoring, else a page.

    ``besides``: a second text; ``again``: the page reloads itself until the request succeeds.
    """
    if request.url.path.startswith(API):
        return JSONResponse({"error": text}, status)
    if request.url.path in WATCHED:
        return PlainTextResponse(f"{text}\n", status)
    site: Site = request.app.state.site
    return render(
        "error.html",
        status,
        user=None,
        language=language_of(request),
        csrf=csrf_of(site.token_of(request)),
        path=request.url.path,
        text=text,
        besides=besides,
        code=status,
        again=again,
    )
