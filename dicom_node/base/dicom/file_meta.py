"""The header of a Part 10 file, its File Meta Information (PS3.10 7.1).

It ends where its Group Length says: elements of group 0002 behind it are of the data set, which may not have
any (``dicom.elements``). A parser that reads them as a part of the header lets a sender replace what the
listener wrote there.

UIDs in the first bytes of an encoded data set (PS3.5 7.1 and 7.5, PS3.3 C.7.2.1, C.7.3.1, C.12.1).
For processes that receive objects and parse no data sets: only these UIDs are read, all other values skipped.
"""

import io
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from dicom_node.base.dicom.header import LONG, Limits, Walk, named
from dicom_node.base.dicom.uids import TransferSyntax
from dicom_node.base.errors import FaultyObject

META_BYTES = 64 * 1024
"""In which a header must end."""
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_GROUP_LENGTH = struct.Struct("<HH2sHI")  # (0002,0000), 12 bytes


@dataclass(frozen=True, slots=True)
class FileMeta:
    """A file's header. ``values``: by element number of group 0002; ``length``: where the data set begins."""

    values: Mapping[int, bytes]
    length: int

    @property
    def sop_class_uid(self) -> str:
        """Media Storage SOP Class UID (0002,0002), "" if it is missing or no UID."""
        return self._uid(0x0002)

    @property
    def sop_instance_uid(self) -> str:
        """Media Storage SOP Instance UID (0002,0003), "" if it is missing or no UID."""
        return self._uid(0x0003)

    @property
    def transfer_syntax_uid(self) -> str:
        """Transfer Syntax UID (0002,0010), "" if it is missing or no UID."""
        return self._uid(0x0010)

    def _uid(self, element: int) -> str:
        return uid_of(self.values.get(element, b""))


def read_file_meta(start: bytes) -> FileMeta:
    """Read the header from the first META_BYTES of a file. Raises FaultyObject."""
    if start[128:132] != b"DICM":
        raise FaultyObject("not DICOM: the prefix DICM is missing")
    at, end, last = 132, len(start), -1
    if len(start) >= at + 12:
        *tag, vr, _, length = _GROUP_LENGTH.unpack_from(start, at)
        if (*tag, vr) == (2, 0, b"UL"):
            end = at + 12 + length
    values: dict[int, bytes] = {}
    while at < end:
        if at + 12 > len(start):
            raise FaultyObject("the header of the file does not end")
        group, element, vr = struct.unpack_from("<HH2s", start, at)
        if group != 2:
            break
        if element <= last:
            raise FaultyObject(f"{named(group << 16 | element)} is given twice or out of order in the header")
        long = vr in LONG
        (length,) = struct.unpack_from("<I" if long else "<H", start, at + (8 if long else 6))
        at += 12 if long else 8
        values[element] = start[at : at + length]
        at += length
        last = element
    if at > len(start):
        raise FaultyObject("the header of the file does not end")
    return FileMeta(values, at)


def uid_of(value: bytes) -> str:
    """The UID in the bytes of a value, "" if it is none.

    Everything that opens objects reads UIDs by this, whatever the VR: parsers also take one with a space
    before it, an escape sequence in it or written as a number, and would file an object where nobody looked.
    """
    uid = value.rstrip(b"\0 ").decode("ascii", "replace")
    return uid if is_uid(uid) else ""


def is_uid(text: str) -> bool:
    """Whether the text has the form of a UID (PS3.5 9.1)."""
    return bool(_UID.fullmatch(text)) and len(text) <= 64


_SOP_CLASS_UID, _SOP_INSTANCE_UID = 0x00080016, 0x00080018
_STUDY_UID, _SERIES_UID = 0x0020000D, 0x0020000E


def read_sop_uids(
    encoded: bytes | bytearray, syntax: TransferSyntax, inflated: int = 2**10
) -> tuple[str, str]:
    """SOP Class UID and SOP Instance UID without padding; "" for a UID that these bytes do not contain
    or that is none.

    ``inflated``: the number of bytes of a deflated data set to inflate and read.
    """
    return _uids(encoded, syntax, _SOP_CLASS_UID, _SOP_INSTANCE_UID, inflated)


def read_study_uids(encoded: bytes | bytearray, syntax: TransferSyntax, inflated: int) -> tuple[str, str]:
    """Study and Series Instance UID; otherwise as ``read_sop_uids``."""
    return _uids(encoded, syntax, _STUDY_UID, _SERIES_UID, inflated)


def _uids(
    encoded: bytes | bytearray, syntax: TransferSyntax, first: int, last: int, inflated: int
) -> tuple[str, str]:
    if syntax.is_deflated:
        try:
            encoded = zlib.decompressobj(-zlib.MAX_WBITS).decompress(bytes(encoded), inflated)
        except zlib.error:
            encoded = b""
    found = {first: "", last: ""}
    for element in Walk(io.BytesIO(encoded), syntax, Limits()).elements():
        if element.tag > last:
            break
        if element.tag in found:
            found[element.tag] = uid_of(bytes(encoded[element.start : element.start + element.length]))
    return found[first], found[last]
