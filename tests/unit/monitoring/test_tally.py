"""Each image counts once for a model card, whatever happens to the jobs that look at it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select

from ai_pipeline.contract import ModelRef, Scores
from dicom_node import jobs
from dicom_node.jobs.worker import persist as release
from dicom_node.jobs.worker.ahead import Ahead
from dicom_node.jobs.worker.at_work import AtWork
from dicom_node.jobs.worker.kept_analyses import Analyses
from dicom_node.model.kinds import Counted
from dicom_node.model.lifecycle import JobState, StudyState
from dicom_node.monitoring import counts
from dicom_node.monitoring.drift import forget_old
from dicom_node.monitoring.tally import Tallies
from dicom_node.store.tables import Base, CountedImage, ImageCount, ScoreCount, Study
from dicom_node.store.transitions import utc_now
from dicom_node.studies import quarantine
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.inbox.objects import changed
from tests.unit.jobs.worker_lab import work
from tests.unit.monitoring.scoring_lab import Scoring, scoring, write_card

Make = Callable[..., Inbox]
MODALITY = "MODALITY"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.debian("postgresql"))])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes a node without a network, whose only rule asks the scoring pipeline; on either database."""
    url = "" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    made: list[Inbox] = []

    def make(do: str = "find", configure: Callable[[dict[str, Any]], None] = lambda _: None) -> Inbox:
        write_card(tmp_path / "models")
        config = scoring(tmp_path / "models", do)
        configure(config)
        made.append(Inbox(tmp_path / "var", config, url))
        return made[-1]

    yield make
    for node in made:
        node.close()


def aged(name: str, years: int, number: int = 1, **values: Any) -> Dataset:
    return changed(ultrasound(name, number=number), PatientAge=f"{years:03d}Y", **values)


def analysed(node: Inbox, *images: Dataset, calling: str = MODALITY) -> None:
    node.receive(*images, calling=calling)
    node.settle()
    work(node)


def images(node: Inbox) -> dict[tuple[str, str], int]:
    """Images by sender and outcome."""
    with node.database.read() as session:
        rows = session.scalars(select(ImageCount))
        return {(row.calling_ae, row.outcome.value): row.images for row in rows}


def scores(node: Inbox, label: str = "Shown") -> dict[int, int]:
    """Images by bin."""
    with node.database.read() as session:
        rows = session.scalars(select(ScoreCount).where(ScoreCount.label == label))
        return {row.bin: row.images for row in rows}


def test_scores_of_all_labels_are_counted_also_of_those_that_are_not_reported(make: Make) -> None:
    node = make()
    analysed(node, aged("a", 55, 1), aged("a", 57, 2), aged("a", 91, 3))
    assert images(node) == {(MODALITY, "analysed"): 3}
    assert scores(node, "Shown") == {5: 2, 9: 1}
    assert scores(node, "Hidden") == {4: 2, 0: 1}


def test_an_image_that_was_analysed_ahead_counts_once_and_only_with_its_study(make: Make) -> None:
    node = make()
    node.receive(aged("ahead", 55))
    node.index()
    kept = Analyses(node.folder / "analyses")
    pipeline = Scoring(models_dir=node.settings.workers.models_dir)
    at_work = AtWork(node.folder / "at-work", "us", most=2, memory_mib=0)
    assert Ahead(
        node.database, node.settings, kept, lambda _: pipeline, threading.Event(), at_work
    ).run_once()
    assert len(list(kept.folder.iterdir())) == 2, "the analysis and its claim"
    assert images(node) == {}
    node.assemble(seconds=300)
    work(node)
    assert images(node) == {(MODALITY, "analysed"): 1}
    assert scores(node) == {5: 1}


def test_refused_images_count_by_the_gate_that_refused_them(make: Make) -> None:
    node = make()
    analysed(node, aged("one", 55, 1), aged("one", 50, 2, BodyPartExamined="NOISE"))
    analysed(node, aged("leg", 50, BodyPartExamined="LEG"))
    counted = {(MODALITY, "analysed"): 1, (MODALITY, "refused_pixels"): 1, (MODALITY, "refused_header"): 1}
    assert images(node) == counted
    assert scores(node) == {5: 1}
    [_, refused] = node.jobs()
    with node.database.write() as session:
        jobs.retry(session, refused.id)
    work(node)
    assert images(node) == counted, "a person asked again: the answer was counted before"


def test_a_refusal_that_the_pacs_is_told_of_counts_too(make: Make) -> None:
    node = make(configure=lambda config: config["rules"][0].update(tell_pacs_refusals=True))
    analysed(node, aged("leg", 50, BodyPartExamined="LEG"))
    assert images(node) == {(MODALITY, "refused_header"): 1}


def test_an_image_turned_upright_counts_as_analysed_and_as_reoriented(make: Make) -> None:
    node = make()
    analysed(node, aged("turned", 55, BodyPartExamined="TURNED"))
    assert images(node) == {(MODALITY, "analysed"): 1, (MODALITY, "reoriented"): 1}


def test_a_late_image_does_not_count_the_others_again(make: Make) -> None:
    node = make()
    analysed(node, aged("late", 55, 1))
    analysed(node, aged("late", 65, 2))
    assert [job.state for job in node.jobs()] == [JobState.SUCCEEDED] * 2
    assert images(node) == {(MODALITY, "analysed"): 2}
    assert scores(node) == {5: 1, 6: 1}


def test_a_corrected_name_does_not_count_an_image_again(make: Make) -> None:
    node = make()
    analysed(node, aged("named", 55))
    analysed(node, aged("named", 55, PatientName="Right^Name"))
    assert len(node.jobs()) == 2
    assert images(node) == {(MODALITY, "analysed"): 1}


def test_two_rules_that_ask_the_same_model_count_an_image_once(make: Make) -> None:
    def twice(config: dict[str, Any]) -> None:
        config["rules"].append({**config["rules"][0], "name": "again"})

    node = make(configure=twice)
    analysed(node, aged("two", 55))
    assert [job.state for job in node.jobs()] == [JobState.SUCCEEDED] * 2
    assert images(node) == {(MODALITY, "analysed"): 1}


def test_a_job_that_fails_counts_nothing_until_it_succeeds(make: Make) -> None:
    node = make("not-decode")
    analysed(node, aged("fails", 55, 1), aged("fails", 55, 2, BodyPartExamined="LEG"))
    [job] = node.jobs()
    assert job.state is JobState.FAILED
    assert images(node) == {}
    with node.database.write() as session:
        session.get_one(jobs.by_hand.Job, job.id).options = {"do": "find", "log": ""}
        jobs.retry(session, job.id)
    work(node)
    assert images(node) == {(MODALITY, "analysed"): 1, (MODALITY, "refused_header"): 1}


def test_a_worker_that_is_lost_before_its_commit_has_counted_nothing(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make()
    put, lost = release.put_in_place, []

    def put_in_place(*files: Any) -> None:
        """The last step before the commit: the counts are written, and then the worker is gone."""
        if not lost:
            lost.append(True)
            raise OSError("lost")
        put(*files)

    monkeypatch.setattr(release, "put_in_place", put_in_place)
    analysed(node, aged("lost", 55))
    [job] = node.jobs()
    assert (job.state, job.tries, lost) == (JobState.SUCCEEDED, 2, [True])
    assert images(node) == {(MODALITY, "analysed"): 1}
    assert scores(node) == {5: 1}


def test_the_same_image_in_many_workers_at_the_same_moment_counts_once(make: Make) -> None:
    node = make()
    sent = [aged("race", 5 + 10 * number, number) for number in range(10)]
    node.receive(*sent)
    node.index()
    [model] = Scoring(models_dir=node.settings.workers.models_dir).models()
    given = [Scores(ds.SOPInstanceUID, model, {"Shown": 0.55, "Hidden": 0.15}) for ds in sent]
    start, failures = threading.Barrier(8), []

    def count(number: int) -> None:
        mine = given[number:] + given[:number]  # each begins with another image
        tally = Tallies(node.settings.workers.models_dir).count(mine, ())
        start.wait()
        try:
            with node.database.write() as session:
                tally.count(session, node.settings)
        except Exception as error:  # noqa: BLE001  (a thread's failure would be lost)
            failures.append(error)

    threads = [threading.Thread(target=count, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert images(node) == {(MODALITY, "analysed"): 10}
    assert (scores(node), scores(node, "Hidden")) == ({5: 10}, {1: 10})


def test_senders_that_are_no_configured_peer_are_counted_without_their_title(make: Make) -> None:
    node = make()
    analysed(node, aged("known", 55))
    analysed(node, aged("stranger", 55), calling="DR^JONES")
    analysed(node, aged("destination", 55), calling="PACS")
    assert images(node) == {(MODALITY, "analysed"): 1, ("", "analysed"): 2}


def test_another_card_is_counted_apart(make: Make) -> None:
    node = make()
    image = aged("twice", 55)
    analysed(node, image)
    assert node.settings.workers.models_dir is not None
    write_card(node.settings.workers.models_dir, version="2")
    with node.database.write() as session:
        study = session.scalars(select(Study)).one()
        quarantine.quarantine_study(session, study, "test")
        quarantine.release_study(session, study.id)
    node.assemble(1)
    work(node)
    with node.database.read() as session:
        found = counts.images_since(session, utc_now().date())
    assert {(model.version, tuple(by.items())) for (model, _), by in found.items()} == {
        ("1", ((Counted.ANALYSED, 1),)),
        ("2", ((Counted.ANALYSED, 1),)),
    }


@pytest.mark.parametrize("fault", ["no card", "no reference", "faulty reference"])
def test_a_reference_that_is_missing_or_faulty_fails_no_job(
    make: Make, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make()
    folder = node.settings.workers.models_dir
    assert folder is not None
    if fault == "no card":
        gone = (ModelRef("scoring", "0", "0" * 64, "f" * 64),)
        monkeypatch.setattr(Scoring, "models", lambda _: gone)
    else:
        write_card(folder, reference="" if fault == "no reference" else "\n[reference]\nimages = 0\n")
    analysed(node, aged("faulty", 55))
    assert node.study(aged("faulty", 55).StudyInstanceUID).state is StudyState.DELIVERING
    assert (images(node), scores(node)) == ({(MODALITY, "analysed"): 1}, {})


def test_old_counts_are_forgotten(make: Make) -> None:
    node = make(configure=lambda config: config.update(drift={"keep_days": 10}))
    analysed(node, aged("old", 55))
    forget_old(node.database, node.settings, utc_now() + timedelta(days=10))
    assert images(node) and scores(node)
    forget_old(node.database, node.settings, utc_now() + timedelta(days=11))
    assert (images(node), scores(node)) == ({}, {})
    with node.database.read() as session:
        assert session.scalars(select(CountedImage)).all() == []


def test_the_counts_know_no_patient_no_study_and_no_image() -> None:
    tables = {name: set(table.columns.keys()) for name, table in Base.metadata.tables.items()}
    key = {"day", "card_sha256", "calling_ae", "images"}
    assert tables["image_count"] == key | {"outcome", "model", "version"}
    assert tables["score_count"] == key | {"label", "bin"}
    assert tables["counted_image"] == {"card_sha256", "instance_id", "day"}, "an image, and no score"
