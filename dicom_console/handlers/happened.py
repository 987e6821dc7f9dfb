"""The present state of the node, its events, and its trends as charts and as numbers."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Query, Response

from dicom_console.views import metrics
from dicom_console.views.activity import SPANS as TREND_STEPS
from dicom_console.views.activity import Activity, activity, chart
from dicom_console.web.faces import ConsoleRequest, CurrentRequest, Faces, Text
from dicom_console.web.languages import N_
from dicom_node.base.errors import FaultyInput
from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store import views
from dicom_node.people import Row
from dicom_node.people.happened import happened_around

faces = Faces()

SPANS = {1: N_("1 minute"), 5: N_("5 minutes"), 30: N_("half an hour"), 120: N_("2 hours"), 1440: N_("a day")}
"""How far before and after the time to look (minutes), in words."""
_LONGEST = 60 * 24 * 31
_LAST_HOUR = 60
TREND_SPANS = {1: N_("a day"), 7: N_("7 days"), 30: N_("30 days"), 91: N_("13 weeks")}


@faces.page("GET", "/", UserRole.VIEWER)
def present(request: CurrentRequest) -> Response:
    """Show the console's first page: the node's present state in numbers, each with a link to its list."""
    now = request.read(metrics.overview, request.settings)
    if now["named"]:
        request.note_list("overview")
    return request.page("overview.html", now=now)


@faces.handler("GET", "/events", views.list_events)
def list_events(
    request: CurrentRequest,
    at: Annotated[str, Query(max_length=32)] = "",
    minutes: Annotated[int, Query(ge=1, le=_LONGEST)] = 5,
    peer: Text = "",
    number: Annotated[str, Query(pattern=r"^\d{0,5}$")] = "",
    words: Text = "",
    problems: bool = False,
) -> Row:
    """Events and associations, the oldest first: around the time ``at``, or of the last hour.

    ``at``: such as 2026-03-01T03:12, of the node's zone where it names none. ``minutes``: before and after.
    ``peer``: a name, AE title or address. ``number``: of an event. ``words``: in its text or fields.
    ``problems``: only warnings and errors. Of more than 500 the newest are listed.
    """
    try:
        middle = datetime.fromisoformat(at.strip()).astimezone(UTC) if at.strip() else None
        nearest = middle or datetime.now(UTC)
        since = nearest - timedelta(minutes=minutes if middle else _LAST_HOUR)
        until = nearest + timedelta(minutes=minutes if middle else 1)
    except (ValueError, OverflowError) as error:
        raise FaultyInput(f"{at.strip()!r} is no time: write it as 2026-03-01T03:12") from error
    return request.read(
        happened_around,
        request.settings,
        since=since,
        until=until,
        peer=peer.strip(),
        number=int(number or 0),
        words=words.strip(),
        problems=problems,
    )


@faces.page_of(list_events)
def _events_page(request: ConsoleRequest, found: Row) -> Response:
    """Return the page of events, and record in the audit that the person saw it."""
    request.note_list("events")
    names = ("at", "minutes", "peer", "number", "words", "problems")
    return request.page(
        "events.html",
        found=found,
        named=request.named(found["events"]),
        spans=SPANS,
        filters={name: request.query(name)[:64] for name in names if request.query(name)},
    )


@faces.handler("GET", "/trends", UserRole.VIEWER)
def show(request: CurrentRequest, days: Annotated[int, Query(ge=1, le=91)] = 7) -> Activity:
    """Return trends of the last 1, 7, 30 or 91 days by time: studies, turnaround, findings and failures."""
    if days not in TREND_STEPS:
        raise FaultyInput(f"days is one of {', '.join(map(str, TREND_STEPS))}")
    return request.read(activity, days)


@faces.page_of(show)
def _trends_page(request: ConsoleRequest, found: Activity) -> Response:
    """Return the page of trends, with charts."""
    charts = [
        chart(N_("Studies received"), "", "bars", found.hours, [found.received]),
        chart(N_("From the last image to the delivery"), "s", "lines", found.times, found.turnaround),
        chart(N_("Reports that suspect a finding"), "", "lines", found.times, found.findings),
        chart(
            N_("Suspected findings that readers accepted"), "%", "lines", found.times, found.agreement, 1.0
        ),
    ]
    return request.page(
        "trends.html",
        charts=charts,
        failures=found.failures,
        spans=TREND_SPANS,
        days=request.query("days") or "7",
        now=datetime.now(UTC).isoformat(),
    )
