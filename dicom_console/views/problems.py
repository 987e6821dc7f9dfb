"""Recent problems, each listed once: lasting problems first, then problems solved within a day."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node import events
from dicom_node.config.settings import Settings
from dicom_node.events import EventType
from dicom_node.model.kinds import AuditAction
from dicom_node.model.lifecycle import END_STATES, JobState, StudyState
from dicom_node.services.happened import same_again
from dicom_node.store.tables import Association, AuditRow, EventRow, Job, ReceivedObject, Study
from dicom_node.store.transitions import utc_now
from dicom_node.store.views import View, as_json, list_events

SHOWN, SOLVED_SHOWN = 12, 8
"""Problems of the list: that last, and that were solved."""
_SOLVED_FOR: Final = timedelta(days=1)  # that a solved problem is shown
_LOOKED_AT: Final = 100  # events: many may tell of one thing
_ENDS_LOOKED_AT: Final = 1000  # events that may end one of them, and acts of persons

# Left out is what a person did, and what follows from it: the audit has it, and one act is many events. A
# peer that is away would fill the list with its retries: it has a number of its own.
_NO_PROBLEMS: Final = {
    events.DELIVERY_RETRIED, events.DELIVERY_BY_HAND, events.DELIVERY_DISCARDED, events.DELIVERY_ADDED,
    events.DELIVERY_WITHDRAWN, events.JOB_CANCELLED, events.STUDY_RERUN, events.STUDY_RELEASED,
    events.VERSION_CHOSEN, events.OBJECTS_REINDEXED, events.RESULT_WITHDRAWN,
    events.DECISION_SETTLED,
}  # fmt: skip
_BAD: Final = [
    kind.number for kind in events.all_types() if kind.level >= logging.WARNING and kind not in _NO_PROBLEMS
]
_ENDED_BY: Final[Mapping[EventType, tuple[EventType, tuple[str, ...]]]] = {
    events.PROCESS_LOST: (events.PROCESS_BACK, ("machine", "place", "process")),
    events.DESTINATION_AWAY: (events.DESTINATION_BACK, ("destination",)),
    events.INDEXING_FAILED: (events.INDEXING_BACK, ()),
    events.AUDIT_NOT_SENT: (events.AUDIT_SENT_AGAIN, ()),
    events.STORE_AWAY: (events.STORE_BACK, ("machine",)),
    events.TRACES_NOT_SENT: (events.TRACES_SENT_AGAIN, ()),
    events.CONFIGURATION_REFUSED: (events.CONFIGURATION_RELOADED, ()),
    events.CONSOLE_CANNOT_START: (events.CONSOLE_STARTED, ()),
}
"""The event that ends an alarm, and the fields that say that it is the same one."""
_TOLD_OF_REJECTION: Final = ("calling", "called", "address", "meaning")
"""Without the numbers of PS3.8 9.3.4, which the meaning says in words."""
_WHILE: Final[Mapping[EventType, StudyState]] = {
    events.OBJECT_CONFLICT: StudyState.QUARANTINED,
    events.OBJECT_QUARANTINED: StudyState.QUARANTINED,
    events.STUDY_QUARANTINED: StudyState.QUARANTINED,
    events.JOB_FAILED: StudyState.FAILED,
    events.DELIVERY_DEAD: StudyState.FAILED,
}
"""Problems of a study that last as long as it has this state."""
_SOLVED_BY: Final[Mapping[EventType, tuple[EventType, ...]]] = {
    events.OBJECT_CONFLICT: (events.STUDY_RELEASED,),
    events.OBJECT_QUARANTINED: (events.STUDY_RELEASED,),
    events.STUDY_QUARANTINED: (events.STUDY_RELEASED,),
    events.JOB_FAILED: (events.JOB_SUCCEEDED, events.JOB_NOT_APPLICABLE, events.JOB_CANCELLED),
    events.JOB_HELD: (events.DELIVERY_CONFIRMED, events.JOB_NOT_APPLICABLE, events.JOB_CANCELLED),
    events.DELIVERY_DEAD: (events.DELIVERY_CONFIRMED, events.DELIVERY_DISCARDED),
}
"""The events of its study, of which the newest says when and how such a problem was solved."""
_HELPED: Final = (
    AuditAction.STUDY_RELEASED, AuditAction.STUDY_RERUN, AuditAction.JOB_CHANGED,
    AuditAction.DELIVERY_RETRIED, AuditAction.DISCARDED,
)  # fmt: skip
"""What a person does about problems of studies."""


@dataclass(frozen=True, slots=True)
class _Concerned:
    """What is known of the studies with problems, by UID."""

    states: Mapping[str, StudyState]
    numbers: Mapping[str, int]
    held: frozenset[str]
    events: list[tuple[str, EventRow]]
    acts: list[AuditRow]


def problems(session: Session, settings: Settings, *, disk_is_low: bool) -> list[View]:
    """The newest problems, each listed once: lasting problems first, then problems solved within a day.

    ``times``: how often the problem occurred. ``over``: when it ended ("": not known, None: it lasts).
    ``how``: the event that ended it. ``by``: the person who ended it ("" if unknown). ``caller``: the AE
    title that was rejected, else "".
    """
    found: dict[object, View] = {}
    for row in map(_in_words, reversed(list_events(session, numbers=_BAD, limit=_LOOKED_AT))):
        same = found.setdefault(same_again(row), row | {"times": 0})
        same["times"] += 1
    rows = list(found.values())
    numbers = {row["number"] for row in rows}
    ending = [end.number for kind, (end, _) in _ENDED_BY.items() if kind.number in numbers]
    ends = list_events(session, numbers=ending, limit=_LOOKED_AT) if ending else []
    studies = _studies(session, rows)
    rows = [row | _end(session, settings, row, ends, studies, disk_is_low) for row in rows]
    since = as_json(utc_now() - _SOLVED_FOR)
    solved = [row for row in rows if row["over"] is not None and (row["over"] or row["at"]) >= since]
    solved.sort(key=lambda row: str(row["over"] or row["at"]), reverse=True)
    return [row for row in rows if row["over"] is None][:SHOWN] + solved[:SOLVED_SHOWN]


def _in_words(row: View) -> View:
    if row["number"] != events.ASSOCIATION_REJECTED.number:
        return row | {"caller": ""}
    fields = {key: value for key, value in row["fields"].items() if key in _TOLD_OF_REJECTION}
    return row | {"fields": fields, "caller": str(fields.get("calling", ""))}


def _studies(session: Session, rows: list[View]) -> _Concerned:
    uids = {row["study_instance_uid"] for row in rows if row["study_instance_uid"]}
    chosen = select(Study.study_instance_uid, Study.id, Study.state).where(Study.study_instance_uid.in_(uids))
    known = [(str(uid), number, state) for uid, number, state in session.execute(chosen)]
    uid_of = {number: uid for uid, number, _ in known}
    held = select(Job.study_id).where(Job.study_id.in_(uid_of), Job.state == JobState.HELD)
    numbers = {kind.number for kinds in _SOLVED_BY.values() for kind in kinds}
    since = min((datetime.fromisoformat(row["at"]) for row in rows), default=utc_now())
    ended = select(EventRow).where(EventRow.study_id.in_(uid_of), EventRow.number.in_(numbers))
    newest = ended.where(EventRow.at >= since).order_by(EventRow.id.desc()).limit(_ENDS_LOOKED_AT)
    acts = select(AuditRow).where(AuditRow.action.in_(_HELPED), AuditRow.at >= since)
    return _Concerned(
        states={uid: state for uid, _, state in known},
        numbers={uid: number for uid, number, _ in known},
        held=frozenset(uid_of[number] for number in session.scalars(held)),
        events=[(uid_of[row.study_id or 0], row) for row in session.scalars(newest)],
        acts=list(session.scalars(acts.order_by(AuditRow.id.desc()).limit(_ENDS_LOOKED_AT))),
    )


def _end(
    session: Session,
    settings: Settings,
    row: View,
    ends: list[View],
    studies: _Concerned,
    disk_is_low: bool,
) -> View:
    """``over``, ``how`` and ``by`` of a problem."""
    at: str | None = None
    how = by = ""
    since = datetime.fromisoformat(row["at"])
    kind = events.by_number(row["number"])
    if kind is events.DISK_LOW:
        at = None if disk_is_low else ""
    elif kind is events.ASSOCIATION_REJECTED:  # until the caller is let in; by title, as peers count
        here = Association.calling_ae == row["caller"], Association.opened_at >= since
        at = as_json(session.scalar(select(func.min(Association.opened_at)).where(*here)))
    elif kind is events.PEER_SILENT:  # until it sends again
        title = next((peer.ae_title for peer in settings.peers if peer.name == row["fields"].get("peer")), "")
        here = ReceivedObject.calling_ae == title, ReceivedObject.received_at > since
        at = as_json(session.scalar(select(func.max(ReceivedObject.received_at)).where(*here)))
    elif kind in _SOLVED_BY:
        at, how, by = _solved(row, kind, studies)
    elif kind in _ENDED_BY:
        end, keys = _ENDED_BY[kind]
        later = [one for one in ends if one["number"] == end.number and one["at"] >= row["at"]]
        about = [row["fields"].get(key) for key in keys]
        at = next((one["at"] for one in later if [one["fields"].get(key) for key in keys] == about), None)
        how = end.text
    return {"over": at, "how": how, "by": by}


def _solved(row: View, kind: EventType, studies: _Concerned) -> tuple[str | None, str, str]:
    """Since when a problem of a study is over, by what event and by whom."""
    uid = row["study_instance_uid"]
    state = studies.states.get(uid)
    if state is None or state is _WHILE.get(kind):
        return None, "", ""
    if kind is events.JOB_HELD and (uid in studies.held or state not in END_STATES):
        return None, "", ""
    numbers = [end.number for end in _SOLVED_BY[kind]]
    found = ((as_json(one.at), one) for of, one in studies.events if of == uid and one.number in numbers)
    at, ended = next(((at, one) for at, one in found if at >= row["at"]), ("", None))
    how = events.by_number(ended.number).text if ended is not None else ""
    acts = (act for act in studies.acts if row["at"] <= as_json(act.at) <= (at or as_json(utc_now())))
    return at, how, next((act.actor for act in acts if _helped(act, row, studies.numbers[uid])), "")


def _helped(act: AuditRow, row: View, study: int) -> bool:
    """Whether a person's act was about this problem; deliveries are retried by number, or all to a peer."""
    if act.action is not AuditAction.DELIVERY_RETRIED:
        return act.study_id == study
    about = row["fields"]
    all_of_it = "all_dead" in act.fields and act.fields.get("destination") in ("", about.get("destination"))
    return all_of_it or about.get("delivery") in act.fields.get("deliveries", ())
