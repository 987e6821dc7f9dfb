"""The alert rules for Prometheus ask for numbers that there are, and are raised by what they are for.

So does the dashboard for Grafana.
"""

from __future__ import annotations

import json
import operator
import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dicom_console.views import metrics
from dicom_node.config.settings import Settings
from dicom_node.model.lifecycle import DeliveryState, StudyState
from dicom_node.monitoring.disk import DiskForecast
from dicom_node.store.tables import Delivery, HeldResult, Job, ReceivedObject, Result, SiteProcess, Study
from dicom_node.store.transitions import utc_now
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.rows import a_result

FILE = Path(__file__).resolve().parents[3] / "config" / "alerts.yaml"
_NUMBER = r"dicom_node_(\w+)(?:\{(\w+)=\"(\w+)\"\})?"
_EXPRESSION = re.compile(rf"{_NUMBER} ([<>]) (?:(\d+)|{_NUMBER})")
_COMPARED: dict[str, Callable[[float, float], bool]] = {"<": operator.lt, ">": operator.gt}


@pytest.fixture(scope="module")
def rules() -> dict[str, str]:
    """The expression of each alert that asks for numbers of ours."""
    yaml = pytest.importorskip("yaml")
    content: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    [group] = content["groups"]
    for rule in group["rules"]:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[mh]", rule.get("for", "1m"))
        assert rule["labels"]["severity"] in ("warning", "critical")
    found = {rule["alert"]: rule["expr"] for rule in group["rules"]}
    assert found.pop("NobodyAnswers") == 'up{job="dicom-node"} == 0'
    return found


@pytest.fixture
def filled(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """A node that has received a study and delivered its result, with a disk that lasts."""
    monkeypatch.setattr(metrics, "forecast", lambda *_: DiskForecast(0, 400.0))
    inbox.receive(ultrasound("one"))
    inbox.settle()
    with inbox.database.write() as session:
        [job] = inbox.jobs()
        result = a_result(job, created_at=utc_now())
        session.add(result)
        session.flush()
        session.add(
            Delivery(
                result_id=result.id, destination="pacs", state=DeliveryState.CONFIRMED, next_at=utc_now()
            )
        )
    yield inbox


def raised(inbox: Inbox, rules: dict[str, str], settings: Settings | None = None) -> set[str]:
    """The alerts whose expression holds now. Fails where one asks for what there is not."""
    with inbox.database.read() as session:
        numbers = {
            (one.name, *(one.labels[0] if one.labels else (None, None))): one.value
            for one in metrics.gauges(session, settings or inbox.settings)
        }
    found = set()
    for alert, expression in rules.items():
        asked = _EXPRESSION.fullmatch(expression)
        assert asked, expression
        limit = float(asked[5]) if asked[5] else numbers[asked[6], asked[7], asked[8]]
        if _COMPARED[asked[4]](numbers[asked[1], asked[2], asked[3]], limit):
            found.add(alert)
    return found


def test_a_node_in_order_raises_none(filled: Inbox, rules: dict[str, str]) -> None:
    assert len(rules) >= 9
    assert raised(filled, rules) == set()


def test_each_alert_is_raised_by_what_it_is_for(
    filled: Inbox, rules: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a_day_ago = utc_now() - timedelta(days=1)

    def change(table: type[Any], **values: Any) -> None:
        with filled.database.write() as session:
            for row in session.query(table):
                for name, value in values.items():
                    setattr(row, name, value)

    change(ReceivedObject, received_at=a_day_ago)
    assert raised(filled, rules) == {"NothingIsReceived"}
    change(ReceivedObject, received_at=utc_now() - timedelta(hours=1), sha256="")
    assert raised(filled, rules) == {"ObjectsAreNotHandedOver"}
    change(ReceivedObject, received_at=utc_now(), sha256="0" * 64)
    change(Job, created_at=a_day_ago)
    assert raised(filled, rules) == {"JobsWaitLong"}
    change(Job, created_at=utc_now())
    change(Delivery, state=DeliveryState.PENDING)
    change(Result, created_at=a_day_ago)
    assert raised(filled, rules) == {"ResultsWaitLong"}
    with filled.database.write() as session:
        result = session.query(Result).one()
        session.add(HeldResult(result_id=result.id, study_id=result.study_id, since=utc_now() - timedelta(2)))
    change(Delivery, state=DeliveryState.UNASSESSED)
    assert raised(filled, rules) == {"ResultsWaitForAPerson"}
    change(Delivery, state=DeliveryState.DEAD)
    assert raised(filled, rules) == {"DeadLetters"}
    change(Delivery, state=DeliveryState.CONFIRMED)
    for state, alert in (
        (StudyState.FAILED, "StudiesFailed"),
        (StudyState.QUARANTINED, "StudiesInQuarantine"),
    ):
        change(Study, state=state)
        assert raised(filled, rules) == {alert}
    change(Study, state=StudyState.DELIVERED)
    filled.receive(ultrasound("two"))
    assert raised(filled, rules) == set()
    [waiting] = filled.spool.pending()
    os.utime(waiting, (time.time() - 600, time.time() - 600))
    assert raised(filled, rules) == {"ObjectsAreNotIndexed"}
    filled.index()
    now = utc_now()
    lost = SiteProcess(
        machine="b", place="worker-1", name="main", pid=1, version="1", since=now, seen_at=now, lost=True
    )
    with filled.database.write() as session:
        session.add(lost)
    assert raised(filled, rules) == {"ProcessIsLost"}
    change(SiteProcess, lost=False)
    monkeypatch.setattr(metrics, "forecast", lambda *_: DiskForecast(0, 3.0))
    full = filled.settings.spool.model_copy(update={"minimum_free_mib": 2**40})
    assert raised(filled, rules, filled.settings.model_copy(update={"spool": full})) == {
        "DiskFillsUp",
        "DiskIsFull",
    }


def test_the_dashboard_shows_numbers_that_there_are(filled: Inbox) -> None:
    with filled.database.read() as session:
        found = list(metrics.gauges(session, filled.settings))
    numbers, labels = {one.name for one in found}, {key for one in found for key, _ in one.labels}
    labels |= {"machine", "place", "process"}  # of processes, of which none runs here
    labels |= {"peer", "rule"}  # of histograms (test_activity.py)
    numbers |= {"process_silent_seconds", "turnaround_seconds_bucket", "job_seconds_bucket"}
    content = json.loads(FILE.with_name("grafana.json").read_text(encoding="utf-8"))
    asked = [target for panel in content["panels"] for target in panel["targets"]]
    for target in asked:
        named = re.findall(r"dicom_node_(\w+)", target["expr"])
        assert named and set(named) <= numbers, target
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels, target
    assert len({panel["id"] for panel in content["panels"]}) == len(content["panels"])
    states = {value for one in found for key, value in one.labels if key == "state"}
    assert {state for one in asked for state in re.findall(r'state="(\w+)"', one["expr"])} <= states
