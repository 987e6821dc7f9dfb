"""The work of the main process under one configuration: indexing, assembly, delivery, timers."""

import errno
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.base import connectors
from dicom_node.base.config.loading import newest
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import DecisionNotCopied, NodeError
from dicom_node.base.events import (
    CLOCK_PUT_BACK,
    DATABASE_REPLACED,
    DECISIONS_NOT_COPIED,
    DISK_LOW,
    INDEXING_BACK,
    INDEXING_FAILED,
    RECOVERY_SCANNED,
    SCHEDULER_TAKEN,
)
from dicom_node.base.files import Files, bucket_of
from dicom_node.base.kinds import Role
from dicom_node.base.processes import running
from dicom_node.base.runner import outlast
from dicom_node.base.store import decision_copies, deliveries
from dicom_node.base.store.database import SHORTEST, Database
from dicom_node.base.store.transitions import acquire_lease, release_lease, utc_now
from dicom_node.deliver import delivery_worker, outbox
from dicom_node.jobs import drift
from dicom_node.jobs.queue import JobQueue
from dicom_node.people import backup
from dicom_node.people.monitoring import disk, processes
from dicom_node.receive.spool import Spool
from dicom_node.studies import choose, indexing
from dicom_node.studies.fetch import Fetcher, Questions, report_missing

_ARRIVAL_SECONDS = 0.1  # between two looks whether the spool has changed, while nothing happens
_INDEX_LOCK_SECONDS = 0.5
_INDEX_TURN_SECONDS = 0.5  # until the folder is listed again: another peer's object is among the next ones
_INDEX_LAST_SECONDS = 10.0  # at the end of the node; what is left waits for its start
_SCHEDULER_SECONDS = 15.0
_GRACE_SECONDS = 30.0
_CLOCK_SECONDS, _PUT_BACK_SECONDS = 5.0, 60.0  # how often the clock is looked at; what is a step of it
_ASK_AGAIN_SECONDS = 600.0  # where entered peers and rules could not be taken over
_MISSING_HOUR = 3  # UTC: when peers are asked for studies without a result
_DECISIONS_SECONDS = 5.0
_AWAY_SECONDS = 5.0  # that a database gets to come back
_REPEAT_SECONDS, _REPEAT_AT_LEAST_SECONDS = 1.0, 5.0  # after an event, and without
_FAILED_SECONDS = 1.0  # between rounds of indexing: another process may take over

_SITE, _JOBS = "scheduler", "job scheduler"
"""Leases of the timers that act on shared state: of the whole site, and of jobs whose worker is lost."""


class Background:
    """The threads of the main process under one configuration; all their state is in database and spool."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        role: Role,
        place: str,
        say: Callable[..., None],
        database_file: int,
        signs: Callable[[], Sequence[processes.Sign]] = tuple,
    ) -> None:
        self._database = database
        self._settings = settings
        self._role = role
        self._say = say
        # The same after a restart, so that a killed node takes its lease back at once.
        folder = hashlib.sha256(str(settings.node.data_dir.resolve()).encode()).hexdigest()[:8]
        self._owner = f"{socket.gethostname()[:40]}/{folder}/{place}"
        self._life, self._signs = processes.SignsOfLife(database, place, self._owner), signs
        self._entered, self._ask_at = settings.node.entered, 0.0
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._delivery_worker = delivery_worker.DeliveryWorker(database, settings, owner=self._owner)
        groups = ("services", "services.intake") if role.indexes else ("services",)
        offers = chain.from_iterable(map(connectors.every, groups))
        services = (offer(database, settings, self._owner) for offer in offers)
        self._services: list[connectors.Service] = [*chain.from_iterable(services)]
        self._queue = JobQueue(database, settings.workers)
        self._scheduler = BackgroundScheduler(timezone="UTC")
        self._leases = [_SITE] * role.keeps_time + [_JOBS] * role.may_deliver
        self._held: set[str] = set()
        self._fails_since: datetime | None = None  # indexing, round after round
        self._ahead = _ahead()
        self._not_copied = False
        self._database_file = database_file
        self._spool = Spool(settings.node.data_dir / "spool", settings.spool.minimum_free_mib * 2**20)
        self._indexer = indexing.Indexer(database, self._spool, settings)
        self._assembler = choose.Assembler(database, settings)
        self._unscanned = False

    def start(self, *, first: bool = False) -> None:
        """Start the threads; at the node's ``first`` start an event says how many objects were waiting."""
        self._unscanned = first
        threads: list[Any] = [*self._services]
        if self._role.indexes:
            self._run("indexer", self._index_and_assemble)
        if self._role.may_deliver and self._settings.outbox.deliver:
            self._run("outbox", self._deliver)
            threads.append(outbox.Removals(self._database, self._settings, self._owner))
            threads += [
                delivery_worker.CommitmentAnswers(self._database, self._settings, peer, self._owner)
                for peer in self._settings.peers
                if peer.commit_after
            ]
        for peer in self._settings.peers if self._role.indexes else ():  # into this machine's spool
            if "query" in peer.may:
                threads.append(Fetcher(self._database, self._settings, peer, self._owner))
            if peer.name in self._settings.asked_by_rules:
                threads.append(Questions(self._database, self._settings, peer, self._owner))
        for one in threads:
            self._repeat(one.name, one.run_once)
        self._start_timers()

    def _deliver(self) -> None:
        """Take persons' decisions into a restored database, then deliver: nothing is sent before that."""
        decision_copies.take_in(self._database, self._settings)
        self._delivery_worker.run_forever(self._stop)

    def stop(self) -> None:
        """Index the received objects, and let the delivery worker finish its current study."""
        self._scheduler.shutdown(wait=False)
        self._stop.set()
        for thread in self._threads:
            thread.join(_GRACE_SECONDS)
        if self._role.indexes:
            self._indexer.leave()

    def say_goodbye(self) -> None:
        """Remove the node's heartbeats, so that its planned stop is not reported as a failure."""
        self._life.leave()

    def end_services(self) -> None:
        """Let services do their last work; where the database is away, the next start does it."""
        for service in self._services:
            with suppress(SQLAlchemyError):
                service.at_stop()

    def give_up_scheduler(self) -> None:
        """Give the scheduler leases back, so that another machine runs the timers at once."""
        for name in self._held:
            release_lease(self._database, name, self._owner)

    def _run(self, name: str, loop: Callable[[], None]) -> None:
        watched = loop, name, self._stop, self._say
        thread = threading.Thread(target=outlast, args=watched, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _repeat(self, name: str, work: Callable[[threading.Event], object]) -> None:
        """Work until the stop, in a thread, once a second while something happens, else more seldom; what is
        under way then is ended first.
        """

        def loop() -> None:
            while not self._stop.is_set():
                seen = self._database.changes.count
                try:
                    work(self._stop)
                except SQLAlchemyError as error:
                    self._database.outage.noticed(error)
                    self._stop.wait(_AWAY_SECONDS)
                self._stop.wait(_REPEAT_SECONDS)
                self._database.changes.wait(seen, _REPEAT_AT_LEAST_SECONDS - _REPEAT_SECONDS, self._stop)

        self._run(name, loop)

    def _index_and_assemble(self) -> None:
        """Index what the listeners spooled and close studies that are quiet; once more at the end.

        One process of a site does: the next one takes over when the kernel drops the lock of one that died.
        One whose round failed lets go of the lock: another that has its database and its disk may go on.
        """
        while not self._stop.is_set():
            try:
                with (self._settings.node.data_dir / "index.lock").open("a") as lock:
                    if self._locked(lock):
                        self._indexer.forget_cursors()
                        self._index_until_stop()
            except Exception as error:  # noqa: BLE001  (the loop must outlive a database or disk that is away)
                if self._fails_since is None:  # an event for the first of a row
                    self._fails_since = utc_now()
                    # Without the error's text, which may quote data.
                    number = error.errno if isinstance(error, OSError) else None
                    reason = errno.errorcode.get(number or 0, type(error).__name__)
                    self._say(INDEXING_FAILED, reason=reason)
            self._stop.wait(_FAILED_SECONDS)

    def _locked(self, lock: TextIO) -> bool:
        """Wait for the lock; False where the stop came first. Raises OSError (no answer of the disk)."""
        while not self._stop.is_set():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._stop.wait(_INDEX_LOCK_SECONDS)
            else:
                return True
        return False

    def _index_until_stop(self) -> None:
        changes, pause = self._database.changes, SHORTEST
        while True:
            ending = self._stop.is_set()
            seen, traces = changes.count, self._indexer.traces()
            if self._unscanned:
                self._unscanned = False
                self._say(RECOVERY_SCANNED, objects=self._indexer.waiting())
            busy = self._indexer.run_once(_INDEX_LAST_SECONDS if ending else _INDEX_TURN_SECONDS)
            busy += self._assembler.run_once(behind=self._indexer.behind)
            if since := self._fails_since:
                self._fails_since = None
                seconds = round((utc_now() - since).total_seconds())
                self._say(INDEXING_BACK, since=since.isoformat(timespec="seconds"), seconds=seconds)
            if ending:
                return
            pause = changes.pause(pause, found=bool(busy))
            # Wait until something was received or committed, or a study may be quiet.
            end = time.monotonic() + (0 if busy else min(pause, self._assembler.seconds_to_next()))
            while time.monotonic() < end and not self._stop.wait(_ARRIVAL_SECONDS):
                if changes.count != seen or self._indexer.traces() != traces:
                    break

    def _start_timers(self) -> None:
        timers: list[tuple[Callable[[], object], float]] = [
            (self._hold_leases, _SCHEDULER_SECONDS / 3),
            (self._show_life, processes.SIGN_SECONDS),
            (self._watch_clock, _CLOCK_SECONDS),
            (self._watch_entered, _DECISIONS_SECONDS),
            (self._watch_decisions, _DECISIONS_SECONDS),
        ]
        if self._role.runs_models:
            timers.append((self._watch_drift, 3600.0))
        if self._role.may_deliver:
            timers.append(
                (self._when_held(_JOBS, self._queue.reap), self._settings.workers.lease_seconds / 3)
            )
        if self._role.indexes:
            timers += [
                (self._watch_disk, 30.0),
                (self._watch_database, 30.0),
                (lambda: disk.note_free_space(self._database, self._settings), 3600.0),
            ]
        if self._role.keeps_time:
            hourly: list[Callable[[Database, Settings], object]] = [
                indexing.purge,
                indexing.purge_results,
                drift.forget_old,
                disk.forget_past,
                delivery_worker.give_up_requests,
                processes.forget_lost,
                *connectors.every("tasks"),
            ]
            timers += [
                (self._once_a_site(disk.report_silence), 600.0),
                (self._once_a_site(outbox.report_overdue), 300.0),
                (self._once_a_site(outbox.report_outages), 60.0),
                *((self._once_a_site(function), 3600.0) for function in hourly),
            ]
        add = self._scheduler.add_job
        bucket = bucket_of(self._settings)  # each node has a spool of its own then
        if self._role.indexes if bucket else self._role.keeps_time:
            compare = self._compare_spool if bucket else self._when_held(_SITE, self._compare_spool)
            add(self._outlast, "interval", [compare], days=1, next_run_time=datetime.now(UTC))
        if self._role.keeps_time and any(peer.missing_days for peer in self._settings.peers):
            look = self._once_a_site(report_missing)
            add(self._outlast, "cron", [look], hour=_MISSING_HOUR, max_instances=1)
        for function, seconds in timers:
            add(self._outlast, "interval", [function], seconds=seconds, coalesce=True, max_instances=1)
        for function in (self._hold_leases, self._show_life):
            self._outlast(function)
        self._scheduler.start()

    def _outlast(self, function: Callable[[], object]) -> None:
        """Run a timer's work and survive its errors. An absent database gives one event for all timers."""
        try:
            function()
        except SQLAlchemyError as error:
            self._database.outage.noticed(error)

    def _hold_leases(self) -> None:
        """Take or renew them: of those that can do the same duties, one process of a site does them."""
        failures: list[Exception] = []
        for name in self._leases:
            ours = False
            try:
                ours = acquire_lease(self._database, name, self._owner, _SCHEDULER_SECONDS)
            except Exception as error:  # noqa: BLE001  (not known to be ours; the next one may be)
                failures.append(error)
            is_new = ours and name not in self._held
            (self._held.add if ours else self._held.discard)(name)
            if is_new:
                self._say(SCHEDULER_TAKEN, owner=self._owner, lease=name)
        if failures:
            raise failures[0]

    def _show_life(self) -> None:
        self._life.report(self._signs(), running(self._settings.node.data_dir))

    def _watch_clock(self) -> None:
        """After the machine's clock was put back nothing waits until the time that it showed before."""
        ahead = _ahead()
        if self._ahead - ahead > _PUT_BACK_SECONDS:
            with self._database.write() as session:
                deliveries.clock_put_back(session, utc_now())
            self._queue.clock_put_back()
            self._say(CLOCK_PUT_BACK, seconds=round(self._ahead - ahead))
        self._ahead = ahead  # last: without a database it is tried again

    def _watch_entered(self) -> None:
        """Have this node read its configuration anew for what was entered on another machine of the site.

        Not at the first look: the machine where it was entered asks its nodes at once. Where it was refused,
        again after a while.
        """
        before, self._entered = self._entered, newest(self._settings.node.data_dir)
        if before == self._entered != self._settings.node.entered and time.monotonic() > self._ask_at:
            self._ask_at = time.monotonic() + _ASK_AGAIN_SECONDS
            os.kill(os.getpid(), signal.SIGHUP)

    def _watch_decisions(self) -> None:
        """Copy what could not be copied, notice a database that was restored, do again what it had lost."""
        try:
            decision_copies.copy(self._database, self._settings)
            self._not_copied = False
            if decision_copies.is_behind(self._database, self._settings):
                decision_copies.take_in(self._database, self._settings)
            if _SITE in self._held:
                backup.apply_waiting_decisions(self._settings)
        except DecisionNotCopied:
            if not self._not_copied:
                self._say(DECISIONS_NOT_COPIED, node=self._owner)
            self._not_copied = True
        except (OSError, NodeError):
            return  # who needs them logs it

    def _once_a_site(self, function: Callable[[Database, Settings], object]) -> Callable[[], None]:
        return self._when_held(_SITE, lambda: function(self._database, self._settings))

    def _when_held(self, lease: str, function: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            if lease in self._held:
                function()

        return run

    def _watch_drift(self) -> None:
        """On one machine at a time, and one that has the models: the scheduler may be a listener."""
        if acquire_lease(self._database, "drift", self._owner, _SCHEDULER_SECONDS):
            drift.report_drift(self._database, self._settings)

    def _compare_spool(self) -> None:
        indexing.reconcile(self._database, self._spool, Files(self._settings))

    def _watch_database(self) -> None:
        """Report a deleted SQLite file: writes to it still succeed, and are lost at the restart."""
        if self._database_file != inode(self._database):
            self._say(DATABASE_REPLACED)

    def _watch_disk(self) -> None:
        free = shutil.disk_usage(self._settings.node.data_dir).free // 2**20
        if free < self._settings.spool.minimum_free_mib:
            self._say(DISK_LOW, free_mib=free, minimum_mib=self._settings.spool.minimum_free_mib)


def inode(database: Database) -> int:
    """The inode of the SQLite file; 0 for other databases, and if the file does not exist."""
    path = Path(database.url.database or "")
    return path.stat().st_ino if database.is_sqlite and path.is_file() else 0


def _ahead() -> float:
    """Seconds by which the machine's clock is ahead of the one that nobody sets."""
    return time.time() - time.monotonic()
