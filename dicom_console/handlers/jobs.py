"""Jobs: the list with states and reasons, and the actions of an operator."""

from __future__ import annotations

from typing import Annotated

from fastapi import Body, Query, Response

from dicom_console.views import listing
from dicom_console.web.access import Asked, Number, Since, Visit, back_to_form
from dicom_console.web.faces import Faces, back_to, page_and_next
from dicom_node.model.lifecycle import JobState
from dicom_node.model.roles import UserRole
from dicom_node.services import audit
from dicom_node.services.jobs import (
    Change,
    JobRow,
    Jobs,
    StuckJobs,
    change_jobs,
    processes_at_work,
    run_all,
    stuck,
)
from dicom_node.services.typed import Done
from dicom_node.store import views

faces = Faces()

_PAGE = 100


@faces.handler("GET", "/jobs", UserRole.VIEWER)
def jobs(asked: Asked, state: Annotated[list[JobState] | None, Query()] = None, before: Since = None) -> Jobs:
    """Jobs, the newest first."""
    with asked.site.database.read() as session:
        workers = processes_at_work(session, asked.site.settings)
        rows = views.list_jobs(session, states=state or (), limit=_PAGE + 1, before=before, workers=workers)
    shown, after = page_and_next(rows, _PAGE, "job")
    return Jobs(jobs=[JobRow(**row) for row in shown], next=after)


@faces.page_of(jobs)
def _jobs_page(asked: Visit, found: Jobs) -> Response:
    audit.note_list(asked.site.database, asked.person, "jobs")
    with asked.site.database.read() as session:
        named, waiting = listing.named(session, found.jobs), stuck(session)
    return asked.page(
        "jobs.html",
        rows=found.jobs,
        more=found.next,
        first=not asked.query("before"),
        state=asked.query("state"),
        named=named,
        stuck=waiting,
        states=list(JobState),
    )


def _back(asked: Visit, _done: None) -> Response:
    return back_to_form(asked, "/jobs")


@faces.handler("POST", "/jobs/run-all", UserRole.OPERATOR, back_to("/jobs", state="queued"))
def run_all_jobs(asked: Asked, wanted: Annotated[StuckJobs, Body()]) -> Done:
    """Run all jobs that were held, failed or were cancelled; of one rule where one is named."""
    number = run_all(asked.site.settings, [JobState(wanted.state)], rule=wanted.rule, by=asked.person)
    return Done(objects=number)


@faces.handler("POST", "/jobs/{number}/{change}", UserRole.OPERATOR, _back)
def change_job(asked: Asked, number: Number, change: Change) -> None:
    """Run a job again, put it first in the queue, or cancel it."""
    change_jobs(asked.site.settings, [number], change, asked.person)
