"""The start of the whole node: start order, stop order, reload.

One main process (:mod:`dicom_node.serve.background`: indexing, assembly, delivery, timers), one listener
process without database and models, the worker processes, and the console's. ``--role`` spreads them over
machines.

Start of a node on a full disk: its listener refuses objects with A700 until there is space.
The database cannot be opened then, so only the listener runs, and no event is stored.
"""

import errno
import logging
import os
import select
import shutil
import signal
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from dicom_node import __version__
from dicom_node.base import connectors, events, logs, sitekey
from dicom_node.base.config.loading import FOLDER, is_behind
from dicom_node.base.config.settings import NEEDS_RESTART, Settings
from dicom_node.base.errors import (
    CannotRun,
    ConfigurationError,
    ExitCode,
    NodeError,
    SpoolFull,
    Unavailable,
)
from dicom_node.base.kinds import Role
from dicom_node.base.printable import redacted
from dicom_node.base.processes import Child, console_program, signal_pipe, taken_place, without_secrets
from dicom_node.base.store.database import Database, in_words
from dicom_node.base.store.transitions import OwnEvents
from dicom_node.people import preflight
from dicom_node.people.monitoring.processes import Sign, node_name
from dicom_node.people.preflight import network_file_system
from dicom_node.receive.policy import AEPolicy, policy_path
from dicom_node.serve.background import Background, inode

_LOGGER = logging.getLogger(__name__)
_GRACE_SECONDS = 30.0
_MAXIMUM_KEYS = 10  # of settings with a mistake, that event 6011 names
_LISTENER_SECONDS = 30.0  # it waits 15 for one of a former node that still ends


def serve(files: Sequence[Path], role: Role = Role.ALL) -> int:
    """Run the node until SIGTERM or SIGINT; SIGHUP reads the configuration anew. Returns the exit status.

    With a full disk the listener alone runs and refuses objects (A700) until there is space. Raises
    ConfigurationError, DatabaseNotReady, DatabaseUnusable, DatabaseDamaged, Unavailable, CannotRun and
    SpoolError before anything is accepted.
    """
    signals = signal_pipe()
    settings = _checked(files, role)
    logs.configure(settings.node.log_level, "node", as_json=settings.log.format == "json")
    _prepare_folder(settings)
    with (
        in_words(settings.database_url),
        _disk_in_words(settings),
        taken_place(settings.node.data_dir, role, files) as place,
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
    """The main process. On a reload its children go on while :class:`Background` is replaced by a new one."""

    def __init__(
        self, settings: Settings, files: Sequence[Path], role: Role, place: str, database: Database
    ) -> None:
        self._settings, self._place = settings, place
        self._files, self._role, self._database = files, role, database
        self._address, self._ready_lock = "", threading.Lock()
        self._say = OwnEvents(database).say
        self._answer = partial(self._say, node=node_name(place))  # to who asked this node, of several
        self._listener_spoke, self._cannot_listen = threading.Event(), ""
        self._database_file = inode(database)
        command = listener_command(settings, place)
        bare = without_secrets()
        self._listener = self._child("listener", command, environment=bare) if role.receives else None
        self._workers = self._make_workers(settings)
        self._replaced: dict[str, Child] = {}  # children of configurations before, until the newest are ready
        self._console = self._make_console(settings)
        self._console_serves = False
        awaited = [self._console] if role is Role.CONSOLE and self._console else self._children()
        self._waiting_for = {child.name for child in awaited}
        self._background = self._make_background(settings)

    def start(self) -> None:
        """Listen first, however much waits in the spool; "ready" is logged when every child says so,
        but the console where the node does something else too.

        Raises Unavailable; then the children are ended.
        """
        self._say(events.NODE_STARTED, version=__version__, ae_title=self._settings.node.ae_title)
        if self._role.receives:
            _write_policy(self._settings, self._place)
        for child in self._children():
            child.start()
        if self._role.receives:
            self._listener_spoke.wait(_LISTENER_SECONDS)
            if self._cannot_listen:
                for child in self._children():
                    child.stop(_GRACE_SECONDS)
                raise Unavailable(f"the listener cannot start: {self._cannot_listen}")
        if self._console:  # "ready" does not wait for it: the node receives and works without
            self._console.start()
        self._background.start(first=True)
        if not self._children() and self._role is not Role.CONSOLE:  # it delivers or keeps time only
            self._say_ready()

    def reload(self) -> None:
        """Take over the configuration as the files have it now, or leave everything as it is.

        Work under way is not lost: workers finish their job first, the delivery worker what it is sending.
        """
        try:
            with _disk_in_words(self._settings):
                settings = _checked(self._files, self._role, self._settings)
                _prepare_folder(settings)
                background = self._make_background(settings)
                if self._listener:  # the last that a full disk can refuse: nothing has stopped yet
                    _write_policy(settings, self._place)
        except NodeError as error:
            problems = error.problems if isinstance(error, ConfigurationError) else ()
            for problem in problems or (error,):
                _LOGGER.error("%s", problem)
            keys = ", ".join(problem.key for problem in problems[:_MAXIMUM_KEYS])
            self._answer(events.CONFIGURATION_REFUSED, mistakes=len(problems) or 1, keys=keys)
            return
        except Exception as error:
            _LOGGER.error("the new configuration cannot be used", exc_info=error)
            self._answer(events.CONFIGURATION_REFUSED, mistakes=1)
            return
        self._background.stop()
        self._settings, self._background = settings, background
        logs.configure(settings.node.log_level, "node", as_json=settings.log.format == "json")
        if self._listener:
            self._listener.hang_up()
        # Each ends after its job, once another one is ready.
        former, self._workers = self._workers, self._make_workers(self._settings)
        self._replace(former, self._workers)
        self._renew_console()
        self._background.start()
        self._answer(events.CONFIGURATION_RELOADED, peers=len(settings.peers), rules=len(settings.rules))

    def stop(self) -> None:
        """Stop receiving first, then index what came, then let workers and deliveries finish or hand back."""
        self._say(events.NODE_STOPPING)
        self._background.say_goodbye()
        if self._listener:
            self._listener.stop(_GRACE_SECONDS)
        children = [*self._workers, *([self._console] if self._console else []), *self._replaced.values()]
        stoppers = [threading.Thread(target=child.stop, args=(_GRACE_SECONDS,)) for child in children]
        for stopper in stoppers:
            stopper.start()
        self._background.stop()
        self._background.end_services()
        for stopper in stoppers:
            stopper.join(_GRACE_SECONDS)
        self._background.give_up_scheduler()

    def _make_background(self, settings: Settings) -> Background:
        return Background(
            self._database,
            settings,
            self._role,
            self._place,
            self._say,
            self._database_file,
            self._signs_of_life,
        )

    def _signs_of_life(self) -> list[Sign]:
        children = [*self._children(), *([self._console] if self._console else [])]
        signs = (Sign(child.name, child.pid, child.silent_seconds) for child in children)
        return [Sign("main", os.getpid()), *signs]

    def _make_workers(self, settings: Settings) -> list[Child]:
        count = settings.workers.processes if self._role.runs_models else 0
        # The configuration in force, by standard input: the files may change before a worker starts again.
        given = settings.for_children()
        return [
            self._child(f"worker-{n}", ["-m", "dicom_node.jobs.worker"], given) for n in range(1, count + 1)
        ]

    def _make_console(self, settings: Settings, *more: str) -> Child | None:
        if not (settings.console.enabled and self._role.may_serve_console):
            return None
        return self._child("console", ["-m", console_program(), *more], settings.for_children())

    def _renew_console(self) -> None:
        """Another one starts, and the one before ends once that serves: nobody is refused meanwhile."""
        former, beside = self._console, self._console_serves
        self._console = self._make_console(self._settings, *(("--beside",) if beside else ()))
        if former and not beside:  # it would take the port
            former.retire()
        self._replace([former] if former and beside else [], [self._console] if self._console else [])

    def _replace(self, former: Sequence[Child], new: Sequence[Child]) -> None:
        """Start the new ones; a former one ends once the new one of its name is ready, now where there is
        none.
        """
        names = {child.name for child in new}
        with self._ready_lock:
            for child in former:
                if child.name not in names:
                    for ended in filter(None, (child, self._replaced.pop(child.name, None))):
                        ended.retire()
                elif self._replaced.setdefault(child.name, child) is not child:  # the one before it works on
                    child.retire()
        for child in new:
            child.start()

    def _children(self) -> list[Child]:
        return [*([self._listener] if self._listener else []), *self._workers]

    def _child(
        self,
        name: str,
        command: Sequence[str],
        given: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        ready, died = partial(self._child_ready, name), partial(self._child_died, name)
        return Child(name, command, ready, died, given, environment)

    def _child_ready(self, name: str, report: Mapping[str, Any]) -> None:
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
        self._say(
            events.NODE_READY,
            ae_title=self._settings.node.ae_title,
            dicom=self._address,
            workers=len(self._workers),
            database=redacted(self._settings.database_url),
        )

    def _child_died(self, name: str, status: int, again_in_seconds: float) -> None:
        if name == "console":
            self._console_serves = False
        self._say(events.CHILD_DIED, process=name, status=status, again_in_seconds=again_in_seconds)


@contextmanager
def _disk_in_words(settings: Settings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise SpoolFull(f"the disk of node.data_dir = {settings.node.data_dir} is full: make room") from None


def _write_policy(settings: Settings, place: str) -> None:
    AEPolicy.from_settings(settings).write(policy_path(settings.node.data_dir, listener_place(place)))


def _checked(files: Sequence[Path], role: Role, running: Settings | None = None) -> Settings:
    """What the files say. Raises ConfigurationError with every mistake, else for what a node that runs with
    the settings ``running`` cannot change.
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
    """The database, made or brought up to date first: one machine, one program, no separate step."""
    database = Database(settings.database_url)
    if network := network_file_system(settings.node.data_dir) if database.is_sqlite else "":
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


_NEEDED_BYTES = 4 * 2**20  # for a database to be opened, brought up to date and written to
_LOOK_SECONDS, _SAY_SECONDS = 1.0, 60.0


def wait_for_space(settings: Settings, role: Role, place: str, signals: int) -> bool:
    """Wait until the disk has space; returns False if the node is stopped before. Raises OSError."""
    if _has_space(settings):
        return True
    listener = _refusing_listener(settings, place) if role.receives else None
    said_at = float("-inf")
    try:
        while not _has_space(settings):
            if time.monotonic() - said_at > _SAY_SECONDS:
                said_at = time.monotonic()
                free = shutil.disk_usage(settings.node.data_dir).free // 2**20
                events.happened(events.DISK_LOW, free_mib=free, minimum_mib=settings.spool.minimum_free_mib)
            ready, _, _ = select.select([signals], [], [], _LOOK_SECONDS)
            if ready and set(os.read(signals, 64)) != {signal.SIGHUP}:  # one that ends the node
                return False
    finally:
        if listener:
            listener.stop(_GRACE_SECONDS)
    return True


def listener_place(place: str) -> str:
    """The name of the listener's place: "" for the first listener on a data folder."""
    return "" if place in ("all", "listener-1") else place


def listener_command(settings: Settings, place: str) -> list[str]:
    """The arguments of the Python interpreter that start the listener."""
    command = ["-m", "dicom_node.receive.listener", "--data-dir", str(settings.node.data_dir)]
    return command + (["--place", listener_place(place)] if listener_place(place) else [])


def _refusing_listener(settings: Settings, place: str) -> Child:
    _write_policy(settings, place)
    listener = Child(
        "listener",
        listener_command(settings, place),
        lambda seen: _LOGGER.info("the listener refuses objects (A700) until there is space: %s", dict(seen)),
        lambda status, seconds: _LOGGER.error("the listener ended (%d), again in %.0f s", status, seconds),
        "",
        without_secrets(),
    )
    listener.start()
    return listener


def _has_space(settings: Settings) -> bool:
    needed = min(_NEEDED_BYTES, settings.spool.minimum_free_mib * 2**20)
    return shutil.disk_usage(settings.node.data_dir).free >= needed
