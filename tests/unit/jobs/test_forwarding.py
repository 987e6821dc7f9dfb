"""Received images that rules forward: which versions, to whom, and what waits for their arrival."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select, update

from dicom_node import events, outbox
from dicom_node.dicom.uids import derived_uid
from dicom_node.errors import NotAllowedNow
from dicom_node.model.lifecycle import DeliveryState, JobState, StudyState
from dicom_node.outbox import last_check
from dicom_node.store import deliveries, views
from dicom_node.store.tables import Delivery, Job, Original, Study
from dicom_node.store.transitions import settle_study, utc_now
from dicom_node.studies.purge import purge
from dicom_node.studies.quarantine import release_study
from dicom_node.studies.rerun import rerun
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import ultrasound
from tests.outbox_lab import outgoing
from tests.unit.inbox.objects import changed, report

S = DeliveryState
ARCHIVE = {"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": 4243, "may": ["receive"]}
BOTH = {"name": "both", "ae_title": "BOTH", "host": "127.0.0.1", "port": 4244, "may": ["send", "receive"]}


def inbox_that_forwards(folder: Path, *forward: str, **of_rule: Any) -> Inbox:
    rule = CONFIG["rules"][0] | {"forward": forward or ["archive"], **of_rule}
    return Inbox(folder, {**CONFIG, "peers": [*CONFIG["peers"], ARCHIVE, BOTH], "rules": [rule]})


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    inbox = inbox_that_forwards(tmp_path)
    yield inbox
    inbox.close()


def rows(inbox: Inbox) -> list[tuple[str, str, str]]:
    """UID, destination and state of each delivery of an original."""
    with inbox.database.read() as session:
        return [
            (row.item.sop_instance_uid, row.destination, row.state.value)
            for row in session.scalars(select(Delivery).order_by(Delivery.id))
            if row.original
        ]


def all_become(inbox: Inbox, state: DeliveryState) -> None:
    """As the outbox does it, the study with them."""
    with inbox.database.write() as session:
        values = {"state": state, "confirmed_at": utc_now() if state is S.CONFIRMED else None}
        session.execute(update(Delivery).values(values))
        for study in session.scalars(select(Study.id)).all():
            settle_study(session, study)


def number(inbox: Inbox, kind: events.EventType) -> int:
    return [event.number for event in inbox.events()].count(kind.number)


def two() -> tuple[Dataset, Dataset]:
    return ultrasound("twins", number=1), ultrasound("twins", number=2)


def test_each_image_that_the_rule_takes_is_forwarded_once(inbox: Inbox) -> None:
    first, second = two()
    inbox.receive(first, second)
    inbox.index()
    assert rows(inbox) == [], "not before the study is complete"
    inbox.settle()
    wanted = [(first.SOPInstanceUID, "archive", "pending"), (second.SOPInstanceUID, "archive", "pending")]
    assert rows(inbox) == wanted
    assert number(inbox, events.ORIGINALS_FORWARDED) == 1
    with inbox.database.write() as session:
        rerun(session, 1, inbox.settings)
    assert rows(inbox) == wanted, "a rerun neither withdraws nor repeats it"


def test_a_late_image_is_forwarded_and_the_others_are_not_sent_again(inbox: Inbox) -> None:
    first, second = two()
    inbox.receive(first)
    inbox.settle()
    all_become(inbox, S.CONFIRMED)
    inbox.receive(second)
    inbox.settle()
    assert [row[2] for row in rows(inbox)] == ["confirmed", "pending"]


def test_a_corrected_version_is_forwarded_too_and_an_unsent_one_before_it_is_not(inbox: Inbox) -> None:
    image = ultrasound("corrected")
    inbox.receive(image)
    inbox.settle()
    inbox.receive(changed(image, PatientName="Correct^Name"))
    inbox.index()
    assert [row[2] for row in rows(inbox)] == ["cancelled"]
    inbox.settle()
    assert [row[2] for row in rows(inbox)] == ["cancelled", "pending"]
    with inbox.database.read() as session:
        newest = session.scalars(select(Original).order_by(Original.id.desc())).first()
        assert newest and newest.path == inbox.instance(image.SOPInstanceUID).path


def test_a_duplicate_is_not_forwarded_again_nor_a_purged_image_that_comes_again(inbox: Inbox) -> None:
    image = ultrasound("again")
    inbox.receive(image)
    inbox.settle()
    inbox.receive(image, changed(image, SeriesDescription="another"))
    inbox.settle()
    all_become(inbox, S.CONFIRMED)
    with inbox.database.write() as session:
        session.execute(update(Job).values(state=JobState.SUCCEEDED, finished_at=utc_now()))
        settle_study(session, 1)
    assert purge(inbox.database, inbox.settings, utc_now() + timedelta(days=15)) == 2
    inbox.receive(image)
    inbox.index()
    with inbox.database.write() as session:
        rerun(session, 1, inbox.settings)
    assert [row[2] for row in rows(inbox)] == ["confirmed"]
    with inbox.database.read() as session:
        assert not session.scalars(select(Original)).one().purged, "its file is the new one"


@pytest.mark.parametrize("calling", ["BOTH", "both"])
def test_nothing_goes_back_to_who_sent_it(tmp_path: Path, calling: str) -> None:
    inbox = inbox_that_forwards(tmp_path, "both", "archive")
    inbox.receive(ultrasound("mine"), calling=calling)
    inbox.settle()
    assert [row[1] for row in rows(inbox)] == ["archive"]
    inbox.close()


def test_nothing_of_a_study_in_quarantine_is_forwarded_until_it_is_released(inbox: Inbox) -> None:
    first, second = two()
    inbox.receive(first)
    inbox.settle()
    inbox.receive(changed(second, PatientID="SOMEBODY-ELSE"))
    inbox.settle()
    assert [row[2] for row in rows(inbox)] == ["cancelled"]
    with inbox.database.read() as session:
        delivery = session.scalars(select(Delivery.id)).one()
    with pytest.raises(NotAllowedNow, match="quarantine"), inbox.database.write() as session:
        outbox.retry(session, delivery)
    with inbox.database.write() as session:
        release_study(session, 1)
    inbox.settle()
    assert rows(inbox) == [(first.SOPInstanceUID, "archive", "pending")], "the other is another patient's"


def test_a_job_that_a_limit_holds_holds_no_image_back(tmp_path: Path) -> None:
    inbox = inbox_that_forwards(tmp_path, max_study_age_days=1)
    inbox.receive(ultrasound("old"))
    inbox.settle()
    assert [row[2] for row in rows(inbox)] == ["pending"]
    assert inbox.study(ultrasound("old").StudyInstanceUID).state is StudyState.DELIVERING
    all_become(inbox, S.CONFIRMED)
    assert inbox.study(ultrasound("old").StudyInstanceUID).state is StudyState.NOT_APPLICABLE
    inbox.close()


@pytest.mark.parametrize(
    ("state", "goes"),
    [(S.PENDING, 0), (S.UNCONFIRMED, 0), (S.DEAD, 0), (S.CONFIRMED, 1), (S.DISCARDED, 1)],
)
def test_files_stay_until_the_images_are_confirmed(inbox: Inbox, state: DeliveryState, goes: int) -> None:
    inbox.receive(ultrasound("stays"))
    inbox.settle()
    with inbox.database.write() as session:
        session.execute(update(Job).values(state=JobState.SUCCEEDED, finished_at=utc_now()))
        session.execute(
            update(Study).values(state=StudyState.DELIVERED)
        )  # as if nothing else were waited for
    with inbox.database.write() as session:
        confirmed = utc_now() if state is S.CONFIRMED else None
        session.execute(update(Delivery).values(state=state, confirmed_at=confirmed))
    assert purge(inbox.database, inbox.settings, utc_now() + timedelta(days=15)) == goes


def test_the_study_says_failed_while_an_image_is_a_dead_letter(inbox: Inbox) -> None:
    inbox.receive(ultrasound("dead"))
    inbox.settle()
    with inbox.database.write() as session:
        session.execute(update(Job).values(state=JobState.SUCCEEDED, finished_at=utc_now()))
    all_become(inbox, S.DEAD)
    assert inbox.study(ultrasound("dead").StudyInstanceUID).state is StudyState.FAILED
    with inbox.database.write() as session:
        assert outbox.retry_all(session) == [1]
    assert inbox.study(ultrasound("dead").StudyInstanceUID).state is StudyState.DELIVERING
    all_become(inbox, S.DEAD)
    with inbox.database.write() as session:
        assert outbox.discard_all(session, "nobody wants it", "archive") == [1]


def test_the_outbox_lists_it_and_no_result_is_made_of_it(inbox: Inbox) -> None:
    inbox.receive(ultrasound("listed"))
    inbox.settle()
    with inbox.database.read() as session:
        (row,) = views.list_deliveries(session)
        assert (row["kind"], row["destination"]) == ("original", "archive")
        assert views.list_studies(session)[0]["results"] == []
        assert deliveries.due_destinations(session, utc_now()) == ["archive"]


def test_a_deleted_file_cannot_be_sent_again(inbox: Inbox) -> None:
    inbox.receive(ultrasound("gone"))
    inbox.settle()
    with inbox.database.write() as session:
        session.execute(update(Job).values(state=JobState.SUCCEEDED, finished_at=utc_now()))
    all_become(inbox, S.DISCARDED)
    assert purge(inbox.database, inbox.settings, utc_now() + timedelta(days=15)) == 1
    with pytest.raises(NotAllowedNow, match="keep_days"), inbox.database.write() as session:
        outbox.retry(session, 1)


def test_what_the_device_sent_beside_its_images_is_forwarded_with_them(inbox: Inbox) -> None:
    image = ultrasound("beside")
    own, other = report_of(image, 1), report_of(image, 2)
    inbox.receive(image, own)
    inbox.receive(other, calling="QUICK")
    inbox.settle()
    assert {row[0] for row in rows(inbox)} == {image.SOPInstanceUID, own.SOPInstanceUID}


def test_a_late_report_of_the_device_is_forwarded_and_starts_no_job(inbox: Inbox) -> None:
    image = ultrasound("beside")
    inbox.receive(image)
    inbox.settle()
    with inbox.database.write() as session:
        session.execute(update(Job).values(state=JobState.SUCCEEDED, finished_at=utc_now()))
    all_become(inbox, S.CONFIRMED)
    late, other = report_of(image, 1), report_of(image, 2)
    inbox.receive(late)
    inbox.receive(other, calling="QUICK")
    inbox.index()
    assert [row[2] for row in rows(inbox)] == ["confirmed", "pending"]
    assert rows(inbox)[1][0] == late.SOPInstanceUID
    assert (len(inbox.jobs()), inbox.study(image.StudyInstanceUID).state) == (1, StudyState.DELIVERING)


def test_a_study_that_no_rule_forwards_leaves_its_reports_here(inbox: Inbox) -> None:
    image = ultrasound("beside")
    image.Modality = "OT"
    inbox.receive(image, report_of(image, 1))
    inbox.settle()
    inbox.receive(report_of(image, 2))
    inbox.index()
    assert rows(inbox) == []


def test_the_last_check_keeps_it_from_a_destination_that_is_de_identified_by_now(inbox: Inbox) -> None:
    image = ultrasound("named")
    inbox.receive(image)
    inbox.settle()
    item = outgoing(image, inbox.folder)
    size = item.path.stat().st_size
    peer = inbox.settings.peer("archive")
    assert last_check.fault_of_original(item, peer, size) == ""
    blind = peer.model_copy(update={"deidentify": True})
    assert "names the patient" in last_check.fault_of_original(item, blind, size)
    assert "missing or damaged" in last_check.fault_of_original(item, peer, size + 1)


def report_of(image: Dataset, number: int) -> Dataset:
    """A report of the device in the study of the image."""
    return changed(report(image), SOPInstanceUID=derived_uid("test", "report", str(number)))
