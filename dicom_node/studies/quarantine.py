"""Quarantine of a study, its release, and what stops when a study is stopped."""

from datetime import datetime

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.errors import NotAllowedNow, NotFound
from dicom_node.base.lifecycle import (
    NOT_CHOSEN,
    OPEN_DELIVERIES,
    DeliveryState,
    JobState,
    ResultKind,
    StudyState,
)
from dicom_node.base.store import (
    deliveries,
    queue,
)
from dicom_node.base.store.tables import (
    Delivery,
    Result,
    Study,
)
from dicom_node.base.store.transitions import (
    FOR_UPDATE,
    move_study,
    try_move,
    utc_now,
)


def quarantine_study(session: Session, study: Study, reason: str) -> None:
    """Quarantine a study for ``reason``: none of its results is sent until a person releases it."""
    if study.state is StudyState.QUARANTINED:
        if reason not in study.reason:
            study.reason = f"{study.reason}; {reason}"[:2000]
            session.flush()
        return
    study.due_at = None
    session.flush()
    stop_study(session, study, "the study is in quarantine")
    move_study(session, study, events.STUDY_QUARANTINED, reason=reason)


def release_study(session: Session, study_id: int, now: datetime | None = None) -> None:
    """Release a study from quarantine: it is assembled again from the current versions of its objects.

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
    move_study(session, study, events.STUDY_RELEASED, reason="released by a person")


def drop_waiting(session: Session, study: Study, reason: str) -> None:
    """Cancel the study's jobs that have not started, because jobs of a newer revision replace them."""
    for job in queue.of_study(session, study.id, (JobState.QUEUED, JobState.HELD)):
        try_move(session, job, events.JOB_CANCELLED, reason=reason, finished_at=utc_now())


def stop_study(session: Session, study: Study, reason: str, *, same_data: bool = False) -> None:
    """Send nothing more of a study: cancel waiting jobs and deliveries, and request that running jobs stop.

    What is being sent, or was given up, is not sent again either, nor may a person send an older result
    until a job wants it again. ``same_data``: the study's objects are unchanged, so these, assessments and
    received images are still delivered, because no job asks for them again.
    """
    drop_waiting(session, study, reason)
    for job in queue.of_study(session, study.id, (JobState.RUNNING,)):
        job.cancel_requested, job.reason = True, reason
    states, is_of_study = {DeliveryState.PENDING, DeliveryState.UNASSESSED}, study.id == deliveries.STUDY
    is_stopped: ColumnElement[bool] = Result.kind.not_in(NOT_CHOSEN)
    if not same_data:
        states |= OPEN_DELIVERIES | {DeliveryState.DEAD}
        is_stopped = func.coalesce(Result.kind != ResultKind.REJECTION, True)  # received objects too
        session.execute(
            update(Result)
            .where(Result.study_id == study.id, Result.kind != ResultKind.REJECTION)
            .values(outdated=True)
        )
    unsent = session.scalars(
        deliveries.with_objects(select(Delivery))
        .where(is_of_study, is_stopped, Delivery.state.in_(states))
        .order_by(Delivery.id)
        # Locked, so that one that its sender takes at this moment is seen as being sent.
        .with_for_update(of=Delivery)
        .execution_options(populate_existing=True)
    ).all()
    for delivery in unsent:
        deliveries.withdraw(session, delivery, reason)
    session.flush()
