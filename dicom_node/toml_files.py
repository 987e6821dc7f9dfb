"""TOML files read, expanded and put together; every mistake is collected, with the file it stands in."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dicom_node.errors import ConfigProblem

Place = tuple[str | int, ...]  # ("peers", 0, "port")


@dataclass(slots=True)
class TomlFiles:
    """What the files say together. Lists of tables (peers, rules) add up over the files."""

    data: dict[str, Any] = field(default_factory=dict)
    problems: list[ConfigProblem] = field(default_factory=list)
    _origins: dict[Place, str] = field(default_factory=dict)
    _names: str = ""

    @classmethod
    def read(cls, files: Sequence[Path]) -> TomlFiles:
        """Read them in this order."""
        found = cls(_names=", ".join(str(file) for file in files))
        for file in files:
            found._add_file(file)
        return found

    def add(self, place: Place, value: str, remedy: str) -> None:
        """Add a mistake."""
        self.problems.append(ConfigProblem(self._origin(place), self._spelled(place), value, remedy))

    def add_unless_known(self, place: Place, value: str, remedy: str) -> None:
        """Add a mistake, unless one about the same key is known (a variable that is not set)."""
        key = self._spelled(place)
        if all(known.key != key for known in self.problems):
            self.add(place, value, remedy)

    def place_of(self, key: str, name: str) -> Place:
        """Where the table with this name stands in the list ``key``."""
        for number, item in enumerate(self.data.get(key, ())):
            if isinstance(item, dict) and item.get("name") == name:
                return (key, number)
        return (key,)

    def names(self, key: str) -> list[str]:
        """The names of the tables in the list ``key``, of faulty ones too."""
        items = self.data.get(key, ())
        if not isinstance(items, list):
            return []
        return [str(item["name"]) for item in items if isinstance(item, dict) and "name" in item]

    def without(self, places: Sequence[Place]) -> dict[str, Any]:
        """The data without these keys."""
        left: dict[str, Any] = _without(self.data, (), set(places))
        return left

    def _add_file(self, file: Path) -> None:
        try:
            read = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            self._wrong(file, (), "", f"cannot be read: {error.strerror}")
            return
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            self._wrong(file, (), "", f"is not valid TOML: {error}")
            return
        for key, value in read.items():
            self._merge(file, key, value)

    def _merge(self, file: Path, key: str, value: Any) -> None:
        known = self.data.get(key)
        if isinstance(value, list) and isinstance(known, list):
            for item in value:
                number = len(known)
                self._origins[key, number] = str(file)
                known.append(item)  # first as it is, so that a mistake found in it can be named
                known[number] = self._expand(item, (key, number), file)
        elif key in self.data:
            self._wrong(file, (key,), "", "stands in another file already")
        else:
            self._origins[(key,)] = str(file)
            self.data[key] = value
            self.data[key] = self._expand(value, (key,), file)

    def _expand(self, value: Any, place: Place, file: Path) -> Any:
        if isinstance(value, dict):
            return {name: self._expand(item, (*place, name), file) for name, item in value.items()}
        if isinstance(value, list):
            return [self._expand(item, (*place, number), file) for number, item in enumerate(value)]
        if not isinstance(value, str):
            return value

        def replace(match: re.Match[str]) -> str:
            path, name, default = match.groups()
            if path:
                return self._secret(Path(path), place, file)
            if name not in os.environ and default is None:
                self._wrong(file, place, match.group(0), f"environment variable {name} is not set")
            return os.environ.get(name, default or "")

        return _VARIABLE.sub(replace, value)

    def _secret(self, path: Path, place: Place, file: Path) -> str:
        try:
            return path.read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError):
            self._wrong(file, place, str(path), "this file cannot be read")
            return ""

    def _wrong(self, file: Path, place: Place, value: str, remedy: str) -> None:
        self.problems.append(ConfigProblem(str(file), self._spelled(place), value, remedy))

    def _origin(self, place: Place) -> str:
        for length in range(len(place), 0, -1):
            if place[:length] in self._origins:
                return self._origins[place[:length]]
        return self._names

    def _spelled(self, place: Place) -> str:
        """``peers.pacs.port``; ``peers[0].port`` where the peer has no name."""
        spelled = ""
        at: Any = self.data
        for part in place:
            at = _inside(at, part)
            name = at.get("name") if isinstance(at, dict) and isinstance(part, int) else part
            spelled += f".{name}" if isinstance(name, str) else f"[{part}]"
        return spelled.lstrip(".") or "file"


_VARIABLE = re.compile(r"\$\{(?:file:([^}]+)|([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?)\}")


def _inside(value: Any, part: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(part)
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return value[part]
    return None


def _without(value: Any, place: Place, dropped: set[Place]) -> Any:
    if isinstance(value, dict):
        items = ((key, item) for key, item in value.items() if (*place, key) not in dropped)
        return {key: _without(item, (*place, key), dropped) for key, item in items}
    if isinstance(value, list):
        numbered = ((number, item) for number, item in enumerate(value) if (*place, number) not in dropped)
        return [_without(item, (*place, number), dropped) for number, item in numbered]
    return value
