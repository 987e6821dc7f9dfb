"""Results of rules with ``assess_first``: they wait until a person accepts or rejects them."""

import hashlib
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session

from dicom_node.config.settings import Settings
from dicom_node.errors import NotAllowedNow
from dicom_node.events import (
    ASSESSMENT_OVERDUE,
    DELIVERY_DISCARDED,
    DELIVERY_FREED,
    RESULTS_ACCEPTED,
    RESULTS_REJECTED,
)
from dicom_node.model.lifecycle import UNDECIDED, DeliveryState, HeldState, StudyState
from dicom_node.store.database import Database
from dicom_node.store.tables import Delivery, HeldResult, Job, Result, Study, Withdrawal
from dicom_node.store.transitions import FOR_UPDATE, move_delivery, move_held, settle_study, utc_now
from dicom_node.store.views import View, as_json

# The state of deliveries is indexed, and few are unassessed.
_UNASSESSED = select(Delivery.result_id).where(Delivery.state == DeliveryState.UNASSESSED)
_NOT_ACCEPTED = HeldResult.state != HeldState.ACCEPTED


def hold(
    session: Session, result: Result, destinations: Collection[str], assess_first: bool
) -> HeldResult | None:
    """Hold a result for these destinations if it must be assessed first.

    Returns the row that holds the result or that a person decided on; None if nothing holds it.
    ``assess_first``: the rule wants an assessment. If the rule has stopped wanting one, an undecided result
    is released, unless it waits for destinations of other rules.
    """
    row = session.get(HeldResult, result.id)
    if row is not None and row.state not in UNDECIDED:
        return row
    here = select(Delivery.destination).where(Delivery.result_id == result.id)
    waits = Delivery.state == DeliveryState.UNASSESSED
    if assess_first:
        left = set(session.scalars(here.where(Delivery.withdrawn.is_(False), ~waits)))
        if row is None and set(destinations) - left:
            row = HeldResult(result_id=result.id, study_id=result.study_id, since=utc_now())
            session.add(row)
            session.flush()
        return row
    if row is not None and not set(session.scalars(here.where(waits))) - set(destinations):
        session.delete(row)
        session.flush()
    return None


def accept(
    session: Session, study_id: int, by: str, as_of: str | None, *, rejected: bool | None = None
) -> int:
    """Release the study's held results for sending; returns how many. Raises NotAllowedNow.

    ``as_of``: the mark of the results that the person saw. ``rejected``: whether a person rejected them
    before; None: as the mark says; without a mark only results that nobody rejected, so that a repeated
    request releases nothing.
    """
    rows = _locked(session, study_id, as_of)
    were_rejected = rows[0].state is HeldState.REJECTED
    if were_rejected is not (rejected if rejected is not None else were_rejected and as_of is not None):
        raise NotAllowedNow(
            "no result of this study waits for an assessment; to send rejected results, use studies accept "
            "--rejected"
            if were_rejected
            else "newer results wait for an assessment: decide on these first"
        )
    for row in rows:
        for delivery in _deliveries(
            session, row, DeliveryState.DISCARDED if were_rejected else DeliveryState.UNASSESSED
        ):
            if delivery.item.purged:
                raise NotAllowedNow("the files of these results were deleted after spool.result_days")
            move_delivery(
                session, delivery, DELIVERY_FREED, reason="", discarded_because="", next_at=utc_now()
            )
    move_held(session, rows, RESULTS_ACCEPTED, decided_at=utc_now(), decided_by=by, because="")
    settle_study(session, study_id)
    return len(rows)


def reject(session: Session, study_id: int, by: str, because: str, as_of: str | None) -> int:
    """Reject the study's held results, so that none is sent; returns how many.

    ``because``: a person's words. Raises as ``accept``.
    """
    rows = _locked(session, study_id, as_of)
    if rows[0].state is HeldState.REJECTED:
        raise NotAllowedNow("these results were rejected already")
    for row in rows:
        for delivery in _deliveries(session, row, DeliveryState.UNASSESSED):
            move_delivery(session, delivery, DELIVERY_DISCARDED, reason="", discarded_because=because)
    move_held(session, rows, RESULTS_REJECTED, decided_at=utc_now(), decided_by=by, because=because)
    settle_study(session, study_id)
    return len(rows)


def report_overdue(database: Database, settings: Settings) -> int:
    """Record event 4041 once for each study whose results wait too long; returns the number of studies."""
    hours = settings.outbox.assess_hours
    if not hours:
        return 0
    late = select(HeldResult).where(
        HeldResult.state == HeldState.WAITING,
        HeldResult.since < utc_now() - timedelta(hours=hours),
        HeldResult.result_id.in_(_UNASSESSED),
    )
    with database.write() as session:
        studies: dict[int, list[HeldResult]] = {}
        for row in session.scalars(late.order_by(HeldResult.result_id)):
            studies.setdefault(row.study_id, []).append(row)
        return sum(move_held(session, rows, ASSESSMENT_OVERDUE) > 0 for rows in studies.values())


def in_question(session: Session, study_id: int) -> Sequence[HeldResult]:
    """The results on which a person can decide now, by number: the waiting ones; if none, the rejected
    ones.
    """
    of_study = select(HeldResult).where(HeldResult.study_id == study_id).order_by(HeldResult.result_id)
    waiting = session.scalars(of_study.where(HeldResult.result_id.in_(_UNASSESSED))).all()
    if waiting:
        return waiting
    # Those that a person rejected, without results that newer ones of their rule replaced.
    newest = (
        select(func.max(Result.job_id))
        .join(Job, Job.id == Result.job_id)
        .where(Job.study_id == study_id)
        .group_by(Job.rule)
    )
    return session.scalars(
        of_study.where(
            HeldResult.state == HeldState.REJECTED,
            HeldResult.result_id.in_(select(Result.id).where(Result.job_id.in_(newest))),
            HeldResult.result_id.not_in(select(Withdrawal.result_id)),
        )
    ).all()


def mark(rows: Sequence[HeldResult]) -> str:
    """A hash of the results and their decisions: it changes when results are added or rejected."""
    seen = ",".join(f"{row.result_id}:{row.state is HeldState.REJECTED}" for row in rows)
    return hashlib.sha256(seen.encode()).hexdigest()[:16]


def may_not_leave() -> ColumnElement[bool]:
    """SQL condition for deliveries of results that are not assessed, or are rejected."""
    return exists().where(HeldResult.result_id == Delivery.result_id, _NOT_ACCEPTED)


def not_accepted(session: Session, result_ids: Collection[int]) -> dict[int, HeldState]:
    """The state of each of these results that must not be sent: not assessed, or rejected."""
    chosen = select(HeldResult).where(HeldResult.result_id.in_(result_ids), _NOT_ACCEPTED)
    return {row.result_id: row.state for row in session.scalars(chosen)}


def decided(session: Session, study_id: int) -> Sequence[HeldResult]:
    """The results of a study that a person accepted or rejected, in the order of the decisions."""
    decisions = select(HeldResult).where(HeldResult.study_id == study_id, HeldResult.state.not_in(UNDECIDED))
    return session.scalars(decisions.order_by(HeldResult.decided_at)).all()


def numbers(session: Session) -> View:
    """The number of studies with held, unassessed results, and the time since when the oldest waits."""
    chosen = select(func.count(HeldResult.study_id.distinct())).where(HeldResult.result_id.in_(_UNASSESSED))
    return {"studies": session.scalar(chosen) or 0, "oldest": as_json(oldest(session))}


def oldest(session: Session) -> datetime | None:
    """The time since when the longest waiting result waits; None if none waits."""
    return session.scalar(select(func.min(HeldResult.since)).where(HeldResult.result_id.in_(_UNASSESSED)))


def _locked(session: Session, study_id: int, as_of: str | None) -> Sequence[HeldResult]:
    study = session.get_one(Study, study_id, with_for_update=FOR_UPDATE, populate_existing=True)
    if study.state in (StudyState.RECEIVING, StudyState.COMPLETE, StudyState.QUARANTINED):
        raise NotAllowedNow(f"the study is {study.state}: its results are made anew, look again then")
    rows = in_question(session, study_id)
    if not rows:
        raise NotAllowedNow("no result of this study waits for an assessment")
    if as_of is not None and as_of != mark(rows):
        raise NotAllowedNow("the results changed since you saw them: load the page again")
    return rows


def _deliveries(session: Session, row: HeldResult, state: DeliveryState) -> Sequence[Delivery]:
    chosen = select(Delivery).where(
        Delivery.result_id == row.result_id,
        Delivery.state == state,
        Delivery.discarded_because == row.because,  # not what was discarded for another reason
    )
    return session.scalars(chosen.with_for_update()).all()
