"""A study's whole life without a network, step by step as the node's threads make it, and a database that
fails at each of its statements.
"""

import builtins
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from itertools import cycle
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from ai_pipeline.errors import disk_fault
from dicom_node.base.errors import NotAllowedNow, StorageError
from dicom_node.base.lifecycle import RejectionReason
from dicom_node.base.outcomes import Done, Outcome
from dicom_node.base.store import tickets, transitions
from dicom_node.base.store.tables import Delivery, Job, Removal
from dicom_node.deliver import removals, scu
from dicom_node.deliver.delivery_worker import DeliveryWorker
from dicom_node.jobs.queue import JobQueue
from dicom_node.jobs.worker import run as worker_module
from dicom_node.people.withdrawal import withdraw_results
from dicom_node.studies import indexing
from dicom_node.studies.purging import purge, purge_results
from tests.faults.fault_lab import image, uid
from tests.inbox_lab import Inbox
from tests.peers import a_peer
from tests.unit.jobs.worker_lab import configuration

_LATER = timedelta(days=400)
_MOST_TURNS = 1000


class Shelf:
    """A PACS that has what it was sent, and deletes what it is asked to; the client of itself."""

    def __init__(self) -> None:
        self.sent = list[str]()
        self.held = set[str]()

    def send(self, objects: Sequence[scu.Outgoing]) -> list[scu.SendReport]:
        for item in objects:
            self.sent.append(item.sop_instance_uid)
            self.held.add(item.sop_instance_uid)
        return [scu.SendReport(scu.SendStatus.STORED, "0000", "stored")] * len(objects)

    def confirm(self, objects: Sequence[scu.Outgoing]) -> list[scu.Confirmation]:
        there = (item.sop_instance_uid in self.held for item in objects)
        return [scu.Confirmation(scu.Presence.FOUND if one else scu.Presence.NOT_FOUND) for one in there]

    def remove(self, item: scu.Outgoing) -> Outcome:
        was_there = item.sop_instance_uid in self.held
        self.held.discard(item.sop_instance_uid)
        return scu.DELETED if was_there else Done()

    def test(self) -> list[scu.Check]:
        return []

    def close(self) -> None:
        """Nothing is open."""


class Life:
    """A node that receives a study of two images, analyses it, delivers, withdraws and purges."""

    def __init__(self, folder: Path, url: str) -> None:
        config = configuration()
        config["outbox"] = {"retry_seconds": 0.01, "retry_limit_seconds": 0.01, "confirm_seconds": 0.01}
        config["spool"] = {"result_days": 30}
        web = {"transport": "dicomweb", "url": "http://archive.example", "withdraw": "delete"}
        config["peers"][1] |= {"iocm": True, "results": ["sc"]}
        config["peers"].append(a_peer("archive", may=["receive"], results=["sc"], **web))
        config["rules"][0]["send_to"] = ["pacs", "archive"]
        self.node = Inbox(folder, config, url=url)
        self.shelves = {name: Shelf() for name in ("pacs", "archive")}
        database, settings = given = self.node.database, self.node.settings
        self._outbox = DeliveryWorker(
            *given, open_destination=lambda peer, _: self.shelves[peer.name], owner="node"
        )
        self._worker = worker_module.Worker(settings, database)
        self._queue = JobQueue(database, settings.workers)
        self._removals = removals.Removals(*given, "node", lambda peer, _: self.shelves[peer.name])

    def receive(self) -> None:
        """Two images on an association that ends; what is refused is sent again."""
        with without_faults():  # the listener's journal: what it does then is its own test's
            self.node.opened("a1")
        for number in (1, 2):
            self._until_done(lambda: self.node.receive(image("a study", number), association="a1"))  # noqa: B023
        with without_faults():
            self.node.released("a1")

    def _until_done(self, work: Callable[[], object]) -> None:
        """As who tries again after an error that has words, or is the database's."""
        for _ in range(_MOST_TURNS):
            try:
                work()
            except (SQLAlchemyError, StorageError):
                continue
            except OSError as error:
                assert disk_fault(error), "which has words at the command line and on a page"
                continue
            return

    def turn(self) -> None:
        """Once around: each loop of the node, which an error of the database does not end."""
        self._loop(self._index)
        works = (self._queue.reap, self._worker.run_once, self._outbox.run_once, self._removals.run_once)
        for work in works:
            self._loop(work)

    def _loop(self, work: Callable[[], object]) -> None:
        try:
            work()
        except SQLAlchemyError as error:
            self.node.database.outage.note_error(error)

    def _index(self) -> None:
        try:
            self.node.indexer.run_once()
            now = transitions.utc_now() + timedelta(seconds=60)
            self.node.assembler.run_once(now, self.node.indexer.behind)
        except (SQLAlchemyError, OSError):  # which make an event of the node
            self.node.indexer.forget_cursors()

    def until(self, done: Callable[[], bool]) -> None:
        """Turn until it is done, which is looked at without faults."""
        for _ in range(_MOST_TURNS):
            self.turn()
            with without_faults():
                if done():
                    return
        with without_faults():
            jobs, sent = self.node.rows(Job), self.node.rows(Delivery)
        shown = [(row.state, row.attempts, row.reason) for row in (*jobs, *sent)]
        raise AssertionError(f"not done: {shown}")

    def withdraw(self) -> None:
        """As a person does."""
        how = {"reason": RejectionReason.QUALITY, "because": "of the wrong side"}

        def withdraw() -> None:
            with suppress(NotAllowedNow):  # it was done, and the answer was lost
                withdraw_results(self.node.settings, uid("a study"), None, **how)  # type: ignore[arg-type]

        self._until_done(withdraw)

    def purge(self) -> None:
        """All files go, as after a year."""
        for work in (purge, purge_results):
            given = self.node.database, self.node.settings, transitions.utc_now() + _LATER
            self._until_done(lambda: work(*given))  # noqa: B023

    def run(self) -> None:
        """The whole life."""
        node = self.node
        self.receive()
        self.until(lambda: set(node.column(Delivery.state)) == {"confirmed"})
        self.withdraw()
        self.until(
            lambda: (
                set(node.column(Delivery.state)) == {"confirmed"}
                and set(node.column(Removal.state)) == {"gone"}
            )
        )
        self.purge()


_ACTIVE = [True]


@contextmanager
def without_faults() -> Iterator[None]:
    """Context manager: no fault inside."""
    _ACTIVE[0], before = False, _ACTIVE[0]
    try:
        yield
    finally:
        _ACTIVE[0] = before


def _place(statement: str) -> tuple[object, ...]:
    """Where in the node a statement is made: its last three functions, and the statement's beginning."""
    frames, frame = list[object](), sys._getframe(2)
    while frame and len(frames) < 3:
        name = frame.f_code.co_filename
        if "/dicom_node/" in name and not name.endswith("/store/database.py"):
            frames.append((name.rpartition("/dicom_node/")[2], frame.f_lineno))
        frame = frame.f_back  # type: ignore[assignment]
    return (*frames, statement[:40])


class Faults:
    """A database that fails once at each statement of each place in the code, and twice at each commit:
    before it, and after it, when only the answer is lost.

    ``error``: of the driver. ``cut``: cuts the connection of a statement, so that the driver itself raises;
    None: the error is raised in its place. ``share``: of so many places one fails.
    """

    def __init__(self, error: Exception, cut: Callable[[Any], object] | None = None, share: int = 1) -> None:
        self._error, self._cut, self._share = error, cut, share
        self.seen = dict[tuple[object, ...], int]()

    def _fails(self, statement: str, times: int = 1) -> int:
        """How often it failed before, if it fails now; else 0."""
        if not _ACTIVE[0]:
            return 0
        place = _place(statement)
        if place not in self.seen:
            self.seen[place] = times if len(self.seen) % self._share else 0
        if self.seen[place] >= times:
            return 0
        self.seen[place] += 1
        return self.seen[place]

    def _raise(self) -> None:
        raise OperationalError("a statement", None, self._error)

    def execute(self, connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if self._fails(statement):
            self._fail(connection)

    def _fail(self, connection: Any) -> None:
        if self._cut is None:
            self._raise()
        else:
            self._cut(connection.connection.driver_connection)

    def commit(self, connection: Any) -> None:
        if failed := self._fails("COMMIT", 2):
            if failed == 1:
                self._fail(connection)
            else:
                connection.connection.commit()
                self._raise()

    @contextmanager
    def injected(self) -> Iterator[None]:
        """Context manager: they happen inside, in each database of this process."""
        apart = tickets._apart

        def call(*given: Any) -> Any:
            failed = self._fails("procrastinate", 2)
            if failed == 1:
                self._raise()
            answer = apart(*given)
            if failed:
                self._raise()
            return answer

        event.listen(Engine, "before_cursor_execute", self.execute)
        event.listen(Engine, "commit", self.commit)
        with patch.object(tickets, "_apart", call), patch.object(worker_module, "_PAUSE_SECONDS", 0.0):
            try:
                yield
            finally:
                event.remove(Engine, "before_cursor_execute", self.execute)
                event.remove(Engine, "commit", self.commit)


class _Unread:
    """An open file that the disk does not read."""

    def __init__(self, file: Any, error: OSError) -> None:
        self._file, self._error = file, error

    def __getattr__(self, name: str) -> Any:
        if name.startswith("read") and name != "readable":
            return self._fail
        return getattr(self._file, name)

    def __enter__(self) -> "_Unread":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _fail(self, *_: object) -> None:
        raise self._error


_CALLS = (
    "open", "stat", "scandir", "mkdir", "rename", "replace", "link", "unlink", "utime", "write", "pwrite",
    "fsync", "fdatasync",
)  # fmt: skip


class DiskFaults:
    """A disk that fails once at each call of each place in the code that opens, reads, syncs, renames or
    deletes a file in ``folder``; the errors of ``numbers`` (errno) take turns. ``share``: of so many places
    one fails.
    """

    def __init__(self, folder: Path, numbers: Sequence[int], share: int = 1) -> None:
        self._folder, self._errors = str(folder), cycle(OSError(one, os.strerror(one)) for one in numbers)
        self.seen, self._share = set[tuple[object, ...]](), share

    def _error(self, call: str, target: Any) -> OSError | None:
        """The error of this call, if it fails now."""
        path = Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else os.fspath(target)
        if not _ACTIVE[0] or not str(path).startswith(self._folder):
            return None
        place = (*_place(call), call)
        if place in self.seen:
            return None
        self.seen.add(place)
        return None if len(self.seen) % self._share else next(self._errors)

    def _failing(self, call: str, otherwise: Callable[..., Any]) -> Callable[..., Any]:
        def made(target: Any = ".", *given: Any, **named: Any) -> Any:
            if error := self._error(call, target):
                raise error
            return otherwise(target, *given, **named)

        return made

    def _opened(self, file: Any, mode: str = "r", *given: Any, **named: Any) -> Any:
        if error := self._error("open", file):
            raise error
        opened = _OPEN(file, mode, *given, **named)
        unread = self._error("read", file) if "r" in mode else None
        return _Unread(opened, unread) if unread else opened

    @contextmanager
    def injected(self) -> Iterator[None]:
        """Context manager: they happen inside, in this process."""
        with ExitStack() as stack:
            for call in _CALLS:
                stack.enter_context(patch.object(os, call, self._failing(call, getattr(os, call))))
            for module in (builtins, io):
                stack.enter_context(patch.object(module, "open", self._opened))
            stack.enter_context(patch.object(worker_module, "_AWAY_SECONDS", 0.0))
            stack.enter_context(patch.object(indexing, "_AGAIN_SECONDS", 0.0))
            yield


_OPEN = open
