"""Storage Commitment Push Model (PS3.4 Annex J): writes requests and reports, and reads them under limits."""

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID

from dicom_node.base.errors import FaultyReport, NodeError

SOP_CLASS: Final = UID("1.2.840.10008.1.20.1")
SOP_INSTANCE: Final = UID("1.2.840.10008.1.20.1.1")
REQUEST: Final = 1
"""Action Type ID (PS3.4 J.3.2.1.1)."""
MAXIMUM_BYTES: Final = 2**18
"""Largest report. Our requests name at most 32 objects, which take about 160 bytes each in the report."""
MAXIMUM_OBJECTS: Final = 1000
REQUEST_BYTES: Final = 2**20
"""Largest request of a peer; it has about 160 bytes for each object."""
REQUEST_OBJECTS: Final = 4000
"""Objects of a request: with the longest UIDs its line in the journal stays under the 1 MiB that are read."""
NO_SUCH_OBJECT: Final = 0x0112
CLASS_CONFLICT: Final = 0x0119
PROCESSING_FAILURE: Final = 0x0110
ALL_COMMITTED, SOME_FAILED = 1, 2
"""Event Type IDs of a report (PS3.4 J.3.3.1.1)."""

_REASONS = {
    0x0110: "processing failure",
    0x0112: "no such object instance",
    0x0119: "class / instance conflict",
    0x0122: "SOP class not supported",
    0x0131: "duplicate transaction UID",
    0x0213: "resource limitation",
}
_ITEM = b"\xfe\xff\x00\xe0"  # (FFFE,E000), little endian
UID_TEXT: Final = re.compile(r"[0-9.]{1,64}")


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """Event Information of an N-EVENT-REPORT (PS3.4 J.3.3.1), in the form of the journal and the database.

    ``committed``: lines of "instance class". ``failed``: lines of "instance reason", the reason in four
    hexadecimal digits.
    """

    transaction_uid: str
    committed: list[str]
    failed: list[str]


def failure_text(reason: int) -> str:
    """A Failure Reason (0008,1197) in words (PS3.3 C.14.1.1)."""
    return f"not taken over: {_REASONS.get(reason, 'failure')} ({reason:04X})"


def request(transaction_uid: str, objects: Iterable[tuple[str, str]]) -> Dataset:
    """Action Information of an N-ACTION (PS3.4 J.3.2.1.2); ``objects``: SOP Class and Instance UIDs."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = [_reference(*uids) for uids in objects]
    return information


def report(transaction_uid: str, objects: Mapping[str, str], failed: Mapping[str, int]) -> Dataset:
    """Event Information of an N-EVENT-REPORT (PS3.4 J.3.3.1.2).

    ``objects``: SOP Class UIDs by SOP Instance UID. ``failed``: Failure Reasons of objects that are not
    committed.
    """
    information = Dataset()
    information.TransactionUID = transaction_uid
    if committed := [uid for uid in objects if uid not in failed]:
        information.ReferencedSOPSequence = [_reference(objects[uid], uid) for uid in committed]
    if failed:
        information.FailedSOPSequence = [_reference(objects[uid], uid) for uid in failed]
        for item, reason in zip(information.FailedSOPSequence, failed.values(), strict=True):
            item.FailureReason = reason
    return information


def read_report(encoded: bytes, transfer_syntax: UID) -> CommitmentReport:
    """Read Event Information in Implicit or Explicit VR Little Endian. Raises FaultyReport."""
    with _read(encoded, transfer_syntax, MAXIMUM_BYTES, MAXIMUM_OBJECTS) as information:
        return CommitmentReport(
            _uid(information, "TransactionUID"),
            [_line(item) for item in information.get("ReferencedSOPSequence") or ()],
            [
                f"{_uid(item, 'ReferencedSOPInstanceUID')} {_reason(item):04X}"
                for item in information.get("FailedSOPSequence") or ()
            ],
        )


def read_request(encoded: bytes, transfer_syntax: UID) -> tuple[str, list[str]]:
    """The Transaction UID and the objects, lines of "instance class", of Action Information (PS3.4 J.3.2.1)
    in Implicit or Explicit VR Little Endian. Raises FaultyReport.

    If an instance is listed twice, its last class is used.
    """
    with _read(encoded, transfer_syntax, REQUEST_BYTES, REQUEST_OBJECTS) as information:
        lines = [_line(item) for item in information.get("ReferencedSOPSequence") or ()]
        if not lines:
            raise FaultyReport("storage commitment request for no object")
        return _uid(information, "TransactionUID"), [*{line.split()[0]: line for line in lines}.values()]


def _read(
    encoded: bytes, transfer_syntax: UID, most_bytes: int, most_items: int
) -> AbstractContextManager[Dataset]:
    return reading(
        encoded,
        transfer_syntax,
        most_bytes,
        most_items,
        beyond=FaultyReport("storage commitment message beyond its limits"),
        unreadable=FaultyReport("storage commitment message cannot be read"),
    )


@contextmanager
def reading(
    encoded: bytes,
    transfer_syntax: UID,
    most_bytes: int,
    most_items: int,
    beyond: NodeError,
    unreadable: NodeError,
) -> Iterator[Dataset]:
    """The data set of a message in Little Endian, for a scope in which whatever is wrong with it is one of
    the errors: it is beyond the limits, or cannot be read.
    """
    if len(encoded) > most_bytes or encoded.count(_ITEM) > most_items:
        raise beyond
    try:
        yield read_dataset(io.BytesIO(encoded), transfer_syntax.is_implicit_VR, is_little_endian=True)
    except NodeError:
        raise
    except Exception:  # noqa: BLE001 - pydicom raises what it likes for bytes that are no data set
        raise unreadable from None


def _line(item: Dataset) -> str:
    return f"{_uid(item, 'ReferencedSOPInstanceUID')} {_uid(item, 'ReferencedSOPClassUID')}"


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    return item


def _reason(item: Dataset) -> int:
    """A Failure Reason, 0 where there is none. In Explicit VR the sender chooses the VR: only US is taken."""
    reason = item.get("FailureReason") or 0
    if reason and (item["FailureReason"].VR != "US" or not isinstance(reason, int)):
        raise FaultyReport("storage commitment report with a Failure Reason that is no number of 16 bits")
    return int(reason)


def _uid(item: Dataset, keyword: str) -> str:
    """A UID as sent; events show it, so nothing else may stand there."""
    value = item.get(keyword)
    if not isinstance(value, str) or not UID_TEXT.fullmatch(value):
        raise FaultyReport("storage commitment message without a valid UID where one is needed")
    return str(value)
