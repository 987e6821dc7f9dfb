"""The schema is made by migrations, the first of which is that of release 0.1.0."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import text

from dicom_node.errors import DatabaseNotReady, SchemaOutdated
from dicom_node.store import migrate
from dicom_node.store.database import Database


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
