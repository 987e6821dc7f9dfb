"""Images whose cleaning waits for a person's review (withheld, blacked out, filled wider), and the
decisions.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from dicom_node.config.settings import Settings
from dicom_node.errors import FaultyInput, NotAllowedNow, NotFound
from dicom_node.model.kinds import AuditAction, ResultKind, ReviewCause, ReviewVerdict
from dicom_node.model.roles import UserRole
from dicom_node.services import Row, ServiceRequest, ServiceResult, audit, existing, images, writing
from dicom_node.store import burned_in, results
from dicom_node.store.tables import CleaningReview, DrawnByHand, Instance, Study
from dicom_node.store.views import View, as_json, columns

PAGE = 50
"""Images of one page."""
MOST = 10
"""Boxes in one image."""
LARGEST_SHARE = 0.5
"""Largest share of the picture under a person's boxes: cleaning refuses more (``burnin.decide.banner``)."""
EDGES = ("left", "top", "right", "bottom")


Edge = Annotated[int, Field(ge=0, lt=100_000)]


class ReviewRow(Row):
    """An image whose cleaning a person should look at; ``verdict`` is null while it waits."""

    id: int
    study_id: int
    cause: ReviewCause
    verdict: ReviewVerdict | None


class Reviews(ServiceResult):
    """One page; ``next`` is ``after`` of the next one, null at the end."""

    reviews: list[ReviewRow]
    next: int | None


class Boxes(ServiceRequest):
    """Boxes that a person drew around text to remove."""

    boxes: list[tuple[Edge, Edge, Edge, Edge]] = Field(min_length=1, max_length=MOST)


def waiting(session: Session, after: int | None = None) -> tuple[list[View], int | None]:
    """One page of reviews, the longest waiting first, and the number of its last row if more follow."""
    chosen = _rows().where(CleaningReview.verdict.is_(None)).order_by(CleaningReview.id)
    if after is not None:
        chosen = chosen.where(CleaningReview.id > after)
    found = [_row(*row) for row in session.execute(chosen.limit(PAGE + 1)).all()]
    return found[:PAGE], found[PAGE - 1]["id"] if len(found) > PAGE else None


def after(session: Session, number: int) -> int | None:
    """The image that waits after this one; after the last the first one; None if no other image waits."""
    chosen = select(CleaningReview.id).where(CleaningReview.verdict.is_(None), CleaningReview.id != number)
    return session.scalar(chosen.order_by(CleaningReview.id < number, CleaningReview.id).limit(1))


def decided(session: Session) -> list[View]:
    """The latest reviews that a person decided, the newest first."""
    by_hand = CleaningReview.verdict.in_((ReviewVerdict.ACCEPTED, ReviewVerdict.DRAWN))
    chosen = _rows().where(by_hand).order_by(CleaningReview.decided_at.desc(), CleaningReview.id.desc())
    return [_row(*row) for row in session.execute(chosen.limit(PAGE)).all()]


def numbers(session: Session) -> View:
    """The number of images that wait for a review, and the time since when the oldest waits."""
    count, oldest = session.execute(
        select(func.count(), func.min(CleaningReview.created_at)).where(CleaningReview.verdict.is_(None))
    ).one()
    return {"waiting": count, "oldest": as_json(oldest)}


def show(session: Session, settings: Settings, number: int) -> View:
    """One image with the detected annotation, the boxes that a person drew, its cleaned image, and the peers
    that got it. Raises NotFound.
    """
    row = session.execute(_rows().where(CleaningReview.id == number)).one_or_none()
    if row is None:
        raise NotFound("there is no such review")
    review, instance, _ = row
    image = images.view(session, settings, review.instance_id)
    mark = {"finding": "Detected annotation", "text": "", "decision": "", "frames": []}
    image["masks"] = []
    image["marks"] = [
        {**mark, "points": [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]}
        for left, top, right, bottom in review.places
    ]
    drawn = burned_in.drawn(session, [instance.sop_instance_uid]).get(instance.sop_instance_uid)
    return {
        **_row(*row),
        "image": image,
        "places": review.places,
        "drawn": [list(box) for box in drawn.boxes] if drawn else [],
        "cleaned": next((one for one in image["layers"] if one["same_size"]), None),
        "left": _left(session, settings, review.study_id, instance.sop_instance_uid),
    }


def accept(settings: Settings, number: int, by: audit.Person) -> None:
    """Accept the cleaning of an image as it is: a sent image stays sent, a withheld one is not sent.

    Raises NotFound, NotAllowedNow.
    """
    with writing(settings) as session:
        review = _waiting(session, number)
        _decide(session, review, session.get_one(Instance, review.instance_id), ReviewVerdict.ACCEPTED, by)


def draw(
    settings: Settings, number: int, boxes: Sequence[burned_in.Box], by: audit.Person, role: UserRole
) -> None:
    """Clean the image again, and also remove the content of these boxes, which replace earlier boxes.

    The image is sent only if its cleaning is proven, as without boxes. Raises NotFound, FaultyInput,
    NotAllowedNow (also if the study cannot be run again).
    """
    from dicom_node.studies import rerun

    with writing(settings) as session:
        review = _waiting(session, number)
        instance = session.get_one(Instance, review.instance_id)
        refuse_faulty(instance, boxes)
        drawn = [list(box) for box in boxes]
        session.merge(
            DrawnByHand(
                instance_id=instance.id,
                pixels_sha256=instance.pixels_sha256,
                boxes=drawn,
                at=by.now,
                actor=by.name,
                role=role,
            )
        )
        what = {"boxes": drawn, "role": role.value}
        _decide(session, review, instance, ReviewVerdict.DRAWN, by, what, boxes=len(boxes))
        rerun.rerun(session, review.study_id, settings)


def boxes_of(form: Mapping[str, Sequence[str]]) -> list[burned_in.Box]:
    """The boxes in a form with fields ``left, top, right, bottom`` per box; empty rows are left out.

    Raises FaultyInput.
    """
    columns_ = [form.get(edge, ()) for edge in EDGES]
    if len({len(column) for column in columns_}) != 1 or len(columns_[0]) > MOST:
        raise FaultyInput(f"up to {MOST} boxes, each with its four edges")
    found: list[burned_in.Box] = []
    for edges in zip(*columns_, strict=True):
        texts = [edge.strip() for edge in edges]
        if not any(texts):
            continue
        if not all(text.isascii() and text.isdecimal() and len(text) < 6 for text in texts):
            raise FaultyInput("the edges of a box are whole numbers of pixels")
        left, top, right, bottom = map(int, texts)
        found.append((left, top, right, bottom))
    return found


def refuse_faulty(instance: Instance, boxes: Sequence[burned_in.Box]) -> None:
    """Raise FaultyInput for invalid boxes, or boxes that lie outside the picture or cover too much of it."""
    rows, width = images.number_in(instance, "Rows"), images.number_in(instance, "Columns")
    if not boxes:
        raise FaultyInput("draw a box first, or give its edges")
    if not all(left < right <= width and top < bottom <= rows for left, top, right, bottom in boxes):
        raise FaultyInput(f"a box lies outside the picture of {width} × {rows} pixels, or is empty")
    area = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    if area > LARGEST_SHARE * rows * width:
        raise FaultyInput(f"the boxes cover more than {LARGEST_SHARE:.0%} of the picture")


def _decide(
    session: Session,
    review: CleaningReview,
    instance: Instance,
    verdict: ReviewVerdict,
    by: audit.Person,
    what: Mapping[str, object] = MappingProxyType({}),
    **fields: Any,
) -> None:
    """Enter the verdict, and in the audit ``what`` is needed to decide the same again, and ``fields``."""
    burned_in.decide(session, instance.id, verdict, by.name)
    audit.note(
        session,
        by,
        AuditAction.CLEANING_JUDGED,
        study_id=review.study_id,
        review=review.id,
        verdict=verdict.value,
        cause=review.cause.value,
        what={
            "image": instance.sop_instance_uid,
            "pixels_sha256": instance.pixels_sha256,
            "verdict": verdict.value,
            **what,
        },
        **fields,
    )


def _waiting(session: Session, number: int) -> CleaningReview:
    row = existing(session, CleaningReview, number, "there is no such review", lock=True)
    if row.verdict is not None:
        raise NotAllowedNow("this image does not wait any more: load the list again")
    return row


def _rows() -> Select[CleaningReview, Instance, str | None]:
    return (
        select(CleaningReview, Instance, Study.study_instance_uid)
        .join(Instance, CleaningReview.instance_id == Instance.id)
        .join(Study, CleaningReview.study_id == Study.id)
    )


def _row(review: CleaningReview, instance: Instance, study: str | None) -> View:
    made = (instance.attributes.get(key, "") for key in ("Manufacturer", "ManufacturerModelName"))
    return {
        **columns(review, "id", "study_id", "instance_id", "cause", "rule", "note", "created_at"),
        **columns(review, "verdict", "decided_at", "decided_by"),
        "study": study,
        "device": " ".join(filter(None, made)),
        "size": f"{instance.attributes.get('Columns', '?')} × {instance.attributes.get('Rows', '?')}",
        "withheld": review.cause is ReviewCause.WITHHELD,
        "purged": instance.purged,
    }


def _left(session: Session, settings: Settings, study: int, uid: str) -> list[str]:
    """The peers that have a cleaned image of it, of whatever rule, or to which one is on its way."""
    made = images.pictures_of(session, settings, study, uid)
    rows = [row for _, row in made if row.kind is ResultKind.CLEANED]
    gone = results.withdrawn(session, [row.id for row in rows])
    return sorted(
        {
            sent.destination
            for row in rows
            if row.id not in gone
            for sent in row.deliveries
            if sent.state.value not in ("cancelled", "discarded", "dead")
        }
    )
