"""Checks of PDUs before objects are built from them (PS3.8 9.3.2, 9.3.5).

pynetdicom makes an object for each item of an A-ASSOCIATE-RQ, a kilobyte for four bytes, and drops letters
that are not ASCII from AE titles, so that a stranger's title could become that of a peer. It accepts only
protocol version 1, although PS3.8 asks only for bit 0, and accepts every application context.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from dicom_node.scp.connection import limits

P_DATA_TF = 0x04
_VERSION, _TITLES, _ITEMS = 0, 4, 68  # offsets after the PDU header
_APPLICATION_CONTEXT, _PRESENTATION_CONTEXT, _USER_INFORMATION = 0x10, 0x20, 0x50
_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX = 0x30, 0x40
_CONTEXT_HEAD = 4  # identifier and reserved bytes before the syntaxes


class PData:
    """A P-DATA-TF PDU whose fragments are views into the read bytes (PS3.8 9.3.5), made one at a time.

    A PDU may have a hundred thousand fragments. The object also serves as its own P-DATA primitive.
    """

    def __init__(self, body: bytearray | memoryview) -> None:
        """Take the body of a PDU. Raises ValueError if it has no items, or if the items do not fill it."""
        self._view = memoryview(body)
        if not sum(1 for _ in self._places()):
            raise ValueError("no PDV item")

    def to_primitive(self) -> PData:
        """Return the object itself, which the DIMSE provider accepts as a P-DATA primitive."""
        return self

    @property
    def presentation_data_value_list(self) -> Iterator[tuple[int, memoryview]]:
        """Context identifier and value of each fragment; the value begins with the message control header."""
        for context_id, start, end in self._places():
            yield context_id, self._view[start:end]

    def _places(self) -> Iterator[tuple[int, int, int]]:
        offset, size = 0, len(self._view)
        while offset < size:
            if offset + 5 > size:
                raise ValueError("PDV item cut off")
            length, context_id = struct.unpack_from(">IB", self._view, offset)
            end = offset + 4 + length
            if length < 1 or end > size:
                raise ValueError("PDV item longer than its PDU")
            yield context_id, offset + 5, end
            offset = end


def p_data_tf(context_id: int, header: int, fragment: bytes) -> bytes:
    """A P-DATA-TF PDU of one fragment; ``header`` is its message control header (PS3.8 9.3.5, E.2)."""
    length = len(fragment) + 2
    return struct.pack(">BxIIBB", P_DATA_TF, length + 4, length, context_id, header) + fragment


class MalformedRequest(ValueError):
    """Bytes that are no valid A-ASSOCIATE-RQ, or exceed the limits."""


@dataclass(frozen=True, slots=True)
class RequestHead:
    """An A-ASSOCIATE-RQ without its presentation contexts and user information.

    Titles are without padding; bytes that PS3.5 6.2 does not allow in AE are hexadecimal escapes with a
    backslash.
    """

    calling: str = ""
    called: str = ""
    application_context: str = ""
    """Application Context Name, "" where the item is missing (PS3.8 9.3.2.1)."""
    has_version_1: bool = False
    """Bit 0 of Protocol-version, the only one that is tested (PS3.8 Table 9-11)."""


def check_request(body: bytearray | memoryview) -> RequestHead:
    """Check the limits of a request's body and read its head.

    Values that pynetdicom would not read are replaced in ``body``: a title, a version. Raises
    MalformedRequest.
    """
    if len(body) < _ITEMS:
        raise MalformedRequest("association request cut off")
    application_context = _check_items(body)
    called, calling = _title(body, _TITLES), _title(body, _TITLES + 16)
    has_version_1 = bool(body[_VERSION + 1] & 1)
    body[_VERSION : _VERSION + 2] = b"\0\1"
    return RequestHead(calling, called, application_context, has_version_1)


def is_ae_title(title: str) -> bool:
    """Whether a title of ``RequestHead`` has only characters that VR AE allows."""
    return bool(title) and "\\" not in title


def _title(body: bytearray | memoryview, offset: int) -> str:
    field = slice(offset, offset + 16)
    title = "".join(_character(byte) for byte in body[field]).strip()
    if not is_ae_title(title):
        body[field] = b"?".ljust(16)
    return title


def _character(byte: int) -> str:
    return chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}"


def _check_items(body: bytearray | memoryview) -> str:
    """Returns the Application Context Name."""
    application_context = ""
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
                raise MalformedRequest("an association request has an item twice")
            alone.add(kind)
            if kind == _APPLICATION_CONTEXT:
                application_context = bytes(body[start:end]).rstrip(b"\0 ").decode("ascii", "replace")
            elif sum(1 for _ in _items(body, start, end)) > limits.USER_ITEMS:
                raise MalformedRequest("too many user information items")
        else:
            raise MalformedRequest("unknown item in an association request")
        if contexts > limits.CONTEXTS or syntaxes > limits.CONTEXT_ITEMS:
            raise MalformedRequest("too many presentation contexts")
    if not contexts:
        raise MalformedRequest("no presentation context")
    return application_context


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
