"""Connections and sessions: one scope per unit of work, short.

SQLite runs in WAL with ``synchronous=FULL`` (an acknowledged transition survives a power cut), and every
writing scope begins IMMEDIATE: a transaction that reads first and writes later would otherwise fail with
"database is locked" without waiting for the busy time-out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import Connection
from sqlalchemy.engine.url import make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session

from dicom_node.errors import DatabaseNotReady

_WRITES = "dicom_node_writes"
_BUSY_MS = 10_000
_CONNECT_SECONDS = 10


class Database:
    """The node's database by URL: ``sqlite:///path`` or ``postgresql+psycopg://…``.

    Raises DatabaseNotReady for what is no such URL.
    """

    def __init__(self, url: str) -> None:
        try:
            self.url = make_url(url)
        except (ArgumentError, ValueError):  # ValueError: a port that is no number; quoted is neither
            raise DatabaseNotReady(
                "node.database_url cannot be read: write postgresql+psycopg://USER@HOST:PORT/NAME"
            ) from None
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        # An error's text would quote the values of its statement: patients' IDs among them.
        self.engine = create_engine(
            self.url,
            pool_pre_ping=not self.is_sqlite,
            hide_parameters=True,
            connect_args={} if self.is_sqlite else {"connect_timeout": _CONNECT_SECONDS},
        )
        if self.is_sqlite:
            event.listen(self.engine, "connect", _set_pragmas)
            event.listen(self.engine, "begin", _begin_sqlite)
        self._writing: Engine = self.engine.execution_options(**{_WRITES: True})

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A short reading scope; nothing is written."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session
            session.rollback()

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A writing scope: commits at its end, rolls back on any exception."""
        with Session(self._writing, expire_on_commit=False) as session, session.begin():
            yield session

    def dispose(self) -> None:
        """Close all connections (before a fork, and at the end)."""
        self.engine.dispose()


def _set_pragmas(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by us, not by the sqlite3 module
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
