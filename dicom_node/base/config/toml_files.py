"""TOML files, read, expanded and merged; every mistake is collected, with file and line.

Peers and rules that persons enter by page, program or command: ``node.data_dir/entered/000001.toml``, …

Each version is a file of its own, and the last one is read besides the configuration files. None is ever
written over: so the folder is the history, and machines of a site that share it share the entries.
"""

from __future__ import annotations

import os
import re
import tomllib
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import ConfigProblem
from dicom_node.base.printable import redacted

Place = tuple[str | int, ...]  # ("peers", 0, "port")


@dataclass(slots=True)
class TomlFiles:
    """The merged content of the configuration files. Lists of tables (peers, rules) are joined."""

    data: dict[str, Any] = field(default_factory=dict)
    unread: bool = False
    """A file is missing, empty or no TOML: what the others say is not the whole configuration."""
    _origins: dict[Place, tuple[Path, Place]] = field(
        default_factory=dict
    )  # where a table begins, and as what
    _texts: dict[Path, str] = field(default_factory=dict)
    _written: dict[Place, str] = field(default_factory=dict)  # before ${...} was expanded
    _files: Sequence[str] = ()
    _problems: list[ConfigProblem] = field(default_factory=list)
    _faulty: set[str] = field(default_factory=set)
    """The keys of the mistakes, and of the tables around them."""

    @classmethod
    def read(cls, files: Sequence[Path]) -> TomlFiles:
        """Read the configuration ``files`` in this order."""
        found = cls(_files=[str(file) for file in files])
        for file in files:
            found.add_file(file)
        return found

    @property
    def problems(self) -> list[ConfigProblem]:
        """Every mistake, by file and line; mistakes that belong to no file come last."""
        rank = {file: number for number, file in enumerate(self._files)}
        return sorted(self._problems, key=lambda known: (rank.get(known.file, len(rank)), known.line))

    def is_faulty(self, place: Place) -> bool:
        """Whether a mistake is known at this place, or inside it."""
        return self._spelled(place) in self._faulty

    def add(self, place: Place, value: str, remedy: str) -> None:
        """Add a mistake in the value at ``place``."""
        file, line = self._origin(place)
        self._add(file, line, self._spelled(place), value, remedy)

    def add_named(self, key: str, value: str, remedy: str) -> None:
        """Add a mistake about a key in dotted form, such as ``peers.pacs.port``."""
        file, line = self._origin(self._place(key))
        self._add(file, line, key, value, remedy)

    def shown(self, place: Place, value: object) -> str:
        """A value for a message, as written in the file: secrets from the environment are not shown."""
        return (
            "" if value is None or isinstance(value, dict | list) else repr(self._written.get(place, value))
        )

    def files_of(self, place: Place) -> list[Path]:
        """The files that contain the value at ``place``: the TOML file, or files named in ``${file:PATH}``.

        Empty where the value comes from environment variables only.
        """
        written = self._written.get(place)
        if written is None:
            return [Path(self._origin(place)[0])]
        return [Path(path) for path, _, _ in _VARIABLE.findall(written) if path]

    def as_written(self, text: str) -> str:
        """A message in which values from the environment or files appear as ``${NAME}`` and
        ``${file:...}``.
        """
        for place, written in self._written.items():
            value = str(self.at(place))
            if len(value) >= _SHORTEST_SECRET:
                text = text.replace(repr(value)[1:-1], written).replace(value, written)
        return text

    def place_of(self, key: str, name: str) -> Place:
        """The place of the table with this name in the list ``key``."""
        for number, item in enumerate(self.data.get(key, ())):
            if isinstance(item, dict) and item.get("name") == name:
                return (key, number)
        return (key,)

    def at(self, place: Place) -> Any:
        """The value at this place, None if there is none."""
        return _at(self.data, place)

    def numbered_names(self, key: str) -> list[tuple[int, str]]:
        """Number and name of each table in the list ``key``, also of faulty tables."""
        items = self.data.get(key, ())
        named = enumerate(items) if isinstance(items, list) else ()
        return [(n, str(item["name"])) for n, item in named if _has(item, "name")]

    def check_names(self, key: str) -> None:
        """Add a mistake for each name that two tables of the list ``key`` have."""
        seen: dict[str, str] = {}
        for number, name in self.numbered_names(key):
            if other := seen.get(name.casefold()):
                problem = "is used twice" if other == name else f"differs from {other} in capitals only"
                remedy = f"{problem}: give each of the {key} a name of its own"
                self.add((key, number, "name"), repr(name), remedy)
            seen.setdefault(name.casefold(), name)

    def values(self, key: str, inner: str) -> list[object]:
        """The values of the key ``inner`` in the tables of the list ``key``."""
        items = self.data.get(key, ())
        return [item[inner] for item in items if _has(item, inner)] if isinstance(items, list) else []

    def without(self, places: Sequence[Place]) -> dict[str, Any]:
        """A copy of the configuration without the keys at ``places``."""
        left: dict[str, Any] = _without(self.data, (), set(places))
        return left

    def _add(self, file: str, line: int, key: str, value: str, remedy: str) -> None:
        """The one place where a mistake gets its value: no secret is among what is printed and logged."""
        shown = "" if any(_SECRET.fullmatch(part) for part in re.split(r"[.\[]", key)) else redacted(value)
        key, shown, remedy = (self.as_written(text) for text in (key, shown, remedy))
        self._problems.append(ConfigProblem(file, key, shown, remedy, line))
        self._faulty.update([key, *(key[: found.start()] for found in re.finditer(r"[.\[]", key))])

    def add_file(self, file: Path) -> None:
        """Read one more configuration file."""
        try:
            self._texts[file] = _bytes_of(file).decode("utf-8-sig").replace("\r\n", "\n")
            read = tomllib.loads(self._texts[file])
        except OSError as error:
            self._not_read(file, f"cannot be read: {error.strerror}")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            self._not_read(file, "holds a letter that is not in UTF-8: save the file as UTF-8", line)
        except tomllib.TOMLDecodeError as error:
            line, remedy = fault(error, self._texts[file])
            self._not_read(file, f"is no TOML: {remedy}", line)
        else:
            if not read:
                self._not_read(file, "is empty: nothing is configured there")
            for key, value in read.items():
                self._merge(file, key, value)

    def _merge(self, file: Path, key: str, value: Any) -> None:
        known = self.data.get(key)
        if isinstance(value, list) and isinstance(known, list):
            for item in value:
                number = len(known)
                before = sum(
                    len(local) == 2 and local[0] == key and of == file for of, local in self._origins.values()
                )
                self._origins[key, number] = (file, (key, before))
                known.append(item)  # first as it is, so that a mistake found in it can be named
                known[number] = self._expand(item, (key, number), file)
        elif key in self.data:
            self._wrong(file, (key,), "", "is in another file already")
        else:
            self._origins[(key,)] = (file, (key,))
            for number in range(len(value) if isinstance(value, list) else 0):
                self._origins[key, number] = (file, (key, number))
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
                try:
                    return _bytes_of(path).decode().replace("\r\n", "\n").removesuffix("\n")
                except (OSError, UnicodeDecodeError):
                    self._wrong(file, place, str(Path(path)), "this file cannot be read")
                    return ""
            if name not in os.environ and default is None:
                self._wrong(file, place, match.group(0), f"environment variable {name} is not set")
            return os.environ.get(name, default or "")

        if (expanded := _VARIABLE.sub(replace, value)) != value:
            self._written[place] = value
        return expanded

    def _wrong(self, file: Path, place: Place, value: str, remedy: str) -> None:
        self._add(str(file), self._origin(place)[1] if place else 0, self._spelled(place), value, remedy)

    def _not_read(self, file: Path, remedy: str, line: int = 0) -> None:
        self.unread = True
        self._add(str(file), line, "file", "", remedy)

    def _origin(self, place: Place) -> tuple[str, int]:
        """The file that a place stands in, and its line there; of a key that is missing, its table's."""
        for length in range(len(place), 0, -1):
            if place[:length] in self._origins:
                file, local = self._origins[place[:length]]
                return str(file), _line(self._texts[file], (*local, *place[length:]))
        return ", ".join(self._files), 0

    def _place(self, key: str) -> Place:
        """The place of a key that ``_spelled`` wrote out, such as ``peers.pacs.port``."""
        for table in (name for name, tables in self.data.items() if isinstance(tables, list)):
            for number, name in self.numbered_names(table):
                if f"{key}.".startswith(f"{table}.{name}."):
                    return (table, number, *key.removeprefix(f"{table}.{name}").split(".")[1:])
        return tuple(key.split("."))

    def _spelled(self, place: Place) -> str:
        """``peers.pacs.port``; ``peers[0].port`` where the peer has no name."""
        spelled = ""
        at: Any = self.data
        for part in place:
            at = _inside(at, part)
            name = at.get("name") if isinstance(at, dict) and isinstance(part, int) else part
            spelled += f".{name}" if isinstance(name, str) else f"[{part}]"
        return spelled.lstrip(".") or "file"


_SHORTEST_SECRET = 4  # characters; a shorter value would be found in words of the message
_SECRET = re.compile(r"\w*(?:password|passwd|passphrase|secret|token|key|credentials?)", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{(?:file:([^}]+)|([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?)\}")


def _bytes_of(file: str | Path) -> bytes:
    """What the file holds. A FIFO to which nobody writes is empty: a node that waited there would stand
    still. Raises OSError.
    """
    with open(file, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as opened:
        os.set_blocking(opened.fileno(), True)
        return opened.read()


def _line(text: str, place: Place) -> int:
    """The line at which the statement begins that makes ``place``, or the table around it; from 1."""
    lines = _lines(text)
    return next((lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines), 1)


@lru_cache(maxsize=16)
def _lines(text: str) -> dict[Place, int]:
    """The line at which the statement of each key and table begins.

    Each statement is parsed by itself: a line that is no TOML goes on in the next one. So the standard
    library finds the lines, and no second parser has to know the grammar.
    """
    found: dict[Place, int] = {}
    numbers: Counter[Place] = Counter()  # of tables in a list, such as [[peers]]
    table: Place = ()
    statement, first = "", 1
    for number, line in enumerate(text.split("\n"), start=1):
        statement, first = (f"{statement}\n{line}", first) if statement else (line, number)
        with suppress(tomllib.TOMLDecodeError):
            read: Any = tomllib.loads(statement)
            is_heading, statement = statement.lstrip().startswith("["), ""
            place = () if is_heading else table
            while isinstance(read, dict) and len(read) == 1:
                [(key, read)] = read.items()
                place = (*place, key)
                if is_heading and isinstance(read, list):
                    [read] = read
                    numbers[place] += 1
                if is_heading and numbers[place]:
                    found.setdefault(place, first)
                    place = (*place, numbers[place] - 1)
                found.setdefault(place, first)
            table = place if is_heading else table
    return found


def _has(item: Any, key: str) -> bool:
    return isinstance(item, dict) and key in item


def _at(value: Any, place: Place) -> Any:
    """What stands there, None where nothing does (TOML has no null)."""
    for part in place:
        value = _inside(value, part)
    return value


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


_CURLY = re.compile("[\u2018-\u201f\u00ab\u00bb]")
_BARE = re.compile(r"\s*([A-Za-z0-9_.-]+)\s*=\s*(.*)")
_QUOTES_OPEN = 'the quotes are not closed: put a " at the end of the text'
_TABLE_TWICE = "is given twice: put its keys together under one heading"

# By the beginning of what the standard library's parser says.
_REMEDIES: Mapping[str, str] = {
    "Unterminated string": _QUOTES_OPEN,
    "Illegal character '\\n'": _QUOTES_OPEN,
    "Unclosed array": "a list is not closed, or a comma is missing in it: write [\"a\", \"b\"]",
    "Unclosed inline table": "a table is not closed, or a comma is missing in it: write { key = value }",
    "Duplicate inline table key": "a key is given twice in a table: leave one out",
    "Expected '=' after a key": "write it as key = value",
    "Expected ']": "a heading is not closed: write it as [node] or [[peers]]",
    "Expected newline": "nothing but a # comment may follow the value; text must be in quotes",
    "Invalid hex value": "write \\\\ for a \\ in a text, or put the text in single quotes",
    "Unescaped '\\' in a string": "write \\\\ for a \\ in a text, or put the text in single quotes",
    "Invalid initial character": "a key has letters of ASCII, figures, dash and underscore",
}  # fmt: skip


def fault(error: tomllib.TOMLDecodeError, text: str) -> tuple[int, str]:
    """The line of a syntax mistake (from 1), and the remedy."""
    message, _, where = str(error).partition(" (at ")
    found = re.match(r"line (\d+)", where)
    lines = text.split("\n")
    number = int(found[1]) if found else len(text.rstrip("\n").split("\n"))
    return number, _remedy(message, lines[number - 1].strip())


def _remedy(message: str, line: str) -> str:
    if _CURLY.search(line) and message.startswith(("Invalid", "Expected")):
        return 'quotes must be straight ones: "'
    if message == "Invalid value":
        return _about_value(line)
    heading = re.match(r"\[+\s*([\w.]+)", line)
    if heading and message.startswith("Cannot"):
        name = heading[1]
        return (
            f"write [[{name}]], with two brackets, each time"
            if name in ("peers", "rules")
            else (f"[{name}] {_TABLE_TWICE}")
        )
    if message == "Cannot overwrite a value" and (key := _BARE.match(line)):
        return f"the key {key[1]} is given twice here: leave one out"
    for beginning, remedy in _REMEDIES.items():
        if message.startswith(beginning):
            return remedy
    return f"{message[:1].lower()}{message[1:]}"


def _about_value(line: str) -> str:
    written = _BARE.match(line)
    if written is None:
        return 'text must be in quotes, such as "us1"'
    key, value = written.groups()
    word = value.partition("#")[0].strip()
    if not word:
        return f"{key} has no value: write one, or leave the key out"
    if word.casefold() in ("null", "none", "nil"):
        return f"there is no {word} in TOML: leave {key} out"
    if word.casefold() in ("true", "false"):
        return f"write {word.casefold()}, in small letters"
    return f'text must be in quotes: {key} = "…"'


FOLDER: Final = "entered"
SAVED: Final = "saved"
"""The key of a version that says when it was written, by whom, and what changed."""


def file_of(data_dir: Path, version: int) -> Path:
    """The file of a version, from 1."""
    return data_dir / FOLDER / f"{version:06}.toml"


def versions(data_dir: Path) -> list[int]:
    """The versions, the oldest first."""
    return sorted(int(file.stem) for file in (data_dir / FOLDER).glob("[0-9]" * 6 + ".toml"))


def newest(data_dir: Path) -> int:
    """The version that counts, 0 where nothing was ever entered."""
    return max(versions(data_dir), default=0)


def edition(entry: Mapping[str, Any] | None) -> int:
    """A mark of what an entry says, by which a later request finds out whether it was changed; 0 for none."""
    return zlib.crc32(repr(entry).encode()) % 10**9 or 1 if entry else 0


def is_behind(settings: Settings) -> bool:
    """Whether these settings were read before the newest version was there: it will be loaded in a moment."""
    return newest(settings.node.data_dir) != settings.node.entered
