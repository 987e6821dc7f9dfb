"""E-mail and webhooks against servers that listen on real sockets, good and bad ones."""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dicom_node.config.notifications import MailSettings, NotificationSettings
from dicom_node.notifications.mail import send_mail
from dicom_node.notifications.message import Message
from dicom_node.notifications.webhook import call_webhook
from tests.certificates_lab import self_signed
from tests.smtp_lab import MailServer, WebServer

MESSAGE = Message("Müller: a job failed", "It failed.\n.\nEnd.\n", {"total": 1})
TO = ("anna@example.org", "bert@example.org")


def mail_settings(server: MailServer, **other: Any) -> MailSettings:
    given = {"host": "127.0.0.1", "port": server.port, "security": "none", "sender": "node@example.org"}
    return MailSettings.model_validate({**given, **other})


def hook(server: WebServer, **other: Any) -> NotificationSettings:
    return NotificationSettings.model_validate(
        {"name": "hook", "on": ["disk"], "url": server.url, "token": "T0KEN", **other}
    )


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls"), "mail")[0].parent


def context(folder: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return made


def test_an_email_comes_whole_and_says_what_it_is() -> None:
    with MailServer().running() as server:
        assert send_mail(mail_settings(server), TO, MESSAGE, "k-1").taken
    [mail] = server.mails
    assert server.recipients == [list(TO)]
    assert (mail["Subject"], mail["Message-ID"]) == (MESSAGE.subject, "<k-1@example.org>")
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_content().replace("\r\n", "\n") == MESSAGE.text


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_password_goes_over_tls_to_a_server_that_is_known(certificate: Path, security: str) -> None:
    server = MailServer(tls=context(certificate), starttls=security == "starttls")
    with server.running():
        login = {"security": security, "username": "node", "password": "S3CRET"}
        trusted = mail_settings(server, **login, authorities=certificate / "cert.pem")
        assert send_mail(trusted, TO, MESSAGE, "k").taken
        assert server.logins == ["\0node\0S3CRET"]
        server.starttls = security == "starttls"
        answer = send_mail(mail_settings(server, **login), TO, MESSAGE, "k")
    assert (answer.taken, answer.for_good) == (False, False)
    assert "not trusted" in answer.text
    assert len(server.logins) == len(server.mails) == 1


def test_without_the_tls_that_was_asked_for_nothing_is_sent() -> None:
    with MailServer().running() as server:
        answer = send_mail(mail_settings(server, security="starttls"), TO, MESSAGE, "k")
    assert (answer.taken, server.mails) == (False, [])
    assert "starttls" in answer.text


@pytest.mark.parametrize(
    ("command", "said", "for_good"),
    [
        ("DATA", "554 SECRET-WORDS", True),
        ("DATA", "451 SECRET-WORDS", False),
        ("RCPT", "550 SECRET-WORDS", True),
        ("RCPT", "450 SECRET-WORDS", False),
        ("MAIL", "530 SECRET-WORDS", True),
        ("EHLO", "not SMTP", False),
    ],
)
def test_a_refusal_is_told_without_the_words_of_the_server(command: str, said: str, for_good: bool) -> None:
    with MailServer(answers={command: said, "HELO": said}).running() as server:
        answer = send_mail(mail_settings(server), TO, MESSAGE, "k")
    assert (answer.taken, answer.for_good) == (False, for_good), answer
    assert "SECRET" not in answer.text


@pytest.mark.parametrize("bad", [{"seconds_between_bytes": 0.1}, {"talks_without_end": True}])
def test_a_server_that_trickles_or_never_ends_is_cut_off(bad: dict[str, Any]) -> None:
    with MailServer(**bad).running() as server:
        began = time.monotonic()
        answer = send_mail(mail_settings(server, seconds=0.6), TO, MESSAGE, "k")
    assert not answer.taken
    assert time.monotonic() - began < 60


def test_a_server_that_is_not_there_is_no_defect() -> None:
    with MailServer().running() as server:
        pass
    assert "no connection" in send_mail(mail_settings(server), TO, MESSAGE, "k").text


@pytest.mark.parametrize(
    "mistake",
    [
        {"sender": ""},
        {"sender": "Node <node@example.org>"},
        {"sender": "node@example.org\nBcc: x@example.org"},
        {"username": "u", "password": "SECRET"},
    ],
)
def test_settings_that_would_harm_are_mistakes(mistake: dict[str, str]) -> None:
    with pytest.raises(ValidationError) as caught:
        mail_settings(MailServer(port=25), **mistake)
    assert "SECRET" not in str(caught.value)


def test_a_webhook_gets_json_and_the_key_of_its_notification() -> None:
    with WebServer().running() as server:
        assert call_webhook(hook(server), 5, MESSAGE, "k-1").taken
    [(headers, body)] = server.calls
    assert (headers["Idempotency-Key"], headers["Authorization"]) == ("k-1", "Bearer T0KEN")
    assert body == {"id": "k-1", "subject": MESSAGE.subject, "text": MESSAGE.text, "total": 1}


def test_a_redirect_is_not_followed() -> None:
    with WebServer().running() as other, WebServer(status=307, location=other.url).running() as server:
        answer = call_webhook(hook(server), 5, MESSAGE, "k")
    assert (answer.taken, answer.for_good, other.calls) == (False, True, [])


@pytest.mark.parametrize(
    ("status", "for_good"), [(500, False), (503, False), (429, False), (408, False), (404, True), (401, True)]
)
def test_what_waiting_does_not_cure_is_known_by_its_status(status: int, for_good: bool) -> None:
    with WebServer(status=status).running() as server:
        answer = call_webhook(hook(server), 5, MESSAGE, "k")
    assert (answer.taken, answer.for_good) == (False, for_good)
    assert "KEY-IN-URL" not in answer.text
    assert str(status) in answer.text


def test_a_web_server_that_trickles_is_cut_off() -> None:
    with WebServer(seconds_between_bytes=0.1).running() as server:
        began = time.monotonic()
        answer = call_webhook(hook(server), 0.5, MESSAGE, "k")
    assert not answer.taken
    assert time.monotonic() - began < 60


def test_address_and_token_of_a_webhook_are_shown_nowhere() -> None:
    rule = hook(WebServer(port=1))
    for shown in (repr(rule), str(rule), rule.model_dump_json()):
        assert "KEY-IN-URL" not in shown
        assert "T0KEN" not in shown
