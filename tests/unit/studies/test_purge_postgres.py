"""On PostgreSQL an image may come while its study is purged: it is not purged with it."""

from __future__ import annotations

import threading
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select

from dicom_node.model.lifecycle import DeliveryState
from dicom_node.outbox import by_hand
from dicom_node.services import studies
from dicom_node.store import intake
from dicom_node.store.tables import Delivery, Instance
from dicom_node.store.transitions import utc_now
from dicom_node.studies.purge import purge_results
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.console.illustrated import illustrated
from tests.unit.jobs.worker_lab import confirm, work

STUDY = 1


def delivered(node: Inbox) -> None:
    node.receive(ultrasound("one"))
    node.settle()
    work(node)
    confirm(node)


def purged(node: Inbox) -> list[bool]:
    """Of each image; and none that is not has lost its file."""
    with node.database.read() as session:
        rows = session.execute(select(Instance.purged, Instance.path).order_by(Instance.id)).all()
    assert all(row.purged or (node.folder / row.path).is_file() for row in rows)
    return [row.purged for row in rows]


@pytest.mark.debian("postgresql")
@pytest.mark.parametrize(
    ("look", "image", "left"),
    [
        (
            1,
            ultrasound("one", number=2),
            [False, False],
        ),  # its study is no longer to be purged
        (2, ultrasound("one", number=2), [True, False]),  # it waits until the others are marked
        (2, ultrasound("one"), [False]),  # once more, byte for byte: its file may not count as stored
    ],
    ids=["chosen", "locked", "again"],
)
def test_an_image_that_comes_while_its_study_is_purged_is_kept(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch,
    look: int, image: Dataset, left: list[bool],
) -> None:  # fmt: skip
    node = Inbox(tmp_path / "var", illustrated(), postgres_url)
    delivered(node)
    node.receive(image)
    late, looks, purgeable = threading.Thread(target=node.index), count(1), intake.purgeable

    def meanwhile(*of: Any) -> list[int]:
        found = purgeable(*of)
        if next(looks) == look:
            late.start()
            late.join(timeout=30 if look == 1 else 1)
        return found

    monkeypatch.setattr(intake, "purgeable", meanwhile)
    studies.delete_received(node.settings, [STUDY])
    late.join()
    assert purged(node) == left
    node.close()


@pytest.mark.debian("postgresql")
def test_a_result_that_a_person_sends_again_while_its_study_is_purged_keeps_its_file(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Inbox(tmp_path / "var", illustrated(), postgres_url)
    delivered(node)
    studies.delete_received(node.settings, [STUDY])
    with node.database.write() as session:
        sent = session.scalars(select(Delivery).order_by(Delivery.id)).first()
        assert sent is not None
        sent.state = DeliveryState.DISCARDED
        number, file = sent.id, node.folder / sent.result.path
    spool = node.settings.spool.model_copy(update={"result_days": 1})
    settings, settle = node.settings.model_copy(update={"spool": spool}), by_hand.settle_study
    late = utc_now() + timedelta(days=2)
    other = threading.Thread(target=lambda: purge_results(node.database, settings, late))

    def meanwhile(*of: Any) -> None:
        other.start()
        other.join(timeout=2)
        assert not other.is_alive() and file.is_file()
        settle(*of)

    monkeypatch.setattr(by_hand, "settle_study", meanwhile)
    with node.database.write() as session:
        by_hand.retry(session, number)
    other.join()
    with node.database.read() as session:
        again = session.get_one(Delivery, number)
        assert (again.state, again.result.purged, file.is_file()) == (DeliveryState.PENDING, False, True)
    node.close()
