"""A study is complete when its procedure steps have ended and all images that they name are here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom.dsutils import encode
from sqlalchemy import select

from dicom_node import events
from dicom_node.dicom.performed_step import SOP_CLASS
from dicom_node.model.kinds import StepStatus
from dicom_node.model.lifecycle import StudyState
from dicom_node.monitoring.past import forget_past
from dicom_node.scp.command import N_CREATE_RQ, N_SET_RQ, NormalizedCommand
from dicom_node.scp.performed_steps import PerformedSteps
from dicom_node.store import steps
from dicom_node.store.tables import PerformedStep, StepObject, StepStudy
from dicom_node.store.transitions import steady_now, utc_now
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.mpps_lab import COMPLETED, DISCONTINUED, IN_PROGRESS, WITH_STEPS, begun, ended
from tests.unit.inbox.objects import changed


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    inbox = Inbox(tmp_path / "var", WITH_STEPS)
    yield inbox
    inbox.close()


class Modality:
    """Reports as the listener takes them from the peer ``modality``, without a network."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self._numbers = count(1)
        self.steps = PerformedSteps(inbox.folder, inbox.journal)

    def begin(self, *studies: str, peer: str = "modality") -> str:
        uid = f"1.2.826.7.{next(self._numbers)}"
        assert self._take(N_CREATE_RQ, uid, begun(*studies), peer) == 0x0000
        return uid

    def set(self, uid: str, objects: Sequence[Dataset] = (), status: str = COMPLETED) -> None:
        assert self._take(N_SET_RQ, uid, ended(objects, status), "modality") == 0x0000

    def _take(self, field: int, uid: str, step: Dataset, peer: str) -> int:
        encoded = encode(step, False, True)
        assert encoded is not None
        command = NormalizedCommand(field, 1, SOP_CLASS, uid, True)
        fields = {"association": "m1", "calling": "MODALITY", "peer": peer}
        return self.steps.take(command, encoded, UID(ExplicitVRLittleEndian), peer, fields).status.code


@pytest.fixture
def modality(inbox: Inbox) -> Modality:
    return Modality(inbox)


def images(name: str, number: int = 3) -> list[Dataset]:
    return [ultrasound(name, number=one) for one in range(1, number + 1)]


def state(inbox: Inbox, image: Dataset) -> StudyState:
    return inbox.study(image.StudyInstanceUID).state


def is_complete(inbox: Inbox, image: Dataset, seconds: float = 0) -> bool:
    """Index, assemble as if so many seconds had passed, and look."""
    inbox.index()
    inbox.assembler.run_once(steady_now() + timedelta(seconds=seconds))
    return state(inbox, image) is not StudyState.RECEIVING


def told(inbox: Inbox, event: events.EventType) -> list[dict[str, Any]]:
    return [dict(row.fields) for row in inbox.events() if row.number == event.number]


def test_the_last_image_before_the_end(inbox: Inbox, modality: Modality) -> None:
    sent = images("end")
    inbox.opened("a1")
    step = modality.begin(sent[0].StudyInstanceUID)
    inbox.receive(*sent, association="a1")
    assert not is_complete(inbox, sent[0], 19 * 60)
    modality.set(step, sent)
    assert is_complete(inbox, sent[0])  # no quiet time, and the association is open still
    assert [len(job.source_uids) for job in inbox.jobs()] == [3]
    assert told(inbox, events.STEPS_FULFILLED)[0]["steps"] == 1


def test_the_end_before_the_last_image(inbox: Inbox, modality: Modality) -> None:
    sent = images("early")
    step = modality.begin(sent[0].StudyInstanceUID)
    inbox.receive(*sent[:2])
    modality.set(step, sent)
    assert not is_complete(inbox, sent[0], 15 * 60)
    inbox.receive(sent[2])
    assert is_complete(inbox, sent[0])
    assert [len(job.source_uids) for job in inbox.jobs()] == [3]


def test_images_before_the_step_begins(inbox: Inbox, modality: Modality) -> None:
    sent = images("before")
    inbox.receive(*sent)
    assert not is_complete(inbox, sent[0])
    step = modality.begin(sent[0].StudyInstanceUID)
    assert not is_complete(inbox, sent[0], 300)
    modality.set(step, sent)
    assert is_complete(inbox, sent[0])


def test_a_step_of_a_study_that_never_comes_holds_no_other(inbox: Inbox, modality: Modality) -> None:
    (image,) = images("other", 1)
    modality.set(modality.begin("1.2.3.404"), images("never"))
    modality.begin("1.2.3.405")
    inbox.receive(image)
    assert not is_complete(inbox, image, 29)
    assert is_complete(inbox, image, 31)  # the quiet time of ultrasound
    assert not told(inbox, events.STEPS_FULFILLED)


def test_a_step_that_never_ends_is_not_awaited_for_ever(inbox: Inbox, modality: Modality) -> None:
    (image,) = images("endless", 1)
    modality.begin(image.StudyInstanceUID)
    inbox.receive(image)
    assert not is_complete(inbox, image, 30 + 19 * 60)
    assert is_complete(inbox, image, 30 + 21 * 60)
    (event,) = told(inbox, events.STEPS_NOT_AWAITED)
    assert (event["steps"], event["going_on"], event["missing"]) == (1, 1, 0)


def test_the_event_says_how_many_images_are_missing(inbox: Inbox, modality: Modality) -> None:
    sent = images("lost", 5)
    modality.set(modality.begin(sent[0].StudyInstanceUID), sent)
    inbox.receive(*sent[:3])
    assert is_complete(inbox, sent[0], 30 + 21 * 60)
    (event,) = told(inbox, events.STEPS_NOT_AWAITED)
    assert (event["going_on"], event["missing"]) == (0, 2)


def test_two_steps_of_one_study_are_both_awaited(inbox: Inbox, modality: Modality) -> None:
    sent = images("two", 4)
    one, other = (modality.begin(sent[0].StudyInstanceUID) for _ in range(2))
    inbox.receive(*sent)
    modality.set(one, sent[:2])
    assert not is_complete(inbox, sent[0], 300)
    modality.set(other, sent[2:])
    assert is_complete(inbox, sent[0])


def test_one_step_of_two_studies_holds_both(inbox: Inbox, modality: Modality) -> None:
    sent = [ultrasound("first"), ultrasound("second")]
    step = modality.begin(*(image.StudyInstanceUID for image in sent))
    inbox.receive(sent[0])
    modality.set(step, sent)
    assert not is_complete(inbox, sent[0], 300)
    inbox.receive(sent[1])
    assert is_complete(inbox, sent[0])
    assert is_complete(inbox, sent[1])


def test_a_discontinued_step_is_analysed_as_it_is(inbox: Inbox, modality: Modality) -> None:
    sent = images("stopped", 2)
    step = modality.begin(sent[0].StudyInstanceUID)
    inbox.receive(*sent)
    modality.set(step, sent, DISCONTINUED)
    assert is_complete(inbox, sent[0])
    assert [len(job.source_uids) for job in inbox.jobs()] == [2]


@pytest.mark.parametrize("status", [COMPLETED, DISCONTINUED])
def test_where_a_step_names_nothing_the_quiet_time_decides(
    inbox: Inbox, modality: Modality, status: str
) -> None:
    (image,) = images("nothing", 1)
    step = modality.begin(image.StudyInstanceUID)
    inbox.receive(image)
    modality.set(step, (), status)
    assert not is_complete(inbox, image, 29)
    assert is_complete(inbox, image, 31)


def test_images_that_no_step_names_have_their_quiet_time(inbox: Inbox, modality: Modality) -> None:
    sent = images("more")
    step = modality.begin(sent[0].StudyInstanceUID)
    inbox.receive(*sent)
    modality.set(step, sent[:2])
    assert not is_complete(inbox, sent[0], 29)
    assert is_complete(inbox, sent[0], 31)


def test_a_correction_of_a_complete_study_has_its_quiet_time(inbox: Inbox, modality: Modality) -> None:
    sent = images("renamed")
    step = modality.begin(sent[0].StudyInstanceUID)
    inbox.receive(*sent)
    modality.set(step, sent)
    assert is_complete(inbox, sent[0])
    corrected = [changed(image, PatientName="Corrected^Name") for image in sent]
    for image in corrected:
        inbox.receive(image)
        inbox.index()
        inbox.assembler.run_once()
    assert state(inbox, sent[0]) is StudyState.RECEIVING
    assert is_complete(inbox, sent[0], 100)
    assert state(inbox, sent[0]) is StudyState.QUEUED


def test_a_correction_in_between_is_no_quarantine(inbox: Inbox, modality: Modality) -> None:
    sent = images("between")
    step = modality.begin(sent[0].StudyInstanceUID)
    inbox.receive(*sent)
    inbox.index()
    inbox.receive(changed(sent[0], PatientName="Corrected^Name"))
    modality.set(step, sent)
    assert not is_complete(inbox, sent[0])
    inbox.receive(*(changed(image, PatientName="Corrected^Name") for image in sent[1:]))
    assert is_complete(inbox, sent[0])
    assert state(inbox, sent[0]) is StudyState.QUEUED


def test_steps_of_a_peer_without_the_setting_hold_nothing(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "off")
    (image,) = images("off", 1)
    Modality(inbox).begin(image.StudyInstanceUID)  # when the setting was on
    inbox.receive(image)
    assert is_complete(inbox, image, 31)
    inbox.close()


def test_reports_of_two_listeners_are_read_in_any_order(inbox: Inbox) -> None:
    def report(number: int, status: str, seconds: int, objects: Sequence[str] = ()) -> steps.StepReport:
        at = utc_now() + timedelta(seconds=seconds)
        return steps.StepReport("1.9", "modality", "M", StepStatus(status), number, ["1.8"], objects, at)

    for number, status, seconds, objects in (
        (1, COMPLETED, 60, ["1.1", "1.2"]),
        (0, IN_PROGRESS, 0, []),
        (1, COMPLETED, 61, ["1.1", "1.2"]),
    ):
        with inbox.database.write() as session:
            steps.keep(session, report(number, status, seconds, objects))
    with inbox.database.read() as session:
        (row,) = session.scalars(select(PerformedStep)).all()
        assert (row.status, steps.named(session, row.id)) == (StepStatus.COMPLETED, 2)
        assert row.ended_at is not None
        assert row.ended_at - row.begun_at > timedelta(seconds=59)


def test_a_restart_of_the_indexer_reads_no_report_twice_and_leaves_none_out(
    inbox: Inbox, modality: Modality
) -> None:
    sent = images("restart")
    step = modality.begin(sent[0].StudyInstanceUID)
    inbox.index()
    modality.set(step, sent)
    inbox.reopen()
    inbox.receive(*sent)
    inbox.reopen()
    assert is_complete(inbox, sent[0])
    assert len(told(inbox, events.STEP_BEGUN)) == len(told(inbox, events.STEP_CHANGED)) == 1


def test_events_before_the_first_image_are_the_study_s_too(inbox: Inbox, modality: Modality) -> None:
    (image,) = images("adopted", 1)
    modality.begin(image.StudyInstanceUID)
    inbox.index()
    inbox.receive(image)
    inbox.index()
    (row,) = [row for row in inbox.events() if row.number == events.STEP_BEGUN.number]
    assert row.study_id == inbox.study(image.StudyInstanceUID).id
    assert "Mustermann" not in str(row.fields)


@pytest.mark.debian("postgresql")
def test_the_same_in_postgresql(tmp_path: Path, postgres_url: str) -> None:
    inbox = Inbox(tmp_path / "var", WITH_STEPS, url=postgres_url)
    modality, sent = Modality(inbox), images("postgres")
    step = modality.begin(sent[0].StudyInstanceUID)
    inbox.index()
    inbox.receive(*sent)
    assert not is_complete(inbox, sent[0], 300)
    modality.set(step, sent)
    assert is_complete(inbox, sent[0])
    assert all(row.study_id for row in inbox.events() if row.number in (1080, 1081))
    forget_past(inbox.database, inbox.settings, utc_now() + timedelta(days=401))
    with inbox.database.read() as session:
        assert not session.scalars(select(StepObject)).first()
    inbox.close()


def test_steps_of_long_ago_are_forgotten(inbox: Inbox, modality: Modality) -> None:
    modality.set(modality.begin("1.2.3.404"), images("forgotten"))
    inbox.index()
    forget_past(inbox.database, inbox.settings, utc_now() + timedelta(days=399))
    tables = (PerformedStep, StepStudy, StepObject)
    with inbox.database.read() as session:
        assert all(session.scalars(select(table)).first() for table in tables)
    forget_past(inbox.database, inbox.settings, utc_now() + timedelta(days=401))
    with inbox.database.read() as session:
        assert not any(session.scalars(select(table)).first() for table in tables)
