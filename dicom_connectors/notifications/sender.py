"""Sends waiting notifications one after the other, by e-mail (RFC 5321) or as one POST of JSON.

Each exchange has a deadline and a limit on the server's answers; redirects are not followed. Only one process
per database sends. A notification that was sent just before a crash is sent again, with the same Message-ID
or Idempotency-Key, by which its receiver recognizes it.
"""

import smtplib
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any

import requests
from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from dicom_connectors.notifications.gather import Gatherer, Message
from dicom_connectors.notifications.settings import MailSettings, NotificationSettings, NotificationsPart
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import typed_section
from dicom_node.base.events import NOTIFICATION_GIVEN_UP, NOTIFICATION_SENT
from dicom_node.base.lifecycle import NotificationState
from dicom_node.base.outcomes import Done, Failed, Outcome, Retry
from dicom_node.base.runner import NEVER, Lane
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Notification
from dicom_node.base.store.transitions import record, utc_now
from dicom_node.base.tls import tls_refusal
from dicom_node.deliver.scu import Connections, tls_context
from dicom_node.deliver.scu.http import BoundedSession, status_of

SECONDS = 20.0
"""How long the sending of one e-mail or webhook may take from its connection to the last answer."""
_GIVE_UP = timedelta(hours=72)  # a server that does not answer
_CUT_OFF = "cut off: the server was too slow"
_MAXIMUM_ANSWER_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of one try to send a notification, in the node's own words, because a server's answer may
    quote the message.

    ``taken``: the server accepted the message; ``for_good``: the server refused it, and another try would not
    help.
    """

    taken: bool
    text: str = ""
    for_good: bool = False


class Notifier(Lane[Notification]):
    """Service that collects notifications and sends them; its whole state is in the database."""

    table = Notification

    def __init__(self, database: Database, settings: Settings, owner: str) -> None:
        super().__init__(database, settings, "notifications", owner, SECONDS + 15.0)
        self._gatherer = Gatherer(database, settings)

    def run_once(self, stop: threading.Event = NEVER) -> int:
        """Store new notifications, and send those that are due; return how many were sent.

        ``stop`` ends the call early when set.
        """
        if self._lease.keep():
            self._gatherer.run_once()
        return super().run_once(stop)

    def waits(self) -> Sequence[ColumnElement[bool]]:
        """Return the SQL conditions for notifications that are still to be sent."""
        return (Notification.state == NotificationState.PENDING,)

    def work(self, row: Notification, _: threading.Event) -> Outcome:
        """Try once to send the notification ``row``.

        Return Done if it was sent, Failed if it is given up, else Retry.
        """
        rules = typed_section(self._settings, NotificationsPart).notifications
        rule = next((one for one in rules if one.name == row.rule), None)
        if rule is None:
            return Failed("the configuration has no such notification any more")
        answer = deliver(self._settings, rule, Message(row.subject, row.text, row.content), row.key)
        if answer.taken:
            return Done(answer.text)
        row.refusals += answer.for_good
        is_over = utc_now() - row.created_at > _GIVE_UP
        if is_over or row.refusals >= self._settings.outbox.refusals:
            return Failed(answer.text)
        return Retry(answer.text)

    def move(self, session: Session, row: Notification, outcome: Outcome) -> None:
        """Store the outcome of a try: the notification is sent or given up, with an event, or stays
        pending.
        """
        known: dict[str, Any] = {"notification": row.rule, "id": row.key, "reason": outcome.why}
        if isinstance(outcome, Done):
            row.state, row.sent_at = NotificationState.SENT, utc_now()
            record(session, NOTIFICATION_SENT, **known)
        elif isinstance(outcome, Failed):
            row.state = NotificationState.FAILED
            record(session, NOTIFICATION_GIVEN_UP, **known, attempts=row.attempts)


def deliver(settings: Settings, rule: NotificationSettings, message: Message, key: str) -> Answer:
    """Send one message at once, by e-mail or webhook as ``rule`` says.

    ``key``: its ID, the same at each try.
    """
    if rule.to:
        return send_mail(typed_section(settings, NotificationsPart).mail, rule.to, message, key)
    return call_webhook(rule, message, key)


def send_mail(settings: MailSettings, to: Sequence[str], message: Message, key: str) -> Answer:
    """Pass one e-mail to the mail server; return what became of it.

    ``key``: the ID in its Message-ID, the same at each try.
    """
    email = EmailMessage()
    email["From"], email["To"], email["Subject"] = settings.sender, ", ".join(to), message.subject
    email["Date"] = format_datetime(utc_now())
    email["Message-ID"] = f"<{key}@{settings.sender.partition('@')[2]}>"
    email["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's absence note answers it
    email.set_content(message.text, cte="quoted-printable")
    connections = Connections(SECONDS)
    try:
        with connections.within(SECONDS), _Client(settings, connections) as client:
            if settings.security == "starttls":
                client.starttls(context=tls_context(settings.authorities, connections))
            if settings.username:
                client.login(settings.username, settings.password.get_secret_value())
            refused = client.send_message(email, settings.sender, list(to))
    except (smtplib.SMTPException, OSError, ValueError) as error:
        if connections.timed_out or isinstance(error, TimeoutError):
            return Answer(False, _CUT_OFF)
        return _meaning(settings, error)
    return Answer(True, f"{len(refused)} of {len(to)} recipients were refused" if refused else "")


def _meaning(settings: MailSettings, error: Exception) -> Answer:
    """Return the failed answer for an error of the mail client, without the server's own words."""
    match error:
        case smtplib.SMTPAuthenticationError(smtp_code=code):
            return Answer(False, f"the server refuses user name or password ({code})", code >= 500)
        case smtplib.SMTPResponseException(smtp_code=code):
            return Answer(False, f"the server refuses the e-mail ({code})", code >= 500)
        case smtplib.SMTPRecipientsRefused(recipients=refused):
            codes = [code for code, _ in refused.values()]
            return Answer(False, f"the server refuses all recipients ({codes[0]})", min(codes) >= 500)
        case smtplib.SMTPNotSupportedError():
            return Answer(False, f"the server does not offer {settings.security}, or takes no password")
    why = tls_refusal(error) or f"no connection to {settings.host}:{settings.port} that lasts"
    return Answer(False, why)


class _Client(smtplib.SMTP):
    """An SMTP client with limits: ``connections`` cuts it at a deadline, and a server that sends too much
    fails.
    """

    def __init__(self, settings: MailSettings, connections: Connections) -> None:
        self._connections = connections
        self._tls = tls_context(settings.authorities, connections) if settings.security == "tls" else None
        super().__init__(settings.host, settings.port, timeout=SECONDS)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        """Open the connection (called by smtplib), and start TLS at once if the settings want it."""
        plain = socket.create_connection((host, port), timeout)
        self._connections.opened(plain)
        return self._tls.wrap_socket(plain, server_hostname=host) if self._tls else plain

    def getreply(self) -> tuple[int, bytes]:
        """Read the server's next reply.

        Raises SMTPServerDisconnected if the server has sent more than the limit altogether.
        """
        if self.file is None and self.sock is not None:
            self.file = _Limited(self.sock.makefile("rb"))
        return super().getreply()


class _Limited:
    """A wrapper of the file of a mail server's replies that fails after a limit of bytes."""

    def __init__(self, file: Any) -> None:
        self._file, self._left, self.close = file, _MAXIMUM_ANSWER_BYTES, file.close

    def readline(self, limit: int = -1) -> bytes:
        """Return the next line, of at most ``limit`` bytes (-1: any).

        Raises OSError if the server has sent too much.
        """
        line: bytes = self._file.readline(limit)
        self._left -= len(line)
        if self._left < 0:
            raise OSError("the server talks too much")
        return line


_LATER = frozenset({408, 425, 429})  # RFC 9110, RFC 8470, RFC 6585: the same may be taken another time


def call_webhook(rule: NotificationSettings, message: Message, key: str) -> Answer:
    """POST the message as JSON to the webhook; return what became of it.

    ``key``: its ID and Idempotency-Key, the same at each try.
    """
    connections = Connections(SECONDS)
    body = {"id": key, "subject": message.subject, "text": message.text, **message.content}
    token = rule.token.get_secret_value()
    headers = {"Idempotency-Key": key} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        with connections.within(SECONDS), BoundedSession(connections) as session:
            answer = session.post(
                rule.url.get_secret_value(),
                json=body,
                headers=headers,
                timeout=SECONDS,
                auth=lambda request: request,  # instead of a login that ~/.netrc may have for this host
            )
    except requests.RequestException as error:
        status = status_of(error)
        if isinstance(error, requests.HTTPError) and status is not None:
            return Answer(False, f"redirected ({status}): enter where it leads to", for_good=True)
        if connections.timed_out or isinstance(error, requests.Timeout):
            return Answer(False, _CUT_OFF)
        return Answer(False, tls_refusal(error) or "no connection, or its answer ended early")
    if answer.ok:
        return Answer(True)
    for_good = answer.status_code < 500 and answer.status_code not in _LATER
    return Answer(False, f"the server answers {answer.status_code}", for_good)
