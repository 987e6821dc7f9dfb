"""Queries and updates of the outbox table. ``outbox`` decides when and why."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, exists, func, or_, select, update
from sqlalchemy.orm import Session, contains_eager, selectinload

from dicom_node.base.events import DELIVERY_DISCARDED, DELIVERY_WANTED, DELIVERY_WITHDRAWN
from dicom_node.base.lifecycle import OPEN_DELIVERIES, DeliveryState, ObjectRole
from dicom_node.base.store.locks import lock_studies
from dicom_node.base.store.mapping import has_come
from dicom_node.base.store.tables import (
    DecisionRow,
    Delivery,
    Instance,
    Job,
    Lease,
    Original,
    Result,
    Study,
    Withdrawal,
)
from dicom_node.base.store.transitions import try_move, utc_now

WITHDRAWN = "withdrawn"
"""Why a delivery is discarded whose result a person withdrew."""
WAITS = "waits for a decision of a person that a restored database lacks (dicom-node decisions list)"
"""In lists the reason of a delivery that nothing else holds back."""

_S = DeliveryState
_LOST = (DecisionRow.applied_at.is_(None), DecisionRow.holds)
_LONGEST_LEASE = timedelta(minutes=10)  # of a lane
# With further queries: a lock on the deliveries would lock nothing that is joined from outside.
_OBJECTS = (
    selectinload(Delivery.result).selectinload(Result.study),
    selectinload(Delivery.result).selectinload(Result.job),
    selectinload(Delivery.original).selectinload(Original.received),
    selectinload(Delivery.original).selectinload(Original.study),
)


STUDY = func.coalesce(Result.study_id, Original.study_id)
"""SQL: the study of a delivery, where both kinds of objects are joined (:func:`with_objects`)."""


def with_objects(chosen: Any) -> Any:
    """Add to a query of deliveries the object of each (result or received original) and its study."""
    return (
        chosen.select_from(Delivery)
        .outerjoin(Delivery.result)
        .outerjoin(Delivery.original)
        .join(Study, Study.id == STUDY)
    )


def forward(session: Session, original: Original, destination: str) -> bool:
    """Add a received object to the outbox of the peer ``destination``, due now; only once, however often this
    is called.

    A delivery that was withdrawn before it was sent is queued again. Returns whether anything changed.
    """
    found = session.scalar(
        select(Delivery).where(Delivery.original_id == original.id, Delivery.destination == destination)
    )
    if found is None:
        session.add(Delivery(original=original, destination=destination, next_at=utc_now()))
        session.flush()
        return True
    found.withdrawn &= found.state is _S.CANCELLED  # what is being sent may go on
    return found.withdrawn and try_move(
        session, found, DELIVERY_WANTED, reason="wanted again", withdrawn=False, next_at=utc_now()
    )


def add(
    session: Session,
    result: Result,
    destination: str,
    *,
    query_first: bool = False,
    by_hand: bool = False,
    unassessed: bool = False,
) -> Delivery:
    """Add a result to the outbox of the peer ``destination``, due now; an existing delivery is returned
    unchanged.

    ``query_first``: the result may have been sent before, so the peer is queried first and gets the result
    only if it lacks it. ``by_hand``: a person requested it, not a rule. ``unassessed``: it waits until a
    person accepts it.
    """
    found = session.scalar(
        select(Delivery).where(Delivery.result_id == result.id, Delivery.destination == destination)
    )
    if found is not None:
        return found
    delivery = Delivery(
        result=result,
        destination=destination,
        state=_S.UNASSESSED if unassessed else _S.UNCONFIRMED if query_first else _S.PENDING,
        next_at=utc_now(),
        by_hand=by_hand,
    )
    session.add(delivery)
    session.flush()
    return delivery


def is_outdated(session: Session, delivery: Delivery) -> bool:
    """Return whether the study has another object by now: no job wanted the result since a correction, or the
    received object is not the version in force.
    """
    if delivery.original is None:
        return bool(delivery.result and delivery.result.outdated)
    in_force = select(Instance.path).where(
        Instance.sop_instance_uid == delivery.original.sop_instance_uid, Instance.role != ObjectRole.ASIDE
    )
    return session.scalar(in_force) != delivery.original.path


def versions(session: Session, delivery: Delivery) -> Sequence[Delivery]:
    """Return deliveries of other versions of the same received object to the same peer; none for a result."""
    if delivery.original is None:
        return ()
    return session.scalars(
        select(Delivery)
        .join(Delivery.original)
        .where(
            Original.sop_instance_uid == delivery.original.sop_instance_uid,
            Original.id != delivery.original_id,
            Delivery.destination == delivery.destination,
        )
    ).all()


def withdraw(session: Session, delivery: Delivery, reason: str) -> None:
    """Cancel a delivery until a job requests it again; one that is being sent, or not confirmed yet, is
    cancelled if the peer turns out not to have the object (:func:`discard_withdrawn`).
    """
    if delivery.state in (_S.SENDING, _S.UNCONFIRMED):
        delivery.withdrawn = True
    else:
        try_move(session, delivery, DELIVERY_WITHDRAWN, reason=f"not sent: {reason}", withdrawn=True)


def replace_unassessed(session: Session, study_id: int, rule: str, by: Collection[int]) -> None:
    """Withdraw the deliveries of a rule's earlier results that still wait for a person's acceptance.

    ``by``: ids of the newer results, whose deliveries are not touched.
    """
    for delivery in session.scalars(
        select(Delivery)
        .join(Delivery.result)
        .join(Result.job)
        .where(
            Job.study_id == study_id, Job.rule == rule, Delivery.state == _S.UNASSESSED, Result.id.not_in(by)
        )
    ).all():
        withdraw(session, delivery, "newer results replace it")


def left_by_hand(session: Session, study_id: int, rule: str) -> list[Delivery]:
    """Return the deliveries of a rule's results that a person added and that were withdrawn before they were
    sent.
    """
    return list(
        session.scalars(
            select(Delivery)
            .join(Delivery.result)
            .join(Result.job)
            .where(Job.study_id == study_id, Job.rule == rule, Delivery.withdrawn, Delivery.by_hand)
            .options(contains_eager(Delivery.result))
        )
    )


def discard(session: Session, delivery: Delivery, because: str) -> bool:
    """Discard a delivery for the person's reason ``because``; return False if a sending process has claimed
    it meanwhile.
    """
    return try_move(session, delivery, DELIVERY_DISCARDED, reason="", discarded_because=because)


def may_be_there(delivery: Delivery) -> bool:
    """Return whether the peer has the object, or may have it because it gave no answer."""
    return delivery.state in (_S.CONFIRMED, _S.UNCONFIRMED) or delivery.sent_at is not None


def former_of(session: Session, result: Result, destination: str) -> list[Delivery]:
    """Return deliveries to the peer ``destination``, which it may have received, of the results that
    ``result`` withdraws (as a rejection note) or replaces (as a newer report).
    """
    former = or_(
        Result.id.in_(select(Withdrawal.result_id).where(Withdrawal.note_id == result.id)),
        Result.sop_instance_uid == result.supersedes,
    )
    found = session.scalars(
        select(Delivery)
        .join(Delivery.result)
        .where(former, Delivery.destination == destination)
        .options(*_OBJECTS)
        .order_by(Delivery.id)
    )
    return [delivery for delivery in found if may_be_there(delivery)]


def note_is_under_way(session: Session, delivery: Delivery) -> bool:
    """Return whether the rejection note of a withdrawn result has yet to be confirmed by the same peer."""
    note = select(Withdrawal.note_id).where(Withdrawal.result_id == delivery.result_id).scalar_subquery()
    waits = Delivery.state.in_(OPEN_DELIVERIES)
    at_peer = Delivery.destination == delivery.destination
    return bool(session.scalar(select(exists().where(Delivery.result_id == note, at_peer, waits))))


def discard_withdrawn(session: Session, deliveries: Iterable[Delivery]) -> None:
    """Of ``deliveries`` that are pending or were given up, discard those whose result a person withdrew
    meanwhile, and cancel those that were withdrawn while they were being sent.
    """
    waiting = [one for one in deliveries if one.state in (_S.PENDING, _S.DEAD)]
    results = {one.result_id for one in waiting if one.result_id is not None}
    gone = set(session.scalars(select(Withdrawal.result_id).where(Withdrawal.result_id.in_(results))))
    for delivery in waiting:
        if delivery.result_id in gone:
            discard(session, delivery, WITHDRAWN)
        elif delivery.withdrawn:
            withdraw(session, delivery, "its study changed while it was being sent")


def due_destinations(session: Session, now: datetime, owners: Collection[str] = ()) -> list[str]:
    """Return the peers with a due delivery, except peers to which another process is sending now.

    ``owners``: lease owners of the caller, whose peers are included unless a delivery is marked as being
    sent.
    """
    held = select(Lease.name, Lease.owner).where(~has_come(Lease.until, now, _LONGEST_LEASE))
    owner_of = dict(session.execute(held).all())
    due = select(Delivery.destination, Delivery.state).where(_due(now)).distinct()
    found = dict[str, None]()
    for destination, state in session.execute(due):
        owner = owner_of.get(lane(destination))
        if owner is None or (owner in owners and state is not _S.SENDING):
            found[destination] = None
    return list(found)


STALLED = "due, and nothing sends it: does a node that delivers run? (dicom-node processes list)"
"""In lists the reason of a delivery whose next try is over."""
_STALLED_AFTER = timedelta(minutes=2)


def stalled(session: Session) -> ColumnElement[bool]:
    """SQL: deliveries whose next try should have been minutes ago, while nothing is sent to their peers."""
    before = utc_now() - _STALLED_AFTER
    return Delivery.destination.in_(due_destinations(session, before)) & _due(before)


def due_study(session: Session, destination: str, now: datetime, *, by_waiting: bool = False) -> int | None:
    """Return the id of the study whose deliveries to the peer come next: STAT studies first, then the longest
    waiting; None if none is due.

    ``by_waiting``: take the longest waiting, whether STAT or not.
    """
    waiting = (Delivery.next_at, Delivery.id)
    order = waiting if by_waiting else (Study.priority.desc(), *waiting)
    chosen = with_objects(select(STUDY)).where(Delivery.destination == destination, _due(now))
    study: int | None = session.scalar(chosen.order_by(*order).limit(1))
    return study


def due_batch(session: Session, destination: str, study: int, now: datetime, limit: int) -> list[Delivery]:
    """Return up to ``limit`` due deliveries of one study to the peer, locked, with their objects."""
    return list(
        session.scalars(
            with_objects(select(Delivery))
            .options(*_OBJECTS)
            .where(Delivery.destination == destination, study == STUDY, _due(now))
            .order_by(Delivery.id)
            .limit(limit)
            .with_for_update(skip_locked=True, of=Delivery)
        )
    )


def any_stopped(session: Session, numbers: Collection[int]) -> bool:
    """Return whether one of the deliveries with these ids is being sent although its study was stopped."""
    return bool(numbers) and bool(
        session.scalar(
            select(exists().where(Delivery.id.in_(numbers), Delivery.state == _S.SENDING, Delivery.withdrawn))
        )
    )


def of_numbers(session: Session, numbers: Collection[int]) -> Sequence[Delivery]:
    """Return the deliveries with these ids, locked, with their objects. Their studies are locked first, as
    whoever stops a study does.
    """
    lock_studies(session, Study.id.in_(with_objects(select(STUDY)).where(Delivery.id.in_(numbers))))
    return session.scalars(
        select(Delivery)
        .where(Delivery.id.in_(numbers))
        .order_by(Delivery.id)
        .options(*_OBJECTS)
        .with_for_update(of=Delivery)
    ).all()


def hurry(session: Session, now: datetime, destination: str | None = None) -> None:
    """Make waiting deliveries due at once, because the peer answers again; ``destination`` None: of all
    peers.

    Deliveries of objects that the peer refused continue to wait.
    """
    waiting = [Delivery.state == _S.PENDING, Delivery.refusals == 0, Delivery.next_at > now]
    if destination is not None:
        waiting.append(Delivery.destination == destination)
    reschedule(session, now, *waiting)


def clock_put_back(session: Session, now: datetime) -> None:
    """Make deliveries due whose next time lies in the future because the clock was put back."""
    reschedule(session, now, Delivery.state.in_((_S.PENDING, _S.UNCONFIRMED)), Delivery.next_at > now)


def reschedule(session: Session, at: datetime, *which: ColumnElement[bool]) -> None:
    """Set the next time of the deliveries that fulfil these SQL conditions to ``at``, except of those that
    another transaction changes now: it sets their time itself, and may hold what the caller's would wait for.
    """
    chosen = select(Delivery.id).where(*which).with_for_update(skip_locked=True)
    session.execute(update(Delivery).where(Delivery.id.in_(chosen)).values(next_at=at))


def others_of_study(session: Session, study_id: int, destination: str, but: Sequence[int]) -> list[Delivery]:
    """Return the deliveries of a study's results to the peer, except those with the ids ``but``."""
    return list(
        session.scalars(
            select(Delivery)
            .join(Delivery.result)
            .where(Result.study_id == study_id, Delivery.destination == destination, Delivery.id.not_in(but))
        )
    )


def lane(destination: str) -> str:
    """Return the name of the lease that a process needs to deliver to this peer."""
    return f"to {destination}"


def waiting_for_decisions(session: Session) -> set[str]:
    """Return the UIDs of studies of which nothing is sent until a person's decision, lost with the database,
    is applied again; "" stands for all studies.
    """
    return set(session.scalars(select(DecisionRow.study_uid).where(*_LOST)))


def _due(now: datetime) -> ColumnElement[bool]:
    """SQL: deliveries that are due (pending, or to be confirmed), or that a process began to send and left.

    Excluded are studies with a person's decision that was lost with the database and is not yet applied
    again, and all studies if the copy of the decisions is faulty.
    """
    waits = Delivery.state.in_((_S.PENDING, _S.UNCONFIRMED)) & has_come(Delivery.next_at, now)
    studies = (
        select(Study.id)
        .join(DecisionRow, DecisionRow.study_uid == Study.study_instance_uid)
        .where(*_LOST)
        .correlate(None)
    )
    is_held_back = or_(
        exists().where(Result.id == Delivery.result_id, Result.study_id.in_(studies)).correlate(Delivery),
        exists()
        .where(Original.id == Delivery.original_id, Original.study_id.in_(studies))
        .correlate(Delivery),
        exists().where(*_LOST, DecisionRow.study_uid == ""),
    )
    return or_(waits, Delivery.state == _S.SENDING) & ~is_held_back
