"""The clock of a machine, or of the database, is put back by an hour: nothing waits for that hour, nothing is
lost, and nothing is done twice or too early."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from dicom_node import background
from dicom_node.background import Background
from dicom_node.errors import LeaseLost
from dicom_node.events import CLOCK_PUT_BACK, EventType
from dicom_node.jobs.queue import JobQueue
from dicom_node.model.lifecycle import DeliveryState
from dicom_node.model.roles import Role
from dicom_node.store import deliveries, leases, migrate
from dicom_node.store.database import Database
from dicom_node.store.tables import Delivery, Job
from dicom_node.store.transitions import utc_now
from dicom_node.studies.purge import purge
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.jobs.queue_lab import WORKERS, add_job, add_study
from tests.unit.jobs.worker_lab import configuration, confirm, register, work

HOUR = timedelta(hours=1)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.debian("postgresql"))])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'node.db'}" if sqlite else request.getfixturevalue("postgres_url")
    database = Database(url)
    migrate.upgrade(database)
    yield database
    database.dispose()


def claim(queue: JobQueue, owner: str) -> Any:
    job = queue.claim(owner)
    assert job is not None
    return job


def test_a_lease_of_before_is_given_to_the_next_and_not_after_an_hour(database: Database) -> None:
    assert leases.acquire(database, "scheduler", "the dead", 15)
    assert not leases.acquire(database, "scheduler", "the living", 15)
    with database.write() as session:
        session.execute(text("UPDATE lease SET until = :until"), {"until": utc_now() + HOUR})
    assert leases.acquire(database, "scheduler", "the living", 15)


def test_a_failed_try_of_before_is_made_again_at_once(database: Database) -> None:
    queue = JobQueue(database, WORKERS)
    number = add_job(database, add_study(database))
    queue.retry_at(claim(queue, "elsewhere/1/1/a"), utc_now() + HOUR, "the disk was full")
    assert queue.claim("elsewhere/1/1/a") is None
    queue.clock_put_back()
    assert claim(queue, "elsewhere/2/1/b").id == number


@pytest.mark.debian("postgresql")
def test_a_worker_killed_before_the_clock_of_the_database_was_put_back_loses_its_job(
    postgres_url: str,
) -> None:
    """Its last sign of life is of a time ahead; one that lives keeps its job meanwhile."""
    database = Database(postgres_url)
    migrate.upgrade(database)
    queue = JobQueue(database, WORKERS)
    for name in ("1", "2"):
        add_job(database, add_study(database, name))
    dead, living = claim(queue, "elsewhere/1/1/a"), claim(queue, "elsewhere/2/1/b")
    with database.write() as session:
        session.execute(text("UPDATE procrastinate_workers SET last_heartbeat = now() + interval '1 hour'"))
    end = time.monotonic() + 2 * WORKERS.lease_seconds
    taken = 0
    while time.monotonic() < end and not taken:
        taken = queue.reap()
        queue.heartbeat(living, 0.5, "works")
        time.sleep(0.1)
    assert taken == 1
    with pytest.raises(LeaseLost):
        queue.heartbeat(dead, 0.5, "works")
    assert claim(queue, "elsewhere/3/1/c").id == dead.id
    database.dispose()


def test_a_node_notices_that_its_clock_was_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    inbox = Inbox(tmp_path / "var", configuration())
    inbox.receive(ultrasound("one", size=(48, 40)))
    inbox.settle()
    with inbox.database.write() as session:
        session.query(Job).update({"run_at": utc_now() + HOUR})
    said: list[tuple[EventType, dict[str, Any]]] = []

    def say(kind: EventType, **fields: Any) -> None:
        said.append((kind, fields))

    node = Background(inbox.database, inbox.settings, Role.ALL, "all", say, 0)
    node._watch_clock()
    assert (said, work(inbox)) == ([], 0)
    ahead = background._ahead()
    monkeypatch.setattr(background, "_ahead", lambda: ahead - HOUR.total_seconds())
    node._watch_clock()
    node._watch_clock()
    assert [(kind, fields["seconds"]) for kind, fields in said] == [(CLOCK_PUT_BACK, 3600)]
    assert work(inbox) == 1
    inbox.close()


def test_what_waits_for_a_peer_is_sent_at_once_and_nothing_is_deleted_early(tmp_path: Path) -> None:
    register()
    inbox = Inbox(tmp_path / "var", configuration() | {"spool": {"minimum_free_mib": 1, "keep_days": 1}})
    inbox.receive(ultrasound("one", size=(48, 40)))
    inbox.settle()
    work(inbox)
    with inbox.database.write() as session:
        session.query(Delivery).update({"next_at": utc_now() + HOUR})
    with inbox.database.read() as session:
        assert deliveries.due_destinations(session, utc_now()) == []
    with inbox.database.write() as session:
        deliveries.clock_put_back(session, utc_now())
        assert deliveries.due_destinations(session, utc_now()) == ["pacs"]
    confirm(inbox)
    with inbox.database.read() as session:
        assert {row.state for row in session.query(Delivery)} == {DeliveryState.CONFIRMED}
    assert purge(inbox.database, inbox.settings, utc_now() - HOUR) == 0
    assert purge(inbox.database, inbox.settings, utc_now() + timedelta(days=1) - HOUR) == 0
    assert purge(inbox.database, inbox.settings, utc_now() + timedelta(days=1) + HOUR) == 1
    inbox.close()
