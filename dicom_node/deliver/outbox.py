"""Delivery of results: one row per object and destination, sent until confirmed. Builds no objects.

Delivered means confirmed: the destination shows the object when it is queried, or reports that it keeps the
object (storage commitment). A delivery that was given up because no such report came still has its
``transaction_uid``: a late report confirms it. An unconfirmed delivery that was *acknowledged* has
``sent_at``; one that a killed process may or may not have sent has none, and is sent again as soon as the
destination does not know it: the same UID and bytes twice are one object to a PACS. In every other state
``sent_at`` says when the object was last sent, if it may have arrived.

Before an object is sent, its bytes are read: is it the object that was built, and may this peer get it?
Whatever tables or settings say by then, an object that names a patient is not sent to a de-identified
destination.

Persons add, retry and discard deliveries; results of rules with ``assess_first`` wait until a person accepts
or rejects them. Withdrawn results are deleted at peers with ``withdraw = "delete"``, until each is gone: a
kill between the deletion and its check costs one more query, as a missing object counts as deleted. Sending
to a peer that is away is retried for ever, so a person must be told.
"""

import hashlib
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from sqlalchemy import ColumnElement, Select, case, exists, func, select
from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import OutboxSettings, Settings
from dicom_node.base.dicom.dimse_n import failure_text
from dicom_node.base.errors import NotAllowedNow, NotFound
from dicom_node.base.files import Files, sha256_of
from dicom_node.base.lifecycle import (
    DELIVERY,
    UNDECIDED,
    DeliveryState,
    HeldState,
    RemovalState,
    ResultKind,
    StudyState,
    is_deidentified,
    retained_by,
)
from dicom_node.base.outcomes import Done, Failed, Outcome, Retry
from dicom_node.base.runner import Lane, wait_before_retry
from dicom_node.base.store import deliveries, results
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import (
    Delivery,
    EventRow,
    HeldResult,
    Job,
    Original,
    Removal,
    Result,
    Study,
    Withdrawal,
)
from dicom_node.base.store.transitions import (
    FOR_UPDATE,
    move,
    move_held,
    record,
    settle_study,
    utc_now,
)
from dicom_node.base.store.views import View, as_json
from dicom_node.deliver import scu

_NAMES_THE_PATIENT = "it names the patient, and this peer gets de-identified objects only"
_KEEPS_MORE = "it keeps more than this peer may know by now: dicom-node studies rerun makes new objects"
_READ = [
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "PatientIdentityRemoved",
    "DeidentificationMethodCodeSequence",
]


def study_of(path: Path) -> str:
    """The Study Instance UID in the header of a DICOM file; "" if it cannot be read."""
    header = _header(path)
    return "" if header is None else str(header.get("StudyInstanceUID") or "")


def fault(item: scu.Outgoing, peer: PeerSettings) -> str:
    """The reason why this object must not be sent to this peer; "" if it may be sent.

    The data set of a received object is not read: it is forwarded unchanged.
    """
    if item.is_original:
        if peer.deidentify:
            return _NAMES_THE_PATIENT
        is_whole = item.path.is_file() and item.path.stat().st_size == item.bytes
        return "" if is_whole else "the received file is missing or damaged"
    if item.pseudonym_domain != (peer.pseudonym_domain or ""):
        return "it bears the pseudonyms of another domain: dicom-node studies rerun makes new objects"
    try:  # only the bytes that were built may leave
        header = _header(item.path) if sha256_of(item.path) == item.sha256 else None
    except OSError:
        header = None
    if header is None:
        return "the result file of the node is missing or damaged"
    if is_deidentified(header) is not peer.deidentify:
        return _NAMES_THE_PATIENT if peer.deidentify else "it is de-identified: this peer has no such study"
    keeps_more = peer.deidentify and not retained_by(header) <= frozenset(peer.retain)
    return _KEEPS_MORE if keeps_more else ""


def _header(path: Path) -> Dataset | None:
    """The attributes of a file that are checked before it is sent; None if it cannot be read."""
    try:
        return dcmread(path, specific_tags=_READ, stop_before_pixels=True)
    except (OSError, InvalidDicomError):
        return None


NOT_ASKED = "not asked: the peer's profile says confirm = none"
BY_QUERY = "found by query: the destination gave no storage commitment"
_KEEPS_EARLIER = "the destination keeps the version of this object that it has: a person replaces it there"
_REPORT_STEP = timedelta(minutes=30)  # a time further ahead than an hour counts as come (store.tables)
_DOUBTFUL_QUESTIONS = 3  # to a destination that cannot be asked; the object is then sent again
# Most archives show an object at once, some after their indexer came round.
_QUESTIONS_SECONDS = (0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0)


_ACKNOWLEDGED = {
    scu.SendStatus.STORED: events.DELIVERY_SENT,
    scu.SendStatus.WARNED: events.DELIVERY_WARNED,
    scu.SendStatus.VERIFY: events.DELIVERY_IN_DOUBT,
}


class Moves:
    """Changes the state of deliveries to one destination, within the caller's transaction.

    The caller must have locked the row of each delivery, so that no other process can change it meanwhile.
    ``now``: the time of all changes.
    """

    def __init__(self, session: Session, peer: PeerSettings, settings: OutboxSettings, now: datetime) -> None:
        """Prepare changes for deliveries to ``peer``, in the transaction of ``session``, at the time
        ``now``.
        """
        self._session, self._peer, self._settings, self._now = session, peer, settings, now
        self._report_time = timedelta(hours=peer.commitment_hours)

    def sent(self, delivery: Delivery, report: scu.SendReport) -> None:
        """Record the peer's answer to a sent object (C-STORE, an upload or STOW-RS).

        An answer that the peer does not accept such objects goes to :meth:`narrowed` instead.
        """
        if report.status is scu.SendStatus.VERIFY and self._earlier_version_may_be_found(delivery):
            self.give_up(delivery, _KEEPS_EARLIER)
        elif report.status in _ACKNOWLEDGED:
            self._move(
                delivery,
                _ACKNOWLEDGED[report.status],
                status=report.code,
                reason="" if report.status is scu.SendStatus.STORED else report.text,
                sent_at=self._now,
                queries=0,
                next_at=self._now,
                transaction_uid="",
            )
            if self._peer.confirm == "none":
                self._confirm(delivery, reason="" if self._peer.acknowledges else NOT_ASKED, queries=0)
        elif report.status is scu.SendStatus.FAULTY:
            self.give_up(delivery, report.text)
        elif report.status is scu.SendStatus.REFUSED:
            self._count_refusal(delivery, report.code, report.text)
        else:
            answered = bool(report.code) or report.status is scu.SendStatus.UNREACHABLE
            self._schedule_retry(delivery, report.code, report.text, left=not answered)

    def narrowed(self, delivery: Delivery, report: scu.SendReport, *, takes_others: bool) -> None:
        """Handle the answer that the destination accepts no such objects: leave the object out, with a
        warning.

        ``takes_others``: whether it accepts other results of the study. If it accepts none, the delivery is
        given up instead, so that a person looks: else a study would count as "delivered" that nobody will
        ever see.
        """
        result = delivery.result
        # Results that are left out harm nobody, but of a note or an original a person must know.
        if takes_others and result is not None and result.kind is not ResultKind.REJECTION:
            self._move(delivery, events.DELIVERY_NARROWED, reason=report.text, transaction_uid="")
        else:
            self.give_up(delivery, f"{report.text}: it takes none of the results" if result else report.text)

    def give_up(self, delivery: Delivery, reason: str) -> None:
        """Give up a delivery that no retry can help; ``reason``: why, in words."""
        self._move(delivery, events.DELIVERY_DEAD, reason=reason, transaction_uid="")

    def sender_lost(self, delivery: Delivery) -> None:
        """Handle a delivery whose sending process was killed, so that the object may have arrived: query
        the peer for the object, or send it again.
        """
        reason = "the sending process was lost"
        # Of a corrected object the answer would be the same before and after it arrived.
        if self._peer.confirm != "query" or self._earlier_version_may_be_found(delivery):
            self._move(
                delivery,
                events.DELIVERY_RETRIED,
                reason=reason,
                next_at=self._now,
                sent_at=self._now,
                transaction_uid="",
            )
        else:
            self._move(
                delivery,
                events.DELIVERY_IN_DOUBT,
                reason=reason,
                sent_at=None,
                queries=0,
                transaction_uid="",
            )

    def query_answered(self, delivery: Delivery, answer: scu.Confirmation) -> None:
        """Record the peer's answer to a query for the object (C-FIND, a look-up or QIDO-RS)."""
        if answer.presence is scu.Presence.FOUND:
            reason = BY_QUERY if self._peer.confirm == "commitment" else ""
            self._confirm(delivery, reason=reason, queries=delivery.queries + 1)
        elif answer.presence is scu.Presence.DIFFERENT:
            self.give_up(delivery, answer.text)
        elif delivery.sent_at is None:
            # Never acknowledged: no half hour of patience, it is sent (again) now.
            unanswered = answer.presence in (scu.Presence.UNKNOWN, scu.Presence.HUNG)
            if unanswered and delivery.queries + 1 < _DOUBTFUL_QUESTIONS:
                self.query_again(delivery, answer.text)
            else:
                self._move(
                    delivery,
                    events.DELIVERY_RETRIED,
                    reason=answer.text,
                    next_at=self._now,
                    sent_at=self._now,
                    transaction_uid="",
                )
        elif (
            answer.presence is scu.Presence.NOT_FOUND
            and (self._now - delivery.sent_at).total_seconds() > self._settings.confirm_seconds
        ):
            self._count_refusal(delivery, delivery.status, "acknowledged, but not shown for confirm_seconds")
        else:
            self.query_again(delivery, answer.text)

    def await_report(self, delivery: Delivery) -> None:
        """Record that the delivery waits for a storage commitment report; the next check is in half an
        hour, or when the peer's time ends.
        """
        assert delivery.sent_at is not None
        delivery.reason = "waits for the storage commitment report"
        delivery.next_at = min(self._now + _REPORT_STEP, delivery.sent_at + self._report_time)

    def query_again(self, delivery: Delivery, reason: str) -> None:
        """Schedule the next query or request for storage commitment; ``reason``: why none succeeded yet."""
        delivery.queries += 1
        delivery.reason = reason
        delivery.next_at = self._now + wait_before_query(delivery.queries, self._settings)

    def commitment_is_overdue(self, delivery: Delivery) -> bool:
        """Whether the time in which the peer must send a storage commitment report is over."""
        return delivery.sent_at is not None and self._now - delivery.sent_at >= self._report_time

    def commitment_missing(self, delivery: Delivery, reason: str) -> list[int]:
        """Have the peer queried if it answers queries; else give the delivery up, for a person to look at.

        Called when no storage commitment report came in time, or the peer accepts no request (``reason``).
        Returns the numbers of the deliveries to query.
        """
        if delivery.transaction_uid or not delivery.queries:  # not with each question
            record(
                self._session,
                events.COMMITMENT_MISSING,
                delivery.item.study_id,
                destination=delivery.destination,
                instance=delivery.item.sop_instance_uid,
                reason=reason,
            )
        if self._peer.answers_queries:
            delivery.transaction_uid = ""
            return [delivery.id]
        self._move(delivery, events.DELIVERY_DEAD, reason=f"acknowledged, but unconfirmed: {reason}")
        return []

    def committed(self, delivery: Delivery) -> None:
        """Handle a storage commitment report that the object is stored safely: confirm its delivery, even
        a given-up one.
        """
        given_up = delivery.state is DeliveryState.DEAD and delivery.transaction_uid
        if delivery.state is DeliveryState.UNCONFIRMED or given_up:
            self._confirm(delivery, reason="", queries=delivery.queries)

    def not_committed(self, delivery: Delivery, transaction_uid: str, reason: int) -> None:
        """Handle a storage commitment report that the object was not stored: send it again, unless it was
        refused too often.

        ``transaction_uid``: of the request that the report answers. ``reason``: the DIMSE failure reason.
        """
        if delivery.transaction_uid == transaction_uid and delivery.state is DeliveryState.UNCONFIRMED:
            self._count_refusal(delivery, f"{reason:04X}", failure_text(reason))

    def _confirm(self, delivery: Delivery, *, reason: str, queries: int) -> None:
        """Mark the delivery as confirmed; ``queries``: the number of queries that were made."""
        self._move(
            delivery,
            events.DELIVERY_CONFIRMED,
            reason=reason,
            confirmed_at=self._now,
            sent_at=delivery.sent_at or self._now,
            withdrawn=False,
            queries=queries,
            transaction_uid="",
        )

    def _schedule_retry(self, delivery: Delivery, status: str, reason: str, *, left: bool = False) -> None:
        """Schedule another try. ``left``: the object was sent, but no answer came."""
        self._move(
            delivery,
            events.DELIVERY_RETRIED,
            status=status,
            reason=reason,
            next_at=self._now + wait_before_retry(delivery.attempts, self._settings),
            sent_at=self._now if left else delivery.sent_at,
            transaction_uid="",
        )

    def _count_refusal(self, delivery: Delivery, status: str, reason: str) -> None:
        """Count a refusal; schedule another try, or give the delivery up after ``outbox.refusals`` of
        them.
        """
        delivery.refusals += 1
        if delivery.refusals >= self._settings.refusals:
            self._move(delivery, events.DELIVERY_DEAD, status=status, reason=reason, transaction_uid="")
        else:
            self._schedule_retry(delivery, status, reason)

    def _earlier_version_may_be_found(self, delivery: Delivery) -> bool:
        """Whether the peer may have another version under this UID, and cannot say which one it has."""
        # Orthanc compares the stored bytes.
        return self._peer.transport != "orthanc" and any(
            one.sent_at or one.state is DeliveryState.SENDING
            for one in deliveries.versions(self._session, delivery)
        )

    def _move(self, delivery: Delivery, event: events.EventType, **values: Any) -> None:
        """Change a delivery's state by an event, in the session of these changes; ``values``: further columns
        to set.
        """
        move(self._session, delivery, event, **values)


def wait_before_query(queries: int, settings: OutboxSettings) -> timedelta:
    """The time to wait before the next query to the destination, after ``queries`` queries (from 1): short at
    first.
    """
    step = _QUESTIONS_SECONDS[min(max(queries, 1), len(_QUESTIONS_SECONDS)) - 1]
    return timedelta(seconds=min(step, settings.retry_limit_seconds))


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
                ~exists().where(HeldResult.result_id == Delivery.result_id, _NOT_ACCEPTED),
            )
            .order_by(Delivery.id)
        )
    )
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
    for delivery_id in chosen:
        discard(session, delivery_id, because)
    return chosen


def send_to(session: Session, study_id: int, peer: PeerSettings, peers: Sequence[PeerSettings]) -> int:
    """Queue the newest results of a study for a further peer; returns how many.

    ``peers``: all configured peers. Objects that only peers with another ``charset`` received are left out,
    because they may be in that character set. Raises NotAllowedNow if nothing can be sent to this peer now.
    """
    study = session.get_one(Study, study_id, with_for_update=FOR_UPDATE)
    if study.state in (StudyState.RECEIVING, StudyState.QUARANTINED):
        raise NotAllowedNow(f"the study is {study.state}: its results go nowhere now")
    if "receive" not in peer.may:
        raise NotAllowedNow(f'{peer.name} gets no results: may = ["receive"] in the configuration allows it')
    others = {one.name for one in peers if one.charset != peer.charset}
    made_for = (peer.deidentify, (peer.pseudonym_domain or "") if peer.deidentify else "")
    rows = session.scalars(select(Result).where(Result.study_id == study_id).order_by(Result.id)).all()
    replaced, gone = {row.supersedes for row in rows}, results.withdrawn(session, [row.id for row in rows])
    fitting = [
        row
        for row in rows
        if row.sop_instance_uid not in replaced and row.id not in gone and not (row.purged or row.outdated)
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
    waiting = not_accepted(session, [row.id for row in fitting])
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
            events.DELIVERY_ADDED,
            study_id,
            delivery=delivery.id,
            destination=peer.name,
            instance=row.sop_instance_uid,
        )
    settle_study(session, study_id)
    return len(new)


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
    """The delivery with this number, its row locked. Raises NotFound."""
    delivery = session.get(Delivery, delivery_id, with_for_update=True)
    if delivery is None:
        raise NotFound(f"no delivery has the number {delivery_id}")
    return delivery


# The state of deliveries is indexed, and few are unassessed.
_UNASSESSED = select(Delivery.result_id).where(Delivery.state == DeliveryState.UNASSESSED)
_NOT_ACCEPTED = HeldResult.state != HeldState.ACCEPTED


def hold(
    session: Session, result: Result, destinations: Collection[str], assess_first: bool
) -> HeldResult | None:
    """Keep a result from these destinations until a person assesses it, if its rule wants that
    (``assess_first``).

    Returns the row of a result that waits, or on which a person decided; None if it may be sent at once. If
    the rule no longer wants an assessment, an undecided result is released, unless it waits for destinations
    of other rules.
    """
    row = session.get(HeldResult, result.id)
    if row is not None and row.state not in UNDECIDED:
        return row
    here = select(Delivery.destination).where(Delivery.result_id == result.id)
    waits = Delivery.state == DeliveryState.UNASSESSED
    if assess_first:
        left = set(session.scalars(here.where(Delivery.withdrawn.is_(False), ~waits)))
        if row is None and set(destinations) - left:
            row = HeldResult(result_id=result.id, study_id=result.study_id, state=HeldState.WAITING)
            row.since = utc_now()
            session.add(row)
        return row
    if row is not None and not set(session.scalars(here.where(waits))) - set(destinations):
        session.delete(row)
    return None


def accept(
    session: Session, study_id: int, by: str, as_of: str | None, *, rejected: bool | None = None
) -> int:
    """Accept the results of a study that wait for an assessment, by which they are sent; returns how many.

    ``by``: the user. ``as_of``: the ``results_hash`` of what the person saw; None: not compared.
    ``rejected``: True to send results that were rejected before, False for waiting ones; None: what the hash
    says, or without one only results that nobody rejected, so that a repeated request releases nothing.
    Raises NotAllowedNow.
    """
    rows = _locked_decidable(session, study_id, as_of)
    were_rejected = rows[0].state is HeldState.REJECTED
    if were_rejected is not (rejected if rejected is not None else were_rejected and as_of is not None):
        raise NotAllowedNow(
            "no result of this study waits for an assessment; to send rejected results, use studies accept "
            "--rejected"
            if were_rejected
            else "newer results wait for an assessment: decide on these first"
        )
    for row in rows:
        for delivery in _deliveries(
            session, row, DeliveryState.DISCARDED if were_rejected else DeliveryState.UNASSESSED
        ):
            if delivery.item.purged:
                raise NotAllowedNow("the files of these results were deleted after spool.result_days")
            move(session, delivery, events.DELIVERY_FREED, reason="", discarded_because="", next_at=utc_now())
    move_held(session, rows, events.RESULTS_ACCEPTED, decided_at=utc_now(), decided_by=by, because="")
    settle_study(session, study_id)
    return len(rows)


def reject(session: Session, study_id: int, by: str, because: str, as_of: str | None) -> int:
    """Reject the results of a study that wait for an assessment, so that none is sent; returns how many.

    ``by``: the user. ``because``: the person's words. ``as_of`` and errors as in ``accept``.
    """
    rows = _locked_decidable(session, study_id, as_of)
    if rows[0].state is HeldState.REJECTED:
        raise NotAllowedNow("these results were rejected already")
    for row in rows:
        for delivery in _deliveries(session, row, DeliveryState.UNASSESSED):
            move(session, delivery, events.DELIVERY_DISCARDED, reason="", discarded_because=because)
    move_held(session, rows, events.RESULTS_REJECTED, decided_at=utc_now(), decided_by=by, because=because)
    settle_study(session, study_id)
    return len(rows)


def report_overdue(database: Database, settings: Settings) -> int:
    """Record event 4041 once for each study whose results wait too long for an assessment; returns how many
    studies.
    """
    hours = settings.outbox.assess_hours
    if not hours:
        return 0
    late = select(HeldResult).where(
        HeldResult.state == HeldState.WAITING,
        HeldResult.since < utc_now() - timedelta(hours=hours),
        HeldResult.result_id.in_(_UNASSESSED),
    )
    with database.write() as session:
        studies: dict[int, list[HeldResult]] = {}
        for row in session.scalars(late.order_by(HeldResult.result_id)):
            studies.setdefault(row.study_id, []).append(row)
        return sum(move_held(session, rows, events.ASSESSMENT_OVERDUE) > 0 for rows in studies.values())


def decidable_results(session: Session, study_id: int) -> Sequence[HeldResult]:
    """The results of a study on which a person can decide now, sorted by number.

    They are those that wait for an assessment; if none waits, those that were rejected, which can be
    reversed.
    """
    of_study = select(HeldResult).where(HeldResult.study_id == study_id).order_by(HeldResult.result_id)
    waiting = session.scalars(of_study.where(HeldResult.result_id.in_(_UNASSESSED))).all()
    if waiting:
        return waiting
    # Those that a person rejected, without results that newer ones of their rule replaced.
    newest = (
        select(func.max(Result.job_id))
        .join(Job, Job.id == Result.job_id)
        .where(Job.study_id == study_id)
        .group_by(Job.rule)
    )
    return session.scalars(
        of_study.where(
            HeldResult.state == HeldState.REJECTED,
            HeldResult.result_id.in_(select(Result.id).where(Result.job_id.in_(newest), ~Result.outdated)),
            HeldResult.result_id.not_in(select(Withdrawal.result_id)),
        )
    ).all()


def results_hash(rows: Sequence[HeldResult]) -> str:
    """A hash of these results that changes when one of them is added or rejected."""
    return hashlib.sha256(
        ",".join(f"{row.result_id}:{row.state is HeldState.REJECTED}" for row in rows).encode()
    ).hexdigest()[:16]


def not_accepted(session: Session, result_ids: Collection[int]) -> dict[int, HeldState]:
    """The state of each of these results that must not be sent (not assessed yet, or rejected), by number
    of the result.
    """
    return {
        row.result_id: row.state
        for row in session.scalars(
            select(HeldResult).where(HeldResult.result_id.in_(result_ids), _NOT_ACCEPTED)
        )
    }


def decided_results(session: Session, study_id: int) -> Sequence[HeldResult]:
    """The results of a study that a person accepted or rejected, in the order of the decisions."""
    return session.scalars(
        select(HeldResult)
        .where(HeldResult.study_id == study_id, HeldResult.state.not_in(UNDECIDED))
        .order_by(HeldResult.decided_at)
    ).all()


def numbers(session: Session) -> View:
    """The figures of results that wait for an assessment: number of studies, and since when the oldest one
    waits.
    """
    chosen = select(func.count(HeldResult.study_id.distinct())).where(HeldResult.result_id.in_(_UNASSESSED))
    return {"studies": session.scalar(chosen) or 0, "oldest": as_json(oldest_unassessed(session))}


def oldest_unassessed(session: Session) -> datetime | None:
    """The time since which the oldest result waits for an assessment; None if none waits."""
    return session.scalar(select(func.min(HeldResult.since)).where(HeldResult.result_id.in_(_UNASSESSED)))


def _locked_decidable(session: Session, study_id: int, as_of: str | None) -> Sequence[HeldResult]:
    """The results on which a person can decide (``decidable_results``), with the study locked. Raises
    NotAllowedNow.

    ``as_of``: the ``results_hash`` of what the person saw; None: not compared.
    """
    study = session.get_one(Study, study_id, with_for_update=FOR_UPDATE, populate_existing=True)
    if study.state in (StudyState.RECEIVING, StudyState.COMPLETE, StudyState.QUARANTINED):
        raise NotAllowedNow(f"the study is {study.state}: its results are made anew, look again then")
    rows = decidable_results(session, study_id)
    if not rows:
        raise NotAllowedNow("no result of this study waits for an assessment")
    if as_of is not None and as_of != results_hash(rows):
        raise NotAllowedNow("the results changed since you saw them: load the page again")
    return rows


def _deliveries(session: Session, row: HeldResult, state: DeliveryState) -> Sequence[Delivery]:
    """The deliveries of a result in this state, locked, without those discarded for another reason than its
    rejection.
    """
    return session.scalars(
        select(Delivery)
        .where(
            Delivery.result_id == row.result_id,
            Delivery.state == state,
            Delivery.discarded_because == row.because,  # not what was discarded for another reason
        )
        .with_for_update()
    ).all()


_SECONDS = 60.0  # that one may take


def queue_removal(session: Session, result: Result, peers: Sequence[PeerSettings]) -> None:
    """Queue the deletion of a withdrawn result at each peer that has or may have it and has ``withdraw =
    "delete"``.
    """
    deleting = {peer.name for peer in peers if peer.withdraw == "delete"}
    for delivery in result.deliveries:
        if delivery.destination in deleting and deliveries.may_be_there(delivery):
            session.add(Removal(id=delivery.id, next_at=utc_now()))


class Removals(Lane[Removal]):
    """Deletes withdrawn results at peers that have ``withdraw = "delete"``; all state is in the database."""

    table = Removal

    def __init__(
        self,
        database: Database,
        settings: Settings,
        owner: str,
        open_remover: Callable[[PeerSettings, Settings], scu.Remover] = scu.open_remover,
    ) -> None:
        """Prepare with settings. ``owner``: the process, under which the lease is taken."""
        super().__init__(database, settings, "removals", owner, _SECONDS)
        self._open = open_remover

    def waits(self) -> Sequence[ColumnElement[bool]]:
        """The SQL conditions for deletions that are neither done nor left to a person."""
        return (Removal.state == RemovalState.ASKED,)

    def work(self, row: Removal, _: threading.Event) -> Outcome:
        """Request the deletion of one object at its peer, and query whether the object is gone."""
        with self._database.read() as session:
            delivery = session.get_one(Delivery, row.id)
            peer = next((one for one in self._settings.peers if one.name == delivery.destination), None)
            if peer is None or peer.withdraw != "delete":
                return Failed('the peer is not configured with withdraw = "delete" any more')
            result = delivery.item
            path = Files(self._settings).if_here(session, result.path)
            if path is None or isinstance(result, Original):  # which nobody withdraws
                why = "its file is not here: it cannot be compared with the object there"
                return Failed(why) if result.purged else Retry(why)
            # With the UIDs that its file has: a de-identified object has its own.
            header = dcmread(path, stop_before_pixels=True, specific_tags=_READ)
            item = scu.Outgoing(
                sop_class_uid=result.sop_class_uid,
                sop_instance_uid=result.sop_instance_uid,
                study_instance_uid=str(header.StudyInstanceUID),
                series_instance_uid=str(header.SeriesInstanceUID),
                path=path,
                sha256=result.sha256,
            )
        with closing(self._open(peer, self._settings)) as remover:
            return remover.remove(item)

    def move(self, session: Session, row: Removal, outcome: Outcome) -> None:
        """Record the outcome of a try to delete: the deletion is done, or a person must do it; after a
        failure that may pass, its state does not change.
        """
        if isinstance(outcome, Retry):
            return
        row.ended_at, delivery = utc_now(), session.get_one(Delivery, row.id)
        about = {"destination": delivery.destination, "instance": delivery.item.sop_instance_uid}
        if isinstance(outcome, Done):
            row.state = RemovalState.GONE
            record(session, events.RESULT_REMOVED, delivery.item.study_id, **about)
        else:
            row.state = RemovalState.BY_HAND
            record(session, events.RESULT_NOT_REMOVED, delivery.item.study_id, **about, reason=outcome.why)


_WAITING = Delivery.state.in_((DeliveryState.PENDING, DeliveryState.SENDING))
# A first try that is under way has not failed.
_LONG = timedelta(minutes=15)
_TRIED = Delivery.attempts > case((Delivery.state == DeliveryState.SENDING, 1), else_=0)


@dataclass(frozen=True, slots=True)
class PeerOutage:
    """A peer that has failed at every try since ``since``.

    ``waiting``: the number of deliveries that wait for it; ``reason``: that of the newest failure.
    """

    destination: str
    since: datetime
    waiting: int
    reason: str


def outages(session: Session) -> list[PeerOutage]:
    """The present outages, one for each peer, each since the first failed try of the oldest waiting delivery.

    A peer that refused an object has answered, so this is no outage.
    """
    failing = case((_TRIED & (Delivery.refusals == 0), Delivery.id))
    chosen = select(Delivery.destination, func.count(), func.min(failing), func.max(failing)).where(_WAITING)
    tried = chosen.group_by(Delivery.destination).having(func.min(failing).is_not(None))
    found = []
    for destination, waiting, oldest, newest in session.execute(tried).all():
        first = session.get_one(Delivery, oldest)
        failed = select(EventRow.at).where(
            EventRow.number == events.DELIVERY_RETRIED.number,
            EventRow.study_id == first.item.study_id,
            EventRow.fields["delivery"].as_integer() == oldest,
        )
        since = session.scalar(failed.order_by(EventRow.id).limit(1))
        if since is not None:
            found.append(PeerOutage(destination, since, waiting, session.get_one(Delivery, newest).reason))
    return found


def reasons(session: Session, studies: ColumnElement[bool]) -> Mapping[int, str]:
    """The reasons why results of these studies still wait after a failed try, by number of the study.

    ``studies``: an SQL condition on studies.
    """
    chosen = deliveries.with_objects(select(Study.id, Delivery.destination, Delivery.reason))
    rows = session.execute(chosen.where(studies, _WAITING, _TRIED).order_by(Delivery.id))
    found = {study: f"{destination}: {reason}" for study, destination, reason in rows if reason}
    held_back = deliveries.waiting_for_decisions(session)
    if held_back:  # a question that few nodes ever have
        which = studies if "" in held_back else studies & Study.study_instance_uid.in_(held_back)
        waiting = session.scalars(deliveries.with_objects(select(Study.id)).where(which, _WAITING))
        found |= dict.fromkeys(waiting, deliveries.WAITS)
    return found


def report_outages(database: Database, _settings: Settings) -> int:
    """Record event 5022 once for each outage that lasts over 15 minutes, and 5023 at its end; returns how
    many are new.
    """
    with database.read() as session:
        now = {one.destination: one for one in outages(session)}
        # Destinations whose outage has an event and whose return has none.
        both = (events.DESTINATION_AWAY.number, events.DESTINATION_BACK.number)
        told = select(EventRow.number, EventRow.fields).where(EventRow.number.in_(both)).order_by(EventRow.id)
        newest = {str(fields.get("destination")): number for number, fields in session.execute(told)}
    reported = {name for name, number in newest.items() if number == events.DESTINATION_AWAY.number}
    late, back = utc_now() - _LONG, sorted(reported - set(now))
    new = [one for name, one in now.items() if name not in reported and one.since <= late]
    if not (new or back):
        return 0
    with database.write() as session:
        for destination in back:
            record(session, events.DESTINATION_BACK, destination=destination)
        for one in new:
            record(
                session,
                events.DESTINATION_AWAY,
                destination=one.destination,
                since=one.since.isoformat(),
                waiting=one.waiting,
                reason=one.reason,
            )
    return len(new)
