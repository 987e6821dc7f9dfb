"""Requests and reports of peers: storage commitment, performed procedure steps, work items.

Queries only: ``deliver``, ``studies`` and the connector of worklists decide what follows.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, exists, func, insert, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from dicom_node.base.lifecycle import (
    READ_FROM_WORK,
    AssociationOutcome,
    DeliveryState,
    JobState,
    ObjectRole,
    RequestedState,
    ResultKind,
    StepStatus,
    StudyState,
)
from dicom_node.base.store.database import batches
from dicom_node.base.store.tables import (
    Association,
    Delivery,
    Instance,
    Job,
    Original,
    PerformedStep,
    ReceivedObject,
    RequestedCommitment,
    Result,
    StepObject,
    StepStudy,
    Study,
    Withdrawal,
)

UNFINISHED: Final = RequestedCommitment.state.in_((RequestedState.WAITING, RequestedState.DECIDED))
"""SQL: a request that waits to be decided, or whose report waits to be taken."""
MOST_OPEN = 5000
"""Requests of one peer that wait for a decision or a report; further ones are not taken."""
_LONGEST_BACKLOG: Final = timedelta(days=1)  # of objects that wait to be indexed


def keep_request(
    session: Session, peer: str, calling_ae: str, transaction_uid: str, objects: Sequence[str], at: datetime
) -> str:
    """Store a peer's storage commitment request; return why it is not stored, "" if it is.

    ``objects``: lines "SOP-Instance-UID SOP-Class-UID".
    """
    mine = RequestedCommitment.peer == peer
    same = mine & (RequestedCommitment.transaction_uid == transaction_uid)
    if session.scalar(select(RequestedCommitment.id).where(same)) is not None:
        return "its Transaction UID was used before"
    if (session.scalar(select(func.count()).where(mine, UNFINISHED)) or 0) >= MOST_OPEN:
        return "too many requests of this peer wait for a report"
    row = RequestedCommitment(
        peer=peer,
        calling_ae=calling_ae,
        transaction_uid=transaction_uid,
        objects=list(objects),
        asked_at=at,
        next_at=at,
    )
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:  # it came to two listeners at once
        return "its Transaction UID was used before"
    return ""


def unreported(session: Session, peer: str, limit: int) -> Sequence[RequestedCommitment]:
    """Return at most ``limit`` storage commitment requests of a peer that it has no report on yet, newest
    first.
    """
    return session.scalars(
        select(RequestedCommitment)
        .where(RequestedCommitment.peer == peer, RequestedCommitment.state != RequestedState.REPORTED)
        .order_by(RequestedCommitment.asked_at.desc())
        .limit(limit)
    ).all()


def sent_by(session: Session, calling_ae: str, uids: Sequence[str]) -> set[str]:
    """Return those of ``uids`` (SOP Instance UIDs) that this AE has sent."""
    theirs = select(ReceivedObject.sop_instance_uid).where(ReceivedObject.calling_ae == calling_ae)
    return {uid for (uid,) in _among(session, uids, ReceivedObject.sop_instance_uid, theirs.distinct())}


def awaits_index(session: Session, calling_ae: str, asked_at: datetime, since: datetime) -> bool:
    """Return whether an object that this AE sent before ``asked_at`` may still wait to be indexed.

    The number of objects of an association is known once it has ended; one that is open, or lost with its
    listener, counts as incomplete until ``asked_at`` is before ``since``.
    """
    rows = select(func.count()).where(ReceivedObject.association == Association.id).scalar_subquery()
    is_counted = Association.outcome.in_((AssociationOutcome.RELEASED, AssociationOutcome.ABORTED))
    theirs = (
        Association.calling_ae == calling_ae,
        Association.opened_at <= asked_at,
        or_(Association.closed_at.is_(None), Association.closed_at > asked_at - _LONGEST_BACKLOG),
    )
    missing = or_(is_counted & (Association.objects > rows), ~is_counted & (asked_at > since))
    return bool(session.scalar(select(exists().where(*theirs, missing))))


def classes(session: Session, uids: Sequence[str]) -> Mapping[str, str]:
    """Return the SOP Class UID of the current version of each of these instances, by SOP Instance UID."""
    in_force = select(Instance.sop_instance_uid, Instance.sop_class_uid)
    return dict(_among(session, uids, Instance.sop_instance_uid, in_force))


def archived(session: Session, calling_ae: str, uids: Sequence[str], archives: Collection[str]) -> set[str]:
    """Return those of ``uids`` of which one of the peers ``archives`` has confirmed that it has the newest
    object that this AE sent.

    Bytes are compared: an object that differs in anything from the forwarded version is not archived.
    """
    theirs, forwarded, in_force = (aliased(ReceivedObject) for _ in range(3))
    found: set[str] = set()
    for batch in batches(uids):
        last = (
            select(func.max(ReceivedObject.id))
            .where(ReceivedObject.sop_instance_uid.in_(batch), ReceivedObject.calling_ae == calling_ae)
            .group_by(ReceivedObject.sop_instance_uid)
        )
        of_batch = Original.sop_instance_uid.in_(batch)
        newest = select(func.max(Original.id)).where(of_batch).group_by(Original.sop_instance_uid)
        chosen = (
            select(Original.sop_instance_uid)
            .join(forwarded, forwarded.id == Original.received_id)
            .join(theirs, theirs.sop_instance_uid == Original.sop_instance_uid)
            .join(Instance, Instance.sop_instance_uid == Original.sop_instance_uid)
            .join(in_force, in_force.path == Instance.path)
            .join(Delivery, Delivery.original_id == Original.id)
            .where(Original.id.in_(newest), theirs.id.in_(last), theirs.dataset_sha256 != "")
            .where(theirs.dataset_sha256 == forwarded.dataset_sha256)
            .where(theirs.dataset_sha256 == in_force.dataset_sha256)
            .where(in_force.sop_instance_uid == Original.sop_instance_uid)
            .where(Delivery.state == DeliveryState.CONFIRMED, Delivery.destination.in_(archives))
        )
        found |= set(session.scalars(chosen))
    return found


def left_out(session: Session, uids: Sequence[str]) -> set[str]:
    """Return those of ``uids`` that belong to complete studies and that no rule forwards."""
    forwarded = exists().where(Original.sop_instance_uid == Instance.sop_instance_uid)
    of_study = select(Instance.sop_instance_uid).join(Study)
    complete = of_study.where(Study.state.in_(READ_FROM_WORK), ~forwarded)
    return {uid for (uid,) in _among(session, uids, Instance.sop_instance_uid, complete)}


def _among(session: Session, uids: Sequence[str], column: Any, chosen: Any) -> Iterator[Any]:
    """Yield the rows of the query ``chosen`` whose ``column`` is one of these UIDs."""
    for batch in batches(uids):
        yield from session.execute(chosen.where(column.in_(batch)))


def keep_step(session: Session, report: Mapping[str, Any], at: datetime) -> None:
    """Store an MPPS step (performed procedure step) from a journal entry, unless a later request on it is
    stored.

    ``report``: the fields of the entry, the whole step after that request.
    """
    uid, number, status = report["step"], report["number"], StepStatus(report["status"])
    step = session.scalar(select(PerformedStep).where(PerformedStep.sop_instance_uid == uid))
    if step is None:
        step = PerformedStep(
            sop_instance_uid=uid, peer=report["peer"], calling_ae=report["calling"], begun_at=at
        )
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


def steps_of(
    session: Session, study_instance_uid: str | None, peers: Collection[str] = ()
) -> Sequence[PerformedStep]:
    """Return the MPPS steps (performed procedure steps) of a study by their beginning; only of ``peers``
    unless empty.
    """
    chosen = select(PerformedStep).join(StepStudy)
    chosen = chosen.where(StepStudy.study_instance_uid == study_instance_uid)
    if peers:
        chosen = chosen.where(PerformedStep.peer.in_(peers))
    return session.scalars(chosen.order_by(PerformedStep.begun_at, PerformedStep.id)).all()


def objects_named(session: Session, step: int) -> int:
    """Return the number of objects that the MPPS step with this id refers to."""
    return session.scalar(select(func.count()).where(StepObject.step_id == step)) or 0


def objects_missing(session: Session, steps: Iterable[int]) -> int:
    """Return the number of objects that these MPPS steps refer to and that have not been received."""
    return (
        session.scalar(
            select(func.count(StepObject.sop_instance_uid.distinct())).where(
                StepObject.step_id.in_(list(steps)), ~_is_here()
            )
        )
        or 0
    )


def waits_for_steps(peers: Collection[str], silent_since: datetime) -> ColumnElement[bool]:
    """SQL: whether a study waits for an MPPS step of these peers to end, or for an object that such a step
    refers to.

    False if the study received nothing since ``silent_since``.
    """
    return _unfinished(peers) & (Study.due_at > silent_since)


def complete_by_steps(peers: Collection[str]) -> ColumnElement[bool]:
    """SQL: whether the MPPS steps of these peers show that a study is complete, so that no quiet time is
    needed.

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
    """SQL: whether an MPPS step of the study has not ended, or refers to an object that has not been
    received.
    """
    return exists().where(
        *_steps_of_study(peers),
        (PerformedStep.status == StepStatus.IN_PROGRESS)
        | exists().where(StepObject.step_id == PerformedStep.id, ~_is_here()),
    )


def _steps_of_study(peers: Collection[str]) -> tuple[ColumnElement[bool], ...]:
    """Return SQL conditions that join a study with the MPPS steps of these peers."""
    return (
        StepStudy.study_instance_uid == Study.study_instance_uid,
        PerformedStep.id == StepStudy.step_id,
        PerformedStep.peer.in_(peers),
    )


def _named_by(peers: Collection[str]) -> tuple[ColumnElement[bool], ...]:
    """Return SQL conditions that join a study with the objects that the MPPS steps of these peers refer
    to.
    """
    return *_steps_of_study(peers), StepObject.step_id == PerformedStep.id


def _is_here() -> ColumnElement[bool]:
    """SQL: whether the object that an MPPS step refers to has been received."""
    return exists().where(Instance.sop_instance_uid == StepObject.sop_instance_uid)


@dataclass(slots=True)
class DeliveredSeries:
    """The results in one series that peers have confirmed and that were neither withdrawn nor replaced.
    ``destinations``: names of those peers.
    """

    objects: dict[str, str] = field(default_factory=dict)
    """SOP Instance UID -> SOP Class UID."""
    destinations: set[str] = field(default_factory=set)


def share_done(session: Session, study_id: int) -> float:
    """Return the average finished part of the study's running jobs, 0 to 1; 0 without any."""
    return (
        session.scalar(
            select(func.avg(Job.share_done)).where(Job.study_id == study_id, Job.state == JobState.RUNNING)
        )
        or 0.0
    )


def delivered_series(session: Session, study_id: int) -> Mapping[str, DeliveredSeries]:
    """Return the identified results of a study that are confirmed, not withdrawn, not replaced and not
    older than a correction, by Series Instance UID.
    """
    replaced = select(Result.supersedes).where(Result.study_id == study_id, Result.supersedes != "")
    chosen = (
        select(Result, Delivery.destination)
        .join(Result.deliveries)
        .where(
            Result.study_id == study_id,
            Result.deidentified.is_(False),
            Result.kind != ResultKind.REJECTION,
            Result.id.not_in(select(Withdrawal.result_id)),
            Result.sop_instance_uid.not_in(replaced),
            Result.outdated.is_(False),
            Delivery.state == DeliveryState.CONFIRMED,
        )
        .order_by(Result.id)
    )
    found: dict[str, DeliveredSeries] = {}
    for result, destination in session.execute(chosen):
        series = found.setdefault(result.series_instance_uid, DeliveredSeries())
        series.objects[result.sop_instance_uid] = result.sop_class_uid
        series.destinations.add(destination)
    return found
