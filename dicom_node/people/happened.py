"""The events and associations around a time, of all peers or of one. They name no patient."""

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from dicom_node.base.config.settings import Settings
from dicom_node.base.events import all_types
from dicom_node.base.store import views
from dicom_node.base.store.views import View
from dicom_node.people import Row

MOST_READ = 5000  # events and associations, of each, that are looked through: the newest


MOST_SHOWN = 500
"""Events and associations that are shown, of each: the newest."""
_PROBLEMS = frozenset(kind.number for kind in all_types() if kind.level >= logging.WARNING)
_OF_ONE_OBJECT = frozenset({"instance", "spool_name", "association", "id"})


def happened_around(
    session: Session,
    settings: Settings,
    *,
    since: datetime,
    until: datetime,
    peer: str = "",
    number: int = 0,
    words: str = "",
    problems: bool = False,
) -> Row:
    """The events and associations from ``since`` until ``until``, the oldest first, optionally filtered.

    ``peer``: name, AE title or host of a peer, ``number``: of the event, ``words``: a text in it; "" and 0
    match all. ``problems``: only warnings and errors. In the result ``more`` says whether there are earlier
    ones, ``times`` how often an event happened in a row.
    """
    called = _names_of(peer, settings)
    numbers = {number} if number else _PROBLEMS if problems else frozenset[int]()
    read = views.list_events(session, since=since, until=until, numbers=numbers, debug=False, limit=MOST_READ)
    events: list[View] = []
    for row in read:
        if problems and row["number"] not in _PROBLEMS:
            continue
        if not _names_one(row["fields"], called) or not _has_words(row, words):
            continue
        if events and repeat_key(events[-1]) == repeat_key(row):
            events[-1] = row | {"times": events[-1]["times"] + 1}
        else:
            events.append(row | {"times": 1})
    associations: list[View] = []
    if not (number or words or problems):  # else events alone were asked for
        listed = views.list_associations(session, since=since, until=until, limit=MOST_READ)
        associations = [row for row in reversed(listed) if _names_one(row, called)]
    return Row(
        events=events[-MOST_SHOWN:],
        associations=associations[-MOST_SHOWN:],
        more=max(len(events), len(associations)) > MOST_SHOWN or len(read) == MOST_READ,
    )


def _names_of(asked: str, settings: Settings) -> frozenset[str]:
    """Name, AE title and host of the peer that one of them names, in small letters; empty for all peers."""
    called = {asked.casefold()} - {""}
    for peer in settings.peers if asked else ():
        names = {name.casefold() for name in (peer.name, peer.ae_title, peer.host) if name}
        called |= names if asked.casefold() in names else set()
    return frozenset(called)


def _names_one(fields: Mapping[str, Any], names: frozenset[str]) -> bool:
    """Whether a value in these fields is one of the names; True without names."""
    return not names or any(str(value).casefold() in names for value in fields.values())


def _has_words(event: View, words: str) -> bool:
    """Whether the event's text or one of its fields contains ``words``, in whatever capitals."""
    texts = (event["text"], *event["fields"].values())
    return any(words.casefold() in str(text).casefold() for text in texts)


def repeat_key(row: View) -> object:
    """A key that is equal for events that differ only in numbers and in the object that they are about."""
    texts = sorted(
        (key, value)
        for key, value in row["fields"].items()
        if isinstance(value, str) and key not in _OF_ONE_OBJECT
    )
    return row["number"], row["study_instance_uid"], tuple(texts)
