"""UIDs in the first bytes of an encoded data set (PS3.5 7.1 and 7.5, PS3.3 C.7.2.1, C.7.3.1, C.12.1).

For processes that receive objects and parse no data sets: only these UIDs are read, all other values skipped.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from dicom_node.dicom.transfer_syntaxes import TransferSyntax

_Tag = tuple[int, int]
_SOP_CLASS_UID, _SOP_INSTANCE_UID = (0x0008, 0x0016), (0x0008, 0x0018)
_STUDY_UID, _SERIES_UID = (0x0020, 0x000D), (0x0020, 0x000E)
_ITEM_GROUP, _ENDS = 0xFFFE, (0xE00D, 0xE0DD)  # delimiters of items and sequences
_UNDEFINED = 0xFFFFFFFF
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_INFLATED = 2**10  # bytes of a deflated data set that are looked at


def read_sop_uids(encoded: bytes | bytearray, syntax: TransferSyntax) -> tuple[str, str]:
    """SOP Class UID and SOP Instance UID without padding; "" for a UID that these bytes do not contain."""
    return _uids(encoded, syntax, _SOP_CLASS_UID, _SOP_INSTANCE_UID, _INFLATED)


def read_study_uids(encoded: bytes | bytearray, syntax: TransferSyntax, inflated: int) -> tuple[str, str]:
    """Study and Series Instance UID without padding; "" for a UID that these bytes do not contain.

    ``inflated``: the number of bytes of a deflated data set to inflate and read.
    """
    return _uids(encoded, syntax, _STUDY_UID, _SERIES_UID, inflated)


def _uids(
    encoded: bytes | bytearray, syntax: TransferSyntax, first: _Tag, last: _Tag, inflated: int
) -> tuple[str, str]:
    if syntax.is_deflated:
        encoded = _inflated(encoded, inflated)
    found = {first: "", last: ""}
    for tag, start, end in _elements(encoded, syntax):
        if tag > last:
            break
        if tag in found:
            found[tag] = bytes(encoded[start:end]).rstrip(b"\0 ").decode("ascii", "replace")
    return found[first], found[last]


def _elements(encoded: bytes | bytearray, syntax: TransferSyntax) -> Iterator[tuple[_Tag, int, int]]:
    """Tag of each element that is in no sequence, and where its value begins and ends.

    Ends where a value is not whole or the bytes are no element.
    """
    order = "<" if syntax.is_little_endian else ">"
    offset = depth = 0  # sequences and items of undefined length that are open
    while offset + 12 <= len(encoded):
        group, element, length = struct.unpack_from(f"{order}HHI", encoded, offset)
        start = offset + 8
        if not syntax.is_implicit_vr and group != _ITEM_GROUP:
            vr, length = struct.unpack_from(f"{order}2sH", encoded, offset + 4)
            if not (vr.isalpha() and vr.isupper()):
                return
            if vr in _LONG:
                (length,) = struct.unpack_from(f"{order}I", encoded, offset + 8)
                start = offset + 12
            if length == _UNDEFINED and vr == b"UN":  # its items have implicit VR (PS3.5 6.2.2)
                return
        if group == _ITEM_GROUP and element in _ENDS:
            depth, offset = depth - 1, start
            if depth < 0:
                return
        elif length == _UNDEFINED:
            depth, offset = depth + 1, start
        else:
            offset = start + length
            if offset > len(encoded):
                return
            if not depth:
                yield (group, element), start, offset


def _inflated(encoded: bytes | bytearray, most: int) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(bytes(encoded), most)
    except zlib.error:
        return b""
