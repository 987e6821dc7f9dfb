"""The object store: files handed over, fetched, lost, purged."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicom_connectors.bucket.connector import probe
from dicom_connectors.bucket.handover import HandOver, LocalCopies, oldest_waiting, refuse_another_key
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import ConfigurationError, NotInSpool, StoreAway
from dicom_node.base.events import STORE_AWAY, STORE_BACK
from dicom_node.base.files import Bucket, bucket_of
from dicom_node.base.lifecycle import DeliveryState, JobState
from dicom_node.base.sitekey import path_of as path_of_key
from dicom_node.base.store.tables import Delivery, EventRow, Job, Result
from dicom_node.base.store.transitions import utc_now
from dicom_node.deliver.delivery_worker import DeliveryWorker
from dicom_node.jobs.worker.run import Worker
from dicom_node.people.preflight import Tried
from dicom_node.studies.purging import purge
from dicom_node.studies.reconciliation import compare
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.pacs_lab import Pacs
from tests.s3_lab import S3, SECRET, start_s3
from tests.unit.jobs.worker_lab import configuration, confirm, work
from tests.waiting import wait_until


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """One service; each test has a prefix of its own."""
    with start_s3() as service:
        yield service


IMAGE = ultrasound("handed-over", size=(48, 40))


class Site:
    """Machines with a folder each, one database and one bucket; the first one is ``a``."""

    def __init__(self, folder: Path, s3: S3) -> None:
        self.s3, self.folder = s3, folder
        self.config = {**configuration(), "object_store": s3.settings(folder.name)}
        self.open: list[Inbox] = []
        self.a = self.machine("a")

    def machine(self, name: str, database: str = "site.db") -> Inbox:
        self.open.append(Inbox(self.folder / name, self.config, url=f"sqlite:///{self.folder / database}"))
        return self.open[-1]

    def bucket(self) -> Bucket:
        return self.s3.bucket(self.folder.name)

    def stored(self) -> list[str]:
        return list(self.bucket().keys(""))


@pytest.fixture
def site(tmp_path: Path, s3: S3) -> Iterator[Site]:
    site = Site(tmp_path, s3)
    yield site
    for machine in site.open:
        machine.close()


def handing(node: Inbox, site: Site) -> HandOver:
    return HandOver(node.database, node.settings, site.bucket())


def waiting(node: Inbox) -> int:
    return node.read(oldest_waiting)[0]


def fetched(node: Inbox, path: str) -> Path:
    return node.read(node.files.here, path)


def path_of(node: Inbox) -> str:
    return node.instance(IMAGE).path


def test_a_study_is_worked_on_when_another_machine_can_have_it(site: Site) -> None:
    site.a.settle(IMAGE)
    assert (waiting(site.a), site.a.jobs()) == (1, []), "it is complete, but on this disk only"
    assert handing(site.a, site).run_once() == 1
    site.a.settle()
    assert (waiting(site.a), len(site.a.jobs())) == (0, 1)
    b = site.machine("b")
    assert work(b) == 1, "its image is fetched"
    for there, here, path in ((site.a, b, path_of(b)), (b, site.a, site.a.rows(Result)[0].path)):
        assert fetched(here, path).read_bytes() == (there.folder / path).read_bytes()
    assert not [key for key in site.stored() if str(IMAGE.PatientID) in key or "Name" in key]


@contextmanager
def stopped(s3: S3) -> Iterator[None]:
    """While nobody answers."""
    s3.stop()
    try:
        yield
    finally:
        s3.go_on()


def test_a_store_that_is_away_is_told_once_and_gets_all_when_it_is_back(site: Site) -> None:
    site.a.index(IMAGE, ultrasound("another", size=(48, 40)))
    handing_over = handing(site.a, site)
    with stopped(site.s3):
        assert [handing_over.run_once() for _ in range(2)] == [0, 0]
        assert waiting(site.a) == 2
    wait_until(lambda: handing_over.run_once() >= 0 and not waiting(site.a), 60, "the store is back")
    told = site.a.column(EventRow.number)
    assert [told.count(event.number) for event in (STORE_AWAY, STORE_BACK)] == [1, 1]


def test_a_damaged_and_a_lost_object_are_errors_and_are_not_kept(site: Site, tmp_path: Path) -> None:
    site.a.index(IMAGE)
    handing(site.a, site).run_once()
    b, path = site.machine("b"), path_of(site.a)
    (tmp_path / "other").write_bytes(b"another object")
    for break_it, said in (
        (lambda: site.bucket().put(path, tmp_path / "other"), "damaged"),
        (lambda: site.bucket().delete(path), "lost"),
    ):
        break_it()
        with pytest.raises(NotInSpool, match=said):
            fetched(b, path)
    assert not [file for file in (b.folder / path).parent.iterdir() if file.is_file()]
    assert fetched(site.a, path).is_file(), "where it was received it is still whole"


def test_what_is_purged_is_gone_everywhere(site: Site) -> None:
    site.a.index(IMAGE)
    handing(site.a, site).run_once()
    site.a.settle()
    b = site.machine("b")
    work(b)
    confirm(site.a)
    path = path_of(b)
    copies = LocalCopies(b.database, b.settings, site.bucket())
    assert copies.trim(in_use_seconds=-1) == 0, "there is room"
    assert purge(site.a.database, site.a.settings, utc_now().replace(year=2100)) == 1
    assert site.bucket().size(path) is None
    assert copies.trim(in_use_seconds=-1) == 1
    assert not (b.folder / path).exists()


def test_a_database_of_yesterday_and_the_bucket_give_the_same_content(site: Site) -> None:
    site.a.index(IMAGE)
    handing(site.a, site).run_once()
    later = site.machine("later", database="restored.db")
    assert len(compare(*later.stores).unknown) == 1
    assert later.reindex() == 1
    later.index()
    handing(later, site).run_once()
    assert not str(compare(*later.stores))
    site.bucket().delete(path_of(later))
    (later.folder / path_of(later)).unlink()
    assert "without a file" in str(compare(*later.stores))


def test_a_job_waits_for_the_store_and_loses_no_try(site: Site) -> None:
    site.a.index(IMAGE)
    handing(site.a, site).run_once()
    site.a.settle()
    with stopped(site.s3):
        assert Worker(site.a.settings, site.a.database).run_once()
    (job,) = site.a.jobs()
    assert (job.state, job.tries, "object store" in job.reason) == (JobState.QUEUED, 0, True)
    site.a.put(Job, job.id, run_at=utc_now())
    time.sleep(1.1)  # it is not asked again at once
    assert work(site.a) == 1
    rows = site.a.rows(Result)
    assert rows
    assert {site.bucket().size(row.path) for row in rows} == {row.bytes for row in rows}


def test_a_machine_with_another_site_key_is_refused(site: Site) -> None:
    refuse_another_key(site.a.settings)
    refuse_another_key(site.a.settings)
    b = site.machine("b")
    with pytest.raises(ConfigurationError, match="differs from the key of the site's other machines"):
        refuse_another_key(b.settings)
    path_of_key(b.folder).write_bytes(path_of_key(site.a.folder).read_bytes())
    refuse_another_key(b.settings)
    site.bucket().get("keys/site-key.check", site.folder / "left")
    assert path_of_key(site.a.folder).read_text().strip() != (site.folder / "left").read_bytes().hex()


def test_no_secret_is_shown(site: Site) -> None:
    settings: Settings = site.a.settings
    assert SECRET not in repr(settings) + json.dumps(json.loads(settings.model_dump_json()))
    assert bucket_of(settings) is bucket_of(settings)
    with pytest.raises(StoreAway) as told:
        site.s3.bucket(endpoint="http://127.0.0.1:9", seconds=1).size("x")
    assert SECRET not in repr(told.value)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({}, ""),
        ({"url": "s3://another"}, "no bucket of this name"),
        ({"endpoint": "http://127.0.0.1:9"}, "not answer"),
    ],
)
def test_a_bucket_is_tried_and_what_is_wrong_with_it_is_one_sentence(
    s3: S3, tmp_path: Path, other: dict[str, object], said: str
) -> None:
    given = {"node": {"data_dir": tmp_path}, "object_store": s3.settings(tmp_path.name) | other}
    [found] = probe(Settings.model_validate(given))
    assert isinstance(found, Tried)
    assert found.ok is (not said)
    assert said in found.text
    assert found.ok or "look at" in found.text
    assert not [*s3.bucket(tmp_path.name).keys("")], "nothing is left in it"


@pytest.fixture
def elsewhere(tmp_path: Path, s3: S3, pacs: Pacs) -> Iterator[Inbox]:
    """A machine that delivers, of a site where another one has worked."""
    config = configuration() | {"object_store": s3.settings(tmp_path.name)}
    config["outbox"] = {"retry_seconds": 0.05, "retry_limit_seconds": 0.2}
    config["peers"][1] |= {"port": pacs.port, "results": ["sr"]}
    url = f"sqlite:///{tmp_path / 'site.db'}"
    here, there = (Inbox(tmp_path / name, config, url=url) for name in ("here", "there"))
    here.index(ultrasound("one", size=(48, 40)))
    HandOver(here.database, here.settings, s3.bucket(tmp_path.name)).run_once()
    here.settle()
    assert work(here) == 1
    here.close()
    yield there
    there.close()


def the_delivery(node: Inbox) -> tuple[DeliveryState, str, int]:
    row = node.rows(Delivery)[0]
    return row.state, row.reason, row.refusals


def test_a_delivery_waits_for_the_bucket(elsewhere: Inbox, s3: S3, pacs: Pacs) -> None:
    outbox = DeliveryWorker(elsewhere.database, elsewhere.settings)
    with stopped(s3):
        wait_until(lambda: outbox.run_once() > 0, 60, "it is tried")
        assert the_delivery(elsewhere) == (DeliveryState.PENDING, "the object store does not answer", 0)
        assert not pacs.stored
    time.sleep(1.1)  # the bucket is not asked again at once
    confirmed = lambda: (outbox.run_once(), the_delivery(elsewhere)[0])[1] is DeliveryState.CONFIRMED
    wait_until(confirmed, 60, "it is confirmed")
    assert len(pacs.stored) == 1


def test_a_result_that_the_bucket_lost_is_a_dead_letter(
    elsewhere: Inbox, s3: S3, pacs: Pacs, tmp_path: Path
) -> None:
    s3.bucket(tmp_path.name).delete(*(row.path for row in elsewhere.rows(Result)))
    outbox = DeliveryWorker(elsewhere.database, elsewhere.settings)
    wait_until(lambda: outbox.run_once() > 0, 60, "it is tried")
    state, reason, _ = the_delivery(elsewhere)
    assert state is DeliveryState.DEAD
    assert "missing or damaged" in reason
    assert not pacs.stored
