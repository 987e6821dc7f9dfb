"""Studies that are fetched from a peer, and questions to a peer about a study that is being received."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.model.kinds import FetchPurpose, QuestionKind
from dicom_node.model.lifecycle import FetchState
from dicom_node.store.tables.base import Base, Id


class Fetch(Base):
    """One requested study; it is fetched once, from whatever peer."""

    __tablename__ = "study_fetch"
    __table_args__ = (Index("ix_study_fetch_due", "state", "peer", "next_at"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    peer: Mapped[str] = mapped_column(String(64))
    study_instance_uid: Mapped[str] = mapped_column(String(64), unique=True)
    rule: Mapped[str] = mapped_column(String(64), default="")  # the only rule that may take it; "": all
    per_minute: Mapped[float] = mapped_column(default=0.0)  # studies a minute that were allowed; 0: no wish
    purpose: Mapped[FetchPurpose] = mapped_column(default=FetchPurpose.ASKED)
    urgent: Mapped[bool] = mapped_column(default=False)  # a study waits for it: before others
    patient_id: Mapped[str] = mapped_column(default="")  # of the answer that named the study
    issuer_of_patient_id: Mapped[str] = mapped_column(default="")  # the same
    patient: Mapped[str] = mapped_column(Text, default="")  # the same: hashes of name, birth date and sex
    state: Mapped[FetchState] = mapped_column(default=FetchState.WAITING)
    reason: Mapped[str] = mapped_column(Text, default="")
    attempts: Mapped[int] = mapped_column(default=0)
    objects: Mapped[int] = mapped_column(default=0)  # that the last try brought
    asked_at: Mapped[datetime]
    next_at: Mapped[datetime]  # not before
    started_at: Mapped[datetime | None] = mapped_column(index=True)  # of the last try
    ended_at: Mapped[datetime | None]


class ArchiveQuestion(Base):
    """A question to a peer about one revision of a study, for one rule. Ended: nothing waits for the
    answer.
    """

    __tablename__ = "archive_question"
    __table_args__ = (
        UniqueConstraint("study_id", "revision", "kind", "rule", name="uq_archive_question_once_per_rule"),
        Index("ix_archive_question_open", "ended_at", "peer"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    revision: Mapped[int]
    kind: Mapped[QuestionKind]
    rule: Mapped[str] = mapped_column(String(64))
    peer: Mapped[str] = mapped_column(String(64))
    next_at: Mapped[datetime | None]  # not asked before; NULL: not until the study is quiet
    until: Mapped[datetime | None]  # a study that is quiet waits so long; NULL: it is not quiet yet
    answered_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    instances: Mapped[int] = mapped_column(default=0)  # that the peer has, results of this node left out
    priors: Mapped[list[str]] = mapped_column(default=list)  # Study Instance UIDs that are waited for
