"""Reads and writes command sets of C-STORE, C-ECHO, N-EVENT-REPORT, N-SET, N-ACTION and N-CREATE.

PS3.7 9.3, 10.3, E.1. Without pydicom, because each object pays for this work: pydicom takes 0.5 ms for
request and response.
"""

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dicom_node.scp.connection.pdus import ProtocolViolation
from dicom_node.scp.statuses import Status

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
    """A request. UIDs are as sent, without padding, valid or not.

    ``priority``: of a C-STORE. ``type_id``: Event Type ID or Action Type ID, 0 without one.
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
        """Whether the SOP Instance UID is a valid UID."""
        return _UID.fullmatch(self.sop_instance_uid) is not None


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request, which never has a data set.

    ``comment``: at most 64 characters, no PHI; ``error_id``: 0 for none; ``missing``: tags of attributes.
    """

    status: Status
    comment: str = ""
    error_id: int = 0
    missing: Sequence[int] = ()


def read_command(encoded: bytes) -> Command:
    """The command of a command set.

    Raises ProtocolViolation, also for a service that is not served, and if the request cannot be answered.
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
    """The encoded response, without Event Reply, Action Reply or Attribute List.

    A failure has an Error Comment always: many modalities show nothing else.
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
        tags = b"".join(struct.pack("<HH", tag >> 16, tag & 0xFFFF) for tag in answer.missing)
        elements.append(_element(0x1005, tags))
    if of_type := _ELEMENTS[command.field][2]:
        elements.append(_element(of_type, struct.pack("<H", command.type_id)))
    body = b"".join(elements)
    return _element(0x0000, struct.pack("<I", len(body))) + body


def name_of(field: int) -> str:
    """The name of the service of a command field, or the field's number (PS3.7 E.1-1)."""
    return _NAMES.get(field, f"command {field:04X}")


def _elements(encoded: bytes | bytearray) -> dict[int, bytes]:
    """The values of a command set (always Implicit VR Little Endian) by element number.

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
    value = elements.get(element, b"")
    if len(value) != 2:
        raise ProtocolViolation(f"(0000,{element:04X}) is no unsigned short")
    return int.from_bytes(value, "little")


def _uid(elements: Mapping[int, bytes], element: int) -> str:
    return elements.get(element, b"").rstrip(b"\0 ").decode("ascii", "replace")


def _element(element: int, value: bytes, padding: bytes = b"\0") -> bytes:
    value += padding * (len(value) % 2)
    return struct.pack("<HHI", 0, element, len(value)) + value
