"""What went wrong lately: each thing once, and whether it is over."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node import events
from dicom_node.config.settings import Settings
from dicom_node.events import EventType
from dicom_node.model.lifecycle import StudyState
from dicom_node.store.tables import Association, ReceivedObject, Study
from dicom_node.store.views import View, as_json, list_events

SHOWN: Final = 12
"""Problems of the list."""
_LOOKED_AT: Final = 100  # events: many may tell of one thing

# Left out is what a person did, and what follows from it: the audit has it, and one act is many events. A
# peer that is away would fill the list with its retries: it has a number of its own.
_NO_PROBLEMS: Final = {
    events.DELIVERY_RETRIED, events.DELIVERY_BY_HAND, events.DELIVERY_DISCARDED, events.DELIVERY_ADDED,
    events.DELIVERY_WITHDRAWN, events.JOB_CANCELLED, events.STUDY_RERUN, events.STUDY_RELEASED,
    events.VERSION_CHOSEN, events.OBJECTS_REINDEXED, events.READINGS_SHOWN, events.RESULT_WITHDRAWN,
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
_OF_ONE_OBJECT: Final = ("instance", "spool_name", "association", "id")
_WHILE: Final[Mapping[EventType, StudyState]] = {
    events.OBJECT_CONFLICT: StudyState.QUARANTINED,
    events.OBJECT_QUARANTINED: StudyState.QUARANTINED,
    events.STUDY_QUARANTINED: StudyState.QUARANTINED,
    events.JOB_FAILED: StudyState.FAILED,
    events.DELIVERY_DEAD: StudyState.FAILED,
}
"""Problems of a study that last as long as it has this state."""


def problems(session: Session, settings: Settings, *, disk_is_low: bool) -> list[View]:
    """The newest problems, each once.

    ``times``: how often it happened. ``over``: since when it is over ("": not known, None: it lasts).
    ``caller``: the AE title that was rejected, else "".
    """
    found: dict[object, View] = {}
    for row in map(_in_words, reversed(list_events(session, numbers=_BAD, limit=_LOOKED_AT))):
        same = found.setdefault(_same(row), row | {"times": 0})
        same["times"] += 1
    rows = list(found.values())[:SHOWN]
    ends = list(_ends(session, rows))
    states = _states(session, rows)
    return [row | {"over": _over(session, settings, row, ends, states, disk_is_low)} for row in rows]


def _in_words(row: View) -> View:
    if row["number"] != events.ASSOCIATION_REJECTED.number:
        return row | {"caller": ""}
    fields = {key: value for key, value in row["fields"].items() if key in _TOLD_OF_REJECTION}
    return row | {"fields": fields, "caller": str(fields.get("calling", ""))}


def _same(row: View) -> object:
    """What tells of the same thing: numbers in it and single objects differ from time to time."""
    fields = row["fields"].items()
    texts = ((key, value) for key, value in fields if isinstance(value, str) and key not in _OF_ONE_OBJECT)
    return row["number"], row["study_instance_uid"], tuple(sorted(texts))


def _ends(session: Session, rows: list[View]) -> Iterator[View]:
    """The events that end one of these, the oldest first."""
    ending = [end.number for kind, (end, _) in _ENDED_BY.items() if _has(rows, kind)]
    if ending:
        yield from list_events(session, numbers=ending, limit=_LOOKED_AT)


def _states(session: Session, rows: list[View]) -> dict[str, StudyState]:
    uids = {row["study_instance_uid"] for row in rows if row["study_instance_uid"]}
    chosen = select(Study.study_instance_uid, Study.state).where(Study.study_instance_uid.in_(uids))
    return {str(uid): state for uid, state in session.execute(chosen)}


def _over(
    session: Session,
    settings: Settings,
    row: View,
    ends: list[View],
    states: Mapping[str, StudyState],
    disk_is_low: bool,
) -> str | None:
    if row["number"] == events.DISK_LOW.number:
        return None if disk_is_low else ""
    if row["number"] == events.ASSOCIATION_REJECTED.number:
        return _got_through(session, row)
    if row["number"] == events.PEER_SILENT.number:
        return _heard_of(session, settings, row)
    for kind, state in _WHILE.items():
        if row["number"] == kind.number:
            now = states.get(row["study_instance_uid"])
            return "" if now is not None and now is not state else None
    for kind, (end, keys) in _ENDED_BY.items():
        if row["number"] == kind.number:
            return next((one["at"] for one in ends if _ends_it(one, end, row, keys)), None)
    return None


def _ends_it(one: View, end: EventType, row: View, keys: tuple[str, ...]) -> bool:
    alike = all(one["fields"].get(key) == row["fields"].get(key) for key in keys)
    return one["number"] == end.number and one["at"] >= row["at"] and alike


def _got_through(session: Session, row: View) -> str | None:
    """When the rejected caller was let in the next time; counting by title, as peers do."""
    since = datetime.fromisoformat(row["at"])
    here = (Association.calling_ae == row["caller"]) & (Association.opened_at >= since)
    at: str | None = as_json(session.scalar(select(func.min(Association.opened_at)).where(here)))
    return at


def _heard_of(session: Session, settings: Settings, row: View) -> str | None:
    """When the silent peer sent again, at the latest."""
    title = next((peer.ae_title for peer in settings.peers if peer.name == row["fields"].get("peer")), "")
    newest = select(func.max(ReceivedObject.received_at)).where(ReceivedObject.calling_ae == title)
    at: str | None = as_json(session.scalar(newest))
    return at if at and at > row["at"] else None


def _has(rows: list[View], kind: EventType) -> bool:
    return any(row["number"] == kind.number for row in rows)
