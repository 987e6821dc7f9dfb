"""What the tables share: types of columns, base classes, mixins, and comparison of times with a clock that
may be set back.

No wait and no lease of ours is longer than an hour. A time further ahead was written by a clock that has been
put back since: waiting for it would hold a delivery, a job or a lease for as long as the clock was ahead.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

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
    Text,
    TypeDecorator,
    or_,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column

Uid = Annotated[str, mapped_column(String(64))]
"""A UID (PS3.5 9.1)."""
Sha256 = Annotated[str, mapped_column(String(64))]
"""A SHA-256 in hexadecimal."""
ShortText = Annotated[str, mapped_column(String(64))]
"""A name, or another text of at most 64 characters."""
LongText = Annotated[str, mapped_column(Text)]
"""A text of any length."""
Flag = Annotated[bool, mapped_column(default=False)]
"""False until it is set."""
Count = Annotated[int, mapped_column(default=0)]
"""A number that begins at 0."""
AeTitle = Annotated[str, mapped_column(String(16))]
"""An AE title (PS3.5 6.2)."""


class UtcDateTime(TypeDecorator[datetime]):
    """Column type: aware UTC in Python, naive UTC in the database (SQLite stores no zone)."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Convert an aware time to the naive UTC of the database. Raises ValueError for a naive time."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without zone cannot be stored")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Convert the naive UTC of the database to an aware time."""
        return None if value is None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """Base of all tables."""

    @declared_attr.directive
    def __tablename__(cls) -> str:
        """The name of the table: by default the name of the class in the form ``study_name`` for
        StudyName.
        """
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
        # The values of an enum as text without database enums: a new word needs no migration.
        StrEnum: Enum(
            StrEnum,
            native_enum=False,
            length=16,
            values_callable=lambda words: [word.value for word in words],
        ),
        str: String(255),
    }


class Numbered(Base):
    """Base of tables whose rows have an integer id."""

    __abstract__ = True

    # SQLite autoincrements INTEGER keys only.
    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, sort_order=-2
    )


class Tried(Numbered):
    """Base of tables whose rows are tried again until they are done, by a ``runner.Lane``."""

    __abstract__ = True

    reason: Mapped[str] = mapped_column(default="", sort_order=1)  # why the last try brought nothing
    attempts: Mapped[Count] = mapped_column(sort_order=1)
    next_at: Mapped[datetime] = mapped_column(sort_order=1)  # not before


class StudyMixin:
    """Mixin for tables in which each row belongs to a study."""

    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), index=True, sort_order=-1)


class PersonActionMixin:
    """Mixin for tables that record what a person did, when and who."""

    at: Mapped[datetime]
    actor: Mapped[ShortText]  # a user's name, as it was then


class DicomObjectMixin:
    """Mixin for tables whose rows are DICOM objects: class and series."""

    sop_class_uid: Mapped[Uid]
    series_instance_uid: Mapped[Uid]


class FileMixin:
    """Mixin for tables in which each row has a file in ``node.data_dir``."""

    path: Mapped[LongText]
    purged: Mapped[Flag]  # the file is deleted
    bytes: Mapped[int] = mapped_column(BigInteger)


class ReceivedFileMixin(FileMixin):
    """Mixin for tables whose rows are objects received from a peer, with their files."""

    calling_ae: Mapped[AeTitle]
    called_ae: Mapped[AeTitle]
    received_at: Mapped[datetime]


LONGEST_WAIT = timedelta(hours=1)
LATEST = 2 * LONGEST_WAIT
"""A time further ahead than this was never meant: machines that share a database may disagree by minutes."""


DISAGREEMENT = timedelta(minutes=10)
"""Largest difference between the clocks of machines that share a database."""


def has_come(column: Any, now: datetime, longest: timedelta = LATEST - DISAGREEMENT) -> ColumnElement[bool]:
    """SQL: whether the time in ``column`` has come, or lies further ahead than ``longest``, so that only a
    wrong clock can have written it.
    """
    return or_(column <= now, column > now + longest + DISAGREEMENT)


def has_ended(until: datetime | None, now: datetime) -> bool:
    """Return whether a lease until this time has ended; True also if ``until`` is None or impossibly far
    ahead.
    """
    return until is None or not now <= until <= now + LATEST
