"""Storage Commitment Push Model (PS3.4 Annex J): what is asked for, and a report read under limits."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID

from dicom_node.errors import FaultyReport

SOP_CLASS: Final = UID("1.2.840.10008.1.20.1")
SOP_INSTANCE: Final = UID("1.2.840.10008.1.20.1.1")
REQUEST: Final = 1
"""Action Type ID (PS3.4 J.3.2.1.1)."""
MAXIMUM_BYTES: Final = 2**18
"""Largest report. Our requests name at most 32 objects, which take about 160 bytes each in the report."""
MAXIMUM_OBJECTS: Final = 1000

_REASONS = {
    0x0110: "processing failure",
    0x0112: "no such object instance",
    0x0119: "class / instance conflict",
    0x0122: "SOP class not supported",
    0x0131: "duplicate transaction UID",
    0x0213: "resource limitation",
}
_ITEM = b"\xfe\xff\x00\xe0"  # (FFFE,E000), little endian
_UID = re.compile(r"[0-9.]{1,64}")


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """Event Information of an N-EVENT-REPORT (PS3.4 J.3.3.1).

    ``committed``: SOP Instance and SOP Class UIDs. ``failed``: SOP Instance UIDs and Failure Reasons (US).
    """

    transaction_uid: str
    committed: tuple[tuple[str, str], ...]
    failed: tuple[tuple[str, int], ...]

    def committed_lines(self) -> list[str]:
        """As journal and database keep them: "instance class"."""
        return [f"{instance} {sop_class}" for instance, sop_class in self.committed]

    def failed_lines(self) -> list[str]:
        """As journal and database keep them: "instance reason", in four hexadecimal digits."""
        return [f"{instance} {reason:04X}" for instance, reason in self.failed]


def failure_text(reason: int) -> str:
    """A Failure Reason (0008,1197) in words (PS3.3 C.14.1.1)."""
    return f"not taken over: {_REASONS.get(reason, 'failure')} ({reason:04X})"


def request(transaction_uid: str, objects: Iterable[tuple[str, str]]) -> Dataset:
    """Action Information of an N-ACTION (PS3.4 J.3.2.1.2); ``objects``: SOP Class and Instance UIDs."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = [_reference(*uids) for uids in objects]
    return information


def read_report(encoded: bytes, transfer_syntax: UID) -> CommitmentReport:
    """Read Event Information in Implicit or Explicit VR Little Endian. Raises FaultyReport."""
    if len(encoded) > MAXIMUM_BYTES or encoded.count(_ITEM) > MAXIMUM_OBJECTS:
        raise FaultyReport("storage commitment report beyond its limits")
    try:
        information = read_dataset(io.BytesIO(encoded), transfer_syntax.is_implicit_VR, is_little_endian=True)
        return CommitmentReport(
            _uid(information.get("TransactionUID")),
            tuple(
                (_uid(item.get("ReferencedSOPInstanceUID")), _uid(item.get("ReferencedSOPClassUID")))
                for item in _items(information, "Referenced")
            ),
            tuple(
                (_uid(item.get("ReferencedSOPInstanceUID")), _reason(item))
                for item in _items(information, "Failed")
            ),
        )
    except FaultyReport:
        raise
    except Exception as error:  # noqa: BLE001 - pydicom raises what it likes for bytes that are no data set
        raise FaultyReport(f"storage commitment report cannot be read: {type(error).__name__}") from None


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    return item


def _items(information: Dataset, which: str) -> Iterator[Dataset]:
    yield from information.get(f"{which}SOPSequence") or ()


def _reason(item: Dataset) -> int:
    """A Failure Reason, 0 where there is none. In Explicit VR the sender chooses the VR: only US is taken."""
    element = item.get("FailureReason") and item["FailureReason"]
    if not element:
        return 0
    if element.VR != "US" or not isinstance(element.value, int):
        raise FaultyReport("storage commitment report with a Failure Reason that is no number of 16 bits")
    return element.value


def _uid(value: object) -> str:
    """A UID as sent; events show it, so nothing else may stand there."""
    if not isinstance(value, str) or not _UID.fullmatch(value):
        raise FaultyReport("storage commitment report without a valid UID where one must stand")
    return str(value)
