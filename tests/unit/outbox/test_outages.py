"""A peer that takes nothing while results wait: pages show it, and who asks is told, once and its end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, select, update

from dicom_console.views import listing, overview, search
from dicom_console.views.search import Search
from dicom_node.config.notifications import NotificationSettings
from dicom_node.config.settings import PeerSettings
from dicom_node.events import DELIVERY_RETRIED, DESTINATION_AWAY, DESTINATION_BACK
from dicom_node.model.kinds import Occasion
from dicom_node.model.lifecycle import DeliveryState
from dicom_node.notifications.gather import Gatherer
from dicom_node.outbox.outages import outages, report_outages
from dicom_node.scu import Confirmation, Outgoing, Presence, SendReport, SendStatus
from dicom_node.scu.destination import Check
from dicom_node.services import peers
from dicom_node.store import deliveries
from dicom_node.store.tables import Delivery, EventRow, Notification
from dicom_node.store.transitions import utc_now
from tests.outbox_lab import Outbox

PEERS = [
    PeerSettings(name=name, ae_title=name.upper(), host="127.0.0.1", port=1, may=("send", "receive"))
    for name in ("pacs", "archive")
]
AWAY = SendReport(SendStatus.UNREACHABLE, "", "cannot connect to PACS")


class Peer:
    """One that may be away."""

    is_away = True

    def send(self, objects: Sequence[Outgoing]) -> list[SendReport]:
        return [AWAY if self.is_away else SendReport(SendStatus.STORED, "0000", "")] * len(objects)

    def confirm(self, objects: Sequence[Outgoing]) -> list[Confirmation]:
        return [Confirmation(Presence.FOUND, "")] * len(objects)

    def check(self) -> list[Check]:
        return []

    def close(self) -> None:
        return None


@pytest.fixture
def pacs() -> Peer:
    return Peer()


@pytest.fixture
def outbox(tmp_path: Path, pacs: Peer) -> Outbox:
    """Three results wait for a PACS that was tried, and are in the archive."""
    outbox = Outbox(tmp_path, PEERS, retry_seconds=60, retry_limit_seconds=60)
    outbox.add_study(["pacs", "archive"])
    there = Peer()
    there.is_away = False
    outbox.worker(open_destination=lambda peer, _: pacs if peer.name == "pacs" else there).run_once()
    return outbox


def pass_minutes(outbox: Outbox, minutes: int) -> None:
    """As if all that had been so long ago."""
    ago = utc_now() - timedelta(minutes=minutes)
    with outbox.database.write() as session:
        session.execute(update(EventRow).values(at=ago))
        session.execute(update(Delivery).values(next_at=utc_now()))


def come_back(outbox: Outbox, pacs: Peer) -> None:
    pass_minutes(outbox, 1)
    pacs.is_away = False
    outbox.run_until("confirmed", worker=outbox.worker(open_destination=lambda *_: pacs))


def test_an_outage_says_since_when_and_what_waits(outbox: Outbox, pacs: Peer) -> None:
    with outbox.database.read() as session:
        [found] = outages(session)
        assert (found.destination, found.waiting, found.reason) == ("pacs", 3, AWAY.text)
        assert utc_now() - found.since < timedelta(minutes=1)
    come_back(outbox, pacs)
    with outbox.database.read() as session:
        assert outages(session) == []


def test_what_waits_no_more_is_no_outage(outbox: Outbox, pacs: Peer) -> None:
    """A person discarded all days ago; a first try of today that fails is an outage of today."""
    with outbox.database.write() as session:
        for row in session.scalars(select(Delivery).where(Delivery.destination == "pacs")):
            deliveries.discard(session, row, "not wanted")
    pass_minutes(outbox, 10_000)
    outbox.add_study(["pacs"])
    outbox.worker(open_destination=lambda *_: pacs).run_once()
    with outbox.database.read() as session:
        [found] = outages(session)
        assert utc_now() - found.since < timedelta(minutes=1)
    assert report_outages(outbox.database, outbox.settings) == 0


def test_a_first_try_under_way_hides_no_outage(outbox: Outbox) -> None:
    """A routine study waited behind urgent ones until now, so its delivery is the oldest."""
    with outbox.database.write() as session:
        oldest = session.scalars(select(Delivery).where(Delivery.destination == "pacs")).first()
        assert oldest is not None
        oldest.state, oldest.attempts, oldest.reason = DeliveryState.SENDING, 1, ""
        tried = EventRow.fields["delivery"].as_integer() == oldest.id
        session.execute(delete(EventRow).where(EventRow.number == DELIVERY_RETRIED.number, tried))
    with outbox.database.read() as session:
        assert [one.destination for one in outages(session)] == ["pacs"]


def test_it_is_told_once_when_it_lasts_and_so_is_its_end(outbox: Outbox, pacs: Peer) -> None:
    settings = outbox.settings
    rule = NotificationSettings(name="hook", on=(Occasion.OUTAGE,), url="https://x", every_minutes=0)
    gatherer = Gatherer(outbox.database, settings.model_copy(update={"notifications": (rule,)}))
    gatherer.run_once()
    assert report_outages(outbox.database, settings) == 0, "it lasts for a moment only"
    pass_minutes(outbox, 16)
    assert [report_outages(outbox.database, settings) for _ in range(3)] == [1, 0, 0]
    gatherer.run_once()
    come_back(outbox, pacs)
    for _ in range(2):
        report_outages(outbox.database, settings)
    gatherer.run_once()
    numbers = outbox.numbers()
    assert (numbers[DESTINATION_AWAY.number], numbers[DESTINATION_BACK.number]) == (1, 1)
    with outbox.database.read() as session:
        told = [row.text for row in session.query(Notification).order_by(Notification.id)]
    assert len(told) == 2
    assert AWAY.text in told[0]
    assert DESTINATION_BACK.text in told[1]


def test_nobody_is_told_where_the_site_does_not_want_it(outbox: Outbox) -> None:
    never = outbox.settings.outbox.model_copy(update={"outage_minutes": 0})
    pass_minutes(outbox, 10_000)
    assert report_outages(outbox.database, outbox.settings.model_copy(update={"outbox": never})) == 0


def test_overview_list_study_and_peer_say_it(outbox: Outbox) -> None:
    with outbox.database.read() as session:
        [tile] = overview.overview(session, outbox.settings)["outages"]
        [row], _ = search.search(session, Search())
        page = listing.show(session, outbox.settings, 1)
    assert (tile["destination"], tile["waiting"], tile["reason"]) == ("pacs", 3, AWAY.text)
    assert row["reason"] == page["reason"] == f"pacs: {AWAY.text}"
    assert ("delivery failed, tried again", row["reason"]) in [
        (s["what"], s["more"]) for s in page["timeline"]
    ]
    [advice] = peers.why(outbox.settings, "pacs")["advice"]
    assert "none of the 3 results" in advice["says"]
    assert AWAY.text in advice["says"]
    assert "firewalls" not in advice["says"]
    assert "If it is to send" in peers.why(outbox.settings, "archive")["advice"][0]["says"]
