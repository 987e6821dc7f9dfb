"""The contract of the job queue: every implementation keeps it, on every database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from dicom_node import jobs
from dicom_node.errors import JobCancelled, LeaseLost, NotAllowedNow, NotFound
from dicom_node.jobs.lease import is_dead, new_owner
from dicom_node.jobs.queue import ClaimedJob, JobQueue, enqueue
from dicom_node.model.lifecycle import JobState, StudyState
from dicom_node.store import leases
from dicom_node.store.database import Database
from dicom_node.store.tables import Job, Study
from dicom_node.store.transitions import settle_study, utc_now
from tests.unit.jobs.queue_lab import (
    WORKERS,
    add_job,
    add_study,
    event_numbers,
    job_row,
    lose,
    study_state,
)
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def queue(database: Database) -> JobQueue:
    return JobQueue(database, WORKERS)


def complete(database: Database, queue: JobQueue, job: ClaimedJob) -> None:
    with database.write() as session:
        queue.complete_if_owner(session, job, JobState.SUCCEEDED)
        settle_study(session, job.study_id)


def _cancel(database: Database, number: int) -> None:
    with database.write() as session:
        jobs.cancel(session, number)


def claimed(queue: JobQueue, owner: str = "elsewhere/1/1/x") -> ClaimedJob:
    job = queue.claim(owner)
    assert job is not None
    return job


def test_an_empty_queue_gives_nothing(queue: JobQueue) -> None:
    assert queue.claim("me") is None


def test_a_job_is_claimed_once_and_completed_once(database: Database, queue: JobQueue) -> None:
    study = add_study(database)
    number = add_job(database, study)
    job = claimed(queue)
    assert (job.id, job.attempt, job.tries) == (number, 1, 1)
    assert queue.claim("another") is None
    assert study_state(database, study) is StudyState.RUNNING
    complete(database, queue, job)
    assert job_row(database, number).state is JobState.SUCCEEDED
    assert study_state(database, study) is StudyState.DELIVERED
    with pytest.raises(LeaseLost):
        complete(database, queue, job)


def test_a_job_exists_only_when_the_callers_transaction_commits(database: Database, queue: JobQueue) -> None:
    study = add_study(database)
    with pytest.raises(ZeroDivisionError), database.write() as session:
        now = utc_now()
        enqueue(
            session,
            Job(
                study_id=study,
                study_revision=1,
                rule="r",
                pipeline="p",
                destinations=[],
                source_uids=[],
                state=JobState.QUEUED,
                run_at=now,
                created_at=now,
                reason="",
            ),
        )
        raise ZeroDivisionError
    assert queue.claim("me") is None


def test_stat_comes_first_then_the_longest_waiting(database: Database, queue: JobQueue) -> None:
    study = add_study(database)
    low = add_job(database, study, "low", priority=-1, late=-60)
    first = add_job(database, study, "first", late=-30)
    second = add_job(database, study, "second", late=-20)
    stat = add_job(database, study, "stat", priority=1)
    assert [claimed(queue).id for _ in range(4)] == [stat, first, second, low]


def test_a_job_waits_until_its_time(database: Database, queue: JobQueue) -> None:
    add_job(database, add_study(database), late=60)
    assert queue.claim("me") is None


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
    assert (ended.state, ended.reason) == (JobState.CANCELLED, "superseded by revision 2")
    assert claimed(queue).id == newer


def test_heartbeats_keep_the_lease_and_show_progress(database: Database, queue: JobQueue) -> None:
    number = add_job(database, add_study(database))
    job = claimed(queue)
    before = job_row(database, number).lease_until
    time.sleep(0.02)
    queue.heartbeat(job, 0.5, "inpainting")
    row = job_row(database, number)
    assert before is not None and row.lease_until is not None and row.lease_until > before
    assert (row.share_done, row.doing) == (0.5, "inpainting")


def test_a_job_whose_lease_ended_is_taken_over_and_its_former_owner_can_end_it_no_more(
    database: Database, queue: JobQueue
) -> None:
    number = add_job(database, add_study(database))
    lost = claimed(queue, "elsewhere/1/1/a")
    lose(database, number)
    taken = claimed(queue, "elsewhere/2/1/b")
    assert (taken.id, taken.attempt) == (number, 2)
    for call in (
        lambda: complete(database, queue, lost),
        lambda: queue.heartbeat(lost, 0.9, ""),
        lambda: queue.retry_at(lost, utc_now(), "late"),
        lambda: queue.fail(lost, "late"),
    ):
        with pytest.raises(LeaseLost):
            call()
    complete(database, queue, taken)
    assert 3009 in event_numbers(database)


def test_a_clock_put_back_a_day_holds_no_job_and_no_lease(database: Database, queue: JobQueue) -> None:
    a_day_ahead = utc_now() + timedelta(days=1)
    number = add_job(database, add_study(database))
    claimed(queue, "elsewhere/1/1/a")
    lose(database, number, shown_ahead=True)
    taken = claimed(queue, "elsewhere/2/1/b")
    queue.retry_at(taken, a_day_ahead, "the disk was full")
    assert claimed(queue, "elsewhere/3/1/c").id == number
    assert leases.acquire(database, "scheduler", "the dead", seconds=86400)
    assert leases.acquire(database, "scheduler", "the living", seconds=15)


def test_the_same_owner_cannot_end_an_older_attempt(database: Database, queue: JobQueue) -> None:
    number = add_job(database, add_study(database))
    lost = claimed(queue)
    lose(database, number)
    claimed(queue)
    with pytest.raises(LeaseLost):
        complete(database, queue, lost)


def test_the_job_of_a_killed_worker_of_this_machine_is_taken_over_at_once(
    database: Database, queue: JobQueue
) -> None:
    add_job(database, add_study(database))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        owner = f"{new_owner().partition('/')[0]}/{process.pid}/{os.getpid()}/abc"
        claimed(queue, owner)
        assert not is_dead(owner)
        assert queue.reap() == 0
        process.kill()
    assert is_dead(owner)
    assert queue.reap() == 1
    job = claimed(queue)
    assert (job.attempt, job.tries) == (2, 2)


def test_a_job_that_was_lost_with_its_whole_node_is_not_blamed(database: Database, queue: JobQueue) -> None:
    add_job(database, add_study(database))
    processes = [subprocess.Popen([sys.executable, "-c", ""]) for _ in range(2)]
    for process in processes:
        process.wait()
    worker, node = (process.pid for process in processes)
    for attempt in range(1, 10):
        job = claimed(queue, f"{new_owner().partition('/')[0]}/{worker}/{node}/abc")
        assert (job.attempt, job.tries, job.gives_up) == (attempt, 1, False)
        assert queue.reap() == 1


def test_a_process_of_another_machine_is_never_taken_for_dead() -> None:
    assert not is_dead("another-machine/999999/999998/abc")
    assert not is_dead(new_owner())
    assert len(new_owner()) <= 64


def test_a_failed_attempt_is_tried_again_with_its_reason(database: Database, queue: JobQueue) -> None:
    study = add_study(database)
    number = add_job(database, study)
    queue.retry_at(claimed(queue), utc_now() - timedelta(seconds=1), "the disk was full")
    row = job_row(database, number)
    assert (row.state, row.reason) == (JobState.QUEUED, "the disk was full")
    assert study_state(database, study) is StudyState.QUEUED
    assert claimed(queue).tries == 2


def test_waits_between_attempts_double() -> None:
    queue = JobQueue.__new__(JobQueue)
    queue._retry_seconds = 5
    assert [queue.retry_delay(tries).total_seconds() for tries in (1, 2, 3, 30)] == [5, 10, 20, 3600]


def test_a_job_handed_back_is_not_counted(database: Database, queue: JobQueue) -> None:
    number = add_job(database, add_study(database))
    queue.hand_back(claimed(queue))
    job = claimed(queue)
    assert (job.id, job.attempt, job.tries) == (number, 2, 1)


def test_after_the_last_try_as_many_only_tell_of_it_and_then_the_job_has_failed(
    database: Database, queue: JobQueue
) -> None:
    study = add_study(database)
    number = add_job(database, study)
    for tries in (1, 2, 3):
        job = claimed(queue)
        assert (job.tries, job.gives_up) == (tries, False)
        lose(database, number)
    for tries in (4, 5, 6):
        job = claimed(queue)
        assert (job.tries, job.gives_up) == (tries, True)
        lose(database, number)
    assert queue.claim("me") is None
    row = job_row(database, number)
    assert row.state is JobState.FAILED and "lost" in row.reason
    assert study_state(database, study) is StudyState.FAILED


def test_what_waits_is_cancelled_at_once(database: Database, queue: JobQueue) -> None:
    study = add_study(database)
    number = add_job(database, study)
    _cancel(database, number)
    assert job_row(database, number).state is JobState.CANCELLED
    assert study_state(database, study) is StudyState.CANCELLED
    assert queue.claim("me") is None
    with pytest.raises(NotAllowedNow):
        _cancel(database, number)
    with pytest.raises(NotFound):
        _cancel(database, number + 1000)


def test_what_was_held_can_be_cancelled_too(database: Database, queue: JobQueue) -> None:
    study = add_study(database)
    number = add_job(database, study, state=JobState.HELD)
    with database.write() as session:
        settle_study(session, study)
    assert study_state(database, study) is StudyState.NOT_APPLICABLE
    _cancel(database, number)
    assert study_state(database, study) is StudyState.CANCELLED


def test_what_runs_learns_at_its_heartbeat_that_it_is_cancelled(database: Database, queue: JobQueue) -> None:
    number = add_job(database, add_study(database))
    job = claimed(queue)
    _cancel(database, number)
    with pytest.raises(JobCancelled):
        queue.heartbeat(job, 0.1, "")
    with pytest.raises(JobCancelled):
        complete(database, queue, job)
    with database.write() as session:
        queue.complete_if_owner(session, job, JobState.CANCELLED)
    row = job_row(database, number)
    assert (row.state, row.reason) == (JobState.CANCELLED, "cancelled by a person")


def test_a_cancelled_job_of_a_dead_worker_is_not_tried_again(database: Database, queue: JobQueue) -> None:
    number = add_job(database, add_study(database))
    claimed(queue)
    _cancel(database, number)
    lose(database, number)
    assert queue.reap() == 1
    assert job_row(database, number).state is JobState.CANCELLED


def test_a_person_runs_what_failed_with_all_its_tries_again(database: Database, queue: JobQueue) -> None:
    study = add_study(database)
    number = add_job(database, study)
    for _ in range(3):
        queue.retry_at(claimed(queue), utc_now() - timedelta(seconds=1), "no")
    queue.fail(claimed(queue), "no")
    with database.write() as session:
        jobs.retry(session, number)
    assert study_state(database, study) is StudyState.QUEUED
    job = claimed(queue)
    assert (job.attempt, job.tries, job.gives_up) == (5, 1, False)
    with pytest.raises(NotAllowedNow), database.write() as session:
        jobs.retry(session, number)


def test_a_held_job_runs_by_hand(database: Database, queue: JobQueue) -> None:
    number = add_job(database, add_study(database), state=JobState.HELD)
    assert queue.claim("me") is None
    with database.write() as session:
        jobs.retry(session, number)
    assert claimed(queue).id == number


def test_many_claimers_at_once_get_each_job_once(database: Database) -> None:
    queue = JobQueue(database, WORKERS.model_copy(update={"lease_seconds": 600}))  # none ends meanwhile
    study = add_study(database)
    numbers = [add_job(database, study, f"rule{n}") for n in range(24)]
    got: list[int] = []

    def take() -> None:
        while (job := queue.claim("elsewhere/1/1/x")) is not None:
            got.append(job.id)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == numbers


def test_a_killed_worker_loses_no_job_and_none_is_completed_twice(database: Database) -> None:
    study = add_study(database)
    numbers = [add_job(database, study, f"rule{n}") for n in range(30)]
    url = database.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "tests.unit.jobs.queue_lab", url, "0.1"]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    victim, survivor = start(), start()
    assert victim.stdout is not None
    seen = [line for line, _ in zip(victim.stdout, range(6), strict=False)]
    while not seen[-1].startswith("claimed"):  # killed in the middle of a job
        seen.append(victim.stdout.readline())
    os.kill(victim.pid, signal.SIGKILL)
    seen += victim.stdout.readlines()
    victim.wait()
    again = start()
    try:
        states = lambda: [job_row(database, number).state for number in numbers]
        wait_until(lambda: set(states()) == {JobState.SUCCEEDED}, what="all jobs done", progress=states)
    finally:
        for process in (survivor, again):
            process.kill()
    for process in (survivor, again):
        assert process.stdout is not None
        seen += process.stdout.readlines()
        process.wait()
        process.stdout.close()
    victim.stdout.close()
    completed = Counter(line.split()[1] for line in seen if line.startswith("completed"))
    assert max(completed.values()) == 1
    # A process may die between its commit and its print: the victim, and whichever did the last job.
    assert len(completed) >= len(numbers) - 2
    assert study_state(database, study) is StudyState.DELIVERED


def test_a_lease_has_one_holder_until_it_ends_or_is_given_back(database: Database) -> None:
    assert leases.acquire(database, "scheduler", "a", 60)
    assert leases.acquire(database, "scheduler", "a", 60)
    assert not leases.acquire(database, "scheduler", "b", 60)
    leases.release(database, "scheduler", "b")
    assert not leases.acquire(database, "scheduler", "b", 60)
    leases.release(database, "scheduler", "a")
    assert leases.acquire(database, "scheduler", "b", 0)
    assert leases.acquire(database, "scheduler", "a", 60)
