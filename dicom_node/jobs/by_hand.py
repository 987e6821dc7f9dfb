"""What a person may do to jobs and studies, within the caller's transaction."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from dicom_node.errors import NotAllowedNow, NotFound
from dicom_node.events import JOB_QUEUED, STUDY_RELEASED
from dicom_node.jobs.queue import cancel, put_first
from dicom_node.jobs.studies import FOR_UPDATE
from dicom_node.model.lifecycle import JOB, JobState, StudyState
from dicom_node.store.tables import Job, Study
from dicom_node.store.transitions import move_job, move_study, settle_study, utc_now

__all__ = ["cancel", "put_first", "release_study", "retry"]


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
        reason="", run_at=utc_now(), tries=0, share_done=0.0, doing="",
        cancel_requested=False, finished_at=None, lease_until=None,
    )  # fmt: skip
    settle_study(session, job.study_id)


def release_study(session: Session, study_id: int, now: datetime | None = None) -> None:
    """Let a study out of quarantine: it is assembled again from the versions that count.

    What counts was chosen before (``inbox.versions``). Raises NotFound, NotAllowedNow.
    """
    study = session.get(Study, study_id, with_for_update=FOR_UPDATE)
    if study is None:
        raise NotFound(f"no study has the number {study_id}")
    if study.state is not StudyState.QUARANTINED:
        raise NotAllowedNow(f"the study is {study.state}: only one in quarantine can be released")
    study.revision += 1  # its jobs may have been made before the conflict came
    study.due_at = now or utc_now()
    session.flush()
    move_study(session, study, StudyState.RECEIVING, reason="released by a person", event=STUDY_RELEASED)
