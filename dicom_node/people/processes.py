"""What lives at the site: its processes, and senders that are silent.

Each node records its own processes in the database, and one node finds silent ones.
"""

import threading
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node import __version__
from dicom_node.base import events
from dicom_node.base.actions.action import Action, Input
from dicom_node.base.actions.columns import Column, fields, times
from dicom_node.base.actions.nouns import PROCESSES
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import ExitCode, NotFound
from dicom_node.base.lifecycle import (
    AuditAction,
    Role,
    UserRole,
)
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import (
    EventRow,
    ReceivedObject,
    SiteProcess,
)
from dicom_node.base.store.transitions import acquire_lease, database_time, record, release_lease, utc_now
from dicom_node.base.store.views import View, columns
from dicom_node.people import (
    audit,
    writing,
)
from dicom_node.people.audit import COMMAND_LINE, Person


@Action(
    PROCESSES,
    "forget",
    "Forget the lost processes of a machine that is gone for good; otherwise they are forgotten "
    "after a week.",
    "oldserver --config node.toml",
    says="Forgotten: {result}",
    role=UserRole.ADMIN,
)
def forget_machine(
    settings: Settings,
    machine: Annotated[str, Input("As `processes list` shows it.", metavar="MACHINE")],
    by: Person = COMMAND_LINE,
) -> int:
    """Delete the lost processes of a machine that was removed from the site; returns how many.

    Raises NotFound if no process of this machine is lost.
    """
    with writing(settings) as session:
        lost = delete(SiteProcess).where(SiteProcess.machine == machine, SiteProcess.lost)
        forgotten = len(session.scalars(lost.returning(SiteProcess.name)).all())
        if not forgotten:
            raise NotFound(f"no lost process is of a machine called {machine!r}")
        audit.note(session, by, AuditAction.MACHINE_REMOVED, machine=machine, processes=forgotten)
    return forgotten


def report_silence(database: Database, settings: Settings) -> None:
    """Record event 1010 for each peer that has sent nothing for longer than its setting, once per silence."""
    for peer in settings.peers:
        if not peer.silent_hours:
            continue
        with database.write() as session:
            last = silent_since(session, peer)
            if last is None:
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


def silent_since(session: Session, peer: PeerSettings) -> datetime | None:
    """When the last object came from a peer, or else the first start of a node, if that was longer ago than
    its ``silent_hours``; None if it is not silent.
    """
    started = select(func.min(EventRow.at)).where(EventRow.number == events.NODE_STARTED.number)
    received = select(func.max(ReceivedObject.received_at)).where(ReceivedObject.calling_ae == peer.ae_title)
    last = session.scalar(received) or session.scalar(started)
    limit = utc_now() - timedelta(hours=peer.silent_hours)
    return last if peer.silent_hours and last is not None and last <= limit else None


SIGN_SECONDS: Final = 10.0
"""How often a node tells the database of its processes."""
SILENT_SECONDS: Final = 30.0
"""A process that was not heard of for this long counts as lost."""
_WATCH: Final = "process watch"  # the lease of the node that looks for lost ones


@dataclass(frozen=True, slots=True)
class Sign:
    """The sign of life of one process of this node.

    ``name``: "main", "listener", "worker-1", "console". ``pid``: None if it does not run. ``silent_seconds``:
    the time since its last sign of life.
    """

    name: str
    pid: int | None
    silent_seconds: float = 0.0


def node_name(place: str) -> str:
    """The name, in events, of the node of this machine that has this place (name of its lock) in the data
    folder.
    """
    return f"{audit.machine_name()}/{place}"


class SignsOfLife:
    """Records signs of life of the processes of one node, and finds lost processes of the whole site.

    ``place``: the node's name on the data folder, such as "all" or "listener-1". ``owner``: the name under
    which it takes the lease for finding lost processes.
    """

    def __init__(self, database: Database, place: str, owner: str) -> None:
        """Prepare for the node with this ``place``; the parameters are explained at the class."""
        self._database, self._place, self._owner = database, place, owner
        self._machine = audit.machine_name()
        self._ours = SiteProcess.machine == self._machine, SiteProcess.place == place
        self._lock, self._left = threading.Lock(), False
        self._before: datetime | None = None  # the report before the last one of this node
        self._steady_since = utc_now()  # its reports have come without a gap since then

    def report(self, signs: Collection[Sign], places_here: Collection[str]) -> None:
        """Record that the processes of this node are alive, then find lost processes of the whole site.

        ``places_here``: names of the nodes that run on this machine now. Lost processes of other nodes on
        this machine are forgotten: they were restarted under a new name, or removed. Raises SQLAlchemyError.
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
                self._mark_lost(since, now)

    def note_killed(self) -> None:
        """Record event 6016, at the start of this node, if the run before it ended without a stop: a stop
        removes its rows. Raises SQLAlchemyError.
        """
        with self._database.write() as session:
            main = select(func.max(SiteProcess.seen_at)).where(*self._ours, SiteProcess.name == "main")
            if (seen := session.scalar(main)) is not None:
                node = node_name(self._place)
                between = f"{seen:%Y-%m-%dT%H:%M:%SZ} and {database_time(session):%Y-%m-%dT%H:%M:%SZ}"
                record(session, events.NODE_KILLED, None, node=node, between=between)

    def leave(self) -> None:
        """Remove the rows of this node, which stops as planned and must not be reported as lost.

        Later calls of ``report`` do nothing.
        """
        with self._lock:
            self._left = True
            with suppress(SQLAlchemyError):  # a node ends without a database, too
                with self._database.write() as session:
                    session.execute(delete(SiteProcess).where(*self._ours))
                release_lease(self._database, _WATCH, self._owner)

    def _write(self, session: Session, signs: Iterable[Sign], now: datetime) -> None:
        """Store the signs of life of this node's processes."""
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
                record(session, events.PROCESS_BACK, None, **_process_fields(row))
        for row in known.values():  # fewer workers since the configuration was read again
            session.delete(row)

    def _mark_lost(self, since: datetime, now: datetime) -> None:
        """Mark processes whose last sign of life is older than ``since`` as lost, each with an event."""
        with self._database.write() as session:
            lost = select(SiteProcess).where(SiteProcess.seen_at <= since, ~SiteProcess.lost)
            for row in session.scalars(lost.with_for_update(skip_locked=True)):
                row.lost = True
                record(
                    session,
                    events.PROCESS_LOST,
                    None,
                    **_process_fields(row),
                    silent_seconds=round((now - row.seen_at).total_seconds()),
                )


@Action(
    PROCESSES,
    "list",
    "List all processes of all machines; a node that ended in good order is not among them.",
    columns=(
        *fields("machine", "place", "process", "state"),
        Column("silent", lambda row: f"{row['silent_seconds']:.0f} s"),
        *times("since"),
        *fields("pid", "version"),
    ),
    none="No process has reported yet: does a node run?",
)
def list_processes(session: Session) -> list[View]:
    """Rows for all processes of the site, by machine and place. ``state``: alive or lost."""
    now, found = database_time(session), []
    for row in session.scalars(
        select(SiteProcess).order_by(SiteProcess.machine, SiteProcess.place, SiteProcess.name)
    ):
        silent = max((now - row.seen_at).total_seconds(), 0.0)
        found.append(
            _process_fields(row)
            | columns(row, "pid", "version", "since", "seen_at")
            | {
                "silent_seconds": round(silent, 1),
                "state": "alive" if silent < SILENT_SECONDS and not row.lost else "lost",
            }
        )
    return found


def working(session: Session, settings: Settings) -> dict[str, int]:
    """The number of processes of the site that show life, for each task that the configuration wants done:
    "receive", "analyse", "deliver".
    """
    found = dict.fromkeys(("receive", "analyse", "deliver"), 0)
    for row in list_processes(session):
        if row["state"] != "alive" or row["place"].partition("-")[0] not in set(Role):
            continue  # gone, or of a version with other roles
        name, role = row["process"], Role.at(row["place"])
        # Of another machine it is not known whether its outbox.deliver is false.
        sends = settings.outbox.deliver or role is Role.DELIVERY or row["machine"] != audit.machine_name()
        found["receive"] += name == "listener"
        found["analyse"] += name.startswith("worker-")
        found["deliver"] += name == "main" and role.may_deliver and sends
    if not settings.rules:
        del found["analyse"]
    if not any("receive" in peer.may for peer in settings.peers):
        del found["deliver"]
    return found


@Action(
    PROCESSES,
    "health",
    "Exit 0 where every process of this machine (or container) shows life, else 1: for health checks.",
    says="alive: {result[alive]}, silent: {result[silent]}",
    status=lambda found: ExitCode.OK if found["alive"] and not found["silent"] else ExitCode.FAILED,
)
def health(session: Session) -> View:
    """The state of the processes of this machine: the number of those ``alive``, and place and name of those
    ``silent`` for too long.
    """
    here = [row for row in list_processes(session) if row["machine"] == audit.machine_name()]
    silent = [f"{row['place']}/{row['process']}" for row in here if row["state"] != "alive"]
    return {"alive": len(here) - len(silent), "silent": silent}


def forget_lost(database: Database, _settings: Settings) -> None:
    """Delete processes that have been lost for a week."""
    with database.write() as session:
        old = SiteProcess.seen_at < database_time(session) - timedelta(days=7)
        session.execute(delete(SiteProcess).where(SiteProcess.lost, old))


def _process_fields(row: SiteProcess) -> View:
    """The fields of an event that name a process: machine, place, process."""
    return {"machine": row.machine, "place": row.place, "process": row.name}
