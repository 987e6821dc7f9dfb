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
from sqlalchemy.engine.url import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session

from dicom_node.errors import DatabaseDamaged, DatabaseNotReady
from dicom_node.store.absence.outage import DatabaseOutage

_WRITES = "dicom_node_writes"
_BUSY_MS = 10_000
_CONNECT_SECONDS = 10  # for all hosts of the URL together
# Of libpq, where the URL does not say otherwise. A machine that fell silent is noticed within some eleven
# seconds, before leases of jobs and deliveries end (15 s); by itself the kernel waits a quarter of an hour.
_TCP = {
    "keepalives_idle": 5,  # seconds without traffic, then a question
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds that what was sent may stay without acknowledgement
}


class Database:
    """The node's database by URL: ``sqlite:///path`` or ``postgresql+psycopg://…``.

    Several servers, of which one takes writes: ``…://USER@/NAME?host=A,B&port=5432,5432`` and
    ``&target_session_attrs=read-write``. Raises DatabaseNotReady for what is no such URL.
    """

    def __init__(self, url: str) -> None:
        try:
            self.url = make_url(url)
        except (ArgumentError, ValueError):  # ValueError: a port that is no number; quoted is neither
            raise DatabaseNotReady(
                "node.database_url cannot be read: write postgresql+psycopg://USER@HOST:PORT/NAME"
            ) from None
        self.outage = DatabaseOutage()
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        # An error's text would quote the values of its statement: patients' IDs among them.
        self.engine = create_engine(
            self.url,
            pool_pre_ping=not self.is_sqlite,
            hide_parameters=True,
            connect_args={} if self.is_sqlite else _silence_noticed(self.url),
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
        self.outage.over()

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A writing scope: commits at its end, rolls back on any exception."""
        with Session(self._writing, expire_on_commit=False) as session, session.begin():
            yield session
        self.outage.over()

    @contextmanager
    def alter(self) -> Iterator[Connection]:
        """A writing scope in which SQLite may rebuild a table that others refer to.

        See sqlite.org/lang_altertable.html, "Making Other Kinds Of Table Schema Changes". Raises
        DatabaseDamaged, with all as it was, when a reference leads nowhere at its end.
        """
        with self._writing.connect() as connection:
            keys = "PRAGMA foreign_keys={}"  # has no effect inside a transaction
            if self.is_sqlite:
                _execute(connection.connection, keys.format("OFF"))
            try:
                with connection.begin():
                    yield connection
                    if self.is_sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                        raise DatabaseDamaged(
                            "the database is damaged: its tables refer to rows that are gone"
                        )
            finally:
                if self.is_sqlite:
                    _execute(connection.connection, keys.format("ON"))

    def dispose(self) -> None:
        """Close all connections (before a fork, and at the end)."""
        self.engine.dispose()


def _silence_noticed(url: URL) -> dict[str, int]:
    """The settings of libpq by which a silent server is noticed; what stands in the URL wins."""
    each = max(2, _CONNECT_SECONDS // max(1, len(hosts(url))))  # libpq takes 1 s for 2
    settings = {"connect_timeout": each, **_TCP}
    return {name: value for name, value in settings.items() if name not in url.query}


def hosts(url: URL) -> list[str]:
    """The machines of a server's URL, without ports; none for a socket of this machine.

    By address where the URL has both ("hostaddr"): that is what libpq connects to.
    """
    named = url.query.get("hostaddr") or url.query.get("host", ())
    several = [host for part in ([named] if isinstance(named, str) else named) for host in part.split(",")]
    return [host for host in (url.host, *map(_without_port, several)) if host and not host.startswith("/")]


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.count(":") > 1 else host.partition(":")[0]


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite database, None for one of a server."""
    file = url.removeprefix("sqlite:///")
    return None if file == url else Path(file)


def _set_pragmas(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by us, not by the sqlite3 module
    for setting in (f"busy_timeout={_BUSY_MS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        _execute(connection, f"PRAGMA {setting}")


def _execute(connection: Any, statement: str) -> None:
    """Outside of transactions, which SQLAlchemy would begin."""
    cursor = connection.cursor()
    cursor.execute(statement)
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
