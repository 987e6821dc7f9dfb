"""Patients who are registered for uploads."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.model.roles import UserRole
from dicom_node.services import audit, patients
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.console.test_uploads import picture
from tests.unit.inbox.objects import changed

ANNA = {
    "PatientID": "P-77", "PatientName": "Secret^Anna", "PatientBirthDate": "1970-01-02", "PatientSex": "F",
}  # fmt: skip


def test_a_registered_patient_is_chosen_for_an_upload(console: ConsoleLab, inbox: Inbox) -> None:
    browser = console.browser(UserRole.OPERATOR)
    assert browser.post("/patients/register", **ANNA) == 303
    assert browser.headers["location"] == "/upload?patient=1", "no address names a patient"
    assert browser.follow() == 200
    for shown in ('value="P-77" readonly', 'value="Secret^Anna" readonly', 'value="1970-01-02" readonly'):
        assert shown in browser.text
    assert browser.upload(("a.png", picture()), **ANNA, Modality="US") == 200, browser.text
    inbox.settle()
    assert [study for study in (row.patient_id for row in studies(inbox)) if study] == ["P-77"]
    browser.get("/patients")
    assert "Secret, Anna" in browser.text
    assert browser.post("/patients/registered/1/remove") == 303
    assert browser.post("/patients/registered/1/remove") == 404
    assert browser.get("/upload?patient=1") == 404
    with console.database.read() as session:
        rows = audit.rows(session)
    assert [row["action"] for row in rows if row["action"].startswith("patient_")] == [
        "patient_removed",
        "patient_added",
    ]
    assert not any("P-77" in str(row["fields"]) for row in rows)


def studies(inbox: Inbox) -> list[object]:
    from sqlalchemy import select

    from dicom_node.store.tables import Study

    with inbox.database.read() as session:
        found = list(session.scalars(select(Study)))
        session.expunge_all()
        return found


def test_name_and_birth_date_do_not_lie_open_in_the_database(console: ConsoleLab, inbox: Inbox) -> None:
    console.browser(UserRole.OPERATOR).post("/patients/register", **ANNA)
    inbox.database.dispose()
    files = [path for path in inbox.folder.glob("node.db*") if path.is_file()]
    assert files
    assert not any(word in path.read_bytes() for path in files for word in (b"Secret", b"19700102"))


@pytest.mark.parametrize(
    ("field", "other", "said"),
    [
        ("PatientName", "Other^Anna", "another name"),
        ("PatientBirthDate", "1971-01-02", "another birth date"),
        ("PatientSex", "M", "another sex"),
    ],
)
def test_pictures_of_somebody_else_under_a_registered_id_are_refused(
    console: ConsoleLab, inbox: Inbox, field: str, other: str, said: str
) -> None:
    browser = console.browser(UserRole.OPERATOR)
    browser.post("/patients/register", **ANNA)
    assert browser.upload(("a.png", picture()), **ANNA | {field: other}, Modality="US") == 400
    assert said in browser.text
    assert list(inbox.spool.pending()) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"PatientID": ""}, "is missing"),
        ({"PatientName": ""}, "is missing"),
        ({"PatientID": "a\\b"}, "no backslash"),
        ({"PatientBirthDate": "yesterday"}, "no date"),
        ({"PatientSex": "X"}, "F, M, O"),
        ({"PatientName": "<script>" * 9}, "at most 64"),
    ],
)
def test_what_dicom_cannot_say_is_not_registered(
    console: ConsoleLab, given: dict[str, str], said: str
) -> None:
    browser = console.browser(UserRole.OPERATOR)
    assert browser.post("/patients/register", **{**ANNA, **given}) == 400
    assert said in browser.text
    with console.database.read() as session:
        assert patients.registered(session, console.settings) == []


def test_an_id_is_registered_once_and_not_for_another_than_its_studies(
    console: ConsoleLab, inbox: Inbox
) -> None:
    inbox.receive(changed(ultrasound("one"), PatientID="P-77", PatientName="SECRET^ANNA^", PatientSex="F"))
    inbox.settle()
    browser = console.browser(UserRole.OPERATOR)
    assert browser.post("/patients/register", **ANNA | {"PatientName": "Other^Name"}) == 400
    assert "studies here" in browser.text
    born = {"PatientBirthDate": ""}
    assert browser.post("/patients/register", **ANNA | born) == 303, browser.text
    assert browser.post("/patients/register", **ANNA | born) == 400
    assert "already" in browser.text


def test_under_another_site_key_a_registration_says_so(console: ConsoleLab, inbox: Inbox) -> None:
    browser = console.browser(UserRole.OPERATOR)
    browser.post("/patients/register", **ANNA)
    key = Path(inbox.folder) / "keys" / "site.key"
    key.write_text("00" * 32)
    key.chmod(0o600)
    patients._seal.cache_clear()
    assert browser.get("/patients") == 200
    assert "sealed under another site key" in browser.text
