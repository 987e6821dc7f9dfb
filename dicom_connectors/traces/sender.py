"""Sends the traces of ended studies, in a separate thread; only one process per database sends.

Nothing waits for it. Spans that a collector does not accept within five minutes are dropped, and counted.
"""

import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from dicom_connectors.traces import otlp
from dicom_connectors.traces.settings import TracesPart
from dicom_connectors.traces.spans import spans_of
from dicom_node import __version__
from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import part
from dicom_node.base.lifecycle import END_STATES
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import EventRow, Study, StudyTrace
from dicom_node.base.store.transitions import KeptLease, record, utc_now

_LOOK_SECONDS: Final = 2.0
_LONGEST_WAIT: Final = 60.0  # seconds after a failure
_LOOKED_BACK: Final = timedelta(minutes=15)  # a study that ended before has no trace any more
_TRIED: Final = timedelta(minutes=5)
_AT_ONCE: Final = 50  # studies in one request
_ENDS = (events.STUDY_MOVED.number, events.STUDY_QUARANTINED.number)


@dataclass(frozen=True, slots=True)
class _EndedStudy:
    """A study whose trace waits. ``since``: what happened until then was sent before."""

    study_id: int
    trace_id: str
    since: datetime | None
    until: datetime


class TraceSender:
    """Sends traces under one configuration; the database notes which studies' traces were sent."""

    def __init__(self, database: Database, settings: Settings, owner: str) -> None:
        self._database, self._settings = database, part(settings, TracesPart).telemetry
        self._lease = KeptLease(database, "telemetry", owner, 2 * self._settings.seconds + 30.0)
        self._resource = {
            "service.name": "dicom-node",
            "service.version": __version__,
            "dicom_node.ae_title": settings.node.ae_title,
        }
        self._failures = 0
        self._next_at = 0.0

    def run_once(self, stop: threading.Event | None = None) -> int:
        """Send the waiting traces; returns how many were accepted. After a failure it pauses, longer each
        time.
        """
        if time.monotonic() < self._next_at or not self._lease.keep():
            return 0
        self._next_at = time.monotonic() + _LOOK_SECONDS
        sent = 0
        while not (stop is not None and stop.is_set()) and self._lease.keep() and (ended := self._waiting()):
            taken = self._send(ended)
            if taken.ok:
                sent += len(ended)
            else:
                self._note_failure(taken, ended)
                break
        return sent

    def _waiting(self) -> list[_EndedStudy]:
        """Some of the studies that ended since their trace was sent, each with the trace id that it keeps."""
        moved = func.max(EventRow.at).label("until")
        chosen = (
            select(Study.id, moved, StudyTrace.trace_id, StudyTrace.until)
            .join(EventRow, EventRow.study_id == Study.id)
            .join(StudyTrace, StudyTrace.study_id == Study.id, isouter=True)
            .where(EventRow.at > utc_now() - _LOOKED_BACK, EventRow.number.in_(_ENDS))
            .where(Study.state.in_(END_STATES))
            .group_by(Study.id, StudyTrace.study_id)
            .having(or_(StudyTrace.until.is_(None), moved > StudyTrace.until))
            .order_by(moved)
            .limit(_AT_ONCE)
        )
        with self._database.read() as session:
            rows = session.execute(chosen).all()
        if not rows:
            return []
        trace_ids = {row.id: row.trace_id or secrets.token_hex(16) for row in rows}
        new = [row.id for row in rows if row.trace_id is None]
        with self._database.write() as session:  # before anything is sent: what is sent twice is one trace
            session.add_all(StudyTrace(study_id=number, trace_id=trace_ids[number]) for number in new)
        return [_EndedStudy(number, trace_ids[number], since, until) for number, until, _, since in rows]

    def _send(self, ended: Sequence[_EndedStudy]) -> otlp.CollectorAnswer:
        with self._database.read() as session:
            traces = {
                one.trace_id: spans_of(session, session.get_one(Study, one.study_id), one.since, one.until)
                for one in ended
            }
        taken = otlp.send(self._settings, otlp.encode(traces, self._resource))
        if taken.ok:
            with self._database.write() as session:
                self._note(session, ended, dropped=0)
                if self._failures:
                    record(session, events.TRACES_SENT_AGAIN)
            self._failures = 0
        return taken

    def _note_failure(self, taken: otlp.CollectorAnswer, ended: Sequence[_EndedStudy]) -> None:
        """Drop what will not be tried again."""
        late = [one for one in ended if not taken.later or one.until < utc_now() - _TRIED]
        with self._database.write() as session:
            self._note(session, late, dropped=1)
            if not self._failures:
                record(session, events.TRACES_NOT_SENT, reason=taken.reason)
        self._failures += 1
        wait = min(_LOOK_SECONDS * 2.0 ** min(self._failures, 10), _LONGEST_WAIT)
        self._next_at = time.monotonic() + wait

    def _note(self, session: Session, ended: Sequence[_EndedStudy], *, dropped: int) -> None:
        for one in ended:
            values = {"until": one.until, "dropped": StudyTrace.dropped + dropped}
            session.execute(update(StudyTrace).where(StudyTrace.study_id == one.study_id).values(values))
