"""Callers that never end, never answer or send what is no association."""

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.sender import (
    Rejected,
    associate,
    associate_request,
    command_set,
    p_data,
    store_command,
)
from dicom_node.base.events import (
    ASSOCIATION_ABORTED,
    ASSOCIATION_REJECTED,
    CONNECTIONS_FAILED,
)
from tests.hostile.association_lab import (
    APPLICATION,
    CONTEXT,
    ECHO,
    MIB,
    STORAGE,
    command,
    connect,
    is_cut,
    item,
    mutated,
    nobody_notices,
    request,
    send_until_cut,
)
from tests.waiting import wait_until
from tests.wire.receiver import US, VERIFICATION, Receiver, receiving
from tests.wire.receiver import ultrasound as small_object


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
    receiver.wait_until_nothing_is_open()


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
        receiver.wait_until_nothing_is_open()


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
