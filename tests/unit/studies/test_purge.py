"""The spool keeps what is not confirmed, and lets go of what is."""

from __future__ import annotations

from datetime import timedelta

from dicom_node.model.lifecycle import DeliveryState, JobState, StudyState
from dicom_node.store import deliveries
from dicom_node.store.tables import Delivery, Job, Study
from dicom_node.store.transitions import utc_now
from dicom_node.studies.purge import purge
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.rows import a_result
from tests.unit.inbox.objects import changed

DAYS = timedelta(days=1)


def files(inbox: Inbox) -> int:
    return len(list((inbox.folder / "spool").rglob("*.dcm")))


def ended(inbox: Inbox, name: str, state: StudyState, delivery: DeliveryState) -> int:
    """A study with one result on which everything happened now; returns the id of its delivery."""
    image = ultrasound(name)
    inbox.receive(image, image, changed(image, SeriesDescription="another"))
    inbox.settle()
    with inbox.database.write() as session:
        job = inbox.jobs()[-1]
        row = session.get_one(Job, job.id)
        row.state, row.finished_at = JobState.SUCCEEDED, utc_now()
        study = session.get_one(Study, job.study_id)
        study.state = state
        result = a_result(row, created_at=utc_now())
        session.add(result)
        session.flush()
        sent = deliveries.add(session, result, "pacs")
        sent.state = delivery
        sent.confirmed_at = utc_now() if delivery is DeliveryState.CONFIRMED else None
        return sent.id


def test_a_confirmed_study_is_purged_after_its_days_and_not_before(inbox: Inbox) -> None:
    ended(inbox, "done", StudyState.DELIVERED, DeliveryState.CONFIRMED)
    assert purge(inbox.database, inbox.settings, utc_now() + 13 * DAYS) == 0
    assert files(inbox) == 2
    assert purge(inbox.database, inbox.settings, utc_now() + 15 * DAYS) == 2
    assert files(inbox) == 0
    assert purge(inbox.database, inbox.settings, utc_now() + 15 * DAYS) == 0
    assert inbox.events()[-1].number == 2021


def test_what_is_not_confirmed_stays_for_ever(inbox: Inbox) -> None:
    ended(inbox, "dead", StudyState.FAILED, DeliveryState.DEAD)
    ended(inbox, "way", StudyState.DELIVERING, DeliveryState.UNCONFIRMED)
    assert purge(inbox.database, inbox.settings, utc_now() + 1000 * DAYS) == 0


def test_a_quarantined_study_stays_for_ever(inbox: Inbox) -> None:
    one, other = (ultrasound("mixed", number=number) for number in (1, 2))
    inbox.receive(one, changed(other, PatientID="SOMEBODY-ELSE"))
    inbox.settle()
    assert purge(inbox.database, inbox.settings, utc_now() + 1000 * DAYS) == 0
    assert files(inbox) == 2


def test_a_purged_object_that_comes_again_is_a_duplicate_whose_file_is_used(inbox: Inbox) -> None:
    ended(inbox, "again", StudyState.DELIVERED, DeliveryState.CONFIRMED)
    purge(inbox.database, inbox.settings, utc_now() + 15 * DAYS)
    image = ultrasound("again")
    inbox.receive(image)
    inbox.index()
    assert inbox.outcomes()[-1] == "duplicate"
    assert inbox.file_of(image.SOPInstanceUID).PixelData == image.PixelData


def test_a_delivery_confirmed_late_keeps_the_files_from_then(inbox: Inbox) -> None:
    delivery = ended(inbox, "late", StudyState.DELIVERED, DeliveryState.CONFIRMED)
    with inbox.database.write() as session:
        session.get_one(Delivery, delivery).confirmed_at = utc_now() + 10 * DAYS
    assert purge(inbox.database, inbox.settings, utc_now() + 15 * DAYS) == 0
    assert purge(inbox.database, inbox.settings, utc_now() + 25 * DAYS) == 2
