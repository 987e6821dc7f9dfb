"""The moves of a delivery from state to state: what an answer of the peer, or its absence, does to it.

A delivery that was given up because no storage commitment report came still has its ``transaction_uid``: a
late report confirms it. An unconfirmed delivery that was *acknowledged* has ``sent_at``; one that a killed
process may or may not have sent has none, and is sent again as soon as the destination does not know it: the
same UID and bytes twice are one object to a PACS. In every other state ``sent_at`` says when the object was
last sent, if it may have arrived.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import OutboxSettings
from dicom_node.base.dicom.dimse_n import failure_text
from dicom_node.base.lifecycle import DeliveryState, ResultKind
from dicom_node.base.runner import wait_before_retry
from dicom_node.base.store import deliveries, results
from dicom_node.base.store.tables import Delivery
from dicom_node.base.store.transitions import move, record
from dicom_node.deliver import scu
from dicom_node.deliver.removals import withdraw_again

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
        if report.may_have_arrived:
            delivery.sent_at = self._now
        if report.status is scu.SendStatus.VERIFY and self._earlier_version_may_be_found(delivery):
            self.give_up(delivery, _KEEPS_EARLIER)
        elif report.status in _ACKNOWLEDGED:
            self._move(
                delivery,
                _ACKNOWLEDGED[report.status],
                "" if report.status is scu.SendStatus.STORED else report.text,
                status=report.code,
                sent_at=self._now,
                queries=0,
                next_at=self._now,
            )
            if self._peer.confirm == "none":
                self._confirm(delivery, reason="" if self._peer.acknowledges else NOT_ASKED, queries=0)
        elif report.status is scu.SendStatus.FAULTY:
            self.give_up(delivery, report.text)
        elif report.status is scu.SendStatus.REFUSED:
            self._count_refusal(delivery, report.code, report.text)
        else:
            self._schedule_retry(delivery, report.code, report.text)

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
            self._move(delivery, events.DELIVERY_NARROWED, report.text)
        else:
            self.give_up(delivery, f"{report.text}: it takes none of the results" if result else report.text)

    def give_up(self, delivery: Delivery, reason: str) -> None:
        """Give up a delivery that no retry can help; ``reason``: why, in words."""
        self._move(delivery, events.DELIVERY_DEAD, reason)

    def sender_lost(self, delivery: Delivery) -> None:
        """Handle a delivery whose sending process was killed, so that the object may have arrived: query
        the peer for the object, or send it again.
        """
        reason = "the sending process was lost"
        # Of a corrected object the answer would be the same before and after it arrived.
        if self._peer.confirm != "query" or self._earlier_version_may_be_found(delivery):
            self._send_again(delivery, reason)
        else:
            self._move(delivery, events.DELIVERY_IN_DOUBT, reason, sent_at=None, queries=0)

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
                self._send_again(delivery, answer.text)
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
        delivery.reason, delivery.queries = "waits for the storage commitment report", 0
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
        # With its request: a late report still confirms it.
        why = f"acknowledged, but unconfirmed: {reason}"
        move(self._session, delivery, events.DELIVERY_DEAD, reason=why)
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
            reason,
            confirmed_at=self._now,
            sent_at=delivery.sent_at or self._now,
            withdrawn=False,
            queries=queries,
        )
        if delivery.result_id and results.withdrawn(self._session, [delivery.result_id]):
            withdraw_again(self._session, delivery, self._peer)

    def _send_again(self, delivery: Delivery, reason: str) -> None:
        """Have an object that may have arrived sent again at once."""
        self._move(delivery, events.DELIVERY_RETRIED, reason, next_at=self._now, sent_at=self._now)

    def _schedule_retry(self, delivery: Delivery, status: str, reason: str) -> None:
        """Schedule another try."""
        self._move(
            delivery,
            events.DELIVERY_RETRIED,
            reason,
            status=status,
            next_at=self._now + wait_before_retry(delivery.attempts, self._settings),
        )

    def _count_refusal(self, delivery: Delivery, status: str, reason: str) -> None:
        """Count a refusal; schedule another try, or give the delivery up after ``outbox.refusals`` of
        them.
        """
        delivery.refusals += 1
        if delivery.refusals >= self._settings.refusals:
            self._move(delivery, events.DELIVERY_DEAD, reason, status=status)
        else:
            self._schedule_retry(delivery, status, reason)

    def _earlier_version_may_be_found(self, delivery: Delivery) -> bool:
        """Whether the peer may have another version under this UID, and cannot say which one it has."""
        # Orthanc compares the stored bytes.
        return self._peer.transport != "orthanc" and any(
            one.sent_at or one.state is DeliveryState.SENDING
            for one in deliveries.versions(self._session, delivery)
        )

    def _move(self, delivery: Delivery, event: events.EventType, reason: str, **values: Any) -> None:
        """Change a delivery's state by an event, in the session of these changes; its request for storage
        commitment counts no more. ``values``: further columns to set.
        """
        move(self._session, delivery, event, reason=reason, transaction_uid="", **values)


def wait_before_query(queries: int, settings: OutboxSettings) -> timedelta:
    """The time to wait before the next query to the destination, after ``queries`` queries (from 1): short at
    first.
    """
    step = _QUESTIONS_SECONDS[min(max(queries, 1), len(_QUESTIONS_SECONDS)) - 1]
    return timedelta(seconds=min(step, settings.retry_limit_seconds))
