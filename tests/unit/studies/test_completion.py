"""When a study is complete: quiet times, open associations, performed procedure steps."""

import fcntl
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import count
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
)
from pynetdicom.dsutils import encode

from dicom_node.base.dicom.dimse_n import STEP_CLASS
from dicom_node.base.events import (
    NO_RULE,
    STEP_REPORTED,
    STEPS_FULFILLED,
    STEPS_NOT_AWAITED,
    EventType,
)
from dicom_node.base.lifecycle import (
    JobState,
    StepStatus,
    StudyState,
)
from dicom_node.base.store import requested
from dicom_node.base.store.tables import (
    EventRow,
    Instance,
    Job,
    PerformedStep,
    StepObject,
)
from dicom_node.base.store.transitions import steady_now, utc_now
from dicom_node.people import disk
from dicom_node.receive.messages import N_CREATE_RQ, N_SET_RQ, Command
from dicom_node.receive.steps import PerformedSteps
from tests.inbox_lab import Inbox
from tests.modality import chest, ultrasound, ultrasounds
from tests.mpps_lab import COMPLETED, DISCONTINUED, IN_PROGRESS, WITH_STEPS, begun, ended
from tests.postgres_lab import POSTGRESQL
from tests.unit.receive.objects import (
    changed,
    secondary_capture,
)
from tests.unit.studies.studies_lab import DAY

# Images become studies and jobs: quiet times, steps, late images, versions and what runs again


def waits(inbox: Inbox, uid: str, seconds: float, began: datetime) -> bool:
    """Whether the study is due so long after an object that was indexed between ``began`` and now."""
    return began <= inbox.study(uid).due_at - timedelta(seconds=seconds) <= steady_now()


@pytest.mark.parametrize(("calling", "seconds"), [("MODALITY", 30), ("QUICK", 1)])
def test_an_ultrasound_waits_for_its_quiet_time_or_that_of_the_peer(
    inbox: Inbox, calling: str, seconds: float
) -> None:
    image, began = ultrasound("quiet"), steady_now()
    inbox.index(image, calling=calling)
    assert waits(inbox, image.StudyInstanceUID, seconds, began)
    moment, second = inbox.study_of(image).due_at, timedelta(seconds=1)
    assert inbox.assembler.run_once(moment - second) == 0
    assert inbox.study_of(image).state is StudyState.RECEIVING
    assert inbox.assembler.run_once(moment + second) == 1
    assert inbox.study_of(image).state is StudyState.QUEUED
    assert inbox.column(Job.state) == [JobState.QUEUED]


def test_each_further_image_begins_the_quiet_time_anew(inbox: Inbox) -> None:
    for number in range(3):
        image, began = ultrasound("single", number=number), steady_now()
        inbox.index(image, association=f"a{number}")
    assert waits(inbox, image.StudyInstanceUID, 30, began)


@pytest.mark.parametrize("restored", [False, True])
def test_an_open_association_holds_its_studies_until_it_is_released_or_the_node_restored(
    inbox: Inbox, restored: bool
) -> None:
    inbox.opened("a1")
    one, other = ultrasound("one"), ultrasound("other")
    inbox.receive(one, association="a1")
    inbox.index(other, association="a2")
    assert inbox.assemble(600) == 1
    assert [inbox.study_of(image).state for image in (one, other)] == [
        StudyState.RECEIVING,
        StudyState.QUEUED,
    ]
    if restored:  # its listener ended after the backup, and its journal was read to the end
        shutil.rmtree(inbox.folder / "journal")
        inbox.reindex()
    else:
        inbox.released("a1")
    inbox.index()
    assert inbox.assemble(600) == 1


@pytest.mark.parametrize("node_died_too", [False, True])
def test_associations_of_a_listener_that_died_hold_nothing(inbox: Inbox, node_died_too: bool) -> None:
    inbox.opened("a1")
    inbox.receive(ultrasound("lost"), association="a1")
    if not node_died_too:
        inbox.index()
    inbox.listener_restarted()
    if node_died_too:
        inbox.reopen()
    inbox.index()
    assert inbox.assemble(600) == 1


def test_a_listener_that_does_not_come_back_holds_its_studies_no_longer(inbox: Inbox) -> None:
    with (inbox.folder / "scp.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        inbox.opened("a1")
        inbox.index(ultrasound("gone"), association="a1")
        assert inbox.assemble(3000) == 0
    inbox.reopen()  # else it is looked at two seconds later
    inbox.index()
    assert inbox.assemble(3000) == 1


def test_a_journal_line_is_ingested_once_over_restarts(inbox: Inbox) -> None:
    inbox.opened("a1")
    inbox.index()
    inbox.reopen()
    inbox.released("a1")
    inbox.index()
    assert inbox.column(EventRow.number) == [1001, 1002]


def test_a_companion_prolongs_the_wait_but_its_study_alone_starts_nothing(inbox: Inbox) -> None:
    capture = secondary_capture(ultrasound("companion"))
    inbox.settle(capture)
    study = inbox.study_of(capture)
    assert study.state is StudyState.NOT_APPLICABLE
    assert "secondary_captures_from does not name its sender" in study.reason
    inbox.settle(ultrasound("companion"))
    study = inbox.study_of(capture)
    assert (study.state, study.revision) == (StudyState.QUEUED, 2)


def test_a_study_that_no_rule_takes_is_not_applicable(inbox: Inbox) -> None:
    image = chest("no rule", np.zeros((32, 32), np.uint16))
    inbox.settle(image)
    study = inbox.study_of(image)
    closest = "no rule applies; closest is ultrasound: modality DX does not match US"
    assert (study.state, study.reason) == (StudyState.NOT_APPLICABLE, closest)
    [told] = inbox.events(NO_RULE.number)
    assert told.fields["reason"] == closest


@pytest.mark.parametrize("moved", [-DAY, DAY], ids=["back", "on"])
def test_a_clock_that_is_set_a_day_on_or_back_moves_no_quiet_time(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, moved: timedelta
) -> None:
    class Moved(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + moved

    first, second = ultrasounds("clock", 2)
    inbox.index(first)
    monkeypatch.setattr("dicom_node.receive.spool.datetime", Moved)
    monkeypatch.setattr("dicom_node.base.store.transitions.utc_now", lambda: Moved.now(UTC))
    inbox.opened("a1")
    inbox.index(second, association="a1")
    assert inbox.assemble(600) == 0  # the association is open
    inbox.released("a1")
    inbox.index()
    assert inbox.assemble(0) == 0
    assert inbox.assemble(70) == 1
    study = inbox.study_of(first)
    assert (study.state, study.revision) == (StudyState.QUEUED, 1)


def test_two_patients_that_stood_in_a_study_unseen_stop_it_and_keep_no_other_waiting(inbox: Inbox) -> None:
    one, other = ultrasounds("mixed", 2)
    good = ultrasound("good")
    inbox.index(one, other, good)
    row = inbox.instance(other)
    inbox.put(Instance, row.id, patient="another" + row.patient)  # as if indexing had not looked
    assert inbox.assemble(seconds=1000) == 2
    assert inbox.study_of(one).state is StudyState.QUARANTINED
    assert inbox.study_of(good).state is not StudyState.RECEIVING


@pytest.fixture
def with_steps(open_inbox: Callable[..., Inbox]) -> Inbox:
    return open_inbox(WITH_STEPS)


class Modality:
    """Reports as the listener takes them from the peer ``modality``, without a network."""

    def __init__(self, with_steps: Inbox) -> None:
        self.inbox = with_steps
        self._numbers = count(1)
        self.steps = PerformedSteps(with_steps.folder, with_steps.journal)

    def begin(self, *studies: str, peer: str = "modality") -> str:
        uid = f"1.2.826.7.{next(self._numbers)}"
        assert self._take(N_CREATE_RQ, uid, begun(*studies), peer) == 0x0000
        return uid

    def set(self, uid: str, objects: Sequence[Dataset] = (), status: str = COMPLETED) -> None:
        assert self._take(N_SET_RQ, uid, ended(objects, status), "modality") == 0x0000

    def _take(self, field: int, uid: str, step: Dataset, peer: str) -> int:
        command = Command(field, 1, STEP_CLASS, uid, True)
        fields = {"association": "m1", "calling": "MODALITY", "peer": peer}
        return self.steps.handle(
            command, encode(step, False, True), ExplicitVRLittleEndian, fields
        ).status.code


@pytest.fixture
def modality(with_steps: Inbox) -> Modality:
    return Modality(with_steps)


def images(name: str, number: int = 3) -> list[Dataset]:
    return ultrasounds(name, number)


def is_complete(with_steps: Inbox, image: Dataset, seconds: float = 0) -> bool:
    """Index, assemble as if so many seconds had passed, and look."""
    with_steps.index()
    with_steps.assembler.run_once(steady_now() + timedelta(seconds=seconds))
    return with_steps.study_of(image).state is not StudyState.RECEIVING


def told(with_steps: Inbox, event: EventType) -> list[dict[str, Any]]:
    return [dict(row.fields) for row in with_steps.events(event.number)]


def test_the_last_image_before_the_end(with_steps: Inbox, modality: Modality) -> None:
    sent = images("end")
    with_steps.opened("a1")
    step = modality.begin(sent[0].StudyInstanceUID)
    with_steps.receive(*sent, association="a1")
    assert not is_complete(with_steps, sent[0], 19 * 60)
    modality.set(step, sent)
    assert is_complete(with_steps, sent[0])  # no quiet time, and the association is open still
    assert [len(job.source_uids) for job in with_steps.jobs()] == [3]
    assert told(with_steps, STEPS_FULFILLED)[0]["steps"] == 1


@pytest.mark.parametrize(("ends", "missing"), [(False, 0), (True, 2)])
def test_a_step_that_never_ends_or_images_that_never_come_are_not_awaited_for_ever(
    with_steps: Inbox, modality: Modality, ends: bool, missing: int
) -> None:
    sent = images("endless")
    step = modality.begin(sent[0].StudyInstanceUID)
    if ends:
        modality.set(step, sent)
    with_steps.receive(sent[0])
    assert not is_complete(with_steps, sent[0], 30 + 19 * 60)
    assert is_complete(with_steps, sent[0], 30 + 21 * 60)
    (event,) = told(with_steps, STEPS_NOT_AWAITED)
    assert (event["steps"], event["going_on"], event["missing"]) == (1, int(not ends), missing)


@pytest.mark.parametrize(("named", "status"), [(0, COMPLETED), (0, DISCONTINUED), (2, COMPLETED)])
def test_images_that_no_step_names_have_their_quiet_time(
    with_steps: Inbox, modality: Modality, named: int, status: str
) -> None:
    sent = images("more")
    step = modality.begin(sent[0].StudyInstanceUID)
    with_steps.receive(*sent)
    modality.set(step, sent[:named], status)
    assert not is_complete(with_steps, sent[0], 29)
    assert is_complete(with_steps, sent[0], 31)


def test_a_correction_of_a_complete_study_has_its_quiet_time(with_steps: Inbox, modality: Modality) -> None:
    sent = images("renamed")
    with_steps.receive(*sent)
    modality.set(modality.begin(sent[0].StudyInstanceUID), sent)
    assert is_complete(with_steps, sent[0])
    for image in sent:
        with_steps.index(changed(image, PatientName="Corrected^Name"))
        with_steps.assembler.run_once()
    assert with_steps.study_of(sent[0]).state is StudyState.RECEIVING
    assert is_complete(with_steps, sent[0], 100)
    assert with_steps.study_of(sent[0]).state is StudyState.QUEUED


def test_reports_of_two_listeners_are_read_in_any_order(with_steps: Inbox) -> None:
    for number, status, seconds, objects in (
        (1, COMPLETED, 60, ["1.1", "1.2"]),
        (0, IN_PROGRESS, 0, []),
        (1, COMPLETED, 61, ["1.1", "1.2"]),
    ):
        at = utc_now() + timedelta(seconds=seconds)
        report = {"step": "1.9", "peer": "modality", "calling": "M", "status": status, "number": number}
        with_steps.write(requested.keep_step, report | {"studies": ["1.8"], "objects": objects}, at)
    (row,) = with_steps.rows(PerformedStep)
    assert (row.status, with_steps.read(requested.objects_named, row.id)) == (StepStatus.COMPLETED, 2)
    assert row.ended_at - row.begun_at > timedelta(seconds=59)


def test_a_restart_of_the_indexer_reads_no_report_twice_and_leaves_none_out(
    with_steps: Inbox, modality: Modality
) -> None:
    sent = images("restart")
    step = modality.begin(sent[0].StudyInstanceUID)
    with_steps.index()
    modality.set(step, sent)
    with_steps.reopen()
    with_steps.receive(*sent)
    with_steps.reopen()
    assert is_complete(with_steps, sent[0])
    assert len(told(with_steps, STEP_REPORTED)) == 2


@POSTGRESQL
def test_the_same_in_postgresql(open_inbox: Callable[..., Inbox], postgres_url: str) -> None:
    with_steps = open_inbox(WITH_STEPS, url=postgres_url)
    modality, sent = Modality(with_steps), images("postgres")
    step = modality.begin(sent[0].StudyInstanceUID)
    with_steps.index()
    with_steps.receive(*sent)
    assert not is_complete(with_steps, sent[0], 300)
    modality.set(step, sent)
    assert is_complete(with_steps, sent[0])
    assert any(row.study_id for row in with_steps.events(1081))
    disk.forget_past(with_steps.database, with_steps.settings, utc_now() + timedelta(days=401))
    assert with_steps.rows(StepObject) == []
