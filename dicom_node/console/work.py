"""Jobs and deliveries: what waits, why, since when; what an operator may do to them."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response

from dicom_node import services
from dicom_node.console.access import Asked, needs, see_other
from dicom_node.model.lifecycle import OPEN_DELIVERIES, DeliveryState, JobState
from dicom_node.model.roles import UserRole
from dicom_node.services.console import studies
from dicom_node.store import views

router = APIRouter()

_PAGE = 100
Change = Literal["retry", "put_first", "cancel"]


@router.get("/jobs")
@needs(UserRole.VIEWER)
def jobs(asked: Asked, state: JobState | None = None, before: int | None = None) -> Response:
    """The newest first."""
    with asked.site.database.read() as session:
        rows = views.list_jobs(
            session,
            states=[state] if state else (),
            limit=_PAGE + 1,
            before=before,
            workers=max(asked.site.settings.workers.processes, 1),
        )
        numbers = studies.numbers(session, rows)
    return asked.page(
        "jobs.html", rows=rows[:_PAGE], more=rows[_PAGE - 1]["job"] if len(rows) > _PAGE else None,
        first=before is None, state=state, numbers=numbers, states=list(JobState),
    )  # fmt: skip


@router.post("/jobs/{number}/{change}")
@needs(UserRole.OPERATOR)
def change_job(asked: Asked, number: int, change: Change) -> Response:
    """Run again, put first, cancel."""
    services.change_job(asked.site.settings, number, change, asked.person)
    return see_other("/jobs", state=asked.text("state")[:16])


@router.get("/outbox")
@needs(UserRole.VIEWER)
def outbox(
    asked: Asked, state: DeliveryState | Literal["open"] | None = None, before: int | None = None
) -> Response:
    """The newest first; "open": all that is on its way."""
    states = OPEN_DELIVERIES if state == "open" else {state} if isinstance(state, DeliveryState) else ()
    with asked.site.database.read() as session:
        rows = views.list_deliveries(session, states=states, limit=_PAGE + 1, before=before)
        numbers = studies.numbers(session, rows)
    return asked.page(
        "outbox.html", rows=rows[:_PAGE], more=rows[_PAGE - 1]["delivery"] if len(rows) > _PAGE else None,
        first=before is None, state=state, numbers=numbers, states=["open", *DeliveryState],
    )  # fmt: skip


@router.post("/outbox/retry-dead")
@needs(UserRole.OPERATOR)
def retry_dead(asked: Asked) -> Response:
    """Send again all that was given up, to one destination or to all."""
    to = asked.text("destination")[:64]
    services.retry_deliveries(asked.site.settings, destination=to, by=asked.person)
    return see_other("/outbox", state="open")


@router.post("/outbox/{number}/retry")
@needs(UserRole.OPERATOR)
def retry(asked: Asked, number: int) -> Response:
    """Send again, or now what waits."""
    services.retry_deliveries(asked.site.settings, [number], by=asked.person)
    return see_other("/outbox", state=asked.text("state")[:16])
