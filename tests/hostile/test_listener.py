"""What nobody should send: endless, malformed, huge when read; programs that stop what watches them."""

import contextlib
import io
import json
import logging
import os
import random
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_ACTION
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import StorageCommitmentPushModel
from sqlalchemy import select

from ai_pipeline.confinement import landlock
from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import open_dicom, open_picture
from ai_pipeline.images.limits import ImageLimits
from benchmarks.sender import (
    Rejected,
    Stored,
    associate,
    associate_request,
    p_data,
    store_command,
)
from dicom_node.base.config.sections import InspectionSettings
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
from dicom_node.base.kinds import Outcome, ResultKind, UserRole
from dicom_node.base.lifecycle import JobState
from dicom_node.base.store.tables import Instance, Job, Result, Study
from dicom_node.people import users
from dicom_node.receive import limits, statuses
from dicom_node.receive.inspector import Inspector
from tests.console_lab import ConsoleLab, add_users, quick_hasher, routes
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
from tests.inbox_lab import Inbox, encoded
from tests.modality import ULTRASOUND, assign, data_set, part_10, quick_ultrasound, ultrasound
from tests.mpps_lab import COMPLETED, IN_PROGRESS, begun, change, create, ended, send_raw, series, status
from tests.node_lab import Node, running, site_config, store
from tests.pacs_lab import (
    answered,
    associate_for,
    empty_sequences,
    report,
    send_raw_report,
    send_report,
    status_of,
)
from tests.ports import free_port
from tests.unit.ai_pipeline.phantoms import echo, write_dicom
from tests.unit.inbox.objects import changed, small_xray
from tests.unit.jobs.worker_lab import configuration, work
from tests.waiting import wait_until
from tests.wire.receiver import EXPLICIT, US, VERIFICATION, Receiver, receiving
from tests.wire.receiver import ultrasound as small_object


def asked_for(transaction: str, objects: Mapping[str, str] | list[str]) -> Dataset:
    """Action Information; ``objects``: SOP classes by instance, or instances of ultrasound."""
    classes = objects if isinstance(objects, Mapping) else dict.fromkeys(objects, ULTRASOUND)
    return commitment.request(transaction, [(sop_class, uid) for uid, sop_class in classes.items()])


def associate_to_ask(port: int, calling: str = "US1") -> Association:
    """As the SCU, without role selection."""
    return associate_for(StorageCommitmentPushModel, port, calling)


def ask(
    port: int, transaction: str, objects: Mapping[str, str] | list[str], calling: str = "US1", **other: Any
) -> int | str | None:
    """N-ACTION; its status, or why there was none. ``other``: action_type, sop_instance."""
    action, instance = other.get("action_type", 1), other.get("sop_instance", commitment.SOP_INSTANCE)
    asked = (asked_for(transaction, objects), action, StorageCommitmentPushModel, instance)
    answer = answered(associate_to_ask(port, calling), lambda one: one.send_n_action(*asked))
    return answer if isinstance(answer, str) else answer.get("Status")


def ask_raw(port: int, encoded: bytes, calling: str = "US1") -> int | None:
    """N-ACTION with these bytes as Action Information; None: the association was cut."""
    request = assign(
        N_ACTION(),
        ActionTypeID=1,
        RequestedSOPClassUID=StorageCommitmentPushModel,
        RequestedSOPInstanceUID=commitment.SOP_INSTANCE,
    )
    return status_of(associate_to_ask(port, calling), request, "ActionInformation", encoded)


def encoded_request(transaction: str, objects: Mapping[str, str] | list[str]) -> bytes:
    """In Implicit VR Little Endian."""
    return encode(asked_for(transaction, objects), True, True)


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
    with receiving(tmp_path_factory.mktemp("listener"), peers=PEERS, unknown_callers="accept") as listener:
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
    answer = "rejected" if calling == "FAR" else "no context"
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


SECONDS = 2
GRACE = 12  # seconds that two busy cores may take to end it all
WORKER = """
import json, sys, time
from ai_pipeline.images.decode import open_dicom
from ai_pipeline.pipelines import create

image, seconds, programs = sys.argv[1:]
options = {"model": "m", "version": "1", "seconds": float(seconds)}
for number in range(int(programs)):
    program = image.replace("image.dcm", f"program{number}.py")  # on no command line but its own
    began = time.monotonic()
    try:
        create("command").run(
            [open_dicom(image)], lambda *_: None, options | {"command": [sys.executable, program]}
        )
    except Exception as error:
        print(json.dumps([f"{type(error).__name__}: {error}", time.monotonic() - began]))
"""
WITHOUT_NAMESPACES = (
    "unshare", "--user", "--map-root-user", "sh", "-c",
    'echo 0 >/proc/sys/user/max_pid_namespaces && exec "$@"', "sh",
)  # fmt: skip
BEFORE = """
import os, signal, sys, time
from pathlib import Path

def above():
    pid = os.getpid()
    found = []
    for _ in range({generations}):
        try:
            pid = int(Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            break
        found.append(pid)
    return [one for one in found if one > 0]

def send(number, *pids):
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            pass

def daemon():
    if os.fork():
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    return True
"""
PROGRAMS = {
    "stops its parent": "send(signal.SIGSTOP, os.getppid())",
    "kills its parent": "send(signal.SIGKILL, os.getppid())",
    "stops its own group": "send(signal.SIGSTOP, 0)",
    "stops everybody above it": "send(signal.SIGSTOP, *above())",
    "stops all that it may": "send(signal.SIGSTOP, *above(), -1)",
    "leaves a daemon that stops everybody above": "all = above()\nif daemon(): send(signal.SIGSTOP, *all)",
    "leaves a daemon that kills everybody above": "all = above()\nif daemon(): send(signal.SIGKILL, *all)",
}  # fmt: skip


def living(words: str | Path, parent: int | None = None) -> list[int]:
    """The living processes with this word on their command line, below ``parent`` if one is given."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().split(b"\0")
            state, above, *_ = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if os.fsencode(words) in line and state != "Z" and parent in (None, int(above)):
            found.append(int(folder.name))
    return found


@contextmanager
def worker(
    folder: Path, *programs: str, before: tuple[str, ...] = (), seconds: int = SECONDS
) -> Iterator[subprocess.Popen[str]]:
    """A worker below a process that started it, which runs one program after the other; afterwards no
    process of either is left, whatever came.
    """
    image = write_dicom(folder / "image.dcm", echo()[None])
    scripts = [folder / f"program{number}.py" for number in range(len(programs))]
    for script, program in zip(scripts, programs, strict=True):
        # The program, what starts it, the supervisor, the worker, the worker's parent.
        script.write_text(BEFORE.format(generations=5) + program + "\ntime.sleep(600)\n")
    (folder / "worker.py").write_text(WORKER)
    words = [
        "import subprocess, sys; sys.exit(subprocess.run([sys.executable, *sys.argv[1:]]).returncode)",
        folder / "worker.py",
        image,
        seconds,
        len(programs),
    ]
    command = [*before, sys.executable, "-c", *map(str, words)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield started
    finally:
        for pid in [pid for path in (*scripts, folder / "worker.py") for pid in living(path)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        started.kill()
        started.wait()
        started.stdout.close()


@pytest.fixture(params=["namespaces", "no namespaces"])
def kernel(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """What a worker is started by, so that the kernel gives its programs this."""
    if request.param == "namespaces":
        return ()
    if (
        shutil.which("unshare") is None
        or subprocess.run([*WITHOUT_NAMESPACES, "true"], check=False).returncode
    ):
        pytest.skip("needs a user namespace of which processes cannot have further ones")
    if landlock.version() < 6:
        pytest.skip("needs Landlock of Linux 6.12, without which a program stops whom its user may")
    return WITHOUT_NAMESPACES


def test_a_program_that_stops_what_watches_it_ends_at_its_limit(
    tmp_path: Path, kernel: tuple[str, ...]
) -> None:
    with worker(tmp_path, *PROGRAMS.values(), before=kernel) as started:
        told, _ = started.communicate(timeout=len(PROGRAMS) * (SECONDS + GRACE))
        for number, (name, line) in enumerate(zip(PROGRAMS, told.splitlines(), strict=True)):
            error, took = json.loads(line)
            assert error.startswith(("ProgramStopped: ", "ProgramFailed: ")), (name, error)
            assert took < SECONDS + GRACE, name
            assert living(tmp_path / f"program{number}.py") == [], name


def stop_its_supervisor(folder: Path, started: subprocess.Popen[str]) -> tuple[int, int]:
    """When the program and its daemon run: SIGSTOP. Returns worker and supervisor."""
    wait_until(lambda: len(living(folder / "program0.py")) > 1, 60, "the program and its daemon")
    [its_worker] = living(folder / "worker.py", started.pid)
    [supervisor] = living("ai_pipeline.programs.supervisor", its_worker)
    os.kill(supervisor, signal.SIGSTOP)
    return its_worker, supervisor


def test_a_supervisor_that_is_stopped_is_ended_with_all_below_it(tmp_path: Path) -> None:
    """As by another process of this user: the worker does not wait for the limit, and ends daemons too."""
    with worker(tmp_path, "daemon()", seconds=600) as started:
        _, supervisor = stop_its_supervisor(tmp_path, started)
        told, _ = started.communicate(timeout=GRACE)
        assert json.loads(told)[0].startswith(
            "ProgramFailed: the program was lost with the process that watches it"
        ), told
        assert living(tmp_path / "program0.py") == []
        assert not Path(f"/proc/{supervisor}").exists()


def test_nothing_is_left_of_a_worker_that_is_killed_while_its_supervisor_is_stopped(tmp_path: Path) -> None:
    with worker(tmp_path, "daemon()", seconds=600) as started:
        its_worker, _ = stop_its_supervisor(tmp_path, started)
        os.kill(its_worker, signal.SIGKILL)
        wait_until(lambda: living(tmp_path / "program0.py") == [], GRACE, "the end of the program")


pytestmark = [
    pytest.mark.timeout(600),
    *(pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "DeprecationWarning")),
]
UNDEFINED = b"\xff\xff\xff\xff"
ITEM = b"\xfe\xff\x00\xe0"
ITEM_END = b"\xfe\xff\x0d\xe0" + bytes(4)
SEQUENCE_END = b"\xfe\xff\xdd\xe0" + bytes(4)
SEQUENCE = b"\x04\x00\x20\x12"  # (0004,1220), a public sequence that stands before all others
PRIVATE = b"\x09\x00\x01\x10"
Make = Callable[..., Inbox]


def length(value: bytes) -> bytes:
    return struct.pack("<I", len(value))


def empty_items(count: int, vr: bytes = b"SQ", *, told: bool = False) -> bytes:
    """Those whose length is told a parser reads only when it is asked for: another reader may."""
    items = (ITEM + bytes(4)) * count
    return SEQUENCE + vr + bytes(2) + (length(items) + items if told else UNDEFINED + items + SEQUENCE_END)


def nested(count: int) -> bytes:
    return (SEQUENCE + b"SQ\0\0" + UNDEFINED + ITEM + UNDEFINED) * count + (ITEM_END + SEQUENCE_END) * count


def attributes(count: int) -> bytes:
    return b"".join(
        struct.pack("<HH2sH", 9 + number // 60_000 * 2, number % 60_000, b"LO", 0) for number in range(count)
    )


def large_value(size: int) -> bytes:
    value = PRIVATE + b"OB\0\0" + struct.pack("<I", size) + bytes(size)
    return SEQUENCE + b"SQ\0\0" + UNDEFINED + ITEM + UNDEFINED + value + ITEM_END + SEQUENCE_END


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Inbox] = []

    def make(**limits: float) -> Inbox:
        made.append(Inbox(tmp_path / "var", inspector=Inspector(InspectionSettings.model_validate(limits))))
        return made[-1]

    yield make
    for inbox in made:
        inbox.inspector.close()
        inbox.close()


def send(inbox: Inbox, bomb: bytes, syntax: str = ExplicitVRLittleEndian, name: str = "bomb") -> str:
    """An image with the bomb before it; returns its SOP Instance UID."""
    image = ultrasound(name)
    image.file_meta.TransferSyntaxUID = syntax
    inbox.receive_bytes(bomb + encoded(image), image.SOPClassUID, image.SOPInstanceUID, syntax)
    return str(image.SOPInstanceUID)


def outcomes(inbox: Inbox) -> list[str]:
    """Index the bomb and a good image behind it; what became of them."""
    inbox.receive(ultrasound("good"))
    while inbox.spool.pending():  # a second try is made beside the others
        inbox.index()
    return inbox.outcomes()


@pytest.mark.parametrize(
    ("bomb", "limit"),
    [
        (lambda: empty_items(50_000), " items"),
        (lambda: empty_items(50_000, told=True), " items"),
        (lambda: empty_items(50_000, b"UN", told=True), " items"),
        (lambda: nested(1000), "sequences within"),
        (lambda: attributes(210_000), " attributes"),
        (lambda: large_value(65 * 2**20), " MiB"),
    ],
    ids=["items", "told length", "unknown VR", "nested", "attributes", "value"],
)
def test_a_header_bomb_is_quarantined(inbox: Inbox, bomb: Callable[[], bytes], limit: str) -> None:
    inbox.receive(ultrasound("first"))
    inbox.index()  # the process runs
    uid = send(inbox, bomb())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the bomb was made in this process
    assert outcomes(inbox) == ["new", "quarantined", "new"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
    [event] = [row for row in inbox.events() if row.number == 2005]
    assert limit in event.fields["reason"] and event.fields["instance"] == uid
    assert len(list((inbox.folder / "spool" / "quarantine").glob("*.dcm"))) == 1


@pytest.mark.parametrize("is_undefined", [True, False])
def test_of_private_sequences_nothing_is_read_so_they_may_be_large(make: Make, is_undefined: bool) -> None:
    """A three-dimensional ultrasound has its volume there."""
    inbox = make(maximum_header_mib=1)
    items = ITEM + length(volume := PRIVATE + b"OB\0\0" + length(bytes(2**21)) + bytes(2**21)) + volume
    sequence = b"\xdf\x7f\x01\x10SQ\0\0" + (UNDEFINED if is_undefined else length(items)) + items
    image = ultrasound("volume")
    del image.PixelData, image.Rows, image.Columns
    image.SOPClassUID = BasicTextSRStorage
    data = encoded(image) + sequence + SEQUENCE_END * is_undefined
    inbox.receive_bytes(data, image.SOPClassUID, image.SOPInstanceUID, ExplicitVRLittleEndian)
    assert outcomes(inbox) == ["new", "new"]


def test_a_deflated_bomb_is_inflated_to_its_limit_and_no_further(make: Make) -> None:
    inbox = make(maximum_inflated_mib=16)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    value = PRIVATE + b"OB\0\0" + struct.pack("<I", 2**26)
    bomb = deflate.compress(value) + b"".join(deflate.compress(bytes(2**20)) for _ in range(64))
    image = ultrasound("deflated")
    inbox.receive_bytes(
        bomb + deflate.flush(), image.SOPClassUID, image.SOPInstanceUID, DeflatedExplicitVRLittleEndian
    )
    assert outcomes(inbox) == ["quarantined", "new"]
    [event] = [row for row in inbox.events() if row.number == 2005]
    assert "more than 16 MiB" in event.fields["reason"]


@pytest.mark.parametrize(
    ("limits", "bomb", "reason"),
    [
        (
            {"maximum_items": 10**9, "seconds": 0.02, "memory_mib": 4096},
            lambda: empty_items(150_000),
            "reading it took",
        ),
        ({"maximum_header_mib": 1000, "memory_mib": 64}, lambda: large_value(80 * 2**20), ""),
    ],
    ids=["time", "memory"],
)
def test_what_passes_the_count_still_has_a_limit(
    make: Make, limits: dict[str, float], bomb: Callable[[], bytes], reason: str
) -> None:
    inbox = make(**limits)
    send(inbox, bomb())
    while inbox.spool.pending():
        inbox.index()
    assert inbox.outcomes() == ["quarantined"] and reason in inbox.study(None).reason


def test_what_was_open_when_the_node_died_twice_is_quarantined_and_once_is_not(inbox: Inbox) -> None:
    [name] = inbox.receive(ultrasound("suspect"))
    for deaths, expected in ((0, Outcome.NEW), (1, Outcome.QUARANTINED)):
        if deaths:
            [name] = inbox.receive(ultrasound("suspect again"))
        inbox.spool.crash_record.write_text(f"{deaths} {name}.dcm", encoding="ascii")
        inbox.reopen()
        inbox.index()
        assert inbox.outcomes()[-1] == expected
    assert "died twice" in inbox.events()[-1].fields["reason"]


def test_a_killed_reader_loses_nothing(make: Make) -> None:
    inbox = make()
    inbox.receive(ultrasound("one"))
    inbox.index()
    inbox.inspector._process.kill()
    inbox.inspector._process.wait()
    assert outcomes(inbox) == ["new", "new"]


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[Inbox]:
    with closing(Inbox(tmp_path / "var")) as inbox:
        yield inbox


_AT_ONCE = 100


@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore")  # pydicom's, about what it reads; the node logs none of it
def test_each_mutated_object_is_indexed_or_quarantined(
    tmp_path: Path, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("dicom_node"), "disabled", True)
    monkeypatch.setattr(
        logging.getLogger("dicom_node.base.events"), "disabled", True
    )  # pytest would keep all
    chance = random.Random(20261121)
    inbox = Inbox(tmp_path)
    good = small_xray("good")
    data, syntax = encoded(good), str(good.file_meta.TransferSyntaxUID)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for first in range(0, rounds, _AT_ONCE):
        count = min(_AT_ONCE, rounds - first)
        for number in range(first, first + count):
            # Only the header: what follows it is compared, not read.
            wrong = mutated(data[:1500], chance) + data[1500:]
            inbox.receive_bytes(wrong, str(good.SOPClassUID), f"1.2.826.0.1.{number}", syntax)
        inbox.index()
        assert inbox.spool.pending() == []
    inbox.receive(good)
    inbox.index()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024  # KiB
    outcomes = inbox.outcomes()
    assert len(outcomes) == rounds + 1
    assert set(outcomes) <= {outcome.value for outcome in Outcome}
    assert Outcome.QUARANTINED.value in outcomes
    inbox.close()


ROOT = Path(__file__).resolve().parents[2]
NOTHING = np.zeros((1, 64, 64), np.uint8)


def jpeg(rows: int, columns: int, marker: int = 0xC0, scans: int = 1) -> bytes:
    """The header of a grey JPEG or JPEG-LS, and next to no data: 780 bytes that say 30,000 × 30,000."""
    frame = struct.pack(">BBHBHHBBBB", 0xFF, marker, 11, 8, rows, columns, 1, 1, 0x11, 0)
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + b"\x00" * 8
    return b"\xff\xd8" + frame + scan * scans + b"\x00" * 700 + b"\xff\xd9"


def jpeg_2000(rows: int, columns: int, tile: int = 0) -> bytes:
    size = struct.pack(
        ">HHIIIIIIIIHBBB", 41, 0, columns, rows, 0, 0, tile or columns, tile or rows, 0, 0, 1, 7, 1, 1
    )
    return b"\xff\x4f\xff\x51" + size + b"\xff\x93" + b"\x00" * 600 + b"\xff\xd9"


def rle(segments: int, length: int) -> bytes:
    return struct.pack("<16I", segments, 64, *[0] * 14) + b"\x81\x00" * length


def bomb(folder: Path, frame: bytes, syntax: str, rows: int = 64, columns: int = 64) -> Path:
    """An object whose header says ``rows`` × ``columns`` and whose code stream says what it says."""
    path = write_dicom(folder / "bomb.dcm", NOTHING)
    ds = assign(dcmread(path), Rows=rows, Columns=columns, PixelData=encapsulate([frame]))
    ds.file_meta.TransferSyntaxUID = syntax
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path)
    return path


BOMBS = {
    "both headers": (jpeg(30_000, 30_000), JPEGBaseline8Bit, 30_000, 30_000, "a side"),
    "code stream alone": (jpeg(30_000, 30_000), JPEGBaseline8Bit, 64, 64, "code stream has 30000 × 30000"),
    "8,000 a side": (jpeg(8_000, 8_000), JPEGBaseline8Bit, 8_000, 8_000, "megapixels"),
    "a line": (jpeg(65_535, 1), JPEGBaseline8Bit, 65_535, 1, "a side"),
    "a shorter line": (jpeg(16_000, 100), JPEGBaseline8Bit, 16_000, 100, "times the other"),
    "JPEG-LS": (jpeg(30_000, 30_000, 0xF7), JPEGLSLossless, 64, 64, "code stream has 30000 × 30000"),
    "JPEG 2000": (jpeg_2000(60_000, 60_000), JPEG2000Lossless, 64, 64, "code stream has 60000 × 60000"),
    "a million tiles": (jpeg_2000(5_000, 5_000, 5), JPEG2000Lossless, 5_000, 5_000, "tiles"),
    "RLE segments": (rle(9, 10), RLELossless, 64, 64, "RLE header names 9 segments"),
    "RLE length": (rle(1, 300_000), RLELossless, 64, 64, "RLE segments"),
    "scans": (jpeg(64, 64, scans=5_000), JPEGBaseline8Bit, 64, 64, "scans"),
    "no frame": (b"\xff\xd8\xff\xda" + b"\0" * 80 + b"\xff\xd9", JPEGBaseline8Bit, 64, 64, "0 frame headers"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_what_a_header_demands_is_refused_before_it_is_decoded(tmp_path: Path, name: str) -> None:
    frame, syntax, rows, columns, reason = BOMBS[name]
    path = bomb(tmp_path, frame, syntax, rows, columns)
    with pytest.raises(PixelError, match=reason):
        open_dicom(path).stored()


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"NumberOfFrames": 100_000}, "has 100000 frames"),
        ({"NumberOfFrames": 4_000, "Rows": 4_000, "Columns": 4_000}, "when decoded"),
        ({"SamplesPerPixel": 200}, "Samples per Pixel"),
        ({"BitsAllocated": 4_096}, "Bits Allocated"),
    ],
)
def test_attributes_beyond_what_images_have_are_refused(
    tmp_path: Path, attributes: dict[str, object], reason: str
) -> None:
    path = write_dicom(tmp_path / "bomb.dcm", NOTHING)
    assign(dcmread(path), **attributes).save_as(path)
    with pytest.raises(PixelError, match=reason):
        open_dicom(path).display()


def test_a_deflated_data_set_is_inflated_up_to_the_limit(tmp_path: Path) -> None:
    ds = dcmread(write_dicom(tmp_path / "plain.dcm", np.zeros((1, 2_000, 2_000), np.uint8)))
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(tmp_path / "bomb.dcm")
    assert open_dicom(tmp_path / "bomb.dcm").stored().shape == (2_000, 2_000)
    with pytest.raises(PixelError, match="more than 1 MiB"):
        open_dicom(tmp_path / "bomb.dcm", ImageLimits(inflated_mib=1))


def test_a_picture_that_demands_too_much_is_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 7_000, 6_500, 8, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    with pytest.raises(PixelError, match="megapixels"):
        open_picture(path, "US")


def test_what_modalities_make_is_within_the_limits() -> None:
    limits = ImageLimits()
    assert limits.fault(5_120, 4_096, bits=16) == ""  # a mammogram
    assert limits.fault(768, 1_024, frames=300, samples=3) == ""  # a cine
    assert limits.fault(1_080, 1_920, frames=300, samples=3) == ""
    assert limits.fault(10_000, 3_000, bits=16) == ""  # a stitched spine


@contextmanager
def workers_of(node: Inbox) -> Iterator[Callable[[], None]]:
    """A worker process that is started again when it ends, as the node does. Gives a function that looks."""
    command = [sys.executable, "-m", "tests.unit.jobs.worker_lab", node.settings.for_children()]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started: list[subprocess.Popen[bytes]] = []

    def look() -> None:
        if not started or started[-1].poll() is not None:
            started.append(subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, **quiet))
        assert len(started) < 6, "a worker is lost again and again"

    try:
        yield look
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_an_image_that_costs_workers_is_left_out_and_the_rest_of_its_study_analysed(tmp_path: Path) -> None:
    node = Inbox(tmp_path / "var", configuration("hoard", memory_mib=1200, attempts=2))
    good, hostile, better = (ultrasound("one", number=number) for number in (1, 2, 3))
    node.receive(good, changed(hostile, BodyPartExamined="BREAST"), better)
    node.receive(ultrasound("other"))
    node.settle()
    with workers_of(node) as look:
        ended = lambda: look() or {job.state for job in node.jobs()} == {JobState.SUCCEEDED}
        wait_until(ended, 120, shown=lambda: [(job.state, job.reason) for job in node.jobs()])
    assert [result.kind for result in node.rows(Result)].count(ResultKind.SC) == 3
    assert [event.fields["instance"] for event in node.events() if event.number == 3030] == [
        str(hostile.SOPInstanceUID)
    ]
    node.close()


MOST_MIB = 48  # above what the process had: well below the 64 MiB that each bomb unpacks at once
BOMB = 64 * 2**20
READER = """
import json, sys
from pathlib import Path
from dicom_node.people.audit import Person
from dicom_node.people import uploads
from tests.inbox_lab import Inbox

def peak_mib():
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024

inbox = Inbox(Path(sys.argv[1]) / "var")
for line in sys.stdin:
    path, upload_mib = json.loads(line)
    console = inbox.settings.console.model_copy(update={"upload_mib": upload_mib})
    settings = inbox.settings.model_copy(update={"console": console})
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts anew (man 5 proc)
    base, before = peak_mib(), len(inbox.spool.pending())
    with open(path, "rb") as file:
        sent = uploads.UploadedFile("sent.zip", file)
        done = uploads.take(inbox.database, settings, [sent], None, Person("operator"))
    spooled = len(inbox.spool.pending()) - before
    print(json.dumps([[one.refusal for one in done.files], spooled, peak_mib() - base]), flush=True)
"""
Read = Callable[..., tuple[list[str], int]]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Read]:
    """Has a ZIP read: why each file was refused ("": it was taken), and how many objects were spooled."""
    folder = tmp_path_factory.mktemp("zips")
    command = [sys.executable, "-c", READER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:

        def read(data: bytes, upload_mib: int = 2048) -> tuple[list[str], int]:
            (folder / "sent.zip").write_bytes(data)
            reader.stdin.write(json.dumps([str(folder / "sent.zip"), upload_mib]) + "\n")
            reader.stdin.flush()
            answer = reader.stdout.readline()
            assert answer, "the reading process ended"
            refusals, spooled, mib = json.loads(answer)
            assert mib < MOST_MIB, mib
            return refusals, spooled

        yield read
        reader.stdin.close()


def an_object() -> bytes:
    return part_10(ultrasound("one"))


def zipped(content: bytes, how: int = zipfile.ZIP_DEFLATED, zeros: int = 0) -> bytearray:
    """A ZIP of one file, which ends with so many zeros."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", how) as archive, archive.open("a", "w") as file:
        file.write(content)
        for _ in range(zeros // 2**20):
            file.write(bytes(2**20))
    return bytearray(data.getvalue())


def of_directory(data: bytearray, at: int, form: str, *values: int) -> bytes:
    """Write over the entry in the directory (APPNOTE.TXT 4.3.12)."""
    struct.pack_into(form, data, data.rfind(b"PK\x01\x02") + at, *values)
    return bytes(data)


def encrypted() -> bytes:
    data = zipped(an_object())
    data[6] |= 1
    return of_directory(data, 8, "<H", 1)


def whole(body: bytes, entries: list[bytes], says: int | None = None) -> bytes:
    """Files, directory and end."""
    directory = b"".join(entries)
    number = len(entries) if says is None else says
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, number, number, len(directory), len(body), 0)
    return body + directory + end


def over_each_other(files: int = 200) -> bytes:
    """Fifield, "A better zip bomb" (WOOT 2019): all entries of the directory name the same file."""
    content = an_object() + bytes(4 * 2**20)
    body, size, name = zlib.compress(content, 9, -15), len(content), b"000"
    fixed = (20, 0, 8, 0, 0, zlib.crc32(content), len(body), size, len(name))
    header = struct.pack("<4s5H3L2H", b"PK\x03\x04", *fixed, 0) + name
    return whole(
        header + body, [struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, *fixed, *[0] * 6) + name] * files
    )


def many_empty() -> bytes:
    """A directory of 90,000 nameless entries, of which its end says one."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, *[0] * 4, *[0] * 3, *[0] * 5, 0, 0)
    return whole(bytes(zipped(an_object()))[:64], [entry] * 90_000, says=1)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "BZIP2": (lambda: bytes(zipped(an_object(), zipfile.ZIP_BZIP2, BOMB)), "stored or deflated"),
    "LZMA": (lambda: bytes(zipped(an_object(), zipfile.ZIP_LZMA, BOMB)), "stored or deflated"),
    "deflated without end": (lambda: bytes(zipped(an_object(), zeros=BOMB)), "200 times as packed"),
    "packed in no known way": (lambda: of_directory(zipped(an_object()), 10, "<H", 99), "stored or deflated"),
    "encrypted": (encrypted, "it is encrypted"),
    "one file 200 times": (over_each_other, "overlap"),
    "larger than it says": (lambda: of_directory(zipped(an_object()), 24, "<L", 5000), "damaged"),
    "smaller than it says": (lambda: of_directory(zipped(an_object()), 24, "<L", 2**32 - 2), "damaged"),
    "packed beyond its end": (lambda: of_directory(zipped(an_object()), 20, "<L", 2**32 - 2), "overlap"),
    "another file's check": (lambda: of_directory(zipped(an_object()), 16, "<L", 7), "damaged"),
    "a place beyond the end": (lambda: of_directory(zipped(an_object()), 42, "<L", 2**31), "overlap"),
    "more files than it says": (many_empty, "more than 10000 files"),
    "a ZIP in a ZIP": (lambda: bytes(zipped(bytes(zipped(an_object())))), "neither DICOM"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_zip_that_is_not_what_it_seems_is_refused_in_little_memory(read: Read, case: str) -> None:
    make, why = REFUSED[case]
    refusals, spooled = read(make())
    assert [why in refusal for refusal in refusals] == [True], refusals
    assert spooled == 0


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_honest_zip_is_taken(read: Read, how: int) -> None:
    assert read(bytes(zipped(an_object(), how))) == ([""], 1)


def test_an_upload_is_unpacked_to_its_limit_in_all(read: Read) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(6):
            archive.writestr(str(number), an_object() + bytes(900_000))
    refusals, _ = read(data.getvalue(), upload_mib=3)
    assert "" in refusals
    assert "console.upload_mib" in refusals[-1]


MOST_MIB_OF_A_STILL = 240  # 216 in tiles of both networks; 266 and more where one of them sees it whole
CLEAN = """
import resource, sys
from ai_pipeline.burnin.find import networks, text
from ai_pipeline.burnin.pipeline import Ultrasound
from ai_pipeline.images.decode import open_dicom
text.TILE //= 2
networks.TILE //= 2
networks.WHOLE //= 5
for path in sys.argv[1:]:
    result = Ultrasound().run([open_dicom(path)], lambda *_: None, {})
    print(len(result.images), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_a_large_still_is_cleaned_in_tiles_that_bound_its_memory(tmp_path: Path) -> None:
    """In tiles of half a node's side, above what a small picture takes."""
    files = []
    for rows, columns in ((160, 240), (768, 1456)):
        noise = np.random.default_rng(5).normal(0, 6, (rows, columns)).astype(np.int16)
        picture = np.clip(echo(5, (rows, columns)) + noise, 0, 255).astype(np.uint8)
        cv2.putText(picture, "DOE JANE 1970-01-02", (10, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2)
        files.append(str(write_dicom(tmp_path / f"{rows}.dcm", picture[None])))
    done = subprocess.run([sys.executable, "-c", CLEAN, *files], capture_output=True, text=True, check=True)
    (_, small), (images, large) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert images == 2, "cleaned, and its mask"
    assert large - small <= MOST_MIB_OF_A_STILL


# What else is no number: tests/unit/ai_pipeline/images/test_decode.py
VALUES = {
    "5,000 digits": b"9" * 5000,
    "NaN": b"NaN",
    "backslashes and control characters": b"1\\\\2\\\x1b\x07\r\n",
}


def with_raw(dataset: Dataset, keyword: str, raw: bytes) -> None:
    """These very bytes as the value: in Implicit VR Little Endian nothing says what it should be."""
    dataset.add(DataElement(Tag(keyword), "OB", raw + b" " * (len(raw) % 2)))


def studies() -> Iterator[tuple[str, Dataset]]:
    """Of each value: in all numbers that an image can do without, and in Number of Frames."""
    for number, (name, raw) in enumerate(VALUES.items()):
        image, region = quick_ultrasound(f"numbers-{number}"), Dataset()
        for keyword in (
            *("InstanceNumber", "SeriesNumber", "AcquisitionNumber", "PatientAge", "PatientWeight"),
            *("StudyDate", "StudyTime", "SeriesDate", "ContentDate", "AcquisitionDateTime", "FrameTime"),
            *("PixelSpacing", "PixelAspectRatio", "WindowCenter", "WindowWidth", "RescaleSlope"),
            *("RescaleIntercept", "CineRate", "RecommendedDisplayFrameRate", "HeartRate"),
            "LossyImageCompressionRatio",
            "LongitudinalTemporalOffsetFromEvent",  # FD: eight bytes a number
        ):
            with_raw(image, keyword, raw)
        for keyword in (
            *("PhysicalDeltaX", "PhysicalDeltaY", "RegionFlags", "RegionLocationMinX0"),
            "ReferencePixelX0",
        ):
            with_raw(region, keyword, raw)
        image.SequenceOfUltrasoundRegions = [region]
        frames = quick_ultrasound(f"frames-{number}")
        with_raw(frames, "NumberOfFrames", raw)
        for kind, one in ((name, image), (f"{name} of frames", frames)):
            one.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            yield kind, one


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleLab]:
    """The console of a node that received and analysed them."""
    config = configuration()
    config["rules"][0] |= {"pipeline": "ultrasound", "options": {}}
    config["peers"][1]["results"] = ["sr", "gsps", "sc", "cleaned"]
    with closing(Inbox(tmp_path_factory.mktemp("numbers") / "var", config)) as node:
        node.settle(*(image for _, image in studies()))
        work(node)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(users, "hasher", quick_hasher)
            add_users(node.settings)
            yield ConsoleLab(node.settings, node.database)


def test_the_images_are_analysed_whatever_stands_in_numbers_that_they_can_do_without(lab: ConsoleLab) -> None:
    with lab.database.read() as session:
        found = {str(row.study_instance_uid): (str(row.state), row.reason) for row in session.query(Study)}
    for kind, image in studies():
        state, reason = found[str(image.StudyInstanceUID)]
        assert (state in ("delivering", "delivered")) == (not kind.endswith(" of frames")), (
            kind,
            state,
            reason,
        )
        assert state != "failed", (kind, reason)


def test_no_page_fails(lab: ConsoleLab) -> None:
    """But for the events around the moment of each event: they are two thirds of all links, and one page."""
    browser = lab.browser(UserRole.ADMIN)
    waiting, seen, failed = (
        ["/", "/events?at=2026-01-02T10:15:00Z", *addresses(lab, "/")],
        set[str](),
        list[str](),
    )
    while waiting:
        path = waiting.pop()
        if path in seen or path.startswith(("/live", "/static", "/readyz")):  # the node ended
            continue
        seen.add(path)
        if browser.get(path) >= 500:
            failed.append(path)
        elif b"<html" in browser.content[:200]:
            links = re.findall(r'(?:href|src)="(/[^"#]*)', browser.text)
            waiting += [link.replace("&amp;", "&") for link in links if "?at=" not in link]
    assert failed == []
    assert len(seen) > 60


def test_no_answer_of_the_rest_api_fails(lab: ConsoleLab) -> None:
    token = users.add_token(lab.settings, UserRole.ADMIN.value, "a test", 1)
    client = lab.browser().client
    paths = list(addresses(lab, "/api/"))
    assert len(paths) > 30
    answers = {path: client.get(path, headers={"Authorization": f"Bearer {token}"}) for path in paths}
    assert {path: answer.text for path, answer in answers.items() if answer.status_code >= 500} == {}


def addresses(lab: ConsoleLab, prefix: str) -> Iterator[str]:
    """Every address below this one, of every row that there is, and of a few that there are not."""
    with lab.database.read() as session:
        tables = (Study, Instance, Result, Job)
        numbers = {row for table in tables for row in session.scalars(select(table.id))}
    for route in routes(lab.app.routes):
        if "GET" not in route.methods or not route.path.startswith(prefix):
            continue
        if "{number}" in route.path or "{frame}" in route.path:
            for number in (*sorted(numbers | {0, 10**9}), "9" * 5000, "NaN"):
                address = route.path.replace("{number}", str(number)).replace("{frame}", "1")
                kinds = ("images", "results", "cleaned") if "{which}" in address else ("",)
                yield from (address.replace("{which}", which) for which in kinds)
        elif "{" not in route.path:
            yield route.path
