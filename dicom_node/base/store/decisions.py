"""The decision table: a row is added when a decision is carried out, and read before anything is sent."""

from collections.abc import Collection, Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, exists, or_, select, update
from sqlalchemy.orm import Session

from dicom_node.base.store.database import DECIDED, batches
from dicom_node.base.store.tables import DecisionRow, Delivery, Original, Result, Study
from dicom_node.base.store.transitions import utc_now

_OTHERS_HAD = timedelta(hours=1)  # after which a machine copies what another one did not


def add(session: Session, decision: DecisionRow) -> None:
    """Add a decision that this transaction carries out."""
    session.add(decision)
    session.info[DECIDED] = True


def apply(session: Session, number: str) -> None:
    """Mark a decision from the copy as applied by this transaction. Raises LookupError if it was applied
    before.
    """
    row = session.get(DecisionRow, number, with_for_update=True, populate_existing=True)
    if row is None or row.applied_at is not None:
        raise LookupError(number)
    row.applied_at, row.waits_for = utc_now(), ""


def not_copied(session: Session, machine: str, limit: int) -> Sequence[DecisionRow]:
    """Decisions that this machine must copy, the oldest first; also another machine's after an hour."""
    return session.scalars(
        select(DecisionRow)
        .where(
            DecisionRow.copied.is_(False),
            or_(DecisionRow.machine == machine, DecisionRow.at < utc_now() - _OTHERS_HAD),
        )
        .order_by(DecisionRow.at, DecisionRow.id)
        .limit(limit)
    ).all()


def mark_copied(session: Session, numbers: Sequence[str]) -> None:
    """Mark decisions as copied: the synced file contains them."""
    session.execute(update(DecisionRow).where(DecisionRow.id.in_(numbers)).values(copied=True))


def mark_lost(session: Session, machine: str, there: Collection[str]) -> None:
    """Mark decisions as not copied that this machine copied and that are not among the copies any more."""
    mine = select(DecisionRow.id).where(DecisionRow.machine == machine, DecisionRow.copied)
    for batch in batches(number for number in session.scalars(mine).all() if number not in there):
        session.execute(update(DecisionRow).where(DecisionRow.id.in_(batch)).values(copied=False))


def known(session: Session, numbers: Collection[str]) -> set[str]:
    """The numbers of these decisions that the database has."""
    return {
        number
        for batch in batches(numbers)
        for number in session.scalars(select(DecisionRow.id).where(DecisionRow.id.in_(batch)))
    }


def waiting(session: Session) -> Sequence[DecisionRow]:
    """Decisions from the copy that are not applied, in the order in which they were made."""
    return session.scalars(
        select(DecisionRow).where(DecisionRow.applied_at.is_(None)).order_by(DecisionRow.at, DecisionRow.id)
    ).all()


def holds_back() -> ColumnElement[bool]:
    """The deliveries of studies with a decision that is not applied yet; all, if the copy itself is
    faulty.
    """
    waits = (DecisionRow.applied_at.is_(None), DecisionRow.holds)
    studies = (
        select(Study.id)
        .join(DecisionRow, DecisionRow.study_uid == Study.study_instance_uid)
        .where(*waits)
        .correlate(None)
    )
    return or_(
        exists().where(Result.id == Delivery.result_id, Result.study_id.in_(studies)).correlate(Delivery),
        exists()
        .where(Original.id == Delivery.original_id, Original.study_id.in_(studies))
        .correlate(Delivery),
        exists().where(*waits, DecisionRow.study_uid == ""),
    )
