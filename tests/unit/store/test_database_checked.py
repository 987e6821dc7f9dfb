"""What ``dicom-node check`` says of a PostgreSQL that may forget, or may not be the one that takes writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import make_url

from dicom_node import preflight
from dicom_node.store import migrate
from dicom_node.store.database import Database


def warnings(folder: Path, url: str) -> list[str]:
    config = folder / "node.toml"
    config.write_text(
        f'[node]\ndata_dir = "{folder / "var"}"\ndatabase_url = "{url}"\n[workers]\nprocesses = 0\n',
        encoding="utf-8",
    )
    return [line.text for line in preflight.check_and_probe([config]).tried if not line.ok]


@pytest.mark.debian("postgresql")
def test_a_server_that_forgets_what_it_committed_is_told(postgres_url: str, tmp_path: Path) -> None:
    migrate.upgrade(Database(postgres_url))
    told = warnings(tmp_path, postgres_url)
    assert any(line.startswith("fsync and synchronous_commit off") for line in told)
    commits = make_url(postgres_url).update_query_dict({"options": "-csynchronous_commit=on"})
    told = warnings(tmp_path, str(commits))
    assert any(line.startswith("fsync off") for line in told)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("host=::1,localhost", True),
        ("host=::1,localhost&target_session_attrs=read-write", False),
        ("host=localhost", False),
        ("host=/run/postgresql", False),
    ],
)
def test_several_servers_of_which_one_may_not_write_are_told(tmp_path: Path, query: str, told: bool) -> None:
    tried = warnings(tmp_path, f"postgresql+psycopg://me@/node?{query}")
    assert any("target_session_attrs" in line for line in tried) is told


@pytest.mark.parametrize(
    ("query", "seconds"), [("", 10), ("?host=a,b&port=1,2", 5), ("?connect_timeout=3", 3)]
)
def test_several_servers_together_get_the_time_of_one(query: str, seconds: int) -> None:
    """Longer, and the leases of jobs and deliveries would end while it is waited."""
    at = "" if "host" in query else "127.0.0.1"
    database = Database(f"postgresql+psycopg://me@{at}/node{query}")
    told: dict[str, Any] = {}

    @event.listens_for(database.engine, "do_connect")
    def stop(_dialect: object, _record: object, _words: object, named: dict[str, Any]) -> None:
        told.update(named)
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        database.engine.connect()
    assert int(told["connect_timeout"]) == seconds
