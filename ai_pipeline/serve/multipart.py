"""Multipart bodies (RFC 2046 5.1, RFC 2387): the objects of a request, and answers with a report."""

import json
import secrets
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from python_multipart.multipart import MultipartParser, parse_options_header

MOST_PARTS = 200
"""Objects of one request."""
_HEADERS, _HEADER_BYTES = 20, 4096
_BLOCK = 2**20


class Unreadable(ValueError):
    """A multipart body that cannot be read; the text says why."""


def boundary_of(content_type: str) -> bytes:
    """The boundary of ``multipart/related; type="application/dicom"``; b"" for another content type."""
    kind, options = parse_options_header(content_type)
    is_dicom = options.get(b"type", b"").lower() == b"application/dicom"
    return options.get(b"boundary", b"")[:70] if kind == b"multipart/related" and is_dicom else b""


def objects_of(body: IO[bytes], boundary: bytes) -> Iterator[IO[bytes]]:
    """Yield the parts of a body, each as a file without a name, which is the caller's to close. Raises
    Unreadable, also for more than MOST_PARTS and for a body without its last boundary.
    """
    parts = _Parts(boundary)
    try:
        while block := body.read(_BLOCK):
            parts.parser.write(block)
            while parts.whole:
                part = parts.whole.pop(0)
                part.seek(0)
                yield part
    except Unreadable:
        raise
    except ValueError:
        raise Unreadable("the parts of this request cannot be read") from None
    finally:
        for part in (*parts.begun, *parts.whole):
            part.close()
    if not (parts.ended and parts.count):
        raise Unreadable("this request has no parts, or does not end with its last boundary")


class _Parts:
    """Files of the parts of a body: the one that is ``begun``, and those that are ``whole``."""

    def __init__(self, boundary: bytes) -> None:
        self.begun: list[IO[bytes]] = []
        self.whole: list[IO[bytes]] = []
        self.count, self.ended = 0, False
        self.parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_part_data": self._write,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
            max_header_count=_HEADERS,
            max_header_size=_HEADER_BYTES,
        )

    def _begin(self) -> None:
        """Begin a part (called by the parser). Raises Unreadable for too many."""
        self.count += 1
        if self.count > MOST_PARTS:
            raise Unreadable(f"a request has at most {MOST_PARTS} objects: send several")
        # Parts that end within one block wait in memory: no request has more than two of its parts open.
        self.begun.append(tempfile.SpooledTemporaryFile(_BLOCK))  # noqa: SIM115  (who gets it closes it)

    def _write(self, data: bytes, start: int, end: int) -> None:
        """Add to the part (called by the parser)."""
        self.begun[-1].write(data[start:end])

    def _end_part(self) -> None:
        """End the part (called by the parser)."""
        self.whole.append(self.begun.pop())

    def _end(self) -> None:
        """Remember that the last boundary has come (called by the parser)."""
        self.ended = True


class RelatedAnswer:
    """An answer of several parts: a report, then the cleaned files, which lie in a file without a name."""

    def __init__(self) -> None:
        """Begin without files."""
        self.boundary = secrets.token_hex(16)
        self._files: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (chunks closes it)

    @property
    def size(self) -> int:
        """Bytes of the files so far."""
        return self._files.tell()

    def close(self) -> None:
        """Drop the files."""
        self._files.close()

    def add(self, file: IO[bytes], media_type: str) -> None:
        """Add a cleaned file as a part."""
        self._files.write(f"\r\n--{self.boundary}\r\nContent-Type: {media_type}\r\n\r\n".encode())
        for block in blocks(file):
            self._files.write(block)

    def chunks(self, report: Any) -> Iterator[bytes]:
        """The body of the answer with this ``report`` (JSON) as its first part; closes the file."""
        head = f"--{self.boundary}\r\nContent-Type: application/json\r\n\r\n"
        yield head.encode() + json.dumps(report).encode()
        yield from blocks(self._files)
        yield f"\r\n--{self.boundary}--\r\n".encode()


def blocks(file: IO[bytes]) -> Iterator[bytes]:
    """The content of a file from its beginning, in blocks; closes it."""
    with file:
        file.seek(0)
        while block := file.read(_BLOCK):
            yield block
