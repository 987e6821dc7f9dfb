"""A database that goes and comes back: two lines in the log, and the events of that time afterwards."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, NoReturn
from unittest.mock import Mock

import pytest
from sqlalchemy import Connection, event, select
from sqlalchemy.exc import IntegrityError, OperationalError

from dicom_node.background import Background, inode
from dicom_node.config.sections import WorkerSettings
from dicom_node.events import INDEXING_BACK, INDEXING_FAILED
from dicom_node.jobs.queue import ClaimedJob, JobQueue
from dicom_node.jobs.worker.heartbeat import JobHeartbeat
from dicom_node.model.roles import Role
from dicom_node.store import database as store_database
from dicom_node.store.database import _WRITES, Database
from dicom_node.store.own_events import OwnEvents
from dicom_node.store.tables import EventRow
from tests.inbox_lab import Inbox


@contextmanager
def away(database: Database) -> Iterator[None]:
    """Nothing connects, as when the server is stopped."""

    def refuse(*_: object) -> None:
        raise OperationalError("", {}, Exception("connection refused"))

    event.listen(database.engine, "begin", refuse, insert=True)
    yield
    event.remove(database.engine, "begin", refuse)


@contextmanager
def full(database: Database) -> Iterator[None]:
    """Reads go on and writes fail, as on a full disk, or when another program holds a lock."""

    def refuse(connection: Connection) -> None:
        if connection.get_execution_options().get(_WRITES):
            raise OperationalError("", {}, Exception("disk is full"))

    event.listen(database.engine, "begin", refuse, insert=True)
    yield
    event.remove(database.engine, "begin", refuse)


def stored(inbox: Inbox) -> list[tuple[int, datetime, dict[str, Any]]]:
    with inbox.database.read() as session:
        rows = session.scalars(select(EventRow).order_by(EventRow.at))
        return [(row.number, row.at, dict(row.fields)) for row in rows]


def test_all_timers_tell_of_an_outage_once_and_once_of_its_end(
    inbox: Inbox, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_database, "_QUIET_SECONDS", 0)
    told: list[object] = []
    background = Background(
        inbox.database, inbox.settings, Role.ALL, "here", lambda *_, **__: None, inode(inbox.database)
    )
    inbox.database.outage.then = lambda: told.append("back")
    timers = [background._outlasting(t) for t in (background._hold_leases, background._show_life)]
    with caplog.at_level(logging.INFO, "dicom_node.store"):
        for timer in timers:
            timer()
        assert caplog.messages == []
        with away(inbox.database):
            for timer in timers * 2:
                timer()
            assert [record.exc_info for record in caplog.records] == [None]
            assert caplog.messages == ["the database does not answer (OperationalError): its work waits"]
        for timer in timers:
            timer()
    assert caplog.messages[1:] == ["the database answers again; it did not for 0 s"] and told == ["back"]


def test_a_database_that_is_read_and_not_written_is_told_once(
    inbox: Inbox, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    say = OwnEvents(inbox.database).say
    with caplog.at_level(logging.INFO, "dicom_node.store"):
        with full(inbox.database):
            say(INDEXING_FAILED, reason="EIO")
            for _ in range(20):  # a second of the outbox
                assert stored(inbox) == []
        assert len(caplog.messages) == 2, "the event and that it waits"
        monkeypatch.setattr(store_database, "_QUIET_SECONDS", 0)
        stored(inbox)
        assert len(caplog.messages) == 3
    assert [number for number, *_ in stored(inbox)] == [INDEXING_FAILED.number]


def test_a_job_that_runs_meanwhile_tells_of_it_once(inbox: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    queue, beats = JobQueue(inbox.database, WorkerSettings()), threading.Semaphore(0)

    def beat(*_: object) -> NoReturn:
        beats.release()
        raise OperationalError("", {}, Exception("connection refused"))

    queue.heartbeat = beat  # type: ignore[method-assign]
    times = {"interval": 0.01, "limit": 60, "grace": 60, "finish": 60}
    job = Mock(spec=ClaimedJob, id=1)
    with JobHeartbeat(queue, job, stopping=threading.Event(), abandon=lambda *_: None, **times):
        for _ in range(5):
            assert beats.acquire(timeout=60)
    assert caplog.messages == ["the database does not answer (OperationalError): its work waits"]


def test_a_defect_is_no_outage(inbox: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(20):  # a second of the outbox, whose role lacks a right, say
        inbox.database.outage.noticed(IntegrityError("INSERT", {}, Exception("DOE^JANE")))
    assert caplog.messages == ["defect at the database"]
    inbox.database.outage.noticed(IntegrityError("UPDATE", {}, Exception("DOE^JANE")))
    assert caplog.messages == ["defect at the database"] * 2
    stored(inbox)
    assert len(caplog.messages) == 2, "nothing was away, so nothing is back"


def test_defects_told_long_ago_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    noticing = store_database.DatabaseOutage()
    monkeypatch.setattr(store_database, "_QUIET_SECONDS", 0)
    for number in range(50):  # statements with lists of values differ each time
        noticing.noticed(IntegrityError(f"INSERT {number}", {}, Exception("DOE^JANE")))
    assert len(noticing._defects) == 1


def test_what_failed_without_a_database_is_stored_with_begin_and_end_when_it_is_back(inbox: Inbox) -> None:
    say = OwnEvents(inbox.database).say
    background = Background(inbox.database, inbox.settings, Role.ALL, "here", say, inode(inbox.database))
    with away(inbox.database):
        for _ in range(3):
            background._indexing_failed(OperationalError("", {}, Exception("refused")))
    background._indexing_goes_on()
    background._indexing_goes_on()
    (first, began, why), (last, ended, fields) = stored(inbox)
    assert (first, last) == (INDEXING_FAILED.number, INDEXING_BACK.number)
    assert why == {"reason": "OperationalError"} and began <= ended
    assert abs(datetime.fromisoformat(fields["since"]) - began) < timedelta(seconds=5)
