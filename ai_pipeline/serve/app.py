"""The application: ``/clean``, STOW-RS at ``/studies``, Karnak's contract, health and metrics."""

import asyncio
import json
import re
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import IO, Annotated, Any, Protocol

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from ai_pipeline.burnin.find.annotation import CleaningPolicy, InDoubt
from ai_pipeline.serve.guard import Guard, Metrics
from ai_pipeline.serve.multipart import RelatedAnswer, Unreadable, blocks, boundary_of, objects_of
from ai_pipeline.serve.settings import ServeSettings
from ai_pipeline.serve.tasks import DICOM, MOST_BYTES, PNG, STATUSES, Answer, Outcome, Task

_RELATED = {"*/*", "multipart/*", "multipart/related"}
_FILES = {"application/*", "image/*", DICOM, PNG}
_VERSIONS = ("", "1")
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    400: {"description": "It cannot be read, or its pixels do not decode."},
    401: {"description": "The token is missing or wrong."},
    413: {"description": "Too large: bytes, or pixels."},
    415: {"description": "Neither DICOM (Part 10) nor PNG or JPEG."},
    422: {"description": "Withheld: text that had to go may be left, so there is no picture."},
    429: {"description": "Too many requests at once."},
    503: {"description": "The process that cleans ended, or lacks memory."},
    504: {"description": "It takes too long."},
}


PictureModality = Annotated[str, Query(pattern="^[A-Z]{2,8}$", description="Of a picture, which says none.")]


class Cleans(Protocol):
    """What carries tasks out: :class:`.processes.CleaningProcesses`."""

    def answer(self, task: Task, source: int, target: int, waits: Callable[[], bool]) -> Answer:
        """Carry out a task on the open file ``source``, while the caller ``waits``; what is cleaned goes to
        ``target``.
        """
        ...


router = APIRouter()


def create_app(settings: ServeSettings, cleaning: Cleans) -> FastAPI:
    """The application. No page of the framework's own: they load scripts from elsewhere."""
    app = FastAPI(
        title="ai-pipeline serve",
        description="Cleans images of burned-in annotation. Not for diagnostic use.",
        docs_url=None,
        redoc_url=None,
        exception_handlers={
            404: _answer_no_path,
            RequestValidationError: _answer_invalid,
            ClientDisconnect: _answer_nobody,
            Unreadable: _answer_unreadable,
        },
    )
    metrics = Metrics()
    app.state.settings, app.state.cleaning, app.state.metrics = settings, cleaning, metrics
    app.include_router(router)
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    return app


@router.get("/health")
async def health() -> dict[str, str]:
    """Say that the service is there; needs no token."""
    return {"status": "ok"}


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """The service's counts for Prometheus."""
    text = generate_latest(request.app.state.metrics.registry)
    return Response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.post(
    "/clean",
    response_class=Response,
    responses=_ANSWERS | {200: {"content": {"multipart/related": {}, DICOM: {}, PNG: {}}}},
    openapi_extra={
        "requestBody": {"required": True, "content": dict.fromkeys((DICOM, PNG, "image/jpeg"), _BINARY)}
    },
)
async def clean(
    request: Request,
    policy: CleaningPolicy = CleaningPolicy.CLINICAL,
    in_doubt: InDoubt = InDoubt.KEEP,
    modality: PictureModality = "US",
) -> Response:
    """Clean one DICOM file, PNG or JPEG. The answer has the report and the cleaned file (multipart/related),
    or the file alone if Accept names its type. Pictures are handed back as PNG.
    """
    ranges = request.headers.get("accept", "*/*").lower().split(",")
    accepted = {media_range.partition(";")[0].strip() for media_range in ranges}
    if not accepted & (_RELATED | _FILES):
        raise HTTPException(406, f"the answer is multipart/related, {DICOM} or {PNG}: name one in Accept")
    with tempfile.TemporaryFile() as body:
        async for piece in request.stream():
            body.write(piece)
        task = Task(modality=modality, policy=policy, in_doubt=in_doubt)
        async with _waiting(request) as waits:
            answer, cleaned = await run_in_threadpool(_carry_out, request, task, body, waits)
    if cleaned is None:
        return _refused(answer)
    if not accepted & _RELATED:
        kind = answer.media_type
        if not accepted & {kind, f"{kind.partition('/')[0]}/*"}:
            cleaned.close()
            raise HTTPException(406, f"this file is handed back as {kind}: name that in Accept")
        return _Streamed(blocks(cleaned), cleaned, 200, answer.media_type)
    related = RelatedAnswer()
    await run_in_threadpool(related.add, cleaned, answer.media_type)
    return _related(related, answer.as_json())


@router.post(
    "/studies",
    response_class=Response,
    responses=_ANSWERS
    | {
        200: {"content": {"multipart/related": {}}},
        202: {"description": "Some objects are cleaned, some not: the report says why."},
    },
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/related": _BINARY}}},
)
async def store(request: Request, policy: CleaningPolicy = CleaningPolicy.CLINICAL) -> Response:
    """Clean the objects of a STOW-RS request (PS3.18 10.5). The answer has a report on each object in their
    order, then those that are cleaned; nothing is stored.
    """
    boundary = boundary_of(request.headers.get("content-type", ""))
    if not boundary:
        raise HTTPException(415, f'only multipart/related; type="{DICOM}" is taken')
    with tempfile.TemporaryFile() as body:
        async for piece in request.stream():
            body.write(piece)
        body.seek(0)
        related = RelatedAnswer()
        objects = objects_of(body, boundary)
        try:
            async with _waiting(request) as waits:
                answers = await run_in_threadpool(_clean_each, request, policy, objects, related, waits)
        except Unreadable:
            related.close()
            raise
    reports = [answer.as_json() for answer in answers]
    ends = {answer.outcome for answer in answers}
    if Outcome.CLEANED not in ends:
        related.close()
        status = STATUSES[ends.pop()] if len(ends) == 1 else 422
        return JSONResponse({"detail": "no object could be cleaned", "objects": reports}, status)
    return _related(related, {"objects": reports}, 200 if ends == {Outcome.CLEANED} else 202)


@asynccontextmanager
async def _waiting(request: Request) -> AsyncIterator[Callable[[], bool]]:
    """Yield a function that says whether the caller is still there and its time (``study_seconds``) is not
    over; for any thread. The body must have been read.
    """
    gone = threading.Event()
    due = time.monotonic() + request.app.state.settings.study_seconds

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone.set()

    watching = asyncio.create_task(watch())
    try:
        yield lambda: not gone.is_set() and time.monotonic() < due
    finally:
        watching.cancel()


def _clean_each(
    request: Request,
    policy: CleaningPolicy,
    objects: Iterator[IO[bytes]],
    related: RelatedAnswer,
    waits: Callable[[], bool],
) -> list[Answer]:
    """Clean one object after the other and add it to ``related``. Raises Unreadable."""
    answers: list[Answer] = []
    most = request.app.state.settings.decoded_mib
    for received in objects:
        with received:
            if related.size > most << 20:
                answers.append(Answer(Outcome.TOO_LARGE, f"the cleaned objects have more than {most} MiB"))
                continue
            answer, cleaned = _carry_out(request, Task(policy=policy), received, waits)
            if cleaned is not None and answer.media_type != DICOM:
                cleaned.close()
                answer, cleaned = Answer(Outcome.UNSUPPORTED, "not DICOM (Part 10)"), None
            if cleaned is not None:
                related.add(cleaned, DICOM)
            answers.append(answer)
    return answers


_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image", "sensitive_data_list"],
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        "sensitive_data_list": {"type": "string", "description": "JSON: text by keyword."},
                        "sop_instance_uid": {"type": "string"},
                    },
                }
            }
        },
    }
}


@router.post("/deidentify-image", responses=_ANSWERS, openapi_extra=_FORM)
async def deidentify_image(request: Request) -> dict[str, Any]:
    """Karnak's contract: where the image must be covered. One rectangle of one pixel in its own colour says
    that nothing has to be.
    """
    form, answer = await _looked_at(request)
    masks = answer.report["masks"]
    count = sum(len(mask["rectangles"]) for mask in masks)
    if masks[0]["rectangles"] == ["0 0 1 1"]:
        count = 0
    text = f"{count} sensitive data detected" if count else "No sensitive data detected"
    return {"masks": masks, "message": text} | _echoed(form)


@router.post("/reporting", responses=_ANSWERS, openapi_extra=_FORM)
async def reporting(request: Request) -> dict[str, Any]:
    """Karnak's contract: the names of the tags whose values stand in the image."""
    form, answer = await _looked_at(request)
    tags = answer.report["detected_tags"]
    text = f"{len(tags)} sensitive tags detected" if tags else "No sensitive data detected"
    return {"detected_tags": tags, "message": text} | _echoed(form)


def _echoed(form: dict[str, str]) -> dict[str, str]:
    """The SOP Instance UID of the form, without which Karnak drops the answer."""
    return {"sop_instance_uid": form["sop_instance_uid"]} if "sop_instance_uid" in form else {}


async def _looked_at(request: Request) -> tuple[dict[str, str], Answer]:
    """Read Karnak's form and have its image looked at. Raises HTTPException, also where the image cannot be
    cleaned, and RequestValidationError for a field that is missing.
    """
    accept = request.headers.get("accept", "")
    asked = re.search(r"version\s*=\s*\"?([^\s;,\"]*)", accept)
    if asked and asked[1] not in _VERSIONS:
        raise HTTPException(406, f"Unsupported API version {asked[1][:10]}. Supported: [1]")
    _check_charset(request.headers.get("content-type", ""))
    async with request.form(max_files=1, max_fields=40, max_part_size=MOST_BYTES) as sent:
        image = sent.get("image")
        form = {name: value for name, value in sent.items() if isinstance(value, str)}
        missing = [
            name
            for name, there in (
                ("image", isinstance(image, UploadFile)),
                ("sensitive_data_list", "sensitive_data_list" in form),
            )
            if not there
        ]
        if missing or not isinstance(image, UploadFile):
            raise RequestValidationError(
                [{"type": "missing", "loc": ("body", name), "msg": "Field required"} for name in missing]
            )
        _check_sensitive(form["sensitive_data_list"])
        # What may be letters and cannot be read is covered, too: nobody reviews it there.
        task = Task("masks", in_doubt=InDoubt.BOX, form=form)
        if len(task.packed()) > MOST_BYTES:
            raise HTTPException(413, f"the fields of the form have more than {MOST_BYTES} bytes")
        async with _waiting(request) as waits:
            answer, _ = await run_in_threadpool(_carry_out, request, task, image.file, waits)
    if answer.outcome is not Outcome.CLEANED:
        raise HTTPException(STATUSES[answer.outcome], answer.reason)
    return form, answer


def _check_charset(content_type: str) -> None:
    """Raise HTTPException for a form in another character set than UTF-8: some take minutes to decode."""
    named = re.search(r"charset\s*=\s*\"?([^\s;\"]*)", content_type, re.IGNORECASE)
    if named and named[1].lower() not in ("utf-8", "us-ascii"):
        raise HTTPException(415, "send the fields of the form in UTF-8")


def _check_sensitive(text: str) -> None:
    """Raise HTTPException unless the text is a JSON object of texts."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise HTTPException(400, "Invalid JSON format for the sensitive data.") from None
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise HTTPException(400, "sensitive_data_list must be a JSON object.")


def _carry_out(
    request: Request, task: Task, received: IO[bytes], waits: Callable[[], bool]
) -> tuple[Answer, IO[bytes] | None]:
    """Have a task carried out; returns the answer, and the cleaned file if there is one. Whatever was written
    for another outcome than ``cleaned`` is dropped.
    """
    state = request.app.state
    received.flush()
    received.seek(0)
    cleaned: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (it outlives this function)
    is_handed_back = False
    try:
        answer = state.cleaning.answer(task, received.fileno(), cleaned.fileno(), waits)
        state.metrics.objects.labels(answer.outcome.value).inc()
        is_handed_back = answer.outcome is Outcome.CLEANED and bool(answer.media_type)
    finally:
        if not is_handed_back:
            cleaned.close()
    return answer, cleaned if is_handed_back else None


def _refused(answer: Answer) -> Response:
    """The answer to an image of which no cleaned one is handed back."""
    return JSONResponse(answer.as_json(), STATUSES[answer.outcome])


def _related(related: RelatedAnswer, report: Any, status: int = 200) -> Response:
    """An answer with a report and the cleaned files."""
    kind = f'multipart/related; type="application/json"; boundary="{related.boundary}"'
    return _Streamed(related.chunks(report), related, status, kind)


class _Streamed(StreamingResponse):
    """An answer of a file, which is closed also if the caller does not take it."""

    def __init__(
        self, content: Iterator[bytes], file: IO[bytes] | RelatedAnswer, status: int, media_type: str
    ) -> None:
        super().__init__(content, status, media_type=media_type)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._file.close()


async def _answer_invalid(request: Request, error: Exception) -> Response:
    """Answer a request whose parameters or fields are not valid, without their values: 422 to Karnak, as its
    contract says; else 400, since 422 says "withheld".
    """
    assert isinstance(error, RequestValidationError)
    said = [{key: found[key] for key in ("type", "loc", "msg")} for found in error.errors()]
    return JSONResponse({"detail": said}, 400 if request.url.path in ("/clean", "/studies") else 422)


async def _answer_unreadable(_request: Request, error: Exception) -> Response:
    """Answer a request whose parts cannot be read."""
    return JSONResponse({"detail": str(error)}, 400)


async def _answer_no_path(_request: Request, _error: Exception) -> JSONResponse:
    """Answer who opens the address in a browser, or mistypes a path."""
    return JSONResponse({"detail": "there is no such path: /openapi.json describes all"}, 404)


async def _answer_nobody(_request: Request, _error: Exception) -> Response:
    """The caller is gone: nobody reads this."""
    return Response(status_code=400)
