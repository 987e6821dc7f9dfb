"""The whole node: start order, stop order, reload, and the children of its main process.

The main process indexes, closes studies, delivers and runs timers (:class:`Background`). Its children are one
listener process without database and models, the worker processes, and the console's. ``--role`` spreads them
over machines.
"""

import errno
import logging
import os
import signal
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from dicom_node import __version__
from dicom_node.base import connectors, events, logs, sitekey
from dicom_node.base.config.loading import FOLDER, is_behind
from dicom_node.base.config.settings import NEEDS_RESTART, Settings
from dicom_node.base.errors import CannotRun, ConfigurationError, ExitCode, NodeError, SpoolFull, Unavailable
from dicom_node.base.lifecycle import Role
from dicom_node.base.processes import Child, console_program, lock_place, signal_pipe
from dicom_node.base.store.database import ANY_ERROR, Database, in_words
from dicom_node.base.store.transitions import OwnEvents
from dicom_node.jobs.queue import JobQueue
from dicom_node.people import preflight
from dicom_node.people.processes import Sign, node_name
from dicom_node.serve.background import Background, inode
from dicom_node.serve.listener import GRACE_SECONDS, listener_child, write_policy
from dicom_node.serve.space import wait_for_space

_LOGGER = logging.getLogger(__name__)
_LISTENER_SECONDS = 30.0  # it waits 15 for one of a former node that still ends


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
        self._database = database
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
            self._listener = listener_child(settings, place, ready, died)
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
                    child.stop(GRACE_SECONDS)
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
                    write_policy(settings, self._place)
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
            self._listener.stop(GRACE_SECONDS)
        stoppers = [
            threading.Thread(target=child.stop, args=(GRACE_SECONDS,))
            for child in (*self._children.values(), *self._replaced.values())
            if child is not self._listener
        ]
        for stopper in stoppers:
            stopper.start()
        self._background.stop()
        for stopper in stoppers:
            stopper.join(GRACE_SECONDS)
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
                on_silence=self._give_jobs_back,
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

    def _give_jobs_back(self, pid: int) -> None:
        """Put the jobs of a worker back that is about to be ended for its silence; no try is lost by that."""
        try:
            JobQueue(self._database, self._settings.workers).give_back_jobs_of(pid)
        except ANY_ERROR as error:
            self._database.outage.note_error(error)

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
    try:
        if database.is_sqlite:
            database.upgrade()
        else:
            database.check()  # shared with other machines: upgrades are a decision of the admin
        yield database
    finally:
        database.dispose()
