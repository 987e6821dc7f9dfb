"""Queries of claimed work items, and of the results for them; their connector decides."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from dicom_node.base.kinds import ResultKind
from dicom_node.base.lifecycle import OPEN_WORKITEMS, DeliveryState, JobState, WorkitemState
from dicom_node.base.store.tables import ClaimedWorkitem, Delivery, Job, Result, Withdrawal

_NOT_ASKED = ClaimedWorkitem.cancel_asked.is_(False)


@dataclass(slots=True)
class DeliveredSeries:
    """Results of one series that are in force and confirmed; ``destinations``: names of peers."""

    objects: dict[str, str] = field(default_factory=dict)
    """SOP Class UID by SOP Instance UID."""
    destinations: set[str] = field(default_factory=set)


def open_items(session: Session, peer: str) -> int:
    """The number of this manager's items that are claimed and not ended."""
    return (
        session.scalar(
            select(func.count())
            .select_from(ClaimedWorkitem)
            .where(ClaimedWorkitem.peer == peer, ClaimedWorkitem.state.in_(OPEN_WORKITEMS))
        )
        or 0
    )


def claimed(session: Session, peer: str) -> set[str]:
    """UIDs of this manager's claimed items without a request to cancel them."""
    return set(
        session.scalars(
            select(ClaimedWorkitem.workitem_uid).where(
                ClaimedWorkitem.peer == peer, ClaimedWorkitem.state == WorkitemState.CLAIMED, _NOT_ASKED
            )
        )
    )


def to_cancel(session: Session, peer: str, uid: str) -> Sequence[ClaimedWorkitem]:
    """This manager's claimed items with this UID and without a request to cancel them."""
    mine = (ClaimedWorkitem.peer == peer, ClaimedWorkitem.state == WorkitemState.CLAIMED)
    named = ClaimedWorkitem.workitem_uid == uid
    return session.scalars(select(ClaimedWorkitem).where(*mine, named, _NOT_ASKED)).all()


def of_others(session: Session, peers: Collection[str], limit: int) -> Sequence[ClaimedWorkitem]:
    """Open work items of all managers except ``peers``."""
    return session.scalars(
        select(ClaimedWorkitem)
        .where(ClaimedWorkitem.state.in_(OPEN_WORKITEMS), ClaimedWorkitem.peer.not_in(peers))
        .limit(limit)
    ).all()


def others_of_study(session: Session, row: ClaimedWorkitem) -> bool:
    """Whether another open item wants the same study."""
    same = (ClaimedWorkitem.study_instance_uid == row.study_instance_uid, ClaimedWorkitem.id != row.id)
    return bool(session.scalar(select(exists().where(*same, ClaimedWorkitem.state.in_(OPEN_WORKITEMS)))))


def unfinished_jobs(session: Session, study_id: int) -> Sequence[Job]:
    """Jobs of a study that wait, are held, or run."""
    states = (JobState.HELD, JobState.QUEUED, JobState.RUNNING)
    return session.scalars(select(Job).where(Job.study_id == study_id, Job.state.in_(states))).all()


def known(session: Session, peer: str, uids: Collection[str]) -> set[str]:
    """The UIDs among ``uids`` for which a claim at this peer is recorded, in whatever state."""
    return set(
        session.scalars(
            select(ClaimedWorkitem.workitem_uid).where(
                ClaimedWorkitem.peer == peer, ClaimedWorkitem.workitem_uid.in_(uids)
            )
        )
    )


def share_done(session: Session, study_id: int) -> float:
    """The finished part of the study's running jobs, 0 to 1."""
    return (
        session.scalar(
            select(func.avg(Job.share_done)).where(Job.study_id == study_id, Job.state == JobState.RUNNING)
        )
        or 0.0
    )


def delivered(session: Session, study_id: int) -> Mapping[str, DeliveredSeries]:
    """Results that name the patient and are confirmed, not withdrawn and not replaced, by Series Instance
    UID.
    """
    replaced = select(Result.supersedes).where(Result.study_id == study_id, Result.supersedes != "")
    chosen = (
        select(Result, Delivery.destination)
        .join(Delivery, Delivery.result_id == Result.id)
        .where(
            Result.study_id == study_id,
            Result.deidentified.is_(False),
            Result.kind != ResultKind.REJECTION,
            Result.id.not_in(select(Withdrawal.result_id)),
            Result.sop_instance_uid.not_in(replaced),
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
