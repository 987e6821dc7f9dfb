"""Rows of the index as tests need them: what a test says nothing of has a value that does not matter."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Select, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from dicom_node.base.lifecycle import DeliveryState, JobState, ResultKind, StudyState
from dicom_node.base.store.database import Database
from dicom_node.base.store.mapping import Base
from dicom_node.base.store.tables import Association, Delivery, EventRow, Job, Result, Study

Asked, Answer = ParamSpec("Asked"), TypeVar("Answer")
Row = TypeVar("Row", bound=Any)


class Stored:
    """Its database, each question and each change in a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def read(
        self, question: Callable[Concatenate[Session, Asked], Answer], *asked: Asked.args, **how: Asked.kwargs
    ) -> Answer:
        """What a function that reads answers, a generator to its end."""
        with self.database.read() as session:
            answer: Any = question(session, *asked, **how)
            if isinstance(answer, Iterator):
                answer = iter(list(answer))
            session.expunge_all()
            return answer

    def write(
        self, change: Callable[Concatenate[Session, Asked], Answer], *asked: Asked.args, **how: Asked.kwargs
    ) -> Answer:
        """What a function that changes something answers."""
        with self.database.write() as session:
            return change(session, *asked, **how)

    def add(self, *rows: Base) -> None:
        """Add rows; each has its number then."""
        with self.database.write() as session:
            session.add_all(rows)

    def put(self, table: type[Base], number: int | None = None, **values: Any) -> None:
        """Give the row of this number these values, or all rows."""
        chosen = update(table) if number is None else update(table).filter_by(id=number)
        self.write(Session.execute, chosen.values(**values))

    def delivery(
        self, job: Job, state: DeliveryState, kind: ResultKind = ResultKind.SR, **values: Any
    ) -> Result:
        """A result of the job, in this state of its delivery to the PACS; returns the result."""
        result = a_result(job, kind, **values)
        self.add(result)
        self.add(Delivery(result_id=result.id, destination="pacs", state=state, next_at=NOW))
        return result

    def get(self, table: type[Row], number: int) -> Row:
        """The row of this number."""
        return self.read(Session.get_one, table, number)

    def rows(self, table: type[Row]) -> list[Row]:
        """All of a table, in the order in which they came."""
        return self.scalars(select(table).order_by(*table.__table__.primary_key))

    def column(self, chosen: InstrumentedAttribute[Answer]) -> list[Answer]:
        """The values of a column, in the order in which the rows came."""
        return self.scalars(select(chosen).order_by(*chosen.class_.__table__.primary_key))

    def events(self, number: int | None = None) -> list[EventRow]:
        """The events, or those of this number."""
        return [row for row in self.rows(EventRow) if number in (None, row.number)]

    def scalars(self, chosen: Select[tuple[Answer]]) -> list[Answer]:
        """What is chosen."""
        return list(self.read(lambda session: session.scalars(chosen).all()))


NOW = datetime(2026, 1, 2, 3, 12, tzinfo=UTC)


def a_study(
    uid: str | None, state: StudyState = StudyState.DELIVERED, at: datetime = NOW, **values: Any
) -> Study:
    """A study that came at this time."""
    known = {"patient_id": "P1", "study_date": "20260102", "first_received_at": at, "last_received_at": at}
    return Study(study_instance_uid=uid, state=state, **known | values)


def a_job(study: Study, state: JobState, rule: str = "ultrasound", **values: Any) -> Job:
    """A job of the first revision."""
    known = {
        "study_revision": 1,
        "destinations": ["pacs"],
        "source_uids": ["1.2.3"],
        "attempts": 1,
        "run_at": NOW,
        "created_at": NOW,
    }
    return Job(study_id=study.id, state=state, rule=rule, pipeline=rule, **known | values)


def a_result(job: Job, kind: ResultKind = ResultKind.SR, **values: Any) -> Result:
    """A result of the job; its file is not there."""
    known = {
        "sop_instance_uid": f"2.25.{job.id}.{kind}",
        "sop_class_uid": "1.2",
        "series_instance_uid": "1.3",
        "path": "results/x",
        "sha256": "",
        "bytes": 1,
        "created_at": NOW,
    }
    return Result(study_id=job.study_id, job_id=job.id, kind=kind, **known | values)


def an_association(
    name: str, opened_at: datetime, closed_at: datetime | None = None, objects: int = 0
) -> Association:
    """One of the modality US1; released where it is closed."""
    return Association(
        id=name,
        outcome="released" if closed_at else "open",
        objects=objects,
        calling_ae="US1",
        called_ae="AINODE",
        address="192.0.2.21",
        listener="listener-1",
        opened_at=opened_at,
        closed_at=closed_at,
    )
