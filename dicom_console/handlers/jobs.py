"""Jobs: the list with states and reasons, and the actions of an operator."""

from __future__ import annotations

from typing import Annotated

from fastapi import Body, Query, Response

from dicom_console.views import listing
from dicom_console.web.access import Asked, Number, Since, Visit
from dicom_console.web.faces import ROWS, Faces, back_to, back_to_form, page_and_next
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


@faces.handler("GET", "/jobs", UserRole.VIEWER)
def jobs(asked: Asked, state: Annotated[list[JobState] | None, Query()] = None, before: Since = None) -> Jobs:
    """Jobs, the newest first."""
    workers = asked.read(processes_at_work, asked.settings)
    rows = asked.read(views.list_jobs, states=state or (), limit=ROWS + 1, before=before, workers=workers)
    shown, after = page_and_next(rows, "job")
    return Jobs(jobs=[JobRow(**row) for row in shown], next=after)


@faces.page_of(jobs)
def _jobs_page(asked: Visit, found: Jobs) -> Response:
    audit.note_list(asked.site.database, asked.person, "jobs")
    return asked.page(
        "jobs.html",
        rows=found.jobs,
        more=found.next,
        first=not asked.query("before"),
        state=asked.query("state"),
        named=asked.read(listing.named, found.jobs),
        stuck=asked.read(stuck),
        states=list(JobState),
    )


@faces.handler("POST", "/jobs/run-all", UserRole.OPERATOR, back_to("/jobs", state="queued"))
def run_all_jobs(asked: Asked, wanted: Annotated[StuckJobs, Body()]) -> Done:
    """Run all jobs that were held, failed or were cancelled; of one rule where one is named."""
    number = run_all(asked.settings, [JobState(wanted.state)], rule=wanted.rule, by=asked.person)
    return Done(objects=number)


@faces.handler("POST", "/jobs/{number}/{change}", UserRole.OPERATOR, back_to_form("/jobs"))
def change_job(asked: Asked, number: Number, change: Change) -> None:
    """Run a job again, put it first in the queue, or cancel it."""
    change_jobs(asked.settings, [number], change, asked.person)
