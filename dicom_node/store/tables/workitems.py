"""Work items (Unified Procedure Steps) of worklist managers that the node claims."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.model.lifecycle import WorkitemState
from dicom_node.store.tables.base import Base, Id


class ClaimedWorkitem(Base):
    """One work item; written before it is claimed, so that it is claimed under one Transaction UID only."""

    __tablename__ = "claimed_workitem"
    __table_args__ = (
        UniqueConstraint("peer", "workitem_uid", name="uq_claimed_workitem_once"),
        Index("ix_claimed_workitem_due", "peer", "state", "next_at"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    peer: Mapped[str] = mapped_column(String(64))
    workitem_uid: Mapped[str] = mapped_column(String(64))
    transaction_uid: Mapped[str] = mapped_column(String(64))  # the lock of the item: in no event
    study_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    work: Mapped[list[str]] = mapped_column(default=list)  # scheduled codes: "value^scheme^meaning"
    state: Mapped[WorkitemState] = mapped_column(default=WorkitemState.CLAIMING)
    outcome: Mapped[str] = mapped_column(String(16), default="")  # COMPLETED or CANCELED, once decided
    reason: Mapped[str] = mapped_column(default="")
    percent: Mapped[int] = mapped_column(default=0)  # as last reported
    doing: Mapped[str] = mapped_column(default="")  # the same
    fetch_asked: Mapped[bool] = mapped_column(default=False)  # for this item
    cancel_asked: Mapped[bool] = mapped_column(default=False)  # by the manager, for somebody
    attempts: Mapped[int] = mapped_column(default=0)  # calls in a row that failed
    began_at: Mapped[datetime]
    checked_at: Mapped[datetime]  # when the manager last said that it is ours
    decided_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    next_at: Mapped[datetime]
