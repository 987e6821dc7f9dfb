"""A model in the shadow holds up no job, whatever it does: here a real ONNX file with an endless Loop."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from ai_pipeline import pipelines
from ai_pipeline.chest.card import CARD, SHADOW
from ai_pipeline.models.registry import find
from ai_pipeline.models.store import folder
from dicom_node.config.settings import Settings
from dicom_node.jobs.worker.process import Worker
from dicom_node.model.lifecycle import JobState
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.ai_pipeline.models import hostile_models
from tests.unit.ai_pipeline.models.store_lab import add
from tests.unit.jobs.worker_lab import Obedient, configuration, work
from tests.waiting import wait_until

LATER = 2.0  # seconds that a job may take longer than without a shadow


class Active(Obedient):
    """In place of the active chest model."""

    card = replace(Obedient.card, name="chest_xray", slots=CARD.slots)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """One job of the chest pipeline has succeeded; the model in the shadow never ends."""
    point = EntryPoint("chest_xray", f"{__name__}:Active", pipelines.GROUP)
    monkeypatch.setitem(pipelines.PIPELINES, "chest_xray", point)
    models_dir = tmp_path / "models"
    added = add(*hostile_models.endless(tmp_path / "made"), "--models-dir", str(models_dir))
    assert added.exit_code == 0, added.output
    folder.activate(CARD, SHADOW, find("small", models_dir), models_dir)  # as if its trial had been passed
    config = configuration(models_dir=str(models_dir))
    config["rules"][0]["pipeline"] = "chest_xray"
    node = Inbox(tmp_path / "var", config)
    receive(node, "one")
    work(node)
    yield node
    node.close()


def receive(node: Inbox, name: str) -> None:
    node.receive(ultrasound(name))
    node.settle()


@contextmanager
def at_work(node: Inbox, settings: Settings | None = None) -> Iterator[Worker]:
    worker = Worker(settings or node.settings, node.database)
    thread = threading.Thread(target=worker.run_forever)
    thread.start()
    try:
        yield worker
    finally:
        worker.stopping.set()
        thread.join(30)
        assert not thread.is_alive()


def computing(worker: Worker) -> int | None:
    """The process that compares, once it has computed for longer than its imports take."""
    process = worker._shadow._process
    if process is None:
        return None
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return process.pid if int(fields[11]) > 5 * os.sysconf("SC_CLK_TCK") else None  # utime


def seconds_of_a_job(node: Inbox, name: str) -> float:
    receive(node, name)
    began = time.monotonic()
    number = len(node.jobs())
    wait_until(
        lambda: [job.state for job in node.jobs()] == [JobState.SUCCEEDED] * number, 60, "the job", step=0.02
    )
    return time.monotonic() - began


def test_a_job_does_not_wait_for_a_model_in_the_shadow_that_never_ends(node: Inbox) -> None:
    alone = node.settings.workers.model_copy(update={"models_dir": None})
    with at_work(node, node.settings.model_copy(update={"workers": alone})):
        usual = seconds_of_a_job(node, "two")
    with at_work(node) as worker:
        wait_until(lambda: computing(worker) is not None, 90, "a comparison that computes")
        ended = computing(worker)
        assert seconds_of_a_job(node, "three") < usual + LATER
        assert not Path(f"/proc/{ended}").exists()
        wait_until(lambda: computing(worker) is not None, 90, "the comparison after the job")
        again = computing(worker)
    assert again != ended
    assert not Path(f"/proc/{again}").exists(), "it outlived its worker"


def test_a_comparison_that_reaches_the_time_limit_is_ended_and_not_tried_again(
    node: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    workers = node.settings.workers.model_copy(update={"time_limit_seconds": 5.0})
    with at_work(node, node.settings.model_copy(update={"workers": workers})) as worker:
        wait_until(lambda: worker._shadow._process is not None, 60, "a comparison")
        wait_until(lambda: worker._shadow._process is None, 60, "its end")
        assert "could not be compared: it took longer than 5 s" in caplog.text
        time.sleep(2.5)  # the next look
        assert worker._shadow._process is None
