"""The tables of the database, in the order of who writes them.

The tables of the console: users with sessions and tokens, the audit, readers' verdicts and withdrawals.

The node's records of itself: events, leases, journals; notifications; persons' decisions.

What peers ask of the node, or it of them: storage commitment (PS3.4 Annex J), performed procedure steps
(PS3.4 F.7), and work items (Unified Procedure Steps) of worklist managers that the node claims.

Studies in the node: received objects, registered patients, jobs, built objects, the outbox, and what analyses
left.

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
    UniqueConstraint,
    text,
)
from sqlalchemy.ext.associationproxy import AssociationProxy, association_proxy
from sqlalchemy.orm import Mapped, mapped_column, relationship

from dicom_node.base.lifecycle import (
    AssociationOutcome,
    AuditAction,
    CommitmentState,
    DeliveryState,
    FetchPurpose,
    FetchState,
    HeldState,
    JobState,
    NotificationState,
    ObjectRole,
    Outcome,
    QuestionState,
    ReaderVerdict,
    RejectionReason,
    RemovalState,
    RequestedState,
    ResultKind,
    ReviewCause,
    ReviewVerdict,
    StepStatus,
    StudyState,
    UserRole,
    WorkitemState,
)
from dicom_node.base.store.mapping import (
    AeTitle,
    Base,
    Count,
    DicomObjectMixin,
    FileMixin,
    Flag,
    LongText,
    Numbered,
    PersonActionMixin,
    ReceivedFileMixin,
    Sha256,
    ShortText,
    StudyMixin,
    Tried,
    Uid,
)


class UserAccount(Numbered):
    """Table: a person who may use the console, with a password here or an account at the hospital's identity
    provider.
    """

    __table_args__ = (UniqueConstraint("issuer", "subject", name="uq_user_account_issuer"),)

    name: Mapped[ShortText] = mapped_column(unique=True)
    role: Mapped[UserRole]
    password_hash: Mapped[str]  # argon2id, with its salt and parameters; "": none fits
    created_at: Mapped[datetime]
    disabled: Mapped[Flag]  # signs in nowhere, and its tokens open nothing
    senders: Mapped[list[str]] = mapped_column(default=list)  # AE titles of those it sees; []: all
    issuer: Mapped[str | None]  # the provider, which has the password
    subject: Mapped[str | None]  # whom it means: names are given again, this not


class UserSession(Numbered):
    """Table: a browser that is signed in to the console; only the hash of its cookie is stored."""

    token_sha256: Mapped[Sha256] = mapped_column(unique=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"), index=True)
    created_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    address: Mapped[ShortText]
    browser: Mapped[ShortText]  # in words
    search: Mapped[dict[str, Any]] = mapped_column(default=dict)  # what no address may hold: a patient's ID


class Withdrawal(PersonActionMixin, Base):
    """Table: a result that a person withdrew; it is not sent any more, and its findings are not shown."""

    result_id: Mapped[int] = mapped_column(ForeignKey("result.id"), primary_key=True)
    reason: Mapped[RejectionReason]
    because: Mapped[str]  # a person's words: in no log and no event
    note_id: Mapped[int | None] = mapped_column(ForeignKey("result.id"), index=True)  # the rejection note


class Removal(Tried):
    """Table: the deletion of a withdrawn result at a peer with ``withdraw = "delete"`` that has or may have
    it.

    Its key is the id of the delivery that brought the result to the peer.
    """

    id: Mapped[int] = mapped_column("delivery_id", ForeignKey("delivery.id"), primary_key=True)
    state: Mapped[RemovalState] = mapped_column(default=RemovalState.ASKED, index=True)
    ended_at: Mapped[datetime | None]


class ApiToken(Numbered):
    """Table: a token that a program uses instead of a user's password, with that user's rights; only its hash
    is stored.
    """

    token_sha256: Mapped[Sha256] = mapped_column(unique=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"), index=True)
    purpose: Mapped[ShortText]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class AuditRow(PersonActionMixin, Numbered):
    """Table: one action of a person or of the node, also a view or a refused action. Append-only; ``fields``
    contain no PHI.
    """

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_action_at", "action", "at"),
        Index("ix_audit_reported", "reported", "id"),
    )

    address: Mapped[ShortText] = mapped_column(default="")
    action: Mapped[AuditAction]
    study_id: Mapped[int | None] = mapped_column(ForeignKey("study.id"), index=True)
    fields: Mapped[dict[str, Any]] = mapped_column(default=dict)
    reported: Mapped[Flag]  # the audit record repository has it


class Feedback(StudyMixin, Numbered):
    """Table: one person's verdict on one finding of one model; a later one replaces it. It names no
    patient.
    """

    __table_args__ = (
        UniqueConstraint(
            "study_id", "actor", "finding", "tracking_uid", "model", "version", name="uq_feedback_once"
        ),
        Index("ix_feedback_model", "model", "version"),
    )

    at: Mapped[datetime] = mapped_column(index=True)
    actor: Mapped[ShortText]
    finding: Mapped[ShortText]  # the meaning of its code
    tracking_uid: Mapped[Uid] = mapped_column(default="")  # "": of no single place
    decision: Mapped[str] = mapped_column(String(16), default="")  # the AI's decision, "" if it reported none
    verdict: Mapped[ReaderVerdict]
    because: Mapped[str] = mapped_column(default="")  # a person's words: in no log and no event
    report_uid: Mapped[Uid] = mapped_column(default="")  # the report that was assessed
    sent_in: Mapped[Uid] = mapped_column(default="")  # SOP Instance UID of the last object with it
    model: Mapped[ShortText]
    version: Mapped[ShortText]


class EventRow(Numbered):
    """Table: one event of the node. Append-only; ``fields`` contain no PHI."""

    __tablename__ = "event"

    at: Mapped[datetime] = mapped_column(index=True)
    number: Mapped[int] = mapped_column(index=True)
    study_id: Mapped[int | None] = mapped_column(ForeignKey("study.id"), index=True)
    fields: Mapped[dict[str, Any]]


class StudyTrace(Base):
    """Table: the OpenTelemetry trace of a study: its id, and the time until which its spans were sent or
    dropped.
    """

    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), primary_key=True)
    trace_id: Mapped[str] = mapped_column(String(32))  # drawn at random, hexadecimal
    until: Mapped[datetime | None]
    dropped: Mapped[Count] = mapped_column(index=True)  # times that no collector took it


class DiskSample(Base):
    """Table: the free space on the data folder's disk at one time."""

    at: Mapped[datetime] = mapped_column(primary_key=True)
    free_bytes: Mapped[int] = mapped_column(BigInteger)


class Lease(Base):
    """Table: a named right that one process at a time has, such as ``scheduler``."""

    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    owner: Mapped[ShortText]
    until: Mapped[datetime]


class InstallationRow(Base):
    """Table: the random text that identifies this installation; one row, created with the table."""

    __tablename__ = "installation"

    drawn: Mapped[str] = mapped_column(String(32), primary_key=True)  # at random, hexadecimal


class SiteProcess(Base):
    """Table: one process of a node of the site, with the time of its last sign of life."""

    machine: Mapped[ShortText] = mapped_column(primary_key=True)  # its host name
    place: Mapped[str] = mapped_column(String(16), primary_key=True)  # "all", "listener-1", "worker-2"
    name: Mapped[str] = mapped_column(String(32), primary_key=True)  # "main", "listener", "worker-1"
    pid: Mapped[int]
    version: Mapped[str] = mapped_column(String(32))
    since: Mapped[datetime]
    seen_at: Mapped[datetime]  # by the clock of the database
    lost: Mapped[bool]  # event 6012 was written


class Cursor(Base):
    """Table: the position up to which a journal file was read."""

    name: Mapped[str] = mapped_column(primary_key=True)
    offset: Mapped[int] = mapped_column(BigInteger)


class Notification(Tried):
    """Table: one e-mail or webhook call. Its text is written once, and only that text is sent."""

    __table_args__ = (
        Index("ix_notification_due", "state", "next_at"),
        Index("ix_notification_rule", "rule", "created_at"),
    )

    key: Mapped[str] = mapped_column(String(36), unique=True)  # UUID: Message-ID, Idempotency-Key
    rule: Mapped[ShortText]  # a [[notifications]] of the settings, by name
    subject: Mapped[str]
    text: Mapped[LongText]
    content: Mapped[dict[str, Any]]  # what templates got: of a webhook
    state: Mapped[NotificationState] = mapped_column(default=NotificationState.PENDING)
    refusals: Mapped[Count]
    created_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]


class NotifiedEvent(Base):
    """Table: an event that a notification rule has processed, so that it is sent once. Rows before the rule's
    cursor are deleted.
    """

    rule: Mapped[ShortText] = mapped_column(primary_key=True)
    event_id: Mapped[int] = mapped_column(ForeignKey("event.id"), primary_key=True)


_NOT_APPLIED, _NOT_COPIED = text("applied_at IS NULL"), text("NOT copied")


class DecisionRow(Base):
    """Table: one decision of a person, written in the transaction that carries it out.

    A row without ``applied_at`` was read from the backup copy: the restored database does not contain the
    decision. If ``holds`` is set, no result of its study is sent until it is applied or a person has settled
    it; an empty ``study_uid`` stops all studies.
    """

    __tablename__ = "decision"
    __table_args__ = (
        Index("ix_decision_waits", "study_uid", sqlite_where=_NOT_APPLIED, postgresql_where=_NOT_APPLIED),
        Index("ix_decision_not_copied", "at", sqlite_where=_NOT_COPIED, postgresql_where=_NOT_COPIED),
    )

    id: Mapped[ShortText] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    machine: Mapped[ShortText]  # that writes the copy
    action: Mapped[str] = mapped_column(String(16))  # an AuditAction, or FAULT
    study_uid: Mapped[Uid] = mapped_column(default="")
    record: Mapped[dict[str, Any]]  # actor, address, fields of the audit; "what": by UIDs; "words": a reason
    copied: Mapped[Flag]
    holds: Mapped[Flag]
    applied_at: Mapped[datetime | None]
    waits_for: Mapped[str] = mapped_column(default="")


FAULT = "fault"
"""Action of a row that stands for a line of the copy which somebody changed or cut out."""


class HeldResult(StudyMixin, Base):
    """Table: a result of a rule with ``assess_first``, which is sent only once a person has accepted it."""

    result_id: Mapped[int] = mapped_column(ForeignKey("result.id"), primary_key=True)
    since: Mapped[datetime]
    state: Mapped[HeldState] = mapped_column(default=HeldState.WAITING)
    decided_at: Mapped[datetime | None]
    decided_by: Mapped[ShortText] = mapped_column(default="")
    because: Mapped[str] = mapped_column(default="")  # a person's words: in no log and no event


class Commitment(Numbered):
    """Table: one storage commitment request (N-ACTION) to a destination; stored before it is sent, so that
    every report finds it.
    """

    transaction_uid: Mapped[Uid] = mapped_column(unique=True)
    destination: Mapped[ShortText]
    deliveries: Mapped[list[int]]
    asked_at: Mapped[datetime] = mapped_column(index=True)
    state: Mapped[CommitmentState] = mapped_column(default=CommitmentState.ASKED)


class WaitingReport(Numbered):
    """Table: a storage commitment report (N-EVENT-REPORT) that was acknowledged; the outbox processes it and
    deletes the row.
    """

    transaction_uid: Mapped[Uid]
    calling_ae: Mapped[AeTitle]
    committed: Mapped[list[str]]  # "instance class": UIDs
    failed: Mapped[list[str]]  # "UID reason", the Failure Reason (0008,1197) in hexadecimal
    received_at: Mapped[datetime]


class RequestedCommitment(Tried):
    """Table: one storage commitment request (N-ACTION) of a peer with ``commit_after``, until the peer has
    the node's report.
    """

    __table_args__ = (
        UniqueConstraint("peer", "transaction_uid", name="uq_requested_commitment_once"),
        Index("ix_requested_commitment_due", "peer", "state", "next_at"),
    )

    peer: Mapped[ShortText]
    calling_ae: Mapped[AeTitle]
    transaction_uid: Mapped[Uid]
    objects: Mapped[list[str]]  # "instance class": UIDs
    failed: Mapped[list[str]] = mapped_column(default=list)  # "UID reason", in hexadecimal; once decided
    state: Mapped[RequestedState] = mapped_column(default=RequestedState.WAITING)
    asked_at: Mapped[datetime] = mapped_column(index=True)
    decided_at: Mapped[datetime | None]


class PerformedStep(Numbered):
    """Table: one MPPS step (performed procedure step), as last reported. It contains no patient data."""

    sop_instance_uid: Mapped[Uid] = mapped_column(unique=True)
    peer: Mapped[ShortText]
    calling_ae: Mapped[AeTitle]
    status: Mapped[StepStatus]
    number: Mapped[int]  # of its last report: journals of several listeners are read in any order
    begun_at: Mapped[datetime]  # when its first report came
    changed_at: Mapped[datetime] = mapped_column(index=True)  # when its last one came
    ended_at: Mapped[datetime | None]  # when it was COMPLETED or DISCONTINUED


class StepStudy(Base):
    """Table: a study that an MPPS step belongs to; the study may arrive later, or never."""

    step_id: Mapped[int] = mapped_column(
        ForeignKey("performed_step.id", ondelete="CASCADE"), primary_key=True
    )
    study_instance_uid: Mapped[Uid] = mapped_column(primary_key=True, index=True)


class StepObject(Base):
    """Table: an object that an MPPS step refers to."""

    step_id: Mapped[int] = mapped_column(
        ForeignKey("performed_step.id", ondelete="CASCADE"), primary_key=True
    )
    sop_instance_uid: Mapped[Uid] = mapped_column(primary_key=True)


class ClaimedWorkitem(Tried):
    """Table: a UPS work item that the node claims, with the Transaction UID of the claim.

    The row is stored before the claim is sent, so that a repeated claim uses the same Transaction UID.
    """

    __table_args__ = (
        UniqueConstraint("peer", "workitem_uid", name="uq_claimed_workitem_once"),
        Index("ix_claimed_workitem_due", "peer", "state", "next_at"),
    )

    peer: Mapped[ShortText]
    workitem_uid: Mapped[Uid]
    transaction_uid: Mapped[Uid]  # the lock of the item: in no event
    study_instance_uid: Mapped[Uid] = mapped_column(index=True)
    work: Mapped[list[str]] = mapped_column(default=list)  # scheduled codes: "value^scheme^meaning"
    state: Mapped[WorkitemState] = mapped_column(default=WorkitemState.CLAIMING)
    outcome: Mapped[str] = mapped_column(String(16), default="")  # COMPLETED or CANCELED, once decided
    percent: Mapped[Count]  # as last reported
    doing: Mapped[str] = mapped_column(default="")  # the same
    fetch_asked: Mapped[Flag]  # for this item
    cancel_asked: Mapped[Flag]  # by the manager, for somebody
    began_at: Mapped[datetime]
    checked_at: Mapped[datetime]  # when the manager last said that it is ours
    decided_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


_WAITS = text("sha256 = ''")
_BEGINS = "text_pattern_ops"  # in every locale an index finds how texts begin


class Study(Numbered):
    """Table: one study as assembled by this node. ``study_instance_uid`` is NULL for quarantined objects
    without one.
    """

    __table_args__ = (  # the orders and searches of lists
        Index("ix_study_received", "last_received_at", "id"),
        Index("ix_study_date", "study_date", "id"),
        Index("ix_study_patient", "patient_id", postgresql_ops={"patient_id": _BEGINS}),
        Index("ix_study_accession", "accession_number", postgresql_ops={"accession_number": _BEGINS}),
    )

    study_instance_uid: Mapped[Uid | None] = mapped_column(unique=True)
    patient_id: Mapped[str] = mapped_column(default="")
    issuer_of_patient_id: Mapped[str] = mapped_column(default="")
    accession_number: Mapped[str] = mapped_column(String(16), default="")
    study_date: Mapped[str] = mapped_column(String(8), default="")
    state: Mapped[StudyState] = mapped_column(default=StudyState.RECEIVING, index=True)
    reason: Mapped[LongText] = mapped_column(default="")
    revision: Mapped[int] = mapped_column(default=1)  # raised by late objects and changed demographics
    first_received_at: Mapped[datetime]
    last_received_at: Mapped[datetime]
    due_at: Mapped[datetime | None] = mapped_column(index=True)  # when quiet; NULL when not receiving
    priority: Mapped[int] = mapped_column(default=0)  # 1 STAT, 0 routine, -1 low
    sealed_name: Mapped[bytes] = mapped_column(LargeBinary, default=b"")  # opened by ``sitekey``


class StudyName(Base):
    """Table: a keyed hash of a word of the patient's name, or of its beginning, by which studies are found
    (``sitekey``).
    """

    __table_args__ = (Index("ix_study_name_word", "word", "study_id"),)

    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), primary_key=True)
    word: Mapped[str] = mapped_column(String(32), primary_key=True)


class RegisteredPatient(Numbered):
    """Table: a patient whom a person registered, chosen at uploads. The ID stands here as that of a study
    does; name, birth date and sex are sealed (``sitekey``).
    """

    __table_args__ = (
        UniqueConstraint("patient_id", "issuer_of_patient_id", name="uq_registered_patient_id"),
        # A page that is still open names a patient by number: that of a removed one stands for nobody else.
        {"sqlite_autoincrement": True},
    )

    patient_id: Mapped[ShortText]
    issuer_of_patient_id: Mapped[ShortText]
    patient: Mapped[LongText]  # model.identity.Patient: hashes of what is registered
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    registered_at: Mapped[datetime]
    registered_by: Mapped[ShortText]
    changed_at: Mapped[datetime]


class Instance(DicomObjectMixin, ReceivedFileMixin, StudyMixin, Numbered):
    """Table: the current version of a SOP instance; every version received is a :class:`ReceivedObject`."""

    __table_args__ = (  # studies by what their images are, and by who sent them
        Index("ix_instance_modality", "modality", "study_id", "role"),
        Index("ix_instance_sender", "calling_ae", "study_id", "role"),
    )

    sop_instance_uid: Mapped[Uid] = mapped_column(unique=True)
    transfer_syntax_uid: Mapped[Uid]
    modality: Mapped[str] = mapped_column(String(16), default="")
    role: Mapped[ObjectRole]
    pixels_sha256: Mapped[Sha256] = mapped_column(default="")  # of the Pixel Data value as received
    identity_sha256: Mapped[Sha256]  # of patient and study attributes
    header_sha256: Mapped[Sha256] = mapped_column(default="")  # receive.inspection
    patient: Mapped[LongText] = mapped_column(default="")  # model.identity.Patient: hashes of what it says
    attributes: Mapped[dict[str, Any]]  # keyword -> text of what rules may ask for; no name, no ID
    assumed_charset: Mapped[str] = mapped_column(default="")  # of its texts, where it names none itself
    revision: Mapped[int] = mapped_column(default=1)  # the study revision in which it came


class ReceivedObject(ReceivedFileMixin, Numbered):
    """Table: every object that was acknowledged, with what became of it. Append-only."""

    __table_args__ = (
        Index("ix_received_object_sender", "calling_ae", "received_at"),
        # Few: what waits for the object store.
        Index("ix_received_object_waits", "id", sqlite_where=_WAITS, postgresql_where=_WAITS),
    )

    spool_name: Mapped[str] = mapped_column(unique=True)  # indexed once, also after a crash
    sha256: Mapped[Sha256 | None]  # of a file in the object store; "": it waits
    dataset_sha256: Mapped[Sha256] = mapped_column(default="")  # as received; "": not readable
    study_id: Mapped[int | None] = mapped_column(ForeignKey("study.id"), index=True)
    sop_instance_uid: Mapped[Uid] = mapped_column(default="", index=True)
    outcome: Mapped[Outcome]
    reason: Mapped[LongText] = mapped_column(default="")
    association: Mapped[ShortText] = mapped_column(index=True)


class Association(Base):
    """Table: one association, from the listener's journal; while it is open, the studies that it brings are
    not complete.
    """

    id: Mapped[ShortText] = mapped_column(primary_key=True)
    listener: Mapped[ShortText] = mapped_column(index=True)
    calling_ae: Mapped[AeTitle]
    called_ae: Mapped[AeTitle]
    address: Mapped[str]
    opened_at: Mapped[datetime] = mapped_column(index=True)
    closed_at: Mapped[datetime | None] = mapped_column(index=True)
    outcome: Mapped[AssociationOutcome] = mapped_column(default=AssociationOutcome.OPEN)
    objects: Mapped[Count]
    refused: Mapped[list[str]] = mapped_column(default=list)  # presentation contexts, in words
    refused_count: Mapped[Count]  # also of those that are not named
    reason: Mapped[LongText] = mapped_column(default="")  # why it was not released


RECORDS = "result.json"
"""Key of ``Job.scores`` for texts that programs left; they may name the patient."""


class Job(StudyMixin, Numbered):
    """Table: one run of one rule's pipeline on one revision of a study."""

    __table_args__ = (
        UniqueConstraint("study_id", "study_revision", "rule", name="uq_job_once_per_rule"),
        Index("ix_job_claim", "state", "priority", "run_at"),
    )

    study_revision: Mapped[int]
    rule: Mapped[ShortText]
    pipeline: Mapped[ShortText]
    options: Mapped[dict[str, Any]] = mapped_column(default=dict)
    destinations: Mapped[list[str]]
    source_uids: Mapped[list[str]]  # SOP Instance UIDs that the rule matched, ordered
    priority: Mapped[int] = mapped_column(default=0)
    assess_first: Mapped[Flag]  # of its rule: results wait for a person
    state: Mapped[JobState] = mapped_column(default=JobState.QUEUED)
    reason: Mapped[LongText] = mapped_column(default="")
    attempts: Mapped[Count]  # the fence: only the newest attempt may finish it
    tries: Mapped[Count]  # attempts that count: not those handed back; 0 by hand
    run_at: Mapped[datetime]  # not before: set after a failed try, and while earlier studies are awaited
    # The earliest goes first (jobs/queue.py); without estimated work when it is due.
    turn_at: Mapped[datetime] = mapped_column(default=lambda made: made.get_current_parameters()["run_at"])
    cost_seconds: Mapped[float] = mapped_column(default=1.0)  # estimated work
    ticket: Mapped[int | None] = mapped_column(BigInteger)  # its number in procrastinate_jobs (PostgreSQL)
    lease_owner: Mapped[ShortText] = mapped_column(default="")
    lease_until: Mapped[datetime | None] = mapped_column(index=True)
    cancel_requested: Mapped[Flag]
    share_done: Mapped[float] = mapped_column(default=0.0)  # 0 to 1
    doing: Mapped[str] = mapped_column(default="")
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    analysed_at: Mapped[datetime | None]  # set once, when the job first succeeds
    models: Mapped[list[str]] = mapped_column(default=list)  # id@version of those that its results are of
    # Of a picture that a person tries: the score (0 to 1) of each label, by id@version of its model; a key
    # "unsure" says that the model was unsure of it. Of programs: what each left in result.json, as texts, by
    # RECORDS. It is erased with the study.
    scores: Mapped[dict[str, Any] | None]

    study: Mapped[Study] = relationship()


class Result(DicomObjectMixin, FileMixin, StudyMixin, Numbered):
    """Table: one DICOM object that the node built. Its bytes are built once, and only those bytes are
    sent.
    """

    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), index=True)
    kind: Mapped[ResultKind]
    sop_instance_uid: Mapped[Uid] = mapped_column(unique=True)
    sha256: Mapped[Sha256]
    supersedes: Mapped[Uid] = mapped_column(default="")
    short_result: Mapped[LongText] = mapped_column(default="")  # the lines of a report, for lists
    deidentified: Mapped[Flag]  # for de-identified destinations only
    pseudonym_domain: Mapped[ShortText] = mapped_column(default="")  # and of these for this one only
    created_at: Mapped[datetime]
    # Its study was corrected or in quarantine since a job wanted it: it leaves when a job wants it again.
    outdated: Mapped[Flag]

    study: Mapped[Study] = relationship()
    job: Mapped[Job] = relationship()
    deliveries: Mapped[list[Delivery]] = relationship(back_populates="result", order_by="Delivery.id")


class ReportedFinding(StudyMixin, Base):
    """Table: a finding that a report suspects, until the report is replaced or withdrawn."""

    __table_args__ = (Index("ix_reported_finding_name", "finding", "study_id"),)

    result_id: Mapped[int] = mapped_column(ForeignKey("result.id"), primary_key=True)
    finding: Mapped[ShortText] = mapped_column(primary_key=True)  # the meaning of its code


class Original(DicomObjectMixin, StudyMixin, Numbered):
    """Table: a version of a received object that rules forward with its bytes unchanged."""

    received_id: Mapped[int] = mapped_column(ForeignKey("received_object.id"), index=True)  # its file
    sop_instance_uid: Mapped[Uid] = mapped_column(index=True)  # several versions may have it

    study: Mapped[Study] = relationship()
    received: Mapped[ReceivedObject] = relationship()

    path: AssociationProxy[str] = association_proxy("received", "path")
    bytes: AssociationProxy[int] = association_proxy("received", "bytes")
    purged: AssociationProxy[bool] = association_proxy("received", "purged")


class Delivery(Numbered):
    """Table: one delivery in the outbox, of one result or one received object to one destination."""

    __table_args__ = (
        UniqueConstraint("result_id", "destination", name="uq_delivery_once_per_destination"),
        UniqueConstraint("original_id", "destination", name="uq_delivery_original_once"),
        CheckConstraint("(result_id IS NULL) <> (original_id IS NULL)", name="ck_delivery_one_object"),
        Index("ix_delivery_due", "state", "next_at"),
    )

    result_id: Mapped[int | None] = mapped_column(ForeignKey("result.id"), index=True)
    original_id: Mapped[int | None] = mapped_column(ForeignKey("original.id"))
    destination: Mapped[ShortText] = mapped_column(index=True)
    state: Mapped[DeliveryState] = mapped_column(default=DeliveryState.PENDING)
    reason: Mapped[LongText] = mapped_column(default="")
    withdrawn: Mapped[Flag]  # cancelled only until a job wants it again
    by_hand: Mapped[Flag]  # a person added it: no rule wants it there
    discarded_because: Mapped[str] = mapped_column(default="")  # a person's words: in no log and no event
    status: Mapped[str] = mapped_column(String(32), default="")  # last DIMSE or HTTP status, as text
    attempts: Mapped[Count]
    refusals: Mapped[Count]  # refused for reasons that waiting does not cure
    queries: Mapped[Count]  # how often confirmation was asked for
    transaction_uid: Mapped[Uid] = mapped_column(default="")  # of the Commitment it waits for
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
    """Table: an image that was counted in a model's statistics, so that it is counted once however often it
    is analysed.
    """

    card_sha256: Mapped[Sha256] = mapped_column(primary_key=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"), primary_key=True, index=True)
    day: Mapped[date] = mapped_column(index=True)


class ModelCount(Base):
    """Table: the number of a sender's images on one day (UTC) with one outcome of a model, or with a label's
    score in one tenth of the reference distribution in the model card (the file with the model's figures). No
    patient data.
    """

    day: Mapped[date] = mapped_column(primary_key=True)
    card_sha256: Mapped[Sha256] = mapped_column(primary_key=True)
    calling_ae: Mapped[AeTitle] = mapped_column(primary_key=True)  # "": no configured peer
    what: Mapped[str] = mapped_column(primary_key=True)  # the label, or the outcome (bin -1)
    bin: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # 0 to 9
    model: Mapped[str]
    version: Mapped[str]
    images: Mapped[int]


class CleaningReview(StudyMixin, Numbered):
    """Table: an image in which a person should check the removal of burned-in text; ``verdict`` is NULL until
    the person decides.

    There is one row for each image, rule and analysis. ``analysis_sha256``: hash of the pipeline, its options
    and all else that shapes the image. ``places``: boxes (left, top, right, bottom) in pixels; right and
    bottom are exclusive. The row never contains the text that was read in the image.
    """

    __table_args__ = (
        UniqueConstraint("instance_id", "rule", "analysis_sha256", name="uq_cleaning_review_once"),
        Index("ix_cleaning_review_waiting", "verdict", "id"),
    )

    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"), index=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), index=True)
    rule: Mapped[ShortText]
    analysis_sha256: Mapped[Sha256]
    cause: Mapped[ReviewCause]
    note: Mapped[LongText]
    places: Mapped[list[list[int]]]
    created_at: Mapped[datetime]
    verdict: Mapped[ReviewVerdict | None]
    decided_at: Mapped[datetime | None]
    decided_by: Mapped[ShortText] = mapped_column(default="")


class LearntScreen(Numbered):
    """Table: what was counted of the screen of one device (``ai_pipeline.burnin.screens``). ``name``: of the
    device and of its rule, the same on every node; ``device``: the conditions of that rule, which hold the
    picture's size; ``patients``: at least so many were counted. No row names a patient or a study.
    """

    name: Mapped[ShortText] = mapped_column(unique=True)
    device: Mapped[dict[str, Any]]
    patients: Mapped[int]
    counted: Mapped[bytes] = mapped_column(LargeBinary)
    changed_at: Mapped[datetime]


class DrawnByHand(PersonActionMixin, Base):
    """Table: boxes, as in :class:`CleaningReview`, that a person wants removed in addition to the detected
    text.

    They apply to these pixels only. ``role``: the person's role, for the cleaned image, which must not name
    staff.
    """

    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"), primary_key=True)
    pixels_sha256: Mapped[Sha256]
    boxes: Mapped[list[list[int]]]
    role: Mapped[UserRole]


class Fetch(Tried):
    """Table: a study requested from a peer; it is fetched once, even if several peers have it."""

    __tablename__ = "study_fetch"
    __table_args__ = (Index("ix_study_fetch_due", "state", "peer", "next_at"),)

    peer: Mapped[ShortText]
    study_instance_uid: Mapped[Uid] = mapped_column(unique=True)
    rule: Mapped[ShortText] = mapped_column(default="")  # the only rule that may take it; "": all
    per_minute: Mapped[float] = mapped_column(default=0.0)  # studies a minute that were allowed; 0: no wish
    purpose: Mapped[FetchPurpose] = mapped_column(default=FetchPurpose.ASKED)
    urgent: Mapped[Flag]  # a study waits for it: before others
    patient_id: Mapped[str] = mapped_column(default="")  # of the answer that named the study
    issuer_of_patient_id: Mapped[str] = mapped_column(default="")  # the same
    patient: Mapped[LongText] = mapped_column(default="")  # the same: hashes of name, birth date and sex
    state: Mapped[FetchState] = mapped_column(default=FetchState.WAITING)
    reason: Mapped[LongText] = mapped_column(default="")
    objects: Mapped[Count]  # that the last try brought
    asked_at: Mapped[datetime]
    started_at: Mapped[datetime | None] = mapped_column(index=True)  # of the last try
    ended_at: Mapped[datetime | None]


class ArchiveQuestion(Tried):
    """Table: a query to a peer for the patient's studies before one revision of a study, on behalf of one
    rule.
    """

    __table_args__ = (
        UniqueConstraint("study_id", "revision", "rule", name="uq_archive_question_once_per_rule"),
        Index("ix_archive_question_open", "state", "peer"),
    )

    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    revision: Mapped[int]
    rule: Mapped[ShortText]
    peer: Mapped[ShortText]
    state: Mapped[QuestionState] = mapped_column(default=QuestionState.WAITING)
    until: Mapped[datetime | None]  # a job waits so long; NULL: none waits yet
    priors: Mapped[list[str]] = mapped_column(default=list)  # Study Instance UIDs that are waited for
