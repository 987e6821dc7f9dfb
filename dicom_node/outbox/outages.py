"""Peers that accept none of their waiting results. Sending is retried for ever, so a person must be told."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, case, func, select
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
from dicom_node.store import deliveries
from dicom_node.store.database import Database
from dicom_node.store.tables import Delivery, EventRow, Study
from dicom_node.store.transitions import record, utc_now

_WAITING = Delivery.state.in_((DeliveryState.PENDING, DeliveryState.SENDING))
# A first try that is under way has not failed.
_LONG = timedelta(minutes=15)
_TRIED = Delivery.attempts > case((Delivery.state == DeliveryState.SENDING, 1), else_=0)


@dataclass(frozen=True, slots=True)
class PeerOutage:
    """A peer to which every try has failed since ``since``. ``reason``: of the newest failure."""

    destination: str
    since: datetime
    waiting: int
    reason: str


def outages(session: Session) -> list[PeerOutage]:
    """The outages by peer: all tries have failed since the peer last accepted an object."""
    return list(_found(session))


def reasons(session: Session, studies: ColumnElement[bool]) -> Mapping[int, str]:
    """The reason why results of each of these studies still wait after a try, by the number of the study."""
    chosen = deliveries.with_objects(select(Study.id, Delivery.destination, Delivery.reason))
    rows = session.execute(chosen.where(studies, _WAITING, _TRIED).order_by(Delivery.id))
    return {study: f"{destination}: {reason}" for study, destination, reason in rows if reason}


def report_outages(database: Database, _settings: Settings) -> int:
    """Record event 5022 once for each outage that lasts too long, and 5023 at its end.

    Returns how many outages were reported as new.
    """
    with database.read() as session:
        now = {one.destination: one for one in outages(session)}
        # Destinations whose outage has an event and whose return has none.
        both = (DESTINATION_AWAY.number, DESTINATION_BACK.number)
        told = select(EventRow.number, EventRow.fields).where(EventRow.number.in_(both)).order_by(EventRow.id)
        newest = {str(fields.get("destination")): number for number, fields in session.execute(told)}
    reported = {name for name, number in newest.items() if number == DESTINATION_AWAY.number}
    late, back = utc_now() - _LONG, sorted(reported - set(now))
    new = [one for name, one in now.items() if name not in reported and one.since <= late]
    if not (new or back):
        return 0
    with database.write() as session:
        for destination in back:
            record(session, DESTINATION_BACK, destination=destination)
        for one in new:
            record(
                session,
                DESTINATION_AWAY,
                destination=one.destination,
                since=one.since.isoformat(),
                waiting=one.waiting,
                reason=one.reason,
            )
    return len(new)


def _found(session: Session) -> Iterator[PeerOutage]:
    ends = select(Delivery.destination, func.min(Delivery.id), func.max(Delivery.id)).where(_WAITING, _TRIED)
    for destination, oldest, newest in session.execute(ends.group_by(Delivery.destination)).all():
        since = _since(session, session.get_one(Delivery, oldest))
        if since is not None:
            mine = select(func.count()).where(_WAITING, Delivery.destination == destination)
            reason = session.get_one(Delivery, newest).reason
            yield PeerOutage(destination, since, session.scalar(mine) or 0, reason)


def _since(session: Session, oldest: Delivery) -> datetime | None:
    """When the outage began: the first failed try after the last object that the peer accepted.

    ``oldest``: the oldest waiting delivery to the peer. Failed tries of finished deliveries do not count.
    The search starts at the first failed try of ``oldest``: a peer that never accepted anything would
    otherwise cost a search of all events.
    """
    failed = select(EventRow).where(EventRow.number == DELIVERY_RETRIED.number).order_by(EventRow.id).limit(1)
    began = session.scalar(
        failed.where(
            EventRow.study_id == oldest.item.study_id,
            EventRow.fields["delivery"].as_integer() == oldest.id,
        )
    )
    if began is None:
        return None
    of_it = EventRow.fields["destination"].as_string() == oldest.destination
    newest = select(EventRow.id).where(of_it, EventRow.id > began.id).order_by(EventRow.id.desc()).limit(1)
    took = (
        session.scalar(newest.where(EventRow.number == kind.number))
        for kind in (DELIVERY_SENT, DELIVERY_WARNED)
    )
    last = max((number for number in took if number is not None), default=None)
    again = began if last is None else session.scalar(failed.where(of_it, EventRow.id > last))
    return again.at if again is not None else None
