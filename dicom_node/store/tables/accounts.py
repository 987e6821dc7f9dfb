"""The tables of the console: users with sessions and tokens, the audit, readers' verdicts and withdrawals."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.model.kinds import AuditAction, ReaderVerdict, RejectionReason, RemovalState
from dicom_node.model.roles import UserRole
from dicom_node.store.tables.base import Base, Numbered, Tried


class UserAccount(Numbered):
    """A person who may use the console, with a password here or an account at the hospital's provider."""

    __table_args__ = (UniqueConstraint("issuer", "subject", name="uq_user_account_issuer"),)

    name: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[UserRole]
    password_hash: Mapped[str]  # argon2id, with its salt and parameters; "": none fits
    created_at: Mapped[datetime]
    disabled: Mapped[bool] = mapped_column(default=False)  # signs in nowhere, and its tokens open nothing
    senders: Mapped[list[str]] = mapped_column(default=list)  # AE titles of those it sees; []: all
    issuer: Mapped[str | None] = mapped_column(String(255))  # the provider, which has the password
    subject: Mapped[str | None] = mapped_column(String(255))  # whom it means: names are given again, this not


class UserSession(Numbered):
    """A browser that signed in; only the hash of its cookie is stored."""

    token_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"), index=True)
    created_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    address: Mapped[str] = mapped_column(String(64))
    browser: Mapped[str] = mapped_column(String(64))  # in words
    search: Mapped[dict[str, Any]] = mapped_column(default=dict)  # what no address may hold: a patient's ID


class Withdrawal(Base):
    """A result that a person withdrew: it is not sent any more, and its findings are not shown."""

    result_id: Mapped[int] = mapped_column(ForeignKey("result.id"), primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(64))
    reason: Mapped[RejectionReason]
    because: Mapped[str]  # a person's words: in no log and no event
    note_id: Mapped[int | None] = mapped_column(ForeignKey("result.id"), index=True)  # the rejection note


class Removal(Tried):
    """The deletion of a withdrawn result at a peer with ``withdraw = "delete"`` that has or may have it.

    It has the number of the delivery by which the peer has it.
    """

    id: Mapped[int] = mapped_column("delivery_id", ForeignKey("delivery.id"), primary_key=True)
    state: Mapped[RemovalState] = mapped_column(default=RemovalState.ASKED, index=True)
    ended_at: Mapped[datetime | None]


class ApiToken(Numbered):
    """A program's substitute for a password; only its hash is stored. It has the rights of its user."""

    token_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user_account.id"), index=True)
    purpose: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class AuditRow(Numbered):
    """One action of a person, also a view or a refused action. Append-only; ``fields`` contain no PHI."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_action_at", "action", "at"),
        Index("ix_audit_reported", "reported", "id"),
    )

    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(64))  # a user's name, as it was then
    address: Mapped[str] = mapped_column(String(64), default="")
    action: Mapped[AuditAction]
    study_id: Mapped[int | None] = mapped_column(ForeignKey("study.id"), index=True)
    fields: Mapped[dict[str, Any]] = mapped_column(default=dict)
    reported: Mapped[bool] = mapped_column(default=False)  # the audit record repository has it


class Feedback(Numbered):
    """One person's verdict on one finding of one model; a later one replaces it. It names no patient."""

    __table_args__ = (
        UniqueConstraint(
            "study_id", "actor", "finding", "tracking_uid", "model", "version", name="uq_feedback_once"
        ),
        Index("ix_feedback_model", "model", "version"),
    )

    at: Mapped[datetime] = mapped_column(index=True)
    actor: Mapped[str] = mapped_column(String(64))
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), index=True)
    finding: Mapped[str] = mapped_column(String(64))  # the meaning of its code
    tracking_uid: Mapped[str] = mapped_column(String(64), default="")  # "": of no single place
    decision: Mapped[str] = mapped_column(String(16), default="")  # the AI's decision, "" if it reported none
    verdict: Mapped[ReaderVerdict]
    because: Mapped[str] = mapped_column(default="")  # a person's words: in no log and no event
    report_uid: Mapped[str] = mapped_column(String(64), default="")  # the report that was assessed
    sent_in: Mapped[str] = mapped_column(
        String(64), default=""
    )  # SOP Instance UID of the last object with it
    model: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(64))
    age_group: Mapped[str] = mapped_column(String(64), default="")  # "" also: before version 0032
    sex: Mapped[str] = mapped_column(String(64), default="")
    station: Mapped[str] = mapped_column(String(64), default="")  # that made the images
