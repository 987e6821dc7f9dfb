"""Which part of a node a machine is."""

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
