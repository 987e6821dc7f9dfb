"""Performed procedure steps of modalities (PS3.4 F.7): which N-CREATE and N-SET are accepted.

An accepted request is in the journal before it is in the step's file, and in both before it is answered:
after a kill in between, the modality has no answer, sends the request again, and it is accepted again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydicom.uid import UID

from dicom_node.dicom import performed_step
from dicom_node.dicom.performed_step import StepChange, read_creation, read_modification
from dicom_node.errors import FaultyStep
from dicom_node.events import STEP_BEGUN, STEP_CHANGED, Event, FieldValue
from dicom_node.inbox.journal import JournalWriter
from dicom_node.inbox.steps import KnownStep, StepFolder
from dicom_node.model.kinds import StepStatus
from dicom_node.scp import statuses
from dicom_node.scp.command import NormalizedAnswer, NormalizedCommand

ENDED: Final = "Performed Procedure Step Object may no longer be updated"
ENDED_ID: Final = 0xA710
"""Error Comment and Error ID of an N-SET after the end (PS3.4 Table F.7.2-2)."""
KEPT_DAYS: Final = 30
"""How long a step is known after the last request about it."""
_CLEAN_SECONDS = 3600.0
_STATUSES = {status.code: status for status in statuses.STEP_STATUSES}


class PerformedSteps:
    """The steps of one data folder. Thread-safe."""

    def __init__(self, data_dir: Path, journal: JournalWriter) -> None:
        self._folder = StepFolder(data_dir / "steps")
        self._journal = journal
        self._cleaned_at = float("-inf")

    def take(
        self,
        command: NormalizedCommand,
        encoded: bytes,
        transfer_syntax: UID,
        peer: str,
        fields: Mapping[str, FieldValue],
    ) -> NormalizedAnswer:
        """Accept a request of this peer, or answer why not; the request is durable if the answer is Success.

        ``fields``: for the request's event, such as "calling".
        """
        if command.sop_class_uid != performed_step.SOP_CLASS:
            return NormalizedAnswer(statuses.NO_SUCH_CLASS)
        if not command.names_an_instance:
            return NormalizedAnswer(statuses.STEP_INSTANCE)
        try:
            change = (read_creation if command.creates else read_modification)(encoded, transfer_syntax)
            with self._folder.locked():
                return self._take(command, change, peer, fields)
        except FaultyStep as error:
            return _refusal(error)
        except (OSError, ValueError):
            return NormalizedAnswer(statuses.NOT_KEPT, "the step cannot be written")

    def forget_old(self) -> None:
        """Delete, once an hour, old steps on which no modality reports any more. Call it about once a
        second.
        """
        if time.monotonic() - self._cleaned_at > _CLEAN_SECONDS:
            self._cleaned_at = time.monotonic()
            with contextlib.suppress(OSError):  # another listener did, or does it in an hour
                self._folder.forget(KEPT_DAYS * 86400)

    def _take(
        self, command: NormalizedCommand, change: StepChange, peer: str, fields: Mapping[str, FieldValue]
    ) -> NormalizedAnswer:
        known = self._folder.read(command.sop_instance_uid)
        if command.creates:
            if known is not None:
                return NormalizedAnswer(statuses.STEP_KNOWN)
            calling = str(fields["calling"])
            status, uid = StepStatus.IN_PROGRESS, command.sop_instance_uid
            step = KnownStep(
                uid, peer, calling, status, 0, change.studies, change.objects or (), tuple(sorted(change.has))
            )
        elif known is None:
            return NormalizedAnswer(statuses.STEP_UNKNOWN)
        elif known.peer != peer:
            return NormalizedAnswer(statuses.NOT_AUTHORISED, "the step is of another AE")
        elif known.status is not StepStatus.IN_PROGRESS:
            return NormalizedAnswer(statuses.STEP_FAILURE, ENDED, ENDED_ID)
        else:
            step = _changed(known, change)
        event = STEP_BEGUN if command.creates else STEP_CHANGED
        # Not logged here: it names all objects of the step. The index tells their number.
        self._journal.append_durably(Event(event, datetime.now(UTC), {**fields, **_told(step)}))
        self._folder.write(step)
        return NormalizedAnswer(statuses.SUCCESS)


def _changed(known: KnownStep, change: StepChange) -> KnownStep:
    """The step after an N-SET. Raises FaultyStep where it would end without what its end needs."""
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


def _told(step: KnownStep) -> dict[str, FieldValue]:
    """The whole step, so that each line of the journal can be read alone."""
    return {
        "step": step.uid,
        "status": step.status.value,
        "number": step.number,
        "studies": list(step.studies),
        "objects": list(step.objects),
    }


def _refusal(error: FaultyStep) -> NormalizedAnswer:
    missing = error.tags if error.code == performed_step.MISSING else ()
    return NormalizedAnswer(_STATUSES[error.code], str(error), missing=missing)
