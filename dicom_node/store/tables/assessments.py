"""Results that wait until a person has accepted them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.model.kinds import HoldVerdict
from dicom_node.store.tables.base import Base


class HeldResult(Base):
    """A result of a rule with ``assess_first``. Without a verdict, or rejected, it is sent nowhere."""

    __tablename__ = "held_result"

    result_id: Mapped[int] = mapped_column(ForeignKey("result.id"), primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), index=True)
    since: Mapped[datetime]
    overdue: Mapped[bool] = mapped_column(default=False)  # event 4041 told of it
    verdict: Mapped[HoldVerdict | None]
    decided_at: Mapped[datetime | None]
    decided_by: Mapped[str] = mapped_column(String(64), default="")
    because: Mapped[str] = mapped_column(default="")  # a person's words: in no log and no event
