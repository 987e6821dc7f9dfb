"""Performed procedure steps that modalities reported (PS3.4 F.7), with their studies and objects."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.model.kinds import StepStatus
from dicom_node.store.tables.base import Base, Id


class PerformedStep(Base):
    """One step, from its last report. It contains no patient data."""

    __tablename__ = "performed_step"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
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

    __tablename__ = "step_study"

    step_id: Mapped[int] = mapped_column(
        ForeignKey("performed_step.id", ondelete="CASCADE"), primary_key=True
    )
    study_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)


class StepObject(Base):
    """An object that a step refers to."""

    __tablename__ = "step_object"

    step_id: Mapped[int] = mapped_column(
        ForeignKey("performed_step.id", ondelete="CASCADE"), primary_key=True
    )
    sop_instance_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
