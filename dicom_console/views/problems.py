"""Recent problems, each listed once: lasting problems first, then problems solved within a day."""

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.events import EventType
from dicom_node.base.store.tables import Association, EventRow, ReceivedObject, Study
from dicom_node.base.store.transitions import utc_now
from dicom_node.base.store.views import View, as_json, list_events
from dicom_node.people.peers import same_again

SHOWN, SOLVED_SHOWN = 12, 8
"""Problems of the list: that last, and that were solved."""
_SOLVED_FOR: Final = timedelta(days=1)  # that a solved problem is shown
_LOOKED_AT: Final = 100  # events: many may tell of one thing
_ENDS_LOOKED_AT: Final = 1000  # events that may end one of them

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
_JOB_ENDED: Final = (events.JOB_SUCCEEDED, events.JOB_NOT_APPLICABLE, events.JOB_CANCELLED)
_ENDED_BY: Final[Mapping[EventType, tuple[tuple[EventType, ...], tuple[str, ...]]]] = {
    events.PROCESS_LOST: ((events.PROCESS_BACK,), ("machine", "place", "process")),
    events.DESTINATION_AWAY: ((events.DESTINATION_BACK,), ("destination",)),
    events.INDEXING_FAILED: ((events.INDEXING_BACK,), ()),
    events.AUDIT_NOT_SENT: ((events.AUDIT_SENT_AGAIN,), ()),
    events.STORE_AWAY: ((events.STORE_BACK,), ("machine",)),
    events.TRACES_NOT_SENT: ((events.TRACES_SENT_AGAIN,), ()),
    events.CONFIGURATION_REFUSED: ((events.CONFIGURATION_RELOADED,), ()),
    events.CONSOLE_CANNOT_START: ((events.CONSOLE_STARTED,), ()),
    events.OBJECT_CONFLICT: ((events.STUDY_RELEASED,), ()),
    events.OBJECT_QUARANTINED: ((events.STUDY_RELEASED,), ()),
    events.STUDY_QUARANTINED: ((events.STUDY_RELEASED,), ()),
    events.JOB_FAILED: (_JOB_ENDED, ("rule",)),
    events.JOB_HELD: (_JOB_ENDED, ("rule",)),
    events.DELIVERY_DEAD: (
        (events.DELIVERY_CONFIRMED, events.DELIVERY_DISCARDED, events.DELIVERY_WITHDRAWN), ("delivery",)
    ),
}  # fmt: skip
"""The events that end a problem, and the fields that say that it is the same one, beside its study."""
_TOLD_OF_REJECTION: Final = ("calling", "called", "address", "meaning")
"""Without the numbers of PS3.8 9.3.4, which the meaning says in words."""


def problems(session: Session, settings: Settings, *, disk_is_low: bool) -> list[View]:
    """The newest problems, each listed once: lasting problems first, then problems solved within a day.

    ``times``: how often the problem occurred. ``over``: when it ended ("": not known, None: it lasts).
    ``how``: the event that ended it. ``caller``: the AE title that was rejected, else "".
    """
    found: dict[object, View] = {}
    for row in reversed(list_events(session, numbers=_BAD, limit=_LOOKED_AT)):
        row["caller"] = ""
        if row["number"] == events.ASSOCIATION_REJECTED.number:
            row["fields"] = {key: row["fields"][key] for key in _TOLD_OF_REJECTION if key in row["fields"]}
            row["caller"] = str(row["fields"].get("calling", ""))
        same = found.setdefault(same_again(row), row | {"times": 0})
        same["times"] += 1
    rows = list(found.values())
    ends = _ends(session, rows)
    for row in rows:
        row["over"], row["how"] = _end(session, settings, row, ends, disk_is_low)
    since = as_json(utc_now() - _SOLVED_FOR)
    solved = [row for row in rows if row["over"] is not None and (row["over"] or row["at"]) >= since]
    solved.sort(key=lambda row: str(row["over"] or row["at"]), reverse=True)
    return _grouped(row for row in rows if row["over"] is None)[:SHOWN] + _grouped(solved)[:SOLVED_SHOWN]


def _grouped(rows: Iterable[View]) -> list[View]:
    """The same problem of several studies is one line, with the study that had it last."""
    found: dict[object, View] = {}
    for row in rows:
        texts = {key: value for key, value in row["fields"].items() if key != "study"}
        same = found.setdefault(
            same_again(row | {"study_instance_uid": None, "fields": texts}), row | {"times": 0}
        )
        same["times"] += row["times"]
    return list(found.values())


def _ends(session: Session, rows: list[View]) -> list[tuple[EventRow, str | None]]:
    """The newest events that may have ended one of these problems, the oldest first, with their studies."""
    kinds = [events.by_number(row["number"]) for row in rows]
    numbers = {end.number for kind in kinds for end in _ENDED_BY.get(kind, ((), ()))[0]}
    uids = {row["study_instance_uid"] for row in rows}
    chosen = select(EventRow, Study.study_instance_uid).join(
        Study, Study.id == EventRow.study_id, isouter=True
    )
    chosen = chosen.where(
        EventRow.number.in_(numbers),
        EventRow.at >= min((datetime.fromisoformat(row["at"]) for row in rows), default=utc_now()),
        or_(EventRow.study_id.is_(None), Study.study_instance_uid.in_(uids)),
    )
    newest = session.execute(chosen.order_by(EventRow.id.desc()).limit(_ENDS_LOOKED_AT))
    return [(row, uid) for row, uid in newest][::-1]


def _end(
    session: Session,
    settings: Settings,
    row: View,
    ends: list[tuple[EventRow, str | None]],
    disk_is_low: bool,
) -> tuple[str | None, str]:
    """Since when a problem is over, and the event that ended it."""
    since = datetime.fromisoformat(row["at"])
    kind = events.by_number(row["number"])
    if kind is events.DISK_LOW:
        return (None if disk_is_low else ""), ""
    if kind is events.ASSOCIATION_REJECTED:  # until the caller is let in; by title, as peers count
        here = Association.calling_ae == row["caller"], Association.opened_at >= since
        return as_json(session.scalar(select(func.min(Association.opened_at)).where(*here))), ""
    if kind is events.PEER_SILENT:  # until it sends again
        title = next((peer.ae_title for peer in settings.peers if peer.name == row["fields"].get("peer")), "")
        here = ReceivedObject.calling_ae == title, ReceivedObject.received_at > since
        return as_json(session.scalar(select(func.max(ReceivedObject.received_at)).where(*here))), ""
    by, keys = _ENDED_BY.get(kind, ((), ()))
    numbers = {end.number for end in by}
    about = row["study_instance_uid"], [row["fields"].get(key) for key in keys]
    for end, uid in ends:
        at = as_json(end.at)
        is_of_it = end.number in numbers and at >= row["at"]
        if is_of_it and (uid, [end.fields.get(key) for key in keys]) == about:
            return at, events.by_number(end.number).text
    return None, ""
