"""Which part of a node a machine is; what a person may do at the console."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What a process and its children do. Each part of it has a role of its own; two roles have several."""

    ALL = "all"
    LISTENER = "listener"
    """Receive, index, assemble, timers, and the console where it is switched on."""
    WORKER = "worker"
    """Run models, deliver."""
    DELIVERY = "delivery"
    SCHEDULER = "scheduler"
    """Timers only."""
    CONSOLE = "console"
    """Serve it, and index what is uploaded there."""

    @classmethod
    def at(cls, place: str) -> Role:
        """Of a node by its place on the data folder: ``worker-2``."""
        return cls(place.partition("-")[0])

    @property
    def receives(self) -> bool:
        """Whether it listens."""
        return self in (Role.ALL, Role.LISTENER)

    @property
    def may_serve_console(self) -> bool:
        """Whether it serves the console, where that is switched on."""
        return self.receives or self is Role.CONSOLE

    @property
    def indexes(self) -> bool:
        """Whether it puts objects into the spool, and takes its turn at indexing and assembling them."""
        return self.may_serve_console

    @property
    def keeps_time(self) -> bool:
        """Whether it takes its turn at the timers that a site has once."""
        return self.receives or self is Role.SCHEDULER

    @property
    def runs_models(self) -> bool:
        """Whether it has worker processes."""
        return self in (Role.ALL, Role.WORKER)

    @property
    def may_deliver(self) -> bool:
        """Whether it delivers, where ``outbox.deliver`` does not say otherwise."""
        return self.runs_models or self is Role.DELIVERY


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
