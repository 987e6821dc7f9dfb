"""A database that is away: told in the log once when it goes and once when it is back, whoever noticed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

_LOGGER = logging.getLogger(__name__)
_DEFECTS = (IntegrityError, DataError, ProgrammingError)
_QUIET_SECONDS = 20.0
"""Without an error, after which it is back. A full disk, or another program's lock, fails writes only: that
reads are answered says nothing. Some process writes every five seconds, and waits for a lock for ten."""


class DatabaseOutage:
    """What one process knows of its database's absence."""

    def __init__(self) -> None:
        self._began: float | None = None  # monotonic seconds
        self._failed = 0.0  # the last time
        self._defects: dict[tuple[type[SQLAlchemyError], str], float] = {}  # told a moment ago, and when
        self._lock = threading.Lock()
        self.then: Callable[[], object] = bool
        """Called when the database is back."""

    def noticed(self, error: SQLAlchemyError) -> None:
        """The error of who will try again; one that is no absence is a defect of ours, told now and then."""
        if isinstance(error, _DEFECTS) or not isinstance(error, DBAPIError | PoolTimeout):
            self._tell_defect(error)
            return
        # Without the error's text, which quotes what was to be written.
        self.is_away(f"the database does not answer ({type(error).__name__}): its work waits")

    def _tell_defect(self, error: SQLAlchemyError) -> None:
        """That of one statement not again at once: the outbox tries it twenty times a second."""
        which, now = (type(error), (getattr(error, "statement", None) or "")[:200]), time.monotonic()
        with self._lock:
            self._defects = {one: at for one, at in self._defects.items() if now - at < _QUIET_SECONDS}
            is_due = which not in self._defects
            if is_due:
                self._defects[which] = now
        if is_due:
            _LOGGER.error("defect at the database", exc_info=error)

    def is_away(self, text: str) -> None:
        """Somebody found it away, and says ``text``, which is logged the first time."""
        with self._lock:
            self._failed = time.monotonic()
            is_new, self._began = self._began is None, self._began or self._failed
        if is_new:
            _LOGGER.warning("%s", text)

    def over(self) -> None:
        """The database answered."""
        if self._began is None:
            return
        with self._lock:
            is_over = time.monotonic() - self._failed >= _QUIET_SECONDS
            began, self._began = (self._began, None) if is_over else (None, self._began)
        if began is not None:
            _LOGGER.warning("the database answers again; it did not for %.0f s", self._failed - began)
            self.then()
