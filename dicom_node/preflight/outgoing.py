"""Checks of the node's own messages: ``[mail]``, ``[[notifications]]``."""

from __future__ import annotations

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
