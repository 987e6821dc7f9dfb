"""Patients: studies with the same ID and issuer, and what was found."""

from __future__ import annotations

import re
from datetime import timedelta

from sqlalchemy import select

from dicom_console.views import patients
from dicom_node.model.lifecycle import DeliveryState, StudyState
from dicom_node.model.roles import UserRole
from dicom_node.services import audit, studies
from dicom_node.store.database import Database
from dicom_node.store.tables import Delivery, Study
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.rows import NOW, a_study
from tests.unit.inbox.objects import changed


def of_patient(number: int, patient: str, issuer: str = "") -> Study:
    at = NOW + timedelta(minutes=number)
    return a_study(f"1.2.{number}", at=at, patient_id=patient, issuer_of_patient_id=issuer)


def test_pages_together_show_each_patient_once(database: Database) -> None:
    with database.write() as session:
        session.add_all(of_patient(number, f"P{number // 2:03}") for number in range(3 * patients.PAGE))
        session.add(of_patient(9000, ""))
    seen: list[str] = []
    after: int | None = None
    with database.read() as session:
        for _ in range(2):
            rows, after = patients.patients(session, "", after)
            seen += [row["patient_id"] for row in rows]
            assert {row["studies"] for row in rows} == {2}
    assert after is None
    assert seen == sorted(set(seen))
    assert len(seen) == 3 * patients.PAGE // 2


def test_an_id_of_two_issuers_is_two_patients(database: Database, inbox: Inbox) -> None:
    with database.write() as session:
        session.add_all(
            [of_patient(1, "P1", "NORTH"), of_patient(2, "P1", "SOUTH"), of_patient(3, "P1", "NORTH")]
        )
        session.add(of_patient(4, "P%"))
    with database.read() as session:
        rows, _ = patients.patients(session, "P1")
        assert [(row["issuer"], row["studies"]) for row in rows] == [("NORTH", 2), ("SOUTH", 1)]
        assert [row["patient_id"] for row in patients.patients(session, "P%*")[0]] == ["P%"]
        shown = patients.show(session, inbox.settings, rows[0]["study"])
        assert [row["study"] for row in shown["studies"]] == ["1.2.3", "1.2.1"]
        assert [row["issuer"] for row in shown["others"]] == ["SOUTH"]
        assert shown["person"] is None


def test_a_patient_is_found_and_no_address_says_which(console: ConsoleLab, inbox: Inbox) -> None:
    script = "<b>Bold</b>"
    inbox.receive(changed(ultrasound("one"), PatientID="SECRET-1", PatientName=script), ultrasound("two"))
    inbox.settle()
    browser = console.browser(UserRole.VIEWER)
    browser.post("/patients/search", patient="SECRET-*")
    assert "SECRET" not in browser.headers["location"]
    browser.follow()
    assert re.findall(r'href="/patients/(\d+)">([^<]+)', browser.text) == [("1", "SECRET-1")]
    assert browser.get("/patients/1") == 200
    assert "&lt;b&gt;Bold" in browser.text
    assert script not in browser.text
    assert [browser.get(f"/patients/{number}") for number in (0, 99)] == [400, 404]
    with console.database.read() as session:
        rows = audit.rows(session)
    assert {"study_seen", "study_searched"} <= {row["action"] for row in rows}
    assert "SECRET" not in str(rows)


def test_the_history_says_what_was_found(node: Inbox) -> None:
    browser = ConsoleLab(node.settings, node.database).browser(UserRole.VIEWER)
    browser.get("/studies/1")
    assert 'href="/patients/1"' in browser.text
    browser.get("/patients/1")
    assert '<td class="reason" data-label="AI suspects">Mark</td>' in browser.text


def test_images_of_a_patient_are_deleted_when_their_results_arrived(node: Inbox) -> None:
    console = ConsoleLab(node.settings, node.database)
    admin = console.browser(UserRole.ADMIN)
    assert console.browser(UserRole.OPERATOR).post("/patients/1/delete") == 403
    files = set(node.folder.glob("spool/**/*.dcm"))
    assert files
    assert admin.post("/patients/1/delete") == 200
    assert "keeps its images: it is delivering" in admin.text
    with node.database.write() as session:
        for delivery in session.scalars(select(Delivery)):
            delivery.state, delivery.confirmed_at = DeliveryState.CONFIRMED, NOW
        session.get_one(Study, 1).state = StudyState.DELIVERED
    assert admin.post("/patients/1/delete") == 200
    assert "1 of 1 studies: received images deleted" in admin.text
    assert not [file for file in files if file.exists()]
    assert list(node.folder.glob("results/**/*.dcm"))
    admin.get("/studies/1")
    assert "purged" in admin.text
    admin.get("/peers/pacs")
    assert "It has taken results, the newest at" in admin.text
    admin.get("/patients/1")
    assert "Delete them" not in admin.text, "nothing is here"
    assert admin.post("/patients/1/delete") == 200
    assert "were deleted before" in admin.text
    with node.database.read() as session:
        noted = [row for row in audit.rows(session) if row["action"] == "objects_deleted"]
    assert [(row["actor"], row["study_id"]) for row in noted] == [("admin", 1)]


def test_who_has_a_deleted_study_open_is_told_and_changes_nothing(node: Inbox) -> None:
    console = ConsoleLab(node.settings, node.database)
    elsewhere = console.browser(UserRole.OPERATOR)
    assert elsewhere.get("/studies/images/1") == 200
    with node.database.write() as session:
        for delivery in session.scalars(select(Delivery)):
            delivery.state, delivery.confirmed_at = DeliveryState.CONFIRMED, NOW
        session.get_one(Study, 1).state = StudyState.DELIVERED
    assert console.browser(UserRole.ADMIN).post("/patients/1/delete") == 200
    for path in ("/studies/images/1", "/studies/images/1/1", "/studies/images/2/3"):
        assert elsewhere.get(path) == 404, path
        assert "no longer" in elsewhere.text
    assert elsewhere.get("/studies/1") == 200
    assert elsewhere.post("/studies/1/rerun") == 409
    assert "purged" in elsewhere.text
    assert node.jobs()[-1].state.value == "succeeded"


def test_a_study_in_quarantine_keeps_its_images(node: Inbox) -> None:
    with node.database.write() as session:
        session.get_one(Study, 1).state = StudyState.QUARANTINED
    [row] = studies.delete_received(node.settings, [1])
    assert (row["deleted"], "quarantine" in row["reason"]) == (False, True)
