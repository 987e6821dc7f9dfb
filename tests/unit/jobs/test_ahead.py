"""Images are analysed while their study is still being received; the job uses what is there."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ai_pipeline.contract import (
    Code,
    Decision,
    DerivedImage,
    Finding,
    Heatmap,
    ImageKind,
    Measurement,
    ModelRef,
    Origin,
    PipelineResult,
    QualityNote,
    Region,
    Scores,
)
from dicom_node.jobs.worker.ahead import Ahead
from dicom_node.jobs.worker.at_work import AtWork
from dicom_node.jobs.worker.kept_analyses import KEEP_SECONDS, Analyses
from dicom_node.jobs.worker.process import Worker
from dicom_node.model.lifecycle import JobState, StudyState
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.inbox.objects import changed
from tests.unit.jobs.worker_lab import Obedient, configuration, register

MODEL = ModelRef("model", "1", "a" * 64, "b" * 64, calibrated=True)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Inbox]:
    register()
    node = Inbox(tmp_path / "var", configuration("find", tmp_path / "runs"))
    yield node
    node.close()


def runs(node: Inbox) -> int:
    log = node.folder.parent / "runs"
    return log.read_text().count("run") if log.exists() else 0


def ahead_of(node: Inbox) -> Ahead:
    pipelines = {"obedient": Obedient()}
    at_work = AtWork(node.folder / "at-work", "us", most=2, memory_mib=0)
    return Ahead(node.database, node.settings, kept(node), pipelines.__getitem__, threading.Event(), at_work)


def kept(node: Inbox) -> Analyses:
    return Analyses(node.folder / "analyses")


def test_an_image_is_analysed_before_its_study_is_complete_and_the_job_uses_it(node: Inbox) -> None:
    node.receive(ultrasound("one", number=1), ultrasound("one", number=2))
    node.index()
    ahead = ahead_of(node)
    assert [ahead.run_once() for _ in range(3)] == [True, True, False]
    assert runs(node) == 2
    assert node.study(ultrasound("one").StudyInstanceUID).state is StudyState.RECEIVING

    node.assemble(seconds=300)
    assert Worker(node.settings, node.database).run_once()
    assert node.jobs()[0].state is JobState.SUCCEEDED
    assert runs(node) == 2
    assert list(kept(node).folder.iterdir()) == []


def test_what_is_for_research_only_is_not_kept(node: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Obedient._finding
    hidden = partial(replace, research_only=True)
    monkeypatch.setattr(Obedient, "_finding", lambda self, image: hidden(found(self, image)))
    node.receive(ultrasound("one"))
    node.index()
    assert ahead_of(node).run_once()
    [analysis] = [one for one in kept(node).folder.iterdir() if one.is_dir()]
    result = kept(node).get(analysis.name)
    assert result is not None and result.findings == ()


def test_two_workers_do_not_analyse_the_same_image(node: Inbox) -> None:
    node.receive(ultrasound("one"))
    node.index()
    assert ahead_of(node).run_once()
    assert ahead_of(node).run_once()
    assert runs(node) == 1


def test_an_analysis_gives_way_to_a_job_and_is_made_later(node: Inbox) -> None:
    node.receive(ultrasound("waits"))
    node.settle()
    node.receive(ultrasound("arrives"))
    node.index()
    ahead = ahead_of(node)
    assert ahead.run_once()
    assert runs(node) == 0
    assert Worker(node.settings, node.database).run_once()
    assert ahead.run_once()
    assert runs(node) == 2


def test_nothing_is_analysed_that_no_rule_wants_or_the_pipeline_refuses(node: Inbox) -> None:
    node.receive(changed(ultrasound("leg"), BodyPartExamined="LEG"))
    node.index()
    assert ahead_of(node).run_once()
    assert runs(node) == 0


def test_a_pipeline_that_fails_ahead_fails_nothing(node: Inbox, tmp_path: Path) -> None:
    failing = Inbox(tmp_path / "other" / "var", configuration("stumble", tmp_path / "other" / "runs"))
    failing.receive(ultrasound("one"))
    failing.index()
    ahead = ahead_of(failing)
    assert ahead.run_once()
    assert not ahead.run_once()
    assert failing.study(ultrasound("one").StudyInstanceUID).state is StudyState.RECEIVING
    failing.close()


def a_result(uid: str) -> PipelineResult:
    region = Region("box", ((1.5, 2.0), (3.25, 4.0)), Origin.ACTIVATION)
    heat = Heatmap(np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4), "place")
    finding = Finding(
        "Nodule",
        Code("1", "SCT", "Nodule"),
        0.1 + 0.2,
        0.3,
        Decision.PRESENT,
        uid,
        MODEL,
        frame=2,
        regions=(region,),
        site=Code("2", "SCT", "Lung"),
        evidence=heat,
    )
    frames = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    picture = DerivedImage(ImageKind.CLEANED, uid, frames, "MONOCHROME1", "cleaned", True, (MODEL,), "e" * 64)
    notes = (QualityNote("box", "approximate"),)
    scores = (Scores(uid, MODEL, {"Nodule": 0.1 + 0.2, "Hidden": 0.5}, reoriented=True),)
    quantity, unit = Code("410668003", "SCT", "Length"), Code("cm", "UCUM", "cm")
    lines = (((1.5, 2.0), (3.5, 2.0)), ((0.5, 1.0), (2.0, 1.0), (3.5, 1.5)))
    length = Measurement(uid, "Length", quantity, 0.1 + 0.2, unit, lines, MODEL, Code("2", "SCT", "Lung"), 2)
    return PipelineResult(
        (finding,), (picture,), notes, {"total": 0.5}, (MODEL,), scores, measurements=(length,)
    )


def test_a_damaged_analysis_counts_as_none(tmp_path: Path) -> None:
    analyses = Analyses(tmp_path)
    analyses.put("key", a_result("1.2.3"))
    (tmp_path / "key" / "0.npy").write_bytes(b"half")
    assert analyses.get("key") is None


def test_single_results_become_one(tmp_path: Path) -> None:
    whole = PipelineResult.joined([a_result("1"), a_result("2")])
    assert [finding.source_uid for finding in whole.findings] == ["1", "2"]
    assert [score.source_uid for score in whole.scores] == ["1", "2"]
    assert [length.source_uid for length in whole.measurements] == ["1", "2"]
    assert len(whole.images) == 2
    assert (len(whole.quality), len(whole.models), whole.timings["total"]) == (1, 1, 1.0)


def test_what_nobody_used_for_a_day_is_forgotten(tmp_path: Path) -> None:
    analyses = Analyses(tmp_path)
    for key in ("old", "new"):
        assert analyses.claim(key)
        analyses.put(key, a_result("1"))
    for name in ("old", "old.claim"):
        moment = (tmp_path / name).stat().st_mtime - KEEP_SECONDS - 60
        os.utime(tmp_path / name, (moment, moment))
    analyses.forget_old()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["new", "new.claim"]
