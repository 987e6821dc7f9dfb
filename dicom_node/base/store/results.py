"""The results table: built objects, which report of a study a newer one supersedes, which cleaning waits for
a person's review, and the boxes that a person drew.

The database also has the installation that results name as their equipment, because all machines of a site
share the database and every backup contains it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.orm import Session, aliased

from dicom_node.base.dicom.uids import Installation
from dicom_node.base.events import RESULT_BUILT, RESULT_EXISTS
from dicom_node.base.lifecycle import (
    END_STATES,
    DeliveryState,
    ObjectRole,
    ResultKind,
    ReviewCause,
    ReviewVerdict,
    StudyState,
    UserRole,
)
from dicom_node.base.store.locks import lock_free
from dicom_node.base.store.tables import (
    CleaningReview,
    Delivery,
    DrawnByHand,
    InstallationRow,
    Instance,
    Job,
    ReceivedObject,
    ReportedFinding,
    Result,
    Study,
    Withdrawal,
)
from dicom_node.base.store.transitions import record, utc_now

_NEVER_LEFT = (DeliveryState.UNASSESSED, DeliveryState.CANCELLED, DeliveryState.DISCARDED)


def is_result(session: Session, sop_instance_uid: str) -> bool:
    """Return whether this node built an object with that UID."""
    return bool(session.scalar(select(exists().where(Result.sop_instance_uid == sop_instance_uid))))


def withdrawn(session: Session, result_ids: Collection[int]) -> set[int]:
    """Return those of ``result_ids`` whose results a person withdrew."""
    return set(session.scalars(select(Withdrawal.result_id).where(Withdrawal.result_id.in_(result_ids))))


def note_findings(session: Session, report: Result, present: Collection[str]) -> None:
    """Record the findings that a new report suspects; ``present``: their names.

    They replace the findings of earlier reports of the same rule on the same images. Findings on images whose
    files were deleted meanwhile remain.
    """
    job = session.get_one(Job, report.job_id)
    earlier = (
        select(Result.id, Result.sop_instance_uid, Job.source_uids)
        .join(Result.job)
        .where(Result.study_id == report.study_id, Job.rule == job.rule, Result.kind == ResultKind.SR)
        .where(Result.deidentified.is_(False), Result.id < report.id)
    )
    said_again = [
        row
        for row, uid, images in session.execute(earlier)
        if uid == report.supersedes or set(job.source_uids).issuperset(images)
    ]
    forget_findings(session, said_again)
    session.add_all(
        ReportedFinding(result_id=report.id, finding=name, study_id=report.study_id) for name in set(present)
    )


def suspected(session: Session, study_id: int, pipeline: str) -> set[str]:
    """Return the names of the findings that the current reports of this pipeline suspect in a study."""
    return set(
        session.scalars(
            select(ReportedFinding.finding)
            .join(Result)
            .join(Result.job)
            .where(Result.study_id == study_id, Job.pipeline == pipeline)
        )
    )


def forget_findings(session: Session, result_ids: Collection[int]) -> None:
    """Delete the findings of these results, so that searches by finding no longer match their studies."""
    session.execute(delete(ReportedFinding).where(ReportedFinding.result_id.in_(result_ids)))


def existing(session: Session, sop_instance_uids: Collection[str]) -> dict[str, Result]:
    """Return those results with these UIDs that were built before, by SOP Instance UID, recording an event
    for each.
    """
    known = {
        row.sop_instance_uid: row
        for row in session.scalars(select(Result).where(Result.sop_instance_uid.in_(sop_instance_uids)))
    }
    for row in known.values():
        record(session, RESULT_EXISTS, row.study_id, kind=row.kind.value, instance=row.sop_instance_uid)
    return known


def series_began(session: Session, study_id: int, series_instance_uid: str) -> datetime | None:
    """Return when the first job of the study with a result in that series analysed its images; None without
    such a job.
    """
    return session.scalar(
        select(func.min(Job.analysed_at))
        .join(Result)
        .where(Result.study_id == study_id, Result.series_instance_uid == series_instance_uid)
    )


def place_of_rule(session: Session, study_id: int, rule: str) -> int:
    """Return how many other rules had a job on the study before this one."""
    rules = select(Job.rule).where(Job.study_id == study_id).group_by(Job.rule).order_by(func.min(Job.id))
    return list(session.scalars(rules)).index(rule)


def add(session: Session, row: Result) -> Result:
    """Add a new result and record the event. Raises IntegrityError if another worker added it first."""
    session.add(row)
    session.flush()
    record(
        session,
        RESULT_BUILT,
        row.study_id,
        job=row.job_id,
        kind=row.kind.value,
        instance=row.sop_instance_uid,
        supersedes=row.supersedes,
    )
    return row


def newest_report(
    session: Session, study_id: int, rule: str, destinations: Collection[str], *, domain: str | None
) -> tuple[str, str]:
    """Return SOP Instance UID and Series Instance UID of the newest SR of this rule for one of these
    destinations; "" and "" if none.

    ``domain``: the pseudonym domain of a de-identified report; None for a report that names the patient. A
    report on images whose files were deleted since is left out: no newer report can repeat its findings on
    them.
    """
    sent = exists().where(
        Delivery.result_id == Result.id,
        Delivery.destination.in_(destinations),
        Delivery.state.not_in(_NEVER_LEFT),
    )
    chosen = (
        select(Result.sop_instance_uid, Result.series_instance_uid, Job.source_uids)
        .join(Result.job)
        .where(Result.study_id == study_id, Result.kind == ResultKind.SR, Job.rule == rule, sent)
        .where(Result.deidentified.is_(domain is not None), Result.pseudonym_domain == (domain or ""))
        .order_by(Result.id.desc())
    )
    gone = purged_images(session, study_id, rule).keys()
    whole = (row for row in session.execute(chosen) if gone.isdisjoint(row.source_uids))
    return next(((row.sop_instance_uid, row.series_instance_uid) for row in whole), ("", ""))


def receivers(session: Session, study_id: int, rule: str) -> set[str]:
    """Return the peers that got, or will get, results of this rule for the study."""
    return set(
        session.scalars(
            select(Delivery.destination)
            .join(Delivery.result)
            .join(Result.job)
            .where(Result.study_id == study_id, Job.rule == rule, Delivery.state.not_in(_NEVER_LEFT))
            .distinct()
        )
    )


def purged_images(session: Session, study_id: int, rule: str) -> dict[str, str]:
    """Return the images of this rule's jobs on the study whose files were deleted since, except images that
    a person set aside.

    SOP Instance UID -> Instance Number (0020,0013), "" for an image without one.
    """
    had = {
        uid
        for uids in session.scalars(select(Job.source_uids).where(Job.study_id == study_id, Job.rule == rule))
        for uid in uids
    }
    return {
        uid: attributes.get("InstanceNumber", "")
        for uid, attributes in session.execute(
            select(Instance.sop_instance_uid, Instance.attributes)
            .order_by(Instance.id)
            .where(Instance.study_id == study_id, Instance.purged, Instance.role != ObjectRole.ASIDE)
        )
        if uid in had
    }


def lock_outdated(session: Session, before: datetime, limit: int) -> list[Result]:
    """Lock and return results of at most ``limit`` rows whose files may be deleted, because all results of
    their study were sent before ``before``.

    A study is left out while the files of its received objects exist, because a job on it may want to send
    its results to a further destination. A result is left out while another transaction locks it, because
    that transaction may wait for the study.
    """
    other = aliased(Result)
    sent = exists().where(other.study_id == Study.id, Delivery.result_id == other.id)
    finished = (DeliveryState.CONFIRMED, DeliveryState.CANCELLED, DeliveryState.DISCARDED)
    chosen = (
        select(Result)
        .join(Result.study)
        .where(
            Result.purged.is_(False),
            Study.state.in_(END_STATES - {StudyState.QUARANTINED}),
            ~exists().where(other.study_id == Study.id, other.created_at >= before),
            ~sent.where(Delivery.state.not_in(finished)),
            ~sent.where(Delivery.confirmed_at >= before),
            ~exists().where(ReceivedObject.study_id == Study.id, ReceivedObject.purged.is_(False)),
        )
    )
    found = {row.study_id for row in session.scalars(chosen.order_by(Result.id).limit(limit))}
    free_rows = chosen.where(Result.study_id.in_(lock_free(session, found))).order_by(Result.id)
    return list(session.scalars(free_rows.with_for_update(of=Result, key_share=True, skip_locked=True)))


def files_to_erase(session: Session, study_id: int) -> list[str]:
    """Mark the results of a locked study as deleted, with what rows say of findings and scores; return the
    paths of their files, which the caller deletes.
    """
    rows = session.scalars(select(Result).where(Result.study_id == study_id)).all()
    paths = [row.path for row in rows if not row.purged]
    for row in rows:
        row.purged, row.outdated, row.short_result = True, True, ""
    session.execute(delete(ReportedFinding).where(ReportedFinding.study_id == study_id))
    session.execute(update(Job).where(Job.study_id == study_id).values(scores=None))
    return paths


def this_installation(session: Session) -> Installation:
    """Return the installation (device identity in results) of this database."""
    return Installation.from_drawn(session.scalars(select(InstallationRow.drawn)).one())


Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels, the last two exclusive."""


@dataclass(frozen=True, slots=True)
class ReviewRequest:
    """An image in which a person should review the removal of burned-in text.

    ``image``: SOP Instance UID. ``cause`` and ``note``: why. ``places``: boxes in the image in pixels.
    ``analysis_sha256``: hash of the pipeline, its options and all else that shapes the cleaned image.
    """

    image: str
    cause: ReviewCause
    note: str
    places: tuple[Box, ...]
    analysis_sha256: str


@dataclass(frozen=True, slots=True)
class DrawnBoxes:
    """Boxes in an image, in pixels, that a person drew for removal, with the person's role and the time."""

    boxes: tuple[Box, ...]
    role: UserRole
    at: datetime


def queue_reviews(
    session: Session, job_id: int, seen: Collection[str], asked: Sequence[ReviewRequest]
) -> None:
    """Queue reviews of the removal of burned-in text, one per image and analysis, for the job's rule; end its
    other waiting reviews of the images ``seen``.

    ``seen``: SOP Instance UIDs of all images that the job analysed. ``asked``: the reviews to queue.
    """
    job = session.get_one(Job, job_id)
    numbers = dict(
        session.execute(
            select(Instance.sop_instance_uid, Instance.id).where(Instance.sop_instance_uid.in_(seen))
        ).all()
    )
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


def drawn_boxes(session: Session, images: Collection[str]) -> dict[str, DrawnBoxes]:
    """Return the boxes that persons drew in these images, by SOP Instance UID, if the pixels are still the
    same.
    """
    chosen = select(Instance.sop_instance_uid, DrawnByHand).join(Instance)
    same = (
        Instance.sop_instance_uid.in_(images),
        Instance.pixels_sha256 == DrawnByHand.pixels_sha256,
    )
    return {
        uid: DrawnBoxes(
            tuple((left, top, right, bottom) for left, top, right, bottom in row.boxes), row.role, row.at
        )
        for uid, row in session.execute(chosen.where(*same))
    }


def end_reviews_of_image(session: Session, instance_id: int, verdict: ReviewVerdict, by: str) -> None:
    """End the waiting reviews of an image, for every rule, with this verdict. ``by``: name of the person who
    decided, "" for the node.
    """
    waiting = (CleaningReview.instance_id == instance_id, CleaningReview.verdict.is_(None))
    session.execute(
        update(CleaningReview).where(*waiting).values(verdict=verdict, decided_at=utc_now(), decided_by=by)
    )
