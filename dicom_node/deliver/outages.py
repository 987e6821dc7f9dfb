"""Peers to which what waits cannot be sent. Sending is retried for ever, so a person must be told."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.orm import Session

from dicom_node.base.config.settings import Settings
from dicom_node.base.events import DELIVERY_RETRIED, DESTINATION_AWAY, DESTINATION_BACK
from dicom_node.base.lifecycle import DeliveryState
from dicom_node.base.store import deliveries
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Delivery, EventRow, Study
from dicom_node.base.store.transitions import record, utc_now

_WAITING = Delivery.state.in_((DeliveryState.PENDING, DeliveryState.SENDING))
# A first try that is under way has not failed.
_LONG = timedelta(minutes=15)
_TRIED = Delivery.attempts > case((Delivery.state == DeliveryState.SENDING, 1), else_=0)


@dataclass(frozen=True, slots=True)
class PeerOutage:
    """A peer to which tries have failed since ``since``. ``reason``: of the newest failure."""

    destination: str
    since: datetime
    waiting: int
    reason: str


def outages(session: Session) -> list[PeerOutage]:
    """The outages by peer, since the first failed try of the oldest delivery that waits; without refused
    objects, as the peer answers then.
    """
    failing = (_WAITING, _TRIED, Delivery.refusals == 0)
    chosen = select(Delivery.destination, func.min(Delivery.id), func.max(Delivery.id)).where(*failing)
    found = []
    for destination, oldest, newest in session.execute(chosen.group_by(Delivery.destination)).all():
        first = session.get_one(Delivery, oldest)
        failed = select(EventRow.at).where(
            EventRow.number == DELIVERY_RETRIED.number,
            EventRow.study_id == first.item.study_id,
            EventRow.fields["delivery"].as_integer() == oldest,
        )
        since = session.scalar(failed.order_by(EventRow.id).limit(1))
        if since is not None:
            theirs = select(func.count()).where(_WAITING, Delivery.destination == destination)
            reason = session.get_one(Delivery, newest).reason
            found.append(PeerOutage(destination, since, session.scalar(theirs) or 0, reason))
    return found


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
