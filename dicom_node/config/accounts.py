"""The settings that all sources of hospital accounts share: groups, and the role that each gives."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from dicom_node.config.sections import AeTitle
from dicom_node.model.roles import UserRole

LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
"""Hosts that need no encryption: what goes there stays on this machine."""
Group = Annotated[str, Field(min_length=1, max_length=512)]
GroupRoles = Annotated[dict[Group, UserRole], Field(min_length=1)]
GroupSenders = Annotated[dict[Group, tuple[AeTitle, ...]], Field(default_factory=dict)]
