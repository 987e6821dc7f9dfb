"""The rights of config/postgres/roles.sql are enough for what nodes do, and no more than that."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError

from dicom_node.config.sections import TelemetrySettings
from dicom_node.jobs.queue import JobQueue
from dicom_node.model.lifecycle import DeliveryState, StudyState
from dicom_node.model.roles import UserRole
from dicom_node.monitoring.disk import note_free_space
from dicom_node.monitoring.drift import forget_old, report_drift
from dicom_node.monitoring.past import forget_past
from dicom_node.monitoring.processes import Sign, SignsOfLife, forget_lost
from dicom_node.notifications.gather import forget_removed
from dicom_node.outbox.commitments import forget_requests
from dicom_node.outbox.delivery_worker import DeliveryWorker
from dicom_node.outbox.held import report_overdue
from dicom_node.services import assessments, deliveries, users
from dicom_node.store import leases, migrate
from dicom_node.store.database import Database
from dicom_node.store.tables import Base, Delivery, Study
from dicom_node.store.transitions import utc_now
from dicom_node.studies.purge import purge, purge_results
from tests.console_lab import ConsoleLab, add_users, quick_hasher
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.pacs_lab import Pacs, free_port, run_pacs
from tests.unit.inbox.objects import changed
from tests.unit.jobs.worker_lab import Worker, configuration, register
from tests.waiting import wait_until

pytestmark = pytest.mark.debian("postgresql")
SQL = (Path(__file__).resolve().parents[3] / "config" / "postgres" / "roles.sql").read_text(encoding="utf-8")
ROLES = ("receives", "works", "console")


@pytest.fixture(scope="module")
def urls(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """By role, the URL of one database under a user of that role; "owner": of who made the tables."""
    url = request.getfixturevalue("postgres").new_database()
    database = Database(url)
    migrate.upgrade(database)
    with database.write() as session:
        driver = session.connection().connection.driver_connection
        assert driver is not None
        for _ in range(2):  # it may be run again, after an upgrade
            driver.execute(SQL)
        for role in ROLES:
            driver.execute(f"CREATE USER test_{role} IN ROLE dicom_node_{role}")
    as_user = {role: make_url(url).set(username=f"test_{role}") for role in ROLES}
    yield {"owner": url, **{role: found.render_as_string() for role, found in as_user.items()}}
    database.dispose()


def send_traces(node: Inbox) -> None:
    """All that is open; where its package is there, to a real collector."""
    with contextlib.suppress(ImportError):
        from dicom_node.telemetry.sender import TraceSender
        from tests.collector_lab import running_collector

        with running_collector() as collector:
            telemetry = TelemetrySettings(endpoint=collector.endpoint)
            settings = node.settings.model_copy(update={"telemetry": telemetry})
            TraceSender(node.database, settings, "me").run_once()
            assert collector.refused == 0


def test_a_study_goes_its_way_under_these_rights(
    tmp_path: Path, urls: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    register()
    with run_pacs(Pacs(free_port())) as pacs:
        config = configuration()
        config["peers"][1]["port"] = pacs.port
        config["outbox"] = {"retry_seconds": 0.05, "retry_limit_seconds": 0.2}
        config["spool"] = {**config.get("spool", {}), "result_days": 30}
        listener = Inbox(tmp_path / "var", config, url=urls["receives"])
        worker = Inbox(tmp_path / "var", config, url=urls["works"])
        console = Inbox(tmp_path / "var", config, url=urls["console"])

        listener.opened("1")
        listener.receive(*(ultrasound("one", number=n, size=(48, 40)) for n in (1, 2)), association="1")
        other = ultrasound("mixed", number=2, size=(48, 40))
        listener.receive(ultrasound("mixed", size=(48, 40)), changed(other, PatientID="SOMEBODY-ELSE"))
        listener.released("1")
        listener.settle()
        listener.receive(ultrasound("one", number=3, size=(48, 40)))
        listener.settle()
        assert listener.study(other.StudyInstanceUID).state is StudyState.QUARANTINED
        JobQueue(worker.database, worker.settings.workers).reap()
        analyses = Worker(worker.settings, worker.database)
        while analyses.run_once():
            pass
        outbox = DeliveryWorker(worker.database, worker.settings)

        def all_confirmed() -> bool:
            outbox.run_once()
            with worker.database.read() as session:
                return set(session.scalars(select(Delivery.state))) == {DeliveryState.CONFIRMED}

        wait_until(all_confirmed, 60, "all results confirmed")
        report_drift(worker.database, worker.settings)
        for node in (listener, worker):
            life = SignsOfLife(node.database, "here", "me")
            life.report([Sign("main", 1)], ["here"])
            forget_lost(node.database, node.settings)
            life.leave()
            send_traces(node)
            assert leases.acquire(node.database, "a lease", "me", 0)

    monkeypatch.setattr(users, "hasher", quick_hasher)
    add_users(console.settings)
    lab = ConsoleLab(console.settings, console.database)
    browser = lab.browser(UserRole.ADMIN)
    with console.database.read() as session:
        number = session.scalar(select(Study.id).where(Study.state == StudyState.DELIVERED))
    for page in (
        "/",
        "/studies",
        "/studies?finding=Mass",
        f"/studies/{number}",
        "/jobs",
        "/outbox",
        "/audit",
        "/patients",
        "/reviews",
    ):
        assert browser.get(page) == 200, (page, browser.text)
    with console.database.read() as session:
        delivery = session.scalar(select(Delivery.id))
    with pytest.raises(Exception, match="confirmed already"):
        deliveries.retry(console.settings, [delivery or 0])

    later = utc_now() + timedelta(days=1000)
    note_free_space(listener.database, listener.settings)
    assert purge(listener.database, listener.settings, later) == 3
    assert purge_results(listener.database, listener.settings, later) > 0
    assert forget_past(listener.database, listener.settings, later) > 0
    forget_old(listener.database, listener.settings, later)
    forget_removed(listener.database, listener.settings)
    forget_requests(listener.database, listener.settings)
    for node in (listener, worker, console):
        node.close()


def test_results_wait_for_a_person_under_these_rights(tmp_path: Path, urls: dict[str, str]) -> None:
    register()
    config = configuration()
    config["rules"][0]["assess_first"] = True
    config["outbox"] = {"assess_hours": 1e-9}
    listener, worker, console = (Inbox(tmp_path / "var", config, url=urls[role]) for role in ROLES)
    image = ultrasound("held", size=(48, 40))
    listener.receive(image)
    listener.settle()
    assert Worker(worker.settings, worker.database).run_once()
    assert listener.study(image.StudyInstanceUID).state is StudyState.UNASSESSED
    assert report_overdue(listener.database, listener.settings) == 1
    assert assessments.accept_results(console.settings, str(image.StudyInstanceUID)) == 2
    for node in (listener, worker, console):
        node.close()


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        *((role, "CREATE TABLE other (id int)") for role in ROLES),
        *((role, "DROP TABLE job") for role in ROLES),
        *((role, "TRUNCATE event") for role in ROLES),
        *((role, "DELETE FROM audit") for role in ROLES),
        *((role, "UPDATE audit SET actor = 'nobody'") for role in ROLES),
        *((role, "UPDATE alembic_version SET version_num = '0001'") for role in ROLES),
        ("receives", "SELECT * FROM user_account"),
        ("receives", "SELECT * FROM api_token"),
        ("receives", "INSERT INTO withdrawal (result_id) VALUES (1)"),
        ("works", "SELECT * FROM user_session"),
        ("works", "SELECT * FROM registered_patient"),
        ("works", "UPDATE instance SET path = ''"),
        ("works", "DELETE FROM event"),
    ],
)
def test_what_is_not_needed_is_refused(urls: dict[str, str], role: str, statement: str) -> None:
    database = Database(urls[role])
    with pytest.raises(ProgrammingError, match="InsufficientPrivilege"), database.write() as session:
        session.execute(text(statement))
    database.dispose()


def test_every_table_has_its_rights() -> None:
    granted = set(re.findall(r"\w+", SQL.partition("GRANT USAGE")[2]))
    assert {table.name for table in Base.metadata.sorted_tables} - granted == set()
