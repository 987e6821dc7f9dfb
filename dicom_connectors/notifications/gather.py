"""Makes notifications of events, without patients, once for each receiver, in one transaction with the
cursor.

Events are read from the database, where each is written in the transaction that caused it: so it is sent even
after a crash. Event numbers are assigned before the commit, so that a lower number may appear after a higher
one: the cursor of a notification stays two minutes behind, and the events that it sent are remembered until
then.
"""

import math
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, func, select
from sqlalchemy.orm import Session

from dicom_connectors.notifications.settings import NotificationSettings, NotificationsPart, Occasion
from dicom_node.base import events
from dicom_node.base.config.rule import QUALITY, SUSPECTED, ResultSettings, matches
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import typed_section
from dicom_node.base.errors import NotInSpool, StoreAway
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import NotificationState, ResultKind
from dicom_node.base.store import intake
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import (
    Cursor,
    EventRow,
    HeldResult,
    Job,
    Notification,
    NotifiedEvent,
    Result,
    Study,
)
from dicom_node.base.store.transitions import utc_now
from dicom_node.base.store.views import as_json

_LONGEST_TEXT, _LONGEST_SUBJECT = 65_536, 200  # characters
_EXAMPLES = 5  # events of one number that are shown


@dataclass(frozen=True, slots=True)
class Message:
    """The content of one notification.

    ``subject`` and ``text`` are for people; ``content`` says the same in JSON, for webhooks.
    """

    subject: str
    text: str
    content: Mapping[str, Any]


def message_of(name: str, node: str, chosen: Sequence[tuple[int, Mapping[str, Any]]]) -> Message:
    """Return the message of the notification ``name``.

    ``node``: AE title of the node; ``chosen``: (event number, event) for each event, where the event has the
    keys ``at``, ``fields``, ``link``, ``accession``, ``findings``, ``calls`` and ``result``.
    """
    by_number: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for number, event in chosen:
        by_number[number].append(event)
    groups, lines = [], list[str]()
    for number, same in sorted(by_number.items()):
        headline = _headline(same)
        text = f"event {number}"  # of a newer version
        with suppress(KeyError):
            text = headline or events.by_number(number).text
        shown = same[:_EXAMPLES]
        groups.append(
            {
                "number": number,
                "text": text,
                "clinical": bool(headline),
                "count": len(same),
                "first": same[0]["at"],
                "last": same[-1]["at"],
                "events": shown,
            }
        )
        times = f", {len(same)} times" if len(same) > 1 else ""
        lines.append(text + ("" if headline else f" ({number})") + times)
        for event in shown:
            lines += [f"  {line}" for line in event["result"] or [*event["calls"], *event["findings"]]]
            fields = {} if event["result"] else event["fields"]
            lines += [f"  Accession number {event['accession']}"] if event["accession"] else []
            lines += [f"  {event['link']}"] if event["link"] else []
            lines.append("".join([f"  {event['at']}", *(f"  {key}={it}" for key, it in fields.items())]))
        if len(same) > len(shown):
            lines.append(f"  and {len(same) - len(shown)} more")
        lines.append("")
    lines.append(f"Node {node}, notification {name}. Not for diagnostic use.")
    lines.append("More: dicom-node events list, or the console.")
    further = f" and {len(chosen) - 1} more" if len(chosen) > 1 else ""
    subject = " ".join(f"{node}: {groups[0]['text']}{further}".split())[:_LONGEST_SUBJECT]
    content = {"node": node, "name": name, "total": len(chosen), "groups": groups, "test": False}
    return Message(subject, "\n".join(lines)[:_LONGEST_TEXT] + "\n", content)


def _headline(same: Sequence[Mapping[str, Any]]) -> str:
    """Return a headline for ``same``, events of one number that state findings or results, such as
    "Suspected: Pneumothorax"; "" for other events.
    """
    calls = dict.fromkeys(name for event in same for name in event["calls"])
    named = dict.fromkeys(name for event in same for name in event["findings"])
    if calls or named:
        suspected = f"Suspected: {', '.join([*named][:_EXAMPLES])}" if named else ""
        return ". ".join(filter(None, [*calls, suspected]))
    return next((event["result"][0] for event in same if event["result"]), "").rstrip(".")


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
    """Delete the stored event positions of notifications that the settings no longer have.

    A notification that is configured again later starts with new events.
    """
    names = [_CURSOR + rule.name for rule in typed_section(settings, NotificationsPart).notifications]
    gone = Cursor.name.startswith(_CURSOR, autoescape=True), Cursor.name.not_in(names)
    with database.write() as session:
        session.execute(delete(Cursor).where(*gone))


class Gatherer:
    """Makes notifications from the events in the database.

    Only one process per database may run it at a time, which the sender's lease ensures.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database, self._settings = database, settings
        self._behind: int | None = None  # the newest event of two minutes ago, as far as it is known
        self._newest_event: int | None = None
        self._looked_at = -math.inf

    def run_once(self) -> int:
        """Store the notifications that are due now; return how many were stored."""
        with self._database.read() as session:
            head = _newest_event(session)
        if (now := time.monotonic()) - self._looked_at >= _BEHIND_SECONDS:
            self._behind, self._newest_event, self._looked_at = self._newest_event, head, now
        done = 0
        for rule in typed_section(self._settings, NotificationsPart).notifications:
            with suppress(StoreAway):  # its reports are read when the object store is back
                done += self._gather(rule, self._behind)
        return done

    def _gather(self, rule: NotificationSettings, behind: int | None) -> int:
        """Store the notification that is due for the receiver of ``rule``; return 1 if one was due, else 0.

        ``behind``: the newest event number of two minutes ago, None if unknown; after that time no event with
        a lower number can appear any more, so these need not be read again.
        """
        # The conditions that notify by it, by the name of their rule for studies.
        conditions = {
            one.name: [condition for condition in one.then if rule.name in condition.notify]
            for one in self._settings.rules
        }
        with self._database.write() as session:
            cursor, head = session.get(Cursor, _CURSOR + rule.name), _newest_event(session)
            if cursor is None:  # no notification of what happened before the rule existed
                session.add(Cursor(name=_CURSOR + rule.name, offset=head))
                return 0
            # Where the newest events are gone, their numbers are given again.
            cursor.offset = min(cursor.offset, head)
            ours = Notification.rule == rule.name
            last, now = session.scalar(select(func.max(Notification.created_at)).where(ours)), utc_now()
            if last is not None and now - timedelta(minutes=rule.every_minutes) < last <= now:
                return 0
            # Events for which this rule has no notification yet.
            known = exists().where(NotifiedEvent.rule == rule.name, NotifiedEvent.event_id == EventRow.id)
            numbers = _wanted_events(rule) | (WITH_FINDINGS if rule.findings else frozenset())
            numbers |= numbers_for(one for some in conditions.values() for one in some)
            new = EventRow.id > cursor.offset, EventRow.number.in_(numbers), ~known
            rows = session.scalars(select(EventRow).where(*new).order_by(EventRow.id).limit(_AT_ONCE)).all()
            told = [(row.number, self._event_for_message(session, rule, row, conditions)) for row in rows]
            chosen = [(number, event) for number, event in told if event]
            session.add_all(NotifiedEvent(rule=rule.name, event_id=row.id) for row in rows)
            if chosen:
                made = message_of(rule.name, self._settings.node.ae_title, chosen)
                session.add(
                    Notification(
                        key=str(uuid.uuid4()),
                        rule=rule.name,
                        created_at=now,
                        next_at=now,
                        subject=made.subject,
                        text=made.text,
                        content=dict(made.content),
                    )
                )
            if len(rows) < _AT_ONCE and behind is not None and behind > cursor.offset:
                session.flush()
                cursor.offset = behind
                past = NotifiedEvent.rule == rule.name, NotifiedEvent.event_id <= behind
                session.execute(delete(NotifiedEvent).where(*past))
                ended = Notification.state != NotificationState.PENDING
                session.execute(
                    delete(Notification).where(ours, ended, Notification.created_at < now - _KEPT)
                )
        return bool(chosen)

    def _event_for_message(
        self,
        session: Session,
        rule: NotificationSettings,
        row: EventRow,
        known: Mapping[str, Sequence[ResultSettings]],
    ) -> dict[str, Any]:
        """Return the event ``row`` as a message shows it; {} if the notification does not want it.

        ``known``: by name of each rule for studies, its conditions that send this notification.
        """
        if row.fields.get("notification") == rule.name:  # that it could not be sent cannot be sent
            return {}
        conditions = _conditions_about(session, row, known)
        patterns = _patterns(rule, conditions)
        if (conditions or patterns) and row.study_id is not None and intake.stays_here(session, row.study_id):
            conditions, patterns = [], []  # an old study is no news, and a trial is none
        occasions, lines = self._occasions(session, patterns, row)
        sentences = _quality_in_words(conditions, row.number)
        if not (occasions or sentences or row.number in _wanted_events(rule)):
            return {}
        url = self._settings.console.url
        return {
            "at": as_json(row.at),
            "fields": {key: value for key, value in row.fields.items() if value not in (None, "", [])},
            "link": f"{url}/studies/{row.study_id}" if url and row.study_id else "",
            "accession": session.scalar(select(Study.accession_number).where(Study.id == row.study_id))
            if occasions and rule.study == "accession"
            else "",
            **_by_kind(occasions),
            "result": lines + sentences,
        }

    def _occasions(
        self, session: Session, patterns: Sequence[str], row: EventRow
    ) -> tuple[list[str], list[str]]:
        """Return (occasions that match ``patterns``, lines of the reports that have them) for the
        reports of an event; none without patterns, or for an event that is about no new report.

        These are, after a job, its reports that need no person's acceptance and, after an acceptance, the
        accepted ones.
        """
        if not patterns or row.number not in WITH_FINDINGS:
            return [], []
        leave: list[ColumnElement[bool]] = [Result.id.in_(row.fields.get("numbers", []))]
        if row.number != events.RESULTS_ACCEPTED.number:
            held = select(HeldResult.result_id)
            leave = [Result.job_id == row.fields.get("job"), Result.id.not_in(held)]
        reports = (Result.kind == ResultKind.SR, Result.deidentified.is_(False), *leave)
        files = Files(self._settings)
        names, lines = dict[str, None](), dict[str, None]()
        for path in session.scalars(select(Result.path).where(*reports)):
            with suppress(NotInSpool):  # lost: it cannot be read either
                files.here(session, path)
            stated, result = _occasions_and_lines(files.data_dir / path)
            patterned = (name for name in stated if any(matches(one, name) for one in patterns))
            wanted = [*patterned, *(name for name in stated if name == _UNREADABLE + SUSPECTED)]
            names |= dict.fromkeys(wanted)
            lines |= dict.fromkeys(result if wanted else ())
        return list(names), list(lines)


def _patterns(rule: NotificationSettings, conditions: Iterable[ResultSettings]) -> list[str]:
    """Return the patterns of the occasions that a notification tells, its own and those of ``conditions``."""
    own = [pattern for name in rule.findings for pattern in (name, name + SUSPECTED)]
    return own + [one.when for one in conditions if one.when not in QUALITY]


def _by_kind(occasions: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of suspected ``findings``, and of ``calls``."""
    named: dict[str, list[str]] = {"findings": [], "calls": []}
    for one in occasions:
        named["findings" if one.endswith(SUSPECTED) else "calls"].append(one.removesuffix(SUSPECTED))
    return named


def _conditions_about(
    session: Session, row: EventRow, known: Mapping[str, Sequence[ResultSettings]]
) -> list[ResultSettings]:
    """Return the conditions of the rules for studies whose jobs or results the event ``row`` is about.

    ``known``: conditions by name of their rule.
    """
    if not any(known.values()):
        return []
    job = (
        Job.id == row.fields["job"]
        if "job" in row.fields
        else Job.id.in_(select(Result.job_id).where(Result.id.in_(row.fields.get("numbers", []))))
    )
    names = session.scalars(select(Job.rule).where(job).distinct())
    return [condition for name in names for condition in known.get(name, ())]


def _quality_in_words(conditions: Iterable[ResultSettings], number: int) -> list[str]:
    """Return a sentence for each condition on quality that an event of this ``number`` meets."""
    words = {one.when for one in conditions if one.when in WHEN and number in numbers_for([one])}
    return [_IN_WORDS[word] for word in sorted(words)]


def _newest_event(session: Session) -> int:
    """Return the number of the newest event, 0 without events."""
    return session.scalar(select(func.max(EventRow.id))) or 0


@lru_cache(maxsize=64)
def _occasions_and_lines(report: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (occasions for conditions that the SR file ``report`` states, lines of its short result).

    For a file that cannot be read both say ``_UNREADABLE``, because it may contain a finding that somebody
    waits for.
    """
    from dicom_node.results import stated_report  # heavy, and only a rule with findings needs it

    try:
        read = stated_report.read_report(report)
    except Exception:  # noqa: BLE001  (whatever its parser says of a damaged file)
        return (_UNREADABLE + SUSPECTED,), (_UNREADABLE,)
    suspected = [one.meaning + SUSPECTED for one in read.findings if one.decision == "present"]
    return (*suspected, *read.calls), read.short_result


EVENTS: Mapping[Occasion, Sequence[events.EventType]] = {
    "failure": (
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
        events.HL7_CANNOT_LISTEN,
        events.AUDIT_NOT_SENT,
        events.AUDIT_NOT_MADE,
        events.STORE_AWAY,
        events.ANSWER_SILENT,
    ),
    "dead_letter": (events.DELIVERY_DEAD, events.NOTIFICATION_GIVEN_UP),
    "quarantine": (
        events.OBJECT_CONFLICT,
        events.OBJECT_QUARANTINED,
        events.STUDY_QUARANTINED,
        events.CORRECTION_AWAITED,
        events.MERGED_IN_CIRCLE,
        events.SENT_UNDER_FORMER,
        events.ANSWER_UNKNOWN,
        events.STUDY_MAY_BE_INCOMPLETE,
        events.FETCHED_OTHER_PATIENT,
    ),
    "withheld": (
        events.CLEANING_WITHHELD,
        events.RESULT_WITHHELD,
        events.PROGRAM_OBJECT_HELD,
        events.PROGRAM_OBJECT_REFUSED,
    ),
    "disk": (events.DISK_LOW,),
    "silence": (events.PEER_SILENT,),
    "outage": (events.DESTINATION_AWAY, events.DESTINATION_BACK),
    "drift": (events.SCORES_DRIFTED,),
    "assessment": (events.ASSESSMENT_OVERDUE,),
}

WITH_FINDINGS = frozenset(
    {events.JOB_SUCCEEDED.number, events.JOB_NOT_APPLICABLE.number, events.RESULTS_ACCEPTED.number}
)


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
    """Return the numbers of the events on which notifications with these conditions may depend.

    ``conditions``: those of rules for studies (``then`` of a rule).
    """
    found: set[int] = set()
    for one in conditions:
        found |= {event.number for event in WHEN[one.when]} if one.when in WHEN else WITH_FINDINGS
    return found


def _wanted_events(rule: NotificationSettings) -> set[int]:
    """Return the numbers of the events that the notification wants whatever they contain."""
    return {event.number for occasion in rule.on for event in EVENTS[occasion]} | set(rule.events)
