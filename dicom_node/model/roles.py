"""Which part of a node a machine is; what a person may do at the console."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What a process and its children do."""

    ALL = "all"
    LISTENER = "listener"
    """Receive, index, assemble."""
    WORKER = "worker"
    """Run models, deliver."""

    @property
    def receives(self) -> bool:
        """Whether it listens."""
        return self is not Role.WORKER

    @property
    def works(self) -> bool:
        """Whether it runs models and delivers."""
        return self is not Role.LISTENER


class UserRole(StrEnum):
    """What a person may do at the console; each may do what the ones before it may."""

    VIEWER = "viewer"
    """See studies, jobs, deliveries."""
    READER = "reader"
    """Say whether findings are right."""
    OPERATOR = "operator"
    """Run again, send again, cancel, upload."""
    ADMIN = "admin"
    """See who did what."""

    def includes(self, other: UserRole) -> bool:
        """Whether this role may do what the other may."""
        order = list(UserRole)
        return order.index(self) >= order.index(other)
