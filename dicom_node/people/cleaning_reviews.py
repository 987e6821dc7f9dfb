"""Images whose cleaning waits for a person's review (withheld, blacked out, filled wider), and the decisions;
device rules made of boxes that a person drew: tried on the last images of the device, then saved.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from ai_pipeline.burnin.devices.rules import DeviceRule, conditions_of, read_rules
from ai_pipeline.contract import ImageHeader
from ai_pipeline.errors import DeviceRuleError, PixelError
from ai_pipeline.images.decode import open_dicom
from dicom_node.base.config.sample import toml_value
from dicom_node.base.config.settings import DEVICE_RULES_FOLDER, Settings
from dicom_node.base.errors import FaultyInput, NotAllowedNow, NotFound, StorageError
from dicom_node.base.files import Files, write_new
from dicom_node.base.kinds import AuditAction, ObjectRole, ResultKind, ReviewCause, ReviewVerdict, UserRole
from dicom_node.base.store import results
from dicom_node.base.store.tables import CleaningReview, DrawnByHand, Instance, Study
from dicom_node.base.store.views import View, as_json, columns
from dicom_node.jobs.worker.analyse import device_rules_of
from dicom_node.people import (
    PRINTABLE,
    Row,
    ServiceRequest,
    ServiceResult,
    audit,
    existing,
    images,
    writing,
)

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
    drawn = results.drawn_boxes(session, [instance.sop_instance_uid]).get(instance.sop_instance_uid)
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
    settings: Settings, number: int, boxes: Sequence[results.Box], by: audit.Person, role: UserRole
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


def boxes_of(form: Mapping[str, Sequence[str]]) -> list[results.Box]:
    """The boxes in a form with fields ``left, top, right, bottom`` per box; empty rows are left out.

    Raises FaultyInput.
    """
    columns_ = [form.get(edge, ()) for edge in EDGES]
    if len({len(column) for column in columns_}) != 1 or len(columns_[0]) > MOST:
        raise FaultyInput(f"up to {MOST} boxes, each with its four edges")
    found: list[results.Box] = []
    for edges in zip(*columns_, strict=True):
        texts = [edge.strip() for edge in edges]
        if not any(texts):
            continue
        if not all(text.isascii() and text.isdecimal() and len(text) < 6 for text in texts):
            raise FaultyInput("the edges of a box are whole numbers of pixels")
        left, top, right, bottom = map(int, texts)
        found.append((left, top, right, bottom))
    return found


def refuse_faulty(instance: Instance, boxes: Sequence[results.Box]) -> None:
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
    results.end_reviews_of_image(session, instance.id, verdict, by.name)
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


TRIED: Final = 50
"""Images that a rule is tried on, the newest of the device."""
_SEARCHED: Final = 5000  # of the newest images of the node, for those of the device
_KEYS: Final = ("manufacturer", "model", "software", "modality", "rows", "columns")
_SOURCE: Final = "drawn at the console"


class NewRule(Boxes):
    """A new device rule: its name and its boxes."""

    name: str = Field(min_length=1, max_length=64, pattern=PRINTABLE)


class RuleTried(Row):
    """The rule as its file would have it, and the newest images of the device with its boxes."""

    name: str
    text: str


class RuleSaved(ServiceResult):
    """The rule is saved; ``not_cleaned`` says why the image was not cleaned again, "" where it is."""

    name: str
    not_cleaned: str


class RuleDrawn(Row):
    """A device rule that was drawn here."""

    name: str


def rule_tried(
    session: Session, settings: Settings, number: int, name: str, boxes: Sequence[results.Box]
) -> View:
    """The text of the rule's file, and the newest images of the device with the rule's rectangles.

    Raises NotFound, FaultyInput.
    """
    instance, header = _opened(session, settings, number)
    rule, text = _rule(settings, instance, header, name, boxes)
    rows: list[View] = []
    door = Files(settings)
    newest = (
        select(Instance.id)
        .where(Instance.role == ObjectRole.SOURCE, Instance.purged.is_(False))
        .order_by(Instance.id.desc())
        .limit(_SEARCHED)
        .subquery()
    )
    of_device = [
        Instance.attributes[key].as_string() == instance.attributes[key]
        for key in ("Manufacturer", "ManufacturerModelName", "Rows", "Columns")
        if key in instance.attributes
    ]
    chosen = select(Instance).join(newest, Instance.id == newest.c.id).where(*of_device)
    for other in session.scalars(chosen.order_by(Instance.id.desc()).limit(TRIED)).all():
        try:
            about = open_dicom(door.here(session, other.path)).header
        except (PixelError, OSError, StorageError):
            continue
        if rule.match.fits(about):
            found = [box for one in rule.rectangles if (box := one.box(about.rows, about.columns))]
            rows.append(
                {
                    "id": other.id,
                    "study_id": other.study_id,
                    "columns": about.columns,
                    "rows": about.rows,
                    "boxes": [list(box) for box in found],
                }
            )
    return {"text": text, "name": rule.name, "images": rows, "boxes": [list(box) for box in boxes]}


def save_rule(
    settings: Settings, number: int, name: str, boxes: Sequence[results.Box], by: audit.Person
) -> None:
    """Write the rule into the site's folder of device rules, where the node reads it at its next reload.

    Raises NotFound, FaultyInput, NotAllowedNow (the rule exists, or the node may not write to the folder).
    """
    with writing(settings) as session:
        instance, header = _opened(session, settings, number)
        rule, text = _rule(settings, instance, header, name, boxes)
        folder = device_rules_of(settings) or settings.node.data_dir / DEVICE_RULES_FOLDER
        # Before the file: no rule is there that the audit does not know.
        audit.note(session, by, AuditAction.RULE_SAVED, name=rule.name, of="device", review=number)
        session.flush()
        try:
            write_new(folder / f"{rule.name}.toml", text)  # half a file would refuse all rules
        except FileExistsError:
            raise NotAllowedNow(
                f"there is a file {rule.name}.toml already: give the rule another name"
            ) from None
        except OSError as error:
            raise NotAllowedNow(
                f"device rules cannot be written here ({error.strerror}): put these lines into a file of "
                f"workers.device_rules_dir\n{text}"
            ) from None


def save_rule_and_clean(
    settings: Settings,
    number: int,
    name: str,
    boxes: Sequence[results.Box],
    by: audit.Person,
    role: UserRole,
) -> str:
    """Save the rule and clean the image again; returns why the image cannot be cleaned, "" if it can.

    Raises as :func:`save_rule`: the rule is not saved then.
    """
    save_rule(settings, number, name, boxes, by)
    try:
        draw(settings, number, boxes, by, role)
    except (FaultyInput, NotAllowedNow) as error:
        return str(error)
    return ""


def rules_made_here(settings: Settings) -> list[View]:
    """The rules that were drawn at the console, by name."""
    folder = device_rules_of(settings)
    try:
        known = {rule.name: rule for rule in read_rules(folder)} if folder else {}
    except DeviceRuleError:  # the overview tells of the refused configuration
        return []
    return [
        {
            "name": name,
            "match": {key: value for key, value in rule.match.model_dump().items() if value is not None},
            "rectangles": [[getattr(one, edge) for edge in EDGES] for one in rule.rectangles],
        }
        for name, rule in sorted(known.items())
        if folder and _is_ours(folder / f"{name}.toml")
    ]


def remove_rule(settings: Settings, name: str, by: audit.Person) -> None:
    """Remove a rule that was drawn at the console. Raises NotFound, NotAllowedNow."""
    folder = device_rules_of(settings)
    if folder is None or name not in {row["name"] for row in rules_made_here(settings)}:
        raise NotFound(f"no device rule that was drawn here is called {name!r}")
    with writing(settings) as session:
        audit.note(session, by, AuditAction.RULE_REMOVED, name=name, of="device")
        session.flush()
        try:
            (folder / f"{name}.toml").unlink()
        except OSError as error:
            raise NotAllowedNow(f"the file of {name} cannot be removed: {error.strerror}") from None


def _opened(session: Session, settings: Settings, number: int) -> tuple[Instance, ImageHeader]:
    review = session.get(CleaningReview, number)
    instance = session.get(Instance, review.instance_id) if review else None
    if instance is None or instance.purged:
        raise NotFound("there is no such image, or no longer")
    try:
        path = Files(settings).here(session, instance.path)
        return instance, open_dicom(path).header
    except (PixelError, OSError, StorageError):
        raise NotFound("this image cannot be opened") from None


def _rule(
    settings: Settings, instance: Instance, header: ImageHeader, name: str, boxes: Sequence[results.Box]
) -> tuple[DeviceRule, str]:
    """The rule, and its file. Raises FaultyInput."""
    refuse_faulty(instance, boxes)
    about = conditions_of(header)
    content: dict[str, Any] = {
        "name": name,
        "match": {key: about[key] for key in _KEYS if key in about},
        "rectangles": [dict(zip(EDGES, box, strict=True)) for box in boxes],
    }
    try:
        rule = DeviceRule.model_validate(content)
    except ValidationError as error:
        if any(fault["loc"][:1] == ("name",) for fault in error.errors()):
            raise FaultyInput("name: small letters, digits, dots, - and _, up to 64") from None
        raise FaultyInput("the image names neither manufacturer nor model: no rule can be for it") from None
    try:
        taken = {one.name for one in read_rules(device_rules_of(settings))}
    except DeviceRuleError as error:
        raise FaultyInput(str(error)) from None
    if name in taken:
        raise FaultyInput(f"there is a device rule {name} already: give this one another name")
    rectangles = ",\n    ".join(map(toml_value, content["rectangles"]))
    return rule, (
        f"source = {toml_value(f'{_SOURCE}, {datetime.now(UTC):%Y-%m-%d}')}\n\n[[rule]]\n"
        f"name = {toml_value(content['name'])}\nmatch = {toml_value(content['match'])}\n"
        f"rectangles = [\n    {rectangles},\n]\n"
    )


def _is_ours(path: Path) -> bool:
    try:
        return path.read_text(encoding="utf-8").startswith(f'source = "{_SOURCE}')
    except (OSError, UnicodeDecodeError):
        return False
