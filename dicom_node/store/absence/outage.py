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


class DatabaseOutage:
    """What one process knows of its database's absence."""

    def __init__(self) -> None:
        self._began: float | None = None  # monotonic seconds
        self._lock = threading.Lock()
        self.then: Callable[[], object] = bool
        """Called when the database is back."""

    def noticed(self, error: SQLAlchemyError) -> None:
        """The error of who will try again; one that is no absence is a defect of ours, told each time."""
        if isinstance(error, _DEFECTS) or not isinstance(error, DBAPIError | PoolTimeout):
            _LOGGER.error("defect at the database", exc_info=error)
            return
        with self._lock:
            is_new, self._began = self._began is None, self._began or time.monotonic()
        if is_new:  # without the error's text, which quotes what was to be written
            _LOGGER.warning("the database does not answer (%s): its work waits", type(error).__name__)

    def over(self) -> None:
        """The database answered."""
        if self._began is None:
            return
        with self._lock:
            began, self._began = self._began, None
        if began is not None:
            _LOGGER.warning("the database answers again, after %.0f s", time.monotonic() - began)
            self.then()
