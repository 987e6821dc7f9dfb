"""The network between a worker and the database is cut while it has a job, and comes back later."""

from __future__ import annotations

import time

import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.errors import LeaseLost
from dicom_node.jobs.queue import ClaimedJob, JobQueue
from dicom_node.model.lifecycle import JobState
from dicom_node.store import migrate
from dicom_node.store.database import Database
from tests.hostile.valve import Valve, valve_before
from tests.unit.jobs.queue_lab import WORKERS, add_job, add_study, event_numbers, job_row
from tests.waiting import wait_until


def claim(queue: JobQueue, owner: str) -> ClaimedJob:
    job = queue.claim(owner)
    assert job is not None
    return job


def cut_off(postgres_url: str, valve: Valve) -> Database:
    """The database, by way of the valve."""
    return Database(make_url(postgres_url).set(port=valve.port).render_as_string(hide_password=False))


@pytest.mark.debian("postgresql")
def test_the_job_of_a_worker_without_network_is_taken_over_and_ends_once(postgres_url: str) -> None:
    here = Database(postgres_url)
    migrate.upgrade(here)
    number = add_job(here, add_study(here))
    port = make_url(postgres_url).port
    assert port
    with valve_before(port) as valve:
        away = cut_off(postgres_url, valve)
        lonely, other = JobQueue(away, WORKERS), JobQueue(here, WORKERS)
        job = claim(lonely, "elsewhere/1/1/a")
        lonely.heartbeat(job, 0.1, "works")
        assert other.claim("elsewhere/2/1/b") is None
        valve.cut()
        begun = time.monotonic()
        with pytest.raises(SQLAlchemyError):
            lonely.heartbeat(job, 0.2, "works")
        assert time.monotonic() - begun < 30, "it waits for an answer"
        wait_until(lambda: other.reap() == 1, 10 * WORKERS.lease_seconds, "its job is taken back")
        taken = claim(other, "elsewhere/2/1/b")
        assert (taken.id, taken.attempt) == (number, 2)

        valve.mend()
        with pytest.raises(LeaseLost):
            lonely.heartbeat(job, 0.3, "works")
        with pytest.raises(LeaseLost), away.write() as session:
            lonely.complete_if_owner(session, job, JobState.SUCCEEDED)
        with here.write() as session:
            other.complete_if_owner(session, taken, JobState.SUCCEEDED)
        away.dispose()
    assert job_row(here, number).state is JobState.SUCCEEDED
    assert event_numbers(here).count(3003) == 1
    assert event_numbers(here).count(3009) == 1
    here.dispose()
