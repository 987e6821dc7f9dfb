"""Files go after their days, never before their results are confirmed."""

import errno
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotAllowedNow
from dicom_node.base.lifecycle import (
    DeliveryState,
    JobState,
    StudyState,
)
from dicom_node.base.store import intake
from dicom_node.base.store.tables import (
    Delivery,
    Instance,
    Job,
    Result,
    Study,
)
from dicom_node.base.store.transitions import utc_now
from dicom_node.deliver import outbox
from dicom_node.people import spool
from dicom_node.studies.purging import purge, purge_results
from dicom_node.studies.reconciliation import reconcile
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.postgres_lab import POSTGRESQL
from tests.unit.dicom_console.illustrated import illustrated
from tests.unit.jobs.worker_lab import confirm, work
from tests.unit.receive.objects import (
    changed,
)
from tests.unit.studies.studies_lab import DAY

# Files leave once nobody needs them, and whoever deletes waits for whoever reads


def ended_study(inbox: Inbox, name: str, state: StudyState, delivery: DeliveryState) -> int:
    """A study with one result on which everything happened now; returns the id of its delivery."""
    image = ultrasound(name)
    inbox.settle(image, image, changed(image, InstanceCreationTime="120000"))
    job = inbox.jobs()[-1]
    inbox.put(Job, job.id, state=JobState.SUCCEEDED, finished_at=utc_now())
    inbox.put(Study, job.study_id, state=state)
    inbox.delivery(job, delivery, created_at=utc_now())
    sent = inbox.rows(Delivery)[-1].id
    if delivery is DeliveryState.CONFIRMED:
        inbox.put(Delivery, sent, confirmed_at=utc_now())
    return sent


def purged_images(inbox: Inbox, days: int) -> int:
    """How many go so many days from now."""
    return purge(inbox.database, inbox.settings, utc_now() + days * DAY)


def test_a_confirmed_study_is_purged_after_its_days_and_no_other_ever(inbox: Inbox) -> None:
    ended_study(inbox, "dead", StudyState.FAILED, DeliveryState.DEAD)
    ended_study(inbox, "way", StudyState.DELIVERING, DeliveryState.UNCONFIRMED)
    ended_study(inbox, "done", StudyState.DELIVERED, DeliveryState.CONFIRMED)
    assert purged_images(inbox, 13) == 0
    assert inbox.spool_files() == 6
    assert purged_images(inbox, 15) == 2
    assert inbox.spool_files() == 4
    assert purged_images(inbox, 1000) == 0
    assert inbox.events()[-1].number == 2021


def test_a_purged_object_that_comes_again_is_a_duplicate_whose_file_is_used(inbox: Inbox) -> None:
    ended_study(inbox, "again", StudyState.DELIVERED, DeliveryState.CONFIRMED)
    purged_images(inbox, 15)
    image = ultrasound("again")
    inbox.index(image)
    assert inbox.outcomes()[-1] == "duplicate"
    assert inbox.file_of(image).PixelData == image.PixelData


def test_a_file_that_the_disk_does_not_delete_keeps_no_other(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        ended_study(inbox, name, StudyState.DELIVERED, DeliveryState.CONFIRMED)
    kept, unlink = inbox.folder / inbox.rows(Instance)[0].path, Path.unlink

    def failing(path: Path, **given: Any) -> None:
        if path == kept:
            raise OSError(errno.EIO, "Input/output error")
        unlink(path, **given)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", failing)
        purged_images(inbox, 15)
    assert [*(inbox.folder / "spool").rglob("*.dcm")] == [kept]
    reconcile(*inbox.stores)
    assert not kept.exists()


STUDY = 1


@pytest.fixture
def delivered(open_inbox: Callable[..., Inbox], postgres_url: str) -> Inbox:
    """Its only study was delivered."""
    delivered = open_inbox(illustrated(), url=postgres_url)
    delivered.settle(ultrasound("one"))
    work(delivered)
    confirm(delivered)
    return delivered


def purged(delivered: Inbox) -> list[bool]:
    """Of each image; and none that is not has lost its file."""
    rows = delivered.rows(Instance)
    assert all(row.purged or (delivered.folder / row.path).is_file() for row in rows)
    return [row.purged for row in rows]


@POSTGRESQL
@pytest.mark.parametrize(
    ("look", "image", "left"),
    [
        (1, ultrasound("one", number=2), [False, False]),
        (2, ultrasound("one", number=2), [True, False]),
        (2, ultrasound("one"), [False]),
    ],
    ids=[
        "its study is no longer to be purged",
        "it waits until the others are marked",
        "once more, byte for byte: its file may not count as stored",
    ],
)
def test_an_image_that_comes_while_its_study_is_purged_is_kept(
    delivered: Inbox, monkeypatch: pytest.MonkeyPatch, look: int, image: Dataset, left: list[bool]
) -> None:
    delivered.receive(image)
    late, looks, purgeable = threading.Thread(target=delivered.index), count(1), intake.purgeable

    def meanwhile(*of: Any) -> list[int]:
        found = purgeable(*of)
        if next(looks) == look:
            late.start()
            late.join(timeout=30 if look == 1 else 1)
        return found

    monkeypatch.setattr(intake, "purgeable", meanwhile)
    spool.delete_received(delivered.settings, [STUDY])
    late.join()
    assert purged(delivered) == left


@POSTGRESQL
def test_a_result_that_a_person_sends_again_while_its_study_is_purged_keeps_its_file(
    delivered: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.delete_received(delivered.settings, [STUDY])
    [sent, *_] = delivered.rows(Delivery)
    delivered.put(Delivery, sent.id, state=DeliveryState.DISCARDED)
    file = delivered.folder / delivered.get(Result, sent.result_id).path
    settle = outbox.settle_study
    other = threading.Thread(
        target=purge_results, args=(delivered.database, keeping(delivered, 1), utc_now() + 2 * DAY)
    )

    def meanwhile(*of: Any) -> None:
        other.start()
        other.join(timeout=2)
        assert not other.is_alive()
        assert file.is_file()
        settle(*of)

    monkeypatch.setattr(outbox, "settle_study", meanwhile)
    delivered.write(outbox.retry, sent.id)
    other.join()
    assert delivered.get(Delivery, sent.id).state is DeliveryState.PENDING
    assert (delivered.get(Result, sent.result_id).purged, file.is_file()) == (False, True)


def with_file(inbox: Inbox, name: str, state: StudyState, delivery: DeliveryState) -> tuple[int, Path]:
    """As ``ended_study``, and the file of its result."""
    number = ended_study(inbox, name, state, delivery)
    file = inbox.folder / "results" / "ab" / f"{name}.dcm"
    inbox.put(Result, inbox.get(Delivery, number).result_id, path=f"results/ab/{name}.dcm")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"result")
    return number, file


def keeping(inbox: Inbox, days: float = 400) -> Settings:
    settings = inbox.settings
    return settings.model_copy(update={"spool": settings.spool.model_copy(update={"result_days": days})})


def purged_results(inbox: Inbox, days: int = 401) -> int:
    return purge_results(inbox.database, keeping(inbox), utc_now() + days * DAY)


def test_the_file_of_a_confirmed_result_goes_after_its_days_and_after_the_images(inbox: Inbox) -> None:
    _, file = with_file(inbox, "done", StudyState.DELIVERED, DeliveryState.CONFIRMED)
    assert purged_results(inbox) == 0  # its images are here
    purged_images(inbox, 401)
    assert purged_results(inbox, 399) == 0
    assert file.is_file()
    assert purged_results(inbox) == 1
    assert (file.exists(), inbox.column(Result.purged)) == (False, [True])
    assert inbox.events()[-1].number == 2021
    assert purged_results(inbox) == 0


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
    inbox.put(Instance, purged=True)
    inbox.put(Job, state=JobState.SUCCEEDED)
    purged_images(inbox, 401)
    assert purged_results(inbox) == 0
    assert (file.is_file(), inbox.column(Result.purged)) == (True, [False])


def test_what_has_no_file_any_more_is_sent_nowhere_again(inbox: Inbox) -> None:
    number, _ = with_file(inbox, "gone", StudyState.CANCELLED, DeliveryState.CANCELLED)
    purged_images(inbox, 401)
    assert purged_results(inbox) == 1
    with pytest.raises(NotAllowedNow, match="result_days"):
        inbox.write(outbox.retry, number)
