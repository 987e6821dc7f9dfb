"""E-mail by SMTP (RFC 5321), with a deadline for the exchange and a limit on the server's answers."""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any

from dicom_node.config.notifications import MailSettings
from dicom_node.notifications.message import MAXIMUM_ANSWER_BYTES, Answer, Message
from dicom_node.scu.connections import Connections, tls_context
from dicom_node.store.transitions import utc_now


def send_mail(settings: MailSettings, to: Sequence[str], message: Message, key: str) -> Answer:
    """Pass one e-mail to the server; ``key`` gives its Message-ID, which is the same at each try."""
    connections = Connections(settings.seconds)
    try:
        with connections.within(settings.seconds):
            return _send(settings, _email(settings.sender, to, message, key), to, connections)
    except (smtplib.SMTPException, OSError, ValueError) as error:
        if connections.timed_out or isinstance(error, TimeoutError):
            return Answer(False, Answer.CUT_OFF)
        return _meaning(settings, error)


def _meaning(settings: MailSettings, error: Exception) -> Answer:
    """A failure, without what the server says."""
    match error:
        case smtplib.SMTPAuthenticationError(smtp_code=code):
            return Answer(False, f"the server refuses user name or password ({code})", code >= 500)
        case smtplib.SMTPResponseException(smtp_code=code):
            return Answer(False, f"the server refuses the e-mail ({code})", code >= 500)
        case smtplib.SMTPRecipientsRefused(recipients=refused):
            codes = [code for code, _ in refused.values()]
            return Answer(False, f"the server refuses all recipients ({codes[0]})", min(codes) >= 500)
        case smtplib.SMTPNotSupportedError():
            text = f"the server does not offer {settings.security}, or takes no password"
        case ssl.SSLCertVerificationError():
            text = "the certificate of the server is not trusted"
        case _:
            text = f"no connection to {settings.host}:{settings.port} that lasts"
    return Answer(False, text)


def _email(sender: str, to: Sequence[str], message: Message, key: str) -> EmailMessage:
    email = EmailMessage()
    email["From"], email["To"], email["Subject"] = sender, ", ".join(to), message.subject
    email["Date"] = format_datetime(utc_now())
    email["Message-ID"] = f"<{key}@{sender.partition('@')[2]}>"
    email["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's absence note answers it
    email.set_content(message.text, cte="quoted-printable")
    return email


def _send(settings: MailSettings, email: EmailMessage, to: Sequence[str], connections: Connections) -> Answer:
    with _client(settings, connections) as client:
        if settings.security == "starttls":
            client.starttls(context=tls_context(settings.authorities, connections))
        if settings.username:
            client.login(settings.username, settings.password.get_secret_value())
        refused = client.send_message(email, settings.sender, list(to))
    if refused:
        return Answer(True, f"{len(refused)} of {len(to)} recipients were refused")
    return Answer(True, "")


def _client(settings: MailSettings, connections: Connections) -> smtplib.SMTP:
    context = tls_context(settings.authorities, connections) if settings.security == "tls" else None
    return _Client(settings.host, settings.port, settings.seconds, connections, context)


class _Client(smtplib.SMTP):
    """An SMTP client whose connection can be cut; a server that talks without end is cut off."""

    def __init__(
        self,
        host: str,
        port: int,
        seconds: float,
        connections: Connections,
        context: ssl.SSLContext | None,
    ) -> None:
        self._connections, self._tls = connections, context
        super().__init__(host, port, timeout=seconds)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        plain = socket.create_connection((host, port), timeout)
        self._connections.opened(plain)
        return self._tls.wrap_socket(plain, server_hostname=host) if self._tls else plain

    def getreply(self) -> tuple[int, bytes]:
        """The next answer, as far as the limit goes."""
        if self.file is None and self.sock is not None:
            self.file = _Limited(self.sock.makefile("rb"))
        return super().getreply()


class _Limited:
    """What the server says, up to a limit."""

    def __init__(self, file: Any) -> None:
        self._file, self._left = file, MAXIMUM_ANSWER_BYTES

    def readline(self, limit: int = -1) -> bytes:
        """Raises OSError where the server says too much."""
        line: bytes = self._file.readline(limit)
        self._left -= len(line)
        if self._left < 0:
            raise OSError("the server talks too much")
        return line

    def close(self) -> None:
        """As a file."""
        self._file.close()
