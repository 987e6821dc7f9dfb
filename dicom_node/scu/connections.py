"""A deadline for every call: connections can be cut off while another thread is blocked on them.

Time-outs of single reads and writes do not suffice: a line that moves one byte now and then never reaches
them, and pynetdicom waits for its own thread without a time-out.
"""

import contextlib
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

from dicom_node.config.addresses import LocalAddress, remote_address

_AT_ONCE = 0.5  # seconds

MAXIMUM_ANSWER_BYTES = 16 * 2**20
"""What one association or one HTTP answer may bring: 30,000 matches of a C-FIND."""


class Connections:
    """The open connections of one destination.

    ``silence_seconds``: how long one read or write may transfer no byte. ``local``: whether the destination
    may be this machine, link-local, or a metadata service.
    """

    def __init__(self, silence_seconds: float, *, local: bool = True) -> None:
        self.silence_seconds, self.local = silence_seconds, local
        self.refused = ""
        """Why the last call was not made."""
        self.timed_out = self.closed = False
        self._connected_at: float | None = None
        self._lock = threading.Lock()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def address_of(self, host: str) -> str:
        """The address for a connection to this host. Raises OSError, LocalAddress for a forbidden address.

        Connect to this address: a second look-up could return another one.
        """
        self.refused = ""
        if self.local:
            return host
        try:
            return remote_address(host)
        except LocalAddress as error:
            self.refused = str(error)
            raise

    def opened(self, connection: socket.socket) -> None:
        """Register a connection; after :meth:`close` it is cut at once."""
        self._connected_at = time.monotonic()
        with self._lock:
            self._sockets.add(connection)
        if self.closed:
            self.cut()

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Limit a scope to ``seconds``: after that, calls that wait for the peer fail with a connection
        error.
        """
        self.timed_out = False
        self._connected_at = None
        timer = threading.Timer(seconds, self.expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def expire(self) -> None:
        """Cut open connections, because the deadline has passed. ``timed_out`` is set until the next scope
        begins.
        """
        self.timed_out = True
        self.cut()

    def without_answer(self, whom: str) -> str:
        """How far the call to ``whom`` in the last scope got that led to no association, in words."""
        if self._connected_at is None:
            return f"cannot connect to {whom}"
        seconds = time.monotonic() - self._connected_at
        if seconds < _AT_ONCE:
            return f"connected to {whom}, which ended the connection without an answer"
        return f"connected to {whom}, no answer for {seconds:.0f} s"

    def close(self) -> None:
        """Cut all open connections, and all that are opened later. Any thread may call it."""
        self.closed = True
        self.cut()

    def cut(self) -> None:
        """Cut all connections that are open now."""
        with self._lock:
            open_now = list(self._sockets)
        for connection in open_now:
            # Not the method of ssl.SSLSocket, which first forgets the cipher: a thread that sends at that
            # moment would send plain text. Closing the file is left to its owner: its number could be reused.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


def tls_context(authorities: Path | None, connections: Connections) -> ssl.SSLContext:
    """TLS for a client whose connections can be cut, even in the handshake.

    ``authorities``: None for the system's. Raises OSError if the file of authorities cannot be read.
    """

    class WatchedSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            connections.opened(self)  # it took the descriptor of the plain one
            super().do_handshake(block)

    context = ssl.create_default_context(cafile=authorities)
    context.sslsocket_class = WatchedSocket
    return context
