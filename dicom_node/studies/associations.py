"""The listener's journal → association rows and events: an open association keeps its studies open."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.orm import Session

from dicom_node import events
from dicom_node.events import Event
from dicom_node.inbox.journal import JournalReader, has_no_writer
from dicom_node.model.kinds import AssociationOutcome, StepStatus
from dicom_node.store import intake, requested, steps
from dicom_node.store.database import Database
from dicom_node.store.tables import Association
from dicom_node.store.transitions import append, record, utc_now

_LOOK_SECONDS = 2.0
_STEPS = (events.STEP_BEGUN, events.STEP_CHANGED)
_ENDS = {
    events.ASSOCIATION_RELEASED: AssociationOutcome.RELEASED,
    events.ASSOCIATION_ABORTED: AssociationOutcome.ABORTED,
}


class JournalIngest:
    """Stores journal lines in the database, each once: the read position moves in the same transaction."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        self._reader = JournalReader(folder)
        self._cursor: dict[str, int] | None = None
        self._look_at = 0.0
        self._gone: list[str] = []

    def run_once(self) -> int:
        """Ingest the lines appended since the last run; returns their number."""
        total, started = 0, self._cursor is None
        if self._cursor is None:
            self._cursor = self._read_cursor()
        gone = self._ended_listeners()  # before their last lines are read
        while lines := self._reader.read(self._cursor):
            moved = {line.file: line.offset for line in lines}
            with self._database.write() as session:
                for line in lines:
                    _ingest(session, line.event)
                for name, offset in moved.items():
                    intake.move_cursor(session, name, offset)
            self._cursor |= moved
            total += len(lines)
            started |= any(line.event.type is events.LISTENER_STARTED for line in lines)
        if started:
            self._close_the_lost()
        self._close(gone)
        if started or (total and len(self._cursor) > 1):  # files of former listeners, or full ones
            self._clear_away()
        return total

    def _read_cursor(self) -> dict[str, int]:
        """How far the files of this folder were read; listeners of other machines have their own folders."""
        with self._database.read() as session:
            known = intake.cursors(session)
        return {name: offset for name, offset in known.items() if (self._folder / name).exists()}

    def _close_the_lost(self) -> None:
        """Close the associations of former listeners: one at a time writes here, the newest."""
        listeners = self._listeners()
        self._close([one for one in listeners if one != listeners[-1]])

    def _close(self, listeners: Sequence[str]) -> None:
        if listeners:
            with self._database.write() as session:
                intake.lose_associations(session, set(listeners), utc_now())

    def _listeners(self) -> list[str]:
        """Which wrote the journal files, whose names are time-listener-number."""
        names = (path.stem for path in sorted(self._folder.glob("*.jsonl")))
        return [name.split("-", 1)[-1].rsplit("-", 1)[0] for name in names]

    def _ended_listeners(self) -> list[str]:
        """Checked now and then, logged once: an association that hangs must not hold its studies open."""
        now = time.monotonic()
        if now < self._look_at:
            return []
        self._look_at = now + _LOOK_SECONDS
        listeners = self._listeners()  # first: one that starts now holds the lock before its file is there
        if listeners == self._gone or not has_no_writer(self._folder):
            return []
        self._gone = listeners
        return listeners

    def _clear_away(self) -> None:
        assert self._cursor is not None
        self._reader.remove_read(self._cursor)
        gone = {name for name in self._cursor if not (self._folder / name).exists()}
        if gone:
            with self._database.write() as session:
                intake.drop_cursors(session, gone)
            self._cursor = {name: offset for name, offset in self._cursor.items() if name not in gone}


def _ingest(session: Session, event: Event) -> None:
    if event.type is events.COMMITMENT_REPORTED:
        _keep_report(session, event)
        return
    if event.type is events.COMMITMENT_ASKED:
        _keep_request(session, event)
        return
    if event.type in _STEPS:
        _keep_step(session, event)
        return
    append(session, event)
    association = str(event.fields.get("association", ""))
    if event.type is events.ASSOCIATION_ACCEPTED:
        session.merge(_opened(event, association))
        session.flush()
    elif event.type in _ENDS:
        intake.close_association(
            session,
            association,
            event.at,
            outcome=_ENDS[event.type],
            objects=int(event.fields.get("objects") or 0),
            reason=str(event.fields.get("reason") or ""),
        )
    elif event.type is events.LISTENER_STOPPED:
        intake.lose_associations(session, [str(event.fields.get("listener"))], event.at)


def _keep_report(session: Session, event: Event) -> None:
    """A storage commitment report goes to the outbox; the event has numbers instead of UIDs."""
    transaction, calling = str(event.fields["transaction"]), str(event.fields["calling"])
    committed, failed = event.fields["committed"], event.fields["failed"]
    intake.keep_report(session, transaction, calling, committed, failed, event.at)
    record(
        session,
        events.COMMITMENT_REPORTED,
        transaction=transaction,
        calling=calling,
        committed=len(committed),
        failed=len(failed),
    )


def _keep_request(session: Session, event: Event) -> None:
    """A peer's request for storage commitment; the event has the number of objects instead of UIDs."""
    peer, calling, transaction = (str(event.fields[key]) for key in ("peer", "calling", "transaction"))
    objects = event.fields["objects"]
    refusal = requested.keep(session, peer, calling, transaction, objects, event.at)
    kind = events.COMMITMENT_ASK_REFUSED if refusal else events.COMMITMENT_ASKED
    record(
        session,
        kind,
        peer=peer,
        calling=calling,
        transaction=transaction,
        objects=len(objects),
        reason=refusal,
    )


def _keep_step(session: Session, event: Event) -> None:
    """A report on a performed procedure step goes to its table; the events have numbers instead of UIDs."""
    fields = event.fields
    report = steps.StepReport(
        uid=str(fields["step"]),
        peer=str(fields["peer"]),
        calling_ae=str(fields["calling"]),
        status=StepStatus(fields["status"]),
        number=int(fields["number"]),
        studies=fields["studies"],
        objects=fields["objects"],
        at=event.at,
    )
    steps.keep(session, report)
    known = steps.studies(session, report.studies)
    names = ("step", "status", "calling", "peer", "association")
    shown = {name: fields[name] for name in names} | {"objects": len(report.objects)}
    for uid in report.studies:
        record(session, event.type, known.get(uid), study=uid, **shown)


def _opened(event: Event, association: str) -> Association:
    fields, refused = event.fields, event.fields.get("refused") or []
    return Association(
        id=association,
        listener=str(fields.get("listener", "")),
        calling_ae=str(fields.get("calling", ""))[:16],
        called_ae=str(fields.get("called", ""))[:16],
        address=str(fields.get("address", "")),
        opened_at=event.at,
        closed_at=None,
        outcome=AssociationOutcome.OPEN,
        objects=0,
        refused=refused,
        refused_count=fields.get("refused_count") or len(refused),
        reason="",
    )
