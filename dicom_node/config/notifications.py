"""``[mail]`` and ``[[notifications]]``: who gets which notification, and how."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from dicom_node.config.addresses import checked_host
from dicom_node.config.mistakes import NAME
from dicom_node.config.sections import Secret, Section
from dicom_node.model.kinds import Occasion


def _mail_address(address: str) -> str:
    if not (
        re.fullmatch(r"[^@\s<>,;:\"]+@[^@\s<>,;:\"]+", address)
        and address.isascii()
        and address.isprintable()
    ):
        raise ValueError("is no mail address: write it as name@example.org, without a name before it")
    return address


MailAddress = Annotated[str, Field(max_length=254), AfterValidator(_mail_address)]


class MailSettings(Section):
    """``[mail]``: the server that takes our e-mail (SMTP)."""

    host: Annotated[str, Field(max_length=255), AfterValidator(checked_host)] = ""
    """Its name or address; empty: no e-mail."""
    port: int = Field(587, ge=1, le=65535)
    """TCP port: 587 for starttls, 465 for tls, 25 for a relay in the house."""
    security: Literal["starttls", "tls", "none"] = "starttls"
    """Its certificate is checked with starttls and tls; none: for a relay that wants no password."""
    authorities: Path | None = None
    """PEM file of the CAs for its certificate; not set: the system's CAs."""
    username: str = ""
    """Where it wants one."""
    password: Secret = Field("", validate_default=True)
    """By ${VAR} or ${file:PATH}, never in the file."""
    sender: MailAddress | Literal[""] = ""
    """The address that our e-mail comes from; needed with host."""
    seconds: float = Field(20, gt=0, le=25)
    """How long the sending of one e-mail or webhook may take from its connection to the last answer."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.host and not self.sender:
            raise ValueError("sender is missing: the address that our e-mail comes from")
        if self.username and self.security == "none":
            raise ValueError('a password needs security = "starttls" or "tls"')
        return self


class NotificationSettings(Section):
    """``[[notifications]]``: which events somebody gets, by e-mail or by a webhook."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=NAME)]
    """Short name; lists and commands say it."""
    on: tuple[Occasion, ...] = ()
    """failure, dead_letter, quarantine, withheld, disk, silence, outage, drift, assessment: for events."""
    events: tuple[int, ...] = ()
    """Numbers of further events (docs/reference/events.md lists them)."""
    findings: tuple[str, ...] = ()
    """Findings that a report suspects, as it names them; patterns with * and ?."""
    to: tuple[MailAddress, ...] = Field((), max_length=50)
    """Addresses that get an e-mail; or url."""
    url: Secret = Field("", validate_default=True)
    """Webhook: gets a POST of JSON. Shown nowhere, since it may hold a key; redirects are not followed."""
    token: Secret = Field("", validate_default=True)
    """Bearer token for the webhook, by ${VAR} or ${file:PATH}."""
    every_minutes: float = Field(10, ge=0, le=1440)
    """After a notification, further events are collected for this time and sent in one."""
    give_up_hours: float = Field(72, gt=0, le=720)
    """A server that does not answer is tried for so long; event 5031 then."""
    subject: str = Field("", max_length=1000)
    """Template (Jinja2) of the subject; empty: ours."""
    template: Path | None = None
    """File with the template (Jinja2) of the text; not set: ours."""
    names_patients: bool = False
    """Templates may use patient_id and accession_number of an event's study; false: they are not there."""

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: SecretStr) -> SecretStr:
        if (given := url.get_secret_value()) and not re.match(r"https?://[^/\s@]+", given):
            raise ValueError("must begin with https:// or http:// and a host, without user and password")
        return url

    @model_validator(mode="after")
    def _says_of_what_and_to_whom(self) -> Self:
        if bool(self.to) == bool(self.url.get_secret_value()):
            raise ValueError("give either to (e-mail) or url (webhook)")
        if self.token.get_secret_value() and self.to:
            raise ValueError("token is for a webhook: leave it out")
        return self

    @property
    def kind(self) -> Literal["e-mail", "webhook"]:
        """By e-mail or by webhook."""
        return "e-mail" if self.to else "webhook"
