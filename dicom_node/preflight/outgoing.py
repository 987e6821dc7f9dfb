"""Checks of the node's own messages: ``[mail]``, ``[[notifications]]``, ``[audit]``, ``[telemetry]``."""

from __future__ import annotations

from importlib.util import find_spec

from dicom_node import events
from dicom_node.config.notifications import NotificationSettings
from dicom_node.config.settings import Settings
from dicom_node.errors import FaultyInput
from dicom_node.notifications import message
from dicom_node.preflight.found import Found, Tried


def check_notifications(settings: Settings) -> Found:
    """Mistakes in the notification settings, and messages that would be sent unencrypted."""
    mail = settings.mail
    if mail.authorities and not mail.authorities.is_file():
        yield "mail.authorities", str(mail.authorities), "is no file"
    if mail.host and mail.security == "none":
        yield Tried("mail", False, 'e-mails go over the network unencrypted: security = "starttls"')
    for rule in settings.notifications:
        yield from _check(rule)


def _check(rule: NotificationSettings) -> Found:
    known = {event.number for event in events.all_types()}
    if unknown := [str(number) for number in rule.events if number not in known]:
        yield (
            f"notifications.{rule.name}.events",
            ", ".join(unknown),
            "docs/reference/events.md lists the numbers",
        )
    try:
        message.check_templates(rule)
    except FaultyInput as error:
        key = "subject" if rule.subject and "subject" in str(error) else "template"
        yield f"notifications.{rule.name}.{key}", "", str(error)
    subject = f"notification {rule.name}"
    if rule.url.get_secret_value().startswith("http://"):
        yield Tried(subject, False, "is sent unencrypted (http): use https")
    if rule.names_patients:
        yield Tried(subject, False, "its templates may name patients: is the way to its readers safe?")


def check_audit(settings: Settings) -> Found:
    """Mistakes in the audit settings, and a warning if Patient IDs in the messages would be unencrypted."""
    audit = settings.audit
    for key in ("authorities", "certificate"):
        path = getattr(audit, key)
        if path is not None and not path.is_file():
            yield f"audit.{key}", str(path), "is no file"
    if audit.syslog and audit.transport == "udp":
        yield Tried("audit", False, "Patient IDs go over the network unencrypted, and may get lost: tls")


def check_telemetry(settings: Settings) -> Found:
    """Mistakes in the section ``[telemetry]``."""
    telemetry = settings.telemetry
    if not telemetry.endpoint:
        return
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.proto") is None:
        remedy = "needs opentelemetry-proto: pip install 'dicom-ai-node[telemetry]'"
        yield "telemetry.endpoint", telemetry.endpoint, remedy
    if telemetry.authorities and not telemetry.authorities.is_file():
        yield "telemetry.authorities", str(telemetry.authorities), "is no file"
    if telemetry.headers and telemetry.endpoint.startswith("http://"):
        yield Tried("telemetry", False, "its headers go over the network unencrypted (http): use https")
