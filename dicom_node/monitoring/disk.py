"""How long the disk of the data folder will last: its free space is recorded once an hour, and compared."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from dicom_node.config.settings import Settings
from dicom_node.store.database import Database
from dicom_node.store.tables import DiskSample
from dicom_node.store.transitions import utc_now

_KEPT: Final = timedelta(days=30)
_COMPARED: Final = timedelta(days=7)
_SHORTEST: Final = timedelta(days=1)  # a day has its peaks and its night


@dataclass(frozen=True, slots=True)
class DiskForecast:
    """``bytes_a_day``: the daily loss of free space. ``days``: until C-STORE is refused; None: never."""

    bytes_a_day: float
    days: float | None

    def __str__(self) -> str:
        if self.days is None:
            return "it does not fill"
        return f"it fills by {self.bytes_a_day / 2**20:.0f} MiB a day: enough for {self.days:.0f} days"


def note_free_space(database: Database, settings: Settings, now: datetime | None = None) -> None:
    """Record the free disk space; delete records older than a month."""
    now = now or utc_now()
    with database.write() as session:
        session.merge(DiskSample(at=now, free_bytes=shutil.disk_usage(settings.node.data_dir).free))
        session.execute(delete(DiskSample).where(DiskSample.at < now - _KEPT))


def forecast(session: Session, settings: Settings, now: datetime | None = None) -> DiskForecast | None:
    """How fast the disk has filled since the oldest record of the last week; None if records span less
    than a day.
    """
    now = now or utc_now()
    since = select(DiskSample).where(DiskSample.at >= now - _COMPARED).order_by(DiskSample.at).limit(1)
    oldest = session.scalar(since)
    if oldest is None or now - oldest.at < _SHORTEST:
        return None
    free = shutil.disk_usage(settings.node.data_dir).free
    a_day = (oldest.free_bytes - free) / ((now - oldest.at) / timedelta(days=1))
    room = max(free - settings.spool.minimum_free_mib * 2**20, 0)
    return DiskForecast(a_day, room / a_day if a_day > 0 else None)
