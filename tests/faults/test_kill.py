"""Processes are killed, a bucket is away, a clock is put back: nothing is lost, doubled or undone."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select

from dicom_connectors.bucket.handover import oldest_waiting
from dicom_node.base.config.sample import toml_value
from dicom_node.base.events import (
    CLOCK_PUT_BACK,
    STEPS_FULFILLED,
    STEPS_NOT_AWAITED,
    STORE_AWAY,
    STUDY_COMPLETE,
    EventType,
)
from dicom_node.base.lifecycle import Outcome, Role
from dicom_node.base.store import deliveries
from dicom_node.base.store.tables import Delivery, Instance, Job, ReceivedObject, Result
from dicom_node.base.store.transitions import utc_now
from dicom_node.serve import background
from tests.faults.fault_lab import image
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.mpps_lab import begun, change, create, ended, status
from tests.node_lab import PROGRAM, Node, in_background, running, site_config, store
from tests.pacs_lab import Pacs, run_pacs
from tests.s3_lab import S3, start_s3
from tests.site_lab import Site, running_site
from tests.unit.jobs.worker_lab import configuration, register, work
from tests.unit.receive.objects import changed
from tests.waiting import wait_until
from tests.wire.orthanc_lab import start_orthanc

CREATED = {0x0000, 0x0111}  # the answer to the first try was lost
ENDED = {0x0000, 0x0110}
MODALITY = '[[peers]]\nname = "us1"\nae_title = "US1"\nmpps = true\n'


def examine(node: Node, stop: threading.Event, chance: random.Random, number: int) -> None:
    """Report and send one study in an order of chance, the end never before the begin; a modality repeats
    what was not answered.
    """
    sent = [image(f"kill{number}", one) for one in (1, 2)]
    uid, first = f"1.2.9.{number}", begun(sent[0].StudyInstanceUID)
    begin = (lambda: status(create(node.port, uid, first)), CREATED)
    todo = [begin, *((lambda one=one: store(node.port, [one], "US1")[0], {0x0000}) for one in sent)]
    chance.shuffle(todo)
    end = (lambda: status(change(node.port, uid, ended(sent))), ENDED)
    todo.insert(chance.randint(todo.index(begin) + 1, len(todo)), end)
    for send, done in todo:
        while not stop.is_set() and send() not in done:
            time.sleep(0.1)


@pytest.mark.debian("orthanc")
@pytest.mark.timeout(3600)  # ends earlier when nothing moves
def test_kills_while_objects_arrive_lose_and_double_nothing(tmp_path: Path, rounds: int) -> None:
    """Two kills and 12 studies here, thirty and 180 by ``make hostile``. Images come before, after and
    between the reports of their steps (MPPS), and the quiet time of a study never passes.
    """
    kills = min(30, max(2, rounds // 1000))
    chance, stop = random.Random(20260102), threading.Event()
    with start_orthanc(tmp_path / "orthanc") as pacs:
        config = site_config(
            pacs.dicom_port,
            PROGRAM + MODALITY,
            quiet=600,
            lease=5,
            ae_title=pacs.ae_title,
            workers="attempts = 100",
            senders=(),
        )
        with running(Node(tmp_path / "node", config)) as node:
            senders = [
                in_background(lambda part=part: [examine(node, stop, random.Random(n), n) for n in part])
                for part in (range(first, 6 * kills, 3) for first in range(3))
            ]
            try:
                for _ in range(kills):
                    time.sleep(chance.uniform(0.1, 2.0))
                    node.kill()
                    node.start()
                wait_until(
                    lambda: not any(sender.is_alive() for sender in senders),
                    what="every object and report acknowledged",
                    progress=lambda: len(node.studies()),
                )
            finally:
                stop.set()
            studies = node.wait_for(["delivered"], count=6 * kills)
            assert len(studies) == 6 * kills
            assert pacs.reports() == dict.fromkeys(studies, 1)
            complete = (STUDY_COMPLETE.number, STEPS_FULFILLED.number)
            found = Counter(
                (row["study_instance_uid"], row["number"])
                for row in node.events(*complete, STEPS_NOT_AWAITED.number)
            )
            assert found == {(uid, number): 1 for uid in studies for number in complete}
            assert "Mustermann" not in node.log.read_text(encoding="utf-8")


STUDIES = 4


def split_until_acknowledged(site: Site, images: list[Dataset], stop: threading.Event) -> Counter[int]:
    """As a modality behind a balancer: now this listener, now that, again until it gets Success."""
    acknowledged: Counter[int] = Counter()
    for turn, sent in enumerate(images):
        attempt = turn
        while not stop.is_set():
            listener = site.listeners[attempt % 2]
            attempt += 1
            if store(listener.port, [sent], "US1") == [0x0000]:
                acknowledged[attempt % 2] += 1
                break
            time.sleep(0.1)
    return acknowledged


def outages(node: Node) -> int:
    """How often the node noticed that the bucket is away."""
    return len(node.events(STORE_AWAY.number))


def kill_a_listener_and_a_worker(site: Site, late: Dataset, s3: S3 | None) -> None:
    """The listener that indexes, and a worker, are killed; the other listener takes one study more.

    In one folder they do not come back; with a bucket, where machines share no folder, it is away meanwhile,
    and the listener comes back.
    """
    killed, other = site.listeners
    if s3:
        s3.stop()
    killed.kill()
    site.workers[0].kill()
    if s3:
        killed.start()
    assert store(other.port, [late], "US1") == [0x0000]
    if s3:
        wait_until(lambda: outages(other) > 0, 120, "the listener that lives notices the outage")


def is_handed_over(node: Node, folders: Sequence[Path]) -> bool:
    """Whether no received object waits to be indexed, or for the bucket."""
    with node.reading() as session:
        waiting = oldest_waiting(session)[0]
    return not waiting and not any(file for at in folders for file in at.glob("var/spool/incoming/*.dcm"))


def check_ledger(site: Site, objects: int, acknowledged: int) -> None:
    """Every acknowledged object was received, and each result is in the PACS, once."""
    with site.listeners[1].reading() as session:
        received = Counter(session.scalars(select(ReceivedObject.outcome)))
        deliveries = Counter(session.scalars(select(Delivery.state)))
        uids = sorted(session.scalars(select(Result.sop_instance_uid)))
    # Acknowledged = indexed + duplicates; an object may be there whose answer the kill took.
    assert set(received) <= {Outcome.NEW, Outcome.DUPLICATE}
    assert received[Outcome.NEW] == objects
    assert acknowledged <= received.total() <= acknowledged + 2
    assert set(deliveries) == {"confirmed"}
    assert sorted(site.pacs.instances()) == uids, "each result is in the PACS, once"


def check_bucket(node: Node, s3: S3, copy: Path) -> None:
    """The bucket holds each received object and each result as the database knows it, and nothing else."""
    with node.reading() as session:
        built = {row.path: row.sha256 for row in session.scalars(select(Result))}
        rows = session.scalars(select(ReceivedObject).where(ReceivedObject.sha256.is_not(None)))
        hashes = {row.path: row.sha256 for row in rows}
        in_force = set(session.scalars(select(Instance.path)))
    bucket = s3.bucket()
    assert in_force <= set(hashes)
    for path, sha256 in (hashes | built).items():
        assert bucket.get(path, copy) == sha256
    assert set(bucket.keys("spool")) == set(hashes)
    assert set(bucket.keys("results")) == set(built)


@pytest.mark.debian("orthanc", "postgresql")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("place", ["one folder", "a bucket"])
def test_killed_processes_and_a_bucket_that_goes_away_lose_and_double_nothing(
    tmp_path: Path, postgres_url: str, place: str
) -> None:
    """Every study is split over both listeners; every third object goes to both."""
    images = [ultrasound(f"site{n}", number=k, size=(48, 40)) for n in range(STUDIES) for k in (1, 2)]
    parts = (images, [sent for sent in images[::3] for _ in (1, 2)])
    late = image("late")
    stop = threading.Event()
    sent: list[Counter[int]] = []
    with ExitStack() as stack:
        s3 = stack.enter_context(start_s3()) if place == "a bucket" else None
        table = s3.settings().items() if s3 else ()
        more = "[object_store]\n" + "".join(f"{key} = {toml_value(value)}\n" for key, value in table)
        run = running_site(
            tmp_path, postgres_url, PROGRAM, ("sr",), 0.5, more if s3 else "", apart=s3 is not None
        )
        site = stack.enter_context(run)
        other = site.listeners[1]
        senders = [
            in_background(lambda part=part: sent.append(split_until_acknowledged(site, part, stop)))
            for part in parts
        ]
        try:
            wait_until(lambda: bool(other.studies()), what="objects arrive")
            kill_a_listener_and_a_worker(site, late, s3)
            wait_until(
                lambda: len(sent) == 2,
                what="every object acknowledged",
                progress=lambda: len(other.studies()),
            )
        finally:
            stop.set()
            if s3:
                s3.go_on()
        images.append(late)
        studies = other.wait_for(["delivered"], count=STUDIES + 1)
        assert set(studies) == {image.StudyInstanceUID for image in images}
        assert {study["state"] for study in studies.values()} == {"delivered"}
        folders = [tmp_path, *tmp_path.iterdir()] if s3 else [tmp_path]
        wait_until(lambda: is_handed_over(other, folders), 120, "everything is handed over")
        for sender in senders:
            sender.join(60)
        check_ledger(site, len(images), 1 + sum(count.total() for count in sent))
        if s3:
            assert 1 <= outages(other) <= 4, "an outage is one event of each listener that lives in it"
            check_bucket(other, s3, tmp_path / "copy")


def test_a_correction_acknowledged_before_a_kill_goes_before_the_results_that_wait(tmp_path: Path) -> None:
    pacs, image = Pacs(), ultrasound("killed", size=(96, 72))
    node = Node(tmp_path, site_config(pacs.port))
    with running(node):
        store(node.port, [image], "US1")
        node.wait_for(["delivering"])
        os.kill(node.pid, signal.SIGSTOP)  # its listener goes on
        assert store(node.port, [changed(image, PatientID="RIGHT")], "US1") == [0]
        node.kill()
        with run_pacs(pacs):
            node.start()
            node.wait_for(["delivered"])
    assert [b"RIGHT" in stored for stored in pacs.stored.values()] == [True]


HOUR = timedelta(hours=1)


def test_a_node_notices_that_its_clock_was_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    inbox = Inbox(tmp_path / "var", configuration())
    inbox.settle(ultrasound("one", size=(48, 40)))
    inbox.put(Job, run_at=utc_now() + HOUR)
    said: list[tuple[EventType, dict[str, Any]]] = []
    say = lambda kind, **fields: said.append((kind, fields))
    made = background.Background(inbox.database, inbox.settings, Role.ALL, "all", say, 0)
    made._watch_clock()
    assert (said, work(inbox)) == ([], 0)
    ahead = background._ahead()
    monkeypatch.setattr(background, "_ahead", lambda: ahead - HOUR.total_seconds())
    made._watch_clock()
    made._watch_clock()
    assert [(kind, fields["seconds"]) for kind, fields in said] == [(CLOCK_PUT_BACK, 3600)]
    assert work(inbox) == 1
    inbox.put(Delivery, next_at=utc_now() + HOUR)
    assert inbox.read(deliveries.due_destinations, utc_now()) == []
    inbox.write(deliveries.clock_put_back, utc_now())
    assert inbox.read(deliveries.due_destinations, utc_now()) == ["pacs"]
    inbox.close()
