"""Part 10 files from other systems on their way into the spool: only the meta information is read (PS3.10
7.1).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from dicom_node.dicom.transfer_syntaxes import transfer_syntax
from dicom_node.errors import FaultyInput
from dicom_node.inbox.spool import IncomingObject

META_BYTES = 64 * 1024
"""In which the file meta information must end."""
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")


@dataclass(frozen=True, slots=True)
class FileMeta:
    """The three UIDs of a file's meta information, and the offset of its data set (bytes)."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    length: int


def read_meta(start: bytes) -> FileMeta:
    """Read the meta information from the first META_BYTES of a file. Raises FaultyInput."""
    if start[128:132] != b"DICM":
        raise FaultyInput("it is neither DICOM (Part 10) nor a ZIP, a PNG or a JPEG")
    values: dict[int, bytes] = {}
    at = 132
    while at + 12 <= len(start):
        group, element, vr = struct.unpack_from("<HH2s", start, at)
        if group != 2:
            break
        long = vr in _LONG
        (length,) = struct.unpack_from("<I" if long else "<H", start, at + (8 if long else 6))
        at += 12 if long else 8
        values[element] = start[at : at + min(length, 64)]
        at += length
    else:
        raise FaultyInput("its file meta information does not end")
    sop_class, instance, syntax = (
        values.get(element, b"").decode("ascii", "replace").strip(" \0") for element in (0x02, 0x03, 0x10)
    )
    if not all(is_uid(uid) for uid in (sop_class, instance, syntax)):
        raise FaultyInput("its file meta information has no valid UIDs")
    return FileMeta(sop_class, instance, syntax, at)


def is_uid(text: str) -> bool:
    """Whether the text has the form of a UID (PS3.5 9.1)."""
    return bool(_UID.fullmatch(text)) and len(text) <= 64


def check_taken(sop_class_uid: str, transfer_syntax_uid: str, classes: Collection[str]) -> None:
    """Raise FaultyInput if this node does not accept the class or the transfer syntax."""
    if sop_class_uid not in classes:
        raise FaultyInput("this node does not take its SOP class (docs/conformance.md)")
    if transfer_syntax(transfer_syntax_uid) is None:
        raise FaultyInput("this node does not take its transfer syntax (docs/conformance.md)")


def store(incoming: IncomingObject, pieces: Iterable[bytes], largest: int) -> int:
    """Write a data set of at most ``largest`` bytes and make it durable; returns its size in bytes.

    Raises FaultyInput, SpoolError.
    """
    size = 0
    try:
        for piece in pieces:
            size += len(piece)
            if size > largest:
                raise FaultyInput("it is larger than listener.maximum_object_mib")
            incoming.write(piece)
        if not size:
            raise FaultyInput("it has no data set")
        incoming.commit()
    finally:
        incoming.abandon()
    return size
