"""Trends of the node: numbers by time, quantiles, shares; the page draws them, a program gets them."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from pydantic import SecretStr
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from dicom_console.handlers.trends import NAMES
from dicom_console.views import charts, durations
from dicom_console.views.activity import EDGES, SPANS, Series, activity, quantile
from dicom_node import events
from dicom_node.model.kinds import ReaderVerdict
from dicom_node.model.lifecycle import DeliveryState
from dicom_node.model.roles import UserRole
from dicom_node.store.accounts import Feedback
from dicom_node.store.tables import Association, Delivery, EventRow, Job, ReportedFinding, Result, Study
from dicom_node.store.transitions import utc_now
from tests.console_lab import ConsoleLab, Program
from tests.inbox_lab import Inbox


@pytest.fixture
def node(node: Inbox) -> Inbox:
    """Its results were delivered 40 s after the last image, and a reader agreed with one finding of two."""
    with node.database.write() as session:
        study = session.scalars(select(Study)).one()
        session.execute(
            update(Delivery).values(
                state=DeliveryState.CONFIRMED, confirmed_at=study.last_received_at + timedelta(seconds=40)
            )
        )
        for place, verdict in enumerate((ReaderVerdict.ACCEPTED, ReaderVerdict.REJECTED)):
            session.add(
                Feedback(
                    at=utc_now(),
                    actor="r",
                    study_id=study.id,
                    finding=f"F{place}",
                    decision="present",
                    verdict=verdict,
                    model="m",
                    version="1",
                )
            )
        for number in (events.DELIVERY_RETRIED, events.DELIVERY_RETRIED, events.DELIVERY_DEAD):
            session.add(EventRow(at=utc_now(), number=number.number, fields={"destination": "pacs"}))
    return node


def total(series: Series) -> float:
    return sum(value for value in series.values if value is not None)


@pytest.mark.parametrize("days", SPANS)
def test_each_span_counts_the_same_study_once(node: Inbox, days: int) -> None:
    with node.database.read() as session:
        found = activity(session, days)
        reports = len(set(session.scalars(select(ReportedFinding.result_id))))
    assert total(found.received) == 1
    assert len(found.hours) == len(found.received.values)
    assert found.times == sorted(found.times)
    median, p95 = found.turnaround
    assert 30 <= max(value for value in median.values if value is not None) <= 45
    assert max(value for value in p95.values if value is not None) <= 45
    assert sum(map(total, found.findings)) >= reports
    assert [total(one) for one in found.alarms] == [1.0]
    assert [(one.name, total(one)) for one in found.agreement] == [("m@1", 0.5)]
    assert {"peer": "pacs", "given_up": 1, "failed": 2, "associations": 0} in found.failures


def test_what_is_older_does_not_count(node: Inbox) -> None:
    past = utc_now() - timedelta(days=8)
    with node.database.write() as session:
        _move(session, past)
    with node.database.read() as session:
        week, month = activity(session, 7), activity(session, 30)
    assert (total(week.received), total(month.received)) == (0, 1)
    assert not any(week.findings) and any(month.findings)


def _move(session: Session, past: object) -> None:
    session.execute(update(Study).values(first_received_at=past, last_received_at=past))
    session.execute(update(Result).values(created_at=past))
    session.execute(update(Job).values(finished_at=past))
    session.execute(update(Association).values(opened_at=past))
    session.execute(update(EventRow).values(at=past))


def test_quantiles_of_counted_durations_are_within_a_step_of_the_real_ones() -> None:
    rng = np.random.default_rng(7)
    seconds = rng.lognormal(3, 1, 5000)
    bins = np.searchsorted(EDGES, seconds)
    counted = {
        int(place): int(number) for place, number in zip(*np.unique(bins, return_counts=True), strict=True)
    }
    for share in (0.5, 0.95):
        assert quantile(counted, share) == pytest.approx(np.quantile(seconds, share), rel=0.15)
    assert quantile({len(EDGES): 3}, 0.5) == EDGES[-1]  # longer than all steps


def test_a_chart_reaches_to_a_round_number_and_leaves_gaps() -> None:
    times = [utc_now() + timedelta(hours=hour) for hour in range(5)]
    plot = charts.chart("t", "s", "lines", times, [Series("a", [1.0, None, 3.0, 7.0, None])])
    assert plot["lines"][-1]["value"] == 10
    [one] = plot["series"]
    assert [len(run) for run in one["runs"]] == [1, 2]
    assert one["dots"][0]["y"] > one["dots"][-1]["y"]  # the higher value is higher up
    assert charts.chart("t", "", "bars", times, [Series("a", [0.0] * 5)])["empty"]
    assert charts.chart("t", "", "bars", [], [])["marks"] == []


def test_the_page_draws_them_and_programs_get_numbers(node: Inbox) -> None:
    console = ConsoleLab(node.settings, node.database)
    browser = console.browser(UserRole.VIEWER)
    for days in NAMES:
        assert browser.get(f"/trends?days={days}") == 200
        assert browser.text.count("<svg") == 5
    assert browser.get("/trends?days=8") == 409
    assert browser.get("/trends?days=x") == 400
    status, found = Program(console, UserRole.VIEWER).ask("GET", "/trends?days=30")
    assert status == 200
    assert sum(found["received"]["values"]) == 1


def test_the_page_of_an_empty_node_says_so(console: ConsoleLab) -> None:
    browser = console.browser(UserRole.VIEWER)
    assert browser.get("/trends") == 200
    assert "Nothing in this time." in browser.text


def test_histograms_count_each_delivery_and_job_once(node: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durations, "_SETTLED", timedelta(0))
    console = ConsoleLab(node.settings, node.database)
    console.change("console", metrics_token=SecretStr("t0ken"))

    def counted() -> dict[str, float]:
        answer = console.browser().client.get("/metrics", headers={"Authorization": "Bearer t0ken"})
        assert answer.status_code == 200
        lines = (line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines if "_seconds_count" in name or "_bucket" in name}

    assert not [
        name for name in counted() if "turnaround" in name
    ]  # what was before the console is not counted
    with node.database.write() as session:
        number = len(session.scalars(select(Delivery)).all())
        session.execute(update(Delivery).values(confirmed_at=utc_now() + timedelta(milliseconds=1)))
        session.execute(update(Job).values(finished_at=utc_now() + timedelta(milliseconds=1)))
        [rule] = session.scalars(select(Job.rule))
    for _ in range(2):
        found = counted()
    label = f'{{modality="US",peer="pacs",rule="{rule}"}}'
    assert found[f"dicom_node_turnaround_seconds_count{label}"] == number
    assert found[f'dicom_node_job_seconds_count{{modality="US",rule="{rule}"}}'] == 1
