"""Deliveries are added, retried, discarded and sent by hand, within the caller's transaction."""

from collections.abc import Iterable, Sequence

from sqlalchemy import Select, exists, func, select
from sqlalchemy.orm import Session

from dicom_node.config.settings import PeerSettings
from dicom_node.errors import NotAllowedNow, NotFound
from dicom_node.events import (
    DELIVERY_ADDED,
    DELIVERY_BY_HAND,
    DELIVERY_DISCARDED,
    DELIVERY_HELD,
    DELIVERY_WANTED,
)
from dicom_node.model.kinds import ResultKind
from dicom_node.model.lifecycle import DELIVERY, UNDECIDED, DeliveryState, HeldState, StudyState
from dicom_node.outbox import held
from dicom_node.store import deliveries, results
from dicom_node.store.tables import Delivery, Result, Study, Withdrawal
from dicom_node.store.transitions import FOR_UPDATE, move_delivery, record, settle_study, utc_now


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
    doubtful = held.hold(session, result, [peer.name for peer in peers], assess_first)
    if doubtful is not None and doubtful.state is HeldState.REJECTED:
        return 0
    waits = doubtful is not None and doubtful.state in UNDECIDED
    for peer in peers:
        delivery = deliveries.add(
            session,
            result,
            peer.name,
            ask_first=in_doubt and peer.confirm == "query",
            by_hand=by_hand,
            unassessed=waits,
        )
        if delivery.withdrawn or (delivery.state is DeliveryState.UNASSESSED and not waits):
            event = DELIVERY_HELD if waits else DELIVERY_WANTED
            move_delivery(session, delivery, event, reason="wanted again", withdrawn=False, next_at=utc_now())
    return int(waits)


def retry(session: Session, delivery_id: int) -> None:
    """Send again a delivery that was given up or left out; send a waiting one now.

    Raises NotFound, and NotAllowedNow for a delivery that is being sent, is confirmed, or is in quarantine.
    """
    now = utc_now()
    delivery = _locked(session, delivery_id)
    if delivery.state is DeliveryState.CONFIRMED:
        raise NotAllowedNow(f"delivery {delivery_id} is {delivery.state} already")
    if delivery.state is DeliveryState.SENDING:
        raise NotAllowedNow(
            f"delivery {delivery_id} is being sent; a peer that hangs is cut off after outbox.answer_seconds"
        )
    if reason := _refusal(session, delivery):
        raise NotAllowedNow(f"delivery {delivery_id}: {reason}")
    if delivery.state in (DeliveryState.PENDING, DeliveryState.UNCONFIRMED):
        delivery.next_at, delivery.transaction_uid = now, ""
        record(
            session,
            DELIVERY_BY_HAND,
            delivery.item.study_id,
            delivery=delivery_id,
            destination=delivery.destination,
        )
        return
    move_delivery(
        session,
        delivery,
        DELIVERY_BY_HAND,
        reason="",
        withdrawn=False,
        discarded_because="",
        refusals=0,
        queries=0,
        next_at=now,
    )
    settle_study(session, delivery.item.study_id)


def retry_all(session: Session, destination: str | None = None) -> list[int]:
    """Send again the deliveries that were given up (to one peer, or to all); returns their numbers.

    Results that are in quarantine, withdrawn or not accepted by a person are left out.
    """
    sound = _dead(destination).where(
        Study.state != StudyState.QUARANTINED,
        ~exists().where(Withdrawal.result_id == Delivery.result_id),
        ~held.may_not_leave(),
    )
    chosen = list(session.scalars(sound.order_by(Delivery.id)))
    for delivery_id in chosen:
        retry(session, delivery_id)
    return chosen


def discard(session: Session, delivery_id: int, because: str) -> None:
    """Discard a delivery: it is not sent any more. ``because``: a person's words. Raises NotFound,
    NotAllowedNow.

    A delivery that may have arrived cannot be discarded until it is given up.
    """
    delivery = _locked(session, delivery_id)
    if (delivery.state, DELIVERY_DISCARDED) not in DELIVERY:
        raise NotAllowedNow(
            f"delivery {delivery_id} is {delivery.state}: discard only waiting or given-up ones"
        )
    deliveries.discard(session, delivery, because)
    settle_study(session, delivery.item.study_id)


def discard_all(session: Session, because: str, destination: str | None = None) -> list[int]:
    """Discard deliveries that were given up (to one peer, or to all), except rejection notes.

    Returns their numbers.
    """
    is_note = func.coalesce(Result.kind == ResultKind.REJECTION, False)
    chosen = list(session.scalars(_dead(destination).where(~is_note).order_by(Delivery.id)))
    for delivery_id in chosen:
        discard(session, delivery_id, because)
    return chosen


def send_to(session: Session, study_id: int, peer: PeerSettings, peers: Sequence[PeerSettings]) -> int:
    """Send the newest results of a study to a further peer; returns how many. Raises NotAllowedNow.

    ``peers``: all configured peers. The table does not say whether objects have burned-in boxes, or in which
    character set they are: objects that only peers with other settings received are left out.
    """
    study = session.get_one(Study, study_id, with_for_update=FOR_UPDATE)
    if study.state in (StudyState.RECEIVING, StudyState.QUARANTINED):
        raise NotAllowedNow(f"the study is {study.state}: its results go nowhere now")
    if "receive" not in peer.may:
        raise NotAllowedNow(f'{peer.name} gets no results: may = ["receive"] in the configuration allows it')
    wants = (peer.burned_in_boxes, peer.charset)
    others = {one.name for one in peers if (one.burned_in_boxes, one.charset) != wants}
    made_for = (peer.deidentify, (peer.pseudonym_domain or "") if peer.deidentify else "")
    rows = session.scalars(select(Result).where(Result.study_id == study_id).order_by(Result.id)).all()
    replaced, gone = {row.supersedes for row in rows}, results.withdrawn(session, [row.id for row in rows])
    fitting = [
        row
        for row in rows
        if row.sop_instance_uid not in replaced and row.id not in gone and not row.purged
        if row.kind in peer.results and (row.deidentified, row.pseudonym_domain) == made_for
        if not row.deliveries or {delivery.destination for delivery in row.deliveries} - others
    ]
    if not fitting:
        raise NotAllowedNow(
            f"the study has no results that {peer.name} takes: name it in send_to of a rule, then run the "
            "rules again"
        )
    known = {
        delivery.result_id
        for row in fitting
        for delivery in row.deliveries
        if delivery.destination == peer.name
    }
    waiting = held.not_accepted(session, [row.id for row in fitting])
    if not UNDECIDED.isdisjoint(waiting.values()):
        raise NotAllowedNow("the results wait until a person has accepted them (studies accept)")
    new = [row for row in fitting if row.id not in known and row.id not in waiting]
    if not new:
        raise NotAllowedNow(
            f"all results that {peer.name} takes are in its outbox already: send those again there"
        )
    for row in new:
        delivery = deliveries.add(session, row, peer.name, by_hand=True)
        record(
            session,
            DELIVERY_ADDED,
            study_id,
            delivery=delivery.id,
            destination=peer.name,
            instance=row.sop_instance_uid,
        )
    settle_study(session, study_id)
    return len(new)


def _refusal(session: Session, delivery: Delivery) -> str:
    """Why its object must not be sent, "" where it may."""
    item, result = delivery.item, delivery.result
    is_note = result is not None and result.kind is ResultKind.REJECTION
    if item.study.state is StudyState.QUARANTINED and not is_note:
        return "its study is in quarantine: release the study first"
    if result is None:
        original = delivery.original
        assert original is not None
        session.refresh(original.study, with_for_update=FOR_UPDATE)  # its files may be going at this moment
        session.refresh(original.received)
        return "the file was deleted after spool.keep_days" if original.purged else ""
    if results.withdrawn(session, [result.id]):
        return "its result was withdrawn, it is sent nowhere"
    session.refresh(result, with_for_update={"read": True})  # its file may be going at this moment
    if result.purged:
        return "the file was deleted after spool.result_days"
    held_state = held.not_accepted(session, [result.id]).get(result.id)
    if held_state is not None or delivery.state is DeliveryState.UNASSESSED:
        rejected = "a person rejected its result, it is sent nowhere"
        undecided = "its result waits until a person has accepted it (studies accept)"
        return rejected if held_state is HeldState.REJECTED else undecided
    return ""


def _dead(destination: str | None) -> Select[int]:
    dead: Select[int] = deliveries.with_objects(select(Delivery.id)).where(
        Delivery.state == DeliveryState.DEAD
    )
    return dead if destination is None else dead.where(Delivery.destination == destination)


def _locked(session: Session, delivery_id: int) -> Delivery:
    delivery = session.get(Delivery, delivery_id, with_for_update=True)
    if delivery is None:
        raise NotFound(f"no delivery has the number {delivery_id}")
    return delivery
