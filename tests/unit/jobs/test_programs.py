"""Objects that a program of others made: judged, delivered, held, refused; its first answer stays."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.base import events
from dicom_node.base.dicom.header import items
from dicom_node.base.dicom.uids import is_own_result
from dicom_node.base.lifecycle import DeliveryState, HeldState, JobState
from dicom_node.base.store import views
from dicom_node.base.store.tables import Delivery, HeldResult, Job, Result
from dicom_node.deliver import holding, outbox
from dicom_node.people.spool import erase_study
from dicom_node.studies.reruns import rerun
from tests import ct_lab
from tests.inbox_lab import Inbox
from tests.peers import a_receiver
from tests.unit.jobs.program_lab import hold_reports
from tests.unit.jobs.worker_lab import confirm, states, work

Make = Callable[..., Inbox]
SLICES = ct_lab.ct_slices("one", 4)
PATIENT = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "AccessionNumber",
)


@pytest.fixture
def answer(tmp_path: Path) -> Path:
    """The folder from which the program copies its answer: a report and a segmentation."""
    return ct_lab.answer(tmp_path, SLICES)


@pytest.fixture
def node(tmp_path: Path, answer: Path) -> Iterator[Make]:
    """Makes a node whose rule gives CT to that program, and lets it answer."""
    made: list[Inbox] = []

    def make(code: str = "", *, peers: Sequence[dict[str, Any]] = (), **given: Any) -> Inbox:
        script = ct_lab.program(tmp_path, ct_lab.copies(answer) + code)
        config = ct_lab.configuration(script, **{"results": ("sr", "seg", "sc"), **given})
        config["peers"] += peers
        inbox = Inbox(tmp_path / "node", config)
        made.append(inbox)
        inbox.settle(*SLICES)
        work(inbox)
        return inbox

    yield make
    for one in made:
        one.close()


def sent(node: Inbox) -> dict[str, Dataset]:
    """The results by their kinds."""
    return {row.kind.value: dcmread(node.folder / row.path) for row in node.rows(Result)}


def told(node: Inbox, event: events.EventType) -> list[dict[str, Any]]:
    """The fields of the events of this type."""
    return [row.fields for row in node.events(event.number)]


def again(node: Inbox) -> None:
    """A person lets the rules run again."""
    node.write(rerun, node.study_of(SLICES[0]).id, node.settings)
    work(node)


def with_one_changed(answer: Path, name: str, **values: Any) -> None:
    """Give one object of the answer other attributes."""
    found = dcmread(answer / name)
    for keyword, value in values.items():
        setattr(found, keyword, value)
    found.save_as(answer / name, enforce_file_format=True)


def test_a_report_and_a_segmentation_of_a_program_are_delivered(node: Make) -> None:
    inbox = node()
    [job] = inbox.jobs()
    assert (job.state, job.reason, job.models) == (JobState.SUCCEEDED, "", ["lungs@1.2"])
    made = sent(inbox)
    assert made.keys() == {"program_sr", "seg"}
    assert states(inbox) == [DeliveryState.PENDING] * 2
    [counted] = told(inbox, events.PROGRAM_ANSWERED)
    assert [counted[key] for key in ("sent", "held", "refused")] == [2, 0, 0]


def test_each_series_has_its_own_segmentation_where_the_program_runs_on_series(tmp_path: Path) -> None:
    script = ct_lab.program(tmp_path, ct_lab.segments_and_reports())
    config = ct_lab.configuration(script, results=("sr", "seg"), each="series")
    inbox = Inbox(tmp_path / "node", config)
    series = [ct_lab.ct_slices("one", 3, series=number, contrast=int(number) / 2) for number in "12"]
    inbox.settle(*series[0], *series[1])
    work(inbox)
    assert inbox.column(Job.reason) == [""]
    rows = sorted((row.kind.value, row.path) for row in inbox.rows(Result))
    assert [kind for kind, _ in rows] == ["program_sr"] * 2 + ["seg"] * 2
    masks = [dcmread(inbox.folder / path) for kind, path in rows if kind == "seg"]
    referred = {mask.ReferencedSeriesSequence[0].SeriesInstanceUID for mask in masks}
    assert referred == {slices[0].SeriesInstanceUID for slices in series}
    inbox.close()


@pytest.mark.parametrize("kind", ["program_sr", "seg"])
def test_what_a_program_made_is_of_the_patient_and_marked_as_ours(node: Make, kind: str) -> None:
    made = sent(node())[kind]
    assert [made[word].value for word in PATIENT] == [SLICES[0][word].value for word in PATIENT]
    assert is_own_result(made)
    assert made.SeriesNumber >= 9000
    assert made.SeriesDescription.startswith("AI ")
    assert made.SeriesDescription.endswith("not for diagnostic use")


def test_the_report_refers_to_the_segmentation_under_its_new_uid(node: Make, answer: Path) -> None:
    made = sent(node())
    uids = {item.get("ReferencedSOPInstanceUID") for item in items(made["program_sr"])}
    assert made["seg"].SOPInstanceUID in uids
    assert dcmread(answer / "seg.dcm").SOPInstanceUID not in uids


def test_the_same_answer_again_changes_nothing(node: Make) -> None:
    inbox = node()
    confirm(inbox)
    before = [(row.id, row.sha256) for row in inbox.rows(Result)]
    again(inbox)
    assert [(row.id, row.sha256) for row in inbox.rows(Result)] == before
    assert states(inbox) == [DeliveryState.CONFIRMED] * 2
    assert told(inbox, events.PROGRAM_DIFFERS) == []


def test_the_same_content_under_new_uids_and_dates_is_the_same_answer(
    node: Make, answer: Path, tmp_path: Path
) -> None:
    inbox = node()
    before = [row.sop_instance_uid for row in inbox.rows(Result)]
    old = dcmread(answer / "seg.dcm").SOPInstanceUID
    (tmp_path / "slices 80").rename(tmp_path / "former")
    ct_lab.answer(tmp_path, SLICES)
    assert dcmread(answer / "seg.dcm").SOPInstanceUID != old
    again(inbox)
    assert [row.sop_instance_uid for row in inbox.rows(Result)] == before


def test_of_two_answers_to_one_input_the_first_stays_and_that_is_said_once(
    node: Make, answer: Path, tmp_path: Path
) -> None:
    inbox = node()
    confirm(inbox)
    before = [(row.id, row.sha256) for row in inbox.rows(Result)]
    ct_lab.answer(tmp_path, SLICES, threshold=90)
    again(inbox)
    again(inbox)
    assert [job.state for job in inbox.jobs()] == [JobState.SUCCEEDED] * 3
    assert [(row.id, row.sha256) for row in inbox.rows(Result)] == before
    assert states(inbox) == [DeliveryState.CONFIRMED] * 2
    assert len(told(inbox, events.PROGRAM_DIFFERS)) == 1


def test_the_first_answer_still_goes_if_it_had_not_left_before_another_came(
    node: Make, tmp_path: Path
) -> None:
    inbox = node()
    ct_lab.answer(tmp_path, SLICES, threshold=90)
    again(inbox)
    assert states(inbox) == [DeliveryState.PENDING] * 2


def test_another_answer_to_another_input_is_a_new_result(node: Make, tmp_path: Path) -> None:
    inbox = node()
    fifth = ct_lab.ct_slices("one", 5)
    ct_lab.answer(tmp_path, fifth, threshold=90)
    inbox.settle(fifth[-1])
    work(inbox)
    assert len(inbox.rows(Result)) == 4
    assert told(inbox, events.PROGRAM_DIFFERS) == []


def test_an_object_of_another_patient_refuses_the_whole_answer(node: Make, answer: Path) -> None:
    with_one_changed(answer, "seg.dcm", PatientID="SOMEBODY ELSE")
    inbox = node()
    [job] = inbox.jobs()
    assert job.state is JobState.FAILED
    assert "of another patient" in job.reason
    assert "SOMEBODY" not in job.reason
    assert sent(inbox).keys() == {"sr", "sc"}, "the report that the AI did not run"
    assert len(told(inbox, events.PROGRAM_OBJECT_REFUSED)) == 2
    assert not [row.fields for row in inbox.events() if "SOMEBODY" in str(row.fields)]


def test_the_record_of_a_program_is_kept_with_its_job_and_erased_with_its_study(
    node: Make, answer: Path
) -> None:
    text = '{"volume": 4.2, "of": "Test^one"}'
    (answer / "result.json").write_text(text)
    inbox = node()
    [job] = inbox.jobs()
    assert inbox.read(views.show_job, job.id)["records"] == [text]
    assert not [row.fields for row in inbox.events() if "4.2" in str(row.fields)]
    confirm(inbox)
    erase_study(inbox.settings, str(SLICES[0].StudyInstanceUID))
    assert inbox.read(views.show_job, job.id)["records"] == []


def test_one_refused_object_does_not_keep_the_others_back(node: Make, answer: Path) -> None:
    (answer / "broken.dcm").write_bytes(bytes(128) + b"DICM" + bytes(40))
    inbox = node()
    [job] = inbox.jobs()
    assert job.state is JobState.SUCCEEDED
    assert "1 of 3 refused" in job.reason
    assert sent(inbox).keys() == {"program_sr", "seg"}
    [refused] = told(inbox, events.PROGRAM_OBJECT_REFUSED)
    assert refused["reason"]


def test_an_answer_of_refused_objects_alone_is_told_to_the_pacs(node: Make, answer: Path) -> None:
    for name in ("seg.dcm", "sr.dcm"):
        (answer / name).write_bytes(bytes(128) + b"DICM" + bytes(40))
    inbox = node()
    [job] = inbox.jobs()
    assert job.state is JobState.FAILED
    assert sent(inbox).keys() == {"sr", "sc"}


@pytest.fixture
def report_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if something in the report needed a person's look."""
    hold_reports(monkeypatch)


def deliveries(node: Inbox) -> dict[str, DeliveryState]:
    """The state of each delivery, by kind of result."""
    kinds = {row.id: row.kind.value for row in node.rows(Result)}
    return {kinds[row.result_id]: row.state for row in node.rows(Delivery) if row.result_id}


@pytest.mark.usefixtures("report_held")
def test_a_held_object_waits_for_a_person_and_the_others_go(node: Make) -> None:
    inbox = node()
    assert deliveries(inbox) == {"program_sr": DeliveryState.UNASSESSED, "seg": DeliveryState.PENDING}
    [held] = told(inbox, events.PROGRAM_OBJECT_HELD)
    assert (held["kind"], held["reason"]) == ("sr", "text and code differ")
    assert "waits for a person: text and code differ" in inbox.jobs()[0].reason


@pytest.mark.usefixtures("report_held")
def test_a_held_object_goes_when_a_person_accepts_it(node: Make) -> None:
    inbox = node()
    study = inbox.study_of(SLICES[0]).id
    assert inbox.write(holding.accept, study, "reader", None) == 1
    assert deliveries(inbox) == dict.fromkeys(("program_sr", "seg"), DeliveryState.PENDING)


@pytest.mark.usefixtures("report_held")
def test_a_held_object_that_a_person_rejects_stays_here_also_after_another_run(node: Make) -> None:
    inbox = node()
    study = inbox.study_of(SLICES[0]).id
    inbox.write(holding.reject, study, "reader", "wrong", None)
    again(inbox)
    assert deliveries(inbox)["program_sr"] is DeliveryState.DISCARDED
    assert inbox.column(HeldResult.state) == [HeldState.REJECTED]


@pytest.mark.usefixtures("report_held")
def test_a_held_object_waits_also_if_another_answer_follows(node: Make, tmp_path: Path) -> None:
    inbox = node()
    ct_lab.answer(tmp_path, SLICES, threshold=90)
    again(inbox)
    assert deliveries(inbox) == {"program_sr": DeliveryState.UNASSESSED, "seg": DeliveryState.PENDING}


def test_a_peer_that_takes_no_such_kind_gets_none_and_can_be_sent_it_later(node: Make) -> None:
    inbox = node(results=("sr",), peers=[a_receiver("workstation", results=["seg"])])
    assert deliveries(inbox) == {"program_sr": DeliveryState.PENDING}
    peers = inbox.settings.peers
    study = inbox.study_of(SLICES[0]).id
    assert inbox.write(outbox.send_to, study, inbox.settings.peer("workstation"), peers) == 1


def test_nothing_that_a_program_made_goes_to_a_deidentified_destination(node: Make) -> None:
    research = a_receiver("research", deidentify=True, results=["cleaned", "seg", "sr"])
    inbox = node(peers=[research], rule={"send_to": ["pacs", "research"]})
    assert {row.destination for row in inbox.rows(Delivery)} == {"pacs"}
    [withheld] = told(inbox, events.RESULT_WITHHELD)
    assert "no de-identified destination" in withheld["reason"]


def test_a_result_that_comes_back_starts_nothing(node: Make) -> None:
    inbox = node()
    inbox.settle(*sent(inbox).values(), calling="PACS")
    assert len(inbox.jobs()) == 1
    assert inbox.outcomes()[-2:] == ["new", "new"]
