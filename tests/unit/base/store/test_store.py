"""The database: migrations, moves, wake-ups, rights, and servers that are away or lie."""

import errno
import hashlib
import os
import re
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, date, datetime, timedelta
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Date, DateTime, LargeBinary, MetaData, String, Table, event, func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.orm import Session

from dicom_connectors.notifications.gather import forget_removed
from dicom_connectors.traces.settings import TelemetrySettings
from dicom_node.base import events
from dicom_node.base.config.settings import WorkerSettings
from dicom_node.base.dicom.identity import Patient
from dicom_node.base.errors import CannotRun, NodeError, NotAllowedNow, SchemaOutdated
from dicom_node.base.lifecycle import (
    LIFE_CYCLES,
    READ_FROM_WORK,
    AwaitedState,
    CommitmentState,
    DeliveryState,
    FetchState,
    HeldState,
    JobState,
    RequestedState,
    Role,
    StudyState,
    UserRole,
    WorkitemState,
)
from dicom_node.base.sitekey import PatientNames, path_of
from dicom_node.base.store import transitions, views
from dicom_node.base.store.awaited import AwaitedAnswer
from dicom_node.base.store.database import SHORTEST, Changes, Database, reason_of
from dicom_node.base.store.mapping import Base
from dicom_node.base.store.tables import (
    ClaimedWorkitem,
    Commitment,
    Delivery,
    EventRow,
    Fetch,
    HeldResult,
    Instance,
    Job,
    ReceivedObject,
    RequestedCommitment,
    Study,
    StudyName,
)
from dicom_node.base.store.transitions import (
    OwnEvents,
    acquire_lease,
    move,
    move_held,
    move_study,
    record,
    settle_study_as,
    try_move,
    utc_now,
)
from dicom_node.deliver.commitment_answers import give_up_requests
from dicom_node.deliver.delivery_worker import DeliveryWorker
from dicom_node.deliver.scu import SendReport, SendStatus
from dicom_node.jobs.drift import forget_old, report_drift
from dicom_node.jobs.queue import JobQueue
from dicom_node.jobs.worker.heartbeat import JobHeartbeat
from dicom_node.jobs.worker.run import Worker
from dicom_node.people import preflight, users
from dicom_node.people.disk import forget_past, note_free_space
from dicom_node.people.outbox import send_again
from dicom_node.people.processes import Sign, SignsOfLife, forget_lost
from dicom_node.serve.background import Background, inode
from dicom_node.studies.purging import purge, purge_results
from tests import ROOT
from tests.console_lab import add_users, console_of, quick_hasher
from tests.inbox_lab import Inbox
from tests.modality import ultrasound, ultrasounds
from tests.outbox_lab import PEER, Outbox
from tests.pacs_lab import Pacs, run_pacs
from tests.postgres_lab import POSTGRESQL
from tests.rows import Stored, a_job, a_result, a_study, an_association
from tests.unit.jobs.worker_lab import configuration
from tests.unit.receive.objects import changed
from tests.waiting import wait_until

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def test_the_migrations_make_just_the_tables_of_the_program(filled_database: Database) -> None:
    with filled_database.read() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_an_empty_database_is_brought_up_to_date_once_and_a_foreign_one_is_refused(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(SchemaOutdated, match="the database is empty: run `dicom-node db upgrade`"):
        database.check()
    drawn = []
    for _ in range(2):
        database.upgrade()
        database.check()
        with database.read() as session:
            drawn += session.scalars(text("SELECT drawn FROM installation")).all()
    assert len(drawn) == 2
    assert len(set(drawn)) == 1
    for version, words in (("9999", "newer"), ("0034", "from before release")):
        with database.write() as session:
            session.execute(text(f"UPDATE alembic_version SET version_num = '{version}'"))
        for refuse in (Database.check, Database.upgrade):
            with pytest.raises(CannotRun, match=words):
                refuse(database)
    database.dispose()


@pytest.mark.parametrize(
    ("pragma", "value"), [("journal_mode", "wal"), ("synchronous", 2), ("busy_timeout", 10_000)]
)
def test_sqlite_keeps_an_acknowledged_commit_through_a_power_cut(
    filled_database: Database, pragma: str, value: object
) -> None:
    with filled_database.read() as session:
        assert session.execute(text(f"PRAGMA {pragma}")).scalar_one() == value


def test_times_come_back_aware_and_naive_ones_are_refused(database: Database) -> None:
    stored = Stored(database)
    stored.add(a_study("1.2.3", at=NOW))
    assert stored.column(Study.first_received_at) == [NOW]
    with pytest.raises(Exception, match="without zone"):
        stored.add(a_study("1.9", at=NOW.replace(tzinfo=None)))


def test_of_many_at_once_one_wins_a_move(database: Database) -> None:
    stored = Stored(database)
    stored.add(study := a_study("1.2.3"))
    stored.add(job := a_job(study, JobState.QUEUED))

    def start(_: int) -> bool:
        with database.write() as session:
            row = session.get_one(Job, job.id)
            return row.state is JobState.QUEUED and try_move(session, row, events.JOB_STARTED)

    with ThreadPoolExecutor(4) as racers:
        assert sorted(racers.map(start, range(4))) == [False, False, False, True]


def test_a_move_that_another_process_has_won_is_refused(database: Database) -> None:
    Stored(database).add(study := a_study("1.2.3", StudyState.RECEIVING))
    with database.write() as session, pytest.raises(NotAllowedNow, match="at the same time"):
        row = session.get_one(Study, study.id)
        session.execute(text("UPDATE study SET state = 'complete'"))
        move_study(session, row, events.STUDY_COMPLETE)


def test_a_database_error_does_not_quote_the_patient(database: Database) -> None:
    with pytest.raises(IntegrityError) as caught:
        Stored(database).add(*(a_study("1", patient_id="SECRET") for _ in range(2)))
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql+psycopg://u:secret@host:abc/name", "secret", "sqlite//secret"])
def test_a_url_that_is_none_is_said_without_its_password(url: str) -> None:
    with pytest.raises(CannotRun, match="database_url") as raised:
        Database(url)
    assert "secret" not in str(raised.value)


def test_a_kept_lease_is_renewed_in_its_second_half_only(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    # The module's own name for time: pytest reads the clock of this process, too.
    monkeypatch.setattr(transitions, "time", SimpleNamespace(monotonic=lambda: now))
    asked: list[str] = []
    acquire = acquire_lease
    monkeypatch.setattr(
        transitions, "acquire_lease", lambda *given: asked.append(given[2]) or acquire(*given)
    )
    ours, theirs = (transitions.RenewableLease(database, "work", owner, 60.0) for owner in ("us", "them"))
    assert [ours.keep(), theirs.keep(), ours.keep(), theirs.keep()] == [True, False, True, False]
    now += 29
    assert (ours.keep(), asked) == (True, ["us", "them"])
    now += 2
    assert (ours.keep(), theirs.keep()) == (True, False)
    assert asked == ["us", "them", "us", "them"]


MIGRATIONS = Path(transitions.__file__).parent / "migrations"
CHECKSUMS = Path(__file__).with_name("released.sha256")


def test_the_migration_of_a_release_is_as_it_was_released() -> None:
    released = dict(reversed(line.split()) for line in CHECKSUMS.read_text().splitlines())
    files = sorted((MIGRATIONS / "versions").glob("[0-9]*.py"))
    assert {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.name in released
    } == (released), "write a new migration; make released-schema only before and with a release"
    assert files[0].name in released


@pytest.mark.parametrize("released", [line.split()[1][:4] for line in CHECKSUMS.read_text().splitlines()])
def test_rows_of_every_release_are_read_by_this_program_after_the_upgrade(
    tmp_path: Path, released: str
) -> None:
    database = Database(f"sqlite:///{tmp_path / 'node.db'}")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
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
    database.upgrade()
    database.check()
    with database.read() as session:
        for mapper in Base.registry.mappers:
            rows = session.scalars(select(mapper.class_)).all()
            assert len(rows) == (mapper.local_table in filled or mapper.local_table.name in old.tables)
    database.dispose()


def test_patients_of_the_first_release_get_their_doubts_by_the_upgrade(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'node.db'}")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    old = MetaData()
    with database.alter() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        old.reflect(connection)
        for number, patient_id in enumerate(("UNKNOWN", "4711"), 1):
            patient = str(Patient.from_values(patient_id, "", "Test^One", "19650312", "F")).rpartition(";")[0]
            own = {"id": number, "study_id": number, "patient_id": patient_id, "patient": patient}
            for table in (old.tables["study"], old.tables["instance"]):
                row = {column.name: a_value(table, column) for column in table.columns}
                unique = {"study_instance_uid": f"1.{number}", "sop_instance_uid": f"1.2.{number}"}
                mine = {name: value for name, value in {**own, **unique}.items() if name in row}
                connection.execute(table.insert(), row | mine)
    database.upgrade()
    with database.read() as session:
        doubts = [Patient.parse(text).doubts for text in session.scalars(select(Instance.patient))]
    assert doubts == ["in", "n"]
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


MOVES: dict[str, tuple[type[Any], type[Any], Callable[[Session, Any, events.EventType], object]]] = {
    "study": (Study, StudyState, move_study),
    "job": (Job, JobState, move),
    "delivery": (Delivery, DeliveryState, move),
    "request for storage commitment": (Commitment, CommitmentState, move),
    "storage commitment asked of the node": (RequestedCommitment, RequestedState, move),
    "held result": (HeldResult, HeldState, lambda session, row, event: move_held(session, [row], event)),
    "fetched study": (Fetch, FetchState, move),
    "work item": (ClaimedWorkitem, WorkitemState, move),
    "answer of a vendor's AI": (AwaitedAnswer, AwaitedState, move),
}


@pytest.fixture(scope="module")
def filled_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A study with a job, its result, which is held, a delivery, a request for commitment; a work item."""
    filled_database = Database(f"sqlite:///{tmp_path_factory.mktemp('life') / 'node.db'}")
    filled_database.upgrade()
    stored = Stored(filled_database)
    stored.add(study := a_study("1.2.3", StudyState.RECEIVING))
    stored.add(job := a_job(study, JobState.QUEUED))
    stored.add(result := a_result(job))
    asked = {"asked_at": NOW, "next_at": NOW}
    stored.add(
        Delivery(result_id=result.id, destination="pacs", next_at=NOW),
        Commitment(transaction_uid="2.25.1", destination="pacs", deliveries=[1], asked_at=NOW),
        HeldResult(result_id=result.id, study_id=study.id, since=NOW),
        Fetch(peer="pacs", study_instance_uid="1.2.4", **asked),
        RequestedCommitment(
            peer="us1", calling_ae="US1", transaction_uid="2.25.2", objects=["1.2 1.3"], **asked
        ),
        AwaitedAnswer(
            study_id=study.id,
            job_id=job.id,
            peer="vendor",
            study_instance_uid="1.2.3",
            began_at=NOW,
            limit_at=NOW,
            next_at=NOW,
        ),
        ClaimedWorkitem(
            peer="ris",
            workitem_uid="1.2.5",
            study_instance_uid="1.2.3",
            transaction_uid="1.2.6",
            began_at=NOW,
            checked_at=NOW,
            next_at=NOW,
        ),
    )
    yield filled_database
    filled_database.dispose()


@pytest.mark.parametrize("name", LIFE_CYCLES)
def test_an_event_moves_a_row_as_its_table_says_and_is_written_down_once_or_else_refused(
    filled_database: Database, name: str
) -> None:
    kind, states, move = MOVES[name]
    wrong = []
    with filled_database.write() as session:
        row = session.scalars(select(kind)).one()
        for state, event in product(states, events.all_types()):
            row.state, after, moved = state, LIFE_CYCLES[name].get((state, event)), False
            session.flush()
            last = session.scalar(select(func.max(EventRow.id))) or 0
            with suppress(NodeError):
                move(session, row, event)
                moved = True
            written = list(session.scalars(select(EventRow.number).where(EventRow.id > last)))
            if (moved, row.state, written) != (
                (True, after, [event.number]) if after else (False, state, [])
            ):
                wrong.append((state, event.number, row.state, written))
    assert wrong == []


def test_a_study_that_is_received_or_in_quarantine_is_not_moved_by_its_work(
    filled_database: Database,
) -> None:
    wrong = []
    with filled_database.write() as session:
        row = session.scalars(select(Study)).one()
        for state in StudyState:
            for after in StudyState:
                if state in {StudyState.COMPLETE, *READ_FROM_WORK} and after in READ_FROM_WORK:
                    continue
                row.state = state
                session.flush()
                with suppress(NodeError):
                    settle_study_as(session, row, after)
                    wrong.append((state, after))
    assert wrong == []


LONG = 60.0


def test_an_event_that_another_process_commits_wakes_who_waits(database: Database) -> None:
    ours, theirs = database, Database(database.url.render_as_string(hide_password=False))
    ours.changes.follow(ours.engine)
    wait_until(lambda: ours.changes.pause(LONG, found=False) > 1, 60, "it hears of changes")
    time.sleep(2 * SHORTEST)  # the files of SQLite come to rest
    seen, began = ours.changes.count, time.monotonic()
    waiter = threading.Thread(target=ours.changes.wait, args=(seen, LONG, threading.Event()))
    waiter.start()
    with theirs.write() as session:
        record(session, events.NODE_STARTED, version="1", ae_title="A")
    waiter.join(LONG)
    assert time.monotonic() - began < LONG / 2
    assert ours.changes.count > seen
    theirs.dispose()


def test_who_waits_ends_with_the_stop_or_when_the_time_has_passed() -> None:
    changes, stop = Changes(), threading.Event()
    changes.wait(changes.count, 2 * SHORTEST, stop)
    threading.Timer(SHORTEST, stop.set).start()
    began = time.monotonic()
    changes.wait(changes.count, LONG, stop)
    assert time.monotonic() - began < LONG / 2


def test_pauses_grow_while_nothing_is_found_and_stay_short_where_nobody_announces() -> None:
    changes, pause = Changes(), SHORTEST
    for _ in range(100):
        pause = changes.pause(pause, found=False)
    assert pause == 0.25
    assert changes.pause(pause, found=True) == SHORTEST


def filled(folder: Path, database_url: str = "") -> Outbox:
    """A study of one association, whose results wait for a peer that was tried."""
    outbox = Outbox(folder, [PEER], database_url=database_url)
    outbox.add_study(["pacs"])
    peer = Mock(**{"send.return_value": [SendReport(SendStatus.UNREACHABLE, "", "away")] * 3})
    outbox.worker(open_destination=lambda *_: peer).run_once()
    outbox.add(
        an_association("a", NOW),
        ReceivedObject(
            spool_name="s",
            study_id=1,
            association="a",
            calling_ae="US1",
            called_ae="AINODE",
            path="x",
            outcome="new",
            bytes=1,
            received_at=utc_now(),
        ),
    )
    return outbox


def plans(outbox: Outbox, ask: Callable[[Session], object]) -> dict[str, str]:
    """The plan of each statement of what is asked."""
    asked: dict[str, Any] = {}

    def note(_: object, __: object, statement: str, parameters: Any, *___: object) -> None:
        asked[statement] = parameters

    event.listen(outbox.database.engine, "before_cursor_execute", note)
    outbox.read(ask)
    event.remove(outbox.database.engine, "before_cursor_execute", note)
    with outbox.database.engine.connect() as connection:
        return {
            statement: " | ".join(
                row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            )
            for statement, parameters in asked.items()
            if statement.startswith("SELECT")
        }


def test_events_of_a_study_are_looked_for_by_study_and_time(tmp_path: Path) -> None:
    outbox = filled(tmp_path)
    uid = outbox.rows(Study)[0].study_instance_uid
    found = plans(outbox, lambda session: views.list_events(session, study_instance_uid=uid))
    [plan] = [plan for statement, plan in found.items() if "FROM event" in statement]
    assert "ix_event_study_id" in plan
    assert "ix_event_at" in plan
    assert "SCAN" not in plan
    assert "ix_event_number" not in plan


@POSTGRESQL
def test_events_of_an_open_association_are_found_in_any_time_zone_of_the_server(
    tmp_path: Path, postgres_url: str
) -> None:
    outbox = filled(tmp_path, postgres_url)
    zone = f"ALTER DATABASE {outbox.database.url.database} SET timezone = 'America/New_York'"
    outbox.write(Session.execute, text(zone))
    outbox.database.dispose()  # for connections from now on
    outbox.write(record, events.STORE_REFUSED, association="a")
    shown = outbox.read(views.list_events, study_instance_uid=outbox.rows(Study)[0].study_instance_uid)
    assert events.STORE_REFUSED.number in {row["number"] for row in shown}
    outbox.database.dispose()


def found(inbox: Inbox, asked: str) -> set[str]:
    names = PatientNames(inbox.settings.node.data_dir)
    words = set(names.hashes(asked))
    held = {(row.study_id, row.word) for row in inbox.rows(StudyName)}
    numbers = {number for number, _ in held if words and all((number, word) in held for word in words)}
    return set(inbox.read(names.of, numbers).values())


def test_a_study_is_found_by_words_of_its_patients_name_and_the_database_alone_shows_none(
    inbox: Inbox,
) -> None:
    for number, name in enumerate(("Nowak^Anna", "Nowak^Jan", "Müller^Anna")):
        inbox.receive(changed(ultrasound(f"study {number}"), PatientName=name))
    inbox.settle()
    assert found(inbox, "NOWAK") == {"Nowak^Anna", "Nowak^Jan"}
    assert found(inbox, "anna nowak") == {"Nowak^Anna"}
    assert found(inbox, "muller") == {"Müller^Anna"}
    assert found(inbox, "now ann") == {"Nowak^Anna"}  # beginnings of three letters and more
    assert found(inbox, "no") == found(inbox, "owak") == set()
    with closing(sqlite3.connect(inbox.folder / "node.db")) as database:
        dump = "\n".join(database.iterdump()).casefold()
    assert "nowak" not in dump
    assert b"nowak".hex() not in dump


def test_without_the_key_no_name_is_stored_and_studies_come_all_the_same(
    tmp_path: Path, open_inbox: Callable[..., Inbox]
) -> None:
    path = path_of(tmp_path / "var")
    path.parent.mkdir(mode=0o700, parents=True)
    path.write_text("no key", encoding="utf-8")
    inbox = open_inbox()
    inbox.settle(ultrasound("one"))
    assert inbox.column(Study.sealed_name) == [b""]
    assert found(inbox, "one") == set()


@pytest.mark.parametrize("other", [True, False])
def test_another_key_or_none_opens_no_name(inbox: Inbox, *, other: bool) -> None:
    inbox.settle(changed(ultrasound("one"), PatientName="Nowak^Anna"))
    path = path_of(inbox.settings.node.data_dir)
    path.unlink()
    names = PatientNames(inbox.settings.node.data_dir, make_key=other)
    assert set(inbox.read(names.of, [1]).values()) == {""}
    assert path.exists() == other  # who only reads makes no key


def test_a_job_that_runs_meanwhile_tells_of_it_once(inbox: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    queue = JobQueue(inbox.database, WorkerSettings())
    queue.heartbeat = beat = Mock(side_effect=OperationalError("", {}, Exception("connection refused")))  # type: ignore[method-assign]
    times = {"interval": 0.01, "limit": 60, "grace": 60, "finish": 60}
    with JobHeartbeat(
        queue, Mock(spec=Job, id=1), stopping=threading.Event(), abandon=lambda *_: None, **times
    ):
        wait_until(lambda: beat.call_count >= 5, 60, "five beats")
    assert caplog.messages == ["the database does not answer (OperationalError): its work waits"]


def test_what_failed_without_a_database_is_stored_with_begin_and_end_when_it_is_back(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    say = OwnEvents(inbox.database).say
    background = Background(inbox.database, inbox.settings, Role.ALL, "here", say, inode(inbox.database))
    away = OperationalError("", {}, Exception("connection refused"))
    monkeypatch.setattr("dicom_node.serve.background._FAILED_SECONDS", 0.01)
    monkeypatch.setattr(Database, "write", Mock(side_effect=away))
    tries = iter(range(4))

    def forget_cursors() -> None:
        if next(tries) < 3:
            raise away
        monkeypatch.undo()
        background._stop.set()

    monkeypatch.setattr(background._indexer, "forget_cursors", forget_cursors)
    background._index_and_assemble()
    numbers = (events.INDEXING_FAILED.number, events.INDEXING_BACK.number)
    began, ended = (row for row in inbox.events() if row.number in numbers)
    assert (began.number, ended.number) == numbers
    assert began.fields == {"reason": "the database does not answer (OperationalError)"}
    assert began.at <= ended.at
    assert abs(datetime.fromisoformat(ended.fields["since"]) - began.at) < timedelta(seconds=5)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OperationalError("SELECT 'DOE^JANE'", {}, Exception("DOE^JANE")), "the database does not answer"),
        (IntegrityError("INSERT", {}, Exception("DOE^JANE")), "the database refuses a statement: defect"),
        (OSError(errno.ENOSPC, "DOE^JANE"), "disk: no space left on device"),
        (KeyError("DOE^JANE"), "defect of the node: KeyError"),
    ],
)
def test_the_reason_of_a_failure_is_in_words_and_quotes_nothing(error: Exception, reason: str) -> None:
    said = reason_of(error)
    assert said.startswith(reason)
    assert "DOE" not in said


def warnings(folder: Path, url: str) -> str:
    given = f'node = {{ data_dir = "{folder / "var"}", database_url = "{url}" }}\nworkers.processes = 0\n'
    (folder / "node.toml").write_text(given, encoding="utf-8")
    return "\n".join(
        line.text for line in preflight.check([folder / "node.toml"], tries=True).tried if not line.ok
    )


@POSTGRESQL
def test_a_server_that_forgets_what_it_committed_is_told(postgres_url: str, tmp_path: Path) -> None:
    Database(postgres_url).upgrade()
    assert "fsync and synchronous_commit off" in warnings(tmp_path, postgres_url)
    commits = make_url(postgres_url).update_query_dict({"options": "-csynchronous_commit=on"})
    assert "fsync off" in warnings(tmp_path, str(commits))


@pytest.mark.parametrize(
    ("address", "seconds"),
    [("127.0.0.1/node", 10), ("/node?host=a,b&port=1,2", 5), ("127.0.0.1/node?connect_timeout=3", 3)],
)
def test_several_servers_together_get_the_time_of_one(address: str, seconds: int) -> None:
    """Longer, and the leases of jobs and deliveries would end while it is waited."""
    database = Database(f"postgresql+psycopg://me@{address}")
    connect = Mock(side_effect=ConnectionAbortedError)
    event.listen(database.engine, "do_connect", lambda *asked: connect(**asked[3]))
    with pytest.raises(ConnectionAbortedError):
        database.engine.connect()
    assert int(connect.call_args.kwargs["connect_timeout"]) == seconds


OPTIONS = (socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)


def options_of(url: str) -> tuple[int, ...]:
    """Of the connection's socket, as the kernel has them."""
    database = Database(url)
    with (
        database.engine.connect() as connection,
        socket.socket(fileno=os.dup(connection.connection.driver_connection.fileno())) as line,
    ):
        assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        found = tuple(line.getsockopt(socket.IPPROTO_TCP, option) for option in OPTIONS)
    database.dispose()
    return found


@POSTGRESQL
def test_a_server_that_isolates_more_by_default_is_asked_for_what_locks_need(postgres_url: str) -> None:
    asked = {"options": "-c default_transaction_isolation=serializable"}
    database = Database(str(make_url(postgres_url).update_query_dict(asked)))
    for opened in (database.read, database.write):
        with opened() as session:
            assert session.scalar(text("SHOW transaction_isolation")) == "read committed"
    database.dispose()


@POSTGRESQL
def test_silence_is_noticed_before_a_lease_ends_and_the_url_may_say_otherwise(postgres_url: str) -> None:
    longest, idle, interval, count = options_of(postgres_url)
    assert 0 < longest / 1000 < 15
    assert 0 < idle + interval * count < 15
    patient = make_url(postgres_url).update_query_dict({"tcp_user_timeout": "42000", "keepalives_count": "9"})
    assert options_of(str(patient)) == (42000, idle, interval, 9)


SQL = (ROOT / "config" / "postgres" / "roles.sql").read_text(encoding="utf-8")


ROLES = ("receives", "works", "console")


@pytest.fixture(scope="module")
def urls(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """By role, the URL of one database under a user of that role; "owner": of who made the tables."""
    url = request.getfixturevalue("postgres").new_database()
    database = Database(url)
    database.upgrade()
    with database.write() as session:
        driver = session.connection().connection.driver_connection
        assert driver is not None
        for _ in range(2):  # it may be run again, after an upgrade
            driver.execute(SQL)
        for role in ROLES:
            driver.execute(f"CREATE USER test_{role} IN ROLE dicom_node_{role}")
    as_user = {role: make_url(url).set(username=f"test_{role}") for role in ROLES}
    yield {"owner": url, **{role: found.render_as_string() for role, found in as_user.items()}}
    database.dispose()


def send_traces(node: Inbox) -> None:
    """All that is open; where its package is there, to a real collector."""
    with suppress(ImportError):
        from dicom_connectors.traces.sender import TraceSender
        from tests.collector_lab import running_collector

        with running_collector() as collector:
            telemetry = {"telemetry": TelemetrySettings(endpoint=collector.endpoint)}
            TraceSender(node.database, node.settings.model_copy(update=telemetry), "me").run_once()
            assert collector.refused == 0


def receive_one_and_a_mixed_study(listener: Inbox) -> None:
    """A study of which an image comes late, and one of two patients, which goes into quarantine."""
    listener.opened("1")
    listener.receive(*ultrasounds("one", 2, size=(48, 40)), association="1")
    other = ultrasound("mixed", number=2, size=(48, 40))
    listener.receive(ultrasound("mixed", size=(48, 40)), changed(other, PatientID="SOMEBODY-ELSE"))
    listener.released("1")
    listener.settle()
    listener.settle(ultrasound("one", number=3, size=(48, 40)))
    assert listener.study_of(other).state is StudyState.QUARANTINED


@POSTGRESQL
def test_a_study_goes_its_way_under_these_rights(
    tmp_path: Path, urls: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_pacs(Pacs()) as pacs:
        config = configuration()
        config["peers"][1]["port"] = pacs.port
        config["outbox"] = {"retry_seconds": 0.05, "retry_limit_seconds": 0.2}
        config["spool"] = {**config.get("spool", {}), "result_days": 30}
        listener, worker, console = (Inbox(tmp_path / "var", config, url=urls[role]) for role in ROLES)

        receive_one_and_a_mixed_study(listener)
        JobQueue(worker.database, worker.settings.workers).reap()
        analyses = Worker(worker.settings, worker.database)
        while analyses.run_once():
            pass
        sender = DeliveryWorker(worker.database, worker.settings)

        def all_confirmed() -> bool:
            sender.run_once()
            return set(worker.scalars(select(Delivery.state))) == {DeliveryState.CONFIRMED}

        wait_until(all_confirmed, 60, "all results confirmed")
        report_drift(worker.database, worker.settings)
        for node in (listener, worker):
            life = SignsOfLife(node.database, "here", "me")
            life.report([Sign("main", 1)], ["here"])
            forget_lost(node.database, node.settings)
            life.leave()
            send_traces(node)
            assert acquire_lease(node.database, "a lease", "me", 0)

    monkeypatch.setattr(users, "hasher", quick_hasher)
    add_users(console.settings)
    browser = console_of(console).browser(UserRole.ADMIN)
    [number] = [row.id for row in console.rows(Study) if row.state is StudyState.DELIVERED]
    for page in (
        "/",
        "/studies",
        "/studies?finding=Mass",
        f"/studies/{number}",
        "/jobs",
        "/outbox",
        "/audit",
        "/patients",
        "/reviews",
    ):
        assert browser.get(page) == 200, (page, browser.text)
    with pytest.raises(Exception, match="confirmed already"):
        send_again(console.settings, [console.rows(Delivery)[0].id])

    later = utc_now() + timedelta(days=1000)
    note_free_space(listener.database, listener.settings)
    assert purge(listener.database, listener.settings, later) == 3
    assert purge_results(listener.database, listener.settings, later) > 0
    assert forget_past(listener.database, listener.settings, later) > 0
    forget_old(listener.database, listener.settings, later)
    forget_removed(listener.database, listener.settings)
    give_up_requests(listener.database, listener.settings)
    for node in (listener, worker, console):
        node.close()


@POSTGRESQL
@pytest.mark.parametrize(
    ("role", "statement"),
    [
        *product(
            ROLES,
            (
                "CREATE TABLE other (id int)",
                "DROP TABLE job",
                "TRUNCATE event",
                "DELETE FROM audit",
                "UPDATE audit SET actor = 'nobody'",
                "UPDATE alembic_version SET version_num = '0001'",
            ),
        ),
        ("receives", "SELECT * FROM user_account"),
        ("receives", "SELECT * FROM api_token"),
        ("receives", "INSERT INTO withdrawal (result_id) VALUES (1)"),
        ("works", "SELECT * FROM user_session"),
        ("works", "UPDATE instance SET path = ''"),
        ("works", "DELETE FROM event"),
    ],
)
def test_what_is_not_needed_is_refused(urls: dict[str, str], role: str, statement: str) -> None:
    database = Database(urls[role])
    with pytest.raises(ProgrammingError, match="InsufficientPrivilege"), database.write() as session:
        session.execute(text(statement))
    database.dispose()


def test_every_table_has_its_rights() -> None:
    granted = set(re.findall(r"\w+", SQL.partition("GRANT USAGE")[2]))
    assert {table.name for table in Base.metadata.sorted_tables} - granted == set()
