"""Results that wait for a person: accepted they leave, rejected they do not; and those that wait too long."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.config.settings import Settings
from dicom_node.errors import NotAllowedNow
from dicom_node.events import ASSESSMENT_OVERDUE, DELIVERY_DISCARDED, DELIVERY_FREED, RESULTS_ASSESSED
from dicom_node.model.kinds import HoldVerdict
from dicom_node.model.lifecycle import DeliveryState, StudyState
from dicom_node.outbox import held
from dicom_node.store.database import Database
from dicom_node.store.tables import Delivery, HeldResult, Study
from dicom_node.store.transitions import FOR_UPDATE, move_delivery, record, settle_study, utc_now

_S = DeliveryState
_OTHERS = {
    True: "no result of this study waits for an assessment; to send what was rejected, say so "
    "(studies accept --rejected)",
    False: "newer results wait for an assessment: decide on those first",
}


def in_question(session: Session, study_id: int) -> Sequence[HeldResult]:
    """What can be decided now: results that wait; where none does, those that were rejected."""
    return held.waiting(session, study_id) or held.rejected(session, study_id)


def mark(rows: Sequence[HeldResult]) -> str:
    """What a decision is about: another word once there are other results."""
    said = ",".join(f"{row.result_id}:{row.verdict}" for row in rows)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def accept(
    session: Session, study_id: int, by: str, as_of: str | None, *, rejected: bool | None = None
) -> int:
    """Let these results leave; returns how many.

    ``as_of``: the mark of what the person saw. ``rejected``: whether that was rejected before; None: as the
    mark says, and without one it was not, so that a request that comes twice frees nothing. Raises
    NotAllowedNow.
    """
    rows = _locked(session, study_id, as_of)
    were_rejected = rows[0].verdict is not None
    if were_rejected is not (rejected if rejected is not None else were_rejected and as_of is not None):
        raise NotAllowedNow(_OTHERS[were_rejected])
    for row in rows:
        waits = _S.UNASSESSED if row.verdict is None else _S.DISCARDED
        for delivery in _deliveries(session, row, waits):
            if delivery.result.purged:
                raise NotAllowedNow("the files of these results were deleted after spool.result_days")
            move_delivery(
                session, delivery, _S.PENDING, DELIVERY_FREED,
                reason="", discarded_because="", next_at=utc_now(),
            )  # fmt: skip
    _decide(session, study_id, rows, HoldVerdict.ACCEPTED, by, "")
    return len(rows)


def reject(session: Session, study_id: int, by: str, because: str, as_of: str | None) -> int:
    """Let none of these results leave; returns how many. ``because``: a person's words. Raises as accept."""
    rows = _locked(session, study_id, as_of)
    if rows[0].verdict is not None:
        raise NotAllowedNow("these results were rejected already")
    for row in rows:
        for delivery in _deliveries(session, row, _S.UNASSESSED):
            move_delivery(
                session, delivery, _S.DISCARDED, DELIVERY_DISCARDED, reason="", discarded_because=because
            )
    _decide(session, study_id, rows, HoldVerdict.REJECTED, by, because)
    return len(rows)


def report_overdue(database: Database, settings: Settings) -> int:
    """Event 4041 for each study whose results wait too long, once; returns for how many."""
    hours = settings.outbox.assess_hours
    if not hours:
        return 0
    with database.write() as session:
        late: dict[int, list[HeldResult]] = {}
        for row in held.overdue(session, utc_now() - timedelta(hours=hours)):
            row.overdue = True
            late.setdefault(row.study_id, []).append(row)
        for study_id, rows in late.items():
            since = min(row.since for row in rows)
            record(session, ASSESSMENT_OVERDUE, study_id, results=len(rows), since=since.isoformat())
    return len(late)


def _locked(session: Session, study_id: int, as_of: str | None) -> Sequence[HeldResult]:
    study = session.get_one(Study, study_id, with_for_update=FOR_UPDATE, populate_existing=True)
    if study.state in (StudyState.RECEIVING, StudyState.COMPLETE, StudyState.QUARANTINED):
        raise NotAllowedNow(f"the study is {study.state}: its results are made anew, look again then")
    rows = in_question(session, study_id)
    if not rows:
        raise NotAllowedNow("no result of this study waits for an assessment")
    if as_of is not None and as_of != mark(rows):
        raise NotAllowedNow("the results are not those that you saw: load the page again")
    return rows


def _deliveries(session: Session, row: HeldResult, state: DeliveryState) -> Sequence[Delivery]:
    chosen = select(Delivery).where(
        Delivery.result_id == row.result_id,
        Delivery.state == state,
        Delivery.discarded_because == row.because,  # not what was discarded for another reason
    )
    return session.scalars(chosen.with_for_update()).all()


def _decide(
    session: Session, study_id: int, rows: Sequence[HeldResult], verdict: HoldVerdict, by: str, because: str
) -> None:
    now = utc_now()
    for row in rows:
        row.verdict, row.decided_at, row.decided_by, row.because = verdict, now, by, because
    session.flush()
    numbers = [row.result_id for row in rows]
    record(session, RESULTS_ASSESSED, study_id, results=len(rows), verdict=verdict.value, numbers=numbers)
    settle_study(session, study_id)
