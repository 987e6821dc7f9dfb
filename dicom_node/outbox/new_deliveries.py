"""Adds results to the outbox, within the transaction that writes the rows of the results."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy.orm import Session

from dicom_node.config.settings import PeerSettings
from dicom_node.events import DELIVERY_HELD, DELIVERY_WANTED
from dicom_node.model.lifecycle import UNDECIDED, DeliveryState, HeldState
from dicom_node.outbox import held
from dicom_node.store import deliveries, results
from dicom_node.store.tables import Result
from dicom_node.store.transitions import move_delivery, utc_now

_S = DeliveryState


def enqueue(
    session: Session,
    result: Result,
    peers: Iterable[PeerSettings],
    *,
    in_doubt: bool = False,
    by_hand: bool = False,
    assess_first: bool = False,
) -> int:
    """Queue a result for these peers, once for each, however often this is called.

    A delivery that was withdrawn or held before is queued again. A result that a person withdrew or rejected
    is not queued. Returns how many deliveries wait for an assessment. ``in_doubt``: the result may have been
    sent before, so a peer that answers queries is queried first. ``by_hand``: a person asked for it, not a
    rule. ``assess_first``: its rule wants a person to accept it first.
    """
    if results.withdrawn(session, [result.id]):
        return 0
    peers = list(peers)
    hold = held.hold(session, result, [peer.name for peer in peers], assess_first)
    if hold is not None and hold.state is HeldState.REJECTED:
        return 0
    waits = hold is not None and hold.state in UNDECIDED
    for peer in peers:
        ask_first = in_doubt and peer.confirm == "query"
        delivery = deliveries.add(
            session, result, peer.name, ask_first=ask_first, by_hand=by_hand, unassessed=waits
        )
        if delivery.withdrawn or (delivery.state is _S.UNASSESSED and not waits):
            event = DELIVERY_HELD if waits else DELIVERY_WANTED
            wanted = {"reason": "wanted again", "withdrawn": False, "next_at": utc_now()}
            move_delivery(session, delivery, event, **wanted)
    return int(waits)
