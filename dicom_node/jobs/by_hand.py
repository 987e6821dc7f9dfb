"""What a person may do to jobs, within the caller's transaction."""

from __future__ import annotations

from sqlalchemy.orm import Session

from dicom_node.errors import NotAllowedNow, NotFound
from dicom_node.events import JOB_QUEUED
from dicom_node.jobs.queue import cancel, put_first
from dicom_node.model.lifecycle import JOB, JobState, StudyState
from dicom_node.store.tables import Job, Study
from dicom_node.store.transitions import FOR_UPDATE, move_job, settle_study, utc_now

__all__ = ["cancel", "put_first", "retry"]


def retry(session: Session, job_id: int) -> None:
    """Queue a job that failed, was held, cancelled or did not apply. Raises NotFound, NotAllowedNow."""
    job = session.get(Job, job_id, with_for_update=True)
    if job is None:
        raise NotFound(f"no job has the number {job_id}")
    if job.state is JobState.RUNNING or JobState.QUEUED not in JOB[job.state]:
        raise NotAllowedNow(f"job {job_id} is {job.state}: it cannot be queued again")
    study = session.get_one(Study, job.study_id, with_for_update=FOR_UPDATE)
    if job.study_revision != study.revision or study.state in (StudyState.RECEIVING, StudyState.QUARANTINED):
        raise NotAllowedNow(
            f"job {job_id} is of revision {job.study_revision}; its study is {study.state}, "
            f"revision {study.revision}"
        )
    move_job(
        session, job, JobState.QUEUED, JOB_QUEUED,
        reason="", run_at=utc_now(), tries=0, accepted=False, share_done=0.0, doing="",
        cancel_requested=False, finished_at=None, lease_until=None,
    )  # fmt: skip
    settle_study(session, job.study_id)
