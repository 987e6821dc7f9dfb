"""A study's life on a database, and on a disk, that fails at each step: nothing is lost, no try used up."""

import errno
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dicom_node.base import events
from dicom_node.base.lifecycle import JobState
from dicom_node.base.store.tables import Delivery, Result, Withdrawal
from tests.faults.life_lab import DiskFaults, Faults, Life
from tests.postgres_lab import POSTGRESQL, Postgres

_ONCE = (events.STUDY_COMPLETE, events.JOB_SUCCEEDED)


def assert_is_whole(life: Life) -> None:
    """Everything happened, and what is to happen once happened once."""
    node, results = life.node, 2
    [job] = node.jobs()
    assert (job.state, job.tries) == (JobState.SUCCEEDED, 1)
    assert node.outcomes() == ["new", "new"]
    assert len(node.rows(Withdrawal)) == results
    assert set(node.column(Delivery.refusals)) == {0}
    sent = [*life.shelves["pacs"].sent, *life.shelves["archive"].sent]
    assert set(Counter(sent)) == set(node.column(Result.sop_instance_uid))
    assert life.shelves["archive"].held == set()
    numbers = Counter(event.number for event in node.events())
    assert {event: numbers[event.number] for event in _ONCE} == dict.fromkeys(_ONCE, 1)
    assert numbers[events.RESULT_WITHDRAWN.number] == results


@pytest.mark.parametrize("kind", ["locked", pytest.param("cut off", marks=POSTGRESQL)])
def test_a_database_that_fails_at_any_statement_loses_nothing_and_uses_up_no_try(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    url, faults = "", Faults(sqlite3.OperationalError("database is locked"), share=10)
    if kind == "cut off":
        url, server = request.getfixturevalue("postgres_url"), request.getfixturevalue("postgres")
        faults = Faults(psycopg.OperationalError("the connection is lost"), _cut(server), share=20)
    life = Life(tmp_path / "var", url)
    with faults.injected():
        life.run()
    assert_is_whole(life)
    life.node.close()


def _cut(server: Postgres) -> Callable[[Any], object]:
    """What ends the server's process of a connection."""
    end = "SELECT pg_terminate_backend(%s, 2000)"  # milliseconds that it waits for it

    def cut(connection: psycopg.Connection) -> None:
        with server.connect() as ours:
            ours.execute(end, [connection.info.backend_pid])

    return cut


def test_a_disk_that_fails_at_any_call_loses_nothing_and_uses_up_no_try(tmp_path: Path) -> None:
    life = Life(tmp_path / "var", "")
    numbers = [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOSPC, errno.EROFS]
    with DiskFaults(tmp_path / "var", numbers, share=4).injected():
        life.run()
    assert_is_whole(life)
    life.node.close()
