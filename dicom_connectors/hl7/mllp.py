"""Frames of MLLP (HL7 transport specification, release 1) read from a socket, each within limits.

A frame is a start block (0x0B), the message, an end block (0x1C) and a carriage return. Frames may come split
anywhere, or several in one packet.
"""

import socket
import time
from typing import Final

START, END = b"\x0b", b"\x1c\x0d"
_BETWEEN: Final = 64  # bytes between two frames, which may be line ends only
_PIECE: Final = 2**16
_SLOWEST: Final = 100  # bytes a second; a frame gets ``seconds`` and one more for each 100 bytes of it


class FrameError(Exception):
    """The sender does not keep to MLLP, or to a limit: its connection is ended. ``message``: what came of the
    message so far, b"" for nothing.
    """

    def __init__(self, reason: str, message: bytes = b"") -> None:
        """``reason``: one sentence for an administrator, without text of the sender."""
        super().__init__(reason)
        self.message = message


class FrameReader:
    """Reads frames from a connected socket.

    ``most_bytes``: of a message. ``idle_seconds``: until the next frame begins. ``seconds``: for a frame,
    with one second more for each 100 bytes that came of it.
    """

    def __init__(
        self, connection: socket.socket, most_bytes: int, idle_seconds: float, seconds: float = 30.0
    ) -> None:
        """Prepare to read; nothing is read yet."""
        self._socket, self._most = connection, most_bytes
        self._idle, self._seconds = idle_seconds, seconds
        self._buffer = bytearray()

    def next(self) -> bytes | None:
        """Return the message of the next frame, without its blocks; None once the sender has ended the
        connection between two frames.

        Raises FrameError, and OSError of the socket.
        """
        if not self._find_start():
            return None
        end = time.monotonic() + self._seconds
        looked_at, whole = 0, 0
        while (at := self._buffer.find(END, max(looked_at - 1, 0))) < 0:
            looked_at = len(self._buffer)
            if looked_at > self._most + len(END):
                raise FrameError(f"a message has more than {self._most} bytes", bytes(self._buffer))
            if not self._receive(end + whole / _SLOWEST - time.monotonic()):
                raise FrameError("the connection ended, or was too slow, in a message", bytes(self._buffer))
            whole = len(self._buffer)
        message = bytes(self._buffer[:at])
        del self._buffer[: at + len(END)]
        if len(message) > self._most:
            raise FrameError(f"a message has more than {self._most} bytes", message)
        if START in message or END[:1] in message:
            raise FrameError("a message has a start or end block inside", message)
        return message

    def _find_start(self) -> bool:
        """Read up to a start block; return False if the sender ended the connection before one."""
        end = time.monotonic() + self._idle
        while not self._buffer.strip(b"\r\n"):
            if len(self._buffer) > _BETWEEN:
                raise FrameError("no start block before a message")
            if not self._receive(end - time.monotonic()):
                return False
        between, start, rest = self._buffer.partition(START)
        if not start or between.strip(b"\r\n"):
            raise FrameError("no start block before a message")
        self._buffer = rest
        return True

    def _receive(self, seconds: float) -> bool:
        """Receive what comes within ``seconds``; return False if nothing did, or the connection ended."""
        if seconds <= 0:
            return False
        self._socket.settimeout(seconds)
        try:
            data = self._socket.recv(_PIECE)
        except TimeoutError:
            return False
        self._buffer += data
        return bool(data)
