"""Decisions of persons, as their second copy beside the database has them (``decisions/``)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.store.tables.base import Base

_WAITS, _NOT_COPIED = text("applied_at IS NULL"), text("NOT copied")


class DecisionRow(Base):
    """One decision of a person, written in the transaction that carries it out.

    A row without ``applied_at`` came from the copy: the restored database does not contain the decision.
    Where it ``holds``, no result of its study is sent until it is applied, or a person has settled it; an
    empty ``study_uid`` holds all studies.
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
