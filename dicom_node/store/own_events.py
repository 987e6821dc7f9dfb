"""Events of the node itself; none is lost if the database is unreachable."""

from __future__ import annotations

import threading

from sqlalchemy.exc import SQLAlchemyError

from dicom_node.events import Event, EventType, happened
from dicom_node.store.database import Database
from dicom_node.store.transitions import append

_MAXIMUM_WAITING = 100


class OwnEvents:
    """Logs events at once, and stores them at once or, with their time, when the database answers again."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[Event] = []
        self._lock = threading.RLock()  # storing finds out that the database is back, which stores
        database.outage.then = self._store

    def say(self, event_type: EventType, **fields: str | int | float) -> None:
        """Log an event and store it; an unreachable database must not stop the node."""
        event = happened(event_type, **fields)
        with self._lock:
            self._waiting = [*self._waiting, event][-_MAXIMUM_WAITING:]
        self._store()

    def _store(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
            try:
                with self._database.write() as session:
                    for event in waiting:
                        append(session, event)
            except SQLAlchemyError as error:
                self._waiting = waiting
                self._database.outage.noticed(error)
