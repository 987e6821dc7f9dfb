"""Images whose cleaning waits for a person: withheld, blacked out or filled wider.

A person accepts the cleaning, or draws boxes around text that the image is cleaned of, too.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from dicom_node.base.actions.action import allowed_to
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import FaultyInput, NotAllowedNow, NotFound
from dicom_node.base.lifecycle import AuditAction, ResultKind, ReviewCause, ReviewVerdict, UserRole
from dicom_node.base.store import results
from dicom_node.base.store.locks import lock_studies
from dicom_node.base.store.tables import CleaningReview, DrawnByHand, Instance, Result, Study
from dicom_node.base.store.views import View, as_json, columns
from dicom_node.people import Row, ServiceRequest, ServiceResult, audit, existing, pictures, writing
from dicom_node.people.audit import Person

PAGE = 50
"""Images of one page."""
MOST_BOXES = 10
"""Boxes in one image."""
LARGEST_SHARE = 0.5
"""Largest share of the picture under a person's boxes: cleaning refuses more (``burnin.decide.banner``)."""
EDGES = ("left", "top", "right", "bottom")
MOST_AT_ONCE = 1000
"""Images that a person accepts at once."""
_PROVEN = (ReviewCause.WIDENED, ReviewCause.BLACKED_OUT)
"""Causes of which nothing legible was left in the second place: the image was sent."""
_SENT = (CleaningReview.verdict.is_(None), CleaningReview.cause.in_(_PROVEN))
"""SQL: reviews that wait for these causes."""


Edge = Annotated[int, Field(ge=0, lt=100_000)]


class Reviews(ServiceResult):
    """A page of images whose cleaning waits for a person; ``next``: value of ``after`` for the next page,
    null at the end.
    """

    reviews: list[Row]
    next: int | None


class Boxes(ServiceRequest):
    """A request with boxes that a person drew around text to remove: left, top, right, bottom in pixels."""

    boxes: list[tuple[Edge, Edge, Edge, Edge]] = Field(min_length=1, max_length=MOST_BOXES)


@allowed_to(UserRole.OPERATOR)
def waiting_reviews(session: Session, after: int | None = None) -> tuple[list[View], int | None]:
    """A page of images whose cleaning waits for a person, the longest waiting first, and its last number if
    more follow.

    ``after``: the last number of the page before; None for the first page.
    """
    chosen = _reviews_query().where(CleaningReview.verdict.is_(None)).order_by(CleaningReview.id)
    if after is not None:
        chosen = chosen.where(CleaningReview.id > after)
    found = [_review_row(*row) for row in session.execute(chosen.limit(PAGE + 1)).all()]
    return found[:PAGE], found[PAGE - 1]["id"] if len(found) > PAGE else None


def review_after(session: Session, number: int) -> int | None:
    """The number of the review that waits after this one; after the last one that of the first; None if no
    other waits.
    """
    return session.scalar(
        select(CleaningReview.id)
        .where(CleaningReview.verdict.is_(None), CleaningReview.id != number)
        .order_by(CleaningReview.id < number, CleaningReview.id)
        .limit(1)
    )


def count_reviews(session: Session) -> View:
    """The number of images that wait for a review, and the time since when the oldest waits."""
    count, oldest = session.execute(
        select(func.count(), func.min(CleaningReview.created_at)).where(CleaningReview.verdict.is_(None))
    ).one()
    return {"waiting": count, "oldest": as_json(oldest)}


@allowed_to(UserRole.OPERATOR)
def show_review(session: Session, settings: Settings, number: int) -> View:
    """One image whose cleaning waits for a person: detected annotation, boxes that a person drew, its cleaned
    image, and the peers that got that. Raises NotFound.
    """
    row = session.execute(_reviews_query().where(CleaningReview.id == number)).one_or_none()
    if row is None:
        raise NotFound("there is no such review")
    review, instance, _ = row
    image = pictures.image_view(session, settings, review.instance_id)
    mark = {"finding": "Detected annotation", "text": "", "decision": "", "frames": []}
    image["masks"] = []
    image["marks"] = [
        {**mark, "points": [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]}
        for left, top, right, bottom in review.places
    ]
    made = pictures.pictures_of(session, settings, review.study_id, instance.sop_instance_uid)
    cleaned = [picture for _, picture in made if picture.kind is ResultKind.CLEANED]
    gone = results.withdrawn(session, [picture.id for picture in cleaned])
    left = {name for picture in cleaned if picture.id not in gone for name in _receivers_of(picture)}
    drawn = results.drawn_boxes(session, [instance.sop_instance_uid]).get(instance.sop_instance_uid)
    return {
        **_review_row(*row),
        "image": image,
        "places": review.places,
        "drawn": [list(box) for box in drawn.boxes] if drawn else [],
        "cleaned": next((layer for layer in image["layers"] if layer["same_size"]), None),
        "left": sorted(left),
    }


def _receivers_of(picture: Result) -> set[str]:
    """The peers that have a cleaned image, or to which it is on its way, by whatever rule."""
    never = ("cancelled", "discarded", "dead")
    return {sent.destination for sent in picture.deliveries if sent.state not in never}


@allowed_to(UserRole.OPERATOR)
def accept_cleaning(settings: Settings, number: int, by: Person) -> None:
    """Accept the cleaning of an image as it is: a sent image stays sent, a withheld one is not sent.

    ``number``: of the review. Raises NotFound, NotAllowedNow.
    """
    with writing(settings) as session:
        review = _waiting_review(session, number)
        _decide(session, review, session.get_one(Instance, review.instance_id), ReviewVerdict.ACCEPTED, by)


@allowed_to(UserRole.OPERATOR)
def waiting_groups(session: Session) -> list[View]:
    """The images that wait although they were proven clean and are sent, of two or more by device and cause,
    the most first: their number (``waiting``), and that of the newest review of them (``newest``), to accept
    them by.
    """
    counts: Counter[tuple[str, str]] = Counter()
    newest: dict[tuple[str, str], int] = {}
    chosen = _reviews_query().where(*_SENT).order_by(CleaningReview.id)
    for review, instance, _ in session.execute(chosen.limit(MOST_AT_ONCE)):
        group = _device_of(instance), review.cause.value
        counts[group] += 1
        newest[group] = review.id
    return [
        {"device": device, "cause": cause, "waiting": number, "newest": newest[device, cause]}
        for (device, cause), number in counts.most_common()
        if number > 1
    ]


@allowed_to(UserRole.OPERATOR)
def accept_alike(settings: Settings, number: int, by: Person) -> int:
    """Accept the cleaning of all waiting images of the device and cause of the review with this number, up to
    it; returns how many. Those that came later wait on.

    Each is a decision of its own, in the audit too. An image that is withheld or in doubt needs a look at it.
    Raises NotFound, NotAllowedNow.
    """
    with writing(settings) as session:
        seen = existing(session, CleaningReview, number, "there is no such review")
        if seen.cause not in _PROVEN:
            raise NotAllowedNow(f"an image that is {seen.cause} is not accepted with others: look at it")
        device = _device_of(session.get_one(Instance, seen.instance_id))
        chosen = _reviews_query().where(
            *_SENT, CleaningReview.cause == seen.cause, CleaningReview.id <= number
        )
        alike = {
            instance.id: (review, instance)
            for review, instance, _ in session.execute(chosen.order_by(CleaningReview.id).limit(MOST_AT_ONCE))
            if _device_of(instance) == device
        }
        lock_studies(session, Study.id.in_({review.study_id for review, _ in alike.values()}))
        for review, _ in alike.values():
            session.refresh(review)
        waiting = [(review, instance) for review, instance in alike.values() if review.verdict is None]
        if not waiting:
            raise NotAllowedNow("these images do not wait any more: load the list again")
        for review, instance in waiting:
            _decide(session, review, instance, ReviewVerdict.ACCEPTED, by)
        return len(waiting)


@allowed_to(UserRole.OPERATOR)
def draw_boxes(
    settings: Settings, number: int, boxes: Sequence[results.Box], by: Person, role: UserRole
) -> None:
    """Clean the image again, and also remove the content of these boxes, which replace earlier boxes.

    ``number``: of the review. The image is sent only if its cleaning is proven, as without boxes. Raises
    NotFound, FaultyInput, NotAllowedNow (also if the study cannot be run again).
    """
    from dicom_node.studies import reruns

    with writing(settings) as session:
        review = _waiting_review(session, number)
        instance = session.get_one(Instance, review.instance_id)
        refuse_faulty_boxes(instance, boxes)
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
        _decide(
            session,
            review,
            instance,
            ReviewVerdict.DRAWN,
            by,
            {"boxes": drawn, "role": role},
            boxes=len(boxes),
        )
        reruns.rerun(session, review.study_id, settings)


def boxes_of(form: Mapping[str, Sequence[str]]) -> list[results.Box]:
    """The boxes in a form with fields ``left, top, right, bottom`` per box; empty rows are left out. Raises
    FaultyInput.
    """
    try:
        boxes = [edges for edges in zip(*(form.get(edge, ()) for edge in EDGES), strict=True) if any(edges)]
        return Boxes.model_validate({"boxes": boxes}).boxes if boxes else []
    except ValueError:  # also that of pydantic
        raise FaultyInput(f"up to {MOST_BOXES} boxes: edges are whole numbers of pixels") from None


def refuse_faulty_boxes(instance: Instance, boxes: Sequence[results.Box]) -> None:
    """Raise FaultyInput for invalid boxes, or boxes that lie outside the picture or cover too much of it."""
    rows, width = pictures.number_in(instance, "Rows"), pictures.number_in(instance, "Columns")
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
    by: Person,
    what: Mapping[str, object] = MappingProxyType({}),
    **fields: Any,
) -> None:
    """Store a person's verdict on the cleaning of an image, and note it in the audit.

    ``what``: further values that are needed to apply the decision again after a restore. ``fields``: of the
    audit.
    """
    results.end_reviews_of_image(session, instance.id, verdict, by.name)
    audit.note(
        session,
        by,
        AuditAction.CLEANING_JUDGED,
        study_id=review.study_id,
        review=review.id,
        verdict=verdict,
        cause=review.cause,
        what={
            "image": instance.sop_instance_uid,
            "pixels_sha256": instance.pixels_sha256,
            "verdict": verdict,
            **what,
        },
        **fields,
    )


def _waiting_review(session: Session, number: int) -> CleaningReview:
    """The review with this number, locked after its study. Raises NotFound, NotAllowedNow if it does not wait
    any more.
    """
    named = select(CleaningReview.study_id).where(CleaningReview.id == number)
    lock_studies(session, Study.id == named.scalar_subquery())
    row = existing(session, CleaningReview, number, "there is no such review", lock=True)
    if row.verdict is not None:
        raise NotAllowedNow("this image does not wait any more: load the list again")
    return row


def _reviews_query() -> Select[CleaningReview, Instance, str | None]:
    """The SQL query for reviews, each with its image and Study Instance UID."""
    return (
        select(CleaningReview, Instance, Study.study_instance_uid)
        .join(Instance, CleaningReview.instance_id == Instance.id)
        .join(Study, CleaningReview.study_id == Study.id)
    )


def _device_of(instance: Instance) -> str:
    """Manufacturer and model of the device that made an image; "" if it does not say them."""
    made = (instance.attributes.get(key, "") for key in ("Manufacturer", "ManufacturerModelName"))
    return " ".join(filter(None, made))


def _review_row(review: CleaningReview, instance: Instance, study: str | None) -> View:
    """A review as a row of lists."""
    return {
        **columns(review, "id", "study_id", "instance_id", "cause", "rule", "note", "created_at"),
        **columns(review, "verdict", "decided_at", "decided_by"),
        "study": study,
        "device": _device_of(instance),
        "size": f"{instance.attributes.get('Columns', '?')} × {instance.attributes.get('Rows', '?')}",
        "withheld": review.cause is ReviewCause.WITHHELD,
        "purged": instance.purged,
    }
