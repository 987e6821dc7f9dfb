"""Converts database errors into errors of the node, each with one sentence that says what to do."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.engine.url import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from dicom_node.base.errors import DatabaseDamaged, DatabaseUnusable, NodeError

ANY: Final = SQLAlchemyError
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
    """A scope in which errors of an unusable database are raised as NodeErrors.

    Raises DatabaseDamaged, DatabaseUnusable; other errors are defects of this program and pass unchanged.
    """
    try:
        yield
    except (SQLAlchemyError, ImportError) as error:
        if (meant := meaning(error, url)) is None:
            raise
        raise meant from None


def _without_driver(url: str) -> str:
    if url.startswith(_POSTGRES):
        return "PostgreSQL needs psycopg, which is not installed: pip install 'dicom-ai-node[postgres]'"
    if url.startswith("postgres"):
        return f"node.database_url of PostgreSQL must begin with {_POSTGRES}"
    return "node.database_url is no URL of a database that this program can use"


def meaning(error: Exception, url: str) -> NodeError | None:
    """The error of the node for the database at ``url``; None if ``error`` says nothing about its state."""
    if isinstance(error, ArgumentError | NoSuchModuleError | ImportError):
        return DatabaseUnusable(_without_driver(url))
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
        return DatabaseDamaged(
            f"the database {shown} is damaged: stop the node, put a backup in its place (dicom-node restore) "
            "or take the file away, start the node, then run dicom-node spool reindex"
        )
    return None
