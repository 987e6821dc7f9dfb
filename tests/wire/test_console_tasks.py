"""What people come to the console for, done in a real browser by its fields and buttons."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import expect
from pydicom.uid import generate_uid
from sqlalchemy import func, select, update

from dicom_node import events
from dicom_node.config.settings import PeerSettings
from dicom_node.model.kinds import AssociationOutcome
from dicom_node.model.lifecycle import DeliveryState, JobState, StudyState
from dicom_node.model.roles import UserRole
from dicom_node.outbox.removals import Removals
from dicom_node.store.patient_names import PatientNames
from dicom_node.store.tables import Association, Delivery, EventRow, Job, Study
from dicom_node.store.transitions import utc_now
from tests.browser_lab import debian_chromium, served, served_app, signed_in
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.outbox_lab import Outbox
from tests.unit.console.illustrated import analysed
from tests.unit.inbox.objects import changed
from tests.wire.orthanc_lab import start_orthanc

pytestmark = [pytest.mark.debian("chromium"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with debian_chromium() as browser:
        yield browser


def test_a_failed_delivery_of_yesterday_is_found_by_the_patients_name(
    tmp_path: Path, chromium: Chromium
) -> None:
    with analysed(tmp_path / "var") as node:
        names = PatientNames(node.settings.node.data_dir, make_key=True)
        yesterday = utc_now() - timedelta(days=1)
        with node.database.write() as session:
            study = session.scalars(select(Study)).one()
            names.enter(session, study, "Okonkwo^Ada")
            study.state, study.last_received_at = StudyState.FAILED, yesterday
            reason = "association rejected: called AE title not recognized"
            session.execute(update(Delivery).values(state=DeliveryState.DEAD, reason=reason))
        node.receive(*(ultrasound(f"other {number}") for number in range(5)))
        node.settle()
        with served(node) as address:
            page, complaints = signed_in(chromium, address, UserRole.OPERATOR)
            page.goto(f"{address}/studies")
            page.fill("input[name=name]", "okonkwo")
            page.select_option("select[name=days]", "2")
            page.click("main button:text-is('Find')")
            rows = page.locator("table.studies tbody tr")
            expect(rows).to_have_count(1)
            assert "Ada" in rows.inner_text() and "failed" in rows.inner_text()
            page.click("table.studies tbody a")
            page.wait_for_selector(f"text={reason}")
            page.click("main button:text-is('Send again') >> nth=0")
            page.wait_for_selector("main .state.pending")
            assert complaints == []


def test_five_hundred_held_jobs_are_released_by_one_button(tmp_path: Path, chromium: Chromium) -> None:
    node = Inbox(tmp_path / "var")
    now = utc_now()
    with node.database.write() as session:
        for _ in range(500):
            study = Study(
                study_instance_uid=generate_uid(),
                state=StudyState.NOT_APPLICABLE,
                first_received_at=now,
                last_received_at=now,
            )
            session.add(study)
            session.add(
                Job(
                    study=study,
                    study_revision=1,
                    rule="chest",
                    pipeline="obedient",
                    destinations=[],
                    source_uids=[],
                    state=JobState.HELD,
                    run_at=now,
                    created_at=now,
                )
            )
    with served(node) as address:
        page, complaints = signed_in(chromium, address, UserRole.OPERATOR)
        page.goto(f"{address}/jobs")
        page.click("main button:text-is('Run all 500')")
        page.wait_for_load_state()
        with node.database.read() as session:
            states = dict(session.execute(select(Job.state, func.count()).group_by(Job.state)).all())
        assert states == {JobState.QUEUED: 500}
        assert complaints == []
    node.close()


def test_what_happened_at_a_time_is_one_page_away(tmp_path: Path, chromium: Chromium) -> None:
    node = Inbox(tmp_path / "var")
    node.receive(changed(ultrasound("one"), PatientID="P12"))
    node.settle()
    then = utc_now().astimezone().replace(hour=3, minute=12, second=7, microsecond=0) - timedelta(days=1)
    with node.database.write() as session:
        [study] = session.scalars(select(Study.id))
        session.add(
            EventRow(
                at=then, number=events.DELIVERY_DEAD.number, study_id=study, fields={"destination": "pacs"}
            )
        )
        session.add(
            Association(
                id="a1",
                listener="l",
                calling_ae="US7",
                called_ae="AINODE",
                address="10.0.0.7",
                opened_at=then,
                closed_at=then,
                outcome=AssociationOutcome.ABORTED,
                reason="the peer aborted",
            )
        )
        session.add(EventRow(at=then - timedelta(hours=3), number=events.DISK_LOW.number, fields={}))
    with served(node) as address:
        page, complaints = signed_in(chromium, address, UserRole.VIEWER)
        page.click("nav >> text=Events")
        page.fill("input[name=at]", f"{then:%Y-%m-%dT%H:%M}")
        with page.expect_navigation():
            page.click("main button:text-is('Find')")
        text = page.inner_text("main")
        assert "delivery given up" in text and "destination pacs" in text
        assert "US7" in text and "the peer aborted" in text
        assert str(events.DISK_LOW.number) not in text
        assert complaints == []
    node.close()


@pytest.mark.debian("orthanc")
def test_a_result_is_withdrawn_and_seen_to_be_gone(tmp_path: Path, chromium: Chromium) -> None:
    with start_orthanc(tmp_path / "orthanc") as orthanc:
        known = {"name": "pacs", "ae_title": "PACS", "may": ["receive"], "withdraw": "delete"}
        peer = PeerSettings.model_validate({**known, "transport": "orthanc", "url": orthanc.url})
        outbox = Outbox(tmp_path / "node", [peer])
        sent = outbox.add_study(["pacs"])
        outbox.run_until("confirmed")
        assert set(sent) <= set(orthanc.instances())
        stop = threading.Event()
        removals = Removals(outbox.database, outbox.settings, "one")

        def remove() -> None:
            while not stop.wait(0.2):
                removals.run_once()

        removing = threading.Thread(target=remove)
        removing.start()
        try:
            with served_app(ConsoleLab(outbox.settings, outbox.database)) as address:
                page, complaints = signed_in(chromium, address, UserRole.OPERATOR)
                page.goto(f"{address}/studies/1")
                page.click("text=Withdraw results")
                page.check("input[name=reason][value=quality]")
                page.fill("input[name=because]", "of the wrong side")
                page.click("main button:text-is('Withdraw')")
                page.goto(f"{address}/studies/1/withdraw")
                page.wait_for_selector(f"#removals .state.gone >> nth={len(sent) - 1}", timeout=60_000)
                assert complaints == []
        finally:
            stop.set()
            removing.join()
        assert not set(sent) & set(orthanc.instances())
