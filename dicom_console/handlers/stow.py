"""STOW-RS (PS3.18 10.5), enabled by ``console.dicomweb_store``: programs store objects as a modality does.

The body is read as it arrives. Each object is durable before the answer lists it as stored. A request has at
most ``console.upload_mib`` (``dicom_node/base/config/settings.py``), which ``dicom_console/web/limits.py``
counts, and an object at most ``listener.maximum_object_mib``.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from dicom_console.handlers.uploads import SECONDS, place_for
from dicom_console.web.access import API, needs, user_of
from dicom_console.web.faces import ConsoleRequest, CurrentRequest
from dicom_node.base.dicom.web import Preamble
from dicom_node.people.stow import NO_ROOM, StowedInstance, StowRequest

router = APIRouter(prefix=f"{API}dicomweb")

PATHS: Final = (f"{router.prefix}/studies", f"{router.prefix}/studies/")
"""Addresses that take more than a form; with a / at the end: those below it."""
AT_ONCE: Final = 16
"""Requests at the same time; each holds some MiB."""
PARTS = 10_000
"""Of one request."""
HEADERS, HEADER_BYTES = 20, 4096
"""Headers of one part, and bytes of each."""
_BLOCK = 2**20
_JSON = "application/dicom+json"
_ANSWERS = {b"", b"*/*", b"application/*", b"application/json", _JSON.encode()}
_NONE = re.compile(rb"0(\.0*)?")  # a quality (RFC 9110 12.4.2) by which nothing is taken
_BOUNDARY = re.compile(r"[!-~]([ -~]{0,68}[!-~])?")  # RFC 2046 5.1.1 has fewer characters
_places = asyncio.Semaphore(AT_ONCE)


@router.post("/studies")
@router.post("/studies/{study}")
@needs(StowRequest, reads_form=True)
async def store(request: CurrentRequest, study: str = "") -> Response:
    """Store the objects of a request; if the address names a study, only objects of this study."""
    check_codings(request)
    boundary = boundary_of(request)  # None: one object alone
    busy = "Other requests to store are under way: try again when they are done."
    async with place_for(request, _places, busy, without_length=0):
        stow = await run_in_threadpool(
            StowRequest, request.site.database, request.settings, request.person, study, way="STOW-RS"
        )
        try:
            async with asyncio.timeout(SECONDS):
                await read_body(
                    request, reader_for(boundary, stow), lambda: user_of(request.http, request.site)
                )
        except TimeoutError:
            raise HTTPException(408, f"The request took too long. {_so_far(stow)}") from None
        except HTTPException as error:
            raise HTTPException(error.status_code, f"{error.detail} {_so_far(stow)}") from None
        finally:
            await run_in_threadpool(stow.close)
    return stow_answer(stow.instances)


def _so_far(stow: StowRequest) -> str:
    """Return a sentence that says how many objects of the request are stored already."""
    return f"{stow.stored} objects that came before are stored."


def check_codings(request: ConsoleRequest) -> None:
    """Raise HTTPException for a compressed body, and if the client takes no answer that there is (RFC 9110
    12.5.1, 15.5.7, 15.5.16).
    """
    headers = request.http.headers
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        text = "A compressed body is not taken: send it without Content-Encoding."
        raise HTTPException(415, text, {"Accept-Encoding": "identity"})
    taken = [parse_options_header(one.strip()) for one in ",".join(headers.getlist("accept")).split(",")]
    kinds = {kind for kind, options in taken if not _NONE.fullmatch(options.get(b"q", b"1"))}
    if kinds.isdisjoint(_ANSWERS):
        raise HTTPException(406, f"The answer is {_JSON} only: name it in Accept, or leave that out.")


def boundary_of(request: ConsoleRequest) -> str | None:
    """Return the text that separates the parts of a multipart body; None for a body that is one object
    (PS3.18 8.6.1).

    Raises HTTPException for any other content type.
    """
    kind, options = parse_options_header(request.http.headers.get("content-type", ""))
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


class PartTaker(Protocol):
    """Interface of what receives the parts of a request's body, one after the other."""

    def begin(self, media_type: str) -> None:
        """Begin a part of this media type."""
        ...

    def write(self, data: bytes) -> None:
        """Receive the next bytes of the part."""
        ...

    def end(self) -> None:
        """End the part, which has arrived whole."""
        ...


class PartReader:
    """Splits a multipart body (RFC 2046 5.1) and passes its parts to ``taker`` as they arrive, so that no
    part is kept in memory.

    For one thread at a time.
    """

    def __init__(self, boundary: str, taker: PartTaker) -> None:
        self._taker = taker
        self._name, self._value = bytearray(), bytearray()
        self._headers: dict[str, str] = {}
        self._parts = 0
        self._ended = False
        self._preamble = Preamble(boundary.encode("latin-1"))
        self._parser = MultipartParser(
            boundary.encode("latin-1"),
            {
                "on_part_begin": self._part_begins,
                "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._header_ends,
                "on_headers_finished": self._data_begins,
                "on_part_data": lambda data, start, end: taker.write(data[start:end]),
                "on_part_end": taker.end,
                "on_end": self._body_ends,
            },
            max_header_count=HEADERS,
            max_header_size=HEADER_BYTES,
        )

    def feed(self, data: bytes) -> None:
        """Process the next bytes of the body.

        Raises HTTPException: 400 if they cannot be read, 413 for too many parts.
        """
        try:
            self._parser.write(self._preamble.removed(data))
        except ValueError:  # FormParserError is one
            raise HTTPException(400, "The parts of this request cannot be read.") from None

    def finish(self) -> None:
        """Check that the body is complete.

        Raises HTTPException if it has no parts, or lacks its last boundary.
        """
        if not (self._ended and self._parts):
            raise HTTPException(400, "This request has no parts, or does not end with its last boundary.")

    def _part_begins(self) -> None:
        """Begin a part (called by the parser). Raises HTTPException for too many parts."""
        self._parts += 1
        if self._parts > PARTS:
            raise HTTPException(413, f"A request has at most {PARTS} parts: send several.")
        self._headers = {}

    def _header_ends(self) -> None:
        """Store a header of the part, now that it is complete (called by the parser)."""
        name, value = (found.decode("latin-1").strip().lower() for found in (self._name, self._value))
        self._headers[name] = value
        self._name, self._value = bytearray(), bytearray()

    def _data_begins(self) -> None:
        """Tell ``taker`` that a part begins, with its media type (called by the parser).

        A part with a transfer encoding (RFC 2045 6) gets a media type that is refused later.
        """
        media_type = self._headers.get("content-type", "").partition(";")[0].strip()
        coding = self._headers.get("content-transfer-encoding", "")
        is_plain = coding in ("", "binary", "8bit", "7bit")
        self._taker.begin(media_type if is_plain else f"{media_type}; {coding}")

    def _body_ends(self) -> None:
        """Remember that the last boundary has arrived (called by the parser)."""
        self._ended = True


class _OnePart:
    """Passes a body that is one single object to ``taker``; it has the methods of PartReader."""

    def __init__(self, taker: PartTaker) -> None:
        self._taker = taker
        self._is_empty = True
        taker.begin("application/dicom")

    def feed(self, data: bytes) -> None:
        """Pass on the next bytes of the body."""
        self._is_empty &= not data
        self._taker.write(data)

    def finish(self) -> None:
        """End the object. Raises HTTPException if the body was empty."""
        if self._is_empty:
            raise HTTPException(400, "This request has no content.")
        self._taker.end()


def reader_for(boundary: str | None, taker: PartTaker) -> PartReader | _OnePart:
    """Return what passes a body on to ``taker``; ``boundary``: None for a body that is one object."""
    return _OnePart(taker) if boundary is None else PartReader(boundary, taker)


async def read_body(
    request: ConsoleRequest, parts: PartReader | _OnePart, check: Callable[[], Awaitable[object]]
) -> None:
    """Read the request's body to its end, and feed it to ``parts``, as long as ``check`` raises nothing."""
    block = bytearray()
    async for piece in request.http.stream():
        block += piece
        if len(block) >= _BLOCK:
            await check()
            await run_in_threadpool(parts.feed, bytes(block))
            block.clear()
    await check()
    await run_in_threadpool(parts.feed, bytes(block))
    parts.finish()


def stow_answer(instances: list[StowedInstance]) -> Response:
    """Return the STOW-RS response on these instances (PS3.18 Table I.2-1); it has no URLs to retrieve them
    from.
    """
    no_url: dict[str, Any] = {"00081190": {"vr": "UR"}}
    sequences: dict[str, list[dict[str, Any]]] = {"00081198": [], "00081199": [], "0008119A": []}
    for one in instances:
        item = _value("00081150", "UI", one.sop_class_uid) | _value("00081155", "UI", one.sop_instance_uid)
        if not one.failure:
            sequences["00081199"].append(item | no_url)
            continue
        reason = _value("00081197", "US", one.failure.code)
        if one.sop_instance_uid:
            sequences["00081198"].append(item | reason)
        else:
            sequences["0008119A"].append(reason)
    module = no_url | {tag: {"vr": "SQ", "Value": items} for tag, items in sequences.items() if items}
    failures = [one.failure for one in instances]
    if all(failures) and failures:
        status = 503 if all(one is NO_ROOM for one in failures) else 409
    else:
        status = 202 if any(failures) else 200
    return JSONResponse(module, status, media_type=_JSON)


def _value(tag: str, vr: str, value: object) -> dict[str, Any]:
    """Return an attribute with one value in the DICOM JSON Model (PS3.18 F.2)."""
    return {tag: {"vr": vr, "Value": [value]}}
