"""Signatures: the conditions by which a pixel script of another program says which images a rectangle is for.

CTP and deid compare any attribute of the header; a device rule has seven conditions. What these cannot
express is refused by name, never dropped: a rule without one of its conditions would blacken other images.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from glob import escape
from typing import Any, Final

from pydicom.datadict import keyword_for_tag

from ai_pipeline.burnin.devices.rules import Match
from ai_pipeline.burnin.find.annotation import Box

MOST_ALTERNATIVES: Final = 64
"""Combinations of conditions joined by "or" that one signature may have; each becomes a device rule."""
MOST_CONDITIONS: Final = 200
"""Conditions of one signature, at most."""
LARGEST: Final = 65535
"""Rows and columns of a DICOM image, at most (US, PS3.5 6.2)."""
_LONGEST = 64  # characters of a value of VR LO
_TEXTS = {"Manufacturer": "manufacturer", "ManufacturerModelName": "model", "SoftwareVersions": "software"}
_SIZES = {"Rows": "rows", "Columns": "columns"}
_KEYS = {**_TEXTS, **_SIZES, "Modality": "modality", "SOPClassUID": "sop_class"}


class CannotTake(ValueError):
    """A part of a script that no device rule can express. The text says why."""


class Comparison(StrEnum):
    """How a condition compares a value of the header with its own; capitals make no difference."""

    EQUALS = "equals"
    CONTAINS = "contains"
    STARTS = "startswith"
    ENDS = "endswith"


_PATTERNS = {
    Comparison.EQUALS: "{}",
    Comparison.CONTAINS: "*{}*",
    Comparison.STARTS: "{}*",
    Comparison.ENDS: "*{}",
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of a signature. ``keyword``: of the attribute (PS3.6), or what the script has for it."""

    keyword: str
    comparison: Comparison
    value: str

    def implies(self, other: "Condition") -> bool:
        """Whether each value that fits this condition fits ``other``, of the same attribute, too."""
        mine, its = self.value.casefold(), other.value.casefold()
        return (self.comparison, mine) == (other.comparison, its) or (
            other.comparison is Comparison.CONTAINS and its in mine
        )


Alternatives = tuple[tuple[Condition, ...], ...]
"""A signature as a disjunction: an image fits if all conditions of one of the tuples hold."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature with its rectangles (pixels; right and bottom exclusive). ``line`` of the script, from 1;
    ``name``: what the script calls it.
    """

    line: int
    name: str
    alternatives: Alternatives
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class NotTaken:
    """A part of a script that becomes no device rule: its ``line``, from 1, the ``part``, and ``why``."""

    line: int
    part: str
    why: str

    def __str__(self) -> str:
        """Line, part and reason in one line of printable characters."""
        return f"line {self.line}: {printable(self.part)[:_LONGEST]}: {printable(self.why)}"


def printable(text: str) -> str:
    """The text in one line; "?" for control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))


def either(first: Alternatives, second: Alternatives) -> Alternatives:
    """The signature of images that fit one of two. Raises CannotTake if it has too many alternatives."""
    _refuse_too_many(len(first) + len(second))
    return first + second


def both(first: Alternatives, second: Alternatives) -> Alternatives:
    """The signature of images that fit two. Raises CannotTake if it has too many alternatives."""
    _refuse_too_many(len(first) * len(second))
    return tuple(mine + its for mine in first for its in second)


def keyword_of(tag: str) -> str:
    """The keyword of a tag such as ``[0008,0070]`` or ``0x00080070``; any other text as it is."""
    digits = re.fullmatch(r"\[?(?:0x)?([0-9a-fA-F]{4}),?([0-9a-fA-F]{4})\]?", tag)
    return (keyword_for_tag(int(digits[1] + digits[2], 16)) or tag) if digits else tag


def corners(text: str, *, sized: bool) -> Box:
    """The rectangle of four numbers: left, top, then width and height if ``sized``, else right and bottom.

    Raises CannotTake if they are no four numbers up to :data:`LARGEST`, or the rectangle has no area.
    """
    numbers = re.fullmatch(r"\s*(\d{1,5})" + r"\s*,\s*(\d{1,5})" * 3 + r"\s*", text, re.ASCII)
    if numbers is None:
        raise CannotTake("no four whole numbers of pixels with up to five digits, separated by commas")
    left, top, right, bottom = map(int, numbers.groups())
    if sized:
        right, bottom = left + right, top + bottom
    if left >= right or top >= bottom or max(left, top) >= LARGEST:
        raise CannotTake("a rectangle without area")
    return left, top, min(right, LARGEST), min(bottom, LARGEST)


def matches(alternatives: Alternatives) -> Iterator[Match]:
    """Yield the conditions of a device rule for each alternative. Raises CannotTake for a condition that
    device rules lack, and for a signature that names no device or fits too many.
    """
    for conditions in alternatives:
        strictest: dict[str, Condition] = {}
        for condition in conditions:
            if (key := _KEYS.get(condition.keyword)) is None:
                raise CannotTake(f"device rules have no condition on {condition.keyword[:_LONGEST]}")
            strictest[key] = _stricter(key, strictest.get(key, condition), condition)
        if not {"manufacturer", "model"} & strictest.keys():
            raise CannotTake("names neither manufacturer nor model: it would fit images of any device")
        if not {"model", "rows", "columns"} & strictest.keys():
            raise CannotTake("names neither model nor size: it would fit every image of the manufacturer")
        values: dict[str, Any] = {key: _value(key, condition) for key, condition in strictest.items()}
        yield Match(**values)


def _stricter(key: str, first: Condition, second: Condition) -> Condition:
    """The one of two conditions on ``key`` that implies the other. Raises CannotTake if none does."""
    if first.implies(second):
        return first
    if second.implies(first):
        return second
    raise CannotTake(f"two conditions on {key}: a device rule has one")


def _value(key: str, condition: Condition) -> str | int:
    """The value of a condition in the syntax of device rules. Raises CannotTake."""
    comparison, value = condition.comparison, condition.value.strip()
    exact = comparison is Comparison.EQUALS
    if key in _SIZES.values():
        if exact and re.fullmatch("[0-9]{1,5}", value) and 0 < int(value) <= LARGEST:
            return int(value)
        raise CannotTake(f"{key} can only equal a number from 1 to {LARGEST}")
    if key == "sop_class":
        if exact and re.fullmatch("[0-9.]{1,64}", value):
            return value
        raise CannotTake("the SOP Class can only equal a UID")
    if key == "modality":
        # Scripts write "contains US"; of the defined terms (PS3.3 C.7.3.1.1.1) that one is meant.
        if comparison in (Comparison.EQUALS, Comparison.CONTAINS) and re.fullmatch("[A-Za-z]{2,16}", value):
            return value.upper()
        raise CannotTake("the modality can only be one word of letters")
    if not value.isprintable() or set(value) & {"\\", "\N{REPLACEMENT CHARACTER}"} or len(value) > _LONGEST:
        raise CannotTake(f"the value of {key} has control characters or more than {_LONGEST} characters")
    if sum(map(str.isalnum, value)) < 2:
        raise CannotTake(f"the value of {key} has fewer than two letters or digits: it would fit too much")
    return _PATTERNS[comparison].format(escape(value))


def _refuse_too_many(alternatives: int) -> None:
    """Raise CannotTake for more alternatives than a signature may have."""
    if alternatives > MOST_ALTERNATIVES:
        raise CannotTake(f"has more than {MOST_ALTERNATIVES} alternatives")
