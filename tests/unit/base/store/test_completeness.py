"""What lists say of studies that may be incomplete, of nobody, or with objects that do not count."""

import pytest

from dicom_node.base.actions.action import declared
from dicom_node.base.actions.in_words import objects_in_words
from dicom_node.base.events import (
    ASSOCIATION_ABORTED,
    ASSOCIATION_ACCEPTED,
    ASSOCIATION_LOST,
    STUDY_MAY_BE_INCOMPLETE,
)
from dicom_node.base.lifecycle import StudyState, StudyWarning
from dicom_node.base.store import views
from dicom_node.base.store.tables import Association
from dicom_node.jobs.worker.images import JobImages, missing_notes
from tests.inbox_lab import Inbox
from tests.modality import ultrasound, ultrasounds
from tests.unit.receive.objects import changed


@pytest.fixture
def cut_off(inbox: Inbox) -> Inbox:
    """A sender was cut off after two of three images."""
    inbox.opened("a1")
    inbox.receive(*ultrasounds("cut", 3)[:2], association="a1")
    inbox.tell(ASSOCIATION_ABORTED, "a1", objects=2, reason="connection lost")
    inbox.settle()
    return inbox


def row_of(inbox: Inbox) -> views.View:
    [row] = inbox.read(views.list_studies)
    return row


def test_a_study_of_an_association_that_broke_off_says_that_it_may_be_incomplete(cut_off: Inbox) -> None:
    row = row_of(cut_off)
    assert row["state"] == "queued", "it is not held up"
    assert row["warnings"] == ["the association broke off: the study may be incomplete"]
    shown = cut_off.read(views.show_study, cut_off.settings, row["study"])
    assert shown["warnings"] == row["warnings"]
    assert [event.fields["reason"] for event in cut_off.events(STUDY_MAY_BE_INCOMPLETE.number)] == [
        row["warnings"][0]
    ]


def test_a_report_on_a_study_that_broke_off_says_so() -> None:
    [note] = missing_notes(JobImages(broken_off=True), [])
    assert note.text.startswith("The association broke off: images of this study may be missing")


@pytest.mark.parametrize(
    ("sender", "ends", "marked"),
    [("MODALITY", True, False), ("MODALITY", False, True), ("QUICK", True, True)],
    ids=["the sender sends it again", "it breaks off again", "another sender sends an image"],
)
def test_a_study_that_broke_off_is_whole_once_its_sender_has_sent_it_and_released(
    cut_off: Inbox, sender: str, ends: bool, marked: bool
) -> None:
    cut_off.tell(ASSOCIATION_ACCEPTED, "a2", calling=sender)
    cut_off.receive(*ultrasounds("cut", 3), association="a2", calling=sender)
    if ends:
        cut_off.released("a2")
    else:
        cut_off.tell(ASSOCIATION_ABORTED, "a2", objects=3, reason="connection lost")
    cut_off.settle()
    assert bool(row_of(cut_off)["warnings"]) is marked


def test_an_association_that_was_open_before_the_break_makes_no_study_whole(inbox: Inbox) -> None:
    for association in ("a1", "a2"):
        inbox.opened(association)
    first, second = ultrasounds("cut", 2)
    inbox.receive(first, association="a2")
    inbox.receive(second, association="a1")
    inbox.tell(ASSOCIATION_ABORTED, "a1", objects=1, reason="connection lost")
    inbox.released("a2")
    inbox.settle()
    assert row_of(inbox)["warnings"] == [StudyWarning.BROKEN_OFF]


def test_an_association_that_ended_with_its_listener_has_its_objects_and_an_event(inbox: Inbox) -> None:
    inbox.opened("a1")
    inbox.index(ultrasounds("killed", 3)[0], association="a1")
    inbox.receive(*ultrasounds("killed", 3)[1:], association="a1")  # acknowledged, and the node is killed
    inbox.listener_restarted()
    inbox.reopen()
    inbox.index()
    [row] = inbox.read(views.list_associations)
    [event] = inbox.events(ASSOCIATION_LOST.number)
    assert (row["outcome"], row["objects"]) == ("lost", 3)
    assert row["reason"].startswith("its listener ended without a stop, between ")
    assert (event.fields["association"], event.fields["objects"]) == ("a1", 3)
    inbox.settle()
    assert row_of(inbox)["warnings"] == [StudyWarning.BROKEN_OFF]
    assert len(inbox.rows(Association)) == 1


def test_objects_that_are_faulty_are_counted_beside_those_that_count(inbox: Inbox) -> None:
    good, faulty, worse = ultrasounds("aside", 3)
    inbox.settle(good, changed(faulty, Rows=0), changed(worse, Rows=0))
    row = row_of(inbox)
    assert (row["instances"], row["set_aside"], objects_in_words(row)) == (1, 2, "1 of 3")
    inbox.settle(faulty)
    assert objects_in_words(row_of(inbox)) == "2 of 3"


def test_a_copy_that_is_set_aside_is_no_further_object(inbox: Inbox) -> None:
    image = ultrasound("copy")
    inbox.settle(image, changed(image, Rows=0))
    assert objects_in_words(row_of(inbox)) == "1"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"PatientID": "", "PatientName": ""}, ["no Patient ID"]),
        ({"PatientID": ""}, ["no Patient ID"]),
        ({}, []),
    ],
    ids=["of nobody", "a name alone", "of a patient"],
)
def test_images_without_patient_id_are_marked(inbox: Inbox, header: dict[str, str], said: list[str]) -> None:
    inbox.settle(changed(ultrasound("nobody"), **header))
    assert row_of(inbox)["warnings"] == said


def test_a_study_in_quarantine_says_its_reason_and_what_may_be_missing(inbox: Inbox) -> None:
    image = ultrasound("both")
    inbox.opened("a1")
    inbox.receive(image, changed(image, PixelData=bytes(len(image.PixelData))), association="a1")
    inbox.tell(ASSOCIATION_ABORTED, "a1", objects=2, reason="connection lost")
    inbox.settle()
    assert inbox.study_of(image).state is StudyState.QUARANTINED
    reason = next(column for column in declared(views.list_studies).columns if column.title == "reason")
    assert str(reason.value(row_of(inbox))).endswith(
        "; the association broke off: the study may be incomplete"
    )
