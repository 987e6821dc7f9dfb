"""Processes of nodes that share a database: which are alive, which are lost, and who is told of it."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from dicom_node.base.config.settings import Settings
from dicom_node.base.events import NODE_KILLED, PROCESS_BACK, PROCESS_LOST
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import (
    EventRow,
)
from dicom_node.base.store.transitions import utc_now
from dicom_node.people import audit, processes
from tests.peers import a_receiver
from tests.rows import Stored

LISTENER = [processes.Sign("main", 11), processes.Sign("listener", 12, 2.0)]


class SiteOfTwo(Stored):
    """``a`` and ``b`` tell of their processes when time passes; ``now`` is the database's time."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database, self._patch = database, monkeypatch
        self.now: datetime = utc_now()
        monkeypatch.setattr(processes, "database_time", lambda _session: self.now)
        self.a, self.b = self.node("A", "listener-1"), self.node("B", "listener-2")

    def node(self, machine: str, place: str) -> processes.SignsOfLife:
        """A node that has just started there."""
        self._patch.setattr(audit, "machine_name", lambda: machine)
        return processes.SignsOfLife(self.database, place, f"{machine}/{place}")

    def pass_time(
        self, seconds: float, *living: processes.SignsOfLife, signs: list[processes.Sign] = LISTENER
    ) -> None:
        """So much time, in which these nodes tell of themselves every ten seconds."""
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            self.now += timedelta(seconds=min(processes.SIGN_SECONDS, (end - self.now).total_seconds()))
            for node in living:
                node.report(signs, ["listener-1", "listener-2"])


@pytest.fixture
def site(database: Database, monkeypatch: pytest.MonkeyPatch) -> SiteOfTwo:
    """Two nodes on machines A and B with one database, and the clock of that database."""
    return SiteOfTwo(database, monkeypatch)


def lost_and_back(site: SiteOfTwo) -> list[tuple[int, str, str]]:
    rows = site.scalars(select(EventRow).order_by(EventRow.id))
    return sorted((row.number, row.fields["machine"], row.fields["process"]) for row in rows)


def shown(site: SiteOfTwo) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["machine"], row["process"]): row for row in site.read(processes.list_processes)}


def test_a_silent_machine_is_told_once_and_its_return_too(site: SiteOfTwo) -> None:
    site.pass_time(60, site.a, site.b)
    assert {row["state"] for row in shown(site).values()} == {"alive"}
    site.pass_time(60, site.a)
    found = shown(site)
    assert found["B", "main"]["state"] == found["B", "listener"]["state"] == "lost"
    assert (found["B", "listener"]["silent_seconds"], found["A", "listener"]["state"]) == (62, "alive")
    lost = [(PROCESS_LOST.number, "B", "listener"), (PROCESS_LOST.number, "B", "main")]
    assert lost_and_back(site) == lost
    site.pass_time(20, site.a, site.node("B", "listener-2"))
    assert lost_and_back(site) == [*lost, *((PROCESS_BACK.number, *names) for _, *names in lost)]
    assert {row["state"] for row in shown(site).values()} == {"alive"}


def test_a_process_that_hangs_or_died_is_lost_though_its_node_lives(site: SiteOfTwo) -> None:
    site.pass_time(30, site.a)
    since = shown(site)["A", "listener"]["since"]
    for hangs in (processes.Sign("listener", 12, 45.0), processes.Sign("listener", None, 0.0)):
        site.pass_time(60, site.a, signs=[processes.Sign("main", 11), hangs])
        assert shown(site)["A", "listener"]["state"] == "lost"
    assert lost_and_back(site) == [(PROCESS_LOST.number, "A", "listener")]
    site.pass_time(10, site.a, signs=[processes.Sign("main", 11), processes.Sign("listener", 13)])
    assert shown(site)["A", "listener"]["pid"] == 13
    assert shown(site)["A", "listener"]["since"] > since


def test_nobody_is_missed_who_left_in_good_order_or_was_taken_out_of_the_settings(site: SiteOfTwo) -> None:
    site.pass_time(30, site.a, site.b, signs=[*LISTENER, processes.Sign("worker-2", 14)])
    site.b.leave()
    site.b.report(LISTENER, [])  # of a timer that had begun before
    site.pass_time(60, site.a)
    assert set(shown(site)) == {("A", "main"), ("A", "listener")}
    assert lost_and_back(site) == []


def test_after_a_time_without_database_nobody_counts_as_lost(site: SiteOfTwo) -> None:
    site.pass_time(30, site.a, site.b)
    site.pass_time(600)
    site.pass_time(10, site.a)  # the first one that the database has again
    site.pass_time(30, site.a, site.b)
    assert lost_and_back(site) == []


def test_a_clock_that_was_an_hour_ahead_hides_no_loss(site: SiteOfTwo) -> None:
    site.pass_time(30, site.a, site.b)
    site.now -= timedelta(hours=1)
    site.pass_time(90, site.a)
    assert {machine for _, machine, _ in lost_and_back(site)} == {"B"}
    assert shown(site)["A", "main"]["state"] == "alive"


@pytest.mark.parametrize(
    ("place", "name", "task"),
    [
        ("listener-1", "listener", "receive"),
        ("worker-2", "worker-1", "analyse"),
        ("worker-2", "main", "deliver"),
        ("delivery-1", "main", "deliver"),
    ],
)
def test_a_task_is_done_by_a_living_process_of_its_role(
    site: SiteOfTwo, place: str, name: str, task: str
) -> None:
    settings = Settings.model_validate(
        {
            "peers": [a_receiver("pacs")],
            "rules": [
                {"name": "us", "when": {"modality": "US"}, "pipeline": "ultrasound", "send_to": ["pacs"]}
            ],
        }
    )
    tasks = {"receive": 0, "analyse": 0, "deliver": 0}
    assert site.read(processes.working, settings) == tasks
    node = site.node("A", place)
    site.pass_time(10, node, signs=[processes.Sign(name, 11)])
    assert site.read(processes.working, settings) == tasks | {task: 1}
    site.pass_time(60)
    assert site.read(processes.working, settings) == tasks
    assert site.read(processes.working, Settings()) == {"receive": 0}, "nothing else is wanted"


@pytest.mark.parametrize("stopped", [False, True], ids=["killed", "stopped"])
def test_a_node_says_at_its_start_that_the_run_before_ended_without_a_stop(
    site: SiteOfTwo, stopped: bool
) -> None:
    site.pass_time(20, site.a)
    last = site.now
    if stopped:
        site.a.leave()
    site.now += timedelta(seconds=300)
    site.node("A", "listener-1").note_killed()
    site.node("A", "worker-1").note_killed()
    rows = site.scalars(select(EventRow).where(EventRow.number == NODE_KILLED.number))
    told = {"node": "A/listener-1", "between": f"{last:%Y-%m-%dT%H:%M:%SZ} and {site.now:%Y-%m-%dT%H:%M:%SZ}"}
    assert [row.fields for row in rows] == ([] if stopped else [told])
