"""Messages that never end, or have too much of everything: cut off in bounded memory, beside good ones."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from benchmarks.sender import associate, p_data, store_command
from dicom_node.events import ASSOCIATION_ABORTED, ASSOCIATION_REJECTED, CONNECTIONS_FAILED, STORE_REFUSED
from dicom_node.scp.connection import limits
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
    send_until_cut,
)
from tests.wire.receiver import EXPLICIT, US, VERIFICATION, Receiver, receiving, ultrasound, wait_until

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


def test_an_object_beyond_the_limit_is_refused_and_a_good_one_after_it_taken(receiver: Receiver) -> None:
    with nobody_notices(receiver):
        association = associate(receiver.address, STORAGE)
        assert association.store(1, ultrasound(1, pixels=600_000)) == 0xC001
        assert receiver.events(STORE_REFUSED)[-1].fields["status"] == "C001"
        assert association.store(1, ultrasound(2)) == 0x0000
        endless = b"".join(p_data(1, store_command(US, "1.2.3", 1), True, 16384))
        association.sock.sendall(endless)
        fragment = struct.pack(">BBIIBB", 4, 0, 100_006, 100_002, 1, 0) + bytes(100_000)
        assert send_until_cut(association.sock, fragment, 1000) < 40 * MIB
        association.sock.close()
    wait_until(lambda: not [name for name in receiver.files() if name.startswith(".")])


@pytest.mark.parametrize(
    "data",
    [
        request(b"", length=2**31),
        request(APPLICATION + CONTEXT * (limits.CONTEXTS + 1)),
        request(APPLICATION + item(0x20, bytes((1, 0, 0, 0)) + item(0x40, b"") * 16_000)),
        request(APPLICATION + CONTEXT + item(0x50, item(0x58, b"\1\0\xff\xf0" + bytes(65_000))) * 3),
        request(APPLICATION + CONTEXT + item(0x50, item(0x54, b"") * 16_000)),
        request(APPLICATION + CONTEXT + item(0x50, item(0x58, bytes(65_000))) * 40),
        request(item(0x10, b"") * 60_000),
        request(APPLICATION + item(0x20, bytes((1, 0, 0, 0)))),
    ],
    ids=["2 GiB", "contexts", "syntaxes", "user identities", "roles", "2.6 MB", "items", "no syntax"],
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
