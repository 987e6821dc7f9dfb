"""The database machine is lost and its standby takes its place: nothing is lost, or what is lost is found.

Debian's PostgreSQL with streaming replication, both servers on this machine.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.model.lifecycle import StudyState
from dicom_node.store import migrate
from dicom_node.store.database import Database
from dicom_node.store.tables import Delivery, EventRow, ReceivedObject, Result, Study
from dicom_node.studies.comparison import compare, reindex
from tests.drill_lab import node_on, results_of, work
from tests.failover_lab import Pair, start_pair
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.node_lab import Node, running, site_config, store
from tests.pacs_lab import Pacs, free_port, run_pacs
from tests.waiting import wait_until

pytestmark = pytest.mark.debian("postgresql")


@pytest.fixture
def pair() -> Iterator[Pair]:
    with start_pair() as started:
        yield started


def image(name: str, number: int = 1) -> Dataset:
    return ultrasound(name, number=number, size=(48, 40))


def states(node: Inbox) -> list[StudyState]:
    with node.database.read() as session:
        return list(session.scalars(select(Study.state)))


def test_a_node_receives_without_its_database_and_goes_on_with_the_standby(
    tmp_path: Path, pair: Pair
) -> None:
    """Synchronous: what the node has committed is on the standby. It is not started again, nor told."""
    url = pair.new_database()
    database = Database(url)
    migrate.upgrade(database)
    pair.be_synchronous()
    with run_pacs(Pacs(free_port())) as pacs:
        config = site_config(pacs.port, lease=5)
        with running(Node(tmp_path, config, database_url=url)) as node:
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
                received = Counter(
                    str(outcome) for outcome in session.scalars(select(ReceivedObject.outcome))
                )
                results = set(session.scalars(select(Result.sop_instance_uid)))
                deliveries = set(session.scalars(select(Delivery.state)))
    database.dispose()
    assert received == {"new": 4, "duplicate": 1}
    assert deliveries == {"confirmed"}
    assert len(results) == 3
    assert Counter(pacs.received) == dict.fromkeys(results, 1), "each result was sent once"


def test_asynchronous_what_the_standby_did_not_get_is_found_in_the_spool_and_sent_once(
    tmp_path: Path, pair: Pair
) -> None:
    """The newest rows are gone with the primary, though their results are in the PACS."""
    url = pair.new_database()
    with run_pacs(Pacs(free_port())) as pacs:
        node = node_on(url, tmp_path / "var", pacs)
        node.receive(image("copied"))
        work(node)
        of_standby = results_of(node)
        pair.catch_up()
        pair.stop_sending()
        node.receive(image("lost"), image("copied", 2))
        work(node)
        content, times = dict(pacs.stored), Counter(pacs.received)
        assert len(content) > len(of_standby)

        pair.kill_primary()
        pair.promote()
        wait_until(lambda: answers(node), what="the standby answers on the pool's connections")
        assert results_of(node) == of_standby, "what was committed last is lost"
        assert len(compare(node.database, node.spool, node.files).unknown) == 2
        assert reindex(node.database, node.spool, node.files, lambda *_: None) == 2
        work(node)
        assert pacs.stored == content and Counter(pacs.received) == times, "nothing is sent again"
        assert results_of(node) == set(content)
        assert set(states(node)) == {StudyState.DELIVERED}
        node.close()


def test_synchronous_nothing_is_committed_that_the_standby_did_not_get(tmp_path: Path, pair: Pair) -> None:
    """A commit that the standby does not confirm does not return: no file moves, nothing is sent."""
    url = pair.new_database()
    with run_pacs(Pacs(free_port())) as pacs:
        node = node_on(url, tmp_path / "var", pacs)
        node.receive(image("copied"))
        work(node)
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
        wait_until(lambda: waits_for_standby(pair), what="the commit waits for the standby")
        assert (tmp_path / "var/spool/incoming" / f"{name}.dcm").exists(), (
            "its file is moved after the commit"
        )
        pair.kill_primary()
        thread.join(60)
        assert ended, "the commit did not return"
        pair.promote()
        wait_until(lambda: answers(node), what="the standby answers on the pool's connections")
        work(node)
        assert not str(compare(node.database, node.spool, node.files))
        assert sorted(node.outcomes()) == ["new", "new"]
        assert states(node) == [StudyState.DELIVERED] * 2
        assert Counter(pacs.received) == dict.fromkeys(results_of(node), 1)
        node.close()


def answers(node: Inbox) -> bool:
    try:
        with node.database.read() as session:
            session.scalars(select(EventRow.id).limit(1)).all()
    except SQLAlchemyError:
        return False
    return True


def waits_for_standby(pair: Pair) -> bool:
    with pair.primary.connect() as connection:
        asked = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        return connection.execute(asked).fetchone() is not None
