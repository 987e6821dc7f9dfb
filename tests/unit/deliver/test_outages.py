"""Outages of peers: since when, what waits, told once."""

from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest
from sqlalchemy import select

from dicom_connectors.notifications.gather import Gatherer
from dicom_connectors.notifications.settings import NotificationSettings
from dicom_node.base import events
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.lifecycle import DeliveryState
from dicom_node.base.store import deliveries
from dicom_node.base.store.tables import Delivery, EventRow, Notification
from dicom_node.base.store.transitions import utc_now
from dicom_node.deliver.outages import outages, report_outages
from dicom_node.deliver.scu import Confirmation, Presence, SendReport, SendStatus
from tests.outbox_lab import Outbox

PEERS = [
    PeerSettings(name=name, ae_title=name.upper(), host="127.0.0.1", port=1, may=("send", "receive"))
    for name in ("pacs", "archive")
]


AWAY = SendReport(SendStatus.UNREACHABLE, "", "cannot connect to PACS")


@pytest.fixture
def away() -> Mock:
    """A destination that is away until its ``send`` answers otherwise."""
    confirm = lambda objects: [Confirmation(Presence.FOUND, "")] * len(objects)
    return Mock(send=lambda objects: [AWAY] * len(objects), confirm=confirm)


STORED = SendReport(SendStatus.STORED, "0000", "")


@pytest.fixture
def interrupted(tmp_path: Path, away: Mock) -> Outbox:
    """Three results wait for a PACS that was tried, and are in the archive."""
    interrupted = Outbox(tmp_path, PEERS, retry_seconds=60, retry_limit_seconds=60)
    interrupted.add_study(["pacs", "archive"])
    there = Mock(send=lambda objects: [STORED] * len(objects), confirm=away.confirm)
    ends = {"pacs": away, "archive": there}
    interrupted.worker(open_destination=lambda peer, _: ends[peer.name]).run_once()
    return interrupted


def pass_minutes(interrupted: Outbox, minutes: int) -> None:
    """As if all that had been so long ago."""
    interrupted.put(EventRow, at=utc_now() - timedelta(minutes=minutes))
    interrupted.put(Delivery, next_at=utc_now())


def test_what_waits_no_more_is_no_outage(interrupted: Outbox, away: Mock) -> None:
    """A person discarded all days ago; a first try of today that fails is an outage of today."""
    with interrupted.database.write() as session:
        for row in session.scalars(select(Delivery).where(Delivery.destination == "pacs")):
            deliveries.discard(session, row, "not wanted")
    pass_minutes(interrupted, 10_000)
    interrupted.add_study(["pacs"])
    interrupted.worker(open_destination=lambda *_: away).run_once()
    [found] = interrupted.read(outages)
    assert utc_now() - found.since < timedelta(minutes=1)
    assert report_outages(interrupted.database, interrupted.settings) == 0


def test_an_outage_says_since_when_what_waits_and_once_that_it_lasts_or_ends(
    interrupted: Outbox, away: Mock
) -> None:
    [found] = interrupted.read(outages)
    assert (found.destination, found.waiting, found.reason) == ("pacs", 3, AWAY.text)
    assert utc_now() - found.since < timedelta(minutes=1)
    settings = interrupted.settings
    rule = NotificationSettings(name="hook", on=("outage",), url="https://x", every_minutes=0)
    gatherer = Gatherer(interrupted.database, settings.model_copy(update={"notifications": (rule,)}))
    gatherer.run_once()
    assert report_outages(interrupted.database, settings) == 0, "it lasts for a moment only"
    pass_minutes(interrupted, 16)
    assert [report_outages(interrupted.database, settings) for _ in range(3)] == [1, 0, 0]
    gatherer.run_once()
    pass_minutes(interrupted, 1)
    away.send = lambda objects: [STORED] * len(objects)
    interrupted.run_until("confirmed", worker=interrupted.worker(open_destination=lambda *_: away))
    assert interrupted.read(outages) == []
    assert [report_outages(interrupted.database, settings) for _ in range(2)] == [0, 0]
    gatherer.run_once()
    numbers = interrupted.numbers()
    assert (numbers[events.DESTINATION_AWAY.number], numbers[events.DESTINATION_BACK.number]) == (1, 1)
    first, second = (row.text for row in interrupted.rows(Notification))
    assert AWAY.text in first
    assert events.DESTINATION_BACK.text in second


def test_a_peer_that_takes_results_and_never_confirms_them_is_an_outage(tmp_path: Path) -> None:
    """It stores what anybody sends, and answers no query of an AE title that it does not know."""
    outbox = Outbox(tmp_path, PEERS[:1])
    outbox.add_study(["pacs"])
    refused = Confirmation(Presence.UNKNOWN, "association rejected: calling AE title not recognized")
    stranger = Mock(
        send=lambda objects: [STORED] * len(objects), confirm=lambda objects: [refused] * len(objects)
    )
    outbox.worker(open_destination=lambda *_: stranger).run_once()
    assert outbox.read(outages) == [], "an archive may show an object later"
    sent_at = utc_now() - timedelta(minutes=16)
    outbox.put(Delivery, sent_at=sent_at)
    [found] = outbox.read(outages)
    assert (found.since, found.waiting, found.reason) == (sent_at, 3, refused.text)
    assert report_outages(outbox.database, outbox.settings) == 1
    [delivery, *_] = outbox.rows(Delivery)
    outbox.put(Delivery, delivery.id, state=DeliveryState.CONFIRMED, confirmed_at=utc_now())
    assert outbox.read(outages) == [], "it confirms others"
