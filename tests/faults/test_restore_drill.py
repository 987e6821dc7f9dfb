"""The drill of a site: yesterday's database (``pg_dump``) and today's spool give the same PACS content."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.engine import make_url

from dicom_node.model.lifecycle import StudyState
from dicom_node.store.tables import Study
from dicom_node.studies.comparison import compare, reindex
from tests.drill_lab import node_on, results_of, work
from tests.modality import ultrasound
from tests.pacs_lab import Pacs, free_port, run_pacs
from tests.postgres_lab import Postgres, program


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
        assert reindex(node.database, node.spool, node.files, lambda *_: None) == 3
        work(node)
        assert pacs.stored == content
        assert Counter(pacs.received) == times, "what the PACS has is not sent again"
        assert results_of(node) == set(content)
        assert not str(compare(node.database, node.spool, node.files))
        with node.database.read() as session:
            assert set(session.scalars(select(Study.state))) == {StudyState.DELIVERED}
        node.close()
