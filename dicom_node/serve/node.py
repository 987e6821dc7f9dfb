"""The whole node: start order, stop order, reload, and the work of its main process.

The main process indexes, closes studies, delivers and runs timers (:class:`Background`). Its children are one
listener process without database and models, the worker processes, and the console's. ``--role`` spreads them
over machines.

Start of a node on a full disk: its listener refuses objects with A700 until there is space.
The database cannot be opened then, so only the listener runs, and no event is stored.
"""

import errno
import fcntl
import hashlib
import logging
import os
import select
import shutil
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy.exc import SQLAlchemyError

from dicom_node import __version__
from dicom_node.base import connectors, events, logs, sitekey
from dicom_node.base.config.loading import FOLDER, is_behind, newest
from dicom_node.base.config.settings import NEEDS_RESTART, Settings
from dicom_node.base.errors import (
    CannotRun,
    ConfigurationError,
    DecisionNotCopied,
    ExitCode,
    NodeError,
    SpoolFull,
    Unavailable,
)
from dicom_node.base.files import Files, bucket_of
from dicom_node.base.lifecycle import Role
from dicom_node.base.processes import (
    Child,
    console_program,
    lock_place,
    running,
    signal_pipe,
    without_secrets,
)
from dicom_node.base.runner import outlast
from dicom_node.base.store import deliveries
from dicom_node.base.store.database import SHORTEST, Database, in_words
from dicom_node.base.store.transitions import OwnEvents, acquire_lease, release_lease, utc_now
from dicom_node.deliver import commitment_answers, delivery_worker, holding, outages, removals
from dicom_node.jobs import drift
from dicom_node.jobs.queue import JobQueue
from dicom_node.people import audit, backup, disk, preflight, processes
from dicom_node.people.processes import Sign, node_name
from dicom_node.receive.policy import AEPolicy, policy_path
from dicom_node.receive.spool import Spool
from dicom_node.studies import choose, indexing
from dicom_node.studies.fetch import Fetcher, PriorQueries, report_missing

_LOGGER = logging.getLogger(__name__)
_GRACE_SECONDS = 30.0
_LISTENER_SECONDS = 30.0  # it waits 15 for one of a former node that still ends
_NEEDED_BYTES = 4 * 2**20  # for a database to be opened, brought up to date and written to
_LOOK_SECONDS, _SAY_SECONDS = 1.0, 60.0
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


def serve(files: Sequence[Path], role: Role = Role.ALL) -> int:
    """Run the node until SIGTERM or SIGINT; SIGHUP reloads the configuration files. Returns the exit status.

    With a full disk the listener alone runs and refuses objects (A700) until there is space. Raises
    ConfigurationError, CannotRun, DatabaseUnusable, StorageError, Unavailable and SpoolError before anything
    is accepted.
    """
    signals = signal_pipe()
    settings = _checked(files, role)
    logs.configure(settings.node.log_level, "node", as_json=settings.log.format == "json")
    _prepare_folder(settings)
    with (
        in_words(settings.database_url),
        _disk_in_words(settings),
        lock_place(settings.node.data_dir, role, files) as place,
    ):
        if not wait_for_space(settings, role, place, signals):
            return ExitCode.OK
        (settings.node.data_dir / FOLDER).mkdir(exist_ok=True)  # by the node, so that it is the node's
        with _database(settings) as database:
            if is_behind(settings):  # something was entered before anybody could ask this node to read it
                settings = _checked(files, role)
            database.changes.follow(database.engine)
            node = _MainProcess(settings, files, role, place, database)
            node.start()
            # Each read waits for the next signal; any but SIGHUP ends the node, also one that came with it.
            while set(os.read(signals, 64)) == {signal.SIGHUP}:
                node.reload()
            node.stop()
    return ExitCode.OK


class _MainProcess:
    """The main process of a node, which starts, replaces and stops its child processes and the background
    threads.

    On a reload its children continue while :class:`Background` is replaced by a new one.
    """

    def __init__(
        self, settings: Settings, files: Sequence[Path], role: Role, place: str, database: Database
    ) -> None:
        """Prepare the node. ``files``: the configuration files; ``place``: the name of this node in the data
        folder.
        """
        self._settings, self._files, self._role, self._place = settings, files, role, place
        self._address, self._ready_lock = "", threading.Lock()
        self._say = OwnEvents(database).say
        self._answer = partial(self._say, node=node_name(place))  # to who asked this node, of several
        self._listener_spoke, self._cannot_listen = threading.Event(), ""
        self._console_serves = False
        self._replaced: dict[str, Child] = {}  # children of configurations before, until the newest are ready
        self._children = self._new_children(settings)
        self._listener: Child | None = None
        if role.receives:
            ready, died = partial(self._child_ready, "listener"), partial(self._child_died, "listener")
            self._listener = _listener(settings, place, ready, died)
            self._children = {"listener": self._listener, **self._children}
        # "Ready" waits for the console only where that is all: the node receives and works without.
        self._waiting_for = self._children.keys() - ({"console"} if role is not Role.CONSOLE else set())
        self._background_of = partial(
            Background,
            database,
            role=role,
            place=place,
            say=self._say,
            database_file=inode(database),
            signs=self._signs_of_life,
        )
        self._background = self._background_of(settings)

    def start(self) -> None:
        """Start the children, the listener first, then the background threads.

        "ready" is logged when every child is ready; the console counts only if the node does nothing else.
        Raises Unavailable if the listener cannot start; then the children are ended.
        """
        self._say(events.NODE_STARTED, version=__version__, ae_title=self._settings.node.ae_title)
        for child in self._children.values():
            child.start()
        if self._listener:
            self._listener_spoke.wait(_LISTENER_SECONDS)
            if self._cannot_listen:
                for child in self._children.values():
                    child.stop(_GRACE_SECONDS)
                raise Unavailable(
                    f"the listener cannot start: {self._cannot_listen}: see listener.host and listener.port; "
                    "one under 1024 needs CAP_NET_BIND_SERVICE"
                )
        self._background.start(first=True)
        if not self._children:  # it delivers or keeps time only
            self._say_ready()

    def reload(self) -> None:
        """Load the present configuration files, or leave everything unchanged if they have mistakes.

        Work under way is not lost: workers finish their job first, the delivery worker what it is sending.
        """
        try:
            with _disk_in_words(self._settings):
                settings = _checked(self._files, self._role, self._settings)
                _prepare_folder(settings)
                background = self._background_of(settings)
                if self._listener:  # the last that a full disk can refuse: nothing has stopped yet
                    _write_policy(settings, self._place)
        except Exception as error:
            trace = None if isinstance(error, NodeError) else error
            problems = error.problems if isinstance(error, ConfigurationError) else ()
            for problem in problems or (error,):
                _LOGGER.error("the configuration is refused: %s", problem, exc_info=trace)
            self._answer(
                events.CONFIGURATION_REFUSED,
                mistakes=len(problems) or 1,
                keys=", ".join(problem.key for problem in problems[:10]),
            )
            return
        self._background.stop()
        self._settings, self._background = settings, background
        logs.configure(settings.node.log_level, "node", as_json=settings.log.format == "json")
        if self._listener:
            self._listener.hang_up()
        self._renew_children()
        self._background.start()
        self._answer(events.CONFIGURATION_RELOADED, peers=len(settings.peers), rules=len(settings.rules))

    def stop(self) -> None:
        """Stop receiving, then index what was received, then let workers and deliveries finish or release
        their work.
        """
        self._say(events.NODE_STOPPING)
        self._background.life.leave()  # a planned stop is not reported as a failure
        if self._listener:
            self._listener.stop(_GRACE_SECONDS)
        stoppers = [
            threading.Thread(target=child.stop, args=(_GRACE_SECONDS,))
            for child in (*self._children.values(), *self._replaced.values())
            if child is not self._listener
        ]
        for stopper in stoppers:
            stopper.start()
        self._background.stop()
        for stopper in stoppers:
            stopper.join(_GRACE_SECONDS)
        self._background.leave()

    def _signs_of_life(self) -> list[Sign]:
        """The signs of life of the main process and its children, each with the seconds since its last
        message.
        """
        return [
            Sign("main", os.getpid()),
            *(Sign(child.name, child.pid, child.silent_seconds) for child in self._children.values()),
        ]

    def _new_children(self, settings: Settings) -> dict[str, Child]:
        """Make new children of those kinds that read the configuration at their start: workers and console;
        by name.
        """
        count = settings.workers.processes if self._role.runs_models else 0
        commands = {f"worker-{number}": ["dicom_node.jobs.worker"] for number in range(1, count + 1)}
        if settings.console.enabled and self._role.may_serve_console:
            commands["console"] = [console_program()] + ["--beside"] * self._console_serves
        # The configuration in force, by standard input: the files may change before a worker starts again.
        given = settings.for_children()
        return {
            name: Child(
                name,
                ["-m", *command],
                partial(self._child_ready, name),
                partial(self._child_died, name),
                given,
            )
            for name, command in commands.items()
        }

    def _renew_children(self) -> None:
        """Start new workers and a new console, and end the old ones.

        An old child ends after its job, once the new child of its name is ready; at once if there is no such
        child, or if it is a console that does not serve yet.
        """
        new = self._new_children(self._settings)
        with self._ready_lock:
            for name, child in self._children.items():
                if name in new and (name != "console" or self._console_serves):
                    if self._replaced.setdefault(name, child) is not child:  # the one before it works on
                        child.retire()
                elif child is not self._listener:
                    for ended in filter(None, (child, self._replaced.pop(name, None))):
                        ended.retire()
            self._children = {**({"listener": self._listener} if self._listener else {}), **new}
        for child in new.values():
            child.start()

    def _child_ready(self, name: str, report: Mapping[str, Any]) -> None:
        """Handle the message ``report`` of the child ``name``: that it is ready, or why it cannot start."""
        reason = str(report.get("cannot_start", ""))
        if name == "listener":
            self._cannot_listen = reason
            self._listener_spoke.set()
        if "cannot_start" in report:
            if name == "console":  # else: at its start the node ends; later the port may become free again
                self._say(events.CONSOLE_CANNOT_START, reason=reason)
            return
        if name == "console":
            self._say(events.CONSOLE_STARTED, address=str(report["console"]))
        with self._ready_lock:
            self._console_serves |= name == "console"
            if "listening" in report:
                self._address = ":".join(str(part) for part in report["listening"])
            if former := self._replaced.pop(name, None):
                former.retire()
            if name in self._waiting_for:
                self._waiting_for.remove(name)
                if not self._waiting_for:
                    self._say_ready()

    def _say_ready(self) -> None:
        """Record the event that the node is ready."""
        self._say(
            events.NODE_READY,
            ae_title=self._settings.node.ae_title,
            dicom=self._address,
            workers=sum(name.startswith("worker") for name in self._children),
            database=logs.redacted(self._settings.database_url),
        )

    def _child_died(self, name: str, status: int, again_in_seconds: float) -> None:
        """Record the event that a child ended with this exit status and is started again in some seconds."""
        if name == "console":
            self._console_serves = False
        self._say(events.CHILD_DIED, process=name, status=status, again_in_seconds=again_in_seconds)


@contextmanager
def _disk_in_words(settings: Settings) -> Iterator[None]:
    """Context manager: an OSError because the disk is full is raised as SpoolFull."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise SpoolFull(f"the disk of node.data_dir = {settings.node.data_dir} is full: make room") from None


def _write_policy(settings: Settings, place: str) -> None:
    """Write the file that tells the listener of this node which callers it accepts."""
    AEPolicy.from_settings(settings).write(policy_path(settings.node.data_dir, _listener_place(place)))


def _listener_place(place: str) -> str:
    """The name of the listener in the data folder; "" for the first one. ``place``: the name of its node."""
    return "" if place in ("all", "listener-1") else place  # "" for the first listener on a data folder


def _listener(
    settings: Settings,
    place: str,
    on_ready: Callable[[Mapping[str, Any]], None],
    on_death: Callable[[int, float], None],
) -> Child:
    """Make the listener's process for the node at ``place``, and write the file that tells the listener which
    callers it accepts.

    ``on_ready`` and ``on_death``: called with its message, or its exit status and the seconds until it starts
    again.
    """
    _write_policy(settings, place)
    command = ["-m", "dicom_node.receive.listener", "--data-dir", str(settings.node.data_dir)]
    command += ["--place", _listener_place(place)] if _listener_place(place) else []
    return Child("listener", command, on_ready, on_death, "", without_secrets())


def _checked(files: Sequence[Path], role: Role, running: Settings | None = None) -> Settings:
    """Read and check the configuration files; returns the settings. Raises ConfigurationError with every
    mistake.

    ``running``: settings of a running node, None at its start; a change that needs a restart is then a
    mistake.
    """
    checked = preflight.check(files, role)
    if running and checked.settings and not checked.problems:
        for key, value in checked.settings.fixed.items():
            if value != running.fixed[key]:
                checked.files.add_named(key, str(value), NEEDS_RESTART)
    if checked.problems or checked.settings is None:
        raise ConfigurationError(checked.problems)
    for line in checked.tried:
        if not line.ok:
            _LOGGER.warning("%s: %s", line.subject, line.text)
    return checked.settings


def _prepare_folder(settings: Settings) -> None:
    """Create the data folder, close it to other users, and check the site key where it is needed."""
    folder = settings.node.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotRun(f"node.data_dir = {folder} cannot be made: {error.strerror}") from None
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o027:  # of an earlier version; which group may read is the admin's to say, none may write
        folder.chmod(mode & ~0o027)
        _LOGGER.warning("%s was open to others on this machine: closed (mode %04o)", folder, mode & ~0o027)
    if any(peer.deidentify for peer in settings.peers):
        sitekey.load_or_create(settings.node.data_dir)
        for refuse in connectors.every("site_keys"):
            refuse(settings)


@contextmanager
def _database(settings: Settings) -> Iterator[Database]:
    """Context manager: the database, created or updated first if it is an SQLite file. Raises CannotRun."""
    database = Database(settings.database_url)
    if network := preflight.network_file_system(settings.node.data_dir) if database.is_sqlite else "":
        raise CannotRun(
            f"{settings.node.data_dir} is on {network}: SQLite is not safe there. Use a local disk for "
            "node.data_dir, or PostgreSQL by node.database_url"
        )
    try:
        if database.is_sqlite:
            database.upgrade()
        else:
            database.check()  # shared with other machines: upgrades are a decision of the admin
        yield database
    finally:
        database.dispose()


def wait_for_space(settings: Settings, role: Role, place: str, signals: int) -> bool:
    """Wait until the disk has space, while the listener refuses objects; returns False if the node is stopped
    before.

    ``place``: the name of the node in the data folder. ``signals``: a pipe from which received signals are
    read. Raises OSError.
    """
    if _has_space(settings):
        return True
    listener, said_at = None, float("-inf")
    if role.receives:
        listener = _listener(
            settings,
            place,
            lambda seen: _LOGGER.info(
                "the listener refuses objects (A700) until there is space: %s", dict(seen)
            ),
            lambda status, seconds: _LOGGER.error(
                "the listener ended (%d), again in %.0f s", status, seconds
            ),
        )
        listener.start()
    try:
        while not _has_space(settings):
            if time.monotonic() - said_at > _SAY_SECONDS:
                said_at = time.monotonic()
                events.happened(
                    events.DISK_LOW,
                    free_mib=shutil.disk_usage(settings.node.data_dir).free // 2**20,
                    minimum_mib=settings.spool.minimum_free_mib,
                )
            ready, _, _ = select.select([signals], [], [], _LOOK_SECONDS)
            if ready and set(os.read(signals, 64)) != {signal.SIGHUP}:  # one that ends the node
                return False
    finally:
        if listener:
            listener.stop(_GRACE_SECONDS)
    return True


def _has_space(settings: Settings) -> bool:
    """Whether the disk has enough free space for the node to start."""
    return shutil.disk_usage(settings.node.data_dir).free >= min(
        _NEEDED_BYTES, settings.spool.minimum_free_mib * 2**20
    )


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
        self._scheduler = BackgroundScheduler(timezone="UTC", job_defaults={"coalesce": True})
        self._leases = [_SITE] * role.receives + [_JOBS] * role.may_deliver
        self._acquired: set[str] = set()
        self._fails_since: datetime | None = None  # indexing, round after round
        self._ahead = _ahead()
        self._not_copied = False
        self._database_file = database_file
        self._spool = Spool(settings.node.data_dir / "spool", settings.spool.minimum_free_mib * 2**20)
        self._indexer = indexing.Indexer(database, self._spool, settings)
        self._assembler = choose.Assembler(database, settings)
        self._unscanned = False

    def start(self, *, first: bool = False) -> None:
        """Start the threads; ``first``: at the node's start, where an event says how many received objects
        were waiting.
        """
        self._unscanned = first
        threads: list[Any] = [*self._services]
        if self._role.indexes:
            self._run("indexer", self._index_and_assemble)
        if self._role.may_deliver and self._settings.outbox.deliver:
            self._run("outbox", self._deliver)
            threads.append(removals.Removals(self._database, self._settings, self._owner))
            threads += [
                commitment_answers.CommitmentAnswers(self._database, self._settings, peer, self._owner)
                for peer in self._settings.peers
                if peer.commit_after
            ]
        for peer in self._settings.peers if self._role.indexes else ():  # into this machine's spool
            if "query" in peer.may:
                threads.append(Fetcher(self._database, self._settings, peer, self._owner))
            if peer.name in self._settings.queried_by_rules:
                threads.append(PriorQueries(self._database, self._settings, peer, self._owner))
        for one in threads:
            self._run(one.name, partial(self._repeat, one.run_once))
        self._start_timers()

    def _deliver(self) -> None:
        """Enter persons' decisions that a restored database lacks, wait until the objects that were
        acknowledged before are indexed (they may correct waiting results), then deliver until the end.
        """
        audit.enter_copies(self._database, self._settings)
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
            thread.join(_GRACE_SECONDS)
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
                    # Without the error's text, which may quote data.
                    number = error.errno if isinstance(error, OSError) else None
                    self._say(
                        events.INDEXING_FAILED, reason=errno.errorcode.get(number or 0, type(error).__name__)
                    )
            self._stop.wait(_FAILED_SECONDS)

    def _index_until_stop(self) -> None:
        """Index objects and complete studies whenever something changes, until the node stops."""
        changes, pause = self._database.changes, SHORTEST
        while True:
            ending = self._stop.is_set()
            seen, traces = changes.count, self._indexer.change_marks()
            if self._unscanned:
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
        now, compare = datetime.now(UTC), (indexing.reconcile, self._database, self._spool, Files(settings))
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
                indexing.purge,
                indexing.purge_results,
                drift.forget_old,
                disk.forget_past,
                commitment_answers.give_up_requests,
                processes.forget_lost,
                *connectors.every("tasks"),
            )
            self._scheduler.add_job(
                self._outlast, "cron", [self._if_leased, _SITE, report_missing, *of_node], hour=3
            )  # UTC
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
                backup.apply_waiting_decisions(self._settings)
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
        """Record an event for low disk space, and for a deleted SQLite file: writes to it succeed, and are
        lost at a restart.
        """
        if self._database_file != inode(self._database):
            self._say(events.DATABASE_REPLACED)
        free = shutil.disk_usage(self._settings.node.data_dir).free // 2**20
        if free < self._settings.spool.minimum_free_mib:
            self._say(events.DISK_LOW, free_mib=free, minimum_mib=self._settings.spool.minimum_free_mib)


def inode(database: Database) -> int:
    """The inode of the SQLite file; 0 for other databases, and if the file does not exist."""
    path = Path(database.url.database or "")
    return path.stat().st_ino if database.is_sqlite and path.is_file() else 0


def _ahead() -> float:
    """The seconds by which the machine's clock is ahead of the monotonic clock, which nobody can set."""
    return time.time() - time.monotonic()
