"""What a person may do to deliveries."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.errors import NotAllowedNow, NotFound
from dicom_node.events import DELIVERY_BY_HAND
from dicom_node.model.lifecycle import DeliveryState, StudyState
from dicom_node.store import deliveries
from dicom_node.store.tables import Delivery, Result, Study
from dicom_node.store.transitions import move_delivery, record, settle_study, utc_now

_S = DeliveryState


def retry(session: Session, delivery_id: int) -> None:
    """Send again what was given up, left out or lost by its sender; try or ask now what waits.

    Raises NotFound, and NotAllowedNow for what is being sent, is confirmed, or stands in quarantine.
    """
    now = utc_now()
    delivery = session.get(Delivery, delivery_id)
    if delivery is None:
        raise NotFound(f"no delivery has the number {delivery_id}")
    if delivery.state is _S.CONFIRMED:
        raise NotAllowedNow(f"delivery {delivery_id} is {delivery.state} already")
    if delivery.state is _S.SENDING and deliveries.is_held(delivery, now):
        raise NotAllowedNow(
            f"delivery {delivery_id} is being sent; a peer that hangs is cut off after outbox.answer_seconds"
        )
    if delivery.result.study.state is StudyState.QUARANTINED:
        raise NotAllowedNow(f"delivery {delivery_id}: its study stands in quarantine, release that first")
    if delivery.state in (_S.PENDING, _S.UNCONFIRMED):
        delivery.next_at = now
        study = delivery.result.study_id
        record(session, DELIVERY_BY_HAND, study, delivery=delivery_id, destination=delivery.destination)
        return
    move_delivery(
        session,
        delivery,
        _S.PENDING,
        DELIVERY_BY_HAND,
        reason="",
        withdrawn=False,
        refusals=0,
        queries=0,
        sent_at=None,
        next_at=now,
        lease_owner="",
        lease_until=None,
    )
    settle_study(session, delivery.result.study_id)


def retry_all(session: Session, destination: str | None = None) -> int:
    """Send again what was given up (to one peer, or to all), but of quarantined studies; returns how many."""
    dead = select(Delivery.id).join(Delivery.result).join(Result.study).where(Delivery.state == _S.DEAD)
    dead = dead.where(Study.state != StudyState.QUARANTINED)
    if destination is not None:
        dead = dead.where(Delivery.destination == destination)
    chosen = list(session.scalars(dead.order_by(Delivery.id)))
    for delivery_id in chosen:
        retry(session, delivery_id)
    return len(chosen)
