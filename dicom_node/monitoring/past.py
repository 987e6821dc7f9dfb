"""Deletes old events, ended associations, procedure steps and work items.

Rows of studies, results and deliveries stay.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Delete, Select, delete, exists, func, select
from sqlalchemy.orm import InstrumentedAttribute, aliased

from dicom_node.config.settings import Settings
from dicom_node.store.database import Database
from dicom_node.store.tables import Association, ClaimedWorkitem, EventRow, NotifiedEvent, PerformedStep
from dicom_node.store.transitions import utc_now

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
