"""Results that wait until a person has accepted them: which wait, which were rejected."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from dicom_node.model.kinds import HoldVerdict
from dicom_node.model.lifecycle import DeliveryState
from dicom_node.store.accounts import Withdrawal
from dicom_node.store.tables import Delivery, HeldResult, Job, Result
from dicom_node.store.transitions import utc_now
from dicom_node.store.views import View, as_json

# The state is indexed, and few wait.
_WAITING = select(Delivery.result_id).where(Delivery.state == DeliveryState.UNASSESSED)
_NOT_ACCEPTED = or_(HeldResult.verdict.is_(None), HeldResult.verdict == HoldVerdict.REJECTED)


def stand(
    session: Session, result: Result, destinations: Collection[str], assess_first: bool
) -> HeldResult | None:
    """What holds this result now for these destinations, or has held it; None where nothing does.

    ``assess_first``: the rule that sends it there wants an assessment. Where it does not (any more), what was
    not decided is free, but for what waits for destinations of other rules.
    """
    row = session.get(HeldResult, result.id)
    if row is not None and row.verdict is not None:
        return row
    here = select(Delivery.destination).where(Delivery.result_id == result.id)
    waits = Delivery.state == DeliveryState.UNASSESSED
    if assess_first:
        decided = set(session.scalars(here.where(Delivery.withdrawn.is_(False), ~waits)))
        if row is None and set(destinations) - decided:
            row = HeldResult(result_id=result.id, study_id=result.study_id, since=utc_now())
            session.add(row)
            session.flush()
        return row
    if row is not None and not set(session.scalars(here.where(waits))) - set(destinations):
        session.delete(row)
        session.flush()
    return None


def may_not_leave() -> ColumnElement[bool]:
    """Deliveries of results that are not assessed, or rejected."""
    return Delivery.result_id.in_(select(HeldResult.result_id).where(_NOT_ACCEPTED))


def kept(session: Session, result_ids: Collection[int]) -> dict[int, HoldVerdict | None]:
    """Those of these results that may not leave: not assessed (None), or rejected."""
    chosen = select(HeldResult.result_id, HeldResult.verdict)
    rows = session.execute(chosen.where(HeldResult.result_id.in_(result_ids), _NOT_ACCEPTED))
    return {number: verdict for number, verdict in rows}  # noqa: C416


def waiting(session: Session, study_id: int) -> Sequence[HeldResult]:
    """Those of a study that wait for a person now, by number."""
    chosen = select(HeldResult).where(HeldResult.study_id == study_id, HeldResult.result_id.in_(_WAITING))
    return session.scalars(chosen.order_by(HeldResult.result_id)).all()


def rejected(session: Session, study_id: int) -> Sequence[HeldResult]:
    """Those of a study that a person rejected, by number; not what newer results of their rule replaced."""
    of_study = (HeldResult.study_id == study_id, HeldResult.verdict == HoldVerdict.REJECTED)
    newest = (
        select(func.max(Result.job_id))
        .join(Job, Job.id == Result.job_id)
        .where(Job.study_id == study_id)
        .group_by(Job.rule)
    )
    chosen = select(HeldResult).join(Result, Result.id == HeldResult.result_id)
    gone = HeldResult.result_id.in_(select(Withdrawal.result_id))
    chosen = chosen.where(*of_study, Result.job_id.in_(newest), ~gone)
    return session.scalars(chosen.order_by(HeldResult.result_id)).all()


def decided(session: Session, study_id: int) -> Sequence[HeldResult]:
    """Those of a study that a person accepted or rejected, in the order of that."""
    of_study = (HeldResult.study_id == study_id, HeldResult.verdict.is_not(None))
    return session.scalars(select(HeldResult).where(*of_study).order_by(HeldResult.decided_at)).all()


def overdue(session: Session, before: datetime) -> Sequence[HeldResult]:
    """Those that wait since before then and of which no event told."""
    late = (HeldResult.since < before, HeldResult.overdue.is_(False))
    chosen = select(HeldResult).where(*late, HeldResult.result_id.in_(_WAITING))
    return session.scalars(chosen.order_by(HeldResult.result_id)).all()


def numbers(session: Session) -> View:
    """How many studies have results that wait, and since when the oldest does."""
    chosen = select(func.count(HeldResult.study_id.distinct())).where(HeldResult.result_id.in_(_WAITING))
    return {"studies": session.scalar(chosen) or 0, "oldest": as_json(oldest(session))}


def oldest(session: Session) -> datetime | None:
    """Since when the result waits that waits longest."""
    chosen = select(func.min(HeldResult.since)).where(HeldResult.result_id.in_(_WAITING))
    return session.scalar(chosen)
