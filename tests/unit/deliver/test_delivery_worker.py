"""The delivery worker: a thread a destination, a lease a peer."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest

from dicom_node.base import events
from dicom_node.base.store.tables import EventRow, Lease
from dicom_node.deliver import delivery_worker
from dicom_node.deliver.scu import Confirmation, Presence, SendReport, SendStatus
from tests.outbox_lab import PEER, Outbox
from tests.waiting import wait_until


@contextmanager
def delivering(worker: delivery_worker.DeliveryWorker, *let_go: threading.Event) -> Iterator[None]:
    """While a worker runs; at the end everything is let go."""
    stop = threading.Event()
    running = threading.Thread(target=worker.run_forever, args=(stop,))
    running.start()
    try:
        yield
    finally:
        for event in (stop, *let_go):
            event.set()
        running.join()


def test_a_thread_of_a_destination_that_fails_is_told_and_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dicom_node.base.runner.FAILED_SECONDS", 0.01)
    outbox, failing = Outbox(tmp_path, [PEER]), Mock(side_effect=KeyError("DOE^JANE"))
    for _ in range(2):
        outbox.add_study(["pacs"])
    with caplog.at_level(logging.ERROR), delivering(outbox.worker(open_destination=failing)):
        wait_until(lambda: failing.call_count >= 2, 60, "the second study, in a round after the defect")
    told = [row.fields for row in outbox.rows(EventRow) if row.number == events.THREAD_FAILED.number]
    assert told[0] == {"thread": "to pacs", "reason": "defect of the node: KeyError"}
    assert "defect in the thread to pacs" in caplog.messages


def blocked() -> Mock:
    """A destination that answers only when it is let go."""
    let_go, retry = threading.Event(), SendReport(SendStatus.RETRY, "", "away")
    return Mock(let_go=let_go, send=lambda objects: [retry] * len(objects) if let_go.wait(60) else [])


def test_a_thread_that_was_abandoned_leaves_the_destination_to_the_new_one(tmp_path: Path) -> None:
    outbox, first, second = Outbox(tmp_path, [PEER]), blocked(), blocked()
    opened = Mock(side_effect=[first, second])
    for _ in range(3):
        outbox.add_study(["pacs"])
    worker = outbox.worker(open_destination=opened)
    with delivering(worker, first.let_go, second.let_go):
        wait_until(lambda: outbox.states()["sending"] == 3, 60, "the first study at the first destination")
        abandoned = worker._threads["pacs"]
        worker._routes["pacs"].overdue_at = 0.0
        wait_until(lambda: opened.call_count == 2, 60, "the second study at the second one")
        assert outbox.numbers()[events.DELIVERY_OVERDUE.number] == 1
        first.let_go.set()
        abandoned.join(10)
        assert not abandoned.is_alive(), "two send to one PACS at once"
        assert opened.call_count == 2, "two send to one PACS at once"
        assert outbox.numbers()[events.DELIVERY_RETRIED.number] == 0, "what it says now is not recorded"


def test_one_worker_at_a_time_sends_to_a_peer_until_it_renews_its_lease_no_more(outbox: Outbox) -> None:
    sent, there = blocked(), Mock(confirm=lambda objects: [Confirmation(Presence.FOUND)] * len(objects))
    first = outbox.worker(open_destination=lambda *_: sent, lease_seconds=2)
    sending = threading.Thread(target=first.run_once)
    sending.start()
    wait_until(lambda: outbox.states()["sending"] == 1, 60, "it is being sent")
    second = outbox.worker(open_destination=lambda *_: there)
    assert second.run_once() == 0
    [lease], first._routes["pacs"]._renew_at = outbox.rows(Lease), 0.0
    first._routes["pacs"].renew()
    assert outbox.rows(Lease)[0].until > lease.until
    wait_until(lambda: second.run_once() == 1, 60, "the first one did not renew its lease")
    sent.let_go.set()
    sending.join()
    assert outbox.states() == {"confirmed": 1}
