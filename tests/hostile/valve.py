"""A line to a real peer that can be made to hang, to leak or to cut: a TCP relay on the loopback."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_BUFFER = 65536
_PIECE_SECONDS = 0.02


class Valve:
    """Relays to ``port``. ``to_peer``, ``from_peer``: bytes that pass on each later connection, None: all.

    ``rate``: bytes a second that pass once those are used up; 0: none, and nothing is read either.
    """

    def __init__(self, port: int) -> None:
        self.peer_port = port
        self.to_peer: int | None = None
        self.from_peer: int | None = None
        self.rate = 0
        self._is_cut = False
        self.connections = 0
        self._ended = threading.Event()
        self._server = socket.socket()
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._server.bind(("127.0.0.1", 0))
        self._server.listen(20)
        self.port: int = self._server.getsockname()[1]
        self._sockets: list[socket.socket] = []

    def open(self) -> None:
        """Let everything pass, on connections made from now on."""
        self.to_peer = self.from_peer = None

    def cut(self) -> None:
        """End all connections, and each later one at once."""
        self._is_cut = True
        for end in self._sockets:
            _shut(end)

    def mend(self) -> None:
        """Let later connections through again."""
        self._is_cut = False

    def serve(self) -> None:
        with suppress(OSError):  # closed at the end
            while True:
                ours, _ = self._server.accept()
                self.connections += 1
                if self._is_cut:
                    ours.close()
                    continue
                theirs = socket.create_connection(("127.0.0.1", self.peer_port))
                self._sockets += [ours, theirs]
                for ends in ((ours, theirs, self.to_peer), (theirs, ours, self.from_peer)):
                    threading.Thread(target=self._relay, args=ends, daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket, allowed: int | None) -> None:
        with suppress(OSError):
            while True:
                size = _BUFFER if allowed is None else min(allowed, _BUFFER)
                if not size and not self.rate:
                    self._ended.wait()
                    return
                if not size:
                    self._ended.wait(_PIECE_SECONDS)
                    size = max(int(self.rate * _PIECE_SECONDS), 1)
                if not (piece := source.recv(size)):
                    break
                target.sendall(piece)
                if allowed:
                    allowed -= len(piece)
        for end in (source, target):
            _shut(end)

    def close(self) -> None:
        self._ended.set()
        for end in (self._server, *self._sockets):
            _shut(end)
            end.close()


def _shut(end: socket.socket) -> None:
    with suppress(OSError):  # it is not connected any more
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def valve_before(port: int) -> Iterator[Valve]:
    """A valve before the peer at ``port`` of the loopback."""
    valve = Valve(port)
    threading.Thread(target=valve.serve, daemon=True).start()
    try:
        yield valve
    finally:
        valve.close()
