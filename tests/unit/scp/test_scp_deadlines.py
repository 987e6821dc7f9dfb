"""The socket of an association: deadlines of any length, and an end from another thread."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from dicom_node.scp.connection.deadline import Deadline, DeadlineSocket
from tests.node_lab import in_background
from tests.wire.test_receive_policy import Authority


def reading_from(connection: socket.socket) -> DeadlineSocket:
    made = DeadlineSocket.__new__(DeadlineSocket)
    made.socket, made._limits = connection, {}
    return made


@contextmanager
def connected() -> Iterator[tuple[DeadlineSocket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(3)
        yield reading_from(ours), theirs


@pytest.mark.parametrize("seconds", [0.2, 1, 100, 200, 300, 600, 1000])
def test_a_deadline_of_any_length_can_be_set(seconds: float) -> None:
    with connected() as (reader, sender):
        for _ in range(200):
            reader.deadline = Deadline(seconds)
            sender.sendall(b"abc")
            assert reader.recv(3) == b"abc"


def test_a_silent_peer_is_given_up_at_its_deadline() -> None:
    with connected() as (reader, sender):
        sender.sendall(b"ab")
        reader.deadline = Deadline(0.2)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            reader.recv(3)
    assert 0.1 < time.monotonic() - began < 60


def test_a_thread_that_is_woken_never_reads_ciphertext(tmp_path: Path) -> None:
    """All that is sent are zeros; it is woken while more of them wait in the system than it has read."""
    authority = Authority(tmp_path, "ours")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.certify("listener"))
    client = ssl.create_default_context(cafile=str(authority.certificate))
    for _ in range(20):
        with connected() as (reader, theirs), over_tls(reader, theirs, context, client) as sender:
            data = bytearray(10**6)
            reading = in_background(lambda data=data, reader=reader: fill(reader, data))
            with suppress(OSError):
                sender.sendall(bytes(300_000))
            reader.interrupt()
            reading.join(10)
            assert not reading.is_alive()
        assert not any(data)


def fill(reader: DeadlineSocket, data: bytearray) -> None:
    reader.deadline = Deadline(5)
    with suppress(OSError):
        reader.recv_into(memoryview(data))


@contextmanager
def over_tls(
    reader: DeadlineSocket, theirs: socket.socket, server: ssl.SSLContext, client: ssl.SSLContext
) -> Iterator[ssl.SSLSocket]:
    def accept() -> None:
        reader.socket.settimeout(3)
        reader.socket = server.wrap_socket(reader.socket, server_side=True)

    accepting = in_background(accept)
    with client.wrap_socket(theirs, server_hostname="127.0.0.1") as sender:
        accepting.join(10)
        with reader.socket:
            yield sender
