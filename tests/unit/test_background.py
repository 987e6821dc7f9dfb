"""What the main process watches beside its work."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from dicom_node.background import Background, inode
from dicom_node.events import (
    DATABASE_REPLACED,
    INDEXING_FAILED,
    SCHEDULER_TAKEN,
    SPOOL_DIFFERS,
    THREAD_FAILED,
    EventType,
)
from dicom_node.model.roles import Role
from dicom_node.store.entered import EnteredFile
from dicom_node.studies.scan import Indexer
from tests.inbox_lab import Inbox, enter_peer
from tests.modality import ultrasound
from tests.waiting import wait_until


def test_a_database_that_was_deleted_or_replaced_under_the_node_is_told(inbox: Inbox) -> None:
    said: list[EventType] = []

    def say(event: EventType, **_fields: Any) -> None:
        said.append(event)

    known = inode(inbox.database)
    background = Background(inbox.database, inbox.settings, Role.ALL, "here", say, known)
    background._watch_database()
    assert said == []

    path = inbox.folder / "node.db"
    kept = path.rename(path.with_suffix(".old"))
    background._watch_database()
    assert said == [DATABASE_REPLACED]
    path.write_bytes(kept.read_bytes())
    background._watch_database()
    assert said == [DATABASE_REPLACED] * 2
    assert DATABASE_REPLACED.number == 2032


def _background(inbox: Inbox, role: Role, place: str, said: list[tuple[EventType, Any]]) -> Background:
    def say(event: EventType, **fields: Any) -> None:
        said.append((event, fields))

    made = Background(inbox.database, inbox.settings, role, place, say, inode(inbox.database))
    made._indexer = Indexer(inbox.database, inbox.spool, inbox.settings, inbox.inspector)
    return made


def test_what_a_listener_does_once_for_a_site_is_done_where_a_worker_started_first(inbox: Inbox) -> None:
    said: list[tuple[EventType, Any]] = []
    stray = inbox.folder / "spool" / "objects" / "ab" / "1.2" / "20260101T000000000000Z-1.dcm"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"no row tells of it")
    worker = _background(inbox, Role.WORKER, "worker-1", said)
    listener = _background(inbox, Role.LISTENER, "listener-1", said)
    with _running(worker, listener):
        wait_until(lambda: _has(inbox, SPOOL_DIFFERS), 60, "the comparison")
    assert [fields["lease"] for event, fields in said if event is SCHEDULER_TAKEN] == [
        "job scheduler",
        "scheduler",
    ]


@pytest.mark.parametrize("role", Role)
def test_what_is_in_the_spool_is_indexed_by_listeners_and_where_images_are_uploaded(
    inbox: Inbox, role: Role
) -> None:
    inbox.receive(ultrasound("one"))
    with _running(_background(inbox, role, f"{role}-1", [])):
        if role in (Role.ALL, Role.LISTENER, Role.CONSOLE):
            wait_until(inbox.outcomes, 60, "the object")
        else:
            time.sleep(0.3)
            assert not inbox.outcomes()


def test_what_is_entered_on_another_machine_has_the_node_read_its_configuration_anew(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *asked: sent.append(asked))
    ours = EnteredFile(inbox.database, inbox.folder)
    node = Background(inbox.database, inbox.settings, Role.ALL, "all", print, 0, tuple, ours.is_behind)
    for _ in range(3):
        node._watch_entered()
    assert sent == []
    enter_peer(inbox.database, "us2")
    node._watch_entered()
    assert sent == [], "a node of the machine where it was entered takes it over meanwhile"
    for _ in range(3):
        node._watch_entered()
    assert sent == [(os.getpid(), signal.SIGHUP)]
    assert ours.renew(), "and is refused, or fails"
    monkeypatch.setattr(ours, "_again_at", 0.0)
    node._watch_entered()
    assert len(sent) == 2, "after a while it is asked again"
    assert not ours.renew()
    ours.taken_over()
    node._watch_entered()
    assert len(sent) == 2


def _has(inbox: Inbox, event: EventType) -> bool:
    return any(row.number == event.number for row in inbox.events())


@contextmanager
def _running(*backgrounds: Background) -> Iterator[None]:
    with ExitStack() as stack:
        for background in backgrounds:
            background.start()
            stack.callback(background.stop)
        yield


def test_a_lock_that_fails_once_does_not_end_indexing(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    flock, failures = fcntl.flock, [OSError(errno.ENOLCK, "no locks"), OSError(errno.ESTALE, "stale")]

    def fails_twice(file: Any, operation: int) -> None:
        if failures:
            raise failures.pop()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", fails_twice)
    inbox.receive(ultrasound("one"))
    said: list[tuple[EventType, Any]] = []
    with _running(_background(inbox, Role.LISTENER, "listener-1", said)):
        wait_until(inbox.outcomes, 60, "the object")
    assert [fields["reason"] for event, fields in said if event is INDEXING_FAILED] == ["ESTALE"]


def test_who_cannot_index_lets_another_do_it(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[EventType, Any]] = []
    lost, standby = (_background(inbox, Role.LISTENER, f"listener-{n}", said) for n in (1, 2))
    is_away: list[bool] = []

    def run_once() -> int:
        if is_away:
            raise OperationalError("SELECT", {}, Exception("server closed the connection"))
        return 0

    monkeypatch.setattr(lost._indexer, "run_once", run_once)
    first: list[int] = []
    lost.start(first.append)
    try:
        wait_until(lambda: first, 60, "the first holds the lock")
        with _running(standby):
            inbox.receive(ultrasound("one"))
            is_away.append(True)
            wait_until(inbox.outcomes, 60, "the object")
    finally:
        lost.stop()
    assert len([event for event, _ in said if event is INDEXING_FAILED]) == 1


def test_a_thread_that_fails_is_told_and_begins_anew(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.background._AWAY_SECONDS", 0.01)
    said: list[tuple[EventType, Any]] = []
    background = _background(inbox, Role.WORKER, "worker-1", said)
    tries: list[int] = []

    def run_forever(_stop: object) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise KeyError("a defect of ours")

    monkeypatch.setattr(background._delivery_worker, "run_forever", run_forever)
    with _running(background):
        wait_until(lambda: len(tries) == 3, 60, "the third try")
    assert [fields for event, fields in said if event is THREAD_FAILED] == [
        {"thread": "outbox", "reason": "KeyError"}
    ] * 2
