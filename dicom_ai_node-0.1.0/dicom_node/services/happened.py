"""What happened around a time: events and associations, of all or of one peer.

"What happened at 03:12?" is answered by :func:`around`. Neither events nor associations hold names or IDs of
patients.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from dicom_node.config.settings import Settings
from dicom_node.services.typed import Row, ServiceResult
from dicom_node.store import views

MOST = 500
"""Events and associations that are shown, of each; the newest."""
_READ = 5000  # events that are looked through for a peer or words, the newest


class HappenedEvent(Row):
    """One event: its time, number, level and words, its study and its fields."""

    at: str
    number: int
    level: str
    text: str


class HappenedAssociation(Row):
    """One association: who called from where, when, and how it ended."""

    calling_ae: str
    address: str
    opened_at: str


class Happened(ServiceResult):
    """Events and associations of a time, the oldest first. ``more``: older ones are left out."""

    events: list[HappenedEvent]
    associations: list[HappenedAssociation]
    more: bool


@dataclass(frozen=True, slots=True)
class HappenedQuery:
    """A question for events and associations from ``since`` until ``until``; "" and 0 let all pass.

    ``peer``: the name of a peer, an AE title or an address. ``words``: in the text or a field of an event.
    """

    since: datetime
    until: datetime
    peer: str = ""
    number: int = 0
    words: str = ""


def around(session: Session, settings: Settings, asked: HappenedQuery) -> Happened:
    """The events and associations that were asked for."""
    numbers = (asked.number,) if asked.number else ()
    read = views.list_events(
        session, since=asked.since, until=asked.until, numbers=numbers, debug=False, limit=_READ
    )
    called = _names_of(settings, asked.peer)
    events = [row for row in read if _is_of(row["fields"], called) and _has(row, asked.words.casefold())]
    associations = _associations(session, asked, called)
    return Happened(
        events=[HappenedEvent(**row) for row in events[-MOST:]],
        associations=[HappenedAssociation(**row) for row in associations[-MOST:]],
        more=len(events) > MOST or len(associations) > MOST or len(read) == _READ,
    )


def _associations(
    session: Session, asked: HappenedQuery, called: Collection[str]
) -> Sequence[Mapping[str, Any]]:
    """Associations that were opened in the time, the oldest first; none where events alone were asked for."""
    if asked.number or asked.words:
        return []
    read = views.list_associations(session, since=asked.since, until=asked.until, limit=_READ)
    return [row for row in reversed(read) if _is_of(row, called)]


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


def _has(row: Mapping[str, Any], words: str) -> bool:
    return not words or any(words in str(text).casefold() for text in (row["text"], *row["fields"].values()))
