"""Connections and sessions: one short scope per unit of work; the schema; outages, changes of others.

SQLite runs in WAL with ``synchronous=FULL`` (an acknowledged transition survives a power cut), and every
writing scope begins IMMEDIATE: a transaction that reads first and writes later would otherwise fail with
"database is locked" without waiting for the busy time-out.

A process waits until another one, on any machine, commits an event, without querying the database meanwhile.
PostgreSQL announces it (LISTEN, NOTIFY); for SQLite the times of its files are checked. If neither works, as
behind a transaction pooler, waits are short.

Errors of a database become errors of the node, each with one sentence that says what to do.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Engine, column, create_engine, event, inspect, select, table, text
from sqlalchemy.engine import Connection
from sqlalchemy.engine.url import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from ai_pipeline.errors import disk_fault
from dicom_node.base.errors import CannotRun, DatabaseUnusable, NodeError, SchemaOutdated, StorageError
from dicom_node.base.events import log

T = TypeVar("T")

CHANNEL: Final = "dicom_node_event"
SHORTEST: Final = 0.05
"""Seconds between two looks for work, at least."""
_LONGEST, _LONGEST_UNHEARD = 5.0, 0.25  # while nothing happens; where nobody would say so
_STOP_SECONDS = 0.25
_LISTEN_SECONDS, _AWAY_SECONDS = 60.0, 1.0


class Changes:
    """Counts committed changes of the database that recorded an event, and lets threads wait for the next
    one.
    """

    def __init__(self) -> None:
        """Begin with a count of 0."""
        self._changed = threading.Condition()
        self._heard = False
        self.count = 0
        """Read it before you look for work, and give it to :meth:`wait`."""

    def wait(self, seen: int, seconds: float, stop: threading.Event) -> None:
        """Wait for ``SHORTEST`` seconds, and then until ``count`` differs from ``seen`` or ``stop`` is set;
        at most ``seconds`` in all.
        """
        end = time.monotonic() + seconds
        stop.wait(min(SHORTEST, seconds))
        with self._changed:
            while self.count == seen and not stop.is_set() and (left := end - time.monotonic()) > 0:
                self._changed.wait(min(left, _STOP_SECONDS))

    def pause(self, before: float, *, found: bool) -> float:
        """Return the next pause, in seconds, of a loop that polls for work: the shortest if it ``found``
        some, otherwise longer than the pause ``before``.
        """
        return SHORTEST if found else min(1.2 * before, _LONGEST if self._heard else _LONGEST_UNHEARD)

    def announce(self) -> None:
        """Count a committed change and wake all threads that wait for one."""
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def follow(self, engine: Engine) -> None:
        """Start a thread that announces the commits of other processes until this process ends."""
        threading.Thread(
            target=self._watch if engine.dialect.name == "sqlite" else self._listen_for_ever,
            args=(engine,),
            name="changes",
            daemon=True,
        ).start()

    def _watch(self, engine: Engine) -> None:
        """Announce a change whenever SQLite's files are written; never returns."""
        file = Path(engine.url.database or "")
        files, before = (file, file.with_name(f"{file.name}-wal")), [(0, 0)]
        while True:
            self._heard = True
            if (now := [stamp(one) for one in files]) != before:
                before = now
                self.announce()
            time.sleep(SHORTEST)

    def _listen_for_ever(self, engine: Engine) -> None:
        """Announce changes that PostgreSQL notifies, reconnecting after errors; never returns."""
        from psycopg import Error  # only there it is installed

        while True:
            try:
                self._listen(engine)
            except (SQLAlchemyError, Error):
                self._heard = False
            time.sleep(_AWAY_SECONDS)

    def _listen(self, engine: Engine) -> None:
        """Announce changes that PostgreSQL notifies on one connection, until that fails."""
        with engine.connect() as pooled:
            connection = pooled.connection.driver_connection
            assert connection is not None
            try:
                connection.autocommit = True
                connection.execute(f"LISTEN {CHANNEL}")
                self.announce()  # what was committed before
                with engine.begin() as other:  # a pooler may take LISTEN and pass on nothing
                    other.execute(text(f"NOTIFY {CHANNEL}"))
                while True:
                    for _ in connection.notifies(timeout=_LISTEN_SECONDS, stop_after=1):
                        self._heard = True
                        self.announce()
            finally:
                pooled.invalidate()  # it is not as the pool's others


def stamp(file: Path) -> tuple[int, int]:
    """Return size in bytes and modification time in ns of a file or folder; zeros if it does not exist."""
    try:
        about = file.stat()
    except OSError:
        return 0, 0
    return about.st_size, about.st_mtime_ns


EVENTS = "dicom_node_events"
"""Under which the session of a writing scope keeps its events until it is committed."""
DECIDED = "dicom_node_decided"
"""Key of ``Session.info``: the transaction carries out a decision of a person."""
_WRITES = "dicom_node_writes"
_BUSY_SECONDS = 10.0
_MIGRATIONS = Path(__file__).parent / "migrations"
_VERSION = table("alembic_version", column("version_num"))
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
    """The node's database, by its URL: ``sqlite:///path`` or ``postgresql+psycopg://…``.

    Several servers, of which one accepts writes: ``…://USER@/NAME?host=A,B&port=5432,5432`` and
    ``&target_session_attrs=read-write``. Raises CannotRun for an invalid URL.
    """

    def __init__(self, url: str, *, busy_seconds: float | None = None) -> None:
        """Prepare connections to ``url``. ``busy_seconds``: how long SQLite waits for another writer; None
        for the default.
        """
        try:
            self.url = make_url(url)
        except (ArgumentError, ValueError):  # ValueError: a port that is no number; quoted is neither
            raise CannotRun(
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
        given = {} if self.is_sqlite else {"connect_timeout": each, **_TCP}
        silence = {name: str(value) for name, value in given.items() if name not in self.url.query}
        # An error's text would quote the values of its statement: patients' IDs among them.
        self.engine = create_engine(
            self.url.update_query_dict(silence),
            pool_pre_ping=not self.is_sqlite,
            hide_parameters=True,
            # Whatever the server's default is: who waited for a lock must see what was committed meanwhile.
            **({} if self.is_sqlite else {"isolation_level": "READ COMMITTED"}),
        )
        if self.is_sqlite:
            event.listen(self.engine, "connect", partial(_set_pragmas, busy_seconds or _BUSY_SECONDS))
            event.listen(self.engine, "begin", _begin_sqlite)
        self._writing: Engine = self.engine.execution_options(**{_WRITES: True})

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Context manager: a session that only reads."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session
            session.rollback()
        self.outage.end()

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Context manager: a session that writes; commits at its end, rolls back on any exception.

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
        self.outage.end()
        if self.copy_decisions is not None and session.info.get(DECIDED):
            self.copy_decisions()

    @contextmanager
    def alter(self) -> Iterator[Connection]:
        """Context manager: a connection in whose transaction SQLite may rebuild a table that other tables
        refer to.

        See sqlite.org/lang_altertable.html, "Making Other Kinds Of Table Schema Changes". Raises StorageError
        and changes nothing if a foreign key has no target at the end.
        """
        with self._writing.connect() as connection:
            # By the driver: it has no effect inside a transaction, which SQLAlchemy would begin.
            driver: Any = connection.connection.driver_connection
            if self.is_sqlite:
                driver.execute("PRAGMA foreign_keys=OFF")
            try:
                with connection.begin():
                    yield connection
                    if self.is_sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                        raise StorageError("the database is damaged: its tables refer to missing rows")
            finally:
                if self.is_sqlite:
                    driver.execute("PRAGMA foreign_keys=ON")

    def upgrade(self) -> None:
        """Create the schema, or upgrade it to this program's version. Raises CannotRun if it is newer."""
        if self._known_version() == newest_schema():
            return
        from alembic import command, config  # a third of a second

        how = config.Config()
        how.set_main_option("script_location", str(_MIGRATIONS))
        with self.alter() as connection:
            how.attributes["connection"] = connection
            command.upgrade(how, "head")

    def check(self) -> None:
        """Raise SchemaOutdated for an older or empty schema, and CannotRun for a newer one."""
        found = self._known_version()
        if found != newest_schema():
            state = "empty" if found is None else "older than this program"
            raise SchemaOutdated(f"the database is {state}: run `dicom-node db upgrade`")

    def version(self) -> str | None:
        """Return the version of the database's schema; None for an empty database."""
        with self.read() as session:
            if not inspect(session.connection()).has_table(_VERSION.name):
                return None
            return session.scalar(select(_VERSION.c.version_num))

    def _known_version(self) -> str | None:
        """Return the version of the database's schema; None for an empty database. Raises CannotRun if this
        program does not know the version.
        """
        found = self.version()
        if found is not None and found not in schema_versions():
            raise CannotRun(
                f"the database has version {found}, newer than this program or from before release 0.1.0"
            )
        return found

    def dispose(self) -> None:
        """Close all connections (before a fork, and at the end)."""
        self.engine.dispose()


def newest_schema() -> str:
    """Return the schema version that this program needs."""
    return max(schema_versions())


@cache
def schema_versions() -> frozenset[str]:
    """Return the schema versions that this program knows: its own and all older ones.

    They are read from file names because alembic would execute each file, and every command and page needs
    them.
    """
    return frozenset(file.name[:4] for file in _MIGRATIONS.glob("versions/[0-9]*.py"))


def hosts(url: URL) -> list[str]:
    """Return the host names of the servers in a database URL, without ports; none for a socket of this
    machine.

    If the URL has names and addresses ("hostaddr"), the addresses are returned, because libpq connects to
    them.
    """
    named = url.query.get("hostaddr") or url.query.get("host", ())
    several = [host for part in ([named] if isinstance(named, str) else named) for host in part.split(",")]
    return [host for host in (url.host, *map(_without_port, several)) if host and not host.startswith("/")]


def _without_port(host: str) -> str:
    """Return the host of "host:port", "[IPv6]:port" or a bare address."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.count(":") > 1 else host.partition(":")[0]


def batches(values: Iterable[T]) -> Iterator[list[T]]:
    """Yield the values in lists of at most 500, short enough for one SQL statement."""
    rest = iter(values)
    while batch := list(islice(rest, 500)):
        yield batch


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite database; None for the URL of a server."""
    file = url.removeprefix("sqlite:///")
    return None if file == url else Path(file)


def _set_pragmas(busy_seconds: float, connection: Any, _record: Any) -> None:
    """Configure a new SQLite connection: time to wait for a writer, write-ahead log, durability, foreign
    keys.
    """
    connection.isolation_level = None  # transactions are begun by us, not by the sqlite3 module
    for setting in (
        f"busy_timeout={1000 * busy_seconds:.0f}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {setting}")


def _begin_sqlite(connection: Connection) -> None:
    """Begin a transaction of SQLite; one that writes takes the write lock at once."""
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


_LOGGER = logging.getLogger(__name__)
_DEFECTS = (IntegrityError, DataError, ProgrammingError)
_UNDONE = {"40P01", "40001"}  # SQLSTATE of a deadlock, of a serialisation failure


def is_outage(error: BaseException) -> bool:
    """Return whether the database is at fault, not the statement: it is away, locked or full, or undid the
    transaction.
    """
    return isinstance(error, DBAPIError | PoolTimeout) and not isinstance(error, _DEFECTS)


def is_undone(error: BaseException) -> bool:
    """Return whether the database undid a transaction because of another one: the same succeeds at once."""
    return getattr(getattr(error, "orig", None), "sqlstate", None) in _UNDONE


def reason_of(error: BaseException) -> str:
    """Return why something failed, in words without the error's own text, which may quote data."""
    name = type(error).__name__
    if is_outage(error):
        return f"the database does not answer ({name})"
    if isinstance(error, SQLAlchemyError):
        return f"the database refuses a statement: defect of the node ({name})"
    return disk_fault(error) or f"defect of the node: {name}"


_QUIET_SECONDS = 20.0
"""Without an error, after which it is back. A full disk, or another program's lock, fails writes only: that
reads are answered says nothing. Some process writes every five seconds, and waits for a lock for ten."""


class DatabaseOutage:
    """Whether the database answered this process last; logs the beginning and the end of an outage."""

    def __init__(self) -> None:
        """Begin with a database that is assumed to answer."""
        self._began: float | None = None  # monotonic seconds
        self._failed = 0.0  # the last time
        self._defects: dict[tuple[type[SQLAlchemyError], str], float] = {}  # logged a moment ago, and when
        self._lock = threading.Lock()
        self.then: Callable[[], object] = bool
        """Called when the database is back."""

    def note_error(self, error: SQLAlchemyError) -> None:
        """Note a database error: an outage, or else a defect of this program, which is logged."""
        if not is_outage(error):
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
        self.begin(f"{reason_of(error)}: its work waits")

    def begin(self, text: str) -> None:
        """Note that the database does not answer; if that is new, ``text`` is logged as the reason."""
        with self._lock:
            self._failed = time.monotonic()
            is_new, self._began = self._began is None, self._began or self._failed
        if is_new:
            _LOGGER.warning("%s", text)

    def end(self) -> None:
        """Note that the database answers; after an outage, log its length and call ``then``."""
        if self._began is None:
            return
        with self._lock:
            is_over = time.monotonic() - self._failed >= _QUIET_SECONDS
            began, self._began = (self._began, None) if is_over else (None, self._began)
        if began is not None:
            _LOGGER.warning("the database answers again; it did not for %.0f s", self._failed - began)
            self.then()


ANY_ERROR: Final = SQLAlchemyError
"""What all errors of a database are before they have words."""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SQLITE = {
    sqlite3.SQLITE_BUSY: "is locked by another program: end that",
    sqlite3.SQLITE_LOCKED: "is locked by another program: end that",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: whose are the file and its folder?",
    sqlite3.SQLITE_PERM: "cannot be opened: whose are the file and its folder?",
    sqlite3.SQLITE_READONLY: "cannot be written: whose are the file and its folder?",
    sqlite3.SQLITE_FULL: "cannot be written: the disk is full",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk reports an error",
}

_POSTGRES = "postgresql+psycopg://"


@contextmanager
def in_words(url: str) -> Iterator[None]:
    """Context manager: turn errors that show an unusable database at ``url`` into StorageError or
    DatabaseUnusable.

    Other errors are defects of this program and pass unchanged.
    """
    try:
        yield
    except (SQLAlchemyError, ImportError) as error:
        if (meant := meaning_of(error, url)) is None:
            raise
        raise meant from None


def meaning_of(error: Exception, url: str) -> NodeError | None:
    """Return the NodeError in words for ``error`` of the database at ``url``; None if the error does not show
    the database's state.
    """
    if isinstance(error, ArgumentError | NoSuchModuleError | ImportError):
        if url.startswith(_POSTGRES):
            remedy = "PostgreSQL needs psycopg, which is not installed: pip install 'dicom-ai-node[postgres]'"
        elif url.startswith("postgres"):
            remedy = f"node.database_url of PostgreSQL must begin with {_POSTGRES}"
        else:
            remedy = "node.database_url is no URL of a database that this program can use"
        return DatabaseUnusable(remedy)
    if not isinstance(error, DBAPIError) or isinstance(error, IntegrityError):
        return None
    shown = make_url(url).render_as_string(hide_password=True)
    if not isinstance(error.orig, sqlite3.Error):
        return DatabaseUnusable(
            f"the database {shown} does not answer or does not let us in ({type(error.orig).__name__}): "
            "is it running, and are host, name, user and password in node.database_url right?"
        )
    # The low byte is the kind, the rest its detail (sqlite.org/rescode.html).
    code = (getattr(error.orig, "sqlite_errorcode", None) or sqlite3.SQLITE_CORRUPT) & 0xFF
    if code in _SQLITE:
        return DatabaseUnusable(f"the database {shown} {_SQLITE[code]}")
    if code in _DAMAGED or "no such" in str(error.orig):
        return StorageError(
            f"the database {shown} is damaged: stop the node, put a backup in its place (dicom-node restore) "
            "or take the file away, then start the node: it takes in what is in the spool"
        )
    return None
