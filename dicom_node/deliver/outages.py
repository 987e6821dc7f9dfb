"""Outages of peers: a peer that is away, or does not confirm, is tried for ever, so a person must be told."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, case, func, or_, select
from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.lifecycle import OPEN_DELIVERIES, DeliveryState
from dicom_node.base.store import deliveries
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Delivery, EventRow, Study
from dicom_node.base.store.transitions import record, utc_now

_LONG = timedelta(minutes=15)
_SHOWN_AFTER = timedelta(minutes=5)  # many archives show an object only when their indexer came round
_WAITING = Delivery.state.in_(OPEN_DELIVERIES)
# A first try that is under way has not failed.
_TRIED = Delivery.state.in_((DeliveryState.PENDING, DeliveryState.SENDING)) & (
    Delivery.attempts > case((Delivery.state == DeliveryState.SENDING, 1), else_=0)
)


@dataclass(frozen=True, slots=True)
class PeerOutage:
    """A peer that has failed at every try since ``since``: it took nothing, or confirmed nothing of it.

    ``waiting``: the number of deliveries that it has not confirmed; ``reason``: that of the newest failure.
    """

    destination: str
    since: datetime
    waiting: int
    reason: str


def outages(session: Session) -> list[PeerOutage]:
    """The present outages, one for each peer, each since the first failed try of the oldest waiting delivery,
    or since it was acknowledged and not confirmed.

    A peer that refused an object has answered, so this is no outage.
    """
    failing = case((or_(_TRIED & (Delivery.refusals == 0), _asked_in_vain()), Delivery.id))
    chosen = select(Delivery.destination, func.count(), func.min(failing), func.max(failing)).where(_WAITING)
    tried = chosen.group_by(Delivery.destination).having(func.min(failing).is_not(None))
    found = []
    for destination, waiting, oldest, newest in session.execute(tried).all():
        first = session.get_one(Delivery, oldest)
        failed = select(EventRow.at).where(
            EventRow.number == events.DELIVERY_RETRIED.number,
            EventRow.study_id == first.item.study_id,
            EventRow.fields["delivery"].as_integer() == oldest,
        )
        since = session.scalar(failed.order_by(EventRow.id).limit(1))
        if first.state is DeliveryState.UNCONFIRMED:
            confirmed = func.max(Delivery.confirmed_at)
            last = session.scalar(select(confirmed).where(Delivery.destination == destination))
            since = None if last and first.sent_at and last > first.sent_at else first.sent_at
        if since is not None:
            found.append(PeerOutage(destination, since, waiting, session.get_one(Delivery, newest).reason))
    return found


def _asked_in_vain() -> ColumnElement[bool]:
    """SQL: acknowledged, and the peer has not confirmed it however often it was asked."""
    return and_(
        Delivery.state == DeliveryState.UNCONFIRMED,
        Delivery.queries > 0,
        Delivery.sent_at <= utc_now() - _SHOWN_AFTER,
    )


def reasons(session: Session, studies: ColumnElement[bool]) -> Mapping[int, str]:
    """The reasons why results of these studies still wait after a failed try, by number of the study.

    ``studies``: an SQL condition on studies.
    """
    chosen = deliveries.with_objects(select(Study.id, Delivery.destination, Delivery.reason))
    rows = session.execute(chosen.where(studies, or_(_TRIED, _asked_in_vain())).order_by(Delivery.id))
    found = {study: f"{destination}: {reason}" for study, destination, reason in rows if reason}
    held_back = deliveries.waiting_for_decisions(session)
    if held_back:  # a question that few nodes ever have
        which = studies if "" in held_back else studies & Study.study_instance_uid.in_(held_back)
        waiting = session.scalars(deliveries.with_objects(select(Study.id)).where(which, _WAITING))
        found |= dict.fromkeys(waiting, deliveries.WAITS)
    return found


def report_outages(database: Database, _settings: Settings) -> int:
    """Record event 5022 once for each outage that lasts over 15 minutes, and 5023 at its end; returns how
    many are new.
    """
    with database.read() as session:
        now = {one.destination: one for one in outages(session)}
        # Destinations whose outage has an event and whose return has none.
        both = (events.DESTINATION_AWAY.number, events.DESTINATION_BACK.number)
        told = select(EventRow.number, EventRow.fields).where(EventRow.number.in_(both)).order_by(EventRow.id)
        newest = {str(fields.get("destination")): number for number, fields in session.execute(told)}
    reported = {name for name, number in newest.items() if number == events.DESTINATION_AWAY.number}
    late, back = utc_now() - _LONG, sorted(reported - set(now))
    new = [one for name, one in now.items() if name not in reported and one.since <= late]
    if not (new or back):
        return 0
    with database.write() as session:
        for destination in back:
            record(session, events.DESTINATION_BACK, destination=destination)
        for outage in new:
            about = asdict(outage) | {"since": outage.since.isoformat()}
            record(session, events.DESTINATION_AWAY, **about)
    return len(new)
