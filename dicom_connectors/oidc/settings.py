"""``[console.oidc]``: people sign in with the accounts of their hospital (OpenID Connect)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Self, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from dicom_node.base.config.section import AeTitle, Secret, Section, checked_url
from dicom_node.base.connectors import typed_section
from dicom_node.base.lifecycle import UserRole

if TYPE_CHECKING:
    from dicom_node.base.config.loading import TomlFiles
    from dicom_node.base.config.settings import ConsoleSettings, Settings
    from dicom_node.people.preflight import Found

LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
"""Hosts that need no encryption: what goes there stays on this machine."""
Group = Annotated[str, Field(min_length=1, max_length=512)]
Word = Annotated[str, Field(pattern=r"^[!-~]{1,128}$")]


def is_safe(url: str) -> bool:
    """Return whether what is sent to this URL is encrypted or stays on this machine."""
    parts = urlsplit(url)
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    )


def _provider(url: str) -> str:
    """Return ``url`` if it begins with https:// or stays on this machine.

    Raises ValueError for any other URL.
    """
    if not is_safe(checked_url(url)):
        raise ValueError("must begin with https://: whoever changes its answers signs in as anybody")
    return url


ALL = "*"
"""In place of an AE title: all senders."""


class OidcSettings(Section):
    """``[console.oidc]``: people sign in with the accounts of their hospital, by OpenID Connect."""

    issuer: Annotated[str, AfterValidator(_provider)] = Field(
        max_length=255, examples=["https://login.example.org/realms/hospital"]
    )
    """The provider's address, exactly as its tokens name it, above /.well-known/openid-configuration."""
    client_id: Word = Field(examples=["dicom-ai-node"])
    """The name under which the provider knows this console."""
    client_secret: Secret = Field(examples=["${file:/run/secrets/oidc}"])
    """The provider's secret for it; by ${VAR} or ${file:PATH}, never in the file."""
    roles: dict[Group, UserRole] = Field(
        min_length=1, examples=[{"Radiology": "reader", "PACS-Admins": "admin"}]
    )
    """Role of each group, as roles = {"Radiology" = "reader", "PACS-Admins" = "admin"}. Of several the
    highest counts; who is in none of them is refused."""
    senders: dict[Group, tuple[AeTitle, ...]] = Field({})
    """Senders whose studies each group sees, as senders = {"Room-3" = ["US3"], "Radiology" = ["*"]}; "*":
    all senders. Who is in none of these groups is refused, unless an admin; an empty table limits nobody."""
    groups_claim: Word = "groups"
    """The claim with a person's groups, in the ID token or else in what the provider says of the person."""
    scopes: tuple[Word, ...] = ("profile",)
    """Asked for besides openid; some providers want one for the groups."""
    acr_values: tuple[Word, ...] = ()
    """Strengths of authentication (acr): one of them is asked for and must be in the ID token; empty: any."""
    authorities: Path | None = Field(None, examples=["tls/house-ca.pem"])
    """PEM file of the CAs for the provider's certificate; not set: the system's CAs."""
    seconds: float = Field(10, gt=0, le=25)
    """How long all questions to the provider at one sign-in may take."""


class OidcConsole(Section):
    """Mixin that adds the table ``[console.oidc]`` to the console's settings."""

    oidc: OidcSettings | None = None
    """Accounts of the hospital; absent: users of this node only. Needs console.url and the extra oidc."""

    @model_validator(mode="after")
    def _needs_https_url(self) -> Self:
        """Refuse ``oidc`` if the console's ``url`` is no encrypted address, to which the provider sends
        browsers back.

        Raises ValueError.
        """
        if self.oidc and not is_safe(cast("ConsoleSettings", self).url):
            raise ValueError("oidc sends browsers back to url: set it to the console's address with https://")
        return self


def check_senders(settings: Settings, read: TomlFiles) -> None:
    """Add to ``read`` the AE titles in ``console.oidc.senders`` that never send to this node: users limited
    to them would see nothing.
    """
    from dicom_node.base.config.loading import why_never_calls

    accounts = typed_section(settings.console, OidcConsole).oidc
    for group, titles in accounts.senders.items() if accounts else ():
        for title in titles:
            if title != ALL and (remedy := why_never_calls("calling_ae", title, settings, read)):
                read.add(("console", "oidc", "senders", group), repr(title), remedy)


def check(settings: Settings) -> Found:
    """Yield mistakes in the settings ``[console.oidc]``."""
    console = settings.console
    if not (oidc := typed_section(console, OidcConsole).oidc):
        return
    if find_spec("authlib") is None:
        yield "console.oidc", oidc.issuer, "needs authlib: pip install 'dicom-ai-node[oidc]'"
    if oidc.authorities and not oidc.authorities.is_file():
        yield "console.oidc.authorities", str(oidc.authorities), "is no file"
    host = urlsplit(console.url).hostname or ""
    if host not in {"localhost", console.host, *(name.casefold() for name in console.hosts)}:
        remedy = "browsers come back from the provider by this name: list it in console.hosts"
        yield "console.url", console.url, remedy
