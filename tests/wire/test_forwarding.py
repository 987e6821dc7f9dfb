"""Received images on their way to an archive: DCMTK's storescp, a real Orthanc, one that is away."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from sqlalchemy import select, update

from dicom_node import events, outbox
from dicom_node.model.kinds import Outcome
from dicom_node.model.lifecycle import DeliveryState, JobState
from dicom_node.outbox.delivery_worker import DeliveryWorker
from dicom_node.store import requested
from dicom_node.store.tables import Delivery, Job
from dicom_node.store.transitions import utc_now
from dicom_node.studies.purge import purge
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import ultrasound
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.postgres_lab import Postgres
from tests.unit.inbox.objects import changed, in_syntax
from tests.waiting import wait_until
from tests.wire.orthanc_lab import DICOMWEB, start_orthanc
from tests.wire.test_delivery_kill import worker_process

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
    peers = [*CONFIG["peers"], archive]
    inbox = Inbox(folder, {**CONFIG, "peers": peers, "rules": [rule], "outbox": pace}, database_url)
    try:
        yield inbox
    finally:
        inbox.close()


def states(inbox: Inbox) -> list[str]:
    with inbox.database.read() as session:
        return [row.state.value for row in session.scalars(select(Delivery).order_by(Delivery.id))]


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


def spooled(inbox: Inbox, image: Dataset) -> Path:
    return inbox.folder / inbox.instance(image.SOPInstanceUID).path


def images(number: int) -> Sequence[Dataset]:
    return [ultrasound("many", number=one) for one in range(1, number + 1)]


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
                inbox.receive(*sent)
                inbox.settle()
                deliver_until(inbox, "confirmed")
                there = {str(dcmread(file, force=True).SOPInstanceUID): file for file in folder.iterdir()}
                for image in sent:
                    assert data_set(there[image.SOPInstanceUID]) == data_set(spooled(inbox, image))
        finally:
            storescp.kill()


@pytest.mark.debian("orthanc", "orthanc-dicomweb")
@pytest.mark.parametrize("transport", ["dimse", "orthanc", "dicomweb"])
def test_a_real_orthanc_has_each_image_once_though_the_senders_are_killed(
    tmp_path: Path, transport: str
) -> None:
    with start_orthanc(tmp_path / "orthanc", plugins=[DICOMWEB]) as orthanc:
        url = orthanc.url + ("/dicom-web" if transport == "dicomweb" else "")
        archive = {"ae_title": "ORTHANC", "transport": transport, "url": url}
        with forwarding(tmp_path / "node", orthanc.dicom_port, **archive) as inbox:
            sent = images(40)
            inbox.receive(*sent)
            inbox.settle()
            for _ in range(2):
                with worker_process(inbox):
                    wait_until(lambda: set(states(inbox)) != {"pending"})
                    time.sleep(0.05)
            with worker_process(inbox):
                wait_until(
                    lambda: set(states(inbox)) == {"confirmed"}, progress=lambda: sorted(states(inbox))
                )
            assert orthanc.instances() == sorted(image.SOPInstanceUID for image in sent)
            assert dcmread(BytesIO(orthanc.fetch(sent[0].SOPInstanceUID))) == sent[0]


def test_an_archive_that_is_away_gets_all_when_it_is_back(tmp_path: Path) -> None:
    port = free_port()
    with forwarding(tmp_path, port) as inbox:
        inbox.receive(*images(3))
        inbox.settle()
        worker = DeliveryWorker(inbox.database, inbox.settings)
        worker.run_once()
        assert set(states(inbox)) == {"pending"}
        with run_pacs(Pacs(port, "ARCHIVE")) as archive:
            deliver_until(inbox, "confirmed")
        assert len(archive.received) == 3


def test_a_class_that_the_archive_does_not_take_is_a_dead_letter_for_a_person(tmp_path: Path) -> None:
    with (
        run_pacs(Pacs(free_port(), "ARCHIVE"), classes=[CTImageStorage]) as archive,
        forwarding(tmp_path, archive.port) as inbox,
    ):
        inbox.receive(*images(1))
        inbox.settle()
        deliver_until(inbox, "dead")
        assert events.DELIVERY_DEAD.number in [event.number for event in inbox.events()]


def test_a_file_that_was_cut_short_is_not_sent(tmp_path: Path) -> None:
    with run_pacs(Pacs(free_port(), "ARCHIVE")) as archive, forwarding(tmp_path, archive.port) as inbox:
        (image,) = images(1)
        inbox.receive(image)
        inbox.settle()
        path = spooled(inbox, image)
        path.write_bytes(path.read_bytes()[:-1])
        deliver_until(inbox, "dead")
        assert archive.received == []


def test_both_versions_of_a_corrected_image_reach_the_archive_in_their_order(tmp_path: Path) -> None:
    with run_pacs(Pacs(free_port(), "ARCHIVE")) as archive, forwarding(tmp_path, archive.port) as inbox:
        (image,) = images(1)
        inbox.receive(image)
        inbox.settle()
        deliver_until(inbox, "confirmed")
        inbox.receive(changed(image, PatientName="Correct^Name"))
        inbox.settle()
        deliver_until(inbox, "confirmed")
        assert archive.received == [image.SOPInstanceUID] * 2
        assert b"Correct^Name" in archive.stored[image.SOPInstanceUID]


@pytest.mark.debian("postgresql")
def test_the_same_with_postgresql_where_rows_are_locked(tmp_path: Path, postgres: Postgres) -> None:
    with (
        run_pacs(Pacs(free_port(), "ARCHIVE")) as archive,
        forwarding(tmp_path, archive.port, postgres.new_database()) as inbox,
    ):
        sent = images(3)
        inbox.receive(*sent)
        inbox.settle()
        deliver_until(inbox, "confirmed")
        assert sorted(archive.received) == sorted(image.SOPInstanceUID for image in sent)
        with inbox.database.write() as session:
            session.execute(update(Delivery).values(state=DeliveryState.DEAD))
            assert outbox.retry_all(session) == [1, 2, 3]
            session.execute(update(Job).values(state=JobState.SUCCEEDED, finished_at=utc_now()))
        deliver_until(inbox, "confirmed")
        with inbox.database.read() as session:
            uids = [image.SOPInstanceUID for image in sent]
            assert requested.archived(session, uids, ["archive"]) == set(uids)
            assert requested.outcomes(session, "MODALITY", uids) == dict.fromkeys(uids, Outcome.NEW)
        assert purge(inbox.database, inbox.settings, utc_now() + timedelta(days=15)) == 3
