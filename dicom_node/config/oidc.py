"""``[console.oidc]``: people sign in with the accounts of their hospital (OpenID Connect)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from dicom_node.config.accounts import LOOPBACK, GroupRoles, GroupSenders
from dicom_node.config.addresses import checked_url
from dicom_node.config.sections import Secret, Section

Word = Annotated[str, Field(pattern=r"^[!-~]{1,128}$")]


def is_safe(url: str) -> bool:
    """Whether data sent to this URL is encrypted or stays on this machine."""
    parts = urlsplit(url)
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    )


def _provider(url: str) -> str:
    if not is_safe(checked_url(url)):
        raise ValueError("must begin with https://: whoever changes its answers signs in as anybody")
    return url


class OidcSettings(Section):
    """``[console.oidc]``: people sign in with the accounts of their hospital, by OpenID Connect."""

    issuer: Annotated[str, Field(max_length=255), AfterValidator(_provider)]
    """The provider's address, exactly as its tokens name it, above /.well-known/openid-configuration."""
    client_id: Word
    """The name under which the provider knows this console."""
    client_secret: Secret
    """The provider's secret for it; by ${VAR} or ${file:PATH}, never in the file."""
    roles: GroupRoles
    """Role of each group, as roles = {"Radiology" = "reader", "PACS-Admins" = "admin"}. Of several the
    highest counts; who is in none of them is refused."""
    senders: GroupSenders
    """Senders whose studies each group sees, as senders = {"Room-3" = ["US3"]}. Of several groups all of
    theirs; who is in no group of this table, and an admin, sees all studies."""
    groups_claim: Word = "groups"
    """The claim with a person's groups, in the ID token or else in what the provider says of the person."""
    scopes: tuple[Word, ...] = ("profile",)
    """Asked for besides openid; some providers want one for the groups."""
    acr_values: tuple[Word, ...] = ()
    """Strengths of authentication (acr): one of them is asked for and must be in the ID token; empty: any."""
    authorities: Path | None = None
    """PEM file of the CAs for the provider's certificate; not set: the system's CAs."""
    seconds: float = Field(10, gt=0, le=25)
    """How long all questions to the provider at one sign-in may take."""
