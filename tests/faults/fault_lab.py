"""A node of which a test kills parts: its inbox, its analysis and its delivery to a PACS."""

from pathlib import Path

from pydicom.dataset import Dataset

from dicom_node.base.store.tables import Delivery, Result
from dicom_node.deliver.delivery_worker import DeliveryWorker
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.pacs_lab import Pacs
from tests.unit.jobs.worker_lab import configuration, register, work
from tests.waiting import wait_until


def node_on(url: str, folder: Path, pacs: Pacs, *, assess_first: bool = False) -> Inbox:
    register()
    config = configuration()
    config["outbox"] = {"retry_seconds": 0.05, "retry_limit_seconds": 0.2}
    config["peers"][1] |= {"port": pacs.port, "results": ["sc"]}
    config["rules"][0]["assess_first"] = assess_first
    return Inbox(folder, config, url=url)


def work_and_deliver(node: Inbox) -> None:
    """Index, assemble, analyse and deliver all that there is."""
    outbox = DeliveryWorker(node.database, node.settings)
    node.settle()
    work(node)

    def all_confirmed() -> bool:
        outbox.run_once()
        return set(node.column(Delivery.state)) == {"confirmed"}

    wait_until(all_confirmed, 60, "all results confirmed")


def results_of(node: Inbox) -> set[str]:
    return set(node.column(Result.sop_instance_uid))


def image(name: str, number: int = 1) -> Dataset:
    return ultrasound(name, number=number, size=(48, 40))


def analyse(node: Inbox, *names: str) -> None:
    node.settle(*(ultrasound(name, size=(48, 40)) for name in names))
    work(node)


def uid(name: str) -> str:
    return str(ultrasound(name).StudyInstanceUID)
