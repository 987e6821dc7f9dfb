"""Queries of performed procedure steps; ``studies`` decides their effect on a study."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, func, insert, select
from sqlalchemy.orm import Session

from dicom_node.base.kinds import ObjectRole, StepStatus
from dicom_node.base.lifecycle import StudyState
from dicom_node.base.store.tables import Instance, PerformedStep, StepObject, StepStudy, Study


def keep(session: Session, report: Mapping[str, Any], at: datetime) -> None:
    """Store a step from the journal's fields of a report, unless a later report of it is stored."""
    uid, number, status = str(report["step"]), int(report["number"]), StepStatus(report["status"])
    step = session.scalar(select(PerformedStep).where(PerformedStep.sop_instance_uid == uid))
    if step is None:
        peer, calling = str(report["peer"]), str(report["calling"])
        step = PerformedStep(sop_instance_uid=uid, peer=peer, calling_ae=calling, begun_at=at)
        session.add(step)
    elif number < step.number:
        step.begun_at = min(step.begun_at, at)
        return
    step.status, step.number, step.changed_at = status, number, at
    step.ended_at = None if status is StepStatus.IN_PROGRESS else at
    session.flush()
    # Its studies and objects are those of this report.
    studies = [{"step_id": step.id, "study_instance_uid": uid} for uid in report["studies"]]
    objects = [{"step_id": step.id, "sop_instance_uid": uid} for uid in report["objects"]]
    for table, rows in ((StepStudy, studies), (StepObject, objects)):
        session.execute(delete(table).where(table.step_id == step.id))
        if rows:
            session.execute(insert(table), rows)


def of_study(
    session: Session, study_instance_uid: str | None, peers: Collection[str] = ()
) -> Sequence[PerformedStep]:
    """The steps of a study in the order in which they began; with ``peers`` only the steps of these peers."""
    chosen = select(PerformedStep).join(StepStudy, StepStudy.step_id == PerformedStep.id)
    chosen = chosen.where(StepStudy.study_instance_uid == study_instance_uid)
    if peers:
        chosen = chosen.where(PerformedStep.peer.in_(peers))
    return session.scalars(chosen.order_by(PerformedStep.begun_at, PerformedStep.id)).all()


def named(session: Session, step: int) -> int:
    """The number of objects that the performed procedure step with this id refers to."""
    return session.scalar(select(func.count()).where(StepObject.step_id == step)) or 0


def missing(session: Session, steps: Iterable[int]) -> int:
    """The number of objects that these steps refer to and that have not been received."""
    return (
        session.scalar(
            select(func.count(StepObject.sop_instance_uid.distinct())).where(
                StepObject.step_id.in_(list(steps)), ~_is_here()
            )
        )
        or 0
    )


def hold(peers: Collection[str], silent_since: datetime) -> ColumnElement[bool]:
    """Whether a study waits for a step of these peers: for its end, or for an object that it refers to.

    Never if the study received nothing since ``silent_since``.
    """
    return _unfinished(peers) & (Study.due_at > silent_since)


def complete(peers: Collection[str]) -> ColumnElement[bool]:
    """Whether the steps of these peers show that a study is complete, so that no quiet time is needed.

    Only if they refer to all of its images, the images are of one patient, and the study is in its first
    revision: steps do not report corrections.
    """
    mine = (Instance.study_id == Study.id, Instance.role == ObjectRole.SOURCE)
    is_named = exists().where(*_named_by(peers), StepObject.sop_instance_uid == Instance.sop_instance_uid)
    patients = select(func.count(Instance.patient.distinct())).where(*mine).scalar_subquery()
    receiving = (Study.state == StudyState.RECEIVING) & (Study.revision == 1)
    named_all = exists().where(*_named_by(peers)) & ~exists().where(*mine, ~is_named)
    return receiving & named_all & ~_unfinished(peers) & (patients == 1)


def _unfinished(peers: Collection[str]) -> ColumnElement[bool]:
    """Whether a step of the study has not ended, or names an object that is not here."""
    return exists().where(
        *_of(peers),
        (PerformedStep.status == StepStatus.IN_PROGRESS)
        | exists().where(StepObject.step_id == PerformedStep.id, ~_is_here()),
    )


def _of(peers: Collection[str]) -> tuple[ColumnElement[bool], ...]:
    return (
        StepStudy.study_instance_uid == Study.study_instance_uid,
        PerformedStep.id == StepStudy.step_id,
        PerformedStep.peer.in_(peers),
    )


def _named_by(peers: Collection[str]) -> tuple[ColumnElement[bool], ...]:
    return *_of(peers), StepObject.step_id == PerformedStep.id


def _is_here() -> ColumnElement[bool]:
    return exists().where(Instance.sop_instance_uid == StepObject.sop_instance_uid)
