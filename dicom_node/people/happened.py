"""Events and associations around a time, of all peers or of one.

:func:`around` answers "What happened at 03:12?". Neither events nor associations contain names or IDs of
patients.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

from dicom_node.base.config.settings import Settings
from dicom_node.base.events import all_types
from dicom_node.base.store import views
from dicom_node.people import Row, ServiceResult

MOST = 500
"""Events and associations that are shown, of each: those nearest to the time that was asked for."""
_READ = 2500  # events that are looked through before the time, and as many after it
_PROBLEMS = frozenset(kind.number for kind in all_types() if kind.level >= logging.WARNING)
_OF_ONE_OBJECT = frozenset({"instance", "spool_name", "association", "id"})


class HappenedEvent(Row):
    """One event: time, number, level, words, study and fields; ``times``: how often in a row."""

    at: str
    number: int
    level: str
    text: str
    times: int = 1


class HappenedAssociation(Row):
    """One association: who called from where, when, and how it ended."""

    calling_ae: str
    address: str
    opened_at: str


class Happened(ServiceResult):
    """Events and associations around a time, the oldest first. ``more``: those far from it are left out."""

    events: list[HappenedEvent]
    associations: list[HappenedAssociation]
    more: bool


def around(
    session: Session,
    settings: Settings,
    *,
    since: datetime,
    until: datetime,
    nearest: datetime,
    peer: str = "",
    number: int = 0,
    words: str = "",
    problems: bool = False,
) -> Happened:
    """Events and associations from ``since`` until ``until``; "" and 0 match all.

    ``nearest``: if too many match, the nearest to this time are shown. ``peer``: the name of a peer, an AE
    title or an address. ``words``: in the text or a field of an event. ``problems``: only warnings and
    errors.
    """
    called = _names_of(settings, peer)
    numbers = _PROBLEMS if problems else frozenset[int]()
    if number:
        numbers = frozenset({number} & _PROBLEMS if problems else {number})
    before: list[views.View] = []
    after: list[views.View] = []
    if numbers or not (number or problems):
        chosen = partial(views.list_events, session, numbers=numbers, debug=False, limit=_READ)
        before = chosen(since=since, until=nearest)
        after = chosen(since=nearest, until=until, oldest=True)
    folded = words.casefold()
    found = _counted(
        row
        for row in before + after
        if _is_of(row["fields"], called)
        and any(folded in str(text).casefold() for text in (row["text"], *row["fields"].values()))
    )
    events = _nearest(found, "at", nearest)
    opened: list[views.View] = []
    if not (number or words or problems):  # else events alone were asked for
        read = views.list_associations(session, since=since, until=until, limit=2 * _READ)
        opened = [row for row in reversed(read) if _is_of(row, called)]
    associations = _nearest(opened, "opened_at", nearest)
    return Happened(
        events=[HappenedEvent(**row) for row in events],
        associations=[HappenedAssociation(**row) for row in associations],
        more=len(events) < len(found)
        or len(associations) < len(opened)
        or _READ in (len(before), len(after)),
    )


def _counted(rows: Iterable[views.View]) -> list[views.View]:
    """Events, each once where the same happened several times in a row: the last one, and how often."""
    found: list[views.View] = []
    for row in rows:
        if found and same_again(found[-1]) == same_again(row):
            found[-1] = row | {"times": found[-1]["times"] + 1}
        else:
            found.append(row | {"times": 1})
    return found


def same_again(row: views.View) -> object:
    """A key that is equal for events that differ only in numbers and in their object."""
    fields = row["fields"].items()
    texts = ((key, value) for key, value in fields if isinstance(value, str) and key not in _OF_ONE_OBJECT)
    return row["number"], row["study_instance_uid"], tuple(sorted(texts))


def _nearest(rows: Sequence[views.View], key: str, to: datetime) -> Sequence[views.View]:
    """At most ``MOST`` rows, in their order: those whose time is nearest."""
    if len(rows) <= MOST:
        return rows
    nearest = sorted(rows, key=lambda row: abs(datetime.fromisoformat(row[key]) - to))[:MOST]
    return sorted(nearest, key=lambda row: str(row[key]))


def _names_of(settings: Settings, peer: str) -> frozenset[str]:
    """What a peer may be called in a field, in lower case: its name, its AE title and its host."""
    asked = peer.casefold()
    for one in settings.peers:
        names = frozenset(name.casefold() for name in (one.name, one.ae_title, one.host or "") if name)
        if asked in names:
            return names
    return frozenset({asked} - {""})


def _is_of(fields: Mapping[str, Any], called: Collection[str]) -> bool:
    return not called or any(str(value).casefold() in called for value in fields.values())
