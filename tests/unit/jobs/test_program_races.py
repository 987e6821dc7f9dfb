"""A study that changes, and workers that are killed, while a program runs: nothing of the wrong patient."""

import errno
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from pydicom import dcmread
from sqlalchemy import select

from dicom_node.base.lifecycle import DeliveryState, JobState
from dicom_node.base.store.tables import Delivery, Instance, Job, Result
from dicom_node.base.store.transitions import utc_now
from dicom_node.jobs import queue
from dicom_node.jobs.worker import run
from dicom_node.jobs.worker.program_answer import judge_apart
from dicom_node.results.files import temporary_files
from tests import ct_lab
from tests.inbox_lab import Inbox
from tests.unit.jobs.worker_lab import work
from tests.unit.receive.objects import changed
from tests.waiting import wait_until

SLICES = ct_lab.ct_slices("one", 3)
RENAMED = [changed(one, PatientName="Corrected^Name") for one in SLICES]
LATE = changed(ct_lab.ct_slices("one", 4)[3])
FULL = OSError(errno.ENOSPC, "of a disk")
GOES = {DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.UNCONFIRMED, DeliveryState.CONFIRMED}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Inbox]:
    """A node whose rule gives CT to a program, which copies its answer; the study has come."""
    script = ct_lab.program(tmp_path, ct_lab.copies(ct_lab.answer(tmp_path, SLICES)))
    config = ct_lab.configuration(script, results=("sr", "seg"), attempts=20)
    inbox = Inbox(tmp_path / "node", config)
    inbox.settle(*SLICES)
    yield inbox
    inbox.close()


def corrected(node: Inbox) -> None:
    """The modality sends all images again with the right name."""
    node.settle(*RENAMED)


def contradicted(node: Inbox) -> None:
    """An image of another patient comes under the same study."""
    node.settle(changed(LATE, PatientID="SOMEBODY", PatientName="Some^Body"))


def enlarged(node: Inbox) -> None:
    """A late slice comes."""
    node.settle(LATE)


def cancelled(node: Inbox) -> None:
    """A person cancels the job."""
    node.write(queue.cancel, node.jobs()[0].id)


def purged(node: Inbox) -> None:
    """The files of the images are deleted."""
    for one in SLICES:
        (node.folder / node.instance(one).path).unlink()
    node.put(Instance, purged=True)


def overtaken(node: Inbox) -> None:
    """The job's lease ends, and another worker does it: this answer comes after the deadline, and twice."""
    node.put(Job, lease_until=utc_now() - timedelta(seconds=1))
    work(node)


CHANGES = (corrected, contradicted, enlarged, cancelled, purged, overtaken)


@pytest.fixture(params=CHANGES, ids=lambda change: change.__name__)
def meanwhile(
    request: pytest.FixtureRequest, node: Inbox, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Inbox], None]:
    """What happens once between the end of the program and that of its job."""
    waiting = [request.param]

    def judged(*given: Any) -> Any:
        if waiting:
            waiting.pop()(node)
        return judge_apart(*given)

    monkeypatch.setattr("dicom_node.jobs.worker.program_answer.judge_apart", judged)
    return request.param


def patients_that_leave(node: Inbox) -> set[str]:
    """The names on results that a peer gets, or got."""
    with node.database.read() as session:
        paths = session.scalars(
            select(Result.path)
            .join(Delivery, Delivery.result_id == Result.id)
            .where(Delivery.state.in_(GOES))
        ).all()
    return {str(dcmread(node.folder / path).PatientName) for path in paths}


def test_a_study_that_changes_while_a_program_runs_gets_nothing_of_the_wrong_patient(
    node: Inbox, meanwhile: Callable[[Inbox], None]
) -> None:
    """After a correction the same answer, with the former name, is one of another patient."""
    work(node)
    states, leaves = {
        corrected: ([JobState.CANCELLED, JobState.FAILED], {"Corrected^Name"}),
        contradicted: ([JobState.CANCELLED], set[str]()),
        enlarged: ([JobState.SUCCEEDED, JobState.SUCCEEDED], {"Test^one"}),
        cancelled: ([JobState.CANCELLED], set[str]()),
        purged: ([JobState.FAILED], set[str]()),
        overtaken: ([JobState.SUCCEEDED], {"Test^one"}),
    }[meanwhile]
    assert [job.state for job in node.jobs()] == states
    assert patients_that_leave(node) == leaves
    assert len(node.column(Delivery.id)) <= 2 * len(states), "an object twice"


@pytest.mark.timeout(600)
def test_killed_workers_lose_and_double_nothing_of_an_answer(node: Inbox, tmp_path: Path) -> None:
    """Up to eight kills at random moments of the program, of the judgement and of the end of the job."""
    chance = random.Random(20261130)
    command = [sys.executable, "-m", "tests.unit.jobs.worker_lab", node.settings.for_children()]
    killed = 0
    while killed < 8 and node.jobs()[0].state is not JobState.SUCCEEDED:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as worker:
            attempts = node.jobs()[0].attempts
            wait_until(lambda before=attempts: node.jobs()[0].attempts > before)
            time.sleep(chance.uniform(0, 0.15 * (killed + 1)))  # later and later: the first come in time
            worker.send_signal(signal.SIGKILL)
        killed += 1
    assert killed > 1, "most of them came too late"
    for _ in range(3):
        work(node)
    assert [job.state for job in node.rows(Job)] == [JobState.SUCCEEDED]
    assert sorted(node.column(Result.kind)) == ["program_sr", "seg"]
    assert node.column(Delivery.state) == [DeliveryState.PENDING] * 2
    kept = {path.name for path in (node.folder / "results").rglob("*.dcm")}
    assert kept >= {f"{uid}.dcm" for uid in node.column(Result.sop_instance_uid)}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS], ids=["full", "read-only"])
def test_a_disk_that_takes_no_answer_costs_no_try_and_the_answer_is_kept_once(
    node: Inbox, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    faults = [OSError(number, "of a disk")] * 2

    def files(*given: Any) -> Any:
        if faults:
            raise faults.pop()
        return temporary_files(*given)

    monkeypatch.setattr("dicom_node.jobs.worker.result_writer.temporary_files", files)
    monkeypatch.setattr(run, "_AWAY_SECONDS", 0.0)
    worker = run.Worker(node.settings, node.database)
    for _ in range(2):
        worker.run_once()
        [job] = node.jobs()
        assert (job.state, job.tries, job.reason[:6]) == (JobState.QUEUED, 0, "disk: ")
        assert node.rows(Result) == []
    worker.run_once()
    assert [job.state for job in node.jobs()] == [JobState.SUCCEEDED]
    assert sorted(node.column(Result.kind)) == ["program_sr", "seg"]


def test_a_disk_that_is_full_when_the_program_gets_its_images_costs_no_try(
    node: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_AWAY_SECONDS", 0.0)
    worker = run.Worker(node.settings, node.database)
    with monkeypatch.context() as full:
        full.setattr("ai_pipeline.programs.process.tempfile.mkdtemp", Mock(side_effect=FULL))
        worker.run_once()
    [job] = node.jobs()
    assert (job.state, job.tries, job.reason[:6]) == (JobState.QUEUED, 0, "disk: ")
    worker.run_once()
    assert [job.state for job in node.jobs()] == [JobState.SUCCEEDED]
