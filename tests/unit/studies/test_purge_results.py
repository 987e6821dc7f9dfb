"""Files of results go when the PACS has had them for long; what is not confirmed stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.config.settings import Settings
from dicom_node.errors import NotAllowedNow
from dicom_node.model.lifecycle import DeliveryState, JobState, StudyState
from dicom_node.outbox import by_hand
from dicom_node.store.tables import Delivery, Job, Result
from dicom_node.store.transitions import utc_now
from dicom_node.studies.purge import purge, purge_results
from tests.inbox_lab import Inbox
from tests.rows import a_result
from tests.unit.studies.test_purge import DAYS, ended

LATER = 401 * DAYS


def with_file(inbox: Inbox, name: str, state: StudyState, delivery: DeliveryState) -> tuple[int, Path]:
    """As ``ended``, and the file of its result."""
    number = ended(inbox, name, state, delivery)
    with inbox.database.write() as session:
        result = session.get_one(Delivery, number).result
        result.path = f"results/ab/{name}.dcm"
        file = inbox.folder / result.path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"result")
    return number, file


def keeping(inbox: Inbox, days: float = 400) -> Settings:
    spool = inbox.settings.spool.model_copy(update={"result_days": days})
    return inbox.settings.model_copy(update={"spool": spool})


def rows(inbox: Inbox) -> list[bool]:
    with inbox.database.read() as session:
        return list(session.scalars(select(Result.purged).order_by(Result.id)))


def test_the_file_of_a_confirmed_result_goes_after_its_days_and_after_the_images(inbox: Inbox) -> None:
    _, file = with_file(inbox, "done", StudyState.DELIVERED, DeliveryState.CONFIRMED)
    assert purge_results(inbox.database, keeping(inbox), utc_now() + LATER) == 0  # its images are here
    purge(inbox.database, inbox.settings, utc_now() + LATER)
    assert purge_results(inbox.database, keeping(inbox), utc_now() + 399 * DAYS) == 0
    assert file.is_file()
    assert purge_results(inbox.database, keeping(inbox), utc_now() + LATER) == 1
    assert (file.exists(), rows(inbox)) == (False, [True])
    assert inbox.events()[-1].number == 2022
    assert purge_results(inbox.database, keeping(inbox), utc_now() + LATER) == 0


def test_files_of_results_stay_for_good_where_no_days_are_given(inbox: Inbox) -> None:
    _, file = with_file(inbox, "done", StudyState.DELIVERED, DeliveryState.CONFIRMED)
    purge(inbox.database, inbox.settings, utc_now() + LATER)
    assert purge_results(inbox.database, inbox.settings, utc_now() + 100 * LATER) == 0
    assert (file.is_file(), rows(inbox)) == (True, [False])


@pytest.mark.parametrize(
    ("state", "delivery"),
    [
        (StudyState.FAILED, DeliveryState.DEAD),
        (StudyState.DELIVERING, DeliveryState.UNCONFIRMED),
        (StudyState.QUARANTINED, DeliveryState.CONFIRMED),
    ],
)
def test_what_is_not_confirmed_or_stands_in_quarantine_stays(
    inbox: Inbox, state: StudyState, delivery: DeliveryState
) -> None:
    _, file = with_file(inbox, "stays", state, delivery)
    with inbox.database.write() as session:
        for row in (job := session.scalars(select(Job)).one()).study.instances:
            row.purged = True
        job.state = JobState.SUCCEEDED
    purge(inbox.database, inbox.settings, utc_now() + LATER)
    assert purge_results(inbox.database, keeping(inbox), utc_now() + LATER) == 0
    assert (file.is_file(), rows(inbox)) == (True, [False])


def test_a_younger_result_of_the_study_keeps_the_older_ones(inbox: Inbox) -> None:
    number, file = with_file(inbox, "two", StudyState.DELIVERED, DeliveryState.CONFIRMED)
    purge(inbox.database, inbox.settings, utc_now() + LATER)
    with inbox.database.write() as session:
        old = session.get_one(Delivery, number).result
        session.add(
            a_result(
                session.get_one(Job, old.job_id), sop_instance_uid="1.2.77", created_at=utc_now() + 100 * DAYS
            )
        )
    assert purge_results(inbox.database, keeping(inbox), utc_now() + LATER) == 0
    assert file.is_file()


def test_what_has_no_file_any_more_is_sent_nowhere_again(inbox: Inbox) -> None:
    number, _ = with_file(inbox, "gone", StudyState.CANCELLED, DeliveryState.CANCELLED)
    purge(inbox.database, inbox.settings, utc_now() + LATER)
    assert purge_results(inbox.database, keeping(inbox), utc_now() + LATER) == 1
    with inbox.database.write() as session, pytest.raises(NotAllowedNow, match="result_days"):
        by_hand.retry(session, number)
