"""Uploads of objects and pictures from a browser."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from dicom_console.views import uploaded
from dicom_console.web.access import Asked, Number, Since, Visit, form_of, needs, read_form
from dicom_console.web.faces import VERSION, Faces
from dicom_node.config.settings import Settings
from dicom_node.errors import FaultyInput
from dicom_node.model.kinds import CONSOLE_AE_TITLE
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, patients, uploads
from dicom_node.services.uploads import Described, Upload, UploadedFile, UploadedRow
from dicom_node.store import sight
from dicom_node.store.views import View

faces = Faces()

PATH = "/upload"
PATHS = (PATH, VERSION + PATH)
"""Addresses that take more than a form."""
AT_ONCE, SECONDS = 2, 1800.0
"""Uploads at the same time, and how long one may take to come."""
FIELDS = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDescription",
    "StudyDate", "Modality",
)  # fmt: skip
_places = asyncio.Semaphore(AT_ONCE)


@faces.people.get(PATH)
@needs(UserRole.OPERATOR)
def ask(asked: Asked, patient: Since = None) -> Response:
    """The form. ``patient``: the number of a registered one, whose name and ID no address has."""
    known = {}
    with asked.site.database.read() as session:
        if patient is not None:
            known = patients.one(session, asked.site.settings, patient)
        last = uploaded.last(session)
    return asked.page("upload.html", last=last, **_choices(asked.site.settings, known=known))


@faces.people.get(PATH + "/{number}")
@needs(UserRole.OPERATOR)
def follow(asked: Asked, number: Number) -> Response:
    """Show the progress of one upload."""
    return asked.page("uploaded.html", files=(), refused=0, now=_now(asked, number))


@faces.people.post(PATH)
@needs(UserRole.OPERATOR, reads_form=True)
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
                        **{name: {"type": "string"} for name in FIELDS},
                    },
                    "required": ["files"],
                }
            }
        },
    }
}


@faces.handler("POST", PATH, UserRole.OPERATOR, openapi_extra=_MULTIPART)
async def take(asked: Asked) -> list[UploadedRow]:
    """DICOM files, ZIPs of them, PNG and JPEG (with the patient and study of the form)."""
    async with received(asked, form_of) as form:
        found = await run_in_threadpool(taken, asked, form)
    return list(found.files)


@asynccontextmanager
async def received(asked: Visit, read: Callable[[Request], Awaitable[FormData]]) -> AsyncIterator[FormData]:
    """The form with its files, once all of it has arrived. Raises HTTPException."""
    settings = asked.site.settings
    refuse_who_would_not_see_it()
    refuse_without_room(asked.request, settings, without_length=settings.console.upload_mib * 2**20)
    if _places.locked():
        raise HTTPException(503, "Other uploads are under way: try again when they are done.")
    async with _places:
        try:
            async with asyncio.timeout(SECONDS):
                form = await read(asked.request)
        except TimeoutError:
            raise HTTPException(408, "The upload took too long.") from None
        try:
            yield form
        finally:
            await form.close()


def taken(asked: Visit, form: FormData) -> Upload:
    """The outcome for each file. Raises FaultyInput for an invalid description."""
    site = asked.site
    files = [one for one in form.getlist("files") if isinstance(one, UploadFile) and one.filename]
    sent = [UploadedFile(one.filename or "", one.file) for one in files]
    about = Described.from_form({name: _text(form, name) for name in FIELDS})
    if about is not None:
        with site.database.read() as session:
            patients.refuse_another(session, site.settings, about)
    return uploads.take(site.database, site.settings, sent, about, asked.person)


def refuse_who_would_not_see_it() -> None:
    """Raise HTTPException if this user sees only studies of other senders than the console."""
    senders = sight.SENDERS.get()
    if senders and CONSOLE_AE_TITLE not in senders:
        raise HTTPException(
            403, f"This user sees the studies of some senders only, and {CONSOLE_AE_TITLE} is none of them."
        )


def _answer(asked: Visit, form: FormData) -> Response:
    """The page that says of each file what became of it."""
    try:
        found = taken(asked, form)
    except FaultyInput as error:
        return asked.page("upload.html", 400, last=[], **_choices(asked.site.settings, str(error)))
    refused = sum(1 for row in found.files if row.refusal)
    return asked.page("uploaded.html", files=found.files, refused=refused, now=_now(asked, found.number))


def _now(asked: Visit, number: int) -> View:
    """How the upload goes on; it lists studies with their Patient IDs."""
    audit.note_list(asked.site.database, asked.person, "upload")
    with asked.site.database.read() as session:
        return uploaded.show(session, number)


def refuse_without_room(request: Request, settings: Settings, *, without_length: int) -> None:
    """Raise HTTPException if the disk has no room above the watermark for the upload and its copy in the
    spool.

    ``without_length``: the number of bytes to assume for a request that does not state its length.
    """
    largest = settings.console.upload_mib * 2**20
    declared = request.headers.get("content-length", "")
    size = min(int(declared), largest) if declared.isdecimal() and len(declared) < 20 else without_length
    free = shutil.disk_usage(settings.node.data_dir).free
    if free < settings.spool.minimum_free_mib * 2**20 + 2 * size:
        raise HTTPException(507, "There is not enough free disk for this (spool.minimum_free_mib).")


def _choices(settings: Settings, problem: str = "", known: Mapping[str, str] | None = None) -> dict[str, Any]:
    takers = [rule.name for rule in settings.rules if "console" in rule.secondary_captures_from]
    return {
        "modalities": uploads.MODALITIES,
        "largest": settings.console.upload_mib * 2**20,
        "takers": takers,
        "problem": problem,
        "known": known or {},
    }


def _text(form: FormData, name: str) -> str:
    value = form.get(name, "")
    return value.strip() if isinstance(value, str) else ""
