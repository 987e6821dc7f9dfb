"""A job comes to an end with its results, or with a reason; the PACS is told what it must know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom import config, dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from sqlalchemy import select

from ai_pipeline.contract import Accept
from dicom_node import jobs
from dicom_node.dicom.header import quiet_pydicom
from dicom_node.events import CLEANING_WITHHELD, IMAGES_CLEANED, SOURCE_REPAIRED
from dicom_node.jobs.worker.process import Worker
from dicom_node.model.kinds import ResultKind
from dicom_node.model.lifecycle import DeliveryState, JobState, StudyState
from dicom_node.store.tables import Delivery, Result, Study
from dicom_node.studies import quarantine
from dicom_node.studies.comparison import reindex
from tests.inbox_lab import Inbox, enter_peer
from tests.modality import ultrasound
from tests.unit.inbox.objects import changed
from tests.unit.jobs.worker_lab import Obedient, configuration, register, work

Make = Callable[..., Inbox]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes a node without a network, whose only rule does as told."""
    register()
    made: list[Inbox] = []

    def make(do: str = "find", **workers: object) -> Inbox:
        made.append(Inbox(tmp_path / "var", configuration(do, tmp_path / "runs", **workers)))
        return made[-1]

    yield make
    for node in made:
        node.close()


def results(node: Inbox) -> list[Result]:
    with node.database.read() as session:
        rows = list(session.scalars(select(Result).order_by(Result.id)))
        for row in rows:
            session.expunge(row)
        return rows


def deliveries(node: Inbox) -> list[tuple[str, DeliveryState]]:
    with node.database.read() as session:
        rows = session.scalars(select(Delivery).join(Delivery.result).order_by(Delivery.id))
        return [(row.result.sop_instance_uid, row.state) for row in rows]


def analysed(node: Inbox, *images: Dataset) -> Study:
    """Receive, assemble, run."""
    node.receive(*images)
    node.settle()
    work(node)
    return node.study(images[0].StudyInstanceUID)


def reports(node: Inbox) -> list[Dataset]:
    rows = [row for row in results(node) if row.kind is ResultKind.SR]
    return [dcmread(node.folder / row.path) for row in rows]


def text_of(report: Dataset) -> str:
    return " ".join(
        str(element.value) for element in report.iterall() if element.keyword in ("TextValue", "CodeMeaning")
    )


def test_a_study_is_analysed_and_its_results_wait_for_their_destination(make: Make) -> None:
    node = make()
    study = analysed(node, ultrasound("one"))
    assert study.state is StudyState.DELIVERING
    assert [row.kind for row in results(node)] == [ResultKind.SR, ResultKind.SC]
    assert [state for _, state in deliveries(node)] == [DeliveryState.PENDING] * 2
    for row in results(node):
        held = dcmread(node.folder / row.path)
        assert (held.SOPInstanceUID, held.StudyInstanceUID) == (
            row.sop_instance_uid,
            study.study_instance_uid,
        )
    assert list((node.folder / "results").rglob("*.dcm")) and not list(node.folder.rglob("results/**/.*"))
    [job] = node.jobs()
    assert (job.state, job.share_done) == (JobState.SUCCEEDED, 1.0)
    assert job.analysed_at is not None


def test_what_had_to_be_repaired_of_a_source_is_told_by_attribute_and_not_by_value(make: Make) -> None:
    node = make()
    faulty = ultrasound("one")
    with quiet_pydicom():
        faulty["StudyTime"] = DataElement("StudyTime", "TM", "11:20:00", validation_mode=config.IGNORE)
        study = analysed(node, faulty)
    assert study.state is StudyState.DELIVERING
    [event] = [event for event in node.events() if event.number == SOURCE_REPAIRED.number]
    assert event.study_id == study.id
    assert (event.fields["instance"], event.fields["repaired"]) == (faulty.SOPInstanceUID, "StudyTime")
    assert "11:20" not in str(event.fields)


def test_a_refused_study_stays_in_the_house(make: Make) -> None:
    node = make()
    study = analysed(node, changed(ultrasound("leg"), BodyPartExamined="LEG"))
    assert (study.state, study.reason) == (StudyState.NOT_APPLICABLE, "a leg")
    assert results(node) == []


def test_a_rule_may_tell_the_pacs_of_refusals(make: Make, tmp_path: Path) -> None:
    config = configuration()
    config["rules"][0]["tell_pacs_refusals"] = True
    node = Inbox(tmp_path / "told", config)
    study = analysed(node, changed(ultrasound("leg"), BodyPartExamined="LEG"))
    assert study.state is StudyState.DELIVERING
    assert "a leg" in text_of(reports(node)[0])
    node.close()


@pytest.mark.parametrize(
    ("do", "claims", "reason"),
    [
        ("not-decode", 1, "do not decode"),
        ("not-clean", 1, "text may be left"),
        ("stumble", 3, "RuntimeError"),
    ],
)
def test_what_fails_for_good_is_told_to_the_pacs_once_and_not_between_tries(
    make: Make, do: str, claims: int, reason: str
) -> None:
    node = make(do)
    image = ultrasound("fails")
    node.receive(image)
    node.settle()
    assert work(node) == claims
    [job] = node.jobs()
    assert job.state is JobState.FAILED and reason in job.reason
    assert node.study(image.StudyInstanceUID).state is StudyState.DELIVERING
    [report] = reports(node)
    assert reason in text_of(report)
    assert "Secret" not in job.reason + text_of(report)
    assert not any("Secret" in str(row.fields) for row in node.events())


def test_withheld_images_are_counted(make: Make) -> None:
    node = make("not-clean")
    analysed(node, ultrasound("withheld"))
    [withheld] = [row for row in node.events() if row.number == CLEANING_WITHHELD.number]
    assert withheld.fields["images"] == 1
    assert IMAGES_CLEANED.number not in {row.number for row in node.events()}


def test_a_later_success_replaces_the_report_that_the_ai_did_not_run(make: Make) -> None:
    node = make("not-decode")
    analysed(node, ultrasound("later"))
    [failure] = reports(node)
    with node.database.write() as session:
        [job] = node.jobs()
        session.get_one(jobs.by_hand.Job, job.id).options = {"do": "find", "log": ""}
        jobs.retry(session, job.id)
    work(node)
    [_, success] = reports(node)
    replaced = success.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert replaced.ReferencedSOPInstanceUID == failure.SOPInstanceUID


def test_a_late_image_leaves_single_results_and_replaces_the_report(make: Make) -> None:
    node = make()
    first, late = (ultrasound("late", number=number) for number in (1, 2))
    analysed(node, first)
    before = {row.sop_instance_uid: row for row in results(node)}
    study = analysed(node, late)
    assert study.revision == 2
    added = [row for row in results(node) if row.sop_instance_uid not in before]
    assert [row.kind for row in added] == [ResultKind.SR, ResultKind.SC]
    [old] = [row for row in before.values() if row.kind is ResultKind.SR]
    assert added[0].supersedes == old.sop_instance_uid
    assert len(deliveries(node)) == 4


def test_the_same_work_again_makes_no_second_object(make: Make) -> None:
    node = make()
    image = ultrasound("same")
    analysed(node, image)
    before = {row.sop_instance_uid: (node.folder / row.path).read_bytes() for row in results(node)}
    with node.database.write() as session:
        study = session.scalars(select(Study)).one()
        quarantine.quarantine_study(session, study, "test")
        quarantine.release_study(session, study.id)
    assert {state for _, state in deliveries(node)} == {DeliveryState.CANCELLED}
    node.assemble(1)
    work(node)
    assert {row.sop_instance_uid: (node.folder / row.path).read_bytes() for row in results(node)} == before
    assert {state for _, state in deliveries(node)} == {DeliveryState.PENDING}


def test_a_name_corrected_while_the_job_runs_releases_nothing_with_the_old_name(make: Make) -> None:
    node = make()
    image = ultrasound("corrected")
    node.receive(image)
    node.settle()
    worker = Worker(node.settings, node.database)
    claimed = worker._queue.claim(worker._owner)
    assert claimed is not None
    node.receive(changed(image, PatientName="Right^Name"))
    node.index()
    worker._runner.run(claimed, QuietReport())
    assert results(node) == []
    assert node.jobs()[0].state is JobState.CANCELLED
    node.assemble(1)
    work(node)
    assert {str(report.PatientName) for report in reports(node)} == {"Right^Name"}


class QuietReport:
    def __call__(self, share: float, what: str) -> None:
        pass


def test_one_image_that_does_not_decode_does_not_spoil_the_others(make: Make) -> None:
    node = make()
    good, bad = (ultrasound("spoilt", number=number) for number in (1, 2))
    bad.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
    bad.PixelData = encapsulate([b"this is no JPEG 2000"])
    bad["PixelData"].is_undefined_length = True
    study = analysed(node, good, bad)
    assert study.state is StudyState.DELIVERING
    [report] = reports(node)
    assert "decode" in text_of(report)
    assert len([row for row in results(node) if row.kind is ResultKind.SC]) == 1


def without_pacs(tmp_path: Path) -> Inbox:
    """The same node, which knows no peer of that name any more."""
    config = configuration()
    config["peers"][1]["name"] = "renamed"
    config["rules"][0]["send_to"] = ["renamed"]
    return Inbox(tmp_path / "var", config)


def test_of_an_image_that_is_not_decoded_the_pacs_reads_also_where_the_others_are_refused(make: Make) -> None:
    node = make("find")
    refused = changed(ultrasound("unknown"), BodyPartExamined="LEG")
    kept = changed(ultrasound("unknown", number=2), PixelData=encapsulate([b"no picture of ours"]))
    kept.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.110"
    kept["PixelData"].VR, kept["PixelData"].is_undefined_length = "OB", True
    study = analysed(node, refused, kept)
    assert study.state is not StudyState.NOT_APPLICABLE
    assert "AI did not run: cannot be decoded: its transfer syntax JPEG XL" in text_of(reports(node)[0])


def test_a_destination_that_is_no_longer_configured_fails_the_job_with_that_reason(
    make: Make, tmp_path: Path
) -> None:
    node = make()
    node.receive(ultrasound("gone"))
    node.settle()
    other = without_pacs(tmp_path)
    assert work(other) == 1
    [job] = other.jobs()
    assert job.state is JobState.FAILED and "no peer is called 'pacs'" in job.reason
    other.close()


def test_a_job_for_a_peer_that_was_entered_elsewhere_waits_until_it_is_known_here(
    make: Make, tmp_path: Path
) -> None:
    node = make()
    node.receive(ultrasound("early"))
    node.settle()
    enter_peer(node.database, "pacs")
    behind = without_pacs(tmp_path)
    work(behind)
    [job] = behind.jobs()
    assert (job.state, job.tries) == (JobState.QUEUED, 0)
    assert "yet to take over the peer pacs" in job.reason
    behind.close()


def test_an_unknown_pipeline_fails_the_job_with_the_names_that_there_are(make: Make, tmp_path: Path) -> None:
    config = configuration()
    config["rules"][0]["pipeline"] = "no_such"
    node = Inbox(tmp_path / "unknown", config)
    analysed(node, ultrasound("unknown"))
    [job] = node.jobs()
    assert job.state is JobState.FAILED and "no pipeline is called 'no_such'" in job.reason
    [report] = reports(node)
    assert "AI did not run: no pipeline is called 'no_such'" in text_of(report)
    node.close()


def test_an_image_that_is_refused_by_its_size_is_reported(tmp_path: Path) -> None:
    register()
    node = Inbox(tmp_path / "small", configuration() | {"images": {"longest_side": 64}})
    study = analysed(node, ultrasound("large"))
    assert study.state is StudyState.DELIVERING
    [report] = reports(node)
    assert "AI did not run: the image has 240 × 180 pixels: images.longest_side is 64" in text_of(report)
    node.close()


def test_what_memory_an_image_took_is_not_missing_for_the_report(make: Make) -> None:
    """The process whose memory is used up writes none: the next one does."""
    node = make(attempts=2)
    node.receive(ultrasound("spent"))
    node.settle()
    worker = Worker(node.settings, node.database)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Obedient, "accepts", out_of_memory)
        assert worker.run_once()
    [job] = node.jobs()
    assert job.state is JobState.QUEUED and "workers.memory_mib = 2304" in job.reason
    assert not results(node)
    assert work(node) == 1
    [report] = reports(node)
    assert "AI did not run: workers lost with this image, or out of memory" in text_of(report)


def out_of_memory(*_: object) -> Accept:
    raise MemoryError


def test_a_model_that_gives_no_number_is_said_in_the_report(make: Make) -> None:
    node = make("give_no_number")
    study = analysed(node, changed(ultrasound("silent"), BodyPartExamined="BREAST"))
    assert study.state is StudyState.DELIVERING
    [job] = node.jobs()
    assert (job.state, job.reason, job.tries) == (JobState.FAILED, "the model gave no number", 1)
    [report] = reports(node)
    assert "AI did not run: the model gave no number" in text_of(report)


def test_a_model_that_gives_no_number_for_one_image_leaves_the_others(make: Make) -> None:
    node = make("give_no_number")
    sound, silent = (ultrasound("both", number=number) for number in (1, 2))
    analysed(node, sound, changed(silent, BodyPartExamined="BREAST"))
    [job] = node.jobs()
    assert job.state is JobState.SUCCEEDED
    [report] = reports(node)
    assert "1 of the images not analysed: the model gave no number" in text_of(report)
    assert len([row for row in results(node) if row.kind is ResultKind.SC]) == 1


def test_results_of_a_lost_database_are_asked_for_and_not_built_again(make: Make) -> None:
    node = make()
    analysed(node, ultrasound("lost"))
    built = {row.sop_instance_uid: row.sha256 for row in results(node)}
    assert {state for _, state in deliveries(node)} == {DeliveryState.PENDING}
    node.database.dispose()
    for path in node.folder.glob("node.db*"):
        path.unlink()
    node = make()
    reindex(node.database, node.spool, node.files, lambda _done, _of: None)
    node.settle()
    work(node)
    assert {row.sop_instance_uid: row.sha256 for row in results(node)} == built
    assert [state for _, state in deliveries(node)] == [DeliveryState.UNCONFIRMED] * len(built)
