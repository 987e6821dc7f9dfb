"""Uploads from a browser or a program: DICOM files, pictures, and ZIPs of both."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType

from fastapi import HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from dicom_console.views import uploaded
from dicom_console.web.access import form_of, read_form, user_of
from dicom_console.web.faces import ROWS, VERSION, ConsoleRequest, CurrentRequest, Faces, Number, Since
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import RequestRefused
from dicom_node.base.lifecycle import CONSOLE_AE_TITLE, CONSOLE_NAME
from dicom_node.base.store import sight
from dicom_node.base.store.views import View
from dicom_node.people import Row, registered
from dicom_node.people.described import FIELDS, MODALITIES, SEXES, VIEWS
from dicom_node.people.stow import StowRequest
from dicom_node.people.uploads import take_files

faces = Faces()

PATH = "/upload"
PATHS = (PATH, VERSION + PATH)
"""Addresses that take more than a form."""
AT_ONCE, SECONDS = 2, 1800.0
"""Uploads at the same time, and how long one may take to come."""
PATIENT = "Patient"
"""The field with the number of a registered patient, in the place of those about a patient."""
_places = asyncio.Semaphore(AT_ONCE)


@faces.page("GET", PATH, StowRequest)
def ask(request: CurrentRequest, patient: Since = None) -> Response:
    """Show the form for an upload. ``patient``: the number of the registered patient whom pictures are of."""
    given = {"Patient": str(patient)} if patient else {}
    return _form(request, given=given, last=request.read(uploaded.newest))


@faces.page("GET", PATH + "/{number}", StowRequest)
def follow(request: CurrentRequest, number: Number) -> Response:
    """Show the progress of one upload."""
    return request.page("uploaded.html", refused=(), now=progress_of(request, number))


@faces.page("POST", PATH, StowRequest, reads_form=True)
async def take_form(request: CurrentRequest) -> Response:
    """Receive an upload from a browser's form, and show the outcome."""
    async with received(request, read_form) as form:
        return await run_in_threadpool(_answer, request, form)


_MULTIPART = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        **{name: {"type": "string"} for name in (*FIELDS, PATIENT)},
                    },
                    "required": ["files"],
                }
            }
        },
    }
}


@faces.handler("POST", PATH, StowRequest, openapi_extra=_MULTIPART)
async def take(request: CurrentRequest) -> list[Row]:
    """Store DICOM files, pictures that the fields describe, and ZIPs; returns the outcome for each file."""
    async with received(request, form_of) as form:
        _, rows = await run_in_threadpool(spooled, request, form)
    return rows


@asynccontextmanager
async def received(
    request: ConsoleRequest, read: Callable[[Request], Awaitable[FormData]]
) -> AsyncIterator[FormData]:
    """Context manager with the form and its files, once all have arrived.

    ``read``: reads the form from the request. Raises HTTPException if the upload is refused or too slow.
    """
    busy = "Other uploads are under way: try again when they are done."
    async with place_for(request, _places, busy, without_length=request.settings.console.upload_mib * 2**20):
        try:
            async with asyncio.timeout(SECONDS):
                form = await read(request.http)
        except TimeoutError:
            raise HTTPException(408, "The upload took too long.") from None
        try:
            # Whose right was withdrawn meanwhile stores nothing.
            await user_of(request.http, request.site, SECONDS / 60)
            yield form
        finally:
            await form.close()


def spooled(request: ConsoleRequest, form: FormData) -> tuple[int, list[Row]]:
    """Store the files of a form in the spool; return (number of the audit record, outcome for each file).

    Raises FaultyInput if there are no files, or a field is faulty, NotFound for a patient who is not
    registered, NotAllowedNow if the fields contradict a registration.
    """
    settings, about = request.settings, described(form)
    number = about.pop(PATIENT)
    if number.isdecimal() and len(number) < 10:
        about = request.read(registered.described_as_registered, settings, int(number), about)
    request.read(registered.refuse_other_than_registered, about)
    sent = [one for one in form.getlist("files") if isinstance(one, UploadFile)]
    files = [(one.filename, one.file) for one in sent if one.filename]
    return take_files(request.site.database, settings, files, about, request.person)


def described(form: FormData) -> dict[str, str]:
    """Return what a person says of pictures in a form: each of ``described.FIELDS`` and PATIENT, "" if it is
    missing.
    """
    texts = {name: form.get(name, "") for name in (*FIELDS, PATIENT)}
    return {name: text.strip() if isinstance(text, str) else "" for name, text in texts.items()}


def _answer(request: ConsoleRequest, form: FormData) -> Response:
    """Return the page with the outcome of an upload."""
    try:
        number, rows = spooled(request, form)
    except RequestRefused as error:
        return _form(request, 400, problem=str(error), given=described(form))
    refused = [row for row in rows if row["refusal"]]
    return request.page("uploaded.html", refused=refused, now=progress_of(request, number))


def progress_of(request: ConsoleRequest, number: int) -> View:
    """Return the progress of an upload, after recording in the audit that the person sees Patient IDs.

    ``number``: of the upload's audit record.
    """
    request.note_list("upload")
    return request.read(uploaded.show, request.settings, number)


@asynccontextmanager
async def place_for(
    request: ConsoleRequest, places: asyncio.Semaphore, busy: str, *, without_length: int
) -> AsyncIterator[None]:
    """Context manager that takes one of the few places for uploads.

    Raises HTTPException if no place is free (with the text ``busy``), if the disk has too little room for the
    objects and their copies in the spool, or if the user may see only senders other than the console.
    ``without_length``: bytes to assume for a request that does not state its length.
    """
    settings, senders = request.settings, sight.SENDERS.get()
    if senders and CONSOLE_AE_TITLE not in senders:
        raise HTTPException(
            403, f"This user sees the studies of some senders only, and {CONSOLE_AE_TITLE} is none of them."
        )
    largest = settings.console.upload_mib * 2**20
    declared = request.http.headers.get("content-length", "")
    size = min(int(declared), largest) if declared.isdecimal() and len(declared) < 20 else without_length
    free = shutil.disk_usage(settings.node.data_dir).free
    if free < settings.spool.minimum_free_mib * 2**20 + 2 * size:
        raise HTTPException(507, "There is not enough free disk for this (spool.minimum_free_mib).")
    if places.locked():
        raise HTTPException(503, busy)
    async with places:
        yield


def _form(
    request: ConsoleRequest,
    status: int = 200,
    *,
    problem: str = "",
    given: Mapping[str, str] = MappingProxyType({}),
    last: Sequence[View] = (),
) -> Response:
    """Return the page with the upload form.

    ``problem``: why an upload was refused, "" for none; ``given``: the fields as typed, to be corrected;
    ``last``: the newest uploads.
    """
    known = request.read(registered.list_patients, request.settings, limit=ROWS)
    if known:
        request.note_list("patients")
    return request.page(
        "upload.html",
        status,
        largest=request.settings.console.upload_mib * 2**20,
        takers=takers_of(request.settings),
        choices={"Modality": MODALITIES, "View": VIEWS, "PatientSex": SEXES},
        given=given,
        registered=known,
        problem=problem,
        last=last,
    )


def takers_of(settings: Settings) -> list[str]:
    """Return the names of the rules that take uploaded pictures."""
    return [rule.name for rule in settings.rules if CONSOLE_NAME in rule.secondary_captures_from]
