"""A node without a network and a PACS on a real socket, for drills in which a database is lost."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select

from dicom_node.outbox.delivery_worker import DeliveryWorker
from dicom_node.store.tables import Delivery, Result
from tests.inbox_lab import Inbox
from tests.pacs_lab import Pacs
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
