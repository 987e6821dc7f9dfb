"""What the pages show: every kind of row, events, problems, trends, languages."""

import json
import operator
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from itertools import count
from pathlib import Path
from string import Formatter
from typing import Any
from urllib.parse import urlencode

import pytest
from babel.messages import Message
from babel.messages.pofile import read_po
from pydantic import SecretStr
from sqlalchemy import JSON, Column, Enum, LargeBinary, String, Table, Text
from sqlalchemy.exc import IntegrityError

from dicom_console import catalogues
from dicom_console.handlers.happened import TREND_SPANS
from dicom_console.views import listing, metrics, search, timeline
from dicom_console.views.activity import SPANS, Series, activity
from dicom_console.views.problems import problems
from dicom_console.views.search import Order, Search
from dicom_console.web import languages
from dicom_node import events
from dicom_node.config.settings import Settings
from dicom_node.events import JOB_FAILED, STEPS_FULFILLED, STEPS_NOT_AWAITED, STUDY_COMPLETE, Event, EventType
from dicom_node.model.kinds import AssociationOutcome, AuditAction, ReaderVerdict, ResultKind, StepStatus
from dicom_node.model.lifecycle import DeliveryState, JobState, StudyState
from dicom_node.model.roles import Role, UserRole
from dicom_node.monitoring.disk import DiskForecast
from dicom_node.notifications.sender import Notifier
from dicom_node.preflight import console
from dicom_node.preflight.found import Tried
from dicom_node.scp.entrance import Failure
from dicom_node.services import audit
from dicom_node.store import steps
from dicom_node.store.accounts import Feedback
from dicom_node.store.database import Database
from dicom_node.store.tables import (
    Association,
    Base,
    Delivery,
    EventRow,
    HeldResult,
    Job,
    ReceivedObject,
    ReportedFinding,
    Result,
    SiteProcess,
    Study,
    UtcDateTime,
)
from dicom_node.store.transitions import append, record, utc_now
from dicom_node.store.views import View, list_events
from tests.console_lab import ConsoleLab, Program, routes
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import ultrasound
from tests.ports import free_port
from tests.rows import NOW, Stored, a_job, a_study
from tests.smtp_lab import WebServer
from tests.unit.console.illustrated import illustrated
from tests.unit.inbox.objects import changed


def a_dead_delivery(console: ConsoleLab) -> None:
    """The first job's picture, given up."""
    job = console.rows(Job)[0]
    console.delivery(job, DeliveryState.DEAD, ResultKind.SC)
    console.put(Job, job.id, state=JobState.SUCCEEDED)
    console.put(Study, job.study_id, state=StudyState.FAILED)


def test_the_overview_counts_what_needs_a_person(console: ConsoleLab, inbox: Inbox) -> None:
    inbox.settle(ultrasound("one"))
    a_dead_delivery(console)
    browser = console.at("/", UserRole.VIEWER)
    figures = {
        label: int(number)
        for number, label in re.findall(r"<strong>(\d+)</strong><span>([^<]+)", browser.text)
    }
    assert figures == {
        "studies being received": 0,
        "jobs running": 0,
        "jobs waiting": 0,
        "jobs held": 0,
        "deliveries on their way": 0,
        "deliveries given up": 1,
        "studies in quarantine": 0,
        "studies failed": 1,
    }
    for address in set(re.findall(r'class="figure[^>]*href="([^"]+)"', browser.text)):
        assert browser.get(address) == 200, address


def test_a_patient_is_found_and_no_address_says_which(console: ConsoleLab, inbox: Inbox) -> None:
    for number, name in ((1, "Nowak^Anna"), (22, "Kim^Min-jun")):
        about = {"PatientID": f"SECRET-{number}", "AccessionNumber": f"ACC{number}"}
        inbox.receive(changed(ultrasound(name), PatientName=name, **about))
    inbox.settle()
    browser = console.browser(UserRole.VIEWER)
    for field, wanted, found in (
        ("patient", "SECRET-*", {"SECRET-1", "SECRET-22"}),
        ("patient", "SECRET-", set()),
        ("accession", "ACC22", {"SECRET-22"}),
        ("name", "anna NOWAK", {"SECRET-1"}),
        ("name", "Now", set()),
    ):
        browser.post("/studies/search", **{field: wanted})
        assert (
            wanted not in browser.headers["location"] and "nowak" not in browser.headers["location"].lower()
        )
        browser.follow()
        assert set(re.findall(r"<small>(SECRET-\d+)</small>", browser.text)) == found, wanted
    searched = [row["searched_by"] for row in console.audited("study_searched")]
    assert searched == [["name"], ["name"], ["accession"], ["patient"], ["patient"]]
    assert "SECRET" not in str(console.audit_rows())


@pytest.mark.parametrize("order", Order)
def test_pages_together_show_each_study_once(database: Database, order: Order) -> None:
    with database.write() as session:
        for number in range(2 * search.PAGE + 7):
            at = NOW + timedelta(seconds=number // 3)  # some at the same moment
            session.add(a_study(f"1.2.{number}", at=at, study_date=f"202601{number % 28 + 1:02}"))
    seen: list[dict[str, object]] = []
    after: int | None = None
    with database.read() as session:
        for _ in range(3):
            rows, after = search.search(session, Search(order=order), after)
            seen += rows
    assert after is None
    assert len({row["id"] for row in seen}) == len(seen) == 2 * search.PAGE + 7
    key = "study_date" if order in (Order.DATE, Order.OLDEST_DATE) else "last_received_at"
    values = [str(row[key]) for row in seen]
    assert values == sorted(values, reverse=order in (Order.RECEIVED, Order.DATE))


def test_the_page_of_a_study_shows_what_came_and_became_of_it(console: ConsoleLab, inbox: Inbox) -> None:
    header = {"PatientName": "Müller^Änne", "PatientID": "<i>P", "SpecificCharacterSet": "ISO_IR 100"}
    inbox.settle(changed(ultrasound("one"), **header))
    a_dead_delivery(console)
    browser = console.browser(UserRole.VIEWER)
    for _ in range(2):
        text = browser.page("/studies/1")
    assert "<i>P" not in text + browser.page("/studies"), "markup in a header is text"
    for shown in (
        "Müller, Änne",
        "&lt;i&gt;P",
        "MODALITY",
        "object indexed",
        "/studies/images/1/1?longest=320",
    ):
        assert shown in text, shown
    assert 'class="state dead"' in text and "Run the rules again" not in text
    assert len(console.audited("study_seen")) == 1  # within minutes


def test_numbers_and_lists_are_the_same_of_both_databases(database: Database, inbox: Inbox) -> None:
    stored = Stored(database)
    stored.add(study := a_study("1.2.3", StudyState.DELIVERING, patient_id="P%1", accession_number="A1"))
    stored.add(job := a_job(study, JobState.QUEUED))
    stored.delivery(job, DeliveryState.PENDING, ResultKind.SC)
    stored.write(audit.note, audit.COMMAND_LINE, AuditAction.STUDY_RERUN, study_id=study.id)
    dated = Search(accession="A1", since="20260102", until="20260102")
    for wanted in (Search(patient="P%1"), Search(patient="P%*"), dated):
        assert [row["id"] for row in stored.read(search.search, wanted)[0]] == [study.id]
    assert stored.read(search.search, Search(patient="p%1", modality="US"))[0] == []
    [shown] = stored.read(listing.show, inbox.settings, study.id)["results"]
    assert shown["deliveries"][0]["state"] == "pending"
    assert stored.read(metrics.overview, inbox.settings)["deliveries"]["open"] == 1
    gauges = stored.read(metrics.gauges, inbox.settings)
    assert {one.name: one.value for one in gauges if not one.labels}["jobs_oldest_seconds"] > 0
    assert stored.read(audit.rows)[0]["study"] == "1.2.3"


_TITLE, _ADDRESS = "GE CT^1", "192.0.2.77"


_FIELDS = {
    "calling": _TITLE, "called": "AINODE", "address": _ADDRESS, "meaning": "no", "status": "A700",
    "peer": "pacs", "destination": "pacs", "study": "1.2", "instance": "1.2", "job": 1, "reason": "x",
    **dict.fromkeys(Failure, 1),
}  # fmt: skip


_BOXES = [[0, 0, 9, 9]]


_JSON: dict[str, Any] = {
    "fields": _FIELDS, "content": _FIELDS, "record": _FIELDS, "attributes": {}, "options": {}, "filters": {},
    "search": {}, "deliveries": [1], "boxes": _BOXES, "places": _BOXES,
}  # fmt: skip


_PEERS = [
    {"name": "get", "ae_title": "GET", "may": ["query"], "host": "h", "port": 4, "retrieve": "get"},
    {"name": "ups", "ae_title": "UPS", "may": ["send"], "host": "h", "port": 4, "worklist": ["A^B"]},
    {"name": "asks", "ae_title": "ASKS", "may": ["send"], "host": "h", "port": 4,
     "commit_after": "delivered"},
    {"name": "steps", "ae_title": "STEPS", "may": ["send"], "mpps": True, "silent_hours": 1.5},
    {"name": "hl7", "ae_title": "RIS", "transport": "hl7", "may": ["receive"], "host": "h", "port": 4,
     "hl7_fields": {"MSH-6": "RIS"}},
    {"name": "fhir", "ae_title": "F", "transport": "fhir", "may": ["receive"], "url": "https://h/fhir"},
    {"name": "web", "ae_title": "W", "transport": "dicomweb", "may": ["receive"], "url": "https://h/dicom-web",
     "deidentify": True, "results": ["cleaned"], "retain": ["device"]},
]  # fmt: skip


_NUMBERS = count(1000)


def _value(column: Column[Any], member: StrEnum | None) -> Any:  # noqa: PLR0911  (one for each kind of column)
    """A value that the column takes; a number or a text that no other row has where it has to be unique."""
    if column.foreign_keys:
        return 1
    if isinstance(column.type, Enum):
        return member or next(iter(column.type.enum_class))  # type: ignore[arg-type]
    if isinstance(column.type, String | Text):
        names = {"calling_ae": _TITLE, "address": _ADDRESS, "peer": "asks", "destination": "pacs"}
        return names.get(column.name) or f"1.2.{next(_NUMBERS)}"
    if isinstance(column.type, LargeBinary):
        return b""
    if isinstance(column.type, JSON):
        return _JSON.get(column.name, ["1.2 3"])
    if isinstance(column.type, UtcDateTime):
        return utc_now()
    fixed: dict[type, Any] = {date: utc_now().date(), bool: True, float: 0.5}
    return fixed.get(column.type.python_type, next(_NUMBERS) if column.primary_key else 1)


def _rows(table: Table) -> Iterator[dict[str, Any]]:
    """For each word of each enumeration one row with all columns, and one with as few as the table allows."""
    numbered = table.columns.get("id")
    columns = [one for one in table.columns if one is not numbered or isinstance(one.type, String)]
    words = [(one, word) for one in columns for word in getattr(one.type, "enum_class", None) or ()]
    for chosen, word in words or [(None, None)]:
        for is_whole in (True, False):
            yield {
                one.name: _value(one, word if one is chosen else None)
                for one in columns
                if is_whole or one is chosen or not (one.nullable or one.default)
            }


def fill(database: Database) -> None:
    """Add the rows. What a constraint refuses is no kind of row."""
    for table in Base.metadata.sorted_tables:
        for row in _rows(table):
            try:
                with database.write() as session:
                    session.execute(table.insert().values(row))
            except IntegrityError:
                pass
    with database.write() as session:
        for kind in filter(lambda one: isinstance(one, EventType), vars(events).values()):
            for fields in ({}, _FIELDS):
                session.add(EventRow(at=utc_now(), number=kind.number, study_id=1, fields=fields))


@pytest.mark.parametrize("language", ["de"])
def test_each_page_is_shown_with_every_kind_of_row_and_in_each_language(node: Inbox, language: str) -> None:
    fill(node.database)
    config = illustrated()
    config["peers"] += _PEERS
    settings = Settings.model_validate({**config, "node": {"data_dir": node.folder}})
    console = ConsoleLab(settings, node.database)
    browser = console.browser(UserRole.ADMIN)
    assert browser.post("/language", language=language, back="/studies") == 303
    assert browser.headers["location"] == "/studies"
    names = [peer.name for peer in settings.peers]
    paths = {f"/peers/why?caller={caller}" for caller in (*names, "GE+CT^1", _ADDRESS)}
    for route in routes(console.app.routes):
        if "GET" in route.methods and not re.match(r"/api/|/live|/sign-in/oidc|/dicomweb", route.path):
            for name in names if "/{name}" in route.path else [""]:
                for number in range(1, 25) if route.path.endswith("/{number}") else [1]:
                    path = route.path.replace("{name}", name).replace("{number}", str(number))
                    paths.add(re.sub(r"\{\w+\}", "1", path))
    for path in sorted(paths):
        assert browser.get(path) != 500, path
        if browser.status == 200 and browser.headers["content-type"].startswith("text/html"):
            assert f'<html lang="{language}">' in browser.text and "%(" not in browser.text, path


NIGHT = datetime(2026, 3, 1, 3, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return NIGHT + timedelta(minutes=minutes)


@pytest.fixture
def site(console: ConsoleLab) -> ConsoleLab:
    """A night: US1 is rejected, a day before a stranger was; US1 sends two objects."""
    rejected = {"calling": "US1", "address": "192.0.2.21", "reason": "called AE title not recognised"}
    console.write(append, Event(events.ASSOCIATION_REJECTED, at(1), rejected))
    console.write(append, Event(events.ASSOCIATION_REJECTED, at(-1440), {"calling": "STRANGER"}))
    console.write(append, Event(events.LISTENER_STARTED, at(-2), {"port": 11112}))
    console.write(append, Event(events.ECHOED, at(2), {"calling": "CT9"}))
    for name, opened in (("a", at(3)), ("b", at(-1440))):
        console.add(
            Association(
                id=name,
                listener="one",
                calling_ae="US1",
                called_ae="AINODE",
                address="192.0.2.21",
                opened_at=opened,
                closed_at=opened + timedelta(seconds=4),
                outcome=AssociationOutcome.RELEASED,
                objects=2,
            )
        )
    return console


def shown(site: ConsoleLab, **asked: object) -> str:
    browser = site.at(f"/events?{urlencode({'at': NIGHT.isoformat(), **asked})}", UserRole.VIEWER)
    return str(browser.text)


def test_events_and_associations_around_a_time_the_oldest_first_or_those_of_a_peer(site: ConsoleLab) -> None:
    page = shown(site)
    places = [page.index(text) for text in ("listener started", "association rejected", "C-ECHO answered")]
    assert places == sorted(places)
    assert "STRANGER" not in page
    assert page.count("192.0.2.21") == 2 and "released" in page  # one event, one association
    for peer in ("US1", "us1", "192.0.2.21"):
        page = shown(site, peer=peer)
        assert "association rejected" in page and "released" in page
        assert "listener started" not in page and "C-ECHO" not in page


def test_who_was_refused_is_listed_before_anybody_is_named(console: ConsoleLab) -> None:
    for minutes, reason in ((3, "too many"), (1, "called AE title not recognised")):
        fields = {"calling": "CT9", "address": "192.0.2.9", "reason": reason}
        when = datetime.now(UTC) - timedelta(minutes=minutes)
        console.write(append, Event(events.ASSOCIATION_REJECTED, when, fields))
    browser = console.at("/peers/why", UserRole.VIEWER)
    assert browser.text.count(">CT9<") == 1 and ">2<" in browser.text
    assert "not recognised" in browser.text and "too many" not in browser.text
    assert 'href="/events?at=' in browser.text


def test_what_happened_again_and_again_is_one_line(site: ConsoleLab) -> None:
    for number in range(40):
        fields = {
            "destination": "pacs",
            "reason": "no answer",
            "delivery": number,
            "instance": f"2.25.{number}",
        }
        site.write(append, Event(events.DELIVERY_RETRIED, at(number / 60), fields))
    page = shown(site)
    assert page.count("delivery failed, will be tried again") == 1 and "40 times" in page


@pytest.mark.parametrize("moment", ["0001-01-01T00:00Z", "9999-12-31T23:59Z"])
def test_a_time_at_the_end_of_all_times_is_no_defect(site: ConsoleLab, moment: str) -> None:
    assert site.at(f"/events?at={moment}", UserRole.VIEWER).status == 409


def test_warnings_and_errors_alone(site: ConsoleLab) -> None:
    page = shown(site, problems="true")
    assert "association rejected" in page and "C-ECHO" not in page and "listener started" not in page
    assert "No events" in shown(site, problems="true", number=events.ECHOED.number)


WORKER = {"machine": "m", "place": "p", "process": "worker-1"}


PACS = {"destination": "pacs"}


def happened(inbox: Inbox, kind: EventType, minutes_ago: float, **fields: Any) -> None:
    at = utc_now() - timedelta(minutes=minutes_ago)
    inbox.add(EventRow(at=at, number=kind.number, fields=fields))


def found(inbox: Inbox, *, disk_is_low: bool = False) -> list[View]:
    return inbox.read(problems, inbox.settings, disk_is_low=disk_is_low)


@pytest.mark.parametrize(
    ("bad", "good", "fields"),
    [
        (events.PROCESS_LOST, events.PROCESS_BACK, WORKER),
        (events.DESTINATION_AWAY, events.DESTINATION_BACK, PACS),
        (events.INDEXING_FAILED, events.INDEXING_BACK, {}),
        (events.AUDIT_NOT_SENT, events.AUDIT_SENT_AGAIN, {}),
        (events.TRACES_NOT_SENT, events.TRACES_SENT_AGAIN, {}),
        (events.CONFIGURATION_REFUSED, events.CONFIGURATION_RELOADED, {}),
        (events.CONSOLE_CANNOT_START, events.CONSOLE_STARTED, {}),
    ],
)
def test_an_alarm_is_over_once_its_end_was_told(
    inbox: Inbox, bad: EventType, good: EventType, fields: Mapping[str, Any]
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


def test_a_quarantined_study_is_a_problem_until_it_is_released(console: ConsoleLab, inbox: Inbox) -> None:
    inbox.settle(ultrasound("one"))
    inbox.write(record, events.STUDY_QUARANTINED, 1)
    for state, over, mark in ((StudyState.QUARANTINED, None, False), (StudyState.RECEIVING, "", True)):
        inbox.put(Study, 1, state=state)
        assert found(inbox)[0]["over"] == over
        assert ('<li class="over">' in console.at("/", UserRole.VIEWER).text) is mark


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


def total(series: Series) -> float:
    return sum(value for value in series.values if value is not None)


@pytest.mark.parametrize("days", SPANS)
def test_each_span_counts_the_same_study_once(busy: Inbox, days: int) -> None:
    found = busy.read(activity, days)
    reports = {row.result_id for row in busy.rows(ReportedFinding)}
    assert total(found.received) == 1
    assert len(found.hours) == len(found.received.values) and found.times == sorted(found.times)
    median, p95 = found.turnaround
    assert 30 <= max(value for value in median.values if value is not None) <= 45
    assert max(value for value in p95.values if value is not None) <= 45
    assert sum(map(total, found.findings)) >= len(reports)
    assert [total(one) for one in found.alarms] == [1.0]
    assert [(one.name, total(one)) for one in found.agreement] == [("m@1", 0.5)]
    assert {"peer": "pacs", "given_up": 1, "failed": 2, "associations": 0} in found.failures


def test_the_page_draws_them_and_programs_get_numbers(busy: Inbox) -> None:
    console = ConsoleLab(busy.settings, busy.database)
    browser = console.browser(UserRole.VIEWER)
    for days in TREND_SPANS:
        assert browser.page(f"/trends?days={days}").count("<svg") == 5
    assert (browser.get("/trends?days=8"), browser.get("/trends?days=x")) == (409, 400)
    status, found = Program(console, UserRole.VIEWER).ask("GET", "/trends?days=30")
    assert status == 200
    assert sum(found["received"]["values"]) == 1


def test_histograms_count_each_delivery_and_job_once(busy: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_SETTLED", timedelta(0))
    console = ConsoleLab(busy.settings, busy.database)
    console.change("console", metrics_token=SecretStr("t0ken"))

    def counted() -> dict[str, float]:
        answer = console.browser().client.get("/metrics", headers={"Authorization": "Bearer t0ken"})
        lines = (line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines if "_seconds_count" in name or "_bucket" in name}

    before = [name for name in counted() if "turnaround" in name]
    assert before == [], "what was before the console is not counted"
    busy.put(Delivery, confirmed_at=utc_now() + timedelta(milliseconds=1))
    busy.put(Job, finished_at=utc_now() + timedelta(milliseconds=1))
    found = [counted() for _ in range(2)][-1]
    label = f'{{modality="US",peer="pacs",rule="{busy.jobs()[0].rule}"}}'
    assert found[f"dicom_node_turnaround_seconds_count{label}"] == len(busy.rows(Delivery))
    of_rule = label.replace('peer="pacs",', "")
    assert found[f"dicom_node_job_seconds_count{of_rule}"] == 1


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
def filled(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> Inbox:
    """A node that has received a study and delivered its result, with a disk that lasts."""
    monkeypatch.setattr(metrics, "forecast", lambda *_: DiskForecast(0, 400.0))
    inbox.settle(ultrasound("one"))
    inbox.delivery(inbox.jobs()[0], DeliveryState.CONFIRMED, created_at=utc_now())
    inbox.put(Delivery, next_at=utc_now())
    return inbox


def raised(inbox: Inbox, rules: dict[str, str], settings: Settings | None = None) -> set[str]:
    """The alerts whose expression holds now. Fails where one asks for what there is not."""
    numbers = {
        (one.name, *(one.labels[0] if one.labels else (None, None))): one.value
        for one in inbox.read(metrics.gauges, settings or inbox.settings)
    }
    found = set()
    for alert, expression in rules.items():
        asked = _EXPRESSION.fullmatch(expression)
        assert asked, expression
        limit = float(asked[5]) if asked[5] else numbers[asked[6], asked[7], asked[8]]
        if _COMPARED[asked[4]](numbers[asked[1], asked[2], asked[3]], limit):
            found.add(alert)
    return found


def test_each_alert_is_raised_by_what_it_is_for(
    filled: Inbox, rules: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = utc_now()
    a_day_ago, an_hour_ago = now - timedelta(days=1), now - timedelta(hours=1)
    [result] = filled.rows(Result)
    place = {"machine": "b", "place": "worker-1", "name": "main", "pid": 1, "version": "1"}
    filled.add(SiteProcess(**place, since=now, seen_at=now, lost=False))
    not_handed_over = {"received_at": an_hour_ago, "sha256": ""}
    handed_over = {"received_at": now, "sha256": "0" * 64}
    for table, wrong, alert, right in (
        (ReceivedObject, {"received_at": a_day_ago}, "NothingIsReceived", {}),
        (ReceivedObject, not_handed_over, "ObjectsAreNotHandedOver", handed_over),
        (Job, {"created_at": a_day_ago}, "JobsWaitLong", {"created_at": now}),
        (Delivery, {"state": DeliveryState.DEAD}, "DeadLetters", {"state": DeliveryState.CONFIRMED}),
        (Study, {"state": StudyState.FAILED}, "StudiesFailed", {}),
        (Study, {"state": StudyState.QUARANTINED}, "StudiesInQuarantine", {"state": StudyState.DELIVERED}),
        (SiteProcess, {"lost": True}, "ProcessIsLost", {"lost": False}),
        (Result, {"created_at": a_day_ago}, None, {}),
        (Delivery, {"state": DeliveryState.PENDING}, "ResultsWaitLong", {}),
    ):
        filled.put(table, **wrong)
        assert raised(filled, rules) == ({alert} if alert else set())
        if right:
            filled.put(table, **right)
    filled.add(HeldResult(result_id=result.id, study_id=result.study_id, since=now - timedelta(2)))
    filled.put(Delivery, state=DeliveryState.UNASSESSED)
    assert raised(filled, rules) == {"ResultsWaitForAPerson"}
    filled.put(Delivery, state=DeliveryState.CONFIRMED)
    filled.receive(ultrasound("two"))
    assert raised(filled, rules) == set()
    [waiting] = filled.spool.pending()
    os.utime(waiting, (time.time() - 600, time.time() - 600))
    assert raised(filled, rules) == {"ObjectsAreNotIndexed"}
    filled.index()
    monkeypatch.setattr(metrics, "forecast", lambda *_: DiskForecast(0, 3.0))
    spool = filled.settings.spool.model_copy(update={"minimum_free_mib": 2**40})
    full = filled.settings.model_copy(update={"spool": spool})
    assert raised(filled, rules, full) == {"DiskFillsUp", "DiskIsFull"}


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
        assert named and set(named) <= numbers, target
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels, target
    states = {value for one in found for key, value in one.labels if key == "state"}
    assert {state for one in asked for state in re.findall(r'state="(\w+)"', one["expr"])} <= states


FIRST, SECOND = "1.2.840.1.6185059.5457", "1.2.840.2.6185059.5457"


@pytest.fixture
def site_plain_lists(console: ConsoleLab, inbox: Inbox) -> ConsoleLab:
    """Two studies of one association, whose UIDs have the same dozen figures at their ends."""
    for name, uid in (("one", FIRST), ("two", SECOND)):
        inbox.receive(changed(ultrasound(name), StudyInstanceUID=uid), association="a")
    inbox.settle()
    return console


def test_what_happened_to_a_study_has_nothing_of_another_one(site_plain_lists: ConsoleLab) -> None:
    titles = {"calling_ae": "US1", "called_ae": "AINODE", "address": "192.0.2.21"}
    now = utc_now()  # the listener stopped, and the association's own end is told after that
    site_plain_lists.add(Association(id="a", listener="l", opened_at=now, closed_at=now, **titles))
    site_plain_lists.write(record, events.OBJECT_CONFLICT, 2, association="a", instance="1.2")
    site_plain_lists.write(record, events.ASSOCIATION_ABORTED, None, association="a")
    shown = site_plain_lists.read(list_events, study_instance_uid=FIRST)
    assert events.ASSOCIATION_ABORTED.number in {row["number"] for row in shown}
    assert {row["study_instance_uid"] for row in shown} == {FIRST, None}


def test_only_a_job_of_the_newest_revision_can_be_run(site_plain_lists: ConsoleLab) -> None:
    with site_plain_lists.database.write() as session:
        study = session.get_one(Study, 1)
        study.revision = 2
        old, new = session.get_one(Job, 1), a_job(study, JobState.FAILED)
        old.state, old.reason, new.study_revision = JobState.CANCELLED, "superseded by revision 2", 2
        session.add(new)
        session.flush()
        numbers = old.id, new.id
    browser = site_plain_lists.browser(UserRole.OPERATOR)
    for path in ("/jobs", "/studies/1"):
        browser.get(path)
        offered = [f"/jobs/{number}/retry" in browser.text for number in numbers]
        assert offered == [False, True], path


OHIF = "https://ohif.example.org/viewer?StudyInstanceUIDs={study}"


WEASIS = "weasis://$dicom:rs --request accession={accession}"


def test_each_viewer_is_a_link_with_the_numbers_of_the_study(console: ConsoleLab, inbox: Inbox) -> None:
    image = changed(ultrasound("one"), AccessionNumber="A 1&x")
    inbox.settle(image)
    console.change("console", open_in={"OHIF": OHIF, "Weasis": WEASIS})
    shown = console.at("/studies/1", UserRole.VIEWER).text
    assert f'href="https://ohif.example.org/viewer?StudyInstanceUIDs={image.StudyInstanceUID}"' in shown
    assert "accession=A%201%26x" in shown and "Open in Weasis" in shown
    assert 'rel="noopener noreferrer"' in shown


TRANSLATED = [language for language in languages.LANGUAGES if language != "en"]


PLACES = re.compile(r"%\(\w+\)s|%%|\{time\}|<[^>]*>")


def messages(language: str) -> list[Message]:
    with (languages.CATALOGUES / f"{language}.po").open("rb") as file:
        return [one for one in read_po(file, locale=language) if one.id]


def forms(text: object) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else tuple(text or ())  # type: ignore[arg-type]


def test_each_text_of_the_pages_has_a_translation_and_no_other_is_there() -> None:
    texts = set(catalogues.texts())
    for language in TRANSLATED:
        ids = {one.id if isinstance(one.id, str) else tuple(one.id) for one in messages(language)}
        assert (texts - ids, ids - texts) == (set(), set()), language
        assert [one.id for one in messages(language) if not all(forms(one.string) or [""])] == [], language


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_translation_has_the_places_and_the_marks_of_its_text(language: str) -> None:
    """Texts are put into pages as they are: marks of HTML that a text has not would be a hole."""
    for one in messages(language):
        texts, translations = forms(one.id), forms(one.string)
        for translation in translations:
            expected = {tuple(sorted(PLACES.findall(text))) for text in texts}
            assert tuple(sorted(PLACES.findall(translation))) in expected, one.id
            assert "%" not in PLACES.sub("", translation), one.id
            assert "<" not in PLACES.sub("", translation), one.id
    assert list(Formatter().parse("{time}"))  # what a script of ours puts in


@pytest.mark.parametrize(
    ("chosen", "accepted", "language"),
    [
        ("", "", "en"),
        ("", "de-CH, en;q=0.7", "de"),
        ("", "it, fr;q=0.3, es;q=0.9", "es"),
        ("", "en-GB,de;q=0.9", "en"),
        ("", "de;q=0, fr", "fr"),
        ("es", "de", "es"),
        ("../../etc", "x" * 100_000, "en"),
        ("xx", "de;q=9999, \x00;q=, ;;;,,", "en"),
    ],
)
def test_the_language_is_the_chosen_one_else_the_browsers(chosen: str, accepted: str, language: str) -> None:
    assert languages.wanted(chosen, accepted) == language


IMAGES = [ultrasound("stepped", number=number) for number in (1, 2, 3)]


STUDY = str(IMAGES[0].StudyInstanceUID)


def report(inbox: Inbox) -> None:
    """Two of three images arrive; one step has ended, one goes on."""
    inbox.settle(*IMAGES[:2])
    uids = [str(image.SOPInstanceUID) for image in IMAGES]
    for uid, status, named in (
        ("1.2.1", StepStatus.COMPLETED, uids),
        ("1.2.2", StepStatus.IN_PROGRESS, []),
    ):
        one = steps.StepReport(uid, "modality", "MODALITY", status, 1, [STUDY], named, utc_now())
        inbox.write(steps.keep, one)


def test_the_page_of_a_study_has_its_steps(console: ConsoleLab, inbox: Inbox) -> None:
    browser = console.browser(UserRole.VIEWER)
    inbox.settle(ultrasound("without"))
    report(inbox)
    assert "Performed procedure steps" not in browser.page("/studies/1")
    table = browser.page("/studies/2").partition("Performed procedure steps")[2].partition("</section>")[0]
    rows = [row for row in table.split("<tr>") if "MODALITY" in row]
    assert ["COMPLETED" in row for row in rows] == [True, False]
    assert '<td data-label="objects">3</td><td data-label="missing">1</td>' in rows[0]
    assert "MODALITY reported its procedure step COMPLETED" in browser.text


def test_the_timeline_says_by_what_a_study_was_complete(inbox: Inbox) -> None:
    report(inbox)
    inbox.write(record, STEPS_NOT_AWAITED, 1, steps=2, going_on=1, missing=1)
    inbox.write(record, STUDY_COMPLETE, 1)
    inbox.write(record, STEPS_FULFILLED, 1, steps=2)
    inbox.write(record, STUDY_COMPLETE, 1)
    found = [row for row in inbox.read(timeline.timeline, 1) if row["what"].startswith("complete")]
    assert [row["what"].partition(":")[2].split()[:3] for row in found] == [
        ["nothing", "more", "came"],
        ["all", "that", "its"],
        ["its", "procedure", "steps"],
    ]
    assert [row["more"] for row in found] == ["", "1 missing", ""]


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer().running() as server:
        yield server


@pytest.fixture
def told(console: ConsoleLab, inbox: Inbox, web: WebServer) -> ConsoleLab:
    """A console of a node whose web server refused what it was told."""
    rule = {"name": "hook", "on": ["failure"], "url": web.url, "token": "T0KEN"}
    given = {**CONFIG, "outbox": {"refusals": 1}, "notifications": [rule]}
    node = Inbox(inbox.folder, given)
    notifier = Notifier(node.database, node.settings, "a test")
    notifier.run_once()
    node.write(record, JOB_FAILED)
    web.status = 404
    notifier.run_once()
    node.close()
    return ConsoleLab(node.settings, inbox.database)


def test_an_operator_sees_tests_and_repeats(told: ConsoleLab, web: WebServer) -> None:
    browser = told.browser(UserRole.OPERATOR)
    assert browser.get("/notifications") == 200
    for word in ("hook", "failure", "job failed for good × 1", "the server answers 404", "Send again"):
        assert word in browser.text
    assert browser.post("/notifications/hook/test") == 200 and "the server answers 404" in browser.text
    web.status = 200
    browser.post("/notifications/hook/test")
    assert "taken by the server" in browser.text
    assert web.calls[-1][1]["test"] is True
    assert browser.post("/notifications/1/retry") == 303
    assert browser.post("/notifications/1/retry") == 409
    assert browser.post("/notifications/none/test") == 404
    assert "T0KEN" not in browser.text
    actions = [row["action"] for row in told.audit_rows()]
    assert actions[:3] == ["notified_again", "notifier_tested", "notifier_tested"]


CERTIFIED = {"tls": {"certificate": "none.pem", "private_key": "none.key"}}


@pytest.mark.parametrize(
    ("keys", "role", "told"),
    [
        *(({"host": host}, Role.ALL, {}) for host in ("127.0.0.1", "::1", "localhost", "127.8.9.1")),
        *(({"host": host}, Role.ALL, {"console.host": "[console.tls]"}) for host in ("0.0.0.0", "::")),
        ({"host": "0.0.0.0", "enabled": False}, Role.ALL, {}),
        ({"host": "0.0.0.0"}, Role.WORKER, {}),
        ({"host": "console.example.org"}, Role.ALL, {"console.host": "is not an address of this machine"}),
        (CERTIFIED, Role.ALL, {"console.tls.certificate": "", "console.tls.private_key": ""}),
    ],
)
def test_the_address_of_a_console_needs_tls_unless_it_is_of_this_machine(
    tmp_path: Path, keys: dict[str, object], role: Role, told: dict[str, str]
) -> None:
    given = {"enabled": True, "port": free_port(), **keys}
    settings = Settings.model_validate({"node": {"data_dir": tmp_path}, "console": given})
    found = [*console.check_console(settings, role), *console.probe_console(settings, role)]
    remedies = {one[0]: one[2] for one in found if not isinstance(one, Tried)}
    assert set(remedies) == set(told)
    assert all(word in remedies[key] for key, word in told.items())
