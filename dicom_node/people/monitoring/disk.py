"""How long the disk of the data folder will last: its free space is recorded once an hour, and compared.

So that it lasts, old events, ended associations, procedure steps and work items are deleted. Rows of studies,
results and deliveries stay.

Peers that have been silent for longer than their settings allow.
"""

import shutil
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Delete, Select, delete, exists, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import (
    Association,
    ClaimedWorkitem,
    DiskSample,
    EventRow,
    NotifiedEvent,
    PerformedStep,
    ReceivedObject,
)
from dicom_node.base.store.transitions import record, utc_now


def note_free_space(database: Database, settings: Settings, now: datetime | None = None) -> None:
    """Record the free disk space; delete records older than a month."""
    now = now or utc_now()
    with database.write() as session:
        session.merge(DiskSample(at=now, free_bytes=shutil.disk_usage(settings.node.data_dir).free))
        session.execute(delete(DiskSample).where(DiskSample.at < now - timedelta(days=30)))


def forecast(session: Session, settings: Settings, now: datetime | None = None) -> float | None:
    """Days until C-STORE is refused, as the disk has filled since the oldest record of the last week; None if
    it does not fill, or if records span less than a day.
    """
    now = now or utc_now()
    week = select(DiskSample).where(DiskSample.at >= now - timedelta(days=7))
    oldest = session.scalar(week.order_by(DiskSample.at).limit(1))
    if oldest is None or now - oldest.at < timedelta(days=1):  # a day has its peaks and its night
        return None
    free = shutil.disk_usage(settings.node.data_dir).free
    a_day = (oldest.free_bytes - free) / ((now - oldest.at) / timedelta(days=1))
    room = max(free - settings.spool.minimum_free_mib * 2**20, 0)
    return room / a_day if a_day > 0 else None


_BATCH: Final = 5000  # rows in one transaction: others get their turn to write


def forget_past(database: Database, settings: Settings, now: datetime | None = None) -> int:
    """Delete rows that are older than ``node.event_days``; returns their number.

    Events that a notification refers to stay, and so does the newest event: SQLite numbers events from it.
    """
    before = (now or utc_now()) - timedelta(days=settings.node.event_days)
    named = exists().where(NotifiedEvent.event_id == EventRow.id)
    is_newest = EventRow.id == select(func.max(aliased(EventRow).id)).scalar_subquery()
    events = select(EventRow.id).where(EventRow.at < before, ~named, ~is_newest).order_by(EventRow.at)
    associations = select(Association.id).where(Association.closed_at < before)
    steps = select(PerformedStep.id).where(PerformedStep.changed_at < before)
    items = select(ClaimedWorkitem.id).where(ClaimedWorkitem.ended_at < before)
    return (
        _forget(database, events, delete(EventRow).where(~named), EventRow.id)
        + _forget(database, associations, delete(Association), Association.id)
        + _forget(database, steps, delete(PerformedStep), PerformedStep.id)
        + _forget(database, items, delete(ClaimedWorkitem), ClaimedWorkitem.id)
    )


def _forget(database: Database, old: Select[Any], deletion: Delete, key: InstrumentedAttribute[Any]) -> int:
    """Some rows at a time: others may write while it looks."""
    total = 0
    while True:
        with database.read() as session:
            rows = session.scalars(old.limit(_BATCH)).all()
        with database.write() as session:
            session.execute(deletion.where(key.in_(rows)))
        total += len(rows)
        if len(rows) < _BATCH:
            return total


def report_silence(database: Database, settings: Settings) -> None:
    """Record event 1010 for each such peer, once per silence."""
    started = select(func.min(EventRow.at)).where(EventRow.number == events.NODE_STARTED.number)
    received = select(func.max(ReceivedObject.received_at))
    for peer in settings.peers:
        if not peer.silent_hours:
            continue
        with database.write() as session:
            of_peer = received.where(ReceivedObject.calling_ae == peer.ae_title)
            last = session.scalar(of_peer) or session.scalar(started)
            if last is None or last > utc_now() - timedelta(hours=peer.silent_hours):
                continue
            since = EventRow.number == events.PEER_SILENT.number, EventRow.at > last
            reported = session.scalars(select(EventRow.fields).where(*since))
            if all(fields.get("peer") != peer.name for fields in reported):
                hours, since_when = peer.silent_hours, last.isoformat()
                record(session, events.PEER_SILENT, peer=peer.name, hours=hours, last=since_when)
