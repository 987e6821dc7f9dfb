"""The listeners' memory of performed procedure steps: a file for each step, so that any listener can answer.

The index learns of steps from the journal; these files serve the listeners that share a data folder, which
have no database. A step's file is replaced at once, after its line in the journal.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from dicom_node.inbox.sync import sync_folder
from dicom_node.model.kinds import StepStatus

_LOCK = "lock"


@dataclass(frozen=True, slots=True)
class KnownStep:
    """A step after an accepted request. ``number``: how many requests were accepted before.

    ``objects``: SOP Instance UIDs; ``has``: attributes of the final state that were given so far.
    """

    uid: str
    peer: str
    calling: str
    status: StepStatus
    number: int
    studies: tuple[str, ...]
    objects: tuple[str, ...] = ()
    has: tuple[str, ...] = ()


class StepFolder:
    """The folder ``steps`` in a data folder; it is made with the first step."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder: no other process or thread reads or writes a step in this scope. Raises
        OSError.
        """
        self._folder.mkdir(exist_ok=True)
        with (self._folder / _LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def read(self, uid: str) -> KnownStep | None:
        """Read the step with this SOP Instance UID. Raises OSError, and ValueError for a file of another
        version.
        """
        try:
            fields = json.loads(self._path(uid).read_text(encoding="ascii"))
        except FileNotFoundError:
            return None
        lists = {name: tuple(fields[name]) for name in ("studies", "objects", "has")}
        try:
            return KnownStep(**{**fields, **lists, "status": StepStatus(fields["status"])})
        except TypeError:
            raise ValueError("the file of a step cannot be read") from None

    def write(self, step: KnownStep) -> None:
        """Replace the step's file; it is durable when this returns. Raises OSError."""
        path = self._path(step.uid)
        temporary = path.with_name(f".{path.name}")
        with temporary.open("w", encoding="ascii") as file:
            json.dump(asdict(step), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(self._folder)

    def forget(self, seconds: float) -> None:
        """Delete steps that have not changed for ``seconds``. Raises OSError."""
        if not self._folder.is_dir():
            return
        before = time.time() - seconds
        with os.scandir(self._folder) as entries:
            old = [Path(one) for one in entries if one.name != _LOCK and one.stat().st_mtime < before]
        for path in old:
            path.unlink()

    def _path(self, uid: str) -> Path:
        return self._folder / f"{hashlib.sha256(uid.encode()).hexdigest()[:32]}.json"
