"""Counts of what models made of images, and how far they are from the reference."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import DEFAULT, Mock

import pytest
from pydicom.dataset import Dataset

from ai_pipeline.contract import ModelRef, Scores
from ai_pipeline.models.reference import Verdict
from dicom_node.base.events import SCORES_DRIFTED
from dicom_node.base.lifecycle import Counted, JobState, StudyState
from dicom_node.base.store.mapping import Base
from dicom_node.base.store.tables import (
    Job,
    ModelCount,
    Result,
    Study,
)
from dicom_node.jobs.drift import (
    OUTCOME_BIN,
    count_images,
    drift,
    report_drift,
    wilson,
    window,
)
from dicom_node.jobs.queue import retry
from dicom_node.jobs.worker import result_writer
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.postgres_lab import POSTGRESQL
from tests.unit.jobs.scoring_lab import Scoring, counted, scoring, write_card
from tests.unit.jobs.worker_lab import work
from tests.unit.receive.objects import changed

EVEN = [30] * 10
SHIFTED = [0, 0, 0, 0, 10, 20, 40, 60, 80, 90]
MODALITY = "MODALITY"


def today() -> datetime:
    """Events bear the time at which they are made."""
    return datetime.now(UTC)


@pytest.fixture
def node(tmp_path: Path, open_inbox: Callable[..., Inbox]) -> Inbox:
    """A node without a network, whose only rule asks the scoring pipeline."""
    write_card(tmp_path / "models")
    return open_inbox(scoring(tmp_path / "models"))


def count(
    node: Inbox, shown: Sequence[int], hidden: Sequence[int] = EVEN, *, sender: str = MODALITY, days: int = 0
) -> None:
    """As if images of these bins had been analysed so many days ago."""
    model = write_card(node.folder.parent / "models")
    images = {Counted.ANALYSED: sum(shown), Counted.REFUSED_PIXELS: 10}
    node.add(*counted(model, days, sender, images, Shown=shown, Hidden=hidden))


def found(node: Inbox) -> list[dict[str, Any]]:
    return node.read(drift, node.settings.workers.models_dir, window(today()))


def test_days_are_added_up_and_senders_kept_apart(node: Inbox) -> None:
    count(node, EVEN)
    count(node, EVEN, days=1)
    count(node, SHIFTED, sender="")
    count(node, SHIFTED, days=31)
    other, modality = found(node)
    assert (other["calling_ae"], other["verdict"]) == ("other", Verdict.DRIFTED)
    assert (modality["calling_ae"], modality["verdict"]) == ("MODALITY", Verdict.STABLE)
    assert (modality[Counted.ANALYSED], modality[Counted.REFUSED_PIXELS]) == (600, 20)
    assert [(one["label"], one["images"]) for one in modality["scores"]] == [("Shown", 600), ("Hidden", 600)]
    assert modality["refusal_rate"] == pytest.approx((20 / 620, 0.0210, 0.0493), abs=1e-4)


def test_drift_is_told_once_a_day_for_each_sender(node: Inbox) -> None:
    count(node, SHIFTED)
    count(node, SHIFTED, sender="")
    count(node, EVEN, sender="PACS")
    assert report_drift(node.database, node.settings, today()) == 2
    assert report_drift(node.database, node.settings, today()) == 0
    first, second = (row.fields for row in node.events(SCORES_DRIFTED.number))
    assert {first["calling"], second["calling"]} == {"MODALITY", "other"}
    assert (first["labels"], first["images"], first["model"]) == ("Shown", 300, "scoring")
    assert report_drift(node.database, node.settings, today() + timedelta(days=1)) == 2


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [
        (0, 0, None),
        (0, 10, (0.0, 0.0, 0.2775)),
        (10, 100, (0.1, 0.0552, 0.1744)),
        (10, 10, (1.0, 0.7225, 1.0)),
    ],
)
def test_a_share_has_its_wilson_interval(part: int, whole: int, expected: tuple[float, ...] | None) -> None:
    assert wilson(part, whole) == pytest.approx(expected, abs=1e-4)


def aged(name: str, years: int, number: int = 1, **values: Any) -> Dataset:
    return changed(ultrasound(name, number=number), PatientAge=f"{years:03d}Y", **values)


def analysed(node: Inbox, *images: Dataset, calling: str = MODALITY) -> None:
    node.settle(*images, calling=calling)
    work(node)


def images(node: Inbox) -> dict[tuple[str, str], int]:
    """Images by sender and outcome."""
    return {(row.calling_ae, row.what): row.images for row in node.rows(ModelCount) if row.bin == OUTCOME_BIN}


def scores(node: Inbox, label: str = "Shown") -> dict[int, int]:
    """Images by bin."""
    return {row.bin: row.images for row in node.rows(ModelCount) if row.what == label}


def test_scores_of_all_labels_are_counted_also_of_those_that_are_not_reported(node: Inbox) -> None:
    analysed(node, aged("a", 55, 1), aged("a", 57, 2), aged("a", 91, 3))
    assert images(node) == {(MODALITY, "analysed"): 3}
    assert (scores(node, "Shown"), scores(node, "Hidden")) == ({5: 2, 9: 1}, {4: 2, 0: 1})


def test_refused_images_count_by_the_gate_that_refused_them(node: Inbox) -> None:
    analysed(node, aged("one", 55, 1), aged("one", 50, 2, BodyPartExamined="NOISE"))
    analysed(node, aged("leg", 50, BodyPartExamined="LEG"))
    counted = dict.fromkeys(((MODALITY, by) for by in ("analysed", "refused_pixels", "refused_header")), 1)
    assert (images(node), scores(node)) == (counted, {5: 1})
    node.write(retry, node.jobs()[1].id)
    work(node)
    assert any(
        b"1 further image of this study refused" in (node.folder / row.path).read_bytes()
        for row in node.rows(Result)
    )
    assert images(node) == counted, "a person asked again: the answer was counted before"


def test_two_rules_that_ask_the_same_model_count_an_image_once(node: Inbox) -> None:
    [rule] = node.settings.rules
    again = rule.model_copy(update={"name": "again"})
    node.settings = node.settings.model_copy(update={"rules": (rule, again)})
    node.reopen()
    analysed(node, aged("two", 55))
    assert node.column(Job.state) == [JobState.SUCCEEDED] * 2
    assert images(node) == {(MODALITY, "analysed"): 1}


def test_a_worker_that_is_lost_before_its_commit_has_counted_nothing(
    node: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step before the commit fails once: the counts are written, and then the worker is gone."""
    lost = Mock(side_effect=[OSError("lost"), DEFAULT], wraps=result_writer.put_in_place)
    monkeypatch.setattr(result_writer, "put_in_place", lost)
    analysed(node, aged("lost", 55))
    assert [(job.state, job.tries) for job in node.jobs()] == [(JobState.SUCCEEDED, 2)]
    assert (images(node), scores(node)) == ({(MODALITY, "analysed"): 1}, {5: 1})


@pytest.mark.parametrize("url", ["", pytest.param("postgres_url", marks=POSTGRESQL)])
def test_the_same_image_in_many_workers_at_the_same_moment_counts_once(
    tmp_path: Path, open_inbox: Callable[..., Inbox], request: pytest.FixtureRequest, url: str
) -> None:
    write_card(tmp_path / "models")
    node = open_inbox(scoring(tmp_path / "models"), url=request.getfixturevalue(url) if url else "")
    sent = [aged("race", 5 + 10 * number, number) for number in range(10)]
    node.index(*sent)
    [model] = Scoring(models_dir=node.settings.workers.models_dir).models()
    given = [Scores(ds.SOPInstanceUID, model, {"Shown": 0.55, "Hidden": 0.15}) for ds in sent]
    start = threading.Barrier(8)

    def count(number: int) -> None:
        mine = given[number:] + given[:number]  # each begins with another image
        start.wait()
        node.write(count_images, node.settings, mine)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(8)))  # raises what a thread raised
    assert images(node) == {(MODALITY, "analysed"): 10}
    assert (scores(node), scores(node, "Hidden")) == ({5: 10}, {1: 10})


@pytest.mark.parametrize("reference", [None, "", "\n[reference]\nimages = 0\n"])
def test_a_reference_that_is_missing_or_faulty_fails_no_job(
    node: Inbox, reference: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reference is None:
        monkeypatch.setattr(Scoring, "models", lambda _: (ModelRef("scoring", "0", "0" * 64, "f" * 64),))
    else:
        write_card(node.folder.parent / "models", reference=reference)
    analysed(node, aged("faulty", 55))
    assert node.column(Study.state) == [StudyState.DELIVERING]
    assert (images(node), scores(node)) == ({(MODALITY, "analysed"): 1}, {})


def test_the_counts_know_no_patient_no_study_and_no_image() -> None:
    tables = {name: set(table.columns.keys()) for name, table in Base.metadata.tables.items()}
    model = {"model", "version", "card_sha256"}
    assert tables["model_count"] == model | {"day", "calling_ae", "what", "bin", "images"}
    assert tables["counted_image"] == {"card_sha256", "instance_id", "day"}, "an image, and no score"
