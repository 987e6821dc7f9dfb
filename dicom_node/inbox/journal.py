"""The journal: events by which the listener, which has no database, reports to the node.

Lines of JSON in ``journal/*.jsonl``, one file per listener (a new one after every 16 MiB). File names sort by
time. Only lines with storage commitment reports and performed procedure steps are synced: the other lines
that a power failure loses are void anyway after the listener's restart.
"""

import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from dicom_node.events import Event, by_number

_TIME = "%Y%m%dT%H%M%S%fZ"
_FILE_BYTES = 16 * 2**20
_READ_BYTES = 2**20


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. It is opened each time: it may have been deleted and made again."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def journal_folder(data_dir: Path, place: str = "") -> Path:
    """The folder of a listener's journal; each place has its own, because only one listener may write to
    it.
    """
    return data_dir / (f"journal-{place}" if place else "journal")


def listener_lock(data_dir: Path, place: str = "") -> Path:
    """The lock file of the listener at this place; the listener holds the lock while it runs."""
    return data_dir / (f"scp-{place}.lock" if place else "scp.lock")


def has_no_writer(folder: Path) -> bool:
    """Whether the listener that writes to this folder has ended, because its lock is free. False if
    unknown.
    """
    place = folder.name.removeprefix("journal").removeprefix("-")
    try:
        with listener_lock(folder.parent, place).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # held, or there was never one
        return False
    return True


def journal_folders(data_dir: Path) -> list[Path]:
    """The journal folders of all listeners that use, or used, this data folder."""
    return [journal_folder(data_dir), *sorted(data_dir.glob("journal-*"))]


class JournalWriter:
    """Appends events; many threads may share one. Each line is one write, passed to the kernel at once.

    It can also be created on a full disk, and appends once there is space.
    """

    def __init__(self, folder: Path, listener_id: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._stem = folder / f"{_newest(folder):{_TIME}}-{listener_id}"
        self._lock = threading.Lock()
        self._number = 0
        self._file = -1
        self._torn = False

    def append(self, event: Event) -> None:
        """Write one event. Raises OSError (disk full); then no part of the event counts."""
        with self._lock:
            self._append(_encode(event))

    def append_durably(self, event: Event) -> None:
        """Write one event that must survive a power failure. Raises OSError, even if the event was
        written.
        """
        with self._lock:
            self._append(_encode(event))
            os.fdatasync(self._file)
        sync_folder(self._stem.parent)

    def _append(self, line: bytes) -> None:
        if self._file < 0 or os.fstat(self._file).st_size > _FILE_BYTES:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            file = os.open(f"{self._stem}-{self._number + 1:05d}.jsonl", flags, 0o640)
            if self._file >= 0:
                os.close(self._file)
            self._file, self._number = file, self._number + 1
        if self._torn:  # the disk was full: end the half line, so that it spoils no other
            line = b"\n" + line
        self._torn = True
        if os.write(self._file, line) != len(line):
            raise OSError("journal line written in part")
        self._torn = False


class JournalLine(NamedTuple):
    """An event with the name of its file, and the offset (bytes) of the next event in the file."""

    file: str
    offset: int
    event: Event


class JournalReader:
    """Reads lines appended since a cursor; the caller stores the cursor together with its own results."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, cursor: Mapping[str, int]) -> list[JournalLine]:
        """The lines after the cursor (file name to offset), oldest first.

        At most 1 MiB per file and call: call again until no line is returned.
        """
        return [
            JournalLine(path.name, offset, event)
            for path in self._files()
            for offset, event in _events(path, cursor.get(path.name, 0))
        ]

    def remove_read(self, cursor: Mapping[str, int]) -> int:
        """Delete files that are completely read, except the newest, which may still grow. Returns their
        number.
        """
        removed = 0
        for path in self._files()[:-1]:
            if cursor.get(path.name, 0) >= path.stat().st_size:
                path.unlink()
                removed += 1
        return removed

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.jsonl"))


def _newest(folder: Path) -> datetime:
    """The present, or just after the newest file there: a clock put back must not make this the oldest."""
    now = datetime.now(UTC)
    with suppress(IndexError, ValueError):  # no file, or none of ours
        newest = datetime.strptime(sorted(path.name for path in folder.glob("*.jsonl"))[-1][:22], _TIME)
        return max(now, newest.replace(tzinfo=UTC) + timedelta(microseconds=1))
    return now


def _events(path: Path, offset: int) -> Iterator[tuple[int, Event]]:
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(_READ_BYTES)
    for line in block[: block.rfind(b"\n") + 1].splitlines(keepends=True):
        offset += len(line)
        if (event := _decode(line)) is not None:
            yield offset, event


def _encode(event: Event) -> bytes:
    line = {"event": event.type.number, "at": event.at.isoformat(), **event.fields}
    return json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n"


def _decode(line: bytes) -> Event | None:
    """None for a torn line and for an event of a newer version."""
    try:
        fields = json.loads(line)
        number, at = fields.pop("event"), fields.pop("at")
        return Event(by_number(number), datetime.fromisoformat(at), fields)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
