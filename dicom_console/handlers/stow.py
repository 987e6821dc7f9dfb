"""STOW-RS (PS3.18 10.5), enabled by ``console.dicomweb_store``: programs store objects as a modality does.

The body is read as it arrives. Each object is durable before the answer lists it as stored.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from dicom_console.handlers import dicomweb
from dicom_console.handlers.uploads import SECONDS, refuse_who_would_not_see_it, refuse_without_room
from dicom_console.web import accept
from dicom_console.web.access import Asked, Visit, needs
from dicom_console.web.parts import PartReader, PartTaker
from dicom_node.model.roles import UserRole
from dicom_node.services.stow import NO_OBJECT, NO_ROOM, StowedInstance, StowRequest

router = APIRouter(prefix=dicomweb.router.prefix)

PATHS: Final = (f"{router.prefix}/studies", f"{router.prefix}/studies/")
"""Addresses that take more than a form; with a / at the end: those below it."""
AT_ONCE: Final = 16
"""Requests at the same time; each holds some MiB."""
_BLOCK = 2**20
_BOUNDARY = re.compile(r"[!-~]([ -~]{0,68}[!-~])?")  # RFC 2046 5.1.1 has fewer characters
_places = asyncio.Semaphore(AT_ONCE)


@router.post("/studies")
@router.post("/studies/{study}")
@needs(UserRole.OPERATOR, reads_form=True)
async def store(asked: Asked, study: str = "") -> Response:
    """Store the instances of a request, of one study where the address names it."""
    boundary = _boundary(asked)  # None: one object alone
    refuse_who_would_not_see_it()
    refuse_without_room(asked.request, asked.site.settings, without_length=0)
    if _places.locked():
        raise HTTPException(503, "Other requests to store are under way: try again when they are done.")
    async with _places:
        request = await run_in_threadpool(
            StowRequest, asked.site.database, asked.site.settings, asked.person, study
        )
        try:
            async with asyncio.timeout(SECONDS):
                await _read(asked, PartReader(boundary, request) if boundary else _OnePart(request))
        except TimeoutError:
            raise HTTPException(408, f"The request took too long. {_so_far(request)}") from None
        except HTTPException as error:
            raise HTTPException(error.status_code, f"{error.detail} {_so_far(request)}") from None
        finally:
            await run_in_threadpool(request.close)
    return _answer(asked, study, request.instances)


def _so_far(request: StowRequest) -> str:
    return f"{request.stored} objects that came before are stored."


def _boundary(asked: Visit) -> str | None:
    """What parts the body; None for one object alone (PS3.18 8.6.1). Raises HTTPException for any other
    body.
    """
    accept.one_of(asked.request, "application/dicom+json", "application/json")
    kind, options = parse_options_header(asked.request.headers.get("content-type", ""))
    if kind == b"application/dicom":
        return None
    if (kind, options.get(b"type", b"").lower()) != (b"multipart/related", b"application/dicom"):
        raise HTTPException(
            415, 'Only application/dicom and multipart/related; type="application/dicom" are stored.'
        )
    boundary = options.get(b"boundary", b"").decode("latin-1")
    if not _BOUNDARY.fullmatch(boundary):
        raise HTTPException(400, "The media type has no boundary of 1 to 70 characters.")
    return boundary


class _OnePart:
    """A body that is one object, with the methods of a PartReader."""

    def __init__(self, taker: PartTaker) -> None:
        self._taker = taker
        self._is_empty = True
        taker.begin("application/dicom")

    def feed(self, data: bytes) -> None:
        self._is_empty &= not data
        self._taker.write(data)

    def finish(self) -> None:
        if self._is_empty:
            raise HTTPException(400, "This request has no content.")
        self._taker.end()


async def _read(asked: Visit, parts: PartReader | _OnePart) -> None:
    block = bytearray()
    async for piece in asked.request.stream():
        block += piece
        if len(block) >= _BLOCK:
            await run_in_threadpool(parts.feed, bytes(block))
            block.clear()
    await run_in_threadpool(parts.feed, bytes(block))
    parts.finish()


def _answer(asked: Visit, study: str, instances: list[StowedInstance]) -> Response:
    """The Store Instances Response Module (PS3.18 Table I.2-1)."""
    stored = [one for one in instances if not one.failure]
    failed = [one for one in instances if one.failure and one.sop_instance_uid]
    others = [one for one in instances if one.failure and not one.sop_instance_uid]
    studies = {one.study_uid for one in stored} or {study}
    module = _url(asked, studies.pop() if len(studies) == 1 else "")
    module |= _sequence("00081198", [_referenced(one) | _reason(one) for one in failed])
    module |= _sequence("00081199", [_referenced(one) | _instance_url(asked, one) for one in stored])
    module |= _sequence("0008119A", [_reason(one) for one in others])
    return JSONResponse(module, _status(instances), media_type="application/dicom+json")


def _status(instances: list[StowedInstance]) -> int:
    failures = [one.failure for one in instances]
    if not any(failures):
        return 200
    if not all(failures):
        return 202
    return 503 if all(one is NO_ROOM for one in failures) else 409


def _sequence(tag: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    return {tag: {"vr": "SQ", "Value": items}} if items else {}


def _referenced(one: StowedInstance) -> dict[str, Any]:
    classes = dicomweb.value("00081150", "UI", one.sop_class_uid)
    return classes | dicomweb.value("00081155", "UI", one.sop_instance_uid)


def _reason(one: StowedInstance) -> dict[str, Any]:
    return dicomweb.value("00081197", "US", (one.failure or NO_OBJECT).code)


def _instance_url(asked: Visit, one: StowedInstance) -> dict[str, Any]:
    if not (one.study_uid and one.series_uid):
        return _url(asked, "")
    return _url(asked, f"{one.study_uid}/series/{one.series_uid}/instances/{one.sop_instance_uid}")


def _url(asked: Visit, path: str) -> dict[str, Any]:
    """Retrieve URL, of no value where nothing is to be had."""
    if path and asked.site.settings.console.dicomweb:
        return dicomweb.url(asked, f"/studies/{path}")
    return {"00081190": {"vr": "UR"}}
