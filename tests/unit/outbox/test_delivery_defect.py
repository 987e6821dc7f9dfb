"""A defect in the thread of one destination: told, tried again, and no other destination waits for it."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.events import THREAD_FAILED
from dicom_node.outbox import delivery_worker
from dicom_node.scu import Destination
from dicom_node.store.tables import EventRow
from tests.outbox_lab import Outbox
from tests.waiting import wait_until


def test_a_thread_of_a_destination_that_fails_is_told_and_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery_worker, "_FAILED_SECONDS", 0.01)
    peer = PeerSettings(name="pacs", ae_title="PACS", host="127.0.0.1", port=1, may=("receive",))
    outbox, stop, tries = Outbox(tmp_path, [peer]), threading.Event(), []

    def open_destination(_: PeerSettings, __: Settings) -> Destination:
        tries.append(1)
        raise KeyError("DOE^JANE")

    outbox.add_study(["pacs"])
    outbox.add_study(["pacs"])
    worker = outbox.worker(open_destination=open_destination)
    running = threading.Thread(target=worker.run_forever, args=(stop,))
    with caplog.at_level(logging.ERROR):
        running.start()
        try:
            wait_until(lambda: len(tries) == 2, 60, "the second study, in a round after the defect")
        finally:
            stop.set()
            running.join()
    with outbox.database.read() as session:
        told = [row.fields for row in session.scalars(select(EventRow)) if row.number == THREAD_FAILED.number]
    assert told[0] == {"thread": "to pacs", "reason": "KeyError"}
    assert "defect while delivering" in caplog.messages
