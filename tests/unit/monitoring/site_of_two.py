"""Two nodes on machines A and B with one database, and the clock of that database."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from dicom_node.monitoring import processes
from dicom_node.monitoring.processes import SIGN_SECONDS, Sign, SignsOfLife
from dicom_node.store.database import Database
from dicom_node.store.transitions import utc_now

LISTENER = [Sign("main", 11), Sign("listener", 12, 2.0)]


class SiteOfTwo:
    """``a`` and ``b`` tell of their processes when time passes; ``now`` is the database's time."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database = database
        self.now: datetime = utc_now()
        monkeypatch.setattr(processes, "database_time", lambda _session: self.now)
        self.a, self.b = self.node("A", "listener-1"), self.node("B", "listener-2")

    def node(self, machine: str, place: str) -> SignsOfLife:
        """A node that has just started there."""
        life = SignsOfLife(self.database, place, f"{machine}/{place}")
        life._machine = machine
        return life

    def pass_time(self, seconds: float, *living: SignsOfLife, signs: list[Sign] = LISTENER) -> None:
        """So much time, in which these nodes tell of themselves every ten seconds."""
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            self.now += timedelta(seconds=min(SIGN_SECONDS, (end - self.now).total_seconds()))
            for node in living:
                node.report(signs, ["listener-1", "listener-2"])
