"""Life-cycle moves as one compare-and-set each, with a numbered event in the same transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, select, update
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

# FOR NO KEY UPDATE: an event that others write about the study holds KEY SHARE on it, and does not wait.
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
    before, here = study.state, Study.state == study.state
    if not _move(session, study, STUDY[before], to, here, {"reason": reason}):
        return False
    record(session, event, study.id, study=study.study_instance_uid, before=before, after=to, reason=reason)
    return True


def move_job(session: Session, job: Job, to: JobState, event: EventType, **values: Any) -> bool:
    """Move a job on, fenced by its state and attempt number; ``values`` are further columns."""
    here = (Job.state == job.state) & (Job.attempts == job.attempts)
    if not _move(session, job, JOB[job.state], to, here, values):
        return False
    record(session, event, job.study_id, job=job.id, rule=job.rule, attempt=job.attempts, reason=job.reason)
    turn_changed(session, job)
    return True


def turn_changed(session: Session, job: Job) -> None:
    """Tell the distributed engine, where there is one, of a job that was made, moved, or put first."""
    if session.get_bind().dialect.name == "postgresql":
        from dicom_node.store import tickets

        tickets.follow(session, job)


def move_delivery(
    session: Session, delivery: Delivery, to: DeliveryState, event: EventType, **values: Any
) -> bool:
    """Move a delivery on, fenced by its state and attempt number; ``values`` are further columns."""
    here = (Delivery.state == delivery.state) & (Delivery.attempts == delivery.attempts)
    if not _move(session, delivery, DELIVERY[delivery.state], to, here, values):
        return False
    result = delivery.result
    record(
        session, event, result.study_id,
        delivery=delivery.id, destination=delivery.destination, instance=result.sop_instance_uid,
        status=delivery.status, reason=delivery.reason,
    )  # fmt: skip
    return True


def _move(
    session: Session,
    row: Study | Job | Delivery,
    allowed: Collection[StrEnum],
    to: StrEnum,
    here: ColumnElement[bool],
    values: Mapping[str, Any],
) -> bool:
    """Compare and set: ``here`` holds while no other process has moved the row."""
    if to not in allowed:
        raise IllegalTransition(f"{row.__tablename__} {row.id}: {row.state} cannot become {to}")
    table = type(row)
    changed = session.execute(update(table).where(table.id == row.id, here).values(state=to, **values))
    assert isinstance(changed, CursorResult)
    if changed.rowcount != 1:
        return False
    session.refresh(row)
    return True


def settle_study(session: Session, study_id: int) -> None:
    """Read a study's state from its jobs and deliveries, and move it there.

    Whoever ends a job or a delivery calls this in the same transaction. A study that is being received or
    stands in quarantine is left alone: assembly or a person moves it.
    """
    study = session.get_one(Study, study_id, populate_existing=True, with_for_update=FOR_UPDATE)
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
