"""Storage commitment (PS3.4 Annex J): what was asked for, and reports that wait to be entered."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.model.lifecycle import CommitmentState
from dicom_node.store.tables.base import Base, Id


class Commitment(Base):
    """One request (N-ACTION) to a destination; written before it is sent, so that every report finds it."""

    __tablename__ = "commitment"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    transaction_uid: Mapped[str] = mapped_column(String(64), unique=True)
    destination: Mapped[str] = mapped_column(String(64))
    deliveries: Mapped[list[int]]
    asked_at: Mapped[datetime] = mapped_column(index=True)
    state: Mapped[CommitmentState] = mapped_column(default=CommitmentState.ASKED)


class WaitingReport(Base):
    """A report (N-EVENT-REPORT) that was acknowledged; the outbox enters it and deletes the row."""

    __tablename__ = "waiting_report"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    transaction_uid: Mapped[str] = mapped_column(String(64))
    calling_ae: Mapped[str] = mapped_column(String(16))
    committed: Mapped[list[str]]  # "instance class": UIDs
    failed: Mapped[list[str]]  # "UID reason", the Failure Reason (0008,1197) in hexadecimal
    received_at: Mapped[datetime]
