"""Stop a study that changed or is in doubt: cancel what waits, ask running jobs to stop."""

from __future__ import annotations

from sqlalchemy.orm import Session

from dicom_node.events import JOB_CANCELLED
from dicom_node.model.kinds import NOT_CHOSEN, ResultKind
from dicom_node.model.lifecycle import JobState
from dicom_node.store import deliveries, intake, queue
from dicom_node.store.tables import Study
from dicom_node.store.transitions import move_job, utc_now


def drop_waiting(session: Session, study: Study, reason: str) -> None:
    """Cancel jobs that have not started: jobs of a newer revision replace them."""
    for job in queue.of_study(session, study.id, (JobState.QUEUED, JobState.HELD)):
        move_job(session, job, JOB_CANCELLED, reason=reason, finished_at=utc_now())


def stop_study(session: Session, study: Study, reason: str, *, same_data: bool = False) -> None:
    """Let nothing more leave: waiting jobs and deliveries are cancelled, running jobs asked to stop.

    ``same_data``: assessments are delivered all the same, since no job will ask for them again.
    """
    drop_waiting(session, study, reason)
    for job in queue.of_study(session, study.id, (JobState.RUNNING,)):
        job.cancel_requested = True
        job.reason = reason
    but = NOT_CHOSEN if same_data else {ResultKind.REJECTION}
    for delivery in intake.pending_deliveries(session, study.id, but):
        deliveries.withdraw(session, delivery, reason)
    session.flush()
