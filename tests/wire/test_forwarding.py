"""Received images on their way to an archive, with the bytes that came, though senders are killed."""

import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from sqlalchemy import select

from dicom_node.base.config.settings import (
    Settings,
)
from dicom_node.base.events import (
    DELIVERY_IN_DOUBT,
)
from dicom_node.base.lifecycle import DeliveryState
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Delivery, EventRow
from dicom_node.deliver.delivery_worker import DeliveryWorker
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import ultrasounds
from tests.outbox_lab import (
    Outbox,
)
from tests.ports import free_port
from tests.unit.receive.objects import in_syntax
from tests.waiting import wait_until
from tests.wire.orthanc_lab import (
    DICOMWEB,
    start_orthanc,
)

LEASE_SECONDS = 1.0
_FORKING = multiprocessing.get_context("forkserver")
# Each worker would import for seconds; the settings first, which load those of connectors.
_FORKING.set_forkserver_preload(["dicom_node.base.config.settings", __name__])


def deliver_forever(settings: Settings) -> None:
    """A process with nothing but a worker."""
    DeliveryWorker(Database(settings.database_url), settings, lease_seconds=LEASE_SECONDS).run_forever(
        threading.Event()
    )


@contextmanager
def worker_process(outbox: Outbox | Inbox) -> Iterator[multiprocessing.process.BaseProcess]:
    process = _FORKING.Process(target=deliver_forever, args=(outbox.settings,))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


SYNTAXES = (
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian,
    RLELossless,
)  # fmt: skip


@contextmanager
def forwarding(folder: Path, port: int, database_url: str = "", **of_archive: Any) -> Iterator[Inbox]:
    """A node whose rule forwards to the archive at this port, without jobs' workers."""
    archive = {"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": port}
    archive |= {"may": ["receive"], **of_archive}
    rule = CONFIG["rules"][0] | {"forward": ["archive"]}
    pace = {"retry_seconds": 0.2, "retry_limit_seconds": 0.5}
    inbox = Inbox(
        folder,
        {**CONFIG, "peers": [*CONFIG["peers"], archive], "rules": [rule], "outbox": pace},
        database_url,
    )
    try:
        yield inbox
    finally:
        inbox.close()


def states(inbox: Inbox) -> list[str]:
    return inbox.column(Delivery.state)


def deliver_until(inbox: Inbox, state: str) -> None:
    worker = DeliveryWorker(inbox.database, inbox.settings)

    def done() -> bool:
        worker.run_once()
        return set(states(inbox)) == {state}

    wait_until(done, 60, state, shown=lambda: states(inbox))


def data_set(path: Path) -> bytes:
    """The bytes behind the File Meta Information (PS3.10 7.1)."""
    data, meta = path.read_bytes(), read_file_meta_info(path)
    return data[144 + meta.FileMetaInformationGroupLength :]


def images(number: int) -> Sequence[Dataset]:
    return ultrasounds("many", number)


@pytest.mark.debian("dcmtk")
def test_storescp_gets_each_data_set_with_the_bytes_that_came(tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "archive"
    folder.mkdir()
    options = ["--bit-preserving", "--accept-all", "--output-directory", str(folder), "--aetitle", "ARCHIVE"]
    with subprocess.Popen(["storescp", *options, str(port)], stderr=subprocess.DEVNULL) as storescp:
        try:
            with forwarding(tmp_path / "node", port, confirm="none") as inbox:
                sent = [in_syntax(image, syntax) for image, syntax in zip(images(5), SYNTAXES, strict=True)]
                sent[0].add_new(0x00091001, "UN", b"\x00\xffopaque")
                inbox.settle(*sent)
                deliver_until(inbox, "confirmed")
                there = {str(dcmread(file, force=True).SOPInstanceUID): file for file in folder.iterdir()}
                for image in sent:
                    kept = inbox.instance(image).path
                    assert data_set(there[image.SOPInstanceUID]) == data_set(inbox.folder / kept)
        finally:
            storescp.kill()


def sending(inbox: Inbox) -> set[int]:
    return set(inbox.scalars(select(Delivery.id).where(Delivery.state == DeliveryState.SENDING)))


@pytest.mark.debian("orthanc", "orthanc-dicomweb")
@pytest.mark.parametrize("transport", ["dimse", "dicomweb"])
def test_a_real_orthanc_has_each_image_once_though_the_senders_are_killed(
    tmp_path: Path, transport: str
) -> None:
    """Each time between sending and noting it: a worker is stopped, looked at, and killed if it sends."""
    with start_orthanc(tmp_path / "orthanc", plugins=[DICOMWEB]) as orthanc:
        url = orthanc.url + ("/dicom-web" if transport == "dicomweb" else "")
        archive = {"ae_title": "ORTHANC", "transport": transport, "url": url}
        with forwarding(tmp_path / "node", orthanc.dicom_port, **archive) as inbox:
            sent = images(40)  # more than go on one association: two kills hit different ones
            inbox.settle(*sent)
            hit: set[int] = set()
            for _ in range(2):
                with worker_process(inbox) as worker:
                    number = worker.pid or 0

                    def sends(number: int = number) -> bool:
                        os.kill(number, signal.SIGSTOP)
                        if new := sending(inbox) - hit:
                            hit.update(new)
                            return True
                        os.kill(number, signal.SIGCONT)
                        return False

                    wait_until(sends, 120, "a worker sends", step=0.02)
            with worker_process(inbox):
                wait_until(
                    lambda: set(states(inbox)) == {"confirmed"}, progress=lambda: sorted(states(inbox))
                )
            assert DELIVERY_IN_DOUBT.number in set(inbox.column(EventRow.number))
            assert orthanc.instances() == sorted(image.SOPInstanceUID for image in sent)
            assert dcmread(BytesIO(orthanc.fetch(sent[0].SOPInstanceUID))) == sent[0]
