"""What the pages show, and what an operator may change on them."""

from __future__ import annotations

import re
from datetime import timedelta
from io import BytesIO

import pytest
from PIL import Image
from pydicom.dataset import Dataset
from sqlalchemy import select

from dicom_console.views import listing, metrics, overview, search
from dicom_console.views.search import Order, Search
from dicom_console.web.pages import unit
from dicom_node.model.kinds import AuditAction, ResultKind
from dicom_node.model.lifecycle import DeliveryState, JobState, StudyState
from dicom_node.model.roles import UserRole
from dicom_node.services import audit
from dicom_node.store.database import Database
from dicom_node.store.tables import Delivery, Instance, Job, Result, Study
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.rows import NOW, a_job, a_result, a_study
from tests.unit.inbox.objects import changed, small_xray


def arrive(inbox: Inbox, *objects: Dataset) -> None:
    inbox.receive(*objects)
    inbox.settle()


def actions(console: ConsoleLab, *, by: str) -> list[str]:
    """What this user did, the newest first."""
    with console.database.read() as session:
        return [row["action"] for row in audit.rows(session) if row["actor"] == by]


def a_dead_delivery(console: ConsoleLab) -> None:
    """The first job's picture, given up."""
    with console.database.write() as session:
        job = session.scalars(select(Job)).first()
        assert job is not None
        job.state = JobState.SUCCEEDED
        result = a_result(job, ResultKind.SC)
        session.add(result)
        session.flush()
        session.get_one(Study, job.study_id).state = StudyState.FAILED
        session.add(Delivery(result_id=result.id, destination="pacs", state=DeliveryState.DEAD, next_at=NOW))


def test_the_overview_counts_what_needs_a_person(console: ConsoleLab, inbox: Inbox) -> None:
    arrive(inbox, ultrasound("one"))
    a_dead_delivery(console)
    browser = console.browser(UserRole.VIEWER)
    browser.get("/")
    figures = {
        label: int(number)
        for number, label in re.findall(r"<strong>(\d+)</strong><span>([^<]+)", browser.text)
    }
    assert figures == {
        "studies being received": 0,
        "jobs running": 0,
        "jobs waiting": 0,
        "jobs held": 0,
        "deliveries on their way": 0,
        "deliveries given up": 1,
        "studies in quarantine": 0,
        "studies failed": 1,
    }
    for address in set(re.findall(r'class="figure[^>]*href="([^"]+)"', browser.text)):
        assert browser.get(address) == 200, address


def test_a_name_that_is_a_script_is_text(console: ConsoleLab, inbox: Inbox) -> None:
    script = "<script>alert(1)</script>"
    arrive(inbox, changed(ultrasound("one"), PatientName=script, PatientID=script, AccessionNumber="<i>"))
    browser = console.browser(UserRole.VIEWER)
    for path in ("/studies", "/studies/1"):
        browser.get(path)
        assert "&lt;script&gt;alert(1)" in browser.text
        assert "<script>" not in browser.text
        assert "<i>" not in browser.text


def test_a_patient_is_found_and_no_address_says_which(console: ConsoleLab, inbox: Inbox) -> None:
    arrive(
        inbox,
        changed(ultrasound("one"), PatientID="SECRET-1", AccessionNumber="ACC1"),
        changed(ultrasound("two"), PatientID="SECRET-22", AccessionNumber="ACC2"),
    )
    browser = console.browser(UserRole.VIEWER)
    for field, wanted, found in (
        ("patient", "SECRET-1", {"SECRET-1"}),
        ("patient", "SECRET-", set()),
        ("patient", "SECRET-*", {"SECRET-1", "SECRET-22"}),
        ("patient", "%*", set()),
        ("accession", "ACC2", {"SECRET-22"}),
    ):
        browser.post("/studies/search", **{field: wanted})
        assert wanted not in browser.headers["location"]
        browser.follow()
        assert set(re.findall(r"<small>(SECRET-\d+)</small>", browser.text)) == found, wanted
    browser.get("/studies")
    assert set(re.findall(r"<small>(SECRET-\d+)</small>", browser.text)) == {"SECRET-1", "SECRET-22"}
    assert actions(console, by="viewer").count("study_searched") == 5
    with console.database.read() as session:
        assert "SECRET" not in str(audit.rows(session))


def test_a_search_narrows_by_state_modality_and_date(console: ConsoleLab, inbox: Inbox) -> None:
    arrive(inbox, ultrasound("one"), small_xray("two"))
    browser = console.browser(UserRole.VIEWER)
    with console.database.read() as session:
        dates = dict(session.execute(select(Study.id, Study.study_date)).all())
    assert browser.post("/studies/search", modality="dx", state="not_applicable") == 303
    browser.follow()
    assert re.findall(r"/studies/(\d+)\"", browser.text) == ["2"]
    day = f"{dates[1][:4]}-{dates[1][4:6]}-{dates[1][6:]}"
    assert browser.get(f"/studies?since={day}&until={day}&modality=US") == 200
    assert re.findall(r"/studies/(\d+)\"", browser.text) == ["1"]
    assert browser.post("/studies/search", sender="MODALITY") == 303
    browser.follow()
    assert re.findall(r"/studies/(\d+)\"", browser.text) == ["2", "1"]
    assert browser.get("/studies?sender=NOBODY") == 200
    assert "none that all filters let pass" in browser.text
    assert browser.get("/studies?since=tomorrow") == 400
    assert browser.get("/studies?state=gone") == 400


@pytest.mark.parametrize("order", Order)
def test_pages_together_show_each_study_once(database: Database, order: Order) -> None:
    with database.write() as session:
        for number in range(2 * search.PAGE + 7):
            at = NOW + timedelta(seconds=number // 3)  # some at the same moment
            session.add(a_study(f"1.2.{number}", at=at, study_date=f"202601{number % 28 + 1:02}"))
    seen: list[dict[str, object]] = []
    after: int | None = None
    with database.read() as session:
        for _ in range(3):
            rows, after = search.search(session, Search(order=order), after)
            seen += rows
    assert after is None
    assert len({row["id"] for row in seen}) == len(seen) == 2 * search.PAGE + 7
    key = "study_date" if order in (Order.DATE, Order.OLDEST_DATE) else "last_received_at"
    values = [str(row[key]) for row in seen]
    assert values == sorted(values, reverse=order in (Order.RECEIVED, Order.DATE))


def test_the_page_of_a_study_shows_what_came_and_became_of_it(console: ConsoleLab, inbox: Inbox) -> None:
    arrive(inbox, changed(ultrasound("one"), PatientName="Müller^Änne", SpecificCharacterSet="ISO_IR 100"))
    a_dead_delivery(console)
    browser = console.browser(UserRole.VIEWER)
    assert browser.get("/studies/1") == 200
    for shown in ("Müller, Änne", "MODALITY", "object indexed", "/studies/images/1/1?longest=320"):
        assert shown in browser.text, shown
    assert 'class="state dead"' in browser.text
    assert "Run the rules again" not in browser.text
    assert actions(console, by="viewer").count("study_seen") == 1
    browser.get("/studies/1")
    assert actions(console, by="viewer").count("study_seen") == 1  # within minutes


def test_images_are_shown_small_and_their_sight_is_noted(console: ConsoleLab, inbox: Inbox) -> None:
    arrive(inbox, ultrasound("one"))
    browser = console.browser(UserRole.VIEWER)
    for longest, size in (("", (240, 180)), ("?longest=120", (120, 90)), ("?longest=99999", (240, 180))):
        assert browser.get(f"/studies/images/1/1{longest}") == 200
        assert browser.headers["content-type"] == "image/png"
        assert Image.open(BytesIO(browser.content)).size == size
    assert "study_seen" in actions(console, by="viewer")
    assert browser.get("/studies/images/1/2") == 404
    assert browser.get("/studies/images/1?frame=2") == 404
    assert browser.get("/studies/images/2/1") == 404


def test_an_image_beyond_the_limits_or_gone_is_not_shown(console: ConsoleLab, inbox: Inbox) -> None:
    arrive(inbox, ultrasound("one"), ultrasound("two"))
    browser = console.browser(UserRole.VIEWER)
    with console.database.write() as session:
        session.get_one(Instance, 2).purged = True
    assert browser.get("/studies/images/2/1") == 404
    console.change("images", longest_side=100)
    assert browser.get("/studies/images/1/1") == 404


def test_an_operator_sends_again_and_the_audit_says_who(console: ConsoleLab, inbox: Inbox) -> None:
    arrive(inbox, ultrasound("one"))
    a_dead_delivery(console)
    browser = console.browser(UserRole.OPERATOR)
    browser.get("/outbox?state=dead")
    assert "Send all again" in browser.text
    assert browser.post("/outbox/retry-dead", destination="elsewhere") == 303
    assert browser.post("/outbox/1/retry") == 303
    with console.database.read() as session:
        assert session.get_one(Delivery, 1).state is DeliveryState.PENDING
    assert actions(console, by="operator")[:2] == ["delivery_retried"] * 2
    assert browser.post("/outbox/7/retry") == 404


def test_an_operator_changes_jobs_as_the_command_line_does(console: ConsoleLab, inbox: Inbox) -> None:
    arrive(inbox, ultrasound("one"))
    browser = console.browser(UserRole.OPERATOR)
    assert browser.post("/jobs/1/put_first") == 303
    assert browser.post("/jobs/1/cancel") == 303
    assert browser.post("/jobs/1/cancel") == 409
    assert "only one that waits or runs" in browser.text
    assert browser.post("/jobs/1/retry", state="queued") == 303
    assert browser.headers["location"] == "/jobs?state=queued"
    assert browser.post("/studies/1/rerun") == 303
    assert browser.post("/jobs/1/explode") == 400
    assert actions(console, by="operator")[:4] == ["study_rerun", *["job_changed"] * 3]


def test_the_audit_is_asked_for_one_person_and_one_kind(console: ConsoleLab) -> None:
    console.browser(UserRole.OPERATOR)
    admin = console.browser(UserRole.ADMIN)
    admin.get("/jobs")
    admin.get("/audit")
    assert "operator" in admin.text and "list seen" in admin.text
    admin.get("/audit?who=admin&what=signed_in")
    assert admin.text.count("<tr>") == 2, "the heading, and one sign-in"
    admin.get("/audit?who=nobody")
    assert "Nothing of that." in admin.text
    assert admin.get("/audit?what=nonsense") == 400


def test_results_without_a_study_or_a_file_break_no_page(console: ConsoleLab, inbox: Inbox) -> None:
    arrive(inbox, ultrasound("one"))
    a_dead_delivery(console)
    with console.database.write() as session:
        session.add(a_result(session.get_one(Job, 1)))
        session.add(Study(state=StudyState.QUARANTINED, first_received_at=NOW, last_received_at=NOW))
    browser = console.browser(UserRole.VIEWER)
    assert [browser.get(path) for path in ("/studies/1", "/studies/2", "/studies")] == [200] * 3
    with console.database.read() as session:
        assert len(session.scalars(select(Result)).all()) == 2


def test_numbers_and_lists_are_the_same_of_both_databases(database: Database, inbox: Inbox) -> None:
    with database.write() as session:
        study = a_study("1.2.3", StudyState.DELIVERING, patient_id="P%1", accession_number="A1")
        session.add(study)
        session.flush()
        job = a_job(study, JobState.QUEUED)
        session.add(job)
        session.flush()
        result = a_result(job, ResultKind.SC)
        session.add(result)
        session.flush()
        session.add(
            Delivery(result_id=result.id, destination="pacs", state=DeliveryState.PENDING, next_at=NOW)
        )
        audit.note(session, audit.COMMAND_LINE, AuditAction.STUDY_RERUN, study_id=study.id)
        found = study.id
    with database.read() as session:
        dated = Search(accession="A1", since="20260102", until="20260102")
        for wanted in (Search(patient="P%1"), Search(patient="P%*"), dated):
            assert [row["id"] for row in search.search(session, wanted)[0]] == [found]
        assert search.search(session, Search(patient="p%1", modality="US"))[0] == []
        [shown] = listing.show(session, inbox.settings, found)["results"]
        assert shown["deliveries"][0]["state"] == "pending"
        assert overview.overview(session, inbox.settings)["deliveries"]["open"] == 1
        numbers = {one.name: one.value for one in metrics.gauges(session, inbox.settings) if not one.labels}
        assert numbers["jobs_oldest_seconds"] > 0
        assert audit.rows(session)[0]["study"] == "1.2.3"


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        ("787.3 {pixels}", "787.3 pixels"),
        ("139.2 mm", "139.2 mm"),
        ("0.57 {ratio}", "0.57"),
        ("3 1", "3"),
        ("0.75 {ratio} (cut-off 0.41 {ratio})", "0.75 (cut-off 0.41)"),
        ("83 % (cut-off 41 %)", "83 % (cut-off 41 %)"),
    ],
)
def test_only_a_unit_that_is_none_is_left_out(number: str, shown: str) -> None:
    assert unit(number) == shown
