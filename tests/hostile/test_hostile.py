"""Hostile senders, objects, programs and peers; and names, which must stay where they belong."""

import contextlib
import http.client
import json
import logging
import os
import random
import re
import resource
import select
import shutil
import signal
import socket
import sqlite3
import statistics
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import sqlalchemy
from fhir.resources.R4B.bundle import Bundle
from PIL import Image, ImageDraw
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
from pydicom.valuerep import PersonName
from pynetdicom import association as pynetdicom_association
from pynetdicom import evt
from pynetdicom.dimse_primitives import N_ACTION
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import StorageCommitmentPushModel
from typer.testing import CliRunner
from werkzeug.wrappers import Request, Response

from ai_pipeline.confinement import landlock
from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import open_dicom, open_picture
from ai_pipeline.images.limits import ImageLimits
from benchmarks.sender import (
    Association,
    Rejected,
    Stored,
    associate,
    associate_request,
    command_set,
    p_data,
    store_command,
)
from dicom_connectors.worklist import workitem
from dicom_connectors.worklist.performer import open_manager as open_worklist
from dicom_node.base.config import loading
from dicom_node.base.config import settings as sections
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom import dimse_n
from dicom_node.base.dicom.elements import Limits
from dicom_node.base.dicom.uids import derived_uid
from dicom_node.base.errors import FaultyStep, Unavailable
from dicom_node.base.events import (
    ASSOCIATION_ABORTED,
    ASSOCIATION_REJECTED,
    ASSOCIATION_RELEASED,
    COMMITMENT_ASK_REFUSED,
    COMMITMENT_ASKED,
    COMMITMENT_REPORT_REFUSED,
    COMMITMENT_REPORTED,
    CONNECTIONS_FAILED,
    DESTINATION_HUNG,
    FETCHED_OTHER_PATIENT,
    STEP_REFUSED,
    STEP_REPORTED,
    STORE_REFUSED,
    EventType,
)
from dicom_node.base.lifecycle import FetchState, JobState, Outcome, ResultKind, StudyState, UserRole
from dicom_node.base.outcomes import Done
from dicom_node.base.store.tables import Fetch, Instance, Job, Result, Study
from dicom_node.deliver import delivery_worker
from dicom_node.deliver.scu import (
    MAXIMUM_ANSWER_BYTES,
    Destination,
    Presence,
    RetrieveStatus,
    SendStatus,
    calling_ae,
    open_archive,
    open_destination,
    open_remover,
)
from dicom_node.people import users
from dicom_node.receive import limits, statuses
from dicom_node.receive.inspection import Inspector
from dicom_node.serve import cli
from dicom_node.studies import fetch
from dicom_node.studies.indexing import OTHER_PATIENT, OTHER_STUDY, release_study
from tests.collector_lab import Collector, running_collector
from tests.console_lab import ConsoleLab, add_users, quick_hasher, routes
from tests.forked import Forked
from tests.hostile.valve import Valve, valve_before
from tests.hostile.web import answering
from tests.inbox_lab import Inbox, encoded
from tests.modality import (
    ULTRASOUND,
    assign,
    chest,
    data_set,
    part_10,
    quick_ultrasound,
    ultrasound,
    ultrasound_from,
)
from tests.mpps_lab import COMPLETED, IN_PROGRESS, begun, change, create, ended, send_raw, series, status
from tests.node_lab import Node, running, site_config, store
from tests.outbox_lab import Outbox, add_report, fhir_peer, outgoing, outgoing_report, report_file
from tests.pacs_lab import (
    PIXELS,
    QUERY,
    FakeArchive,
    Pacs,
    Sink,
    answer_for,
    answered,
    associate_for,
    beside,
    empty_sequences,
    fetched,
    film,
    free_port,
    inbox_beside,
    instances,
    peer,
    report,
    run_pacs,
    send_raw_report,
    send_report,
    status_of,
    work_item,
)
from tests.smtp_lab import MailServer, WebServer
from tests.unit.ai_pipeline.phantoms import echo, write_dicom
from tests.unit.jobs.worker_lab import configuration, confirm, work
from tests.unit.receive.objects import changed, in_syntax, small_xray
from tests.waiting import wait_until
from tests.wire.receiver import EXPLICIT, US, VERIFICATION, Receiver, receiving
from tests.wire.receiver import ultrasound as small_object


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Bytes changed, left out, doubled; lengths made extreme; the end cut off."""
    result = bytearray(data)
    for _ in range(chance.randrange(1, 8)):
        if not result:
            break
        place = chance.randrange(len(result))
        kind = chance.randrange(5)
        if kind == 0:
            result[place] = chance.randrange(256)
        elif kind == 1:
            result[place : place + 4] = chance.choice([b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff"])
        elif kind == 2:
            del result[place : place + chance.randrange(1, 40)]
        elif kind == 3:
            result[place:place] = result[place : place + chance.randrange(1, 200)]
        else:
            del result[max(place, 8) :]
    return bytes(result) or b"\0"


STORAGE = [(US, [EXPLICIT])]
STRANGER = "127.0.0.66"  # where the good sender is not


def send_study(receiver: Receiver) -> float:
    """A known modality sends five images on one association; returns the seconds that it took."""
    began = time.monotonic()
    association = associate(receiver.address, STORAGE)
    for number in range(5):
        assert association.store(1, small_object(number)) == 0x0000
    association.release()
    return time.monotonic() - began


@contextlib.contextmanager
def nobody_notices(receiver: Receiver, mebibytes: int = 48) -> Iterator[Callable[[], None]]:
    """A good study takes at most twice its usual time, and the listener no more memory than it may.

    Yields what sends the study; it is sent once more at the end. The floor of three seconds is for
    machines with other things to do.
    """
    usual = sorted(send_study(receiver) for _ in range(3))[1]
    before = resident(receiver)

    def send() -> None:
        assert send_study(receiver) <= max(2 * usual, usual + 3)

    yield send
    send()
    assert receiver.process.poll() is None, "the listener died"
    assert resident(receiver) - before <= mebibytes * 2**20


def resident(receiver: Receiver) -> int:
    """Bytes of memory that the listener has had at most."""
    status = Path(f"/proc/{receiver.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def connect(receiver: Receiver, address: str = STRANGER) -> socket.socket:
    """A connection from an address of this machine that no peer has."""
    return socket.create_connection(receiver.address, timeout=60, source_address=(address, 0))


def send_until_cut(connection: socket.socket, data: bytes, times: int = 1) -> int:
    """Send it again and again; returns the bytes that went out before the listener had enough."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        for _ in range(times):
            connection.sendall(data)
            sent += len(data)
    return sent


def is_cut(connection: socket.socket, seconds: float = 15) -> bool:
    """Whether the listener aborts or closes within the time."""
    connection.settimeout(seconds)
    try:
        while data := connection.recv(4096):
            if data[0] == 7:  # A-ABORT
                return True
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    finally:
        connection.close()
    return True


def request(items: bytes, length: int | None = None, calling: bytes = b"SENDER") -> bytes:
    """An A-ASSOCIATE-RQ with these items; ``length`` is what its header says."""
    body = struct.pack(">HH", 1, 0) + b"AINODE".ljust(16) + calling.ljust(16) + bytes(32) + items
    return struct.pack(">BBI", 1, 0, len(body) if length is None else length) + body


def item(kind: int, value: bytes) -> bytes:
    """An item or sub-item of an association request."""
    return struct.pack(">BBH", kind, 0, len(value)) + value


def command(association: Association, field: int, data_set: bool = True) -> None:
    """Send a whole command set with this command field."""
    elements = {
        0x0002: b"1.2.840.10008.1.1",
        0x0100: struct.pack("<H", field),
        0x0110: struct.pack("<H", 1),
        0x0800: struct.pack("<H", 1 if data_set else 0x0101),
    }
    association.sock.sendall(b"".join(p_data(1, command_set(elements), True, 16384)))


CONTEXT = item(0x20, bytes((1, 0, 0, 0)) + item(0x30, US.encode()) + item(0x40, EXPLICIT.encode()))
APPLICATION = item(0x10, b"1.2.840.10008.3.1.1.1")
"""The context of DICOM, and a presentation context for ultrasound images."""


def asked_for(transaction: str, objects: Mapping[str, str] | list[str]) -> Dataset:
    """Action Information; ``objects``: SOP classes by instance, or instances of ultrasound."""
    classes = objects if isinstance(objects, Mapping) else dict.fromkeys(objects, ULTRASOUND)
    return dimse_n.commitment_request(transaction, [(sop_class, uid) for uid, sop_class in classes.items()])


def associate_to_ask(port: int, calling: str = "US1") -> pynetdicom_association.Association:
    """As the SCU, without role selection."""
    return associate_for(StorageCommitmentPushModel, port, calling)


def ask(
    port: int, transaction: str, objects: Mapping[str, str] | list[str], calling: str = "US1", **other: Any
) -> int | str | None:
    """N-ACTION; its status, or why there was none. ``other``: action_type, sop_instance."""
    action, instance = other.get("action_type", 1), other.get("sop_instance", dimse_n.COMMITMENT_INSTANCE)
    asked = (asked_for(transaction, objects), action, StorageCommitmentPushModel, instance)
    answer = answered(associate_to_ask(port, calling), lambda one: one.send_n_action(*asked))
    return answer if isinstance(answer, str) else answer.get("Status")


def ask_raw(port: int, encoded: bytes, calling: str = "US1") -> int | None:
    """N-ACTION with these bytes as Action Information; None: the association was cut."""
    request = assign(
        N_ACTION(),
        ActionTypeID=1,
        RequestedSOPClassUID=StorageCommitmentPushModel,
        RequestedSOPInstanceUID=dimse_n.COMMITMENT_INSTANCE,
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
    command = command_set({2: VERIFICATION.encode(), 0x100: b"\x30\0", 0x110: b"\1\0", 0x800: b"\1\1"})
    with (
        receiving(tmp_path, network_timeout_seconds=1) as receiver,
        nobody_notices(receiver),
    ):
        association = associate(receiver.address, ECHO, calling="STRANGER")
        association.sock.settimeout(5)
        with contextlib.suppress(OSError):
            while True:  # until the answers fill what the system keeps for it
                association.sock.sendall(100 * p_data(1, command, True, 16384)[0])
        receiver.wait_for_event(ASSOCIATION_ABORTED)


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
            line.sock.sendall(
                line.encode_store(1, Stored(US, f"2.25.{name}.{next(numbers)}", EXPLICIT, FAULTY))
            )
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


MAXIMUM = {"report": dimse_n.REPORT_BYTES, "request": dimse_n.REQUEST_BYTES}
DIGITS = "1.2.3.4.567890"  # as long as the name
OBJECTS = {"report": dimse_n.REPORT_OBJECTS, "request": dimse_n.REQUEST_OBJECTS}


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
                asked_for(f"2.25.{n}", ["1.2"]), 1, dimse_n.COMMITMENT_CLASS, dimse_n.COMMITMENT_INSTANCE
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
        (lambda: _raw(_with_objects(dimse_n.STEP_OBJECTS + 1)), 0x0213),
        (lambda: _raw(begun(*(f"1.2.3.{n}" for n in range(dimse_n.STEP_STUDIES + 1)))), 0x0213),
        (lambda: empty_sequences(900, 0x0040, 0x0340), 0x0110),
        (lambda: empty_sequences(dimse_n.STEP_BYTES // 16, 0x0040, 0x0340), 0x0213),
        (lambda: bytes(dimse_n.STEP_BYTES - 8), 0x0120),
        (lambda: bytes(dimse_n.STEP_BYTES + 8), 0x0213),
        (lambda: _raw(begun("1.2.3.4.567890")).replace(b"1.2.3.4.567890", b"Mustermann^Max"), 0x0106),
        (lambda: _raw(begun("1.2.3.8")).replace(b"\x40\x00\x70\x02", b"\x40\x00\x71\x02"), 0x0120),
        (lambda: b"\x08\x00\x05\x00\x0e\x00\x00\x00Mustermann^Max" + _raw(begun("1.2.3.8"))[8:], 0x0120),
        (lambda: bytes(2 * dimse_n.STEP_BYTES + 2), None),
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
        dimse_n.read_step_creation(bytes(encode(step, False, True)), UID(ExplicitVRLittleEndian))
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

    def make(**limits: Any) -> Inbox:
        made.append(Inbox(tmp_path / "var", inspector=Inspector(Limits(**limits))))
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
    assert limit in event.fields["reason"]
    assert event.fields["instance"] == uid
    assert len(list((inbox.folder / "spool" / "quarantine").glob("*.dcm"))) == 1


@pytest.mark.parametrize("is_undefined", [True, False])
def test_of_private_sequences_nothing_is_read_so_they_may_be_large(make: Make, is_undefined: bool) -> None:
    """A three-dimensional ultrasound has its volume there."""
    inbox = make(header_mib=1)
    items = ITEM + length(volume := PRIVATE + b"OB\0\0" + length(bytes(2**21)) + bytes(2**21)) + volume
    sequence = b"\xdf\x7f\x01\x10SQ\0\0" + (UNDEFINED if is_undefined else length(items)) + items
    image = ultrasound("volume")
    del image.PixelData, image.Rows, image.Columns
    image.SOPClassUID = BasicTextSRStorage
    data = encoded(image) + sequence + SEQUENCE_END * is_undefined
    inbox.receive_bytes(data, image.SOPClassUID, image.SOPInstanceUID, ExplicitVRLittleEndian)
    assert outcomes(inbox) == ["new", "new"]


def test_a_deflated_bomb_is_inflated_to_its_limit_and_no_further(make: Make) -> None:
    inbox = make(inflated_mib=16)
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
            {"items": 10**9, "seconds": 0.02, "memory_mib": 4096},
            lambda: empty_items(150_000),
            "reading it took",
        ),
        ({"header_mib": 1000, "memory_mib": 64}, lambda: large_value(80 * 2**20), ""),
    ],
    ids=["time", "memory"],
)
def test_what_passes_the_count_still_has_a_limit(
    make: Make, limits: dict[str, Any], bomb: Callable[[], bytes], reason: str
) -> None:
    inbox = make(**limits)
    send(inbox, bomb())
    while inbox.spool.pending():
        inbox.index()
    assert inbox.outcomes() == ["quarantined"]
    assert reason in inbox.study(None).reason


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
        for number in range(first, first + min(_AT_ONCE, rounds - first)):
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


def addresses(lab: ConsoleLab, prefix: str) -> Iterator[str]:
    """Every address below this one, of every row that there is, and of a few that there are not."""
    with lab.database.read() as session:
        tables = (Study, Instance, Result, Job)
        numbers = {row for table in tables for row in session.scalars(sqlalchemy.select(table.id))}
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


ONE = (ResultKind.SC,)
LARGE = 3000  # pixels squared: 9 MB, more than the socket buffers of both sides hold
A_MEGABYTE = 2**20
QUICK = {"answer_seconds": 0.5}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "SLOWEST_KIB_PER_SECOND", 16384)
    monkeypatch.setattr(delivery_worker, "_STOP_SECONDS", 0.3)


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


@pytest.mark.usefixtures("impatient")
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


@pytest.mark.usefixtures("impatient")
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
@pytest.mark.usefixtures("impatient")
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
        run_pacs(FakeArchive(free_port(), answers=[answer_for(image)], gives=[image])) as pacs,
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


@pytest.mark.usefixtures("impatient")
def test_an_answer_to_a_query_that_never_ends_is_cut_off(tmp_path: Path) -> None:
    with run_pacs(Chatterbox(free_port())) as pacs:
        outbox = Outbox(tmp_path, [pacs.peer()], **QUICK)
        outbox.add_study(["pacs"], ONE)
        with running_worker(outbox):
            wait_for_event(outbox, DESTINATION_HUNG.number)
        assert "query: cut off" in outbox.rows()[0]["reason"]


@pytest.mark.usefixtures("impatient")
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


def peer_at(transport: str, url: str, **more: Any) -> PeerSettings:
    """One that is called by HTTP."""
    if transport == "fhir":
        return fhir_peer(url, **{"patient_systems": {}, **more})
    return PeerSettings.model_validate(
        {"name": "pacs", "ae_title": "PACS", "may": ("receive",), "transport": transport, "url": url, **more}
    )


def called(peer: PeerSettings) -> Destination:
    return open_destination(peer, Settings(peers=(peer,)))


@pytest.mark.usefixtures("impatient")
def test_the_end_of_the_node_does_not_wait_for_a_hung_pacs(tmp_path: Path, pacs: Pacs, valve: Valve) -> None:
    valve.to_peer = A_MEGABYTE
    outbox = outbox_to(tmp_path, pacs, valve, answer_seconds=600)
    outbox.add_study(["pacs"], ONE, LARGE)
    with running_worker(outbox):
        wait_until(lambda: valve.connections > 0, 120, "a connection")
    assert outbox.states() == {"pending": 1}
    valve.open()
    outbox.run_until("confirmed")


@pytest.mark.usefixtures("impatient")
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


HEAD = bytes(128) + b"DICM"
LONG = b"\2\0\1\0OB\0\0\xff\xff\xff\x7f"  # an element of 2 GiB


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "other",
    [
        {"PatientID": "ANOTHER"},
        {"PatientName": "Somebody^Else"},
        {"PatientBirthDate": "19010101"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_images_of_another_patient_than_the_answer_go_to_quarantine(
    tmp_path: Path, other: dict[str, str]
) -> None:
    image = film("another")
    with beside(tmp_path, answers=[answer_for(image, **other)], gives=[image]) as inbox:
        fetched(inbox)
    study = inbox.study(image.StudyInstanceUID)
    assert (study.state, study.reason) == (StudyState.QUARANTINED, OTHER_PATIENT)
    assert not inbox.jobs()
    [event] = [row for row in inbox.events() if row.number == FETCHED_OTHER_PATIENT.number]
    assert not {*other.values(), image.PatientID} & set(map(str, event.fields.values()))
    inbox.write(release_study, study.id)
    inbox.settle()
    assert [job.rule for job in inbox.jobs()] == ["films"]
    assert [row.state for row in inbox.rows(Fetch)] == [FetchState.OTHER_PATIENT]


@pytest.mark.usefixtures("impatient")
def test_a_study_that_nobody_asked_for_goes_to_quarantine(tmp_path: Path) -> None:
    wanted, other = film("wanted"), film("other")
    with beside(tmp_path, answers=[answer_for(wanted)], gives=[wanted, other]) as inbox:
        fetched(inbox)
    assert inbox.study(wanted.StudyInstanceUID).state is StudyState.QUEUED
    study = inbox.study(other.StudyInstanceUID)
    assert study.state is StudyState.QUARANTINED
    assert OTHER_STUDY in study.reason


@pytest.mark.usefixtures("impatient")
@pytest.mark.filterwarnings("ignore:.* for VR UI")  # pydicom's, in the archive of the test
def test_answers_to_another_question_are_left_out() -> None:
    image = film("asked for")
    wrong = [
        answer_for(image, StudyInstanceUID=""),
        answer_for(image, StudyInstanceUID="../../etc"),
        answer_for(image, StudyInstanceUID="1.2.3", StudyDate="19990101"),
        answer_for(image, StudyInstanceUID="1.2.4", ModalitiesInStudy="CT"),
        answer_for(Dataset(), StudyInstanceUID="1." * 40 + "1"),
    ]
    with run_pacs(FakeArchive(free_port(), answers=[*wrong, answer_for(image)] * 2), classes=()) as pacs:
        settings = Settings(peers=(PeerSettings.model_validate(peer(pacs.port)),))
        found = open_archive(settings.peers[0], settings).find(QUERY)
    assert [study.study_instance_uid for study in found.studies] == [image.StudyInstanceUID]
    assert found.strays == 2 * len(wrong)


@pytest.mark.usefixtures("impatient")
def test_answers_without_an_end_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calling_ae, "MAXIMUM_ANSWER_BYTES", 2**16)
    image = film("endless")
    with run_pacs(FakeArchive(free_port(), answers=[answer_for(image)] * 5000), classes=()) as pacs:
        settings = Settings(peers=(PeerSettings.model_validate(peer(pacs.port)),))
        with pytest.raises(Unavailable, match="does not end"):
            open_archive(settings.peers[0], settings).find(QUERY)


@pytest.mark.usefixtures("impatient")
def test_more_objects_than_a_study_may_have_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("scu", "scu.query_retrieve"):
        monkeypatch.setattr(f"dicom_node.deliver.{module}.MOST_OBJECTS", 3)
    images = [chest("more", PIXELS, number=one) for one in range(1, 8)]
    sink = Sink()
    with run_pacs(FakeArchive(free_port(), gives=images), classes=()) as pacs:
        settings = Settings(peers=(PeerSettings.model_validate(peer(pacs.port)),))
        outcome = open_archive(settings.peers[0], settings).retrieve("1.2.3", sink)
    assert (outcome.status, len(sink.taken)) == (RetrieveStatus.RETRY, 3), outcome


def wado(*parts: bytes, end: bytes = b"--b--") -> bytes:
    return b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + one + b"\r\n" for one in parts) + end


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"[]", "application/json", RetrieveStatus.RETRY),
        (b"", "multipart/related; boundary=b", RetrieveStatus.RETRY),
        (wado(), "multipart/related; boundary=b", RetrieveStatus.ABSENT),
        (wado(b"no DICOM"), "multipart/related; boundary=b", RetrieveStatus.INCOMPLETE),
        (wado(HEAD + b"\xff" * 500), "multipart/related; boundary=b", RetrieveStatus.INCOMPLETE),
        (wado(HEAD + LONG * 20), "multipart/related; boundary=b", RetrieveStatus.INCOMPLETE),
        (wado(part_10(film("cut")), end=b""), "multipart/related; boundary=b", RetrieveStatus.RETRY),
    ],
    ids=["JSON", "nothing", "no part", "no DICOM", "no meta", "bad lengths", "no end"],
)
def test_what_is_no_answer_of_wado_stores_nothing_faulty(
    tmp_path: Path, body: bytes, kind: str, status: RetrieveStatus
) -> None:
    with answering(body=body, Content_Type=kind) as (url, _):
        inbox = inbox_beside(tmp_path, 1, transport="dicomweb", url=url)
        archive = inbox.settings.peer("archive")
        sink = fetch.RetrievalSink(
            inbox.spool, fetch.WaitingObjects(inbox.spool.incoming), inbox.settings, archive, 1
        )
        outcome = open_archive(archive, inbox.settings).retrieve("1.2.3", sink)
    assert outcome.status is status, outcome
    assert not inbox.spool.pending()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("status", "leads_on"), [(300, False), (301, True), (303, True), (304, False), (307, True), (308, True)]
)
@pytest.mark.parametrize(
    ("transport", "secret"),
    [
        ("orthanc", {"username": "node", "password": "secret"}),
        ("dicomweb", {"username": "node", "password": "secret"}),
        ("fhir", {"token": "secret"}),
    ],
    ids=["orthanc", "dicomweb", "fhir"],
)
def test_a_redirect_is_followed_by_nothing(
    tmp_path: Path, transport: str, secret: dict[str, str], status: int, leads_on: bool
) -> None:
    """No object and no password goes to the other address; nor is it a success where it names none."""
    fhir = transport == "fhir"
    item = outgoing_report(report_file(tmp_path)) if fhir else outgoing(ultrasound("redirected"), tmp_path)
    with (
        answering() as (elsewhere, taken),
        answering(status, **{"Location": f"{elsewhere}/taken"} if leads_on else {}) as (url, asked),
    ):
        destination = called(peer_at(transport, url, **secret))
        (sent,) = destination.send([item])
        (confirmed,) = destination.confirm([item])
        (tested,) = destination.test()
    assert len(asked) == 3
    assert taken == []
    assert sent.status is SendStatus.RETRY
    assert "not followed" in sent.text
    assert confirmed.presence is Presence.UNKNOWN
    assert "not followed" in confirmed.text
    assert not tested.ok
    assert "not followed" in tested.text


JSON, FHIR_JSON = "application/dicom+json", "application/fhir+json"
ANYBODYS: tuple[tuple[bytes, str], ...] = (
    (b"[]", JSON),
    (b"{}", JSON),
    (b"null", JSON),
    (b"[" * 100_000, JSON),
    (b"<html>sign in</html>", "text/html"),
)
NONSENSE: dict[str, tuple[tuple[bytes, str], ...]] = {
    "orthanc": (*ANYBODYS, (b'"stored"', JSON), (b'{"Status": ["Success"]}', JSON)),
    "dicomweb": (
        *ANYBODYS,
        (b"[1]", JSON),
        (b'{"00081199": 5}', JSON),
        (b'{"00081199": {"vr": "SQ", "Value": [7]}}', JSON),
        (b"<html>sign in</html>", "application/dicom+xml"),
        (b"<html", "application/dicom+xml"),
    ),
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("transport", "confirm", "body", "kind"),
    [
        *(("orthanc", "query", *answer) for answer in NONSENSE["orthanc"]),
        *(("dicomweb", "none", *answer) for answer in NONSENSE["dicomweb"]),
        *(
            ("fhir", "query", body, FHIR_JSON)
            for body in (b"[]", b"{}", b'{"resourceType": "Bundle", "type": "searchset", "entry": [1]}')
        ),
        ("fhir", "none", b"{}", FHIR_JSON),
    ],
)
def test_no_nonsense_is_a_success_and_its_tries_have_an_end(
    tmp_path: Path, transport: str, body: bytes, kind: str, confirm: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A web server that is no PACS, or a PACS that answers nonsense."""
    with answering(body=body, Content_Type=kind) as (url, asked):
        peer = peer_at(transport, url, confirm=confirm)
        outbox = Outbox(tmp_path, [peer], retry_seconds=0.01, retry_limit_seconds=0.01, confirm_seconds=0.01)
        add_report(outbox) if transport == "fhir" else outbox.add_study(["pacs"], [ResultKind.SR])
        outbox.run_until("dead", seconds=30)
        [row] = outbox.rows()
        [check] = called(peer).test()
    assert 3 <= sum(one.startswith("POST") for one in asked) < 20
    assert "defect" not in row["reason"], row["reason"]
    assert len(row["reason"]) > 20, row["reason"]
    assert not any(record.exc_info for record in caplog.records)
    assert len(check.text) > 10


WORK_ITEM = work_item("1.2.3").to_json_dict()


@contextmanager
def manager(status: int, body: bytes) -> Iterator[Any]:
    with answering(status, body, Content_Type="application/dicom+json") as (url, _):
        peer = PeerSettings(name="ris", ae_title="RIS", transport="dicomweb", url=url, worklist=["*"], may=[])
        yield open_worklist(peer, Settings.model_validate({"outbox": {"answer_seconds": 5}}))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"null",
        b'"text"',
        b"7",
        b"[" * 100_000,
        b"\xff\xfe",
        b"[" + b" " * MAXIMUM_ANSWER_BYTES + b"]",
        b"[" + b"9" * 5000 + b"]",
    ],
    ids=["html", "null", "text", "number", "nested", "no text", "long", "digits"],
)
def test_an_answer_that_is_none_is_no_work(body: bytes) -> None:
    with manager(200, body) as ris:
        for ask in (ris.search, lambda: ris.read("1.2.3")):
            try:
                assert not ask()
            except Unavailable as error:
                assert "html" not in str(error)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("00404021", {"vr": "SQ", "Value": ["no item"]}),
        ("00404021", {"vr": "SQ", "Value": 5}),
        ("00404021", {"vr": "LO", "Value": ["a", "b"]}),
        ("00404021", {"vr": "SQ", "Value": [instances("1.2.3").to_json_dict()] * 1001}),
        ("00080018", {"vr": "UI", "Value": ["../../etc"]}),
        ("00080018", {"vr": "UI", "Value": ["1.2", "1.3"]}),
        ("00080018", {"vr": "UI", "BulkDataURI": "file:///etc/passwd"}),
        ("00741000", {"vr": "CS", "Value": [{"a": 1}]}),
        ("00404018", {"vr": "SQ", "Value": [{"00080100": {"vr": "SH", "Value": ["a^b"]}}]}),
        ("00100010", {"vr": "PN", "Value": [["a"]]}),
        ("00404041", 3),
    ],
)
def test_a_faulty_item_is_left_out_and_the_others_are_read(tag: str, value: Any) -> None:
    with manager(200, json.dumps([{**WORK_ITEM, tag: value}, WORK_ITEM, [], None, 1, {}]).encode()) as ris:
        read = [item for item in map(workitem.read_workitem, ris.search()) if item is not None]
        assert all(item.study_instance_uid in ("", "1.2.3") for item in read)
        assert read[-1].uid == WORK_ITEM["00080018"]["Value"][0]
        assert not any(code.value == "a^b" for item in read for code in item.codes)


CONFIG = """
[spool]
minimum_free_mib = 1
[workers]
processes = 0
[console]
enabled = true
port = {port}
"""
SLOW_BODY = (
    b"POST /sign-in HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\n\r\ncsrf="
)
ATTACKER, SOMEBODY_ELSE = "127.0.0.1", "127.0.0.2"
PATHS = ("/healthz", "/readyz", "/sign-in", "/api/v1/studies")


class Site:
    """A node with a console, asked from an address of one's own."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.node = Node(folder, CONFIG.format(port=self.port), role="listener")
        self.token = ""

    def seconds(self, path: str) -> float:
        """How long another address waits for this page. Fails where it is refused."""
        began = time.monotonic()
        asked = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=20, source_address=(SOMEBODY_ELSE, 0)
        )
        asked.request("GET", path, headers={"Authorization": f"Bearer {self.token}"})
        status = asked.getresponse().status
        asked.close()
        assert status == 200, (path, status)
        return time.monotonic() - began


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("slow"))
    with running(site.node):
        settings = loading.load([site.node.config])
        users.add_user(settings, "anna", UserRole.ADMIN, "correct horse battery")
        site.token = users.add_token(settings, "anna", "a test", days=1)
        wait_until(lambda: _answers(site), 60, "the console")
        yield site


def _answers(site: Site) -> bool:
    try:
        return site.seconds("/healthz") >= 0
    except OSError:
        return False


@contextmanager
def slow_senders(port: int, number: int, beginning: bytes) -> Iterator[Counter[str]]:
    """So many connections of one address that send a beginning and then a byte now and then; what is
    answered or closed is begun again. Counts those that were open at once, and those that were cut.
    """
    counted, ended = Counter[str](), threading.Event()

    def send() -> None:
        lines: list[socket.socket] = []
        while not ended.wait(0.2):
            while len(lines) < number:
                lines.append(socket.create_connection(("127.0.0.1", port), source_address=(ATTACKER, 0)))
                lines[-1].sendall(beginning)
            counted["open"] = number
            lines = [one for one in lines if _takes_a_byte(one)]
            counted["cut"] += number - len(lines)
        for one in lines:
            one.close()

    sending = threading.Thread(target=send)
    sending.start()
    try:
        wait_until(lambda: bool(counted), 60, "connections")
        yield counted
    finally:
        ended.set()
        sending.join()


def _takes_a_byte(one: socket.socket) -> bool:
    try:
        if not select.select([one], [], [], 0)[0]:
            one.sendall(b"x")
            return True
    except OSError:  # it was cut
        pass
    one.close()
    return False


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("beginning", "number"),
    [(SLOW_BODY, 300), (b"GET /sign-in HTTP/1.1\r\nX-Slow: ", 120), (b"", 300)],
    ids=["bodies", "heads", "from the first"],
)
def test_slow_senders_keep_nobody_else_from_the_console(site: Site, number: int, beginning: bytes) -> None:
    with slow_senders(site.port, number, beginning) as counted:
        waited: dict[str, list[float]] = {path: [] for path in PATHS}
        for _ in range(15):
            for path in PATHS:
                waited[path].append(site.seconds(path))
            time.sleep(0.1)
        # Alone they answer in 50 ms; before there were places by address, they did not answer in 20 s.
        assert max(statistics.median(each) for each in waited.values()) < 10, waited
        wait_until(lambda: counted["cut"] >= number - 20, 60, "no more than the places of one address")
    assert site.seconds("/sign-in") < 20


@pytest.mark.usefixtures("impatient")
def test_the_same_address_is_answered_beside_its_slow_senders(site: Site) -> None:
    """A proxy has the address of all its users: what is quick is never cut."""
    with slow_senders(site.port, 120, SLOW_BODY):
        for _ in range(10):
            asked = http.client.HTTPConnection("127.0.0.1", site.port, timeout=20)
            asked.request("GET", "/sign-in")
            assert asked.getresponse().status == 200
            asked.close()
            time.sleep(0.2)


CANARY = "Canary^Anna"
OUTCOME = {
    "resourceType": "OperationOutcome",
    "issue": [
        {"severity": "error", "code": "business-rule", "diagnostics": CANARY, "details": {"text": CANARY}},
        {"severity": "error", "code": CANARY},
    ],
}


@pytest.mark.usefixtures("impatient")
def test_nothing_that_a_server_says_is_in_log_or_database(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with answering(422, json.dumps(OUTCOME).encode(), Content_Type=FHIR_JSON) as (url, asked):
        outbox = Outbox(
            tmp_path, [fhir_peer(url, patient_systems={})], retry_seconds=0.01, retry_limit_seconds=0.01
        )
        add_report(outbox)
        outbox.run_until("dead", seconds=30)
        [row] = outbox.rows()
    assert (asked.count("POST /"), row["refusals"]) == (3, 3)
    assert "business-rule" in row["reason"]
    assert CANARY not in caplog.text
    assert CANARY not in str(row)
    assert not [one for one in asked if "PID-CR" in one]


@dataclass
class Record:
    """A server of this test: it validates what comes, and finds what the test says."""

    bundles: list[Bundle] = field(default_factory=list)
    found: list[dict[str, Any]] = field(default_factory=list)
    patients: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, request: Request) -> Response:
        found = self.patients if request.path == "/Patient/_search" else self.found
        answer = {"type": "searchset", "entry": [{"resource": one} for one in found]}
        if request.path.startswith("/Observation/"):
            return _json({"resourceType": "Observation", "status": "final", "code": {"text": "x"}})
        if request.path == "/":
            self.bundles.append(Bundle.model_validate_json(request.data))
            entries = [{"response": {"status": "201 Created"}} for _ in self.bundles[-1].entry]
            answer = {"type": "transaction-response", "entry": entries}
        return _json({"resourceType": "Bundle", **answer})


def _json(content: dict[str, Any]) -> Response:
    return Response(json.dumps(content), content_type=FHIR_JSON)


Recording = tuple[str, Record, list[str]]  # with what was asked of it


@pytest.fixture
def record() -> Iterator[Recording]:
    record = Record()
    with answering(record) as (url, asked):
        yield url, record, asked


@pytest.mark.usefixtures("impatient")
def test_a_server_that_ignores_the_search_has_nothing_of_ours(tmp_path: Path, record: Recording) -> None:
    url, server, _ = record
    server.found = [
        {
            "resourceType": "DiagnosticReport",
            "identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:9"}],
        }
    ]
    [confirmed] = called(fhir_peer(url)).confirm([outgoing_report(report_file(tmp_path))])
    assert confirmed.presence is Presence.NOT_FOUND


@pytest.mark.usefixtures("impatient")
def test_a_patient_is_taken_only_by_the_identifier_asked_for(tmp_path: Path, record: Recording) -> None:
    url, server, _ = record
    server.patients = [
        {"resourceType": "Patient", "id": "7", "identifier": [{"system": "urn:x", "value": "PID-CR"}]}
    ]
    called(fhir_peer(url)).send([outgoing_report(report_file(tmp_path))])
    assert server.bundles[0].entry[0].resource.subject.reference is None


@pytest.mark.usefixtures("impatient")
def test_references_to_elsewhere_are_not_followed(tmp_path: Path, record: Recording) -> None:
    url, server, asked = record
    item = outgoing_report(report_file(tmp_path))
    with answering() as (elsewhere, taken):
        server.found = [
            {
                "resourceType": "DiagnosticReport",
                "id": "1",
                "status": "final",
                "code": {"text": "x"},
                "identifier": [{"system": "urn:dicom:uid", "value": f"urn:oid:{item.sop_instance_uid}"}],
                "result": [{"reference": f"{elsewhere}/Observation/1"}, {"reference": "Observation/../../x"}],
            }
        ]
        peer = fhir_peer(url, withdraw="delete")
        answer = open_remover(peer, Settings(peers=(peer,))).remove(item)
    assert taken == []
    assert not isinstance(answer, Done)
    assert not any("x" in path.partition("?")[0] for path in asked)


# pydicom warns of the values that we send


IDENTITY = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex")


WHOLE = {"IssuerOfPatientID": "HOSPITAL", "PatientBirthDate": "19700101", "PatientSex": "F"}


EMPTY = dict.fromkeys(IDENTITY, "")


def without(ds: Dataset, *keywords: str) -> Dataset:
    copy = changed(ds)
    for keyword in keywords:
        del copy[keyword]
    return copy


def another_image(ds: Dataset, **values: str) -> Dataset:
    """A further image of the study."""
    uid = derived_uid("further", ds.SOPInstanceUID)
    further = changed(ds, SOPInstanceUID=uid, InstanceNumber=2, **values)
    further.file_meta.MediaStorageSOPInstanceUID = uid
    return further


Variant = Callable[[Dataset], Dataset]


# What else a copy may say of the patient: COPIES of tests/unit/studies/test_index.py
LESS: dict[str, Variant] = {
    "all missing": lambda ds: without(ds, *IDENTITY),
    "delimiters": lambda ds: changed(ds, **EMPTY | {"PatientName": "^^=^=", "PatientBirthDate": "00000000"}),
    "blanks, another transfer syntax": lambda ds: in_syntax(
        changed(ds, **EMPTY | {"PatientID": "  ", "PatientName": " ^ ^", "PatientSex": " "}),
        ImplicitVRLittleEndian,
    ),
}


OTHER: dict[str, Variant] = {
    "another patient": lambda ds: changed(ds, PatientID="SOMEBODY", PatientName="Some^Body"),
    "another name, no ID": lambda ds: changed(ds, PatientID="", PatientName="Some^Body"),
    "a further image of nobody": lambda ds: another_image(ds, **EMPTY),
    "a further image of somebody": lambda ds: another_image(ds, PatientID="SOMEBODY"),
}


VARIANTS = LESS | OTHER


@dataclass(frozen=True)
class TwoPatients:
    """Studies that the first sender sent, by name, and what the second one made of them."""

    node: Inbox
    studies: dict[str, Dataset]

    def outcomes(self, variants: Mapping[str, Variant], when: str) -> dict[str, tuple[str, int]]:
        """State of the study and the number of its results, by the name of the variant."""
        found = {name: self.studies[f"{name}, {when}"].StudyInstanceUID for name in variants}
        return {
            name: (str(self.node.study(uid).state), len(self.results(uid))) for name, uid in found.items()
        }

    def results(self, uid: str) -> list[Dataset]:
        study = self.node.study(uid).id
        return [
            dcmread(self.node.folder / row.path) for row in self.node.rows(Result) if row.study_id == study
        ]


def sent(name: str) -> Dataset:
    return changed(ultrasound(name, size=(64, 48)), **WHOLE)


@pytest.fixture(scope="module")
def two_patients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoPatients]:
    """Each variant comes while its study is received, and once more after the study was delivered."""
    config = configuration()
    config["peers"][1]["results"] = ["sr"]
    config["peers"] += [{"name": f"us{n}", "ae_title": f"US{n}", "may": ["send"]} for n in (1, 2)]
    early = {f"{name}, early": (sent(f"e{n}"), make) for n, (name, make) in enumerate(VARIANTS.items())}
    late = {f"{name}, late": (sent(f"l{n}"), make) for n, (name, make) in enumerate(VARIANTS.items())}
    with closing(Inbox(tmp_path_factory.mktemp("identities") / "var", config)) as node:
        node.settle(*(ds for ds, _ in late.values()), calling="US1")
        work(node)
        confirm(node)
        node.index(*(ds for ds, _ in early.values()), calling="US1")
        both = early | late
        node.settle(*(make(ds) for ds, make in both.values()), calling="US2")
        work(node)
        confirm(node)
        yield TwoPatients(node, {name: ds for name, (ds, _) in both.items()})


@pytest.mark.filterwarnings("ignore")
def test_every_result_is_of_the_patient_whom_the_first_sender_named(two_patients: TwoPatients) -> None:
    results = {
        name: two_patients.results(source.StudyInstanceUID) for name, source in two_patients.studies.items()
    }
    assert sum(map(len, results.values())) >= len(VARIANTS)
    for name, source in two_patients.studies.items():
        patient = {word: source.get(word) for word in IDENTITY}
        for result in results[name]:
            assert {word: result.get(word) for word in IDENTITY} == patient, name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("when", "results"), [("early", 0), ("late", 1)])
def test_what_says_less_changes_nothing_and_what_contradicts_the_patient_waits_for_a_person(
    two_patients: TwoPatients, when: str, results: int
) -> None:
    assert two_patients.outcomes(LESS, when) == dict.fromkeys(LESS, ("delivered", 1))
    assert two_patients.outcomes(OTHER, when) == dict.fromkeys(OTHER, ("quarantined", results))


PATIENT_ID = "PIDZX81"


FREE_TEXT = {
    "StudyDescription": "DESCASSOWARY",
    "SeriesDescription": "SERIECHIDNA",
    "StationName": "STNBILBY",
    "ProtocolName": "PROTOQUOLL",
    "BodyPartExamined": "BODYTAKAHE",
}


CODES = {
    "Modality": "MODALKIWI",
    "ViewPosition": "VIEWNENE",
    "PresentationIntentType": "INTENTEMU",
    "Laterality": "LATERALRHEA",
    "ManufacturerModelName": "MODELTUATARA",
    "Manufacturer": "MAKERWETA",
    "InstanceNumber": "776655443",
    "SeriesNumber": "665544332",
}


CANARIES = {
    "PatientName": "QUETZAL^XOCHITL",
    "PatientID": PATIENT_ID,
    "PatientBirthDate": "18770213",
    "AccessionNumber": "ACCVQ55",
    "ReferringPhysicianName": "REFWOMBAT^A",
    "OperatorsName": "OPNUMBAT^B",
    "InstitutionName": "INSTQUOKKA",
    "PatientComments": "COMMDUGONG",
    "ImageComments": "IMGPOTOROO",
    "AdditionalPatientHistory": "HISTGALAH",
    "PatientAddress": "ADDRKEA 7",
    "DeviceSerialNumber": "SERKAKAPO",
    "StudyID": "STIDMOA",
    **FREE_TEXT,
}


OTHER_ID, OTHER_NAME = "OIDKX93", "SECONDTAPIR"


TOKENS = (
    *("QUETZAL", "XOCHITL", "REFWOMBAT", "OPNUMBAT", "ADDRKEA", "1877-02-13", OTHER_ID, OTHER_NAME),
    *(value for value in CANARIES.values() if value.isalnum()),
    *CODES.values(),
    "PHOTOJPEGMOA",
)


HELD_IN_THE_INDEX = {
    ("study", "patient_id"): {PATIENT_ID},
    ("study", "accession_number"): {"ACCVQ55"},  # the console searches for it
    ("instance", "attributes"): {*FREE_TEXT.values(), *CODES.values(), "PHOTOJPEGMOA"},
    ("instance", "modality"): {
        CODES["Modality"]
    },  # rules ask for it, and the console shows it with the study
}


MARKUP = "[bold]EVIL[/]"


NODE_CONFIG = """
[spool]
minimum_free_mib = 1
[assembly]
quiet_seconds = 0.2
quiet_seconds_us = 0.2
[outbox]
retry_seconds = 0.2
[mail]
host = "127.0.0.1"
port = {mail}
security = "none"
sender = "node@example.org"
[telemetry]
endpoint = "{collector}"
[[notifications]]
name = "web"
on = ["failure", "quarantine"]
events = [2010, 2015, 3010]
url = "{web}"
every_minutes = 0
[[notifications]]
name = "people"
on = ["failure", "quarantine"]
events = [2010, 2015, 3010]
to = ["admin@example.org"]
every_minutes = 0
[log]
format = "json"
[[peers]]
name = "modality"
ae_title = "MODALITY"
may = ["send"]
[[peers]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
may = ["receive"]
results = ["sr", "gsps", "sc", "cleaned", "seg"]
[[peers]]
name = "research"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs}
may = ["receive"]
deidentify = true
results = ["cleaned", "sr"]
[[rules]]
name = "ultrasound"
when = {{ modality = "US", study_description = "*CASSOWARY" }}
max_study_age_days = 0
pipeline = "ultrasound"
send_to = ["pacs", "research"]
[[rules]]
name = "chest"
when = {{ modality = "DX", body_part = "CHEST", station = "OTHER" }}
pipeline = "chest_xray"
send_to = ["pacs"]
"""


def birds(text: str | bytes) -> set[str]:
    """The canaries in a text."""
    words = (text.decode("latin-1") if isinstance(text, bytes) else text).casefold()
    return {token for token in TOKENS if token.casefold() in words}


def planted(ds: Dataset, **values: Any) -> Dataset:
    """The object with all canaries in it."""
    other = data_set(PatientID=OTHER_ID, TypeOfPatientID="TEXT")
    return changed(ds, **{**CANARIES, "OtherPatientIDsSequence": [other], **values})


def objects() -> dict[str, list[Dataset]]:
    """Good, quarantined for each reason, broken, of no rule, and refused."""
    burned_in = Image.fromarray(ultrasound("speckle").pixel_array)
    ImageDraw.Draw(burned_in).text((8, 30), "QUETZAL XOCHITL", fill=(255, 255, 255), font_size=18)
    xray = np.zeros((32, 32), np.uint16)
    undecodable = planted(ultrasound("charset"))
    undecodable.PatientName = PersonName(b"QUETZAL\xff\xfe", ["UTF8"])
    broken = planted(ultrasound("broken"), PixelData=encapsulate([b"\xff\xd8 QUETZAL \xff\xd9"]))
    broken.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    broken["PixelData"].is_undefined_length = True
    return {
        "good": [planted(ultrasound_from("canary", np.asarray(burned_in)))],
        "quarantined": [
            planted(ultrasound("two")),
            planted(ultrasound("two", number=2), PatientName=OTHER_NAME),
            planted(ultrasound("no-uid"), StudyInstanceUID="QUETZAL.XOCHITL"),
            planted(ultrasound("no-rows"), Rows=0),
            undecodable,
        ],
        "broken": [broken],
        "of no rule": [planted(chest("none", xray)), planted(ultrasound("codes"), **CODES)],
        "no image": [
            planted(
                ultrasound("photometric"),
                **CODES | {"Modality": "US"},
                PhotometricInterpretation="PHOTOJPEGMOA",
            )
        ],
        "refused": [planted(ultrasound("refused"), SOPInstanceUID=f"{PATIENT_ID}.QUETZAL")],
    }


@dataclass
class Watch:
    """What the node's processes showed to everybody of the machine while they ran, and names of its files."""

    node: Node
    seen: set[bytes] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    _over: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if os.getsid(int(path.name)) == self.node.pid:
                    self.seen |= {(path / kind).read_bytes() for kind in ("cmdline", "environ", "comm")}
            except OSError:  # it ended meanwhile
                continue
        self.names |= {
            str(Path(root, name)) for root, _, files in os.walk(self.node.folder) for name in files
        }

    @contextmanager
    def on(self) -> Iterator[None]:
        thread = threading.Thread(target=self._go_on)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _go_on(self) -> None:
        while not self._over.wait(0.2):
            self.look()


def printed(node: Node, *words: str) -> str:
    """What a verb prints on both streams."""
    done = CliRunner().invoke(cli.app, [*words, "--config", str(node.config)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@dataclass(frozen=True)
class Passed:
    """A node through which everything went."""

    node: Node
    pacs: Pacs
    watch: Watch
    mail: MailServer
    web: WebServer
    collector: Collector

    @property
    def data(self) -> Path:
        return self.node.folder / "var"


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Passed]:
    refuses_once = lambda _uid, times: 0xC123 if times == 1 else 0x0000
    folder, pacs = tmp_path_factory.mktemp("canaries"), Pacs(free_port(), answer=refuses_once)
    opened = ExitStack()
    mail, web = opened.enter_context(MailServer().running()), opened.enter_context(WebServer().running())
    collector = opened.enter_context(running_collector())
    places = {"mail": mail.port, "web": web.url, "collector": collector.endpoint}
    node = Node(folder, NODE_CONFIG.format(pacs=pacs.port, folder=folder, **places), alone=True)
    debug = node.config.read_text(encoding="utf-8").replace(
        "[listener]", 'log_level = "debug"\n[listener]', 1
    )
    node.config.write_text(debug, encoding="utf-8")
    sent = objects()
    with opened, run_pacs(pacs), running(node):
        watch = Watch(node)
        with watch.on():
            for name in ("good", "quarantined", "broken", "of no rule", "no image"):
                assert set(store(node.port, sent[name], "MODALITY")) == {0}, name
            assert store(node.port, sent["refused"], "MODALITY") == [0xC000]
            assert store(node.port, sent["good"], "STRANGER") == [None]
            for title in (MARKUP.encode(), b"\x1b[2J\x9b31m", b"\xe2\x80\xae\r\nFORGED"):
                with socket.create_connection(("127.0.0.1", node.port), timeout=60) as connection:
                    connection.sendall(request(APPLICATION + CONTEXT, calling=title))
                    connection.recv(100)
            node.wait_for(["delivered", "quarantined", "not_applicable", "failed"], count=9)
            wait_until(lambda: bool(mail.mails and web.calls and collector.bodies), 60, "sent to all")
        yield Passed(node, pacs, watch, mail, web, collector)


@pytest.mark.filterwarnings("ignore")
def test_the_canaries_were_in_it_and_are_found_where_they_belong(passed: Passed) -> None:
    states = sorted(study["state"] for study in passed.node.studies().values())
    assert states == ["delivered", "failed", "failed", *["not_applicable"] * 2, *["quarantined"] * 4]
    spooled = [path.read_bytes() for path in (passed.data / "spool").rglob("*") if path.is_file()]
    assert set().union(*map(birds, spooled)) >= set(TOKENS) - {"1877-02-13"}
    assert {"QUETZAL", PATIENT_ID} <= set().union(*map(birds, passed.pacs.stored.values()))
    hidden = [path.read_bytes() for path in (passed.data / "deidentified").rglob("*.dcm")]
    assert hidden
    assert set().union(*map(birds, hidden)) == set()


@pytest.mark.filterwarnings("ignore")
def test_no_log_names_anybody_at_debug_level(passed: Passed) -> None:
    log = passed.node.log.read_text(encoding="utf-8")
    lines = log.splitlines()
    assert [line for line in lines if birds(line)] == []
    levels = [json.loads(line)["level"] for line in lines if line.startswith("{")]
    assert "debug" in levels
    assert len(levels) > 50
    assert not any(sign in log for sign in "\x1b\x9b\u202e\r")


@pytest.mark.filterwarnings("ignore")
def test_no_table_holds_more_than_the_index_needs(passed: Passed) -> None:
    found = []
    with closing(sqlite3.connect(passed.data / "node.db")) as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        assert {"event", "association", "job", "delivery", "study"} <= set(tables)
        for table in tables:
            rows = database.execute(f"select * from {table}")
            columns = [column[0] for column in rows.description]
            for row in rows:
                for column, value in zip(columns, row, strict=True):
                    text = value if isinstance(value, bytes) else str(value)
                    if more := birds(text) - HELD_IN_THE_INDEX.get((table, column), set()):
                        found.append((table, column, more, text))
    assert found == []


@pytest.mark.filterwarnings("ignore")
def test_no_other_file_of_the_node_and_no_name_of_a_file_has_one(passed: Passed) -> None:
    objects_of_dicom = ("spool", "results", "deidentified", "node.db")
    searched = [
        path
        for path in passed.data.rglob("*")
        if path.is_file() and not path.relative_to(passed.data).parts[0].startswith(objects_of_dicom)
    ]
    assert {"policy.json"} <= {path.name for path in searched}
    assert len(searched) > 2
    assert any("journal" in path.parts for path in searched)
    assert [path for path in searched if birds(path.read_bytes())] == []
    assert len(passed.watch.names) > 20
    assert [name for name in passed.watch.names if birds(name)] == []


@pytest.mark.filterwarnings("ignore")
def test_no_command_line_or_environment_has_one(passed: Passed) -> None:
    assert sum(b"dicom_node" in text for text in passed.watch.seen) >= 4, "node, listener, inspector, worker"
    assert [text for text in passed.watch.seen if birds(text)] == []


VERBS: Sequence[tuple[str, ...]] = (
    ("events", "list", "--limit", "0"),
    ("associations", "list"),
    ("jobs", "list"),
    ("jobs", "show", "1"),
    ("outbox", "list"),
    ("peers", "why", "modality"),
    ("models", "drift"),
)


@pytest.mark.filterwarnings("ignore")
def test_no_verb_that_shows_no_patients_shows_one(passed: Passed) -> None:
    for words in VERBS:
        for form in ((), ("--json",)):
            output = printed(passed.node, *words, *form)
            assert output, words
            assert birds(output) == set(), words
            assert not any(sign in output for sign in "\x1b\x9b\u202e\r"), words
    events = json.loads(printed(passed.node, *VERBS[0], "--json"))
    numbers = {row["number"] for row in events}
    assert {1004, 1005, 2004, 2005, 3006, 3010, 3022, 5002, 5003} <= numbers, (
        "each of these might have told something"
    )
    assert MARKUP in {row["fields"].get("calling") for row in events}


@pytest.mark.filterwarnings("ignore")
def test_lists_of_studies_show_the_patient_id_only(passed: Passed) -> None:
    listed = passed.node.studies()
    assert birds(json.dumps(list(listed.values()))) == {PATIENT_ID, CODES["Modality"]}  # a column of the list
    uid = next(str(study["study_instance_uid"]) for study in listed.values() if study["state"] == "delivered")
    assert birds(printed(passed.node, "studies", "show", uid, "--json")) == {PATIENT_ID}


@pytest.mark.filterwarnings("ignore")
def test_nothing_that_is_sent_to_others_has_one(passed: Passed) -> None:
    """Webhooks, e-mail, traces."""
    hooks = [json.dumps(call) for call in passed.web.calls]
    mails = [mail.as_string() + str(mail.get_content()) for mail in passed.mail.mails]
    assert "unknown (9 characters)" in "".join(hooks), "the reason why no rule takes it"
    for sent in (hooks, mails, passed.collector.bodies):
        assert sent
        assert [text for text in sent if birds(text)] == []
