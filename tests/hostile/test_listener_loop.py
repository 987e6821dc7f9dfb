"""``listener.event_loop`` changes no answer: mutated messages to a listener with it and to one without."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.sender import Association, Stored, associate, load
from dicom_node.events import ASSOCIATION_ABORTED
from tests.hostile.attacker import STORAGE
from tests.hostile.mutation import mutated
from tests.wire.receiver import Receiver, receiving, ultrasound, wait_until

_SEED = 20261122


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Receiver, Receiver]]:
    with (
        receiving(tmp_path_factory.mktemp("threads"), network_timeout_seconds=3) as threads,
        receiving(tmp_path_factory.mktemp("loop"), network_timeout_seconds=3, event_loop=True) as loop,
    ):
        yield threads, loop


def test_mutated_messages_get_the_same_bytes_as_without_the_loop(pair: tuple[Receiver, Receiver]) -> None:
    chance = random.Random(_SEED)
    for number in range(100):
        encoded = [_encoded(10 * number + k) for k in range(3)]
        encoded[1] = mutated(encoded[1], chance)
        data = b"".join(encoded)
        answers = [_answers(receiver, data) for receiver in pair]
        assert answers[0] == answers[1], f"message {number}"
    stored = [{(one.sop_instance_uid, one.data_set) for one in _spooled(receiver)} for receiver in pair]
    assert stored[0] == stored[1]
    assert len(stored[0]) >= 100


def test_the_loop_reads_a_sender_and_nobody_else(pair: tuple[Receiver, Receiver]) -> None:
    threads, loop = pair
    opened = [associate(threads.address, STORAGE), associate(loop.address, STORAGE, calling="PACS")]
    assert [_lent(receiver) for receiver in pair] == [0, 0]
    opened.append(associate(loop.address, STORAGE))
    wait_until(lambda: _lent(loop) == 1)
    for association in opened:
        association.release()
    wait_until(lambda: _lent(loop) == 0)


def test_the_reason_of_each_end_is_the_same(pair: tuple[Receiver, Receiver]) -> None:
    reasons = []
    for receiver in pair:
        before = len(receiver.events(ASSOCIATION_ABORTED))
        silent = associate(receiver.address, STORAGE)
        halved = associate(receiver.address, STORAGE)
        halved.sock.sendall(_of(halved, 1)[:500])
        cut = associate(receiver.address, STORAGE)
        cut.sock.sendall(_of(cut, 2)[:500])
        cut.sock.close()
        associate(receiver.address, STORAGE).abort()
        wait_until(
            lambda receiver=receiver, before=before: len(receiver.events(ASSOCIATION_ABORTED)) >= before + 4
        )
        reasons.append(sorted(str(one.fields["reason"]) for one in receiver.events(ASSOCIATION_ABORTED)[-4:]))
        for association in (silent, halved):
            association.sock.close()
    assert reasons[0] == reasons[1]
    assert any("too slow" in reason for reason in reasons[0])
    assert any("idle" in reason for reason in reasons[0])


def _encoded(number: int) -> bytes:
    association = Association(socket.socket(), 16384, {}, {})
    association.sock.close()
    return association.encode_store(1, ultrasound(number, pixels=300))


def _of(association: Association, number: int) -> bytes:
    return association.encode_store(1, ultrasound(number, pixels=2000))


def _answers(receiver: Receiver, data: bytes) -> bytes:
    """All that comes back until the listener closes."""
    sock = associate(receiver.address, STORAGE).sock
    sock.settimeout(20)
    answers = b""
    try:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        while part := sock.recv(4096):
            answers += part
    except ConnectionError:
        pass  # it had enough
    finally:
        sock.close()
    return answers


def _spooled(receiver: Receiver) -> list[Stored]:
    return [load(path) for path in receiver.spool.pending()]


def _lent(receiver: Receiver) -> int:
    """Connections that an epoll of the listener waits for."""
    count = 0
    for one in Path(f"/proc/{receiver.process.pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            count += one.read_text().count("tfd:")
    return count
