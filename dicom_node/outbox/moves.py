"""The effect of a destination's answer on one delivery: every decision of the outbox is one transition.

Delivered means confirmed: the destination shows the object when it is queried, or reports that it keeps the
object (storage commitment). A delivery that was given up because no such report came still has its
``transaction_uid``: a late report confirms it. An unconfirmed delivery that was *acknowledged* has
``sent_at``; one that a killed process may or may not have sent has none, and is sent again as soon as the
destination does not know it: the same UID and bytes twice are one object to a PACS. In every other state
``sent_at`` says when the object was last sent, if it may have arrived.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from dicom_node import events
from dicom_node.config.sections import OutboxSettings
from dicom_node.config.settings import PeerSettings
from dicom_node.dicom.commitment import failure_text
from dicom_node.model.lifecycle import DeliveryState
from dicom_node.runner import wait_before_retry
from dicom_node.scu.destination import Confirmation, Presence, SendReport, SendStatus
from dicom_node.store import deliveries
from dicom_node.store.tables import Delivery
from dicom_node.store.transitions import move_delivery, record

NOT_ASKED = "not asked: the peer's profile says confirm = none"
BY_QUERY = "found by query: the destination gave no storage commitment"
_KEEPS_EARLIER = "the destination keeps the version of this object that it has: a person replaces it there"
_REPORT_STEP = timedelta(minutes=30)  # a time further ahead than an hour counts as come (store.leases)
_DOUBTFUL_QUESTIONS = 3  # to a destination that cannot be asked; the object is then sent again
# Most archives show an object at once, some after their indexer came round.
_QUESTIONS_SECONDS = (0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Moves:
    """Changes the state of deliveries to one destination, within the caller's transaction.

    The caller holds the row of a delivery: no other process can change it meanwhile.
    """

    def __init__(self, session: Session, peer: PeerSettings, settings: OutboxSettings, now: datetime) -> None:
        self._session, self._peer, self._settings, self._now = session, peer, settings, now
        self._report_time = timedelta(hours=peer.commitment_hours)

    def sent(self, delivery: Delivery, report: SendReport) -> None:
        """Record the answer to a C-STORE, an upload or a STOW-RS. Refused kinds go to :meth:`narrowed`."""
        if report.status is SendStatus.VERIFY and self._earlier_version_may_be_found(delivery):
            self.give_up(delivery, _KEEPS_EARLIER)
        elif report.status in (SendStatus.STORED, SendStatus.WARNED, SendStatus.VERIFY):
            event = {
                SendStatus.STORED: events.DELIVERY_SENT,
                SendStatus.WARNED: events.DELIVERY_WARNED,
                SendStatus.VERIFY: events.DELIVERY_IN_DOUBT,
            }[report.status]
            self._move(
                delivery,
                event,
                status=report.code,
                reason="" if report.status is SendStatus.STORED else report.text,
                sent_at=self._now,
                queries=0,
                next_at=self._now,
                transaction_uid="",
            )
            if self._peer.confirm == "none":
                self._confirmed(delivery, reason="" if self._peer.acknowledges else NOT_ASKED, queries=0)
        elif report.status is SendStatus.REFUSED:
            self._count_refusal(delivery, report.code, report.text)
        else:
            answered = bool(report.code) or report.status is SendStatus.UNREACHABLE
            self._again(delivery, report.code, report.text, left=not answered)

    def narrowed(self, delivery: Delivery, report: SendReport, *, takes_others: bool) -> None:
        """Leave out, with a warning, an object of a kind that the destination does not accept.

        If the destination accepts none of the study's results, they are given up instead, so that a person
        looks: else a study would count as "delivered" that nobody will ever see.
        """
        if takes_others:
            self._move(delivery, events.DELIVERY_NARROWED, reason=report.text, transaction_uid="")
        elif delivery.result:
            self.give_up(delivery, f"{report.text}: it takes none of the results")
        else:
            self.give_up(delivery, report.text)

    def give_up(self, delivery: Delivery, reason: str) -> None:
        """Give up a delivery that no retry can help."""
        self._move(delivery, events.DELIVERY_DEAD, reason=reason, transaction_uid="")

    def sender_lost(self, delivery: Delivery) -> None:
        """Query the peer for the object, or send it again: the sending process died, and the object may
        have arrived.
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

    def asked(self, delivery: Delivery, answer: Confirmation) -> None:
        """Record the answer to a C-FIND, a look-up or a QIDO-RS."""
        if answer.presence is Presence.FOUND:
            reason = BY_QUERY if self._peer.confirm == "commitment" else ""
            self._confirmed(delivery, reason=reason, queries=delivery.queries + 1)
        elif answer.presence is Presence.DIFFERENT:
            self.give_up(delivery, answer.text)
        elif delivery.sent_at is None:
            # Never acknowledged: no half hour of patience, it is sent (again) now.
            unanswered = answer.presence in (Presence.UNKNOWN, Presence.HUNG)
            if unanswered and delivery.queries + 1 < _DOUBTFUL_QUESTIONS:
                self.ask_again(delivery, answer.text)
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
            answer.presence is Presence.NOT_FOUND
            and (self._now - delivery.sent_at).total_seconds() > self._settings.confirm_seconds
        ):
            self._count_refusal(delivery, delivery.status, "acknowledged, but not shown for confirm_seconds")
        else:
            self.ask_again(delivery, answer.text)

    def await_report(self, delivery: Delivery) -> None:
        """Wait for the report on a storage commitment request; check again at the latest when its time
        ends.
        """
        assert delivery.sent_at is not None
        delivery.reason = "waits for the storage commitment report"
        delivery.next_at = min(self._now + _REPORT_STEP, delivery.sent_at + self._report_time)
        self._session.flush()

    def ask_again(self, delivery: Delivery, reason: str) -> None:
        """Query, or request storage commitment, again later."""
        delivery.queries += 1
        delivery.reason = reason
        delivery.next_at = self._now + wait_before_question(delivery.queries, self._settings)
        self._session.flush()

    def commitment_is_overdue(self, delivery: Delivery) -> bool:
        """Whether the peer's time for the report is over."""
        return delivery.sent_at is not None and self._now - delivery.sent_at >= self._report_time

    def commitment_missing(self, delivery: Delivery, reason: str) -> None:
        """Handle a missing report: query the peer if possible, else give the delivery up for a person.

        The report is missing if none came in time, or the peer accepts no request.
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
        if self._peer.may_be_asked:
            delivery.transaction_uid = ""
        else:
            self._move(
                delivery,
                events.DELIVERY_DEAD,
                reason=f"acknowledged, but unconfirmed: {reason}",
            )

    def committed(self, delivery: Delivery) -> None:
        """Confirm the delivery: the destination reports that it keeps the object, even if we had given it
        up.
        """
        given_up = delivery.state is DeliveryState.DEAD and delivery.transaction_uid
        if delivery.state is DeliveryState.UNCONFIRMED or given_up:
            self._confirmed(delivery, reason="", queries=delivery.queries)

    def not_committed(self, delivery: Delivery, transaction_uid: str, reason: int) -> None:
        """Send the object again, as often as after refusals: the destination reports that it does not keep
        it.
        """
        if delivery.transaction_uid == transaction_uid and delivery.state is DeliveryState.UNCONFIRMED:
            self._count_refusal(delivery, f"{reason:04X}", failure_text(reason))

    def _confirmed(self, delivery: Delivery, *, reason: str, queries: int) -> None:
        self._move(
            delivery,
            events.DELIVERY_CONFIRMED,
            reason=reason,
            confirmed_at=self._now,
            sent_at=delivery.sent_at or self._now,
            queries=queries,
            transaction_uid="",
        )

    def _again(self, delivery: Delivery, status: str, reason: str, *, left: bool = False) -> None:
        """Try later. ``left``: the object went out, and no answer came."""
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
        delivery.refusals += 1
        self._session.flush()
        if delivery.refusals >= self._settings.refusals:
            self._move(delivery, events.DELIVERY_DEAD, status=status, reason=reason, transaction_uid="")
        else:
            self._again(delivery, status, reason)

    def _earlier_version_may_be_found(self, delivery: Delivery) -> bool:
        """Whether the peer may have another version under this UID, and cannot say which one it has."""
        if self._peer.transport == "orthanc":  # the stored bytes are compared
            return False
        return any(
            one.sent_at or one.state is DeliveryState.SENDING
            for one in deliveries.versions(self._session, delivery)
        )

    def _move(self, delivery: Delivery, event: events.EventType, **values: Any) -> None:
        move_delivery(self._session, delivery, event, **values)


def wait_before_question(queries: int, settings: OutboxSettings) -> timedelta:
    """The wait before the next query to the destination, after ``queries`` queries (from 1): short ones
    first.
    """
    step = _QUESTIONS_SECONDS[min(max(queries, 1), len(_QUESTIONS_SECONDS)) - 1]
    return timedelta(seconds=min(step, settings.retry_limit_seconds))
