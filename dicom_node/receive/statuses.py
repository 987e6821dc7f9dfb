"""Statuses that the storage SCP returns, as data (PS3.4 Table B.2-1, PS3.7 Annex C)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Status:
    """A DIMSE status. ``code``: as sent in (0000,0900). ``meaning`` and ``when``: texts for the conformance
    statement.
    """

    code: int
    meaning: str
    when: str


SUCCESS = Status(0x0000, "Success", "what came is whole and on stable storage")
OUT_OF_RESOURCES = Status(
    0xA700,
    "Refused: Out of Resources",
    "less free disk space than spool.minimum_free_mib, or the spool cannot be written, or as many objects of "
    "this sender wait to be indexed as spool.waiting_objects or spool.waiting_mib allow; send again later",
)
# PS3.4 B.2.3, PS3.7 C.5.6
SOP_CLASS_NOT_SUPPORTED = Status(
    0x0122,
    "Refused: SOP Class Not Supported",
    "the Affected SOP Class UID differs from the presentation context's",
)
# PS3.4 B.2.3, PS3.7 C.5.24
NOT_AUTHORISED = Status(
    0x0124,
    "Refused: Not Authorized",
    "the calling AE is a known peer, but may not do this; the step is of another AE",
)
CANNOT_UNDERSTAND = Status(
    0xC000,
    "Error: Cannot understand",
    "no data set came, or the request has no valid Affected SOP Instance UID",
)
TOO_LARGE = Status(
    0xC001, "Error: Cannot understand", "the data set is larger than listener.maximum_object_mib"
)

# PS3.7 Annex C
NO_SUCH_CLASS = Status(
    0x0118,
    "No such SOP Class",
    "the request names another class than its presentation context",
)
# PS3.7 10.1.1.1.8, 10.1.4.1.10
INFORMATION_UNREADABLE = Status(
    0x0115,
    "Invalid argument value",
    "the Event or Action Information cannot be read, names no object, or is beyond its limits",
)
# PS3.7 Annex C
NOT_KEPT = Status(
    0x0213,
    "Resource limitation",
    "it cannot be written to disk, is beyond its limits, or too many came; send it again later",
)
# PS3.7 10.1.4.1.10
NO_SUCH_PUSH_MODEL = Status(
    0x0112,
    "No such SOP Instance",
    "the Requested SOP Instance UID is not the well-known one (PS3.4 J.3.5)",
)
# PS3.7 10.1.4.1.10
NO_SUCH_ACTION = Status(0x0123, "No such action", "the Action Type ID is not 1")

# PS3.4 F.7.2.1.3
STEP_INVALID = Status(
    0x0106,
    "Invalid attribute value",
    "the Performed Procedure Step Status of an N-CREATE is not IN PROGRESS, or a value that is read is none",
)
# PS3.4 F.7.2.1.1
STEP_MISSING = Status(
    0x0120,
    "Missing Attribute",
    "an N-CREATE lacks an attribute of type 1",
)
# PS3.4 F.7.2.1.1
STEP_EMPTY = Status(
    0x0121,
    "Missing Attribute Value",
    "an attribute of type 1 has no value; at its end also one that is of type 1 in the final state",
)
# PS3.4 F.7.2.2.4
STEP_FAILURE = Status(
    0x0110,
    "Processing Failure",
    "the data set cannot be read; with Error ID A710 (Performed Procedure Step Object may no longer be "
    "updated): N-SET of a step that has ended",
)
# PS3.7 Annex C
STEP_KNOWN = Status(0x0111, "Duplicate SOP Instance", "N-CREATE of a step that is known")
# PS3.7 Annex C
STEP_UNKNOWN = Status(
    0x0112,
    "No such SOP Instance",
    "N-SET of a step that is not known, or no longer",
)
# PS3.7 Annex C
STEP_INSTANCE = Status(
    0x0117,
    "Invalid SOP Instance",
    "the SOP Instance UID of the request is none",
)

STEP_STATUSES = (
    SUCCESS, STEP_INVALID, STEP_FAILURE, STEP_KNOWN, STEP_UNKNOWN, STEP_INSTANCE, NO_SUCH_CLASS, STEP_MISSING,
    STEP_EMPTY, NOT_AUTHORISED, NOT_KEPT,
)  # fmt: skip
"""All that an N-CREATE or N-SET of a performed procedure step can get."""
REPORT_STATUSES = (SUCCESS, NOT_AUTHORISED, INFORMATION_UNREADABLE, NOT_KEPT)
"""All that an N-EVENT-REPORT can get."""
REQUEST_STATUSES = (
    SUCCESS, NOT_AUTHORISED, NO_SUCH_CLASS, NO_SUCH_PUSH_MODEL, NO_SUCH_ACTION, INFORMATION_UNREADABLE,
    NOT_KEPT,
)  # fmt: skip
"""All that an N-ACTION can get."""
STATUSES = (
    SUCCESS, OUT_OF_RESOURCES, SOP_CLASS_NOT_SUPPORTED, NOT_AUTHORISED, CANNOT_UNDERSTAND,
    TOO_LARGE,
)  # fmt: skip
"""All that a C-STORE can get. Faulty content is acknowledged, and quarantined later."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """The reason for rejecting an association: fields of the A-ASSOCIATE-RJ PDU (PS3.8 Table 9-21)."""

    result: int
    source: int
    reason: int
    meaning: str


APPLICATION_CONTEXT_NOT_SUPPORTED = Rejection(1, 1, 2, "application context name not supported")
CALLING_AE_NOT_RECOGNISED = Rejection(1, 1, 3, "calling AE title not recognized")
CALLED_AE_NOT_RECOGNISED = Rejection(1, 1, 7, "called AE title not recognized")
PROTOCOL_VERSION_NOT_SUPPORTED = Rejection(1, 2, 2, "protocol version not supported")
TEMPORARY_CONGESTION = Rejection(2, 3, 1, "temporary congestion")
LOCAL_LIMIT_EXCEEDED = Rejection(2, 3, 2, "local limit exceeded")

REJECTIONS = (
    APPLICATION_CONTEXT_NOT_SUPPORTED, CALLING_AE_NOT_RECOGNISED,
    CALLED_AE_NOT_RECOGNISED, PROTOCOL_VERSION_NOT_SUPPORTED, TEMPORARY_CONGESTION, LOCAL_LIMIT_EXCEEDED,
)  # fmt: skip
