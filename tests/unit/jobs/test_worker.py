"""Worker processes: ready when warm, stopped cleanly, and no way of dying loses a job."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ai_pipeline import pipelines
from dicom_node import jobs
from dicom_node.jobs.worker.process import Worker
from dicom_node.model.kinds import ResultKind
from dicom_node.model.lifecycle import JobState, StudyState
from dicom_node.store.tables import Job, Result
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.jobs.worker_lab import configuration, register
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def node_with(tmp_path: Path, do: str, **workers: object) -> Iterator[Inbox]:
    """A node without a network that has one study to analyse."""
    node = Inbox(tmp_path / "var", configuration(do, tmp_path / "runs", **workers))
    node.receive(ultrasound(do))
    node.settle()
    yield node
    node.close()


@contextmanager
def worker_of(node: Inbox) -> Iterator[subprocess.Popen[str]]:
    """A worker process, waited for until it says that it is ready."""
    config = node.settings.for_children()
    command = [sys.executable, "-m", "tests.unit.jobs.worker_lab", config]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT
    ) as process:
        try:
            assert process.stdout is not None
            line = next(line for line in process.stdout if line.strip())
            assert json.loads(line)["ready"] is True
            yield process
        finally:
            process.kill()


def the_job(node: Inbox) -> Job:
    return node.jobs()[-1]


def in_state(node: Inbox, state: JobState) -> Callable[[], bool]:
    return lambda: the_job(node).state is state


def test_a_worker_runs_what_is_queued_and_says_in_an_event_that_it_is_ready(tmp_path: Path) -> None:
    with node_with(tmp_path, "find") as node, worker_of(node) as worker:
        wait_until(in_state(node, JobState.SUCCEEDED))
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
        assert 3020 in {row.number for row in node.events()}


def test_sigterm_hands_a_long_job_back_uncounted(tmp_path: Path) -> None:
    with node_with(tmp_path, "sleep") as node, worker_of(node) as worker:
        wait_until(lambda: the_job(node).share_done > 0)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
        job = the_job(node)
        assert (job.state, job.tries, job.attempts) == (JobState.QUEUED, 0, 1)


def test_a_worker_ends_when_its_node_is_gone(tmp_path: Path) -> None:
    with node_with(tmp_path, "sleep") as node, worker_of(node) as worker:
        wait_until(lambda: the_job(node).share_done > 0)
        assert worker.stdin is not None
        worker.stdin.close()  # what the kernel does when the node is killed
        assert worker.wait(60) == 0
        assert the_job(node).state is JobState.QUEUED


def test_a_person_stops_a_running_job(tmp_path: Path) -> None:
    with node_with(tmp_path, "sleep") as node, worker_of(node):
        wait_until(lambda: the_job(node).share_done > 0)
        with node.database.write() as session:
            jobs.cancel(session, the_job(node).id)
        wait_until(in_state(node, JobState.CANCELLED))
        assert the_job(node).reason == "cancelled by a person"


def test_a_worker_killed_in_a_job_is_replaced_without_waiting_for_its_lease(tmp_path: Path) -> None:
    with node_with(tmp_path, "sleep", lease_seconds=600) as node:
        with worker_of(node) as victim:
            wait_until(in_state(node, JobState.RUNNING))
            victim.kill()
            victim.wait()
        with node.database.write() as session:
            session.get_one(Job, the_job(node).id).options = {"do": "find"}
        with worker_of(node):
            wait_until(in_state(node, JobState.SUCCEEDED))
        assert the_job(node).attempts == 2


def test_a_successor_under_another_configuration_keeps_the_pipelines_that_rules_still_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines, "PIPELINES", dict(pipelines.PIPELINES))
    register()
    with node_with(tmp_path, "find") as node:
        (rule,) = node.settings.rules
        program = rule.model_copy(update={"name": "other", "pipeline": "command"})
        worker = Worker(node.settings.model_copy(update={"rules": (rule, program)}), node.database)
        worker.warm_up()
        successor = worker.succeeded_under(node.settings)
        assert successor._pipelines == {"obedient": worker._pipelines["obedient"]}
        assert worker.run_forever() is successor
        assert the_job(node).state is JobState.QUEUED, "it leaves what waits to its successor"
        worker.retiring.set()
        assert successor.run_forever() is None


@pytest.mark.parametrize(("do", "limit"), [("hang", 4), ("die", 60)])
def test_a_job_that_takes_its_worker_with_it_fails_and_the_pacs_is_told(
    tmp_path: Path, do: str, limit: int
) -> None:
    with node_with(tmp_path, do, attempts=2, time_limit_seconds=limit) as node:
        with worker_of(node) as worker:
            worker.wait(60)
        with worker_of(node):  # as if the node restarted it: the last try leaves the image out
            wait_until(in_state(node, JobState.FAILED))
        assert "workers lost with this image" in the_job(node).reason
        assert (tmp_path / "runs").read_text().count("run") == 1
        assert node.study(ultrasound(do).StudyInstanceUID).state is StudyState.DELIVERING
        with node.database.read() as session:
            assert ResultKind.SR in {row.kind for row in session.query(Result)}
