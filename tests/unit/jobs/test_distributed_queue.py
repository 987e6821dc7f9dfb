"""procrastinate as the queue's engine in PostgreSQL; what it shares with the lease table: `test_queue.py`."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from procrastinate import jobs as procrastinate_jobs
from procrastinate.schema import SchemaManager
from sqlalchemy import text

from dicom_node import jobs
from dicom_node.errors import LeaseLost
from dicom_node.jobs.queue import JobQueue, LeaseTable
from dicom_node.model.lifecycle import JobState
from dicom_node.store import migrate, tickets
from dicom_node.store.database import Database
from dicom_node.store.tables import Job
from dicom_node.store.transitions import utc_now
from tests.unit.jobs.queue_lab import WORKERS, add_job, add_study, job_row, lose

pytestmark = pytest.mark.debian("postgresql")
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url)
    migrate.upgrade(database)
    yield database
    database.dispose()


@pytest.fixture
def queue(database: Database) -> JobQueue:
    return JobQueue(database, WORKERS)


def rows(database: Database, statement: str) -> list[tuple[object, ...]]:
    with database.read() as session:
        return [tuple(row) for row in session.execute(text(statement))]


def in_procrastinate(database: Database) -> list[tuple[object, ...]]:
    return rows(database, "SELECT args ->> 'job', status::text FROM procrastinate_jobs ORDER BY id")


def test_the_engine_follows_from_the_url_of_the_database(database: Database, tmp_path: Path) -> None:
    embedded = Database(f"sqlite:///{tmp_path / 'node.db'}")
    assert isinstance(JobQueue(embedded, WORKERS)._engine, LeaseTable)
    assert isinstance(JobQueue(database, WORKERS)._engine, tickets.TicketEngine)
    embedded.dispose()


def test_a_job_and_its_ticket_come_and_go_in_one_transaction(database: Database, queue: JobQueue) -> None:
    number = add_job(database, add_study(database))
    assert in_procrastinate(database) == [(str(number), "todo")]
    job = queue.claim("elsewhere/1/1/a")
    assert job is not None
    assert in_procrastinate(database) == [(str(number), "doing")]
    with pytest.raises(ZeroDivisionError), database.write() as session:
        queue.complete_if_owner(session, job, JobState.SUCCEEDED)
        raise ZeroDivisionError
    assert in_procrastinate(database) == [(str(number), "doing")]
    with database.write() as session:
        queue.complete_if_owner(session, job, JobState.SUCCEEDED)
    assert in_procrastinate(database) == []
    assert rows(database, "SELECT id FROM procrastinate_workers") == []


def test_what_is_cancelled_held_or_put_first_leaves_no_ticket_behind(
    database: Database, queue: JobQueue
) -> None:
    study = add_study(database)
    cancelled, other, last = (add_job(database, study, f"rule{n}") for n in range(3))
    add_job(database, study, "held", state=JobState.HELD)
    with database.write() as session:
        jobs.cancel(session, cancelled)
        jobs.put_first(session, last)
    assert in_procrastinate(database) == [(str(other), "todo"), (str(last), "todo")]
    taken = [queue.claim("elsewhere/1/1/a") for _ in range(3)]
    assert [job and job.id for job in taken] == [last, other, None]


def test_a_newer_revision_is_not_held_up_by_the_retry_of_an_older_one(
    database: Database, queue: JobQueue
) -> None:
    study = add_study(database)
    old = add_job(database, study)
    first = queue.claim("elsewhere/1/1/a")
    assert first is not None
    queue.retry_at(first, utc_now() + timedelta(minutes=30), "the disk was full")
    new = add_job(database, study, revision=2)
    with database.write() as session:
        jobs.cancel(session, old)
    job = queue.claim("elsewhere/1/1/a")
    assert job is not None and job.id == new


def test_procrastinate_alone_would_let_a_former_holder_end_a_job_and_the_fence_does_not(
    database: Database, queue: JobQueue
) -> None:
    """Its jobs have no number of an attempt: whoever knows the job may finish it. Ours have."""
    number = add_job(database, add_study(database))
    former = queue.claim("elsewhere/1/1/a")
    ticket = job_row(database, number).ticket
    lose(database, number)
    assert former is not None and ticket is not None and queue.claim("elsewhere/2/1/b") is not None
    with pytest.raises(LeaseLost), database.write() as session:
        queue.complete_if_owner(session, former, JobState.SUCCEEDED)
    ticket = job_row(database, number).ticket
    assert ticket is not None
    with database.write() as session:  # what a worker of procrastinate does at its end, in time or late
        done = tickets._manager(session).finish_job_by_id_async(
            ticket, procrastinate_jobs.Status.SUCCEEDED, delete_job=False
        )
        tickets._run(done)
    assert in_procrastinate(database) == [(str(number), "succeeded")]
    assert job_row(database, number).state is JobState.RUNNING


def test_a_queued_job_without_ticket_gets_one(database: Database, queue: JobQueue) -> None:
    """Of a database of a former version, or whose tickets somebody deleted."""
    study = add_study(database)
    numbers = [add_job(database, study, f"rule{n}") for n in range(3)]
    with database.write() as session:
        session.get_one(Job, numbers[0]).ticket = None
        session.execute(
            text("DELETE FROM procrastinate_jobs WHERE args ->> 'job' = :n"), {"n": str(numbers[1])}
        )
        session.execute(text("UPDATE procrastinate_jobs SET scheduled_at = now() + interval '1 day'"))
    queue.reap()
    taken = [queue.claim("elsewhere/1/1/a") for _ in range(4)]
    assert [job and job.id for job in taken] == [*numbers, None]
    assert rows(database, "SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'") == [(0,)]


def test_a_ticket_that_its_job_does_not_name_is_thrown_away(database: Database, queue: JobQueue) -> None:
    study = add_study(database)
    done, waiting = add_job(database, study, "first", late=-60), add_job(database, study, "second")
    job = queue.claim("elsewhere/1/1/a")
    assert job is not None and job.id == done
    with database.write() as session:
        queue.complete_if_owner(session, job, JobState.SUCCEEDED)
        tickets._offer(session, session.get_one(Job, done))
    assert in_procrastinate(database) == [(str(waiting), "todo"), (str(done), "todo")]
    job = queue.claim("elsewhere/1/1/a")
    assert job is not None and job.id == waiting
    assert in_procrastinate(database) == [(str(waiting), "doing")]


def test_a_job_that_somebody_else_changes_is_not_waited_for(database: Database, queue: JobQueue) -> None:
    study = add_study(database)
    number = add_job(database, study)
    with database.write() as session:
        session.get_one(Job, number, with_for_update=True)
        started = time.monotonic()
        assert queue.claim("elsewhere/1/1/a") is None
        assert time.monotonic() - started < 20
    job = queue.claim("elsewhere/1/1/a")
    assert job is not None and job.id == number


def test_the_job_of_a_worker_of_another_machine_that_was_killed_is_taken_over_within_30_seconds(
    database: Database,
) -> None:
    """By its heartbeat alone: nobody here can know whether a process of another machine lives."""
    queue = JobQueue(database, WORKERS.model_copy(update={"lease_seconds": 3.0}))
    number = add_job(database, add_study(database))
    url = database.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "tests.unit.jobs.queue_lab", url, "600", "elsewhere/1/1/a"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as worker:
        assert worker.stdout is not None
        assert [worker.stdout.readline(), worker.stdout.readline()] == ["ready\n", f"claimed {number}\n"]
        time.sleep(4)
        assert queue.claim("elsewhere/2/1/b") is None  # it is at work, and shows it
        worker.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        while (job := queue.claim("elsewhere/2/1/b")) is None and time.monotonic() - killed < 30:
            time.sleep(0.1)
    assert job is not None and (job.id, job.attempt, job.tries) == (number, 2, 2)


def test_the_tables_of_procrastinate_are_those_of_our_migration() -> None:
    """A newer procrastinate brings steps of its own: they must become a migration of ours."""
    newest = max(path.name for path in Path(SchemaManager.get_migrations_path()).glob("*.sql"))
    assert newest == "03.04.00_50_post_add_retry_failed_job_procedure.sql"
