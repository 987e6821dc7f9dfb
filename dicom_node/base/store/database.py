"""Connections and sessions: one short scope per unit of work.

SQLite runs in WAL with ``synchronous=FULL`` (an acknowledged transition survives a power cut), and every
writing scope begins IMMEDIATE: a transaction that reads first and writes later would otherwise fail with
"database is locked" without waiting for the busy time-out.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import Connection
from sqlalchemy.engine.url import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from dicom_node.base.errors import DatabaseDamaged, DatabaseNotReady
from dicom_node.base.events import log
from dicom_node.base.store.changes import CHANNEL, Changes

T = TypeVar("T")

EVENTS = "dicom_node_events"
"""Under which the session of a writing scope keeps its events until it is committed."""
DECIDED = "dicom_node_decided"
"""Key of ``Session.info``: the transaction carries out a decision of a person."""
_WRITES = "dicom_node_writes"
_BUSY_SECONDS = 10.0
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

    Several servers, of which one accepts writes: ``…://USER@/NAME?host=A,B&port=5432,5432`` and
    ``&target_session_attrs=read-write``. Raises DatabaseNotReady for an invalid URL.
    """

    def __init__(self, url: str, *, busy_seconds: float | None = None) -> None:
        """Connect to ``url``. ``busy_seconds``: how long SQLite waits for another writer."""
        try:
            self.url = make_url(url)
        except (ArgumentError, ValueError):  # ValueError: a port that is no number; quoted is neither
            raise DatabaseNotReady(
                "node.database_url cannot be read: write postgresql+psycopg://USER@HOST:PORT/NAME"
            ) from None
        self.outage = DatabaseOutage()
        self.changes = Changes()
        self.copy_decisions: Callable[[], object] | None = None
        """Called after a transaction with a decision of a person, before its caller goes on."""
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        # Settings of libpq by which a silent server is noticed; what stands in the URL wins.
        each = max(2, _CONNECT_SECONDS // max(1, len(hosts(self.url))))  # libpq takes 1 s for 2
        given = {"connect_timeout": each, **_TCP}.items()
        silence = {name: value for name, value in given if name not in self.url.query}
        # An error's text would quote the values of its statement: patients' IDs among them.
        self.engine = create_engine(
            self.url,
            pool_pre_ping=not self.is_sqlite,
            hide_parameters=True,
            connect_args={} if self.is_sqlite else silence,
        )
        if self.is_sqlite:
            event.listen(self.engine, "connect", partial(_set_pragmas, busy_seconds or _BUSY_SECONDS))
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
        """A writing scope: commits at its end, rolls back on any exception.

        Its events are logged after the commit: on a full disk the same step may be tried, and rolled back,
        twice a second.
        """
        with Session(self._writing, expire_on_commit=False) as session:
            with session.begin():
                yield session
                if session.info.get(EVENTS) and not self.is_sqlite:
                    session.execute(text(f"NOTIFY {CHANNEL}"))
            for recorded in session.info.get(EVENTS, ()):
                log(recorded)
        self.outage.over()
        if self.copy_decisions is not None and session.info.get(DECIDED):
            self.copy_decisions()

    @contextmanager
    def alter(self) -> Iterator[Connection]:
        """A writing scope in which SQLite may rebuild a table that others refer to.

        See sqlite.org/lang_altertable.html, "Making Other Kinds Of Table Schema Changes". Raises
        DatabaseDamaged and changes nothing if a reference has no target at the end.
        """
        with self._writing.connect() as connection:
            keys = "PRAGMA foreign_keys={}"  # has no effect inside a transaction
            if self.is_sqlite:
                _execute(connection.connection, keys.format("OFF"))
            try:
                with connection.begin():
                    yield connection
                    if self.is_sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                        raise DatabaseDamaged("the database is damaged: its tables refer to missing rows")
            finally:
                if self.is_sqlite:
                    _execute(connection.connection, keys.format("ON"))

    def dispose(self) -> None:
        """Close all connections (before a fork, and at the end)."""
        self.engine.dispose()


def hosts(url: URL) -> list[str]:
    """The machines in a server's URL, without ports; none for a socket of this machine.

    If the URL has names and addresses ("hostaddr"), the addresses: libpq connects to them.
    """
    named = url.query.get("hostaddr") or url.query.get("host", ())
    several = [host for part in ([named] if isinstance(named, str) else named) for host in part.split(",")]
    return [host for host in (url.host, *map(_without_port, several)) if host and not host.startswith("/")]


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.count(":") > 1 else host.partition(":")[0]


def batches(values: Iterable[T]) -> Iterator[list[T]]:
    """SQLite takes some 30,000 values in a statement."""
    rest = iter(values)
    while batch := list(islice(rest, 500)):
        yield batch


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite database, None for a server."""
    file = url.removeprefix("sqlite:///")
    return None if file == url else Path(file)


def _set_pragmas(busy_seconds: float, connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by us, not by the sqlite3 module
    for setting in (
        f"busy_timeout={1000 * busy_seconds:.0f}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        _execute(connection, f"PRAGMA {setting}")


def _execute(connection: Any, statement: str) -> None:
    """Outside of transactions, which SQLAlchemy would begin."""
    cursor = connection.cursor()
    cursor.execute(statement)
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


_LOGGER = logging.getLogger(__name__)
_DEFECTS = (IntegrityError, DataError, ProgrammingError)
_QUIET_SECONDS = 20.0
"""Without an error, after which it is back. A full disk, or another program's lock, fails writes only: that
reads are answered says nothing. Some process writes every five seconds, and waits for a lock for ten."""


class DatabaseOutage:
    """One process's record of the database being unreachable."""

    def __init__(self) -> None:
        self._began: float | None = None  # monotonic seconds
        self._failed = 0.0  # the last time
        self._defects: dict[tuple[type[SQLAlchemyError], str], float] = {}  # logged a moment ago, and when
        self._lock = threading.Lock()
        self.then: Callable[[], object] = bool
        """Called when the database is back."""

    def noticed(self, error: SQLAlchemyError) -> None:
        """The error for callers that try again; an error that is no outage is a defect and is logged."""
        if isinstance(error, _DEFECTS) or not isinstance(error, DBAPIError | PoolTimeout):
            # That of one statement not again at once: the outbox tries it twenty times a second.
            which, now = (type(error), (getattr(error, "statement", None) or "")[:200]), time.monotonic()
            with self._lock:
                self._defects = {one: at for one, at in self._defects.items() if now - at < _QUIET_SECONDS}
                is_due = which not in self._defects
                if is_due:
                    self._defects[which] = now
            if is_due:
                _LOGGER.error("defect at the database", exc_info=error)
            return
        # Without the error's text, which quotes what was to be written.
        self.is_away(f"the database does not answer ({type(error).__name__}): its work waits")

    def is_away(self, text: str) -> None:
        """Note that the database is unreachable, with the reason ``text``, which is logged the first time."""
        with self._lock:
            self._failed = time.monotonic()
            is_new, self._began = self._began is None, self._began or self._failed
        if is_new:
            _LOGGER.warning("%s", text)

    def over(self) -> None:
        """Note that the database answers again."""
        if self._began is None:
            return
        with self._lock:
            is_over = time.monotonic() - self._failed >= _QUIET_SECONDS
            began, self._began = (self._began, None) if is_over else (None, self._began)
        if began is not None:
            _LOGGER.warning("the database answers again; it did not for %.0f s", self._failed - began)
            self.then()
