"""Which jobs a node's workers take, and how many of a pipeline run at the same time on a site."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from dicom_node.jobs.queue import JobQueue
from dicom_node.model.lifecycle import JobState
from dicom_node.store import queue as table
from dicom_node.store.database import Database
from dicom_node.store.transitions import utc_now
from tests.unit.jobs.queue_lab import WORKERS, add_job, add_study


def taking(database: Database, *pipelines: str, at_once: Mapping[str, int] | None = None) -> JobQueue:
    given = {"pipelines": pipelines, "at_once": at_once or {}, "lease_seconds": 600.0}
    return JobQueue(database, WORKERS.model_copy(update=given))


def claimed(queue: JobQueue) -> str:
    job = queue.claim("elsewhere/1/1/x")
    return job.pipeline if job else ""


def test_a_node_takes_jobs_of_its_pipelines_only(database: Database) -> None:
    study = add_study(database)
    for number, pipeline in enumerate(["chest_xray", "ultrasound", "chest_xray"]):
        add_job(database, study, f"rule{number}", pipeline=pipeline)
    scans, films = taking(database, "ultrasound", "ovarian"), taking(database, "chest_xray")
    assert [claimed(scans), claimed(scans)] == ["ultrasound", ""]
    with database.read() as session:
        assert not table.work(session, utc_now(), WORKERS.model_copy(update={"pipelines": ("ovarian",)})).free
    assert [claimed(films), claimed(films), claimed(films)] == ["chest_xray", "chest_xray", ""]


def test_a_stat_job_of_a_full_pipeline_waits_and_others_go_before_it(database: Database) -> None:
    study = add_study(database)
    queue = taking(database, at_once={"ultrasound": 1})
    add_job(database, study, "first")
    running = queue.claim("elsewhere/1/1/x")
    add_job(database, study, "stat", priority=1)
    add_job(database, study, "film", pipeline="chest_xray")
    assert [claimed(queue), claimed(queue)] == ["chest_xray", ""]
    assert running is not None
    with database.write() as session:
        queue.complete_if_owner(session, running, JobState.SUCCEEDED)
    assert claimed(queue) == "ultrasound"


def test_claims_at_the_same_time_do_not_exceed_what_may_run_at_once(database: Database) -> None:
    study = add_study(database)
    for number in range(12):
        add_job(database, study, f"rule{number}")
    queue, running, seen = taking(database, at_once={"ultrasound": 2}), [0], []
    together, lock = threading.Barrier(4), threading.Lock()

    def work() -> None:
        together.wait()
        deadline = time.monotonic() + 60
        while len(seen) < 12 and time.monotonic() < deadline:
            job = queue.claim("elsewhere/1/1/x")
            if job is None:
                time.sleep(0.005)
                continue
            with lock:
                running[0] += 1
                seen.append(running[0])
            time.sleep(0.005)
            with lock:
                running[0] -= 1
            with database.write() as session:
                queue.complete_if_owner(session, job, JobState.SUCCEEDED)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 12 and max(seen) <= 2
