"""Whatever arrives in whatever order: a study comes to an end, and quarantine releases nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from sqlalchemy import func, select

from dicom_node.dicom.uids import derived_uid
from dicom_node.errors import NotAllowedNow
from dicom_node.events import DELIVERY_CONFIRMED, DELIVERY_SENT, DELIVERY_STARTED
from dicom_node.jobs.queue import JobQueue
from dicom_node.model.kinds import ResultKind
from dicom_node.model.lifecycle import (
    END_STATES,
    OPEN_DELIVERIES,
    OPEN_JOBS,
    DeliveryState,
    JobState,
    StudyState,
)
from dicom_node.store import deliveries, intake
from dicom_node.store.tables import Delivery, Instance, Job, ReceivedObject, Result, Study
from dicom_node.store.transitions import move_delivery, settle_study, utc_now
from dicom_node.studies import rerun
from dicom_node.studies.choose import Choice
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.inbox.objects import changed, own_result, report

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
def inbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inbox]:
    """One node for all examples: each has a study of its own."""
    inbox = Inbox(tmp_path_factory.mktemp("life") / "var")
    yield inbox
    inbox.close()


class Life:
    """One study and what may happen to it."""

    def __init__(self, inbox: Inbox, name: str) -> None:
        self.inbox, self.name = inbox, name
        self.queue = JobQueue(inbox.database, inbox.settings.workers)
        self.uid = str(ultrasound(name, size=(16, 12)).StudyInstanceUID)

    def send(self, number: int, variant: str) -> None:
        self.inbox.receive(self._made(number, variant))
        self.inbox.index()

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
        with self.inbox.database.write() as session:
            row = session.get_one(Job, job.id)
            state = JobState.CANCELLED if row.cancel_requested else JobState(end)
            self.queue.complete_if_owner(session, job, state, end)
            if state is JobState.SUCCEEDED:
                deliveries.add(session, self._result(job.id, job.study_id, job.attempt), "pacs")
            settle_study(session, job.study_id)

    def confirm(self) -> None:
        with self.inbox.database.write() as session:
            for row in session.scalars(select(Delivery).where(Delivery.state == DeliveryState.PENDING)):
                for event in (DELIVERY_STARTED, DELIVERY_SENT, DELIVERY_CONFIRMED):
                    move_delivery(session, row, event)
                settle_study(session, row.result.study_id)

    def release(self) -> None:
        with self.inbox.database.read() as session:
            held = (Study.study_instance_uid == self.uid) & (Study.state == StudyState.QUARANTINED)
            study = session.scalar(select(Study.id).where(held))
        if study is not None:
            choice = Choice(self.inbox.database, self.inbox.settings)
            rows = choice.rows(study)
            patient = rows[0]["number"] if rows and not rows[0]["sop_instance_uid"] else None
            first = {(row["if_taken"], row["sop_instance_uid"]): row["number"] for row in reversed(rows)}
            asked = [
                number for question, number in first.items() if question[0] == patient or not question[1]
            ]
            choice.release(study, asked)

    def rerun(self) -> None:
        with self.inbox.database.write() as session:
            if (study := intake.study(session, self.uid)) is not None:
                with suppress(NotAllowedNow):
                    rerun.rerun(session, study.id, self.inbox.settings)

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

    def _result(self, job_id: int, study_id: int, attempt: int) -> Result:
        uid = derived_uid(self.name, str(job_id), str(attempt))
        return Result(
            study_id=study_id,
            job_id=job_id,
            kind=ResultKind.SR,
            sop_instance_uid=uid,
            sop_class_uid="1.2",
            series_instance_uid="1.2.8",
            path="results/x",
            sha256="",
            bytes=1,
            created_at=utc_now(),
        )


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
            waiting = [job.state for job in study.jobs if job.state in OPEN_JOBS and not job.cancel_requested]
            assert waiting == []
            on_their_way = [row.state for result in study.results for row in result.deliveries]
            assert not OPEN_DELIVERIES & set(on_their_way)
        if study.state is StudyState.RECEIVING:
            assert study.due_at is not None


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
@given(steps=st.lists(STEPS, max_size=14))
def test_a_study_comes_to_an_end_whatever_happens(inbox: Inbox, steps: list[tuple[object, ...]]) -> None:
    life = Life(inbox, next(NAMES))
    sent = 0
    for step, *arguments in steps:
        getattr(life, str(step))(*arguments)
        sent += step == "send"
        check(inbox, life.uid, sent)
    life.bring_to_an_end()
    check(inbox, life.uid, sent)
    if sent:
        assert inbox.study(life.uid).state in END_STATES
    assert inbox.spool.pending() == []
