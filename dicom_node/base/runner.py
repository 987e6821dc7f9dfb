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

from ai_pipeline.errors import disk_fault
from dicom_node.base.config.settings import OutboxSettings, Settings
from dicom_node.base.events import THREAD_FAILED
from dicom_node.base.outcomes import Done, Failed, NotYet, Outcome, Retry
from dicom_node.base.store.database import Database, reason_of
from dicom_node.base.store.mapping import Tried, has_come
from dicom_node.base.store.transitions import RenewableLease, utc_now

Row = TypeVar("Row", bound=Tried)
_SPARE_SECONDS = 60.0  # of a lease, so that it is not renewed at each try
_DEFECTS = 10  # tries after which a row that only raises defects is given up
FAILED_SECONDS, _LONGEST_PAUSE = 5.0, 300.0  # until a thread that failed begins anew
_LOGGER = logging.getLogger(__name__)
NEVER = threading.Event()
"""Is never set."""


class Lane(ABC, Generic[Row]):
    """Base of background work: processes the due rows of one database table, one at a time and independently
    of other lanes.

    ``name``: name of its thread and of the lease that lets only one process per database run it. ``owner``:
    the process that asks for the lease. ``seconds``: maximum duration of one try.
    """

    table: type[Row]
    is_one_peer: ClassVar[bool] = False
    """Whether all rows go to one peer, so that after one row has to be retried the others are not tried
    now.
    """

    def __init__(self, database: Database, settings: Settings, name: str, owner: str, seconds: float) -> None:
        """Prepare the lease ``name`` for ``owner``, which lasts for a try of at most ``seconds``."""
        self._database, self._settings, self.name = database, settings, name
        spare = min(seconds, _SPARE_SECONDS)
        self._lease = RenewableLease(database, name[:64], owner, seconds + spare, spare)

    @abstractmethod
    def waits(self) -> Sequence[ColumnElement[bool]]:
        """Return SQL conditions for the rows that are not done yet, due or not."""

    @abstractmethod
    def work(self, row: Row, stop: threading.Event) -> Outcome:
        """Try to process one row, outside of a transaction, and return the outcome.

        Changes made to the row are stored with the outcome. An exception postpones the row.
        """

    @abstractmethod
    def move(self, session: Session, row: Row, outcome: Outcome) -> None:
        """Change the row's state by the outcome and record the event; number of tries, reason and next time
        are set already.
        """

    def order(self) -> Sequence[Any]:
        """Return the SQL order in which due rows are tried."""
        return (self.table.next_at,)

    def run_once(self, stop: threading.Event = NEVER) -> int:
        """Try each due row once, until ``stop`` is set; return how many succeeded."""
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
        """Return the next due row; None if no row is due."""
        due = select(self.table).where(*self.waits(), has_come(self.table.next_at, utc_now()))
        with self._database.read() as session:
            if row := session.scalar(due.order_by(*self.order()).limit(1)):
                session.expunge(row)
        return row

    def _try(self, row: Row, stop: threading.Event) -> Outcome:
        """Try one row and store the outcome; an exception is stored as a defect and raised again."""
        tries = row.attempts + 1
        try:
            outcome = self.work(row, stop)
        except SQLAlchemyError:  # the database is away: nothing is known of the row
            raise
        except OSError as error:  # nor of a disk or a peer that fails now
            why = disk_fault(error, beside_network=True) or error.strerror or type(error).__name__
            outcome = Retry(why.lower())
        except Exception as error:
            why = reason_of(error)
            self._note(row, Retry(why) if tries < _DEFECTS else Failed(why), tries)
            raise
        if not isinstance(outcome, NotYet):
            self._note(row, outcome, tries)
        return outcome

    def _note(self, row: Any, outcome: Outcome, tries: int) -> None:
        """Store outcome and number of tries of a row, unless another process or a person changed the row
        meanwhile.
        """
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
    """Run ``work`` in this thread until it returns; after an exception record an event with ``say`` and run
    it again, until ``stop`` is set.

    Neither the event nor the log has the error's text: a database error quotes the values of the statement.
    ``name``: the thread's name in log and event.
    """
    pause = FAILED_SECONDS
    while True:
        try:
            work()
            return
        except Exception as error:
            _LOGGER.error("defect in the thread %s", name, exc_info=error)
            say(THREAD_FAILED, thread=name, reason=reason_of(error))
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
