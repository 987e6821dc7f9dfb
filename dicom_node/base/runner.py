"""Tasks that are tried again until they are done: one row after the other, by one process at a time.

The row says how often and when; a kill loses no row, and costs at most a second try. A handler says what came
of a try: the runner counts, waits, and writes it down in one transaction with the state and the event.
"""

import logging
import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, ClassVar, Generic, TypeVar

from sqlalchemy import ColumnElement, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node.base.config.settings import OutboxSettings, Settings
from dicom_node.base.events import THREAD_FAILED
from dicom_node.base.outcomes import Done, Failed, NotYet, Outcome, Retry
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Tried, has_come
from dicom_node.base.store.transitions import RenewableLease, utc_now

Row = TypeVar("Row", bound=Tried)
_SPARE_SECONDS = 60.0  # of a lease, so that it is not renewed at each try
_DEFECTS = 10  # tries after which a row that only raises defects is given up
FAILED_SECONDS, _LONGEST_PAUSE = 5.0, 300.0  # until a thread that failed begins anew
_LOGGER = logging.getLogger(__name__)
NEVER = threading.Event()
"""Is never set."""


class Lane(ABC, Generic[Row]):
    """Works through the rows of one table, one at a time; rows of other lanes do not wait for them.

    ``name``: of its thread, and of its lease, which one process per database has. ``seconds``: that one try
    takes at most.
    """

    table: type[Row]
    is_one_peer: ClassVar[bool] = False
    """Whether who does not take one of them is not called for the next, which would wait as long."""

    def __init__(self, database: Database, settings: Settings, name: str, owner: str, seconds: float) -> None:
        self._database, self._settings, self.name = database, settings, name
        spare = min(seconds, _SPARE_SECONDS)
        self._lease = RenewableLease(database, name[:64], owner, seconds + spare, spare)

    @abstractmethod
    def waits(self) -> Sequence[ColumnElement[bool]]:
        """SQL conditions for the rows that are not done yet, whenever they are due."""

    @abstractmethod
    def work(self, row: Row, stop: threading.Event) -> Outcome:
        """Try one row, outside of a transaction.

        If it raises, the row is postponed. Its changes to the row are stored together with the outcome.
        """

    @abstractmethod
    def move(self, session: Session, row: Row, outcome: Outcome) -> None:
        """Change the row's state, and record the event; tries, reason and time are in the row already."""

    def order(self) -> Sequence[Any]:
        """The SQL order in which due rows are tried."""
        return (self.table.next_at,)

    def run_once(self, stop: threading.Event = NEVER) -> int:
        """Try the due rows, each row once, until ``stop`` is set; returns how many were done."""
        tried, done = set[int](), 0
        while (row := self._next()) and row.id not in tried and not stop.is_set() and self._lease.keep():
            outcome = self._try(row, stop)
            if not isinstance(outcome, NotYet):
                tried.add(row.id)
            done += isinstance(outcome, Done)
            if self.is_one_peer and isinstance(outcome, Retry):
                break
        return done

    def _next(self) -> Row | None:
        """The next due row, None without one."""
        due = select(self.table).where(*self.waits(), has_come(self.table.next_at, utc_now()))
        with self._database.read() as session:
            if row := session.scalar(due.order_by(*self.order()).limit(1)):
                session.expunge(row)
        return row

    def _try(self, row: Row, stop: threading.Event) -> Outcome:
        """Try a row and store the outcome; an exception is stored as a defect and raised again."""
        tries = row.attempts + 1
        try:
            outcome = self.work(row, stop)
        except SQLAlchemyError:  # the database is away: nothing is known of the row
            raise
        except Exception as error:
            why = f"defect of the node: {type(error).__name__}"
            self._note(row, Retry(why) if tries < _DEFECTS else Failed(why), tries)
            raise
        if not isinstance(outcome, NotYet):
            self._note(row, outcome, tries)
        return outcome

    def _note(self, row: Any, outcome: Outcome, tries: int) -> None:
        """Store the outcome of a try, unless another process or a person changed the row meanwhile."""
        table = type(row)
        with self._database.write() as session:
            same = select(table.state, table.attempts).where(table.id == row.id).with_for_update()
            if session.execute(same).first() != (row.state, row.attempts):
                return
            session.add(row)
            row.attempts, row.reason = tries, outcome.why[: table.reason.type.length]
            if isinstance(outcome, Retry):
                longer = wait_before_retry(tries, self._settings.outbox)
                row.next_at = utc_now() + (longer if outcome.after is None else outcome.after)
            session.flush()
            self.move(session, row, outcome)


def outlast(work: Callable[[], object], name: str, stop: threading.Event, say: Callable[..., None]) -> None:
    """Run the work of a thread; after an error record an event and run it again, because nobody watches the
    thread.

    Neither the event nor the log has the error's text: a database error quotes what it was to write.
    """
    pause = FAILED_SECONDS
    while True:
        try:
            work()
            return
        except Exception as error:
            _LOGGER.error("defect in the thread %s", name, exc_info=error)
            say(THREAD_FAILED, thread=name, reason=type(error).__name__)
        if stop.wait(pause):
            return
        pause = min(2 * pause, _LONGEST_PAUSE)


def wait_before_retry(attempts: int, settings: OutboxSettings) -> timedelta:
    """The wait after the ``attempts``-th try (from 1): exponential backoff, shortened at random by up to
    half.

    The random part keeps several nodes from calling a recovering PACS at the same moment.
    """
    doublings = min(max(attempts - 1, 0), 20)
    seconds = min(settings.retry_seconds * 2**doublings, settings.retry_limit_seconds)
    return timedelta(seconds=seconds * random.uniform(0.5, 1.0))
