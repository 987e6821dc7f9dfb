"""The Part 10 header of a spooled object (PS3.10 7.1), which contains the sender and the time of arrival.

After any crash, the spool alone shows which objects were received from whom. Of Part 10 files from other
systems on their way into the spool only the meta information is read.
"""

import json
import os
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from dicom_node.dicom.file_meta import META_BYTES, FileMeta, read_file_meta
from dicom_node.dicom.transfer_syntaxes import transfer_syntax
from dicom_node.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, derived_uid
from dicom_node.errors import FaultyInput, FaultyObject, SpoolError

# (0002,0100) Private Information Creator UID: says that (0002,0102) holds an Arrival as JSON.
ARRIVAL_CREATOR_UID = derived_uid("private information", "arrival", "1")

_PREAMBLE = bytes(128) + b"DICM"
_AFTER_SYNTAX = b"\x02\x00\x12\x00UI"  # (0002,0012), which follows it in every header that is written here
_TIME_OF_ARRIVAL = b'"received_at":"'
_JSON = json.JSONEncoder(separators=(",", ":"))
_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class Arrival:
    """The arrival of an object, stored in the private information of its Part 10 header (PS3.10 7.1).

    ``association`` is the node's own identifier of the association; ``priority`` the C-STORE priority of
    PS3.7 9.1.1 (0 medium, 1 high, 2 low); ``received_at`` is UTC. ``senders``: whose studies the user of the
    console sees who stored it, () for all.
    """

    association: str
    calling_ae: str
    called_ae: str
    address: str
    priority: int
    received_at: datetime
    senders: Sequence[str] = ()


def encode_header(
    arrival: Arrival, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
) -> bytes:
    """Preamble and File Meta Information. Its length does not depend on ``arrival.received_at``."""
    fields = {
        "association": arrival.association,
        "calling_ae": arrival.calling_ae,
        "called_ae": arrival.called_ae,
        "address": arrival.address,
        "priority": arrival.priority,
        **({"senders": arrival.senders} if arrival.senders else {}),
        "received_at": _encode_time(arrival.received_at).decode("ascii"),  # the last, see _TIME_OF_ARRIVAL
    }
    values = (
        (0x0001, b"OB", "\0\1"),
        (0x0002, b"UI", sop_class_uid),
        (0x0003, b"UI", sop_instance_uid),
        (0x0010, b"UI", transfer_syntax_uid),
        (0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
        (0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
        (0x0016, b"AE", arrival.calling_ae),
        (0x0017, b"AE", arrival.calling_ae),
        (0x0018, b"AE", arrival.called_ae),
        (0x0100, b"UI", ARRIVAL_CREATOR_UID),
        (0x0102, b"OB", _JSON.encode(fields)),
    )
    elements = b"".join(_element(element, vr, value.encode("ascii")) for element, vr, value in values)
    return _PREAMBLE + _element(0x0000, b"UL", struct.pack("<I", len(elements))) + elements


def with_time_of_arrival(encoded: bytes, received_at: datetime) -> bytes:
    """The header with another ``received_at``, of the same length."""
    time = _encode_time(received_at)
    start = encoded.rindex(_TIME_OF_ARRIVAL) + len(_TIME_OF_ARRIVAL)
    return encoded[:start] + time + encoded[start + len(time) :]


def read_arrival(path: Path) -> Arrival:
    """Read the arrival of the object in a spooled file. Raises SpoolError if the file does not contain it,
    and OSError if the disk cannot read it: that says nothing of the object.
    """
    try:
        meta = _meta_of(path)
    except FaultyObject as error:
        raise SpoolError(f"{path.name} is no spooled object: {type(error).__name__}") from None
    if meta.values.get(0x0100, b"").rstrip(b"\0") != ARRIVAL_CREATOR_UID.encode("ascii"):
        raise SpoolError(f"{path.name} was not written by the listener")
    fields = json.loads(meta.values.get(0x0102, b"").rstrip(b" \0"))
    return Arrival(**{**fields, "received_at": datetime.fromisoformat(fields["received_at"])})


def same_object(one: Path, other: Path) -> bool:
    """Whether two spooled files hold the same SOP class, instance, transfer syntax and data set.

    They are compared byte by byte, without the records of their arrival. Raises OSError.
    """
    with one.open("rb") as mine, other.open("rb") as theirs:
        if _described(mine) != _described(theirs) or _rest(mine) != _rest(theirs):
            return False
        while block := mine.read(_BLOCK):
            if block != theirs.read(_BLOCK):
                return False
    return True


def _described(file: BinaryIO) -> bytes:
    """The elements of the header up to the transfer syntax; leaves the file at the data set."""
    start = file.read(len(_PREAMBLE) + 12)
    return file.read(struct.unpack("<I", start[-4:])[0]).partition(_AFTER_SYNTAX)[0]


def _rest(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size - file.tell()


def read_requested(path: Path) -> tuple[str, str, str]:
    """Transfer syntax, SOP class and instance UID of the C-STORE request, each "" if the file lacks it.

    Raises OSError.
    """
    try:
        meta = _meta_of(path)
    except FaultyObject:
        return "", "", ""
    return meta.transfer_syntax_uid, meta.sop_class_uid, meta.sop_instance_uid


def read_meta(start: bytes) -> FileMeta:
    """Read the meta information from the first META_BYTES of a file. Raises FaultyInput."""
    if start[128:132] != b"DICM":
        raise FaultyInput("it is neither DICOM (Part 10) nor a ZIP, a PNG or a JPEG")
    try:
        meta = read_file_meta(start)
    except FaultyObject as error:
        raise FaultyInput(str(error)) from None
    if not (meta.sop_class_uid and meta.sop_instance_uid and meta.transfer_syntax_uid):
        raise FaultyInput("its file meta information has no valid UIDs")
    return meta


def check_taken(sop_class_uid: str, transfer_syntax_uid: str, classes: Collection[str]) -> None:
    """Raise FaultyInput if this node does not accept the class or the transfer syntax."""
    if sop_class_uid not in classes:
        raise FaultyInput("this node does not take its SOP class (docs/conformance.md)")
    if transfer_syntax(transfer_syntax_uid) is None:
        raise FaultyInput("this node does not take its transfer syntax (docs/conformance.md)")


def _meta_of(path: Path) -> FileMeta:
    with path.open("rb") as file:
        return read_file_meta(file.read(META_BYTES))


def _encode_time(moment: datetime) -> bytes:
    return moment.isoformat(timespec="microseconds").encode("ascii")


def _element(element: int, vr: bytes, value: bytes) -> bytes:
    """One element of group 0002 in Explicit VR Little Endian (PS3.5 7.1.2), padded to an even length."""
    if len(value) % 2:
        value += b"\0" if vr in (b"UI", b"OB") else b" "
    if vr == b"OB":
        return struct.pack("<HH2sHI", 2, element, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value
