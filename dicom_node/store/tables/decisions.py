"""Persons' decisions, as in their copy outside the database, and results that wait for a decision."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.model.lifecycle import HeldState
from dicom_node.store.tables.base import Base

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

    __tablename__ = "held_result"

    result_id: Mapped[int] = mapped_column(ForeignKey("result.id"), primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), index=True)
    since: Mapped[datetime]
    state: Mapped[HeldState] = mapped_column(default=HeldState.WAITING)
    decided_at: Mapped[datetime | None]
    decided_by: Mapped[str] = mapped_column(String(64), default="")
    because: Mapped[str] = mapped_column(default="")  # a person's words: in no log and no event
