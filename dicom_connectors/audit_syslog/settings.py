"""``[audit]``: where audit messages go."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from dicom_node.base.config.section import Section


def _host_and_port(place: str) -> str:
    """Return ``place`` if it is "" or has the form HOST:PORT. Raises ValueError for any other text."""
    if place and not re.fullmatch(r"([^\s:]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}", place):
        raise ValueError("write it as HOST:PORT, such as audit.example.org:6514")
    return place


class AuditSettings(Section):
    """``[audit]``: where audit messages go (PS3.15 A.5); the node's own audit table is always written."""

    syslog: Annotated[str, AfterValidator(_host_and_port)] = Field("", examples=["audit.example.org:6514"])
    """HOST:PORT of the repository, such as audit.example.org:6514; empty: nothing is sent."""
    transport: Literal["tls", "udp"] = "tls"
    """tls (RFC 5425), or udp (RFC 5426): unencrypted and without confirmation."""
    authorities: Path | None = Field(None, examples=["tls/house-ca.pem"])
    """PEM file of the CAs for the repository's certificate; not set: the system's CAs."""
    certificate: Path | None = Field(None, examples=["tls/node-with-key.pem"])
    """PEM file with our certificate and its key, where the repository wants one."""
    site: str = Field("", max_length=255, examples=["hospital"])
    """Audit Enterprise Site ID."""
    seconds: float = Field(20, gt=0, le=25)
    """How long the sending of up to 100 messages may take."""


class AuditPart(Section):
    """Mixin that adds the table ``[audit]`` to the node's settings."""

    audit: AuditSettings = AuditSettings()
