"""The outbox: what is queued for which peer, and what a person may send again."""

from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete
from sqlalchemy.orm import Session

from dicom_node.base.errors import NotAllowedNow
from dicom_node.base.lifecycle import DeliveryState, RejectionReason, ResultKind, StudyState
from dicom_node.base.lifecycle import DeliveryState as S
from dicom_node.base.store import deliveries
from dicom_node.base.store.tables import Delivery, Result, Study, Withdrawal
from dicom_node.base.store.transitions import utc_now
from dicom_node.deliver.outbox import retry, retry_all, send_to
from tests.outbox_lab import NOW, PEER, Outbox


def test_a_result_is_put_into_the_outbox_once(outbox: Outbox) -> None:
    with outbox.database.write() as session:
        result = session.get_one(Result, 1)
        assert deliveries.add(session, result, "pacs").id == 1
        assert deliveries.add(session, result, "other").id == 2


@pytest.mark.parametrize(
    ("before", "after"),
    [(S.PENDING, S.DISCARDED), (S.DEAD, S.DISCARDED), (S.UNCONFIRMED, S.UNCONFIRMED)],
)
def test_what_waits_or_was_given_up_of_a_withdrawn_result_is_discarded(
    outbox: Outbox, before: DeliveryState, after: DeliveryState
) -> None:
    outbox.put(Delivery, 1, state=before)
    reason = RejectionReason.QUALITY
    outbox.add(Withdrawal(result_id=1, at=NOW, actor="a person", reason=reason, because="", note_id=None))
    with outbox.database.write() as session:
        deliveries.discard_withdrawn(session, [session.get_one(Delivery, 1)])
    assert [row.state for row in outbox.rows(Delivery)] == [after]


SECOND = PEER.model_copy(update={"name": "second"})
IN_DOMAIN_ONE = {"deidentified": True, "pseudonym_domain": "one"}


@pytest.mark.parametrize(
    ("peer", "result", "says"),
    [
        ({}, {}, ""),
        ({"results": ["sc"]}, {}, "no results that second takes"),
        ({"deidentify": True}, {}, "no results that second takes"),
        ({"deidentify": True, "pseudonym_domain": "one"}, IN_DOMAIN_ONE, ""),
        ({"deidentify": True, "pseudonym_domain": "two"}, IN_DOMAIN_ONE, "no results that second takes"),
        ({"charset": "source"}, {}, "no results that second takes"),
        ({"viewer": "ohif"}, {}, "no results that second takes"),
        ({"viewer": "ohif"}, {"kind": ResultKind.SC}, ""),
        ({"may": ["query"]}, {}, "gets no results"),
        ({"name": "pacs"}, {}, "in its outbox already"),
        ({}, {"purged": True}, "no results that second takes"),
        ({}, {"outdated": True}, "no results that second takes"),
    ],
    ids=[
        "fits",
        "kind",
        "de-identified",
        "domain",
        "other domain",
        "charset",
        "viewer",
        "a picture for any viewer",
        "sends only",
        "has it",
        "purged",
        "outdated",
    ],
)
def test_a_further_peer_gets_the_newest_results_that_are_made_for_it(
    outbox: Outbox, peer: dict[str, Any], result: dict[str, Any], says: str
) -> None:
    further = SECOND.model_copy(update=peer)
    outbox.put(Result, 1, **{"outdated": False, **result})
    with pytest.raises(NotAllowedNow, match=says) if says else nullcontext():
        assert outbox.write(send_to, 1, further, [PEER, further]) == 1


def test_a_result_that_nobody_got_may_be_in_any_character_set(outbox: Outbox) -> None:
    outbox.write(Session.execute, delete(Delivery))
    further = SECOND.model_copy(update={"charset": "source"})
    assert outbox.write(send_to, 1, further, [PEER, further]) == 1


def test_results_of_a_study_in_quarantine_go_to_no_further_peer(outbox: Outbox) -> None:
    outbox.put(Study, 1, state=StudyState.QUARANTINED)
    with pytest.raises(NotAllowedNow, match="go nowhere now"):
        outbox.write(send_to, 1, SECOND, [PEER, SECOND])


@pytest.mark.parametrize("state", [S.DEAD, S.CANCELLED, S.DISCARDED])
def test_a_person_sends_again_what_was_given_up_or_left_out(outbox: Outbox, state: DeliveryState) -> None:
    outbox.put(Delivery, 1, state=state, refusals=3, attempts=7, next_at=NOW)
    outbox.write(retry, 1)
    [delivery] = outbox.rows(Delivery)
    assert (delivery.state, delivery.refusals, delivery.attempts) == (S.PENDING, 0, 7)
    assert delivery.next_at <= utc_now()


@pytest.mark.parametrize("state", [S.SENDING, S.CONFIRMED])
def test_a_person_cannot_retry_what_is_on_its_way_or_there(outbox: Outbox, state: DeliveryState) -> None:
    outbox.put(Delivery, 1, state=state)
    with pytest.raises(NotAllowedNow):
        outbox.write(retry, 1)


def test_nothing_of_a_quarantined_study_leaves_before_a_person_released_it(outbox: Outbox) -> None:
    outbox.put(Study, 1, state=StudyState.QUARANTINED)
    outbox.run_once()
    [row] = outbox.rows(Delivery)
    assert (row.state, row.withdrawn) == (S.CANCELLED, True)
    assert row.reason == "not sent: the study is in quarantine"
    outbox.put(Delivery, 1, state=S.DEAD)
    assert outbox.write(retry_all) == []
    with pytest.raises(NotAllowedNow, match="quarantine"):
        outbox.write(retry, 1)


def test_a_clock_put_back_a_day_holds_no_delivery(outbox: Outbox) -> None:
    now = utc_now()
    outbox.put(Delivery, 1, next_at=now + timedelta(minutes=30))
    assert outbox.read(deliveries.due_destinations, now) == []
    assert outbox.read(deliveries.due_destinations, now - timedelta(days=1)) == ["pacs"]
