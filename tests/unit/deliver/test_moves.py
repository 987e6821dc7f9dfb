"""The moves of a delivery: what the peer's answer, or its absence, does to it."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given, strategies
from sqlalchemy import delete
from sqlalchemy.orm import Session

from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import OutboxSettings
from dicom_node.base.lifecycle import DeliveryState, Outcome, ResultKind
from dicom_node.base.lifecycle import DeliveryState as S
from dicom_node.base.store.tables import Delivery, Original, ReceivedObject, Result
from dicom_node.deliver.moves import Moves, wait_before_query
from dicom_node.deliver.scu import Confirmation, Presence, SendReport, SendStatus
from tests.outbox_lab import NOW, PEER, Outbox


def enter(outbox: Outbox, entry: Callable[[Moves, Delivery], None], peer: PeerSettings = PEER) -> Delivery:
    """Enter one answer; the delivery afterwards."""
    with outbox.database.write() as session:
        delivery = session.get_one(Delivery, 1)
        entry(Moves(session, peer, outbox.settings.outbox, NOW), delivery)
    return delivery


def asked(presence: Presence) -> Callable[[Moves, Delivery], None]:
    return lambda moves, delivery: moves.query_answered(delivery, Confirmation(presence, "its answer"))


def test_stored_is_not_yet_delivered(outbox: Outbox) -> None:
    outbox.put(Delivery, 1, state=S.SENDING, attempts=1)
    report = SendReport(SendStatus.STORED, "0000", "stored")
    delivery = enter(outbox, lambda moves, row: moves.sent(row, report))
    assert (delivery.state, delivery.sent_at, delivery.confirmed_at) == (S.UNCONFIRMED, NOW, None)


@pytest.mark.parametrize(
    ("minutes", "answers", "states", "refusals"),
    [
        (29, [Presence.NOT_FOUND], [S.UNCONFIRMED], 0),
        (31, [Presence.NOT_FOUND], [S.PENDING], 1),
        (None, [Presence.NOT_FOUND], [S.PENDING], 0),
        (None, [Presence.UNKNOWN] * 3, [S.UNCONFIRMED, S.UNCONFIRMED, S.PENDING], 0),
        (0, [Presence.DIFFERENT], [S.DEAD], 0),
    ],
    ids=["acknowledged", "half an hour ago", "in doubt", "in doubt, nobody answers", "another under our UID"],
)
def test_what_is_sent_again_by_the_answer_of_the_peer(
    outbox: Outbox, minutes: int | None, answers: list[Presence], states: list[DeliveryState], refusals: int
) -> None:
    outbox.put(
        Delivery,
        1,
        state=S.UNCONFIRMED,
        sent_at=None if minutes is None else NOW - timedelta(minutes=minutes),
    )
    rows = [enter(outbox, asked(answer)) for answer in answers]
    assert ([row.state for row in rows], rows[-1].refusals) == (states, refusals)
    assert minutes is not None or len(rows) > 1 or rows[-1].next_at == NOW, "at once"


@pytest.mark.parametrize(("confirm", "state"), [("query", S.UNCONFIRMED), ("none", S.PENDING)])
def test_a_lost_sender_leaves_a_question_or_where_none_can_be_asked_a_second_sending(
    outbox: Outbox, confirm: str, state: DeliveryState
) -> None:
    outbox.put(Delivery, 1, state=S.SENDING, attempts=1)
    peer = PEER.model_copy(update={"confirm": confirm})
    assert enter(outbox, lambda moves, row: moves.sender_lost(row), peer).state is state


def test_waiting_cures_neither_two_refusals_nor_resets_them(outbox: Outbox) -> None:
    refused = SendReport(SendStatus.REFUSED, "C000", "cannot understand")
    away = SendReport(SendStatus.UNREACHABLE, "", "no connection")
    states = []
    for report in (refused, away, refused, away, refused):
        outbox.put(Delivery, 1, state=S.SENDING)
        states.append(enter(outbox, lambda moves, row, report=report: moves.sent(row, report)).state)
    assert states == [S.PENDING] * 4 + [S.DEAD]


@pytest.mark.parametrize(
    ("kind", "takes_others", "state"),
    [
        (ResultKind.SC, True, S.CANCELLED),
        (ResultKind.SC, False, S.DEAD),
        (ResultKind.REJECTION, True, S.DEAD),
    ],
    ids=["a picture", "a picture, and nothing else is taken", "a rejection note"],
)
def test_what_a_peer_does_not_take_is_left_out_but_of_a_note_a_person_must_know(
    outbox: Outbox, kind: ResultKind, takes_others: bool, state: DeliveryState
) -> None:
    outbox.put(Delivery, 1, state=S.SENDING, attempts=1)
    outbox.put(Result, 1, kind=kind)
    answer = SendReport(SendStatus.NARROWED, "", "its class is not accepted")
    entered = enter(outbox, lambda moves, row: moves.narrowed(row, answer, takes_others=takes_others))
    assert entered.state is state


@pytest.fixture
def corrected(outbox: Outbox) -> Outbox:
    """A received object that the peer has confirmed (delivery 2), and its corrected version (delivery 1)."""
    outbox.write(Session.execute, delete(Delivery))
    for number, known in ((2, {"state": S.CONFIRMED, "sent_at": NOW}), (1, {"state": S.PENDING})):
        received = ReceivedObject(
            spool_name=f"v{number}", path=f"v{number}", study_id=1, sop_instance_uid="1.2.3",
            outcome=Outcome.NEW, association="a", bytes=1, received_at=NOW,
            calling_ae="US1", called_ae="AINODE",
        )  # fmt: skip
        original = Original(
            study_id=1,
            received=received,
            sop_instance_uid="1.2.3",
            sop_class_uid="1.2",
            series_instance_uid="1.3",
        )
        outbox.add(Delivery(id=number, original=original, destination="pacs", next_at=NOW, **known))
    return outbox


def test_a_corrected_object_is_not_taken_as_delivered_by_a_peer_that_has_the_version_before(
    corrected: Outbox,
) -> None:
    known = SendReport(SendStatus.VERIFY, "0111", "duplicate SOP instance")
    orthanc = PEER.model_copy(update={"transport": "orthanc"})  # it compares what is stored
    for entry, peer, state, why in (
        (lambda moves, row: moves.sender_lost(row), PEER, S.PENDING, ""),
        (lambda moves, row: moves.sent(row, known), PEER, S.DEAD, "keeps the version of this object"),
        (lambda moves, row: moves.sent(row, known), orthanc, S.UNCONFIRMED, ""),
    ):
        corrected.put(Delivery, 1, state=S.SENDING, attempts=1)
        delivery = enter(corrected, entry, peer)
        assert delivery.state is state
        assert why in delivery.reason


def test_an_outdated_version_is_not_sent_after_the_newer_one(corrected: Outbox) -> None:
    corrected.put(Delivery, 1, state=S.CONFIRMED)
    corrected.put(Delivery, 2, state=S.PENDING)
    assert corrected.worker().run_once() == 0
    assert [row["state"] for row in corrected.rows()] == ["confirmed", "cancelled"]


SETTINGS = OutboxSettings(retry_seconds=2, retry_limit_seconds=300)


@given(strategies.integers(min_value=1, max_value=1000))
def test_questions_become_rarer(queries: int) -> None:
    now, later = (wait_before_query(number, SETTINGS) for number in (queries, queries + 1))
    assert now <= later
