"""Kinds of results, and how viewers show them; roles and outcomes of received objects, associations,
analyses; audited actions.

The role of a machine in a node, and the role of a person at the console.

De-identified results: their folder, the data that they may retain, and their marks in the data set.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

CONSOLE_AE_TITLE: Final = "CONSOLE"
"""The calling AE title of what comes in by the console."""
CONSOLE_NAME: Final = "console"
"""What rules call it where they name a sender."""


class ResultKind(StrEnum):
    """Kinds of result objects; the words of a peer's ``results`` setting."""

    SR = "sr"
    GSPS = "gsps"  # grayscale, or colour softcopy presentation state for colour images
    SC = "sc"  # annotated picture
    SUMMARY = "summary"  # one page on all images of a job, with one picture
    PDF = "pdf"  # that page as a document with text
    HEATMAP = "heatmap"  # heat map picture with colour bar
    CLEANED = "cleaned"
    SEG = "seg"  # mask of what was inpainted; outlined organs
    REJECTION = "rejection"  # IOCM: a note that other results are withdrawn; not of a peer's ``results``
    ASSESSMENT = "assessment"  # what a person says of the findings of a report; neither of them


NOT_CHOSEN = frozenset({ResultKind.REJECTION, ResultKind.ASSESSMENT})
"""Kinds that a peer gets by a key of their own, and that no job builds."""
DEIDENTIFIED_KINDS = frozenset({ResultKind.CLEANED, ResultKind.SEG, ResultKind.SR})
"""What a de-identified destination may get: the other kinds show the uncleaned picture, or draw on it."""


class RemovalState(StrEnum):
    """The progress of the deletion of a withdrawn result at a peer."""

    ASKED = "asked"  # the peer is asked until it is gone there
    GONE = "gone"
    BY_HAND = "by_hand"  # the peer refuses: a person deletes it there


class RejectionReason(StrEnum):
    """The reason why a result is withdrawn, as far as IHE IOCM has a code for it."""

    QUALITY = "quality"
    SAFETY = "safety"


class ObjectRole(StrEnum):
    """The role of a received object in the node; only sources may start a job."""

    SOURCE = "source"  # may start a job
    NON_SOURCE = "non_source"  # SR, PR, SEG, KO, secondary capture …: stored; starts and reopens nothing
    OWN = "own"  # our own result that came back: stored, never analysed
    ASIDE = "aside"  # a person decided against it: stored, never analysed


class Outcome(StrEnum):
    """The outcome for one received object; nothing received is overwritten."""

    NEW = "new"
    DUPLICATE = "duplicate"
    REVISION = "revision"  # same pixels, other header: forwarded and analysed again
    CONFLICT = "conflict"  # same UID, other pixels or study; or two patients in one study
    QUARANTINED = "quarantined"  # faulty content
    TAKEN = "taken"  # was a conflict; a person took this version
    SET_ASIDE = "set_aside"  # a person took another one; or it says less, or is no correction of its sender


class AssociationOutcome(StrEnum):
    """The end of an association."""

    OPEN = "open"
    RELEASED = "released"
    ABORTED = "aborted"
    LOST = "lost"  # with its listener


class StepStatus(StrEnum):
    """Performed Procedure Step Status (0040,0252), PS3.3 C.4.14."""

    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"


class Counted(StrEnum):
    """The outcome of a model on an image, for the counts. A ``REORIENTED`` image is also ``ANALYSED``."""

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
    """The reason for a person's review of the cleaning of an image, the most urgent first."""

    WITHHELD = "withheld"  # text may be left: no cleaned image
    IN_DOUBT = "in_doubt"  # places in the image that may hold letters, and stay
    BLACKED_OUT = "blacked_out"  # in the second place, as filling left text
    WIDENED = "widened"  # filled once more around what was still found


class ReviewVerdict(StrEnum):
    """The outcome of a person's review of the cleaning of an image."""

    ACCEPTED = "accepted"  # by a person: it stays as it is
    DRAWN = "drawn"  # a person drew boxes: cleaned again
    REPLACED = "replaced"  # by a later analysis of the same image


class NotificationState(StrEnum):
    """The state of a notification."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"  # given up: refused, or not taken for too long


class FetchPurpose(StrEnum):
    """The reason why a study is fetched from a peer."""

    ASKED = "asked"  # a person asked for it, or for what is missing
    PRIOR = "prior"  # for the comparison with a newer one: its results are sent nowhere


class QuestionState(StrEnum):
    """How far a question to a peer for earlier studies is."""

    WAITING = "waiting"  # to be asked
    ANSWERED = "answered"  # the studies that the answer named are waited for
    ENDED = "ended"  # nothing is waited for


class AuditAction(StrEnum):
    """An action of a person or of the node; at most 16 characters."""

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
    """The work of a process and its children. Each part of the node has a role; two roles include several."""

    ALL = "all"
    LISTENER = "listener"
    """Receive, index, assemble, timers, and the console where it is switched on."""
    WORKER = "worker"
    """Run models, deliver."""
    DELIVERY = "delivery"
    CONSOLE = "console"
    """Serve it, and index what is uploaded there."""

    @classmethod
    def at(cls, place: str) -> Role:
        """The role of the node at a place of the data folder: WORKER for ``worker-2``."""
        return cls(place.partition("-")[0])

    @property
    def receives(self) -> bool:
        """Whether a node with this role listens, and may run the timers: one node at a time runs them."""
        return self in (Role.ALL, Role.LISTENER)

    @property
    def may_serve_console(self) -> bool:
        """Whether a node with this role serves the console, if the console is enabled."""
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
        """Whether a node with this role delivers results, unless ``outbox.deliver`` is false."""
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
        """Whether this role includes the rights of ``other``."""
        order = list(UserRole)
        return order.index(self) >= order.index(other)


if TYPE_CHECKING:
    from pydicom.dataset import Dataset

DEIDENTIFIED_FOLDER: Final = "deidentified"
"""Under ``data_dir``: de-identified results; all others lie in ``results``."""
BASIC_PROFILE: Final = ("113100", "DCM")


class Retained(StrEnum):
    """Data that de-identified results retain: options of PS3.15 E.3, the words of a peer's ``retain``."""

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
    """Whether a data set states that the basic profile (PS3.15 E.2) was applied to it.

    Never raises on a faulty header.
    """
    return dataset.get("PatientIdentityRemoved") == "YES" and BASIC_PROFILE in _methods(dataset)


def retained_by(dataset: Dataset) -> frozenset[Retained]:
    """The options that a data set states it retains. Never raises on a faulty header."""
    codes = _methods(dataset)
    return frozenset(option for option, (code, _) in OPTIONS.items() if (code, "DCM") in codes)


def _methods(dataset: Dataset) -> set[tuple[object, object]]:
    items = dataset.get("DeidentificationMethodCodeSequence") or []
    if isinstance(items, (str, bytes)):
        return set()
    return {(item.get("CodeValue"), item.get("CodingSchemeDesignator")) for item in items}
