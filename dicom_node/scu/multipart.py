"""multipart/related answers read as a stream (RFC 2046 5.1; PS3.18 8.7.1), each part in pieces."""

from __future__ import annotations

import re
from collections.abc import Iterator

LONGEST_HEAD = 16 * 1024
"""Bytes before the content of one part."""
_BOUNDARY = re.compile(r"""boundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))""", re.IGNORECASE)


class MalformedMultipart(ValueError):
    """The answer is no multipart message, or ends early."""


def boundary_of(content_type: str) -> bytes:
    """The boundary in a Content-Type. Raises MalformedMultipart."""
    found = _BOUNDARY.search(content_type)
    if not content_type.lower().startswith("multipart/") or found is None:
        raise MalformedMultipart("not a multipart answer")
    return (found[1] or found[2]).encode("ascii", "replace")


class Parts:
    """The parts of one message. Each must be read completely before the next one."""

    def __init__(self, pieces: Iterator[bytes], boundary: bytes) -> None:
        self._pieces = pieces
        self._delimiter = b"\r\n--" + boundary
        self._buffer = b"\r\n"  # the first delimiter may stand at the very begin

    def __iter__(self) -> Iterator[Iterator[bytes]]:
        """Each part as pieces of its content. Raises MalformedMultipart."""
        for _ in self._content():  # the preamble
            pass
        while self._has_next():
            self._skip_head()
            content = self._content()
            yield content
            for _ in content:
                pass

    def _content(self) -> Iterator[bytes]:
        """Up to the next delimiter, which is dropped."""
        while (at := self._buffer.find(self._delimiter)) < 0:
            safe = len(self._buffer) - len(self._delimiter) + 1
            if safe > 0:
                piece, self._buffer = self._buffer[:safe], self._buffer[safe:]
                yield piece
            self._read()
        piece, self._buffer = self._buffer[:at], self._buffer[at + len(self._delimiter) :]
        if piece:
            yield piece

    def _has_next(self) -> bool:
        while len(self._buffer) < 2:
            self._read()
        return not self._buffer.startswith(b"--")

    def _skip_head(self) -> None:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > LONGEST_HEAD:
                raise MalformedMultipart("the headers of a part do not end")
            self._read()
        self._buffer = self._buffer[end + 4 :]

    def _read(self) -> None:
        piece = next(self._pieces, None)
        if piece is None:
            raise MalformedMultipart("the answer ended early")
        self._buffer += piece
