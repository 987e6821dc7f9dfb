"""Lists of studies and patients: what a row shows, orders and searches, and who sees which."""

import io
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import pytest
from fastapi import FastAPI
from PIL import Image
from sqlalchemy import insert, inspect

from dicom_console.handlers import studies as handlers
from dicom_console.views import patients, search
from dicom_console.views.charts import DatedNumber, trends
from dicom_console.views.search import Search
from dicom_node.errors import FaultyInput
from dicom_node.events import FETCH_ASKED, STORE_REFUSED, STUDIES_MISSING
from dicom_node.model.kinds import ObjectRole, RejectionReason
from dicom_node.model.lifecycle import DeliveryState, JobState, StudyState
from dicom_node.model.roles import UserRole
from dicom_node.results import StatedNumber
from dicom_node.services import results, users
from dicom_node.services.results import withdraw_by_uid
from dicom_node.store import sight
from dicom_node.store.database import Database
from dicom_node.store.tables import (
    AuditRow,
    Base,
    Delivery,
    Feedback,
    Instance,
    Job,
    RegisteredPatient,
    Result,
    Study,
    StudyName,
    Withdrawal,
)
from dicom_node.store.transitions import record, utc_now
from tests.console_lab import PASSWORD, Browser, ConsoleLab, Program, routes
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.rows import NOW, Stored, a_job, a_study

UID = str(ultrasound("one").StudyInstanceUID)


@pytest.fixture
def console_of_node(node: Inbox) -> ConsoleLab:
    return ConsoleLab(node.settings, node.database)


def test_a_row_shows_picture_description_result_and_time_to_result(node: Inbox) -> None:
    node.put(Study, 1, state=StudyState.DELIVERED)
    later = node.get(Study, 1).last_received_at + timedelta(seconds=7)
    node.put(Delivery, state=DeliveryState.CONFIRMED, confirmed_at=later)
    [row] = node.read(search.search, Search())[0]
    first = node.rows(Instance)[0]
    assert (row["cover"], row["seconds"]) == (first.id, 7.0)
    assert row["description"] == first.attributes.get("StudyDescription", "")
    assert row["short_result"] and all(line.strip() for line in row["short_result"])
    withdraw_by_uid(node.settings, UID, None, reason=RejectionReason.QUALITY, because="the other side")
    assert node.read(search.search, Search())[0][0]["short_result"] == []


def test_the_thumbnail_is_small_and_of_images_that_are_here(console_of_node: ConsoleLab, node: Inbox) -> None:
    browser = console_of_node.at("/studies", UserRole.VIEWER)
    found = re.search(r"/studies/(\d+)/thumbnail", browser.text)
    assert found
    assert browser.get(found[0]) == 200
    assert max(Image.open(io.BytesIO(browser.content)).size) == 96
    node.put(Instance, purged=True)
    assert browser.get(found[0]) == 404
    assert "/thumbnail" not in browser.page("/studies")
    assert Browser(console_of_node.app).get(found[0]) == 303  # to the sign-in


def test_studies_of_today_and_of_the_last_days(console: ConsoleLab, inbox: Inbox) -> None:
    fill(inbox.database)
    for number, days in enumerate((0, 1, 6, 40, 40, 40), start=1):
        inbox.put(Study, number, last_received_at=utc_now() - timedelta(days=days))
    program = Program(console, UserRole.VIEWER)
    for days, found in ((1, {1}), (2, {1, 2}), (7, {1, 2, 3}), (366, {1, 2, 3, 4, 5, 6})):
        _, answer = program.ask("GET", f"/studies?days={days}")
        assert {row["id"] for row in answer["studies"]} == found
    for wrong in ("0", "367", "-1", "x", "9" * 40):
        assert program.ask("GET", f"/studies?days={wrong}")[0] == 400
    first = handlers._first_of_days(1).astimezone()
    assert (first.hour, first.minute) == (0, 0) and first.utcoffset() is not None


def stopped_job(inbox: Inbox, study: int, state: JobState) -> None:
    inbox.add(a_job(inbox.get(Study, study), state))


def test_several_studies_are_retried_and_the_others_say_why_not(console: ConsoleLab, inbox: Inbox) -> None:
    fill(inbox.database)
    for study, state in ((1, JobState.HELD), (2, JobState.FAILED), (3, JobState.RUNNING)):
        stopped_job(inbox, study, state)
    browser = console.browser(UserRole.OPERATOR)
    form = {"csrf": browser.token(), "change": "retry", "study": ["1", "2"], "filters": "modality=US"}
    answer = browser.client.post("/studies/change", data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/studies?modality=US")
    assert [job.state for job in inbox.jobs()] == [JobState.QUEUED, JobState.QUEUED, JobState.RUNNING]
    assert [noted["change"] for noted in console.audited("job_changed")] == ["retry", "retry"]
    answer = browser.client.post("/studies/change", data=form | {"study": ["1", "3"]})
    assert "0 done, 2 refused" in answer.text and "no job was stopped" in answer.text


def test_a_program_changes_several_studies(console: ConsoleLab, inbox: Inbox) -> None:
    fill(inbox.database)
    stopped_job(inbox, 1, JobState.HELD)
    program = Program(console, UserRole.OPERATOR)
    _, answer = program.ask("POST", "/studies/change", json={"studies": [1, 2, 1], "change": "retry"})
    assert [(row["id"], row["done"]) for row in answer["studies"]] == [(1, True), (2, False)]
    for wrong, status in (
        ({"studies": [1], "change": "send", "peer": "nowhere"}, 404),
        ({"studies": [99], "change": "retry"}, 404),
        ({"studies": [1], "change": "delete"}, 400),
        *(({"studies": some, "change": "retry"}, 400) for some in ([], [0], [1] * 501, [2**63])),
    ):
        assert program.ask("POST", "/studies/change", json=wrong)[0] == status
    assert Program(console, UserRole.VIEWER).ask("POST", "/studies/change", json={})[0] == 403


def test_a_study_that_fails_stops_no_other_and_has_its_row(
    console: ConsoleLab, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(inbox.database)
    withdraw = Mock(spec=results.withdraw, side_effect=[{}, RuntimeError("a defect"), {}])
    monkeypatch.setattr(results, "withdraw", withdraw)
    wanted = {"studies": [1, 2, 3], "change": "withdraw", "because": "of another patient"}
    status, answer = Program(console, UserRole.OPERATOR).ask("POST", "/studies/change", json=wanted)
    assert status == 200 and isinstance(answer, dict)
    assert [row["done"] for row in answer["studies"]] == [True, False, True]
    assert "RuntimeError" in answer["studies"][1]["reason"]


FIRST = datetime(2026, 1, 1, tzinfo=UTC)


PATIENTS = ("AB-1", "AB-2", "AB_3", "ab-4", "ÄB-5", "B%6")


IMAGES = (
    ("US", "ROOM1"),
    ("US", "ROOM2"),
    ("DX", "ROOM2"),
    ("DX", "ROOM2"),
    ("DX", "ROOM2"),
    ("DX", "ROOM2"),
)


def fill(database: Database, times: int = 1) -> None:
    """Studies 1 to 6, so often."""
    numbers = range(times * len(PATIENTS))
    with database.write() as session:
        session.execute(insert(Study), [a_row(n) for n in numbers])
        session.execute(insert(Instance), [an_image(n) for n in numbers])
        named = [(n + 1, word) for n in numbers for word in ("all", f"word{n % 6}")]
        session.execute(insert(StudyName), [{"study_id": study, "word": word} for study, word in named])


def a_row(n: int) -> dict[str, object]:
    at = FIRST + timedelta(minutes=n)
    return {
        "id": n + 1,
        "study_instance_uid": f"1.2.{n}",
        "patient_id": PATIENTS[n % 6],
        "accession_number": f"A{n}",
        "state": StudyState.DELIVERED,
        "first_received_at": at,
        "last_received_at": at,
    }


def an_image(n: int) -> dict[str, object]:
    modality, sender = IMAGES[n % 6]
    return {
        "study_id": n + 1,
        "sop_instance_uid": f"1.3.{n}",
        "sop_class_uid": "1",
        "series_instance_uid": "1",
        "transfer_syntax_uid": "1",
        "modality": modality,
        "role": ObjectRole.SOURCE,
        "path": "x",
        "bytes": 1,
        "identity_sha256": "",
        "attributes": {},
        "calling_ae": sender,
        "called_ae": "B",
        "received_at": FIRST,
    }


SEARCHES: list[tuple[Search, set[int]]] = [
    (Search(patient="AB*"), {1, 2, 3}),
    (Search(patient="AB-*"), {1, 2}),
    (Search(patient="AB_*"), {3}),
    (Search(patient="ab*"), {4}),
    (Search(patient="Ä*"), {5}),
    (Search(patient="B%*"), {6}),
    (Search(patient="%*"), set()),
    (Search(patient="*"), {1, 2, 3, 4, 5, 6}),
    (Search(accession="A*"), {1, 2, 3, 4, 5, 6}),
    (Search(modality="US"), {1, 2}),
    (Search(modality="MG"), set()),
    (Search(sender="ROOM1"), {1}),
    (Search(sender="ROOM2", modality="US"), {2}),
    (Search(patient="AB*", sender="ROOM2"), {2, 3}),
    (Search(words=("all",)), {1, 2, 3, 4, 5, 6}),
    (Search(words=("all", "word1")), {2}),
    (Search(words=("word1", "word2")), set()),
]


def test_few_and_many_studies_are_found_alike_in_both_databases(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database)
    for few in (0, 500):
        monkeypatch.setattr(search, "_FEW", few)
        for wanted, found in SEARCHES:
            with database.read() as session:
                assert {row["id"] for row in search.search(session, wanted)[0]} == found, (wanted, few)


def test_studies_are_found_by_what_their_newest_report_calls_present(node: Inbox) -> None:
    def found(name: str) -> list[list[str]]:
        return [list(row["findings"]) for row in node.read(search.search, Search(finding=name))[0]]

    assert (found("Mark"), found("mark"), found("Cardiomegaly")) == ([["Mark"]], [], [])
    withdraw_by_uid(node.settings, UID, None, reason=RejectionReason.QUALITY, because="the other side")
    assert (found("Mark"), found("")) == ([], [[]])


def test_an_id_of_two_issuers_is_two_patients(database: Database, inbox: Inbox) -> None:
    stored = Stored(database)
    for number, issuer in ((1, "NORTH"), (2, "SOUTH"), (3, "NORTH"), (4, "")):
        at, patient = NOW + timedelta(minutes=number), "P1" if issuer else "P%"
        stored.add(a_study(f"1.2.{number}", at=at, patient_id=patient, issuer_of_patient_id=issuer))
    rows, _ = stored.read(patients.patients, "P1")
    assert [(row["issuer"], row["studies"]) for row in rows] == [("NORTH", 2), ("SOUTH", 1)]
    assert [row["patient_id"] for row in stored.read(patients.patients, "P%*")[0]] == ["P%"]
    shown = stored.read(patients.show, inbox.settings, rows[0]["study"])
    assert [row["study"] for row in shown["studies"]] == ["1.2.3", "1.2.1"]
    assert [row["issuer"] for row in shown["others"]] == ["SOUTH"] and shown["person"] is None


def test_images_of_a_patient_are_deleted_when_their_results_arrived(node: Inbox) -> None:
    console = ConsoleLab(node.settings, node.database)
    admin = console.browser(UserRole.ADMIN)
    assert console.browser(UserRole.OPERATOR).post("/patients/1/delete") == 403
    files = set(node.folder.glob("spool/**/*.dcm"))
    assert files
    assert admin.post("/patients/1/delete") == 200 and "keeps its images: it is delivering" in admin.text
    node.put(Delivery, state=DeliveryState.CONFIRMED, confirmed_at=NOW)
    node.put(Study, 1, state=StudyState.DELIVERED)
    assert admin.post("/patients/1/delete") == 200
    assert "1 of 1 studies: received images deleted" in admin.text
    assert not any(file.exists() for file in files) and list(node.folder.glob("results/**/*.dcm"))
    assert "purged" in admin.page("/studies/1")
    assert "It has taken results, the newest at" in admin.page("/peers/pacs")
    assert "Delete them" not in admin.page("/patients/1"), "nothing is here"
    assert admin.post("/patients/1/delete") == 200 and "were deleted before" in admin.text
    noted = [row for row in console.audit_rows() if row["action"] == "objects_deleted"]
    assert [(row["actor"], row["study_id"]) for row in noted] == [("admin", 1)]


def measured(study: int, day: str, value: float, name: str = "Ratio", model: str = "ratio 2") -> DatedNumber:
    number = StatedNumber(f"1.2.{study}", ("1", "L"), name, value, ("1", "UCUM"), model, "")
    return DatedNumber(study, date.fromisoformat(day), number)


def test_a_quantity_of_two_days_by_one_model_is_a_plot_and_a_higher_value_is_higher() -> None:
    [plot] = trends([measured(2, "2024-03-01", 0.56), measured(1, "2022-03-01", 0.51)])
    first, second = plot["points"]
    shown = (first["study"], first["value"], first["day"], plot["unit"])
    assert shown == (1, "0.51", "2022-03-01", "")
    assert first["x"] < second["x"] and first["y"] > second["y"]
    other_model = measured(2, "2023-03-01", 0.5, model="ratio 3")
    for other in (other_model, measured(2, "2022-03-01", 0.6)):
        assert trends([measured(1, "2022-03-01", 0.5), other]) == []


OF_THE_NODE = {
    "user_account", "user_session", "api_token", "cursor", "disk_sample", "entered_table", "installation",
    "lease", "site_process", "decision", "commitment", "waiting_report",
}  # fmt: skip


@pytest.fixture
def limited(node: Inbox) -> ConsoleLab:
    """With the DICOMweb addresses, and an operator each for the sender of the study and for another room."""
    served = node.settings.console.model_copy(update={"dicomweb": True, "dicomweb_store": True})
    limited = ConsoleLab(node.settings.model_copy(update={"console": served}), node.database)
    for name, title in (("here", node.rows(Instance)[0].calling_ae), ("elsewhere", "ROOM9")):
        users.add_user(limited.settings, name, UserRole.OPERATOR, PASSWORD, senders=[title])
    return limited


def addresses(app: FastAPI, node: Inbox, *, each: bool = True) -> Iterator[tuple[str, str]]:
    """Method and path of each endpoint, with the UIDs of the study that is here, its number and those of its
    images, where it asks for results of one of each kind, too; else with the first number alone.
    """
    study, images = node.rows(Study)[0], node.rows(Instance)
    numbers, of_a_kind = {study.id}, {row.kind: row.id for row in node.rows(Result)}
    numbers |= {image.id for image in images} if each else set()
    known = {
        "uid": study.study_instance_uid,
        "study": study.study_instance_uid,
        "series": images[0].series_instance_uid,
        "instance": images[0].sop_instance_uid,
    }
    for route in routes(app.routes):
        for method in sorted(route.methods - {"HEAD"}):
            for number in numbers | {*of_a_kind.values()} if each and "result" in route.path else numbers:
                values = {**known, "number": number, "n": number, "frame": 1, "frames": 1, "layer": 1}
                yield (
                    method,
                    re.sub(r"\{(\w+)[^}]*\}", lambda m, v=values: str(v.get(m[1], "images")), route.path),
                )


def test_each_table_belongs_to_studies_or_to_the_node() -> None:
    tables = {mapper.class_ for mapper in Base.registry.mappers}
    unlimited = {one.__tablename__ for one in tables if sight.condition_of(one, ["ROOM9"]) is None}
    assert unlimited == OF_THE_NODE


def test_no_address_shows_a_study_of_another_sender(limited: ConsoleLab, node: Inbox) -> None:
    study = node.rows(Study)[0]
    secrets = [study.study_instance_uid, study.patient_id, study.accession_number]
    secrets += [row.sop_instance_uid for row in (*node.rows(Instance), *node.rows(Result))]
    sender = node.rows(Instance)[0].calling_ae
    with node.database.write() as session:  # of no study here: a fetch, a list, a refused object
        record(session, FETCH_ASKED, study=secrets[0], peer="pacs")
        record(session, STUDIES_MISSING, peer="pacs", studies=secrets[:1])
        record(session, STORE_REFUSED, calling=sender, instance=secrets[-1], reason="")
    tokens = {name: users.add_token(limited.settings, name, "a test", 1) for name in ("here", "elsewhere")}
    shown: dict[str, set[str]] = {}
    for name, token in tokens.items():
        browser = limited.browser()
        browser.sign_in(name)
        shown[name] = set()
        for method, path in dict.fromkeys(addresses(limited.app, node, each=name == "elsewhere")):
            if method != "GET" or path in ("/live", "/sign-in/oidc/leave"):
                continue
            headers = {"Authorization": f"Bearer {token}"} if path.startswith("/api/") else {}
            answer = browser.client.get(path, headers=headers)
            assert answer.status_code != 500, path
            if any(secret and secret.encode() in answer.content for secret in secrets):
                shown[name].add(path)
            if answer.headers["content-type"].startswith("image/") and "/static/" not in path:
                shown[name].add(path)
    assert shown["elsewhere"] == set()
    assert len(shown["here"]) > 20  # the same addresses show it to whom it may be shown


def test_no_address_changes_a_study_of_another_sender(limited: ConsoleLab, node: Inbox) -> None:
    def rows() -> dict[str, list[object]]:
        return {
            table.__name__: [
                [getattr(row, column.key) for column in inspect(table).column_attrs]
                for row in node.rows(table)
            ]
            for table in (Study, Job, Result, Delivery, Withdrawal, Feedback, RegisteredPatient)
        }

    before = rows()
    browser = limited.browser()
    browser.sign_in("elsewhere")
    token = users.add_token(limited.settings, "elsewhere", "a test", 1)
    csrf = browser.token()
    [study] = node.rows(Study)
    fields = {
        "study": str(study.id),
        "because": "none of ours",
        "reason": "quality",
        "result": "1",
        "peer": "pacs",
    }
    for method, path in dict.fromkeys(addresses(limited.app, node)):
        if method == "GET" or path.startswith(("/sign-", "/sessions", "/language")):
            continue
        if path.startswith("/api/"):
            body = {**fields, "studies": [study.study_instance_uid], "change": "withdraw", "results": [1]}
            headers = {"Authorization": f"Bearer {token}"}
            answer = browser.client.request(method, path, json=body, headers=headers)
        else:
            answer = browser.client.request(method, path, data={"csrf": csrf, "change": "withdraw", **fields})
        assert answer.status_code != 500, path
    assert rows() == before


def test_an_admin_sees_all_and_senders_are_ae_titles(limited: ConsoleLab) -> None:
    with pytest.raises(FaultyInput, match="admin"):
        users.add_user(limited.settings, "boss", UserRole.ADMIN, PASSWORD, senders=["US1"])
    for title in ("A" * 17, "US\\1", "US\n1"):
        with pytest.raises(FaultyInput, match="AE titles"):
            users.change_user(limited.settings, "here", senders=[title])
    users.change_user(limited.settings, "here", senders=[])
    assert users.list_users(limited.settings)[2]["senders"] == []


def noted(console_of_node: ConsoleLab, action: str) -> list[tuple[Any, ...]]:
    return [(row["actor"], row["fields"]) for row in console_of_node.audit_rows() if row["action"] == action]


@pytest.mark.parametrize(("path", "name"), [("/studies", "studies"), ("/patients", "patients")])
def test_a_list_is_noted_once_for_each_person_until_some_minutes_are_over(
    console_of_node: ConsoleLab, path: str, name: str
) -> None:
    reader, admin = (console_of_node.browser(role) for role in (UserRole.READER, UserRole.ADMIN))
    for browser in (reader, reader, admin):
        assert "ID-one" in browser.page(path)
    assert noted(console_of_node, "list_seen") == [("admin", {"list": name}), ("reader", {"list": name})]
    console_of_node.put(AuditRow, at=utc_now() - timedelta(minutes=6))
    reader.get(path)
    assert len(noted(console_of_node, "list_seen")) == 3


def test_each_export_is_noted(console_of_node: ConsoleLab) -> None:
    browser = console_of_node.browser(UserRole.READER)
    for _ in range(2):
        assert browser.get("/models/obedient/1/feedback.csv") == 200
    assert noted(console_of_node, "exported") == [("reader", {"list": "feedback"})] * 2
