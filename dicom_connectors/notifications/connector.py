"""What the node gets from this connector: a thread that sends, checks, tests of what is configured."""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from dicom_connectors.notifications.settings import NotificationsPart
from dicom_node.base import events
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import Service, typed_section
from dicom_node.base.store.database import Database
from dicom_node.people.preflight import Found, Tried, occasions


def services(database: Database, settings: Settings, owner: str) -> Iterator[Service]:
    """Yield the service that collects and sends notifications, if the settings have any."""
    if typed_section(settings, NotificationsPart).notifications:
        from dicom_connectors.notifications.sender import Notifier

        yield Service("notifications", Notifier(database, settings, owner).run_once)


def check(settings: Settings) -> Found:
    """Yield mistakes in the settings of mail and notifications, and warnings about unencrypted ones."""
    ours = typed_section(settings, NotificationsPart)
    if ours.mail.authorities and not ours.mail.authorities.is_file():
        yield "mail.authorities", str(ours.mail.authorities), "is no file"
    if ours.mail.host and ours.mail.security == "none":
        yield Tried("mail", False, 'e-mails go over the network unencrypted: security = "starttls"')
    known = {event.number for event in events.all_types()}
    for rule in ours.notifications:
        if unknown := [str(number) for number in rule.events if number not in known]:
            remedy = "docs/reference/events.md lists the numbers"
            yield f"notifications.{rule.name}.events", ", ".join(unknown), remedy
        if rule.url.get_secret_value().startswith("http://"):
            yield Tried(f"notification {rule.name}", False, "is sent unencrypted (http): use https")


def configured(settings: Settings) -> list[dict[str, Any]]:
    """Return the settings of each notification as JSON, without webhook addresses and tokens."""
    shown = {"name", "on", "events", "findings", "to", "every_minutes"}
    return [
        {"kind": rule.kind, **rule.model_dump(mode="json", include=shown)}
        for rule in typed_section(settings, NotificationsPart).notifications
    ]


def send_test(settings: Settings, name: str, finding: str = "") -> tuple[bool, str]:
    """Send a test message to the receiver of the notification ``name``; return (whether it was accepted, the
    reason in words).

    ``finding``: send the message of a study in which this finding is suspected, or with the call of this
    name; "": a plain test.
    """
    from dicom_connectors.notifications import sender
    from dicom_connectors.notifications.gather import Message, message_of

    [rule] = [one for one in typed_section(settings, NotificationsPart).notifications if one.name == name]
    node = settings.node.ae_title
    is_call = any(finding in occasions(one, settings) for one in settings.rules)
    about = {
        "at": "now",
        "fields": {},
        "findings": [] if is_call else [finding],
        "calls": [finding] if is_call else [],
        "accession": "TEST",
        "link": "",
        "result": [f"{'' if is_call else 'Suspected: '}{finding}. This is a test: there is no such study."],
    }
    sample = (
        message_of(name, node, [(events.JOB_SUCCEEDED.number, about)])
        if finding
        else Message(
            f"{node}: test of the notification {name}",
            f"This is a test of the notification {name} of {node}. Nothing has happened.\n",
            {"node": node, "name": name, "total": 0, "groups": []},
        )
    )
    message = replace(sample, content={**sample.content, "test": True})
    answer = sender.deliver(settings, rule, message, str(uuid.uuid4()))
    return answer.taken, answer.text
