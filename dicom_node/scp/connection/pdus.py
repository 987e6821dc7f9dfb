"""PDUs of an acceptor (PS3.8 9.3): requests are read under limits of number and size, answers are written.

Nothing is taken from a request but what the acceptor uses: items of unknown type are ignored and skipped
(PS3.8 9.3.1). Letters of an AE title that are not ASCII are shown with escapes, not dropped: a stranger's
title cannot become that of a peer.
"""

import struct
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from dicom_node.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.scp.connection import limits

MAXIMUM_PDU_BYTES: Final = 131_072
"""Largest PDU that we take: 128 KiB was fastest."""
A_ASSOCIATE_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, P_DATA_TF = 0x01, 0x02, 0x03, 0x04
A_RELEASE_RQ, A_RELEASE_RP, A_ABORT = 0x05, 0x06, 0x07
ABORTED_BY_PROVIDER: Final = struct.pack(">BxIxxBB", A_ABORT, 4, 2, 0)
RELEASED: Final = struct.pack(">BxI4x", A_RELEASE_RP, 4)
APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
"""The only one there is (PS3.7 A.2.1)."""
_TITLES, _ITEMS = 4, 68  # offsets after the PDU header
_HEAD = 6  # bytes of that header
_APPLICATION_CONTEXT, _PRESENTATION_CONTEXT, _CONTEXT_RESULT, _USER_INFORMATION = 0x10, 0x20, 0x21, 0x50
_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX = 0x30, 0x40
# PS3.7 D.3.3, PS3.8 D.1
_MAXIMUM_LENGTH, _IMPLEMENTATION_CLASS, _ROLE, _IMPLEMENTATION_VERSION = 0x51, 0x52, 0x54, 0x55
# Of an answer nothing reads the Implementation Version Name, and real ones are padded with NUL, too long or
# not in ASCII; nor extended negotiation (0x56, 0x57) or the user identity (0x59).
_USER_ITEMS_OF_AN_ANSWER = (_MAXIMUM_LENGTH, _IMPLEMENTATION_CLASS, 0x53, _ROLE)
_CONTEXT_HEAD = 4  # identifier and reserved bytes before the syntaxes

Contexts = Mapping[int, tuple[str, tuple[str, ...]]]
"""Presentation contexts by identifier: abstract syntax, and the proposed transfer syntaxes."""


class ProtocolViolation(ValueError):
    """Bytes that are no valid PDU or message, or beyond a limit; the association is aborted (PS3.8 AA-8)."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """The content of an A-ASSOCIATE-RQ that came from ``address``.

    Titles are without padding; bytes that PS3.5 6.2 does not allow in AE are hexadecimal escapes with a
    backslash.
    """

    calling_ae: str
    called_ae: str
    address: str
    contexts: Contexts = field(default_factory=dict)
    application_context: str = APPLICATION_CONTEXT
    """Application Context Name, "" where the item is missing (PS3.8 9.3.2.1)."""
    has_version_1: bool = True
    """Bit 0 of Protocol-version, the only one that is tested (PS3.8 Table 9-11)."""
    roles: Mapping[str, tuple[bool, bool]] = field(default_factory=dict)
    """By SOP class: whether the peer would be its SCU, its SCP (PS3.7 D.3.3.4)."""
    maximum_length: int = 0
    """Largest body of a P-DATA-TF that the peer takes, 0 for any (PS3.8 D.1)."""


def read_request(body: memoryview, address: str) -> Proposal:
    """Read the body of an A-ASSOCIATE-RQ. Raises ProtocolViolation, also where a limit is exceeded."""
    contexts = dict[int, tuple[str, tuple[str, ...]]]()
    alone, number = dict[int, memoryview](), 0  # items that stand alone; how many there are
    for kind, value in _items(body[_ITEMS:]):
        number += 1
        if kind == _PRESENTATION_CONTEXT:
            parts = list(_items(value[_CONTEXT_HEAD:]))
            abstract = [_uid(part) for kind, part in parts if kind == _ABSTRACT_SYNTAX]
            transfer = tuple(_uid(part) for kind, part in parts if kind == _TRANSFER_SYNTAX)
            if len(abstract) != 1 or not transfer:
                raise ProtocolViolation("a presentation context without its syntaxes")
            if not value[0] & 1 or value[0] in contexts:
                raise ProtocolViolation("a presentation context without an odd identifier of its own")
            contexts[value[0]] = abstract[0], transfer
            number += len(parts)
        elif kind in alone:
            raise ProtocolViolation("an association request has an item twice")
        elif kind in (_APPLICATION_CONTEXT, _USER_INFORMATION):
            alone[kind] = value
        if number > limits.REQUEST_ITEMS:
            raise ProtocolViolation("too many items in an association request")
    user = list(_items(alone.get(_USER_INFORMATION, body[:0])))
    roles = [part for kind, part in user if kind == _ROLE]
    if any(len(part) < 4 for part in roles) or number + len(user) > limits.REQUEST_ITEMS:
        raise ProtocolViolation("user information cut off, or with too many items")
    if not contexts:
        raise ProtocolViolation("no presentation context")
    return Proposal(
        calling_ae=_title(body[_TITLES + 16 : _TITLES + 32]),
        called_ae=_title(body[_TITLES : _TITLES + 16]),
        address=address,
        contexts=contexts,
        application_context=_uid(alone.get(_APPLICATION_CONTEXT, body[:0])),
        has_version_1=bool(body[1] & 1),
        roles={_uid(part[2:-2]): (bool(part[-2]), bool(part[-1])) for part in roles},
        maximum_length=next((int.from_bytes(part[:4]) for kind, part in user if kind == _MAXIMUM_LENGTH), 0),
    )


def acceptance(
    request: memoryview,
    results: Mapping[int, tuple[int, str]],
    roles: Mapping[str, tuple[bool, bool]],
    maximum_length: int,
) -> bytes:
    """The A-ASSOCIATE-AC that answers the body of a request (PS3.8 9.3.3).

    ``results``: by presentation context, result and transfer syntax (Table 9-18). ``roles``: that the peer
    may have, by SOP class.
    """
    items = _item(_APPLICATION_CONTEXT, APPLICATION_CONTEXT.encode())
    for context_id, (result, syntax) in results.items():
        transfer = _item(_TRANSFER_SYNTAX, syntax.encode())
        items += _item(_CONTEXT_RESULT, struct.pack(">BxBx", context_id, result) + transfer)
    user = _item(_MAXIMUM_LENGTH, struct.pack(">I", maximum_length))
    user += _item(_IMPLEMENTATION_CLASS, IMPLEMENTATION_CLASS_UID.encode())
    for uid, (scu, scp) in roles.items():
        user += _item(_ROLE, struct.pack(">H", len(uid)) + uid.encode() + bytes((scu, scp)))
    user += _item(_IMPLEMENTATION_VERSION, IMPLEMENTATION_VERSION_NAME.encode())
    # Titles and what is reserved are sent back as they came.
    body = struct.pack(">H2x", 1) + request[_TITLES:_ITEMS] + items + _item(_USER_INFORMATION, user)
    return struct.pack(">BxI", A_ASSOCIATE_AC, len(body)) + body


def rejection(result: int, source: int, reason: int) -> bytes:
    """An A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    return struct.pack(">BxIxBBB", A_ASSOCIATE_RJ, 4, result, source, reason)


def fragments(body: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Context identifier and value of each fragment of a P-DATA-TF; the value begins with the message control
    header.

    A PDU may have a hundred thousand. Raises ProtocolViolation if they do not fill it (PS3.8 9.3.5).
    """
    offset, size = 0, len(body)
    if not size:
        raise ProtocolViolation("no PDV item")
    while offset < size:
        if offset + 5 > size:
            raise ProtocolViolation("PDV item cut off")
        length, context_id = struct.unpack_from(">IB", body, offset)
        start, offset = offset + 5, offset + 4 + length
        if length < 1 or offset > size:
            raise ProtocolViolation("PDV item longer than its PDU")
        yield context_id, body[start:offset]


def p_data_tf(context_id: int, header: int, fragment: bytes) -> bytes:
    """A P-DATA-TF PDU of one fragment; ``header`` is its message control header (PS3.8 9.3.5, E.2)."""
    length = len(fragment) + 2
    return struct.pack(">BxIIBB", P_DATA_TF, length + 4, length, context_id, header) + fragment


def check_answer(pdu: memoryview) -> bytearray:
    """An A-ASSOCIATE-AC with the items that PS3.8 9.3.3 defines: others are ignored and skipped (9.3.1).

    For pynetdicom, which aborts at items that it does not know. Raises ProtocolViolation.
    """
    kept = bytearray()
    for kind, value in _items(pdu[_HEAD + _ITEMS :]):
        if kind == _CONTEXT_RESULT:
            known = _of_kinds(value[_CONTEXT_HEAD:], (_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX))
            kept += _item(kind, bytes(value[:_CONTEXT_HEAD]) + known)
        elif kind == _USER_INFORMATION:
            kept += _item(kind, _of_kinds(value, _USER_ITEMS_OF_AN_ANSWER))
        elif kind == _APPLICATION_CONTEXT:
            kept += _item(kind, value)
    head = bytearray(struct.pack(">BxI", A_ASSOCIATE_AC, _ITEMS + len(kept)))
    return head + pdu[_HEAD : _HEAD + _ITEMS] + kept


def is_ae_title(title: str) -> bool:
    """Whether a title of a ``Proposal`` has only characters that VR AE allows."""
    return bool(title) and "\\" not in title


def _title(field: memoryview) -> str:
    """Some senders end a title with a NUL, as a string in C, in place of padding it with spaces."""
    text = bytes(field).partition(b"\0")[0]
    shown = (chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in text)
    return "".join(shown).strip()


def _uid(value: memoryview) -> str:
    return bytes(value).rstrip(b"\0 ").decode("ascii", "replace")


def _of_kinds(items: memoryview, kinds: Container[int]) -> bytes:
    return b"".join(_item(kind, value) for kind, value in _items(items) if kind in kinds)


def _item(kind: int, value: bytes | memoryview) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def _items(body: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Type and value of each item."""
    while body:
        if len(body) < 4:
            raise ProtocolViolation("item of an association request cut off")
        kind, length = struct.unpack_from(">BxH", body)
        if 4 + length > len(body):
            raise ProtocolViolation("item longer than its association request")
        yield kind, body[4 : 4 + length]
        body = body[4 + length :]
