"""The outbox: which peer gets which object. One row per object and destination, sent until confirmed.

Delivered means confirmed: the destination shows the object when it is queried, or reports that it keeps the
object (storage commitment). Jobs queue results; persons send them to further peers, retry and discard.
Builds no objects.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy import Select, exists, func, select
from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.errors import NotAllowedNow, NotFound
from dicom_node.base.lifecycle import DELIVERY, UNDECIDED, DeliveryState, HeldState, ResultKind, StudyState
from dicom_node.base.store import deliveries, results
from dicom_node.base.store.tables import Delivery, HeldResult, Result, Study, Withdrawal
from dicom_node.base.store.transitions import FOR_UPDATE, move, record, settle_study, utc_now
from dicom_node.deliver.holding import NOT_ACCEPTED, hold, not_accepted


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

    Returns 1 if the deliveries wait until a person assesses the result, else 0. A delivery that was
    withdrawn, or had to wait for an assessment, is queued again; a result that a person withdrew or rejected
    is not. ``in_doubt``: the result may have been sent before, so a peer that answers queries is queried
    first. ``by_hand``: a person asked for it, not a rule. ``assess_first``: its rule wants a person to accept
    it first.
    """
    if results.withdrawn(session, [result.id]):
        return 0
    peers, result.outdated = list(peers), False
    doubtful = hold(session, result, [peer.name for peer in peers], assess_first)
    if doubtful is not None and doubtful.state is HeldState.REJECTED:
        return 0
    waits = doubtful is not None and doubtful.state in UNDECIDED
    for peer in peers:
        delivery = deliveries.add(
            session,
            result,
            peer.name,
            query_first=in_doubt and peer.confirm == "query",
            by_hand=by_hand,
            unassessed=waits,
        )
        delivery.withdrawn &= delivery.state is DeliveryState.CANCELLED  # what is being sent may go on
        if delivery.withdrawn or (delivery.state is DeliveryState.UNASSESSED and not waits):
            event = events.DELIVERY_HELD if waits else events.DELIVERY_WANTED
            move(session, delivery, event, reason="wanted again", withdrawn=False, next_at=utc_now())
    return int(waits)


def retry(session: Session, delivery_id: int) -> None:
    """Send again a delivery that was given up or left out; send a waiting one now.

    Raises NotFound, and NotAllowedNow for a delivery that is being sent, is confirmed, or must not be sent.
    """
    now = utc_now()
    delivery = _locked(session, delivery_id)
    if delivery.state is DeliveryState.CONFIRMED:
        raise NotAllowedNow(f"delivery {delivery_id} is {delivery.state} already")
    if delivery.state is DeliveryState.SENDING:
        raise NotAllowedNow(
            f"delivery {delivery_id} is being sent; a peer that hangs is cut off after outbox.answer_seconds"
        )
    if reason := _why_not_sent(session, delivery):
        raise NotAllowedNow(f"delivery {delivery_id}: {reason}")
    if delivery.state in (DeliveryState.PENDING, DeliveryState.UNCONFIRMED):
        delivery.next_at, delivery.transaction_uid = now, ""
        record(
            session,
            events.DELIVERY_BY_HAND,
            delivery.item.study_id,
            delivery=delivery_id,
            destination=delivery.destination,
        )
        return
    move(
        session,
        delivery,
        events.DELIVERY_BY_HAND,
        reason="",
        withdrawn=False,
        discarded_because="",
        refusals=0,
        queries=0,
        next_at=now,
    )
    settle_study(session, delivery.item.study_id)


def retry_all(session: Session, destination: str | None = None) -> list[int]:
    """Send again the deliveries that were given up; returns their numbers. ``destination``: a peer's name;
    None: all.

    Results that are in quarantine, withdrawn or not accepted by a person are left out.
    """
    chosen = list(
        session.scalars(
            _given_up_query(destination)
            .where(
                Study.state != StudyState.QUARANTINED,
                ~exists().where(Withdrawal.result_id == Delivery.result_id),
                ~exists().where(HeldResult.result_id == Delivery.result_id, NOT_ACCEPTED),
            )
            .order_by(Delivery.id)
        )
    )
    deliveries.of_numbers(session, chosen)  # their studies are locked in one order
    for delivery_id in chosen:
        retry(session, delivery_id)
    return chosen


def discard(session: Session, delivery_id: int, because: str) -> None:
    """Discard a delivery, so that it is not sent any more. ``because``: a person's words.

    Raises NotFound, and NotAllowedNow for a delivery that may have arrived: it must be given up first.
    """
    delivery = _locked(session, delivery_id)
    if (delivery.state, events.DELIVERY_DISCARDED) not in DELIVERY:
        raise NotAllowedNow(
            f"delivery {delivery_id} is {delivery.state}: discard only waiting or given-up ones"
        )
    deliveries.discard(session, delivery, because)
    settle_study(session, delivery.item.study_id)


def discard_all(session: Session, because: str, destination: str | None = None) -> list[int]:
    """Discard the deliveries that were given up, except rejection notes; returns their numbers.

    ``because``: a person's words. ``destination``: a peer's name; None: all.
    """
    is_note = func.coalesce(Result.kind == ResultKind.REJECTION, False)
    chosen = list(session.scalars(_given_up_query(destination).where(~is_note).order_by(Delivery.id)))
    deliveries.of_numbers(session, chosen)  # their studies are locked in one order
    for delivery_id in chosen:
        discard(session, delivery_id, because)
    return chosen


def send_to(session: Session, study_id: int, peer: PeerSettings, peers: Sequence[PeerSettings]) -> int:
    """Queue the newest results of a study for a further peer; returns how many.

    ``peers``: all configured peers. Objects that only peers with another form received are left out, because
    they may have that form. Raises NotAllowedNow if nothing can be sent to this peer now.
    """
    study = session.get_one(Study, study_id, with_for_update=FOR_UPDATE)
    if study.state in (StudyState.RECEIVING, StudyState.QUARANTINED):
        raise NotAllowedNow(f"the study is {study.state}: its results go nowhere now")
    if "receive" not in peer.may:
        raise NotAllowedNow(f'{peer.name} gets no results: may = ["receive"] in the configuration allows it')
    fitting = [result for result in _newest_results(session, study_id) if is_for(result, peer, peers)]
    if not fitting:
        raise NotAllowedNow(
            f"the study has no results that {peer.name} takes: name it in send_to of a rule, then run the "
            "rules again"
        )
    waiting = not_accepted(session, [result.id for result in fitting])
    if not UNDECIDED.isdisjoint(waiting.values()):
        raise NotAllowedNow("the results wait until a person has accepted them (studies accept)")
    new = [result for result in fitting if result.id not in waiting and not _is_queued_for(peer, result)]
    if not new:
        raise NotAllowedNow(
            f"all results that {peer.name} takes are in its outbox already: send those again there"
        )
    for result in new:
        delivery = deliveries.add(session, result, peer.name, by_hand=True)
        record(
            session,
            events.DELIVERY_ADDED,
            study_id,
            delivery=delivery.id,
            destination=peer.name,
            instance=result.sop_instance_uid,
        )
    settle_study(session, study_id)
    return len(new)


def _newest_results(session: Session, study_id: int) -> list[Result]:
    """The results of a study, with their files, that are neither replaced, withdrawn nor outdated."""
    rows = session.scalars(select(Result).where(Result.study_id == study_id).order_by(Result.id)).all()
    replaced = {result.supersedes for result in rows}
    withdrawn = results.withdrawn(session, [result.id for result in rows])
    return [
        result
        for result in rows
        if result.sop_instance_uid not in replaced and result.id not in withdrawn
        if not (result.purged or result.outdated)
    ]


def is_for(result: Result, peer: PeerSettings, peers: Sequence[PeerSettings]) -> bool:
    """Whether a peer may get a result that was made before: it takes the kind, may know the patient so, and
    wants this form. ``peers``: all configured peers.
    """
    return _is_made_for(result, peer) and _may_have_form_of(peer, result, peers)


def _is_made_for(result: Result, peer: PeerSettings) -> bool:
    """Whether the peer takes such results, and the patient is named in this one as the peer may know it."""
    domain = (peer.pseudonym_domain or "") if peer.deidentify else ""
    made_for = (peer.deidentify, domain)
    return peer.takes(result.kind) and (result.deidentified, result.pseudonym_domain) == made_for


def _may_have_form_of(peer: PeerSettings, result: Result, peers: Sequence[PeerSettings]) -> bool:
    """Whether a result may have the form that the peer wants: it is for one of ``peers`` with the same, for
    one that is no more configured, or for none yet.
    """
    wanted = peer.form.texts(result.kind)
    others = {other.name for other in peers if other.form.texts(result.kind) != wanted}
    destinations = {delivery.destination for delivery in result.deliveries}
    return not destinations or not destinations.issubset(others)


def _is_queued_for(peer: PeerSettings, result: Result) -> bool:
    """Whether a result is in the outbox of this peer, in whatever state."""
    return any(delivery.destination == peer.name for delivery in result.deliveries)


def _why_not_sent(session: Session, delivery: Delivery) -> str:
    """The reason why the object of a delivery must not be sent now; "" if it may be sent."""
    item, result = delivery.item, delivery.result
    is_note = result is not None and result.kind is ResultKind.REJECTION
    if item.study.state is StudyState.QUARANTINED and not is_note:
        return "its study is in quarantine: release the study first"
    # Locked: its file may be going at this moment.
    if delivery.original is not None:
        session.refresh(item.study, with_for_update=FOR_UPDATE)
        session.refresh(delivery.original.received)
    elif result and results.withdrawn(session, [result.id]):
        return "its result was withdrawn, it is sent nowhere"
    else:
        session.refresh(item, with_for_update={"read": True})
    if deliveries.is_outdated(session, delivery):
        return "it is older than a correction or quarantine of its study, it is sent nowhere"
    if item.purged:
        return f"the file was deleted after spool.{'result' if result else 'keep'}_days"
    held_state = not_accepted(session, [result.id]).get(result.id) if result else None
    if held_state is not None or delivery.state is DeliveryState.UNASSESSED:
        return (
            "a person rejected its result, it is sent nowhere"
            if held_state is HeldState.REJECTED
            else "its result waits until a person has accepted it (studies accept)"
        )
    return ""


def _given_up_query(destination: str | None) -> Select[int]:
    """The SQL query for the numbers of given-up deliveries to a peer; None: to all peers."""
    dead: Select[int] = deliveries.with_objects(select(Delivery.id)).where(
        Delivery.state == DeliveryState.DEAD
    )
    return dead if destination is None else dead.where(Delivery.destination == destination)


def _locked(session: Session, delivery_id: int) -> Delivery:
    """The delivery with this number, locked after its study. Raises NotFound."""
    found = deliveries.of_numbers(session, [delivery_id])
    if not found:
        raise NotFound(f"no delivery has the number {delivery_id}")
    return found[0]
