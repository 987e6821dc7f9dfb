"""The schema is made by migrations, the first of which is that of release 0.1.0.

Those of releases never change: ``released.sha256`` has their checksums, for ``sha256sum --check``. Until
0.1.0 is released, and with each release: ``make released-schema``.
"""

from __future__ import annotations

import hashlib
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Date, DateTime, LargeBinary, MetaData, String, Table, select, text

from dicom_node.errors import DatabaseNotReady, SchemaOutdated
from dicom_node.store import migrate
from dicom_node.store.database import Database
from dicom_node.store.tables import Base

CHECKSUMS = Path(__file__).with_name("released.sha256")


def test_the_files_are_named_by_the_versions_of_the_schema() -> None:
    scripts = ScriptDirectory.from_config(migrate._config())
    assert migrate.head() == scripts.get_current_head()
    assert migrate._versions() == {script.revision for script in scripts.walk_revisions()}


def test_an_empty_database_is_brought_up_to_date_once(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'node.db'}")
    with pytest.raises(SchemaOutdated, match="db upgrade"):
        migrate.check(database)
    migrate.upgrade(database)
    migrate.check(database)
    with database.read() as session:
        drawn = session.scalar(text("SELECT drawn FROM installation"))
    migrate.upgrade(database)
    with database.read() as session:
        assert session.scalars(text("SELECT drawn FROM installation")).all() == [drawn]


def test_a_database_from_before_the_first_release_is_refused_in_words(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'node.db'}")
    migrate.upgrade(database)
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0034'"))
    with pytest.raises(DatabaseNotReady, match="from before release"):
        migrate.upgrade(database)


def test_the_migration_of_a_release_is_as_it_was_released() -> None:
    released = dict(reversed(line.split()) for line in CHECKSUMS.read_text().splitlines())
    files = sorted((migrate._MIGRATIONS / "versions").glob("[0-9]*.py"))
    assert {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.name in released
    } == (released), "write a new migration; make released-schema only before and with a release"
    assert files[0].name in released


@pytest.mark.parametrize("released", [line.split()[1][:4] for line in CHECKSUMS.read_text().splitlines()])
def test_rows_of_every_release_are_read_by_this_program_after_the_upgrade(
    tmp_path: Path, released: str
) -> None:
    database = Database(f"sqlite:///{tmp_path / 'node.db'}")
    config = migrate._config()
    old = MetaData()
    with database.alter() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, released)
        old.reflect(connection)
        filled = [
            table for table in old.sorted_tables if table.name not in ("alembic_version", "installation")
        ]
        for table in filled:
            connection.execute(
                table.insert(), {column.name: a_value(table, column) for column in table.columns}
            )
    migrate.upgrade(database)
    migrate.check(database)
    with database.read() as session:
        for mapper in Base.registry.mappers:
            rows = session.scalars(select(mapper.class_)).all()
            assert len(rows) == (mapper.local_table in filled or mapper.local_table.name in old.tables)
    database.dispose()


def a_value(table: Table, column: Column[Any]) -> object:
    """A value of the column's type; each table has the row 1, which foreign keys name."""
    if (table.name, column.name) == ("delivery", "original_id"):
        return None  # a delivery is of a result or of an original
    now = Base.metadata.tables.get(table.name)
    if (
        now is not None
        and column.name in now.columns
        and (words := getattr(now.columns[column.name].type, "enums", ()))
    ):
        return words[0]
    kinds = {String: "1", DateTime: datetime(2026, 1, 2), Date: date(2026, 1, 2), LargeBinary: b"1"}
    return next((value for kind, value in kinds.items() if isinstance(column.type, kind)), 1)
