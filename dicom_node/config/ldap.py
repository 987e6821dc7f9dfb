"""``[console.ldap]``: people sign in with name and password of the hospital's directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from dicom_node.config.accounts import LOOPBACK, GroupRoles, GroupSenders
from dicom_node.config.sections import Secret, Section

Dn = Annotated[str, Field(min_length=1, max_length=512)]


def _server(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("ldaps", "ldap") or not parts.hostname:
        raise ValueError("write it as ldaps://dc.example.org")
    if parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("must end with the host or its port: base, filter and login are keys of their own")
    if parts.port == 0:  # a port beyond 65535 raises ValueError, too
        raise ValueError("the port in it is no number from 1 to 65535")
    return url


def _filter(text: str) -> str:
    if not (text.startswith("(") and text.endswith(")") and "{name}" in text):
        raise ValueError('write it as "(sAMAccountName={name})", with {name} where the name belongs')
    return text


class LdapSettings(Section):
    """``[console.ldap]``: people sign in with name and password of the hospital's directory, by LDAP."""

    url: Annotated[str, Field(max_length=255), AfterValidator(_server)]
    """The directory, ldaps://HOST or ldaps://HOST:PORT. Accounts belong to it: better the name of the domain
    than of one server. ldap:// only with start_tls, or on this machine."""
    start_tls: bool = False
    """Begin TLS on a connection that ldap:// opened (RFC 4511 4.14); without it nobody signs in."""
    bind_dn: Dn
    """DN of the account that searches; it needs no other right."""
    bind_password: Secret
    """Its password; by ${VAR} or ${file:PATH}, never in the file."""
    user_base: Dn
    """DN below which people are."""
    user_filter: Annotated[str, Field(max_length=1024), AfterValidator(_filter)] = "(sAMAccountName={name})"
    """Finds a person by the {name} that was typed (RFC 4515); "(uid={name})" in most directories but Active
    Directory. Who is found twice is refused."""
    groups_attribute: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")] = "memberOf"
    """The attribute of a person with the groups."""
    roles: GroupRoles
    """Role of each group by its DN, or by its CN wherever in the directory it is, as roles =
    {"CN=Radiology,OU=Groups,DC=example,DC=org" = "reader", "PACS-Admins" = "admin"}. Of several the highest
    counts; who is in none of them is refused."""
    senders: GroupSenders
    """Senders whose studies each group sees, as senders = {"CN=Room 3,DC=example,DC=org" = ["US3"]}. Of
    several groups all of theirs; who is in no group of this table, and an admin, sees all studies."""
    authorities: Path | None = None
    """PEM file of the CAs for the directory's certificate; not set: the system's CAs."""
    seconds: float = Field(10, gt=0, le=25)
    """How long all questions to the directory at one sign-in may take."""

    @model_validator(mode="after")
    def _is_encrypted(self) -> Self:
        parts = urlsplit(self.url)
        if parts.scheme == "ldaps" and self.start_tls:
            raise ValueError("start_tls is for ldap://: ldaps:// has TLS from its first byte")
        if parts.scheme == "ldap" and not self.start_tls and parts.hostname not in LOOPBACK:
            raise ValueError("passwords would cross the network unencrypted: ldaps://, or start_tls = true")
        if not self.bind_password.get_secret_value():
            raise ValueError("bind_password is empty: set the password of bind_dn")
        return self
