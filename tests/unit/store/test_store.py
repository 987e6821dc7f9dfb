"""The database: schema versions, compare-and-set moves, life-cycle laws."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from dicom_node.errors import DatabaseNotReady, IllegalTransition
from dicom_node.events import JOB_STARTED, STUDY_COMPLETE, STUDY_RELEASED
from dicom_node.model.lifecycle import (
    LIFE_CYCLES,
    DeliveryState,
    JobState,
    StudyState,
    study_state,
)
from dicom_node.store import (
    accounts,  # noqa: F401  (its tables belong to Base.metadata)
    leases,
    migrate,
)
from dicom_node.store.database import Database
from dicom_node.store.tables import Base, EventRow, Study
from dicom_node.store.transitions import move_study, record

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'node.db'}")
    migrate.upgrade(database)
    yield database
    database.dispose()


def a_study(database: Database, uid: str = "1.2.3") -> Study:
    study = Study(study_instance_uid=uid, first_received_at=NOW, last_received_at=NOW)
    with database.write() as session:
        session.add(study)
    return study


def test_the_migrations_make_just_the_tables_of_the_program(database: Database) -> None:
    with database.read() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_an_upgraded_database_passes_the_check_and_upgrades_again(database: Database) -> None:
    migrate.check(database)
    migrate.upgrade(database)
    migrate.check(database)


def test_an_empty_and_a_newer_database_are_refused(tmp_path: Path, database: Database) -> None:
    empty = Database(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(DatabaseNotReady, match="the database is empty: run `dicom-node db upgrade`"):
        migrate.check(empty)
    empty.dispose()
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseNotReady, match="newer"):
        migrate.check(database)
    with pytest.raises(DatabaseNotReady, match="newer"):
        migrate.upgrade(database)


def test_sqlite_keeps_an_acknowledged_commit_through_a_power_cut(database: Database) -> None:
    with database.read() as session:
        assert session.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
        assert session.execute(text("PRAGMA synchronous")).scalar_one() == 2
        assert session.execute(text("PRAGMA busy_timeout")).scalar_one() == 10_000


def test_times_come_back_aware_and_naive_ones_are_refused(database: Database) -> None:
    a_study(database)
    with database.read() as session:
        assert session.scalars(select(Study)).one().first_received_at == NOW
    with pytest.raises(Exception, match="without zone"), database.write() as session:
        session.add(
            Study(study_instance_uid="1.9", first_received_at=NOW.replace(tzinfo=None), last_received_at=NOW)
        )


def test_a_move_writes_its_event_in_the_same_transaction(database: Database) -> None:
    study = a_study(database)
    with database.write() as session:
        assert move_study(session, session.get_one(Study, study.id), STUDY_COMPLETE)
    with database.read() as session:
        assert session.get_one(Study, study.id).state is StudyState.COMPLETE
        event = session.scalars(select(EventRow)).one()
        assert (event.number, event.fields["before"], event.fields["after"]) == (
            2011,
            "receiving",
            "complete",
        )


def test_an_event_of_a_study_tells_its_uid_in_the_log(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    study = a_study(database)
    with caplog.at_level("INFO"), database.write() as session:
        record(session, JOB_STARTED, study.id, job=7)
        assert not caplog.text, "it is not true yet"
    assert f"[3002] job started study={study.study_instance_uid} job=7" in caplog.text


def test_a_move_that_the_table_lacks_is_refused(database: Database) -> None:
    study = a_study(database)
    with (
        pytest.raises(IllegalTransition, match="is receiving: event 2014 cannot happen to it"),
        database.write() as session,
    ):
        move_study(session, session.get_one(Study, study.id), STUDY_RELEASED)


def _complete(url: str, study_id: int, wins: multiprocessing.SimpleQueue[bool]) -> None:
    database = Database(url)
    with database.write() as session:
        study = session.get_one(Study, study_id)
        wins.put(study.state is StudyState.RECEIVING and move_study(session, study, STUDY_COMPLETE))
    database.dispose()


def test_of_many_processes_one_wins_a_move(database: Database) -> None:
    study = a_study(database)
    context = multiprocessing.get_context("spawn")
    wins: multiprocessing.SimpleQueue[bool] = context.SimpleQueue()
    url = database.url.render_as_string(hide_password=False)
    racers = [context.Process(target=_complete, args=(url, study.id, wins)) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    assert sorted(wins.get() for _ in racers) == [False, False, False, True]


def test_no_event_leaves_a_state_as_it_is() -> None:
    tables = LIFE_CYCLES.values()
    assert [key for table in tables for key, after in table.items() if key[0] is after] == []


@pytest.mark.parametrize(
    ("jobs", "deliveries", "state"),
    [
        (["running", "failed"], [], "running"),
        (["queued", "succeeded"], ["confirmed"], "queued"),
        (["succeeded"], ["unconfirmed", "confirmed"], "delivering"),
        (["failed"], ["pending"], "delivering"),  # the report "AI did not run" is on its way
        (["failed"], ["confirmed"], "failed"),
        (["succeeded"], ["dead", "confirmed"], "failed"),
        (["succeeded", "not_applicable"], ["confirmed"], "delivered"),
        (["not_applicable", "held"], [], "not_applicable"),
        (["not_applicable", "held", "cancelled"], [], "not_applicable"),
        (["cancelled"], [], "cancelled"),
        (["succeeded"], [], "delivered"),
        ([], [], "not_applicable"),
    ],
)
def test_a_study_stands_where_its_jobs_and_deliveries_stand(
    jobs: list[str], deliveries: list[str], state: str
) -> None:
    found = study_state([JobState(job) for job in jobs], [DeliveryState(item) for item in deliveries])
    assert found == StudyState(state)


def test_a_database_error_does_not_quote_the_patient(database: Database) -> None:
    def write_twice() -> None:
        with database.write() as session:
            for _ in range(2):
                session.add(
                    Study(
                        study_instance_uid="1",
                        patient_id="SECRET",
                        first_received_at=NOW,
                        last_received_at=NOW,
                    )
                )

    with pytest.raises(IntegrityError) as caught:
        write_twice()
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql+psycopg://u:secret@host:abc/name", "secret", "sqlite//secret"])
def test_a_url_that_is_none_is_said_without_its_password(url: str) -> None:
    with pytest.raises(DatabaseNotReady, match="database_url") as raised:
        Database(url)
    assert "secret" not in str(raised.value)


def test_a_kept_lease_is_renewed_in_its_second_half_only(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("dicom_node.store.leases.time.monotonic", lambda: now)
    asked: list[str] = []
    acquire = leases.acquire
    monkeypatch.setattr(leases, "acquire", lambda *given: asked.append(given[2]) or acquire(*given))
    ours, theirs = (leases.KeptLease(database, "work", owner, 60.0) for owner in ("us", "them"))
    assert [ours.holds(), theirs.holds(), ours.holds(), theirs.holds()] == [True, False, True, False]
    now += 29
    assert ours.holds()
    assert asked == ["us", "them"]
    now += 2
    assert (ours.holds(), theirs.holds()) == (True, False)
    assert asked == ["us", "them", "us", "them"]


def test_an_event_that_was_rolled_back_is_not_logged(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"), pytest.raises(RuntimeError), database.write() as session:
        record(session, JOB_STARTED, None, job=7)
        raise RuntimeError("the disk is full")
    assert not caplog.text
