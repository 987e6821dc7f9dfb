"""Device rules made of boxes that a person drew: tried on the last images of the device, then saved."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import Field, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from ai_pipeline.burnin.devices.rules import DeviceRule, conditions_of, read_rules
from ai_pipeline.contract import ImageHeader
from ai_pipeline.errors import DeviceRuleError, PixelError
from ai_pipeline.images.decode import open_dicom
from dicom_node.base.actions.action import allowed_to
from dicom_node.base.config.sample import toml_value
from dicom_node.base.config.settings import DEVICE_RULES_FOLDER, Settings
from dicom_node.base.durable import write_new
from dicom_node.base.errors import FaultyInput, NotAllowedNow, NotFound, StorageError
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import AuditAction, ObjectRole, UserRole
from dicom_node.base.store import results
from dicom_node.base.store.tables import CleaningReview, Instance
from dicom_node.base.store.views import View
from dicom_node.jobs.worker.images import device_rules_of
from dicom_node.people import PRINTABLE, audit, writing
from dicom_node.people.audit import Person
from dicom_node.people.cleaning_reviews import EDGES, Boxes, draw_boxes, refuse_faulty_boxes

TRIED: Final = 50
"""Images that a rule is tried on, the newest of the device."""
_SEARCHED: Final = 5000  # of the newest images of the node, for those of the device
_CONDITIONS: Final = ("manufacturer", "model", "software", "modality", "rows", "columns")


class NewRule(Boxes):
    """A request for a new device rule, which removes text from all images of a device: its name and boxes."""

    name: str = Field(min_length=1, max_length=64, pattern=PRINTABLE)


@allowed_to(UserRole.OPERATOR)
def try_device_rule(
    session: Session, settings: Settings, number: int, name: str, boxes: Sequence[results.Box]
) -> View:
    """Show what a device rule of these boxes would do, without writing it: the text of its file, and the
    newest images of the device with the rectangles that it would remove.

    ``number``: of the review whose image it is made from. Raises NotFound, FaultyInput.
    """
    instance, header = _image_and_header(session, settings, number)
    rule, text = _device_rule(settings, instance, header, name, boxes)
    rows: list[View] = []
    door = Files(settings)
    newest = (
        select(Instance.id)
        .where(Instance.role == ObjectRole.SOURCE, ~Instance.purged)
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
            rows.append(
                {
                    "id": other.id,
                    "study_id": other.study_id,
                    "columns": about.columns,
                    "rows": about.rows,
                    "boxes": [
                        list(box) for one in rule.rectangles if (box := one.box(about.rows, about.columns))
                    ],
                }
            )
    return {"text": text, "name": rule.name, "images": rows, "boxes": [list(box) for box in boxes]}


@allowed_to(UserRole.ADMIN)
def save_rule(
    settings: Settings,
    number: int,
    name: str,
    boxes: Sequence[results.Box],
    by: Person,
    role: UserRole,
) -> str:
    """Write a device rule into the site's folder, where the node reads it at its next reload, and clean the
    image again.

    ``number``: of the review whose image it is made from. Returns why the image cannot be cleaned, "" if it
    can. Raises NotFound, FaultyInput, NotAllowedNow (the rule exists, or the node may not write to the
    folder).
    """
    with writing(settings) as session:
        instance, header = _image_and_header(session, settings, number)
        rule, text = _device_rule(settings, instance, header, name, boxes)
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
    try:
        draw_boxes(settings, number, boxes, by, role)
    except (FaultyInput, NotAllowedNow) as error:
        return str(error)
    return ""


def _image_and_header(session: Session, settings: Settings, number: int) -> tuple[Instance, ImageHeader]:
    """The image of the review with this number, and its header. Raises NotFound."""
    review = session.get(CleaningReview, number)
    instance = session.get(Instance, review.instance_id) if review else None
    if instance is None or instance.purged:
        raise NotFound("there is no such image, or no longer")
    try:
        return instance, open_dicom(Files(settings).here(session, instance.path)).header
    except (PixelError, OSError, StorageError):
        raise NotFound("this image cannot be opened") from None


def _device_rule(
    settings: Settings, instance: Instance, header: ImageHeader, name: str, boxes: Sequence[results.Box]
) -> tuple[DeviceRule, str]:
    """A device rule of these boxes for devices like that of the image, and the text of its file. Raises
    FaultyInput.
    """
    refuse_faulty_boxes(instance, boxes)
    about = conditions_of(header)
    content: dict[str, Any] = {
        "name": name,
        "match": {key: about[key] for key in _CONDITIONS if key in about},
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
        f"source = {toml_value(f'drawn at the console, {datetime.now(UTC):%Y-%m-%d}')}\n\n[[rule]]\n"
        f"name = {toml_value(content['name'])}\nmatch = {toml_value(content['match'])}\n"
        f"rectangles = [\n    {rectangles},\n]\n"
    )
