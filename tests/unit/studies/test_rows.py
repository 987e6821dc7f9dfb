"""What an object does to its study: own results, captures and late images."""

from collections.abc import Callable

import pytest
from pydicom.dataset import Dataset

from dicom_node.base.events import (
    by_number,
)
from dicom_node.base.lifecycle import (
    JobState,
    ObjectRole,
    StudyState,
)
from dicom_node.base.store.tables import EventRow, Instance, Job
from tests.inbox_lab import Inbox
from tests.modality import ultrasound, ultrasounds
from tests.rows import a_result
from tests.unit.receive.objects import (
    changed,
    key_object,
    own_result,
    report,
    secondary_capture,
)


def test_own_results_reports_and_captures_start_no_job_and_reopen_nothing(inbox: Inbox) -> None:
    image = ultrasound("one")
    inbox.settle(image)
    before = inbox.study_of(image)
    inbox.settle(own_result(image), report(image), key_object(image), secondary_capture(image))
    after = inbox.study_of(image)
    assert inbox.outcomes() == ["new"] * 5
    assert (after.state, after.revision) == (before.state, 1)
    assert len(inbox.jobs()) == 1
    roles = [inbox.instance(ds).role for ds in (own_result(image), report(image))]
    assert roles == [ObjectRole.OWN, ObjectRole.NON_SOURCE]
    assert 2007 in set(inbox.column(EventRow.number))


def test_a_result_of_this_node_is_told_from_what_only_bears_its_mark(inbox: Inbox) -> None:
    """Anybody can copy the Device UID; an image that is not analysed for it must not pass in silence."""
    image = ultrasound("one")
    inbox.settle(image)
    (job,) = inbox.jobs()
    known, copied = own_result(image), own_result(image)
    copied.SOPInstanceUID = f"{known.SOPInstanceUID}.7"
    inbox.add(a_result(job, sop_instance_uid=known.SOPInstanceUID))
    inbox.settle(known, copied)
    told = {row.fields["instance"]: row.number for row in inbox.events() if row.number in (2006, 2007)}
    assert told == {known.SOPInstanceUID: 2006, copied.SOPInstanceUID: 2007}
    assert len(inbox.jobs()) == 1


@pytest.mark.parametrize("make", [own_result, lambda image: changed(image, Rows=None)], ids=["own", "faulty"])
def test_the_patient_of_a_study_is_that_of_the_first_object_that_is_good_and_not_ours(
    inbox: Inbox, make: Callable[[Dataset], Dataset]
) -> None:
    image = changed(ultrasound("one"), AccessionNumber="A1")
    victim = changed(make(image), PatientID="VICTIM", PatientName="Vic^Tim", AccessionNumber="A2")
    inbox.index(changed(victim, SOPInstanceUID=f"{image.SOPInstanceUID}.9"), image)
    study = inbox.study(image.StudyInstanceUID)
    assert (study.patient_id, study.accession_number) == (image.PatientID, "A1")
    names = inbox.read(inbox.indexer._rows.names.of, [study.id])
    assert "Vic" not in str(names)


@pytest.mark.parametrize("is_purged", [False, True])
def test_what_bears_our_mark_and_the_uid_of_an_image_does_not_take_its_place(
    inbox: Inbox, is_purged: bool
) -> None:
    image = ultrasound("one")
    inbox.settle(image)
    inbox.put(Instance, purged=is_purged)
    marked = changed(own_result(image), SOPInstanceUID=image.SOPInstanceUID, PatientID="VICTIM")
    inbox.index(marked, calling="QUICK")
    assert inbox.outcomes()[-1] == "conflict"
    assert inbox.instance(image).purged == is_purged


def test_secondary_captures_of_a_named_peer_start_the_rule_that_names_it(inbox: Inbox) -> None:
    inbox.settle(secondary_capture(ultrasound("one")), calling="GRABBER")
    assert inbox.column(Job.rule) == ["grabbed"]


def test_a_late_image_makes_one_new_revision(inbox: Inbox) -> None:
    images = ultrasounds("late", 3)
    inbox.settle(images[0])
    inbox.settle(*images[1:])
    study = inbox.study_of(images[0])
    assert (study.state, study.revision) == (StudyState.QUEUED, 2)
    newest = inbox.jobs()[-1]
    assert newest.study_revision == 2
    assert newest.source_uids == [image.SOPInstanceUID for image in images]
    assert inbox.column(Job.state) == [JobState.CANCELLED, JobState.QUEUED]


def test_no_event_holds_what_identifies_a_patient(inbox: Inbox) -> None:
    image = ultrasound("secretname")
    renamed = changed(image, PatientName="Other^Secretname")
    inbox.settle(image, renamed, report(renamed))
    rows = inbox.events()
    assert {by_number(row.number).number for row in rows} >= {2001, 2003, 2010, 2011, 3001}
    assert not [row.fields for row in rows if "secretname" in str(row.fields).lower()]


def test_an_own_result_that_a_pacs_changed_on_its_way_back_is_no_conflict(inbox: Inbox) -> None:
    image = ultrasound("one")
    result = own_result(image)
    inbox.settle(image, result)
    inbox.settle(changed(result, PixelData=bytes(len(result.PixelData)), PatientID="COERCED"))
    study = inbox.study_of(image)
    assert (study.state, study.revision, study.patient_id) == (StudyState.QUEUED, 1, image.PatientID)
