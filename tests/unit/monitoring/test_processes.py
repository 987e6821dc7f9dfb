"""Which processes of a site live, as its nodes tell the database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dicom_node.events import PROCESS_BACK, PROCESS_LOST
from dicom_node.monitoring import processes
from dicom_node.monitoring.processes import SIGN_SECONDS, SILENT_SECONDS, Sign
from dicom_node.store import migrate
from dicom_node.store.database import Database
from dicom_node.store.tables import EventRow
from tests.inbox_lab import Inbox
from tests.unit.monitoring.site_of_two import LISTENER, SiteOfTwo


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.debian("postgresql"))])
def site(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SiteOfTwo]:
    sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'node.db'}" if sqlite else request.getfixturevalue("postgres_url")
    database = Database(url)
    migrate.upgrade(database)
    yield SiteOfTwo(database, monkeypatch)
    database.dispose()


def told(site: SiteOfTwo) -> list[tuple[int, str, str]]:
    with site.database.read() as session:
        rows = session.scalars(select(EventRow).order_by(EventRow.id))
        return sorted((row.number, row.fields["machine"], row.fields["process"]) for row in rows)


def shown(site: SiteOfTwo) -> dict[tuple[str, str], dict[str, Any]]:
    with site.database.read() as session:
        return {(row["machine"], row["process"]): row for row in processes.processes(session)}


def test_a_silent_machine_is_told_once_and_its_return_too(site: SiteOfTwo) -> None:
    site.pass_time(60, site.a, site.b)
    assert {row["state"] for row in shown(site).values()} == {"alive"}
    site.pass_time(60, site.a)
    found = shown(site)
    assert found["B", "main"]["state"] == found["B", "listener"]["state"] == "lost"
    assert found["B", "listener"]["silent_seconds"] == 62
    assert found["A", "listener"]["state"] == "alive"
    lost = [(PROCESS_LOST.number, "B", "listener"), (PROCESS_LOST.number, "B", "main")]
    assert told(site) == lost
    site.pass_time(20, site.a, site.node("B", "listener-2"))
    assert told(site) == [*lost, *((PROCESS_BACK.number, *names) for _, *names in lost)]
    assert {row["state"] for row in shown(site).values()} == {"alive"}


def test_a_silent_machine_is_told_of_when_its_time_is_up(site: SiteOfTwo) -> None:
    site.pass_time(30, site.a, site.b)
    site.pass_time(SILENT_SECONDS - SIGN_SECONDS, site.a)
    assert told(site) == []
    site.pass_time(SIGN_SECONDS, site.a)
    assert len(told(site)) == 2


def test_a_process_that_hangs_or_died_is_lost_though_its_node_lives(site: SiteOfTwo) -> None:
    site.pass_time(30, site.a)
    since = shown(site)["A", "listener"]["since"]
    for hangs in (Sign("listener", 12, 45.0), Sign("listener", None, 0.0)):
        site.pass_time(60, site.a, signs=[Sign("main", 11), hangs])
        assert shown(site)["A", "listener"]["state"] == "lost"
    assert told(site) == [(PROCESS_LOST.number, "A", "listener")]
    site.pass_time(10, site.a, signs=[Sign("main", 11), Sign("listener", 13)])
    assert shown(site)["A", "listener"]["pid"] == 13
    assert shown(site)["A", "listener"]["since"] > since


def test_nobody_is_missed_who_left_in_good_order_or_was_taken_out_of_the_settings(site: SiteOfTwo) -> None:
    site.pass_time(30, site.a, site.b, signs=[*LISTENER, Sign("worker-2", 14)])
    site.b.leave()
    site.b.report(LISTENER, [])  # of a timer that had begun before
    site.pass_time(60, site.a)
    assert set(shown(site)) == {("A", "main"), ("A", "listener")}
    assert told(site) == []


def test_after_a_time_without_database_nobody_counts_as_lost(site: SiteOfTwo) -> None:
    site.pass_time(30, site.a, site.b)
    site.pass_time(600)
    site.pass_time(10, site.a)  # the first one that the database has again
    site.pass_time(30, site.a, site.b)
    assert told(site) == []


def test_a_clock_that_was_an_hour_ahead_hides_no_loss(site: SiteOfTwo) -> None:
    site.pass_time(30, site.a, site.b)
    site.now -= timedelta(hours=1)
    site.pass_time(90, site.a)
    assert {machine for _, machine, _ in told(site)} == {"B"}
    assert shown(site)["A", "main"]["state"] == "alive"


def test_a_machine_that_came_back_under_another_place_is_no_longer_missed(site: SiteOfTwo) -> None:
    site.pass_time(30, site.a, site.b)
    site.pass_time(60, site.a)
    back = site.node("B", "listener-3")
    back.report(LISTENER, ["listener-3"])
    assert {(row["machine"], row["place"]) for row in shown(site).values()} == {
        ("A", "listener-1"),
        ("B", "listener-3"),
    }


def test_what_is_lost_is_forgotten_by_hand_or_after_a_week(site: SiteOfTwo, inbox: Inbox) -> None:
    site.pass_time(30, site.a, site.b)
    site.pass_time(60, site.a)
    site.now += timedelta(days=6)
    site.pass_time(10, site.a)
    processes.forget_lost(site.database, inbox.settings)
    assert len(shown(site)) == 4
    with site.database.write() as session:
        assert processes.forget_machine(session, "A") == 0
        assert processes.forget_machine(session, "B") == 2
    site.pass_time(30, site.a, site.b)
    site.pass_time(60, site.a)
    site.now += timedelta(days=8)
    site.pass_time(10, site.a)
    processes.forget_lost(site.database, inbox.settings)
    assert set(shown(site)) == {("A", "main"), ("A", "listener")}


def test_the_command_line_lists_and_forgets(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dicom_node import cli

    config = inbox.folder.parent / "node.toml"
    config.write_text(f'[node]\ndata_dir = "{inbox.settings.node.data_dir}"\n', encoding="utf-8")

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            cli.main(["processes", *words, "--config", str(config)])
        return int(end.value.code or 0), capsys.readouterr().out

    with monkeypatch.context() as patch:
        site = SiteOfTwo(inbox.database, patch)
        site.now -= timedelta(minutes=2)
        site.pass_time(30, site.a, site.b)
        site.pass_time(60, site.a)
    status, text = run("list", "--json")
    assert status == 0
    assert {row["machine"]: row["state"] for row in json.loads(text)} == {"A": "lost", "B": "lost"}
    assert run("forget", "C")[0] != 0
    assert run("forget", "B") == (0, "Forgotten: 2\n")
