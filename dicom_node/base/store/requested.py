"""Requests of peers for storage commitment, and the confirmations of archives; ``outbox`` decides."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import delete, exists, func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from dicom_node.base.kinds import AssociationOutcome
from dicom_node.base.lifecycle import READ_FROM_WORK, DeliveryState, RequestedState
from dicom_node.base.store.database import batches
from dicom_node.base.store.tables import (
    Association,
    Delivery,
    Instance,
    Original,
    ReceivedObject,
    RequestedCommitment,
    Study,
)

MOST_OPEN = 5000
"""Requests of one peer that wait for a decision or a report; further ones are not taken."""
_LONGEST_BACKLOG: Final = timedelta(days=1)  # of objects that wait to be indexed


def keep(
    session: Session, peer: str, calling_ae: str, transaction_uid: str, objects: Sequence[str], at: datetime
) -> str:
    """Store a request; returns why it is not stored, "" if it is. ``objects``: "instance class" each."""
    mine = RequestedCommitment.peer == peer
    same = mine & (RequestedCommitment.transaction_uid == transaction_uid)
    if session.scalar(select(RequestedCommitment.id).where(same)) is not None:
        return "its Transaction UID was used before"
    unfinished = RequestedCommitment.state.in_((RequestedState.WAITING, RequestedState.DECIDED))
    if (session.scalar(select(func.count()).where(mine, unfinished)) or 0) >= MOST_OPEN:
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
    """Requests of a peer without a report, or whose report the peer did not accept, the newest first."""
    return session.scalars(
        select(RequestedCommitment)
        .where(RequestedCommitment.peer == peer, RequestedCommitment.state != RequestedState.REPORTED)
        .order_by(RequestedCommitment.asked_at.desc())
        .limit(limit)
    ).all()


def of_others(session: Session, peers: Collection[str], limit: int) -> Sequence[RequestedCommitment]:
    """Unfinished requests of all peers but these."""
    unfinished = RequestedCommitment.state.in_((RequestedState.WAITING, RequestedState.DECIDED))
    return session.scalars(
        select(RequestedCommitment).where(unfinished, RequestedCommitment.peer.not_in(peers)).limit(limit)
    ).all()


def forget(session: Session, before: datetime) -> None:
    """Delete requests that were made before ``before``."""
    session.execute(delete(RequestedCommitment).where(RequestedCommitment.asked_at < before))


def sent(session: Session, calling_ae: str, uids: Sequence[str]) -> set[str]:
    """The ``uids`` under which this AE sent an object."""
    theirs = select(ReceivedObject.sop_instance_uid).where(ReceivedObject.calling_ae == calling_ae)
    return {uid for (uid,) in _among(session, uids, ReceivedObject.sop_instance_uid, theirs.distinct())}


def awaits_index(session: Session, calling_ae: str, asked_at: datetime, since: datetime) -> bool:
    """Whether an object that this AE sent before ``asked_at`` may not be indexed yet.

    How many an association brought is known once it has ended; one that is open, or that ended with its
    listener, counts until ``asked_at`` is before ``since``.
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
    """The SOP class of the version in force of each of these instances."""
    in_force = select(Instance.sop_instance_uid, Instance.sop_class_uid)
    return dict(_among(session, uids, Instance.sop_instance_uid, in_force))


def archived(session: Session, calling_ae: str, uids: Sequence[str], archives: Collection[str]) -> set[str]:
    """The ``uids`` of which at least one of the peers ``archives`` has confirmed what this AE sent last.

    Byte for byte: what differs in anything from the version that was forwarded is in no archive.
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
    """The given instances that belong to complete studies and that no rule forwards."""
    forwarded = exists().where(Original.sop_instance_uid == Instance.sop_instance_uid)
    of_study = select(Instance.sop_instance_uid).join(Study, Study.id == Instance.study_id)
    complete = of_study.where(Study.state.in_(READ_FROM_WORK), ~forwarded)
    return {uid for (uid,) in _among(session, uids, Instance.sop_instance_uid, complete)}


def _among(session: Session, uids: Sequence[str], column: Any, chosen: Any) -> Iterator[Any]:
    """The chosen rows in which the column is one of these UIDs."""
    for batch in batches(uids):
        yield from session.execute(chosen.where(column.in_(batch)))
