"""What is killed, cut off or lost while objects arrive and jobs run: nothing is lost, nothing doubled."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from dicom_connectors.bucket.handover import oldest_waiting
from dicom_node.base.config.sample import toml_value
from dicom_node.base.errors import LeaseLost
from dicom_node.base.events import STEPS_FULFILLED, STEPS_NOT_AWAITED, STORE_AWAY, STUDY_COMPLETE
from dicom_node.base.kinds import Outcome
from dicom_node.base.lifecycle import JobState, StudyState
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Delivery, EventRow, Instance, ReceivedObject, Result, Study
from dicom_node.jobs.queue import JobQueue
from dicom_node.studies.indexing import compare
from tests.drill_lab import node_on, results_of, work_and_deliver
from tests.failover_lab import Pair, start_pair
from tests.hostile.valve import valve_before
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.mpps_lab import begun, change, create, ended, status
from tests.node_lab import PROGRAM, Node, in_background, running, site_config, store, wait_until
from tests.pacs_lab import Pacs, free_port, run_pacs
from tests.s3_lab import start_s3
from tests.site_lab import Site, running_site
from tests.unit.jobs.queue_lab import WORKERS, add_job, add_study, claimed, event_numbers, job_row
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
@pytest.mark.parametrize("place", ["one folder", "a bucket"])
def test_killed_processes_and_a_bucket_that_goes_away_lose_and_double_nothing(
    tmp_path: Path, postgres_url: str, place: str
) -> None:
    """Every study is split over both listeners; every third object goes to both.

    A listener that indexes, and a worker, are killed; the other listener takes one study more. In one folder
    they do not come back; with a bucket, where machines share no folder, it is away meanwhile, and the
    listener comes back.
    """
    images = [ultrasound(f"site{n}", number=k, size=(48, 40)) for n in range(STUDIES) for k in (1, 2)]
    parts = (images, [image for image in images[::3] for _ in (1, 2)])
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
        killed, other = site.listeners

        away = lambda: len(other.events(STORE_AWAY.number))

        def waiting() -> int:
            with other.reading() as session:
                return oldest_waiting(session)[0]

        senders = [
            in_background(lambda part=part: sent.append(split_until_acknowledged(site, part, stop)))
            for part in parts
        ]
        try:
            wait_until(lambda: bool(other.studies()), what="objects arrive")
            if s3:
                s3.stop()
            killed.kill()
            site.workers[0].kill()
            if s3:
                killed.start()
            assert store(other.port, [late], "US1") == [0x0000]
            if s3:
                wait_until(
                    lambda: away() > 0,
                    120,
                    "the listener that lives notices the outage",
                )
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
        wait_until(
            lambda: (
                not [one for at in folders for one in at.glob("var/spool/incoming/*.dcm")] and not waiting()
            ),
            120,
            "everything is handed over",
        )
        for sender in senders:
            sender.join(60)

        with other.reading() as session:
            received = Counter(session.scalars(select(ReceivedObject.outcome)))
            deliveries = Counter(session.scalars(select(Delivery.state)))
            built = session.execute(select(Result.sop_instance_uid, Result.path, Result.sha256)).all()
            rows = session.scalars(select(ReceivedObject).where(ReceivedObject.sha256.is_not(None)))
            hashes = {row.path: row.sha256 for row in rows}
            in_force = set(session.scalars(select(Instance.path)))
        # Acknowledged = indexed + duplicates; an object may be there whose answer the kill took.
        acknowledged = 1 + sum(count.total() for count in sent)
        assert set(received) <= {Outcome.NEW, Outcome.DUPLICATE}
        assert received[Outcome.NEW] == len(images)
        assert acknowledged <= received.total() <= acknowledged + 2
        assert set(deliveries) == {"confirmed"}
        uids = sorted(row.sop_instance_uid for row in built)
        assert sorted(site.pacs.instances()) == uids, "each result is in the PACS, once"
        if s3:
            assert 1 <= away() <= 4, "an outage is one event of each listener that lives in it"
            bucket = s3.bucket()
            assert in_force <= set(hashes)
            for path, sha256 in (hashes | {row.path: row.sha256 for row in built}).items():
                assert bucket.get(path, tmp_path / "copy") == sha256
            assert set(bucket.keys("spool")) == set(hashes)
            assert set(bucket.keys("results")) == {row.path for row in built}


@pytest.fixture
def pair() -> Iterator[Pair]:
    with start_pair() as started:
        yield started


def image(name: str, number: int = 1) -> Dataset:
    return ultrasound(name, number=number, size=(48, 40))


@pytest.mark.debian("postgresql")
def test_a_node_receives_without_its_database_and_goes_on_with_the_standby(
    tmp_path: Path, pair: Pair
) -> None:
    """Synchronous: what the node has committed is on the standby. It is not started again, nor told."""
    url = pair.new_database()
    database = Database(url)
    database.upgrade()
    pair.be_synchronous()
    with (
        run_pacs(Pacs(free_port())) as pacs,
        running(Node(tmp_path, site_config(pacs.port, lease=5), database_url=url)) as node,
    ):
        assert store(node.port, [image("before")], "US1") == [0x0000]
        node.wait_for(["delivered"])
        pair.kill_primary()
        assert store(node.port, [image("between", n) for n in (1, 2)], "US1") == [0x0000] * 2
        with pytest.raises(SQLAlchemyError), database.read() as session:
            session.scalars(select(Study.id)).all()
        pair.promote()
        assert store(node.port, [image("after"), image("before")], "US1") == [0x0000] * 2
        node.wait_for(["delivered"], count=3)
        wait_until(lambda: not any((tmp_path / "var/spool/incoming").glob("*.dcm")), what="indexed")
        with database.read() as session:
            received = Counter(str(outcome) for outcome in session.scalars(select(ReceivedObject.outcome)))
            results = set(session.scalars(select(Result.sop_instance_uid)))
            deliveries = set(session.scalars(select(Delivery.state)))
    database.dispose()
    assert received == {"new": 4, "duplicate": 1}
    assert deliveries == {"confirmed"}
    assert len(results) == 3
    assert Counter(pacs.received) == dict.fromkeys(results, 1), "each result was sent once"


@pytest.mark.debian("postgresql")
def test_synchronous_nothing_is_committed_that_the_standby_did_not_get(tmp_path: Path, pair: Pair) -> None:
    """A commit that the standby does not confirm does not return: no file moves, nothing is sent."""
    url = pair.new_database()
    with run_pacs(Pacs(free_port())) as pacs:
        node = node_on(url, tmp_path / "var", pacs)
        node.receive(image("copied"))
        work_and_deliver(node)
        pair.be_synchronous()
        pair.catch_up()
        pair.stop_sending()
        name = node.receive(image("waits"))[0]
        ended: list[type[Exception]] = []

        def index() -> None:
            try:
                node.index()
            except SQLAlchemyError as error:
                ended.append(type(error))

        thread = threading.Thread(target=index, daemon=True)
        thread.start()
        asked = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        with pair.primary.connect() as connection:
            wait_until(lambda: connection.execute(asked).fetchone(), what="the commit waits for the standby")
        assert (tmp_path / "var/spool/incoming" / f"{name}.dcm").exists(), (
            "its file is moved after the commit"
        )
        pair.kill_primary()
        thread.join(60)
        assert ended, "the commit did not return"
        pair.promote()
        wait_until(lambda: answers(node), what="the standby answers on the pool's connections")
        work_and_deliver(node)
        assert not str(compare(node.database, node.spool, node.files))
        assert sorted(node.outcomes()) == ["new", "new"]
        assert [row.state for row in node.rows(Study)] == [StudyState.DELIVERED] * 2
        assert Counter(pacs.received) == dict.fromkeys(results_of(node), 1)
        node.close()


def answers(node: Inbox) -> bool:
    try:
        with node.database.read() as session:
            session.scalars(select(EventRow.id).limit(1)).all()
    except SQLAlchemyError:
        return False
    return True


@pytest.mark.debian("postgresql")
def test_the_job_of_a_worker_without_network_is_taken_over_and_ends_once(postgres_url: str) -> None:
    here = Database(postgres_url)
    here.upgrade()
    number = add_job(here, add_study(here))
    with valve_before(make_url(postgres_url).port) as valve:
        away = Database(make_url(postgres_url).set(port=valve.port).render_as_string(hide_password=False))
        lonely, other = JobQueue(away, WORKERS), JobQueue(here, WORKERS)
        job = claimed(lonely, "elsewhere/1/1/a")
        lonely.heartbeat(job, 0.1, "works")
        assert other.claim("elsewhere/2/1/b") is None
        valve.cut()
        begun = time.monotonic()
        with pytest.raises(SQLAlchemyError):
            lonely.heartbeat(job, 0.2, "works")
        assert time.monotonic() - begun < 30, "it waits for an answer"
        wait_until(lambda: other.reap() == 1, 10 * WORKERS.lease_seconds, "its job is taken back")
        taken = claimed(other, "elsewhere/2/1/b")
        assert (taken.id, taken.attempts) == (number, 2)

        valve.mend()
        with pytest.raises(LeaseLost):
            lonely.heartbeat(job, 0.3, "works")
        with pytest.raises(LeaseLost), away.write() as session:
            lonely.complete_if_owner(session, job, JobState.SUCCEEDED)
        with here.write() as session:
            other.complete_if_owner(session, taken, JobState.SUCCEEDED)
        away.dispose()
    assert job_row(here, number).state is JobState.SUCCEEDED
    assert event_numbers(here).count(3003) == 1
    assert event_numbers(here).count(3009) == 1
    here.dispose()
