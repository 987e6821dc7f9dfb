"""The socket of an association, with time limits for each read and write."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from typing import Any

from pynetdicom.transport import AssociationSocket


class Deadline:
    """The time by which a peer must complete a message: ``seconds`` from now, later with each byte received.

    ``bytes_per_second``: the slowest allowed rate. The peer must not be silent for longer than twice
    ``seconds``.
    """

    def __init__(self, seconds: float, bytes_per_second: float = float("inf")) -> None:
        self._longest = seconds
        self._until = time.monotonic() + seconds
        self._bytes_per_second = bytes_per_second

    def extend(self, count: int) -> None:
        """Extend the deadline, because ``count`` bytes have been received."""
        self._until += count / self._bytes_per_second

    @property
    def seconds(self) -> float:
        """The seconds to wait for the next bytes; zero or negative when the time is over."""
        return min(self._longest, self._until - time.monotonic())


class DeadlineSocket(AssociationSocket):  # type: ignore[misc]
    """The socket of one association. ``deadline`` and ``send_seconds`` are set before it is used."""

    deadline: Deadline
    send_seconds: float

    def __init__(self, association: Any, connection: socket.socket) -> None:
        super().__init__(association, client_socket=connection)
        self._limits: dict[int, float] = {}

    def recv(self, nr_bytes: int) -> bytearray:
        """Read exactly ``nr_bytes``, or fewer if the connection was closed. Raises OSError."""
        data = bytearray(nr_bytes)
        with memoryview(data) as view:
            count = self.recv_into(view)
        del data[count:]
        return data

    def recv_into(self, view: memoryview) -> int:
        """Fill ``view``; returns the number of bytes read, fewer if the connection was closed. Raises
        OSError.
        """
        count = 0
        while count < len(view):
            seconds = self.deadline.seconds
            if seconds <= 0:
                raise TimeoutError
            received = self._receive(view[count:], seconds)
            if not received:
                break
            count += received
            self.deadline.extend(received)
        return count

    def send(self, bytestream: bytes) -> None:
        """Send all of ``bytestream``; a peer that does not read loses its connection (Evt17)."""
        try:
            self._limit(socket.SO_SNDTIMEO, self.send_seconds)
            self.socket.sendall(bytestream)
        except (OSError, AttributeError):
            self.event_queue.put("Evt17")

    def interrupt(self) -> None:
        """Wake the thread that reads or sends; it then finds the connection lost."""
        with contextlib.suppress(OSError, TypeError):
            # Not SSLSocket's own: that goes on without TLS, and what is read then is ciphertext.
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def drop(self, limit: int, seconds: float) -> int:
        """Read and discard received bytes, at most ``limit``; returns how many. Raises OSError."""
        self._limit(socket.SO_RCVTIMEO, seconds)
        return len(self.socket.recv(limit))

    def _receive(self, view: memoryview, seconds: float) -> int:
        self._limit(socket.SO_RCVTIMEO, seconds)
        if isinstance(self.socket, ssl.SSLSocket):
            return self.socket.recv_into(view)
        try:
            return int(self.socket.recv_into(view, len(view), socket.MSG_WAITALL))
        except BlockingIOError:
            raise TimeoutError from None

    def _limit(self, option: int, seconds: float) -> None:
        """How long the next call may wait. A deadline that has hardly moved is not set again."""
        if isinstance(self.socket, ssl.SSLSocket):
            self.socket.settimeout(seconds)
        elif not 0.98 * seconds <= self._limits.get(option, 0.0) <= seconds:
            microseconds = max(1, int(990_000 * seconds))
            self.socket.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", *divmod(microseconds, 10**6)))
            self._limits[option] = microseconds / 1e6
