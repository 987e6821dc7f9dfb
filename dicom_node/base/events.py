"""Numbered events that an admin can look up, alert on and grep. No event contains PHI.

1xxx associations · 2xxx inbox · 3xxx jobs · 4xxx results · 5xxx deliveries · 6xxx the node itself.
``docs/reference/events.md`` lists all of them (tested). Fields are UIDs, AE titles, names of peers and rules,
and numbers.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

_DEBUG, _INFO, _WARNING, _ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR

FieldValue = str | int | float | list[str] | None


@dataclass(frozen=True, slots=True)
class EventType:
    """A type of event. The meaning of a ``number`` never changes; ``level`` is of ``logging``; ``text`` is
    one sentence for an administrator.
    """

    number: int
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Event:
    """One event that happened at the time ``at`` (UTC)."""

    type: EventType
    at: datetime
    fields: Mapping[str, Any] = field(default_factory=dict)  # FieldValue, as far as this version wrote them

    def __str__(self) -> str:
        """Return number, text and fields that are not empty, on one line, as the log shows them."""
        shown = " ".join(
            f"{key}={value}" for key, value in self.fields.items() if value not in (None, "", [])
        )
        return f"[{self.type.number}] {self.type.text} {shown}".rstrip()


TYPES: Final[Mapping[str, EventType]] = {
    "LISTENER_STARTED": EventType(1000, _INFO, "listener started"),
    "ASSOCIATION_ACCEPTED": EventType(1001, _INFO, "association accepted"),
    "ASSOCIATION_RELEASED": EventType(1002, _INFO, "association released"),
    "ASSOCIATION_ABORTED": EventType(1003, _WARNING, "association aborted or lost"),
    "ASSOCIATION_REJECTED": EventType(1004, _WARNING, "association rejected"),
    "STORE_REFUSED": EventType(1005, _WARNING, "C-STORE refused"),
    "ECHOED": EventType(1006, _INFO, "C-ECHO answered"),
    "TLS_FAILED": EventType(1007, _WARNING, "TLS handshake failed"),
    "LISTENER_STOPPED": EventType(1008, _INFO, "listener stopped"),
    "CONNECTIONS_FAILED": EventType(
        1009, _WARNING, "connections without an association, counted in one minute"
    ),
    "PEER_SILENT": EventType(1010, _WARNING, "no object came from a peer for longer than its silent_hours"),
    "COMMITMENT_REPORTED": EventType(1011, _INFO, "storage commitment report received"),
    "COMMITMENT_REPORT_REFUSED": EventType(1012, _WARNING, "storage commitment report refused"),
    "COMMITMENT_ASKED": EventType(1070, _INFO, "a peer asked for storage commitment"),
    "COMMITMENT_ASK_REFUSED": EventType(1071, _WARNING, "request of a peer for storage commitment refused"),
    "COMMITMENT_DECIDED": EventType(1072, _INFO, "storage commitment that a peer asked for is decided"),
    "COMMITMENT_ANSWERED": EventType(1073, _INFO, "storage commitment reported to a peer"),
    "COMMITMENT_ANSWER_GIVEN_UP": EventType(
        1074, _ERROR, "a peer takes no storage commitment report: given up"
    ),
    "STEP_REPORTED": EventType(1081, _INFO, "a modality reported on a performed procedure step"),
    "STEP_REFUSED": EventType(1082, _WARNING, "report on a performed procedure step refused"),
    "STEPS_NOT_AWAITED": EventType(
        1083, _WARNING, "a study goes on without all that its performed procedure steps name, or their end"
    ),
    "STEPS_FULFILLED": EventType(
        1084, _INFO, "the performed procedure steps of a study ended, all they name is here"
    ),
    "OBJECT_INDEXED": EventType(2001, _INFO, "object indexed"),
    "OBJECT_DUPLICATE": EventType(2002, _INFO, "object received again, unchanged"),
    "OBJECT_REVISED": EventType(2003, _WARNING, "object received again with another header"),
    "OBJECT_CONFLICT": EventType(2004, _ERROR, "object conflicts with one received before"),
    "OBJECT_QUARANTINED": EventType(2005, _ERROR, "object quarantined: its content is faulty"),
    "OWN_RESULT_RETURNED": EventType(2006, _INFO, "own result came back, not processed"),
    "UNKNOWN_RESULT": EventType(
        2007, _WARNING, "object claims to be a result of this node and is not: not processed"
    ),
    "STUDY_RECEIVING": EventType(2010, _INFO, "study is being received"),
    "STUDY_COMPLETE": EventType(2011, _INFO, "study is complete"),
    "STUDY_REOPENED": EventType(2012, _WARNING, "late object reopened the study"),
    "STUDY_QUARANTINED": EventType(
        2013, _ERROR, "study quarantined: nothing is released until a person chooses"
    ),
    "STUDY_RELEASED": EventType(2014, _WARNING, "a person released the study from quarantine"),
    "STUDY_MOVED": EventType(2015, _INFO, "study changed its state"),
    "STUDY_MAY_BE_INCOMPLETE": EventType(
        2016, _WARNING, "study may be incomplete: an object that came with it cannot be read"
    ),
    "RECOVERY_SCANNED": EventType(2020, _INFO, "spool scanned after start"),
    "FILES_PURGED": EventType(2021, _INFO, "files of objects or results deleted after their days"),
    "SPOOL_DIFFERS": EventType(2030, _ERROR, "spool and index differ: database or disk lost objects"),
    "SPOOL_AGREES": EventType(2036, _INFO, "spool and index agree again"),
    "OBJECTS_REINDEXED": EventType(2031, _WARNING, "objects were put back that the database did not know"),
    "DATABASE_REPLACED": EventType(
        2032, _ERROR, "the database's file is missing: restart the node, then run spool reindex"
    ),
    "VERSION_CHOSEN": EventType(2033, _WARNING, "a person chose between versions or patients of a study"),
    "IDENTITY_NOT_TAKEN": EventType(
        2034,
        _WARNING,
        "faulty copy of an object, or one with another header, set aside: the one in force stays",
    ),
    "DECISIONS_UNKNOWN": EventType(
        2037,
        _ERROR,
        "the database lost decisions of persons: results that they hold back wait until they are applied",
    ),
    "DECISIONS_CHANGED": EventType(
        2038,
        _ERROR,
        "the copy of persons' decisions was changed or cut: nothing is sent until a person settles it",
    ),
    "DECISION_SETTLED": EventType(2039, _WARNING, "a person settled a decision that could not be applied"),
    "FETCH_ASKED": EventType(2050, _INFO, "a study is to be fetched from a peer"),
    "FETCH_STARTED": EventType(2051, _INFO, "a peer is asked for a study"),
    "FETCH_DONE": EventType(2052, _INFO, "study fetched"),
    "FETCH_RETRIED": EventType(2053, _WARNING, "study not fetched, will be tried again"),
    "FETCH_FAILED": EventType(2054, _ERROR, "study not fetched: given up"),
    "FETCHED_OTHER_PATIENT": EventType(
        2055, _ERROR, "fetched images name another patient than the peer's answer: study quarantined"
    ),
    "FETCH_CANCELLED": EventType(2056, _INFO, "a person cancelled the fetching of a study"),
    "STUDIES_MISSING": EventType(
        2057, _WARNING, "a peer has studies that should have a result by the rules, and have none"
    ),
    "ARCHIVE_ANSWERED": EventType(2058, _INFO, "a peer answered what it has of a study, or of its patient"),
    "ARCHIVE_WAIT_ENDED": EventType(2059, _INFO, "what a peer has of a study, or of its patient, is here"),
    "ARCHIVE_NOT_AWAITED": EventType(
        2060, _WARNING, "a study went on without all that a peer has of it, or of its patient"
    ),
    "WORKITEM_WANTED": EventType(2070, _INFO, "a work item of a worklist manager is to be claimed"),
    "WORKITEM_CLAIMED": EventType(2071, _INFO, "work item claimed"),
    "WORKITEM_LOST": EventType(2072, _WARNING, "a work item is another performer's, or its manager ended it"),
    "WORKITEM_DECIDED": EventType(2073, _INFO, "the outcome of a work item is decided, and to be reported"),
    "WORKITEM_COMPLETED": EventType(2074, _INFO, "work item reported as completed"),
    "WORKITEM_CANCELED": EventType(2075, _WARNING, "work item reported as cancelled"),
    "WORKITEM_GIVEN_UP": EventType(
        2076, _ERROR, "a worklist manager does not take what became of a work item"
    ),
    "WORKITEM_PASSED": EventType(2077, _WARNING, "a work item for this node was not claimed"),
    "WORKITEM_STOPPED": EventType(
        2078, _WARNING, "the worklist manager asked for cancellation of a work item"
    ),
    "JOB_QUEUED": EventType(3001, _INFO, "job queued"),
    "JOB_STARTED": EventType(3002, _INFO, "job started"),
    "JOB_SUCCEEDED": EventType(3003, _INFO, "job succeeded"),
    "JOB_NOT_APPLICABLE": EventType(3004, _INFO, "pipeline does not apply"),
    "JOB_RETRIED": EventType(3005, _WARNING, "job failed, will be tried again"),
    "JOB_FAILED": EventType(3006, _ERROR, "job failed for good"),
    "JOB_CANCELLED": EventType(3007, _WARNING, "job cancelled"),
    "JOB_HELD": EventType(3008, _WARNING, "job held by a limit of its rule"),
    "JOB_TAKEN_OVER": EventType(3009, _WARNING, "job of a lost worker returned to the queue"),
    "NO_RULE": EventType(3010, _INFO, "no rule applies to the study"),
    "JOB_HANDED_BACK": EventType(
        3011, _INFO, "job returned to the queue: its worker stops, or the object store is unreachable"
    ),
    "WORKER_READY": EventType(3020, _INFO, "worker ready, models warm"),
    "SCORES_DRIFTED": EventType(3021, _WARNING, "model scores have drifted"),
    "IMAGES_CLEANED": EventType(
        3022, _INFO, "burned-in annotation cleaned: number of images, and of those widened or blacked out"
    ),
    "CLEANING_WITHHELD": EventType(3023, _WARNING, "images withheld: text may be left in them"),
    "IMAGE_LEFT_OUT": EventType(3030, _WARNING, "image left out of its study's analysis"),
    "WORKER_SPENT": EventType(
        3031, _WARNING, "worker ends: an image took more memory than workers.memory_mib"
    ),
    "JOB_FIRST": EventType(3032, _INFO, "a person put a job before all others"),
    "STUDY_RERUN": EventType(3033, _WARNING, "a person applied the rules to a study again"),
    "RESULT_BUILT": EventType(4001, _INFO, "result object built"),
    "RESULT_REFUSED": EventType(4002, _ERROR, "result object refused by the gate"),
    "RESULT_EXISTS": EventType(4003, _INFO, "result object exists already"),
    "RESULT_WITHHELD": EventType(4004, _ERROR, "de-identified object withheld: it might name the patient"),
    "RESULT_LOST": EventType(
        4006, _ERROR, "a deleted file of a result cannot be made again unchanged: a destination lacks it"
    ),
    "SOURCE_REPAIRED": EventType(
        4020, _WARNING, "faulty attributes of a source image: put right or left out in its results"
    ),
    "RESULT_WITHDRAWN": EventType(4030, _WARNING, "a person withdrew a result"),
    "RESULT_REMOVED": EventType(
        4031, _INFO, "a withdrawn result is gone from a peer that was asked to delete it"
    ),
    "RESULT_NOT_REMOVED": EventType(
        4032, _ERROR, "a peer does not delete a withdrawn result: a person deletes it there"
    ),
    "RESULTS_HELD": EventType(4040, _INFO, "results wait until a person has accepted them"),
    "ASSESSMENT_OVERDUE": EventType(
        4041, _ERROR, "results wait for a person for longer than outbox.assess_hours"
    ),
    "RESULTS_ACCEPTED": EventType(4042, _INFO, "a person accepted results: they are delivered"),
    "RESULTS_REJECTED": EventType(4043, _INFO, "a person rejected results: they are sent nowhere"),
    "RESULTS_ROUTED": EventType(
        4050, _INFO, "a condition of the rule holds: results go to further peers, or first"
    ),
    "DELIVERY_SENT": EventType(5001, _INFO, "object sent"),
    "DELIVERY_CONFIRMED": EventType(5002, _INFO, "object confirmed in the destination"),
    "DELIVERY_RETRIED": EventType(5003, _WARNING, "delivery failed, will be tried again"),
    "DELIVERY_DEAD": EventType(5004, _ERROR, "delivery given up: a person must look"),
    "DELIVERY_WARNED": EventType(5005, _WARNING, "object stored with a warning status"),
    "DELIVERY_NARROWED": EventType(5006, _WARNING, "destination takes no such object: not sent"),
    "DELIVERY_BY_HAND": EventType(5007, _WARNING, "a person asked for a delivery again"),
    "DELIVERY_STARTED": EventType(5008, _DEBUG, "object is being sent"),
    "DELIVERY_IN_DOUBT": EventType(
        5009, _WARNING, "unknown whether the object arrived: the destination is asked"
    ),
    "DELIVERY_WITHDRAWN": EventType(
        5010, _WARNING, "delivery not sent: its study changed or is in quarantine"
    ),
    "DELIVERY_DISCARDED": EventType(5011, _WARNING, "a person discarded a delivery: it is not sent"),
    "DELIVERY_ADDED": EventType(5012, _WARNING, "a person asked for a result to be sent to a further peer"),
    "COMMITMENT_REQUESTED": EventType(5013, _INFO, "storage commitment asked for"),
    "COMMITMENT_MISSING": EventType(5014, _WARNING, "no storage commitment came from the destination"),
    "COMMITMENT_UNKNOWN": EventType(
        5015, _WARNING, "storage commitment report that fits no request: ignored"
    ),
    "COMMITMENT_SET_ASIDE": EventType(
        5016, _ERROR, "storage commitment report cannot be entered: set aside, as if it had not come"
    ),
    "DELIVERY_HELD": EventType(5017, _INFO, "delivery waits again until a person has accepted the result"),
    "DELIVERY_FREED": EventType(5018, _INFO, "a person accepted the result: it is delivered"),
    "DELIVERY_WANTED": EventType(
        5019, _INFO, "a result that was held back is released and will be delivered"
    ),
    "DESTINATION_HUNG": EventType(
        5020, _WARNING, "destination cut off: it stopped taking or answering, or is too slow"
    ),
    "DELIVERY_OVERDUE": EventType(5021, _ERROR, "a delivery took too long: abandoned and started again"),
    "DESTINATION_AWAY": EventType(
        5022, _ERROR, "a peer takes no results for a quarter of an hour: they wait"
    ),
    "DESTINATION_BACK": EventType(5023, _INFO, "a peer accepts results again, or none wait for it any more"),
    "COMMITMENT_ENTERED": EventType(5024, _INFO, "storage commitment report entered"),
    "NOTIFICATION_SENT": EventType(5030, _INFO, "notification sent"),
    "NOTIFICATION_GIVEN_UP": EventType(5031, _ERROR, "notification given up: it was not delivered"),
    "ORIGINALS_FORWARDED": EventType(5070, _INFO, "a rule forwards received objects to a peer"),
    "NODE_STARTED": EventType(6001, _INFO, "node started"),
    "NODE_READY": EventType(6002, _INFO, "ready"),
    "NODE_STOPPING": EventType(6003, _INFO, "node is stopping"),
    "CHILD_DIED": EventType(6004, _ERROR, "a process of the node died and is restarted"),
    "SCHEDULER_TAKEN": EventType(6005, _INFO, "this process runs the timers now"),
    "DISK_LOW": EventType(6006, _ERROR, "the disk has too little free space, or takes no files"),
    "INDEXING_FAILED": EventType(
        6007, _ERROR, "indexing fails: tried again each second, here or by another node"
    ),
    "THREAD_FAILED": EventType(6008, _ERROR, "a thread of the node failed and was started again"),
    "CONFIGURATION_RELOADED": EventType(6010, _INFO, "configuration reloaded"),
    "CONFIGURATION_REFUSED": EventType(
        6011, _ERROR, "configuration not reloaded: the one before stays in force"
    ),
    "PROCESS_LOST": EventType(
        6012, _ERROR, "a process of the site no longer reports: check it and its machine"
    ),
    "PROCESS_BACK": EventType(6013, _INFO, "a process reports again"),
    "CLOCK_PUT_BACK": EventType(
        6014, _WARNING, "the clock of the machine was set back: waiting work is due now"
    ),
    "INDEXING_BACK": EventType(6015, _INFO, "indexing continues"),
    "CONSOLE_STARTED": EventType(6020, _INFO, "console serves its pages"),
    "CONSOLE_CANNOT_START": EventType(6021, _ERROR, "console cannot start"),
    "ACCOUNTS_UNUSABLE": EventType(
        6022, _WARNING, "the provider of accounts (OpenID Connect) does not answer, or not as it should"
    ),
    "AUDIT_NOT_SENT": EventType(6030, _ERROR, "audit messages cannot be sent: they wait"),
    "AUDIT_SENT_AGAIN": EventType(6031, _INFO, "audit messages are sent again"),
    "TRACES_NOT_SENT": EventType(
        6040, _WARNING, "traces cannot be sent: tried for five minutes, then dropped"
    ),
    "TRACES_SENT_AGAIN": EventType(6041, _INFO, "traces are sent again"),
    "STORE_AWAY": EventType(6050, _ERROR, "the object store takes no objects: they wait on this machine"),
    "STORE_BACK": EventType(6051, _INFO, "the object store takes received objects again"),
    "DECISIONS_NOT_COPIED": EventType(6055, _ERROR, "decisions of persons cannot be copied: tried again"),
    "AUDIT_NOT_MADE": EventType(
        6059, _ERROR, "no valid audit message can be made of a record: it was not sent"
    ),
    "WORKLIST_AWAY": EventType(6070, _WARNING, "a worklist manager does not answer"),
    "WORKLIST_BACK": EventType(6071, _INFO, "a worklist manager answers again"),
}
"""All types by the names under which modules import them."""

INDEXED: Final = (2001, 2002, 2003, 2004, 2005)
"""Numbers of what indexing may say of an object."""
_LOGGER = logging.getLogger("dicom_node.base.events")


def __getattr__(name: str) -> EventType:
    """Return the event type with this name, for ``from dicom_node.base.events import JOB_QUEUED``."""
    if name in TYPES:
        return TYPES[name]
    raise AttributeError(name)


def all_types() -> Collection[EventType]:
    """Return every event type, ordered by number."""
    return TYPES.values()


def by_number(number: int) -> EventType:
    """Return the event type with this number. Raises KeyError for a number that this version does not
    know.
    """
    return {event.number: event for event in all_types()}[number]


def happened(event_type: EventType, **fields: FieldValue) -> Event:
    """Create an event with the present time and log it; a caller with a database session also stores it."""
    event = Event(event_type, datetime.now(UTC), fields)
    log(event)
    return event


def log(event: Event) -> None:
    """Write an event to the process's log."""
    _LOGGER.log(event.type.level, "%s", event)
