"""The composition root: the only place that knows every room. Start order, stop order, timers.

One main process (index and assembly, couriers, timers), one listener process without database and models,
and the worker processes. ``--role`` lets a site spread them over machines.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy.exc import SQLAlchemyError

from dicom_node import __version__, logs
from dicom_node.errors import ConfigProblem, ConfigurationError, ExitCode, NodeError
from dicom_node.events import (
    CHILD_DIED,
    DATABASE_REPLACED,
    DISK_LOW,
    NODE_READY,
    NODE_STARTED,
    NODE_STOPPING,
    RECOVERY_SCANNED,
    SCHEDULER_TAKEN,
    EventType,
    happened,
)
from dicom_node.inbox.assembly import Assembler
from dicom_node.inbox.comparison import reconcile
from dicom_node.inbox.index import Indexer
from dicom_node.inbox.purge import purge
from dicom_node.inbox.spool import Spool
from dicom_node.jobs.drift import forget_old, tell_drift
from dicom_node.jobs.queue import LeaseQueue
from dicom_node.outbox.courier import Courier
from dicom_node.preflight import device_rule_faults, missing_extra, network_file_system
from dicom_node.processes import Child
from dicom_node.scp.policy import Policy
from dicom_node.settings import Settings
from dicom_node.sitekey import load_or_create
from dicom_node.store import faults, leases, migrate
from dicom_node.store.database import Database
from dicom_node.store.transitions import append

_LOGGER = logging.getLogger(__name__)
_OFFICE_POLL_SECONDS = 0.05  # one directory listing; 2 % of a core
_SCHEDULER_SECONDS = 15.0
_GRACE_SECONDS = 30.0
_LISTENER_SECONDS = 30.0  # it waits 15 for one of a former node that still ends
_MAXIMUM_WORKER_NODES = 64  # on one data folder


class Role(StrEnum):
    """What this process and its children do."""

    ALL = "all"
    LISTENER = "listener"  # receive, index, assemble
    WORKER = "worker"  # run models, deliver


class AlreadyRunning(NodeError):
    """Another node works on this data folder."""

    exit_code = ExitCode.UNAVAILABLE


class UnsafeFolder(NodeError):
    """The data folder cannot keep what is acknowledged."""

    exit_code = ExitCode.CONFIG


class CannotListen(NodeError):
    """The listener does not start: its port is in use, or its certificate cannot be read."""

    exit_code = ExitCode.UNAVAILABLE


def serve(settings: Settings, files: Sequence[Path], role: Role = Role.ALL) -> int:
    """Run the node until SIGTERM or SIGINT; returns the exit status.

    Raises ConfigurationError, DatabaseNotReady, DatabaseUnusable, DatabaseDamaged, AlreadyRunning,
    CannotListen and SpoolError before anything is accepted.
    """
    logs.configure(settings.node.log_level, "node")
    if role is not Role.LISTENER:
        _check_models(settings, files)
    _make_folder(settings.node.data_dir)
    if any(peer.deidentify for peer in settings.peers):
        load_or_create(settings.node.data_dir)  # a key that cannot be used is a mistake to tell now
    signals = _signals()
    in_words = faults.in_words(settings.database_url)
    with in_words, _locked(settings, role) as place, _database(settings) as database:
        node = _Node(settings, files, role, database, _owner(settings, place))
        node.start()
        os.read(signals, 1)  # until a signal comes
        node.stop()
    return ExitCode.OK


class _Node:
    def __init__(
        self, settings: Settings, files: Sequence[Path], role: Role, database: Database, owner: str
    ) -> None:
        self._settings = settings
        self._database = database
        self._owner = owner
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._waiting_for: set[str] = set()
        self._address = ""
        self._ready_lock = threading.Lock()
        self._listener_spoke = threading.Event()
        self._cannot_listen = ""
        self._courier = Courier(database, settings)
        self._queue = LeaseQueue(database, settings.workers)
        self._scheduler = BackgroundScheduler(timezone="UTC")
        self._is_scheduler = False
        self._database_file = _inode(database)
        spool = Spool(settings.node.data_dir / "spool", settings.spool.minimum_free_mib * 2**20)
        self._spool = spool
        self._indexer = Indexer(database, spool, settings)
        self._assembler = Assembler(database, settings)
        self._receives = role in (Role.ALL, Role.LISTENER)
        self._works = role in (Role.ALL, Role.WORKER)
        self._children = self._make_children(files)

    def start(self) -> None:
        """Listen first, however much waits in the spool; "ready" is logged when every child says so.

        Raises CannotListen; then the children are ended.
        """
        self._say(NODE_STARTED, version=__version__, ae_title=self._settings.node.ae_title)
        if self._receives:
            Policy.from_settings(self._settings).write(self._settings.node.data_dir / "policy.json")
        self._waiting_for = {child.name for child in self._children}
        for child in self._children:
            child.start()
        if self._receives:
            self._wait_for_listener()
            self._run("office", self._office)
        if self._works:
            self._run("outbox", lambda: self._courier.run_forever(self._stop))
        self._start_timers()
        if not self._children:  # a worker node without workers delivers
            self._say_ready()

    def stop(self) -> None:
        """Stop receiving first, then index what came, then let workers and couriers finish or hand back."""
        self._say(NODE_STOPPING)
        listeners = [child for child in self._children if child.name == "listener"]
        workers = [child for child in self._children if child.name != "listener"]
        for child in listeners:
            child.stop(_GRACE_SECONDS)
        self._scheduler.shutdown(wait=False)
        stoppers = [threading.Thread(target=child.stop, args=(_GRACE_SECONDS,)) for child in workers]
        for stopper in stoppers:
            stopper.start()
        self._stop.set()
        for thread in (*self._threads, *stoppers):
            thread.join(_GRACE_SECONDS)
        if self._is_scheduler:
            leases.release(self._database, "scheduler", self._owner)

    def _make_children(self, files: Sequence[Path]) -> list[Child]:
        commands: dict[str, list[str]] = {}
        if self._receives:
            commands["listener"] = ["-m", "dicom_node.scp", "--data-dir", str(self._settings.node.data_dir)]
        if self._works:
            configs = [word for file in files for word in ("--config", str(file))]
            for number in range(1, self._settings.workers.processes + 1):
                commands[f"worker-{number}"] = ["-m", "dicom_node.jobs", *configs]
        return [
            Child(name, command, partial(self._child_ready, name), partial(self._child_died, name))
            for name, command in commands.items()
        ]

    def _wait_for_listener(self) -> None:
        self._listener_spoke.wait(_LISTENER_SECONDS)
        if self._cannot_listen:
            for child in self._children:
                child.stop(_GRACE_SECONDS)
            raise CannotListen(f"the listener cannot start: {self._cannot_listen}")

    def _child_ready(self, name: str, said: Mapping[str, Any]) -> None:
        if name == "listener":
            self._cannot_listen = str(said.get("cannot_start", ""))
            self._listener_spoke.set()
        if "cannot_start" in said:  # the first time the node ends; later the port may become free again
            return
        with self._ready_lock:
            if "listening" in said:
                self._address = ":".join(str(part) for part in said["listening"])
            if name not in self._waiting_for:
                return
            self._waiting_for.remove(name)
            if not self._waiting_for:
                self._say_ready()

    def _say_ready(self) -> None:
        self._say(
            NODE_READY,
            ae_title=self._settings.node.ae_title,
            dicom=self._address,
            workers=self._settings.workers.processes,
            database=self._database.url.render_as_string(hide_password=True),
        )

    def _child_died(self, name: str, status: int, again_in_seconds: float) -> None:
        self._say(CHILD_DIED, process=name, status=status, again_in_seconds=again_in_seconds)

    def _say(self, event_type: EventType, **fields: str | int | float) -> None:
        """Log an event of the node itself and keep it; a database that is away must not stop the node."""
        event = happened(event_type, **fields)
        try:
            with self._database.write() as session:
                append(session, event)
        except SQLAlchemyError as error:
            _LOGGER.error("event %s is only in the log: %s", event_type.number, type(error).__name__)

    def _run(self, name: str, loop: Callable[[], None]) -> None:
        thread = threading.Thread(target=loop, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _office(self) -> None:
        """Index what the listener spooled and close studies that are quiet; once more at the end."""
        scanned = False
        while True:
            ending = self._stop.is_set()
            try:
                busy = self._indexer.run_once()
                if not scanned:
                    self._say(RECOVERY_SCANNED, objects=busy)
                    scanned = True
                busy += self._assembler.run_once()
            except Exception as error:  # noqa: BLE001  (the loop must outlive a database that is away)
                # Without the error's text: a database error quotes what it was to write.
                _LOGGER.error("indexing failed, tried again: %s", type(error).__name__)
                busy = 0
                self._stop.wait(1.0)
            if ending:
                return
            if not busy:
                self._stop.wait(_OFFICE_POLL_SECONDS)

    def _start_timers(self) -> None:
        timers: list[tuple[Callable[[], object], float]] = [
            (self._hold_scheduler, _SCHEDULER_SECONDS / 3),
            (self._when_scheduler(lambda: forget_old(self._database, self._settings)), 3600.0),
        ]
        if self._works:
            timers.append((self._watch_drift, 3600.0))
            timers.append((self._when_scheduler(self._queue.reap), self._settings.workers.lease_seconds / 3))
        if self._receives:
            timers.append((self._watch_disk, 30.0))
            timers.append((self._when_scheduler(lambda: purge(self._database, self._settings)), 3600.0))
            timers.append((self._watch_database, 30.0))
            compare = self._when_scheduler(self._compare_spool)
            self._scheduler.add_job(compare, "interval", days=1, next_run_time=datetime.now(UTC))
        for function, seconds in timers:
            self._scheduler.add_job(function, "interval", seconds=seconds, coalesce=True, max_instances=1)
        self._hold_scheduler()
        self._scheduler.start()

    def _hold_scheduler(self) -> None:
        """Only one process of a site runs the timers that act on shared state."""
        held = leases.acquire(self._database, "scheduler", self._owner, _SCHEDULER_SECONDS)
        if held and not self._is_scheduler:
            self._say(SCHEDULER_TAKEN, owner=self._owner)
        self._is_scheduler = held

    def _when_scheduler(self, function: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            if self._is_scheduler:
                function()

        return run

    def _watch_drift(self) -> None:
        """By one machine at a time, and one that has the models: the scheduler may be a listener."""
        if leases.acquire(self._database, "drift", self._owner, _SCHEDULER_SECONDS):
            tell_drift(self._database, self._settings)

    def _compare_spool(self) -> None:
        reconcile(self._database, self._spool, self._settings.node.data_dir)

    def _watch_database(self) -> None:
        """A deleted SQLite file goes on being written to, and all of it is forgotten at the restart."""
        if self._database_file != _inode(self._database):
            self._say(DATABASE_REPLACED)

    def _watch_disk(self) -> None:
        free = shutil.disk_usage(self._settings.node.data_dir).free // 2**20
        if free < self._settings.spool.minimum_free_mib:
            self._say(DISK_LOW, free_mib=free, minimum_mib=self._settings.spool.minimum_free_mib)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnsafeFolder(f"node.data_dir = {folder} cannot be made: {error.strerror}") from None


def _check_models(settings: Settings, files: Sequence[Path]) -> None:
    """What no worker could run without, told before anything is accepted."""
    names = ", ".join(str(file) for file in files)
    if faults := missing_extra(settings) or device_rule_faults(settings):
        raise ConfigurationError([ConfigProblem(names, *fault) for fault in faults])


def _signals() -> int:
    """A file that tells each signal as one byte; the handlers do nothing, so they can disturb nothing."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return reader


@contextmanager
def _locked(settings: Settings, role: Role) -> Iterator[str]:
    """One node per data folder and role, but any number of workers: each takes the first place that is free.

    The kernel drops the lock when the process dies, on NFS too. Raises AlreadyRunning.
    """
    many = role is Role.WORKER
    for place in [f"{role}-{n}" for n in range(1, _MAXIMUM_WORKER_NODES + 1)] if many else [str(role)]:
        with (settings.node.data_dir / f"{place}.lock").open("a", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield place
            return
    whom = f"{_MAXIMUM_WORKER_NODES} worker nodes work" if many else "another node works"
    raise AlreadyRunning(f"{whom} on {settings.node.data_dir}: stop one, or set another node.data_dir")


@contextmanager
def _database(settings: Settings) -> Iterator[Database]:
    """The database, made or brought up to date first: one machine, one program, no separate step."""
    database = Database(settings.database_url)
    network = network_file_system(settings.node.data_dir) if database.is_sqlite else ""
    if network:
        raise UnsafeFolder(
            f"{settings.node.data_dir} is on {network}: SQLite is not safe there. Use a local disk for "
            "node.data_dir, or PostgreSQL by node.database_url"
        )
    try:
        if database.is_sqlite:
            migrate.upgrade(database)
        else:
            migrate.check(database)  # shared with other machines: upgrades are a decision of the admin
        yield database
    finally:
        database.dispose()


def _inode(database: Database) -> int:
    """Which file the database is; 0 where it is none, or is gone."""
    path = Path(database.url.database or "")
    return path.stat().st_ino if database.is_sqlite and path.is_file() else 0


def _owner(settings: Settings, place: str) -> str:
    """A name that is the same after a restart, so that a killed node takes its lease back at once."""
    folder = hashlib.sha256(str(settings.node.data_dir.resolve()).encode()).hexdigest()[:8]
    return f"{socket.gethostname()[:40]}/{folder}/{place}"
