"""Studies that are fetched from a peer: what was asked for, and how far it came."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.model.lifecycle import FetchState
from dicom_node.store.tables.base import Base, Id


class Fetch(Base):
    """One study that was asked for; from whatever peer, a study is asked for once."""

    __tablename__ = "study_fetch"
    __table_args__ = (Index("ix_study_fetch_due", "state", "peer", "next_at"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    peer: Mapped[str] = mapped_column(String(64))
    study_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    rule: Mapped[str] = mapped_column(String(64), default="")  # the only rule that may take it; "": all
    per_minute: Mapped[float] = mapped_column(default=0.0)  # studies a minute that were allowed; 0: no wish
    patient_id: Mapped[str] = mapped_column(default="")  # of the answer that named the study
    patient: Mapped[str] = mapped_column(Text, default="")  # the same: hashes of name, birth date and sex
    state: Mapped[FetchState] = mapped_column(default=FetchState.WAITING)
    reason: Mapped[str] = mapped_column(Text, default="")
    attempts: Mapped[int] = mapped_column(default=0)
    objects: Mapped[int] = mapped_column(default=0)  # that the last try brought
    asked_at: Mapped[datetime]
    next_at: Mapped[datetime]  # not before
    started_at: Mapped[datetime | None] = mapped_column(index=True)  # of the last try
    ended_at: Mapped[datetime | None]
