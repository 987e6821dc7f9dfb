"""A sender's flood in the database: one entry, one event, and nobody else's study waits for it."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select

from dicom_node import events
from dicom_node.model.kinds import Outcome
from dicom_node.model.lifecycle import StudyState
from dicom_node.store import views
from dicom_node.store.tables import ReceivedObject, Study
from dicom_node.store.transitions import steady_now
from tests.inbox_lab import Inbox
from tests.modality import ULTRASOUND, ultrasound

FAULTY = b"\x08\x00\x05\x00CS\x02\x00??"
EXPLICIT = "1.2.840.10008.1.2.1"


def flood(inbox: Inbox, objects: int, calling: str = "MODALITY") -> None:
    for number in range(objects):
        uid = f"2.25.{len(calling)}.{number}"
        inbox.receive_bytes(FAULTY, ULTRASOUND, uid, EXPLICIT, calling=calling)


def test_faulty_objects_of_one_sender_are_one_entry_with_a_count(inbox: Inbox) -> None:
    flood(inbox, 40)
    flood(inbox, 3, "QUICK")
    inbox.indexer.run_once()
    with inbox.database.read() as session:
        shown = views.list_studies(session)
        kept = session.scalars(select(ReceivedObject.outcome)).all()
    assert kept == [Outcome.QUARANTINED] * 43, "each object is kept and known"
    assert [study["state"] for study in shown] == [StudyState.QUARANTINED] * 2
    assert sorted(study["reason"].split("; and ")[1] for study in shown) == [
        "2 more faulty objects of this sender",
        "39 more faulty objects of this sender",
    ]
    numbers = [event.number for event in inbox.events()]
    assert numbers.count(events.OBJECT_QUARANTINED.number) == 2
    assert numbers.count(events.STUDY_QUARANTINED.number) == 2


def test_a_faulty_object_of_another_hour_is_an_entry_of_its_own(inbox: Inbox) -> None:
    flood(inbox, 1)
    inbox.indexer.run_once()
    with inbox.database.write() as session:
        (study,) = session.scalars(select(Study))
        study.first_received_at -= timedelta(hours=2)
    inbox.receive_bytes(FAULTY, ULTRASOUND, "2.25.8", EXPLICIT)
    inbox.indexer.run_once()
    with inbox.database.read() as session:
        assert len(session.scalars(select(Study)).all()) == 2


def test_a_round_of_indexing_ends_and_studies_of_who_is_behind_wait(inbox: Inbox) -> None:
    late = ultrasound("late", number=2)
    inbox.receive(ultrasound("late"), calling="QUICK")
    inbox.receive(ultrasound("good"), calling="MODALITY")
    flood(inbox, 80, "QUICK")
    inbox.receive(late, calling="QUICK")
    inbox.indexer.run_once(seconds=0)
    in_an_hour = steady_now() + timedelta(seconds=50)
    inbox.assembler.run_once(in_an_hour, behind=inbox.indexer.behind)
    assert inbox.indexer.behind
    assert inbox.study(ultrasound("good").StudyInstanceUID).state is not StudyState.RECEIVING
    assert inbox.study(late.StudyInstanceUID).state is StudyState.RECEIVING, "an image of it waits"
    while inbox.indexer.behind:
        inbox.indexer.run_once(seconds=0)
    inbox.assembler.run_once(in_an_hour + timedelta(seconds=50), behind=inbox.indexer.behind)
    study = inbox.study(late.StudyInstanceUID)
    assert (study.state is not StudyState.RECEIVING, study.revision) == (True, 1)
