"""The contract of the job queue on every database, procrastinate as its engine, and who comes first."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from itertools import chain, combinations_with_replacement, product, repeat
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
from procrastinate import PsycopgConnector
from procrastinate.jobs import Status
from procrastinate.manager import JobManager
from procrastinate.schema import SchemaManager
from sqlalchemy import text
from sqlalchemy.orm import Session

from dicom_node.base.errors import JobCancelled, LeaseLost, NotAllowedNow, NotFound
from dicom_node.base.events import EventType
from dicom_node.base.lifecycle import (
    COMMITMENT,
    DELIVERY,
    HELD,
    JOB,
    READ_FROM_WORK,
    STUDY,
    CommitmentState,
    DeliveryState,
    HeldState,
    JobState,
    StudyState,
    study_state,
)
from dicom_node.base.store import tickets
from dicom_node.base.store.database import Database
from dicom_node.base.store.results import place_of_rule
from dicom_node.base.store.tables import Instance, Job, Study
from dicom_node.base.store.transitions import acquire_lease, release_lease, settle_study, utc_now
from dicom_node.jobs.owners import is_dead, new_owner
from dicom_node.jobs.queue import (
    JobQueue,
    cancel,
    enqueue,
    estimated_seconds,
    present_day,
    retry,
)
from dicom_node.jobs.worker import heartbeat
from dicom_node.jobs.worker import run as worker_module
from tests.inbox_lab import Inbox
from tests.modality import ultrasound, ultrasounds
from tests.postgres_lab import POSTGRESQL
from tests.rows import Stored, a_job
from tests.unit.jobs.queue_lab import (
    WORKERS,
    add_job,
    add_study,
    claimed,
    event_numbers,
    job_row,
    lose,
    state_of_study,
)
from tests.unit.jobs.worker_lab import configuration
from tests.unit.receive.objects import changed
from tests.waiting import wait_until


@pytest.fixture
def queue(database: Database) -> JobQueue:
    return JobQueue(database, WORKERS)


def complete(database: Database, queue: JobQueue, job: Job) -> None:
    with database.write() as session:
        queue.complete_if_owner(session, job, JobState.SUCCEEDED)
        settle_study(session, job.study_id)


def test_a_job_exists_only_when_the_callers_transaction_commits(database: Database, queue: JobQueue) -> None:
    study, now = Stored(database).get(Study, add_study(database)), utc_now()
    with pytest.raises(ZeroDivisionError), database.write() as session:
        enqueue(session, a_job(study, JobState.QUEUED, run_at=now, created_at=now))
        raise ZeroDivisionError
    assert queue.claim("me") is None


def test_stat_comes_first_then_the_longest_waiting(database: Database, queue: JobQueue) -> None:
    study = add_study(database)
    for rule, priority, late in (("low", -1, -60), ("first", 0, -30), ("second", 0, -20), ("stat", 1, 0)):
        add_job(database, study, rule, priority=priority, late=late)
    assert [claimed(queue).rule for _ in range(4)] == ["stat", "first", "second", "low"]


def test_a_newer_revision_waits_while_the_older_one_runs(database: Database, queue: JobQueue) -> None:
    study = add_study(database)
    add_job(database, study, revision=1)
    running = claimed(queue)
    newer = add_job(database, study, revision=2)
    assert queue.claim("me") is None
    complete(database, queue, running)
    assert claimed(queue).id == newer


def test_a_job_of_a_study_that_has_a_newer_revision_is_not_put_back(
    database: Database, queue: JobQueue
) -> None:
    study = add_study(database)
    older = add_job(database, study)
    job = claimed(queue)
    with database.write() as session:
        session.get_one(Study, study).revision = 2
    newer = add_job(database, study, revision=2)
    queue.retry_at(job, utc_now() + timedelta(minutes=30), "the disk was full")
    ended = job_row(database, older)
    assert (ended.state, ended.reason) == (JobState.CANCELLED, "replaced by revision 2 of the study")
    assert claimed(queue).id == newer


def test_heartbeats_keep_the_lease_and_show_progress(database: Database, queue: JobQueue) -> None:
    number = add_job(database)
    job = claimed(queue)
    before = job_row(database, number).lease_until
    time.sleep(0.02)
    queue.heartbeat(job, 0.5, "inpainting")
    row = job_row(database, number)
    assert row.lease_until > before
    assert (row.share_done, row.doing) == (0.5, "inpainting")


def test_a_renewal_that_fails_is_not_the_last() -> None:
    renew = Mock(side_effect=chain([MemoryError, OSError], repeat(None)))
    times: Any = {"interval": 0.01, "limit": 60, "grace": 60, "finish": 60, "stopping": threading.Event()}
    with heartbeat.JobHeartbeat(Mock(heartbeat=renew), Mock(), abandon=Mock(), **times):
        wait_until(lambda: renew.call_count > 2, 20, "the next renewal")


@pytest.mark.parametrize(
    ("step", "computed", "counted"),
    [(0.5, 0.5, 60), (0.5, 0.05, 6), (0.5, 0.015, 6), (0.5, 0.0, 60), (30.0, 0.0, 2), (30.0, 3.0, 6)],
    ids=["computes", "tenth of a core", "less", "waits", "stopped", "stopped and goes on"],
)
def test_of_a_worker_that_computes_the_time_counts_that_a_slow_machine_gave_it(
    monkeypatch: pytest.MonkeyPatch, step: float, computed: float, counted: float
) -> None:
    clock = Mock(monotonic=lambda: now[0], process_time=lambda: now[1])
    now = [0.0, 0.0]
    monkeypatch.setattr(heartbeat, "time", clock)
    times: Any = {"interval": 1, "limit": 600, "grace": 60, "finish": 60, "stopping": threading.Event()}
    job = heartbeat.JobHeartbeat(Mock(), Mock(), abandon=Mock(), **times)
    while now[0] < 60:
        now = [now[0] + step, now[1] + computed]
        job._count_time(now[0])
    assert job._used == pytest.approx(counted)


def test_a_job_whose_lease_ended_is_taken_over_and_its_former_owner_can_end_it_no_more(
    database: Database, queue: JobQueue
) -> None:
    number = add_job(database)
    lost = claimed(queue, "elsewhere/1/1/a")
    lose(database, number)
    taken = claimed(queue, "elsewhere/2/1/b")
    assert (taken.id, taken.attempts) == (number, 2)
    for call in (
        lambda: complete(database, queue, lost),
        lambda: queue.heartbeat(lost, 0.9, ""),
        lambda: queue.retry_at(lost, utc_now(), "late"),
        lambda: queue.end(lost, JobState.FAILED, "late"),
    ):
        with pytest.raises(LeaseLost):
            call()
    complete(database, queue, taken)
    assert 3009 in event_numbers(database)


def test_a_clock_put_back_a_day_holds_no_job_and_no_lease(database: Database, queue: JobQueue) -> None:
    a_day_ahead = utc_now() + timedelta(days=1)
    number = add_job(database)
    claimed(queue, "elsewhere/1/1/a")
    lose(database, number, shown_ahead=True)
    queue.retry_at(claimed(queue, "elsewhere/2/1/b"), a_day_ahead, "the disk was full")
    assert claimed(queue, "elsewhere/3/1/c").id == number
    assert acquire_lease(database, "scheduler", "the dead", seconds=86400)
    assert acquire_lease(database, "scheduler", "the living", seconds=15)


def test_the_job_of_a_killed_worker_of_this_machine_is_taken_over_at_once(
    database: Database, queue: JobQueue
) -> None:
    add_job(database)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        owner = f"{new_owner().partition('/')[0]}/{process.pid}/{os.getpid()}/abc"
        claimed(queue, owner)
        assert not is_dead(owner)
        assert queue.reap() == 0
        process.kill()
    assert is_dead(owner)
    assert queue.reap() == 1
    job = claimed(queue)
    assert (job.attempts, job.tries) == (2, 2)


def dead_alone() -> str:
    """The name of a worker that has ended, of a node that lives."""
    process = subprocess.Popen(["true"])
    process.wait()
    return f"{new_owner().partition('/')[0]}/{process.pid}/{os.getpid()}/abc"


def test_a_worker_that_runs_here_is_slow_and_not_lost_and_no_lease_that_ends_counts_as_a_try(
    database: Database, queue: JobQueue
) -> None:
    number = add_job(database, add_study(database))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        job = claimed(queue, f"{new_owner().partition('/')[0]}/{process.pid}/{os.getpid()}/abc")
        ended = utc_now() - timedelta(seconds=5)  # of 60
        Stored(database).put(Job, number, lease_until=ended)
        assert queue.reap() == 0
        queue.heartbeat(job, 0.5, "still at it")
        lose(database, number)
        assert queue.reap() == 1
        for _ in range(5):
            assert claimed(queue, "elsewhere/1/1/x").tries == 1
            lose(database, number)
        process.kill()


def test_a_worker_that_its_node_ends_for_silence_uses_up_no_try(database: Database, queue: JobQueue) -> None:
    add_job(database, add_study(database))
    owner = dead_alone()
    for _ in range(4):
        assert claimed(queue, owner).tries == 1
        queue.give_back_jobs_of(int(owner.split("/")[1]))


def test_a_job_that_was_lost_with_its_whole_node_is_not_blamed(database: Database, queue: JobQueue) -> None:
    add_job(database)
    processes = [subprocess.Popen([sys.executable, "-c", ""]) for _ in range(2)]
    for process in processes:
        process.wait()
    worker, node = (process.pid for process in processes)
    for attempt in range(1, 10):
        job = claimed(queue, f"{new_owner().partition('/')[0]}/{worker}/{node}/abc")
        assert (job.attempts, job.tries, queue.gives_up(job)) == (attempt, 1, False)
        assert queue.reap() == 1


def test_a_failed_attempt_is_tried_again_with_its_reason_and_one_handed_back_is_not_counted(
    database: Database, queue: JobQueue
) -> None:
    study = add_study(database)
    number = add_job(database, study)
    queue.hand_back(claimed(queue))
    job = claimed(queue)
    assert job.tries == 1
    queue.retry_at(job, utc_now() - timedelta(seconds=1), "the disk was full")
    row = job_row(database, number)
    assert (row.state, row.reason) == (JobState.QUEUED, "the disk was full")
    assert state_of_study(database, study) is StudyState.QUEUED
    job = claimed(queue)
    assert (job.attempts, job.tries) == (3, 2)


def test_after_the_last_try_as_many_only_tell_of_it_and_then_the_job_has_failed(
    database: Database, queue: JobQueue
) -> None:
    study = add_study(database)
    number = add_job(database, study)
    for tries in range(1, 7):
        job = claimed(queue, dead_alone())
        assert (job.tries, queue.gives_up(job)) == (tries, tries > 3)
    assert queue.claim("me") is None
    row = job_row(database, number)
    assert row.state is JobState.FAILED
    assert "lost" in row.reason
    assert state_of_study(database, study) is StudyState.FAILED


def test_what_waits_is_cancelled_at_once(database: Database, queue: JobQueue) -> None:
    study = add_study(database)
    number = add_job(database, study)
    Stored(database).write(cancel, number)
    assert job_row(database, number).state is JobState.CANCELLED
    assert state_of_study(database, study) is StudyState.CANCELLED
    assert queue.claim("me") is None
    for wrong, error in ((number, NotAllowedNow), (number + 1000, NotFound)):
        with pytest.raises(error):
            Stored(database).write(cancel, wrong)


def test_what_runs_learns_at_its_heartbeat_that_it_is_cancelled(database: Database, queue: JobQueue) -> None:
    number = add_job(database)
    job = claimed(queue)
    Stored(database).write(cancel, number)
    for call in (lambda: queue.heartbeat(job, 0.1, ""), lambda: complete(database, queue, job)):
        with pytest.raises(JobCancelled):
            call()
    Stored(database).write(queue.complete_if_owner, job, JobState.CANCELLED)
    row = job_row(database, number)
    assert (row.state, row.reason) == (JobState.CANCELLED, "cancelled by a person")


def test_a_person_runs_what_failed_with_all_its_tries_again(database: Database, queue: JobQueue) -> None:
    study = add_study(database)
    number = add_job(database, study)
    for _ in range(3):
        queue.retry_at(claimed(queue), utc_now() - timedelta(seconds=1), "no")
    queue.end(claimed(queue), JobState.FAILED, "no")
    Stored(database).write(retry, number)
    assert state_of_study(database, study) is StudyState.QUEUED
    job = claimed(queue)
    assert (job.attempts, job.tries, queue.gives_up(job)) == (5, 1, False)
    with pytest.raises(NotAllowedNow):
        Stored(database).write(retry, number)


def test_a_lease_has_one_holder_until_it_ends_or_is_given_back(database: Database) -> None:
    take = lambda owner, seconds=60: acquire_lease(database, "scheduler", owner, seconds)
    assert [take("a"), take("a"), take("b")] == [True, True, False]
    release_lease(database, "scheduler", "b")
    assert not take("b")
    release_lease(database, "scheduler", "a")
    assert take("b", 0)
    assert take("a")


POSTGRESQL_ONLY = pytest.mark.parametrize(
    "database", [pytest.param("postgresql", marks=POSTGRESQL)], indirect=True
)


def rows(database: Database, statement: str) -> list[tuple[object, ...]]:
    found = Stored(database).read(lambda session: session.execute(text(statement)).all())
    return [tuple(row) for row in found]


def in_procrastinate(database: Database) -> list[tuple[object, ...]]:
    return rows(database, "SELECT args ->> 'job', status::text FROM procrastinate_jobs ORDER BY id")


async def by_procrastinate(database: Database, call: str, *words: Any, **named: Any) -> Any:
    """What its job manager answers, as another program asks it."""
    connector = PsycopgConnector(conninfo=database.url.set(drivername="postgresql").render_as_string())
    await connector.open_async()
    try:
        return await getattr(JobManager(connector), call)(*words, **named)
    finally:
        await connector.close_async()


@POSTGRESQL_ONLY
def test_a_job_and_its_ticket_come_and_go_in_one_transaction(database: Database, queue: JobQueue) -> None:
    number = add_job(database)
    assert in_procrastinate(database) == [(str(number), "todo")]
    job = claimed(queue)
    assert in_procrastinate(database) == [(str(number), "doing")]
    with pytest.raises(ZeroDivisionError), database.write() as session:
        queue.complete_if_owner(session, job, JobState.SUCCEEDED)
        raise ZeroDivisionError
    assert in_procrastinate(database) == [(str(number), "doing")]
    Stored(database).write(queue.complete_if_owner, job, JobState.SUCCEEDED)
    assert in_procrastinate(database) == []


@POSTGRESQL_ONLY
def test_a_newer_revision_is_not_held_up_by_the_retry_of_an_older_one(
    database: Database, queue: JobQueue
) -> None:
    study = add_study(database)
    old = add_job(database, study)
    queue.retry_at(claimed(queue), utc_now() + timedelta(minutes=30), "the disk was full")
    new = add_job(database, study, revision=2)
    Stored(database).write(cancel, old)
    assert claimed(queue).id == new


@POSTGRESQL_ONLY
def test_procrastinate_alone_would_let_a_former_holder_end_a_job_and_the_fence_does_not(
    database: Database, queue: JobQueue
) -> None:
    """Its jobs have no number of an attempt: whoever knows the job may finish it. Ours have."""
    number = add_job(database)
    former = claimed(queue)
    lose(database, number)
    claimed(queue, "elsewhere/2/1/b")
    with pytest.raises(LeaseLost):
        complete(database, queue, former)
    ticket = job_row(database, number).ticket
    assert ticket is not None
    # What a worker of procrastinate does at its end, in time or late.
    asyncio.run(
        by_procrastinate(database, "finish_job_by_id_async", ticket, Status.SUCCEEDED, delete_job=False)
    )
    assert in_procrastinate(database) == [(str(number), "succeeded")]
    assert job_row(database, number).state is JobState.RUNNING


@POSTGRESQL_ONLY
def test_a_process_that_is_killed_between_its_ticket_and_its_job_loses_no_job(
    database: Database, queue: JobQueue
) -> None:
    number = add_job(database)
    asyncio.run(by_procrastinate(database, "fetch_job", None, None))
    assert queue.claim("elsewhere/1/1/a") is None
    queue.reap()
    assert in_procrastinate(database) == [(str(number), "todo")]
    assert claimed(queue).id == number


@POSTGRESQL_ONLY
def test_the_ticket_that_a_process_could_not_delete_stops_no_other_job_of_its_rule_and_study(
    database: Database, queue: JobQueue
) -> None:
    study = add_study(database)
    add_job(database, study)
    ended = claimed(queue)
    with patch.object(tickets, "_throw_away"):  # it was killed after its commit
        complete(database, queue, ended)
    later = add_job(database, study, revision=2)
    assert queue.claim("elsewhere/1/1/a") is None
    queue.reap()
    assert claimed(queue).id == later


@POSTGRESQL_ONLY
def test_a_ticket_waits_only_once_its_job_is_committed(database: Database, queue: JobQueue) -> None:
    study, now = Stored(database).get(Study, add_study(database)), utc_now()
    with database.write() as session:
        enqueue(session, a_job(study, JobState.QUEUED, run_at=now, created_at=now))
        assert asyncio.run(by_procrastinate(database, "fetch_job", None, None)) is None
    assert claimed(queue).study_id == study.id


@POSTGRESQL_ONLY
def test_a_job_that_somebody_else_changes_is_not_waited_for(database: Database, queue: JobQueue) -> None:
    number, started = add_job(database), time.monotonic()
    with database.write() as session:
        session.get_one(Job, number, with_for_update=True)
        assert queue.claim("elsewhere/1/1/a") is None
        assert time.monotonic() - started < 20
    assert claimed(queue).id == number


def test_a_newer_procrastinate_asks_for_a_migration_of_ours() -> None:
    """A newer procrastinate brings steps of its own: they must become a migration of ours."""
    newest = max(path.name for path in Path(SchemaManager.get_migrations_path()).glob("*.sql"))
    assert newest == "03.04.00_50_post_add_retry_failed_job_procedure.sql"


CINE, FILM = 120.0, 4.0  # seconds of estimated work


def queued(database: Database, seconds: float, came: float, priority: int = 0) -> int:
    """A job of so much work that came so many seconds ago."""
    study = add_study(database, f"{seconds}.{came}")
    return add_job(database, study, late=-came, priority=priority, seconds=seconds)


def order(database: Database) -> list[int]:
    queue, taken = JobQueue(database, WORKERS), []
    while (job := queue.claim("me")) is not None:
        taken.append(job.id)
    return taken


def test_films_overtake_cines_and_no_cine_waits_for_ever(database: Database) -> None:
    starving = queued(database, CINE, came=3600)
    # Far apart: on a busy machine seconds pass between these lines.
    cines = [queued(database, CINE, came=100 + 40 * n) for n in range(3)]
    films = [queued(database, FILM, came=90 - 40 * n) for n in range(3)]
    stat = queued(database, CINE, came=0, priority=1)
    assert order(database) == [stat, starving, *films, *reversed(cines)]


def test_what_is_urgent_or_much_shorter_passes_a_job_that_runs(database: Database) -> None:
    queue = JobQueue(database, WORKERS)
    queued(database, CINE, came=10)
    running = queue.claim("me")
    queued(database, CINE, came=9)
    long = queued(database, 0.7 * CINE, came=8)
    film, low = queued(database, FILM, came=7), queued(database, FILM, came=6, priority=-1)
    stat = queued(database, CINE, came=5, priority=1)
    passed = [queue.claim("me", passing=running) for _ in range(3)]
    assert [job and job.id for job in passed] == [stat, film, None]
    assert {long, low} < set(order(database))


def test_a_film_never_waits_for_a_cine_that_came_first_and_a_cine_at_most_an_hour(database: Database) -> None:
    of_cine = estimated_seconds([{"Rows": "768", "Columns": "1024", "NumberOfFrames": "67"}])
    of_films = estimated_seconds([{"Rows": "4288", "Columns": "3520"}] * 2)
    endless = queued(database, 100 * of_cine, came=3601)
    cine, films = queued(database, of_cine, came=30), queued(database, of_films, came=0)
    worker = JobQueue(database, WORKERS)
    assert [claimed(worker).id for _ in range(3)] == [endless, films, cine]
    first = queued(database, of_cine, came=31)
    running = claimed(worker)
    later = queued(database, of_films, came=1)
    passing = worker.claim("me", passing=running)
    assert passing is not None
    assert (running.id, passing.id) == (first, later)


def test_rules_of_a_study_have_places_that_a_later_job_of_one_does_not_change(database: Database) -> None:
    study = add_study(database, "1.2")
    for revision, rule in enumerate(("clean", "measure", "clean")):
        add_job(database, study, rule, revision=revision)
    with database.read() as session:
        assert [place_of_rule(session, study, rule) for rule in ("clean", "measure")] == [0, 1]


def test_the_estimate_counts_frames_and_pixels_and_trusts_no_header() -> None:
    assert 240 < estimated_seconds([{"Rows": "768", "Columns": "1024", "NumberOfFrames": "300"}]) < 300
    assert estimated_seconds([{"Rows": "9" * 40, "Columns": "none"}, {}]) == pytest.approx(2.0, abs=0.01)


def test_a_job_that_is_running_lets_a_short_one_pass_between_its_steps(
    open_inbox: Callable[..., Inbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_LOOK_SECONDS", -1.0)
    node = open_inbox(configuration())
    node.settle(*ultrasounds("long", 6))
    node.settle(changed(ultrasound("short"), BodyPartExamined="BREAST"))
    long, short = node.jobs()
    assert long.cost_seconds > 4 * short.cost_seconds > 4
    node.put(Job, long.id, turn_at=long.turn_at - timedelta(days=1))
    assert worker_module.Worker(node.settings, node.database).run_once()
    assert [event.fields["job"] for event in node.events(3003)] == [short.id, long.id]
    assert {(job.tries, job.state) for job in node.jobs()} == {(1, JobState.SUCCEEDED)}


def steps(table: Mapping[tuple[Any, EventType], Any], state: Any) -> set[Any]:
    return {after for (before, _), after in table.items() if before == state}


def next_steps(
    jobs: tuple[JobState, ...], deliveries: tuple[DeliveryState, ...]
) -> Iterator[tuple[tuple[JobState, ...], tuple[DeliveryState, ...]]]:
    """Every legal step of one job (with a first delivery of what it made) or of one delivery."""
    for place, job in enumerate(jobs):
        for after in steps(JOB, job):
            moved = (*jobs[:place], after, *jobs[place + 1 :])
            yield moved, deliveries
            if job is JobState.RUNNING and after not in (JobState.QUEUED, JobState.CANCELLED):
                yield moved, (*deliveries, DeliveryState.PENDING)
    for place, delivery in enumerate(deliveries):
        yield from (
            (jobs, (*deliveries[:place], step, *deliveries[place + 1 :]))
            for step in steps(DELIVERY, delivery)
        )


@pytest.mark.parametrize(
    ("table", "states"),
    [
        (STUDY, StudyState),
        (JOB, JobState),
        (DELIVERY, DeliveryState),
        (COMMITMENT, CommitmentState),
        (HELD, HeldState),
    ],
)
def test_every_state_is_reached_by_an_event_or_read_from_work(table: Any, states: Any) -> None:
    first = {
        StudyState.RECEIVING,
        JobState.HELD,
        JobState.QUEUED,
        DeliveryState.PENDING,
        CommitmentState.ASKED,
        HeldState.WAITING,
    }
    assert set(states) - {*table.values()} - first - READ_FROM_WORK == set()
    assert {before for before, _ in table} | {*table.values()} <= set(states)


@pytest.mark.parametrize("number_of_jobs", [0, 1, 2])
@pytest.mark.parametrize("number_of_deliveries", [0, 1, 2])
def test_a_study_can_follow_each_step_of_its_jobs_and_deliveries(
    number_of_jobs: int, number_of_deliveries: int
) -> None:
    for before in product(
        combinations_with_replacement(JobState, number_of_jobs),
        combinations_with_replacement(DeliveryState, number_of_deliveries),
    ):
        for after in next_steps(*before):
            assert {study_state(*before), study_state(*after)} <= READ_FROM_WORK, (before, after)


@pytest.mark.parametrize(
    ("jobs", "deliveries", "state"),
    [
        (
            [JobState.SUCCEEDED, JobState.QUEUED, JobState.RUNNING],
            [DeliveryState.PENDING],
            StudyState.RUNNING,
        ),
        ([JobState.FAILED, JobState.QUEUED], [DeliveryState.PENDING], StudyState.QUEUED),
        (
            [JobState.FAILED],
            [DeliveryState.UNCONFIRMED, DeliveryState.UNASSESSED, DeliveryState.DEAD],
            StudyState.DELIVERING,
        ),
        ([JobState.FAILED], [DeliveryState.UNASSESSED, DeliveryState.DEAD], StudyState.UNASSESSED),
        ([JobState.FAILED, JobState.SUCCEEDED], [DeliveryState.CONFIRMED], StudyState.FAILED),
        ([JobState.SUCCEEDED], [DeliveryState.CONFIRMED, DeliveryState.DEAD], StudyState.FAILED),
        ([JobState.CANCELLED], [], StudyState.CANCELLED),
        ([JobState.CANCELLED, JobState.SUCCEEDED], [DeliveryState.CONFIRMED], StudyState.DELIVERED),
        ([JobState.SUCCEEDED], [DeliveryState.DISCARDED], StudyState.CANCELLED),
        ([JobState.SUCCEEDED], [DeliveryState.DISCARDED, DeliveryState.CONFIRMED], StudyState.DELIVERED),
        ([JobState.CANCELLED, JobState.NOT_APPLICABLE], [], StudyState.NOT_APPLICABLE),
        ([], [], StudyState.NOT_APPLICABLE),
    ],
)
def test_a_study_is_where_the_least_finished_of_its_work_is(
    jobs: list[JobState], deliveries: list[DeliveryState], state: StudyState
) -> None:
    assert study_state(jobs, deliveries) is state


@POSTGRESQL_ONLY
def test_a_ticket_that_is_deleted_while_it_is_put_back_is_no_outage(
    database: Database, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, put_back = add_job(database), tickets._put_back

    def delete_before(session: Session, ticket: int) -> None:
        tickets._throw_away(session, ticket)
        put_back(session, ticket)

    monkeypatch.setattr(tickets, "_put_back", delete_before)
    with database.write() as session:
        session.get(Job, number, with_for_update=True)
        assert queue.claim("elsewhere/1/1/x") is None


def test_claims_at_the_same_time_get_each_job_once(database: Database) -> None:
    study = add_study(database)
    numbers = [add_job(database, study, f"rule{number}") for number in range(12)]
    queue = JobQueue(database, WORKERS.model_copy(update={"lease_seconds": 600.0}))  # none ends meanwhile
    taken: list[int] = []
    deadline = time.monotonic() + 60

    def work(_: int) -> None:
        while len(taken) < len(numbers) and time.monotonic() < deadline:
            if (job := queue.claim("elsewhere/1/1/x")) is not None:
                taken.append(job.id)
                time.sleep(0.005)
                complete(database, queue, job)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert sorted(taken) == numbers


@pytest.mark.parametrize(
    ("zone", "offset", "day"),
    [
        ("America/Los_Angeles", "", 1),
        ("UTC", "-0800", 1),
        ("UTC", "", 2),
        ("UTC", "+0900", 2),
        ("UTC", "x", 2),
    ],
)
def test_the_age_of_a_study_is_counted_by_its_own_and_the_sites_day(
    monkeypatch: pytest.MonkeyPatch, zone: str, offset: str, day: int
) -> None:
    at = datetime(2026, 3, 2, 0, 30, tzinfo=UTC)  # 16:30 in California
    monkeypatch.setattr("dicom_node.jobs.queue.utc_now", lambda: at)
    with monkeypatch.context() as here:
        here.setenv("TZ", zone)
        time.tzset()
        assert present_day([Instance(attributes={"TimezoneOffsetFromUTC": offset})]) == date(2026, 3, day)
    time.tzset()
