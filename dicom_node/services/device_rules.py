"""Device rules made of boxes that a person drew: tried on the last images of the device, then saved."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from ai_pipeline.burnin.devices.rules import DeviceRule, conditions_of, read_rules
from ai_pipeline.contract import ImageHeader
from ai_pipeline.errors import DeviceRuleError, PixelError
from ai_pipeline.images.decode import open_dicom
from dicom_node.config.sample import toml_value
from dicom_node.config.sections import DEVICE_RULES_FOLDER
from dicom_node.config.settings import Settings
from dicom_node.errors import FaultyInput, NotAllowedNow, NotFound, StorageError
from dicom_node.jobs.worker.at_start import device_rules_of
from dicom_node.model.kinds import AuditAction, ObjectRole
from dicom_node.model.roles import UserRole
from dicom_node.new_file import write_new
from dicom_node.object_store.files import Files
from dicom_node.services import PRINTABLE, Row, ServiceResult, audit, cleaning_reviews, writing
from dicom_node.store.burned_in import Box
from dicom_node.store.tables import CleaningReview, Instance
from dicom_node.store.views import View

TRIED: Final = 50
"""Images that a rule is tried on, the newest of the device."""
_SEARCHED: Final = 5000  # of the newest images of the node, for those of the device
_KEYS: Final = ("manufacturer", "model", "software", "modality", "rows", "columns")
_SOURCE: Final = "drawn at the console"


class NewRule(cleaning_reviews.Boxes):
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


def tried(session: Session, settings: Settings, number: int, name: str, boxes: Sequence[Box]) -> View:
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
            about = open_dicom(door.here(session, other.path), settings.images.limits).header
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


def save(settings: Settings, number: int, name: str, boxes: Sequence[Box], by: audit.Person) -> None:
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


def save_and_clean(
    settings: Settings, number: int, name: str, boxes: Sequence[Box], by: audit.Person, role: UserRole
) -> str:
    """Save the rule and clean the image again; returns why the image cannot be cleaned, "" if it can.

    Raises as :func:`save`: the rule is not saved then.
    """
    save(settings, number, name, boxes, by)
    try:
        cleaning_reviews.draw(settings, number, boxes, by, role)
    except (FaultyInput, NotAllowedNow) as error:
        return str(error)
    return ""


def made_here(settings: Settings) -> list[View]:
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
            "rectangles": [
                [getattr(one, edge) for edge in cleaning_reviews.EDGES] for one in rule.rectangles
            ],
        }
        for name, rule in sorted(known.items())
        if folder and _is_ours(folder / f"{name}.toml")
    ]


def remove(settings: Settings, name: str, by: audit.Person) -> None:
    """Remove a rule that was drawn at the console. Raises NotFound, NotAllowedNow."""
    folder = device_rules_of(settings)
    if folder is None or name not in {row["name"] for row in made_here(settings)}:
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
        return instance, open_dicom(path, settings.images.limits).header
    except (PixelError, OSError, StorageError):
        raise NotFound("this image cannot be opened") from None


def _rule(
    settings: Settings, instance: Instance, header: ImageHeader, name: str, boxes: Sequence[Box]
) -> tuple[DeviceRule, str]:
    """The rule, and its file. Raises FaultyInput."""
    cleaning_reviews.refuse_faulty(instance, boxes)
    about = conditions_of(header)
    content: dict[str, Any] = {
        "name": name,
        "match": {key: about[key] for key in _KEYS if key in about},
        "rectangles": [dict(zip(cleaning_reviews.EDGES, box, strict=True)) for box in boxes],
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
