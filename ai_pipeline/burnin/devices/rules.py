"""Device rules: where a scanner writes the patient's name, and what else is known of its screen, by maker and
model, in TOML; a site may add some.

A site's own folder is named by the node's ``device_rules_dir``, ``--device-rules`` or the environment's
``AI_PIPELINE_DEVICE_RULES``; a rule there replaces the shipped one of the same name. A file with a mistake is
refused, and with it all rules: half of a set of rules would let a name through.
"""

import math
import os
import tomllib
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import cache
from glob import escape
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    field_validator,
    model_validator,
)

from ai_pipeline.burnin.devices.profile import MOST_TEXTS, NOT_KNOWN, Screen, ScreenText
from ai_pipeline.burnin.find.annotation import Box
from ai_pipeline.contract import ImageHeader, Meaning, QualityNote
from ai_pipeline.errors import DeviceRuleError, RuleFault
from ai_pipeline.mistakes import mistakes

DEVICE_RULES = "AI_PIPELINE_DEVICE_RULES"
SHIPPED = Path(__file__).parent
MOST_RULES = 5000
"""Rules of one file, at most; CTP's library has 52 signatures, deid's 118."""
LARGEST_DEVICE_SHARE = 0.5
"""Share of the picture under device rules, from which they are for another layout of the device."""


def _edge(value: object) -> int | float:
    """Check an edge of a rectangle: pixels (int) or a share (float, 0 to 1). Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number: 60 is pixels, 0.1 a share of the picture")
    if value < 0 or (isinstance(value, float) and value > 1):
        raise ValueError("must be pixels (0, 1, 2 …) or, with a decimal point, a share from 0.0 to 1.0")
    return value


def _glob(value: str) -> str:
    """Normalise a text pattern. Raises ValueError if it is empty."""
    if not (pattern := _plain(value)):
        raise ValueError("must not be empty: leave the key out to match any value")
    return pattern


Edge = Annotated[int | float, PlainValidator(_edge)]
Glob = Annotated[str, AfterValidator(_glob)]
Size = Annotated[int, Field(strict=True, ge=1)]


class _RuleTable(BaseModel):
    """Base of the classes that check tables of device rules."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Match(_RuleTable):
    """The images that a rule applies to: all conditions must hold.

    Texts are patterns (``*`` any characters, ``?`` one) for the whole value; capitals make no difference.
    """

    manufacturer: Glob | None = None  # (0008,0070)
    model: Glob | None = None  # (0008,1090)
    software: Glob | None = None  # (0018,1020); one of its values has to fit
    rows: Size | None = None
    columns: Size | None = None
    modality: str | None = None
    sop_class: str | None = None

    @model_validator(mode="after")
    def _names_a_device(self) -> Self:
        """Raise ValueError if neither manufacturer nor model is given."""
        if self.manufacturer is None and self.model is None:
            raise ValueError("names no device: give manufacturer or model")
        return self

    def fits(self, header: ImageHeader) -> bool:
        """Whether an image meets every condition: maker, model, software, modality, SOP Class and size."""
        texts = (
            (self.manufacturer, "Manufacturer"),
            (self.model, "ManufacturerModelName"),
            (self.software, "SoftwareVersions"),
        )
        exact: tuple[tuple[object, object], ...] = (
            (self.rows, header.rows),
            (self.columns, header.columns),
            (self.modality, header.modality),
            (self.sop_class, header.sop_class_uid),
        )
        return all(wanted is None or wanted == value for wanted, value in exact) and all(
            pattern is None
            or any(
                fnmatchcase(value, pattern)
                for value in map(_plain, header.attributes.get(keyword, "").split("\\"))
            )
            for pattern, keyword in texts
        )


class Rectangle(_RuleTable):
    """A part of the picture. Whole numbers are pixels, decimal numbers are shares of the picture's sides.

    ``right`` and ``bottom`` are exclusive; a part that reaches beyond the picture is cut off.
    """

    left: Edge
    top: Edge
    right: Edge
    bottom: Edge

    @model_validator(mode="after")
    def _has_area(self) -> Self:
        """Raise ValueError for a rectangle without area."""
        for low, high, what in ((self.left, self.right, "right"), (self.top, self.bottom, "bottom")):
            if type(low) is type(high) and low >= high:
                raise ValueError(f"{what} must be greater than {'left' if what == 'right' else 'top'}")
        return self

    def box(self, rows: int, columns: int) -> Box | None:
        """The :data:`Box` in a picture of ``rows`` × ``columns`` pixels; None where it lies outside."""
        left, right = _pixel(self.left, columns, math.floor), _pixel(self.right, columns, math.ceil)
        top, bottom = _pixel(self.top, rows, math.floor), _pixel(self.bottom, rows, math.ceil)
        return (left, top, right, bottom) if left < right and top < bottom else None


class DeviceRule(_RuleTable):
    """A device rule: the places where a device writes text into its pictures. ``rectangles = []`` switches a
    shipped rule of this name off. ``texts``: the profile of a screen, what stays where it stands so.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)]
    match: Match
    rectangles: tuple[Rectangle, ...]
    meaning: Meaning = Meaning.IDENTITY
    comment: str = ""
    texts: Annotated[tuple[ScreenText, ...], Field(max_length=MOST_TEXTS)] = ()

    @model_validator(mode="after")
    def _is_of_one_size(self) -> Self:
        """Raise ValueError for texts of pictures of any size: their places are pixels."""
        if self.texts and not (self.match.rows and self.match.columns):
            raise ValueError("texts need match.rows and match.columns")
        return self


class _RuleFile(_RuleTable):
    """A file of device rules."""

    source: Annotated[str, Field(min_length=1)]
    licence: str = ""
    rule: Annotated[tuple[DeviceRule, ...], Field(min_length=1, max_length=MOST_RULES)]

    @field_validator("rule")
    @classmethod
    def _names_are_unique(cls, found: tuple[DeviceRule, ...]) -> tuple[DeviceRule, ...]:
        """Raise ValueError if two rules have one name."""
        counts = Counter(rule.name for rule in found)
        if twice := sorted(name for name, count in counts.items() if count > 1):
            raise ValueError(f"{', '.join(twice)} is there twice; names are unique")
        return found


def device_rules(folder: Path | None = None) -> tuple[DeviceRule, ...]:
    """The shipped rules and those in ``folder``, by default in the environment's; read once per process.

    Raises :class:`DeviceRuleError`.
    """
    return _read_once(folder or from_environment())


def read_rules(folder: Path | None) -> tuple[DeviceRule, ...]:
    """The shipped rules and those in ``folder``, by name. Raises :class:`DeviceRuleError` with all faults."""
    faults: list[RuleFault] = []
    found = _folder(SHIPPED, faults)
    if folder is not None:
        found |= _folder(folder, faults)
    if faults:
        raise DeviceRuleError(faults)
    return tuple(found[name] for name in sorted(found))


def read_file(path: Path) -> tuple[DeviceRule, ...]:
    """The rules in one file. Raises :class:`DeviceRuleError` with all faults."""
    faults: list[RuleFault] = []
    found = _file(path, faults)
    if faults:
        raise DeviceRuleError(faults)
    return found


def from_environment() -> Path | None:
    """The site's folder of device rules that the environment variable names; None if it is not set."""
    return Path(value) if (value := os.environ.get(DEVICE_RULES)) else None


def site_folder(named: Path | None, otherwise: Path) -> Path | None:
    """The site's folder: ``named`` if given, else the environment's, else ``otherwise`` if it exists."""
    return named or from_environment() or (otherwise if otherwise.is_dir() else None)


_read_once = cache(read_rules)


def _folder(folder: Path, faults: list[RuleFault]) -> dict[str, DeviceRule]:
    """Read the rules in a folder, by name; mistakes are added to ``faults``."""
    if not folder.is_dir():
        faults.append(
            RuleFault(folder, "", "the folder of device rules does not exist: make it, or correct its name")
        )
    found: dict[str, DeviceRule] = {}
    for path in sorted(folder.glob("*.toml")):
        rules = _file(path, faults)
        if twice := ", ".join(sorted(found.keys() & {rule.name for rule in rules})):
            faults.append(RuleFault(path, "rule.name", f"{twice}: in another file of this folder too"))
        found |= {rule.name: rule for rule in rules}
    return found


def _file(path: Path, faults: list[RuleFault]) -> tuple[DeviceRule, ...]:
    """Read the rules in one file; mistakes are added to ``faults``."""
    try:
        read = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        faults.append(RuleFault(path, "", f"cannot be read: {error.strerror}"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        faults.append(RuleFault(path, "", f"is not valid TOML: {error}"))
    else:
        try:
            return _RuleFile.model_validate(read).rule
        except ValidationError as error:
            faults += [
                RuleFault(path, f"{one.key}{_name_of(one.place, read)}", one.remedy)
                for one in mistakes(error)
            ]
    return ()


def _name_of(place: tuple[int | str, ...], read: dict[str, Any]) -> str:
    """The name, in parentheses, of the rule with a mistake at ``place``; "" without a name. It is shown
    because the number of the rule counts from zero.
    """
    match place:
        case ("rule", int(number), *_):
            rule = read["rule"][number]
            return f" (rule {rule['name']})" if isinstance(rule, dict) and "name" in rule else ""
    return ""


def _pixel(edge: float, size: int, rounded: Callable[[float], int]) -> int:
    """Convert an edge to pixels of a side of ``size`` pixels; ``rounded``: how a share is rounded."""
    return min(rounded(edge * size) if isinstance(edge, float) else edge, size)


def _plain(text: str) -> str:
    """Normalise a text: small letters, single spaces."""
    return " ".join(text.split()).lower()


def matching_rules(header: ImageHeader, folder: Path | None = None) -> tuple[DeviceRule, ...]:
    """The rules that match this image. Raises :class:`ai_pipeline.errors.DeviceRuleError`."""
    return tuple(rule for rule in device_rules(folder) if rule.match.fits(header))


def device_boxes(
    header: ImageHeader, shape: tuple[int, ...], folder: Path | None = None
) -> tuple[tuple[DeviceRule, Box], ...]:
    """The rectangles of the device rules that match this image, each with its rule, clipped to a picture of
    ``shape`` (rows, columns, …).
    """
    return tuple(
        (rule, box)
        for rule in matching_rules(header, folder)
        for rectangle in rule.rectangles
        if (box := rectangle.box(shape[0], shape[1]))
    )


def screen_of(header: ImageHeader, folder: Path | None = None) -> Screen:
    """What is known of the screen on this image. Raises :class:`ai_pipeline.errors.DeviceRuleError`."""
    texts = [text for rule in matching_rules(header, folder) for text in rule.texts]
    return Screen(texts) if texts else NOT_KNOWN


def device_note(
    header: ImageHeader, folder: Path | None = None, source_uid: str | None = None
) -> QualityNote | None:
    """A note that names the device rules that match this image; None if none does."""
    names = ", ".join(rule.name for rule in matching_rules(header, folder))
    return QualityNote("device_rules", f"device rules for this image: {names}", source_uid) if names else None


def conditions_of(header: ImageHeader) -> dict[str, str | int]:
    """The conditions that a device rule for this image could have, by the rule's keys; conditions on
    attributes that the image lacks are left out.
    """
    texts = ("Manufacturer", "ManufacturerModelName", "SoftwareVersions")
    maker, model, software = (escape(header.attributes.get(text, "").split("\\")[0]) for text in texts)
    conditions: dict[str, str | int] = {
        "modality": header.modality,
        "manufacturer": maker,
        "model": model,
        "software": software,
        "rows": header.rows,
        "columns": header.columns,
        "sop_class": header.sop_class_uid,
    }
    return {key: value for key, value in conditions.items() if value}
