"""What is killed, cut off, lost or put back while a node works: nothing is lost, doubled or undone."""

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydicom.dataset import Dataset
from sqlalchemy import delete, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_connectors.bucket.handover import oldest_waiting
from dicom_node.base.config.sample import toml_value
from dicom_node.base.errors import LeaseLost, SpoolError
from dicom_node.base.events import (
    CLOCK_PUT_BACK,
    STEPS_FULFILLED,
    STEPS_NOT_AWAITED,
    STORE_AWAY,
    STUDY_COMPLETE,
    EventType,
)
from dicom_node.base.lifecycle import (
    DeliveryState,
    HeldState,
    JobState,
    Outcome,
    RejectionReason,
    Role,
    StudyState,
)
from dicom_node.base.store import deliveries
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import (
    DecisionRow,
    Delivery,
    EventRow,
    HeldResult,
    Instance,
    Job,
    ReceivedObject,
    Result,
    Study,
    Withdrawal,
)
from dicom_node.base.store.transitions import utc_now
from dicom_node.deliver.delivery_worker import DeliveryWorker
from dicom_node.jobs.queue import JobQueue
from dicom_node.people import audit, backup, held_results, lost_decisions
from dicom_node.people.studies import release, versions
from dicom_node.people.withdrawal import withdraw_results
from dicom_node.receive.spool import Arrival, Spool
from dicom_node.serve import background
from dicom_node.studies.indexing import compare, reindex
from tests.faults.kills import with_postgres
from tests.forked import Forked
from tests.hostile.valve import valve_before
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.mpps_lab import begun, change, create, ended, status
from tests.node_lab import PROGRAM, Node, in_background, running, site_config, store
from tests.pacs_lab import Pacs, free_port, run_pacs
from tests.postgres_lab import KEEPS_COMMITS, Postgres, server_folder
from tests.s3_lab import start_s3
from tests.site_lab import Site, running_site
from tests.unit.jobs.queue_lab import WORKERS, add_job, add_study, claimed, event_numbers, job_row
from tests.unit.jobs.worker_lab import configuration, register, work
from tests.unit.receive.objects import changed
from tests.waiting import wait_until
from tests.wire.orthanc_lab import start_orthanc


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
        return {delivery.state for delivery in node.rows(Delivery)} == {"confirmed"}

    wait_until(all_confirmed, 60, "all results confirmed")


def results_of(node: Inbox) -> set[str]:
    return {result.sop_instance_uid for result in node.rows(Result)}


@dataclass(frozen=True)
class Pair:
    """``primary`` takes writes, ``standby`` follows it until it is promoted."""

    primary: Postgres
    standby: Postgres

    def new_database(self) -> str:
        """SQLAlchemy URL of an empty database, for whichever of both takes writes."""
        name = self.primary.new_database().rpartition("/")[2]
        hosts = f"host=127.0.0.1,127.0.0.1&port={self.primary.port},{self.standby.port}"
        return f"postgresql+psycopg://node@/{name}?{hosts}&target_session_attrs=read-write"

    def be_synchronous(self) -> None:
        """From now on a commit waits until the standby has it."""
        with self.primary.connect() as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
        self._wait_for("sync_state = 'sync'")

    def catch_up(self) -> None:
        """Wait until the standby has all that was committed."""
        self._wait_for("flush_lsn = pg_current_wal_lsn()")

    def stop_sending(self) -> None:
        """From now on nothing reaches the standby (the process that sends stands still)."""
        with self.primary.connect() as connection:
            row = connection.execute("SELECT pid FROM pg_stat_replication").fetchone()
        os.kill(row[0], signal.SIGSTOP)

    def kill_primary(self) -> None:
        """kill -9 of all its processes, as if its machine were gone."""
        main = psutil.Process(int((self.primary.data / "postmaster.pid").read_text().split()[0]))
        processes = [main, *main.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=30)

    def promote(self) -> None:
        """The standby takes writes."""
        self.standby.run("pg_ctl", "-w", "promote")

    def _wait_for(self, condition: str) -> None:
        def holds() -> bool:
            with self.primary.connect() as connection:
                asked = f"SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND {condition}"
                return connection.execute(asked).fetchone() is not None

        wait_until(holds, what=condition)


@contextmanager
def start_pair() -> Iterator[Pair]:
    """Start a primary, copy it with pg_basebackup, start the copy as its standby (asynchronous)."""
    with server_folder() as folder:
        pair = Pair(Postgres(folder, KEEPS_COMMITS), Postgres(folder, KEEPS_COMMITS))
        pair.primary.create()
        pair.primary.start()
        try:
            address = f"host=127.0.0.1 port={pair.primary.port} user=node application_name=standby"
            pair.standby.run("pg_basebackup", "-d", address, "-R", "-X", "stream", "-c", "fast")
            pair.standby.start()
            pair.catch_up()
            yield pair
        finally:
            for server in (pair.primary, pair.standby):
                with suppress(AssertionError):  # it was killed, or never started
                    server.stop("immediate")


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


READER = audit.Person("reader", "192.0.2.7")
WHY = "that of Nowak"


opened = partial(node_on, "")


def analyse(node: Inbox, *names: str) -> None:
    node.settle(*(ultrasound(name, size=(48, 40)) for name in names))
    work(node)


def deliver(node: Inbox) -> None:
    """As long as something is due."""
    outbox = DeliveryWorker(node.database, node.settings)
    while outbox.run_once():
        pass


def uid(name: str) -> str:
    return str(ultrasound(name).StudyInstanceUID)


def restored(node: Inbox, saved: Path, pacs: Pacs, *, assess_first: bool = False) -> Inbox:
    node.close()
    backup.restore(node.settings, saved)
    return opened(node.folder, pacs, assess_first=assess_first)


def reindexed(node: Inbox) -> None:
    reindex(node.database, node.spool, node.files, lambda *_: None)
    node.settle()
    work(node)


def acts(node: Inbox) -> list[tuple[str, str]]:
    rows = reversed(node.read(audit.rows))
    return [(row["actor"], row["action"]) for row in rows if row["actor"] == "reader"]


def withdrawn(node: Inbox) -> set[str]:
    return set(
        node.scalars(select(Result.sop_instance_uid).join(Withdrawal, Withdrawal.result_id == Result.id))
    )


def reject_all(node: Inbox, name: str) -> None:
    withdraw_results(node.settings, uid(name), None, reason=RejectionReason.SAFETY, because=WHY, by=READER)


def test_a_correction_acknowledged_before_a_kill_goes_before_the_results_that_wait(tmp_path: Path) -> None:
    pacs, image = Pacs(free_port()), ultrasound("killed", size=(96, 72))
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


def test_what_was_withdrawn_stays_so_and_what_came_after_the_backup_is_not_sent(
    tmp_path: Path, pacs: Pacs
) -> None:
    node = opened(tmp_path / "var", pacs)
    analyse(node, "before")
    deliver(node)
    backup.backup(node.settings, [], tmp_path / "saved")
    in_pacs = dict(pacs.stored)
    analyse(node, "after")  # received, analysed, withdrawn before it was sent: the backup knows nothing of it
    for name in ("before", "after"):
        reject_all(node, name)
    gone, audited = withdrawn(node), acts(node)
    assert len(gone) == 2
    assert audited == [("reader", "result_withdrawn")] * 2

    node = restored(node, tmp_path / "saved", pacs)
    assert not withdrawn(node), "the backup knows nothing of it"
    assert not acts(node), "the backup knows nothing of it"
    [first, second] = lost_decisions.reconcile_decisions(node.settings)
    assert (first["state"], second["state"]) == ("applied", "waits")
    reindexed(node)
    deliver(node)
    assert pacs.stored == in_pacs, "nothing of a study leaves while a decision on it waits"
    assert lost_decisions.apply_waiting_decisions(node.settings) == 1
    deliver(node)
    assert (withdrawn(node), acts(node)) == (gone, audited)
    assert pacs.stored == in_pacs
    assert {row.because for row in node.rows(Withdrawal)} == {WHY}
    assert lost_decisions.reconcile_decisions(node.settings) == [], "none twice"
    node.close()
    assert "Nowak" not in "".join(file.read_text() for file in audit.copied_decisions(node.folder))


def test_what_was_rejected_and_accepted_stays_so_but_where_a_person_has_decided_again(
    tmp_path: Path, pacs: Pacs
) -> None:
    node = opened(tmp_path / "var", pacs, assess_first=True)
    analyse(node, "refused", "taken", "again")
    backup.backup(node.settings, [], tmp_path / "saved")
    for name in ("refused", "again"):
        held_results.reject_results(node.settings, uid(name), READER, because=WHY)
    held_results.accept_results(node.settings, uid("taken"), READER)

    node = restored(node, tmp_path / "saved", pacs, assess_first=True)
    held_results.accept_results(
        node.settings, uid("again"), READER
    )  # sooner than the node applies the lost one
    assert {row["state"] for row in lost_decisions.reconcile_decisions(node.settings)} == {"applied"}
    deliver(node)
    with node.database.read() as session:
        assert {
            tuple(row)
            for row in session.execute(
                select(Study.study_instance_uid, HeldResult.state, Delivery.state)
                .join(HeldResult, HeldResult.study_id == Study.id)
                .join(Delivery, Delivery.result_id == HeldResult.result_id)
            )
        } == {
            (uid("refused"), HeldState.REJECTED, DeliveryState.DISCARDED),
            (uid("taken"), HeldState.ACCEPTED, DeliveryState.CONFIRMED),
            (uid("again"), HeldState.ACCEPTED, DeliveryState.CONFIRMED),
        }
    assert acts(node) == [("reader", "results_assessed")] * 4
    node.close()


@pytest.mark.parametrize("known", [True, False], ids=["in the backup", "after the backup"])
def test_what_was_released_with_a_choice_is_released_with_it_again(
    tmp_path: Path, pacs: Pacs, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", Forked)  # each look at the versions starts an inspector
    node = opened(tmp_path / "var", pacs)
    image = ultrasound("two", size=(48, 40))
    other = changed(image, PixelData=bytes(255 - value for value in image.PixelData))

    def arrive() -> None:
        node.receive(image)
        node.receive(other)
        node.settle()

    if known:
        arrive()
    backup.backup(node.settings, [], tmp_path / "saved")
    if not known:
        arrive()
    assert node.study(image.StudyInstanceUID).state is StudyState.QUARANTINED
    taken = versions(node.settings, image.StudyInstanceUID)[-1]["number"]
    release(node.settings, image.StudyInstanceUID, [taken], READER)
    chosen = node.file_of(image.SOPInstanceUID).PixelData
    assert chosen == other.PixelData

    node = restored(node, tmp_path / "saved", pacs)
    lost_decisions.reconcile_decisions(node.settings)
    reindexed(node)
    lost_decisions.apply_waiting_decisions(node.settings)
    assert node.study(image.StudyInstanceUID).state is not StudyState.QUARANTINED
    assert node.file_of(image.SOPInstanceUID).PixelData == chosen
    assert acts(node) == [("reader", "study_released")]
    node.close()


def test_a_kill_between_commit_and_copy_loses_and_doubles_nothing(
    tmp_path: Path, pacs: Pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the copy, and after it but before the database knows: what the next to copy does."""
    node = opened(tmp_path / "var", pacs)
    analyse(node, "one", "two")
    for place, name in (("write_new", "one"), ("mark_copied", "two")):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(audit, place, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            reject_all(node, name)
    audit.copy_decisions(node.database, node.settings)
    lines = [audit.read_decision(file) for file in audit.copied_decisions(node.folder)]
    assert [line and line["study"] for line in lines] == [uid("one"), uid("two")]
    assert audit.copy_decisions(node.database, node.settings) == 0
    assert lost_decisions.reconcile_decisions(node.settings) == []
    node.close()


def test_nothing_is_sent_after_a_copy_was_changed_until_a_person_settles_it(
    tmp_path: Path, pacs: Pacs
) -> None:
    node = opened(tmp_path / "var", pacs)
    analyse(node, "one", "two")
    reject_all(node, "one")
    [file] = audit.copied_decisions(node.folder)
    file.write_text(file.read_text().replace(uid("one"), uid("two")))
    node.write(Session.execute, delete(DecisionRow))  # as of a database that was restored
    assert audit.is_behind(node.database, node.settings)
    [row] = lost_decisions.reconcile_decisions(node.settings)
    assert file.name in row["waits_for"]
    assert row["holds"]
    deliver(node)
    assert not pacs.stored
    lost_decisions.settle_decision(node.settings, row["decision"], because="the disk was damaged")
    assert lost_decisions.reconcile_decisions(node.settings) == []
    deliver(node)
    assert pacs.stored
    assert json.dumps(acts(node)).count("result_withdrawn") == 1
    node.close()


@pytest.mark.debian("postgresql")
def test_yesterdays_database_and_todays_spool_give_the_same_pacs_content(
    tmp_path: Path, postgres: Postgres
) -> None:
    first, dump = postgres.new_database(), tmp_path / "yesterday.dump"
    with run_pacs(Pacs(free_port())) as pacs:
        node = node_on(first, tmp_path / "var", pacs)
        node.receive(*(ultrasound(name, number=n, size=(48, 40)) for name in ("one", "two") for n in (1, 2)))
        node.receive(ultrasound("waits", size=(48, 40)))
        work_and_deliver(node)
        of_yesterday = dict(pacs.stored)
        node.receive(ultrasound("queued", size=(48, 40)))
        node.settle()  # its job waits while the backup is made
        with_postgres(first, "pg_dump", "--format=custom", "--file", str(dump))

        node.receive(ultrasound("one", number=3, size=(48, 40)))  # a late object: a new revision
        node.receive(*(ultrasound("today", number=n, size=(48, 40)) for n in (1, 2)))
        work_and_deliver(node)
        content, times = dict(pacs.stored), Counter(pacs.received)
        assert len(content) > len(of_yesterday)
        assert set(times.values()) == {1}
        node.close()

        second = postgres.new_database()
        with_postgres(second, "pg_restore", "--exit-on-error", str(dump))
        node = node_on(second, tmp_path / "var", pacs)
        assert results_of(node) == set(of_yesterday)
        assert reindex(node.database, node.spool, node.files, lambda *_: None) == 3
        work_and_deliver(node)
        assert pacs.stored == content
        assert Counter(pacs.received) == times, "what the PACS has is not sent again"
        assert results_of(node) == set(content)
        assert not str(compare(node.database, node.spool, node.files))
        assert {study.state for study in node.rows(Study)} == {StudyState.DELIVERED}
        node.close()


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


@dataclass
class Recorder:
    """What was done to the disk, in order: (kind, file or name, further)."""

    done: list[tuple[str, Any, Any]] = field(default_factory=list)
    files: dict[int, int] = field(default_factory=dict)
    folders: set[int] = field(default_factory=set)
    lock: threading.RLock = field(default_factory=threading.RLock)
    numbers: int = 0

    def note(self, kind: str, what: Any, further: Any = None) -> None:
        with self.lock:
            self.done.append((kind, what, further))

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Put a recorder before each call that changes the disk."""
        real = {name: getattr(os, name) for name in CALLS}
        for name, call in CALLS.items():
            patch.setattr(os, name, lambda *a, _call=call, _real=real[name], **k: _call(self, _real, *a, **k))


def _open(on: Recorder, real: Callable[..., int], path: Any, flags: int, *mode: Any, **further: Any) -> int:
    with on.lock:
        file = real(path, flags, *mode, **further)
        if flags & os.O_CREAT:
            on.numbers += 1
            on.files[file] = on.numbers
            on.note("create", on.numbers, Path(path).name)
        elif flags & os.O_DIRECTORY:
            on.folders.add(file)
    return file


def _close(on: Recorder, real: Callable[..., None], file: int) -> None:
    with on.lock:
        on.files.pop(file, None)
        on.folders.discard(file)
        real(file)


def _write(on: Recorder, real: Callable[..., int], file: int, data: Any, *at: int) -> int:
    """``write``, and ``pwrite`` at a place."""
    if file not in on.files:
        return real(file, data, *at)
    with on.lock:
        place = at[0] if at else os.lseek(file, 0, os.SEEK_CUR)
        count = real(file, data, *at)
        on.note("write", on.files[file], (place, bytes(data)[:count]))
    return count


def _sync(on: Recorder, real: Callable[..., None], file: int) -> None:
    if file not in on.files and file not in on.folders:
        return real(file)
    with on.lock:
        covers = len(on.done)  # what was done before the sync began
        number = on.files.get(file)
    real(file)
    on.note("sync" if number else "sync folder", number, covers)
    return None


def _named(kind: str) -> Callable[..., None]:
    """A call that is noted with the names of its files."""

    def call(on: Recorder, real: Callable[..., None], *paths: Any, **further: Any) -> None:
        with on.lock:
            real(*paths, **further)
            on.note(kind, *(Path(path).name for path in paths))

    return call


CALLS: dict[str, Callable[..., Any]] = {
    "open": _open,
    "close": _close,
    "write": _write,
    "pwrite": _write,
    "fdatasync": _sync,
    "fsync": _sync,
    "rename": _named("rename"),
    "unlink": _named("unlink"),
}


def arrive(spool: Spool, number: int) -> tuple[str, bytes]:
    """One object in three fragments; its spool name and data set."""
    data = random.Random(number).randbytes(3000)
    incoming = spool.open(
        Arrival(f"a-{number}", "SENDER", "AINODE", "127.0.0.1", 0, datetime.now(UTC)),
        "1.2.840.10008.5.1.4.1.1.6.1",
        "1.2.3",
        "1.2.840.10008.1.2.1",
    )
    for start in range(0, 3000, 1000):
        incoming.write(data[start : start + 1000])
    return incoming.commit(), data


def disks(done: list[tuple[str, Any, Any]], moment: int, chance: random.Random) -> Iterator[dict[str, bytes]]:
    """What may be on the disk after the first ``moment`` changes: content by name."""
    past = done[:moment]
    synced = {number: covers for kind, number, covers in past if kind == "sync"}
    named = max([covers for kind, _, covers in past if kind == "sync folder"], default=0)
    of_entries = ("create", "rename", "unlink")
    loose = [at for at, (kind, *_) in enumerate(past) if at >= named and kind in of_entries]
    for kept in ([], loose, loose[: chance.randrange(len(loose) + 1)]):
        until = kept[-1] + 1 if kept else named
        for survives in (lambda: False, lambda: True, lambda: chance.random() < 0.5):
            content: dict[int, bytearray] = {}
            for at, (kind, number, further) in enumerate(past):
                if kind == "write" and (at < synced.get(number, 0) or survives()):
                    start, data = further
                    file = content.setdefault(number, bytearray())
                    file.extend(bytes(max(0, start + len(data) - len(file))))
                    file[start : start + len(data)] = data
            yield {name: bytes(content.get(number, b"")) for name, number in entries(past[:until]).items()}


def entries(done: list[tuple[str, Any, Any]]) -> dict[str, int]:
    """Number of the file by its name."""
    names: dict[str, int] = {}
    for kind, what, further in done:
        if kind == "create":
            names[further] = what
        elif kind == "rename":
            names[further] = names.pop(what)
        elif kind == "unlink":
            names.pop(what)
    return names


@pytest.mark.parametrize("senders", [1, 4])
def test_after_a_power_loss_acknowledged_objects_are_whole_and_no_part_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, senders: int
) -> None:
    spool, recorder = Spool(tmp_path, 0), Recorder()
    sent: dict[str, bytes] = {}

    def send(first: int) -> None:
        for number in range(first, first + 3):
            name, data = arrive(spool, number)
            sent[f"{name}.dcm"] = data
            recorder.note("acknowledged", f"{name}.dcm")

    with monkeypatch.context() as patch:
        recorder.watch(patch)
        threads = [threading.Thread(target=send, args=(10 * sender,)) for sender in range(senders)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    done, chance = recorder.done, random.Random(senders)
    assert sum(kind == "acknowledged" for kind, *_ in done) == 3 * senders
    for moment in range(len(done) + 1):
        acknowledged = {what for kind, what, _ in done[:moment] if kind == "acknowledged"}
        for disk in disks(done, moment, chance):
            visible = {name for name in disk if not name.startswith(".")}
            assert acknowledged <= visible
            for name in visible:
                assert disk[name].endswith(sent[name]), "there in part"
                assert disk[name][128:132] == b"DICM"


def test_a_file_whose_sync_failed_is_given_up_and_never_synced_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux forgets the error of a failed fsync: a second one would say Success for bytes that are lost."""
    asked: list[int] = []

    def fails(file: int) -> None:
        asked.append(file)
        raise OSError(5, "Input/output error")

    spool = Spool(tmp_path, 0)
    with monkeypatch.context() as patch, pytest.raises(SpoolError):
        patch.setattr(os, "fdatasync", fails)
        arrive(spool, 1)
    assert len(asked) == 1
    assert spool.pending() == []
    spool.remove_leftovers()
    assert not list((tmp_path / "incoming").iterdir())
