"""The loop that reads lent connections: which thread takes what, and what is given back."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from dicom_node.scp.connection import loop as loops
from dicom_node.scp.connection.deadline import Deadline
from dicom_node.scp.connection.loop import Channel, MessageLoop

RELEASE = bytes((5, 0, 0, 0, 0, 4, 0, 0, 0, 0))
COMMAND, DATA, LAST_OF_DATA = 3, 0, 2


class Lender:
    """Notes what it has to take, and in which thread."""

    def __init__(self) -> None:
        self.deadline = Deadline(60)
        self.seconds = 60.0
        self.within_message = False
        self.may_go_on = True
        self.taken: list[tuple[str, int]] = []
        self.busy = False
        self.slowness = 0.0  # seconds that our own disk takes
        self.forgiven = 0.0
        self.awake = threading.Event()
        self.came = threading.Event()
        self.goes_on = threading.Event()
        self.goes_on.set()

    def renew_deadline(self) -> None:
        self.deadline = Deadline(self.seconds)

    def take(self, body: memoryview) -> None:
        header = body[5]
        self.within_message = header != LAST_OF_DATA
        self.taken.append((threading.current_thread().name, header))
        self.came.set()
        time.sleep(self.slowness)
        if header == LAST_OF_DATA:
            assert self.goes_on.wait(20)

    def set_busy(self, busy: bool) -> None:
        self.busy = busy

    def forgive(self, seconds: float) -> None:
        self.forgiven += seconds
        self.deadline.forgive(seconds)

    def fail(self, error: Exception) -> None:
        raise AssertionError from error

    def wake(self) -> None:
        self.awake.set()


@pytest.fixture(scope="module")
def loop() -> MessageLoop:
    return MessageLoop()


@pytest.fixture
def peer() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def pdu(header: int, size: int = 10) -> bytes:
    return struct.pack(">BxIIBB", 4, size + 6, size + 2, 1, header) + bytes(size)


def given_back(loop: MessageLoop, lender: Lender, channel: Channel) -> bytes:
    assert lender.awake.wait(20)
    return loop.take_back(channel)


def test_only_what_must_be_synced_leaves_the_thread_that_reads(
    loop: MessageLoop, peer: tuple[socket.socket, socket.socket]
) -> None:
    lender = Lender()
    channel = loop.lend(lender, peer[0], 2**20)
    peer[1].sendall(pdu(COMMAND) + pdu(DATA, 100_000) + pdu(LAST_OF_DATA) + RELEASE)
    assert given_back(loop, lender, channel) == RELEASE
    assert lender.taken == [("loop", COMMAND), ("loop", DATA), ("store", LAST_OF_DATA)]
    assert channel.readable


def test_many_small_pdus_of_one_association_do_not_hold_the_others_up(
    loop: MessageLoop, peer: tuple[socket.socket, socket.socket]
) -> None:
    lender = Lender()
    pieces = pdu(DATA, 1) * 2000
    peer[1].sendall(pieces)
    channel = loop.lend(lender, peer[0], 2**20)
    peer[1].sendall(RELEASE)
    assert given_back(loop, lender, channel) == RELEASE
    names = [name for name, _ in lender.taken]
    assert len(names) == 2000
    assert "store" in names
    assert names[:65].count("loop") <= 64


def test_what_comes_while_an_object_is_synced_waits_for_its_turn(
    loop: MessageLoop, peer: tuple[socket.socket, socket.socket]
) -> None:
    lender = Lender()
    lender.goes_on.clear()
    channel = loop.lend(lender, peer[0], 2**20)
    peer[1].sendall(pdu(LAST_OF_DATA))
    assert lender.came.wait(20)
    for _ in range(3):
        peer[1].sendall(pdu(COMMAND))
    assert len(lender.taken) == 1
    lender.goes_on.set()
    peer[1].sendall(RELEASE)
    assert given_back(loop, lender, channel) == RELEASE
    assert [header for _, header in lender.taken] == [LAST_OF_DATA, *[COMMAND] * 3]


@pytest.mark.parametrize("largest", [2**20, 50], ids=["not P-DATA", "beyond its largest length"])
def test_what_is_no_usual_p_data_is_given_back_whole(
    loop: MessageLoop, peer: tuple[socket.socket, socket.socket], largest: int
) -> None:
    lender = Lender()
    channel = loop.lend(lender, peer[0], largest)
    unusual = RELEASE if largest > 50 else pdu(DATA, 100)
    peer[1].sendall(pdu(COMMAND) + unusual)
    assert given_back(loop, lender, channel) == unusual
    assert [header for _, header in lender.taken] == [COMMAND]


def test_half_a_pdu_is_late_in_its_time_and_no_message_never(
    loop: MessageLoop, peer: tuple[socket.socket, socket.socket]
) -> None:
    lender = Lender()
    lender.seconds = 0.3
    channel = loop.lend(lender, peer[0], 2**20)
    assert not lender.awake.wait(1)
    peer[1].sendall(pdu(DATA)[:9])
    assert given_back(loop, lender, channel) == pdu(DATA)[:9]
    assert channel.late


def test_a_peer_that_closes_is_given_back(
    loop: MessageLoop, peer: tuple[socket.socket, socket.socket]
) -> None:
    lender = Lender()
    channel = loop.lend(lender, peer[0], 2**20)
    peer[1].close()
    assert given_back(loop, lender, channel) == b""
    assert channel.readable
    assert not channel.late


def test_a_peer_is_not_late_when_our_own_disk_held_the_loop_up(
    loop: MessageLoop, peer: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        victim, other = Lender(), Lender()
        victim.seconds, other.slowness = 1.5, 3.0
        of_victim, of_other = loop.lend(victim, ours, 2**20), loop.lend(other, peer[0], 2**20)
        theirs.sendall(pdu(DATA, 1000)[:500])
        while not of_victim.end:
            time.sleep(0.01)
        peer[1].sendall(pdu(DATA))
        assert other.came.wait(20)
        theirs.sendall(pdu(DATA, 1000)[500:])
        assert victim.came.wait(20), "what came meanwhile is read"
        assert not of_victim.late
        assert victim.forgiven > 2
        loop.take_back(of_victim)
        loop.take_back(of_other)


def test_a_store_thread_does_not_stay_with_one_association(
    peer: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "_THREADS", 1)
    loop = MessageLoop()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        busy, other = Lender(), Lender()
        busy.slowness = 0.003
        channels = loop.lend(busy, peer[0], 2**20), loop.lend(other, ours, 2**20)
        peer[1].sendall(pdu(DATA) * 1000)
        assert busy.came.wait(20)
        theirs.sendall(pdu(LAST_OF_DATA))
        assert other.came.wait(20)
        assert len(busy.taken) < 500
        for channel in channels:
            loop.take_back(channel)


def test_what_comes_just_as_a_connection_is_given_back_ends_no_thread(
    peer: tuple[socket.socket, socket.socket],
) -> None:
    looked_up, released = threading.Event(), threading.Event()

    class Channels(dict[int, Channel]):
        """The thread that reads looks a connection up, and goes on when another thread has given it back."""

        def get(self, file: int, default: Channel | None = None) -> Channel | None:  # type: ignore[override]
            found = super().get(file, default)
            if threading.current_thread().name == "loop" and channel.busy and not looked_up.is_set():
                looked_up.set()
                while file in self:
                    time.sleep(0.001)
            return found

    class Loop(MessageLoop):
        def _release(self, channel: Channel) -> None:
            assert channel.active or released.wait(20)
            super()._release(channel)

    loop, lender, other = Loop(), Lender(), Lender()
    loop._channels = Channels()
    lender.goes_on.clear()
    channel = loop.lend(lender, peer[0], 2**20)
    peer[1].sendall(pdu(LAST_OF_DATA))
    assert lender.came.wait(20)
    peer[1].sendall(pdu(COMMAND))
    assert looked_up.wait(20)
    lender.may_go_on = False  # the peer does not read our answers, say
    lender.goes_on.set()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        of_other = loop.lend(other, ours, 2**20)
        theirs.sendall(pdu(COMMAND))
        assert other.came.wait(20), "the loop goes on to read"
        released.set()
        given_back(loop, lender, channel)
        loop.take_back(of_other)
    assert loop.is_alive()
