"""STOW-RS (PS3.18 10.5) for vendors' AI services, which send results with the token of one study.

No user is signed in: whether a request may store is decided by its token alone, before its body is read.
"""

import asyncio
from typing import Final

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from dicom_console.handlers.stow import boundary_of, check_codings, read_body, reader_for, stow_answer
from dicom_console.handlers.uploads import SECONDS, place_for
from dicom_console.web.access import ANYONE, needs
from dicom_console.web.faces import CurrentRequest
from dicom_node.people.answers import AnswerRequest, TokenRefused

router = APIRouter(prefix="/answers")

PATHS: Final = (f"{router.prefix}/studies", f"{router.prefix}/studies/")
"""Addresses that take more than a form; with a / at the end: those below it."""
AT_ONCE: Final = 4
"""Requests at the same time; each holds some MiB."""
_places = asyncio.Semaphore(AT_ONCE)


@router.post("/studies")
@router.post("/studies/{study}")
@needs(ANYONE, reads_form=True)
async def take(request: CurrentRequest, study: str = "") -> Response:
    """Store results of the study for which the request has a token."""
    scheme, _, token = request.http.headers.get("authorization", "").partition(" ")
    door = request.http.app.state.answers
    given = token.strip() if scheme.lower() == "bearer" else ""
    try:
        admitted = await run_in_threadpool(door.admit, given, study)
        check_codings(request)
        boundary = boundary_of(request)
        busy = "Other results are under way: try again when they are done."
        async with place_for(request, _places, busy, without_length=0):
            stow = await run_in_threadpool(
                AnswerRequest, request.site.database, request.settings, admitted, request.address
            )
            try:
                async with asyncio.timeout(SECONDS):
                    await read_body(
                        request,
                        reader_for(boundary, stow),
                        lambda: run_in_threadpool(door.admit, given, study),
                    )
                stow.is_whole = True
            finally:
                await run_in_threadpool(stow.close)
    except TokenRefused as error:
        return JSONResponse({"error": str(error)}, 401, {"WWW-Authenticate": "Bearer", "Connection": "close"})
    except TimeoutError:
        return JSONResponse({"error": "The request took too long."}, 408)
    except HTTPException as error:
        return JSONResponse({"error": error.detail}, error.status_code, dict(error.headers or {}))
    return stow_answer(stow.instances)
