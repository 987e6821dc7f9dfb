"""Read recipes of pydicom's deid: sections ``%filter``, labels with conditions, and rectangles.

Source: "Recipe: filters" and "labels" of deid's documentation (pydicom.github.io/deid). Conditions are read
as documented there, from left to right; its sections that keep places or images are not taken.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ai_pipeline.burnin.devices.signatures import (
    MOST_CONDITIONS,
    Alternatives,
    CannotTake,
    Comparison,
    Condition,
    NotTaken,
    Signature,
    both,
    corners,
    either,
    keyword_of,
)
from ai_pipeline.burnin.find.annotation import Box

_LONGEST_LINE = 1000  # characters
_FILTERS = "contains|notcontains|equals|notequals|missing|present|empty|notempty"
_JOINED = re.compile(rf"(\|\||\+)\s*(?=(?:{_FILTERS})\b)", re.IGNORECASE)
_RECTANGLE = re.compile(r"(ctp)?(keep)?coordinates\b(.*)", re.IGNORECASE)


def is_recipe(text: str) -> bool:
    """Whether a file is a recipe of deid: it has a section of filters."""
    return re.search(r"^[ \t]*%filter\b", text, re.IGNORECASE | re.MULTILINE) is not None


def read_recipe(text: str) -> Iterator[Signature | NotTaken]:
    """Yield each label of a recipe with its rectangles, and each part that cannot be taken."""
    section, label = "", None
    for number, row in enumerate(text.split("\n"), start=1):
        line = row.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("%") or (section.startswith("%filter") and line.upper().startswith("LABEL")):
            if label is not None:
                yield from label.taken()
            label = None
        if line.startswith("%"):
            section = line.partition("#")[0].strip().lower()
            if not section.startswith("%filter"):
                yield NotTaken(number, line, "changes the header: see the option deidentify of rules")
        elif line.upper().startswith("LABEL") and section.startswith("%filter"):
            label = _Label(number, line[5:].partition("#")[0].strip(), section.split()[-1])
        elif label is not None:
            label.read(number, line)
        elif section.startswith("%filter"):
            yield NotTaken(number, line, "is before the first LABEL of its section")
    if label is not None:
        yield from label.taken()


@dataclass(slots=True)
class _Label:
    """A label that is being read: its line, name and section, and what its lines say. ``why``: why its
    conditions cannot be taken; "" if they can.
    """

    line: int
    name: str
    section: str
    alternatives: Alternatives = ()
    conditions: int = 0
    boxes: list[Box] = field(default_factory=list)
    left: list[NotTaken] = field(default_factory=list)
    why: str = ""

    def read(self, number: int, line: str) -> None:
        """Read line ``number`` of the recipe, which belongs to this label."""
        try:
            if len(line) > _LONGEST_LINE:
                raise CannotTake(f"a line has more than {_LONGEST_LINE} characters")
            if rectangle := _RECTANGLE.match(line):
                self._read_rectangle(number, *rectangle.groups(default=""))
            else:
                self._read_filters(line)
        except CannotTake as error:
            self.why = self.why or str(error)

    def _read_rectangle(self, number: int, ctp: str, keep: str, value: str) -> None:
        """Read the rectangle of a line; what no device rule has is named."""
        try:
            if keep:
                raise CannotTake("keeps a place: device rules only remove")
            if value.strip().lower() == "all":
                raise CannotTake("takes the whole picture: nothing would be left of it")
            self.boxes.append(corners(value, sized=bool(ctp)))
        except CannotTake as error:
            self.left.append(NotTaken(number, f"{ctp}{keep}coordinates{value}", str(error)))

    def _read_filters(self, line: str) -> None:
        """Read the conditions of a line and join them to those before it. Raises CannotTake."""
        joined = either if line.startswith("||") else both
        first, *rest = _JOINED.split(line.lstrip("+| \t"))
        found = self._filter(first)
        for sign, part in zip(rest[::2], rest[1::2], strict=True):
            found = (either if sign == "||" else both)(found, self._filter(part))
        self.alternatives = joined(self.alternatives, found) if self.alternatives else found

    def _filter(self, text: str) -> Alternatives:
        """The alternatives of one filter, such as ``contains Field A|B``. Raises CannotTake."""
        action, keyword, value = (*text.split(None, 2), "", "", "")[:3]
        if action.lower() not in (Comparison.CONTAINS, Comparison.EQUALS) or not value.strip():
            raise CannotTake(f"compares by {action[:20]}: device rules do not")
        comparison = Comparison(action.lower())
        values = value.split("|")
        self.conditions += len(values)
        if self.conditions > MOST_CONDITIONS:
            raise CannotTake(f"has more than {MOST_CONDITIONS} conditions")
        if comparison is Comparison.CONTAINS:
            # A pattern of re.search: "AS+" at its end finds what "AS" does.
            values = [part.strip().removesuffix("+") for part in values]
            if any(set(part) & set("\\^$*+?{}[]()") for part in values):
                raise CannotTake(f"the value of {keyword[:40]} is a pattern of regular expressions")
        return tuple((Condition(keyword_of(keyword), comparison, part.strip()),) for part in values)

    def taken(self) -> Iterator[Signature | NotTaken]:
        """Yield the signature of the label if it can be taken, and what of it cannot."""
        yield from self.left
        if self.section == "whitelist":
            self.why = "calls images clean: device rules spare no image from cleaning"
        elif not self.boxes and not self.left:
            self.why = "has no rectangle: it only marks images"
        elif not self.alternatives:
            self.why = self.why or "has no condition: it would fit every image"
        if self.why:
            yield NotTaken(self.line, self.name, self.why)
        elif self.boxes:
            yield Signature(self.line, self.name, self.alternatives, tuple(self.boxes))
