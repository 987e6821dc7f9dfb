"""What nobody should send to the listener: endless, tiny, malformed, under others' names, too much."""

import contextlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom.dsutils import encode

from benchmarks.sender import (
    Rejected,
    Stored,
    associate,
    associate_request,
    p_data,
    store_command,
)
from dicom_node.base.dicom import commitment, performed_step
from dicom_node.base.errors import FaultyStep
from dicom_node.base.events import (
    ASSOCIATION_ABORTED,
    ASSOCIATION_REJECTED,
    ASSOCIATION_RELEASED,
    COMMITMENT_ASK_REFUSED,
    COMMITMENT_ASKED,
    COMMITMENT_REPORT_REFUSED,
    COMMITMENT_REPORTED,
    CONNECTIONS_FAILED,
    STEP_REFUSED,
    STEP_REPORTED,
    STORE_REFUSED,
    EventType,
)
from dicom_node.receive import limits, statuses
from tests.asking_modality import ask, ask_raw, asked_for, associate_to_ask, encoded_request
from tests.commitment_lab import empty_sequences, report, send_raw_report, send_report
from tests.forked import Forked
from tests.hostile.attacker import (
    APPLICATION,
    CONTEXT,
    STORAGE,
    command,
    connect,
    is_cut,
    item,
    nobody_notices,
    request,
    send_study,
    send_until_cut,
)
from tests.hostile.mutation import mutated
from tests.modality import assign, data_set, ultrasound
from tests.mpps_lab import COMPLETED, IN_PROGRESS, begun, change, create, ended, send_raw, series, status
from tests.node_lab import Node, running, site_config, store
from tests.ports import free_port
from tests.wire.receiver import EXPLICIT, US, VERIFICATION, Receiver, receiving, wait_until
from tests.wire.receiver import ultrasound as small_object

ECHO = [(VERIFICATION, [EXPLICIT])]
MIB = 2**20


@pytest.fixture(scope="module")
def receiver(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Receiver]:
    with receiving(tmp_path_factory.mktemp("listener"), maximum_object_mib=1) as running:
        yield running


def why(receiver: Receiver, count: int) -> str:
    """The reason of the newest association that was not released, of ``count`` and more."""
    return str(receiver.wait_for_event(ASSOCIATION_ABORTED, count)[-1].fields["reason"])


@pytest.mark.parametrize(("field", "name"), [(0x0020, "C-FIND"), (0x0120, "N-SET"), (0x7777, "7777")])
def test_no_data_set_is_gathered_for_a_command_that_is_not_served(
    receiver: Receiver, field: int, name: str
) -> None:
    ended = len(receiver.events(ASSOCIATION_ABORTED))
    with nobody_notices(receiver):
        association = associate(receiver.address, ECHO, calling="STRANGER")
        command(association, field)
        endless = struct.pack(">BBIIBB", 4, 0, 100_006, 100_002, 1, 0) + bytes(100_000)
        assert send_until_cut(association.sock, endless, 2000) < 30 * MIB
        association.sock.close()
        assert name in why(receiver, ended + 1)


@pytest.mark.parametrize(
    "pdu",
    [
        struct.pack(">BBIIBB", 4, 0, 1006, 1002, 1, 1) + bytes(1000),  # command set without end
        struct.pack(">BBIIBB", 4, 0, 6, 2, 1, 1) * 100,  # empty fragments of a command
        struct.pack(">BBI", 4, 0, 600_000) + struct.pack(">IBB", 2, 1, 1) * 100_000,  # all in one PDU
        b"".join(p_data(1, store_command(US, "1.2.3", 1), True, 4096)),  # command after command
        struct.pack(">BBI", 4, 0, 2**31) + bytes(1000),  # PDU of 2 GiB
        b"".join(p_data(5, store_command(US, "1.2.3", 1), True, 4096)),  # context that was not accepted
    ],
    ids=["command", "empty", "tiny PDVs", "commands", "PDU", "context"],
)
def test_what_has_no_end_is_cut_off(receiver: Receiver, pdu: bytes) -> None:
    with nobody_notices(receiver):
        association = associate(receiver.address, STORAGE)
        assert send_until_cut(association.sock, pdu, 1000) < 40 * MIB
        association.sock.close()
    wait_until(lambda: not [name for name in receiver.files() if name.startswith(".")])


@pytest.mark.parametrize(
    "data",
    [
        request(b"", length=2**31),
        request(APPLICATION + CONTEXT * 2),
        request(APPLICATION + item(0x20, bytes((1, 0, 0, 0)) + item(0x40, b"") * 16_000)),
        request(APPLICATION + CONTEXT + item(0x50, item(0x58, b"\1\0\xff\xf0" + bytes(65_000))) * 3),
        request(APPLICATION + CONTEXT + item(0x50, item(0x54, b"") * 16_000)),
        request(APPLICATION + CONTEXT + item(0x50, item(0x58, bytes(65_000))) * 40),
        request(item(0x10, b"") * 60_000),
        request(APPLICATION + item(0x20, bytes((1, 0, 0, 0)))),
    ],
    ids=["2 GiB", "context twice", "syntaxes", "user identities", "roles", "2.6 MB", "items", "no syntax"],
)
def test_an_oversized_association_request_is_not_read(receiver: Receiver, data: bytes) -> None:
    with nobody_notices(receiver):
        connections = [connect(receiver) for _ in range(8)]
        for connection in connections:
            send_until_cut(connection, data)
        assert all(is_cut(connection) for connection in connections)
        assert any(event.fields.get("malformed") for event in receiver.wait_for_event(CONNECTIONS_FAILED))


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        (b"\x1b[31mRED", "\\x1b[31mRED"),
        (b"S\xc9NDER", "S\\xc9NDER"),
        (b"A\nB", "A\\x0aB"),
        (b"A\\B", "A\\x5cB"),
    ],
)
def test_a_title_that_is_none_is_refused_and_shown_with_escapes(
    receiver: Receiver, title: bytes, shown: str
) -> None:
    connection = connect(receiver)
    connection.sendall(request(APPLICATION + CONTEXT + item(0x50, item(0x51, bytes(4))), calling=title))
    assert connection.recv(1) == b"\x03"  # A-ASSOCIATE-RJ
    connection.close()
    assert receiver.events(ASSOCIATION_REJECTED)[-1].fields["calling"] == shown


_LOOKS = 200  # at the listener and its memory, at most


@pytest.mark.timeout(0)
def test_mutated_requests_and_messages_end_only_themselves(tmp_path: Path, rounds: int) -> None:
    chance = random.Random(20261120)
    with receiving(tmp_path, acse_timeout_seconds=2, network_timeout_seconds=2) as receiver:
        whole = associate(receiver.address, STORAGE)
        message = whole.encode_store(1, small_object(3, pixels=300))
        whole.release()
        asked = associate_request(STORAGE, "SENDER", "AINODE", 16384)
        at_once = max(25, rounds // _LOOKS)
        for first in range(0, rounds, at_once):
            with nobody_notices(receiver, 64):
                for number in range(first, min(first + at_once, rounds)):
                    with contextlib.suppress(OSError):
                        if number % 2:
                            connection = connect(receiver)
                            connection.sendall(mutated(asked, chance))
                        else:
                            connection = associate(receiver.address, STORAGE).sock
                            connection.sendall(mutated(message, chance))
                        connection.close()
        wait_until(lambda: not [name for name in receiver.files() if name.startswith(".")])


def drip(connections: list[socket.socket], stop: threading.Event) -> None:
    """An association request, a byte at a time, on all of them."""
    for byte in associate_request(STORAGE, "SENDER", "AINODE", 16384) * 100:
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.sendall(bytes([byte]))
        if stop.wait(0.1):
            return


@pytest.mark.parametrize("talks", [False, True], ids=["silent", "byte by byte"])
def test_connections_without_a_request_lose_their_places(tmp_path: Path, talks: bool) -> None:
    with (
        receiving(tmp_path, acse_timeout_seconds=3) as receiver,
        nobody_notices(receiver, 96) as study_is_sent,
    ):
        began, stop = time.monotonic(), threading.Event()
        connections = [connect(receiver, f"127.0.1.{number % 5 + 1}") for number in range(500)]
        thread = threading.Thread(target=drip, args=(connections, stop))
        if talks:
            thread.start()
        study_is_sent()
        try:
            assert all(is_cut(connection) for connection in connections)
            assert time.monotonic() - began < 60
        finally:
            stop.set()
            if talks:
                thread.join()
        events = receiver.wait_for_event(CONNECTIONS_FAILED, 5)
        assert len(events) < 15  # of 500 connections
        assert {event.fields["address"] for event in events} == {f"127.0.1.{k}" for k in range(1, 6)}


def test_a_peer_that_drips_a_message_is_cut_off(tmp_path: Path) -> None:
    with (
        receiving(tmp_path, network_timeout_seconds=3) as receiver,
        nobody_notices(receiver),
    ):
        association = associate(receiver.address, STORAGE)
        encoded = association.encode_store(1, small_object(1))
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for byte in encoded[:300]:
                association.sock.sendall(bytes([byte]))
                time.sleep(0.2)  # five bytes a second; a message may be as slow as a hundred
        assert time.monotonic() - began < 30
        association.sock.close()
        assert "too slow" in str(receiver.wait_for_event(ASSOCIATION_ABORTED)[-1].fields["reason"])


def test_a_stranger_cannot_take_all_places_by_echo_nor_fill_the_journal(tmp_path: Path) -> None:
    with receiving(tmp_path, maximum_associations=20) as receiver, nobody_notices(receiver) as study_is_sent:
        held = []
        for _ in range(150):
            with contextlib.suppress(Rejected):
                held.append(associate(receiver.address, ECHO, calling="STRANGER"))
        assert len(held) == 3
        study_is_sent()
        assert len(receiver.events(ASSOCIATION_REJECTED)) <= 60
        for association in held:
            association.release()
        wait_until(
            lambda: sum(int(one.fields["rejected"] or 0) for one in receiver.events(CONNECTIONS_FAILED)) > 20,
            60,
            "rejected ones that are counted",
        )


def test_a_peer_that_does_not_read_our_answers_is_left(tmp_path: Path) -> None:
    with (
        receiving(tmp_path, network_timeout_seconds=1) as receiver,
        nobody_notices(receiver),
    ):
        association = associate(receiver.address, ECHO, calling="STRANGER")
        association.sock.settimeout(1)
        with contextlib.suppress(OSError):
            while True:
                association.sock.sendall(bytes(100))
        assert is_cut(association.sock)


_COMMAND, _LAST = 1, 2
COMMAND = store_command(US, "1.2.3", 1)


def crumbs(data: bytes, kind: int) -> bytes:
    """One byte a P-DATA-TF."""
    last = len(data) - 1
    return b"".join(
        struct.pack(">BxIIBBB", 4, 7, 3, 1, kind | (_LAST if at == last else 0), byte)
        for at, byte in enumerate(data)
    )


@pytest.mark.parametrize(
    "message",
    [
        crumbs(COMMAND, _COMMAND),
        b"".join(p_data(1, COMMAND, True, 16384)) + crumbs(bytes(100), 0),
    ],
    ids=["command", "data set"],
)
def test_a_message_in_crumbs_is_cut_off(receiver: Receiver, message: bytes) -> None:
    ended, files = len(receiver.events(ASSOCIATION_ABORTED)), receiver.files()
    association = associate(receiver.address, STORAGE)
    association.sock.sendall(message)
    assert is_cut(association.sock)
    assert why(receiver, ended + 1) == "too many tiny fragments"
    assert receiver.files() == files


FLOODER = """[[peers]]
name = "flooder"
ae_title = "FLOODER"
maximum_associations = 20
"""
FAULTY = b"\x08\x00\x05\x00CS\x02\x00??"  # ten bytes, and no study


def flood(port: int, name: str, objects: int, associations: int = 20) -> Counter[int]:
    """Send so many faulty objects, each when the one before it was answered; how often came which status."""
    lines = [
        associate(("127.0.0.1", port), [(US, [EXPLICIT])], calling="FLOODER") for _ in range(associations)
    ]
    numbers, answers = count(1), Counter[int]()
    for _ in range(objects // associations):
        for line in lines:
            uid = f"2.25.{name}.{next(numbers)}"
            line.sock.sendall(line.encode_store(1, Stored(US, uid, EXPLICIT, FAULTY)))
        answers.update([line.read_status() for line in lines])
    for line in lines:
        line.release()
    return answers


def seconds_to_its_job(node: Node, name: str) -> float:
    """A good peer sends a study of two images; how long until its job waits for a worker."""
    began = time.monotonic()
    images = [ultrasound(name, number=number) for number in (1, 2)]
    assert store(node.port, images, "US1") == [0x0000, 0x0000]
    uid = images[0].StudyInstanceUID
    wait_until(lambda: node.studies().get(uid, {}).get("state") == "queued", 240, "its job")
    return time.monotonic() - began


@pytest.mark.timeout(0)
def test_a_good_study_beside_a_flood_is_ready_within_twice_its_time(tmp_path: Path, rounds: int) -> None:
    with running(Node(tmp_path, site_config(free_port(), processes=0) + FLOODER)) as node:
        usual = sorted(seconds_to_its_job(node, f"before{k}") for k in range(3))[1]
        assert set(flood(node.port, "1", min(max(5 * rounds, 400), 16_000))) == {statuses.SUCCESS.code}
        took = seconds_to_its_job(node, "beside")
        print(f"usual {usual:.1f} s, beside the flood {took:.1f} s")
        assert took <= 2 * usual + 15


def test_who_has_too_much_waiting_is_refused_and_others_are_not(tmp_path: Path) -> None:
    """Nobody indexes here: what comes stays."""
    peers = [{"name": name, "ae_title": name, "maximum_associations": 20} for name in ("FLOODER", "SENDER")]
    with receiving(tmp_path, peers=peers, waiting_objects=100) as receiver:
        answers = flood(receiver.port, "2", 900, lines := 6)
        assert answers.keys() == {statuses.SUCCESS.code, statuses.OUT_OF_RESOURCES.code}
        acknowledged = answers[statuses.SUCCESS.code]
        assert 100 <= acknowledged < 100 + lines
        assert len(receiver.spool.pending()) == acknowledged, "what was acknowledged is there, and no more"
        send_study(receiver)
        ends = receiver.wait_for_event(ASSOCIATION_RELEASED)
        assert sum(int(end.fields.get("objects_refused", 0)) for end in ends) == 900 - acknowledged
        assert len(receiver.events(STORE_REFUSED)) == 100 * lines
        for path in receiver.spool.pending()[:50]:  # indexed
            path.unlink()
        time.sleep(1.1)
        assert flood(receiver.port, "3", lines, lines) == {statuses.SUCCESS.code: lines}


A700 = statuses.OUT_OF_RESOURCES.code


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all space there is, to the last page."""
    path = folder / "fill"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return path


def test_a_full_disk_refuses_objects_and_a_reload_until_there_is_space(
    small_disk: Path, tmp_path: Path
) -> None:
    """A disk that fills while the node runs, and one that is full when it starts, to the last page."""
    node = Node(small_disk / "node", site_config(1, processes=0))
    node.log = tmp_path / "node.log"
    with running(node):
        filled = fill(small_disk)
        assert [store(node.port, [ultrasound("full")], "US1") for _ in range(3)] == [[A700]] * 3
        further = '\n[[peers]]\nname = "us2"\nae_title = "US2"\n'
        node.config.write_text(node.config.read_text(encoding="utf-8") + further, encoding="utf-8")
        os.kill(node.pid, signal.SIGHUP)
        wait_until(lambda: "[6011]" in node.log.read_text(encoding="utf-8"), 120, "refusal")
        filled.unlink()
        wait_until(lambda: store(node.port, [ultrasound("before")], "US1") == [0], 120, "space again")
        os.kill(node.pid, signal.SIGHUP)
        wait_until(lambda: store(node.port, [ultrasound("more")], "US2") == [0], 120, "the new peer")
        node.wait_for(["queued"])
        node.stop()
    filled = fill(small_disk)
    with (tmp_path / "second.log").open("wb") as log:
        command = [sys.executable, "-m", "dicom_node", "serve", "--config", str(node.config)]
        process = Forked(command, stderr=log)
    try:
        wait_until(lambda: store(node.port, [ultrasound("full")], "US1") == [A700], 120, "A700")
        time.sleep(3)
        assert store(node.port, [ultrasound("full")], "US1") == [A700]
        second = (tmp_path / "second.log").read_text()
        assert second.count("[6006]") == 1, "at most once a minute"
        filled.unlink()
        wait_until(lambda: store(node.port, [ultrasound("after")], "US1") == [0], 120, "space again")
        node.wait_for(["queued"], 2)
    finally:
        process.terminate()
        assert process.wait(120) == 0
    first = node.log.read_text(encoding="utf-8")
    assert "is full: make room" in first
    assert "Traceback" not in first + second


AT = {"host": "127.0.0.1", "port": 104}
KEEPS = {"may": ["send", "receive"], "confirm": "commitment"}
ASKS = {"commit_after": "delivered", "mpps": True}
PEERS: list[dict[str, Any]] = [
    {"name": "pacs", "ae_title": "PACS", "commitment_ae_title": "KEEPER", **AT, **KEEPS},
    {"name": "us1", "ae_title": "US1", "commitment_ae_title": "US1_SC", **AT, **ASKS},
    {"name": "us2", "ae_title": "US2", "mpps": True},
    {"name": "ct1", "ae_title": "CT1"},
    {"name": "far", "ae_title": "FAR", "check_address": True, **AT, **KEEPS, **ASKS, "host": "192.0.2.9"},
]


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with receiving(tmp_path_factory.mktemp("listener"), peers=PEERS) as listener:
        yield listener


def transactions(listener: Receiver, kind: EventType) -> list[str]:
    return [str(event.fields["transaction"]) for event in listener.events(kind)]


MAXIMUM = {"report": commitment.MAXIMUM_BYTES, "request": commitment.REQUEST_BYTES}
DIGITS = "1.2.3.4.567890"  # as long as the name
OBJECTS = {"report": commitment.MAXIMUM_OBJECTS, "request": commitment.REQUEST_OBJECTS}


def encoded_as(kind: str, number: int, transaction: str = "2.25.4") -> bytes:
    uids = [f"1.2.{n}" for n in range(number)]
    return encoded_request(transaction, uids) if kind == "request" else _raw(report(transaction, uids))


@pytest.mark.parametrize("kind", ["report", "request"])
@pytest.mark.parametrize(
    ("encoded", "answer"),
    [
        (lambda kind: b"", 0x0115),
        (lambda kind: b"\x08\x00\x95\x11\xff\xff\xff\x7fabc", 0x0115),
        (lambda kind: encoded_as(kind, OBJECTS[kind] + 1), 0x0115),
        (lambda kind: empty_sequences(900), 0x0115),
        (lambda kind: empty_sequences(MAXIMUM[kind] // 16), 0x0115),
        (lambda kind: encoded_as(kind, 1, DIGITS).replace(DIGITS.encode(), b"Mustermann^Max"), 0x0115),
        (lambda kind: bytes(MAXIMUM[kind] + 2), None),
    ],
    ids=["empty", "cut", "many", "deep", "deeper", "name", "without end"],
)
def test_what_is_no_report_or_request_is_refused_and_the_listener_goes_on(
    listener: Receiver, kind: str, encoded: Callable[[str], bytes], answer: int | None
) -> None:
    known, send = (COMMITMENT_REPORTED, send_raw_report) if kind == "report" else (COMMITMENT_ASKED, ask_raw)
    data, before, began = encoded(kind), transactions(listener, known), time.monotonic()
    assert send(listener.port, data) == answer
    assert time.monotonic() - began < 20
    assert transactions(listener, known) == before
    transaction = f"2.25.6{time.monotonic_ns()}"
    good = report(transaction, ["1.2"]) if kind == "report" else None
    answer = send_report(listener.port, good) if good else ask(listener.port, transaction, ["1.2"])
    assert answer == 0x0000
    refused = listener.events(COMMITMENT_REPORT_REFUSED, COMMITMENT_ASK_REFUSED)
    assert "Mustermann" not in str([event.fields for event in refused])


@pytest.mark.parametrize("calling", ["US2", "PACS", "CT1", "STRANGER", "FAR"])
def test_nobody_else_may_report_ask_or_tell_of_steps(listener: Receiver, calling: str) -> None:
    """FAR is the right title from a wrong address; PACS without the role would be the SCU of a report."""
    counted = lambda: len(listener.events(COMMITMENT_REPORTED, COMMITMENT_ASKED, STEP_REPORTED))
    known = counted()
    answer = "rejected" if calling in ("FAR", "STRANGER") else "no context"
    information, is_pacs = report("2.25.3", ["1.2"]), calling == "PACS"
    assert send_report(listener.port, information, calling=calling, role=not is_pacs) == answer
    assert ask(listener.port, "2.25.3", ["1.2"], calling) == answer
    if calling != "US2":
        assert create(listener.port, "1.2.3", begun("1.2.3.3"), calling) is None
    assert counted() == known


def test_who_may_ask_may_not_report(listener: Receiver) -> None:
    raw, asker = _raw(report("2.25.3", ["1.2"])), associate_to_ask(listener.port)
    assert send_raw_report(listener.port, raw, association=asker) == 0x0124


def test_a_flood_of_requests_is_refused_for_the_moment(tmp_path: Path) -> None:
    """Of one peer, whatever it asks or tells."""
    with receiving(tmp_path, peers=PEERS) as listener:
        association = associate_to_ask(listener.port)
        statuses = [
            association.send_n_action(
                asked_for(f"2.25.{n}", ["1.2"]), 1, commitment.SOP_CLASS, commitment.SOP_INSTANCE
            )[0].Status
            for n in range(limits.REQUESTS_A_MINUTE + 1)
        ]
        association.release()
        assert statuses == [0x0000] * limits.REQUESTS_A_MINUTE + [0x0213]
        assert status(create(listener.port, "1.2.11", begun("1.2.3.11"))) == 0x0213
        assert send_report(listener.port, report("2.25.3", ["1.2"])) == 0x0000  # of another peer
        assert len(transactions(listener, COMMITMENT_ASKED)) == limits.REQUESTS_A_MINUTE
        assert len(listener.events(COMMITMENT_ASK_REFUSED, STEP_REFUSED)) == 2


def taken(listener: Receiver) -> list[str]:
    return [str(event.fields["step"]) for event in listener.events(STEP_REPORTED)]


def test_a_step_from_its_begin_to_its_end(listener: Receiver) -> None:
    images = [ultrasound("whole", number=number) for number in (1, 2)]
    assert status(create(listener.port, "1.2.1", begun("1.2.3.1"))) == 0x0000
    middle = data_set(PerformedProcedureStepDescription="Mustermann^Max")
    assert status(change(listener.port, "1.2.1", middle)) == 0x0000
    assert status(change(listener.port, "1.2.1", ended(images))) == 0x0000
    lines = [event.fields for event in listener.events() if event.fields.get("step") == "1.2.1"]
    assert [(line["number"], line["status"]) for line in lines] == [
        (0, IN_PROGRESS),
        (1, IN_PROGRESS),
        (2, COMPLETED),
    ]
    assert lines[2]["objects"] == [image.SOPInstanceUID for image in images]
    assert [line["studies"] for line in lines] == [["1.2.3.1"]] * 3
    kept = "".join(path.read_text() for path in listener.data_dir.rglob("*.json*") if path.is_file())
    assert "Mustermann" not in kept
    assert "4711" not in kept


def test_what_is_known_is_not_begun_again_and_what_has_ended_is_not_changed(
    listener: Receiver,
) -> None:
    assert status(create(listener.port, "1.2.2", begun("1.2.3.2"))) == 0x0000
    assert status(create(listener.port, "1.2.2", begun("1.2.3.2"))) == 0x0111
    assert status(change(listener.port, "1.2.2", ended())) == 0x0000
    for _ in range(2):
        answer = change(listener.port, "1.2.2", ended())
        # PS3.4 Table F.7.2-2
        assert (answer.Status, answer.ErrorID) == (0x0110, 0xA710)
        assert answer.ErrorComment == "Performed Procedure Step Object may no longer be updated"
    assert status(create(listener.port, "1.2.2", begun("1.2.3.2"))) == 0x0111


def test_no_peer_changes_the_step_of_another_one(listener: Receiver) -> None:
    assert status(create(listener.port, "1.2.4", begun("1.2.3.4"))) == 0x0000
    assert status(change(listener.port, "1.2.4", ended(), "US2")) == 0x0124
    assert status(create(listener.port, "1.2.4", begun("1.2.3.4"), "US2")) == 0x0111
    assert status(change(listener.port, "1.2.4", ended())) == 0x0000


@pytest.mark.parametrize(
    "keyword",
    [
        "ScheduledStepAttributesSequence", "PerformedProcedureStepID", "PerformedStationAETitle",
        "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "PerformedProcedureStepStatus",
        "Modality",
    ],
)  # fmt: skip
def test_what_a_step_needs_to_begin(listener: Receiver, keyword: str) -> None:
    step = begun("1.2.3.5")
    step[keyword].value = None
    assert status(create(listener.port, "1.2.5", step)) == 0x0121
    del step[keyword]
    answer = create(listener.port, "1.2.5", step)
    assert (answer.Status, answer.ErrorComment) == (0x0120, f"lacks {Tag(keyword)}".replace(", ", ","))


def _raw(step: Dataset) -> bytes:
    return bytes(encode(step, True, True))


def _with_objects(number: int) -> Dataset:
    return assign(
        begun("1.2.3.8"), PerformedSeriesSequence=[series([(US, f"1.2.{n}") for n in range(number)])]
    )


@pytest.mark.parametrize(
    ("encoded", "answer"),
    [
        (lambda: b"", 0x0120),
        (lambda: b"\x08\x00\x95\x11\xff\xff\xff\x7fabc", 0x0120),
        (lambda: _raw(_with_objects(performed_step.MAXIMUM_OBJECTS + 1)), 0x0213),
        (lambda: _raw(begun(*(f"1.2.3.{n}" for n in range(performed_step.MAXIMUM_STUDIES + 1)))), 0x0213),
        (lambda: empty_sequences(900, 0x0040, 0x0340), 0x0110),
        (lambda: empty_sequences(performed_step.MAXIMUM_BYTES // 16, 0x0040, 0x0340), 0x0213),
        (lambda: bytes(performed_step.MAXIMUM_BYTES - 8), 0x0120),
        (lambda: bytes(performed_step.MAXIMUM_BYTES + 8), 0x0213),
        (lambda: _raw(begun("1.2.3.4.567890")).replace(b"1.2.3.4.567890", b"Mustermann^Max"), 0x0106),
        (lambda: _raw(begun("1.2.3.8")).replace(b"\x40\x00\x70\x02", b"\x40\x00\x71\x02"), 0x0120),
        (lambda: b"\x08\x00\x05\x00\x0e\x00\x00\x00Mustermann^Max" + _raw(begun("1.2.3.8"))[8:], 0x0120),
        (lambda: bytes(2 * performed_step.MAXIMUM_BYTES + 2), None),
    ],
    ids=[
        *("empty", "cut", "many", "studies", "deep", "deeper", "zeros", "large", "name", "tag", "charset"),
        "without end",
    ],
)
def test_what_is_no_step_is_refused_and_the_listener_goes_on(
    listener: Receiver, encoded: Callable[[], bytes], answer: int | None
) -> None:
    step = encoded()
    before, began = taken(listener), time.monotonic()
    assert send_raw(listener.port, step, "1.2.8") == answer
    assert time.monotonic() - began < 20
    assert taken(listener) == before
    assert status(create(listener.port, f"1.2.{time.monotonic_ns()}", begun("1.2.3.9"))) == 0x0000
    assert "Mustermann" not in str([event.fields for event in listener.events(STEP_REFUSED)])


@pytest.mark.parametrize(
    ("vr", "value"),
    [("LO", "Mustermann^Max"), ("US", 7), ("OB", b"\1\2"), ("UI", "1.2"), ("PN", "Mustermann^Max")],
)
@pytest.mark.parametrize(
    "keyword", ["ScheduledStepAttributesSequence", "PerformedSeriesSequence", "PerformedProcedureStepStatus"]
)
def test_a_wrong_type_is_refused(vr: str, value: object, keyword: str) -> None:
    step = begun("1.2.3.10")
    tag = step[keyword].tag
    del step[tag]
    step.add_new(tag, vr, value)
    with pytest.raises(FaultyStep) as raised:
        performed_step.read_creation(bytes(encode(step, False, True)), UID(ExplicitVRLittleEndian))
    assert "Mustermann" not in str(raised.value)


def test_a_full_disk_takes_no_step(tmp_path: Path) -> None:
    with receiving(tmp_path, peers=PEERS, minimum_free_mib=2**30) as listener:
        assert status(create(listener.port, "1.2.14", begun("1.2.3.14"))) == 0x0213
        listener.change(peers=PEERS)
        listener.stop()
        listener.start()
        assert status(create(listener.port, "1.2.14", begun("1.2.3.14"))) == 0x0000
