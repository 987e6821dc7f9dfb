"""What disk and database do is not held against a job, on both databases."""

import errno
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import psycopg
import pytest
from sqlalchemy.exc import OperationalError

from ai_pipeline.images import decode
from dicom_node.base.errors import HandedBack, JobCancelled, LeaseLost, NodeError, TimeLimitReached
from dicom_node.base.lifecycle import JobState
from dicom_node.base.store import queue
from dicom_node.base.store.tables import Instance
from dicom_node.jobs.worker import result_writer
from dicom_node.jobs.worker import run as worker_module
from dicom_node.people.disk import disk_fault
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.jobs.queue_lab import claimed
from tests.unit.jobs.worker_lab import configuration, work

AWAY = OperationalError("", None, sqlite3.OperationalError("database is locked"))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.debian("postgresql"))])
def node(request: pytest.FixtureRequest, open_inbox: Callable[..., Inbox], tmp_path: Path) -> Inbox:
    """A node with one study that waits for its analysis; ``runs`` counts its runs."""
    url = "" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    node = open_inbox(configuration("find", tmp_path / "runs", attempts=2), url=url)
    node.settle(ultrasound("a study"))
    return node


def failing(times: int, error: Exception, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    """Fail so many times with this error, then do as otherwise."""
    left = [error] * times

    def call(*given: Any, **named: Any) -> Any:
        if left:
            raise left.pop()
        return otherwise(*given, **named)

    return call


READING, WRITING = (decode.pydicom, "dcmread"), (result_writer, "temporary_files")


@pytest.mark.parametrize(
    ("number", "at"),
    [
        ("ENOSPC", WRITING),
        ("EROFS", WRITING),
        ("EIO", READING),
        ("ESTALE", READING),
        ("EMFILE", READING),
    ],
)
def test_a_disk_that_fails_uses_up_no_try_and_the_job_goes_on_when_it_is_back(
    node: Inbox, monkeypatch: pytest.MonkeyPatch, number: str, at: tuple[Any, str]
) -> None:
    error = OSError(getattr(errno, number), "of a disk")
    monkeypatch.setattr(*at, failing(4, error, getattr(*at)))
    monkeypatch.setattr(worker_module, "_AWAY_SECONDS", 0.0)
    worker = worker_module.Worker(node.settings, node.database)
    for _ in range(4):
        worker.run_once()
        [job] = node.jobs()
        assert (job.state, job.tries, job.reason[:6]) == (JobState.QUEUED, 0, "disk: ")
    worker.run_once()
    assert node.jobs()[0].state is JobState.SUCCEEDED


def test_a_data_folder_that_is_not_mounted_uses_up_no_try(
    node: Inbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(worker_module, "_AWAY_SECONDS", 0.0)
    spool = node.folder / "spool"
    spool.rename(tmp_path / "away")
    worker = worker_module.Worker(node.settings, node.database)
    for _ in range(4):
        worker.run_once()
        [job] = node.jobs()
        assert (job.state, job.tries, job.reason[:6]) == (JobState.QUEUED, 0, "disk: ")
    assert disk_fault(node.settings).startswith("disk: ")
    (tmp_path / "away").rename(spool)
    worker.run_once()
    assert node.jobs()[0].state is JobState.SUCCEEDED


def test_an_image_that_could_not_be_moved_to_its_place_yet_uses_up_no_try(
    node: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_AWAY_SECONDS", 0.0)
    [image] = node.rows(Instance)
    place = node.folder / image.path
    place.rename(node.spool.incoming / place.name)
    worker = worker_module.Worker(node.settings, node.database)
    for _ in range(3):
        worker.run_once()
        [job] = node.jobs()
        assert (job.state, job.tries, job.reason[:6]) == (JobState.QUEUED, 0, "disk: ")
    node.indexer.run_once()
    worker.run_once()
    assert node.jobs()[0].state is JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("stop", "left"),
    [
        (HandedBack("the worker stops"), 0),
        (LeaseLost("another has it"), 0),
        (JobCancelled("by a person"), 0),
        (TimeLimitReached("too long"), 1),
    ],
)
def test_a_worker_that_ends_itself_holds_against_its_image_only_that_it_took_too_long(
    node: Inbox, monkeypatch: pytest.MonkeyPatch, stop: NodeError, left: int
) -> None:
    monkeypatch.setattr(worker_module.os, "_exit", Mock())
    worker = worker_module.Worker(node.settings, node.database)
    job = claimed(worker._queue, worker._owner)
    with worker._at_work.at("image.dcm"):
        worker._abandon(job, stop)
        assert len([*worker._at_work.folder.iterdir()]) == left


@pytest.mark.parametrize("times", [1, 3])
def test_an_outage_of_the_database_at_the_end_of_a_job_uses_up_no_try(
    node: Inbox, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr(worker_module, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(queue, "leased_job", failing(times, AWAY, queue.leased_job))
    work(node)
    [job] = node.jobs()
    assert (job.state, job.tries, job.reason) == (JobState.SUCCEEDED, 1, "")


def test_a_claim_whose_answer_was_lost_is_made_again_at_once_and_costs_no_try(
    node: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = worker_module.Worker(node.settings, node.database)
    claim = worker._queue.claim
    with monkeypatch.context() as patch:
        patch.setattr(worker._queue, "claim", lambda *given: failing(1, AWAY, claim)(claim(*given)))
        with pytest.raises(OperationalError):
            worker.run_once()
    assert node.jobs()[0].state is JobState.RUNNING
    worker.run_once()
    [job] = node.jobs()
    assert (job.state, job.tries) == (JobState.SUCCEEDED, 1)


@pytest.mark.parametrize("undone", [psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure])
def test_a_transaction_that_the_database_undid_is_made_again_at_once(
    node: Inbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, undone: type[Exception]
) -> None:
    error = OperationalError("", None, undone())
    monkeypatch.setattr(result_writer, "count_images", failing(2, error, result_writer.count_images))
    work(node)
    [job] = node.jobs()
    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 1)
    assert (tmp_path / "runs").read_text() == "run\n"
