"""Peers that hang, trickle or never end an answer while results are sent."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from pydicom.dataset import Dataset
from pynetdicom import evt

from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import Unavailable
from dicom_node.base.events import (
    DESTINATION_HUNG,
)
from dicom_node.base.lifecycle import ResultKind
from dicom_node.deliver.scu import (
    RetrieveStatus,
    SendStatus,
    open_archive,
    open_destination,
)
from tests.hostile.peers_lab import peer_at
from tests.hostile.valve import Valve, valve_before
from tests.hostile.web import answering
from tests.modality import (
    data_set,
)
from tests.outbox_lab import Outbox, outgoing
from tests.pacs_lab import (
    QUERY,
    FakeArchive,
    Pacs,
    Sink,
    answer_for,
    film,
    peer,
    run_pacs,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.usefixtures("impatient")

ONE = (ResultKind.SC,)
LARGE = 3000  # pixels squared: 9 MB, more than the socket buffers of both sides hold
A_MEGABYTE = 2**20
QUICK = {"answer_seconds": 0.5}


@pytest.fixture
def valve(pacs: Pacs) -> Iterator[Valve]:
    with valve_before(pacs.port) as valve:
        yield valve


def outbox_to(folder: Path, pacs: Pacs, valve: Valve, *others: PeerSettings, **settings: Any) -> Outbox:
    return Outbox(folder, [pacs.peer(port=valve.port), *others], **{**QUICK, **settings})


@contextmanager
def running_worker(outbox: Outbox, **options: Any) -> Iterator[threading.Thread]:
    stop = threading.Event()
    worker = threading.Thread(target=outbox.worker(**options).run_forever, args=(stop,), daemon=True)
    worker.start()
    try:
        yield worker
    finally:
        stop.set()
        worker.join(60)
        assert not worker.is_alive()


def wait_for_event(outbox: Outbox, number: int, seconds: float = 120) -> None:
    wait_until(lambda: outbox.numbers()[number] > 0, seconds, f"event {number}", 0.02, outbox.rows)


@pytest.mark.parametrize("rate", [0, 1024], ids=["reads nothing more", "reads 1 kB a second"])
def test_a_pacs_that_hangs_in_an_object_is_cut_off_and_gets_it_when_it_is_back(
    tmp_path: Path, pacs: Pacs, valve: Valve, rate: int
) -> None:
    valve.to_peer, valve.rate = A_MEGABYTE, rate
    outbox = outbox_to(tmp_path, pacs, valve)
    (uid,) = outbox.add_study(["pacs"], ONE, LARGE)
    with running_worker(outbox):
        wait_for_event(outbox, DESTINATION_HUNG.number)
        assert "cut off" in outbox.rows()[0]["reason"]
        valve.open()
        outbox.wait_until("confirmed")
    assert set(pacs.stored) == {uid}


def test_other_peers_get_theirs_meanwhile(tmp_path: Path, pacs: Pacs, valve: Valve) -> None:
    valve.to_peer = A_MEGABYTE
    outbox = outbox_to(tmp_path, pacs, valve, pacs.peer("other"), answer_seconds=600)
    outbox.add_study(["pacs"], ONE, LARGE)
    with running_worker(outbox):
        wait_until(lambda: valve.connections > 0, 120, "a connection")
        outbox.add_study(["other"])
        wait_until(lambda: outbox.states()["confirmed"] == 3, 120, "what the other gets")
        assert outbox.states()["sending"] == 1


# pynetdicom leaves a socket that its peer has closed to the garbage collector
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("passes", [0, 10, 100, 300])
def test_a_peer_whose_answer_stops_in_the_middle_is_cut_off(
    tmp_path: Path, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After nothing, half an A-ASSOCIATE-AC or an association; an archive and a destination alike."""
    monkeypatch.setattr("dicom_node.deliver.scu.association._NEGOTIATE_SECONDS", 0.3)
    monkeypatch.setattr("dicom_node.deliver.scu.association._ASSOCIATE_SECONDS", 0.6)
    image = film("hung")
    with (
        run_pacs(FakeArchive(answers=[answer_for(image)], gives=[image])) as pacs,
        valve_before(pacs.port) as valve,
    ):
        valve.from_peer = min(passes, 200)  # more would be the answer to C-STORE
        asked = peer(valve.port, retrieve_minutes=0.02, may=["query", "receive"])
        settings = Settings.model_validate({"peers": [asked], "outbox": QUICK})
        [one], began = settings.peers, time.monotonic()
        [report] = open_destination(one, settings).send([outgoing(image, tmp_path)])
        assert report.status in (SendStatus.HUNG, SendStatus.UNREACHABLE)
        valve.from_peer = passes
        with pytest.raises(Unavailable):
            open_archive(one, settings).find(QUERY)
        outcome = open_archive(one, settings).retrieve("1.2.3", Sink())
        assert outcome.status in (RetrieveStatus.RETRY, RetrieveStatus.UNREACHABLE)
        assert time.monotonic() - began < 60


class Chatterbox(Pacs):
    """Ends its answer to a C-FIND after minutes."""

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        for _ in range(60_000):
            if event.assoc.is_aborted:
                return
            time.sleep(0.005)  # pynetdicom queues what the line does not take, without a limit
            yield 0xFF00, data_set(QueryRetrieveLevel="IMAGE", SOPInstanceUID="1.2.3")


def test_an_answer_to_a_query_that_never_ends_is_cut_off(tmp_path: Path) -> None:
    with run_pacs(Chatterbox()) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer()], **QUICK)
        outbox.add_study(["pacs"], ONE)
        with running_worker(outbox):
            wait_for_event(outbox, DESTINATION_HUNG.number)
        assert "query: cut off" in outbox.rows()[0]["reason"]


@pytest.mark.parametrize("transport", ["orthanc", "dicomweb"])
@pytest.mark.parametrize(
    ("way", "passes"),
    [("to_peer", 0), ("from_peer", 0), ("from_peer", 30), ("from_peer", 4000)],
    ids=["request", "status line", "headers", "body"],
)
def test_an_http_server_that_moves_a_byte_now_and_then_is_cut_off(
    tmp_path: Path, transport: str, way: str, passes: int
) -> None:
    with (
        answering(body=b"[" + b"1, " * 5000 + b"1]") as (url, _),
        valve_before(int(url.rpartition(":")[2])) as valve,
    ):
        setattr(valve, way, passes)
        valve.rate = 5  # bytes a second: no answer is whole before its deadline
        outbox = Outbox(tmp_path, [peer_at(transport, f"http://127.0.0.1:{valve.port}")], **QUICK)
        outbox.add_study(["pacs"], ONE, LARGE if way == "to_peer" else 16)
        with running_worker(outbox):
            wait_for_event(outbox, DESTINATION_HUNG.number)
            [row] = outbox.rows()  # before the worker, told to end, cuts off its next try
        assert "cut off" in row["reason"]
        assert "query" not in row["reason"]


def test_the_end_of_the_node_does_not_wait_for_a_hung_pacs(tmp_path: Path, pacs: Pacs, valve: Valve) -> None:
    valve.to_peer = A_MEGABYTE
    outbox = outbox_to(tmp_path, pacs, valve, answer_seconds=600)
    outbox.add_study(["pacs"], ONE, LARGE)
    with running_worker(outbox):
        wait_until(lambda: valve.connections > 0, 120, "a connection")
    assert outbox.states() == {"pending": 1}
    valve.open()
    outbox.run_until("confirmed")


def test_what_a_deaf_end_holds_is_handed_back_and_asked_for(
    tmp_path: Path, pacs: Pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.deliver.delivery_worker._WRITING_SECONDS", 0.1)
    outbox = Outbox(tmp_path, [pacs.peer()], **QUICK)
    outbox.add_study(["pacs"], ONE)
    much_later = threading.Event()

    def stick(_objects: object) -> None:
        much_later.wait()
        raise OSError("much later")

    stuck = Mock(send=stick, confirm=stick)  # a defect of ours: it neither returns nor listens
    with running_worker(outbox, open_destination=lambda *_: stuck, lease_seconds=600):
        outbox.wait_until("sending")
    outbox.run_until("confirmed")  # not 600 s later
    much_later.set()
