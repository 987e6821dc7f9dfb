"""A study is complete when it is quiet and no open association holds it."""

from __future__ import annotations

import fcntl
from datetime import UTC, datetime, timedelta, tzinfo

import numpy as np
import pytest
from sqlalchemy import select

from dicom_node.events import ASSOCIATION_ACCEPTED, NO_RULE
from dicom_node.model.lifecycle import JobState, StudyState
from dicom_node.store.tables import Association, Instance, Study
from dicom_node.store.transitions import steady_now
from tests.inbox_lab import Inbox
from tests.modality import chest, ultrasound
from tests.unit.inbox.objects import changed, secondary_capture


def state(inbox: Inbox, uid: str) -> StudyState:
    return inbox.study(uid).state


def due(inbox: Inbox, uid: str) -> datetime:
    moment = inbox.study(uid).due_at
    assert moment is not None
    return moment


def waits(inbox: Inbox, uid: str, seconds: float, began: datetime) -> bool:
    """Whether the study is due so long after an object that was indexed between ``began`` and now."""
    return began <= due(inbox, uid) - timedelta(seconds=seconds) <= steady_now()


@pytest.mark.parametrize(("calling", "seconds"), [("MODALITY", 30), ("QUICK", 1)])
def test_an_ultrasound_waits_for_its_quiet_time_or_that_of_the_peer(
    inbox: Inbox, calling: str, seconds: float
) -> None:
    image, began = ultrasound("quiet"), steady_now()
    inbox.receive(image, calling=calling)
    inbox.index()
    assert waits(inbox, image.StudyInstanceUID, seconds, began)
    moment, second = due(inbox, image.StudyInstanceUID), timedelta(seconds=1)
    assert inbox.assembler.run_once(moment - second) == 0
    assert state(inbox, image.StudyInstanceUID) is StudyState.RECEIVING
    assert inbox.assembler.run_once(moment + second) == 1
    assert state(inbox, image.StudyInstanceUID) is StudyState.QUEUED
    assert [job.state for job in inbox.jobs()] == [JobState.QUEUED]


def test_an_x_ray_waits_less(inbox: Inbox) -> None:
    image, began = chest("quiet", np.zeros((32, 32), np.uint16)), steady_now()
    inbox.receive(image)
    inbox.index()
    assert waits(inbox, image.StudyInstanceUID, 5, began)


def test_each_further_image_begins_the_quiet_time_anew(inbox: Inbox) -> None:
    first, second = (ultrasound("anew", number=number) for number in (1, 2))
    inbox.receive(first, association="a1")
    inbox.index()
    moment = due(inbox, first.StudyInstanceUID)
    inbox.receive(second, association="a1")
    inbox.index()
    assert due(inbox, first.StudyInstanceUID) > moment


def test_a_sender_with_an_association_for_each_image_gets_twice_the_time(inbox: Inbox) -> None:
    images = [ultrasound("single", number=number) for number in (1, 2, 3)]
    for number, image in enumerate(images):
        began = steady_now()
        inbox.receive(image, association=f"a{number}")
        inbox.index()
    assert waits(inbox, images[0].StudyInstanceUID, 60, began)


def test_an_open_association_holds_the_study_until_it_is_released(inbox: Inbox) -> None:
    image = ultrasound("held")
    inbox.opened("a1")
    inbox.receive(image, association="a1")
    inbox.index()
    assert inbox.assemble(600) == 0
    inbox.released("a1")
    inbox.index()
    assert inbox.assemble(600) == 1


def test_an_open_association_holds_only_the_studies_that_it_brought(inbox: Inbox) -> None:
    inbox.opened("a1")
    one, other = ultrasound("one"), ultrasound("other")
    inbox.receive(one, association="a1")
    inbox.receive(other, association="a2")
    inbox.index()
    inbox.assemble(600)
    assert state(inbox, one.StudyInstanceUID) is StudyState.RECEIVING
    assert state(inbox, other.StudyInstanceUID) is StudyState.QUEUED


def test_associations_of_a_listener_that_died_hold_nothing(inbox: Inbox) -> None:
    image = ultrasound("lost")
    inbox.opened("a1")
    inbox.receive(image, association="a1")
    inbox.index()
    inbox.listener_restarted()
    inbox.index()
    assert inbox.assemble(600) == 1


def test_a_node_that_was_down_closes_what_its_dead_listener_left_open(inbox: Inbox) -> None:
    image = ultrasound("lost")
    inbox.opened("a1")
    inbox.receive(image, association="a1")
    inbox.listener_restarted()
    inbox.reopen()
    inbox.index()
    assert inbox.assemble(600) == 1


def test_an_association_whose_end_was_never_told_holds_a_study_for_an_hour(inbox: Inbox) -> None:
    image = ultrasound("untold")
    inbox.opened("a1")
    inbox.receive(image, association="a1")
    inbox.index()
    assert inbox.assemble(3000) == 0
    assert inbox.assemble(3700) == 1


def test_a_listener_that_does_not_come_back_holds_its_studies_no_longer(inbox: Inbox) -> None:
    with (inbox.folder / "scp.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        inbox.opened("a1")
        inbox.receive(ultrasound("gone"), association="a1")
        inbox.index()
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
    inbox.receive(capture)
    inbox.settle()
    study = inbox.study(capture.StudyInstanceUID)
    assert study.state is StudyState.NOT_APPLICABLE
    assert "secondary_captures_from does not name its sender" in study.reason
    inbox.receive(ultrasound("companion"))
    inbox.settle()
    study = inbox.study(capture.StudyInstanceUID)
    assert (study.state, study.revision) == (StudyState.QUEUED, 2)


def test_a_study_that_no_rule_takes_is_not_applicable(inbox: Inbox) -> None:
    image = chest("no rule", np.zeros((32, 32), np.uint16))
    inbox.receive(image)
    inbox.settle()
    study = inbox.study(image.StudyInstanceUID)
    closest = "no rule applies; closest is ultrasound: modality DX does not match US"
    assert (study.state, study.reason) == (StudyState.NOT_APPLICABLE, closest)
    [told] = [event for event in inbox.events() if event.number == NO_RULE.number]
    assert told.fields["reason"] == closest


def test_a_late_image_in_quarantine_stays_there_and_is_kept(inbox: Inbox) -> None:
    one, other, third = (ultrasound("stays", number=number) for number in (1, 2, 3))
    inbox.receive(one, changed(other, PatientID="SOMEBODY-ELSE"))
    inbox.settle()
    inbox.receive(third)
    inbox.settle()
    assert state(inbox, one.StudyInstanceUID) is StudyState.QUARANTINED
    assert inbox.instance(third.SOPInstanceUID).path


def test_stat_studies_are_assembled_first(inbox: Inbox) -> None:
    routine, urgent = ultrasound("routine"), ultrasound("urgent")
    inbox.receive(routine)
    inbox.receive(urgent, priority=1)
    inbox.settle()
    with inbox.database.read() as session:
        queued = [session.get_one(Study, job.study_id).study_instance_uid for job in inbox.jobs()]
    assert queued == [urgent.StudyInstanceUID, routine.StudyInstanceUID]


def test_times_in_the_database_are_those_of_the_acknowledgement(inbox: Inbox) -> None:
    image = ultrasound("times")
    before = datetime.now().astimezone()
    inbox.receive(image)
    inbox.index()
    study = inbox.study(image.StudyInstanceUID)
    assert before <= study.first_received_at <= before + timedelta(seconds=5)


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
    inbox.receive(first)
    inbox.index()
    for module in ("spool", "journal"):
        monkeypatch.setattr(f"dicom_node.inbox.{module}.datetime", Moved)
    monkeypatch.setattr("dicom_node.store.transitions.utc_now", lambda: Moved.now(UTC))
    inbox.opened("a1")
    inbox.receive(second, association="a1")
    inbox.index()
    assert inbox.assemble(600) == 0  # the association is open
    inbox.released("a1")
    inbox.index()
    assert inbox.assemble(0) == 0
    assert inbox.assemble(70) == 1
    study = inbox.study(first.StudyInstanceUID)
    assert (study.state, study.revision) == (StudyState.QUEUED, 1)


def test_a_study_of_a_node_whose_clock_was_ahead_does_not_wait_for_that_time(inbox: Inbox) -> None:
    image = ultrasound("ahead")
    inbox.receive(image)
    inbox.index()
    with inbox.database.write() as session:
        session.get_one(Study, 1).due_at = datetime.now(UTC) + DAY
    assert inbox.assemble(0) == 0
    assert inbox.assemble(65) == 1


def test_a_listener_that_starts_after_the_clock_was_put_back_is_the_newest(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Yesterday(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) - DAY

    inbox.opened("a1")
    inbox.index()
    monkeypatch.setattr("dicom_node.inbox.journal.datetime", Yesterday)
    inbox.listener_restarted()
    inbox.tell(ASSOCIATION_ACCEPTED, "a2", listener="listener2")
    inbox.index()
    with inbox.database.read() as session:
        assert session.get_one(Association, "a1").outcome == "lost"
        assert session.get_one(Association, "a2").outcome == "open"
    inbox.released("a2")
    inbox.index()
    assert inbox.events()[-1].number == 1002


def test_two_patients_that_stood_in_a_study_unseen_stop_it_and_keep_no_other_waiting(inbox: Inbox) -> None:
    one, other = (ultrasound("mixed", number=number) for number in (1, 2))
    good = ultrasound("good")
    inbox.receive(one, other, good)
    inbox.index()
    with inbox.database.write() as session:
        row = session.scalars(select(Instance).filter_by(sop_instance_uid=other.SOPInstanceUID)).one()
        row.patient = "another" + row.patient  # as if indexing had not looked
    assert inbox.assemble(seconds=1000) == 2
    assert state(inbox, one.StudyInstanceUID) is StudyState.QUARANTINED
    assert state(inbox, good.StudyInstanceUID) is not StudyState.RECEIVING
