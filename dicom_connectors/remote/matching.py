"""What a vendor's AI server sends: matched to a study that was sent to it by the UIDs that the node sent.

Whatever comes under its AE title is part of an awaited answer, or changes nothing: it never becomes part of a
study, and so starts no rule, of its own vendor or of another.
"""

from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ai_pipeline.programs.output import MOST_OBJECTS
from dicom_connectors.remote.settings import Vendor, vendors
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import Arrival, Claim
from dicom_node.base.events import ANSWER_ASIDE, ANSWER_LATE, ANSWER_UNKNOWN, OBJECT_INDEXED
from dicom_node.base.lifecycle import AssociationOutcome, AwaitedState
from dicom_node.base.store import intake
from dicom_node.base.store.awaited import AnswerObject, AwaitedAnswer
from dicom_node.base.store.tables import Association, ReceivedObject
from dicom_node.base.store.transitions import move, utc_now


def arrivals(settings: Settings) -> Callable[[Session, Arrival], Claim | None] | None:
    """Return what claims the objects of vendors' AI servers; None if no rule sends to one."""
    by_title = {one.peer.ae_title: one for one in vendors(settings)}
    if not by_title:
        return None

    def offer(session: Session, arrival: Arrival) -> Claim | None:
        """Return what becomes of an object of a vendor; None for one of another sender."""
        vendor = by_title.get(arrival.calling_ae)
        return None if vendor is None else _claim(session, arrival, vendor)

    return offer


def has_broken_off(session: Session, row: AwaitedAnswer) -> bool:
    """Return whether the association that last brought an object of this answer, also one that came again,
    was aborted: more may have been to come.
    """
    kept = select(AnswerObject.received_id).where(AnswerObject.awaited_id == row.id)
    uids = select(ReceivedObject.sop_instance_uid).where(ReceivedObject.id.in_(kept))
    last = (
        select(Association.outcome)
        .join(ReceivedObject, ReceivedObject.association == Association.id)
        .where(ReceivedObject.sop_instance_uid.in_(uids), ReceivedObject.study_id == row.study_id)
        .order_by(ReceivedObject.id.desc())
    )
    return session.scalar(last.limit(1)) is AssociationOutcome.ABORTED


def _claim(session: Session, arrival: Arrival, vendor: Vendor) -> Claim:
    """Match an object of a vendor to the study that was sent to it last under this Study Instance UID."""
    row = None
    if arrival.study_instance_uid:
        chosen = (
            select(AwaitedAnswer)
            .where(
                AwaitedAnswer.peer == vendor.peer.name,
                AwaitedAnswer.study_instance_uid == arrival.study_instance_uid,
                AwaitedAnswer.state != AwaitedState.WAITING,  # what comes now answers an earlier one
            )
            .order_by(AwaitedAnswer.id.desc())
        )
        row = session.scalar(chosen.limit(1).with_for_update())
    if row is None:
        return Claim(None, ANSWER_UNKNOWN, f"{vendor.peer.name} sent it for no study that was sent there")
    if why := _why_aside(session, arrival, row):
        return Claim(row.study_id, ANSWER_ASIDE, why)

    def keep(received_id: int) -> None:
        """Add the object to the answer, which has to be quiet anew."""
        session.add(AnswerObject(received_id=received_id, awaited_id=row.id))
        row.last_at = max(arrival.received_at, row.last_at or arrival.received_at)
        if row.state is not AwaitedState.SENDING:
            row.next_at = utc_now() + timedelta(seconds=vendor.quiet_seconds)
        session.flush()
        if row.state is AwaitedState.SILENT:
            move(session, row, ANSWER_LATE)

    return Claim(row.study_id, OBJECT_INDEXED, "", keep)


def _why_aside(session: Session, arrival: Arrival, row: AwaitedAnswer) -> str:
    """Return why an object changes nothing; "" if it becomes part of the answer."""
    if row.state is AwaitedState.ANSWERED:
        return "the answer was complete before it came"
    if row.state is AwaitedState.DROPPED:
        return "its answer is no longer awaited"
    if intake.instance(session, arrival.sop_instance_uid) is not None:
        return "the node has another object of its UID, which came from elsewhere"
    received = select(ReceivedObject.dataset_sha256).join(
        AnswerObject, AnswerObject.received_id == ReceivedObject.id
    )
    same = received.where(
        AnswerObject.awaited_id == row.id, ReceivedObject.sop_instance_uid == arrival.sop_instance_uid
    )
    if arrival.dataset_sha256 and arrival.dataset_sha256 in session.scalars(same).all():
        return "it came before"
    number = select(func.count()).select_from(AnswerObject).where(AnswerObject.awaited_id == row.id)
    if (session.scalar(number) or 0) > MOST_OBJECTS:  # one more refuses the answer
        return f"an answer has at most {MOST_OBJECTS} objects"
    return ""
