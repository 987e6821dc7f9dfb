"""Stops a study that changed or is in doubt: a conflict puts it into quarantine, a person releases it."""

from datetime import datetime

from sqlalchemy.orm import Session

from dicom_node.base.errors import NotAllowedNow, NotFound
from dicom_node.base.events import JOB_CANCELLED, STUDY_QUARANTINED, STUDY_RELEASED
from dicom_node.base.kinds import NOT_CHOSEN, ResultKind
from dicom_node.base.lifecycle import JobState, StudyState
from dicom_node.base.store import deliveries, intake, queue
from dicom_node.base.store.tables import Study
from dicom_node.base.store.transitions import FOR_UPDATE, move_job, move_study, utc_now


def quarantine_study(session: Session, study: Study, reason: str) -> None:
    """Quarantine the study: none of its results is sent until a person chooses."""
    if study.state is StudyState.QUARANTINED:
        if reason not in study.reason:
            study.reason = f"{study.reason}; {reason}"[:2000]
            session.flush()
        return
    study.due_at = None
    session.flush()
    stop_study(session, study, "the study is in quarantine")
    move_study(session, study, STUDY_QUARANTINED, reason=reason)


def release_study(session: Session, study_id: int, now: datetime | None = None) -> None:
    """Release a study from quarantine: it is assembled again from the versions in force.

    The versions were chosen before (:mod:`dicom_node.studies.choose`). Raises NotFound, NotAllowedNow.
    """
    study = session.get(Study, study_id, with_for_update=FOR_UPDATE)
    if study is None:
        raise NotFound(f"no study has the number {study_id}")
    if study.state is not StudyState.QUARANTINED:
        raise NotAllowedNow(f"the study is {study.state}: only one in quarantine can be released")
    study.revision += 1  # its jobs may have been made before the conflict came
    study.due_at = now or utc_now()
    session.flush()
    move_study(session, study, STUDY_RELEASED, reason="released by a person")


def drop_waiting(session: Session, study: Study, reason: str) -> None:
    """Cancel jobs that have not started: jobs of a newer revision replace them."""
    for job in queue.of_study(session, study.id, (JobState.QUEUED, JobState.HELD)):
        move_job(session, job, JOB_CANCELLED, reason=reason, finished_at=utc_now())


def stop_study(session: Session, study: Study, reason: str, *, same_data: bool = False) -> None:
    """Send nothing more of a study: waiting jobs and deliveries are cancelled, running jobs asked to stop.

    ``same_data``: assessments and received images are still delivered, because no job asks for them again.
    """
    drop_waiting(session, study, reason)
    for job in queue.of_study(session, study.id, (JobState.RUNNING,)):
        job.cancel_requested, job.reason = True, reason
    but = NOT_CHOSEN if same_data else {ResultKind.REJECTION}
    for delivery in intake.pending_deliveries(session, study.id, but):
        deliveries.withdraw(session, delivery, reason)
    if not same_data:
        for delivery in intake.pending_originals(session, study.id):
            deliveries.withdraw(session, delivery, reason)
    session.flush()
