"""The runner: what is tried again, how often and when, and that no row holds up another."""

import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from dicom_node.config.sections import OutboxSettings
from dicom_node.config.settings import Settings
from dicom_node.model.kinds import NotificationState
from dicom_node.model.outcomes import Done, Failed, NotYet, Outcome, Retry
from dicom_node.runner import Lane, wait_before_retry
from dicom_node.store.database import Database
from dicom_node.store.tables import Notification
from dicom_node.store.transitions import utc_now
from tests.rows import Stored

OUTBOX = OutboxSettings(retry_seconds=2, retry_limit_seconds=300)
PENDING, SENT, GIVEN_UP = NotificationState.PENDING, NotificationState.SENT, NotificationState.FAILED


class Told(Lane[Notification]):
    """Tells a peer, which gives these answers in turn; an exception is raised."""

    table = Notification

    def __init__(self, database: Database, *answers: Any, owner: str = "us") -> None:
        super().__init__(database, Settings(outbox=OUTBOX), "told", owner, 30.0)
        self.answers, self.tried = iter(answers), list[str]()

    def waits(self) -> Sequence[ColumnElement[bool]]:
        return (Notification.state == PENDING,)

    def work(self, row: Notification, stop: threading.Event) -> Outcome:
        self.tried.append(row.key)
        answer = next(self.answers)
        if isinstance(answer, BaseException):
            raise answer
        outcome: Outcome = answer(row) if callable(answer) else answer
        return outcome

    def move(self, session: Session, row: Notification, outcome: Outcome) -> None:
        if not isinstance(outcome, Retry):
            row.state = SENT if isinstance(outcome, Done) else GIVEN_UP


@pytest.fixture
def rows(database: Database) -> Stored:
    """Two that are due, "a" before "b"."""
    stored, now = Stored(database), utc_now()
    known = {"rule": "hook", "subject": "", "text": "", "content": {}, "created_at": now}
    for key, minutes in (("a", 2), ("b", 1)):
        stored.add(Notification(key=key, next_at=now - timedelta(minutes=minutes), **known))
    return stored


def states(rows: Stored) -> list[tuple[NotificationState, int, str]]:
    return [(row.state, row.attempts, row.reason) for row in rows.rows(Notification)]


def test_what_came_of_a_try_is_in_its_row(rows: Stored) -> None:
    lane = Told(rows.database, Retry("away"), Done("late"))
    assert lane.run_once() == 1
    assert states(rows) == [(PENDING, 1, "away"), (SENT, 1, "late")]
    assert timedelta() < rows.rows(Notification)[0].next_at - utc_now() <= timedelta(seconds=2)
    assert lane.run_once() == 0, "its time has not come"
    rows.put(Notification, 1, next_at=utc_now())
    assert Told(rows.database, Failed("no")).run_once() == 0
    assert states(rows)[0] == (GIVEN_UP, 2, "no")


def test_each_is_tried_once_a_turn_and_what_was_not_tried_is_not_counted(rows: Stored) -> None:
    lane = Told(rows.database, NotYet(), Retry("busy", timedelta()), Done())
    assert lane.run_once() == 1
    assert lane.tried == ["a", "a", "b"]
    assert [attempts for _, attempts, _ in states(rows)] == [1, 1]


def test_who_does_not_take_one_is_not_called_for_the_next(rows: Stored) -> None:
    lane = Told(rows.database, Retry("away"), Done())
    lane.is_one_peer = True  # type: ignore[misc]
    assert [lane.run_once(), lane.run_once()] == [0, 1]


def test_a_defect_is_raised_and_holds_up_no_other_row(rows: Stored) -> None:
    lane = Told(rows.database, ValueError("SECRET"), Done())
    with pytest.raises(ValueError, match="SECRET"):
        lane.run_once()
    assert (lane.run_once(), lane.tried) == (1, ["a", "b"])
    assert states(rows)[0] == (PENDING, 1, "defect of the node: ValueError")


def test_a_kill_loses_no_row_and_a_freeze_writes_over_nothing(rows: Stored) -> None:
    with pytest.raises(KeyboardInterrupt):
        Told(rows.database, KeyboardInterrupt()).run_once()

    def frozen(row: Notification) -> Outcome:
        """Meanwhile its lease ends, and another process does the same."""
        rows.put(Notification, row.id, state=SENT, attempts=7)
        return Failed("too late")

    assert Told(rows.database, frozen, Done()).run_once() == 2 - 1
    assert states(rows) == [(SENT, 7, ""), (SENT, 1, "")]


def test_one_process_at_a_time_tries_until_it_is_to_stop(rows: Stored) -> None:
    stop = threading.Event()
    ours, theirs = (
        Told(rows.database, lambda _: stop.set() or Done(), Done()),
        Told(rows.database, owner="they"),
    )
    assert (ours.run_once(stop), theirs.run_once(), theirs.tried) == (1, 0, [])
    assert ours.run_once() == 1


@pytest.mark.parametrize("ahead", [timedelta(minutes=30), timedelta(days=1)])
def test_a_clock_that_was_put_back_holds_up_nothing(rows: Stored, ahead: timedelta) -> None:
    rows.put(Notification, next_at=utc_now() + ahead)
    assert Told(rows.database, Done(), Done()).run_once() == (2 if ahead > timedelta(hours=2) else 0)


@given(st.integers(min_value=0, max_value=10_000))
def test_a_retry_waits_at_least_half_its_turn_and_never_over_the_limit(attempts: int) -> None:
    full = min(2 * 2 ** max(attempts - 1, 0), 300)
    assert full / 2 <= wait_before_retry(attempts, OUTBOX).total_seconds() <= full
