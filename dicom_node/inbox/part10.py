"""Part 10 files from other systems on their way into the spool: only the meta information is read (PS3.10
7.1).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from dicom_node.dicom.file_meta import FileMeta, read_file_meta
from dicom_node.dicom.transfer_syntaxes import transfer_syntax
from dicom_node.errors import FaultyInput, FaultyObject
from dicom_node.inbox.spool import IncomingObject


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
