"""Uploads of objects from a browser."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from fastapi import HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from dicom_console.views import uploaded
from dicom_console.web.access import form_of, read_form
from dicom_console.web.faces import VERSION, Asked, Faces, Number, Visit
from dicom_node.base.errors import FaultyInput
from dicom_node.base.lifecycle import CONSOLE_AE_TITLE, UserRole
from dicom_node.base.store import sight
from dicom_node.base.store.views import View
from dicom_node.people import Row, audit
from dicom_node.people.studies import take_files

faces = Faces()

PATH = "/upload"
PATHS = (PATH, VERSION + PATH)
"""Addresses that take more than a form."""
AT_ONCE, SECONDS = 2, 1800.0
"""Uploads at the same time, and how long one may take to come."""
_places = asyncio.Semaphore(AT_ONCE)


@faces.page("GET", PATH, UserRole.OPERATOR)
def ask(asked: Asked) -> Response:
    """The form."""
    return _form(asked, last=asked.read(uploaded.last))


@faces.page("GET", PATH + "/{number}", UserRole.OPERATOR)
def follow(asked: Asked, number: Number) -> Response:
    """Show the progress of one upload."""
    return asked.page("uploaded.html", refused=(), now=_now(asked, number))


@faces.page("POST", PATH, UserRole.OPERATOR, reads_form=True)
async def take_form(asked: Asked) -> Response:
    """Wait for the complete request, and process it."""
    async with received(asked, read_form) as form:
        return await run_in_threadpool(_answer, asked, form)


_MULTIPART = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
                    },
                    "required": ["files"],
                }
            }
        },
    }
}


@faces.handler("POST", PATH, UserRole.OPERATOR, openapi_extra=_MULTIPART)
async def take(asked: Asked) -> list[Row]:
    """DICOM files (Part 10)."""
    async with received(asked, form_of) as form:
        _, rows = await run_in_threadpool(taken, asked, form)
    return rows


@asynccontextmanager
async def received(asked: Visit, read: Callable[[Request], Awaitable[FormData]]) -> AsyncIterator[FormData]:
    """The form with its files, once all of it has arrived. Raises HTTPException."""
    busy = "Other uploads are under way: try again when they are done."
    async with place_for(asked, _places, busy, without_length=asked.settings.console.upload_mib * 2**20):
        try:
            async with asyncio.timeout(SECONDS):
                form = await read(asked.request)
        except TimeoutError:
            raise HTTPException(408, "The upload took too long.") from None
        try:
            yield form
        finally:
            await form.close()


def taken(asked: Visit, form: FormData) -> tuple[int, list[Row]]:
    """The upload's number in the audit, and the outcome for each file. Raises FaultyInput without files."""
    sent = [one for one in form.getlist("files") if isinstance(one, UploadFile)]
    files = [(one.filename, one.file) for one in sent if one.filename]
    return take_files(asked.site.database, asked.settings, files, asked.person)


def _answer(asked: Visit, form: FormData) -> Response:
    """The page that says of each file what became of it."""
    try:
        number, rows = taken(asked, form)
    except FaultyInput as error:
        return _form(asked, 400, problem=str(error))
    refused = [row for row in rows if row["refusal"]]
    return asked.page("uploaded.html", refused=refused, now=_now(asked, number))


def _now(asked: Visit, number: int) -> View:
    """How the upload goes on; it lists studies with their Patient IDs."""
    audit.note_list(asked.site.database, asked.person, "upload")
    return asked.read(uploaded.show, asked.settings, number)


@asynccontextmanager
async def place_for(
    asked: Visit, places: asyncio.Semaphore, busy: str, *, without_length: int
) -> AsyncIterator[None]:
    """One of the places for objects that a person or a program sends. Raises HTTPException.

    It is refused to a user who sees only studies of other senders than the console, where the disk has no
    room above the watermark for the objects and their copies in the spool, and where no place is free.
    ``without_length``: the number of bytes to assume for a request that does not state its length.
    """
    settings, senders = asked.settings, sight.SENDERS.get()
    if senders and CONSOLE_AE_TITLE not in senders:
        raise HTTPException(
            403, f"This user sees the studies of some senders only, and {CONSOLE_AE_TITLE} is none of them."
        )
    largest = settings.console.upload_mib * 2**20
    declared = asked.request.headers.get("content-length", "")
    size = min(int(declared), largest) if declared.isdecimal() and len(declared) < 20 else without_length
    free = shutil.disk_usage(settings.node.data_dir).free
    if free < settings.spool.minimum_free_mib * 2**20 + 2 * size:
        raise HTTPException(507, "There is not enough free disk for this (spool.minimum_free_mib).")
    if places.locked():
        raise HTTPException(503, busy)
    async with places:
        yield


def _form(
    asked: Visit,
    status: int = 200,
    *,
    problem: str = "",
    last: Sequence[View] = (),
) -> Response:
    """``last``: the newest uploads."""
    return asked.page(
        "upload.html",
        status,
        largest=asked.settings.console.upload_mib * 2**20,
        problem=problem,
        last=last,
    )
