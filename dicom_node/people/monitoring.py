"""What lives and what fills: processes of the site, senders that are silent, the disk of the data folder.

Each node records its own processes in the database, and one node finds silent ones. The free space is
recorded once an hour. So that the disk lasts, old events, ended associations, procedure steps and work items
are deleted. Rows of studies, results and deliveries stay.
"""

import shutil
import socket
import threading
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Delete, Select, delete, exists, func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from dicom_node import __version__
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
    SiteProcess,
)
from dicom_node.base.store.transitions import acquire_lease, record, release_lease, utc_now
from dicom_node.base.store.views import View, columns


def note_free_space(database: Database, settings: Settings, now: datetime | None = None) -> None:
    """Record the free disk space; delete records older than a month."""
    now = now or utc_now()
    with database.write() as session:
        session.merge(DiskSample(at=now, free_bytes=shutil.disk_usage(settings.node.data_dir).free))
        session.execute(delete(DiskSample).where(DiskSample.at < now - timedelta(days=30)))


def days_left(session: Session, settings: Settings, now: datetime | None = None) -> float | None:
    """Days until C-STORE is refused, if the disk goes on filling as since the oldest record of the last week;
    None if it does not fill, or records span less than a day.
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
            reported = session.scalars(
                select(EventRow.fields).where(
                    EventRow.number == events.PEER_SILENT.number, EventRow.at > last
                )
            )
            if all(fields.get("peer") != peer.name for fields in reported):
                record(
                    session,
                    events.PEER_SILENT,
                    peer=peer.name,
                    hours=peer.silent_hours,
                    last=last.isoformat(),
                )


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
        self._ours = SiteProcess.machine == self._machine, SiteProcess.place == place
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
                    session.execute(
                        delete(SiteProcess).where(
                            SiteProcess.machine == self._machine,
                            SiteProcess.lost,
                            SiteProcess.place.not_in(places_here),
                        )
                    )
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
                    session.execute(delete(SiteProcess).where(*self._ours))
                release_lease(self._database, _WATCH, self._owner)

    def _write(self, session: Session, signs: Iterable[Sign], now: datetime) -> None:
        known = {row.name: row for row in session.scalars(select(SiteProcess).where(*self._ours))}
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
                record(
                    session,
                    events.PROCESS_LOST,
                    None,
                    **_named(row),
                    silent_seconds=round((now - row.seen_at).total_seconds()),
                )


def list_processes(session: Session) -> list[View]:
    """All processes of the site by machine and place. ``state``: alive or lost."""
    now, found = database_time(session), []
    for row in session.scalars(
        select(SiteProcess).order_by(SiteProcess.machine, SiteProcess.place, SiteProcess.name)
    ):
        silent = max((now - row.seen_at).total_seconds(), 0.0)
        found.append(
            _named(row)
            | columns(row, "pid", "version", "since", "seen_at")
            | {
                "silent_seconds": round(silent, 1),
                "state": "alive" if silent < SILENT_SECONDS and not row.lost else "lost",
            }
        )
    return found


def health(session: Session) -> View:
    """How many processes of this machine are ``alive``, and the places and names of the ``silent`` ones."""
    here = [row for row in list_processes(session) if row["machine"] == machine_name()]
    silent = [f"{row['place']}/{row['process']}" for row in here if row["state"] != "alive"]
    return {"alive": len(here) - len(silent), "silent": silent}


def forget_lost(database: Database, _settings: Settings) -> None:
    """Forget processes that have been lost for a week."""
    with database.write() as session:
        old = SiteProcess.seen_at < database_time(session) - timedelta(days=7)
        session.execute(delete(SiteProcess).where(SiteProcess.lost, old))


def database_time(session: Session) -> datetime:
    """The time of the database's clock, which all machines of a site share."""
    if session.get_bind().dialect.name == "sqlite":
        return utc_now()
    now: datetime = session.execute(select(func.now())).scalar_one()
    return now


def _named(row: SiteProcess) -> dict[str, Any]:
    return {"machine": row.machine, "place": row.place, "process": row.name}
