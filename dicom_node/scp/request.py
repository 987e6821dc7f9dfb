"""An A-ASSOCIATE-RQ checked before any object is built of it (PS3.8 9.3.2).

pynetdicom makes an object of each item, a kilobyte for four bytes, and drops from AE titles what is not
ASCII, so that a stranger's title could become that of a peer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from dicom_node.scp import limits

_TITLES, _ITEMS = 4, 68  # offsets after the PDU header
_APPLICATION_CONTEXT, _PRESENTATION_CONTEXT, _USER_INFORMATION = 0x10, 0x20, 0x50
_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX = 0x30, 0x40
_CONTEXT_HEAD = 4  # identifier and reserved bytes before the syntaxes


class MalformedRequest(ValueError):
    """Bytes that are no A-ASSOCIATE-RQ, or one beyond the limits."""


@dataclass(frozen=True, slots=True)
class AeTitles:
    """Both titles without padding; bytes that PS3.5 6.2 does not allow in AE are written as ``\\x1b``."""

    calling: str
    called: str


def check_request(body: bytearray | memoryview) -> AeTitles:
    """Check the limits of a request's body and take its titles.

    A title that pynetdicom would not read is replaced in ``body``. Raises MalformedRequest.
    """
    if len(body) < _ITEMS:
        raise MalformedRequest("association request cut off")
    _check_items(body)
    called, calling = _title(body, _TITLES), _title(body, _TITLES + 16)
    return AeTitles(calling, called)


def is_ae_title(title: str) -> bool:
    """Whether a title of ``AeTitles`` was written with the characters of AE alone."""
    return bool(title) and "\\" not in title


def _title(body: bytearray | memoryview, offset: int) -> str:
    field = slice(offset, offset + 16)
    title = "".join(_character(byte) for byte in body[field]).strip()
    if not is_ae_title(title):
        body[field] = b"?".ljust(16)
    return title


def _character(byte: int) -> str:
    return chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}"


def _check_items(body: bytearray | memoryview) -> None:
    contexts = syntaxes = 0
    alone: set[int] = set()
    for kind, start, end in _items(body, _ITEMS, len(body)):
        if kind == _PRESENTATION_CONTEXT:
            contexts += 1
            kinds = [kind for kind, _, _ in _items(body, start + _CONTEXT_HEAD, end)]
            if kinds.count(_ABSTRACT_SYNTAX) != 1 or _TRANSFER_SYNTAX not in kinds:
                raise MalformedRequest("a presentation context without its syntaxes")
            syntaxes += len(kinds)
        elif kind in (_APPLICATION_CONTEXT, _USER_INFORMATION):
            if kind in alone:
                raise MalformedRequest("an item of an association request stands there twice")
            alone.add(kind)
            if kind == _USER_INFORMATION and sum(1 for _ in _items(body, start, end)) > limits.USER_ITEMS:
                raise MalformedRequest("too many user information items")
        else:
            raise MalformedRequest("unknown item in an association request")
        if contexts > limits.CONTEXTS or syntaxes > limits.CONTEXT_ITEMS:
            raise MalformedRequest("too many presentation contexts")


def _items(body: bytearray | memoryview, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Type, begin and end of each item's value."""
    while start < end:
        if start + 4 > end:
            raise MalformedRequest("item of an association request cut off")
        kind, length = struct.unpack_from(">BxH", body, start)
        start += 4
        if start + length > end:
            raise MalformedRequest("item longer than its association request")
        yield kind, start, start + length
        start += length
