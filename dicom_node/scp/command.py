"""Reads and writes command sets of C-STORE, C-ECHO, N-EVENT-REPORT, N-SET, N-ACTION and N-CREATE.

PS3.7 9.3, 10.3, E.1. Without pydicom, because each object pays for this work: pydicom takes 0.5 ms for
request and response.
"""

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dicom_node.scp.statuses import Status

C_STORE_RQ, C_ECHO_RQ, C_CANCEL_RQ = 0x0001, 0x0030, 0x0FFF
N_EVENT_REPORT_RQ, N_SET_RQ, N_ACTION_RQ, N_CREATE_RQ = 0x0100, 0x0120, 0x0130, 0x0140
# Elements of each DIMSE-N request: its SOP class, its SOP instance, and the type of its event or action.
NORMALIZED: Final[Mapping[int, tuple[int, int, int]]] = {
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


class MalformedCommand(ValueError):
    """Bytes that are no valid command set; the association is aborted (PS3.8 AA-8)."""


@dataclass(frozen=True, slots=True)
class Command:
    """What every request has, and all that a C-ECHO-RQ has."""

    message_id: int
    sop_class_uid: str


@dataclass(frozen=True, slots=True)
class _InstanceCommand(Command):
    """A request about one SOP Instance. UIDs are as sent, without padding, valid or not."""

    sop_instance_uid: str
    has_data_set: bool

    @property
    def names_an_instance(self) -> bool:
        """Whether the SOP Instance UID is a valid UID."""
        return _UID.fullmatch(self.sop_instance_uid) is not None


@dataclass(frozen=True, slots=True)
class StoreCommand(_InstanceCommand):
    """A C-STORE-RQ."""

    priority: int


@dataclass(frozen=True, slots=True)
class NormalizedCommand(_InstanceCommand):
    """An N-EVENT-REPORT-RQ, N-SET-RQ, N-ACTION-RQ or N-CREATE-RQ.

    ``type_id``: Event Type ID or Action Type ID, 0 without one.
    """

    field: int
    type_id: int = 0

    @property
    def creates(self) -> bool:
        """Whether the command is an N-CREATE."""
        return self.field == N_CREATE_RQ


@dataclass(frozen=True, slots=True)
class NormalizedAnswer:
    """The answer to a NormalizedCommand, which never has a data set.

    ``comment`` as in ``encode_store_response``; ``error_id``: 0 for none; ``missing``: tags of attributes.
    """

    status: Status
    comment: str = ""
    error_id: int = 0
    missing: Sequence[int] = ()


def read_elements(encoded: bytes | bytearray) -> dict[int, bytes]:
    """The values of a command set (always Implicit VR Little Endian) by element number.

    Raises MalformedCommand.
    """
    elements, offset, end = dict[int, bytes](), 0, len(encoded)
    while offset < end:
        if offset + 8 > end:
            raise MalformedCommand("element header cut off")
        group, element, length = struct.unpack_from("<HHI", encoded, offset)
        offset += 8
        if group or offset + length > end:
            raise MalformedCommand("not group 0000, or value cut off")
        elements[element] = bytes(encoded[offset : offset + length])
        offset += length
    return elements


def command_field(elements: Mapping[int, bytes]) -> int:
    """The Command Field (0000,0100), which names the service. Raises MalformedCommand."""
    return _number(elements, 0x0100)


def name_of(field: int) -> str:
    """The name of the service of a command field, or the field's number (PS3.7 E.1-1)."""
    return _NAMES.get(field, f"command {field:04X}")


def read_echo_command(elements: Mapping[int, bytes]) -> Command:
    """Read a C-ECHO-RQ. Raises MalformedCommand, also if a data set is announced: C-ECHO has none."""
    if _number(elements, 0x0800) != _NO_DATA_SET:
        raise MalformedCommand("C-ECHO with a data set")
    return Command(_number(elements, 0x0110), _uid(elements, 0x0002))


def read_store_command(elements: Mapping[int, bytes]) -> StoreCommand:
    """Read a C-STORE-RQ. Raises MalformedCommand without Message ID or Data Set Type: no answer is
    possible.
    """
    priority = _number(elements, 0x0700) if 0x0700 in elements else 0
    return StoreCommand(
        message_id=_number(elements, 0x0110),
        sop_class_uid=_uid(elements, 0x0002),
        sop_instance_uid=_uid(elements, 0x1000),
        priority=priority if priority in (0, 1, 2) else 0,
        has_data_set=_number(elements, 0x0800) != _NO_DATA_SET,
    )


def read_normalized_command(elements: Mapping[int, bytes]) -> NormalizedCommand:
    """Read a DIMSE-N request, whose field is in ``NORMALIZED``.

    Raises MalformedCommand if the request cannot be answered.
    """
    field = command_field(elements)
    of_class, of_instance, of_type = NORMALIZED[field]
    return NormalizedCommand(
        field=field,
        message_id=_number(elements, 0x0110),
        sop_class_uid=_uid(elements, of_class),
        sop_instance_uid=_uid(elements, of_instance),
        has_data_set=_number(elements, 0x0800) != _NO_DATA_SET,
        type_id=_number(elements, of_type) if of_type else 0,
    )


def encode_store_response(command: StoreCommand, status: Status, comment: str) -> bytes:
    """The encoded C-STORE-RSP. ``comment`` (at most 64 characters, no PHI) goes to Error Comment."""
    further = [_comment(comment)] if comment else []
    if command.names_an_instance:
        further.append(_element(0x1000, _ui(command.sop_instance_uid)))
    return _response(C_STORE_RQ, command, status, further)


def encode_echo_response(command: Command, status: Status) -> bytes:
    """The encoded C-ECHO-RSP."""
    return _response(C_ECHO_RQ, command, status, [_comment(status.meaning)] if status.code else ())


def encode_normalized_response(command: NormalizedCommand, answer: NormalizedAnswer) -> bytes:
    """The encoded response to a DIMSE-N request, without Event Reply, Action Reply or Attribute List.

    A failure has an Error Comment always: many modalities show nothing else.
    """
    comment = answer.comment or (answer.status.meaning if answer.status.code else "")
    further = [_comment(comment)] if comment else []
    if answer.error_id:
        further.append(_element(0x0903, struct.pack("<H", answer.error_id)))
    if command.names_an_instance:
        further.append(_element(0x1000, _ui(command.sop_instance_uid)))
    if answer.missing:
        tags = b"".join(struct.pack("<HH", tag >> 16, tag & 0xFFFF) for tag in answer.missing)
        further.append(_element(0x1005, tags))
    if of_type := NORMALIZED[command.field][2]:
        further.append(_element(of_type, struct.pack("<H", command.type_id)))
    return _response(command.field, command, answer.status, further)


def _response(field: int, command: Command, status: Status, further: Iterable[bytes]) -> bytes:
    elements = (
        _element(0x0002, _ui(command.sop_class_uid)),
        _element(0x0100, struct.pack("<H", field | 0x8000)),
        _element(0x0120, struct.pack("<H", command.message_id)),
        _element(0x0800, struct.pack("<H", _NO_DATA_SET)),
        _element(0x0900, struct.pack("<H", status.code)),
        *further,
    )
    body = b"".join(elements)
    return _element(0x0000, struct.pack("<I", len(body))) + body


def _number(elements: Mapping[int, bytes], element: int) -> int:
    value = elements.get(element, b"")
    if len(value) != 2:
        raise MalformedCommand(f"(0000,{element:04X}) is no unsigned short")
    return int.from_bytes(value, "little")


def _uid(elements: Mapping[int, bytes], element: int) -> str:
    return elements.get(element, b"").rstrip(b"\0 ").decode("ascii", "replace")


def _comment(comment: str) -> bytes:
    text = comment[:64].encode("ascii", "replace")
    return _element(0x0902, text + b" " * (len(text) % 2))


def _ui(uid: str) -> bytes:
    value = uid.encode("ascii", "replace")[:64]
    return value + b"\0" * (len(value) % 2)


def _element(element: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, element, len(value)) + value
