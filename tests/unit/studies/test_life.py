"""The life of a study: whatever happens in whichever order, it comes to an end."""

from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings, strategies
from pydicom.dataset import Dataset
from sqlalchemy import func, select

from dicom_node.base.dicom.uids import derived_uid
from dicom_node.base.errors import NotAllowedNow
from dicom_node.base.events import (
    DELIVERY_CONFIRMED,
    DELIVERY_SENT,
    DELIVERY_STARTED,
)
from dicom_node.base.lifecycle import (
    END_STATES,
    OPEN_DELIVERIES,
    OPEN_JOBS,
    DeliveryState,
    JobState,
    StudyState,
)
from dicom_node.base.store import intake
from dicom_node.base.store.tables import (
    Delivery,
    Instance,
    Job,
    ReceivedObject,
    Result,
    Study,
)
from dicom_node.base.store.transitions import move, settle_study, utc_now
from dicom_node.jobs.queue import JobQueue
from dicom_node.studies import reruns
from dicom_node.studies.choose import Choice
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.receive.objects import (
    changed,
    own_result,
    report,
)

NAMES = (f"life{number}" for number in count())


MADE = {"report": report, "own result": own_result}


VALUES = {
    "renamed": {"PatientName": "Another^Name"},
    "other patient": {"PatientID": "X"},
    "faulty": {"Rows": 0},
}


STEPS = strategies.one_of(
    strategies.tuples(
        strategies.just("send"),
        strategies.integers(1, 3),
        strategies.sampled_from(
            ["same", "renamed", "other patient", "other pixels", "faulty", "report", "own result"]
        ),
    ),
    strategies.tuples(strategies.just("send"), strategies.integers(1, 3), strategies.just("same")),
    strategies.tuples(strategies.sampled_from(["quiet", "confirm", "release", "rerun"])),
    strategies.tuples(
        strategies.just("work"), strategies.sampled_from(["succeeded", "failed", "not_applicable", "again"])
    ),
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
            uid = derived_uid(self.name, str(job.id), str(job.attempts))
            self.inbox.delivery(row, DeliveryState.PENDING, sop_instance_uid=uid)
        self.inbox.write(settle_study, job.study_id)

    def confirm(self) -> None:
        with self.inbox.database.write() as session:
            for row in session.scalars(select(Delivery).where(Delivery.state == DeliveryState.PENDING)):
                for event in (DELIVERY_STARTED, DELIVERY_SENT, DELIVERY_CONFIRMED):
                    move(session, row, event)
                settle_study(session, row.result.study_id)

    def release(self) -> None:
        for study in self.inbox.scalars(
            select(Study.id).filter_by(study_instance_uid=self.uid, state=StudyState.QUARANTINED)
        ):
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
                self.inbox.write(reruns.rerun, study.id, self.inbox.settings)

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
            assert [job.state for job in jobs if job.state in OPEN_JOBS and not job.cancel_requested] == []
            results = session.scalars(select(Result).where(Result.study_id == study.id))
            assert not OPEN_DELIVERIES & {row.state for result in results for row in result.deliveries}
        if study.state is StudyState.RECEIVING:
            assert study.due_at is not None


@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    database=None,
)
@given(steps=strategies.lists(STEPS, max_size=14))
def test_a_study_comes_to_an_end_whatever_happens(shared: Inbox, steps: list[tuple[object, ...]]) -> None:
    life = Life(shared, next(NAMES))
    sent = 0
    for step, *arguments in steps:
        getattr(life, str(step))(*arguments)
        sent += step == "send"
        check(shared, life.uid, sent)
    life.quiet()
    for _ in range(5):
        life.work("succeeded")
    life.confirm()
    check(shared, life.uid, sent)
    if sent:
        assert shared.study(life.uid).state in END_STATES
    assert shared.spool.pending() == []
