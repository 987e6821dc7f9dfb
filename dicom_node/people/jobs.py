"""A person's actions on jobs, each in the audit: run again, put first, cancel."""

import hashlib
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Annotated, Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.base.actions.action import Action, Input
from dicom_node.base.actions.inputs import Since, numbers, states
from dicom_node.base.actions.nouns import JOBS
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotAllowedNow, NotFound
from dicom_node.base.lifecycle import (
    AuditAction,
    JobState,
    StudyState,
    UserRole,
)
from dicom_node.base.store import queue
from dicom_node.base.store.tables import (
    Job,
    Study,
)
from dicom_node.base.store.views import View
from dicom_node.jobs.queue import cancel, put_first, retry
from dicom_node.people import (
    ServiceRequest,
    audit,
    open_database,
    writing,
)
from dicom_node.people.audit import COMMAND_LINE, Person

JobNumbers = Annotated[Sequence[int], numbers("jobs", "JOB")]
Change = Literal["retry", "put_first", "cancel"]
STUCK = (JobState.HELD, JobState.FAILED, JobState.CANCELLED)
"""States of a job that goes on only if a person wants it."""
_AT_ONCE = 100  # jobs that are changed together: others write between
_MAY_RUN = (Job.study_revision == Study.revision) & Study.state.not_in(
    (StudyState.RECEIVING, StudyState.QUARANTINED)
)


class StuckJobs(ServiceRequest):
    """A request to run jobs again that are in this state; ``rule``: only jobs of this rule, "" for all.

    Such jobs continue only if a person wants it.
    """

    state: Literal["held", "failed", "cancelled"]
    rule: str = ""


def stuck_jobs(session: Session) -> list[View]:
    """Rows with the number of ``jobs`` that a person may run again, for each ``state`` and ``rule``."""
    return [
        {"state": state, "rule": rule, "jobs": number}
        for state, rule, number in session.execute(
            select(Job.state, Job.rule, func.count())
            .join(Study)
            .where(_MAY_RUN, Job.state.in_(STUCK))
            .group_by(Job.state, Job.rule)
            .order_by(Job.state, Job.rule)
        )
    ]


@Action(
    JOBS,
    "retry",
    "Run jobs that failed, were held or were cancelled: these, or all in a --state.",
    "--state held --rule chest --since 2h --config node.toml",
    says="{result} job{s} queued.",
    either=("numbers", "states"),
    role=UserRole.OPERATOR,
)
def run_jobs_again(
    settings: Settings,
    numbers: JobNumbers = (),
    states: Annotated[Collection[JobState], states(JobState.HELD, JobState.FAILED, JobState.CANCELLED)] = (),
    *,
    rule: Annotated[str, Input("With --state: only jobs of this rule.", "--rule", "RULE")] = "",
    since: Since = None,
    by: Person = COMMAND_LINE,
) -> int:
    """Queue these jobs again, all of them or none; without ``numbers`` all jobs in these states (of
    :data:`STUCK`).

    ``rule``: only jobs of this rule, "" for all. ``since``: only jobs made since then. Returns how many; of
    all jobs in a state one that changes meanwhile is left out. Raises NotFound, NotAllowedNow.
    """
    if numbers:
        _change_jobs(settings, numbers, "retry", by)
        return len(numbers)
    chosen = select(Job.id).join(Study).where(_MAY_RUN, Job.state.in_(states))
    if rule:
        chosen = chosen.where(Job.rule == rule)
    if since is not None:
        chosen = chosen.where(Job.created_at >= since)
    done = 0
    with open_database(settings) as database:
        with database.read() as session:
            found = list(session.scalars(chosen.order_by(Job.id)))
        for first in range(0, len(found), _AT_ONCE):
            with database.write() as session:
                batch = found[first : first + _AT_ONCE]
                queue.lock_studies_of(session, batch)
                for job_id in batch:
                    with suppress(NotFound, NotAllowedNow):  # before it changes anything
                        _change_job(session, job_id, "retry", by)
                        done += 1
    return done


@Action(
    JOBS,
    "first",
    "Put jobs that wait before all others: all of these or none.",
    "17 --config node.toml",
    says="Put first: {numbers}.",
    role=UserRole.OPERATOR,
)
def put_jobs_first(
    settings: Settings,
    numbers: JobNumbers,
    by: Person = COMMAND_LINE,
) -> None:
    """Put these jobs first in the queue: all of them or none. Raises NotFound, NotAllowedNow."""
    _change_jobs(settings, numbers, "put_first", by)


@Action(
    JOBS,
    "cancel",
    "Cancel jobs, all of these or none; one that runs is stopped at its next step.",
    "17 --config node.toml",
    says="Cancelled, or will be at the next step: {numbers}.",
    role=UserRole.OPERATOR,
)
def cancel_jobs(
    settings: Settings,
    numbers: JobNumbers,
    by: Person = COMMAND_LINE,
) -> None:
    """Cancel these jobs: all of them or none. Raises NotFound, NotAllowedNow."""
    _change_jobs(settings, numbers, "cancel", by)


def _change_jobs(
    settings: Settings,
    numbers: Sequence[int],
    change: Change,
    by: Person,
) -> None:
    """Cancel these jobs, run them again or put them first in the queue (``change``): all of them or none.

    ``numbers``: of the jobs. Raises NotFound, NotAllowedNow.
    """
    with writing(settings) as session:
        queue.lock_studies_of(session, numbers)
        for job_id in dict.fromkeys(numbers):
            _change_job(session, job_id, change, by)


def _change_job(session: Session, job_id: int, change: Change, by: Person) -> None:
    """Cancel one job, run it again or put it first in the queue, and note it in the audit."""
    {"retry": retry, "put_first": put_first, "cancel": cancel}[change](session, job_id)
    job = session.get_one(Job, job_id)
    audit.note(
        session,
        by,
        AuditAction.JOB_CHANGED,
        study_id=job.study_id,
        what={"change": change, "rule": job.rule, "images": sources_sha256(job)},
        job=job_id,
        change=change,
    )


def sources_sha256(job: Job) -> str:
    """A hash of the UIDs of the job's images, by which a job is found again after a restore gave it another
    number.
    """
    return hashlib.sha256(" ".join(sorted(job.source_uids)).encode()).hexdigest()
