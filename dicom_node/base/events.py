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

_DEBUG, _WARNING, _ERROR = logging.DEBUG, logging.WARNING, logging.ERROR

FieldValue = str | int | float | list[str] | None


@dataclass(frozen=True, slots=True)
class EventType:
    """A type of event. The meaning of a ``number`` never changes; ``level`` is of ``logging``; ``text`` is
    one sentence for an administrator.
    """

    number: int
    text: str
    level: int = logging.INFO


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
    "LISTENER_STARTED": EventType(1000, "listener started"),
    "ASSOCIATION_ACCEPTED": EventType(1001, "association accepted"),
    "ASSOCIATION_RELEASED": EventType(1002, "association released"),
    "ASSOCIATION_ABORTED": EventType(1003, "association aborted or lost", _WARNING),
    "ASSOCIATION_REJECTED": EventType(1004, "association rejected", _WARNING),
    "STORE_REFUSED": EventType(1005, "C-STORE refused", _WARNING),
    "ECHOED": EventType(1006, "C-ECHO answered"),
    "TLS_FAILED": EventType(1007, "TLS handshake failed", _WARNING),
    "LISTENER_STOPPED": EventType(1008, "listener stopped"),
    "CONNECTIONS_FAILED": EventType(
        1009, "connections without an association, counted in one minute", _WARNING
    ),
    "PEER_SILENT": EventType(1010, "no object came from a peer for longer than its silent_hours", _WARNING),
    "ASSOCIATION_LOST": EventType(
        1013, "association ended with its listener, which was killed or whose machine failed", _WARNING
    ),
    "COMMITMENT_REPORTED": EventType(1011, "storage commitment report received"),
    "COMMITMENT_REPORT_REFUSED": EventType(1012, "storage commitment report refused", _WARNING),
    "COMMITMENT_ASKED": EventType(1070, "a peer asked for storage commitment"),
    "COMMITMENT_ASK_REFUSED": EventType(1071, "request of a peer for storage commitment refused", _WARNING),
    "COMMITMENT_DECIDED": EventType(1072, "storage commitment that a peer asked for is decided"),
    "COMMITMENT_ANSWERED": EventType(1073, "storage commitment reported to a peer"),
    "COMMITMENT_ANSWER_GIVEN_UP": EventType(
        1074, "a peer takes no storage commitment report: given up", _ERROR
    ),
    "STEP_REPORTED": EventType(1081, "a modality reported on a performed procedure step"),
    "STEP_REFUSED": EventType(1082, "report on a performed procedure step refused", _WARNING),
    "STEPS_NOT_AWAITED": EventType(
        1083, "a study goes on without all that its performed procedure steps name, or their end", _WARNING
    ),
    "STEPS_FULFILLED": EventType(
        1084, "the performed procedure steps of a study ended, all they name is here"
    ),
    "HL7_STARTED": EventType(1090, "HL7 listener started"),
    "HL7_CANNOT_LISTEN": EventType(1091, "HL7 listener cannot listen: tried again", _ERROR),
    "HL7_REFUSED": EventType(
        1092, "HL7 messages or connections refused, counted in one minute, with the last reason", _WARNING
    ),
    "HL7_FOREIGN": EventType(
        1093, "HL7 messages with Patient IDs of another site, counted in one minute: no change", _WARNING
    ),
    "OBJECT_INDEXED": EventType(2001, "object indexed"),
    "OBJECT_DUPLICATE": EventType(2002, "object received again, unchanged"),
    "OBJECT_REVISED": EventType(2003, "object received again with another header", _WARNING),
    "OBJECT_CONFLICT": EventType(2004, "object conflicts with one received before", _ERROR),
    "OBJECT_QUARANTINED": EventType(2005, "object quarantined: its content is faulty", _ERROR),
    "OWN_RESULT_RETURNED": EventType(2006, "own result came back, not processed"),
    "UNKNOWN_RESULT": EventType(
        2007, "object claims to be a result of this node and is not: not processed", _WARNING
    ),
    "STUDY_RECEIVING": EventType(2010, "study is being received"),
    "STUDY_COMPLETE": EventType(2011, "study is complete"),
    "STUDY_REOPENED": EventType(2012, "late object reopened the study", _WARNING),
    "STUDY_QUARANTINED": EventType(
        2013, "study quarantined: nothing is released until a person chooses", _ERROR
    ),
    "STUDY_RELEASED": EventType(2014, "a person released the study from quarantine", _WARNING),
    "STUDY_MOVED": EventType(2015, "study changed its state"),
    "STUDY_MAY_BE_INCOMPLETE": EventType(
        2016,
        "study may be incomplete: an object that came with it cannot be read, or its association broke off",
        _WARNING,
    ),
    "RECOVERY_SCANNED": EventType(2020, "spool scanned after start"),
    "FILES_PURGED": EventType(2021, "files of objects or results deleted after their days"),
    "SPOOL_DIFFERS": EventType(2030, "spool and index differ: database or disk lost objects", _ERROR),
    "SPOOL_AGREES": EventType(2036, "spool and index agree again"),
    "OBJECTS_REINDEXED": EventType(2031, "objects were put back that the database did not know", _WARNING),
    "DATABASE_REPLACED": EventType(2032, "the database's file is missing: restart the node", _ERROR),
    "VERSION_CHOSEN": EventType(2033, "a person chose between versions or patients of a study", _WARNING),
    "IDENTITY_NOT_TAKEN": EventType(
        2034,
        "faulty copy of an object, or one with another header, set aside: the one in force stays",
        _WARNING,
    ),
    "DECISIONS_UNKNOWN": EventType(
        2037,
        "the database lost decisions of persons: results that they hold back wait until they are applied",
        _ERROR,
    ),
    "DECISIONS_CHANGED": EventType(
        2038,
        "the copy of persons' decisions was changed or cut: nothing is sent until a person settles it",
        _ERROR,
    ),
    "DECISION_SETTLED": EventType(2039, "a person settled a decision that could not be applied", _WARNING),
    "FETCH_ASKED": EventType(2050, "a study is to be fetched from a peer"),
    "FETCH_STARTED": EventType(2051, "a peer is asked for a study"),
    "FETCH_DONE": EventType(2052, "study fetched"),
    "FETCH_RETRIED": EventType(2053, "study not fetched, will be tried again", _WARNING),
    "FETCH_FAILED": EventType(2054, "study not fetched: given up", _ERROR),
    "FETCHED_OTHER_PATIENT": EventType(
        2055, "fetched images name another patient than the peer's answer: study quarantined", _ERROR
    ),
    "FETCH_CANCELLED": EventType(2056, "a person cancelled the fetching of a study"),
    "STUDIES_MISSING": EventType(
        2057, "a peer has studies that should have a result by the rules, and have none", _WARNING
    ),
    "ARCHIVE_ANSWERED": EventType(2058, "a peer answered what it has of a study, or of its patient"),
    "ARCHIVE_WAIT_ENDED": EventType(2059, "what a peer has of a study, or of its patient, is here"),
    "ARCHIVE_NOT_AWAITED": EventType(
        2060, "a study went on without all that a peer has of it, or of its patient", _WARNING
    ),
    "PATIENTS_MERGED": EventType(2080, "HL7 says that a Patient ID was replaced by another", _WARNING),
    "MERGED_IN_CIRCLE": EventType(
        2081, "HL7 merges go in a circle: studies with these Patient IDs wait for a person", _ERROR
    ),
    "CORRECTION_AWAITED": EventType(
        2082, "study held: HL7 changed its patient, and its images still have the former data", _ERROR
    ),
    "STUDY_CORRECTED": EventType(2083, "images with the patient's new data came: the study goes on"),
    "SENT_UNDER_FORMER": EventType(
        2084, "objects were sent under a patient's former ID or data: peers have them so", _ERROR
    ),
    "REGISTRATION_FOLLOWED": EventType(2085, "HL7 changed the data of a registered patient", _WARNING),
    "ORDERED_STAT": EventType(2086, "an HL7 order made a study STAT"),
    "ORDER_APPLIED": EventType(2087, "an HL7 order started rules for a study"),
    "ORDER_OTHER_PATIENT": EventType(
        2088, "an HL7 order names another patient than its study: it changes nothing", _WARNING
    ),
    "WORKITEM_WANTED": EventType(2070, "a work item of a worklist manager is to be claimed"),
    "WORKITEM_CLAIMED": EventType(2071, "work item claimed"),
    "WORKITEM_LOST": EventType(2072, "a work item is another performer's, or its manager ended it", _WARNING),
    "WORKITEM_DECIDED": EventType(2073, "the outcome of a work item is decided, and to be reported"),
    "WORKITEM_COMPLETED": EventType(2074, "work item reported as completed"),
    "WORKITEM_CANCELED": EventType(2075, "work item reported as cancelled", _WARNING),
    "WORKITEM_GIVEN_UP": EventType(
        2076, "a worklist manager does not take what became of a work item", _ERROR
    ),
    "WORKITEM_PASSED": EventType(2077, "a work item for this node was not claimed", _WARNING),
    "WORKITEM_STOPPED": EventType(
        2078, "the worklist manager asked for cancellation of a work item", _WARNING
    ),
    "JOB_QUEUED": EventType(3001, "job queued"),
    "JOB_STARTED": EventType(3002, "job started"),
    "JOB_SUCCEEDED": EventType(3003, "job succeeded"),
    "JOB_NOT_APPLICABLE": EventType(3004, "pipeline does not apply"),
    "JOB_RETRIED": EventType(3005, "job failed, will be tried again", _WARNING),
    "JOB_FAILED": EventType(3006, "job failed for good", _ERROR),
    "JOB_CANCELLED": EventType(3007, "job cancelled", _WARNING),
    "JOB_HELD": EventType(3008, "job held by a limit of its rule", _WARNING),
    "JOB_TAKEN_OVER": EventType(3009, "job of a lost worker returned to the queue", _WARNING),
    "NO_RULE": EventType(3010, "no rule applies to the study"),
    "JOB_HANDED_BACK": EventType(
        3011,
        "job returned to the queue: its worker stops, database, disk or object store fail, or an answer is "
        "awaited",
    ),
    "WORKER_READY": EventType(3020, "worker ready, models warm"),
    "SCORES_DRIFTED": EventType(3021, "model scores have drifted", _WARNING),
    "IMAGES_CLEANED": EventType(
        3022, "burned-in annotation cleaned: number of images, and of those widened or blacked out"
    ),
    "CLEANING_WITHHELD": EventType(3023, "images withheld: text may be left in them", _WARNING),
    "IMAGE_LEFT_OUT": EventType(3030, "image left out of its study's analysis", _WARNING),
    "WORKER_SPENT": EventType(
        3031, "worker ends: an image took more memory than workers.memory_mib", _WARNING
    ),
    "JOB_FIRST": EventType(3032, "a person put a job before all others"),
    "STUDY_RERUN": EventType(3033, "a person applied the rules to a study again", _WARNING),
    "PROGRAM_ANSWERED": EventType(
        3040, "a program answered: numbers of its objects that go, wait for a person, or are refused"
    ),
    "PROGRAM_DIFFERS": EventType(
        3041, "a program answered differently to the same input: its first answer stays", _WARNING
    ),
    "ANSWER_SENDING": EventType(3050, "a study is being sent to a vendor's AI"),
    "ANSWER_AWAITED": EventType(3051, "a vendor's AI has a study: its answer is awaited"),
    "ANSWER_WHOLE": EventType(3052, "a vendor's AI answered: its objects are judged"),
    "ANSWER_SILENT": EventType(3053, "a vendor's AI gave no whole answer in time: it did not run", _ERROR),
    "ANSWER_LATE": EventType(
        3054, "a vendor's AI answers after its deadline: results will wait for a person", _WARNING
    ),
    "ANSWER_DROPPED": EventType(3055, "an answer of a vendor's AI is no longer awaited", _WARNING),
    "ANSWER_ASIDE": EventType(3056, "an object of a vendor's AI changes nothing", _WARNING),
    "ANSWER_UNKNOWN": EventType(
        3057, "objects of a vendor's AI are of no study that it was sent: in quarantine", _ERROR
    ),
    "ANSWER_REFUSED": EventType(
        3058, "requests to store results of a vendor's AI were refused: their token is not valid", _WARNING
    ),
    "RESULT_BUILT": EventType(4001, "result object built"),
    "RESULT_REFUSED": EventType(4002, "result object refused by the gate", _ERROR),
    "RESULT_EXISTS": EventType(4003, "result object exists already"),
    "RESULT_WITHHELD": EventType(4004, "de-identified object withheld: it might name the patient", _ERROR),
    "PROGRAM_OBJECT_HELD": EventType(4007, "an object that a program made waits for a person", _WARNING),
    "PROGRAM_OBJECT_REFUSED": EventType(4008, "an object that a program made was refused", _ERROR),
    "RESULT_LOST": EventType(
        4006, "a deleted file of a result cannot be made again unchanged: a destination lacks it", _ERROR
    ),
    "SOURCE_REPAIRED": EventType(
        4020, "faulty attributes of a source image: put right or left out in its results", _WARNING
    ),
    "RESULT_WITHDRAWN": EventType(4030, "a person withdrew a result", _WARNING),
    "RESULT_REMOVED": EventType(4031, "a withdrawn result is gone from a peer that was asked to delete it"),
    "RESULT_NOT_REMOVED": EventType(
        4032, "a peer does not delete a withdrawn result: a person deletes it there", _ERROR
    ),
    "RESULT_APPEARED": EventType(
        4033, "a withdrawn result came to a peer after its withdrawal: it was deleted there again", _WARNING
    ),
    "RESULTS_HELD": EventType(4040, "results wait until a person has accepted them"),
    "ASSESSMENT_OVERDUE": EventType(
        4041, "results wait for a person for longer than outbox.assess_hours", _ERROR
    ),
    "RESULTS_ACCEPTED": EventType(4042, "a person accepted results: they are delivered"),
    "RESULTS_REJECTED": EventType(4043, "a person rejected results: they are sent nowhere"),
    "RESULTS_ROUTED": EventType(4050, "a condition of the rule holds: results go to further peers, or first"),
    "DELIVERY_SENT": EventType(5001, "object sent"),
    "DELIVERY_CONFIRMED": EventType(5002, "object confirmed in the destination"),
    "DELIVERY_RETRIED": EventType(5003, "delivery failed, will be tried again", _WARNING),
    "DELIVERY_DEAD": EventType(5004, "delivery given up: a person must look", _ERROR),
    "DELIVERY_WARNED": EventType(5005, "object stored with a warning status", _WARNING),
    "DELIVERY_NARROWED": EventType(5006, "destination takes no such object: not sent", _WARNING),
    "DELIVERY_BY_HAND": EventType(5007, "a person asked for a delivery again", _WARNING),
    "DELIVERY_STARTED": EventType(5008, "object is being sent", _DEBUG),
    "DELIVERY_IN_DOUBT": EventType(
        5009, "unknown whether the object arrived: the destination is asked", _WARNING
    ),
    "DELIVERY_WITHDRAWN": EventType(
        5010, "delivery not sent: its study changed or is in quarantine", _WARNING
    ),
    "DELIVERY_DISCARDED": EventType(5011, "a person discarded a delivery: it is not sent", _WARNING),
    "DELIVERY_ADDED": EventType(5012, "a person asked for a result to be sent to a further peer", _WARNING),
    "COMMITMENT_REQUESTED": EventType(5013, "storage commitment asked for"),
    "COMMITMENT_MISSING": EventType(5014, "no storage commitment came from the destination", _WARNING),
    "COMMITMENT_UNKNOWN": EventType(
        5015, "storage commitment report that fits no request: ignored", _WARNING
    ),
    "COMMITMENT_SET_ASIDE": EventType(
        5016, "storage commitment report cannot be entered: set aside, as if it had not come", _ERROR
    ),
    "DELIVERY_HELD": EventType(5017, "delivery waits again until a person has accepted the result"),
    "DELIVERY_FREED": EventType(5018, "a person accepted the result: it is delivered"),
    "DELIVERY_WANTED": EventType(5019, "a result that was held back is released and will be delivered"),
    "DESTINATION_HUNG": EventType(
        5020, "destination cut off: it stopped taking or answering, or is too slow", _WARNING
    ),
    "DELIVERY_OVERDUE": EventType(5021, "a delivery took too long: abandoned and started again", _ERROR),
    "DESTINATION_AWAY": EventType(
        5022, "a peer takes or confirms no results for a quarter of an hour: they wait", _ERROR
    ),
    "DESTINATION_BACK": EventType(5023, "a peer accepts results again, or none wait for it any more"),
    "COMMITMENT_ENTERED": EventType(5024, "storage commitment report entered"),
    "NOTIFICATION_SENT": EventType(5030, "notification sent"),
    "NOTIFICATION_GIVEN_UP": EventType(5031, "notification given up: it was not delivered", _ERROR),
    "ORIGINALS_FORWARDED": EventType(5070, "a rule forwards received objects to a peer"),
    "NODE_STARTED": EventType(6001, "node started"),
    "NODE_READY": EventType(6002, "ready"),
    "NODE_STOPPING": EventType(6003, "node is stopping"),
    "CHILD_DIED": EventType(6004, "a process of the node died and is restarted", _ERROR),
    "SCHEDULER_TAKEN": EventType(6005, "this process runs the timers now"),
    "DISK_LOW": EventType(6006, "the disk has too little free space, or takes no files", _ERROR),
    "INDEXING_FAILED": EventType(
        6007, "indexing fails: tried again each second, here or by another node", _ERROR
    ),
    "THREAD_FAILED": EventType(6008, "a thread of the node failed and was started again", _ERROR),
    "CONFIGURATION_RELOADED": EventType(6010, "configuration reloaded"),
    "CONFIGURATION_REFUSED": EventType(
        6011, "configuration not reloaded: the one before stays in force", _ERROR
    ),
    "PROCESS_LOST": EventType(
        6012, "a process of the site no longer reports: check it and its machine", _ERROR
    ),
    "PROCESS_BACK": EventType(6013, "a process reports again"),
    "CLOCK_PUT_BACK": EventType(
        6014, "the clock of the machine was set back: waiting work is due now", _WARNING
    ),
    "NODE_KILLED": EventType(
        6016,
        "the run of the node before this one ended without a stop: killed, or its machine failed",
        _WARNING,
    ),
    "INDEXING_BACK": EventType(6015, "indexing continues"),
    "CONSOLE_STARTED": EventType(6020, "console serves its pages"),
    "CONSOLE_CANNOT_START": EventType(6021, "console cannot start", _ERROR),
    "ACCOUNTS_UNUSABLE": EventType(
        6022, "the provider of accounts (OpenID Connect) does not answer, or not as it should", _WARNING
    ),
    "AUDIT_NOT_SENT": EventType(6030, "audit messages cannot be sent: they wait", _ERROR),
    "AUDIT_SENT_AGAIN": EventType(6031, "audit messages are sent again"),
    "TRACES_NOT_SENT": EventType(
        6040, "traces cannot be sent: tried for five minutes, then dropped", _WARNING
    ),
    "TRACES_SENT_AGAIN": EventType(6041, "traces are sent again"),
    "STORE_AWAY": EventType(6050, "the object store takes no objects: they wait on this machine", _ERROR),
    "STORE_BACK": EventType(6051, "the object store takes received objects again"),
    "DECISIONS_NOT_COPIED": EventType(6055, "decisions of persons cannot be copied: tried again", _ERROR),
    "AUDIT_NOT_MADE": EventType(
        6059, "no valid audit message can be made of a record: it was not sent", _ERROR
    ),
    "WORKLIST_AWAY": EventType(6070, "a worklist manager does not answer", _WARNING),
    "WORKLIST_BACK": EventType(6071, "a worklist manager answers again"),
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
