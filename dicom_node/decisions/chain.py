"""The file of decisions: one line of JSON per decision, with the hash of the previous line.

Nobody can change, remove or insert a line unnoticed without changing all later lines. Lines are synced to
disk before ``append`` returns. An incomplete last line was being written when the power failed; its caller
got no answer.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dicom_node.inbox.sync import sync_folder

Line = Mapping[str, Any]
"""``n`` (from 1), ``before`` (hash of the line before), ``id``, what was decided, and ``sha256`` of all."""
_TAIL = 2**20  # bytes in which the lines are that a killed process wrote and did not mark as written


@dataclass(frozen=True, slots=True)
class Fault:
    """A place where the chain is broken. ``id`` is the same at each reading."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class ChainContent:
    """The content of a file: its valid lines, and the faults of its invalid lines."""

    lines: Sequence[Line]
    faults: Sequence[Fault]
    torn: bool


class DecisionChain:
    """One file of decisions; the processes of one machine write to it one at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self) -> Iterator[Appender]:
        """Lock the file against all other processes of this machine while the scope lasts. Raises OSError."""
        new = not self.path.exists()
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if new:
                sync_folder(self.path.parent)
            yield Appender(file)

    def read(self) -> ChainContent:
        """Read all lines, and compare each with its hash and with the previous line. Raises OSError."""
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        lines: list[Line] = []
        faults: list[Fault] = []
        number, before = 0, ""
        for raw in whole.splitlines():
            line = _parsed(raw)
            number += 1
            if line is None or line["sha256"] != _digest(line):
                faults.append(self._fault(raw, before, f"line {number} was changed"))
            else:
                if (line["n"], line["before"]) != (number, before):
                    text = f"a line before line {line['n']} was changed or cut out"
                    faults.append(self._fault(raw, before, text))
                lines.append(line)
                number = line["n"]
            before = _hash_of(raw)
        return ChainContent(lines, faults, torn=len(whole) != len(data))

    def _fault(self, raw: bytes, before: str, text: str) -> Fault:
        name = hashlib.sha256(f"{self.path.name}:{before}:".encode() + raw).hexdigest()[:32]
        return Fault(f"fault-{name}", f"{self.path.name}: {text}")


class Appender:
    """Appends to a locked file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.last = ""
        """The id of the last line, "" where there is none."""
        self.number, self._before, self._known = self._tail()

    def append(self, records: Sequence[Mapping[str, Any]]) -> list[Line]:
        """Append the records that are not in the file yet, and sync the file; returns the new lines."""
        lines: list[Line] = []
        data = b""
        for record in records:
            if record["id"] in self._known:
                continue
            self.number += 1
            line = {**record, "n": self.number, "before": self._before}
            self._before = line["sha256"] = _digest(line)
            lines.append(line)
            data += encoded(line)
        self._write(data)
        return lines

    def take(self, line: bytes) -> None:
        """Append ``line``, which comes from another copy of this file, unchanged."""
        self._write(line)

    def _write(self, data: bytes) -> None:
        self._file.seek(0, os.SEEK_END)
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _tail(self) -> tuple[int, str, set[str]]:
        """Number and hash of the last line, and the ids of the last ones; a torn line is cut off."""
        size = self._file.seek(0, os.SEEK_END)
        for window in (_TAIL, size):
            self._file.seek(max(0, size - window))
            data = self._file.read()
            end = data.rfind(b"\n") + 1
            if end or window >= size:
                break
        self._file.truncate(size - len(data) + end)
        number, before = 0, ""
        ids: set[str] = set()
        for raw in data[:end].splitlines():
            line = _parsed(raw)
            number, before = number + 1 if line is None else line["n"], _hash_of(raw)
            if line is not None:
                self.last = str(line["id"])
                ids.add(self.last)
        return number, before, ids


def _hash_of(raw: bytes) -> str:
    """What the next line names; of a damaged line its bytes', so that the chain goes on after it."""
    line = _parsed(raw)
    return str(line["sha256"]) if line is not None else hashlib.sha256(raw).hexdigest()


def _digest(line: Line) -> str:
    content = {key: value for key, value in line.items() if key != "sha256"}
    return hashlib.sha256(encoded(content)).hexdigest()


def encoded(line: Line) -> bytes:
    """The bytes of a line in the file."""
    return json.dumps(line, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


def _parsed(raw: bytes) -> Line | None:
    """None for what is no line of ours."""
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or not {"before", "id", "sha256"} <= line.keys():
        return None
    return line if isinstance(line.get("n"), int) else None
