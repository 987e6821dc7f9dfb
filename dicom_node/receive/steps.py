"""Performed procedure steps (MPPS, PS3.4 F.7) as modalities report them: the N-CREATE and N-SET of a step.

An accepted request is in the journal before it is in the step's file, and in both before it is answered:
after a kill in between, the modality has no answer, sends the request again, and it is accepted again. The
index learns of steps from the journal; the files serve the listeners that share a data folder, which have no
database.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from pydicom.uid import UID

from dicom_node.base import events
from dicom_node.base.dicom import dimse_n
from dicom_node.base.durable import sync_folder
from dicom_node.base.errors import FaultyStep
from dicom_node.base.lifecycle import StepStatus
from dicom_node.receive import statuses
from dicom_node.receive.journal import JournalWriter
from dicom_node.receive.messages import (
    N_CREATE_RQ,
    SUCCEEDED,
    Answer,
    Command,
)
from dicom_node.receive.policy import (
    with_tuples,
)

ENDED: Final = "Performed Procedure Step Object may no longer be updated"
"""Error Comment of an N-SET after the end (PS3.4 Table F.7.2-2)."""
KEPT_DAYS: Final = 30
"""How long a step is known after the last request about it, at least: a listener that starts forgets it."""
_STATUSES = {status.code: status for status in statuses.STEP_STATUSES}


@dataclass(frozen=True, slots=True)
class KnownStep:
    """An MPPS step (performed procedure step) with the changes of all accepted requests.

    ``number``: how many N-SET requests were accepted. ``studies``: Study Instance UIDs. ``objects``: SOP
    Instance UIDs. ``has``: keywords of the attributes required at the end of a step that have a value so far.
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
    """The MPPS steps (performed procedure steps) that modalities report, stored in the folder ``steps`` of
    the data folder. Thread-safe.

    Old steps, on which no modality reports any more, are deleted when a listener starts.
    """

    def __init__(self, data_dir: Path, journal: JournalWriter) -> None:
        """Use the folder ``steps`` of the data folder, deleting old steps; accepted requests are written to
        ``journal``.
        """
        self._folder, self._journal = data_dir / "steps", journal
        with contextlib.suppress(OSError):  # another listener did, or the next one does
            for path in self._folder.glob("*.json"):
                if path.stat().st_mtime < time.time() - KEPT_DAYS * 86400:
                    path.unlink()

    def handle(
        self,
        command: Command,
        encoded: bytes,
        transfer_syntax: UID,
        fields: Mapping[str, str],
    ) -> Answer:
        """Handle an MPPS request (N-CREATE or N-SET) of a peer and return the answer; the change is durable
        if the answer is Success.

        ``encoded``: the request's data set. ``fields``: the association, the calling AE and the peer, for the
        journal entry.
        """
        if command.sop_class_uid != dimse_n.STEP_CLASS:
            return Answer(statuses.NO_SUCH_CLASS)
        if not command.names_an_instance:
            return Answer(statuses.STEP_INSTANCE)
        try:
            is_new = command.field == N_CREATE_RQ
            read = dimse_n.read_step_creation if is_new else dimse_n.read_step_modification
            change = read(encoded, transfer_syntax)
            self._folder.mkdir(exist_ok=True)
            with (self._folder / "lock").open("a") as lock:  # for other processes and threads
                fcntl.flock(lock, fcntl.LOCK_EX)
                try:
                    step_file = json.loads(
                        self._path(command.sop_instance_uid).read_bytes(), object_hook=with_tuples
                    )
                    known = KnownStep(**{**step_file, "status": StepStatus(step_file["status"])})
                except FileNotFoundError:
                    known = None
                step = self._next(known, command, change, fields)
                if isinstance(step, Answer):
                    return step
                # The whole step, so that each line of the journal can be read alone.
                self._journal.append_durably(
                    events.STEP_REPORTED,
                    {
                        **fields,
                        "step": step.uid,
                        "status": step.status.value,
                        "number": step.number,
                        "studies": list(step.studies),
                        "objects": list(step.objects),
                    },
                )
                self._write(step)
                return SUCCEEDED
        except FaultyStep as error:
            missing = error.tags if error.code == dimse_n.MISSING else ()
            return Answer(_STATUSES[error.code], str(error), missing=missing)
        except (OSError, ValueError, LookupError, TypeError):  # the disk, or the file of another version
            return Answer(statuses.NOT_KEPT, "the step cannot be written")

    def _next(
        self,
        known: KnownStep | None,
        command: Command,
        change: dimse_n.StepChange,
        fields: Mapping[str, str],
    ) -> KnownStep | Answer:
        """Return the step after a request on ``known`` (None: a new step), or the answer that refuses the
        request. Raises FaultyStep.
        """
        creates = command.field == N_CREATE_RQ
        if creates != (known is None):
            return Answer(statuses.STEP_KNOWN if creates else statuses.STEP_UNKNOWN)
        before = known or KnownStep(
            command.sop_instance_uid,
            fields["peer"],
            fields["calling"],
            StepStatus.IN_PROGRESS,
            number=-1,
            studies=change.studies,
        )
        if before.peer != fields["peer"]:
            return Answer(statuses.NOT_AUTHORISED, "the step is of another AE")
        if before.status is not StepStatus.IN_PROGRESS:
            return Answer(statuses.STEP_FAILURE, ENDED, error_id=0xA710)
        step = replace(
            before,
            status=change.status or before.status,
            number=before.number + 1,
            objects=before.objects if change.objects is None else change.objects,
            has=tuple(sorted({*before.has, *change.has})),
        )
        missing = [keyword for keyword in dimse_n.STEP_END if keyword not in step.has]
        if step.status is not StepStatus.IN_PROGRESS and missing:
            raise dimse_n.faulty_step(dimse_n.EMPTY, *missing)
        return step

    def _write(self, step: KnownStep) -> None:
        """Write the file of a step, durably, in place of its former file. Raises OSError."""
        path = self._path(step.uid)
        temporary = path.with_name(f".{path.name}")
        with temporary.open("wb") as file:
            file.write(json.dumps(asdict(step)).encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(self._folder)

    def _path(self, uid: str) -> Path:
        """Return the path of the file of the step with this UID."""
        return self._folder / f"{hashlib.sha256(uid.encode()).hexdigest()[:32]}.json"
