"""Who waits for work is woken by what others commit, and asks the database seldom while nothing happens."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from dicom_node import events
from dicom_node.store import migrate
from dicom_node.store.changes import SHORTEST, Changes
from dicom_node.store.database import Database
from dicom_node.store.transitions import record
from tests.postgres_lab import Postgres
from tests.waiting import wait_until

LONG = 60.0


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.debian("postgresql"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'node.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()


def test_an_event_that_another_process_commits_wakes_who_waits(url: str) -> None:
    ours, theirs = Database(url), Database(url)
    migrate.upgrade(theirs)
    ours.changes.follow(ours.engine)
    wait_until(lambda: ours.changes.pause(LONG, found=False) > 1, 60, "it hears of changes")
    time.sleep(2 * SHORTEST)  # the files of SQLite come to rest
    seen, began = ours.changes.count, time.monotonic()
    waiter = threading.Thread(target=ours.changes.wait, args=(seen, LONG, threading.Event()))
    waiter.start()
    with theirs.write() as session:
        record(session, events.NODE_STARTED, version="1", ae_title="A")
    waiter.join(LONG)
    assert time.monotonic() - began < LONG / 2
    assert ours.changes.count > seen
    for database in (ours, theirs):
        database.dispose()


def test_who_waits_ends_with_the_stop_or_when_the_time_has_passed() -> None:
    changes, stop = Changes(), threading.Event()
    changes.wait(changes.count, 2 * SHORTEST, stop)
    waiter = threading.Thread(target=changes.wait, args=(changes.count, LONG, stop))
    waiter.start()
    stop.set()
    waiter.join(LONG / 2)
    assert not waiter.is_alive()


def test_pauses_grow_while_nothing_is_found_and_stay_short_where_nobody_announces() -> None:
    changes, pause = Changes(), SHORTEST
    for _ in range(100):
        pause = changes.pause(pause, found=False)
    assert pause == 0.25
    assert changes.pause(pause, found=True) == SHORTEST
