"""What burned-in marks said is kept sealed, for those who hold the site's key, and nowhere else."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from ai_pipeline import pipelines
from ai_pipeline.contract import Meaning, PipelineResult, Progress, Reading, SourceImage
from dicom_node import sitekey
from dicom_node.errors import ConfigurationError, NotFound, ReadingsSealed
from dicom_node.jobs.worker import readings
from dicom_node.jobs.worker.ahead import Ahead
from dicom_node.jobs.worker.at_work import AtWork
from dicom_node.jobs.worker.kept_analyses import Analyses
from dicom_node.jobs.worker.process import Worker
from dicom_node.model.lifecycle import DeliveryState, JobState
from dicom_node.store.tables import AnnotationReading, Delivery
from dicom_node.store.transitions import utc_now
from dicom_node.studies.purge import purge
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.jobs.worker_lab import Obedient, configuration

SECRET = "KIM, YOUNG-HEE 김영희"
STUDY = str(ultrasound("one").StudyInstanceUID)


class Reads(Obedient):
    """Reads a name and a caliper in every image."""

    card = replace(Obedient.card, name="reads")

    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult:
        result = super().run(images, report, options)
        return replace(result, readings=tuple(reading for image in images for reading in read_in(image.uid)))


class ReadsTogether(Reads):
    card = replace(Obedient.card, name="together", per_image=False)


def read_in(uid: str) -> tuple[Reading, Reading]:
    return (
        Reading(uid, None, "text", Meaning.IDENTITY, (4.0, 2.0, 90.0, 14.0), 0.97, True, SECRET),
        Reading(uid, None, "caliper", Meaning.MEASUREMENT, (30.0, 40.0, 39.0, 49.0), 0.8, False),
    )


def settings_of(tmp_path: Path, pipeline: str = "reads", **privacy: bool) -> dict[str, Any]:
    pipelines.PIPELINES[pipeline] = EntryPoint(
        pipeline, f"tests.unit.jobs.test_readings:{PIPELINES[pipeline].__name__}", pipelines.GROUP
    )
    made = {**configuration("find", tmp_path / "runs"), "privacy": privacy}
    made["rules"][0]["pipeline"] = pipeline
    return made


PIPELINES: Mapping[str, type[Obedient]] = {"reads": Reads, "together": ReadsTogether}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Inbox]:
    node = Inbox(tmp_path / "var", settings_of(tmp_path))
    yield node
    node.close()


def analysed(node: Inbox) -> None:
    node.receive(ultrasound("one", number=1))
    node.settle()
    assert Worker(node.settings, node.database).run_once()
    assert node.jobs()[-1].state is JobState.SUCCEEDED


def rows(node: Inbox) -> list[tuple[int, int]]:
    """Row number and image of every reading that is kept."""
    with node.database.read() as session:
        chosen = select(AnnotationReading.id, AnnotationReading.instance_id).order_by(AnnotationReading.id)
        return [(number, image) for number, image in session.execute(chosen)]


def shown(node: Inbox) -> list[dict[str, Any]]:
    return readings.show(node.database, node.settings, STUDY)


def test_a_job_keeps_what_it_read_for_those_with_the_key(node: Inbox) -> None:
    analysed(node)
    name, caliper = shown(node)
    assert (name["text"], name["meaning"], name["removed"]) == (SECRET, "identity", True)
    assert name["bounds"] == [4.0, 2.0, 90.0, 14.0]
    assert (caliper["kind"], caliper["text"], caliper["removed"]) == ("caliper", "", False)
    assert json.dumps([name, caliper])


def test_the_text_lies_in_no_file_of_the_node(node: Inbox, caplog: pytest.LogCaptureFixture) -> None:
    analysed(node)
    shown(node)
    node.database.dispose()
    files = [path for path in node.folder.rglob("*") if path.is_file()]
    assert files
    for part in ("YOUNG-HEE", "김영희"):
        assert not [path.name for path in files if part.encode() in path.read_bytes()]
        assert part not in caplog.text


def test_what_was_read_ahead_is_kept_there_and_not_in_the_analysis(node: Inbox) -> None:
    node.receive(ultrasound("one", number=1))
    node.index()
    kept = Analyses(node.folder / "analyses")
    at_work = AtWork(node.folder / "at-work", "us", most=2, memory_mib=0)
    ahead = Ahead(node.database, node.settings, kept, lambda _: Reads(), threading.Event(), at_work)
    assert ahead.run_once()
    [folder] = [path for path in kept.folder.iterdir() if path.is_dir()]
    analysis = kept.get(folder.name)
    assert analysis is not None and analysis.readings == ()
    assert SECRET not in (folder / "result.json").read_text()

    node.assemble(seconds=300)
    assert Worker(node.settings, node.database).run_once()
    assert (node.folder.parent / "runs").read_text().count("run") == 1
    assert [row["text"] for row in shown(node)] == [SECRET, ""]


def test_a_second_analysis_of_the_same_kind_replaces_the_first(node: Inbox) -> None:
    analysed(node)
    record = readings.ReadingRecord(node.database, node.settings)
    uid = str(ultrasound("one", number=1).SOPInstanceUID)
    options = node.jobs()[-1].options
    record.take(Reads(), options, [uid], PipelineResult(readings=read_in(uid)[:1]))
    assert [row["text"] for row in shown(node)] == [SECRET]
    record.take(Reads(), {"do": "otherwise"}, [uid], PipelineResult(readings=read_in(uid)))
    assert len(rows(node)) == 3
    record.take(Reads(), options, [uid], PipelineResult())
    assert len(rows(node)) == 2


def test_a_pipeline_that_looks_at_all_images_at_once_is_kept_too(tmp_path: Path) -> None:
    node = Inbox(tmp_path / "var", settings_of(tmp_path, "together"))
    node.receive(ultrasound("one", number=1), ultrasound("one", number=2))
    node.settle()
    assert Worker(node.settings, node.database).run_once()
    assert [row["text"] for row in shown(node)] == [SECRET, "", SECRET, ""]
    node.close()


def test_a_site_may_keep_nothing(tmp_path: Path) -> None:
    node = Inbox(tmp_path / "var", settings_of(tmp_path, keep_readings=False))
    analysed(node)
    assert rows(node) == []
    node.close()


def test_each_look_is_an_event_without_the_text(node: Inbox) -> None:
    analysed(node)
    shown(node)
    event = node.events()[-1]
    assert event.number == 4010
    assert (event.fields["study"], event.fields["readings"]) == (STUDY, 2)
    assert event.fields["user"]
    assert "YOUNG" not in json.dumps([each.fields for each in node.events()])


def test_a_look_at_nothing_is_an_event_too_and_needs_no_key(node: Inbox) -> None:
    node.receive(ultrasound("one"))
    node.settle()
    sitekey.path_of(node.folder).unlink()  # made when the study's name was sealed
    assert shown(node) == []
    assert node.events()[-1].number == 4010
    assert not sitekey.path_of(node.folder).exists()
    with pytest.raises(NotFound):
        readings.show(node.database, node.settings, "9.9.9")


def test_with_another_key_or_none_nothing_is_shown_and_no_key_is_made(node: Inbox) -> None:
    analysed(node)
    path = sitekey.path_of(node.folder)
    kept = path.read_bytes()
    path.write_text("ab" * 32)
    with pytest.raises(ReadingsSealed, match="another site key"):
        shown(node)
    path.unlink()
    with pytest.raises(ReadingsSealed, match="missing"):
        shown(node)
    assert not path.exists()
    path.write_bytes(kept)
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="others may read it"):
        shown(node)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_who_may_not_read_the_key_is_told_so(node: Inbox) -> None:
    analysed(node)
    folder = sitekey.path_of(node.folder).parent
    folder.chmod(0o000)
    try:
        with pytest.raises(ConfigurationError, match="run the command as that user"):
            shown(node)
    finally:
        folder.chmod(0o700)


def test_a_text_that_is_moved_to_another_image_cannot_be_opened(node: Inbox) -> None:
    node.receive(ultrasound("one", number=1), ultrasound("one", number=2))
    node.settle()
    assert Worker(node.settings, node.database).run_once()
    (first, _), *_, (_, other_image) = rows(node)
    with node.database.write() as session:
        moved = update(AnnotationReading).where(AnnotationReading.id == first)
        session.execute(moved.values(instance_id=other_image))
    with pytest.raises(ReadingsSealed):
        shown(node)


def test_readings_leave_with_the_study(node: Inbox) -> None:
    analysed(node)
    with node.database.write() as session:
        session.execute(update(Delivery).values(state=DeliveryState.CANCELLED))
    node.receive(ultrasound("two"))
    study = node.study(STUDY)
    assert purge(node.database, node.settings, utc_now() + timedelta(days=13)) == 0
    assert len(rows(node)) == 2
    with node.database.write() as session:
        session.get_one(type(study), study.id).state = type(study.state)("delivered")
    assert purge(node.database, node.settings, utc_now() + timedelta(days=15)) == 1
    assert rows(node) == []
    assert shown(node) == []
