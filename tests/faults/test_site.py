"""A site of two listeners and two workers loses one of each under load, and its ledger balances."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select

from dicom_node import services
from dicom_node.config import loading
from dicom_node.model.kinds import Outcome
from dicom_node.monitoring.processes import SIGN_SECONDS, SILENT_SECONDS, processes
from dicom_node.store.tables import Delivery, ReceivedObject, Result
from tests.modality import ultrasound
from tests.node_lab import PROGRAM, in_background, store, wait_until
from tests.site_lab import Site, running_site

STUDIES = 10
ENDED = {Outcome.NEW, Outcome.DUPLICATE}


def send_until_acknowledged(site: Site, images: list[Dataset], stop: threading.Event) -> Counter[int]:
    """As a modality behind a balancer: now this listener, now that, again until it gets Success."""
    acknowledged: Counter[int] = Counter()
    for turn, image in enumerate(images):
        attempt = turn
        while not stop.is_set():
            listener = site.listeners[attempt % 2]
            attempt += 1
            if store(listener.port, [image], "US1") == [0x0000]:
                acknowledged[attempt % 2] += 1
                break
            time.sleep(0.1)
    return acknowledged


@pytest.mark.debian("orthanc", "postgresql")
@pytest.mark.timeout(600)
def test_a_killed_listener_and_a_killed_worker_lose_and_double_nothing(
    tmp_path: Path, postgres_url: str
) -> None:
    """Every study is split over both listeners; every third object goes to both."""
    images = [ultrasound(f"site{n}", number=k, size=(48, 40)) for n in range(STUDIES) for k in (1, 2)]
    again = images[::3]
    stop = threading.Event()
    sent: list[Counter[int]] = []
    with running_site(tmp_path, postgres_url, PROGRAM, ("sr",), quiet=0.5) as site:
        parts = (images, [image for image in again for _ in (1, 2)])
        senders = [
            in_background(lambda part=part: sent.append(send_until_acknowledged(site, part, stop)))
            for part in parts
        ]
        try:
            wait_until(lambda: len(site.listeners[0].studies()) >= 2, what="objects arrive")
            killed_at = time.monotonic()
            site.listeners[0].kill()  # it indexes, too: the other one goes on, and it does not come back
            site.workers[0].kill()
            wait_until(
                lambda: not any(sender.is_alive() for sender in senders),
                what="every object acknowledged",
                progress=lambda: len(site.listeners[1].studies()),
            )
        finally:
            stop.set()
        acknowledged = sum((count.total() for count in sent), 0)
        studies = site.listeners[1].wait_for(["delivered"], count=STUDIES)
        assert set(studies) == {image.StudyInstanceUID for image in images}
        assert {study["state"] for study in studies.values()} == {"delivered"}

        settings = loading.load([site.listeners[1].config])
        with services.reading(settings) as session:
            received = Counter(session.scalars(select(ReceivedObject.outcome)))
            deliveries = Counter(session.scalars(select(Delivery.state)))
            results = session.scalars(select(Result.sop_instance_uid)).all()
            shown = {(row["place"], row["process"]): row for row in processes(session)}
        # Acknowledged = indexed + duplicates; an object may be there whose answer the kill took.
        assert set(received) <= ENDED
        assert received[Outcome.NEW] == len(images)
        assert acknowledged <= received.total() <= acknowledged + 2
        assert not list((tmp_path / "var" / "spool" / "incoming").glob("*.dcm"))
        assert set(deliveries) == {"confirmed"}
        assert sorted(site.pacs.instances()) == sorted(results), "each result is in the PACS, once"
        assert set(shown) >= {("listener-2", "main"), ("listener-2", "listener"), ("worker-2", "worker-1")}
        silent = {place for (place, _), row in shown.items() if row["silent_seconds"] > SILENT_SECONDS / 2}
        if time.monotonic() - killed_at > SILENT_SECONDS / 2 + 2 * SIGN_SECONDS:
            assert silent == {"listener-1", "worker-1"}, "only those that were killed show no life"
        assert silent <= {"listener-1", "worker-1"}
