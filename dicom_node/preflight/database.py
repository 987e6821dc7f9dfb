"""Checks of the configured database: whether it can be reached, who can read it, and what it may lose."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import text
from sqlalchemy.engine.url import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from dicom_node.config.settings import Settings
from dicom_node.errors import DatabaseNotReady, SchemaOutdated, StoreAway
from dicom_node.inbox.spool import Spool
from dicom_node.monitoring.disk import forecast
from dicom_node.object_store.files import Files
from dicom_node.preflight.found import Found, Tried
from dicom_node.preflight.object_store import check_handed_over
from dicom_node.printable import redacted
from dicom_node.store import faults, migrate
from dicom_node.store.database import Database, hosts
from dicom_node.studies.comparison import compare

_DAYS_TO_ACT = 7
_HERE = {"localhost", "127.0.0.1", "::1"}
_ENCRYPTED = ("require", "verify-ca", "verify-full")  # of libpq, whose default takes what the server offers
# What a server says of a commit that it has not yet written down (PostgreSQL manual, "Write Ahead Log").
_DURABLE = ("fsync", "full_page_writes", "synchronous_commit")


def check_database(settings: Settings) -> Found:
    """Mistakes in ``node.database_url`` that are visible without connecting to the server."""
    shown = redacted(settings.database_url)
    try:
        url = make_url(settings.database_url)
        if url.get_backend_name() != "sqlite":
            Database(settings.database_url).dispose()
            yield from _doubts(url)
    except (ArgumentError, ValueError):
        remedy = "is no URL of a database: write postgresql+psycopg://USER@HOST:PORT/NAME"
        yield "node.database_url", shown, remedy
    except (SQLAlchemyError, ImportError) as error:
        yield "node.database_url", shown, str(faults.meaning(error, settings.database_url) or error)


def _doubts(url: URL) -> Found:
    machines = hosts(url)
    # A service of libpq may name any machine, and says so in a file that is not read here.
    elsewhere = "service" in url.query or not _HERE.issuperset(machines)
    if elsewhere and url.query.get("sslmode") not in _ENCRYPTED:
        remedy = "add ?sslmode=verify-full to node.database_url"
        yield Tried("database", False, f"patients' data may go to it unencrypted: {remedy}")
    if len(machines) > 1 and "target_session_attrs" not in url.query:
        remedy = "add target_session_attrs=read-write to node.database_url"
        yield Tried(
            "database", False, f"of several servers a standby may be taken, which cannot write: {remedy}"
        )


def probe_database(settings: Settings) -> Found:
    """Check the database's schema, its agreement with the spool, and how long the disk will last."""
    shown = redacted(settings.database_url)
    try:
        url = make_url(settings.database_url)
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
            made = f"{shown}: will be made at the next start"
            lost = any((settings.node.data_dir / "spool").rglob("*.dcm"))
            remedy = "after a loss start the node, then run dicom-node spool reindex"
            yield Tried("database", not lost, f"{made}; {remedy}" if lost else made)
            return
        database = Database(settings.database_url)
    except (ArgumentError, ValueError, SQLAlchemyError, ImportError, DatabaseNotReady):
        return  # reported by check_database
    try:
        migrate.check(database)
        yield Tried("database", True, f"{shown}: reachable, schema is up to date")
        yield from _compare_spool(database, settings)
        yield from check_handed_over(database, settings)
        yield from _ask_server(database, settings)
    except DatabaseNotReady as error:
        outdated = isinstance(error, SchemaOutdated) and migrate.current(database) is not None
        if database.is_sqlite and outdated:
            yield Tried("database", True, f"{shown}: will be brought up to date at the next start")
        else:
            yield "node.database_url", shown, str(error)
    except SQLAlchemyError as error:
        fault = faults.meaning(error, settings.database_url)
        yield "node.database_url", shown, str(fault or f"cannot be used: {type(error).__name__}")
    finally:
        database.dispose()


def _compare_spool(database: Database, settings: Settings) -> Found:
    folder = settings.node.data_dir / "spool"
    if folder.is_dir():
        try:
            difference = str(compare(database, Spool(folder, 0), Files(settings)))
        except StoreAway as away:
            difference = f"not compared with the database: {away}"
        yield Tried("spool", not difference, difference or "all objects are known to the database")


def _ask_server(database: Database, settings: Settings) -> Found:
    with database.read() as session:
        future = forecast(session, settings)
        asked = () if database.is_sqlite else _DURABLE
        off = [name for name in asked if session.scalar(text(f"SHOW {name}")) == "off"]
    if off:
        lost = "the last commits are lost if the server crashes"
        yield Tried("database", False, f"{' and '.join(off)} off: {lost}; set to on in postgresql.conf")
    if future is not None:
        enough = future.days is None or future.days > _DAYS_TO_ACT
        yield Tried("disk", enough, str(future))
