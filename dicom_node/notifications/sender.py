"""Sends waiting notifications one after the other; only one process per database sends.

A notification that was sent just before a crash is sent again, with the same Message-ID or Idempotency-Key,
by which its receiver recognizes it.
"""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

from sqlalchemy import select

from dicom_node.config.notifications import NotificationSettings
from dicom_node.config.settings import Settings
from dicom_node.events import NOTIFICATION_GIVEN_UP, NOTIFICATION_SENT
from dicom_node.model.kinds import NotificationState
from dicom_node.notifications.gather import Gatherer
from dicom_node.notifications.mail import send_mail
from dicom_node.notifications.message import Answer, Message
from dicom_node.notifications.webhook import call_webhook
from dicom_node.outbox.schedule import wait_before_retry
from dicom_node.store.database import Database
from dicom_node.store.leases import KeptLease
from dicom_node.store.tables import Notification
from dicom_node.store.tables.base import has_come
from dicom_node.store.transitions import record, utc_now

_S = NotificationState


class Notifier:
    """Collects and sends notifications under one configuration; all state is in the database."""

    def __init__(self, database: Database, settings: Settings, owner: str) -> None:
        self._database = database
        self._settings = settings
        self._gatherer = Gatherer(database, settings)
        # Half of it is longer than one notification may take: it is asked for before each.
        self._lease = KeptLease(database, "notifications", owner, 2 * settings.mail.seconds + 30.0)

    def run_once(self, stop: threading.Event | None = None) -> int:
        """Collect new notifications, and send those that are due; returns how many were sent or tried."""
        if not self._lease.keep():
            return 0
        self._gatherer.run_once()
        tried = 0
        for number in self._due():
            if (stop is not None and stop.is_set()) or not self._lease.keep():
                break
            self._send(number)
            tried += 1
        return tried

    def _due(self) -> list[int]:
        now = utc_now()
        waiting = (Notification.state == _S.PENDING, has_come(Notification.next_at, now))
        with self._database.read() as session:
            chosen = select(Notification.id).where(*waiting).order_by(Notification.next_at).limit(100)
            return list(session.scalars(chosen))

    def _send(self, number: int) -> None:
        with self._database.read() as session:
            row = session.get_one(Notification, number)
            session.expunge(row)
        rule = next((one for one in self._settings.notifications if one.name == row.rule), None)
        if rule is None:
            answer = Answer(False, "the configuration has no such notification any more", for_good=True)
        else:
            message = Message(row.subject, row.text, row.content)
            answer = deliver(self._settings, rule, message, row.key)
        self._note(number, rule, answer)

    def _note(self, number: int, rule: NotificationSettings | None, answer: Answer) -> None:
        now = utc_now()
        with self._database.write() as session:
            row = session.get_one(Notification, number)
            row.attempts += 1
            row.refusals += answer.for_good
            row.reason = answer.text
            known: dict[str, Any] = {"notification": row.rule, "id": row.key}
            if answer.taken:
                row.state, row.sent_at = _S.SENT, now
                record(session, NOTIFICATION_SENT, **known, reason=answer.text)
            elif rule is None or self._is_over(row, rule):
                row.state = _S.FAILED
                record(session, NOTIFICATION_GIVEN_UP, **known, reason=answer.text, attempts=row.attempts)
            else:
                row.next_at = now + wait_before_retry(row.attempts, self._settings.outbox)

    def _is_over(self, row: Notification, rule: NotificationSettings) -> bool:
        late = utc_now() - row.created_at > timedelta(hours=rule.give_up_hours)
        return late or row.refusals >= self._settings.outbox.refusals


def deliver(settings: Settings, rule: NotificationSettings, message: Message, key: str) -> Answer:
    """Send one message now, by e-mail or webhook."""
    if rule.to:
        return send_mail(settings.mail, rule.to, message, key)
    return call_webhook(rule, settings.mail.seconds, message, key)
