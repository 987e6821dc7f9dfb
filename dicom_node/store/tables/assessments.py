"""Results that wait until a person has accepted them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.model.lifecycle import HeldState
from dicom_node.store.tables.base import Base


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
