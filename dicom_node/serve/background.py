"""The threads and timers of the main process: indexing, delivery, leases, signs of life."""

import fcntl
import hashlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.base import connectors, events
from dicom_node.base.config.loading import newest
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import DecisionNotCopied, NodeError
from dicom_node.base.files import Files, bucket_of
from dicom_node.base.lifecycle import Role
from dicom_node.base.processes import running
from dicom_node.base.runner import outlast
from dicom_node.base.store import deliveries
from dicom_node.base.store.database import SHORTEST, Database, reason_of
from dicom_node.base.store.transitions import acquire_lease, release_lease, utc_now
from dicom_node.deliver import commitment_answers, delivery_worker, holding, outages, removals
from dicom_node.jobs import drift
from dicom_node.jobs.queue import JobQueue
from dicom_node.people import audit, disk, lost_decisions, processes, tried_programs
from dicom_node.receive.spool import Spool
from dicom_node.serve.listener import GRACE_SECONDS
from dicom_node.studies import completion, indexing, purging, reconciliation
from dicom_node.studies.fetch import Fetcher
from dicom_node.studies.missing_studies import report_missing
from dicom_node.studies.priors import PriorQueries

_ARRIVAL_SECONDS = 0.1  # between two looks whether the spool has changed, while nothing happens
_INDEX_TURN_SECONDS = 0.5  # until the folder is listed again: another peer's object is among the next ones
_INDEX_LAST_SECONDS = 10.0  # at the end of the node; what is left waits for its start
_SCHEDULER_SECONDS = 15.0
_CLOCK_SECONDS, _PUT_BACK_SECONDS = 5.0, 60.0  # how often the clock is looked at; what is a step of it
_ASK_AGAIN_SECONDS = 600.0  # where entered peers and rules could not be taken over
_DAY_SECONDS = 86400.0
_DECISIONS_SECONDS = 5.0
_REPEAT_SECONDS, _REPEAT_AT_LEAST_SECONDS = 1.0, 5.0  # after an event, and without
_CORRECTIONS_SECONDS = 600.0  # that deliveries wait for received objects at most: one may stay unreadable
_FAILED_SECONDS = 1.0  # until the lock of indexing is tried again, or a round that failed

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
        """Prepare the threads.

        ``place``: the name of the node in the data folder. ``say``: records an event. ``database_file``: the
        inode of the SQLite file, 0 for other databases. ``signs``: returns the signs of life of the node's
        processes.
        """
        self._database = database
        self._settings = settings
        self._role = role
        self._say = say
        # The same after a restart, so that a killed node takes its lease back at once.
        folder = hashlib.sha256(str(settings.node.data_dir.resolve()).encode()).hexdigest()[:8]
        self._owner = f"{socket.gethostname()[:40]}/{folder}/{place}"
        self.life, self._signs = processes.SignsOfLife(database, place, self._owner), signs
        self._entered, self._ask_at = settings.node.entered, 0.0
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._delivery_worker = delivery_worker.DeliveryWorker(database, settings, owner=self._owner)
        groups = ("services", "services.intake") if role.indexes else ("services",)
        offers = chain.from_iterable(map(connectors.every, groups))
        self._services: list[connectors.Service] = [
            service for offer in offers for service in offer(database, settings, self._owner)
        ]
        self._queue = JobQueue(database, settings.workers)
        # What a slow or suspended machine missed is done late: some are due once a day.
        late = {"coalesce": True, "misfire_grace_time": None}
        self._scheduler = BackgroundScheduler(timezone="UTC", job_defaults=late)
        self._leases = [_SITE] * role.receives + [_JOBS] * role.may_deliver
        self._acquired: set[str] = set()
        self._fails_since: datetime | None = None  # indexing, round after round
        self._ahead = _ahead()
        self._not_copied = False
        self._database_file = database_file
        self._spool = Spool(settings.node.data_dir / "spool", settings.spool.minimum_free_mib * 2**20)
        self._indexer = indexing.Indexer(database, self._spool, settings)
        self._assembler = completion.Assembler(database, settings)
        self._unscanned = False

    def start(self, *, first: bool = False) -> None:
        """Start the threads; ``first``: at the node's start, where an event says how many received objects
        were waiting.
        """
        self._unscanned = first and self._role.indexes
        if first:
            with suppress(SQLAlchemyError):  # a node starts without its database, too
                self.life.note_killed()
        threads: list[Any] = [*self._services]
        given = self._database, self._settings
        if self._role.indexes:
            self._run("indexer", self._index_and_assemble)
        if self._role.may_deliver and self._settings.outbox.deliver:
            self._run("outbox", self._deliver)
            threads.append(removals.Removals(*given, self._owner))
            threads += [
                commitment_answers.CommitmentAnswers(*given, peer, self._owner)
                for peer in self._settings.peers
                if peer.commit_after
            ]
        for peer in self._settings.peers if self._role.indexes else ():  # into this machine's spool
            if "query" in peer.may:
                threads.append(Fetcher(*given, peer, self._owner))
            if peer.name in self._settings.queried_by_rules:
                threads.append(PriorQueries(*given, peer, self._owner))
        for one in threads:
            self._run(one.name, partial(self._repeat, one.run_once))
        self._start_timers()

    def _deliver(self) -> None:
        """Enter persons' decisions that a restored database lacks, wait until the objects that were
        acknowledged before are indexed (they may correct waiting results), then deliver until the end.
        """
        audit.enter_copies(self._database, self._settings)
        while self._unscanned and self._indexer.is_database_older() and not self._stop.wait(0.5):
            pass
        before, end = {*self._spool.pending()}, time.monotonic() + _CORRECTIONS_SECONDS
        while (
            self._role.indexes
            and time.monotonic() < end
            and not before.isdisjoint(self._spool.pending())
            and not self._stop.wait(0.1)
        ):
            pass
        self._delivery_worker.run_forever(self._stop)

    def stop(self) -> None:
        """Stop the threads: the received objects are indexed, and the delivery worker finishes its current
        study.
        """
        self._scheduler.shutdown(wait=False)
        self._stop.set()
        for thread in self._threads:
            thread.join(GRACE_SECONDS)
        if self._role.indexes:
            self._indexer.leave()

    def leave(self) -> None:
        """Let services finish their last work, and release the leases, so that another machine runs the
        timers at once.
        """
        for service in self._services:
            with suppress(SQLAlchemyError):
                service.at_stop()
        for name in self._acquired:
            release_lease(self._database, name, self._owner)

    def _run(self, name: str, loop: Callable[[], None]) -> None:
        """Start a thread of this name that runs ``loop`` until the node stops; an error starts it again."""
        thread = threading.Thread(
            target=outlast, args=(loop, name, self._stop, self._say), name=name, daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _repeat(self, work: Callable[[threading.Event], object]) -> None:
        """Call ``work`` until the node stops: once a second while something happens, else every five
        seconds.
        """
        while not self._stop.is_set():
            seen = self._database.changes.count
            try:
                work(self._stop)
            except SQLAlchemyError as error:
                self._database.outage.note_error(error)
                self._stop.wait(5.0)  # for the database to come back
            self._stop.wait(_REPEAT_SECONDS)
            self._database.changes.wait(seen, _REPEAT_AT_LEAST_SECONDS - _REPEAT_SECONDS, self._stop)

    def _index_and_assemble(self) -> None:
        """Index the spooled objects and complete studies without new objects, until the node stops, and once
        more at the end.

        Only one process of a site does this at a time: the next one takes over when the kernel drops the lock
        of one that died. A process whose round failed releases the lock: another that has its database and
        its disk may continue.
        """
        while not self._stop.is_set():
            try:
                with (self._settings.node.data_dir / "index.lock").open("a") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._indexer.forget_cursors()
                    self._index_until_stop()
            except BlockingIOError:
                pass  # another process of the site has the lock
            except Exception as error:  # noqa: BLE001  (the loop must outlive a database or disk that is away)
                if self._fails_since is None:  # an event for the first of a row
                    self._fails_since = utc_now()
                    self._say(events.INDEXING_FAILED, reason=reason_of(error))
            self._stop.wait(_FAILED_SECONDS)

    def _index_until_stop(self) -> None:
        """Index objects and complete studies whenever something changes, until the node stops."""
        changes, pause = self._database.changes, SHORTEST
        while True:
            ending = self._stop.is_set()
            seen, traces = changes.count, self._indexer.change_marks()
            if self._unscanned:
                self._put_unknown_back()
                self._unscanned = False
                self._say(events.RECOVERY_SCANNED, objects=self._indexer.waiting())
            busy = self._indexer.run_once(_INDEX_LAST_SECONDS if ending else _INDEX_TURN_SECONDS)
            busy += self._assembler.run_once(behind=self._indexer.behind)
            if since := self._fails_since:
                self._fails_since = None
                self._say(
                    events.INDEXING_BACK,
                    since=since.isoformat(timespec="seconds"),
                    seconds=round((utc_now() - since).total_seconds()),
                )
            if ending:
                return
            pause = changes.pause(pause, found=bool(busy))
            # Wait until something was received or committed, or a study may be quiet.
            end = time.monotonic() + (0 if busy else min(pause, self._assembler.seconds_to_next()))
            while time.monotonic() < end and not self._stop.wait(_ARRIVAL_SECONDS):
                if changes.count != seen or self._indexer.change_marks() != traces:
                    break

    def _put_unknown_back(self) -> None:
        """After the database was restored from a backup, index the objects that it does not know before any
        study is completed: else a report on a part of a study could leave.
        """
        if self._indexer.is_database_older():
            reconciliation.put_unknown_back(self._database, self._spool, Files(self._settings))
            self._spool.note_indexed("")

    def _start_timers(self) -> None:
        """Start the timers that this node's role needs."""
        role, settings = self._role, self._settings
        of_node = self._database, settings

        def every(seconds: float, work: Callable[..., object], *given: object, **more: Any) -> None:
            """Start a timer that does ``work`` every so many seconds."""
            self._scheduler.add_job(self._outlast, "interval", [work, *given], seconds=seconds, **more)

        def once_a_site(seconds: float, *tasks: Callable[[Database, Settings], object]) -> None:
            """Start timers for tasks that only one process of the site does, the one that has the lease."""
            for task in tasks:
                every(seconds, self._if_leased, _SITE, task, *of_node)

        # All are counted from one moment: each that writes wakes the threads that wait for changes.
        every(_SCHEDULER_SECONDS / 3, self._renew_leases)
        every(processes.SIGN_SECONDS, self._show_life)
        every(_CLOCK_SECONDS, self._watch_clock)
        every(_DECISIONS_SECONDS, self._watch_entered)
        every(_DECISIONS_SECONDS, self._watch_decisions)
        if role.runs_models:
            every(3600.0, self._watch_drift)
        if role.may_deliver:
            every(settings.workers.lease_seconds / 3, self._if_leased, _JOBS, self._queue.reap)
        if role.indexes:
            every(30.0, self._watch_data_folder)
            every(3600.0, disk.note_free_space, *of_node)
        now = datetime.now(UTC)
        compare = (reconciliation.reconcile, self._database, self._spool, Files(settings))
        if bucket_of(settings) and role.indexes:  # each node has a spool of its own then
            every(_DAY_SECONDS, *compare, next_run_time=now)
        elif role.receives and not bucket_of(settings):
            every(_DAY_SECONDS, self._if_leased, _SITE, *compare, next_run_time=now)
        if role.receives:
            once_a_site(60.0, outages.report_outages)
            once_a_site(300.0, holding.report_overdue)
            once_a_site(600.0, processes.report_silence)
            once_a_site(
                3600.0,
                purging.purge,
                purging.purge_results,
                drift.forget_old,
                disk.forget_past,
                tried_programs.forget_old,
                commitment_answers.give_up_requests,
                processes.forget_lost,
                *connectors.every("tasks"),
            )
            # At night here: by day the studies of today are on their way.
            night = {"hour": 3, "timezone": datetime.now().astimezone().tzinfo}
            self._scheduler.add_job(
                self._outlast, "cron", [self._if_leased, _SITE, report_missing, *of_node], **night
            )
        self._renew_leases()
        self._outlast(self._show_life)
        self._scheduler.start()

    def _outlast(self, work: Callable[..., object], *arguments: object) -> None:
        """Do a timer's work. An error of the database is not raised but recorded as an outage, one event for
        all timers.
        """
        try:
            work(*arguments)
        except SQLAlchemyError as error:
            self._database.outage.note_error(error)

    def _renew_leases(self) -> None:
        """Take or renew all leases of this node's role."""
        for name in self._leases:
            self._outlast(self._renew_lease, name)

    def _renew_lease(self, name: str) -> None:
        """Take or renew the lease with this name, under which only one process of a site does the work."""
        is_ours = False
        try:
            is_ours = acquire_lease(self._database, name, self._owner, _SCHEDULER_SECONDS)
        finally:  # after an error it is not known to be ours
            is_new = is_ours and name not in self._acquired
            (self._acquired.add if is_ours else self._acquired.discard)(name)
        if is_new:
            self._say(events.SCHEDULER_TAKEN, owner=self._owner, lease=name)

    def _show_life(self) -> None:
        """Record the signs of life of this node's processes."""
        self.life.report(self._signs(), running(self._settings.node.data_dir))

    def _watch_clock(self) -> None:
        """After the machine's clock was put back, make due what would wait until the clock shows the old time
        again.
        """
        ahead = _ahead()
        if self._ahead - ahead > _PUT_BACK_SECONDS:
            with self._database.write() as session:
                deliveries.clock_put_back(session, utc_now())
            self._queue.clock_put_back()
            self._say(events.CLOCK_PUT_BACK, seconds=round(self._ahead - ahead))
        self._ahead = ahead  # last: without a database it is tried again

    def _watch_entered(self) -> None:
        """Reload the configuration if a person entered peers or rules on another machine of the site.

        Not when a change is first seen: the machine where it was entered asks its nodes at once. After a
        refusal it is tried again some minutes later.
        """
        before, self._entered = self._entered, newest(self._settings.node.data_dir)
        if before == self._entered != self._settings.node.entered and time.monotonic() > self._ask_at:
            self._ask_at = time.monotonic() + _ASK_AGAIN_SECONDS
            os.kill(os.getpid(), signal.SIGHUP)

    def _watch_decisions(self) -> None:
        """Copy persons' decisions that have no copy yet; after a restore, apply again those that the database
        lacks.
        """
        try:
            audit.copy_decisions(self._database, self._settings)
            self._not_copied = False
            if audit.is_behind(self._database, self._settings):
                audit.enter_copies(self._database, self._settings)
            if _SITE in self._acquired:
                lost_decisions.apply_waiting_decisions(self._settings)
        except DecisionNotCopied:
            if not self._not_copied:
                self._say(events.DECISIONS_NOT_COPIED, node=self._owner)
            self._not_copied = True
        except (OSError, NodeError):
            return  # who needs them logs it

    def _if_leased(self, lease: str, function: Callable[..., object], *arguments: object) -> None:
        """Run ``function`` if this process has the lease."""
        if lease in self._acquired:
            function(*arguments)

    def _watch_drift(self) -> None:
        """Report drift of the models' scores, on one machine at a time that has the models."""
        if acquire_lease(self._database, "drift", self._owner, _SCHEDULER_SECONDS):
            drift.report_drift(self._database, self._settings)

    def _watch_data_folder(self) -> None:
        """Record an event for a disk that takes no objects, and for a deleted SQLite file: writes to it
        succeed, and are lost at a restart.
        """
        if self._database_file != inode(self._database):
            self._say(events.DATABASE_REPLACED)
        if fault := disk.disk_fault(self._settings):
            free, minimum = disk.space(self._settings)[1] // 2**20, self._settings.spool.minimum_free_mib
            self._say(events.DISK_LOW, free_mib=free, minimum_mib=minimum, reason=fault)


def inode(database: Database) -> int:
    """The inode of the SQLite file; 0 for other databases, and if the file does not exist."""
    path = Path(database.url.database or "")
    return path.stat().st_ino if database.is_sqlite and path.is_file() else 0


def _ahead() -> float:
    """The seconds by which the machine's clock is ahead of the monotonic clock, which nobody can set."""
    return time.time() - time.monotonic()
