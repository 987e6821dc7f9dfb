"""The node's records of itself: events, leases, read positions in journals."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.store.tables.base import Base, Id


class EventRow(Base):
    """One event. Append-only; ``fields`` hold no PHI."""

    __tablename__ = "event"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    number: Mapped[int] = mapped_column(index=True)
    study_id: Mapped[int | None] = mapped_column(ForeignKey("study.id"), index=True)
    fields: Mapped[dict[str, Any]]


class EnteredTable(Base):
    """A peer or rule that a person entered, instead of writing it into a configuration file."""

    __tablename__ = "entered_table"

    kind: Mapped[str] = mapped_column(String(8), primary_key=True)  # "peers", "rules"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    keys: Mapped[str] = mapped_column(Text)  # as lines of TOML
    version: Mapped[int] = mapped_column(default=1)  # rises with each change: nobody overwrites unseen
    changed_at: Mapped[datetime]
    changed_by: Mapped[str] = mapped_column(String(64))


class StudyTrace(Base):
    """The trace of a study for OpenTelemetry: its id, and the time until which its spans were sent or
    dropped.
    """

    __tablename__ = "study_trace"

    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), primary_key=True)
    trace_id: Mapped[str] = mapped_column(String(32))  # drawn at random, hexadecimal
    until: Mapped[datetime | None]
    dropped: Mapped[int] = mapped_column(default=0, index=True)  # times that no collector took it


class DiskSample(Base):
    """The free space on the data folder's disk at one time."""

    __tablename__ = "disk_sample"

    at: Mapped[datetime] = mapped_column(primary_key=True)
    free_bytes: Mapped[int] = mapped_column(BigInteger)


class Lease(Base):
    """A named right that one process at a time holds, such as ``scheduler``."""

    __tablename__ = "lease"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64))
    until: Mapped[datetime]


class InstallationRow(Base):
    """The installation that this database belongs to: one row, made with the table."""

    __tablename__ = "installation"

    drawn: Mapped[str] = mapped_column(String(32), primary_key=True)  # at random, hexadecimal


class SiteProcess(Base):
    """One process of a node of the site, with the time of its last sign of life."""

    __tablename__ = "site_process"

    machine: Mapped[str] = mapped_column(String(64), primary_key=True)  # its host name
    place: Mapped[str] = mapped_column(String(16), primary_key=True)  # "all", "listener-1", "worker-2"
    name: Mapped[str] = mapped_column(String(32), primary_key=True)  # "main", "listener", "worker-1"
    pid: Mapped[int]
    version: Mapped[str] = mapped_column(String(32))
    since: Mapped[datetime]
    seen_at: Mapped[datetime]  # by the clock of the database
    lost: Mapped[bool]  # event 6012 was written


class Cursor(Base):
    """The read position in a journal file."""

    __tablename__ = "cursor"

    name: Mapped[str] = mapped_column(primary_key=True)
    offset: Mapped[int] = mapped_column(BigInteger)
