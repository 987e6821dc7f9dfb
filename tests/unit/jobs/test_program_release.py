"""What becomes of a program's finished and held objects when their study changes before they leave."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom import dcmread
from sqlalchemy import select

from dicom_node.base import events
from dicom_node.base.errors import NotAllowedNow
from dicom_node.base.lifecycle import DeliveryState, JobState, RejectionReason, StudyState
from dicom_node.base.store.tables import Delivery, Instance, Result
from dicom_node.base.store.transitions import utc_now
from dicom_node.deliver import holding, outbox
from dicom_node.people.spool import erase_study
from dicom_node.people.withdrawal import withdraw_results
from dicom_node.studies.purging import purge_results
from dicom_node.studies.reruns import rerun
from tests import ct_lab
from tests.inbox_lab import Inbox
from tests.unit.jobs.program_lab import hold_reports
from tests.unit.jobs.worker_lab import states, work
from tests.unit.receive.objects import changed

SLICES = ct_lab.ct_slices("one", 3)
OURS = str(SLICES[0].PatientName)
GOES = {DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.UNCONFIRMED, DeliveryState.CONFIRMED}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """A node with a program's answer: its segmentation is about to leave, its report waits for a person."""
    hold_reports(monkeypatch)
    script = ct_lab.program(tmp_path, ct_lab.copies(ct_lab.answer(tmp_path, SLICES)))
    inbox = Inbox(tmp_path / "node", ct_lab.configuration(script, results=("sr", "seg")))
    inbox.settle(*SLICES)
    work(inbox)
    assert set(states(inbox)) == {DeliveryState.PENDING, DeliveryState.UNASSESSED}
    yield inbox
    inbox.close()


def accept(node: Inbox) -> int:
    """A person accepts what waits, as of what is shown now."""
    return node.write(holding.accept, node.study_of(SLICES[0]).id, "reader", None)


def leaving(node: Inbox) -> list[tuple[str, str]]:
    """Kind and Patient ID and name of what a peer gets, or got."""
    with node.database.read() as session:
        rows = session.scalars(
            select(Result).join(Delivery, Delivery.result_id == Result.id).where(Delivery.state.in_(GOES))
        ).all()
        found = [(row.kind.value, dcmread(node.folder / row.path)) for row in rows]
    return sorted((kind, f"{result.PatientID} {result.PatientName}") for kind, result in found)


PATIENT = f"{SLICES[0].PatientID} {OURS}"


@pytest.mark.parametrize(
    "identity",
    [
        pytest.param({"PatientName": "Corrected^Name"}, id="corrected"),
        pytest.param({"PatientID": "SURVIVOR"}, id="merged into another patient"),
    ],
)
def test_of_the_former_patient_nothing_leaves_even_when_a_person_accepts_it(
    node: Inbox, identity: dict[str, str]
) -> None:
    """The program says the former name again: its new answer is one of another patient."""
    renamed = [changed(one, **identity) for one in SLICES]
    node.settle(*renamed)
    with pytest.raises(NotAllowedNow):
        accept(node)
    work(node)
    with pytest.raises(NotAllowedNow, match="no result of this study waits"):
        accept(node)
    right = f"{renamed[0].PatientID} {renamed[0].PatientName}"
    assert leaving(node) == [("sr", right)], "the report that the AI did not run"
    assert [job.state for job in node.jobs()] == [JobState.SUCCEEDED, JobState.FAILED]
    assert len(node.events(events.DELIVERY_WITHDRAWN.number)) == 2


def test_what_was_given_up_is_not_sent_again_after_a_correction(node: Inbox) -> None:
    dead = next(row for row in node.rows(Delivery) if row.state is DeliveryState.PENDING)
    node.put(Delivery, dead.id, state=DeliveryState.DEAD)
    node.settle(*(changed(one, PatientName="Corrected^Name") for one in SLICES))
    with pytest.raises(NotAllowedNow, match="older than a correction"):
        node.write(outbox.retry, dead.id)


def test_nothing_leaves_a_study_that_is_quarantined(node: Inbox) -> None:
    late = changed(ct_lab.ct_slices("one", 4)[3], PatientID="SOMEBODY", PatientName="Some^Body")
    node.settle(late)
    assert node.study_of(SLICES[0]).state is StudyState.QUARANTINED
    with pytest.raises(NotAllowedNow, match="quarantined"):
        accept(node)
    work(node)
    assert leaving(node) == []
    assert len(node.events(events.DELIVERY_WITHDRAWN.number)) == 2


def test_withdrawn_objects_leave_neither_when_accepted_nor_when_the_program_says_them_again(
    node: Inbox,
) -> None:
    uid = str(SLICES[0].StudyInstanceUID)
    withdraw_results(node.settings, uid, None, reason=RejectionReason.SAFETY, because="wrong side")
    with pytest.raises(NotAllowedNow):
        accept(node)
    node.write(rerun, node.study_of(SLICES[0]).id, node.settings)
    work(node)
    assert [job.state for job in node.jobs()] == [JobState.SUCCEEDED] * 2
    with pytest.raises(NotAllowedNow):
        accept(node)
    assert leaving(node) == []


def test_the_answer_goes_though_the_images_were_deleted(node: Inbox) -> None:
    for one in SLICES:
        (node.folder / node.instance(one).path).unlink()
    node.put(Instance, purged=True)
    assert accept(node) == 1
    assert leaving(node) == [("program_sr", PATIENT), ("seg", PATIENT)]


def test_the_file_of_an_object_that_waits_is_not_deleted_by_its_age(node: Inbox) -> None:
    later = utc_now() + timedelta(days=10_000)
    settings = node.settings.model_copy(
        update={"spool": node.settings.spool.model_copy(update={"result_days": 1})}
    )
    purge_results(node.database, settings, later)
    assert accept(node) == 1
    assert leaving(node) == [("program_sr", PATIENT), ("seg", PATIENT)]


def test_a_study_whose_answer_waits_is_not_erased(node: Inbox) -> None:
    with pytest.raises(NotAllowedNow, match="nothing was deleted"):
        erase_study(node.settings, str(SLICES[0].StudyInstanceUID))
    assert accept(node) == 1
    assert leaving(node) == [("program_sr", PATIENT), ("seg", PATIENT)]


def test_of_an_erased_study_nothing_can_be_accepted_any_more(node: Inbox) -> None:
    study = node.study_of(SLICES[0]).id
    node.write(holding.reject, study, "reader", "wrong", None)
    pending = next(row for row in node.rows(Delivery) if row.state is DeliveryState.PENDING)
    node.write(outbox.discard, pending.id, "not wanted")
    assert erase_study(node.settings, str(SLICES[0].StudyInstanceUID)) > 0
    with pytest.raises(NotAllowedNow):
        node.write(holding.accept, study, "reader", None, rejected=True)
    with pytest.raises(NotAllowedNow, match=r"deleted|older"):
        node.write(outbox.retry, pending.id)
    assert leaving(node) == []
    assert [one for one in node.rows(Result) if not one.purged] == []


def test_an_answer_that_waits_is_not_doubled_by_the_same_answer_again(node: Inbox) -> None:
    node.write(rerun, node.study_of(SLICES[0]).id, node.settings)
    work(node)
    assert sorted(states(node)) == sorted([DeliveryState.PENDING, DeliveryState.UNASSESSED])
    assert accept(node) == 1
    assert leaving(node) == [("program_sr", PATIENT), ("seg", PATIENT)]
