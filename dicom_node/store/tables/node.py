"""The node's records of itself: events, leases, journals; notifications; persons' decisions."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.model.kinds import NotificationState
from dicom_node.model.lifecycle import HeldState
from dicom_node.store.tables.base import Base, Numbered, Tried


class EventRow(Numbered):
    """One event. Append-only; ``fields`` hold no PHI."""

    __tablename__ = "event"

    at: Mapped[datetime] = mapped_column(index=True)
    number: Mapped[int] = mapped_column(index=True)
    study_id: Mapped[int | None] = mapped_column(ForeignKey("study.id"), index=True)
    fields: Mapped[dict[str, Any]]


class StudyTrace(Base):
    """The trace of a study for OpenTelemetry: its id, and the time until which its spans were sent or
    dropped.
    """

    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), primary_key=True)
    trace_id: Mapped[str] = mapped_column(String(32))  # drawn at random, hexadecimal
    until: Mapped[datetime | None]
    dropped: Mapped[int] = mapped_column(default=0, index=True)  # times that no collector took it


class DiskSample(Base):
    """The free space on the data folder's disk at one time."""

    at: Mapped[datetime] = mapped_column(primary_key=True)
    free_bytes: Mapped[int] = mapped_column(BigInteger)


class Lease(Base):
    """A named right that one process at a time holds, such as ``scheduler``."""

    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64))
    until: Mapped[datetime]


class InstallationRow(Base):
    """The installation that this database belongs to: one row, made with the table."""

    __tablename__ = "installation"

    drawn: Mapped[str] = mapped_column(String(32), primary_key=True)  # at random, hexadecimal


class SiteProcess(Base):
    """One process of a node of the site, with the time of its last sign of life."""

    machine: Mapped[str] = mapped_column(String(64), primary_key=True)  # its host name
    place: Mapped[str] = mapped_column(String(16), primary_key=True)  # "all", "listener-1", "worker-2"
    name: Mapped[str] = mapped_column(String(32), primary_key=True)  # "main", "listener", "worker-1"
    pid: Mapped[int]
    version: Mapped[str] = mapped_column(String(32))
    since: Mapped[datetime]
    seen_at: Mapped[datetime]  # by the clock of the database
    lost: Mapped[bool]  # event 6012 was written


class Cursor(Base):
    """The read position in a journal file."""

    name: Mapped[str] = mapped_column(primary_key=True)
    offset: Mapped[int] = mapped_column(BigInteger)


class Notification(Tried):
    """One e-mail or webhook call. Its text is written once; only that text is sent."""

    __table_args__ = (
        Index("ix_notification_due", "state", "next_at"),
        Index("ix_notification_rule", "rule", "created_at"),
    )

    key: Mapped[str] = mapped_column(String(36), unique=True)  # UUID: Message-ID, Idempotency-Key
    rule: Mapped[str] = mapped_column(String(64))  # a [[notifications]] of the settings, by name
    subject: Mapped[str]
    text: Mapped[str] = mapped_column(Text)
    content: Mapped[dict[str, Any]]  # what templates got: of a webhook
    state: Mapped[NotificationState] = mapped_column(default=NotificationState.PENDING)
    refusals: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]


class NotifiedEvent(Base):
    """An event that a rule has sent, each once. Events before the rule's cursor are deleted."""

    rule: Mapped[str] = mapped_column(String(64), primary_key=True)
    event_id: Mapped[int] = mapped_column(ForeignKey("event.id"), primary_key=True)


_WAITS, _NOT_COPIED = text("applied_at IS NULL"), text("NOT copied")


class DecisionRow(Base):
    """One decision of a person, written in the transaction that carries it out.

    A row without ``applied_at`` came from the copy: the restored database does not contain the decision. If
    it ``holds``, no result of its study is sent until it is applied, or a person has settled it; an empty
    ``study_uid`` holds all studies.
    """

    __tablename__ = "decision"
    __table_args__ = (
        Index("ix_decision_waits", "study_uid", sqlite_where=_WAITS, postgresql_where=_WAITS),
        Index("ix_decision_not_copied", "at", sqlite_where=_NOT_COPIED, postgresql_where=_NOT_COPIED),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    at: Mapped[datetime]
    machine: Mapped[str] = mapped_column(String(64))  # that writes the copy
    action: Mapped[str] = mapped_column(String(16))  # an AuditAction, or FAULT
    study_uid: Mapped[str] = mapped_column(String(64), default="")
    record: Mapped[dict[str, Any]]  # actor, address, fields of the audit; "what": by UIDs; "words": a reason
    copied: Mapped[bool] = mapped_column(default=False)
    holds: Mapped[bool] = mapped_column(default=False)
    applied_at: Mapped[datetime | None]
    waits_for: Mapped[str] = mapped_column(default="")


FAULT = "fault"
"""Action of a row that stands for a line of the copy which somebody changed or cut out."""


class HeldResult(Base):
    """A result of a rule with ``assess_first``. It is sent once a person has accepted it."""

    result_id: Mapped[int] = mapped_column(ForeignKey("result.id"), primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), index=True)
    since: Mapped[datetime]
    state: Mapped[HeldState] = mapped_column(default=HeldState.WAITING)
    decided_at: Mapped[datetime | None]
    decided_by: Mapped[str] = mapped_column(String(64), default="")
    because: Mapped[str] = mapped_column(default="")  # a person's words: in no log and no event
