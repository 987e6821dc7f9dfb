"""The words that are in the database and in settings (kinds, roles, states, outcomes), and the life cycles.

Also the marks of de-identified results in the data set, and the data that they may retain. A life cycle is a
table: a state and a numbered event give the next state. Every step is one compare-and-set in the database
(``store.transitions``), which also writes the event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from dicom_node.base import events

CONSOLE_AE_TITLE: Final = "CONSOLE"
"""The calling AE title of what comes in by the console."""
CONSOLE_NAME: Final = "console"
"""What rules call it where they name a sender."""


class Intake(StrEnum):
    """How objects come in by the console; the name of their association begins with it."""

    STOW = "console"  # by programs
    UPLOAD = "upload"  # files of a person
    ANSWER = "answer"  # results of a vendor's AI service, by the token of their study
    TRIAL = "trial"  # a picture that a person tries: its results are sent nowhere

    @property
    def priority(self) -> int:
        """The priority of a C-STORE (PS3.7 9.1.1) as which they come: high if a person waits for it, else
        medium.
        """
        return 1 if self is Intake.TRIAL else 0


class ResultKind(StrEnum):
    """Kinds of result objects, named as in the peer setting ``results``."""

    SR = "sr"
    GSPS = "gsps"  # grayscale, or colour softcopy presentation state for colour images
    SC = "sc"  # annotated picture
    SUMMARY = "summary"  # one page on all images of a job, with one picture
    PDF = "pdf"  # that page as a document with text
    HEATMAP = "heatmap"  # heat map picture with colour bar
    CLEANED = "cleaned"
    SEG = "seg"  # mask of what was inpainted; outlined organs
    OBSTETRIC = "obgyn"  # fetal biometry
    REJECTION = "rejection"  # IOCM: a note that other results are withdrawn; not of a peer's ``results``
    ASSESSMENT = "assessment"  # what a person says of the findings of a report; neither of them
    KEY_OBJECTS = "kos"  # names the other results of an analysis; or of a program
    # What programs of others return besides segmentations, presentation states, pictures and documents.
    PROGRAM_SR = "program_sr"  # report of a program: nothing here reads it as one of ours
    MAP = "map"  # parametric map
    STRUCTURE_SET = "rtstruct"
    IMAGE = "image"  # derived image in the class of a modality


@dataclass(frozen=True, slots=True)
class ResultForm:
    """How destinations want their results. Peers with the same form share their objects.

    ``charset``: ISO_IR 192 (``utf8``) or the character set of the source image. ``viewer``: the viewer whose
    ways the report follows, "" for none. ``outlines``: where outlines of organs go. ``seg_geometry``: give
    segmentations of images without orientation an invented geometry. ``key_objects``: all kinds of result
    that a destination of key objects gets, which these name; empty for other destinations.
    """

    charset: Literal["utf8", "source"] = "utf8"
    viewer: Literal["", "ohif"] = ""
    outlines: Literal["sr", "seg", "none"] = "seg"
    seg_geometry: bool = False
    key_objects: frozenset[ResultKind] = frozenset()

    def texts(self, kind: ResultKind) -> tuple[str, ...]:
        """The texts that shape a result of this kind and are part of its UIDs."""
        shaping: dict[ResultKind, tuple[str, ...]] = {
            ResultKind.SR: (self.viewer, "outlines" if self.outlines == "sr" else ""),
            ResultKind.SEG: ("invented geometry" if self.seg_geometry else "",),
            ResultKind.KEY_OBJECTS: tuple(sorted(self.key_objects)),
        }
        return self.charset, *shaping.get(kind, ())


@dataclass(frozen=True, slots=True)
class KindOfResult:
    """What a kind of result is: all lists of kinds come from it; ``results/gate.py`` has its rules.

    ``name``: what pages call it; ``meaning``: what the conformance statement says of it. ``series``: how the
    Series Description (0008,103E) of its series begins, ``series_number``: their Series Number (0020,0011)
    of the first rule. ``sop_classes``: UIDs of the SOP classes that a peer has to take; the first is its
    usual one.
    """

    name: str
    meaning: str
    series: str
    series_number: int
    sop_classes: tuple[str, ...]


_COMPREHENSIVE_3D_SR: Final = ("1.2.840.10008.5.1.4.1.1.88.34",)
_SECONDARY_CAPTURE: Final = ("1.2.840.10008.5.1.4.1.1.7",)
# From 9000 on, above the numbers that modalities give: results are listed behind the series of the study.
RESULT_KINDS: Final[Mapping[ResultKind, KindOfResult]] = {
    ResultKind.SR: KindOfResult(
        "report (SR)",
        "report of findings, TID 1500; for OHIF without a place TID 2000",
        "AI findings",
        9001,
        _COMPREHENSIVE_3D_SR,
    ),
    ResultKind.GSPS: KindOfResult(
        "presentation state",
        "overlay of findings on the source image, gray or colour",
        "AI overlay",
        9002,
        # Grayscale and Color Softcopy Presentation State
        ("1.2.840.10008.5.1.4.1.1.11.1", "1.2.840.10008.5.1.4.1.1.11.2"),
    ),
    ResultKind.SC: KindOfResult(
        "annotated picture",
        "picture with findings drawn on it",
        "AI annotated image",
        9003,
        _SECONDARY_CAPTURE,
    ),
    ResultKind.SUMMARY: KindOfResult(
        # The lowest: viewers list thumbnails by series number, and people see the page first.
        "summary page",
        "one page on all images of a job",
        "AI summary",
        9000,
        _SECONDARY_CAPTURE,
    ),
    ResultKind.PDF: KindOfResult(
        "summary page (PDF)",
        "the same page as PDF, with text",
        "AI summary (PDF)",
        9012,
        ("1.2.840.10008.5.1.4.1.1.104.1",),  # Encapsulated PDF
    ),
    ResultKind.HEATMAP: KindOfResult(
        "heat map", "heat map of a finding", "AI heat map", 9004, _SECONDARY_CAPTURE
    ),
    ResultKind.CLEANED: KindOfResult(
        "cleaned image",
        "source image or cine without burned-in text, verified",
        "AI cleaned image",
        9005,
        # of several frames: grayscale byte, grayscale word, true colour
        (*_SECONDARY_CAPTURE, *(f"{_SECONDARY_CAPTURE[0]}.{frames}" for frames in (2, 3, 4))),
    ),
    ResultKind.SEG: KindOfResult(
        "segmentation",
        "mask of what was removed; outlined organs",
        "AI mask of removed text",
        9006,
        ("1.2.840.10008.5.1.4.1.1.66.4",),  # Segmentation
    ),
    ResultKind.ASSESSMENT: KindOfResult(
        "assessment (SR)",
        "what a person says of findings, with `assessments`",
        "Assessment of AI findings",
        9008,
        _COMPREHENSIVE_3D_SR,
    ),
    ResultKind.PROGRAM_SR: KindOfResult(
        "report of a program (SR)",
        "report that a program returned; goes to peers with sr",
        "AI report",
        9021,
        # Comprehensive 3D, Comprehensive, Enhanced, Basic Text and Extensible SR
        tuple(f"1.2.840.10008.5.1.4.1.1.88.{end}" for end in (34, 33, 22, 11, 35)),
    ),
    ResultKind.MAP: KindOfResult(
        "parametric map",
        "parametric map that a program returned",
        "AI parametric map",
        9025,
        ("1.2.840.10008.5.1.4.1.1.30",),
    ),
    ResultKind.STRUCTURE_SET: KindOfResult(
        "structure set (RTSTRUCT)",
        "contours that a program returned",
        "AI structure set",
        9026,
        ("1.2.840.10008.5.1.4.1.1.481.3",),
    ),
    ResultKind.IMAGE: KindOfResult(
        "derived image",
        "image of a modality's class that a program derived",
        "AI derived image",
        9027,
        ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"),  # CT, MR
    ),
    ResultKind.OBSTETRIC: KindOfResult(
        "obstetric report (SR)",
        "fetal biometry, TID 5000",
        "AI fetal biometry",
        9013,
        ("1.2.840.10008.5.1.4.1.1.88.33",),  # Comprehensive SR
    ),
    ResultKind.KEY_OBJECTS: KindOfResult(
        "key objects",
        "selection that names the other results of an analysis, or that a program returned",
        "AI key objects",
        9029,
        ("1.2.840.10008.5.1.4.1.1.88.59",),
    ),
    ResultKind.REJECTION: KindOfResult(
        "rejection note",
        "note that results are withdrawn, with `iocm`",
        "AI results withdrawn",
        9007,
        ("1.2.840.10008.5.1.4.1.1.88.59",),  # Key Object Selection Document
    ),
}
PICTURES: Final = frozenset(
    kind for kind, declared in RESULT_KINDS.items() if declared.sop_classes[0] in _SECONDARY_CAPTURE
)
"""Kinds that are secondary captures."""
NOT_CHOSEN = frozenset({ResultKind.REJECTION, ResultKind.ASSESSMENT})
"""Kinds that a peer gets by a key of their own, and that no job builds."""
NOT_LISTED = NOT_CHOSEN | {ResultKind.PROGRAM_SR}
"""Kinds that stand in no peer's ``results``."""
DEIDENTIFIED_KINDS = frozenset({ResultKind.CLEANED, ResultKind.SEG, ResultKind.SR})
"""What a de-identified destination may get: the other kinds show the uncleaned picture, or draw on it."""


class RemovalState(StrEnum):
    """The progress of deleting a withdrawn result at a peer."""

    ASKED = "asked"  # the peer is asked until it is gone there
    GONE = "gone"
    BY_HAND = "by_hand"  # the peer refuses: a person deletes it there


class RejectionReason(StrEnum):
    """The reason why a person withdraws a result; both have a code in IHE IOCM (Imaging Object Change
    Management).
    """

    QUALITY = "quality"
    SAFETY = "safety"


class ObjectRole(StrEnum):
    """The role of a received object in the node; only sources may start a job."""

    SOURCE = "source"  # may start a job
    NON_SOURCE = "non_source"  # SR, PR, SEG, KO, secondary capture …: stored; starts and reopens nothing
    OWN = "own"  # our own result that came back: stored, never analysed
    ASIDE = "aside"  # a person decided against it: stored, never analysed


class Outcome(StrEnum):
    """What became of one received object; nothing received is overwritten."""

    NEW = "new"
    DUPLICATE = "duplicate"
    REVISION = "revision"  # same pixels, other header: forwarded and analysed again
    CONFLICT = "conflict"  # same UID, other pixels or study; or two patients in one study
    QUARANTINED = "quarantined"  # faulty content
    TAKEN = "taken"  # was a conflict; a person took this version
    SET_ASIDE = "set_aside"  # a person took another one; or it says less, or is no correction of its sender
    ANSWER = "answer"  # of a vendor's AI, to a study that was sent to it: no part of the study


class AssociationOutcome(StrEnum):
    """How an association ended."""

    OPEN = "open"
    RELEASED = "released"
    ABORTED = "aborted"
    LOST = "lost"  # with its listener


class StudyWarning(StrEnum):
    """What a person has to know of a study in any state, before relying on it."""

    BROKEN_OFF = "the association broke off: the study may be incomplete"
    NO_PATIENT_ID = "no Patient ID"


class StepStatus(StrEnum):
    """Performed Procedure Step Status (0040,0252), PS3.3 C.4.14."""

    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"


class Counted(StrEnum):
    """What a model did with an image, for statistics. A ``REORIENTED`` image is also counted as
    ``ANALYSED``.
    """

    ANALYSED = "analysed"
    REORIENTED = "reoriented"  # turned or inverted before it was analysed
    REFUSED_HEADER = "refused_header"
    REFUSED_PIXELS = "refused_pixels"


class ReaderVerdict(StrEnum):
    """A person's assessment of a finding, whether the AI called it present or absent (IHE AIRA's words)."""

    ACCEPTED = "accepted"
    MODIFIED = "modified"  # it is there, but its place, extent or number is another
    REJECTED = "rejected"
    MISSING = "missing"  # the AI says nothing of it, and it is there


class ReviewCause(StrEnum):
    """Why a person should review the removal of burned-in text from an image, the most urgent first."""

    WITHHELD = "withheld"  # text may be left: no cleaned image
    IN_DOUBT = "in_doubt"  # places in the image that may hold letters, and stay
    BLACKED_OUT = "blacked_out"  # in the second place, as filling left text
    WIDENED = "widened"  # filled once more around what was still found


class ReviewVerdict(StrEnum):
    """How the review of the removal of burned-in text from an image ended."""

    ACCEPTED = "accepted"  # by a person: it stays as it is
    DRAWN = "drawn"  # a person drew boxes: cleaned again
    REPLACED = "replaced"  # by a later analysis of the same image


class NotificationState(StrEnum):
    """The state of a notification (e-mail or webhook call)."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"  # given up: refused, or not taken for too long


class FetchPurpose(StrEnum):
    """Why a study is fetched from a peer."""

    ASKED = "asked"  # a person asked for it, or for what is missing
    PRIOR = "prior"  # for the comparison with a newer one: its results are sent nowhere


class QuestionState(StrEnum):
    """The state of a query to a peer for the patient's earlier studies."""

    WAITING = "waiting"  # to be asked
    ANSWERED = "answered"  # the studies that the answer named are waited for
    ENDED = "ended"  # nothing is waited for


class AuditAction(StrEnum):
    """An action of a person or of the node, as recorded in the audit trail; at most 16 characters."""

    SIGNED_IN = "signed_in"
    SIGN_IN_REFUSED = "sign_in_refused"
    SIGNED_OUT = "signed_out"
    USER_ADDED = "user_added"
    USER_REMOVED = "user_removed"
    USER_CHANGED = "user_changed"
    PASSWORD_SET = "password_set"
    TOKEN_ADDED = "token_added"
    TOKEN_REMOVED = "token_removed"
    STUDY_SEEN = "study_seen"
    LIST_SEEN = "list_seen"  # one with Patient IDs
    EXPORTED = "exported"  # such a list, as a file
    STUDY_SEARCHED = "study_searched"  # by patient or accession number
    STUDY_RERUN = "study_rerun"
    JOB_CHANGED = "job_changed"
    STUDY_RELEASED = "study_released"
    RESULT_WITHDRAWN = "result_withdrawn"
    DELIVERY_RETRIED = "delivery_retried"
    OBJECTS_DELETED = "objects_deleted"  # received ones, before their time
    DISCARDED = "discarded"  # deliveries
    SENT_TO_PEER = "sent_to_peer"  # a further one
    UPLOADED = "uploaded"
    PATIENT_ADDED = "patient_added"  # registered
    PATIENT_CHANGED = "patient_changed"
    PATIENT_REMOVED = "patient_removed"  # the registration, not the studies
    PEER_SAVED = "peer_saved"  # added or changed
    PEER_REMOVED = "peer_removed"
    RULE_SAVED = "rule_saved"
    RULE_REMOVED = "rule_removed"
    PEER_TESTED = "peer_tested"
    STUDIES_FETCHED = "studies_fetched"  # asked for at a peer, asked for again, or cancelled
    NOTIFIER_TESTED = "notifier_tested"
    NOTIFIED_AGAIN = "notified_again"  # one that was given up is sent again
    FEEDBACK_GIVEN = "feedback_given"
    ASSESSMENT_SENT = "assessment_sent"  # as an object, to peers that take it
    RESULTS_ASSESSED = "results_assessed"  # held ones: accepted or rejected
    CLEANING_JUDGED = "cleaning_judged"  # accepted, or boxes drawn
    MODEL_ACTIVATED = "model_activated"
    MODEL_ROLLBACK = "model_rollback"
    DECISION_SETTLED = "decision_settled"  # one that was lost with the database and could not be applied
    CONFIG_RELOADED = "config_reloaded"
    BACKED_UP = "backed_up"
    RESTORED = "restored"  # from a backup
    SPOOL_REINDEXED = "spool_reindexed"  # objects put back that the database did not know
    MACHINE_REMOVED = "machine_removed"  # of the site, after it was lost
    NODE_STARTED = "node_started"  # these six are the node's own, where audit messages are sent
    NODE_STOPPING = "node_stopping"
    IMAGES_RECEIVED = "images_received"  # a study is complete
    RESULTS_SENT = "results_sent"
    CALLER_REFUSED = "caller_refused"  # an association, or TLS
    PEER_ASKED = "peer_asked"  # what it has of a study, of its patient, or without result


class Role(StrEnum):
    """The tasks of a node: one machine may have all of them, or a site may divide them among several
    nodes.
    """

    ALL = "all"
    LISTENER = "listener"
    """Receives, indexes and assembles objects, runs timers, and serves the console if it is enabled."""
    WORKER = "worker"
    """Runs models and delivers results."""
    DELIVERY = "delivery"
    CONSOLE = "console"
    """Serves the console and indexes objects that are uploaded there."""

    @classmethod
    def at(cls, place: str) -> Role:
        """Return the role of the node with the place name ``place`` on the data folder: WORKER for
        ``worker-2``.
        """
        return cls(place.partition("-")[0])

    @property
    def receives(self) -> bool:
        """Whether a node with this role listens and may run the timers, which run on one node at a time."""
        return self in (Role.ALL, Role.LISTENER)

    @property
    def may_serve_console(self) -> bool:
        """Whether a node with this role serves the console if it is enabled."""
        return self.receives or self is Role.CONSOLE

    @property
    def indexes(self) -> bool:
        """Whether a node with this role writes objects to the spool and takes part in indexing them."""
        return self.may_serve_console

    @property
    def runs_models(self) -> bool:
        """Whether a node with this role has worker processes."""
        return self in (Role.ALL, Role.WORKER)

    @property
    def may_deliver(self) -> bool:
        """Whether a node with this role delivers results to peers, unless the setting ``outbox.deliver`` is
        false.
        """
        return self.runs_models or self is Role.DELIVERY


class UserRole(StrEnum):
    """A person's rights at the console; each role includes the rights of the roles before it."""

    VIEWER = "viewer"
    """See studies, jobs, deliveries."""
    READER = "reader"
    """Say whether findings are right."""
    OPERATOR = "operator"
    """Run again, send again, cancel, upload."""
    ADMIN = "admin"
    """See who did what."""

    def includes(self, other: UserRole) -> bool:
        """Return whether this role includes the rights of the role ``other``."""
        order = list(UserRole)
        return order.index(self) >= order.index(other)


if TYPE_CHECKING:
    from pydicom.dataset import Dataset

DEIDENTIFIED_FOLDER: Final = "deidentified"
"""Under ``data_dir``: de-identified results; all others lie in ``results``."""
BASIC_PROFILE: Final = ("113100", "DCM")


class Retained(StrEnum):
    """What de-identified results may retain (options of PS3.15 E.3), named as in the peer setting
    ``retain``.
    """

    MODIFIED_DATES = "modified_dates"
    PATIENT_CHARACTERISTICS = "patient_characteristics"


OPTIONS: Final = {
    Retained.MODIFIED_DATES: (
        "113107",
        "Retain Longitudinal Temporal Information Modified Dates Option",
    ),
    Retained.PATIENT_CHARACTERISTICS: ("113108", "Retain Patient Characteristics Option"),
}
"""Code value and meaning (PS3.16 CID 7050) by which an object says that it keeps this."""


def is_deidentified(dataset: Dataset) -> bool:
    """Return whether a data set states that it was de-identified by the basic profile (PS3.15 E.2). Never
    raises on a faulty header.
    """
    return dataset.get("PatientIdentityRemoved") == "YES" and BASIC_PROFILE in _methods(dataset)


def retained_by(dataset: Dataset) -> frozenset[Retained]:
    """Return the retention options (PS3.15 E.3) that a data set states. Never raises on a faulty header."""
    codes = _methods(dataset)
    return frozenset(option for option, (code, _) in OPTIONS.items() if (code, "DCM") in codes)


def _methods(dataset: Dataset) -> set[tuple[object, object]]:
    """Return (Code Value, Coding Scheme Designator) of each item of De-identification Method Code Sequence
    (0012,0064).
    """
    items = dataset.get("DeidentificationMethodCodeSequence") or []
    if isinstance(items, (str, bytes)):
        return set()
    return {(item.get("CodeValue"), item.get("CodingSchemeDesignator")) for item in items}


class StudyState(StrEnum):
    """The state of a study, as ``dicom-node studies list`` prints it."""

    RECEIVING = "receiving"
    COMPLETE = "complete"
    QUEUED = "queued"
    RUNNING = "running"
    UNASSESSED = "unassessed"  # results wait until a person has accepted them
    DELIVERING = "delivering"
    DELIVERED = "delivered"
    NOT_APPLICABLE = "not_applicable"
    QUARANTINED = "quarantined"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobState(StrEnum):
    """The state of a job, which runs one pipeline on one revision of one study."""

    HELD = "held"  # stopped by a rule's age limit or daily cap; runs by hand
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    NOT_APPLICABLE = "not_applicable"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DeliveryState(StrEnum):
    """The state of a delivery, which brings one object to one destination."""

    UNASSESSED = "unassessed"  # leaves once a person has accepted the result
    PENDING = "pending"
    SENDING = "sending"
    UNCONFIRMED = "unconfirmed"  # the peer answered Success (or may have): to be confirmed
    CONFIRMED = "confirmed"
    DEAD = "dead"  # a person must look; `outbox retry` sends it again
    CANCELLED = "cancelled"
    DISCARDED = "discarded"  # a person gave a reason not to send it; `outbox retry` sends it all the same


class CommitmentState(StrEnum):
    """The state of a storage commitment request (PS3.4 Annex J) that the node sends to a destination."""

    ASKED = "asked"  # written down; whether it reached the destination is not known
    ACCEPTED = "accepted"  # the destination answered Success to the request
    REPORTED = "reported"  # a report on it was entered, maybe before its answer came


class RequestedState(StrEnum):
    """The state of a storage commitment request (PS3.4 Annex J) that a peer sent to the node about its
    objects.
    """

    WAITING = "waiting"  # for archives to confirm its objects
    DECIDED = "decided"  # the report waits to be taken
    REPORTED = "reported"
    GIVEN_UP = "given_up"  # the peer did not take the report, or may ask for none any more


class HeldState(StrEnum):
    """The state of a result that a person must accept before it is sent."""

    WAITING = "waiting"
    OVERDUE = "overdue"  # waits for longer than outbox.assess_hours; event 4041 was recorded
    ACCEPTED = "accepted"
    REJECTED = "rejected"  # it is sent nowhere


class FetchState(StrEnum):
    """The state of a study that is fetched from a peer."""

    WAITING = "waiting"  # for its turn, or for another try
    FETCHING = "fetching"
    FETCHED = "fetched"
    FAILED = "failed"  # given up; asked for again by a person
    OTHER_PATIENT = "other_patient"  # its images name another patient than the answer: in quarantine
    CANCELLED = "cancelled"  # by a person


class WorkitemState(StrEnum):
    """The state of a UPS work item (DICOM Unified Procedure Step) of a worklist manager that the node claims
    or performs.
    """

    CLAIMING = "claiming"  # written down with its Transaction UID; whether the claim was taken is not known
    CLAIMED = "claimed"
    ENDING = "ending"  # its outcome is decided and waits to be taken
    COMPLETED = "completed"
    CANCELED = "canceled"
    LOST = "lost"  # another performer has it, or its manager ended it
    GIVEN_UP = "given_up"  # the manager does not take the outcome


class AwaitedState(StrEnum):
    """The state of an answer that is awaited from a vendor's AI server."""

    WAITING = "waiting"  # for a place: the vendor has as many studies as it may have at once
    SENDING = "sending"
    AWAITED = "awaited"  # the vendor has all images, and its time runs
    ANSWERED = "answered"  # whole: nothing that comes later changes it
    SILENT = "silent"  # no whole answer in time: the job fails
    LATE = "late"  # objects came after that: their results will wait for a person
    DROPPED = "dropped"  # the job ended, or the study changed


class MessageState(StrEnum):
    """The state of an HL7 message that was acknowledged."""

    RECEIVED = "received"  # to be carried out
    DONE = "done"
    NOTHING = "nothing"  # it concerns nothing here
    FOREIGN = "foreign"  # it names IDs of another site: it changes nothing
    WAITING = "waiting"  # an order, for its study
    EXPIRED = "expired"  # an order whose study did not come in time


class CorrectionState(StrEnum):
    """What became of a study that waits for images of the patient that HL7 names."""

    WAITING = "waiting"
    CORRECTED = "corrected"  # the images came: it went on by itself
    RELEASED = "released"  # a person released it as it is


_S, _J, _D, _C, _H = StudyState, JobState, DeliveryState, CommitmentState, HeldState
_F, _R, _W, _A = FetchState, RequestedState, WorkitemState, AwaitedState
_State = TypeVar("_State", bound=StrEnum)


def _table(
    *rows: tuple[Iterable[_State], events.EventType, _State],
) -> Mapping[tuple[_State, events.EventType], _State]:
    """Return a life cycle as a table (state, event) -> next state. ``rows``: triples of several states, an
    event, and the next state.
    """
    return {(state, event): to for states, event, to in rows for state in sorted(states)}


READ_FROM_WORK = frozenset(_S) - {_S.RECEIVING, _S.COMPLETE, _S.QUARANTINED}
"""After assembly a study is where its jobs and deliveries are (:func:`study_state`, event 2015)."""

STUDY = _table(
    ({_S.RECEIVING}, events.STUDY_COMPLETE, _S.COMPLETE),
    ({_S.COMPLETE, *READ_FROM_WORK}, events.STUDY_REOPENED, _S.RECEIVING),
    ({_S.COMPLETE, *READ_FROM_WORK}, events.STUDY_RERUN, _S.RECEIVING),
    ({_S.RECEIVING, _S.COMPLETE, *READ_FROM_WORK}, events.STUDY_QUARANTINED, _S.QUARANTINED),
    ({_S.QUARANTINED}, events.STUDY_RELEASED, _S.RECEIVING),  # by a person only
    ({_S.QUARANTINED}, events.STUDY_CORRECTED, _S.RECEIVING),  # that waited for nothing else
)

JOB = _table(
    ({_J.QUEUED}, events.JOB_STARTED, _J.RUNNING),
    ({_J.RUNNING}, events.JOB_SUCCEEDED, _J.SUCCEEDED),
    ({_J.RUNNING}, events.JOB_NOT_APPLICABLE, _J.NOT_APPLICABLE),
    ({_J.RUNNING}, events.JOB_FAILED, _J.FAILED),
    ({_J.RUNNING}, events.JOB_RETRIED, _J.QUEUED),
    ({_J.RUNNING}, events.JOB_HANDED_BACK, _J.QUEUED),
    ({_J.RUNNING}, events.JOB_TAKEN_OVER, _J.QUEUED),
    ({_J.HELD, _J.QUEUED, _J.RUNNING}, events.JOB_CANCELLED, _J.CANCELLED),
    ({_J.HELD, _J.NOT_APPLICABLE, _J.FAILED, _J.CANCELLED}, events.JOB_QUEUED, _J.QUEUED),  # by a person
)

DELIVERY = _table(
    ({_D.PENDING}, events.DELIVERY_STARTED, _D.SENDING),
    ({_D.SENDING}, events.DELIVERY_SENT, _D.UNCONFIRMED),
    ({_D.SENDING}, events.DELIVERY_WARNED, _D.UNCONFIRMED),
    ({_D.SENDING}, events.DELIVERY_IN_DOUBT, _D.UNCONFIRMED),
    ({_D.UNCONFIRMED}, events.DELIVERY_CONFIRMED, _D.CONFIRMED),
    ({_D.DEAD}, events.DELIVERY_CONFIRMED, _D.CONFIRMED),  # by a report that came too late
    ({_D.SENDING, _D.UNCONFIRMED}, events.DELIVERY_RETRIED, _D.PENDING),
    ({_D.PENDING, _D.SENDING, _D.UNCONFIRMED}, events.DELIVERY_DEAD, _D.DEAD),
    ({_D.SENDING}, events.DELIVERY_NARROWED, _D.CANCELLED),
    ({_D.UNASSESSED, _D.PENDING, _D.DEAD}, events.DELIVERY_WITHDRAWN, _D.CANCELLED),
    ({_D.CANCELLED}, events.DELIVERY_HELD, _D.UNASSESSED),
    ({_D.CANCELLED, _D.UNASSESSED}, events.DELIVERY_WANTED, _D.PENDING),
    ({_D.UNASSESSED, _D.DISCARDED}, events.DELIVERY_FREED, _D.PENDING),
    ({_D.UNASSESSED, _D.PENDING, _D.DEAD}, events.DELIVERY_DISCARDED, _D.DISCARDED),
    ({_D.DEAD, _D.CANCELLED, _D.DISCARDED}, events.DELIVERY_BY_HAND, _D.PENDING),
)

COMMITMENT = _table(
    ({_C.ASKED}, events.COMMITMENT_REQUESTED, _C.ACCEPTED),
    ({_C.ASKED, _C.ACCEPTED}, events.COMMITMENT_ENTERED, _C.REPORTED),
)

REQUESTED = _table(
    ({_R.WAITING}, events.COMMITMENT_DECIDED, _R.DECIDED),
    ({_R.DECIDED}, events.COMMITMENT_ANSWERED, _R.REPORTED),
    ({_R.WAITING, _R.DECIDED}, events.COMMITMENT_ANSWER_GIVEN_UP, _R.GIVEN_UP),
)

HELD = _table(
    ({_H.WAITING}, events.ASSESSMENT_OVERDUE, _H.OVERDUE),
    ({_H.WAITING, _H.OVERDUE, _H.REJECTED}, events.RESULTS_ACCEPTED, _H.ACCEPTED),
    ({_H.WAITING, _H.OVERDUE}, events.RESULTS_REJECTED, _H.REJECTED),
)

FETCH = _table(
    ({_F.WAITING}, events.FETCH_STARTED, _F.FETCHING),
    ({_F.FETCHING}, events.FETCH_DONE, _F.FETCHED),
    ({_F.FETCHING}, events.FETCH_RETRIED, _F.WAITING),
    ({_F.FETCHING}, events.FETCH_FAILED, _F.FAILED),
    ({_F.WAITING}, events.FETCH_CANCELLED, _F.CANCELLED),
    ({_F.FETCHED, _F.FAILED, _F.CANCELLED, _F.OTHER_PATIENT}, events.FETCH_ASKED, _F.WAITING),
    (set(_F) - {_F.OTHER_PATIENT}, events.FETCHED_OTHER_PATIENT, _F.OTHER_PATIENT),
)

WORKITEM = _table(
    ({_W.CLAIMING}, events.WORKITEM_CLAIMED, _W.CLAIMED),
    ({_W.CLAIMED}, events.WORKITEM_DECIDED, _W.ENDING),
    ({_W.ENDING}, events.WORKITEM_COMPLETED, _W.COMPLETED),
    ({_W.ENDING}, events.WORKITEM_CANCELED, _W.CANCELED),
    ({_W.CLAIMING, _W.CLAIMED, _W.ENDING}, events.WORKITEM_LOST, _W.LOST),
    ({_W.CLAIMING, _W.CLAIMED, _W.ENDING}, events.WORKITEM_GIVEN_UP, _W.GIVEN_UP),
)

AWAITED = _table(
    ({_A.WAITING}, events.ANSWER_SENDING, _A.SENDING),
    ({_A.SENDING}, events.ANSWER_AWAITED, _A.AWAITED),
    ({_A.AWAITED, _A.LATE}, events.ANSWER_WHOLE, _A.ANSWERED),
    ({_A.SENDING, _A.AWAITED}, events.ANSWER_SILENT, _A.SILENT),
    ({_A.SILENT}, events.ANSWER_LATE, _A.LATE),
    ({_A.WAITING, _A.SENDING, _A.AWAITED, _A.LATE}, events.ANSWER_DROPPED, _A.DROPPED),
)

LIFE_CYCLES: Mapping[str, Mapping[tuple[Any, events.EventType], Any]] = {
    "study": STUDY,
    "job": JOB,
    "delivery": DELIVERY,
    "request for storage commitment": COMMITMENT,
    "storage commitment asked of the node": REQUESTED,
    "held result": HELD,
    "fetched study": FETCH,
    "work item": WORKITEM,
    "answer of a vendor's AI": AWAITED,
}
"""All of them by what they are of, for whoever draws or tests them."""

UNDECIDED = frozenset({_H.WAITING, _H.OVERDUE})
OPEN_MESSAGES = frozenset({MessageState.RECEIVED, MessageState.WAITING})
OPEN_JOBS = frozenset({_J.QUEUED, _J.RUNNING})
OPEN_FETCHES = frozenset({_F.WAITING, _F.FETCHING})
OPEN_WORKITEMS = frozenset({_W.CLAIMING, _W.CLAIMED, _W.ENDING})
OPEN_AWAITED = frozenset({_A.WAITING, _A.SENDING, _A.AWAITED, _A.LATE})
OPEN_DELIVERIES = frozenset({_D.PENDING, _D.SENDING, _D.UNCONFIRMED})
END_STATES = frozenset({_S.DELIVERED, _S.NOT_APPLICABLE, _S.QUARANTINED, _S.FAILED, _S.CANCELLED})


def study_state(jobs: Iterable[JobState], deliveries: Iterable[DeliveryState]) -> StudyState:
    """Return the state of a study, from the states of its jobs (of its newest revision) and of its
    deliveries.

    The first of these that holds: a job runs; a job is queued; a delivery is under way; a delivery waits for
    a person's assessment; a job or delivery failed; all jobs were cancelled, or a delivery was discarded and
    none confirmed; no job applied. Otherwise the study is delivered.
    """
    job_states, delivery_states = set(jobs), set(deliveries)
    for state, holds in (
        (_S.RUNNING, _J.RUNNING in job_states),
        (_S.QUEUED, _J.QUEUED in job_states),
        (_S.DELIVERING, bool(delivery_states & OPEN_DELIVERIES)),
        (_S.UNASSESSED, _D.UNASSESSED in delivery_states),
        (_S.FAILED, _J.FAILED in job_states or _D.DEAD in delivery_states),
        (_S.CANCELLED, bool(job_states) and job_states <= {_J.CANCELLED}),
        (_S.CANCELLED, _D.DISCARDED in delivery_states and _D.CONFIRMED not in delivery_states),
        (_S.NOT_APPLICABLE, job_states <= {_J.NOT_APPLICABLE, _J.HELD, _J.CANCELLED}),
    ):
        if holds:
            return state
    return _S.DELIVERED
