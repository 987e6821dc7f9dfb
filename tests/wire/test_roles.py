"""A site with a node of its own for each part: receive, run models, deliver, keep time, serve the console."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest
from sqlalchemy import select

from dicom_node import services
from dicom_node.config import loading
from dicom_node.store.tables import Lease, Result
from tests.modality import ultrasound
from tests.node_lab import Node, running, site_config, store
from tests.pacs_lab import Pacs, free_port, run_pacs
from tests.waiting import wait_until

_CONSOLE = "[console]\nenabled = true\nport = {port}\n"


@pytest.mark.debian("postgresql")
@pytest.mark.timeout(300)
def test_each_role_does_its_part_and_no_other(tmp_path: Path, postgres_url: str) -> None:
    with run_pacs(Pacs(free_port())) as pacs, ExitStack() as site:
        config = site_config(pacs.port)
        port = free_port()
        parts = {
            "scheduler": config,
            "console": config + _CONSOLE.format(port=port),
            "worker": config.replace("[outbox]\n", "[outbox]\ndeliver = false\n"),
            "listener": config,
            "delivery": config,
        }
        nodes = {
            role: Node(tmp_path, text, role=role, name=role, database_url=postgres_url)
            for role, text in parts.items()
        }
        upgraded = nodes["listener"].run("db", "upgrade")
        assert upgraded.returncode == 0, upgraded.stderr
        for role in ("scheduler", "console", "worker", "listener"):
            site.enter_context(running(nodes[role]))
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=60) as answer:
            assert answer.status == 200

        assert store(nodes["listener"].port, [ultrasound("roles", size=(48, 40))], "US1") == [0x0000]
        settings = loading.load([nodes["listener"].config])

        def results() -> int:
            with services.reading(settings) as session:
                return len(session.scalars(select(Result.id)).all())

        wait_until(results, 60, "the result")
        assert pacs.received == []
        with running(nodes["delivery"]):
            nodes["listener"].wait_for(["delivered"])
        assert len(pacs.received) == 1
        with services.reading(settings) as session:
            holders = {row.name: row.owner.rpartition("/")[2] for row in session.scalars(select(Lease))}
        assert holders["scheduler"] == "scheduler-1"
        assert holders["job scheduler"] == "worker-1"
