"""The REST API: what the pages show and change, for programs with a token. Answers are JSON, errors too."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, HTTPException, Query
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from dicom_node import __version__, services
from dicom_node.console.routes import upload
from dicom_node.console.routes.programs import assessments, configuration, reviews
from dicom_node.console.routes.programs.answers import (
    STATUSES,
    VERSION,
    Asking,
    Because,
    Done,
    Name,
    Printable,
    Row,
)
from dicom_node.console.routes.studies import Date, Finding, Modality, Sender
from dicom_node.console.web.access import Asked, Number, Since, form_of, needs
from dicom_node.errors import FaultyInput
from dicom_node.model.kinds import AuditAction, NotificationState
from dicom_node.model.lifecycle import DeliveryState, JobState, StudyState
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, entered, notifications, work
from dicom_node.services.console.peers import directory
from dicom_node.services.console.studies import listing, search
from dicom_node.services.console.studies.search import Order, Search
from dicom_node.store import views

UPLOAD = f"{VERSION}/upload"
_PAGE = 100


class StudyRow(Row):
    """A study; ``id`` is its number here."""

    id: int
    study: str
    state: StudyState
    reason: str
    revision: int


class JobRow(Row):
    """A job."""

    job: int
    rule: str
    state: JobState


class DeliveryRow(Row):
    """A result on its way to a peer."""

    delivery: int
    destination: str
    state: DeliveryState


class PeerRow(Row):
    """A configured peer; ``version`` is null where it stands in the configuration files."""

    name: str
    ae_title: str
    version: int | None


class PeerCheck(BaseModel):
    """What was tried with a peer."""

    peer: str
    check: str
    ok: bool
    text: str


class Studies(BaseModel):
    """One page; ``next`` is ``after`` of the next one, null at the end."""

    studies: list[StudyRow]
    next: int | None


class Jobs(BaseModel):
    """One page; ``next`` is ``before`` of the next one, null at the end."""

    jobs: list[JobRow]
    next: int | None


class Deliveries(BaseModel):
    """One page; ``next`` is ``before`` of the next one, null at the end."""

    deliveries: list[DeliveryRow]
    next: int | None


class NotificationRow(Row):
    """Who was told of what."""

    notification: int
    rule: str
    state: NotificationState


class Notifications(BaseModel):
    """One page; ``next`` is ``before`` of the next one, null at the end."""

    notifications: list[NotificationRow]
    next: int | None


class UploadedRow(BaseModel):
    """One uploaded file; ``refusal`` is empty where it was taken."""

    name: str
    refusal: str


class Wanted(Asking):
    """Whole values, or their beginning and an asterisk. They never stand in an address."""

    patient: str = Field("", max_length=64, pattern=Printable)
    accession: str = Field("", max_length=16, pattern=Printable)


class To(Asking):
    """The name of a configured peer."""

    peer: str = Field(max_length=64, pattern=Printable)


router = APIRouter(prefix=VERSION, responses=STATUSES)


@router.get("/openapi.json", include_in_schema=False)
@needs(UserRole.VIEWER)
def schema() -> dict[str, Any]:
    """This interface in the words of OpenAPI."""
    routers = (router, assessments.router, configuration.router, reviews.router)
    routes = [route for one in routers for route in one.routes]
    found = get_openapi(
        title="DICOM AI node", version=__version__, routes=routes,
        description="Not for diagnostic use. Each token has a user, and may what that user may.",
    )  # fmt: skip
    bearer = {"type": "http", "scheme": "bearer"}
    found.setdefault("components", {})["securitySchemes"] = {"token": bearer}
    for operations in found["paths"].values():
        for operation in operations.values():  # what cannot be read is 400 here
            operation["responses"].pop("422", None)
    return found | {"security": [{"token": []}]}


@router.get("/studies")
@needs(UserRole.VIEWER)
def list_studies(
    asked: Asked,
    state: Annotated[list[StudyState | Literal["held"]] | None, Query()] = None,
    modality: Modality = "",
    sender: Sender = "",
    finding: Finding = "",
    since: Date = "",
    until: Date = "",
    order: Order = Order.RECEIVED,
    after: Since = None,
) -> Studies:
    """Studies; ``since`` and ``until`` are Study Dates, YYYY-MM-DD, ``sender`` is a calling AE title.

    ``finding``: what a newest report calls present.
    """
    wanted = Search(
        modality=modality, sender=sender.strip(), finding=finding.strip(),
        since=since.replace("-", ""), until=until.replace("-", ""), states=state or (), order=order,
    )  # fmt: skip
    audit.note_list(asked.site.database, asked.person, "studies")
    return _studies(asked, wanted, after)


@router.post("/studies/search")
@needs(UserRole.VIEWER)
def search_studies(asked: Asked, wanted: Annotated[Wanted, Body()], after: Since = None) -> Studies:
    """Studies of a patient, or with an accession number."""
    with asked.site.database.write() as session:
        by = [key for key, value in wanted if value]
        audit.note(session, asked.person, AuditAction.STUDY_SEARCHED, searched_by=by)
    return _studies(asked, Search(patient=wanted.patient, accession=wanted.accession), after)


@router.get("/studies/{number}")
@needs(UserRole.VIEWER)
def show(asked: Asked, number: Number) -> StudyRow:
    """One study with its images, findings, results, jobs and events."""
    site = asked.site
    with site.database.read() as session:
        study = listing.show(session, site.settings, number)
    audit.note_sight(site.database, asked.person, number)
    return StudyRow(**study)


@router.post("/studies/{number}/rerun")
@needs(UserRole.OPERATOR)
def rerun(asked: Asked, number: Number) -> list[Row]:
    """Apply the rules once more; a row for each rule that takes the study."""
    with asked.site.database.read() as session:
        uid = listing.uid(session, number)
    return [Row(**row) for row in services.rerun_studies(asked.site.settings, [uid], asked.person)]


@router.post("/studies/{number}/send")
@needs(UserRole.OPERATOR)
def send(asked: Asked, number: Number, to: Annotated[To, Body()]) -> Done:
    """Send the newest results to a further peer."""
    with asked.site.database.read() as session:
        uid = listing.uid(session, number)
    return Done(objects=work.send_study(asked.site.settings, uid, to.peer, asked.person))


@router.get("/jobs")
@needs(UserRole.VIEWER)
def jobs(asked: Asked, state: Annotated[list[JobState] | None, Query()] = None, before: Since = None) -> Jobs:
    """Jobs, the newest first."""
    with asked.site.database.read() as session:
        rows = views.list_jobs(session, states=state or (), limit=_PAGE + 1, before=before, workers=0)
    return Jobs(jobs=[JobRow(**row) for row in rows[:_PAGE]], next=_next(rows, "job"))


@router.post("/jobs/{number}/{change}", status_code=204)
@needs(UserRole.OPERATOR)
def change_job(asked: Asked, number: Number, change: Literal["retry", "put_first", "cancel"]) -> None:
    """Run again, put first, cancel."""
    work.change_job(asked.site.settings, number, change, asked.person)


@router.get("/outbox")
@needs(UserRole.VIEWER)
def outbox(
    asked: Asked,
    state: Annotated[list[DeliveryState] | None, Query()] = None,
    to: Annotated[str, Query(max_length=64, pattern=Printable)] = "",
    before: Since = None,
) -> Deliveries:
    """Deliveries, the newest first."""
    with asked.site.database.read() as session:
        rows = views.list_deliveries(
            session, states=state or (), destination=to, limit=_PAGE + 1, before=before
        )
    shown = [DeliveryRow(**row) for row in rows[:_PAGE]]
    return Deliveries(deliveries=shown, next=_next(rows, "delivery"))


@router.post("/outbox/{number}/retry", status_code=204)
@needs(UserRole.OPERATOR)
def retry(asked: Asked, number: Number) -> None:
    """Send again, or now what waits."""
    work.retry_deliveries(asked.site.settings, [number], by=asked.person)


@router.post("/outbox/{number}/discard", status_code=204)
@needs(UserRole.OPERATOR)
def discard(asked: Asked, number: Number, why: Annotated[Because, Body()]) -> None:
    """Send it no more."""
    work.discard_deliveries(asked.site.settings, [number], because=why.because, by=asked.person)


@router.get("/notifications")
@needs(UserRole.OPERATOR)
def told(
    asked: Asked,
    state: Annotated[list[NotificationState] | None, Query()] = None,
    before: Since = None,
) -> Notifications:
    """Notifications, the newest first."""
    with asked.site.database.read() as session:
        rows = notifications.list_notifications(session, states=state or (), limit=_PAGE + 1, before=before)
    shown = [NotificationRow(**row) for row in rows[:_PAGE]]
    return Notifications(notifications=shown, next=_next(rows, "notification"))


@router.post("/notifications/{number}/retry", status_code=204)
@needs(UserRole.OPERATOR)
def tell_again(asked: Asked, number: Number) -> None:
    """Send again what was given up."""
    notifications.send_again(asked.site.settings, [number], by=asked.person)


@router.get("/peers")
@needs(UserRole.VIEWER)
def peers(asked: Asked) -> list[PeerRow]:
    """The configured peers, each with its last association."""
    with asked.site.database.read() as session:
        known = entered.listed(session, "peers")
        found = directory.peers(session, asked.site.settings)
    return [PeerRow(**row, version=known.get(row["name"], {}).get("version")) for row in found]


@router.post("/peers/{name}/test")
@needs(UserRole.OPERATOR)
def test_peer(asked: Asked, name: Name) -> list[PeerCheck]:
    """Try what delivery to it needs; nothing is stored."""
    asked.site.settings.peer(name)
    return [PeerCheck(**row) for row in services.test_peers(asked.site.settings, [name], asked.person)]


_UPLOADED = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        **{name: {"type": "string"} for name in upload.FIELDS},
                    },
                    "required": ["files"],
                }
            }
        },
    }
}


@router.post(UPLOAD.removeprefix(VERSION), openapi_extra=_UPLOADED)
@needs(UserRole.OPERATOR)
async def take(asked: Asked) -> list[UploadedRow]:
    """DICOM files, ZIPs of them, PNG and JPEG (with what is said of patient and study)."""
    async with upload.received(asked, form_of) as form:
        try:
            found = await run_in_threadpool(upload.taken, asked, form)
        except FaultyInput as error:
            raise HTTPException(400, str(error)) from None
    return [UploadedRow(name=row.name, refusal=row.refusal) for row in found.files]


def _studies(asked: Asked, wanted: Search, after: int | None) -> Studies:
    with asked.site.database.read() as session:
        rows, more = search.search(session, wanted, after)
    return Studies(studies=[StudyRow(**row) for row in rows], next=more)


def _next(rows: list[views.View], key: str) -> int | None:
    return rows[_PAGE - 1][key] if len(rows) > _PAGE else None
