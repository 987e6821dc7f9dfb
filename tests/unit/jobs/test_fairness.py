"""Short jobs overtake long ones, the urgent go first, none starves, and a long job lets short ones pass."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from dicom_node import jobs
from dicom_node.errors import NotAllowedNow
from dicom_node.jobs.queue import JobQueue, estimated_seconds
from dicom_node.jobs.worker import process as worker_module
from dicom_node.jobs.worker.process import Worker
from dicom_node.model.lifecycle import JobState
from dicom_node.store.database import Database
from dicom_node.store.queue import expected_waits
from dicom_node.store.tables import Job
from dicom_node.store.transitions import utc_now
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.inbox.objects import changed
from tests.unit.jobs.queue_lab import WORKERS, add_job, add_study, job_row
from tests.unit.jobs.worker_lab import configuration, register

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
    half = queued(database, CINE / 2, came=8)
    film, low = queued(database, FILM, came=7), queued(database, FILM, came=6, priority=-1)
    stat = queued(database, CINE, came=5, priority=1)
    passed = [queue.claim("me", passing=running) for _ in range(3)]
    assert [job and job.id for job in passed] == [stat, film, None]
    assert {half, low} < set(order(database))


def test_a_person_puts_a_job_first_that_waits(database: Database) -> None:
    films = [queued(database, FILM, came=10), queued(database, FILM, came=9, priority=1)]
    cine = queued(database, CINE, came=0)
    with database.write() as session:
        jobs.put_first(session, cine)
    assert order(database) == [cine, films[1], films[0]]
    with database.write() as session, pytest.raises(NotAllowedNow):
        jobs.put_first(session, cine)


def test_the_expected_wait_is_the_work_before_it_at_the_pace_of_the_last_jobs(database: Database) -> None:
    done = queued(database, 10.0, came=500)
    now = utc_now()
    with database.write() as session:
        ended = {"state": JobState.SUCCEEDED, "started_at": now - timedelta(seconds=20), "finished_at": now}
        session.execute(update(Job).where(Job.id == done).values(**ended))
    film, cine = queued(database, FILM, came=1), queued(database, CINE, came=2)
    last = queued(database, CINE, came=1)
    with database.read() as session:
        assert expected_waits(session, 2) == {film: 0.0, cine: FILM, last: FILM + CINE}


def test_the_estimate_counts_frames_and_pixels_and_trusts_no_header() -> None:
    cine = {"Rows": "768", "Columns": "1024", "NumberOfFrames": "300"}
    assert 100 < estimated_seconds([cine]) < 150
    assert estimated_seconds([{"Rows": "9" * 40, "Columns": "none"}, {}]) == pytest.approx(2.0, abs=0.01)


def test_a_job_that_is_running_lets_a_short_one_pass_between_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register()
    monkeypatch.setattr(worker_module, "_LOOK_SECONDS", -1.0)
    node = Inbox(tmp_path / "var", configuration())
    node.receive(*(ultrasound("long", number=number) for number in range(1, 7)))
    node.settle()
    node.receive(changed(ultrasound("short"), BodyPartExamined="BREAST"))
    node.settle()
    long, short = node.jobs()
    assert long.cost_seconds > 4 * short.cost_seconds > 4
    with node.database.write() as session:
        session.get_one(Job, long.id).turn_at -= timedelta(days=1)
    assert Worker(node.settings, node.database).run_once()
    ended = [event.fields["job"] for event in node.events() if event.number == 3003]
    assert ended == [short.id, long.id]
    assert {job.tries for job in node.jobs()} == {1}
    assert job_row(node.database, long.id).state is JobState.SUCCEEDED
    node.close()
