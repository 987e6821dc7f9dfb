"""A site whose machines share no folder: an S3 bucket that goes away, and a listener that is killed."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node import services
from dicom_node.config import loading
from dicom_node.config.sample import toml_value
from dicom_node.events import STORE_AWAY
from dicom_node.model.kinds import Outcome
from dicom_node.object_store import rows as stored_rows
from dicom_node.store.tables import Delivery, EventRow, Instance, ReceivedObject, Result
from tests.faults.test_site import send_until_acknowledged
from tests.modality import ultrasound
from tests.node_lab import PROGRAM, in_background, wait_until
from tests.s3_lab import start_s3
from tests.site_lab import running_site

STUDIES = 6


@pytest.mark.debian("orthanc", "postgresql")
@pytest.mark.timeout(600)
def test_a_bucket_that_goes_away_and_a_killed_listener_lose_and_double_nothing(
    tmp_path: Path, postgres_url: str
) -> None:
    """Every study is split over both listeners; every third object goes to both."""
    images = [ultrasound(f"bucket{n}", number=k, size=(48, 40)) for n in range(STUDIES) for k in (1, 2)]
    stop = threading.Event()
    sent: list[Counter[int]] = []
    with start_s3() as s3:
        table = "".join(f"{key} = {toml_value(value)}\n" for key, value in s3.settings().items())
        more = f"[object_store]\n{table}"
        with running_site(tmp_path, postgres_url, PROGRAM, ("sr",), 0.5, more, apart=True) as site:
            killed, other = site.listeners
            settings = loading.load([other.config])

            def waiting() -> int:
                with services.reading(settings) as session:
                    return stored_rows.oldest_waiting(session)[0]

            parts = (images, [image for image in images[::3] for _ in (1, 2)])
            senders = [
                in_background(lambda part=part: sent.append(send_until_acknowledged(site, part, stop)))
                for part in parts
            ]
            try:
                wait_until(lambda: bool(other.studies()), what="objects arrive")
                s3.stop()
                wait_until(lambda: waiting() > 0, what="objects wait for the bucket")
                killed.kill()
                killed.start()
                wait_until(lambda: len(sent) == 2, 120, "all acknowledged, the bucket still away")
            finally:
                s3.go_on()
                stop.set()
            studies = other.wait_for(["delivered"], count=STUDIES)
            assert {study["state"] for study in studies.values()} == {"delivered"}
            wait_until(
                lambda: not [*tmp_path.glob("*/var/spool/incoming/*.dcm")] and not waiting(),
                120,
                "everything is handed over",
            )
            for sender in senders:
                sender.join(60)

            with services.reading(settings) as session:
                received = Counter(session.scalars(select(ReceivedObject.outcome)))
                deliveries = Counter(session.scalars(select(Delivery.state)))
                built = session.execute(select(Result.sop_instance_uid, Result.path, Result.sha256)).all()
                rows = session.scalars(select(ReceivedObject).where(ReceivedObject.sha256.is_not(None)))
                hashes = {row.path: row.sha256 for row in rows}
                in_force = set(session.scalars(select(Instance.path)))
                away = session.scalars(select(EventRow.id).where(EventRow.number == STORE_AWAY.number)).all()
            acknowledged = sum((count.total() for count in sent), 0)
            assert set(received) == {Outcome.NEW, Outcome.DUPLICATE}
            assert received[Outcome.NEW] == len(images)
            assert acknowledged <= received.total() <= acknowledged + 2  # an answer that the kill took
            assert set(deliveries) == {"confirmed"}
            uids = sorted(row.sop_instance_uid for row in built)
            assert sorted(site.pacs.instances()) == uids, "each result is in the PACS, once"
            assert 1 <= len(away) <= 4, "an outage is one event of each listener that lives in it"

        bucket = s3.bucket()
        assert in_force <= set(hashes)
        for path, sha256 in (hashes | {row.path: row.sha256 for row in built}).items():
            assert bucket.get(path, tmp_path / "copy") == sha256
        assert set(bucket.keys("spool")) == set(hashes)
        assert set(bucket.keys("results")) == {row.path for row in built}
