"""What the node did in a span of days."""

import time
from datetime import UTC, date, datetime, timedelta

import pytest

from dicom_console.handlers.happened import TREND_SPANS
from dicom_console.handlers.studies import first_midnight
from dicom_console.views import activity, metrics
from dicom_node.base import events
from dicom_node.base.lifecycle import DeliveryState, ReaderVerdict, UserRole
from dicom_node.base.store.tables import Delivery, EventRow, Feedback, Job, ReportedFinding, Study
from dicom_node.base.store.transitions import utc_now
from tests.console_lab import Program, console_of, numbers
from tests.inbox_lab import Inbox
from tests.rows import a_study


@pytest.fixture
def busy(node: Inbox) -> Inbox:
    """Its results were delivered 40 s after the last image, and a reader agreed with one finding of two."""
    [study] = node.rows(Study)
    confirmed_at = study.last_received_at + timedelta(seconds=40)
    node.put(Delivery, state=DeliveryState.CONFIRMED, confirmed_at=confirmed_at)
    said = {"at": utc_now(), "actor": "r", "study_id": study.id, "decision": "present"}
    for place, verdict in enumerate((ReaderVerdict.ACCEPTED, ReaderVerdict.REJECTED)):
        node.add(Feedback(**said, finding=f"F{place}", verdict=verdict, model="m", version="1"))
    for kind in (events.DELIVERY_RETRIED, events.DELIVERY_RETRIED, events.DELIVERY_DEAD):
        node.add(EventRow(at=utc_now(), number=kind.number, fields={"destination": "pacs"}))
    return node


def total(series: activity.Series) -> float:
    return sum(value for value in series.values if value is not None)


@pytest.mark.parametrize("days", activity.SPANS)
def test_each_span_counts_the_same_study_once(busy: Inbox, days: int) -> None:
    found = busy.read(activity.activity, days)
    reports = set(busy.column(ReportedFinding.result_id))
    assert total(found.received) == 1
    assert len(found.hours) == len(found.received.values)
    assert found.times == sorted(found.times)
    median, p95 = found.turnaround
    assert 30 <= max(value for value in median.values if value is not None) <= 45
    assert max(value for value in p95.values if value is not None) <= 45
    assert sum(map(total, found.findings)) >= len(reports)
    assert [(one.name, total(one)) for one in found.agreement] == [("m@1", 0.5)]
    assert {"peer": "pacs", "given_up": 1, "failed": 2, "associations": 0} in found.failures


def test_days_begin_at_midnight_on_both_sides_of_the_end_of_summer_time(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    time.tzset()
    try:
        now = datetime(2026, 11, 10, 20, tzinfo=UTC)
        monkeypatch.setattr(activity, "utc_now", lambda: now)
        midnights = [datetime(2026, 10, 30, 7, tzinfo=UTC), datetime(2026, 11, 3, 8, tzinfo=UTC)]
        for number, midnight in enumerate(midnights):
            inbox.add(a_study(f"1.{number}", at=midnight))
        found = inbox.read(activity.activity, 30)
        counted = [at for at, number in zip(found.hours, found.received.values, strict=True) if number]
        assert counted == midnights
        assert first_midnight(12, date(2026, 11, 10)) == datetime(2026, 10, 30, 7, tzinfo=UTC)
        assert {at.astimezone().hour for at in found.hours} == {0}
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_page_draws_them_and_programs_get_numbers(busy: Inbox) -> None:
    console = console_of(busy)
    browser = console.browser(UserRole.VIEWER)
    for days in TREND_SPANS:
        assert browser.page(f"/trends?days={days}").count("<svg") == 4
    assert (browser.get("/trends?days=8"), browser.get("/trends?days=x")) == (409, 400)
    status, found = Program(console, UserRole.VIEWER).ask("GET", "/trends?days=30")
    assert status == 200
    assert sum(found["received"]["values"]) == 1


def test_histograms_count_each_delivery_and_job_once(busy: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_SETTLED", timedelta(0))
    console = console_of(busy)

    def counted() -> dict[str, float]:
        _, text = numbers(console)
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines if "_seconds_count" in name or "_bucket" in name}

    assert not [name for name in counted() if "turnaround" in name], "of before the console"
    busy.put(Delivery, confirmed_at=utc_now() + timedelta(milliseconds=1))
    busy.put(Job, finished_at=utc_now() + timedelta(milliseconds=1))
    found = [counted() for _ in range(2)][-1]
    label = f'{{modality="US",peer="pacs",rule="{busy.jobs()[0].rule}"}}'
    assert found[f"dicom_node_turnaround_seconds_count{label}"] == len(busy.rows(Delivery))
    assert found["dicom_node_job_seconds_count" + label.replace('peer="pacs",', "")] == 1
