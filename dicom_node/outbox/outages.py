"""Peers that take none of the results that wait for them: tried for ever, so somebody must be told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from dicom_node.config.settings import Settings
from dicom_node.events import (
    DELIVERY_RETRIED,
    DELIVERY_SENT,
    DELIVERY_WARNED,
    DESTINATION_AWAY,
    DESTINATION_BACK,
)
from dicom_node.model.lifecycle import DeliveryState
from dicom_node.store.database import Database
from dicom_node.store.tables import Delivery, EventRow, Result
from dicom_node.store.transitions import record, utc_now

_WAITING = Delivery.state.in_((DeliveryState.PENDING, DeliveryState.SENDING))
_TRIED = Delivery.attempts > 0


@dataclass(frozen=True, slots=True)
class PeerOutage:
    """A peer that took nothing since its first failed try. ``reason``: of the last try."""

    destination: str
    since: datetime
    waiting: int
    reason: str


def outages(session: Session) -> list[PeerOutage]:
    """One for each peer to which every try failed since it took something last, by name."""
    return list(_found(session))


def reasons(session: Session, studies: ColumnElement[bool]) -> Mapping[int, str]:
    """Why results of these studies still wait after a try, by the number of the study."""
    chosen = select(Result.study_id, Delivery.destination, Delivery.reason).join(Delivery.result)
    rows = session.execute(chosen.where(studies, _WAITING, _TRIED).order_by(Delivery.id))
    return {study: f"{destination}: {reason}" for study, destination, reason in rows if reason}


def report_outages(database: Database, settings: Settings) -> int:
    """Event 5022 for each that lasts too long, once, and 5023 at its end; returns how many began."""
    minutes = settings.outbox.outage_minutes
    if not minutes:
        return 0
    with database.write() as session:
        now = {one.destination: one for one in outages(session)}
        told = set(_told(session))
        for destination in sorted(told - set(now)):
            record(session, DESTINATION_BACK, destination=destination)
        late = utc_now() - timedelta(minutes=minutes)
        new = [one for name, one in now.items() if name not in told and one.since <= late]
        for one in new:
            known: dict[str, Any] = {
                "since": one.since.isoformat(),
                "waiting": one.waiting,
                "reason": one.reason,
            }
            record(session, DESTINATION_AWAY, destination=one.destination, **known)
    return len(new)


def _found(session: Session) -> Iterator[PeerOutage]:
    last = select(Delivery.destination, func.max(Delivery.id)).where(_WAITING, _TRIED)
    for destination, number in session.execute(last.group_by(Delivery.destination)).all():
        since = _since(session, destination)
        if since is not None:
            mine = select(func.count()).where(_WAITING, Delivery.destination == destination)
            waiting = session.scalar(mine) or 0
            yield PeerOutage(destination, since, waiting, session.get_one(Delivery, number).reason)


def _since(session: Session, destination: str) -> datetime | None:
    """The first failed try after the last object that it took."""
    of_it = EventRow.fields["destination"].as_string() == destination
    took = EventRow.number.in_((DELIVERY_SENT.number, DELIVERY_WARNED.number))
    last = session.scalar(select(EventRow.id).where(took, of_it).order_by(EventRow.id.desc()).limit(1))
    failed = (EventRow.number == DELIVERY_RETRIED.number, of_it, EventRow.id > (last or 0))
    return session.scalar(select(EventRow.at).where(*failed).order_by(EventRow.id).limit(1))


def _told(session: Session) -> Iterator[str]:
    """Peers whose outage was told, and not its end."""
    both = (DESTINATION_AWAY.number, DESTINATION_BACK.number)
    chosen = select(EventRow.number, EventRow.fields).where(EventRow.number.in_(both)).order_by(EventRow.id)
    newest = {str(fields.get("destination")): number for number, fields in session.execute(chosen)}
    return (name for name, number in newest.items() if number == DESTINATION_AWAY.number)
