"""What the model in the shadow does costs no image its analysis by the active one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from pydicom import dcmread
from sqlalchemy import select

from ai_pipeline import pipelines
from ai_pipeline.contract import Progress, SourceImage
from ai_pipeline.models import registry
from dicom_node import services
from dicom_node.jobs.worker.process import Worker
from dicom_node.model.kinds import ResultKind
from dicom_node.model.lifecycle import JobState
from dicom_node.store.tables import Result
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.jobs.worker_lab import Obedient, configuration, work


class Active(Obedient):
    """In place of the active chest model."""

    name = "chest_xray"


class Hoarding(Active):
    """In place of the model in its shadow: it needs more memory than there is."""

    def find(self, _images: Sequence[SourceImage], _report: Progress) -> None:
        raise MemoryError


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    point = EntryPoint("chest_xray", f"{__name__}:Active", pipelines.GROUP)
    monkeypatch.setitem(pipelines.PIPELINES, "chest_xray", point)
    config = configuration()
    config["rules"][0]["pipeline"] = "chest_xray"
    node = Inbox(tmp_path / "var", config)
    node.receive(ultrasound("one"))
    node.settle()
    work(node)
    yield node
    node.close()


def worker_that_compares(node: Inbox) -> Worker:
    worker = Worker(node.settings, node.database)
    worker._shadow._card = registry.find("chest-efficientnet-lite0")
    worker._shadow._second = Hoarding()  # type: ignore[assignment]
    return worker


def test_an_image_at_which_a_model_in_the_shadow_spends_its_workers_is_still_analysed(node: Inbox) -> None:
    for _ in range(2):  # as many as an image may cost
        worker = worker_that_compares(node)
        too_late = threading.Timer(20, worker.stopping.set)
        too_late.start()
        worker.run_forever()
        assert not worker.stopping.is_set(), "it did not end, though its memory was spent"
        too_late.cancel()
    again = {"do": "find", "log": "", "again": True}  # other options: another report is built
    rules = tuple(rule.model_copy(update={"options": again}) for rule in node.settings.rules)
    settings = node.settings.model_copy(update={"rules": rules})
    services.rerun_studies(settings, [str(ultrasound("one").StudyInstanceUID)])
    work(node, settings)
    [_, job] = node.jobs()
    assert (job.state, job.reason) == (JobState.SUCCEEDED, "")
    chosen = select(Result.path).where(Result.kind == ResultKind.SR, Result.job_id == job.id)
    with node.database.read() as session:
        [path] = session.scalars(chosen)
    assert "not_analysed" not in str(dcmread(node.folder / path))
