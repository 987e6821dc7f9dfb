"""The drill of a site: yesterday's database (``pg_dump``) and today's spool give the same PACS content."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.engine import make_url

from dicom_node.model.lifecycle import StudyState
from dicom_node.outbox.delivery_worker import DeliveryWorker
from dicom_node.store.tables import Delivery, Result, Study
from dicom_node.studies.comparison import compare, reindex
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.pacs_lab import Pacs, free_port, run_pacs
from tests.postgres_lab import Postgres, program
from tests.unit.jobs.worker_lab import Worker, configuration, register
from tests.waiting import wait_until


def node_on(url: str, folder: Path, pacs: Pacs) -> Inbox:
    register()
    config = configuration()
    config["outbox"] = {"retry_seconds": 0.05, "retry_limit_seconds": 0.2}
    config["peers"][1] |= {"port": pacs.port, "results": ["sr", "sc"]}
    return Inbox(folder, config, url=url)


def work(node: Inbox) -> None:
    """Index, assemble, analyse and deliver all that there is."""
    worker, outbox = Worker(node.settings, node.database), DeliveryWorker(node.database, node.settings)
    node.settle()
    while worker.run_once():
        pass

    def all_confirmed() -> bool:
        outbox.run_once()
        with node.database.read() as session:
            return set(session.scalars(select(Delivery.state))) == {"confirmed"}

    wait_until(all_confirmed, 60, "all results confirmed")


def results_of(node: Inbox) -> set[str]:
    with node.database.read() as session:
        return set(session.scalars(select(Result.sop_instance_uid)))


def with_postgres(url: str, name: str, *words: str) -> None:
    known = make_url(url)
    server = [
        "-h",
        str(known.host),
        "-p",
        str(known.port),
        "-U",
        str(known.username),
        "-d",
        str(known.database),
    ]
    subprocess.run([program(name), *server, *words], check=True, capture_output=True, timeout=60)


@pytest.mark.debian("postgresql")
def test_yesterdays_database_and_todays_spool_give_the_same_pacs_content(
    tmp_path: Path, postgres: Postgres
) -> None:
    first, dump = postgres.new_database(), tmp_path / "yesterday.dump"
    with run_pacs(Pacs(free_port())) as pacs:
        node = node_on(first, tmp_path / "var", pacs)
        node.receive(*(ultrasound(name, number=n, size=(48, 40)) for name in ("one", "two") for n in (1, 2)))
        node.receive(ultrasound("waits", size=(48, 40)))
        work(node)
        of_yesterday = dict(pacs.stored)
        node.receive(ultrasound("queued", size=(48, 40)))
        node.settle()  # its job waits while the backup is made
        with_postgres(first, "pg_dump", "--format=custom", "--file", str(dump))

        node.receive(ultrasound("one", number=3, size=(48, 40)))  # a late object: a new revision
        node.receive(*(ultrasound("today", number=n, size=(48, 40)) for n in (1, 2)))
        work(node)
        content, times = dict(pacs.stored), Counter(pacs.received)
        assert len(content) > len(of_yesterday) and set(times.values()) == {1}
        node.close()

        second = postgres.new_database()
        with_postgres(second, "pg_restore", "--exit-on-error", str(dump))
        node = node_on(second, tmp_path / "var", pacs)
        assert results_of(node) == set(of_yesterday)
        assert reindex(node.database, node.spool, node.folder, lambda *_: None) == 3
        work(node)
        assert pacs.stored == content
        assert Counter(pacs.received) == times, "what the PACS has is not sent again"
        assert results_of(node) == set(content)
        assert not str(compare(node.database, node.spool, node.folder))
        with node.database.read() as session:
            assert set(session.scalars(select(Study.state))) == {StudyState.DELIVERED}
        node.close()
