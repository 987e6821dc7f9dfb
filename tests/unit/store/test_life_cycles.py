"""The tables of ``model.lifecycle``, carried out: each move that is in them happens, no other one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node import events
from dicom_node.errors import IllegalTransition
from dicom_node.events import EventType
from dicom_node.model.lifecycle import (
    LIFE_CYCLES,
    READ_FROM_WORK,
    CommitmentState,
    DeliveryState,
    FetchState,
    HeldState,
    JobState,
    RequestedState,
    StudyState,
    WorkitemState,
)
from dicom_node.store import migrate
from dicom_node.store.database import Database
from dicom_node.store.tables import (
    ClaimedWorkitem,
    Commitment,
    Delivery,
    EventRow,
    Fetch,
    HeldResult,
    Job,
    RequestedCommitment,
    Study,
)
from dicom_node.store.transitions import (
    move_commitment,
    move_delivery,
    move_fetch,
    move_held,
    move_job,
    move_requested,
    move_study,
    move_workitem,
    settle_study_as,
)
from tests.rows import a_job, a_result, a_study

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
ALL_EVENTS = [value for value in vars(events).values() if isinstance(value, EventType)]
Move = Callable[[Session, Any, EventType], bool | int]
MOVES: dict[str, tuple[type[Any], type[Any], Move]] = {
    "study": (Study, StudyState, move_study),
    "job": (Job, JobState, move_job),
    "delivery": (Delivery, DeliveryState, move_delivery),
    "request for storage commitment": (Commitment, CommitmentState, move_commitment),
    "storage commitment asked of the node": (RequestedCommitment, RequestedState, move_requested),
    "held result": (HeldResult, HeldState, lambda session, row, event: move_held(session, [row], event)),
    "fetched study": (Fetch, FetchState, move_fetch),
    "work item": (ClaimedWorkitem, WorkitemState, move_workitem),
}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A study with a job, its result, which is held, a delivery, a request for commitment; a work item."""
    folder: Path = tmp_path_factory.mktemp("life")
    database = Database(f"sqlite:///{folder / 'node.db'}")
    migrate.upgrade(database)
    study = a_study("1.2.3", StudyState.RECEIVING)
    with database.write() as session:
        session.add(study)
        session.flush()
        job = a_job(study, JobState.QUEUED)
        session.add(job)
        session.flush()
        result = a_result(job)
        session.add(result)
        session.flush()
        delivery = Delivery(result_id=result.id, destination="pacs", next_at=NOW)
        session.add(delivery)
        session.flush()
        asked = Commitment(
            transaction_uid="2.25.1", destination="pacs", deliveries=[delivery.id], asked_at=NOW
        )
        held = HeldResult(result_id=result.id, study_id=study.id, since=NOW)
        fetch = Fetch(peer="pacs", study_instance_uid="1.2.4", asked_at=NOW, next_at=NOW)
        of_us = RequestedCommitment(
            peer="us1", calling_ae="US1", transaction_uid="2.25.2", objects=["1.2 1.3"]
        )
        of_us.asked_at = of_us.next_at = NOW
        item = ClaimedWorkitem(peer="ris", workitem_uid="1.2.5", transaction_uid="1.2.6")
        item.study_instance_uid, item.began_at, item.checked_at, item.next_at = "1.2.3", NOW, NOW, NOW
        session.add_all([asked, held, fetch, of_us, item])
    yield database
    database.dispose()


def test_all_life_cycles_are_tried() -> None:
    assert set(MOVES) == set(LIFE_CYCLES)


@pytest.mark.parametrize("name", MOVES)
def test_an_event_moves_a_row_as_its_table_says_and_is_written_down_once(
    database: Database, name: str
) -> None:
    kind, _, move = MOVES[name]
    wrong = []
    for (state, event), after in LIFE_CYCLES[name].items():
        with database.write() as session:
            row = session.scalars(select(kind)).one()
            row.state = state
            session.flush()
            before = events_in(session, event)
            moved = move(session, row, event)
            if not moved or row.state is not after or events_in(session, event) != before + 1:
                wrong.append((state, event.number, row.state))
    assert wrong == []


@pytest.mark.parametrize("name", MOVES)
def test_an_event_that_the_table_lacks_is_refused_in_every_state(database: Database, name: str) -> None:
    kind, states, move = MOVES[name]
    wrong = []
    with database.write() as session:
        row = session.scalars(select(kind)).one()
        before = session.scalar(select(func.count(EventRow.id)))
        for state in states:
            row.state = state
            session.flush()
            for event in ALL_EVENTS:
                if (state, event) in LIFE_CYCLES[name]:
                    continue
                try:
                    move(session, row, event)
                except IllegalTransition:
                    if row.state is state:
                        continue
                wrong.append((state, event.number, row.state))
        assert session.scalar(select(func.count(EventRow.id))) == before
    assert wrong == []


def test_a_study_that_is_received_or_in_quarantine_is_not_moved_by_its_work(database: Database) -> None:
    wrong = []
    with database.write() as session:
        row = session.scalars(select(Study)).one()
        for state in StudyState:
            for after in StudyState:
                if state in {StudyState.COMPLETE, *READ_FROM_WORK} and after in READ_FROM_WORK:
                    continue
                row.state = state
                session.flush()
                try:
                    settle_study_as(session, row, after)
                except IllegalTransition:
                    continue
                wrong.append((state, after))
    assert wrong == []


def events_in(session: Session, event: EventType) -> int:
    chosen = select(func.count(EventRow.id)).where(EventRow.number == event.number)
    return session.scalar(chosen) or 0
