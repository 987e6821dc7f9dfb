"""kill -9 of delivery workers in the middle of their work: every result is in the PACS, once."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.events import DELIVERY_IN_DOUBT
from dicom_node.outbox.delivery_worker import DeliveryWorker
from dicom_node.store.database import Database
from tests.inbox_lab import Inbox
from tests.outbox_lab import Outbox
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.wire.orthanc_lab import start_orthanc

LEASE_SECONDS = 1.0


def deliver_forever(settings: Settings) -> None:
    """A process with nothing but a worker."""
    DeliveryWorker(Database(settings.database_url), settings, lease_seconds=LEASE_SECONDS).run_forever(
        threading.Event()
    )


@contextmanager
def worker_process(outbox: Outbox | Inbox) -> Iterator[multiprocessing.process.BaseProcess]:
    process = multiprocessing.get_context("spawn").Process(target=deliver_forever, args=(outbox.settings,))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


@pytest.mark.debian("orthanc")
def test_killed_delivery_workers_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    with start_orthanc(tmp_path / "orthanc") as orthanc:
        peer = PeerSettings(
            name="pacs", ae_title="ORTHANC", host="127.0.0.1", port=orthanc.dicom_port, may=("receive",)
        )
        outbox = Outbox(tmp_path, [peer])
        sent = [uid for _ in range(80) for uid in outbox.add_study(["pacs"])]
        dice = random.Random(6)
        for kills in range(10):
            if kills >= 4 and outbox.numbers()[DELIVERY_IN_DOUBT.number]:
                break  # one has hit a delivery between sending and noting it
            with worker_process(outbox):
                before = outbox.states()["confirmed"]
                end = time.monotonic() + 20
                while outbox.states()["confirmed"] == before and time.monotonic() < end:
                    time.sleep(0.02)
                time.sleep(dice.uniform(0, 0.2))
        assert outbox.states()["confirmed"] < len(sent), "the kills came too late to prove anything"
        with worker_process(outbox):
            outbox.wait_until("confirmed", seconds=60)
        assert outbox.numbers()[DELIVERY_IN_DOUBT.number] > 0
        assert orthanc.instances() == sorted(sent)
        assert set(outbox.study_states()) == {"delivered"}


def test_an_object_that_was_stored_when_the_worker_died_is_found_and_not_sent_again(tmp_path: Path) -> None:
    stored = threading.Event()

    def store_but_answer_late(uid: str, times: int) -> int:
        stored.set()
        time.sleep(1.0)
        return 0

    with run_pacs(Pacs(free_port(), answer=store_but_answer_late)) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer()])
        sent = outbox.add_study(["pacs"])[:1]
        with worker_process(outbox):
            assert stored.wait(60)
            assert outbox.states() == {"sending": 3}
        time.sleep(1.5)
        pacs.answer = lambda uid, times: 0
        outbox.run_until("confirmed", worker=outbox.worker(lease_seconds=LEASE_SECONDS))
        assert pacs.received.count(sent[0]) == 1
        assert set(pacs.received) == set(pacs.stored)
