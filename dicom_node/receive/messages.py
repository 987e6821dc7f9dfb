"""The messages of an association: its socket, PDUs and command sets, each read under limits.

The socket: each read and write is within a limit of time. Without TLS it is blocking, the kernel keeps the
time (``SO_RCVTIMEO``) and returns when all bytes are there (``MSG_WAITALL``): each system call releases the
interpreter and has to get it back from the threads of all other associations, which costs more than the call.

PDUs of an acceptor (PS3.8 9.3): requests are read under limits of number and size, answers are written.
Nothing is taken from a request but what the acceptor uses: items of unknown type are ignored and skipped
(PS3.8 9.3.1). Letters of an AE title that are not ASCII are shown with escapes, not dropped: a stranger's
title cannot become that of a peer.

Command sets (PS3.7 9.3, 10.3, E.1) of C-STORE, C-ECHO, N-EVENT-REPORT, N-SET, N-ACTION and N-CREATE are read
and written without pydicom, which takes 0.5 ms for request and response of each object.
"""

import contextlib
import re
import socket
import ssl
import struct
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from dicom_node.base.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.receive import limits
from dicom_node.receive.statuses import SUCCESS, Status


class DeadlineSocket:
    """A connection whose reads fail after a deadline, and whose writes fail if the peer does not read for
    ``send_seconds``.
    """

    def __init__(self, connection: socket.socket, seconds: float, send_seconds: float) -> None:
        """Wrap a connection. ``seconds``: until the deadline of the first reads. ``send_seconds``: how long a
        write may wait.
        """
        self._socket, self.send_seconds = connection, send_seconds
        self._limits: dict[int, float] = {}
        self.allow(seconds)

    def allow(self, seconds: float, bytes_per_second: float = float("inf")) -> None:
        """Set the deadline for the next reads: ``seconds`` from now, plus one second for each
        ``bytes_per_second`` that are received.

        Reads also fail if the peer is silent for longer than twice ``seconds``.
        """
        self._longest, self._bytes_per_second = seconds, bytes_per_second
        self._until = time.monotonic() + seconds

    def shake_hands(self) -> None:
        """Do the TLS handshake, if TLS is used. Raises OSError."""
        if isinstance(self._socket, ssl.SSLSocket):
            self._socket.settimeout(max(self._until - time.monotonic(), 0.001))
            self._socket.do_handshake()

    def read(self, view: memoryview) -> memoryview:
        """Fill ``view`` and return it. Raises TimeoutError after the deadline, and OSError, also if the peer
        has closed.
        """
        count = 0
        while count < len(view):
            if (seconds := self._until - time.monotonic()) <= 0:
                raise TimeoutError
            self._limit(socket.SO_RCVTIMEO, min(self._longest, seconds))
            try:
                if isinstance(self._socket, ssl.SSLSocket):
                    received = self._socket.recv_into(view[count:])
                else:
                    received = self._socket.recv_into(view[count:], 0, socket.MSG_WAITALL)
            except BlockingIOError:
                raise TimeoutError from None
            if not received:
                raise ConnectionError
            count += received
            self._until += received / self._bytes_per_second
        return view

    def send(self, data: bytes) -> None:
        """Send all of ``data``. Raises OSError, also if the peer does not read."""
        self._limit(socket.SO_SNDTIMEO, self.send_seconds)
        self._socket.sendall(data)

    def interrupt(self) -> None:
        """End the reads of the thread that serves the connection; callable from any thread."""
        with contextlib.suppress(OSError):
            # Not SSLSocket's own: that goes on without TLS, and what is read then is ciphertext.
            socket.socket.shutdown(self._socket, socket.SHUT_RD)

    def close(self) -> None:
        """Close the connection, after giving the peer half a second to read the last PDU and close first."""
        # It has half a second to close after the last PDU, before we do (Sta13).
        end, left = time.monotonic() + 0.5, limits.DROPPED
        with contextlib.suppress(OSError):
            while left > 0 and (seconds := end - time.monotonic()) > 0:
                self._limit(socket.SO_RCVTIMEO, seconds)
                left -= len(self._socket.recv(2**16)) or left
        self._socket.close()

    def _limit(self, option: int, seconds: float) -> None:
        """Limit the next call on the socket to ``seconds`` by ``option``; a limit that has hardly changed is
        not set again.
        """
        if isinstance(self._socket, ssl.SSLSocket):
            self._socket.settimeout(seconds)
        elif not 0.98 * seconds <= self._limits.get(option, 0.0) <= seconds:
            microseconds = max(1, int(990_000 * seconds))
            pair = struct.pack("ll", *divmod(microseconds, 10**6))
            self._socket.setsockopt(socket.SOL_SOCKET, option, pair)
            self._limits[option] = microseconds / 1e6


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
    """Received bytes are no valid PDU or message, or exceed a limit; the association is aborted (PS3.8
    AA-8).
    """


@dataclass(frozen=True, slots=True)
class Proposal:
    """The content of an association request (A-ASSOCIATE-RQ) that came from ``address``.

    Titles are without padding; bytes that PS3.5 6.2 does not allow in AE are hexadecimal escapes with a
    backslash.
    """

    calling_ae: str
    called_ae: str
    address: str
    contexts: Contexts = field(default_factory=dict)
    application_context: str = APPLICATION_CONTEXT
    """Application Context Name; "" if the item is missing (PS3.8 9.3.2.1)."""
    has_version_1: bool = True
    """Whether bit 0 of Protocol-version is set, the only one that is tested (PS3.8 Table 9-11)."""
    roles: Mapping[str, tuple[bool, bool]] = field(default_factory=dict)
    """SOP Class UID -> whether the peer would be SCU, whether it would be SCP (PS3.7 D.3.3.4)."""
    maximum_length: int = 0
    """The largest body of a P-DATA-TF in bytes that the peer accepts; 0 for any (PS3.8 D.1)."""


def read_request(body: memoryview, address: str) -> Proposal:
    """Read the body of an association request (A-ASSOCIATE-RQ) from ``address``. Raises ProtocolViolation,
    also if it exceeds a limit.
    """
    contexts = dict[int, tuple[str, tuple[str, ...]]]()
    alone, number = dict[int, memoryview](), 0  # items that stand alone; how many there are
    for kind, value in _items(body[_ITEMS:]):
        number += 1
        if kind == _PRESENTATION_CONTEXT:
            parts = list(_items(value[_CONTEXT_HEAD:]))
            syntaxes = _syntaxes(parts)
            if not value[0] & 1 or value[0] in contexts:
                raise ProtocolViolation("a presentation context without an odd identifier of its own")
            contexts[value[0]] = syntaxes
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
        application_context=_uid_of(alone.get(_APPLICATION_CONTEXT, body[:0])),
        has_version_1=bool(body[1] & 1),
        roles={_uid_of(part[2:-2]): (bool(part[-2]), bool(part[-1])) for part in roles},
        maximum_length=next((int.from_bytes(part[:4]) for kind, part in user if kind == _MAXIMUM_LENGTH), 0),
    )


def _syntaxes(parts: Sequence[tuple[int, memoryview]]) -> tuple[str, tuple[str, ...]]:
    """Return the abstract syntax and the transfer syntaxes of a presentation context (PS3.8 9.3.2.2) with
    these items. Raises ProtocolViolation.
    """
    abstract = [_uid_of(part) for kind, part in parts if kind == _ABSTRACT_SYNTAX]
    transfer = tuple(_uid_of(part) for kind, part in parts if kind == _TRANSFER_SYNTAX)
    if len(abstract) != 1 or not transfer:
        raise ProtocolViolation("a presentation context without its syntaxes")
    return abstract[0], transfer


def acceptance(
    request: memoryview,
    results: Mapping[int, tuple[int, str]],
    roles: Mapping[str, tuple[bool, bool]],
    maximum_length: int,
) -> bytes:
    """Build the A-ASSOCIATE-AC that accepts the association request with the body ``request`` (PS3.8 9.3.3).

    ``results``: presentation context id -> (result, transfer syntax) (Table 9-18). ``roles``: SOP Class UID
    -> whether the peer may be SCU, SCP. ``maximum_length``: the largest P-DATA-TF in bytes that the node
    accepts.
    """
    items = _item(_APPLICATION_CONTEXT, APPLICATION_CONTEXT.encode())
    for context_id, (result, syntax) in results.items():
        items += _item(
            _CONTEXT_RESULT,
            struct.pack(">BxBx", context_id, result) + _item(_TRANSFER_SYNTAX, syntax.encode()),
        )
    user = _item(_MAXIMUM_LENGTH, struct.pack(">I", maximum_length))
    user += _item(_IMPLEMENTATION_CLASS, IMPLEMENTATION_CLASS_UID.encode())
    for uid, (scu, scp) in roles.items():
        user += _item(_ROLE, struct.pack(">H", len(uid)) + uid.encode() + bytes((scu, scp)))
    user += _item(_IMPLEMENTATION_VERSION, IMPLEMENTATION_VERSION_NAME.encode())
    # Titles and what is reserved are sent back as they came.
    body = struct.pack(">H2x", 1) + request[_TITLES:_ITEMS] + items + _item(_USER_INFORMATION, user)
    return struct.pack(">BxI", A_ASSOCIATE_AC, len(body)) + body


def fragments(body: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield presentation context id and value of each fragment (PDV) of a P-DATA-TF; the value begins with
    the message control header.

    A PDU may have a hundred thousand. Raises ProtocolViolation if they do not fill it exactly (PS3.8 9.3.5).
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
    """Build a P-DATA-TF PDU with one fragment; ``header``: its message control header (PS3.8 9.3.5, E.2)."""
    length = len(fragment) + 2
    return struct.pack(">BxIIBB", P_DATA_TF, length + 4, length, context_id, header) + fragment


def check_answer(pdu: memoryview) -> bytearray:
    """Return a received A-ASSOCIATE-AC with only the items that PS3.8 9.3.3 defines; others are to be ignored
    (9.3.1), but pynetdicom aborts at them.

    Raises ProtocolViolation.
    """
    kept = bytearray()
    for kind, value in _items(pdu[_HEAD + _ITEMS :]):
        if kind == _CONTEXT_RESULT:
            kept += _item(
                kind,
                bytes(value[:_CONTEXT_HEAD])
                + _of_kinds(value[_CONTEXT_HEAD:], (_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX)),
            )
        elif kind == _USER_INFORMATION:
            kept += _item(kind, _of_kinds(value, _USER_ITEMS_OF_AN_ANSWER))
        elif kind == _APPLICATION_CONTEXT:
            kept += _item(kind, value)
    return (
        bytearray(struct.pack(">BxI", A_ASSOCIATE_AC, _ITEMS + len(kept)))
        + pdu[_HEAD : _HEAD + _ITEMS]
        + kept
    )


def is_ae_title(title: str) -> bool:
    """Return whether an AE title of a ``Proposal`` is not empty and has only characters that VR AE allows."""
    return bool(title) and "\\" not in title


def _title(field: memoryview) -> str:
    """Return an AE title without padding, with disallowed bytes escaped. Some senders end a title with a NUL,
    as in C.
    """
    text = bytes(field).partition(b"\0")[0]
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in text
    ).strip()


def _uid_of(value: memoryview) -> str:
    """Return a UID without padding, valid or not."""
    return bytes(value).rstrip(b"\0 ").decode("ascii", "replace")


def _of_kinds(items: memoryview, kinds: Container[int]) -> bytes:
    """Return the encoded items of these types."""
    return b"".join(_item(kind, value) for kind, value in _items(items) if kind in kinds)


def _item(kind: int, value: bytes | memoryview) -> bytes:
    """Encode an item of a PDU: type, length, value."""
    return struct.pack(">BxH", kind, len(value)) + value


def _items(body: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield type and value of each item in a part of an association PDU. Raises ProtocolViolation."""
    while body:
        if len(body) < 4:
            raise ProtocolViolation("item of an association request cut off")
        kind, length = struct.unpack_from(">BxH", body)
        if 4 + length > len(body):
            raise ProtocolViolation("item longer than its association request")
        yield kind, body[4 : 4 + length]
        body = body[4 + length :]


C_STORE_RQ, C_ECHO_RQ = 0x0001, 0x0030
N_EVENT_REPORT_RQ, N_SET_RQ, N_ACTION_RQ, N_CREATE_RQ = 0x0100, 0x0120, 0x0130, 0x0140
# Elements of each request: its SOP class, its SOP instance, and the type of its event or action.
_ELEMENTS: Final[Mapping[int, tuple[int, int, int]]] = {
    C_STORE_RQ: (0x0002, 0x1000, 0),
    C_ECHO_RQ: (0x0002, 0, 0),
    N_EVENT_REPORT_RQ: (0x0002, 0x1000, 0x1002),
    N_SET_RQ: (0x0003, 0x1001, 0),
    N_ACTION_RQ: (0x0003, 0x1001, 0x1008),
    N_CREATE_RQ: (0x0002, 0x1000, 0),
}
_NAMES = {
    0x0010: "C-GET",
    0x0020: "C-FIND",
    0x0021: "C-MOVE",
    0x0100: "N-EVENT-REPORT",
    0x0110: "N-GET",
    0x0120: "N-SET",
    0x0130: "N-ACTION",
    0x0140: "N-CREATE",
    0x0150: "N-DELETE",
}
_NO_DATA_SET = 0x0101
_UID = re.compile(r"[0-9.]{1,64}")  # real devices send components with leading zeros


@dataclass(frozen=True, slots=True)
class Command:
    """The command of a DIMSE request. UIDs are as sent, without padding, valid or not.

    ``field``: Command Field. ``priority``: of a C-STORE. ``type_id``: Event Type ID or Action Type ID, 0 for
    other requests.
    """

    field: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str = ""
    has_data_set: bool = False
    priority: int = 0
    type_id: int = 0

    @property
    def names_an_instance(self) -> bool:
        """Whether the request's SOP Instance UID is present and valid."""
        return _UID.fullmatch(self.sop_instance_uid) is not None


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a DIMSE request; it never has a data set.

    ``comment``: Error Comment, at most 64 characters without PHI. ``error_id``: Error ID, 0 for none.
    ``missing``: tags of missing attributes.
    """

    status: Status
    comment: str = ""
    error_id: int = 0
    missing: Sequence[int] = ()


SUCCEEDED: Final = Answer(SUCCESS)


def read_command(encoded: bytes) -> Command:
    """Read an encoded command set.

    Raises ProtocolViolation, also for a service that the node does not provide, and for a request that cannot
    be answered.
    """
    elements = _elements(encoded)
    field = _number(elements, 0x0100)
    if field not in _ELEMENTS:
        raise ProtocolViolation(f"not served: {name_of(field)}")
    of_class, of_instance, of_type = _ELEMENTS[field]
    priority = _number(elements, 0x0700) if 0x0700 in elements else 0
    return Command(
        field,
        message_id=_number(elements, 0x0110),
        sop_class_uid=_uid(elements, of_class),
        sop_instance_uid=_uid(elements, of_instance) if of_instance else "",
        has_data_set=_number(elements, 0x0800) != _NO_DATA_SET,
        priority=priority if priority in (0, 1, 2) else 0,
        type_id=_number(elements, of_type) if of_type else 0,
    )


def encode_response(command: Command, answer: Answer) -> bytes:
    """Encode the response to a request, without Event Reply, Action Reply or Attribute List.

    A failure always has an Error Comment, because many modalities show nothing else.
    """
    elements = [
        _element(0x0002, command.sop_class_uid.encode("ascii", "replace")[:64]),
        _element(0x0100, struct.pack("<H", command.field | 0x8000)),
        _element(0x0120, struct.pack("<H", command.message_id)),
        _element(0x0800, struct.pack("<H", _NO_DATA_SET)),
        _element(0x0900, struct.pack("<H", answer.status.code)),
    ]
    if comment := answer.comment or (answer.status.meaning if answer.status.code else ""):
        elements.append(_element(0x0902, comment[:64].encode("ascii", "replace"), b" "))
    if answer.error_id:
        elements.append(_element(0x0903, struct.pack("<H", answer.error_id)))
    if command.names_an_instance:
        elements.append(_element(0x1000, command.sop_instance_uid.encode("ascii")))
    if answer.missing:
        tags = (struct.pack("<HH", tag >> 16, tag & 0xFFFF) for tag in answer.missing)
        elements.append(_element(0x1005, b"".join(tags)))
    if of_type := _ELEMENTS[command.field][2]:
        elements.append(_element(of_type, struct.pack("<H", command.type_id)))
    body = b"".join(elements)
    return _element(0x0000, struct.pack("<I", len(body))) + body


def name_of(field: int) -> str:
    """Return the name of the service of a Command Field, or the field's number (PS3.7 E.1-1)."""
    return _NAMES.get(field, f"command {field:04X}")


def _elements(encoded: bytes | bytearray) -> dict[int, bytes]:
    """Return the values of an encoded command set (always Implicit VR Little Endian) by element number.

    Raises ProtocolViolation.
    """
    elements, offset, end = dict[int, bytes](), 0, len(encoded)
    while offset < end:
        if offset + 8 > end:
            raise ProtocolViolation("element header cut off")
        group, element, length = struct.unpack_from("<HHI", encoded, offset)
        offset += 8
        if group or offset + length > end:
            raise ProtocolViolation("not group 0000, or value cut off")
        elements[element] = bytes(encoded[offset : offset + length])
        offset += length
    return elements


def _number(elements: Mapping[int, bytes], element: int) -> int:
    """Return an element of a command set as a number. Raises ProtocolViolation if it is not an unsigned
    short.
    """
    value = elements.get(element, b"")
    if len(value) != 2:
        raise ProtocolViolation(f"(0000,{element:04X}) is no unsigned short")
    return int.from_bytes(value, "little")


def _uid(elements: Mapping[int, bytes], element: int) -> str:
    """Return an element of a command set as a UID, valid or not; "" if it is missing."""
    return elements.get(element, b"").rstrip(b"\0 ").decode("ascii", "replace")


def _element(element: int, value: bytes, padding: bytes = b"\0") -> bytes:
    """Encode an element of a command set, padded to an even length."""
    value += padding * (len(value) % 2)
    return struct.pack("<HHI", 0, element, len(value)) + value
