"""One loop that reads the messages of many associations (``listener.event_loop``).

The threads of an association negotiate, release and abort; in between they lend their connection to the loop
and sleep, so that many associations do not contend for the interpreter. One thread reads all lent connections
and never waits for a peer. The last fragment of a data set, whose object has to be synced before the answer,
goes to one of a few other threads, and so does a PDU of several fragments. Messages are read and answered by
the code that does so without the loop (``scp/dimse.py``). Whatever is no P-DATA of usual length goes back to
the association's own threads with all bytes that nobody has taken, and so does a peer that does not read our
answers.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Protocol

from dicom_node.scp.connection.deadline import Deadline
from dicom_node.scp.connection.pdus import P_DATA_TF

_LOGGER = logging.getLogger(__name__)

_BUFFER = 2**19  # bytes: some PDUs at once, and the longest that is read here
_BUFFERS_KEPT = 32
_THREADS = 64  # as many objects are synced at the same time; a slow disk takes many at once
_AT_ONCE = 64  # PDUs of one association that others wait for, in the thread that reads and in the others
_LOOK_SECONDS = 0.25  # at the deadlines
_PDU_HEAD = struct.Struct(">BxI")
_FRAGMENT_HEAD = struct.Struct(">IxB")  # of a PDV: length, message control header (PS3.8 9.3.5.1, E.2)
_KIND, _LAST_OF_DATA = 3, 2


class Lender(Protocol):
    """The own thread of an association, which sleeps while its connection is lent."""

    deadline: Deadline

    @property
    def within_message(self) -> bool:
        """Whether more of a message must come."""

    @property
    def may_go_on(self) -> bool:
        """Whether nothing happened that its own threads have to look at."""

    def renew_deadline(self) -> None:
        """The next message begins."""

    def take(self, body: memoryview) -> None:
        """Serve what is in a P-DATA-TF. Raises ValueError, before anything is served, where it is none."""

    def set_busy(self, busy: bool) -> None:
        """Whether a message is being read; after it the peer may be idle for a while."""

    def forgive(self, seconds: float) -> None:
        """Nothing was read for so long, which was not the peer's doing."""

    def fail(self, error: Exception) -> None:
        """Abort because of an error of our own."""

    def wake(self) -> None:
        """Its connection is not read here any more."""


class Channel:
    """A lent connection. One thread at a time works on it, and holds it ``busy``."""

    def __init__(self, lender: Lender, connection: socket.socket, largest: int) -> None:
        self.lender, self.connection = lender, connection
        self.file = connection.fileno()
        self.largest = min(largest, _BUFFER - _PDU_HEAD.size)
        self.active = True
        """False: given back, or wanted back."""
        self.readable = self.late = False
        """Why it was given back: there is something to read, or a message came too slowly."""
        self.view: memoryview | None = None
        self.start = self.end = 0  # of what came and was not taken, in ``view``
        self.due = float("inf")  # when more of a message must have come
        self.busy = self.muted = False
        self.changed = threading.Condition()


class MessageLoop:
    """A thread that reads, and a few that make objects durable; they run as long as the process."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._channels: dict[int, Channel] = {}
        self._buffers: list[memoryview] = []
        self._work: queue.SimpleQueue[Channel] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name="loop", daemon=True),
            *(threading.Thread(target=self._serve, name="store", daemon=True) for _ in range(_THREADS)),
        ]
        for thread in self._threads:
            thread.start()

    def is_alive(self) -> bool:
        """Whether all of its threads run."""
        return all(thread.is_alive() for thread in self._threads)

    def lend(self, lender: Lender, connection: socket.socket, largest: int) -> Channel:
        """Read this connection from now on; ``largest``: bytes of a P-DATA-TF that is still allowed."""
        channel = Channel(lender, connection, largest)
        self._epoll.register(channel.file, select.EPOLLIN)
        self._channels[channel.file] = channel
        return channel

    def take_back(self, channel: Channel) -> bytes:
        """Return what came and was not taken, when nothing here works on the connection any more."""
        with channel.changed:
            channel.active = False
            while channel.busy:
                channel.changed.wait()
        self._forget(channel)
        unread = b"" if channel.view is None else bytes(channel.view[channel.start : channel.end])
        self._free(channel)
        return unread

    def _run(self) -> None:
        looked_at = time.monotonic()
        while True:
            ready = self._epoll.poll(_LOOK_SECONDS if self._channels else 1.0)
            began = time.monotonic()
            for file, _ in ready:
                channel = self._channels.get(file)
                if channel is not None and self._hold(channel):
                    with self._failing_alone(channel):
                        self._read(channel)
            now = time.monotonic()
            if now - began > _LOOK_SECONDS:  # our disk or processor held all others up
                self._forgive(now - began)
            if now - looked_at >= _LOOK_SECONDS:
                looked_at = now
                self._cut_late(now)

    def _serve(self) -> None:
        while True:
            channel = self._work.get()
            with self._failing_alone(channel):
                self._proceed(channel, may_wait=True)
            del (
                channel
            )  # what its association holds is freed with it, however long the next one takes to come

    @contextlib.contextmanager
    def _failing_alone(self, channel: Channel) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - only its own association may end
            channel.lender.fail(error)
            self._give_back(channel)

    def _read(self, channel: Channel) -> None:
        lender = channel.lender
        if channel.view is None:
            channel.view = self._buffers.pop() if self._buffers else memoryview(bytearray(_BUFFER))
            lender.set_busy(True)
        try:
            count = channel.connection.recv_into(channel.view[channel.end :], 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._let_go(channel)
            return
        except OSError:
            count = 0
        if not count:
            channel.readable = True
            self._give_back(channel)
            return
        if not channel.end and not lender.within_message:
            lender.renew_deadline()
        lender.deadline.extend(count)
        channel.end += count
        self._proceed(channel, may_wait=False)

    def _proceed(self, channel: Channel, *, may_wait: bool) -> None:
        """Take one PDU after the other until one is not whole, or not for this thread."""
        lender, view = channel.lender, channel.view
        assert view is not None
        taken = 0
        while channel.active and channel.end - channel.start >= _PDU_HEAD.size:
            kind, length = _PDU_HEAD.unpack_from(view, channel.start)
            if kind != P_DATA_TF or length > channel.largest:
                self._give_back(channel)
                return
            begin = channel.start + _PDU_HEAD.size
            if channel.end - begin < length:
                break
            body = view[begin : begin + length]
            if taken >= _AT_ONCE or not (may_wait or _is_quick(body)):
                self._work.put(channel)
                return
            try:
                lender.take(body)
            except ValueError:  # its own thread finds the same, and aborts
                self._give_back(channel)
                return
            taken += 1
            channel.start = begin + length
            if not lender.may_go_on:
                self._give_back(channel)
                return
            if channel.start < channel.end and not lender.within_message:
                lender.renew_deadline()
        self._let_go(channel)

    def _hold(self, channel: Channel) -> bool:
        """Begin to work on a connection, unless another thread does, or has just given it back."""
        with channel.changed:
            if self._channels.get(channel.file) is not channel:
                return False
            if channel.busy:  # what comes ahead of the answer to the message before waits in the kernel
                if not channel.muted:
                    channel.muted = True
                    self._epoll.unregister(channel.file)
                return False
            channel.busy = channel.active
            return channel.active

    def _let_go(self, channel: Channel) -> None:
        """Wait for more, for a while if a message is not whole."""
        lender, view = channel.lender, channel.view
        if view is not None and channel.active:
            left = channel.end - channel.start
            if channel.start:
                view[:left] = view[channel.start : channel.end]
            channel.start, channel.end = 0, left
            if left or lender.within_message:
                channel.due = time.monotonic() + lender.deadline.seconds
            else:
                channel.due = float("inf")
                self._free(channel)
                lender.set_busy(False)
        self._release(channel)

    def _give_back(self, channel: Channel) -> None:
        """To its own thread, with what was not taken."""
        channel.readable = channel.readable or channel.end > channel.start
        with channel.changed:
            channel.active = False
        self._forget(channel)
        self._release(channel)
        channel.lender.wake()

    def _release(self, channel: Channel) -> None:
        with channel.changed:
            channel.busy = False
            if channel.muted and channel.active:
                channel.muted = False
                self._epoll.register(channel.file, select.EPOLLIN)
            channel.changed.notify_all()

    def _forget(self, channel: Channel) -> None:
        with channel.changed:  # the thread that reads may be about to mute it
            if self._channels.get(channel.file) is channel:
                del self._channels[channel.file]
                if not channel.muted:
                    self._epoll.unregister(channel.file)

    def _free(self, channel: Channel) -> None:
        view, channel.view = channel.view, None
        if view is not None and len(self._buffers) < _BUFFERS_KEPT:
            self._buffers.append(view)

    def _forgive(self, seconds: float) -> None:
        for channel in self._channels.copy().values():
            with channel.changed:
                if channel.active and not channel.busy:
                    channel.due += seconds
                    channel.lender.forgive(seconds)

    def _cut_late(self, now: float) -> None:
        for channel in [one for one in self._channels.copy().values() if one.due < now]:
            with channel.changed:
                if channel.busy or not channel.active or channel.due >= now:
                    continue
                channel.busy = channel.late = True
            self._give_back(channel)


def _is_quick(body: memoryview) -> bool:
    """Whether a P-DATA-TF is one fragment that does not have to be synced."""
    if len(body) < _FRAGMENT_HEAD.size:
        return False
    length, header = _FRAGMENT_HEAD.unpack_from(body)
    return bool(length == len(body) - 4 and header & _KIND != _LAST_OF_DATA)
