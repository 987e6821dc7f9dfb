"""Screens of devices that the node has learnt: an admin sees what stays, confirms it, takes others' rules.

A confirmed screen is a device rule in a file of the site's folder, named after the device.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from ai_pipeline.burnin.devices.rules import DeviceRule, read_file, read_rules
from ai_pipeline.errors import DeviceRuleError
from dicom_node.base.actions.action import Action, Input
from dicom_node.base.actions.columns import fields, times, yes_no
from dicom_node.base.actions.inputs import limit as at_most
from dicom_node.base.actions.nouns import SCREENS
from dicom_node.base.config.settings import DEVICE_RULES_FOLDER, Settings
from dicom_node.base.durable import sync_folder, write_new
from dicom_node.base.errors import FaultyInput, NotAllowedNow
from dicom_node.base.lifecycle import AuditAction, UserRole
from dicom_node.base.store.tables import LearntScreen
from dicom_node.base.store.views import View, columns
from dicom_node.jobs.worker.images import device_rules_of
from dicom_node.jobs.worker.screens import key_of
from dicom_node.people import ServiceRequest, audit, existing, reading, writing
from dicom_node.people.audit import COMMAND_LINE, Person

if TYPE_CHECKING:
    from ai_pipeline.burnin.screens.offers import Offer

_UNKNOWN: Final = "no screen is learnt under this number"
_LARGEST_FILE: Final = 1 << 20  # bytes of a file of device rules that is taken
_MOST_SCREENS: Final = 100  # rules of such a file
Number = Annotated[int, Input("Its number, as `screens list` shows it.", metavar="SCREEN", least=1)]
Texts = Annotated[
    Sequence[str],
    Input("Only this text stays, as `screens show` writes it; repeatable. Else all proposed.", "--text"),
]


class ChosenTexts(ServiceRequest):
    """A request with the texts of a screen that stay; none for all that are proposed."""

    texts: tuple[str, ...] = ()


@Action(
    SCREENS,
    "list",
    "List the devices whose screens are learnt, the newest first.",
    columns=(
        *fields("screen", "manufacturer", "model", "software", "size", "patients"),
        yes_no("confirmed", "confirmed"),
        *times("changed: changed_at"),
    ),
    none="No screen is learnt yet.",
    role=UserRole.ADMIN,
)
def list_screens(
    session: Session,
    settings: Settings,
    *,
    limit: Annotated[int | None, at_most(50)] = None,
    before: int | None = None,
) -> list[View]:
    """Rows for the screens that are learnt, the newest first. ``before``: only those with a lower number."""
    chosen = select(LearntScreen).order_by(LearntScreen.id.desc()).limit(limit)
    if before is not None:
        chosen = chosen.where(LearntScreen.id < before)
    confirmed = _rules(settings)
    return [_row(row, confirmed) for row in session.scalars(chosen)]


@Action(
    SCREENS,
    "show",
    "Show what is proposed for a screen: which text stays, which goes, which is asked about.\n\n"
    "A text is shown once it stood there for 20 patients; none of a person, a place or a day.",
    "3 --config node.toml",
    details=lambda row: row,
    parts={"texts": fields("choice", "text", "patients", "left", "top", "right", "bottom")},
    role=UserRole.ADMIN,
)
def show_screen(session: Session, settings: Settings, number: Number) -> View:
    """The screen with this number, with what is proposed for each place. Raises NotFound, ConfigurationError
    (the site key).
    """
    row = existing(session, LearntScreen, number, _UNKNOWN)
    confirmed = _rules(settings)
    rule = confirmed.get(row.name)
    known = {text.text for text in rule.texts} if rule else set()
    return {
        **_row(row, confirmed),
        "rows": row.device["rows"],
        "columns": row.device["columns"],
        "texts": [_offer(offer, known) for offer in _offers(settings, row)],
    }


@Action(
    SCREENS,
    "confirm",
    "Confirm a screen: the texts that are proposed stay on this device from now on; the rest goes as before.",
    "3 --config node.toml",
    says="{result} texts of this screen stay once the node has reloaded: dicom-node reload",
    role=UserRole.ADMIN,
)
def confirm_screen(settings: Settings, number: Number, texts: Texts = (), by: Person = COMMAND_LINE) -> int:
    """Write the device rule of a screen, in place of a former one; returns how many texts stay.

    ``texts``: those that stay; none for all that are proposed. Raises NotFound, FaultyInput (a text that is
    not offered, or none stays), NotAllowedNow.
    """
    from ai_pipeline.burnin.screens.rule_file import file_text

    with reading(settings) as session:
        offers = _offers(settings, existing(session, LearntScreen, number, _UNKNOWN))
    with writing(settings) as session:
        row = existing(session, LearntScreen, number, _UNKNOWN, lock=True)
        rule = _rule_of(row, offers, texts)
        source = f"learnt from {row.patients} patients or more, {datetime.now(UTC):%Y-%m-%d}"
        audit.note(session, by, AuditAction.RULE_SAVED, name=rule.name, of="screen", texts=len(rule.texts))
        session.flush()
        _write(settings, rule, file_text(source, [rule]))
    return len(rule.texts)


@Action(
    SCREENS,
    "export",
    "Print the device rule of a confirmed screen, for another site; it names no patient and no place.",
    "3 --config node.toml > room3.toml",
    says="{result}",
    role=UserRole.ADMIN,
)
def export_screen(settings: Settings, number: Number) -> str:
    """The file of a confirmed screen. Raises NotFound, NotAllowedNow for one that is not confirmed."""
    from ai_pipeline.burnin.screens.rule_file import file_text

    with reading(settings) as session:
        name = existing(session, LearntScreen, number, _UNKNOWN).name
    rule = _rules(settings).get(name)
    if rule is None:
        raise NotAllowedNow("this screen is not confirmed: look at it, and confirm it first")
    return file_text(f"learnt by dicom-node, {datetime.now(UTC):%Y-%m-%d}", [rule]).rstrip()


@Action(
    SCREENS,
    "import",
    "Take the rules of screens from a file that another site, or `ai-pipeline learn-screen`, has written.",
    "room3.toml --config node.toml",
    says="{result} screens are confirmed once the node has reloaded: dicom-node reload",
    role=UserRole.ADMIN,
)
def import_screens(
    settings: Settings,
    file: Annotated[Path, Input("File of device rules.", metavar="FILE")],
    by: Person = COMMAND_LINE,
) -> int:
    """Take the rules of a file, each in place of a former one of its name; returns how many. Raises
    FaultyInput for a file with a mistake, or with rules that are not of screens.
    """
    from ai_pipeline.burnin.screens.rule_file import file_text, is_screen_rule

    try:
        size = file.stat().st_size
        rules = read_file(file) if size <= _LARGEST_FILE else ()
    except DeviceRuleError as error:
        raise FaultyInput(str(error)) from None
    except OSError as error:
        raise FaultyInput(f"{file} cannot be read: {error.strerror}") from None
    if not rules or len(rules) > _MOST_SCREENS or not all(map(is_screen_rule, rules)):
        raise FaultyInput(
            f"{file} is no file of screens: each of its rules, at most {_MOST_SCREENS}, needs texts, no "
            "rectangles, and a maker or model and a size without patterns"
        )
    with writing(settings) as session:
        for rule in rules:
            audit.note(
                session, by, AuditAction.RULE_SAVED, name=rule.name, of="screen", texts=len(rule.texts)
            )
        session.flush()
        for rule in rules:
            _write(settings, rule, file_text(f"taken from {file.name}", [rule]))
    return len(rules)


@Action(
    SCREENS,
    "forget",
    "Delete what is counted of a screen, and its device rule: it is learnt anew.",
    "3 --config node.toml",
    says="Screen {number} is forgotten.",
    role=UserRole.ADMIN,
)
def forget_screen(settings: Settings, number: Number, by: Person = COMMAND_LINE) -> None:
    """Delete the counts of a screen, and its rule if it is confirmed. Raises NotFound, NotAllowedNow."""
    with writing(settings) as session:
        row = existing(session, LearntScreen, number, _UNKNOWN, lock=True)
        audit.note(session, by, AuditAction.RULE_REMOVED, name=row.name, of="screen")
        session.delete(row)
        session.flush()
        file = _place_of(settings, row.name)
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise NotAllowedNow(f"{file} cannot be deleted: {error.strerror}") from None


def _rules(settings: Settings) -> dict[str, DeviceRule]:
    """The device rules of screens that are in the site's folder, by name; none if a rule has a mistake."""
    try:
        return {rule.name: rule for rule in read_rules(device_rules_of(settings)) if rule.texts}
    except DeviceRuleError:
        return {}


def _row(row: LearntScreen, confirmed: Collection[str]) -> View:
    """A screen as a row of lists."""
    device = row.device
    return {
        "screen": row.id,
        **{key: str(device.get(key, "")) for key in ("manufacturer", "model", "software")},
        "size": f"{device.get('columns', '?')} × {device.get('rows', '?')}",
        **columns(row, "name", "patients", "changed_at"),
        "confirmed": row.name in confirmed,
    }


def _offers(settings: Settings, row: LearntScreen) -> "list[Offer]":
    """What is proposed for a screen."""
    from ai_pipeline.burnin.screens.counting import ScreenCounts

    key = key_of(settings.node.data_dir)
    return ScreenCounts.from_bytes(key, int(row.device["rows"]), row.counted).offers()


def _offer(offer: "Offer", confirmed: Collection[str]) -> Mapping[str, Any]:
    """A place of a screen as a row."""
    edges = dict(zip(("left", "top", "right", "bottom"), offer.box, strict=True))
    return {
        "choice": str(offer.choice),
        "text": offer.text,
        "patients": offer.patients,
        **edges,
        "confirmed": offer.text in confirmed,
    }


def _rule_of(row: LearntScreen, offers: "Sequence[Offer]", texts: Sequence[str]) -> DeviceRule:
    """The device rule of a screen by which these texts stay. Raises FaultyInput."""
    from ai_pipeline.burnin.screens.counting import FEWEST_PATIENTS
    from ai_pipeline.burnin.screens.offers import Choice
    from ai_pipeline.burnin.screens.rule_file import Device, screen_rule

    offered = {offer.text for offer in offers if offer.choice is not Choice.GOES}
    proposed = {offer.text for offer in offers if offer.choice is Choice.STAYS}
    if not offered.issuperset(texts):
        raise FaultyInput("a text is not offered: write it as `screens show` does")
    try:
        return screen_rule(Device(tuple(row.device.items())), offers, texts or proposed)
    except ValueError:
        raise FaultyInput(
            f"no text of this screen would stay: a text counts once {FEWEST_PATIENTS} patients had it"
        ) from None


def _place_of(settings: Settings, name: str) -> Path:
    """The file of the rule of this name in the site's folder, whether it exists or not. Raises NotAllowedNow
    if a shipped rule, or another file of the folder, has that name, or the rules there have a mistake: a
    second one would stop the node, or stand in place of a rule with rectangles.
    """
    folder = device_rules_of(settings) or settings.node.data_dir / DEVICE_RULES_FOLDER
    place = folder / f"{name}.toml"
    try:
        names = {rule.name for rule in read_rules(folder if folder.is_dir() else None)}
        there = read_file(place) if place.exists() else ()
    except DeviceRuleError as error:
        raise NotAllowedNow(str(error)) from None
    if name in names and not there:
        raise NotAllowedNow(f"another file in {folder} has the device rule {name}: delete it there first")
    if any(rule.rectangles or rule.name != name for rule in there):
        raise NotAllowedNow(f"{place} has other device rules: move them into a file of another name first")
    return place


def _write(settings: Settings, rule: DeviceRule, text: str) -> None:
    """Write the file of a rule, in place of a former one. Raises NotAllowedNow."""
    place = _place_of(settings, rule.name)
    new = place.with_suffix(".new")
    try:
        new.unlink(missing_ok=True)
        write_new(new, text)
        new.replace(place)
        sync_folder(place.parent)
    except OSError as error:
        raise NotAllowedNow(
            f"device rules cannot be written here ({error.strerror}): put these lines into a file of "
            f"workers.device_rules_dir\n{text}"
        ) from None
