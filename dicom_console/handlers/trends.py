"""Trends of the node: as charts for people, as numbers for programs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query, Response

from dicom_console.views.activity import SPANS, Activity, activity
from dicom_console.views.charts import chart
from dicom_console.web.access import Asked, Visit
from dicom_console.web.faces import Faces
from dicom_console.web.languages import N_
from dicom_node.errors import FaultyInput
from dicom_node.model.roles import UserRole

faces = Faces()

NAMES = {1: N_("a day"), 7: N_("7 days"), 30: N_("30 days"), 91: N_("13 weeks")}


@faces.handler("GET", "/trends", UserRole.VIEWER)
def show(asked: Asked, days: Annotated[int, Query(ge=1, le=91)] = 7) -> Activity:
    """Studies, turnaround, findings, alarms and failures of the last 1, 7, 30 or 91 days, by time."""
    if days not in SPANS:
        raise FaultyInput(f"days is one of {', '.join(map(str, SPANS))}")
    with asked.site.database.read() as session:
        return activity(session, days)


@faces.page_of(show)
def _page(asked: Visit, found: Activity) -> Response:
    charts = [
        chart(N_("Studies received"), "", "bars", found.hours, [found.received]),
        chart(N_("From the last image to the delivery"), "s", "lines", found.times, found.turnaround),
        chart(N_("Reports that suspect a finding"), "", "lines", found.times, found.findings),
        chart(N_("Share of jobs with a suspected finding"), "%", "lines", found.times, found.alarms, 1.0),
        chart(
            N_("Suspected findings that readers accepted"), "%", "lines", found.times, found.agreement, 1.0
        ),
    ]
    days, now = asked.query("days") or "7", datetime.now(UTC).isoformat()
    return asked.page("trends.html", charts=charts, failures=found.failures, spans=NAMES, days=days, now=now)
