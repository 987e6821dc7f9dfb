"""Burned-in annotation: reviews of cleaning by a person, and the boxes that a person drew."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from dicom_node.base.kinds import ReviewCause, ReviewVerdict, UserRole
from dicom_node.base.store.tables import CleaningReview, DrawnByHand, Instance, Job
from dicom_node.base.store.transitions import utc_now

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels, the last two exclusive."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An image (by SOP Instance UID) that a person should look at, with the reason and the places in it."""

    image: str
    cause: ReviewCause
    note: str
    places: tuple[Box, ...]
    analysis_sha256: str


@dataclass(frozen=True, slots=True)
class Drawn:
    """The boxes that a person drew in an image, with the person's role and the time."""

    boxes: tuple[Box, ...]
    role: UserRole
    at: datetime


def ask(session: Session, job_id: int, seen: Collection[str], asked: Sequence[Asked]) -> None:
    """Queue these images for a review, each once per analysis; end other waiting reviews of ``seen`` for the
    rule.

    ``seen`` and ``Asked.image`` are SOP Instance UIDs.
    """
    job = session.get_one(Job, job_id)
    numbers = {  # noqa: C416
        uid: number
        for uid, number in session.execute(
            select(Instance.sop_instance_uid, Instance.id).where(Instance.sop_instance_uid.in_(seen))
        )
    }
    kept = {(numbers[one.image], one.analysis_sha256) for one in asked if one.image in numbers}
    known = session.scalars(
        select(CleaningReview).where(
            CleaningReview.instance_id.in_(numbers.values()), CleaningReview.rule == job.rule
        )
    ).all()
    for row in known:
        if row.verdict is None and (row.instance_id, row.analysis_sha256) not in kept:
            row.verdict, row.decided_at = ReviewVerdict.REPLACED, utc_now()
    there = {(row.instance_id, row.analysis_sha256) for row in known}
    session.add_all(
        CleaningReview(
            study_id=job.study_id,
            instance_id=numbers[one.image],
            job_id=job_id,
            rule=job.rule,
            analysis_sha256=one.analysis_sha256,
            cause=one.cause,
            note=one.note,
            places=[list(box) for box in one.places],
            created_at=utc_now(),
        )
        for one in asked
        if one.image in numbers and (numbers[one.image], one.analysis_sha256) not in there
    )


def drawn(session: Session, images: Collection[str]) -> dict[str, Drawn]:
    """The boxes drawn in these images, by SOP Instance UID, if the pixels are still the same."""
    chosen = select(Instance.sop_instance_uid, DrawnByHand).join(Instance)
    same = (
        Instance.sop_instance_uid.in_(images),
        Instance.pixels_sha256 == DrawnByHand.pixels_sha256,
    )
    return {
        uid: Drawn(
            tuple((left, top, right, bottom) for left, top, right, bottom in row.boxes), row.role, row.at
        )
        for uid, row in session.execute(chosen.where(*same))
    }


def decide(session: Session, instance_id: int, verdict: ReviewVerdict, by: str) -> None:
    """End the waiting reviews of an image, for every rule."""
    waiting = (CleaningReview.instance_id == instance_id, CleaningReview.verdict.is_(None))
    session.execute(
        update(CleaningReview).where(*waiting).values(verdict=verdict, decided_at=utc_now(), decided_by=by)
    )


def end_reviews(session: Session, study_id: int) -> None:
    """End the waiting reviews of a study, whose objects are purged from the spool."""
    waiting = (CleaningReview.study_id == study_id, CleaningReview.verdict.is_(None))
    session.execute(
        update(CleaningReview).where(*waiting).values(verdict=ReviewVerdict.REPLACED, decided_at=utc_now())
    )
