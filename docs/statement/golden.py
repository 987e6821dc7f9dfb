"""What the builders write, read from the golden dumps, which a test compares with the builders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parents[2] / "tests" / "golden"
_ATTRIBUTE = re.compile(r"([A-Z]\w+): ?(.*)")
_ITEM = re.compile(
    r'( *)> (.+?) (CONTAINER|CODE|NUM|TEXT|UIDREF|IMAGE|SCOORD|PNAME) \(([^,]+), (\w+), "(.*?)"\)(?: = (.*))?'
)
ContentRow = tuple[str, str, str, str]
"""Parent concept ("" for the root), relationship, value type, concept."""


@dataclass(frozen=True)
class Dump:
    """One object: ``attributes`` of its root by keyword, ``content`` its content items in order."""

    name: str
    attributes: dict[str, str]
    content: tuple[ContentRow, ...]

    @property
    def sop_class_uid(self) -> str:
        return self.attributes["SOPClassUID"]


@cache
def dumps() -> tuple[Dump, ...]:
    """Every dump of an object that names the patient; the others have what the profile left of it."""
    paths = sorted(path for path in FOLDER.glob("*.txt") if not path.name.startswith("deidentified"))
    return tuple(_read(path) for path in paths)


def concept(value: str, scheme: str, meaning: str, value_type: str, parent: str) -> str:
    """A concept as the statement names it: codes of single findings and quantities by what they are."""
    if value_type == "NUM" and value.startswith(("P-", "S-")) and scheme == "99AINODE":
        return "AI estimated probability, or score, of the finding (private)"
    if value_type == "NUM" and parent.endswith('"Measurement Group")'):
        return "the measured quantity"
    if value_type == "CODE" and parent.endswith('"Qualitative Evaluations")') and scheme != "99AINODE":
        return "the finding"
    return f'({value}, {scheme}, "{meaning}")'


def _read(path: Path) -> Dump:
    lines = path.read_text(encoding="utf-8").splitlines()[2:]  # builder version, transfer syntax
    found = (_ATTRIBUTE.fullmatch(line) for line in lines)
    return Dump(path.stem, {match[1]: match[2] for match in found if match}, tuple(_content(lines)))


def _content(lines: list[str]) -> Iterator[ContentRow]:
    parents: list[tuple[int, str]] = []
    for line in lines:
        item = _ITEM.match(line)
        if item is None:
            continue
        depth = len(item[1])
        parents = [one for one in parents if one[0] < depth]
        parent = parents[-1][1] if parents else ""
        name = concept(item[4], item[5], item[6], item[3], parent)
        parents.append((depth, name))
        yield parent, item[2], item[3], name
