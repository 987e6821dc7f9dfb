"""Performed procedure steps of modalities (PS3.4 F.7): which N-CREATE and N-SET are accepted.

An accepted request is in the journal before it is in the step's file, and in both before it is answered:
after a kill in between, the modality has no answer, sends the request again, and it is accepted again.

The memory of the listeners is a file for each step, so that any listener can answer. The index learns of
steps from the journal; these files serve the listeners that share a data folder, which have no database.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydicom.uid import UID

from dicom_node.base.dicom import performed_step
from dicom_node.base.errors import FaultyStep
from dicom_node.base.events import STEP_REPORTED, Event, FieldValue
from dicom_node.base.kinds import StepStatus
from dicom_node.receive import statuses
from dicom_node.receive.messages import N_CREATE_RQ, Answer, Command
from dicom_node.receive.spool import JournalWriter, sync_folder

ENDED: Final = "Performed Procedure Step Object may no longer be updated"
ENDED_ID: Final = 0xA710
"""Error Comment and Error ID of an N-SET after the end (PS3.4 Table F.7.2-2)."""
KEPT_DAYS: Final = 30
"""How long a step is known after the last request about it."""
_CLEAN_SECONDS = 3600.0
_STATUSES = {status.code: status for status in statuses.STEP_STATUSES}


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


class PerformedSteps:
    """The steps of one data folder, in its folder ``steps`` (made with the first step). Thread-safe."""

    def __init__(self, data_dir: Path, journal: JournalWriter) -> None:
        self._folder, self._journal = data_dir / "steps", journal
        self._cleaned_at = float("-inf")

    def take(
        self,
        command: Command,
        encoded: bytes,
        transfer_syntax: UID,
        peer: str,
        fields: Mapping[str, FieldValue],
    ) -> Answer:
        """Accept a request of this peer, or answer why not; the request is durable if the answer is Success.

        ``fields``: for the request's event, such as "calling".
        """
        if command.sop_class_uid != performed_step.SOP_CLASS:
            return Answer(statuses.NO_SUCH_CLASS)
        if not command.names_an_instance:
            return Answer(statuses.STEP_INSTANCE)
        creates = command.field == N_CREATE_RQ
        try:
            read = performed_step.read_creation if creates else performed_step.read_modification
            change = read(encoded, transfer_syntax)
            with self._locked():
                step = self._next(self.known(command.sop_instance_uid), command, change, peer, fields)
                if isinstance(step, Answer):
                    return step
                # The whole step, so that each line of the journal can be read alone. Not logged here: it
                # names all objects. The index tells their number.
                told = {
                    **fields,
                    "step": step.uid,
                    "status": step.status.value,
                    "number": step.number,
                    "studies": list(step.studies),
                    "objects": list(step.objects),
                }
                self._journal.append_durably(Event(STEP_REPORTED, datetime.now(UTC), told))
                self._write(step)
                return Answer(statuses.SUCCESS)
        except FaultyStep as error:
            missing = error.tags if error.code == performed_step.MISSING else ()
            return Answer(_STATUSES[error.code], str(error), missing=missing)
        except (OSError, ValueError, TypeError):  # the disk, or the file of another version
            return Answer(statuses.NOT_KEPT, "the step cannot be written")

    def known(self, uid: str) -> KnownStep | None:
        """The step with this SOP Instance UID. Raises OSError, ValueError or TypeError for a file of another
        version.
        """
        try:
            fields = json.loads(self._path(uid).read_text(encoding="ascii"))
        except FileNotFoundError:
            return None
        lists = {name: tuple(fields[name]) for name in ("studies", "objects", "has")}
        return KnownStep(**{**fields, **lists, "status": StepStatus(fields["status"])})

    def forget_old(self) -> None:
        """Delete, once an hour, old steps on which no modality reports any more. Call it about once a
        second.
        """
        if time.monotonic() - self._cleaned_at > _CLEAN_SECONDS:
            self._cleaned_at = time.monotonic()
            before = time.time() - KEPT_DAYS * 86400
            with contextlib.suppress(OSError):  # another listener did, or does it in an hour
                for path in self._folder.glob("*.json"):
                    if path.stat().st_mtime < before:
                        path.unlink()

    def _next(
        self,
        known: KnownStep | None,
        command: Command,
        change: performed_step.StepChange,
        peer: str,
        fields: Mapping[str, FieldValue],
    ) -> KnownStep | Answer:
        """The step after a request, or why the request is refused. Raises FaultyStep."""
        if command.field == N_CREATE_RQ:
            if known is not None:
                return Answer(statuses.STEP_KNOWN)
            return KnownStep(
                command.sop_instance_uid,
                peer,
                calling=str(fields["calling"]),
                status=StepStatus.IN_PROGRESS,
                number=0,
                studies=change.studies,
                objects=change.objects or (),
                has=tuple(sorted(change.has)),
            )
        if known is None:
            return Answer(statuses.STEP_UNKNOWN)
        if known.peer != peer:
            return Answer(statuses.NOT_AUTHORISED, "the step is of another AE")
        if known.status is not StepStatus.IN_PROGRESS:
            return Answer(statuses.STEP_FAILURE, ENDED, ENDED_ID)
        step = replace(
            known,
            status=change.status or known.status,
            number=known.number + 1,
            objects=known.objects if change.objects is None else change.objects,
            has=tuple(sorted({*known.has, *change.has})),
        )
        missing = [keyword for keyword in performed_step.LAST if keyword not in step.has]
        if step.status is not StepStatus.IN_PROGRESS and missing:
            raise performed_step.faulty(performed_step.EMPTY, *missing)
        return step

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """No other process or thread reads or writes a step in this scope. Raises OSError."""
        self._folder.mkdir(exist_ok=True)
        with (self._folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, step: KnownStep) -> None:
        """Replace the step's file; it is durable when this returns. Raises OSError."""
        path = self._path(step.uid)
        temporary = path.with_name(f".{path.name}")
        with temporary.open("w", encoding="ascii") as file:
            json.dump(asdict(step), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(self._folder)

    def _path(self, uid: str) -> Path:
        return self._folder / f"{hashlib.sha256(uid.encode()).hexdigest()[:32]}.json"
