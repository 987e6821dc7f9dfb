"""The journal, by which a listener, which has no database, reports what happened.

It is lines of JSON in ``journal/*.jsonl``, one file per listener (a new one after every 16 MiB), numbered in
their names. Only lines with storage commitment reports and performed procedure steps are synced: the other
lines that a power failure loses are void anyway after the listener's restart.
"""

import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from dicom_node.base.durable import sync_folder
from dicom_node.base.events import Event, EventType, FieldValue, by_number

_FILE_BYTES = 16 * 2**20


def journal_folder(data_dir: Path, place: str = "") -> Path:
    """Return the folder of the journal of the listener with this place name ("" for the first); each listener
    has its own.
    """
    return data_dir / (f"journal-{place}" if place else "journal")


def listener_lock(data_dir: Path, place: str = "") -> Path:
    """Return the lock file of the listener with this place name ("" for the first), which is locked while it
    runs.
    """
    return data_dir / (f"scp-{place}.lock" if place else "scp.lock")


def listeners_of(folder: Path) -> tuple[set[str], set[str]]:
    """Return the listeners with files in this journal folder: those that ended, and the one that writes."""
    # The files are called number-listener-number.
    names = [path.stem for path in sorted(folder.glob("*.jsonl"))]
    listeners = [name.split("-", 1)[-1].rsplit("-", 1)[0] for name in names]
    place = folder.name.removeprefix("journal").removeprefix("-")
    writing = set(listeners[-1:])
    with suppress(OSError), listener_lock(folder.parent, place).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        writing = set()  # no listener holds the lock
    return set(listeners) - writing, writing


def journal_folders(data_dir: Path) -> list[Path]:
    """Return the journal folders of all listeners that use, or used, this data folder."""
    return [journal_folder(data_dir), *sorted(data_dir.glob("journal-*"))]


class JournalWriter:
    """Appends events to a listener's journal; many threads may share one. Each line is one write, passed to
    the kernel at once.

    It can also be created on a full disk, and appends once there is space.
    """

    def __init__(self, folder: Path, listener_id: str) -> None:
        """Prepare to write new files in ``folder``; ``listener_id`` becomes part of their names."""
        folder.mkdir(parents=True, exist_ok=True)
        # Numbers, not times: a clock put back must not make this the oldest.
        newest = max((path.name[:8] for path in folder.glob("[0-9]" * 8 + "*.jsonl")), default="0")
        self._stem = folder / f"{int(newest) + 1:08d}-{listener_id}"
        self._lock = threading.RLock()
        self._number = 0
        self._file = -1
        self._torn = False

    def append_durably(self, event_type: EventType, fields: Mapping[str, FieldValue]) -> None:
        """Append an event that must survive a power failure. Raises OSError, even if the event was written.

        It is not logged, because it names many objects; the index logs their number.
        """
        with self._lock:
            self.append(Event(event_type, datetime.now(UTC), fields))
            os.fdatasync(self._file)
        sync_folder(self._stem.parent)

    def append(self, event: Event) -> None:
        """Append an event. Raises OSError (disk full); then no part of the event counts."""
        fields = {"event": event.type.number, "at": event.at.isoformat(), **event.fields}
        line = json.dumps(fields, separators=(",", ":")).encode("ascii") + b"\n"
        with self._lock:
            if self._file < 0 or os.fstat(self._file).st_size > _FILE_BYTES:
                file = os.open(
                    f"{self._stem}-{self._number + 1:05d}.jsonl",
                    os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC,
                    0o640,
                )
                if self._file >= 0:
                    os.close(self._file)
                self._file, self._number = file, self._number + 1
            if self._torn:  # the disk was full: end the half line, so that it spoils no other
                line = b"\n" + line
            self._torn = True
            if os.write(self._file, line) != len(line):
                raise OSError("journal line written in part")
            self._torn = False


def read_journal(folder: Path, cursor: Mapping[str, int]) -> list[tuple[str, int, Event]]:
    """Return the events in a journal folder after ``cursor``, oldest first, as (file name, offset of the next
    event, event).

    ``cursor``: file name -> offset in bytes. The caller stores the new cursor in the same transaction as what
    it made of the events.
    """
    return [
        (path.name, offset, event)
        for path in sorted(folder.glob("*.jsonl"))
        for offset, event in _events(path, cursor.get(path.name, 0))
    ]


def remove_read(folder: Path, cursor: Mapping[str, int]) -> None:
    """Delete journal files that are completely read by ``cursor`` (file name -> offset), except the newest,
    which may still grow.
    """
    for path in sorted(folder.glob("*.jsonl"))[:-1]:
        if cursor.get(path.name, 0) >= path.stat().st_size:
            path.unlink()


def _events(path: Path, offset: int) -> Iterator[tuple[int, Event]]:
    """Yield the events in a journal file from ``offset`` on, as (offset of the next event, event)."""
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(2**20)
    for line in block[: block.rfind(b"\n") + 1].splitlines(keepends=True):
        offset += len(line)
        with suppress(ValueError, KeyError, TypeError, AttributeError):  # torn, or of a newer version
            fields = json.loads(line)
            event_type, at = by_number(fields.pop("event")), datetime.fromisoformat(fields.pop("at"))
            yield offset, Event(event_type, at, fields)
