"""What happened at 03:12? One page answers: events and associations around a time, of a peer, of a kind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest

from dicom_node import events
from dicom_node.events import Event
from dicom_node.model.kinds import AssociationOutcome
from dicom_node.model.roles import UserRole
from dicom_node.services import happened
from dicom_node.store.tables import Association
from dicom_node.store.transitions import append
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import ultrasound

NIGHT = datetime(2026, 3, 1, 3, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return NIGHT + timedelta(minutes=minutes)


@pytest.fixture
def site(console: ConsoleLab) -> ConsoleLab:
    """A night: US1 is rejected, a day before a stranger was; US1 sends two objects."""
    with console.database.write() as session:
        rejected = {"calling": "US1", "address": "192.0.2.21", "reason": "called AE title not recognised"}
        append(session, Event(events.ASSOCIATION_REJECTED, at(1), rejected))
        append(session, Event(events.ASSOCIATION_REJECTED, at(-1440), {"calling": "STRANGER"}))
        append(session, Event(events.LISTENER_STARTED, at(-2), {"port": 11112}))
        append(session, Event(events.ECHOED, at(2), {"calling": "CT9"}))
        for name, opened in (("a", at(3)), ("b", at(-1440))):
            session.add(
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
    browser = site.browser(UserRole.VIEWER)
    browser.get(f"/events?{urlencode({'at': NIGHT.isoformat(), **asked})}")
    return str(browser.text)


def test_events_and_associations_around_a_time_the_oldest_first(site: ConsoleLab) -> None:
    page = shown(site)
    places = [page.index(text) for text in ("listener started", "association rejected", "C-ECHO answered")]
    assert places == sorted(places)
    assert "STRANGER" not in page
    assert page.count("192.0.2.21") == 2 and "released" in page  # one event, one association


def test_a_longer_time_shows_more(site: ConsoleLab) -> None:
    assert "STRANGER" in shown(site, minutes=2000)


@pytest.mark.parametrize("peer", ["US1", "us1", "192.0.2.21"])
def test_those_of_a_peer(site: ConsoleLab, peer: str) -> None:
    page = shown(site, peer=peer)
    assert "association rejected" in page and "released" in page
    assert "listener started" not in page and "C-ECHO" not in page


def test_those_of_a_number_or_with_words(site: ConsoleLab) -> None:
    numbered, worded = shown(site, number="1006"), shown(site, words="NOT RECOGNISED")
    assert "C-ECHO answered" in numbered and "association rejected" not in numbered
    assert "association rejected" in worded and "C-ECHO" not in worded
    assert "released" not in numbered + worded  # associations are neither


def test_without_a_time_the_last_hour(site: ConsoleLab, inbox: Inbox) -> None:
    inbox.receive(ultrasound("one"), association="now")
    inbox.settle()
    browser = site.browser(UserRole.VIEWER)
    browser.get("/events")
    assert "object indexed" in browser.text and "listener started" not in browser.text


def test_each_time_leads_to_what_else_happened_then(site: ConsoleLab) -> None:
    assert 'href="/events?at=2026-03-01T03%3A13%3A00' in shown(site)


@pytest.mark.parametrize("asked", [{"at": "yesterday"}, {"minutes": "0"}, {"number": "x"}, {"at": "9" * 40}])
def test_what_cannot_be_read_is_refused_in_words(site: ConsoleLab, asked: dict[str, str]) -> None:
    browser = site.browser(UserRole.VIEWER)
    assert browser.get(f"/events?{urlencode(asked)}") in (400, 409, 422)


def test_who_was_refused_is_listed_before_anybody_is_named(console: ConsoleLab) -> None:
    with console.database.write() as session:
        for minutes, reason in ((3, "too many"), (1, "called AE title not recognised")):
            fields = {"calling": "CT9", "address": "192.0.2.9", "reason": reason}
            when = datetime.now(UTC) - timedelta(minutes=minutes)
            append(session, Event(events.ASSOCIATION_REJECTED, when, fields))
    browser = console.browser(UserRole.VIEWER)
    browser.get("/peers/why")
    assert browser.text.count(">CT9<") == 1 and ">2<" in browser.text
    assert "not recognised" in browser.text and "too many" not in browser.text
    assert 'href="/events?at=' in browser.text


def test_of_too_many_the_nearest_to_the_time_are_shown(
    site: ConsoleLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    with site.database.write() as session:
        for minutes in (4, -4):
            for port in range(6):
                fields = {"port": port, "host": f"192.0.2.{port}"}
                append(session, Event(events.LISTENER_STARTED, at(minutes), fields))
    monkeypatch.setattr(happened, "MOST", 3)
    page = shown(site)
    assert "More happened than is shown" in page
    assert "association rejected" in page and "C-ECHO answered" in page  # 1 and 2 minutes after the time
    assert "192.0.2.3" not in page
    monkeypatch.setattr(happened, "_READ", 2)  # of what is read too
    assert "association rejected" in shown(site) and "192.0.2.0" not in shown(site)


def test_what_happened_again_and_again_is_one_line(site: ConsoleLab) -> None:
    with site.database.write() as session:
        for number in range(40):
            fields = {
                "destination": "pacs",
                "reason": "no answer",
                "delivery": number,
                "instance": f"2.25.{number}",
            }
            append(session, Event(events.DELIVERY_RETRIED, at(number / 60), fields))
    page = shown(site)
    assert page.count("delivery failed, will be tried again") == 1 and "40 times" in page


def test_warnings_and_errors_alone(site: ConsoleLab) -> None:
    page = shown(site, problems="true")
    assert "association rejected" in page and "C-ECHO" not in page and "listener started" not in page
    assert "No events" in shown(site, problems="true", number=events.ECHOED.number)
