"""Stored data on analyses besides their results: counts, readings of annotation, reviews of cleaning."""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.model.kinds import Counted, ReviewCause, ReviewVerdict
from dicom_node.model.roles import UserRole
from dicom_node.store.tables.base import Base, Id


class CountedImage(Base):
    """An image that was counted for a model card: each is counted once, however often analysed."""

    __tablename__ = "counted_image"

    card_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"), primary_key=True, index=True)
    day: Mapped[date] = mapped_column(index=True)


class ImageCount(Base):
    """The number of a sender's images that a model analysed or refused on one day (UTC). No patient data."""

    __tablename__ = "image_count"

    day: Mapped[date] = mapped_column(primary_key=True)
    card_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    calling_ae: Mapped[str] = mapped_column(String(16), primary_key=True)  # "": no configured peer
    outcome: Mapped[Counted] = mapped_column(primary_key=True)
    model: Mapped[str]
    version: Mapped[str]
    images: Mapped[int]


class ScoreCount(Base):
    """The number of counted images with a score in this tenth of the card's reference, by label."""

    __tablename__ = "score_count"

    day: Mapped[date] = mapped_column(primary_key=True)
    card_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    calling_ae: Mapped[str] = mapped_column(String(16), primary_key=True)
    label: Mapped[str] = mapped_column(primary_key=True)
    bin: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # 0 to 9
    images: Mapped[int]


class AnnotationReading(Base):
    """A reading of one burned-in annotation. ``sealed``: its text, encrypted with the site key, "" for a
    drawing.

    ``analysis_sha256``: hash of the pipeline and its options. A newer analysis of the image with the same
    hash replaces the reading.
    """

    __tablename__ = "annotation_reading"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), index=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"), index=True)
    analysis_sha256: Mapped[str] = mapped_column(String(64))
    frame: Mapped[int | None]  # 1-based; NULL in a still
    kind: Mapped[str] = mapped_column(String(16))
    meaning: Mapped[str] = mapped_column(String(16))
    left: Mapped[float]  # pixels of the image, as in SCOORD
    top: Mapped[float]
    right: Mapped[float]
    bottom: Mapped[float]
    confidence: Mapped[float]
    removed: Mapped[bool]
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    read_at: Mapped[datetime]


class CleaningReview(Base):
    """An image whose cleaning a person should check; ``verdict`` is NULL until the person decides.

    There is one row for each image, rule and analysis. ``analysis_sha256``: hash of the pipeline, its options
    and all else that shapes the image. ``places``: boxes (left, top, right, bottom) in pixels; right and
    bottom are exclusive. The row never holds the text that was read in the image.
    """

    __tablename__ = "cleaning_review"
    __table_args__ = (
        UniqueConstraint("instance_id", "rule", "analysis_sha256", name="uq_cleaning_review_once"),
        Index("ix_cleaning_review_waiting", "verdict", "id"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), index=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"), index=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), index=True)
    rule: Mapped[str] = mapped_column(String(64))
    analysis_sha256: Mapped[str] = mapped_column(String(64))
    cause: Mapped[ReviewCause]
    note: Mapped[str] = mapped_column(Text)
    places: Mapped[list[list[int]]]
    created_at: Mapped[datetime]
    verdict: Mapped[ReviewVerdict | None]
    decided_at: Mapped[datetime | None]
    decided_by: Mapped[str] = mapped_column(String(64), default="")


class DrawnByHand(Base):
    """Boxes, as in :class:`CleaningReview`, that a person wants removed in addition to the detected
    annotation.

    For these pixels only. ``role``: of the person, for the cleaned image, which must not name staff.
    """

    __tablename__ = "drawn_by_hand"

    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"), primary_key=True)
    pixels_sha256: Mapped[str] = mapped_column(String(64))
    boxes: Mapped[list[list[int]]]
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(64))
    role: Mapped[UserRole]
