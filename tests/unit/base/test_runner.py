"""Lanes: what came of a try, retries, leases, and what a kill leaves."""

import errno
import os
import threading
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_connectors.notifications.sender import Notifier
from dicom_node.base.config.settings import OutboxSettings, Settings
from dicom_node.base.outcomes import Done, Failed, NotYet, Outcome, Retry
from dicom_node.base.runner import wait_before_retry
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Notification
from dicom_node.base.store.transitions import utc_now
from tests.rows import Stored

OUTBOX = OutboxSettings(retry_seconds=2, retry_limit_seconds=300)


@pytest.fixture
def rows(database: Database) -> Stored:
    """Two that are due, the first one for longer."""
    stored, now = Stored(database), utc_now()
    known = {"rule": "hook", "subject": "", "text": "", "content": {}, "created_at": now}
    due = [now - timedelta(minutes=minutes) for minutes in (2, 1)]
    stored.add(*(Notification(key=str(at), next_at=at, **known) for at in due))
    return stored


def lane(rows: Stored, came: Any, owner: str = "us") -> Any:
    """``came``: what comes of its tries, in turn, or a function that does each."""
    made: Any = Notifier(rows.database, Settings(outbox=OUTBOX), owner)
    made.work = Mock(side_effect=came)
    return made


def tried(made: Any) -> list[int]:
    return [call.args[0].id for call in made.work.call_args_list]


def told(rows: Stored) -> list[tuple[str, int, str]]:
    return [(row.state.value, row.attempts, row.reason) for row in rows.rows(Notification)]


def test_what_came_of_a_try_is_in_its_row(rows: Stored) -> None:
    made = lane(rows, [Retry("away"), Done("late"), Failed("no")])
    assert made.run_once() == 1
    assert told(rows) == [("pending", 1, "away"), ("sent", 1, "late")]
    assert made.run_once() == 0
    assert timedelta() < rows.rows(Notification)[0].next_at - utc_now()
    rows.put(Notification, 1, next_at=utc_now())
    assert made.run_once() == 0
    assert (told(rows)[0], tried(made)) == (("failed", 2, "no"), [1, 2, 1])


@pytest.mark.parametrize(
    ("number", "why"), [(errno.EIO, "disk: input/output error"), (errno.ETIMEDOUT, "connection timed out")]
)
def test_a_disk_or_a_peer_that_fails_now_is_no_defect_of_the_row(rows: Stored, number: int, why: str) -> None:
    made = lane(rows, [OSError(number, os.strerror(number)), Done()])
    rows.put(Notification, attempts=100)
    made.run_once()
    assert told(rows) == [("pending", 101, why), ("sent", 101, "")]


def test_each_is_tried_once_a_turn_and_what_was_not_tried_is_not_counted(rows: Stored) -> None:
    made = lane(rows, [NotYet(), Retry("busy", timedelta()), Done()])
    assert (made.run_once(), tried(made)) == (1, [1, 1, 2])
    assert [attempts for _, attempts, _ in told(rows)] == [1, 1]


def test_a_defect_is_raised_and_holds_up_no_other_row(rows: Stored) -> None:
    made = lane(rows, [ValueError("SECRET"), Done()])
    with pytest.raises(ValueError, match="SECRET"):
        made.run_once()
    assert (made.run_once(), told(rows)[0]) == (1, ("pending", 1, "defect of the node: ValueError"))


def test_a_row_of_ten_defects_is_given_up(rows: Stored) -> None:
    rows.put(Notification, 1, attempts=9)
    rows.put(Notification, 2, state="sent")
    with pytest.raises(ValueError, match="SECRET"):
        lane(rows, [ValueError("SECRET")]).run_once()
    assert told(rows)[0] == ("failed", 10, "defect of the node: ValueError")


def test_a_kill_loses_no_row_and_who_was_frozen_writes_over_nothing(rows: Stored) -> None:
    def frozen(row: Notification, _: threading.Event) -> Outcome:
        rows.put(Notification, row.id, state="sent", attempts=7)  # by another process, whose lease it is now
        return Failed("too late")

    with pytest.raises(KeyboardInterrupt):
        lane(rows, [KeyboardInterrupt]).run_once()
    assert lane(rows, frozen).run_once() == 0
    assert told(rows) == [("sent", 7, "")] * 2


def test_one_process_at_a_time_tries_until_it_is_to_stop(rows: Stored) -> None:
    stop = threading.Event()
    ours, theirs = lane(rows, lambda *_: stop.set() or Done()), lane(rows, [], "they")
    assert [ours.run_once(stop), theirs.run_once(), ours.run_once()] == [1, 0, 1]


@pytest.mark.parametrize(("ahead", "done"), [(timedelta(minutes=30), 0), (timedelta(days=1), 2)])
def test_a_clock_that_was_put_back_holds_up_nothing(rows: Stored, ahead: timedelta, done: int) -> None:
    rows.put(Notification, next_at=utc_now() + ahead)
    assert lane(rows, [Done(), Done()]).run_once() == done


@given(st.integers(min_value=0, max_value=10_000))
def test_a_retry_waits_at_least_half_its_turn_and_never_over_the_limit(attempts: int) -> None:
    full = min(2 * 2 ** max(attempts - 1, 0), 300)
    assert full / 2 <= wait_before_retry(attempts, OUTBOX).total_seconds() <= full
