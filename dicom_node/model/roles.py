"""The role of a machine in a node, and the role of a person at the console."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """The work of a process and its children. Each part of the node has a role; two roles include several."""

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
        """The role of the node at a place of the data folder: WORKER for ``worker-2``."""
        return cls(place.partition("-")[0])

    @property
    def receives(self) -> bool:
        """Whether a node with this role listens for associations."""
        return self in (Role.ALL, Role.LISTENER)

    @property
    def may_serve_console(self) -> bool:
        """Whether a node with this role serves the console, if the console is enabled."""
        return self.receives or self is Role.CONSOLE

    @property
    def indexes(self) -> bool:
        """Whether a node with this role writes objects to the spool and takes part in indexing them."""
        return self.may_serve_console

    @property
    def keeps_time(self) -> bool:
        """Whether a node with this role may run the site's timers; one node at a time runs them."""
        return self.receives or self is Role.SCHEDULER

    @property
    def runs_models(self) -> bool:
        """Whether a node with this role has worker processes."""
        return self in (Role.ALL, Role.WORKER)

    @property
    def may_deliver(self) -> bool:
        """Whether a node with this role delivers results, unless ``outbox.deliver`` is false."""
        return self.runs_models or self is Role.DELIVERY


class UserRole(StrEnum):
    """A person's rights at the console; each role includes the rights of the roles before it."""

    VIEWER = "viewer"
    """See studies, jobs, deliveries."""
    READER = "reader"
    """Say whether findings are right."""
    OPERATOR = "operator"
    """Run again, send again, cancel, upload."""
    ADMIN = "admin"
    """See who did what."""

    def includes(self, other: UserRole) -> bool:
        """Whether this role includes the rights of ``other``."""
        order = list(UserRole)
        return order.index(self) >= order.index(other)
