"""Queries of indexing: received objects, instances, studies, associations; ``studies`` decides."""

from collections.abc import Collection, Sequence
from datetime import datetime
from itertools import combinations_with_replacement

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, update
from sqlalchemy.orm import Session

from dicom_node.base.dicom.identity import Patient
from dicom_node.base.lifecycle import (
    END_STATES,
    OPEN_JOBS,
    AuditAction,
    DeliveryState,
    Intake,
    JobState,
    ObjectRole,
    Outcome,
    StudyState,
)
from dicom_node.base.store import fetches
from dicom_node.base.store.locks import lock_free, lock_studies
from dicom_node.base.store.tables import (
    Association,
    AuditRow,
    Delivery,
    Instance,
    Job,
    Original,
    ReceivedObject,
    Result,
    Study,
    WaitingReport,
)

_HAS_FILE = ReceivedObject.purged.is_(False)
_OF_TRIAL = ReceivedObject.association.startswith(f"{Intake.TRIAL}-")
_OF_STUDY = ReceivedObject.study_id == Study.id
IS_TRIAL = (
    (Study.patient_id == "")  # spares all other studies a look at their objects
    & exists().where(_OF_STUDY, _OF_TRIAL)
    & ~exists().where(_OF_STUDY, ~_OF_TRIAL)
)
"""SQL: whether all objects of a study are of pictures that a person tries; those are of no patient."""


def received_object(session: Session, spool_name: str) -> ReceivedObject | None:
    """Return the row of a spooled file; None if the file was not indexed yet."""
    return session.scalar(select(ReceivedObject).where(ReceivedObject.spool_name == spool_name))


def indexed(session: Session, spool_names: Collection[str]) -> dict[str, bool]:
    """Return, for each of ``spool_names`` that was indexed, whether its file has been deleted since."""
    chosen = select(ReceivedObject.spool_name, ReceivedObject.purged)
    return dict(session.execute(chosen.where(ReceivedObject.spool_name.in_(spool_names))).all())


def paths_after(session: Session, number: int, limit: int) -> Sequence[tuple[int, str]]:
    """Return id and path of at most ``limit`` received objects whose files exist, with ids above
    ``number``.
    """
    return session.execute(
        select(ReceivedObject.id, ReceivedObject.path)
        .where(ReceivedObject.id > number, _HAS_FILE)
        .order_by(ReceivedObject.id)
        .limit(limit)
    ).all()


def stored_copies(session: Session, sop_instance_uid: str, limit: int) -> Sequence[ReceivedObject]:
    """Return the first ``limit`` received copies of this SOP instance whose files exist; each file once."""
    chosen = (
        select(func.min(ReceivedObject.id))
        .where(ReceivedObject.sop_instance_uid == sop_instance_uid, _HAS_FILE)
        .group_by(ReceivedObject.path)
    )
    return session.scalars(
        select(ReceivedObject).where(ReceivedObject.id.in_(chosen)).order_by(ReceivedObject.id).limit(limit)
    ).all()


def received(session: Session, study_id: int) -> Sequence[ReceivedObject]:
    """Return the received objects of a study whose files exist, in the order of indexing."""
    return session.scalars(
        select(ReceivedObject)
        .where(ReceivedObject.study_id == study_id, _HAS_FILE)
        .order_by(ReceivedObject.id)
    ).all()


def instances(session: Session, sop_instance_uids: Collection[str]) -> dict[str, Instance]:
    """Return the current versions of these SOP instances, in any study, by SOP Instance UID."""
    return {
        row.sop_instance_uid: row
        for row in session.scalars(select(Instance).where(Instance.sop_instance_uid.in_(sop_instance_uids)))
    }


def instances_of(session: Session, study_id: int, roles: Collection[ObjectRole]) -> Sequence[Instance]:
    """Return the current objects of a study that have one of these ``roles``, in the order of indexing."""
    return session.scalars(
        select(Instance).where(Instance.study_id == study_id, Instance.role.in_(roles)).order_by(Instance.id)
    ).all()


def instance(session: Session, sop_instance_uid: str) -> Instance | None:
    """Return the current version of this SOP instance; None if the node has none."""
    return instances(session, [sop_instance_uid]).get(sop_instance_uid)


def study(session: Session, study_instance_uid: str) -> Study | None:
    """Return the study with this UID, locked until the transaction ends; None if the node has none."""
    return session.scalar(
        select(Study).where(Study.study_instance_uid == study_instance_uid).with_for_update(key_share=True)
    )


def lock_studies_of(session: Session, studies: Collection[str], instances: Collection[str]) -> None:
    """Lock the studies with these UIDs, and the studies that have these SOP instances, until the transaction
    ends.
    """
    theirs = select(Instance.study_id).where(Instance.sop_instance_uid.in_(instances))
    lock_studies(session, or_(Study.study_instance_uid.in_(studies), Study.id.in_(theirs)))


def faulty_entry(session: Session, sender: str, since: datetime) -> Study | None:
    """Return the newest quarantine entry for objects without Study Instance UID of this sender, if it began
    at ``since`` or later; else None.

    ``sender``: the mark at the end of the spool names of its objects. All objects of an entry are from one
    sender.
    """
    first = (
        select(ReceivedObject.spool_name)
        .where(ReceivedObject.study_id == Study.id)
        .order_by(ReceivedObject.id)
        .limit(1)
        .scalar_subquery()
    )
    chosen = select(Study).where(
        Study.study_instance_uid.is_(None),
        Study.state == StudyState.QUARANTINED,
        Study.first_received_at >= since,
        first.endswith(sender),
    )
    return session.scalar(chosen.order_by(Study.id.desc()).limit(1).with_for_update(key_share=True))


def patients(session: Session, study_id: int, roles: Collection[ObjectRole]) -> list[Patient]:
    """Return the distinct patients in a study's objects with one of these ``roles``."""
    return [
        Patient.parse(text)
        for text in session.scalars(
            select(Instance.patient).where(Instance.study_id == study_id, Instance.role.in_(roles)).distinct()
        )
    ]


def of_one_patient(session: Session, studies: Collection[int]) -> bool:
    """Return whether all images for analysis of these studies are surely of one patient."""
    chosen = select(Instance.patient).where(
        Instance.study_id.in_(studies), Instance.role == ObjectRole.SOURCE
    )
    found = [Patient.parse(text) for text in session.scalars(chosen.distinct())]
    # Each with itself as well: one that has only an ID is nobody's.
    return bool(found) and all(one.is_surely(other) for one, other in combinations_with_replacement(found, 2))


def unread_beside(session: Session, study_id: int) -> int:
    """Return the number of unreadable objects on the associations that brought objects of this study.

    Nobody knows to which study they belong. An object that came again and could be read does not count.
    """
    unread = (
        ReceivedObject.outcome == Outcome.QUARANTINED,
        ReceivedObject.association != "",
        ReceivedObject.association.in_(
            select(ReceivedObject.association).where(
                ReceivedObject.study_id == study_id, ReceivedObject.outcome != Outcome.ANSWER
            )
        ),
        Study.study_instance_uid.is_(None),
        ~exists().where(Instance.sop_instance_uid == ReceivedObject.sop_instance_uid),
    )
    return (
        session.scalar(select(func.count(func.distinct(ReceivedObject.path))).join(Study).where(*unread)) or 0
    )


def file_of(session: Session, instance: Instance) -> ReceivedObject:
    """Return the received object whose file is the current version ``instance``."""
    return session.scalars(
        select(ReceivedObject)
        .where(
            ReceivedObject.sop_instance_uid == instance.sop_instance_uid, ReceivedObject.path == instance.path
        )
        .order_by(ReceivedObject.id)
        .limit(1)
    ).one()


def forwarded_to(session: Session, study_id: int, calling_ae: str) -> Sequence[str]:
    """Return the peers that get, or got, objects of this sender in this study by forwarding rules."""
    return session.scalars(
        select(Delivery.destination)
        .join(Delivery.original)
        .join(Original.received)
        .where(Original.study_id == study_id, ReceivedObject.calling_ae == calling_ae)
        .distinct()
        .order_by(Delivery.destination)
    ).all()


def came_from_none_of(senders: Collection[str]) -> ColumnElement[bool]:
    """SQL: whether none of a study's objects came from ``senders``.

    ``senders``: marks at the end of spool names ("" for names without a mark).
    """
    return ~exists().where(
        ReceivedObject.study_id == Study.id,
        or_(*(ReceivedObject.spool_name.endswith(sender) for sender in senders)),
    )


def next_due(session: Session, due: ColumnElement[bool]) -> Study | None:
    """Return the next study to be assembled, locked; None if there is none. ``due``: :func:`is_due`, and
    further SQL conditions.

    STAT studies come first.
    """
    return session.scalar(
        select(Study)
        .where(due)
        .order_by(Study.priority.desc(), Study.due_at, Study.id)
        .limit(1)
        .with_for_update(key_share=True, skip_locked=True)
    )


def any_due(session: Session, due: ColumnElement[bool]) -> bool:
    """Return whether ``next_due`` would find a study, which makes a writing transaction worthwhile."""
    return bool(session.scalar(select(exists().where(due))))


def open_associations(session: Session, of: ColumnElement[bool]) -> Sequence[Association]:
    """Return the open associations that fulfil the condition ``of``, locked until the transaction ends."""
    return session.scalars(
        select(Association)
        .where(of, Association.closed_at.is_(None))
        .order_by(Association.opened_at)
        .with_for_update(skip_locked=True)
    ).all()


def brought(session: Session, association: str) -> tuple[int, datetime | None]:
    """Return how many indexed objects an association brought, and when the last of them came."""
    number, last = session.execute(
        select(func.count(), func.max(ReceivedObject.received_at)).where(
            ReceivedObject.association == association
        )
    ).one()
    return number, last


def keep_report(
    session: Session,
    transaction_uid: str,
    calling_ae: str,
    committed: Sequence[str],
    failed: Sequence[str],
    received_at: datetime,
) -> None:
    """Store a storage commitment report until the outbox processes it.

    ``committed``: lines "SOP-Instance-UID SOP-Class-UID". ``failed``: lines "SOP-Instance-UID reason", the
    reason in hexadecimal.
    """
    session.add(
        WaitingReport(
            transaction_uid=transaction_uid,
            calling_ae=calling_ae,
            committed=list(committed),
            failed=list(failed),
            received_at=received_at,
        )
    )


def sources(session: Session, study_id: int) -> Sequence[Instance]:
    """Return the images of a study that may start a job and whose files exist."""
    return session.scalars(
        select(Instance)
        .where(Instance.study_id == study_id, Instance.role == ObjectRole.SOURCE)
        .where(Instance.purged.is_(False))
        .order_by(Instance.id)
    ).all()


def is_at_rest(before: datetime) -> ColumnElement[bool]:
    """SQL: whether a study has ended, is unchanged since ``before``, and no job or delivery of it is under
    way, held, given up, or ended later.
    """
    sent = exists().where(Result.study_id == Study.id, Delivery.result_id == Result.id)
    forwarded = exists().where(Original.study_id == Study.id, Delivery.original_id == Original.id)
    finished = (DeliveryState.CONFIRMED, DeliveryState.CANCELLED, DeliveryState.DISCARDED)
    unfinished = or_(*(one.where(Delivery.state.not_in(finished)) for one in (sent, forwarded)))
    fresh = or_(*(one.where(Delivery.confirmed_at >= before) for one in (sent, forwarded)))
    working = (
        exists()
        .where(Job.study_id == Study.id)
        .where(Job.state.in_(OPEN_JOBS) | (Job.finished_at >= before) | (Job.state == JobState.HELD))
    )
    ended = Study.state.in_(END_STATES - {StudyState.QUARANTINED})
    return and_(ended, Study.last_received_at < before, ~unfinished, ~fresh, ~working)


def purgeable(
    session: Session, before: datetime, limit: int, among: Collection[int] | None = None
) -> list[int]:
    """Return ids of at most ``limit`` studies at rest since ``before`` whose files may be deleted.

    ``among``: consider only these ids; None: all. Another transaction may be adding an object: call
    ``lock_purgeable`` before deleting anything.
    """
    files = exists().where(ReceivedObject.study_id == Study.id, _HAS_FILE)
    chosen = select(Study.id).where(is_at_rest(before), files)
    if among is not None:
        chosen = chosen.where(Study.id.in_(among))
    return list(session.scalars(chosen.order_by(Study.id).limit(limit)))


def lock_at_rest(session: Session, before: datetime, study_id: int) -> Study | None:
    """Lock a study that is at rest since ``before`` until the transaction ends; None if it is not, or another
    transaction is changing it.
    """
    locked = lock_free(session, [study_id])
    return session.scalar(select(Study).where(Study.id.in_(locked), is_at_rest(before)))


def lock_purgeable(
    session: Session, before: datetime, limit: int, among: Collection[int] | None = None
) -> list[int]:
    """Lock studies whose files may be deleted until the transaction ends; return their ids.

    Parameters as of ``purgeable``. Studies that another transaction is changing now are left out.
    """
    return purgeable(session, before, limit, lock_free(session, purgeable(session, before, limit, among)))


def mark_purged(session: Session, study_id: int) -> list[str]:
    """Mark the objects of a locked study as deleted; return the paths of their files, which the caller
    deletes.
    """
    rows = {row.id: row.path for row in received(session, study_id)}
    if not rows:
        return []
    theirs = (ReceivedObject.study_id == study_id) & (ReceivedObject.id <= max(rows))
    for chosen in (
        update(Instance).where(
            Instance.study_id == study_id, Instance.path.in_(select(ReceivedObject.path).where(theirs))
        ),
        update(ReceivedObject).where(theirs),
    ):
        session.execute(chosen.values(purged=True), execution_options={"synchronize_session": False})
    return sorted(set(rows.values()))


def is_uploaded(since: datetime) -> ColumnElement[bool]:
    """SQL: whether all objects of a study that is being received came by uploads of persons that ended after
    ``since``.
    """
    association = AuditRow.fields["association"].as_string()
    by_program = AuditRow.fields["way"].as_string().is_not(None)  # it may send the rest of a study later
    ended = select(association).where(
        AuditRow.action == AuditAction.UPLOADED, AuditRow.at > since, association.is_not(None), ~by_program
    )
    others = ReceivedObject.association.not_in(ended)
    return (Study.state == StudyState.RECEIVING) & ~exists().where(
        ReceivedObject.study_id == Study.id, others
    )


def is_trial(session: Session, study_id: int) -> bool:
    """Return whether all objects of a study are of pictures that a person tries."""
    return session.scalar(select(Study.id).where(Study.id == study_id, IS_TRIAL)) is not None


def stays_here(session: Session, study_id: int) -> bool:
    """Return whether the results of a study are sent nowhere, and nobody is notified of them: it was fetched
    for a comparison, or is a picture that a person tries.
    """
    return fetches.is_prior(session, study_id) or is_trial(session, study_id)


def is_due(now: datetime, silent_since: datetime, at_once: ColumnElement[bool]) -> ColumnElement[bool]:
    """SQL: whether a study's quiet time has passed and no open association brings it objects, or ``at_once``
    holds.

    An open association does not delay a study that received nothing since ``silent_since``.
    """
    is_held = exists().where(
        ReceivedObject.study_id == Study.id,
        Association.id == ReceivedObject.association,
        Association.closed_at.is_(None),
    ) & (Study.due_at > silent_since)  # set anew by each object, by the steady clock
    quiet = (Study.state == StudyState.RECEIVING) & (Study.due_at <= now) & ~is_held
    return quiet | at_once
