"""The main process's own work under one configuration: index and assembly, delivery, timers."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import shutil
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.audit_trail.sender import AuditSender
from dicom_node.config.settings import Settings
from dicom_node.events import DATABASE_REPLACED, DISK_LOW, SCHEDULER_TAKEN
from dicom_node.inbox.spool import Spool
from dicom_node.jobs.queue import LeaseQueue
from dicom_node.model.roles import Role
from dicom_node.monitoring.disk import note_free_space
from dicom_node.monitoring.drift import forget_old, report_drift
from dicom_node.monitoring.past import forget_past
from dicom_node.notifications.gather import forget_removed
from dicom_node.notifications.sender import Notifier
from dicom_node.notifications.silence import report_silence
from dicom_node.outbox.delivery_worker import DeliveryWorker
from dicom_node.store import leases
from dicom_node.store.database import Database
from dicom_node.studies.assemble import Assembler
from dicom_node.studies.comparison import reconcile
from dicom_node.studies.purge import purge
from dicom_node.studies.scan import Indexer

_LOGGER = logging.getLogger(__name__)
_INDEX_POLL_SECONDS = 0.05  # one directory listing; 2 % of a core
_INDEX_LOCK_SECONDS = 0.5
_SCHEDULER_SECONDS = 15.0
_GRACE_SECONDS = 30.0
_AWAY_SECONDS = 5.0  # that a database gets to come back


class Background:
    """The threads of the main process under one configuration; all state is in database and spool."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        role: Role,
        place: str,
        say: Callable[..., None],
        database_file: int,
    ) -> None:
        self._database = database
        self._settings = settings
        self._role = role
        self._say = say
        self._owner = _owner(settings, place)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._delivery_worker = DeliveryWorker(database, settings)
        self._queue = LeaseQueue(database, settings.workers)
        self._scheduler = BackgroundScheduler(timezone="UTC")
        self._is_scheduler = False
        self._database_file = database_file
        spool = Spool(settings.node.data_dir / "spool", settings.spool.minimum_free_mib * 2**20)
        self._spool = spool
        self._indexer = Indexer(database, spool, settings)
        self._assembler = Assembler(database, settings)

    def start(self, scanned: Callable[[int], object] = bool) -> None:
        """Start the threads; ``scanned`` is called once, with the number of objects that waited."""
        if self._role.receives:
            self._run("indexer", lambda: self._index_and_assemble(scanned))
        if self._role.works:
            self._run("outbox", lambda: self._delivery_worker.run_forever(self._stop))
        if self._settings.notifications:
            self._repeat("notifications", Notifier(self._database, self._settings, self._owner).run_once)
        if self._settings.audit.syslog:
            self._repeat("audit", AuditSender(self._database, self._settings, self._owner).run_once)
        self._start_timers()

    def stop(self) -> None:
        """Index what came, let the delivery worker finish what it is sending."""
        self._scheduler.shutdown(wait=False)
        self._stop.set()
        for thread in self._threads:
            thread.join(_GRACE_SECONDS)

    def give_up_scheduler(self) -> None:
        """Give the scheduler lease back, so that another machine runs the timers at once."""
        if self._is_scheduler:
            leases.release(self._database, "scheduler", self._owner)

    def _run(self, name: str, loop: Callable[[], None]) -> None:
        thread = threading.Thread(target=loop, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _repeat(self, name: str, work: Callable[[threading.Event], object]) -> None:
        """Work once a second until the stop, in a thread; what is under way then is ended first."""

        def loop() -> None:
            while not self._stop.is_set():
                try:
                    work(self._stop)
                except SQLAlchemyError as error:  # without its text, which quotes what it was to write
                    _LOGGER.error("%s wait: %s", name, type(error).__name__)
                    self._stop.wait(_AWAY_SECONDS)
                self._stop.wait(1.0)

        self._run(name, loop)

    def _index_and_assemble(self, scanned: Callable[[int], object]) -> None:
        """Index what the listeners spooled and close studies that are quiet; once more at the end.

        One process of a site does: the next one takes over when the kernel drops the lock of one that died.
        """
        with (self._settings.node.data_dir / "index.lock").open("a") as lock:
            if self._locked(lock):
                self._index_until_stop(scanned)

    def _locked(self, lock: TextIO) -> bool:
        """Wait for the lock; False where the stop came first."""
        while not self._stop.is_set():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._stop.wait(_INDEX_LOCK_SECONDS)
            else:
                return True
        return False

    def _index_until_stop(self, scanned: Callable[[int], object]) -> None:
        first = True
        while True:
            ending = self._stop.is_set()
            try:
                busy = self._indexer.run_once()
                if first:
                    scanned(busy)
                    first = False
                busy += self._assembler.run_once()
            except Exception as error:  # noqa: BLE001  (the loop must outlive a database that is away)
                # Without the error's text: a database error quotes what it was to write.
                _LOGGER.error("indexing failed, tried again: %s", type(error).__name__)
                busy = 0
                self._stop.wait(1.0)
            if ending:
                return
            if not busy:
                self._stop.wait(_INDEX_POLL_SECONDS)

    def _start_timers(self) -> None:
        timers: list[tuple[Callable[[], object], float]] = [
            (self._hold_scheduler, _SCHEDULER_SECONDS / 3),
            (self._when_scheduler(lambda: forget_old(self._database, self._settings)), 3600.0),
            (self._when_scheduler(lambda: forget_past(self._database, self._settings)), 3600.0),
            (self._when_scheduler(lambda: forget_removed(self._database, self._settings)), 3600.0),
        ]
        if self._role.works:
            timers.append((self._watch_drift, 3600.0))
            timers.append((self._when_scheduler(self._queue.reap), self._settings.workers.lease_seconds / 3))
        if self._role.receives:
            timers.append((self._watch_disk, 30.0))
            timers.append((self._when_scheduler(lambda: purge(self._database, self._settings)), 3600.0))
            timers.append((self._watch_database, 30.0))
            timers.append((lambda: note_free_space(self._database, self._settings), 3600.0))
            silence = self._when_scheduler(lambda: report_silence(self._database, self._settings))
            timers.append((silence, 600.0))
            compare = self._when_scheduler(self._compare_spool)
            self._scheduler.add_job(compare, "interval", days=1, next_run_time=datetime.now(UTC))
        for function, seconds in timers:
            self._scheduler.add_job(function, "interval", seconds=seconds, coalesce=True, max_instances=1)
        self._hold_scheduler()
        self._scheduler.start()

    def _hold_scheduler(self) -> None:
        """Take or renew the lease: only one process of a site runs the timers that act on shared state."""
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
        """On one machine at a time, and one that has the models: the scheduler may be a listener."""
        if leases.acquire(self._database, "drift", self._owner, _SCHEDULER_SECONDS):
            report_drift(self._database, self._settings)

    def _compare_spool(self) -> None:
        reconcile(self._database, self._spool, self._settings.node.data_dir)

    def _watch_database(self) -> None:
        """Report a deleted SQLite file: writes to it still succeed, and are lost at the restart."""
        if self._database_file != inode(self._database):
            self._say(DATABASE_REPLACED)

    def _watch_disk(self) -> None:
        free = shutil.disk_usage(self._settings.node.data_dir).free // 2**20
        if free < self._settings.spool.minimum_free_mib:
            self._say(DISK_LOW, free_mib=free, minimum_mib=self._settings.spool.minimum_free_mib)


def inode(database: Database) -> int:
    """Which file the database is; 0 where it is none, or is gone."""
    path = Path(database.url.database or "")
    return path.stat().st_ino if database.is_sqlite and path.is_file() else 0


def _owner(settings: Settings, place: str) -> str:
    """A name that is the same after a restart, so that a killed node takes its lease back at once."""
    folder = hashlib.sha256(str(settings.node.data_dir.resolve()).encode()).hexdigest()[:8]
    return f"{socket.gethostname()[:40]}/{folder}/{place}"
