"""The lines of listeners' journals as rows of associations and events.

An open association keeps its studies open.
"""

from pathlib import Path

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.lifecycle import (
    AssociationOutcome,
)
from dicom_node.base.store import (
    fetches,
    intake,
    requested,
)
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import (
    Association,
    Cursor,
)
from dicom_node.base.store.transitions import (
    append,
    record,
)
from dicom_node.receive.journal import listeners_of, read_journal, remove_read
from dicom_node.receive.spool import Spool
from dicom_node.studies.lost_associations import end_lost_associations

_ENDS = {
    events.ASSOCIATION_RELEASED: AssociationOutcome.RELEASED,
    events.ASSOCIATION_ABORTED: AssociationOutcome.ABORTED,
}


class JournalIngest:
    """Stores the lines of a listener's journal in the database, each once: the read position is stored in the
    same transaction.
    """

    def __init__(self, database: Database, folder: Path, spool: Spool) -> None:
        """Load the read positions in the journal ``folder`` from the database. ``spool``: where objects of
        its associations wait.
        """
        self._database, self._folder, self._spool = database, folder, spool
        with database.read() as session:
            known = session.execute(select(Cursor.name, Cursor.offset)).all()
        # Listeners of other machines have folders of their own.
        self._cursor = {name: offset for name, offset in known if (folder / name).exists()}
        self._gone: set[str] = set()

    def run_once(self) -> None:
        """Store the lines appended since the last run."""
        # First: a listener that starts now holds the lock before its file is there.
        gone, _ = listeners_of(self._folder)
        while lines := read_journal(self._folder, self._cursor):
            moved = {name: offset for name, offset, _ in lines}
            with self._database.write() as session:
                for _, _, event in lines:
                    _ingest(session, event, self._spool)
                for name, offset in moved.items():
                    session.merge(Cursor(name=name, offset=offset))
            self._cursor |= moved
        if gone != self._gone:  # an association that hangs must not hold its studies open
            with self._database.write() as session:
                end_lost_associations(session, Association.listener.in_(gone), self._spool)
            self._gone = gone
        if len(self._cursor) > 1:  # files of former listeners, or full ones
            remove_read(self._folder, self._cursor)
            if removed := {name for name in self._cursor if not (self._folder / name).exists()}:
                with self._database.write() as session:
                    session.execute(delete(Cursor).where(Cursor.name.in_(removed)))
                self._cursor = {name: at for name, at in self._cursor.items() if name not in removed}


def _ingest(session: Session, event: events.Event, spool: Spool) -> None:
    """Store an event of the journal; of events about many objects, the event table gets their number in place
    of UIDs.
    """
    fields = event.fields
    shown = {name: len(value) if isinstance(value, list) else value for name, value in fields.items()}
    if event.type is events.COMMITMENT_REPORTED:
        intake.keep_report(
            session,
            fields["transaction"],
            fields["calling"],
            fields["committed"],
            fields["failed"],
            event.at,
        )
        record(session, event.type, **shown)
    elif event.type is events.COMMITMENT_ASKED:  # by a peer
        refusal = requested.keep_request(
            session, fields["peer"], fields["calling"], fields["transaction"], fields["objects"], event.at
        )
        event_type = events.COMMITMENT_ASK_REFUSED if refusal else event.type
        record(session, event_type, **shown, reason=refusal)
    elif event.type is events.STEP_REPORTED:
        requested.keep_step(session, fields, event.at)
        known = fetches.present_studies(session, fields["studies"])
        names = ("step", "status", "calling", "peer", "association", "objects")
        of_step = {name: shown[name] for name in names}
        for uid in fields["studies"]:
            study = known.get(uid)
            record(session, event.type, study.id if study else None, study=uid, **of_step)
    else:
        append(session, event)
        _keep_association(session, event, spool)


def _keep_association(session: Session, event: events.Event, spool: Spool) -> None:
    """Store the beginning or the end of an association, if the event is one."""
    fields = event.fields
    association = fields.get("association", "")
    if event.type is events.ASSOCIATION_ACCEPTED:
        refused = fields.get("refused") or []
        session.merge(
            Association(
                id=association,
                listener=fields.get("listener", ""),
                calling_ae=fields.get("calling", "")[:16],
                called_ae=fields.get("called", "")[:16],
                address=fields.get("address", ""),
                opened_at=event.at,
                closed_at=None,
                outcome=AssociationOutcome.OPEN,
                objects=0,
                refused=refused,
                refused_count=fields.get("refused_count") or len(refused),
                reason="",
            )
        )
        session.flush()
    elif event.type in _ENDS:
        session.execute(
            update(Association)
            .where(Association.id == association, Association.closed_at.is_(None))
            .values(
                closed_at=event.at,
                outcome=_ENDS[event.type],
                objects=fields.get("objects") or 0,
                reason=fields.get("reason") or "",
            )
        )
    elif event.type is events.LISTENER_STOPPED:
        end_lost_associations(session, Association.listener == fields.get("listener"), spool)
