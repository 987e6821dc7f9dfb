"""The live processes of a site: each node records its own in the database; one node finds silent ones."""

import socket
import threading
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node import __version__
from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import SiteProcess
from dicom_node.base.store.transitions import acquire_lease, database_time, record, release_lease, utc_now
from dicom_node.base.store.views import View, columns

SIGN_SECONDS: Final = 10.0
"""How often a node tells the database of its processes."""
SILENT_SECONDS: Final = 30.0
"""A process that was not heard of for this long counts as lost."""
_WATCH: Final = "process watch"  # the lease of the node that looks for lost ones


@dataclass(frozen=True, slots=True)
class Sign:
    """One process of this node.

    ``name``: "main", "listener", "worker-1", "console". ``pid``: None if it does not run. ``silent_seconds``:
    the time since its last sign of life.
    """

    name: str
    pid: int | None
    silent_seconds: float = 0.0


def machine_name() -> str:
    """The name of this machine in the database."""
    return socket.gethostname()[:64]


def node_name(place: str) -> str:
    """The name, in events, of this machine's node at a place of its data folder."""
    return f"{machine_name()}/{place}"


class SignsOfLife:
    """Records signs of life of the processes of one node, and finds lost processes of the whole site.

    ``place``: the node's place on the data folder, such as "all" or "listener-1".
    """

    def __init__(self, database: Database, place: str, owner: str) -> None:
        self._database, self._place, self._owner = database, place, owner
        self._machine = machine_name()
        self._lock, self._left = threading.Lock(), False
        self._before: datetime | None = None  # the report before the last one of this node
        self._steady_since = utc_now()  # its reports have come without a gap since then

    def report(self, signs: Collection[Sign], places_here: Collection[str]) -> None:
        """Record that the processes of this node are alive, then look for lost processes of the whole site.

        ``places_here``: places of the nodes that run on this machine now. Lost processes of other places on
        this machine are forgotten: they were restarted under a new place, or removed. Raises SQLAlchemyError.
        """
        with self._lock:
            if self._left:
                return
            with self._database.write() as session:
                now = database_time(session)
                # The clock was put back: a time ahead would hide a loss for as long.
                session.execute(update(SiteProcess).where(SiteProcess.seen_at > now).values(seen_at=now))
                self._write(session, signs, now)
                if self._before is None:
                    gone = SiteProcess.machine == self._machine, SiteProcess.lost
                    session.execute(delete(SiteProcess).where(*gone, SiteProcess.place.not_in(places_here)))
            before, self._before = self._before, now
            if before is None or not timedelta() <= now - before <= 2 * timedelta(seconds=SIGN_SECONDS):
                self._steady_since = now  # without a database all were silent: others need a moment, too
            since = now - timedelta(seconds=SILENT_SECONDS)
            if self._steady_since <= since and acquire_lease(
                self._database, _WATCH, self._owner, 3 * SIGN_SECONDS
            ):
                self._look(since, now)

    def leave(self) -> None:
        """Remove this node's rows when it stops as planned, so that it is not reported as lost.

        Later calls of ``report`` do nothing.
        """
        with self._lock:
            self._left = True
            with suppress(SQLAlchemyError):  # a node ends without a database, too
                with self._database.write() as session:
                    session.execute(delete(SiteProcess).where(*self._ours()))
                release_lease(self._database, _WATCH, self._owner)

    def _ours(self) -> tuple[ColumnElement[bool], ...]:
        return SiteProcess.machine == self._machine, SiteProcess.place == self._place

    def _write(self, session: Session, signs: Iterable[Sign], now: datetime) -> None:
        known = {row.name: row for row in session.scalars(select(SiteProcess).where(*self._ours()))}
        for sign in signs:
            row = known.pop(sign.name, None)
            if sign.pid is None:  # it ended and is started again: it shows no life
                continue
            if row is None:
                row = SiteProcess(
                    machine=self._machine, place=self._place, name=sign.name, pid=0, since=now, lost=False
                )
                session.add(row)
            if row.pid != sign.pid:
                row.pid, row.since, row.version = sign.pid, now, __version__
            row.seen_at = now - timedelta(seconds=sign.silent_seconds)
            if row.lost and sign.silent_seconds < SILENT_SECONDS:
                row.lost = False
                record(session, events.PROCESS_BACK, None, **_named(row))
        for row in known.values():  # fewer workers since the configuration was read again
            session.delete(row)

    def _look(self, since: datetime, now: datetime) -> None:
        with self._database.write() as session:
            lost = select(SiteProcess).where(SiteProcess.seen_at <= since, SiteProcess.lost.is_(False))
            for row in session.scalars(lost.with_for_update(skip_locked=True)):
                row.lost = True
                silent = round((now - row.seen_at).total_seconds())
                record(session, events.PROCESS_LOST, None, **_named(row), silent_seconds=silent)


def processes(session: Session) -> list[View]:
    """All processes of the site by machine and place. ``state``: alive or lost."""
    now = database_time(session)
    key = SiteProcess.machine, SiteProcess.place, SiteProcess.name
    return [_view(row, now) for row in session.scalars(select(SiteProcess).order_by(*key))]


def health(session: Session) -> View:
    """How many processes of this machine are ``alive``, and the places and names of the ``silent`` ones."""
    here = [row for row in processes(session) if row["machine"] == machine_name()]
    silent = [f"{row['place']}/{row['process']}" for row in here if row["state"] != "alive"]
    return {"alive": len(here) - len(silent), "silent": silent}


def forget_machine(session: Session, machine: str) -> int:
    """Forget the lost processes of a machine that was removed for good; returns how many."""
    lost = SiteProcess.machine == machine, SiteProcess.lost
    gone = session.scalars(select(SiteProcess).where(*lost)).all()
    for row in gone:
        session.delete(row)
    return len(gone)


def forget_lost(database: Database, _settings: Settings) -> None:
    """Forget processes that have been lost for a week."""
    with database.write() as session:
        old = SiteProcess.seen_at < database_time(session) - timedelta(days=7)
        session.execute(delete(SiteProcess).where(SiteProcess.lost, old))


def _view(row: SiteProcess, now: datetime) -> View:
    silent = max((now - row.seen_at).total_seconds(), 0.0)
    return {
        **columns(row, "machine", "place"),
        "process": row.name,
        **columns(row, "pid", "version", "since", "seen_at"),
        "silent_seconds": round(silent, 1),
        "state": "alive" if silent < SILENT_SECONDS and not row.lost else "lost",
    }


def _named(row: SiteProcess) -> dict[str, Any]:
    return {"machine": row.machine, "place": row.place, "process": row.name}
