"""Images become studies and jobs: quiet times, steps, late images, versions and what runs again."""

import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom.dsutils import encode
from sqlalchemy import func, select

from dicom_node import events
from dicom_node.config.settings import Settings
from dicom_node.dicom.performed_step import SOP_CLASS
from dicom_node.dicom.uids import derived_uid
from dicom_node.errors import JobCancelled, NotAllowedNow
from dicom_node.events import DELIVERY_CONFIRMED, DELIVERY_SENT, DELIVERY_STARTED, NO_RULE, STUDY_RERUN
from dicom_node.jobs.queue import JobQueue
from dicom_node.model.kinds import StepStatus
from dicom_node.model.lifecycle import (
    END_STATES,
    OPEN_DELIVERIES,
    OPEN_JOBS,
    DeliveryState,
    JobState,
    StudyState,
)
from dicom_node.monitoring.disk import forget_past
from dicom_node.scp.command import N_CREATE_RQ, N_SET_RQ, NormalizedCommand
from dicom_node.scp.performed_steps import PerformedSteps
from dicom_node.services import audit, rules, studies
from dicom_node.store import intake, steps
from dicom_node.store.tables import (
    Delivery,
    Instance,
    Job,
    PerformedStep,
    ReceivedObject,
    Result,
    StepObject,
    Study,
)
from dicom_node.store.transitions import move_delivery, settle_study, steady_now, utc_now
from dicom_node.studies import rerun
from dicom_node.studies.choose import Choice
from tests.inbox_lab import Inbox
from tests.modality import chest, ultrasound
from tests.mpps_lab import COMPLETED, DISCONTINUED, IN_PROGRESS, WITH_STEPS, begun, ended
from tests.unit.inbox.objects import changed, own_result, report, secondary_capture
from tests.unit.jobs.worker_lab import configuration, confirm, work


def state(inbox: Inbox, uid: str) -> StudyState:
    return inbox.study(uid).state


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
    moment, second = inbox.study(image.StudyInstanceUID).due_at, timedelta(seconds=1)
    assert inbox.assembler.run_once(moment - second) == 0
    assert state(inbox, image.StudyInstanceUID) is StudyState.RECEIVING
    assert inbox.assembler.run_once(moment + second) == 1
    assert state(inbox, image.StudyInstanceUID) is StudyState.QUEUED
    assert [job.state for job in inbox.jobs()] == [JobState.QUEUED]


@pytest.mark.parametrize(
    ("associations", "seconds"),
    [(["a1", "a1", "a1"], 30), pytest.param(["a1", "a2", "a3"], 60, id="an association for each image")],
)
def test_each_further_image_begins_the_quiet_time_anew(
    inbox: Inbox, associations: list[str], seconds: int
) -> None:
    for number, association in enumerate(associations):
        image, began = ultrasound("single", number=number), steady_now()
        inbox.index(image, association=association)
    assert waits(inbox, image.StudyInstanceUID, seconds, began)


def test_an_open_association_holds_the_studies_that_it_brought_until_it_is_released(inbox: Inbox) -> None:
    inbox.opened("a1")
    one, other = ultrasound("one"), ultrasound("other")
    inbox.receive(one, association="a1")
    inbox.index(other, association="a2")
    assert inbox.assemble(600) == 1
    assert state(inbox, one.StudyInstanceUID) is StudyState.RECEIVING
    assert state(inbox, other.StudyInstanceUID) is StudyState.QUEUED
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
    assert [row.number for row in inbox.events()] == [1001, 1002]


def test_a_companion_prolongs_the_wait_but_its_study_alone_starts_nothing(inbox: Inbox) -> None:
    capture = secondary_capture(ultrasound("companion"))
    inbox.settle(capture)
    study = inbox.study(capture.StudyInstanceUID)
    assert study.state is StudyState.NOT_APPLICABLE
    assert "secondary_captures_from does not name its sender" in study.reason
    inbox.settle(ultrasound("companion"))
    study = inbox.study(capture.StudyInstanceUID)
    assert (study.state, study.revision) == (StudyState.QUEUED, 2)


def test_a_study_that_no_rule_takes_is_not_applicable(inbox: Inbox) -> None:
    image = chest("no rule", np.zeros((32, 32), np.uint16))
    inbox.settle(image)
    study = inbox.study(image.StudyInstanceUID)
    closest = "no rule applies; closest is ultrasound: modality DX does not match US"
    assert (study.state, study.reason) == (StudyState.NOT_APPLICABLE, closest)
    [told] = [event for event in inbox.events() if event.number == NO_RULE.number]
    assert told.fields["reason"] == closest


DAY = timedelta(days=1)


@pytest.mark.parametrize("moved", [-DAY, DAY], ids=["back", "on"])
def test_a_clock_that_is_set_a_day_on_or_back_moves_no_quiet_time(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, moved: timedelta
) -> None:
    class Moved(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + moved

    first, second = (ultrasound("clock", number=number) for number in (1, 2))
    inbox.index(first)
    for module in ("spool", "journal"):
        monkeypatch.setattr(f"dicom_node.inbox.{module}.datetime", Moved)
    monkeypatch.setattr("dicom_node.store.transitions.utc_now", lambda: Moved.now(UTC))
    inbox.opened("a1")
    inbox.index(second, association="a1")
    assert inbox.assemble(600) == 0  # the association is open
    inbox.released("a1")
    inbox.index()
    assert inbox.assemble(0) == 0
    assert inbox.assemble(70) == 1
    study = inbox.study(first.StudyInstanceUID)
    assert (study.state, study.revision) == (StudyState.QUEUED, 1)


def test_two_patients_that_stood_in_a_study_unseen_stop_it_and_keep_no_other_waiting(inbox: Inbox) -> None:
    one, other = (ultrasound("mixed", number=number) for number in (1, 2))
    good = ultrasound("good")
    inbox.index(one, other, good)
    with inbox.database.write() as session:
        row = session.scalars(select(Instance).filter_by(sop_instance_uid=other.SOPInstanceUID)).one()
        row.patient = "another" + row.patient  # as if indexing had not looked
    assert inbox.assemble(seconds=1000) == 2
    assert state(inbox, one.StudyInstanceUID) is StudyState.QUARANTINED
    assert state(inbox, good.StudyInstanceUID) is not StudyState.RECEIVING


NAMES = (f"life{number}" for number in count())


VARIANTS = ["same", "renamed", "other patient", "other pixels", "faulty", "report", "own result"]


MADE = {"report": report, "own result": own_result}


VALUES = {
    "renamed": {"PatientName": "Another^Name"},
    "other patient": {"PatientID": "X"},
    "faulty": {"Rows": 0},
}


STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 3), st.sampled_from(VARIANTS)),
    st.tuples(st.just("send"), st.integers(1, 3), st.just("same")),
    st.tuples(st.sampled_from(["quiet", "confirm", "release", "rerun"])),
    st.tuples(st.just("work"), st.sampled_from(["succeeded", "failed", "not_applicable", "again"])),
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inbox]:
    """One node for all examples: each has a study of its own."""
    with closing(Inbox(tmp_path_factory.mktemp("life") / "var")) as shared:
        yield shared


class Life:
    """One study and what may happen to it."""

    def __init__(self, inbox: Inbox, name: str) -> None:
        self.inbox, self.name = inbox, name
        self.queue = JobQueue(inbox.database, inbox.settings.workers)
        self.uid = str(ultrasound(name, size=(16, 12)).StudyInstanceUID)

    def send(self, number: int, variant: str) -> None:
        self.inbox.index(self._made(number, variant))

    def quiet(self) -> None:
        self.inbox.assemble(seconds=600)

    def work(self, end: str) -> None:
        """One job, ended like that."""
        job = self.queue.claim("elsewhere/1/1/x")
        if job is None:
            return
        if end == "again":
            self.queue.retry_at(job, utc_now(), "again")
            return
        row = self.inbox.get(Job, job.id)
        state = JobState.CANCELLED if row.cancel_requested else JobState(end)
        self.inbox.write(self.queue.complete_if_owner, job, state, end)
        if state is JobState.SUCCEEDED:
            uid = derived_uid(self.name, str(job.id), str(job.attempt))
            self.inbox.delivery(row, DeliveryState.PENDING, sop_instance_uid=uid)
        self.inbox.write(settle_study, job.study_id)

    def confirm(self) -> None:
        with self.inbox.database.write() as session:
            for row in session.scalars(select(Delivery).where(Delivery.state == DeliveryState.PENDING)):
                for event in (DELIVERY_STARTED, DELIVERY_SENT, DELIVERY_CONFIRMED):
                    move_delivery(session, row, event)
                settle_study(session, row.result.study_id)

    def release(self) -> None:
        held = select(Study.id).filter_by(study_instance_uid=self.uid, state=StudyState.QUARANTINED)
        for study in self.inbox.scalars(held):
            choice = Choice(self.inbox.database, self.inbox.settings)
            rows = choice.rows(study)
            patient = rows[0]["number"] if rows and not rows[0]["sop_instance_uid"] else None
            first = {(row["if_taken"], row["sop_instance_uid"]): row["number"] for row in reversed(rows)}
            asked = [
                number for question, number in first.items() if question[0] == patient or not question[1]
            ]
            choice.release(study, asked)

    def rerun(self) -> None:
        if (study := self.inbox.write(intake.study, self.uid)) is not None:
            with suppress(NotAllowedNow):
                self.inbox.write(rerun.rerun, study.id, self.inbox.settings)

    def bring_to_an_end(self) -> None:
        self.quiet()
        for _ in range(5):
            self.work("succeeded")
        self.confirm()

    def _made(self, number: int, variant: str) -> Dataset:
        image = ultrasound(self.name, number=number, size=(16, 12))
        if variant in MADE:
            return MADE[variant](image)
        if variant == "other pixels":
            return changed(image, PixelData=bytes(len(image.PixelData)))
        return changed(image, **VALUES.get(variant, {}))


def check(inbox: Inbox, uid: str, sent: int) -> None:
    """What holds at every moment."""
    with inbox.database.read() as session:
        study = session.scalar(select(Study).where(Study.study_instance_uid == uid))
        if study is None:
            assert sent == 0
            return
        receptions = session.scalars(select(ReceivedObject).where(ReceivedObject.study_id == study.id)).all()
        assert len(receptions) == sent
        assert all((inbox.folder / row.path).is_file() for row in receptions)
        twice = select(Instance.sop_instance_uid).group_by(Instance.sop_instance_uid).having(func.count() > 1)
        assert session.scalars(twice).all() == []
        if study.state is StudyState.QUARANTINED:
            assert study.reason
            jobs = session.scalars(select(Job).where(Job.study_id == study.id))
            waiting = [job.state for job in jobs if job.state in OPEN_JOBS and not job.cancel_requested]
            assert waiting == []
            results = session.scalars(select(Result).where(Result.study_id == study.id))
            on_their_way = [row.state for result in results for row in result.deliveries]
            assert not OPEN_DELIVERIES & set(on_their_way)
        if study.state is StudyState.RECEIVING:
            assert study.due_at is not None


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
@given(steps=st.lists(STEPS, max_size=14))
def test_a_study_comes_to_an_end_whatever_happens(shared: Inbox, steps: list[tuple[object, ...]]) -> None:
    life = Life(shared, next(NAMES))
    sent = 0
    for step, *arguments in steps:
        getattr(life, str(step))(*arguments)
        sent += step == "send"
        check(shared, life.uid, sent)
    life.bring_to_an_end()
    check(shared, life.uid, sent)
    if sent:
        assert shared.study(life.uid).state in END_STATES
    assert shared.spool.pending() == []


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
        encoded = encode(step, False, True)
        command = NormalizedCommand(1, SOP_CLASS, uid, True, field)
        fields = {"association": "m1", "calling": "MODALITY", "peer": peer}
        return self.steps.take(command, encoded, UID(ExplicitVRLittleEndian), peer, fields).status.code


@pytest.fixture
def modality(with_steps: Inbox) -> Modality:
    return Modality(with_steps)


def images(name: str, number: int = 3) -> list[Dataset]:
    return [ultrasound(name, number=one) for one in range(1, number + 1)]


def is_complete(with_steps: Inbox, image: Dataset, seconds: float = 0) -> bool:
    """Index, assemble as if so many seconds had passed, and look."""
    with_steps.index()
    with_steps.assembler.run_once(steady_now() + timedelta(seconds=seconds))
    return state(with_steps, image.StudyInstanceUID) is not StudyState.RECEIVING


def told(with_steps: Inbox, event: events.EventType) -> list[dict[str, Any]]:
    return [dict(row.fields) for row in with_steps.events() if row.number == event.number]


def test_the_last_image_before_the_end(with_steps: Inbox, modality: Modality) -> None:
    sent = images("end")
    with_steps.opened("a1")
    step = modality.begin(sent[0].StudyInstanceUID)
    with_steps.receive(*sent, association="a1")
    assert not is_complete(with_steps, sent[0], 19 * 60)
    modality.set(step, sent)
    assert is_complete(with_steps, sent[0])  # no quiet time, and the association is open still
    assert [len(job.source_uids) for job in with_steps.jobs()] == [3]
    assert told(with_steps, events.STEPS_FULFILLED)[0]["steps"] == 1


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
    (event,) = told(with_steps, events.STEPS_NOT_AWAITED)
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
    assert state(with_steps, sent[0].StudyInstanceUID) is StudyState.RECEIVING
    assert is_complete(with_steps, sent[0], 100)
    assert state(with_steps, sent[0].StudyInstanceUID) is StudyState.QUEUED


def test_reports_of_two_listeners_are_read_in_any_order(with_steps: Inbox) -> None:
    for number, status, seconds, objects in (
        (1, COMPLETED, 60, ["1.1", "1.2"]),
        (0, IN_PROGRESS, 0, []),
        (1, COMPLETED, 61, ["1.1", "1.2"]),
    ):
        at, what = utc_now() + timedelta(seconds=seconds), StepStatus(status)
        report = steps.StepReport("1.9", "modality", "M", what, number, ["1.8"], objects, at)
        with_steps.write(steps.keep, report)
    (row,) = with_steps.rows(PerformedStep)
    assert (row.status, with_steps.read(steps.named, row.id)) == (StepStatus.COMPLETED, 2)
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
    for event in (events.STEP_BEGUN, events.STEP_CHANGED):
        assert len(told(with_steps, event)) == 1


@pytest.mark.debian("postgresql")
def test_the_same_in_postgresql(open_inbox: Callable[..., Inbox], postgres_url: str) -> None:
    with_steps = open_inbox(WITH_STEPS, url=postgres_url)
    modality, sent = Modality(with_steps), images("postgres")
    step = modality.begin(sent[0].StudyInstanceUID)
    with_steps.index()
    with_steps.receive(*sent)
    assert not is_complete(with_steps, sent[0], 300)
    modality.set(step, sent)
    assert is_complete(with_steps, sent[0])
    assert all(row.study_id for row in with_steps.events() if row.number in (1080, 1081))
    forget_past(with_steps.database, with_steps.settings, utc_now() + timedelta(days=401))
    assert with_steps.rows(StepObject) == []


def blank(image: Dataset) -> Dataset:
    return changed(image, PixelData=bytes(len(image.PixelData)))


def release(inbox: Inbox, uid: str, *take: int) -> None:
    studies.release(inbox.settings, uid, take)
    inbox.settle()


def analysed(inbox: Inbox, uid: str) -> list[str]:
    """The images of the newest job of a study that was assembled."""
    assert inbox.study(uid).state is StudyState.QUEUED
    return inbox.jobs()[-1].source_uids


def test_a_study_with_a_choice_is_released_only_with_one_among_what_is_there_now(inbox: Inbox) -> None:
    image = ultrasound("choose")
    inbox.settle(image, blank(image))
    [as_of] = {row["as_of"] for row in studies.versions(inbox.settings, image.StudyInstanceUID)}
    for take, shown, says in (
        ((), None, f"image {image.SOPInstanceUID} 1 or 2"),
        ((1, 3), None, "--take 3 is no option"),
        ((2,), as_of, "something came"),
    ):
        if shown:
            other = changed(ultrasound("choose", number=2), PatientName="Else^Some", PatientID="P-2")
            inbox.settle(other)
        with pytest.raises(NotAllowedNow, match=says):
            studies.release(inbox.settings, image.StudyInstanceUID, take, as_of=shown)
    assert inbox.study(image.StudyInstanceUID).state is StudyState.QUARANTINED


@pytest.mark.parametrize("number", [1, 2])
def test_the_version_that_is_taken_counts(inbox: Inbox, number: int) -> None:
    image = ultrasound("pixels")
    other = changed(blank(image), Manufacturer="Other Maker")
    inbox.receive(image)
    inbox.settle(other, calling="QUICK")
    rows = studies.versions(inbox.settings, image.StudyInstanceUID)
    assert [(row["calling_ae"], row["counts"]) for row in rows] == [(["MODALITY"], True), (["QUICK"], False)]
    assert rows[1]["differs"]["Manufacturer"] == "Other Maker"
    assert set(rows[1]["differs"]) == {"Manufacturer", "PixelData"}
    release(inbox, image.StudyInstanceUID, number)
    assert analysed(inbox, image.StudyInstanceUID) == [image.SOPInstanceUID]
    assert inbox.file_of(image.SOPInstanceUID).PixelData == (image, other)[number - 1].PixelData
    for as_of in (None, rows[0]["as_of"]):  # nothing came since: the choice itself was the last
        with pytest.raises(NotAllowedNow, match="only one in quarantine"):
            studies.release(inbox.settings, image.StudyInstanceUID, as_of=as_of)


@pytest.mark.parametrize("number", [1, 2])
def test_of_two_patients_all_objects_of_the_chosen_one_are_assembled(inbox: Inbox, number: int) -> None:
    other = {"PatientID": "X", "PatientName": "Y^Z"}
    ours = images("two", 2)
    theirs = [changed(ultrasound("two", number=number), **other) for number in (3, 4)]
    uid = ours[0].StudyInstanceUID
    inbox.settle(*ours, *theirs)
    rows = studies.versions(inbox.settings, uid)
    shown = [(row["choose"], row["objects"], row["counts"]) for row in rows]
    assert shown == [("patient", 2, True), ("patient", 2, False)] and rows[1]["differs"] == other
    release(inbox, uid, number)
    chosen = (ours, theirs)[number - 1]
    assert analysed(inbox, uid) == [image.SOPInstanceUID for image in chosen]
    assert inbox.study(uid).patient_id == chosen[0].PatientID
    named = {keyword: chosen[0][keyword].value for keyword in other}
    inbox.settle(*ours, *theirs, changed(ultrasound("two", number=5), **named))
    assert len(analysed(inbox, uid)) == 3, "nothing that was decided is asked again"


@pytest.mark.parametrize("number", [1, 2])
def test_a_study_corrected_in_part_can_go_back_to_the_patient_who_came_first(
    inbox: Inbox, number: int
) -> None:
    sent = images("part", 2)
    uid, before, right = sent[0].StudyInstanceUID, sent[0].PatientID, "THE-RIGHT-ONE"
    inbox.settle(*sent)
    inbox.settle(changed(sent[0], PatientID=right))
    rows = studies.versions(inbox.settings, uid)
    [first] = [row["number"] for row in rows if row["differs"]["PatientID"] == before]
    release(inbox, uid, first if number == 1 else 3 - first)
    expected = sent if number == 1 else sent[:1]
    assert analysed(inbox, uid) == [image.SOPInstanceUID for image in expected]
    assert inbox.file_of(sent[0].SOPInstanceUID).PatientID == (before if number == 1 else right)
    assert before not in str([row.fields for row in inbox.events()])


def test_an_image_of_two_studies_stays_or_moves(inbox: Inbox) -> None:
    image = ultrasound("one")
    inbox.index(image, changed(image, StudyInstanceUID="1.2.3.4"))
    rows = studies.versions(inbox.settings, "1.2.3.4")
    assert {row["stands_in"] for row in rows} == {"", image.StudyInstanceUID}
    [here] = [row["number"] for row in rows if not row["stands_in"]]
    release(inbox, "1.2.3.4", here)
    assert analysed(inbox, "1.2.3.4") == [image.SOPInstanceUID]
    release(inbox, image.StudyInstanceUID)
    assert inbox.study(image.StudyInstanceUID).state is StudyState.NOT_APPLICABLE


def test_a_study_with_a_faulty_object_is_released_without_it(inbox: Inbox) -> None:
    image, faulty = ultrasound("faulty"), changed(ultrasound("faulty", number=2), Rows=0)
    inbox.settle(image, faulty)
    assert studies.versions(inbox.settings, image.StudyInstanceUID) == []
    release(inbox, image.StudyInstanceUID)
    assert analysed(inbox, image.StudyInstanceUID) == [image.SOPInstanceUID]
    inbox.index(faulty)
    assert inbox.study(image.StudyInstanceUID).state is StudyState.QUEUED


def test_a_copy_that_says_less_is_no_version_to_choose_or_to_fall_back_to(inbox: Inbox) -> None:
    images = [ultrasound("part", number=number) for number in (1, 2)]
    inbox.receive(*images)
    inbox.settle(changed(images[0], PatientName=""), calling="QUICK")
    inbox.settle(changed(images[0], PatientID="THE-RIGHT-ONE"))
    rows = studies.versions(inbox.settings, images[0].StudyInstanceUID)
    assert [row["choose"] for row in rows] == ["patient", "patient"]
    [first] = [row["number"] for row in rows if row["differs"]["PatientID"] == images[0].PatientID]
    release(inbox, images[0].StudyInstanceUID, first)
    assert inbox.file_of(images[0].SOPInstanceUID).PatientName == images[0].PatientName


SECOND = {"name": "second", "ae_title": "SECOND", "host": "127.0.0.1", "port": 4243, "may": ["receive"]}


@pytest.fixture
def node(open_inbox: Callable[..., Inbox]) -> Inbox:
    return open_inbox(configuration())


def with_rule(node: Inbox, **values: Any) -> Settings:
    """The configuration with a changed rule, and a second PACS."""
    rule = {**configuration()["rules"][0], **values}
    peers = [*configuration()["peers"], {**SECOND, "results": ["sr", "sc"]}]
    return Settings.model_validate(
        {**configuration(), "peers": peers, "rules": [rule], "node": {"data_dir": node.folder}}
    )


def analysed_rerun(node: Inbox, name: str, **values: str) -> str:
    """Receive, assemble and run one study; its UID."""
    image = changed(ultrasound(name), **values)
    node.settle(image)
    work(node)
    return str(image.StudyInstanceUID)


def sent(node: Inbox) -> list[tuple[str, str]]:
    """Destination and state of every delivery."""
    return [(row.destination, row.state.value) for row in node.rows(Delivery)]


def numbers(node: Inbox) -> list[int]:
    return [event.number for event in node.events()]


def test_a_delivered_study_is_analysed_again_and_nothing_is_sent_twice(node: Inbox) -> None:
    uid = analysed_rerun(node, "again")
    confirm(node)
    before = sent(node)
    assert node.study(uid).state is StudyState.DELIVERED and len(before) == 2
    [row] = studies.rerun_rules(node.settings, [uid])
    assert (row["rule"], row["pipeline"], row["queued"], row["sources"]) == ("rule", "obedient", True, 1)
    assert node.study(uid).state is StudyState.QUEUED and STUDY_RERUN.number in numbers(node)
    work(node)
    assert sent(node) == before
    assert node.study(uid).state is StudyState.DELIVERED
    assert [job.state for job in node.jobs()] == [JobState.SUCCEEDED] * 2


def test_what_waits_for_another_destination_is_withdrawn_when_the_rule_names_a_new_one(node: Inbox) -> None:
    uid = analysed_rerun(node, "moved")
    for wanted, states in (
        (with_rule(node, send_to=["second"]), {("pacs", "cancelled"), ("second", "pending")}),
        (node.settings, {("pacs", "pending"), ("second", "cancelled")}),  # what is wanted again is sent again
    ):
        studies.rerun_rules(wanted, [uid])
        work(node, wanted)
        assert set(sent(node)) == states
    assert len(node.rows(Result)) == 2, "results were built once"


def test_a_job_that_runs_is_stopped_and_the_new_one_waits_for_it(node: Inbox) -> None:
    image = ultrasound("running")
    node.settle(image)
    queue = JobQueue(node.database, node.settings.workers)
    running = queue.claim("elsewhere/1/1/x")
    studies.rerun_rules(node.settings, [str(image.StudyInstanceUID)])
    assert queue.claim("elsewhere/1/1/y") is None, "two jobs of one rule and study do not run together"
    with pytest.raises(JobCancelled):
        queue.heartbeat(running, 0.5, "analysing")
    node.write(queue.complete_if_owner, running, JobState.CANCELLED)
    node.write(settle_study, running.study_id)
    assert node.study(image.StudyInstanceUID).state is StudyState.QUEUED
    work(node)
    assert [job.state for job in node.jobs()] == [JobState.CANCELLED, JobState.SUCCEEDED]


def test_what_may_not_be_run_again_is_refused_with_a_sentence_and_nothing_is_queued(node: Inbox) -> None:
    good, conflict, purged = (analysed_rerun(node, name) for name in ("good", "conflict", "purged"))
    node.settle(changed(ultrasound("conflict", number=2), PatientID="SOMEBODY-ELSE"))
    node.write(intake.mark_purged, node.study(purged).id)
    coming = ultrasound("coming")
    node.index(coming)
    for uid, sentence in (
        (conflict, "is in quarantine"),
        (purged, "were purged"),
        (str(coming.StudyInstanceUID), "is still being received"),
    ):
        with pytest.raises(NotAllowedNow, match=sentence):
            studies.rerun_rules(node.settings, [good, uid])
    assert node.study(good).revision == 1 and STUDY_RERUN.number not in numbers(node)


def test_a_changed_rule_is_replayed_over_the_studies_that_it_missed(node: Inbox) -> None:
    ovary, breast = analysed_rerun(node, "ovary"), analysed_rerun(node, "breast", BodyPartExamined="BREAST")
    purged = analysed_rerun(node, "purged")
    node.write(intake.mark_purged, node.study(purged).id)
    analysed_rerun(node, "conflict")
    node.settle(changed(ultrasound("conflict", number=2), PatientID="SOMEBODY-ELSE"))
    since, jobs = node.study(ovary).last_received_at, len(node.jobs())
    for same in (node.settings, with_rule(node, name="renamed"), with_rule(node, when={"body_part": "KNEE"})):
        assert rules.replay(same, since, dry_run=False) == [], "what was delivered stays"
    second = with_rule(node, send_to=["pacs", "second"], when={"body_part": "OVARY"})

    def replayed(dry_run: bool) -> list[tuple[str, bool]]:
        rows = rules.replay(second, since, dry_run=dry_run)
        assert rows[0]["destinations"] == ["pacs", "second"] and "were purged" in rows[-1]["reason"]
        return [(row["study_instance_uid"], row["queued"]) for row in rows]

    assert replayed(True) == [(ovary, False), (purged, False)]
    assert len(node.jobs()) == jobs and node.study(ovary).revision == 1, "nothing was changed"
    assert replayed(False) == [(ovary, True), (purged, False)]
    assert node.study(ovary).state is StudyState.QUEUED and node.study(breast).revision == 1
    told = [(row["study"], row["actor"], row["fields"]) for row in node.read(audit.rows)]
    assert told == [(ovary, "command line", {"replay": True})], "neither foreseen nor refused ones"
    work(node, second)
    assert {peer for peer, _ in sent(node)} == {"pacs", "second"}
    assert [row["queued"] for row in rules.replay(second, since, dry_run=False)] == [False]
    assert rules.replay(second, utc_now(), dry_run=False) == []
