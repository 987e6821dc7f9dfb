"""Messages of DIMSE-N services, written, and read under limits: storage commitment and procedure steps.

Storage Commitment Push Model (PS3.4 Annex J): requests and reports. Modality Performed Procedure Step
(PS3.4 F.7): N-CREATE and N-SET requests, of which only attributes are read that show when a study is
complete: status, studies and objects made. Values are taken as bytes, whatever VR their sender chose, so that
no patient data is decoded.
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import Tag
from pydicom.uid import UID

from dicom_node.base.errors import FaultyObject, FaultyStep, NodeError
from dicom_node.base.lifecycle import StepStatus

COMMITMENT_CLASS: Final = UID("1.2.840.10008.1.20.1")
COMMITMENT_INSTANCE: Final = UID("1.2.840.10008.1.20.1.1")
COMMITMENT_REQUEST: Final = 1
"""Action Type ID (PS3.4 J.3.2.1.1)."""
REPORT_BYTES: Final = 2**18
"""Largest report. Our requests name at most 32 objects, which take about 160 bytes each in the report."""
REPORT_OBJECTS: Final = 1000
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
    """The content of a storage commitment report (Event Information of an N-EVENT-REPORT, PS3.4 J.3.3.1), as
    journal and database have it.

    ``committed``: one line "SOP-Instance-UID SOP-Class-UID" for each object. ``failed``: one line
    "SOP-Instance-UID reason" for each object, the Failure Reason in four hexadecimal digits.
    """

    transaction_uid: str
    committed: list[str]
    failed: list[str]


def failure_text(reason: int) -> str:
    """Return a Failure Reason (0008,1197) of storage commitment in words (PS3.3 C.14.1.1)."""
    return f"not taken over: {_REASONS.get(reason, 'failure')} ({reason:04X})"


def commitment_request(transaction_uid: str, objects: Iterable[tuple[str, str]]) -> Dataset:
    """Build a storage commitment request (Action Information of an N-ACTION, PS3.4 J.3.2.1.2).

    ``objects``: pairs of SOP Class UID and SOP Instance UID.
    """
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = [_reference(*uids) for uids in objects]
    return information


def commitment_report(transaction_uid: str, objects: Mapping[str, str], failed: Mapping[str, int]) -> Dataset:
    """Build a storage commitment report (Event Information of an N-EVENT-REPORT, PS3.4 J.3.3.1.2).

    ``objects``: SOP Instance UID -> SOP Class UID. ``failed``: SOP Instance UID -> Failure Reason, for
    objects that are not committed.
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


def read_commitment_report(encoded: bytes, transfer_syntax: UID) -> CommitmentReport:
    """Read a storage commitment report (Event Information) in Implicit or Explicit VR Little Endian. Raises
    FaultyObject.
    """
    with _reading_commitment(encoded, transfer_syntax, REPORT_BYTES, REPORT_OBJECTS) as information:
        return CommitmentReport(
            _uid(information, "TransactionUID"),
            [_line(item) for item in information.get("ReferencedSOPSequence") or ()],
            [
                f"{_uid(item, 'ReferencedSOPInstanceUID')} {_reason(item):04X}"
                for item in information.get("FailedSOPSequence") or ()
            ],
        )


def read_commitment_request(encoded: bytes, transfer_syntax: UID) -> tuple[str, list[str]]:
    """Read a storage commitment request (Action Information, PS3.4 J.3.2.1) in Implicit or Explicit VR Little
    Endian.

    Returns the Transaction UID and one line "SOP-Instance-UID SOP-Class-UID" for each object; if an instance
    is listed twice, its last class is used. Raises FaultyObject.
    """
    with _reading_commitment(encoded, transfer_syntax, REQUEST_BYTES, REQUEST_OBJECTS) as information:
        lines = [_line(item) for item in information.get("ReferencedSOPSequence") or ()]
        if not lines:
            raise FaultyObject("storage commitment request for no object")
        return _uid(information, "TransactionUID"), [*{line.split()[0]: line for line in lines}.values()]


def _reading_commitment(
    encoded: bytes, transfer_syntax: UID, most_bytes: int, most_items: int
) -> AbstractContextManager[Dataset]:
    """Return a context manager that decodes the data set of a storage commitment message. Raises
    FaultyObject.

    ``most_bytes``, ``most_items``: limits of the message.
    """
    return reading(
        encoded,
        transfer_syntax,
        most_bytes,
        most_items,
        beyond=FaultyObject("storage commitment message beyond its limits"),
        unreadable=FaultyObject("storage commitment message cannot be read"),
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
    """Context manager: decode the data set of a DIMSE message in Little Endian.

    Raises ``beyond`` if the message exceeds ``most_bytes`` or ``most_items`` (sequence items), and
    ``unreadable`` for any other fault in it.
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
    """Return the line "SOP-Instance-UID SOP-Class-UID" for an item that refers to an object."""
    return f"{_uid(item, 'ReferencedSOPInstanceUID')} {_uid(item, 'ReferencedSOPClassUID')}"


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    """Build a sequence item that refers to an object."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    return item


def _reason(item: Dataset) -> int:
    """Return the Failure Reason of an item, 0 if it is missing. Raises FaultyObject if it is not a 16-bit
    number.
    """
    reason = item.get("FailureReason") or 0
    if reason and (item["FailureReason"].VR != "US" or not isinstance(reason, int)):
        raise FaultyObject("storage commitment report with a Failure Reason that is no number of 16 bits")
    return int(reason)


def _uid(item: Dataset, keyword: str) -> str:
    """Return a UID attribute exactly as sent. Raises FaultyObject for any other text: events show UIDs, so a
    name must not pass.
    """
    value = item.get(keyword)
    if not isinstance(value, str) or not UID_TEXT.fullmatch(value):
        raise FaultyObject("storage commitment message without a valid UID where one is needed")
    return str(value)


STEP_CLASS: Final = UID("1.2.840.10008.3.1.2.3.3")
STEP_BYTES: Final = 2**21
"""Largest data set; an image takes about 160 bytes of it."""
STEP_OBJECTS: Final = 10_000
"""Objects that one step may name."""
STEP_STUDIES: Final = 10
"""Studies that one step may be of."""

INVALID_VALUE, FAILURE, MISSING, EMPTY, TOO_MUCH = 0x0106, 0x0110, 0x0120, 0x0121, 0x0213
"""Statuses of PS3.7 Annex C."""
MISSING_FROM: Final = {MISSING: "lacks", EMPTY: "has no value of", INVALID_VALUE: "has no valid value of"}

# Type 1 in an N-CREATE, and in the final state (PS3.4 Table F.7.2-1). What is of type 2 may be missing here:
# it says no less than where it is empty.
_STEP_BEGIN: Final = (
    "ScheduledStepAttributesSequence", "PerformedProcedureStepID", "PerformedStationAETitle",
    "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "PerformedProcedureStepStatus",
    "Modality",
)  # fmt: skip
STEP_END: Final = (
    "PerformedProcedureStepEndDate", "PerformedProcedureStepEndTime", "PerformedSeriesSequence",
)  # fmt: skip
"""Needed for the end, from whichever N-SET."""


@dataclass(frozen=True, slots=True)
class StepChange:
    """What one MPPS request (Modality Performed Procedure Step) changes; None for a value that the request
    does not contain.

    ``studies``: Study Instance UIDs. ``objects``: SOP Instance UIDs of images and other objects. ``has``:
    keywords of those attributes required at the end of a step (``STEP_END``) that have a value.
    """

    status: StepStatus | None
    studies: tuple[str, ...] = ()
    objects: tuple[str, ...] | None = None
    has: frozenset[str] = frozenset()


def read_step_creation(encoded: bytes, transfer_syntax: UID) -> StepChange:
    """Read an MPPS N-CREATE request (Attribute List) in Implicit or Explicit VR Little Endian. Raises
    FaultyStep.
    """
    with _reading_step(encoded, transfer_syntax) as dataset:
        if missing := [keyword for keyword in _STEP_BEGIN if keyword not in dataset]:
            raise faulty_step(MISSING, *missing)
        if empty := [keyword for keyword in _STEP_BEGIN if not _has_value(dataset, keyword)]:
            raise faulty_step(EMPTY, *empty)
        if _step_status(dataset) is not StepStatus.IN_PROGRESS:
            raise faulty_step(INVALID_VALUE, "PerformedProcedureStepStatus")
        steps = _items(dataset, "ScheduledStepAttributesSequence")
        studies = tuple(dict.fromkeys(_step_uid(step, "StudyInstanceUID") for step in steps))
        if len(studies) > STEP_STUDIES:
            raise FaultyStep(f"of more than {STEP_STUDIES} studies", TOO_MUCH)
        return StepChange(StepStatus.IN_PROGRESS, studies, _step_objects(dataset), _end_values(dataset))


def read_step_modification(encoded: bytes, transfer_syntax: UID) -> StepChange:
    """Read an MPPS N-SET request (Modification List), ignoring attributes that it may not change. Raises
    FaultyStep.
    """
    with _reading_step(encoded, transfer_syntax) as dataset:
        return StepChange(_step_status(dataset), (), _step_objects(dataset), _end_values(dataset))


def faulty_step(code: int, *keywords: str) -> FaultyStep:
    """Build the error for an MPPS request whose attributes ``keywords`` are faulty; ``code``: the DIMSE
    status of the answer.
    """
    tags = [Tag(keyword) for keyword in keywords]
    shown = ", ".join(f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in tags)
    return FaultyStep(f"{MISSING_FROM[code]} {shown}", code, tags)


def _reading_step(encoded: bytes, transfer_syntax: UID) -> AbstractContextManager[Dataset]:
    """Return a context manager that decodes the data set of an MPPS request. Raises FaultyStep."""
    return reading(
        encoded,
        transfer_syntax,
        STEP_BYTES,
        2 * STEP_OBJECTS,
        beyond=FaultyStep("beyond the limits of a step", TOO_MUCH),
        unreadable=FaultyStep("data set cannot be read", FAILURE),
    )


def _end_values(dataset: Dataset) -> frozenset[str]:
    """Return the keywords of the attributes required at the end of a procedure step that have a value."""
    return frozenset(keyword for keyword in STEP_END if _has_value(dataset, keyword))


def _step_status(dataset: Dataset) -> StepStatus | None:
    """Return the status of the procedure step; None if the request does not contain it. Raises FaultyStep."""
    keyword = "PerformedProcedureStepStatus"
    if keyword not in dataset:
        return None
    try:
        return StepStatus(_text(dataset, keyword))
    except ValueError:
        raise faulty_step(INVALID_VALUE, keyword) from None


def _step_objects(dataset: Dataset) -> tuple[str, ...] | None:
    """Return the SOP Instance UIDs of the objects in all performed series; None without Performed Series
    Sequence. Raises FaultyStep.
    """
    if "PerformedSeriesSequence" not in dataset:
        return None
    found: dict[str, None] = {}
    for one in _items(dataset, "PerformedSeriesSequence"):
        _step_uid(one, "SeriesInstanceUID")
        if not _text(one, "ProtocolName"):
            raise faulty_step(EMPTY, "ProtocolName")
        for keyword in ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence"):
            for item in _items(one, keyword):
                _step_uid(item, "ReferencedSOPClassUID")
                found[_step_uid(item, "ReferencedSOPInstanceUID")] = None
    if len(found) > STEP_OBJECTS:
        raise FaultyStep(f"names more than {STEP_OBJECTS} objects", TOO_MUCH)
    return tuple(found)


def _items(dataset: Dataset, keyword: str) -> Iterator[Dataset]:
    """Yield the items of a sequence; nothing if it is missing. Raises FaultyStep if it is not a sequence."""
    if keyword not in dataset:
        return
    element = dataset[keyword]
    if element.VR != "SQ":
        raise faulty_step(INVALID_VALUE, keyword)
    yield from element.value or ()


def _step_uid(dataset: Dataset, keyword: str) -> str:
    """Return a required UID attribute exactly as sent. Raises FaultyStep for any other text: events show
    UIDs, so a name must not pass.
    """
    text = _text(dataset, keyword)
    if not text:
        raise faulty_step(EMPTY, keyword)
    if not UID_TEXT.fullmatch(text):
        raise faulty_step(INVALID_VALUE, keyword)
    return text


def _text(dataset: Dataset, keyword: str) -> str:
    """Return a value as ASCII text without padding, not decoded by its VR; "" if it is missing or empty.
    Raises FaultyStep.
    """
    value = _raw(dataset, keyword)
    if value and not isinstance(value, bytes):
        raise faulty_step(INVALID_VALUE, keyword)
    return value.strip(b" \0").decode("ascii", "replace") if isinstance(value, bytes) else ""


def _has_value(dataset: Dataset, keyword: str) -> bool:
    """Return whether an attribute is present and not empty."""
    value = _raw(dataset, keyword)
    return bool(value.strip(b" \0") if isinstance(value, bytes) else value)


def _raw(dataset: Dataset, keyword: str) -> object:
    """Return the undecoded value of an attribute; None if it is missing."""
    return dataset.get_item(keyword).value if keyword in dataset else None
