"""C-STORE command sets (PS3.7 9.3.1, E.1): read from and written to bytes.

By hand, because this is what each object costs: pydicom takes 0.5 ms for the two of them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from dicom_node.scp.statuses import Status

C_STORE_RQ = 0x0001
_C_STORE_RSP = 0x8001
_NO_DATA_SET = 0x0101
_UID = re.compile(r"[0-9.]{1,64}")  # real devices send components with leading zeros


class MalformedCommand(ValueError):
    """Bytes that are no command set: the association is aborted (PS3.8 AA-8)."""


@dataclass(frozen=True, slots=True)
class StoreCommand:
    """A C-STORE-RQ. UIDs are as sent, without padding, whether or not they are valid."""

    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    priority: int
    has_data_set: bool

    @property
    def names_an_instance(self) -> bool:
        """Whether the Affected SOP Instance UID can be one."""
        return _UID.fullmatch(self.sop_instance_uid) is not None


def read_elements(encoded: bytes | bytearray) -> dict[int, bytes]:
    """Element number to value of a command set, which is always Implicit VR Little Endian.

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
    """Which service is asked for, (0000,0100). Raises MalformedCommand."""
    return _number(elements, 0x0100)


def read_store_command(elements: Mapping[int, bytes]) -> StoreCommand:
    """Raises MalformedCommand where no answer could be given: without Message ID or Data Set Type."""
    priority = _number(elements, 0x0700) if 0x0700 in elements else 0
    return StoreCommand(
        message_id=_number(elements, 0x0110),
        sop_class_uid=_uid(elements, 0x0002),
        sop_instance_uid=_uid(elements, 0x1000),
        priority=priority if priority in (0, 1, 2) else 0,
        has_data_set=_number(elements, 0x0800) != _NO_DATA_SET,
    )


def encode_store_response(command: StoreCommand, status: Status, comment: str) -> bytes:
    """The C-STORE-RSP. ``comment`` (at most 64 characters, no PHI) goes to Error Comment."""
    elements = [
        _element(0x0002, _ui(command.sop_class_uid)),
        _element(0x0100, struct.pack("<H", _C_STORE_RSP)),
        _element(0x0120, struct.pack("<H", command.message_id)),
        _element(0x0800, struct.pack("<H", _NO_DATA_SET)),
        _element(0x0900, struct.pack("<H", status.code)),
    ]
    if comment:
        text = comment[:64].encode("ascii", "replace")
        elements.append(_element(0x0902, text + b" " * (len(text) % 2)))
    if command.names_an_instance:
        elements.append(_element(0x1000, _ui(command.sop_instance_uid)))
    body = b"".join(elements)
    return _element(0x0000, struct.pack("<I", len(body))) + body


def _number(elements: Mapping[int, bytes], element: int) -> int:
    value = elements.get(element, b"")
    if len(value) != 2:
        raise MalformedCommand(f"(0000,{element:04X}) is no unsigned short")
    return int.from_bytes(value, "little")


def _uid(elements: Mapping[int, bytes], element: int) -> str:
    return elements.get(element, b"").rstrip(b"\0 ").decode("ascii", "replace")


def _ui(uid: str) -> bytes:
    value = uid.encode("ascii", "replace")[:64]
    return value + b"\0" * (len(value) % 2)


def _element(element: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, element, len(value)) + value
