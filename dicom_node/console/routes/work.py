"""Jobs and deliveries: what waits, why, since when; what an operator may do to them."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response

from dicom_node.console.web.access import Asked, Number, Since, Visit, needs, see_other
from dicom_node.model.lifecycle import OPEN_DELIVERIES, DeliveryState, JobState
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, work
from dicom_node.services.console.studies import listing
from dicom_node.store import views

router = APIRouter()

_PAGE = 100
Change = Literal["retry", "put_first", "cancel"]


@router.get("/jobs")
@needs(UserRole.VIEWER)
def jobs(asked: Asked, state: JobState | None = None, before: Since = None) -> Response:
    """The newest first."""
    audit.note_list(asked.site.database, asked.person, "jobs")
    with asked.site.database.read() as session:
        rows = views.list_jobs(
            session,
            states=[state] if state else (),
            limit=_PAGE + 1,
            before=before,
            workers=max(asked.site.settings.workers.processes, 1),
        )
        named = listing.named(session, rows)
    return asked.page(
        "jobs.html", rows=rows[:_PAGE], more=rows[_PAGE - 1]["job"] if len(rows) > _PAGE else None,
        first=before is None, state=state, named=named, states=list(JobState),
    )  # fmt: skip


@router.post("/jobs/{number}/{change}")
@needs(UserRole.OPERATOR)
def change_job(asked: Asked, number: Number, change: Change) -> Response:
    """Run again, put first, cancel."""
    work.change_job(asked.site.settings, number, change, asked.person)
    return _back(asked, "/jobs")


@router.get("/outbox")
@needs(UserRole.VIEWER)
def outbox(
    asked: Asked,
    state: DeliveryState | Literal["open"] | None = None,
    to: str = "",
    before: Since = None,
) -> Response:
    """The newest first; "open": all that is on its way. ``to``: only to this peer."""
    states = OPEN_DELIVERIES if state == "open" else {state} if isinstance(state, DeliveryState) else ()
    audit.note_list(asked.site.database, asked.person, "outbox")
    with asked.site.database.read() as session:
        rows = views.list_deliveries(session, states=states, destination=to, limit=_PAGE + 1, before=before)
        named = listing.named(session, rows)
        dead = listing.dead_by_destination(session)
    return asked.page(
        "outbox.html", rows=rows[:_PAGE], more=rows[_PAGE - 1]["delivery"] if len(rows) > _PAGE else None,
        first=before is None, state=state, to=to, named=named, states=["open", *DeliveryState], dead=dead,
        longest=work.LONGEST, shortest=work.SHORTEST,
    )  # fmt: skip


@router.post("/outbox/retry-dead")
@needs(UserRole.OPERATOR)
def retry_dead(asked: Asked) -> Response:
    """Send again all that was given up, to one destination or to all."""
    work.retry_deliveries(asked.site.settings, destination=_destination(asked), by=asked.person)
    return see_other("/outbox", state="open")


@router.post("/outbox/discard-dead")
@needs(UserRole.OPERATOR)
def discard_dead(asked: Asked) -> Response:
    """Discard all that was given up, to one destination or to all."""
    work.discard_deliveries(
        asked.site.settings, because=asked.text("because"), destination=_destination(asked), by=asked.person
    )
    return see_other("/outbox", state="discarded")


@router.post("/outbox/{number}/retry")
@needs(UserRole.OPERATOR)
def retry(asked: Asked, number: Number) -> Response:
    """Send again, or now what waits."""
    work.retry_deliveries(asked.site.settings, [number], by=asked.person)
    return _back(asked, "/outbox")


@router.post("/outbox/{number}/discard")
@needs(UserRole.OPERATOR)
def discard(asked: Asked, number: Number) -> Response:
    """Send it no more."""
    work.discard_deliveries(asked.site.settings, [number], because=asked.text("because"), by=asked.person)
    return _back(asked, "/outbox")


def _destination(asked: Visit) -> str:
    return asked.text("destination")[:64]


def _back(asked: Visit, place: str) -> Response:
    """To the page whose form was sent: a study's, or the list."""
    if asked.text("study").isdecimal():
        return see_other(f"/studies/{asked.text('study')}")
    return see_other(place, state=asked.text("state")[:16], to=asked.text("to")[:64])
