"""Problems, numbers, alerts and the dashboard."""

import errno
import json
import operator
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from pydantic import SecretStr
from sqlalchemy import delete
from sqlalchemy.orm import Session

from dicom_console.app import create_app
from dicom_console.views import metrics
from dicom_node import __version__
from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.lifecycle import (
    DeliveryState,
    JobState,
    ReviewCause,
    ReviewVerdict,
    StudyState,
    UserRole,
)
from dicom_node.base.store.tables import (
    FAULT,
    Association,
    CleaningReview,
    DecisionRow,
    Delivery,
    HeldResult,
    Instance,
    Job,
    ReceivedObject,
    Result,
    SiteProcess,
    Study,
)
from dicom_node.base.store.transitions import record, utc_now
from dicom_node.base.store.views import View
from tests.console_lab import ConsoleLab, client_of, happened, numbers
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.receive.objects import changed
from tests.wheels import ROOT

WORKER = {"machine": "m", "place": "p", "process": "worker-1"}


PACS = {"destination": "pacs"}


def found(inbox: Inbox) -> list[View]:
    return inbox.read(metrics.problems, inbox.settings, {})


@pytest.mark.parametrize(
    ("bad", "good", "fields"),
    [
        (events.PROCESS_LOST, events.PROCESS_BACK, WORKER),
        (events.DESTINATION_AWAY, events.DESTINATION_BACK, PACS),
        (events.INDEXING_FAILED, events.INDEXING_BACK, {}),
        (events.SPOOL_DIFFERS, events.SPOOL_AGREES, {}),
        (events.AUDIT_NOT_SENT, events.AUDIT_SENT_AGAIN, {}),
        (events.TRACES_NOT_SENT, events.TRACES_SENT_AGAIN, {}),
        (events.CONFIGURATION_REFUSED, events.CONFIGURATION_RELOADED, {}),
        (events.CONSOLE_CANNOT_START, events.CONSOLE_STARTED, {}),
    ],
)
def test_an_alarm_is_over_once_its_end_was_told(
    inbox: Inbox, bad: events.EventType, good: events.EventType, fields: Mapping[str, Any]
) -> None:
    happened(inbox, good, 9, **fields)
    happened(inbox, bad, 5, **fields, silent_seconds=40)
    assert [row["over"] for row in found(inbox)] == [None], "the end of the one before"
    happened(inbox, good, 3, **{key: f"another {value}" for key, value in fields.items()})
    if fields:
        assert [row["over"] for row in found(inbox)] == [None], "the end of another one"
    happened(inbox, good, 1, **fields)
    assert found(inbox)[0]["over"]


def test_what_is_told_again_and_again_is_one_line_and_acts_of_people_are_none(inbox: Inbox) -> None:
    for minute in range(30):
        happened(inbox, events.CHILD_DIED, minute, process="worker-1", exit_status=minute)
        happened(inbox, events.DELIVERY_RETRIED, minute, by="anna")
        happened(inbox, events.JOB_CANCELLED, minute, job=minute)
    happened(inbox, events.ASSOCIATION_REJECTED, 60, calling="US9")
    assert [(row["number"], row["times"]) for row in found(inbox)] == [(6004, 30), (1004, 1)]
    assert found(inbox)[0]["fields"]["exit_status"] == 0, "the last one"


def test_a_rejected_caller_is_told_in_words_until_it_got_through(console: ConsoleLab, inbox: Inbox) -> None:
    numbers = {"result": 1, "source": 1, "reason": 3, "listener": "l-1"}
    who = {"calling": "US9", "called": "AINODE", "address": "192.0.2.9", "meaning": "not recognized"}
    happened(inbox, events.ASSOCIATION_REJECTED, 5, **numbers, **who)
    [row] = found(inbox)
    assert (row["fields"], row["caller"], row["over"]) == (who, "US9", None)
    assert '<a href="/peers/why?caller=US9">Why?</a>' in console.at("/", UserRole.VIEWER).text
    opened = {"calling_ae": "US9", "called_ae": "AINODE", "address": "192.0.2.9"}
    for name, minutes in (("before", 9), ("after", 1)):
        at = utc_now() - timedelta(minutes=minutes)
        inbox.add(Association(id=name, listener="l-1", opened_at=at, **opened))
        assert bool(found(inbox)[0]["over"]) == (name == "after")


def test_problems_of_a_study_end_by_its_own_events(console: ConsoleLab, inbox: Inbox) -> None:
    inbox.settle(ultrasound("one"))
    inbox.settle(ultrasound("two"))
    one, two = (row.id for row in inbox.rows(Study))
    for bad, good, fields in (
        (events.STUDY_QUARANTINED, events.STUDY_RELEASED, {}),
        (events.JOB_FAILED, events.JOB_SUCCEEDED, {"rule": "chest"}),
        (events.JOB_TAKEN_OVER, events.JOB_SUCCEEDED, {"rule": "chest"}),
        (events.DELIVERY_DEAD, events.DELIVERY_CONFIRMED, {"delivery": 7}),
    ):
        inbox.write(record, bad, one, **fields)
        inbox.write(record, good, two, **fields)
        if fields:
            inbox.write(record, good, one, **dict.fromkeys(fields, "another"))
        assert (found(inbox)[0]["number"], found(inbox)[0]["over"]) == (bad.number, None)
        inbox.write(record, good, one, **fields)
        assert [row["how"] for row in found(inbox) if row["number"] == bad.number] == [good.text]
    assert '<li class="over">' in console.at("/", UserRole.VIEWER).text


FILE = ROOT / "config" / "alerts.yaml"


_NUMBER = r"dicom_node_(\w+)(?:\{(\w+)=\"(\w+)\"\})?"


_EXPRESSION = re.compile(rf"{_NUMBER} ([<>]) (?:(\d+)|{_NUMBER})")


_COMPARED: dict[str, Callable[[float, float], bool]] = {"<": operator.lt, ">": operator.gt}


@pytest.fixture(scope="module")
def alerts() -> dict[str, str]:
    """The expression of each alert that asks for numbers of ours."""
    [group] = pytest.importorskip("yaml").safe_load(FILE.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[mh]", rule.get("for", "1m"))
        assert rule["labels"]["severity"] in ("warning", "critical")
    found = {rule["alert"]: rule["expr"] for rule in group["rules"]}
    assert found.pop("NobodyAnswers") == 'up{job="dicom-node"} == 0'
    return found


@pytest.fixture
def filled(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> Inbox:
    """A node that has received a study and delivered its result, with a disk that lasts."""
    monkeypatch.setattr(metrics, "days_left", lambda *_: 400.0)
    modality, *others = inbox.settings.peers
    peers = (modality.model_copy(update={"silent_hours": 14.0}), *others)
    inbox.settings = inbox.settings.model_copy(update={"peers": peers})
    place = {"machine": "b", "place": "all", "pid": 1, "version": "1", "since": utc_now(), "lost": False}
    for name in ("main", "listener", "worker-1"):
        inbox.add(SiteProcess(**place, name=name, seen_at=utc_now()))
    inbox.settle(ultrasound("one"))
    inbox.delivery(inbox.jobs()[0], DeliveryState.CONFIRMED, created_at=utc_now())
    inbox.put(Delivery, next_at=utc_now(), sent_at=utc_now())
    return inbox


def raised(inbox: Inbox, alerts: dict[str, str], settings: Settings | None = None) -> set[str]:
    """The alerts whose expression holds now. Fails where one asks for what there is not."""
    gauges = list(inbox.read(metrics.gauges, settings or inbox.settings))

    def values(name: str, key: str | None, value: str | None) -> list[float]:
        found = [one.value for one in gauges if one.name == name and (not key or (key, value) in one.labels)]
        assert found, name
        return found

    found = set()
    for alert, expression in alerts.items():
        asked = _EXPRESSION.fullmatch(expression)
        assert asked, expression
        [limit] = [float(asked[5])] if asked[5] else values(*asked.group(6, 7, 8))
        if any(_COMPARED[asked[4]](value, limit) for value in values(*asked.group(1, 2, 3))):
            found.add(alert)
    return found


def test_each_alert_is_raised_by_what_it_is_for(
    filled: Inbox, alerts: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = utc_now()
    a_day_ago, an_hour_ago = now - timedelta(days=1), now - timedelta(hours=1)
    [result] = filled.rows(Result)
    not_handed_over = {"received_at": an_hour_ago, "sha256": ""}
    handed_over = {"received_at": now, "sha256": "0" * 64}
    for table, wrong, alert, right in (
        (ReceivedObject, {"received_at": a_day_ago}, "PeerIsSilent", {}),
        (ReceivedObject, not_handed_over, "ObjectsAreNotHandedOver", handed_over),
        (Job, {"created_at": a_day_ago}, "JobsWaitLong", {"created_at": now}),
        (Delivery, {"state": DeliveryState.DEAD}, "DeadLetters", {"state": DeliveryState.CONFIRMED}),
        (Study, {"state": StudyState.FAILED}, "StudiesFailed", {}),
        (Study, {"state": StudyState.QUARANTINED}, "StudiesInQuarantine", {"state": StudyState.DELIVERED}),
        (Result, {"created_at": a_day_ago}, None, {}),
        (Delivery, {"state": DeliveryState.PENDING}, "ResultsWaitLong", {}),
    ):
        filled.put(table, **wrong)
        assert raised(filled, alerts) == ({alert} if alert else set())
        if right:
            filled.put(table, **right)
    filled.put(Delivery, next_at=an_hour_ago)
    assert raised(filled, alerts) == {"ResultsWaitLong", "DeliveriesAreNotSent"}
    filled.put(Delivery, state=DeliveryState.UNCONFIRMED, queries=9, sent_at=an_hour_ago, next_at=now)
    assert raised(filled, alerts) == {"ResultsWaitLong", "PeerConfirmsNothing"}
    filled.add(HeldResult(result_id=result.id, study_id=result.study_id, since=now - timedelta(2)))
    filled.put(Delivery, state=DeliveryState.UNASSESSED)
    assert raised(filled, alerts) == {"ResultsWaitForAPerson"}
    filled.put(Delivery, state=DeliveryState.CONFIRMED)
    filled.receive(ultrasound("two"))
    assert raised(filled, alerts) == set()
    [waiting] = filled.spool.pending()
    os.utime(waiting, (time.time() - 600, time.time() - 600))
    assert raised(filled, alerts) == {"ObjectsAreNotIndexed"}
    filled.index()
    monkeypatch.setattr(metrics, "days_left", lambda *_: 3.0)
    spool = filled.settings.spool.model_copy(update={"minimum_free_mib": 2**40})
    full = filled.settings.model_copy(update={"spool": spool})
    assert raised(filled, alerts, full) == {"DiskFillsUp", "DiskIsFull"}


def test_what_waits_for_a_person_and_a_task_without_a_process_are_alerts(
    filled: Inbox, alerts: dict[str, str]
) -> None:
    filled.put(Job, state=JobState.HELD)
    assert raised(filled, alerts) == {"JobsAreHeld"}
    filled.put(Job, state=JobState.SUCCEEDED)
    [instance] = filled.rows(Instance)
    filled.add(
        CleaningReview(
            study_id=instance.study_id,
            instance_id=instance.id,
            job_id=filled.rows(Job)[0].id,
            rule="ultrasound",
            analysis_sha256="0" * 64,
            cause=ReviewCause.WITHHELD,
            note="",
            places=[],
            created_at=utc_now(),
        )
    )
    assert raised(filled, alerts) == {"ImagesAreWithheld"}
    filled.put(CleaningReview, verdict=ReviewVerdict.ACCEPTED)
    lost = DecisionRow(id="1", at=utc_now(), machine="m", action=FAULT, record={}, copied=True, holds=True)
    filled.add(lost)
    assert raised(filled, alerts) == {"DecisionsWait"}
    filled.put(DecisionRow, applied_at=utc_now())
    place = {"machine": "b", "place": "worker-2", "pid": 1, "version": "1", "since": utc_now()}
    filled.add(SiteProcess(**place, name="main", seen_at=utc_now(), lost=True))
    assert raised(filled, alerts) == {"ProcessIsLost"}
    filled.write(Session.execute, delete(SiteProcess))
    assert raised(filled, alerts) == {"NothingReceives", "NothingAnalyses", "NothingDelivers"}


def test_no_alert_is_raised_by_a_quiet_night_and_numbers_name_peer_and_version(
    filled: Inbox, alerts: dict[str, str]
) -> None:
    filled.put(ReceivedObject, received_at=utc_now() - timedelta(hours=12))
    assert raised(filled, alerts) == set()
    filled.put(Delivery, state=DeliveryState.DEAD)
    found = {(one.name, *one.labels): one.value for one in filled.read(metrics.gauges, filled.settings)}
    assert found["peer_deliveries", ("peer", "pacs"), ("state", "dead")] == 1
    assert found["build_info", ("version", __version__)] == 1


def test_the_dashboard_shows_numbers_that_there_are(filled: Inbox) -> None:
    found = list(filled.read(metrics.gauges, filled.settings))
    numbers, labels = {one.name for one in found}, {key for one in found for key, _ in one.labels}
    labels |= {"machine", "place", "process"}  # of processes, of which none runs here
    labels |= {"peer", "rule"}  # of histograms (of the trends below)
    numbers |= {"process_silent_seconds", "turnaround_seconds_bucket", "job_seconds_bucket"}
    content = json.loads(FILE.with_name("grafana.json").read_text(encoding="utf-8"))
    asked = [target for panel in content["panels"] for target in panel["targets"]]
    for target in asked:
        named = re.findall(r"dicom_node_(\w+)", target["expr"])
        assert named, target
        assert set(named) <= numbers, target
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels, target
    states = {value for one in found for key, value in one.labels if key == "state"}
    assert {state for one in asked for state in re.findall(r'state="(\w+)"', one["expr"])} <= states


def test_the_page_on_metrics_names_the_labels_that_they_have(filled: Inbox) -> None:
    """People write alerts by it: one with a label that is not there never fires."""
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    said = dict(re.findall(r"^\| `dicom_node_(\w+)` \| ([^|]*?) ?\|", page, re.MULTILINE))
    found = list(filled.read(metrics.gauges, filled.settings))
    labels = {one.name: ", ".join(name for name, _ in one.labels) for one in found}
    assert {name: said[name] for name in labels} == labels


def test_metrics_count_and_name_nobody(console: ConsoleLab, inbox: Inbox) -> None:
    inbox.settle(changed(ultrasound("one"), PatientID="SECRET-1"))
    status, text = numbers(console)
    assert status == 200
    assert "SECRET" not in text
    assert "1.2." not in text
    for line in ("objects_received 1.0", 'jobs{state="queued"} 1.0', 'deliveries{state="dead"} 0.0'):
        assert f"dicom_node_{line}" in text


def test_metrics_are_for_who_has_the_token_from_wherever_they_are_asked_for(console: ConsoleLab) -> None:
    for token, sent, status in (
        ("", "", 403),
        ("", "Bearer ", 403),
        ("t0ken", "", 403),
        ("t0ken", "Bearer token", 403),
        ("t0ken", "Bearer t0ken", 200),
    ):
        console.change("console", metrics_token=SecretStr(token))
        for here in ("127.0.0.1", "::1", "192.0.2.1"):
            client = client_of(console.app, caller=here)
            assert client.get("/metrics", headers={"Authorization": sent}).status_code == status, sent


def test_a_port_for_metrics_needs_no_token_and_answers_nothing_else(console: ConsoleLab) -> None:
    console.change("console", metrics_port=9112)
    app = create_app(console.settings, console.database)
    client = client_of(app, "http://127.0.0.1:9112")
    assert {client.get(path).status_code for path in ("/healthz", "/metrics")} == {200}
    assert {client.get(path).status_code for path in ("/", "/sign-in", "/api/v1/studies")} == {404}
    assert client_of(app, "http://127.0.0.1:8080", Host="127.0.0.1:9112").get("/metrics").status_code == 403


def test_a_disk_that_does_not_say_its_space_is_a_fault_and_hides_nothing_else(
    filled: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = Mock(side_effect=OSError(errno.ESTALE, "Stale file handle"))
    monkeypatch.setattr(shutil, "disk_usage", stale)
    shown = metrics._disk(filled.settings)
    assert (shown["low"], shown["fault"]) == (False, "disk: stale file handle")
    assert list(filled.read(metrics.gauges, filled.settings))
