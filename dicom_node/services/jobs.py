"""What a person may do to jobs: run again, put first, cancel; each change is in the audit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy.orm import Session

from dicom_node import jobs
from dicom_node.config.settings import Settings
from dicom_node.model.kinds import AuditAction
from dicom_node.model.lifecycle import JobState
from dicom_node.model.roles import Role
from dicom_node.services import audit, writing
from dicom_node.services.audit import COMMAND_LINE, Person
from dicom_node.services.typed import Row, ServiceResult
from dicom_node.store.queue import running as running_jobs
from dicom_node.store.tables import Job

Change = Literal["retry", "put_first", "cancel"]


class JobRow(Row):
    """A job."""

    job: int
    rule: str
    state: JobState


class Jobs(ServiceResult):
    """One page; ``next`` is ``before`` of the next one, null at the end."""

    jobs: list[JobRow]
    next: int | None


def change_jobs(
    settings: Settings,
    job_ids: Sequence[int],
    change: Change,
    by: Person = COMMAND_LINE,
) -> None:
    """Apply one of the actions on jobs (``jobs.by_hand``) to all of these or none. Raises NotFound,
    NotAllowedNow.
    """
    act = {"retry": jobs.retry, "put_first": jobs.put_first, "cancel": jobs.cancel}[change]
    with writing(settings) as session:
        for job_id in dict.fromkeys(job_ids):
            act(session, job_id)
            job = session.get_one(Job, job_id)
            what = {"change": change, "rule": job.rule, "images": sources_sha256(job)}
            audit.note(
                session,
                by,
                AuditAction.JOB_CHANGED,
                study_id=job.study_id,
                what=what,
                job=job_id,
                change=change,
            )


def sources_sha256(job: Job) -> str:
    """The images of a job, in a word that stays when its number is another one."""
    return hashlib.sha256(" ".join(sorted(job.source_uids)).encode()).hexdigest()


def processes_at_work(session: Session, settings: Settings) -> int:
    """How many processes work on jobs, for estimates; 0 where no node works, on this machine or another."""
    from dicom_node.processes import running

    if not any(Role.at(place).runs_models for place in running(settings.node.data_dir)):
        now, held = datetime.now(UTC), running_jobs(session)
        if not any(job.lease_until and job.lease_until > now for job in held):
            return 0
    return max(settings.workers.processes, 1)
