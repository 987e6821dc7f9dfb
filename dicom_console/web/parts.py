"""Reads a multipart request (RFC 2046 5.1) as it arrives; no part is kept in memory, whatever its size."""

from __future__ import annotations

from typing import Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser
from starlette.exceptions import HTTPException

PARTS = 10_000
"""Of one request."""
HEADERS, HEADER_BYTES = 20, 4096
"""Headers of one part, and bytes of each."""


class PartTaker(Protocol):
    """Receives the parts of a request's body, one after the other."""

    def begin(self, media_type: str) -> None: ...
    def write(self, data: bytes) -> None: ...
    def end(self) -> None: ...


class PartReader:
    """Splits a body at its boundary (1 to 70 characters) and passes the parts on; for one thread at a
    time.
    """

    def __init__(self, boundary: str, taker: PartTaker) -> None:
        self._taker = taker
        self._name, self._value = bytearray(), bytearray()
        self._media_type, self._coding = "", ""
        self._parts = 0
        self._ended = False
        self._parser = MultipartParser(
            boundary.encode("latin-1"),
            {
                "on_part_begin": self._part_begins,
                "on_header_field": self._name_comes,
                "on_header_value": self._value_comes,
                "on_header_end": self._header_ends,
                "on_headers_finished": self._data_begins,
                "on_part_data": self._data_comes,
                "on_part_end": taker.end,
                "on_end": self._body_ends,
            },
            max_header_count=HEADERS,
            max_header_size=HEADER_BYTES,
        )

    def feed(self, data: bytes) -> None:
        """Process the next bytes. Raises HTTPException: 400, and 413 for too many parts."""
        try:
            self._parser.write(data)
        except FormParserError:
            raise HTTPException(400, "The parts of this request cannot be read.") from None

    def finish(self) -> None:
        """End the body. Raises HTTPException if the body had no parts, or lacks its last boundary."""
        if not (self._ended and self._parts):
            raise HTTPException(400, "This request has no parts, or does not end with its last boundary.")

    def _part_begins(self) -> None:
        self._parts += 1
        if self._parts > PARTS:
            raise HTTPException(413, f"A request has at most {PARTS} parts: send several.")
        self._media_type = self._coding = ""

    def _name_comes(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _value_comes(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_ends(self) -> None:
        name, value = (found.decode("latin-1").strip().lower() for found in (self._name, self._value))
        if name == "content-type":
            self._media_type = value.partition(";")[0].strip()
        elif name == "content-transfer-encoding":
            self._coding = value
        self._name, self._value = bytearray(), bytearray()

    def _data_begins(self) -> None:
        """A part in another coding (RFC 2045 6) is of no media type that anybody takes."""
        coded = self._coding not in ("", "binary", "8bit", "7bit")
        self._taker.begin(f"{self._media_type}; {self._coding}" if coded else self._media_type)

    def _data_comes(self, data: bytes, start: int, end: int) -> None:
        self._taker.write(data[start:end])

    def _body_ends(self) -> None:
        self._ended = True
