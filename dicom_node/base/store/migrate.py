"""Versions of the schema (alembic): ``upgrade`` updates a database, ``check`` only reads."""

from functools import cache
from pathlib import Path

from sqlalchemy import column, inspect, select, table

from dicom_node.base.errors import DatabaseNotReady, SchemaOutdated
from dicom_node.base.store.database import Database

_MIGRATIONS = Path(__file__).parent / "migrations"
_VERSION = table("alembic_version", column("version_num"))


def upgrade(database: Database) -> None:
    """Create the schema, or update it to this program's version. Raises DatabaseNotReady if it is newer."""
    if _refuse_newer(database) == head():
        return
    from alembic import command, config  # a third of a second

    how = config.Config()
    how.set_main_option("script_location", str(_MIGRATIONS))
    with database.alter() as connection:
        how.attributes["connection"] = connection
        command.upgrade(how, "head")


def check(database: Database) -> None:
    """Raise SchemaOutdated or DatabaseNotReady unless the schema has this program's version."""
    found = _refuse_newer(database)
    if found != head():
        state = "empty" if found is None else "older than this program"
        raise SchemaOutdated(f"the database is {state}: run `dicom-node db upgrade`")


def current(database: Database) -> str | None:
    """The version of the database's schema, None for an empty database."""
    with database.read() as session:
        if not inspect(session.connection()).has_table(_VERSION.name):
            return None
        return session.scalar(select(_VERSION.c.version_num))


def head() -> str:
    """The schema version that this program needs."""
    return max(_versions())


def is_known(version: str) -> bool:
    """Whether this program knows this schema version, that is, the version is not newer."""
    return version in _versions()


@cache
def _versions() -> frozenset[str]:
    """As the files are named, since every command and every page asks: alembic would run them all."""
    return frozenset(file.name[:4] for file in _MIGRATIONS.glob("versions/[0-9]*.py"))


def _refuse_newer(database: Database) -> str | None:
    """The version that was found."""
    found = current(database)
    if found is not None and not is_known(found):
        raise DatabaseNotReady(
            f"the database has version {found}, newer than this program or from before release 0.1.0"
        )
    return found
