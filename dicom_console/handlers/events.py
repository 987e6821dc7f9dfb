"""The list of events and associations, filtered by time, peer, event number and words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Query, Response

from dicom_console.views import listing
from dicom_console.web.access import Asked, Visit
from dicom_console.web.faces import Faces
from dicom_console.web.languages import N_
from dicom_node.errors import FaultyInput
from dicom_node.model.roles import UserRole
from dicom_node.services.happened import MOST, Happened, HappenedQuery, around

faces = Faces()

SPANS = {1: N_("1 minute"), 5: N_("5 minutes"), 30: N_("half an hour"), 120: N_("2 hours"), 1440: N_("a day")}
"""How far before and after the time to look (minutes), in words."""
_LONGEST = 60 * 24 * 31
_LAST_HOUR = 60

Minutes = Annotated[int, Query(ge=1, le=_LONGEST)]
Text = Annotated[str, Query(max_length=64, pattern=r"^[^\x00-\x1f]*$")]


@faces.handler("GET", "/events", UserRole.VIEWER)
def list_events(
    asked: Asked,
    at: Annotated[str, Query(max_length=32)] = "",
    minutes: Minutes = 5,
    peer: Text = "",
    number: Annotated[str, Query(pattern=r"^\d{0,5}$")] = "",
    words: Text = "",
    problems: bool = False,
) -> Happened:
    """Events and associations, the oldest first: around the time ``at``, without one of the last hour.

    ``at``: such as 2026-03-01T03:12, of the node's zone where it names none. ``minutes``: before and after.
    ``peer``: a name, AE title or address. ``number``: of an event. ``words``: in its text or fields.
    ``problems``: only warnings and errors. Of more than 500, those nearest to the time are listed.
    """
    middle = _time(at.strip())
    nearest = middle or datetime.now(UTC)
    since = nearest - timedelta(minutes=minutes if middle else _LAST_HOUR)
    until = nearest + timedelta(minutes=minutes if middle else 1)
    query = HappenedQuery(since, until, nearest, peer.strip(), int(number or 0), words.strip(), problems)
    with asked.site.database.read() as session:
        return around(session, asked.site.settings, query)


@faces.page_of(list_events)
def _page(asked: Visit, found: Happened) -> Response:
    names = ("at", "minutes", "peer", "number", "words", "problems")
    with asked.site.database.read() as session:
        named = listing.named(session, found.events)
    return asked.page(
        "events.html",
        found=found,
        named=named,
        most=MOST,
        spans=SPANS,
        filters={name: asked.query(name)[:64] for name in names if asked.query(name)},
    )


def _time(text: str) -> datetime | None:
    """The time that a person means, of this machine's zone where it names none. Raises FaultyInput."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise FaultyInput(f"{text!r} is no time: write it as 2026-03-01T03:12") from error
