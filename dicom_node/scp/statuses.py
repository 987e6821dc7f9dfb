"""Statuses that the storage SCP returns, as data (PS3.4 Table B.2-1, PS3.7 Annex C)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Status:
    """``code`` as sent in (0000,0900); ``meaning`` and ``reference`` go to the conformance statement."""

    code: int
    category: str
    meaning: str
    when: str
    reference: str


SUCCESS = Status(
    0x0000,
    "Success",
    "Success",
    "the object is whole and on stable storage",
    "PS3.4 B.2.3",
)
OUT_OF_RESOURCES = Status(
    0xA700,
    "Failure",
    "Refused: Out of Resources",
    "less free disk space than spool.minimum_free_mib, or the spool cannot be written; send again later",
    "PS3.4 B.2.3",
)
SOP_CLASS_NOT_SUPPORTED = Status(
    0x0122,
    "Failure",
    "Refused: SOP Class Not Supported",
    "the Affected SOP Class UID is not that of the presentation context",
    "PS3.4 B.2.3, PS3.7 C.5.6",
)
NOT_AUTHORISED = Status(
    0x0124,
    "Failure",
    "Refused: Not Authorized",
    "the calling AE is a known peer, but may not send",
    "PS3.4 B.2.3, PS3.7 C.5.24",
)
CANNOT_UNDERSTAND = Status(
    0xC000,
    "Failure",
    "Error: Cannot understand",
    "no data set came, or the request has no valid Affected SOP Instance UID",
    "PS3.4 B.2.3",
)
TOO_LARGE = Status(
    0xC001,
    "Failure",
    "Error: Cannot understand",
    "the data set is larger than listener.maximum_object_mib",
    "PS3.4 B.2.3",
)

STATUSES: tuple[Status, ...] = (
    SUCCESS,
    OUT_OF_RESOURCES,
    SOP_CLASS_NOT_SUPPORTED,
    NOT_AUTHORISED,
    CANNOT_UNDERSTAND,
    TOO_LARGE,
)
"""All that a C-STORE can get. Faulty content is acknowledged, and quarantined later."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why an association is not accepted: fields of the A-ASSOCIATE-RJ PDU (PS3.8 Table 9-21)."""

    result: int
    source: int
    reason: int
    meaning: str


CALLING_AE_NOT_RECOGNISED = Rejection(1, 1, 3, "calling AE title not recognized")
CALLED_AE_NOT_RECOGNISED = Rejection(1, 1, 7, "called AE title not recognized")
TEMPORARY_CONGESTION = Rejection(2, 3, 1, "temporary congestion")
LOCAL_LIMIT_EXCEEDED = Rejection(2, 3, 2, "local limit exceeded")

REJECTIONS: tuple[Rejection, ...] = (
    CALLING_AE_NOT_RECOGNISED,
    CALLED_AE_NOT_RECOGNISED,
    TEMPORARY_CONGESTION,
    LOCAL_LIMIT_EXCEEDED,
)
