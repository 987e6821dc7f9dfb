"""What peers ask of the node, or it of them: storage commitment (PS3.4 Annex J), performed procedure steps
(PS3.4 F.7), and work items (Unified Procedure Steps) of worklist managers that the node claims.
"""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.model.kinds import StepStatus
from dicom_node.model.lifecycle import CommitmentState, RequestedState, WorkitemState
from dicom_node.store.tables.base import Base, Numbered, Tried


class Commitment(Numbered):
    """One request (N-ACTION) to a destination; stored before it is sent, so that every report finds it."""

    transaction_uid: Mapped[str] = mapped_column(String(64), unique=True)
    destination: Mapped[str] = mapped_column(String(64))
    deliveries: Mapped[list[int]]
    asked_at: Mapped[datetime] = mapped_column(index=True)
    state: Mapped[CommitmentState] = mapped_column(default=CommitmentState.ASKED)


class WaitingReport(Numbered):
    """A report (N-EVENT-REPORT) that was acknowledged; the outbox processes it and deletes the row."""

    transaction_uid: Mapped[str] = mapped_column(String(64))
    calling_ae: Mapped[str] = mapped_column(String(16))
    committed: Mapped[list[str]]  # "instance class": UIDs
    failed: Mapped[list[str]]  # "UID reason", the Failure Reason (0008,1197) in hexadecimal
    received_at: Mapped[datetime]


class RequestedCommitment(Tried):
    """One request (N-ACTION) of a peer with ``commit_after``, until it has our report."""

    __table_args__ = (
        UniqueConstraint("peer", "transaction_uid", name="uq_requested_commitment_once"),
        Index("ix_requested_commitment_due", "peer", "state", "next_at"),
    )

    peer: Mapped[str] = mapped_column(String(64))
    calling_ae: Mapped[str] = mapped_column(String(16))
    transaction_uid: Mapped[str] = mapped_column(String(64))
    objects: Mapped[list[str]]  # "instance class": UIDs
    failed: Mapped[list[str]] = mapped_column(default=list)  # "UID reason", in hexadecimal; once decided
    state: Mapped[RequestedState] = mapped_column(default=RequestedState.WAITING)
    asked_at: Mapped[datetime] = mapped_column(index=True)
    decided_at: Mapped[datetime | None]


class PerformedStep(Numbered):
    """One step, from its last report. It contains no patient data."""

    sop_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    peer: Mapped[str] = mapped_column(String(64))
    calling_ae: Mapped[str] = mapped_column(String(16))
    status: Mapped[StepStatus]
    number: Mapped[int]  # of its last report: journals of several listeners are read in any order
    begun_at: Mapped[datetime]  # when its first report came
    changed_at: Mapped[datetime] = mapped_column(index=True)  # when its last one came
    ended_at: Mapped[datetime | None]  # when it was COMPLETED or DISCONTINUED


class StepStudy(Base):
    """A study that a step belongs to; the study may arrive later, or never."""

    step_id: Mapped[int] = mapped_column(
        ForeignKey("performed_step.id", ondelete="CASCADE"), primary_key=True
    )
    study_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)


class StepObject(Base):
    """An object that a step refers to."""

    step_id: Mapped[int] = mapped_column(
        ForeignKey("performed_step.id", ondelete="CASCADE"), primary_key=True
    )
    sop_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True)


class ClaimedWorkitem(Tried):
    """One work item; written before it is claimed, so that it is claimed under one Transaction UID only."""

    __table_args__ = (
        UniqueConstraint("peer", "workitem_uid", name="uq_claimed_workitem_once"),
        Index("ix_claimed_workitem_due", "peer", "state", "next_at"),
    )

    peer: Mapped[str] = mapped_column(String(64))
    workitem_uid: Mapped[str] = mapped_column(String(64))
    transaction_uid: Mapped[str] = mapped_column(String(64))  # the lock of the item: in no event
    study_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    work: Mapped[list[str]] = mapped_column(default=list)  # scheduled codes: "value^scheme^meaning"
    state: Mapped[WorkitemState] = mapped_column(default=WorkitemState.CLAIMING)
    outcome: Mapped[str] = mapped_column(String(16), default="")  # COMPLETED or CANCELED, once decided
    percent: Mapped[int] = mapped_column(default=0)  # as last reported
    doing: Mapped[str] = mapped_column(default="")  # the same
    fetch_asked: Mapped[bool] = mapped_column(default=False)  # for this item
    cancel_asked: Mapped[bool] = mapped_column(default=False)  # by the manager, for somebody
    began_at: Mapped[datetime]
    checked_at: Mapped[datetime]  # when the manager last said that it is ours
    decided_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
