"""UIDs in the first bytes of an encoded data set (PS3.5 7.1 and 7.5, PS3.3 C.7.2.1, C.7.3.1, C.12.1).

For processes that receive objects and parse no data sets: only these UIDs are read, all other values skipped.
"""

from __future__ import annotations

import io
import zlib
from typing import Final

from dicom_node.dicom.elements import Limits, Walk
from dicom_node.dicom.file_meta import uid_of
from dicom_node.dicom.transfer_syntaxes import TransferSyntax

_SOP_CLASS_UID, _SOP_INSTANCE_UID = 0x00080016, 0x00080018
_STUDY_UID, _SERIES_UID = 0x0020000D, 0x0020000E
_LIMITS: Final = Limits()


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
        encoded = _inflated(encoded, inflated)
    found = {first: "", last: ""}
    for element in Walk(io.BytesIO(encoded), syntax, _LIMITS).elements():
        if element.tag > last:
            break
        if element.tag in found:
            found[element.tag] = uid_of(bytes(encoded[element.start : element.start + element.length]))
    return found[first], found[last]


def _inflated(encoded: bytes | bytearray, most: int) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(bytes(encoded), most)
    except zlib.error:
        return b""
