"""Results of rules with ``assess_first``: held back until a person accepts or rejects them."""

import hashlib
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotAllowedNow
from dicom_node.base.lifecycle import UNDECIDED, DeliveryState, HeldState, StudyState
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Delivery, HeldResult, Job, Result, Study, Withdrawal
from dicom_node.base.store.transitions import FOR_UPDATE, move, move_held, settle_study, utc_now
from dicom_node.base.store.views import View, as_json

# The state of deliveries is indexed, and few are unassessed.
_UNASSESSED = select(Delivery.result_id).where(Delivery.state == DeliveryState.UNASSESSED)
NOT_ACCEPTED = HeldResult.state != HeldState.ACCEPTED


def hold(
    session: Session, result: Result, destinations: Collection[str], assess_first: bool
) -> HeldResult | None:
    """Keep a result from these destinations until a person assesses it, if its rule wants that
    (``assess_first``).

    Returns the row of a result that waits, or on which a person decided; None if it may be sent at once. If
    the rule no longer wants an assessment, an undecided result is released, unless it waits for destinations
    of other rules.
    """
    row = session.get(HeldResult, result.id)
    if row is not None and row.state not in UNDECIDED:
        return row
    here = select(Delivery.destination).where(Delivery.result_id == result.id)
    waits = Delivery.state == DeliveryState.UNASSESSED
    if assess_first:
        left = set(session.scalars(here.where(Delivery.withdrawn.is_(False), ~waits)))
        if row is None and set(destinations) - left:
            row = HeldResult(
                result_id=result.id, study_id=result.study_id, state=HeldState.WAITING, since=utc_now()
            )
            session.add(row)
        return row
    if row is not None and not set(session.scalars(here.where(waits))) - set(destinations):
        session.delete(row)
    return None


def accept(
    session: Session, study_id: int, by: str, as_of: str | None, *, rejected: bool | None = None
) -> int:
    """Accept the results of a study that wait for an assessment, by which they are sent; returns how many.

    ``by``: the user. ``as_of``: the ``results_hash`` of what the person saw; None: not compared.
    ``rejected``: True to send results that were rejected before, False for waiting ones; None: what the hash
    says, or without one only results that nobody rejected, so that a repeated request releases nothing.
    Raises NotAllowedNow.
    """
    rows = _locked_decidable(session, study_id, as_of)
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
            move(session, delivery, events.DELIVERY_FREED, reason="", discarded_because="", next_at=utc_now())
    move_held(session, rows, events.RESULTS_ACCEPTED, decided_at=utc_now(), decided_by=by, because="")
    settle_study(session, study_id)
    return len(rows)


def reject(session: Session, study_id: int, by: str, because: str, as_of: str | None) -> int:
    """Reject the results of a study that wait for an assessment, so that none is sent; returns how many.

    ``by``: the user. ``because``: the person's words. ``as_of`` and errors as in ``accept``.
    """
    rows = _locked_decidable(session, study_id, as_of)
    if rows[0].state is HeldState.REJECTED:
        raise NotAllowedNow("these results were rejected already")
    for row in rows:
        for delivery in _deliveries(session, row, DeliveryState.UNASSESSED):
            move(session, delivery, events.DELIVERY_DISCARDED, reason="", discarded_because=because)
    move_held(session, rows, events.RESULTS_REJECTED, decided_at=utc_now(), decided_by=by, because=because)
    settle_study(session, study_id)
    return len(rows)


def report_overdue(database: Database, settings: Settings) -> int:
    """Record event 4041 once for each study whose results wait too long for an assessment; returns how many
    studies.
    """
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
        return sum(move_held(session, rows, events.ASSESSMENT_OVERDUE) > 0 for rows in studies.values())


def decidable_results(session: Session, study_id: int) -> Sequence[HeldResult]:
    """The results of a study on which a person can decide now, sorted by number.

    They are those that wait for an assessment; if none waits, those that were rejected, which can be
    reversed.
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
            HeldResult.result_id.in_(select(Result.id).where(Result.job_id.in_(newest), ~Result.outdated)),
            HeldResult.result_id.not_in(select(Withdrawal.result_id)),
        )
    ).all()


def results_hash(rows: Sequence[HeldResult]) -> str:
    """A hash of these results that changes when one of them is added or rejected."""
    return hashlib.sha256(
        ",".join(f"{row.result_id}:{row.state is HeldState.REJECTED}" for row in rows).encode()
    ).hexdigest()[:16]


def not_accepted(session: Session, result_ids: Collection[int]) -> dict[int, HeldState]:
    """The state of each of these results that must not be sent (not assessed yet, or rejected), by number
    of the result.
    """
    return {
        row.result_id: row.state
        for row in session.scalars(
            select(HeldResult).where(HeldResult.result_id.in_(result_ids), NOT_ACCEPTED)
        )
    }


def decided_results(session: Session, study_id: int) -> Sequence[HeldResult]:
    """The results of a study that a person accepted or rejected, in the order of the decisions."""
    return session.scalars(
        select(HeldResult)
        .where(HeldResult.study_id == study_id, HeldResult.state.not_in(UNDECIDED))
        .order_by(HeldResult.decided_at)
    ).all()


def numbers(session: Session) -> View:
    """The figures of results that wait for an assessment: number of studies, and since when the oldest one
    waits.
    """
    chosen = select(func.count(HeldResult.study_id.distinct())).where(HeldResult.result_id.in_(_UNASSESSED))
    return {"studies": session.scalar(chosen) or 0, "oldest": as_json(oldest_unassessed(session))}


def oldest_unassessed(session: Session) -> datetime | None:
    """The time since which the oldest result waits for an assessment; None if none waits."""
    return session.scalar(select(func.min(HeldResult.since)).where(HeldResult.result_id.in_(_UNASSESSED)))


def _locked_decidable(session: Session, study_id: int, as_of: str | None) -> Sequence[HeldResult]:
    """The results on which a person can decide (``decidable_results``), with the study locked. Raises
    NotAllowedNow.

    ``as_of``: the ``results_hash`` of what the person saw; None: not compared.
    """
    study = session.get_one(Study, study_id, with_for_update=FOR_UPDATE, populate_existing=True)
    if study.state in (StudyState.RECEIVING, StudyState.COMPLETE, StudyState.QUARANTINED):
        raise NotAllowedNow(f"the study is {study.state}: its results are made anew, look again then")
    rows = decidable_results(session, study_id)
    if not rows:
        raise NotAllowedNow("no result of this study waits for an assessment")
    if as_of is not None and as_of != results_hash(rows):
        raise NotAllowedNow("the results changed since you saw them: load the page again")
    return rows


def _deliveries(session: Session, row: HeldResult, state: DeliveryState) -> Sequence[Delivery]:
    """The deliveries of a result in this state, locked, without those discarded for another reason than its
    rejection.
    """
    return session.scalars(
        select(Delivery)
        .where(
            Delivery.result_id == row.result_id,
            Delivery.state == state,
            Delivery.discarded_because == row.because,  # not what was discarded for another reason
        )
        .with_for_update()
    ).all()
