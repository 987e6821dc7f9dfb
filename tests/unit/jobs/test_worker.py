"""What a worker makes of a job."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import pytest
from pydicom import config, dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from ai_pipeline.contract import (
    Meaning,
    PipelineResult,
    Reading,
)
from dicom_node.base import events
from dicom_node.base.dicom.header import quiet_pydicom
from dicom_node.base.lifecycle import DeliveryState, JobState, ResultKind, StudyState
from dicom_node.base.store.tables import (
    Job,
    Result,
    Study,
)
from dicom_node.jobs.queue import retry
from dicom_node.jobs.worker.analysis import ImageAnalysis
from dicom_node.jobs.worker.run import Worker
from dicom_node.studies import quarantine
from tests import ROOT
from tests.forked import Forked
from tests.inbox_lab import Inbox
from tests.modality import ultrasound, ultrasounds
from tests.result_images import still
from tests.unit.jobs.worker_lab import Obedient, configuration, confirm, states, work
from tests.unit.receive.objects import changed
from tests.unit.results.report_lab import conclusion
from tests.waiting import wait_until

Make = Callable[..., Inbox]


@pytest.fixture
def make(open_inbox: Make, tmp_path: Path) -> Make:
    """Makes a node without a network, whose only rule does as told."""

    def make(do: str = "find", rule: Mapping[str, object] = {}, **workers: object) -> Inbox:
        made = configuration(do, tmp_path / "runs", **workers)
        made["rules"][0] |= rule
        return open_inbox(made)

    return make


def received(node: Inbox, *images: Dataset) -> Inbox:
    """Receive and assemble."""
    node.settle(*images)
    return node


def analysed(node: Inbox, *images: Dataset) -> Study:
    """Receive, assemble, run."""
    work(received(node, *images))
    return node.study_of(images[0])


def reports(node: Inbox) -> list[Dataset]:
    return [dcmread(node.folder / row.path) for row in node.rows(Result) if row.kind is ResultKind.SR]


def text_of(report: Dataset) -> str:
    return " ".join(str(one.value) for one in report.iterall() if one.keyword in ("TextValue", "CodeMeaning"))


def test_a_study_is_analysed_and_its_results_wait_for_their_destination(make: Make) -> None:
    node = make()
    study = analysed(node, ultrasound("one"))
    assert study.state is StudyState.DELIVERING
    assert states(node) == [DeliveryState.PENDING] * 2
    results = node.rows(Result)
    assert [row.kind for row in results] == [ResultKind.SR, ResultKind.SC]
    for row in results:
        held = dcmread(node.folder / row.path)
        assert (held.SOPInstanceUID, held.StudyInstanceUID) == (
            row.sop_instance_uid,
            study.study_instance_uid,
        )
    assert len(list((node.folder / "results").rglob("*.dcm"))) == 2
    assert not list(node.folder.rglob("results/**/.*"))
    [job] = node.jobs()
    assert (job.state, job.share_done, bool(job.analysed_at)) == (JobState.SUCCEEDED, 1.0, True)


def test_what_had_to_be_repaired_of_a_source_is_told_by_attribute_and_not_by_value(make: Make) -> None:
    node = make()
    faulty = ultrasound("one")
    with quiet_pydicom():
        faulty["StudyTime"] = DataElement("StudyTime", "TM", "11:20:00", validation_mode=config.IGNORE)
        study = analysed(node, faulty)
    assert study.state is StudyState.DELIVERING
    [event] = node.events(events.SOURCE_REPAIRED.number)
    assert event.study_id == study.id
    assert (event.fields["instance"], event.fields["repaired"]) == (faulty.SOPInstanceUID, "StudyTime")
    assert "11:20" not in str(event.fields)


@pytest.mark.parametrize(
    ("tell", "state"), [(False, StudyState.NOT_APPLICABLE), (True, StudyState.DELIVERING)]
)
def test_a_refused_study_stays_in_the_house_unless_the_rule_tells_the_pacs(
    make: Make, tell: bool, state: StudyState
) -> None:
    node = make(rule={"tell_pacs_refusals": tell})
    study = analysed(node, changed(ultrasound("leg"), BodyPartExamined="LEG"))
    assert study.state is state
    assert tell or (study.reason, node.rows(Result)) == ("a leg", [])
    assert all("a leg" in text_of(report) for report in reports(node))


@pytest.mark.parametrize(
    ("do", "claims", "reason"),
    [
        ("not-decode", 1, "do not decode"),
        ("not-clean", 1, "text may be left"),
        ("give_no_number", 1, "the model gave no number"),
        ("stumble", 3, "RuntimeError"),
    ],
)
def test_what_fails_for_good_is_told_to_the_pacs_once_and_not_between_tries(
    make: Make, do: str, claims: int, reason: str
) -> None:
    image = changed(ultrasound("fails"), BodyPartExamined="BREAST")
    node = received(make(do), image)
    assert work(node) == claims
    [job] = node.jobs()
    assert job.state is JobState.FAILED
    assert reason in job.reason
    assert node.study_of(image).state is StudyState.DELIVERING
    [report] = reports(node)
    assert f"AI did not run: {job.reason}" in text_of(report)
    assert "Secret" not in job.reason + text_of(report)
    assert not any("Secret" in str(row.fields) for row in node.events())


def test_a_later_success_replaces_the_report_that_the_ai_did_not_run(make: Make) -> None:
    node = make("not-decode")
    analysed(node, ultrasound("later"))
    [failure] = reports(node)
    node.put(Job, options={"do": "find", "log": ""})
    node.write(retry, node.jobs()[0].id)
    work(node)
    [_, success] = reports(node)
    replaced = success.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert replaced.ReferencedSOPInstanceUID == failure.SOPInstanceUID


@pytest.mark.parametrize(
    "second",
    [ultrasound("late", number=2), changed(ultrasound("late"), Laterality="R")],
    ids=["another image", "the same with another side"],
)
def test_a_late_image_leaves_single_results_and_replaces_the_report(make: Make, second: Dataset) -> None:
    node = make()
    analysed(node, ultrasound("late"))
    confirm(node)
    before = node.rows(Result)
    assert analysed(node, second).revision == 2
    added = node.rows(Result)[len(before) :]
    assert [row.kind for row in before] == [row.kind for row in added] == [ResultKind.SR, ResultKind.SC]
    assert added[0].supersedes == before[0].sop_instance_uid
    assert len(states(node)) == 4


def test_the_report_says_that_an_object_beside_its_images_cannot_be_read(make: Make) -> None:
    node, image = make(), ultrasound("beside")
    node.receive_bytes(
        b"no data set", image.SOPClassUID, "1.2.3", image.file_meta.TransferSyntaxUID, association="a1"
    )
    node.settle(image, association="a1")
    work(node)
    [report] = reports(node)
    assert "1 object received with these cannot be read" in conclusion(report)


def test_the_conclusion_on_a_study_of_an_association_that_broke_off_says_so(make: Make) -> None:
    """Lists and viewers show the conclusion: without it "nothing found" would seem to be of all images."""
    node = make()
    node.opened("a1")
    node.receive(*ultrasounds("cut", 3)[:2], association="a1")
    node.tell(events.ASSOCIATION_ABORTED, "a1", objects=2, reason="connection lost")
    node.settle()
    work(node)
    [report] = reports(node)
    assert "The association broke off: images of this study may be missing" in conclusion(report)


def test_the_same_work_again_makes_no_second_object(make: Make) -> None:
    node = make()
    study = analysed(node, ultrasound("same"))
    contents = lambda: {row.path: (node.folder / row.path).read_bytes() for row in node.rows(Result)}
    before = contents()
    node.write(lambda session: quarantine.quarantine_study(session, session.get_one(Study, study.id), "test"))
    node.write(quarantine.release_study, study.id)
    assert set(states(node)) == {DeliveryState.CANCELLED}
    node.assemble(1)
    work(node)
    assert contents() == before
    assert set(states(node)) == {DeliveryState.PENDING}


def test_a_name_corrected_while_the_job_runs_releases_nothing_with_the_old_name(make: Make) -> None:
    image = ultrasound("corrected")
    node = received(make(), image)
    worker = Worker(node.settings, node.database)
    claimed = worker._queue.claim(worker._owner)
    node.index(changed(image, PatientName="Right^Name"))
    worker._run(claimed, lambda share, what: None)
    assert (node.rows(Result), node.jobs()[0].state) == ([], JobState.CANCELLED)
    node.assemble(1)
    work(node)
    assert {str(report.PatientName) for report in reports(node)} == {"Right^Name"}


def test_one_image_that_does_not_decode_does_not_spoil_the_others(make: Make) -> None:
    node = make()
    good, bad = ultrasounds("spoilt", 2)
    bad.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
    bad.PixelData = encapsulate([b"this is no JPEG 2000"])
    bad["PixelData"].is_undefined_length = True
    assert analysed(node, good, bad).state is StudyState.DELIVERING
    [report] = reports(node)
    assert "1 of the images not analysed: " in conclusion(report)
    assert node.column(Result.kind).count(ResultKind.SC) == 1


def test_a_destination_that_is_no_longer_configured_fails_the_job_with_that_reason(
    make: Make, open_inbox: Make
) -> None:
    received(make(), ultrasound("gone"))
    renamed = configuration()
    renamed["peers"][1]["name"] = "renamed"
    renamed["rules"][0]["send_to"] = ["renamed"]
    other = open_inbox(renamed)
    assert work(other) == 1
    [job] = other.jobs()
    assert job.state is JobState.FAILED
    assert "no peer is called 'pacs'" in job.reason


def test_what_memory_an_image_took_is_not_missing_for_the_report(make: Make) -> None:
    """The process whose memory is used up writes none: the next one does."""
    node = received(make(attempts=2), ultrasound("spent"))
    worker = Worker(node.settings, node.database)
    with patch.object(Obedient, "accepts", side_effect=MemoryError):
        assert worker.run_once()
    [job] = node.jobs()
    assert job.state is JobState.QUEUED
    assert "workers.memory_mib = 2304" in job.reason
    assert not node.rows(Result)
    assert work(node) == 1
    [report] = reports(node)
    assert "AI did not run: workers lost with this image, or out of memory" in text_of(report)


def test_results_of_a_lost_database_are_asked_for_and_not_built_again(make: Make) -> None:
    node = make()
    analysed(node, ultrasound("lost"))
    built = {row.sop_instance_uid: row.sha256 for row in node.rows(Result)}
    assert set(states(node)) == {DeliveryState.PENDING}
    node.database.dispose()
    for path in node.folder.glob("node.db*"):
        path.unlink()
    node = make()
    node.reindex()
    node.settle()
    work(node)
    assert {row.sop_instance_uid: row.sha256 for row in node.rows(Result)} == built
    assert states(node) == [DeliveryState.UNCONFIRMED] * len(built)


@contextmanager
def worker_of(node: Inbox) -> Iterator[subprocess.Popen[str]]:
    """A worker process, waited for until it says that it is ready."""
    command = [sys.executable, "-m", "tests.unit.jobs.worker_lab", node.settings.for_children()]
    pipe, environment = subprocess.PIPE, {**os.environ, "PYTHONPATH": str(ROOT)}
    with Forked(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        try:
            assert json.loads(next(line for line in process.stdout if line.strip()))["ready"] is True
            yield process
        finally:
            process.kill()


def in_state(node: Inbox, state: JobState) -> Callable[[], bool]:
    return lambda: node.jobs()[-1].state is state


def test_a_worker_whose_node_is_gone_hands_a_long_job_back_uncounted(make: Make) -> None:
    node = received(make("sleep"), ultrasound("one"))
    with worker_of(node) as worker:
        wait_until(lambda: node.jobs()[0].share_done > 0)
        worker.stdin.close()  # what the kernel does when the node is killed
        assert worker.wait(60) == 0
    [job] = node.jobs()
    assert (job.state, job.tries, job.attempts) == (JobState.QUEUED, 0, 1)


def test_a_job_that_takes_its_worker_with_it_fails_and_the_pacs_is_told(make: Make, tmp_path: Path) -> None:
    node = received(make("hang", attempts=2, time_limit_seconds=4), ultrasound("hangs"))
    with worker_of(node) as worker:
        worker.wait(60)
    with worker_of(node):  # as if the node restarted it: the last try leaves the image out
        wait_until(in_state(node, JobState.FAILED))
    [job] = node.jobs()
    assert "workers lost with this image" in job.reason
    assert (tmp_path / "runs").read_text().count("run") == 1
    assert node.study_of(ultrasound("hangs")).state is StudyState.DELIVERING
    assert ResultKind.SR in set(node.column(Result.kind))


class Says(Obedient):
    """Finds two things in every image, one for research only, and reads a name."""

    card = replace(Obedient.card, per_image=False)

    def run(self, *asked: Any) -> PipelineResult:
        result = super().run(*asked)
        [shown] = result.findings
        hidden = replace(shown, label="hidden", research_only=True)
        read = Reading(asked[0][0].uid, None, "text", Meaning.IDENTITY, (4, 2, 90, 14), 0.97, True, "KIM")
        return replace(result, findings=(shown, hidden), readings=(read,))


def test_findings_for_research_only_and_what_was_read_stay_in_the_worker(tmp_path: Path) -> None:
    shown, _ = ImageAnalysis(Mock(), Mock()).run(Says(), [still(tmp_path)], {}, lambda share, what: None)
    assert ([finding.label for finding in shown.findings], shown.readings) == (["Mark"], ())
