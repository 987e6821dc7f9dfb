"""Audit records of the node's own actions, made from its events: starts, transfers, queries, refused callers.

The records are written only if audit messages are sent (PS3.15 A.5.3): the events are in the database anyway.
The newest of these records names the last event that was read.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session, aliased

from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import UnknownPeer
from dicom_node.base.kinds import AuditAction
from dicom_node.base.store.tables import Association, AuditRow, EventRow, ReceivedObject
from dicom_node.base.store.transitions import utc_now

_A = AuditAction
AUDITED = {
    events.NODE_STARTED.number: _A.NODE_STARTED,
    events.NODE_STOPPING.number: _A.NODE_STOPPING,
    events.STUDY_COMPLETE.number: _A.IMAGES_RECEIVED,
    events.DELIVERY_SENT.number: _A.RESULTS_SENT,
    events.DELIVERY_WARNED.number: _A.RESULTS_SENT,
    events.ASSOCIATION_REJECTED.number: _A.CALLER_REFUSED,
    events.TLS_FAILED.number: _A.CALLER_REFUSED,
    events.ARCHIVE_ANSWERED.number: _A.PEER_ASKED,
    events.STUDIES_MISSING.number: _A.PEER_ASKED,
    events.WORKITEM_WANTED.number: _A.PEER_ASKED,
}
_AT_ONCE = 100
LATE = timedelta(seconds=2)  # a transaction with a smaller number may still be under way
_OF_A_RERUN = 4  # events that are at most between "rules applied again" and "complete", which brought nothing


def new_records(session: Session, settings: Settings) -> list[AuditRow]:
    """The audit records, to be added, of events since the last such record; for results one per study and
    peer.
    """
    after = _last_event(session)
    if after is None:
        return []
    rerun = aliased(EventRow)
    repeated = exists().where(
        rerun.number == events.STUDY_RERUN.number,
        rerun.study_id == EventRow.study_id,
        rerun.id.between(EventRow.id - _OF_A_RERUN, EventRow.id),
    )
    chosen = (
        select(EventRow)
        .where(EventRow.id > after, EventRow.number.in_(AUDITED), EventRow.at <= utc_now() - LATE)
        .where((EventRow.number != events.STUDY_COMPLETE.number) | ~repeated)
        .order_by(EventRow.id)
        .limit(_AT_ONCE)
    )
    rows = _records(session, settings, session.scalars(chosen).all())
    return sorted(rows, key=lambda row: int(row.fields["event"]))


def _last_event(session: Session) -> int | None:
    """The last event that has a record; at first the one before the node's start, None before any."""
    newest = (
        select(AuditRow.fields)
        .where(AuditRow.action.in_(AUDITED.values()))
        .order_by(AuditRow.id.desc())
        .limit(1)
    )
    if fields := session.scalar(newest):
        return int(fields["event"])
    started = select(func.max(EventRow.id)).where(EventRow.number == events.NODE_STARTED.number)
    number = session.scalar(started)
    return None if number is None else number - 1


def _records(session: Session, settings: Settings, found: Sequence[EventRow]) -> Iterator[AuditRow]:
    sent: dict[tuple[int | None, str], AuditRow] = {}
    for event in found:
        row = AuditRow(
            at=event.at, action=AUDITED[event.number], study_id=event.study_id, fields={"event": event.id}
        )
        if row.action is _A.RESULTS_SENT:
            peer, instance = str(event.fields.get("destination")), str(event.fields.get("instance"))
            row.actor, row.address = _called(settings, peer)
            known = sent.setdefault((event.study_id, peer), row)
            instances = [*known.fields.get("instances", ()), instance]
            known.fields = {"event": event.id, "peer": peer, "instances": instances}
            continue
        if row.action is _A.PEER_ASKED:
            peer = str(event.fields.get("peer"))
            row.actor, row.address = _called(settings, peer)
            row.fields |= {"peer": peer, "asked": str(event.fields.get("asked", "studies without result"))}
        elif row.action is _A.IMAGES_RECEIVED and event.study_id is not None:
            row.actor, row.address = _sender(session, event.study_id)
        elif row.action is _A.CALLER_REFUSED:
            row.actor = str(event.fields.get("calling") or "")[:64]
            row.address = str(event.fields.get("address") or "")[:64]
            row.fields |= {"reason": str(event.fields.get("meaning") or "no TLS")}
        else:
            row.actor, row.address = "dicom-node", ""
        yield row
    yield from sent.values()


def _called(settings: Settings, name: str) -> tuple[str, str]:
    """AE title and host of a destination; its name where it is configured no more."""
    try:
        peer = settings.peer(name)
    except UnknownPeer:
        return name[:64], ""
    return peer.ae_title, peer.host[:64]


def _sender(session: Session, study_id: int) -> tuple[str, str]:
    """AE title and address of who sent the last object of a study."""
    last = (
        select(ReceivedObject.calling_ae, Association.address)
        .outerjoin(Association, Association.id == ReceivedObject.association)
        .where(ReceivedObject.study_id == study_id)
        .order_by(ReceivedObject.id.desc())
        .limit(1)
    )
    row = session.execute(last).first()
    return (row.calling_ae, row.address or "") if row else ("", "")
