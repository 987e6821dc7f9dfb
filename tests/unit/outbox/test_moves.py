"""Decisions of the outbox, one answer at a time, on real tables."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dicom_node.config.settings import PeerSettings
from dicom_node.errors import NotAllowedNow, NotFound
from dicom_node.model.kinds import ResultKind
from dicom_node.model.lifecycle import DeliveryState, StudyState
from dicom_node.outbox import retry, retry_all
from dicom_node.outbox.moves import Moves
from dicom_node.scu import Confirmation, Presence, SendReport, SendStatus
from dicom_node.store import deliveries
from dicom_node.store.tables import Delivery, Result, Study
from dicom_node.store.transitions import utc_now
from tests.outbox_lab import Outbox

NOW = datetime(2030, 1, 2, 3, 4, tzinfo=UTC)
PEER = PeerSettings(name="pacs", ae_title="PACS", host="127.0.0.1", port=1, may=("receive",))
S = DeliveryState


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    outbox = Outbox(tmp_path, [PEER], confirm_seconds=1800, refusals=3)
    outbox.add_study(["pacs"], [ResultKind.SR])
    return outbox


def put(outbox: Outbox, **values: Any) -> None:
    """Bring the one delivery into this condition."""
    with outbox.database.write() as session:
        delivery = session.get_one(Delivery, 1)
        for key, value in values.items():
            setattr(delivery, key, value)


def enter(outbox: Outbox, entry: Callable[[Moves, Delivery], None], peer: PeerSettings = PEER) -> Delivery:
    """Enter one answer; the delivery afterwards."""
    with outbox.database.write() as session:
        delivery = session.get_one(Delivery, 1)
        entry(Moves(session, peer, outbox.settings.outbox, NOW), delivery)
    return delivery


def asked(presence: Presence) -> Callable[[Moves, Delivery], None]:
    return lambda moves, delivery: moves.asked(delivery, Confirmation(presence, "its answer"))


def test_stored_is_not_yet_delivered(outbox: Outbox) -> None:
    put(outbox, state=S.SENDING, attempts=1)
    report = SendReport(SendStatus.STORED, "0000", "stored")
    delivery = enter(outbox, lambda moves, row: moves.sent(row, report))
    assert (delivery.state, delivery.sent_at, delivery.confirmed_at) == (S.UNCONFIRMED, NOW, None)


def test_a_peer_that_goes_away_after_success_is_asked_for_ever(outbox: Outbox) -> None:
    put(outbox, state=S.UNCONFIRMED, sent_at=NOW - timedelta(days=3), queries=50)
    delivery = enter(outbox, asked(Presence.UNKNOWN))
    assert (delivery.state, delivery.queries, delivery.reason) == (S.UNCONFIRMED, 51, "its answer")
    assert delivery.next_at > NOW


def test_an_acknowledged_object_is_not_sent_again_within_the_half_hour(outbox: Outbox) -> None:
    put(outbox, state=S.UNCONFIRMED, sent_at=NOW - timedelta(minutes=29))
    assert enter(outbox, asked(Presence.NOT_FOUND)).state is S.UNCONFIRMED


def test_an_acknowledged_object_is_sent_again_after_the_half_hour(outbox: Outbox) -> None:
    put(outbox, state=S.UNCONFIRMED, sent_at=NOW - timedelta(minutes=31))
    delivery = enter(outbox, asked(Presence.NOT_FOUND))
    assert (delivery.state, delivery.refusals) == (S.PENDING, 1)


def test_an_object_in_doubt_is_sent_at_once_when_the_peer_does_not_know_it(outbox: Outbox) -> None:
    put(outbox, state=S.UNCONFIRMED, sent_at=None)
    delivery = enter(outbox, asked(Presence.NOT_FOUND))
    assert (delivery.state, delivery.next_at, delivery.refusals) == (S.PENDING, NOW, 0)


def test_an_object_in_doubt_is_sent_again_when_nobody_answers(outbox: Outbox) -> None:
    put(outbox, state=S.UNCONFIRMED, sent_at=None)
    states = [enter(outbox, asked(Presence.UNKNOWN)).state for _ in range(3)]
    assert states == [S.UNCONFIRMED, S.UNCONFIRMED, S.PENDING]


def test_another_object_under_our_uid_is_for_a_person(outbox: Outbox) -> None:
    put(outbox, state=S.UNCONFIRMED, sent_at=NOW)
    assert enter(outbox, asked(Presence.DIFFERENT)).state is S.DEAD


@pytest.mark.parametrize(("confirm", "state"), [("query", S.UNCONFIRMED), ("none", S.PENDING)])
def test_a_lost_sender_leaves_a_question_or_where_none_can_be_asked_a_second_sending(
    outbox: Outbox, confirm: str, state: DeliveryState
) -> None:
    put(outbox, state=S.SENDING, attempts=1)
    peer = PEER.model_copy(update={"confirm": confirm})
    assert enter(outbox, lambda moves, row: moves.sender_lost(row), peer).state is state


def test_waiting_cures_neither_two_refusals_nor_resets_them(outbox: Outbox) -> None:
    refused = SendReport(SendStatus.REFUSED, "C000", "cannot understand")
    away = SendReport(SendStatus.UNREACHABLE, "", "no connection")
    states = []
    for report in (refused, away, refused, away, refused):
        put(outbox, state=S.SENDING)
        states.append(enter(outbox, lambda moves, row, report=report: moves.sent(row, report)).state)
    assert states == [S.PENDING] * 4 + [S.DEAD]


def test_a_result_is_put_into_the_outbox_once(outbox: Outbox) -> None:
    with outbox.database.write() as session:
        result = session.get_one(Result, 1)
        assert deliveries.add(session, result, "pacs").id == 1
        assert deliveries.add(session, result, "other").id == 2


@pytest.mark.parametrize("state", [S.DEAD, S.CANCELLED, S.DISCARDED])
def test_a_person_sends_again_what_was_given_up_or_left_out(outbox: Outbox, state: DeliveryState) -> None:
    put(outbox, state=state, refusals=3, attempts=7, next_at=NOW)
    with outbox.database.write() as session:
        retry(session, 1)
        delivery = session.get_one(Delivery, 1)
        assert (delivery.state, delivery.refusals, delivery.attempts) == (S.PENDING, 0, 7)
        assert delivery.next_at <= utc_now()


def test_a_person_hurries_what_waits(outbox: Outbox) -> None:
    put(outbox, next_at=NOW)
    with outbox.database.write() as session:
        retry(session, 1)
        assert session.get_one(Delivery, 1).next_at <= utc_now()


@pytest.mark.parametrize("state", [S.SENDING, S.CONFIRMED])
def test_a_person_cannot_retry_what_is_on_its_way_or_there(outbox: Outbox, state: DeliveryState) -> None:
    put(outbox, state=state, lease_until=utc_now() + timedelta(hours=1))
    with outbox.database.write() as session, pytest.raises(NotAllowedNow):
        retry(session, 1)


def test_no_such_delivery_is_said(outbox: Outbox) -> None:
    with outbox.database.write() as session, pytest.raises(NotFound):
        retry(session, 99)


def test_retry_all_of_a_peer_leaves_the_others_dead(outbox: Outbox) -> None:
    outbox.add_study(["other"], [ResultKind.SR])
    with outbox.database.write() as session:
        for delivery in session.query(Delivery):
            delivery.state = S.DEAD
        session.flush()
        assert len(retry_all(session, "other")) == 1
    assert outbox.states() == {"dead": 1, "pending": 1}


def quarantine(outbox: Outbox) -> None:
    with outbox.database.write() as session:
        session.get_one(Study, 1).state = StudyState.QUARANTINED


def test_nothing_of_a_quarantined_study_leaves(outbox: Outbox) -> None:
    quarantine(outbox)
    outbox.worker().run_once()
    assert outbox.states() == {"cancelled": 1}
    with outbox.database.read() as session:
        [delivery] = session.scalars(select(Delivery))
        assert delivery.withdrawn
        assert delivery.reason == "withdrawn: the study is in quarantine"


def test_a_person_releases_a_quarantined_study_before_its_deliveries(outbox: Outbox) -> None:
    put(outbox, state=S.DEAD)
    quarantine(outbox)
    with outbox.database.write() as session:
        assert retry_all(session) == []
        with pytest.raises(NotAllowedNow, match="quarantine"):
            retry(session, 1)


def test_stat_studies_go_first(outbox: Outbox) -> None:
    (stat,) = outbox.add_study(["pacs"], [ResultKind.SR])
    with outbox.database.write() as session:
        session.get_one(Result, 2).study.priority = 1
    with outbox.database.read() as session:
        batch = deliveries.due_batch(session, "pacs", utc_now(), 10)
        assert [delivery.result.sop_instance_uid for delivery in batch] == [stat]


@pytest.mark.parametrize("ahead", ["next_at", "lease_until"])
def test_a_clock_put_back_a_day_holds_no_delivery(outbox: Outbox, ahead: str) -> None:
    now = utc_now()
    put(outbox, **{"next_at": now, "lease_until": None, ahead: now + timedelta(minutes=30)})
    with outbox.database.read() as session:
        assert deliveries.due_destinations(session, now) == []
        assert deliveries.due_destinations(session, now - timedelta(days=1)) == ["pacs"]
