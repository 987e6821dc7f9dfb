"""Waiting and sent notifications: a queue like the outbox."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.model.kinds import NotificationState
from dicom_node.store.tables.base import Base, Id


class Notification(Base):
    """One e-mail or webhook call. Its text is written once; only that text is sent."""

    __tablename__ = "notification"
    __table_args__ = (
        Index("ix_notification_due", "state", "next_at"),
        Index("ix_notification_rule", "rule", "created_at"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    key: Mapped[str] = mapped_column(String(36), unique=True)  # UUID: Message-ID, Idempotency-Key
    rule: Mapped[str] = mapped_column(String(64))  # a [[notifications]] of the settings, by name
    subject: Mapped[str]
    text: Mapped[str] = mapped_column(Text)
    content: Mapped[dict[str, Any]]  # what templates got: of a webhook
    state: Mapped[NotificationState] = mapped_column(default=NotificationState.PENDING)
    reason: Mapped[str] = mapped_column(default="")
    attempts: Mapped[int] = mapped_column(default=0)
    refusals: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    next_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]


class NotifiedEvent(Base):
    """An event that a rule has sent, each once. Events before the rule's cursor are deleted."""

    __tablename__ = "notified_event"

    rule: Mapped[str] = mapped_column(String(64), primary_key=True)
    event_id: Mapped[int] = mapped_column(ForeignKey("event.id"), primary_key=True)
