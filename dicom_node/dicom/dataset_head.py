"""SOP Class and Instance UID in the first bytes of an encoded data set (PS3.5 7.1, PS3.3 C.12.1).

For the listener, which parses no data sets: elements are walked, and no value but these two is looked at.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from dicom_node.dicom.transfer_syntaxes import TransferSyntax

_SOP_CLASS_UID, _SOP_INSTANCE_UID = (0x0008, 0x0016), (0x0008, 0x0018)
_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_INFLATED = 2**10  # bytes of a deflated data set that are looked at


def read_sop_uids(encoded: bytes | bytearray, syntax: TransferSyntax) -> tuple[str, str]:
    """SOP Class UID and SOP Instance UID without padding; "" for one that these bytes do not show."""
    if syntax.is_deflated:
        encoded = _inflated(encoded)
    found = {_SOP_CLASS_UID: "", _SOP_INSTANCE_UID: ""}
    for tag, value in _elements(encoded, syntax):
        if tag > _SOP_INSTANCE_UID:
            break
        if tag in found:
            found[tag] = value.rstrip(b"\0 ").decode("ascii", "replace")
    return found[_SOP_CLASS_UID], found[_SOP_INSTANCE_UID]


def _elements(encoded: bytes | bytearray, syntax: TransferSyntax) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Tag and value of each element; ends where a value is not whole or the bytes are no element."""
    order = "<" if syntax.is_little_endian else ">"
    offset = 0
    while offset + 12 <= len(encoded):
        group, element, length = struct.unpack_from(f"{order}HHI", encoded, offset)
        start = offset + 8
        if not syntax.is_implicit_vr:
            vr, length = struct.unpack_from(f"{order}2sH", encoded, offset + 4)
            if not (vr.isalpha() and vr.isupper()):
                return
            if vr in _LONG:
                (length,) = struct.unpack_from(f"{order}I", encoded, offset + 8)
                start = offset + 12
        offset = start + length
        if offset > len(encoded):
            return
        yield (group, element), bytes(encoded[start:offset])


def _inflated(encoded: bytes | bytearray) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(bytes(encoded), _INFLATED)
    except zlib.error:
        return b""
