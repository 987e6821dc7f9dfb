"""PostgreSQL is killed and its standby promoted; a worker loses the network to its database."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.base.errors import LeaseLost
from dicom_node.base.lifecycle import JobState, StudyState
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Delivery, EventRow, ReceivedObject, Result, Study
from dicom_node.jobs.queue import JobQueue
from dicom_node.studies.reconciliation import compare
from tests.faults.fault_lab import image, node_on, results_of, work_and_deliver
from tests.faults.pair_lab import Pair, start_pair
from tests.hostile.valve import valve_before
from tests.inbox_lab import Inbox
from tests.node_lab import Node, running, site_config, store
from tests.pacs_lab import Pacs, run_pacs
from tests.postgres_lab import POSTGRESQL
from tests.unit.jobs.queue_lab import WORKERS, add_job, add_study, claimed, event_numbers, job_row
from tests.waiting import wait_until


@pytest.fixture
def pair() -> Iterator[Pair]:
    with start_pair() as started:
        yield started


@POSTGRESQL
def test_a_node_receives_without_its_database_and_goes_on_with_the_standby(
    tmp_path: Path, pair: Pair
) -> None:
    """Synchronous: what the node has committed is on the standby. It is not started again, nor told."""
    url = pair.new_database()
    database = Database(url)
    database.upgrade()
    pair.be_synchronous()
    with (
        run_pacs(Pacs()) as pacs,
        running(Node(tmp_path, site_config(pacs.port, lease=5), database_url=url)) as node,
    ):
        assert store(node.port, [image("before")], "US1") == [0x0000]
        node.wait_for(["delivered"])
        pair.kill_primary()
        assert store(node.port, [image("between", n) for n in (1, 2)], "US1") == [0x0000] * 2
        with pytest.raises(SQLAlchemyError), database.read() as session:
            session.scalars(select(Study.id)).all()
        pair.promote()
        assert store(node.port, [image("after"), image("before")], "US1") == [0x0000] * 2
        node.wait_for(["delivered"], count=3)
        wait_until(lambda: not any((tmp_path / "var/spool/incoming").glob("*.dcm")), what="indexed")
        with database.read() as session:
            received = Counter(str(outcome) for outcome in session.scalars(select(ReceivedObject.outcome)))
            results = set(session.scalars(select(Result.sop_instance_uid)))
            deliveries = set(session.scalars(select(Delivery.state)))
    database.dispose()
    assert received == {"new": 4, "duplicate": 1}
    assert deliveries == {"confirmed"}
    assert len(results) == 3
    assert Counter(pacs.received) == dict.fromkeys(results, 1), "each result was sent once"


@POSTGRESQL
def test_synchronous_nothing_is_committed_that_the_standby_did_not_get(tmp_path: Path, pair: Pair) -> None:
    """A commit that the standby does not confirm does not return: no file moves, nothing is sent."""
    url = pair.new_database()
    with run_pacs(Pacs()) as pacs:
        node = node_on(url, tmp_path / "var", pacs)
        node.receive(image("copied"))
        work_and_deliver(node)
        pair.be_synchronous()
        pair.catch_up()
        pair.stop_sending()
        name = node.receive(image("waits"))[0]
        ended: list[type[Exception]] = []

        def index() -> None:
            try:
                node.index()
            except SQLAlchemyError as error:
                ended.append(type(error))

        thread = threading.Thread(target=index, daemon=True)
        thread.start()
        asked = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        with pair.primary.connect() as connection:
            wait_until(lambda: connection.execute(asked).fetchone(), what="the commit waits for the standby")
        assert (tmp_path / "var/spool/incoming" / f"{name}.dcm").exists(), (
            "its file is moved after the commit"
        )
        pair.kill_primary()
        thread.join(60)
        assert ended, "the commit did not return"
        pair.promote()
        wait_until(lambda: answers(node), what="the standby answers on the pool's connections")
        work_and_deliver(node)
        assert not str(compare(*node.stores))
        assert sorted(node.outcomes()) == ["new", "new"]
        assert node.column(Study.state) == [StudyState.DELIVERED] * 2
        assert Counter(pacs.received) == dict.fromkeys(results_of(node), 1)
        node.close()


def answers(node: Inbox) -> bool:
    try:
        with node.database.read() as session:
            session.scalars(select(EventRow.id).limit(1)).all()
    except SQLAlchemyError:
        return False
    return True


@POSTGRESQL
def test_the_job_of_a_worker_without_network_is_taken_over_and_ends_once(postgres_url: str) -> None:
    here = Database(postgres_url)
    here.upgrade()
    number = add_job(here, add_study(here))
    with valve_before(make_url(postgres_url).port) as valve:
        away = Database(make_url(postgres_url).set(port=valve.port).render_as_string(hide_password=False))
        workers = WORKERS.model_copy(update={"lease_seconds": 2})
        lonely, other = JobQueue(away, workers), JobQueue(here, workers)
        job = claimed(lonely, "elsewhere/1/1/a")
        lonely.heartbeat(job, 0.1, "works")
        assert other.claim("elsewhere/2/1/b") is None
        valve.cut()
        begun = time.monotonic()
        with pytest.raises(SQLAlchemyError):
            lonely.heartbeat(job, 0.2, "works")
        assert time.monotonic() - begun < 30, "it waits for an answer"
        wait_until(lambda: other.reap() == 1, 10 * workers.lease_seconds, "its job is taken back")
        taken = claimed(other, "elsewhere/2/1/b")
        assert (taken.id, taken.attempts) == (number, 2)

        valve.mend()
        with pytest.raises(LeaseLost):
            lonely.heartbeat(job, 0.3, "works")
        with pytest.raises(LeaseLost), away.write() as session:
            lonely.complete_if_owner(session, job, JobState.SUCCEEDED)
        with here.write() as session:
            other.complete_if_owner(session, taken, JobState.SUCCEEDED)
        away.dispose()
    assert job_row(here, number).state is JobState.SUCCEEDED
    assert event_numbers(here).count(3003) == 1
    assert event_numbers(here).count(3009) == 1
    here.dispose()
