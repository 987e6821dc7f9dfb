"""Modality Performed Procedure Step (PS3.4 F.7): reads N-CREATE and N-SET requests under limits.

Only attributes that show when a study is complete are read: status, studies and objects made. Values are
taken as bytes, whatever VR their sender chose, so that no patient data is decoded.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicom_node.base.dicom.commitment import UID_TEXT, reading
from dicom_node.base.errors import FaultyStep
from dicom_node.base.lifecycle import StepStatus

SOP_CLASS: Final = UID("1.2.840.10008.3.1.2.3.3")
MAXIMUM_BYTES: Final = 2**21
"""Largest data set; an image takes about 160 bytes of it."""
MAXIMUM_OBJECTS: Final = 10_000
"""Objects that one step may name."""
MAXIMUM_STUDIES: Final = 10
"""Studies that one step may be of."""

INVALID_VALUE, FAILURE, MISSING, EMPTY, TOO_MUCH = 0x0106, 0x0110, 0x0120, 0x0121, 0x0213
"""Statuses of PS3.7 Annex C."""
MISSING_FROM: Final = {MISSING: "lacks", EMPTY: "has no value of", INVALID_VALUE: "has no valid value of"}

# Type 1 in an N-CREATE, and in the final state (PS3.4 Table F.7.2-1). What is of type 2 may be missing here:
# it says no less than where it is empty.
_FIRST: Final = (
    "ScheduledStepAttributesSequence", "PerformedProcedureStepID", "PerformedStationAETitle",
    "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "PerformedProcedureStepStatus",
    "Modality",
)  # fmt: skip
LAST: Final = (
    "PerformedProcedureStepEndDate", "PerformedProcedureStepEndTime", "PerformedSeriesSequence",
)  # fmt: skip
"""Needed for the end, from whichever N-SET."""


@dataclass(frozen=True, slots=True)
class StepChange:
    """The changes to a step in one request; None for a value that the request does not contain.

    ``objects``: SOP Instance UIDs of images and other objects. ``has``: the attributes of ``LAST`` with a
    value.
    """

    status: StepStatus | None
    studies: tuple[str, ...] = ()
    objects: tuple[str, ...] | None = None
    has: frozenset[str] = frozenset()


def read_creation(encoded: bytes, transfer_syntax: UID) -> StepChange:
    """Read the Attribute List of an N-CREATE in Implicit or Explicit VR Little Endian. Raises FaultyStep."""
    with _read(encoded, transfer_syntax) as given:
        if missing := [keyword for keyword in _FIRST if keyword not in given]:
            raise faulty(MISSING, *missing)
        if empty := [keyword for keyword in _FIRST if not _has_value(given, keyword)]:
            raise faulty(EMPTY, *empty)
        if _status(given) is not StepStatus.IN_PROGRESS:
            raise faulty(INVALID_VALUE, "PerformedProcedureStepStatus")
        steps = _items(given, "ScheduledStepAttributesSequence")
        studies = tuple(dict.fromkeys(_uid(step, "StudyInstanceUID") for step in steps))
        if len(studies) > MAXIMUM_STUDIES:
            raise FaultyStep(f"of more than {MAXIMUM_STUDIES} studies", TOO_MUCH)
        return StepChange(StepStatus.IN_PROGRESS, studies, _objects(given), _last(given))


def read_modification(encoded: bytes, transfer_syntax: UID) -> StepChange:
    """Read the Modification List of an N-SET, without attributes that it may not change. Raises
    FaultyStep.
    """
    with _read(encoded, transfer_syntax) as given:
        return StepChange(_status(given), (), _objects(given), _last(given))


def faulty(code: int, *keywords: str) -> FaultyStep:
    """The error that names these attributes by their tags."""
    tags = [tag_for_keyword(keyword) or 0 for keyword in keywords]
    shown = ", ".join(f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in tags)
    return FaultyStep(f"{MISSING_FROM[code]} {shown}", code, tags)


def _read(encoded: bytes, transfer_syntax: UID) -> AbstractContextManager[Dataset]:
    return reading(
        encoded,
        transfer_syntax,
        MAXIMUM_BYTES,
        2 * MAXIMUM_OBJECTS,
        beyond=FaultyStep("beyond the limits of a step", TOO_MUCH),
        unreadable=FaultyStep("data set cannot be read", FAILURE),
    )


def _last(given: Dataset) -> frozenset[str]:
    return frozenset(keyword for keyword in LAST if _has_value(given, keyword))


def _status(given: Dataset) -> StepStatus | None:
    keyword = "PerformedProcedureStepStatus"
    if keyword not in given:
        return None
    try:
        return StepStatus(_text(given, keyword))
    except ValueError:
        raise faulty(INVALID_VALUE, keyword) from None


def _objects(given: Dataset) -> tuple[str, ...] | None:
    """The objects of all series; None where there is no Performed Series Sequence."""
    if "PerformedSeriesSequence" not in given:
        return None
    found: dict[str, None] = {}
    for one in _items(given, "PerformedSeriesSequence"):
        _uid(one, "SeriesInstanceUID")
        if not _text(one, "ProtocolName"):
            raise faulty(EMPTY, "ProtocolName")
        for keyword in ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence"):
            for item in _items(one, keyword):
                _uid(item, "ReferencedSOPClassUID")
                found[_uid(item, "ReferencedSOPInstanceUID")] = None
    if len(found) > MAXIMUM_OBJECTS:
        raise FaultyStep(f"names more than {MAXIMUM_OBJECTS} objects", TOO_MUCH)
    return tuple(found)


def _items(given: Dataset, keyword: str) -> Iterator[Dataset]:
    """The items of a sequence, none where it is missing."""
    if keyword not in given:
        return
    element = given[keyword]
    if element.VR != "SQ":
        raise faulty(INVALID_VALUE, keyword)
    yield from element.value or ()


def _uid(given: Dataset, keyword: str) -> str:
    """A UID as sent, of type 1; events show it, so nothing else may be there."""
    text = _text(given, keyword)
    if not text:
        raise faulty(EMPTY, keyword)
    if not UID_TEXT.fullmatch(text):
        raise faulty(INVALID_VALUE, keyword)
    return text


def _text(given: Dataset, keyword: str) -> str:
    """A value that is not decoded by its VR, "" where there is none."""
    value = _raw(given, keyword)
    if value and not isinstance(value, bytes):
        raise faulty(INVALID_VALUE, keyword)
    return value.strip(b" \0").decode("ascii", "replace") if isinstance(value, bytes) else ""


def _has_value(given: Dataset, keyword: str) -> bool:
    value = _raw(given, keyword)
    return bool(value.strip(b" \0") if isinstance(value, bytes) else value)


def _raw(given: Dataset, keyword: str) -> object:
    tag = tag_for_keyword(keyword)
    return given.get_item(tag).value if tag is not None and tag in given else None
