"""The disk of the data folder: its free space, and the old rows that are deleted so that it lasts.

The free space is recorded once an hour. Old events, ended associations, procedure steps and work items are
deleted. Rows of studies, results and deliveries stay.
"""

import os
import shutil
import tempfile
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, exists, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from dicom_node.base.config.settings import Settings
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import (
    Association,
    ClaimedWorkitem,
    DiskSample,
    EventRow,
    NotifiedEvent,
    PerformedStep,
)
from dicom_node.base.store.transitions import utc_now


def disk_fault(settings: Settings) -> str:
    """Why the disk takes no received objects now, in words; "" if it takes them. A file is written to see
    it.
    """
    folder, incoming = settings.node.data_dir, settings.node.data_dir / "spool" / "incoming"
    try:
        if shutil.disk_usage(folder).free < settings.spool.minimum_free_mib * 2**20:
            return "disk: free space is under spool.minimum_free_mib"
        with tempfile.TemporaryFile(dir=incoming, buffering=0) as file:
            file.write(b"0")
            os.fsync(file.fileno())
    except OSError as error:
        return f"disk: {(error.strerror or '').lower()}"
    return ""


def space(settings: Settings) -> tuple[int, int]:
    """The size of the data folder's disk and what of it is free, in bytes; 0 where it does not say."""
    with suppress(OSError):
        size, _, free = shutil.disk_usage(settings.node.data_dir)
        return size, free
    return 0, 0


def note_free_space(database: Database, settings: Settings, now: datetime | None = None) -> None:
    """Record the free space of the data folder's disk; delete records older than a month."""
    now = now or utc_now()
    with database.write() as session:
        session.merge(DiskSample(at=now, free_bytes=shutil.disk_usage(settings.node.data_dir).free))
        session.execute(delete(DiskSample).where(DiskSample.at < now - timedelta(days=30)))


def days_left(session: Session, settings: Settings, now: datetime | None = None) -> float | None:
    """The days until the disk is so full that C-STORE is refused; None if it does not fill.

    The rate is measured since the oldest record of the last week. None also if records span less than a day.
    """
    now = now or utc_now()
    week = select(DiskSample).where(DiskSample.at >= now - timedelta(days=7))
    oldest = session.scalar(week.order_by(DiskSample.at).limit(1))
    if oldest is None or now - oldest.at < timedelta(days=1):  # a day has its peaks and its night
        return None
    _, free = space(settings)
    a_day = (oldest.free_bytes - free) / ((now - oldest.at) / timedelta(days=1))
    return max(free - settings.spool.minimum_free_mib * 2**20, 0) / a_day if a_day > 0 else None


_BATCH: Final = 5000  # rows in one transaction: others get their turn to write


def forget_past(database: Database, settings: Settings, now: datetime | None = None) -> int:
    """Delete events, associations, procedure steps and work items older than ``node.event_days``; returns how
    many.

    Events that a notification refers to stay, and so does the newest event: SQLite numbers events from it.
    """
    before = (now or utc_now()) - timedelta(days=settings.node.event_days)
    named = exists().where(NotifiedEvent.event_id == EventRow.id)
    is_newest = EventRow.id == select(func.max(aliased(EventRow).id)).scalar_subquery()
    return (
        _forget(database, EventRow.id, (EventRow.at < before) & ~named & ~is_newest)
        + _forget(database, Association.id, Association.closed_at < before)
        + _forget(database, PerformedStep.id, PerformedStep.changed_at < before)
        + _forget(database, ClaimedWorkitem.id, ClaimedWorkitem.ended_at < before)
    )


def _forget(database: Database, key: InstrumentedAttribute[Any], old: ColumnElement[bool]) -> int:
    """Delete the rows that meet the condition ``old``, a few at a time so that others can write meanwhile;
    returns how many.

    ``key``: the primary key of their table.
    """
    total = 0
    while True:
        with database.read() as session:
            rows = session.scalars(select(key).where(old).limit(_BATCH)).all()
        with database.write() as session:
            session.execute(delete(key.class_).where(key.in_(rows), old))
        total += len(rows)
        if len(rows) < _BATCH:
            return total
