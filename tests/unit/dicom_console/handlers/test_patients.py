"""Patients: who is one, what is deleted, and quantities of several days."""

import io
import json
from datetime import date, timedelta

import pytest
from PIL import Image
from sqlalchemy import delete

from dicom_console.views import activity, patients
from dicom_node.base.lifecycle import DeliveryState, StudyState, UserRole
from dicom_node.base.sitekey import PatientNames
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Delivery, ReportedFinding, Result, Study
from dicom_node.deliver.scu import FoundStudy
from dicom_node.results.stated_report import StatedNumber, StatedReport
from tests.console_lab import Browser, ConsoleLab, Program
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.rows import NOW, Stored, a_study
from tests.unit.receive.objects import changed


def test_an_id_of_two_issuers_is_two_patients(database: Database, inbox: Inbox) -> None:
    stored = Stored(database)
    for number, issuer in ((1, "NORTH"), (2, "SOUTH"), (3, "NORTH"), (4, "")):
        at, patient = NOW + timedelta(minutes=number), "P1" if issuer else "P%"
        stored.add(a_study(f"1.2.{number}", at=at, patient_id=patient, issuer_of_patient_id=issuer))
    rows, _ = stored.read(patients.patients, "P1")
    assert [(row["issuer"], row["studies"]) for row in rows] == [("NORTH", 2), ("SOUTH", 1)]
    assert [row["patient_id"] for row in stored.read(patients.patients, "P%*")[0]] == ["P%"]
    assert stored.read(patients.patients, "p*") == ([], None)
    shown = stored.read(patients.history, inbox.settings, "P1", rows[0]["issuer"])
    assert [row["study"] for row in shown["studies"]] == ["1.2.3", "1.2.1"]
    assert [row["issuer"] for row in shown["others"]] == ["SOUTH"]
    assert shown["person"] is None


def test_a_space_before_an_id_makes_another_patient_on_all_pages(
    console_of_node: ConsoleLab, node: Inbox
) -> None:
    node.index(changed(ultrasound("two"), PatientID=" ID-one"))
    assert [row["patient_id"] for row in node.read(patients.patients)[0]] == [" ID-one", "ID-one"]
    reader = console_of_node.browser(UserRole.READER)
    for wanted, others in ((" ID-one ", "/patients/1"), ("ID-one", "/patients/2")):
        assert reader.post("/patients/search", patient=wanted) == 303
        assert others not in reader.page("/patients?person=1")
    assert FoundStudy.from_texts({"StudyInstanceUID": "1.2", "PatientID": " P1 "}).patient_id == " P1"  # type: ignore[union-attr]


def test_the_page_of_an_id_does_not_mix_two_who_have_it(console_of_node: ConsoleLab, node: Inbox) -> None:
    viewer = console_of_node.browser(UserRole.VIEWER)
    assert "<h1>Test, one</h1>" in viewer.page("/patients/1")
    node.index(changed(ultrasound("two"), PatientID="ID-one", PatientName="Other^Ann"))
    page = viewer.page("/patients/1")
    assert "<h1>ID-one</h1>" in page
    assert page.count("Other, Ann") == page.count("Test, one") == 1
    deletes = "Delete the received images of all persons with this ID"
    assert deletes not in page
    assert deletes in console_of_node.browser(UserRole.ADMIN).page("/patients/1")


def test_images_of_a_patient_are_deleted_when_their_results_arrived(
    console_of_node: ConsoleLab, node: Inbox
) -> None:
    admin = console_of_node.browser(UserRole.ADMIN)
    assert console_of_node.browser(UserRole.OPERATOR).post("/patients/1/delete") == 403
    files = set(node.folder.glob("spool/**/*.dcm"))
    assert files
    assert admin.post("/patients/1/delete") == 200
    assert "keeps its images: " in admin.text
    node.put(Delivery, state=DeliveryState.CONFIRMED, confirmed_at=NOW)
    node.put(Study, 1, state=StudyState.DELIVERED)
    assert admin.post("/patients/1/delete") == 200
    assert "1 of 1 studies: received images deleted" in admin.text
    assert not any(file.exists() for file in files)
    assert list(node.folder.glob("results/**/*.dcm"))
    assert "Images deleted by admin, " in admin.page("/studies/1")
    assert "It has taken results, the newest at" in admin.page("/peers/pacs")
    assert "Delete them" not in admin.page("/patients/1"), "nothing is here"
    assert admin.post("/patients/1/delete") == 200
    assert "were deleted before" in admin.text
    rows = console_of_node.audit_rows()
    deleted = [(row["actor"], row["study_id"]) for row in rows if row["action"] == "objects_deleted"]
    assert deleted == [("admin", 1)]


def test_a_study_whose_results_have_no_destination_is_not_called_delivered(
    console_of_node: ConsoleLab, node: Inbox
) -> None:
    node.put(Study, 1, state=StudyState.DELIVERED)
    viewer = console_of_node.browser(UserRole.VIEWER)
    assert "sent nowhere" not in viewer.page("/studies")
    with node.database.write() as session:
        session.execute(delete(Delivery))
    for page in ("/studies", "/studies/1", "/patients/1"):
        assert '<span class="state">sent nowhere</span>' in viewer.page(page), page


def measured(
    study: int, day: str, value: float, name: str = "Ratio", model: str = "ratio 2"
) -> activity.DatedNumber:
    number = StatedNumber(f"1.2.{study}", ("1", "L"), name, value, ("1", "UCUM"), model, "")
    return activity.DatedNumber(study, date.fromisoformat(day), number)


def test_a_quantity_of_two_days_by_one_model_is_a_plot_and_a_higher_value_is_higher() -> None:
    [plot] = activity.trends([measured(2, "2024-03-01", 0.56), measured(1, "2022-03-01", 0.51)])
    first, second = plot["points"]
    assert (first["study"], first["value"], first["day"], plot["unit"]) == (1, "0.51", "2022-03-01", "")
    assert first["x"] < second["x"]
    assert first["y"] > second["y"]
    for other in (measured(2, "2023-03-01", 0.5, model="ratio 3"), measured(2, "2022-03-01", 0.6)):
        assert activity.trends([measured(1, "2022-03-01", 0.5), other]) == []


REGISTERED = {
    "PatientID": "P-7", "PatientName": "Müller^Änne", "PatientBirthDate": "1960-01-02", "PatientSex": "F",
}  # fmt: skip


def test_a_patient_is_registered_on_the_page_and_seen_with_the_history(
    operator: Browser, console: ConsoleLab, inbox: Inbox
) -> None:
    assert operator.post("/patients/register", **REGISTERED) == 303
    assert operator.follow() == 200
    assert "<h1>Müller, Änne</h1>" in operator.text
    assert 'href="/upload?patient=1"' in operator.text
    page = operator.page("/upload?patient=1")
    assert '<option value="1" selected>Müller, Änne · P-7' in page
    data = io.BytesIO()
    Image.new("L", (40, 30), 90).save(data, "PNG")
    operator.upload(("a.png", data.getvalue()), Patient="1", Modality="US")
    inbox.settle()
    assert inbox.column(Study.patient_id) == ["P-7"]
    assert 'href="/studies/1"' in operator.page("/patients/registered/1")
    assert console.browser(UserRole.VIEWER).post("/patients/registered/1/remove") == 403
    assert operator.post("/patients/registered/1/remove") == 303
    assert "/patients/registered/1" not in operator.page("/patients")
    assert operator.get("/patients/registered/1") == 404


def test_a_refused_registration_keeps_what_was_typed(operator: Browser) -> None:
    assert operator.post("/patients/register", **REGISTERED | {"PatientBirthDate": "2999-01-01"}) == 400
    assert "PatientBirthDate is no day" in operator.text
    assert 'value="Müller^Änne"' in operator.text
    operator.post("/patients/register", **REGISTERED)
    assert operator.post("/patients/registered/1", **REGISTERED | {"PatientName": "a\\b"}) == 400
    assert "PatientName has a backslash" in operator.text


def test_programs_register_read_change_and_remove_patients(console: ConsoleLab, inbox: Inbox) -> None:
    program = Program(console, UserRole.OPERATOR)
    assert program.ask("POST", "/patients", json=REGISTERED) == (200, {"patient": 1})
    assert program.ask("POST", "/patients", json=REGISTERED)[0] == 409
    odd = json.dumps(REGISTERED | {"PatientName": "\ud800"})
    assert program.ask("POST", "/patients", content=odd)[0] == 400
    assert program.ask("PUT", "/patients/1", json=REGISTERED | {"PatientSex": ""}) == (204, None)
    status, listed = program.ask("GET", "/patients?id=P-*")
    assert [(row["patient_id"], row["sex"]) for row in listed["patients"]] == [("P-7", "")]
    status, history = program.ask("GET", "/patients/1")
    assert (status, history["patient"]["name"], history["studies"]) == (200, "Müller^Änne", [])
    assert Program(console, UserRole.VIEWER).ask("DELETE", "/patients/1")[0] == 403
    assert program.ask("DELETE", "/patients/1") == (204, None)
    assert program.ask("GET", "/patients/1")[0] == 404


def test_images_and_results_of_a_study_are_deleted_by_an_admin_alone(
    console_of_node: ConsoleLab, node: Inbox
) -> None:
    admin = console_of_node.browser(UserRole.ADMIN)
    assert console_of_node.browser(UserRole.OPERATOR).post("/studies/1/erase") == 403
    files = {*node.folder.glob("spool/**/*.dcm"), *node.folder.glob("results/**/*.dcm")}
    assert admin.post("/studies/1/erase") == 409
    assert "nothing was deleted" in admin.text
    assert all(file.exists() for file in files)
    node.put(Delivery, state=DeliveryState.CONFIRMED, confirmed_at=NOW)
    node.put(Study, 1, state=StudyState.DELIVERED)
    assert "Delete images and results of this study" in admin.page("/studies/1")
    assert admin.post("/studies/1/erase") == 303
    assert not any(file.exists() for file in files)
    assert node.rows(ReportedFinding) == []
    assert {row.short_result for row in node.rows(Result)} == {""}
    assert node.read(PatientNames(node.folder).of, [1]) == {1: ""}
    assert admin.page("/studies/1").count("file deleted") == len(node.rows(Result))
    [noted] = console_of_node.audited("objects_deleted")
    assert noted == {"files": len(files), "results": True}
    assert admin.page("/patients").count("ID-one") == 1, "the entry stays"


def test_a_search_finds_registered_patients_without_a_study(console_of_node: ConsoleLab) -> None:
    operator = console_of_node.browser(UserRole.OPERATOR)
    operator.post("/patients/register", **REGISTERED)
    for wanted, found in (
        (REGISTERED["PatientID"], True),
        (REGISTERED["PatientID"][:2] + "*", True),
        ("none", False),
    ):
        assert operator.post("/patients/search", patient=wanted) == 303
        assert ("/patients/registered/1" in operator.page("/patients?person=1")) is found


def test_a_film_to_be_looked_at_first_is_no_dash_in_the_history(
    console_of_node: ConsoleLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    unusual = StatedReport((), (), "", "", calls=("Look at it first",))
    monkeypatch.setattr(patients.stated_report, "read_report", lambda _: unusual)
    assert "Look at it first" in console_of_node.browser(UserRole.VIEWER).page("/patients/1")


@pytest.mark.parametrize(
    ("wanted", "registration", "study"),
    [("mull", True, False), ("Änne müller", True, False), ("Test", False, True), ("nobody", False, False)],
)
def test_a_patient_is_found_by_name_and_no_address_says_it(
    console_of_node: ConsoleLab, wanted: str, registration: bool, study: bool
) -> None:
    operator = console_of_node.browser(UserRole.OPERATOR)
    operator.post("/patients/register", **REGISTERED)
    assert operator.post("/patients/search", name=wanted) == 303
    assert operator.headers["location"] == "/patients?person=1"
    page = operator.page("/patients?person=1")
    assert ("/patients/registered/1" in page) is registration
    assert ('href="/patients/1"' in page) is study
    assert ("No patient has this name or ID" in page) is not (registration or study)
