"""Makes notifications of events, once for each receiver, in one transaction with the cursor.

Events are read from the database, where each is written in the transaction that caused it: so it is sent even
after a crash. Event numbers are assigned before the commit, so that a lower number may appear after a higher
one: the cursor of a notification stays two minutes behind, and the events that it sent are remembered until
then.

Peers that have been silent for longer than their settings allow.
"""

import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from pathlib import Path

from sqlalchemy import ColumnElement, delete, exists, func, select
from sqlalchemy.orm import Session

from dicom_node import events
from dicom_node.config.notifications import NotificationSettings
from dicom_node.config.settings import PeerSettings, ResultSettings, Settings, matches
from dicom_node.errors import NotInSpool, StoreAway
from dicom_node.model.kinds import NotificationState, Occasion, ResultKind
from dicom_node.notifications import message
from dicom_node.object_store.files import Files
from dicom_node.store import fetches
from dicom_node.store.database import Database
from dicom_node.store.tables import (
    Cursor,
    EventRow,
    HeldResult,
    Job,
    Notification,
    NotifiedEvent,
    ReceivedObject,
    Result,
    Study,
)
from dicom_node.store.transitions import record, utc_now
from dicom_node.store.views import as_json

_BEHIND_SECONDS = 120.0
_AT_ONCE = 1000  # events of one notification; more come with the next
_KEPT = timedelta(days=90)  # how long notifications that ended are shown
_CURSOR = "notify "
_IN_WORDS = {
    "withheld": "Results of this study are withheld.",
    "not assessed": "The AI did not assess this study.",
}
_UNREADABLE = "(the report cannot be read)"


def forget_removed(database: Database, settings: Settings) -> None:
    """Delete the cursors of notifications that are no longer in the settings.

    A notification that is configured again later starts afresh.
    """
    with database.write() as session:
        session.execute(
            delete(Cursor).where(
                Cursor.name.startswith(_CURSOR, autoescape=True),
                Cursor.name.not_in([_cursor_of(rule) for rule in settings.notifications]),
            )
        )


class Gatherer:
    """Makes notifications; only one at a time per database (the lease of the sender)."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database, self._settings = database, settings
        self._heads: deque[tuple[float, int]] = deque()

    def run_once(self) -> int:
        """Write the notifications that are due now; returns their number."""
        behind = self._behind()
        done = 0
        for rule in self._settings.notifications:
            with suppress(StoreAway):  # its reports are read when the object store is back
                done += self._gather(rule, behind)
        return done

    def _behind(self) -> int | None:
        """The newest event of two minutes ago; None as long as that is not known."""
        now = time.monotonic()
        with self._database.read() as session:
            head = session.scalar(select(func.max(EventRow.id))) or 0
        if not self._heads or now - self._heads[-1][0] > _BEHIND_SECONDS / 10:
            self._heads.append((now, head))
        known = None
        while self._heads and now - self._heads[0][0] >= _BEHIND_SECONDS:
            known = self._heads.popleft()[1]
        return known

    def _gather(self, rule: NotificationSettings, behind: int | None) -> int:
        with self._database.write() as session:
            cursor = session.get(Cursor, _cursor_of(rule))
            if cursor is None:  # no notification of what happened before the rule existed
                head = session.scalar(select(func.max(EventRow.id))) or 0
                session.add(Cursor(name=_cursor_of(rule), offset=head))
                return 0
            if cursor.offset > (head := session.scalar(select(func.max(EventRow.id))) or 0):
                cursor.offset = head  # the newest events are gone, and their numbers are given again
            ours = Notification.rule == rule.name
            last, now = session.scalar(select(func.max(Notification.created_at)).where(ours)), utc_now()
            if last is not None and now - timedelta(minutes=rule.every_minutes) < last <= now:
                return 0
            further = [one for some in self._all_conditions(rule).values() for one in some]
            # Events for which this rule has no notification yet.
            known = exists().where(NotifiedEvent.rule == rule.name, NotifiedEvent.event_id == EventRow.id)
            numbers = numbers_of(rule) | numbers_for(further)
            new = (EventRow.id > cursor.offset, EventRow.number.in_(numbers), ~known)
            oldest = select(EventRow).where(*new).order_by(EventRow.id).limit(_AT_ONCE)
            rows = session.scalars(oldest).all()
            chosen = [found for row in rows if (found := self._as_event(session, rule, row)) is not None]
            session.add_all(NotifiedEvent(rule=rule.name, event_id=row.id) for row in rows)
            if chosen:
                self._write(session, rule, chosen)
            if len(rows) < _AT_ONCE and behind is not None and behind > cursor.offset:
                session.flush()
                cursor.offset = behind
                session.execute(
                    delete(NotifiedEvent).where(
                        NotifiedEvent.rule == rule.name, NotifiedEvent.event_id <= behind
                    )
                )
                ended = Notification.state != NotificationState.PENDING
                old = Notification.created_at < now - _KEPT
                session.execute(delete(Notification).where(ours, ended, old))
        return 1 if chosen else 0

    def _as_event(
        self, session: Session, rule: NotificationSettings, row: EventRow
    ) -> message.TemplateEvent | None:
        """The event as the templates get it, None where the rule does not ask for it."""
        found, result = list[str](), list[str]()
        conditions = self._conditions(session, rule, row)
        wanted = [*rule.findings, *(one.finding for one in conditions if one.finding)]
        if (conditions or wanted) and row.study_id is not None and fetches.is_prior(session, row.study_id):
            conditions, wanted = [], []  # an old study is no news
        if wanted and row.number in WITH_FINDINGS:
            found, result = self._findings(session, wanted, row)
        words = {one.when for one in conditions if row.number in numbers_for([one]) and not one.finding}
        result += [_IN_WORDS[word] for word in sorted(words)]
        is_own = row.fields.get("notification") == rule.name  # that it could not be sent cannot be sent
        if is_own or not (found or words or row.number in _asked_for(rule)):
            return None
        patient = None
        if rule.names_patients:
            study = session.get(Study, row.study_id) if row.study_id else None
            patient = {
                "patient_id": study.patient_id if study else "",
                "accession_number": study.accession_number if study else "",
            }
        url = self._settings.console.url
        link = f"{url}/studies/{row.study_id}" if url and row.study_id else ""
        return message.TemplateEvent(row.number, as_json(row.at), row.fields, found, result, patient, link)

    def _all_conditions(self, rule: NotificationSettings) -> dict[str, list[ResultSettings]]:
        """The conditions that notify by it, by the name of their rule for studies."""
        named = {one.name: [it for it in one.then if rule.name in it.notify] for one in self._settings.rules}
        return {name: conditions for name, conditions in named.items() if conditions}

    def _conditions(
        self, session: Session, rule: NotificationSettings, row: EventRow
    ) -> list[ResultSettings]:
        """The conditions of the rules whose jobs or results the event is about."""
        if not (known := self._all_conditions(rule)):
            return []
        chosen = select(Job.rule).distinct()
        if "job" in row.fields:
            chosen = chosen.where(Job.id == row.fields["job"])
        else:
            results = Result.id.in_(row.fields.get("numbers", []))
            chosen = chosen.join(Result, Result.job_id == Job.id).where(results)
        return [one for name in session.scalars(chosen) for one in known.get(name, ())]

    def _findings(
        self, session: Session, patterns: Sequence[str], row: EventRow
    ) -> tuple[list[str], list[str]]:
        """The suspected findings that match the patterns in the event's reports, and these reports' lines."""
        reports = (Result.kind == ResultKind.SR, Result.deidentified.is_(False), *_leave_by(row))
        files = Files(self._settings)
        names, lines = dict[str, None](), dict[str, None]()
        for path in session.scalars(select(Result.path).where(*reports)):
            with suppress(NotInSpool):  # lost: it cannot be read either
                files.here(session, path)
            suspected, result = _reported(files.data_dir / path)
            wanted = [name for name in suspected if any(matches(one, name) for one in patterns)]
            wanted += [_UNREADABLE] if _UNREADABLE in suspected else []
            names |= dict.fromkeys(wanted)
            lines |= dict.fromkeys(result if wanted else ())
        return list(names), list(lines)

    def _write(
        self, session: Session, rule: NotificationSettings, chosen: list[message.TemplateEvent]
    ) -> None:
        made, now = message.written(rule, self._settings.node.ae_title, chosen), utc_now()
        session.add(
            Notification(
                key=str(uuid.uuid4()),
                rule=rule.name,
                subject=made.subject,
                text=made.text,
                content=dict(made.content),
                created_at=now,
                next_at=now,
            )
        )


def _leave_by(row: EventRow) -> Sequence[ColumnElement[bool]]:
    """Conditions for the results that may be sent after this event.

    After a job: its results that no person must accept first. After an acceptance: the accepted results.
    """
    if row.number == events.JOB_SUCCEEDED.number:
        return Result.job_id == row.fields.get("job"), Result.id.not_in(select(HeldResult.result_id))
    accepted = row.fields.get("numbers", []) if row.number == events.RESULTS_ACCEPTED.number else []
    return (Result.id.in_(accepted),)


def _cursor_of(rule: NotificationSettings) -> str:
    return f"{_CURSOR}{rule.name}"


@lru_cache(maxsize=64)
def _reported(report: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The findings that a report suspects, and the lines of its short result.

    A report that cannot be read gives ``_UNREADABLE``: it may contain a finding that somebody waits for.
    """
    from dicom_node.results.sr import reading  # heavy, and only a rule with findings needs it

    try:
        read = reading.stated(report)
    except Exception:  # noqa: BLE001  (whatever its parser says of a damaged file)
        return (_UNREADABLE,), (_UNREADABLE,)
    return tuple(one.meaning for one in read.findings if one.decision == "present"), read.short_result


EVENTS: Mapping[Occasion, Sequence[events.EventType]] = {
    Occasion.FAILURE: (
        events.JOB_FAILED,
        events.FETCH_FAILED,
        events.RESULT_REFUSED,
        events.RESULT_LOST,
        events.RESULT_NOT_REMOVED,
        events.DELIVERY_OVERDUE,
        events.SPOOL_DIFFERS,
        events.DATABASE_REPLACED,
        events.DECISIONS_UNKNOWN,
        events.DECISIONS_CHANGED,
        events.DECISIONS_NOT_COPIED,
        events.CHILD_DIED,
        events.PROCESS_LOST,
        events.INDEXING_FAILED,
        events.THREAD_FAILED,
        events.COMMITMENT_SET_ASIDE,
        events.COMMITMENT_ANSWER_GIVEN_UP,
        events.WORKITEM_GIVEN_UP,
        events.CONFIGURATION_REFUSED,
        events.CONSOLE_CANNOT_START,
        events.AUDIT_NOT_SENT,
        events.AUDIT_NOT_MADE,
        events.STORE_AWAY,
    ),
    Occasion.DEAD_LETTER: (events.DELIVERY_DEAD, events.NOTIFICATION_GIVEN_UP),
    Occasion.QUARANTINE: (
        events.OBJECT_CONFLICT,
        events.OBJECT_QUARANTINED,
        events.STUDY_QUARANTINED,
        events.STUDY_MAY_BE_INCOMPLETE,
        events.FETCHED_OTHER_PATIENT,
    ),
    Occasion.WITHHELD: (events.CLEANING_WITHHELD, events.RESULT_WITHHELD),
    Occasion.DISK: (events.DISK_LOW,),
    Occasion.SILENCE: (events.PEER_SILENT,),
    Occasion.OUTAGE: (events.DESTINATION_AWAY, events.DESTINATION_BACK),
    Occasion.DRIFT: (events.SCORES_DRIFTED,),
    Occasion.ASSESSMENT: (events.ASSESSMENT_OVERDUE,),
}

WITH_FINDINGS = frozenset({events.JOB_SUCCEEDED.number, events.RESULTS_ACCEPTED.number})


WHEN: Mapping[str, Sequence[events.EventType]] = {
    "withheld": (
        events.CLEANING_WITHHELD,
        events.RESULT_WITHHELD,
        events.RESULT_REFUSED,
        events.RESULTS_REJECTED,
    ),
    "not assessed": (events.JOB_FAILED, events.JOB_NOT_APPLICABLE),
}
"""The events of conditions on quality that the rules for studies have."""


def numbers_for(conditions: Iterable[ResultSettings]) -> set[int]:
    """The numbers of the events that can match these conditions on studies."""
    found: set[int] = set()
    for one in conditions:
        found |= {event.number for event in WHEN[one.when]} if one.when in WHEN else WITH_FINDINGS
    return found


def numbers_of(rule: NotificationSettings) -> set[int]:
    """The numbers of the events that can match ``rule``.

    With a condition on findings these include finished jobs and accepted results.
    """
    return _asked_for(rule) | (WITH_FINDINGS if rule.findings else frozenset())


def _asked_for(rule: NotificationSettings) -> set[int]:
    """The numbers of the events that ``rule`` wants all of; of others only those with a wanted finding."""
    return {event.number for occasion in rule.on for event in EVENTS[occasion]} | set(rule.events)


def report_silence(database: Database, settings: Settings) -> int:
    """Record event 1010 for each such peer, once per silence; returns the number of peers."""
    watched = [peer for peer in settings.peers if peer.silent_hours]
    if not watched:
        return 0
    with database.write() as session:
        return sum(_report(session, peer) for peer in watched)


def _report(session: Session, peer: PeerSettings) -> bool:
    last = session.scalar(
        select(func.max(ReceivedObject.received_at)).where(ReceivedObject.calling_ae == peer.ae_title)
    ) or session.scalar(select(func.min(EventRow.at)).where(EventRow.number == events.NODE_STARTED.number))
    if last is None or last > utc_now() - timedelta(hours=peer.silent_hours):
        return False
    reported = select(EventRow.fields).where(EventRow.number == events.PEER_SILENT.number, EventRow.at > last)
    if any(fields.get("peer") == peer.name for fields in session.scalars(reported)):
        return False
    record(session, events.PEER_SILENT, peer=peer.name, hours=peer.silent_hours, last=last.isoformat())
    return True
