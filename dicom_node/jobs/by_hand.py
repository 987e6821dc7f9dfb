"""A person's actions on jobs, within the caller's transaction."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from dicom_node.errors import NotAllowedNow, NotFound
from dicom_node.events import JOB_CANCELLED, JOB_FIRST, JOB_QUEUED
from dicom_node.model.lifecycle import JOB, JobState, StudyState
from dicom_node.store.tables import Job, Study
from dicom_node.store.transitions import FOR_UPDATE, move_job, record, settle_study, turn_changed, utc_now


def retry(session: Session, job_id: int) -> None:
    """Queue a job that failed, was held, cancelled or did not apply. Raises NotFound, NotAllowedNow."""
    job = _locked(session, job_id)
    if (job.state, JOB_QUEUED) not in JOB:
        raise NotAllowedNow(f"job {job_id} is {job.state}: it cannot be queued again")
    study = session.get_one(Study, job.study_id, with_for_update=FOR_UPDATE)
    if job.study_revision != study.revision or study.state in (StudyState.RECEIVING, StudyState.QUARANTINED):
        raise NotAllowedNow(
            f"job {job_id} is of revision {job.study_revision}; its study is {study.state}, "
            f"revision {study.revision}"
        )
    move_job(
        session,
        job,
        JOB_QUEUED,
        reason="",
        run_at=utc_now(),
        tries=0,
        share_done=0.0,
        doing="",
        cancel_requested=False,
        finished_at=None,
        lease_until=None,
    )
    settle_study(session, job.study_id)


def cancel(session: Session, job_id: int) -> None:
    """Cancel waiting jobs; ask running jobs to stop. Raises NotFound, NotAllowedNow."""
    job = _locked(session, job_id)
    reason = "cancelled by a person"
    if job.state is JobState.RUNNING:
        job.cancel_requested, job.reason = True, reason
        session.flush()
        return
    if job.state not in (JobState.QUEUED, JobState.HELD):
        raise NotAllowedNow(f"job {job_id} is {job.state}: only one that waits or runs can be cancelled")
    move_job(session, job, JOB_CANCELLED, reason=reason, finished_at=utc_now())
    settle_study(session, job.study_id)


def put_first(session: Session, job_id: int) -> None:
    """Move a waiting job to the front of the queue. Raises NotFound, NotAllowedNow."""
    job = _locked(session, job_id)
    if job.state is not JobState.QUEUED:
        raise NotAllowedNow(f"job {job_id} is {job.state}: only one that is queued can be put first")
    now = utc_now()
    job.priority, job.turn_at, job.run_at = 1, datetime.min.replace(tzinfo=now.tzinfo), min(job.run_at, now)
    session.flush()
    turn_changed(session, job)
    record(session, JOB_FIRST, job.study_id, job=job.id, rule=job.rule)


def _locked(session: Session, job_id: int) -> Job:
    job = session.get(Job, job_id, with_for_update=True)
    if job is None:
        raise NotFound(f"no job has the number {job_id}")
    return job
