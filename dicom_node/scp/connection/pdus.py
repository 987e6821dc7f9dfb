"""Checks of PDUs before objects are built from them (PS3.8 9.3.2, 9.3.5).

pynetdicom makes an object for each item of an A-ASSOCIATE-RQ, a kilobyte for four bytes, and drops letters
that are not ASCII from AE titles, so that a stranger's title could become that of a peer. It accepts only
protocol version 1, although PS3.8 asks only for bit 0, accepts every application context, and aborts at items
that it does not know.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from dicom_node.scp.connection import limits

MAXIMUM_PDU_BYTES = 131_072
"""Largest PDU that we take: 128 KiB was fastest."""
A_ASSOCIATE_RQ, A_ASSOCIATE_AC, P_DATA_TF = 0x01, 0x02, 0x04
_VERSION, _TITLES, _ITEMS = 0, 4, 68  # offsets after the PDU header
_HEAD = 6  # bytes of that header
_APPLICATION_CONTEXT, _PRESENTATION_CONTEXT, _CONTEXT_RESULT, _USER_INFORMATION = 0x10, 0x20, 0x21, 0x50
_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX = 0x30, 0x40
_SYNTAXES = (_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX)
# PS3.7 D.3.3, PS3.8 D.1. Nothing reads the Implementation Version Name (0x55), and real ones are padded with
# NUL, too long or not in ASCII; nor extended negotiation (0x56, 0x57) or the identity in an answer (0x59).
_USER_ITEMS = (0x51, 0x52, 0x53, 0x54)
_USER_IDENTITY = 0x58
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


def check_request(body: memoryview) -> tuple[RequestHead, bytearray]:
    """Read the head of a request from its body, and write the request again for pynetdicom.

    There titles and version are as pynetdicom reads them, and items of unknown type are left out: they are
    ignored and skipped (PS3.8 9.3.1). Raises MalformedRequest, also where a limit is exceeded.
    """
    if len(body) < _ITEMS:
        raise MalformedRequest("association request cut off")
    application_context, items = _known_items(body)
    called, calling = _title(body, _TITLES), _title(body, _TITLES + 16)
    head = RequestHead(calling, called, application_context, bool(body[_VERSION + 1] & 1))
    titles = [title.encode() if is_ae_title(title) else b"?" for title in (called, calling)]
    fields = struct.pack(">H2x16s16s32x", 1, *(title.ljust(16) for title in titles))
    return head, bytearray(struct.pack(">BxI", A_ASSOCIATE_RQ, len(fields) + len(items)) + fields + items)


def check_answer(pdu: memoryview) -> bytearray:
    """An A-ASSOCIATE-AC with the items that PS3.8 9.3.3 defines: others are ignored and skipped (9.3.1).

    Raises MalformedRequest.
    """
    kept = bytearray()
    for kind, start, end in _items(pdu, _HEAD + _ITEMS, len(pdu)):
        if kind == _CONTEXT_RESULT:
            known = _of_kinds(pdu, _items(pdu, start + _CONTEXT_HEAD, end), _SYNTAXES)
            kept += _item(kind, bytes(pdu[start : start + _CONTEXT_HEAD]) + known)
        elif kind == _USER_INFORMATION:
            kept += _item(kind, _of_kinds(pdu, _items(pdu, start, end), _USER_ITEMS))
        elif kind == _APPLICATION_CONTEXT:
            kept += _item(kind, pdu[start:end])
    return (
        bytearray(struct.pack(">BxI", A_ASSOCIATE_AC, _ITEMS + len(kept)))
        + pdu[_HEAD : _HEAD + _ITEMS]
        + kept
    )


def is_ae_title(title: str) -> bool:
    """Whether a title of ``RequestHead`` has only characters that VR AE allows."""
    return bool(title) and "\\" not in title


def _title(body: memoryview, offset: int) -> str:
    """Some senders end a title with a NUL, as a string in C, in place of padding it with spaces."""
    field = bytes(body[offset : offset + 16]).partition(b"\0")[0]
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in field
    ).strip()


def _known_items(body: memoryview) -> tuple[str, bytes]:
    """The Application Context Name, and the items that PS3.8 9.3.2 defines for a request."""
    application_context, kept = "", bytearray()
    contexts = syntaxes = unknown = 0
    alone: set[int] = set()
    for kind, start, end in _items(body, _ITEMS, len(body)):
        if kind == _PRESENTATION_CONTEXT:
            contexts += 1
            inner = list(_items(body, start + _CONTEXT_HEAD, end))
            syntaxes += len(inner)
            kinds = [kind for kind, _, _ in inner]
            if kinds.count(_ABSTRACT_SYNTAX) != 1 or _TRANSFER_SYNTAX not in kinds:
                raise MalformedRequest("a presentation context without its syntaxes")
            known = _of_kinds(body, inner, _SYNTAXES)
            kept += _item(kind, bytes(body[start : start + _CONTEXT_HEAD]) + known)
        elif kind in (_APPLICATION_CONTEXT, _USER_INFORMATION):
            if kind in alone:
                raise MalformedRequest("an association request has an item twice")
            alone.add(kind)
            if kind == _APPLICATION_CONTEXT:
                application_context = bytes(body[start:end]).rstrip(b"\0 ").decode("ascii", "replace")
                kept += _item(kind, body[start:end])
                continue
            inner = list(islice(_items(body, start, end), limits.USER_ITEMS + 1))
            if len(inner) > limits.USER_ITEMS:
                raise MalformedRequest("too many user information items")
            # A user identity of another type (PS3.7 D.3.3.7) makes pynetdicom abort.
            read = [one for one in inner if one[0] != _USER_IDENTITY or body[one[1]] in range(1, 6)]
            kept += _item(kind, _of_kinds(body, read, (*_USER_ITEMS, _USER_IDENTITY)))
        else:
            unknown += 1
        if contexts > limits.CONTEXTS or syntaxes > limits.CONTEXT_ITEMS or unknown > limits.USER_ITEMS:
            raise MalformedRequest("too many items in an association request")
    if not contexts:
        raise MalformedRequest("no presentation context")
    return application_context, bytes(kept)


def _of_kinds(body: memoryview, items: Iterable[tuple[int, int, int]], kinds: Container[int]) -> bytes:
    return b"".join(_item(kind, body[start:end]) for kind, start, end in items if kind in kinds)


def _item(kind: int, value: bytes | memoryview) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def _items(body: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int]]:
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
