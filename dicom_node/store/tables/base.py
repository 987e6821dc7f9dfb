"""The base of all tables, types of columns, and comparison of times with a clock that may be set back.

No wait and no lease of ours is longer than an hour. A time further ahead was written by a clock that has been
put back since: waiting for it would hold a delivery, a job or a lease for as long as the clock was ahead.
"""

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    DateTime,
    Dialect,
    Enum,
    ForeignKey,
    Integer,
    MetaData,
    String,
    TypeDecorator,
    or_,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column

from dicom_node.model.kinds import (
    AssociationOutcome,
    AuditAction,
    Counted,
    FetchPurpose,
    NotificationState,
    ObjectRole,
    Outcome,
    QuestionState,
    ReaderVerdict,
    RejectionReason,
    RemovalState,
    ResultKind,
    ReviewCause,
    ReviewVerdict,
    StepStatus,
)
from dicom_node.model.lifecycle import (
    CommitmentState,
    DeliveryState,
    FetchState,
    HeldState,
    JobState,
    RequestedState,
    StudyState,
    WorkitemState,
)
from dicom_node.model.roles import UserRole


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC in Python, naive UTC in the database (SQLite keeps no zone)."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without zone cannot be stored")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.replace(tzinfo=UTC)


def _words(words: type[StrEnum]) -> Enum:
    """A column of a closed set of words, without database enums: a new word needs no migration."""
    return Enum(words, native_enum=False, length=16, values_callable=lambda e: [member.value for member in e])


class Base(DeclarativeBase):
    @declared_attr.directive
    def __tablename__(cls) -> str:
        """Unless it says another: the name of its class, as ``study_name`` for StudyName."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        list[str]: JSON,
        list[int]: JSON,
        list[list[int]]: JSON,
        StudyState: _words(StudyState),
        JobState: _words(JobState),
        DeliveryState: _words(DeliveryState),
        CommitmentState: _words(CommitmentState),
        RequestedState: _words(RequestedState),
        WorkitemState: _words(WorkitemState),
        HeldState: _words(HeldState),
        FetchState: _words(FetchState),
        FetchPurpose: _words(FetchPurpose),
        QuestionState: _words(QuestionState),
        ObjectRole: _words(ObjectRole),
        Outcome: _words(Outcome),
        ResultKind: _words(ResultKind),
        AssociationOutcome: _words(AssociationOutcome),
        StepStatus: _words(StepStatus),
        Counted: _words(Counted),
        UserRole: _words(UserRole),
        AuditAction: _words(AuditAction),
        RejectionReason: _words(RejectionReason),
        RemovalState: _words(RemovalState),
        ReaderVerdict: _words(ReaderVerdict),
        ReviewCause: _words(ReviewCause),
        ReviewVerdict: _words(ReviewVerdict),
        NotificationState: _words(NotificationState),
        str: String(255),
    }


class Numbered(Base):
    """A table whose rows have numbers."""

    __abstract__ = True

    # SQLite autoincrements INTEGER keys only.
    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, sort_order=-2
    )


class Tried(Numbered):
    """A table whose rows are tried until they are done (``runner``)."""

    __abstract__ = True

    reason: Mapped[str] = mapped_column(default="", sort_order=1)  # why the last try brought nothing
    attempts: Mapped[int] = mapped_column(default=0, sort_order=1)
    next_at: Mapped[datetime] = mapped_column(sort_order=1)  # not before


class OfStudy:
    """A table whose rows belong to a study each."""

    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), index=True, sort_order=-1)


LONGEST_WAIT = timedelta(hours=1)
LATEST = 2 * LONGEST_WAIT
"""A time further ahead than this was never meant: machines that share a database may disagree by minutes."""


DISAGREEMENT = timedelta(minutes=10)
"""Largest difference between the clocks of machines that share a database."""


def has_come(column: Any, now: datetime, longest: timedelta = LATEST - DISAGREEMENT) -> ColumnElement[bool]:
    """SQL: whether the column's time has come, or is impossible because nothing waits longer than
    ``longest``.
    """
    return or_(column <= now, column > now + longest + DISAGREEMENT)


def has_ended(until: datetime | None, now: datetime) -> bool:
    """Whether a lease until this time has ended; True also if ``until`` is None or impossibly far ahead."""
    return until is None or not now <= until <= now + LATEST
