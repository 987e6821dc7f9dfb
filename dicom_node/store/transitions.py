"""Life-cycle moves as one compare-and-set each, with a numbered event in the same transaction."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from dicom_node.errors import IllegalTransition
from dicom_node.events import STUDY_MOVED, Event, EventType, happened
from dicom_node.model.lifecycle import (
    DELIVERY,
    END_STATES,
    JOB,
    STUDY,
    DeliveryState,
    JobState,
    StudyState,
    study_state,
)
from dicom_node.store.tables import Delivery, EventRow, Job, Result, Study

# Weaker than FOR UPDATE: an event that others write about the study (foreign key) does not wait for it.
FOR_UPDATE = {"key_share": True}


def record(session: Session, event_type: EventType, study_id: int | None = None, **fields: Any) -> Event:
    """Log an event, with its study's UID (whoever has the log looks for that), and append it to the table."""
    if study_id is not None and "study" not in fields:
        uid = session.scalar(select(Study.study_instance_uid).where(Study.id == study_id))
        fields = {"study": uid, **fields}
    event = happened(event_type, **fields)
    append(session, event, study_id)
    return event


def append(session: Session, event: Event, study_id: int | None = None) -> None:
    """Append an event that was logged already (the listener's journal)."""
    session.add(EventRow(at=event.at, number=event.type.number, study_id=study_id, fields=dict(event.fields)))


def move_study(
    session: Session, study: Study, to: StudyState, *, reason: str = "", event: EventType = STUDY_MOVED
) -> bool:
    """Move a study on; False when another process moved it first (the caller looks again).

    Raises IllegalTransition when the table has no such step.
    """
    before = study.state
    if to not in STUDY[before]:
        raise IllegalTransition(f"study {study.study_instance_uid}: {before} cannot become {to}")
    changed = session.execute(
        update(Study).where(Study.id == study.id, Study.state == before).values(state=to, reason=reason)
    )
    if not _one(changed):
        return False
    session.refresh(study)
    record(session, event, study.id, study=study.study_instance_uid, before=before, after=to, reason=reason)
    return True


def move_job(session: Session, job: Job, to: JobState, event: EventType, **values: Any) -> bool:
    """Move a job on, fenced by its state and attempt number; ``values`` are further columns."""
    before = job.state
    if to not in JOB[before]:
        raise IllegalTransition(f"job {job.id}: {before} cannot become {to}")
    changed = session.execute(
        update(Job)
        .where(Job.id == job.id, Job.state == before, Job.attempts == job.attempts)
        .values(state=to, **values)
    )
    if not _one(changed):
        return False
    session.refresh(job)
    record(session, event, job.study_id, job=job.id, rule=job.rule, attempt=job.attempts, reason=job.reason)
    return True


def move_delivery(
    session: Session, delivery: Delivery, to: DeliveryState, event: EventType, **values: Any
) -> bool:
    """Move a delivery on, fenced by its state and attempt number; ``values`` are further columns."""
    before = delivery.state
    if to not in DELIVERY[before]:
        raise IllegalTransition(f"delivery {delivery.id}: {before} cannot become {to}")
    changed = session.execute(
        update(Delivery)
        .where(Delivery.id == delivery.id, Delivery.state == before, Delivery.attempts == delivery.attempts)
        .values(state=to, **values)
    )
    if not _one(changed):
        return False
    session.refresh(delivery)
    record(
        session,
        event,
        delivery.result.study_id,
        delivery=delivery.id,
        destination=delivery.destination,
        instance=delivery.result.sop_instance_uid,
        status=delivery.status,
        reason=delivery.reason,
    )
    return True


def settle_study(session: Session, study_id: int) -> None:
    """Read a study's state from its jobs and deliveries, and move it there.

    Whoever ends a job or a delivery calls this in the same transaction. A study that is being received or
    stands in quarantine is left alone: assembly or a person moves it.
    """
    # FOR NO KEY UPDATE: events of the same study, appended by others at the same time, hold KEY SHARE on it.
    lock = {"key_share": True}
    study = session.get_one(Study, study_id, populate_existing=True, with_for_update=lock)
    if study.state in (StudyState.RECEIVING, StudyState.COMPLETE, StudyState.QUARANTINED):
        return
    jobs = session.execute(
        select(Job.state, Job.reason).where(Job.study_id == study_id, Job.study_revision == study.revision)
    ).all()
    deliveries = session.execute(
        select(Delivery.state, Delivery.reason).join(Delivery.result).where(Result.study_id == study_id)
    ).all()
    state = study_state([job.state for job in jobs], [delivery.state for delivery in deliveries])
    if state == study.state:
        return
    reason = ""
    if state in END_STATES:
        reason = "; ".join(dict.fromkeys(row.reason for row in (*jobs, *deliveries) if row.reason))
    move_study(session, study, state, reason=reason)


def utc_now() -> datetime:
    """The present time, aware."""
    return datetime.now(UTC)


def _one(result: Any) -> bool:
    assert isinstance(result, CursorResult)
    return result.rowcount == 1
