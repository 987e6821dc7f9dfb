"""``[mail]`` and ``[[notifications]]``: who gets which notification, and how."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self, cast

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from dicom_node.base.config.section import NAME, Secret, Section, checked_host, did_you_mean
from dicom_node.base.connectors import typed_section

if TYPE_CHECKING:
    from dicom_node.base.config.loading import TomlFiles
    from dicom_node.base.config.settings import Settings


def _mail_address(address: str) -> str:
    """Return ``address`` if it is a mail address such as name@example.org.

    Raises ValueError for any other text.
    """
    if not (
        re.fullmatch(r"[^@\s<>,;:\"]+@[^@\s<>,;:\"]+", address)
        and address.isascii()
        and address.isprintable()
    ):
        raise ValueError("is no mail address: write it as name@example.org, without a name before it")
    return address


MailAddress = Annotated[str, Field(max_length=254), AfterValidator(_mail_address)]
Occasion = Literal[
    "failure",
    "dead_letter",
    "quarantine",
    "withheld",
    "disk",
    "silence",
    "outage",
    "drift",
    "assessment",
]


class MailSettings(Section):
    """``[mail]``: the server that takes our e-mail (SMTP)."""

    host: Annotated[
        str, Field(max_length=255, examples=["mail.example.org"]), AfterValidator(checked_host)
    ] = ""
    """Its name or address; empty: no e-mail."""
    port: int = Field(587, ge=1, le=65535)
    """TCP port: 587 for starttls, 465 for tls, 25 for a relay in the house."""
    security: Literal["starttls", "tls", "none"] = "starttls"
    """Its certificate is checked with starttls and tls; none: for a relay that wants no password."""
    authorities: Path | None = Field(None, examples=["tls/house-ca.pem"])
    """PEM file of the CAs for its certificate; not set: the system's CAs."""
    username: str = Field("", examples=["${MAIL_USER}"])
    """Where it wants one."""
    password: Secret = Field("", validate_default=True, examples=["${file:/run/secrets/mail}"])
    """By ${VAR} or ${file:PATH}, never in the file."""
    sender: MailAddress | Literal[""] = Field("", examples=["ai-node@example.org"])
    """The address that our e-mail comes from; needed with host."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        """Refuse a mail server without ``sender``, or with a password but no encryption.

        Raises ValueError.
        """
        if self.host and not self.sender:
            raise ValueError("sender is missing: the address that our e-mail comes from")
        if self.username and self.security == "none":
            raise ValueError('a password needs security = "starttls" or "tls"')
        return self


class NotificationSettings(Section):
    """``[[notifications]]``: which events somebody gets, by e-mail or by a webhook."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=NAME, examples=["admins"])]
    """Short name; lists and commands say it."""
    on: tuple[Occasion, ...] = Field(
        (), examples=[["failure", "dead_letter", "quarantine", "disk", "silence", "outage"]]
    )
    """failure, dead_letter, quarantine, withheld, disk, silence, outage, drift, assessment: for events."""
    events: tuple[int, ...] = Field((), examples=[[1004]])
    """Numbers of further events (docs/reference/events.md lists them)."""
    findings: tuple[str, ...] = Field((), examples=[["Pleural effusion", "Look at it first"]])
    """Findings that a report suspects, and its calls, as it names them; patterns with * and ?."""
    study: Literal["accession", "link"] = "accession"
    """How messages on findings name the study: accession (its number, and the link), link (that alone)."""
    to: tuple[MailAddress, ...] = Field((), max_length=50, examples=[["pacs-admins@example.org"]])
    """Addresses that get an e-mail; or url."""
    url: Secret = Field(
        "", validate_default=True, examples=["${WEBHOOK:-https://chat.example.org/hooks/dicom}"]
    )
    """Webhook: gets a POST of JSON. Shown nowhere, since it may hold a key; redirects are not followed."""
    token: Secret = Field("", validate_default=True, examples=["${WEBHOOK_TOKEN}"])
    """Bearer token for the webhook, by ${VAR} or ${file:PATH}."""
    every_minutes: float = Field(10, ge=0, le=1440)
    """After a notification, further events are collected for this time and sent in one."""

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: SecretStr) -> SecretStr:
        """Refuse a webhook URL that does not begin with http(s):// and a host. Raises ValueError."""
        if (given := url.get_secret_value()) and not re.match(r"https?://[^/\s@]+", given):
            raise ValueError("must begin with https:// or http:// and a host, without user and password")
        return url

    @model_validator(mode="after")
    def _says_to_whom(self) -> Self:
        """Refuse a notification unless it has exactly one kind of receiver: mail addresses or a webhook.

        Raises ValueError.
        """
        if bool(self.to) == bool(self.url.get_secret_value()):
            raise ValueError("give either to (e-mail) or url (webhook)")
        if self.token.get_secret_value() and self.to:
            raise ValueError("token is for a webhook: leave it out")
        return self

    @property
    def kind(self) -> Literal["e-mail", "webhook"]:
        """How the notification is sent: by e-mail or by webhook."""
        return "e-mail" if self.to else "webhook"


class NotificationsPart(Section):
    """Mixin that adds ``[mail]`` and ``[[notifications]]`` to the node's settings."""

    mail: MailSettings = MailSettings()
    notifications: tuple[NotificationSettings, ...] = ()

    @property
    def watched_findings(self) -> Mapping[str, Sequence[str]]:
        """Patterns of the findings that notifications wait for, by dotted key of the setting."""
        ours = [one for one in self.notifications if one.findings]
        further = {f"notifications.{one.name}.findings": one.findings for one in ours}
        return {**cast("Settings", super()).watched_findings, **further}


def check_keys(settings: Settings, read: TomlFiles) -> None:
    """Add to ``read`` the mistakes in notifications: duplicate names, no events, no mail server, and rules
    that name a notification that does not exist.
    """
    ours = typed_section(settings, NotificationsPart)
    read.check_names("notifications")
    names = [name for _, name in read.numbered_names("notifications")]
    for rule in settings.rules:
        for number, one in enumerate(rule.then):
            for name in {*one.notify} - {*names} if read.all_named("notifications") else ():
                place = (*read.place_of("rules", rule.name), "then", number, "notify")
                read.add(place, repr(name), f"no such notification; {did_you_mean(name, names)}")
    named = {name for rule in settings.rules for one in rule.then for name in one.notify}
    for channel in ours.notifications:
        place = read.place_of("notifications", channel.name)
        if channel.to and not ours.mail.host and not read.is_faulty(("mail", "host")):
            read.add((*place, "to"), "", "an e-mail needs a server: add [mail] with host and sender")
        if not (channel.on or channel.events or channel.findings or channel.name in named):
            read.add(place, "", "says of nothing: give on, events or findings, or name it in then of a rule")
