"""What all tables share: their base, and the types of columns."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Enum, Integer, MetaData, String, TypeDecorator
from sqlalchemy.orm import DeclarativeBase

from dicom_node.model.kinds import (
    AssociationOutcome,
    AuditAction,
    Counted,
    HoldVerdict,
    NotificationState,
    ObjectRole,
    Outcome,
    ReaderVerdict,
    RejectionReason,
    ResultKind,
    ReviewCause,
    ReviewVerdict,
)
from dicom_node.model.lifecycle import DeliveryState, JobState, StudyState
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
        ObjectRole: _words(ObjectRole),
        Outcome: _words(Outcome),
        ResultKind: _words(ResultKind),
        AssociationOutcome: _words(AssociationOutcome),
        Counted: _words(Counted),
        UserRole: _words(UserRole),
        AuditAction: _words(AuditAction),
        RejectionReason: _words(RejectionReason),
        ReaderVerdict: _words(ReaderVerdict),
        HoldVerdict: _words(HoldVerdict),
        ReviewCause: _words(ReviewCause),
        ReviewVerdict: _words(ReviewVerdict),
        NotificationState: _words(NotificationState),
        str: String(255),
    }


Id = BigInteger().with_variant(Integer, "sqlite")  # SQLite autoincrements INTEGER keys only
