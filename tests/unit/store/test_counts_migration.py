"""A database of the first version gets the tables of the counts and loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect, text

from dicom_node.errors import DatabaseNotReady
from dicom_node.store import migrate
from dicom_node.store.database import Database

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.debian("postgresql"))])
def first(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database of version 0001 with a study in it."""
    sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'node.db'}" if sqlite else request.getfixturevalue("postgres_url")
    database = Database(url)
    config = migrate._config()
    with database.write() as session:
        config.attributes["connection"] = session.connection()
        command.upgrade(config, "0001")
        session.execute(
            text(
                "INSERT INTO study (study_instance_uid, patient_id, issuer_of_patient_id, study_date, state,"
                " reason, revision, first_received_at, last_received_at, priority)"
                " VALUES ('1.2', 'P', '', '', 'receiving', '', 1, :now, :now, 0)"
            ),
            {"now": NOW.replace(tzinfo=None)},
        )
    yield database
    database.dispose()


def test_the_first_version_is_brought_up_to_date(first: Database) -> None:
    with pytest.raises(DatabaseNotReady, match="db upgrade"):
        migrate.check(first)
    migrate.upgrade(first)
    migrate.check(first)
    with first.read() as session:
        assert session.execute(text("SELECT study_instance_uid FROM study")).scalars().all() == ["1.2"]
        assert {"image_count", "score_count", "counted_image", "mark_reading"} <= set(
            inspect(session.connection()).get_table_names()
        )
