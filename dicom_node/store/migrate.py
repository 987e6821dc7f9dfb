"""The schema's versions (alembic): ``upgrade`` brings a database up to date, ``check`` only looks."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from dicom_node.errors import DatabaseNotReady, SchemaOutdated
from dicom_node.store.database import Database

_MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(database: Database) -> None:
    """Create or bring the schema to this program's version. Raises DatabaseNotReady if it is newer."""
    _refuse_newer(database)
    config = _config()
    with database.alter() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def check(database: Database) -> None:
    """Raise SchemaOutdated or DatabaseNotReady unless the schema is of this program's version."""
    _refuse_newer(database)
    if current(database) != head():
        raise SchemaOutdated("the database is older than this program: run `dicom-node db upgrade`")


def current(database: Database) -> str | None:
    """The version of the database, None for an empty one."""
    with database.read() as session:
        return MigrationContext.configure(session.connection()).get_current_revision()


def head() -> str | None:
    """The version that this program needs."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def is_known(version: str) -> bool:
    """Whether this program knows this version: it is not newer."""
    return version in {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def _refuse_newer(database: Database) -> None:
    found = current(database)
    if found is not None and not is_known(found):
        raise DatabaseNotReady(f"the database has version {found}, which is newer than this program")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config
