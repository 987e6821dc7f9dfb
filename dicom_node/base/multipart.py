"""Multipart messages (RFC 2046 5.1)."""

from typing import Final

_LONGEST: Final = 2**16
"""Bytes before the first boundary."""


class Preamble:
    """Removes what stands before the first boundary of a message that arrives in pieces: it means nothing."""

    def __init__(self, boundary: bytes) -> None:
        """Prepare for one message; ``boundary``: as its Content-Type has it."""
        self._line, self._waiting, self._is_over = b"--" + boundary, b"", False

    def removed(self, data: bytes) -> bytes:
        """The next bytes of the message without the preamble. Raises ValueError if it is too long."""
        if self._is_over:
            return data
        self._waiting += data
        if self._waiting.startswith(self._line):
            start = 0
        elif (found := self._waiting.find(b"\r\n" + self._line)) >= 0:
            start = found + 2
        elif len(self._waiting) > _LONGEST:
            raise ValueError("no boundary")
        else:
            return b""
        self._is_over, rest = True, self._waiting[start:]
        self._waiting = b""
        return rest
