"""PACS that hang with their connection open: what is sent is cut off, told, and delivered later."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import evt

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.errors import NotAllowedNow
from dicom_node.events import DESTINATION_HUNG
from dicom_node.model.kinds import ResultKind
from dicom_node.model.lifecycle import DeliveryState
from dicom_node.outbox import retry
from dicom_node.scu import Outgoing, Presence, SendStatus, open_destination
from dicom_node.store.tables import Delivery
from dicom_node.store.transitions import utc_now
from tests.hostile.valve import Valve, valve_before
from tests.node_lab import Node, running
from tests.outbox_lab import Outbox
from tests.pacs_lab import Pacs, free_port, run_pacs

ONE = (ResultKind.SC,)
LARGE = 3000  # pixels squared: 9 MB, more than the socket buffers of both sides hold
A_MEGABYTE = 2**20
QUICK = {"answer_seconds": 0.5, "minimum_kib_per_second": 16384, "stop_seconds": 0.3}


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    with run_pacs(Pacs(free_port())) as pacs:
        yield pacs


@pytest.fixture
def valve(pacs: Pacs) -> Iterator[Valve]:
    with valve_before(pacs.port) as valve:
        yield valve


def outbox_to(folder: Path, pacs: Pacs, valve: Valve, *others: PeerSettings, **settings: Any) -> Outbox:
    peer = pacs.peer(port=valve.port)
    return Outbox(folder, [peer, *others], **{**QUICK, **settings})


@contextmanager
def running_worker(outbox: Outbox, **options: Any) -> Iterator[threading.Thread]:
    stop = threading.Event()
    worker = threading.Thread(target=outbox.worker(**options).run_forever, args=(stop,), daemon=True)
    worker.start()
    try:
        yield worker
    finally:
        stop.set()
        worker.join(20)
        assert not worker.is_alive()


def wait_for_event(outbox: Outbox, number: int, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not outbox.numbers()[number]:
        assert time.monotonic() < end, (outbox.states(), outbox.rows())
        time.sleep(0.02)


def outgoing(outbox: Outbox, uid: str) -> Outgoing:
    path = outbox.file_of(uid)
    return Outgoing("1.2.840.10008.5.1.4.1.1.7", uid, "1.2.3", "1.2.3.4", path, "")


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
        end = time.monotonic() + 120
        while not valve.connections and time.monotonic() < end:
            time.sleep(0.01)
        outbox.add_study(["other"])
        while outbox.states()["confirmed"] < 3:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert outbox.states()["sending"] == 1


@pytest.mark.parametrize("passes", [0, 10, 200], ids=["nothing", "half an A-ASSOCIATE-AC", "no C-STORE-RSP"])
def test_a_peer_whose_answer_stops_in_the_middle_is_cut_off(
    tmp_path: Path, pacs: Pacs, valve: Valve, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.scu.association._NEGOTIATE_SECONDS", 0.3)
    monkeypatch.setattr("dicom_node.scu.association._ASSOCIATE_SECONDS", 0.6)
    valve.from_peer = passes
    outbox = outbox_to(tmp_path, pacs, valve)
    (uid,) = outbox.add_study(["pacs"], ONE)
    destination = open_destination(outbox.settings.peers[0], outbox.settings)
    began = time.monotonic()
    (report,) = destination.send([outgoing(outbox, uid)])
    assert report.status in (SendStatus.HUNG, SendStatus.UNREACHABLE)
    assert time.monotonic() - began < 60


def test_two_objects_in_a_row_are_tried_and_no_more(tmp_path: Path, pacs: Pacs, valve: Valve) -> None:
    valve.to_peer = A_MEGABYTE
    outbox = outbox_to(tmp_path, pacs, valve, answer_seconds=0.2)
    (uid,) = outbox.add_study(["pacs"], ONE, LARGE)
    destination = open_destination(outbox.settings.peers[0], outbox.settings)
    reports = destination.send([outgoing(outbox, uid)] * 5)
    assert [report.status for report in reports] == [SendStatus.HUNG] * 2 + [SendStatus.UNREACHABLE] * 3


class Chatterbox(Pacs):
    """Ends its answer to a C-FIND after minutes."""

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        for _ in range(60_000):
            if event.assoc.is_aborted:
                return
            time.sleep(0.005)  # pynetdicom queues what the line does not take, without a limit
            found = Dataset()
            found.QueryRetrieveLevel, found.SOPInstanceUID = "IMAGE", "1.2.3"
            yield 0xFF00, found


def test_an_answer_to_a_query_that_never_ends_is_cut_off(tmp_path: Path) -> None:
    with run_pacs(Chatterbox(free_port())) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer()], **QUICK)
        outbox.add_study(["pacs"], ONE)
        with running_worker(outbox):
            wait_for_event(outbox, DESTINATION_HUNG.number)
        assert "query: cut off" in outbox.rows()[0]["reason"]


class Flood(Pacs):
    """Matches of a C-FIND of a megabyte each: four times what an association may bring, and then silence."""

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        for _ in range(64):
            found = Dataset()
            found.QueryRetrieveLevel, found.TextValue = "IMAGE", "x" * A_MEGABYTE
            yield 0xFF00, found


def test_a_query_takes_no_more_memory_than_its_limit(tmp_path: Path) -> None:
    with run_pacs(Flood(free_port())) as pacs:
        settings = Settings(peers=(pacs.peer(),))
        began = time.monotonic()
        item = Outgoing("1.2.840.10008.5.1.4.1.1.7", "1.2.3", "1.2.3", "1.2.3", tmp_path, "")
        (answer,) = open_destination(pacs.peer(), settings).confirm([item])
    assert answer.presence is Presence.HUNG
    assert time.monotonic() - began < 60  # long before answer_seconds


@pytest.mark.parametrize("transport", ["orthanc", "dicomweb"])
@pytest.mark.parametrize(
    ("way", "passes"),
    [("to_peer", 0), ("from_peer", 0), ("from_peer", 30), ("from_peer", 4000)],
    ids=["request", "status line", "headers", "body"],
)
def test_an_http_server_that_moves_a_byte_now_and_then_is_cut_off(
    tmp_path: Path, transport: str, way: str, passes: int
) -> None:
    with http_server() as port, valve_before(port) as valve:
        setattr(valve, way, passes)
        valve.rate = 5  # bytes a second: no answer is whole before its deadline
        peer = PeerSettings(
            name="pacs",
            ae_title="PACS",
            may=("receive",),
            transport=transport,  # type: ignore[arg-type]
            url=f"http://127.0.0.1:{valve.port}",
        )
        outbox = Outbox(tmp_path, [peer], **QUICK)
        outbox.add_study(["pacs"], ONE, LARGE if way == "to_peer" else 16)
        with running_worker(outbox):
            wait_for_event(outbox, DESTINATION_HUNG.number)
            [row] = outbox.rows()  # before the worker, told to end, cuts off its next try
        assert "cut off" in row["reason"] and "query" not in row["reason"]


def test_the_end_of_the_node_does_not_wait_for_a_hung_pacs(tmp_path: Path, pacs: Pacs, valve: Valve) -> None:
    valve.to_peer = A_MEGABYTE
    outbox = outbox_to(tmp_path, pacs, valve, answer_seconds=600)
    outbox.add_study(["pacs"], ONE, LARGE)
    stop = threading.Event()
    worker = threading.Thread(target=outbox.worker().run_forever, args=(stop,), daemon=True)
    worker.start()
    end = time.monotonic() + 120
    while not valve.connections and time.monotonic() < end:
        time.sleep(0.01)
    stop.set()
    worker.join(60)
    assert not worker.is_alive()
    assert outbox.states() == {"pending": 1}
    valve.open()
    outbox.run_until("confirmed")


def test_sigterm_ends_a_node_whose_pacs_hangs(tmp_path: Path, pacs: Pacs, valve: Valve) -> None:
    valve.to_peer = A_MEGABYTE
    outbox = outbox_to(tmp_path / "var", pacs, valve)
    outbox.add_study(["pacs"], ONE, LARGE)
    node = Node(tmp_path, delivering_to(pacs, valve.port), role="worker")
    with running(node):
        outbox.wait_until("sending")
        assert node.stop(30) == 0
    assert outbox.states() == {"pending": 1}


def delivering_to(pacs: Pacs, port: int) -> str:
    """A configuration of a node that only delivers."""
    return (
        "[workers]\nprocesses = 0\n"
        "[outbox]\nanswer_seconds = 600\nstop_seconds = 0.5\n"
        f'[[peers]]\nname = "pacs"\nae_title = "{pacs.ae_title}"\nmay = ["receive"]\n'
        f'host = "127.0.0.1"\nport = {port}\n'
    )


class StuckDestination:
    """A defect of ours: it neither returns nor listens."""

    def __init__(self) -> None:
        self.stuck = threading.Event()

    def send(self, objects: object) -> list[Any]:
        self.stuck.wait()
        raise OSError("much later")

    confirm = send

    def test(self) -> list[Any]:
        return []

    def close(self) -> None:
        """Deaf."""


def test_what_a_deaf_end_holds_is_handed_back_and_asked_for(
    tmp_path: Path, pacs: Pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.outbox.delivery_worker._WRITING_SECONDS", 0.1)
    outbox = Outbox(tmp_path, [pacs.peer()], **QUICK)
    outbox.add_study(["pacs"], ONE)
    stuck = StuckDestination()
    with running_worker(outbox, open_destination=lambda *_: stuck, lease_seconds=600):
        outbox.wait_until("sending")
    outbox.run_until("confirmed")  # not 600 s later
    stuck.stuck.set()


def test_the_lease_of_a_deaf_end_ends_and_another_round_delivers(
    tmp_path: Path, pacs: Pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.outbox.route._CALLS_SECONDS", -0.9)
    outbox = Outbox(tmp_path, [pacs.peer()], **QUICK)
    outbox.add_study(["pacs"], ONE, 16)
    stuck = StuckDestination()
    ends = iter([stuck])
    open_one = lambda peer, settings: next(ends, None) or open_destination(peer, settings)
    with running_worker(outbox, open_destination=open_one, lease_seconds=0.3):
        outbox.wait_until("confirmed")
        assert outbox.numbers()[5021] == 1
        stuck.stuck.set()


def test_a_person_can_retry_what_a_lost_sender_left_and_not_what_is_being_sent(
    tmp_path: Path, pacs: Pacs
) -> None:
    outbox = Outbox(tmp_path, [pacs.peer()], **QUICK)
    outbox.add_study(["pacs"], ONE)
    with outbox.database.write() as session:
        delivery = session.get_one(Delivery, 1)
        delivery.state, delivery.lease_owner = DeliveryState.SENDING, "somebody"
        delivery.lease_until = utc_now() + timedelta(hours=1)
    with outbox.database.write() as session, pytest.raises(NotAllowedNow, match="is being sent"):
        retry(session, 1)
    with outbox.database.write() as session:
        session.get_one(Delivery, 1).lease_until = utc_now() - timedelta(seconds=1)
    with outbox.database.write() as session:
        retry(session, 1)
    assert outbox.rows()[0]["state"] == "pending"
    outbox.run_until("confirmed")


@contextmanager
def http_server() -> Iterator[int]:
    """Takes whatever is posted and answers with a long JSON document, as fast as the line lets it."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            left = int(self.headers["Content-Length"])
            while left and (piece := self.rfile.read(min(left, 65536))):
                left -= len(piece)
            body = b"[" + b"1, " * 5000 + b"1]"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except OSError:  # cut off, as it should be
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
