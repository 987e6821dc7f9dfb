"""The socket of one association: each read and write is within a limit of time.

Without TLS the socket is blocking, the kernel keeps the time (``SO_RCVTIMEO``) and returns when all bytes are
there (``MSG_WAITALL``): each system call releases the interpreter and has to get it back from the threads of
all other associations, which costs more than the call.
"""

import contextlib
import socket
import ssl
import struct
import time

from dicom_node.scp.connection import limits

_CLOSING = 0.5  # seconds that a peer has to close after the last PDU, before we do (Sta13)


class DeadlineSocket:
    """A connection whose reads end by a deadline; a write that waits for ``send_seconds`` fails."""

    def __init__(self, connection: socket.socket, seconds: float, send_seconds: float) -> None:
        self._socket, self.send_seconds = connection, send_seconds
        self._limits: dict[int, float] = {}
        self.allow(seconds)

    def allow(self, seconds: float, bytes_per_second: float = float("inf")) -> None:
        """What is read next must come within ``seconds``, and a second more for ``bytes_per_second`` of it.

        The peer must not be silent for longer than twice ``seconds``.
        """
        self._longest, self._bytes_per_second = seconds, bytes_per_second
        self._until = time.monotonic() + seconds

    def shake_hands(self) -> None:
        """The handshake of TLS, if it is used. Raises OSError."""
        if isinstance(self._socket, ssl.SSLSocket):
            self._socket.settimeout(max(self._until - time.monotonic(), 0.001))
            self._socket.do_handshake()

    def read(self, view: memoryview) -> memoryview:
        """Fill ``view`` and return it. Raises TimeoutError; OSError, also where the peer has closed."""
        count = 0
        while count < len(view):
            if (seconds := self._until - time.monotonic()) <= 0:
                raise TimeoutError
            self._limit(socket.SO_RCVTIMEO, min(self._longest, seconds))
            try:
                if isinstance(self._socket, ssl.SSLSocket):
                    received = self._socket.recv_into(view[count:])
                else:
                    received = self._socket.recv_into(view[count:], 0, socket.MSG_WAITALL)
            except BlockingIOError:
                raise TimeoutError from None
            if not received:
                raise ConnectionError
            count += received
            self._until += received / self._bytes_per_second
        return view

    def send(self, data: bytes) -> None:
        """Send all of ``data``. Raises OSError, also where the peer does not read."""
        self._limit(socket.SO_SNDTIMEO, self.send_seconds)
        self._socket.sendall(data)

    def interrupt(self) -> None:
        """Wake the thread that reads: nothing more comes. From any thread."""
        with contextlib.suppress(OSError):
            # Not SSLSocket's own: that goes on without TLS, and what is read then is ciphertext.
            socket.socket.shutdown(self._socket, socket.SHUT_RD)

    def close(self) -> None:
        """Drop what still comes, so that the peer reads our last PDU; close when it does not, or goes on."""
        end, left = time.monotonic() + _CLOSING, limits.DROPPED
        with contextlib.suppress(OSError):
            while left > 0 and (seconds := end - time.monotonic()) > 0:
                self._limit(socket.SO_RCVTIMEO, seconds)
                left -= len(self._socket.recv(2**16)) or left
        self._socket.close()

    def _limit(self, option: int, seconds: float) -> None:
        """How long the next call may wait. A deadline that has hardly moved is not set again."""
        if isinstance(self._socket, ssl.SSLSocket):
            self._socket.settimeout(seconds)
        elif not 0.98 * seconds <= self._limits.get(option, 0.0) <= seconds:
            microseconds = max(1, int(990_000 * seconds))
            pair = struct.pack("ll", *divmod(microseconds, 10**6))
            self._socket.setsockopt(socket.SOL_SOCKET, option, pair)
            self._limits[option] = microseconds / 1e6
