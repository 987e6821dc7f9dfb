"""The machine that delivers has no copy of what another one built: it waits, or says what is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.model.lifecycle import DeliveryState
from dicom_node.object_store.handover import HandOver
from dicom_node.outbox.delivery_worker import DeliveryWorker
from dicom_node.store.tables import Delivery, Result
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.pacs_lab import Pacs, free_port, run_pacs
from tests.s3_lab import S3
from tests.unit.jobs.worker_lab import configuration, register, work
from tests.waiting import wait_until


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    with run_pacs(Pacs(free_port())) as pacs:
        yield pacs


@pytest.fixture
def elsewhere(tmp_path: Path, s3: S3, pacs: Pacs) -> Iterator[Inbox]:
    """A machine that delivers, of a site where another one has worked."""
    register()
    config = configuration() | {"object_store": s3.settings(tmp_path.name)}
    config["outbox"] = {"retry_seconds": 0.05, "retry_limit_seconds": 0.2}
    config["peers"][1] |= {"port": pacs.port, "results": ["sr"]}
    url = f"sqlite:///{tmp_path / 'site.db'}"
    here, there = (Inbox(tmp_path / name, config, url=url) for name in ("here", "there"))
    here.receive(ultrasound("one", size=(48, 40)))
    here.index()
    HandOver(here.database, here.settings, s3.bucket(tmp_path.name), lambda *_: None).run_once()
    here.settle()
    assert work(here) == 1
    here.close()
    yield there
    there.close()


def the_delivery(node: Inbox) -> tuple[DeliveryState, str, int]:
    with node.database.read() as session:
        row = session.scalars(select(Delivery)).one()
        return row.state, row.reason, row.refusals


def test_a_delivery_waits_for_the_bucket(elsewhere: Inbox, s3: S3, pacs: Pacs) -> None:
    outbox = DeliveryWorker(elsewhere.database, elsewhere.settings)
    s3.stop()
    try:
        wait_until(lambda: outbox.run_once() > 0, 60, "it is tried")
        assert the_delivery(elsewhere) == (DeliveryState.PENDING, "the object store does not answer", 0)
        assert not pacs.stored
    finally:
        s3.go_on()
    time.sleep(1.1)  # the bucket is not asked again at once

    def confirmed() -> bool:
        outbox.run_once()
        return the_delivery(elsewhere)[0] is DeliveryState.CONFIRMED

    wait_until(confirmed, 60, "it is confirmed")
    assert len(pacs.stored) == 1


def test_a_result_that_the_bucket_lost_is_a_dead_letter(
    elsewhere: Inbox, s3: S3, pacs: Pacs, tmp_path: Path
) -> None:
    with elsewhere.database.read() as session:
        s3.bucket(tmp_path.name).delete(*session.scalars(select(Result.path)))
    outbox = DeliveryWorker(elsewhere.database, elsewhere.settings)
    wait_until(lambda: outbox.run_once() > 0, 60, "it is tried")
    state, reason, _ = the_delivery(elsewhere)
    assert state is DeliveryState.DEAD
    assert "missing or damaged" in reason
    assert not pacs.stored
