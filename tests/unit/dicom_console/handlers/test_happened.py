"""Events and associations around a time, as a page shows them."""

from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest

from dicom_node.base import events
from dicom_node.base.lifecycle import UserRole
from dicom_node.base.store.transitions import append
from tests.console_lab import ConsoleLab
from tests.rows import an_association

NIGHT = datetime(2026, 3, 1, 3, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return NIGHT + timedelta(minutes=minutes)


@pytest.fixture
def site(console: ConsoleLab) -> ConsoleLab:
    """A night: US1 is rejected, a day before a stranger was; US1 sends two objects."""
    rejected = {"calling": "US1", "address": "192.0.2.21", "reason": "called AE title not recognised"}
    console.write(append, events.Event(events.ASSOCIATION_REJECTED, at(1), rejected))
    console.write(append, events.Event(events.ASSOCIATION_REJECTED, at(-1440), {"calling": "STRANGER"}))
    console.write(append, events.Event(events.LISTENER_STARTED, at(-2), {"port": 11112}))
    console.write(append, events.Event(events.ECHOED, at(2), {"calling": "CT9"}))
    console.add(
        an_association("a", at(3), at(3.1), objects=2), an_association("b", at(-1440), at(-1439.9), 2)
    )
    return console


def shown(site: ConsoleLab, **asked: object) -> str:
    return str(site.at(f"/events?{urlencode({'at': NIGHT.isoformat(), **asked})}", UserRole.VIEWER).text)


def test_events_and_associations_around_a_time_the_newest_first_or_those_of_a_peer(site: ConsoleLab) -> None:
    page = shown(site)
    places = [page.index(text) for text in ("listener started", "association rejected", "C-ECHO answered")]
    assert places == sorted(places, reverse=True)
    assert "STRANGER" not in page
    assert page.count("192.0.2.21") == 2
    assert "released" in page  # one event, one association
    for peer in ("US1", "us1", "192.0.2.21"):
        page = shown(site, peer=peer)
        assert "association rejected" in page
        assert "released" in page
        assert "listener started" not in page
        assert "C-ECHO" not in page


@pytest.mark.parametrize("moment", ["0001-01-01T00:00Z", "9999-12-31T23:59Z"])
def test_a_time_at_the_end_of_all_times_is_no_defect(site: ConsoleLab, moment: str) -> None:
    assert site.at(f"/events?at={moment}", UserRole.VIEWER).status == 409


def test_warnings_and_errors_alone(site: ConsoleLab) -> None:
    page = shown(site, problems="true")
    assert "association rejected" in page
    assert "C-ECHO" not in page
    assert "listener started" not in page
    assert "No events" in shown(site, problems="true", number=events.ECHOED.number)
