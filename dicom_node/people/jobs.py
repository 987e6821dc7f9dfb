"""A person's actions on jobs (run again, put first, cancel) and on the machines that do them; each change is
in the audit.
"""

import hashlib
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotAllowedNow, NotFound
from dicom_node.base.kinds import AuditAction
from dicom_node.base.lifecycle import JobState, StudyState
from dicom_node.base.store.tables import Job, Study
from dicom_node.base.store.views import View
from dicom_node.jobs.enqueue import cancel, put_first, retry
from dicom_node.people import Row, ServiceRequest, audit, open_database, writing
from dicom_node.people.monitoring import processes

Change = Literal["retry", "put_first", "cancel"]
STUCK = (JobState.HELD, JobState.FAILED, JobState.CANCELLED)
"""States of a job that goes on only if a person wants it."""
_AT_ONCE = 100  # jobs that are changed together: others write between
_MAY_RUN = (Job.study_revision == Study.revision) & Study.state.not_in(
    (StudyState.RECEIVING, StudyState.QUARANTINED)
)


class JobRow(Row):
    """A job."""

    job: int
    rule: str
    state: JobState


class StuckJobs(ServiceRequest):
    """Jobs that go on only if a person wants it: those in a state, of one rule or of all."""

    state: Literal["held", "failed", "cancelled"]
    rule: str = ""


def change_jobs(
    settings: Settings,
    numbers: Sequence[int],
    change: Change,
    by: audit.Person = audit.COMMAND_LINE,
) -> None:
    """Apply one of the actions on jobs (``jobs.by_hand``) to all of these or none. Raises NotFound,
    NotAllowedNow.
    """
    with writing(settings) as session:
        for job_id in dict.fromkeys(numbers):
            _change(session, job_id, change, by)


def _change(session: Session, job_id: int, change: Change, by: audit.Person) -> None:
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


def stuck(session: Session) -> list[View]:
    """The number of jobs that a person may run again: a row with ``jobs`` for each ``state`` and ``rule``."""
    rows = session.execute(
        select(Job.state, Job.rule, func.count())
        .join(Study, Job.study_id == Study.id)
        .where(_MAY_RUN, Job.state.in_(STUCK))
        .group_by(Job.state, Job.rule)
        .order_by(Job.state, Job.rule)
    )
    return [{"state": state, "rule": rule, "jobs": number} for state, rule, number in rows]


def run_again(
    settings: Settings,
    numbers: Sequence[int] = (),
    states: Collection[JobState] = (),
    *,
    rule: str = "",
    since: datetime | None = None,
    by: audit.Person = audit.COMMAND_LINE,
) -> int:
    """Queue these jobs, all or none, or all jobs in these states (of :data:`STUCK`); returns how many.

    ``rule``: only jobs of this rule. ``since``: only jobs made since then. Of all in a state one that changes
    meanwhile is left out. Raises NotFound, NotAllowedNow.
    """
    if numbers:
        change_jobs(settings, numbers, "retry", by)
        return len(numbers)
    chosen = select(Job.id).join(Study, Job.study_id == Study.id).where(_MAY_RUN, Job.state.in_(states))
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
                for job_id in found[first : first + _AT_ONCE]:
                    with suppress(NotFound, NotAllowedNow):  # before it changes anything
                        _change(session, job_id, "retry", by)
                        done += 1
    return done


def sources_sha256(job: Job) -> str:
    """A hash of the job's images: a restored job with another number has the same hash."""
    return hashlib.sha256(" ".join(sorted(job.source_uids)).encode()).hexdigest()


def forget_machine(settings: Settings, machine: str, by: audit.Person = audit.COMMAND_LINE) -> int:
    """Forget the lost processes of a removed machine; returns how many.

    Raises NotFound if no process of this machine is lost.
    """
    with writing(settings) as session:
        forgotten = processes.forget_machine(session, machine)
        if not forgotten:
            raise NotFound(f"no lost process is of a machine called {machine!r}")
        audit.note(session, by, AuditAction.MACHINE_REMOVED, machine=machine, processes=forgotten)
    return forgotten
