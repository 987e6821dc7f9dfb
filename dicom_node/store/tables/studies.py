"""Studies in the node: received objects, jobs, built objects, the outbox, and what analyses left.

Studies that are fetched from a peer, and questions to a peer about a study that is being received.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.engine.default import DefaultExecutionContext
from sqlalchemy.orm import Mapped, mapped_column, relationship

from dicom_node.model.kinds import (
    AssociationOutcome,
    Counted,
    FetchPurpose,
    ObjectRole,
    Outcome,
    QuestionState,
    ResultKind,
    ReviewCause,
    ReviewVerdict,
)
from dicom_node.model.lifecycle import DeliveryState, FetchState, JobState, StudyState
from dicom_node.model.roles import UserRole
from dicom_node.store.tables.base import Base, Numbered, OfStudy, Tried

_WAITS = text("sha256 = ''")
_BEGINS = "text_pattern_ops"  # in every locale an index finds how texts begin


class Study(Numbered):
    """One study as assembled here. ``study_instance_uid`` is NULL for a quarantined object without one."""

    __table_args__ = (  # the orders and searches of lists
        Index("ix_study_received", "last_received_at", "id"),
        Index("ix_study_date", "study_date", "id"),
        Index("ix_study_patient", "patient_id", postgresql_ops={"patient_id": _BEGINS}),
        Index("ix_study_accession", "accession_number", postgresql_ops={"accession_number": _BEGINS}),
    )

    study_instance_uid: Mapped[str | None] = mapped_column(String(64), unique=True)
    patient_id: Mapped[str] = mapped_column(default="")
    issuer_of_patient_id: Mapped[str] = mapped_column(default="")
    accession_number: Mapped[str] = mapped_column(String(16), default="")  # "" also: before version 0012
    study_date: Mapped[str] = mapped_column(String(8), default="")
    state: Mapped[StudyState] = mapped_column(default=StudyState.RECEIVING, index=True)
    reason: Mapped[str] = mapped_column(Text, default="")
    revision: Mapped[int] = mapped_column(default=1)  # raised by late objects and changed demographics
    first_received_at: Mapped[datetime]
    last_received_at: Mapped[datetime]
    due_at: Mapped[datetime | None] = mapped_column(index=True)  # when quiet; NULL when not receiving
    priority: Mapped[int] = mapped_column(default=0)  # 1 STAT, 0 routine, -1 low
    sealed_name: Mapped[bytes] = mapped_column(LargeBinary, default=b"")  # opened by store.patient_names


class StudyName(Base):
    """A word of the patient's name as a keyed hash, by which studies are found (``store.patient_names``)."""

    __table_args__ = (Index("ix_study_name_word", "word", "study_id"),)

    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), primary_key=True)
    word: Mapped[str] = mapped_column(String(32), primary_key=True)


class Instance(OfStudy, Numbered):
    """The version of a SOP instance that is in force; every version received is a :class:`ReceivedObject`."""

    __table_args__ = (  # studies by what their images are, and by who sent them
        Index("ix_instance_modality", "modality", "study_id", "role"),
        Index("ix_instance_sender", "calling_ae", "study_id", "role"),
    )

    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    series_instance_uid: Mapped[str] = mapped_column(String(64))
    transfer_syntax_uid: Mapped[str] = mapped_column(String(64))
    modality: Mapped[str] = mapped_column(String(16), default="")
    role: Mapped[ObjectRole]
    path: Mapped[str] = mapped_column(Text)
    purged: Mapped[bool] = mapped_column(default=False)  # the file is deleted
    bytes: Mapped[int] = mapped_column(BigInteger)
    pixels_sha256: Mapped[str] = mapped_column(String(64), default="")  # of the Pixel Data value as received
    identity_sha256: Mapped[str] = mapped_column(String(64))  # of patient and study attributes
    header_sha256: Mapped[str] = mapped_column(String(64), default="")  # dicom.hashes
    patient: Mapped[str] = mapped_column(Text, default="")  # model.identity.Patient: hashes of what it says
    attributes: Mapped[dict[str, Any]]  # keyword -> text of what rules may ask for; no name, no ID
    assumed_charset: Mapped[str] = mapped_column(default="")  # of its texts, where it names none itself
    calling_ae: Mapped[str] = mapped_column(String(16))
    called_ae: Mapped[str] = mapped_column(String(16))
    received_at: Mapped[datetime]
    revision: Mapped[int] = mapped_column(default=1)  # the study revision in which it came


class ReceivedObject(Numbered):
    """Every object that was acknowledged, with its outcome. Append-only."""

    __table_args__ = (
        Index("ix_received_object_sender", "calling_ae", "received_at"),
        # Few: what waits for the object store.
        Index("ix_received_object_waits", "id", sqlite_where=_WAITS, postgresql_where=_WAITS),
    )

    spool_name: Mapped[str] = mapped_column(unique=True)  # indexed once, also after a crash
    path: Mapped[str] = mapped_column(Text)
    purged: Mapped[bool] = mapped_column(default=False)  # the file is deleted
    sha256: Mapped[str | None] = mapped_column(String(64))  # of a file in the object store; "": it waits
    dataset_sha256: Mapped[str] = mapped_column(String(64), default="")  # as received; "": not readable
    study_id: Mapped[int | None] = mapped_column(ForeignKey("study.id"), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64), default="", index=True)
    outcome: Mapped[Outcome]
    reason: Mapped[str] = mapped_column(Text, default="")
    association: Mapped[str] = mapped_column(String(64), index=True)
    calling_ae: Mapped[str] = mapped_column(String(16))
    called_ae: Mapped[str] = mapped_column(String(16))
    bytes: Mapped[int] = mapped_column(BigInteger)
    received_at: Mapped[datetime]


class Association(Base):
    """One association, from the listener's journal; an open one keeps its studies open."""

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    listener: Mapped[str] = mapped_column(String(64), index=True)
    calling_ae: Mapped[str] = mapped_column(String(16))
    called_ae: Mapped[str] = mapped_column(String(16))
    address: Mapped[str]
    opened_at: Mapped[datetime] = mapped_column(index=True)
    closed_at: Mapped[datetime | None] = mapped_column(index=True)
    outcome: Mapped[AssociationOutcome] = mapped_column(default=AssociationOutcome.OPEN)
    objects: Mapped[int] = mapped_column(default=0)
    refused: Mapped[list[str]] = mapped_column(default=list)  # presentation contexts, in words
    refused_count: Mapped[int] = mapped_column(default=0)  # also of those that are not named
    reason: Mapped[str] = mapped_column(Text, default="")  # why it was not released


def _when_due(context: DefaultExecutionContext) -> Any:
    """Default of a job's turn, for jobs without estimated work."""
    return context.get_current_parameters()["run_at"]  # type: ignore[no-untyped-call]


class Job(OfStudy, Numbered):
    """One rule's pipeline on one revision of a study."""

    __table_args__ = (
        UniqueConstraint("study_id", "study_revision", "rule", name="uq_job_once_per_rule"),
        Index("ix_job_claim", "state", "priority", "run_at"),
    )

    study_revision: Mapped[int]
    rule: Mapped[str] = mapped_column(String(64))
    pipeline: Mapped[str] = mapped_column(String(64))
    options: Mapped[dict[str, Any]] = mapped_column(default=dict)
    destinations: Mapped[list[str]]
    source_uids: Mapped[list[str]]  # SOP Instance UIDs that the rule matched, ordered
    priority: Mapped[int] = mapped_column(default=0)
    assess_first: Mapped[bool] = mapped_column(default=False)  # of its rule: results wait for a person
    state: Mapped[JobState] = mapped_column(default=JobState.QUEUED)
    reason: Mapped[str] = mapped_column(Text, default="")
    attempts: Mapped[int] = mapped_column(default=0)  # the fence: only the newest attempt may finish it
    tries: Mapped[int] = mapped_column(default=0)  # attempts that count: not those handed back; 0 by hand
    run_at: Mapped[datetime]  # not before: set after a failed try, and while earlier studies are awaited
    turn_at: Mapped[datetime] = mapped_column(default=_when_due)  # the earliest goes first (jobs/queue.py)
    cost_seconds: Mapped[float] = mapped_column(default=1.0)  # estimated work
    ticket: Mapped[int | None] = mapped_column(BigInteger)  # its number in procrastinate_jobs (PostgreSQL)
    lease_owner: Mapped[str] = mapped_column(String(64), default="")
    lease_until: Mapped[datetime | None] = mapped_column(index=True)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    share_done: Mapped[float] = mapped_column(default=0.0)  # 0 to 1
    doing: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    analysed_at: Mapped[datetime | None]  # set once, when the job first succeeds
    models: Mapped[list[str]] = mapped_column(default=list)  # id@version of those that its results are of

    study: Mapped[Study] = relationship()


class Result(OfStudy, Numbered):
    """One object that the node built. Its bytes are built once, and only those bytes are sent."""

    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), index=True)
    kind: Mapped[ResultKind]
    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    series_instance_uid: Mapped[str] = mapped_column(String(64))
    path: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(String(64))
    bytes: Mapped[int] = mapped_column(BigInteger)
    purged: Mapped[bool] = mapped_column(default=False)  # its file was deleted after spool.result_days
    supersedes: Mapped[str] = mapped_column(String(64), default="")
    short_result: Mapped[str] = mapped_column(Text, default="")  # the lines of a report, for lists
    deidentified: Mapped[bool] = mapped_column(default=False)  # for de-identified destinations only
    pseudonym_domain: Mapped[str] = mapped_column(String(64), default="")  # and of these for this one only
    created_at: Mapped[datetime]

    study: Mapped[Study] = relationship()
    job: Mapped[Job] = relationship()
    deliveries: Mapped[list[Delivery]] = relationship(back_populates="result", order_by="Delivery.id")


class ReportedFinding(Base):
    """A finding that a report suspects, until the report is replaced or withdrawn."""

    __table_args__ = (Index("ix_reported_finding_name", "finding", "study_id"),)

    result_id: Mapped[int] = mapped_column(ForeignKey("result.id"), primary_key=True)
    finding: Mapped[str] = mapped_column(String(64), primary_key=True)  # the meaning of its code
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), index=True)


class Original(OfStudy, Numbered):
    """A version of a received object that rules forward with its bytes unchanged."""

    received_id: Mapped[int] = mapped_column(ForeignKey("received_object.id"), index=True)  # its file
    sop_instance_uid: Mapped[str] = mapped_column(String(64), index=True)  # several versions may have it
    sop_class_uid: Mapped[str] = mapped_column(String(64))
    series_instance_uid: Mapped[str] = mapped_column(String(64))

    study: Mapped[Study] = relationship()
    received: Mapped[ReceivedObject] = relationship()

    @property
    def path(self) -> str:
        """The path of the object's file, as for results."""
        return self.received.path

    @property
    def bytes(self) -> int:
        """The size of the object's file."""
        return self.received.bytes

    @property
    def purged(self) -> bool:
        """Whether the object's file was deleted."""
        return self.received.purged


class Delivery(Numbered):
    """One delivery in the outbox: one result, or one original, to one destination."""

    __table_args__ = (
        UniqueConstraint("result_id", "destination", name="uq_delivery_once_per_destination"),
        UniqueConstraint("original_id", "destination", name="uq_delivery_original_once"),
        CheckConstraint("(result_id IS NULL) <> (original_id IS NULL)", name="ck_delivery_one_object"),
        Index("ix_delivery_due", "state", "next_at"),
    )

    result_id: Mapped[int | None] = mapped_column(ForeignKey("result.id"), index=True)
    original_id: Mapped[int | None] = mapped_column(ForeignKey("original.id"))
    destination: Mapped[str] = mapped_column(String(64), index=True)
    state: Mapped[DeliveryState] = mapped_column(default=DeliveryState.PENDING)
    reason: Mapped[str] = mapped_column(Text, default="")
    withdrawn: Mapped[bool] = mapped_column(default=False)  # cancelled only until a job wants it again
    by_hand: Mapped[bool] = mapped_column(default=False)  # a person added it: no rule wants it there
    discarded_because: Mapped[str] = mapped_column(default="")  # a person's words: in no log and no event
    status: Mapped[str] = mapped_column(String(32), default="")  # last DIMSE or HTTP status, as text
    attempts: Mapped[int] = mapped_column(default=0)
    refusals: Mapped[int] = mapped_column(default=0)  # refused for reasons that waiting does not cure
    queries: Mapped[int] = mapped_column(default=0)  # how often confirmation was asked for
    transaction_uid: Mapped[str] = mapped_column(String(64), default="")  # of the Commitment it waits for
    next_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]
    confirmed_at: Mapped[datetime | None]

    result: Mapped[Result | None] = relationship(back_populates="deliveries")
    original: Mapped[Original | None] = relationship()

    @property
    def item(self) -> Result | Original:
        """The object to deliver: a result, or a received original."""
        item = self.result or self.original
        assert item is not None
        return item


class CountedImage(Base):
    """An image that was counted for a model card: each is counted once, however often analysed."""

    card_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"), primary_key=True, index=True)
    day: Mapped[date] = mapped_column(index=True)


class ImageCount(Base):
    """The number of a sender's images that a model analysed or refused on one day (UTC). No patient data."""

    day: Mapped[date] = mapped_column(primary_key=True)
    card_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    calling_ae: Mapped[str] = mapped_column(String(16), primary_key=True)  # "": no configured peer
    outcome: Mapped[Counted] = mapped_column(primary_key=True)
    model: Mapped[str]
    version: Mapped[str]
    images: Mapped[int]


class ScoreCount(Base):
    """The number of counted images with a score in this tenth of the card's reference, by label."""

    day: Mapped[date] = mapped_column(primary_key=True)
    card_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    calling_ae: Mapped[str] = mapped_column(String(16), primary_key=True)
    label: Mapped[str] = mapped_column(primary_key=True)
    bin: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # 0 to 9
    images: Mapped[int]


class CleaningReview(OfStudy, Numbered):
    """An image whose cleaning a person should check; ``verdict`` is NULL until the person decides.

    There is one row for each image, rule and analysis. ``analysis_sha256``: hash of the pipeline, its options
    and all else that shapes the image. ``places``: boxes (left, top, right, bottom) in pixels; right and
    bottom are exclusive. The row never holds the text that was read in the image.
    """

    __table_args__ = (
        UniqueConstraint("instance_id", "rule", "analysis_sha256", name="uq_cleaning_review_once"),
        Index("ix_cleaning_review_waiting", "verdict", "id"),
    )

    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"), index=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), index=True)
    rule: Mapped[str] = mapped_column(String(64))
    analysis_sha256: Mapped[str] = mapped_column(String(64))
    cause: Mapped[ReviewCause]
    note: Mapped[str] = mapped_column(Text)
    places: Mapped[list[list[int]]]
    created_at: Mapped[datetime]
    verdict: Mapped[ReviewVerdict | None]
    decided_at: Mapped[datetime | None]
    decided_by: Mapped[str] = mapped_column(String(64), default="")


class DrawnByHand(Base):
    """Boxes, as in :class:`CleaningReview`, that a person wants removed in addition to the detected
    annotation.

    For these pixels only. ``role``: of the person, for the cleaned image, which must not name staff.
    """

    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"), primary_key=True)
    pixels_sha256: Mapped[str] = mapped_column(String(64))
    boxes: Mapped[list[list[int]]]
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(64))
    role: Mapped[UserRole]


class Fetch(Tried):
    """One requested study; it is fetched once, from whatever peer."""

    __tablename__ = "study_fetch"
    __table_args__ = (Index("ix_study_fetch_due", "state", "peer", "next_at"),)

    peer: Mapped[str] = mapped_column(String(64))
    study_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    rule: Mapped[str] = mapped_column(String(64), default="")  # the only rule that may take it; "": all
    per_minute: Mapped[float] = mapped_column(default=0.0)  # studies a minute that were allowed; 0: no wish
    purpose: Mapped[FetchPurpose] = mapped_column(default=FetchPurpose.ASKED)
    urgent: Mapped[bool] = mapped_column(default=False)  # a study waits for it: before others
    patient_id: Mapped[str] = mapped_column(default="")  # of the answer that named the study
    issuer_of_patient_id: Mapped[str] = mapped_column(default="")  # the same
    patient: Mapped[str] = mapped_column(Text, default="")  # the same: hashes of name, birth date and sex
    state: Mapped[FetchState] = mapped_column(default=FetchState.WAITING)
    reason: Mapped[str] = mapped_column(Text, default="")
    objects: Mapped[int] = mapped_column(default=0)  # that the last try brought
    asked_at: Mapped[datetime]
    started_at: Mapped[datetime | None] = mapped_column(index=True)  # of the last try
    ended_at: Mapped[datetime | None]


class ArchiveQuestion(Tried):
    """A question to a peer for the patient's studies before one revision of a study, for one rule."""

    __table_args__ = (
        UniqueConstraint("study_id", "revision", "rule", name="uq_archive_question_once_per_rule"),
        Index("ix_archive_question_open", "state", "peer"),
    )

    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    revision: Mapped[int]
    rule: Mapped[str] = mapped_column(String(64))
    peer: Mapped[str] = mapped_column(String(64))
    state: Mapped[QuestionState] = mapped_column(default=QuestionState.WAITING)
    until: Mapped[datetime | None]  # a job waits so long; NULL: none waits yet
    priors: Mapped[list[str]] = mapped_column(default=list)  # Study Instance UIDs that are waited for
