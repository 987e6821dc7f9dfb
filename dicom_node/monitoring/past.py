"""Events and ended associations of long ago are deleted; rows of studies, results and deliveries stay."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, exists, func, select

from dicom_node.config.settings import Settings
from dicom_node.store.database import Database
from dicom_node.store.tables import Association, EventRow, NotifiedEvent
from dicom_node.store.transitions import utc_now

_BATCH: Final = 5000  # rows in one transaction: others get their turn to write


def forget_past(database: Database, settings: Settings, now: datetime | None = None) -> int:
    """Delete events older than ``node.event_days``; returns how many rows."""
    before = (now or utc_now()) - timedelta(days=settings.node.event_days)
    return _forget_events(database, before) + _forget_associations(database, before)


def _forget_events(database: Database, before: datetime) -> int:
    """Delete old events, but not events that a notification names, and not the newest event.

    SQLite gives the next event the number after the newest one.
    """
    named = exists().where(NotifiedEvent.event_id == EventRow.id)
    old = select(EventRow.id).where(EventRow.at < before, ~named).order_by(EventRow.at).limit(_BATCH)
    total = 0
    while True:
        with database.read() as session:  # others may write while it looks
            newest = session.scalar(select(func.max(EventRow.id)))
            rows = session.scalars(old.where(EventRow.id != newest)).all()
        with database.write() as session:
            session.execute(delete(EventRow).where(EventRow.id.in_(rows), ~named))
        total += len(rows)
        if len(rows) < _BATCH:
            return total


def _forget_associations(database: Database, before: datetime) -> int:
    old = select(Association.id).where(Association.closed_at < before).limit(_BATCH)
    total = 0
    while True:
        with database.read() as session:
            rows = session.scalars(old).all()
        with database.write() as session:
            session.execute(delete(Association).where(Association.id.in_(rows)))
        total += len(rows)
        if len(rows) < _BATCH:
            return total
