"""Studies are found by what is asked for, the same by both databases."""

import io
import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from PIL import Image

from dicom_console.views import listing, metrics, search
from dicom_node.base.lifecycle import (
    AuditAction,
    DeliveryState,
    JobState,
    ObjectRole,
    ResultKind,
    StudyState,
    UserRole,
)
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Delivery, Instance, Study, StudyName
from dicom_node.base.store.transitions import utc_now
from dicom_node.people import audit
from tests.console_lab import Browser, ConsoleLab, Program
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.rows import NOW, Stored, a_job, a_study
from tests.unit.dicom_console.decisions_lab import withdraw
from tests.unit.receive.objects import changed


def test_a_patient_is_found_and_no_address_says_which(console: ConsoleLab, inbox: Inbox) -> None:
    for number, name in ((1, "Nowak^Anna"), (22, "Kim^Min-jun")):
        about = {"PatientID": f"SECRET-{number}", "AccessionNumber": f"ACC{number}"}
        inbox.receive(changed(ultrasound(name), PatientName=name, **about))
    inbox.settle()
    browser = console.browser(UserRole.VIEWER)
    for name, wanted, found in (
        ("patient", "SECRET-*", {"SECRET-1", "SECRET-22"}),
        ("patient", "SECRET-", set()),
        ("accession", "ACC22", {"SECRET-22"}),
        ("name", "anna NOWAK", {"SECRET-1"}),
        ("name", "Now", {"SECRET-1"}),
    ):
        browser.post("/studies/search", **{name: wanted})
        assert wanted not in browser.headers["location"]
        assert "nowak" not in browser.headers["location"].lower()
        browser.follow()
        assert set(re.findall(r"<small>(SECRET-\d+)\b", browser.text)) == found, wanted
    searched = [row["searched_by"] for row in console.audited("study_searched")]
    assert searched == [["name"], ["name"], ["accession"], ["patient"], ["patient"]]
    assert "SECRET" not in str(console.audit_rows())


@pytest.mark.parametrize("order", search.Order)
def test_pages_together_show_each_study_once(database: Database, order: search.Order) -> None:
    stored, moments = Stored(database), [NOW + timedelta(seconds=n // 3) for n in range(2 * search.PAGE + 7)]
    both = zip(
        moments, [f"202601{n % 28 + 1:02}" for n in range(len(moments))], strict=True
    )  # some at the same moment
    stored.add(*(a_study(f"1.2.{n}", at=at, study_date=day) for n, (at, day) in enumerate(both)))
    seen: list[dict[str, object]] = []
    after: int | None = None
    for _ in range(3):
        rows, after = stored.read(search.search, search.Search(order=order), after)
        seen += rows
    assert after is None
    assert len({row["id"] for row in seen}) == len(seen) == 2 * search.PAGE + 7
    key = "study_date" if order in (search.Order.DATE, search.Order.OLDEST_DATE) else "last_received_at"
    values = [str(row[key]) for row in seen]
    assert values == sorted(values, reverse=order in (search.Order.RECEIVED, search.Order.DATE))


def test_numbers_and_lists_are_the_same_of_both_databases(database: Database, inbox: Inbox) -> None:
    stored = Stored(database)
    stored.add(study := a_study("1.2.3", StudyState.DELIVERING, patient_id="P%1", accession_number="A1"))
    stored.add(job := a_job(study, JobState.QUEUED))
    stored.delivery(job, DeliveryState.PENDING, ResultKind.SC)
    stored.write(audit.note, audit.COMMAND_LINE, AuditAction.STUDY_RERUN, study_id=study.id)
    for wanted in (
        search.Search(patient="P%1"),
        search.Search(patient="P%*"),
        search.Search(accession="A1", since="20260102", until="20260102"),
    ):
        assert [row["id"] for row in stored.read(search.search, wanted)[0]] == [study.id]
    assert stored.read(search.search, search.Search(patient="p%1", modality="US"))[0] == []
    [shown] = stored.read(listing.show, inbox.settings, study.id)["results"]
    assert shown["deliveries"][0]["state"] == "pending"
    assert stored.read(metrics.overview, inbox.settings)["deliveries"]["open"] == 1
    gauges = stored.read(metrics.gauges, inbox.settings)
    assert {one.name: one.value for one in gauges if not one.labels}["jobs_oldest_seconds"] > 0
    assert stored.read(audit.rows)[0]["study"] == "1.2.3"


def test_a_row_shows_picture_description_result_and_time_to_result(node: Inbox) -> None:
    node.put(Study, 1, state=StudyState.DELIVERED)
    later = node.get(Study, 1).last_received_at + timedelta(seconds=7)
    node.put(Delivery, state=DeliveryState.CONFIRMED, confirmed_at=later)
    [row] = node.read(search.search, search.Search())[0]
    first = node.rows(Instance)[0]
    assert (row["cover"], row["seconds"]) == (first.id, 7.0)
    assert row["description"] == first.attributes.get("StudyDescription", "")
    assert row["short_result"]
    assert all(line.strip() for line in row["short_result"])
    withdraw(node)
    assert node.read(search.search, search.Search())[0][0]["short_result"] == []


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


def test_studies_of_one_day(console: ConsoleLab, inbox: Inbox) -> None:
    noon = datetime(2026, 3, 1, 12).astimezone()
    times = [(0, 0), (-1, -1), (1, 1), (-1, 1), (-2, 0)]  # days from then to the first and last object
    for number, (first, last) in enumerate(times, start=1):
        inbox.add(a_study(f"1.2.{number}", at=noon + timedelta(days=first)))
        inbox.put(Study, number, last_received_at=noon + timedelta(days=last))
    program = Program(console, UserRole.VIEWER)
    _, answer = program.ask("GET", "/studies?day=2026-03-01")
    assert {row["study"] for row in answer["studies"]} == {"1.2.1", "1.2.4", "1.2.5"}
    assert program.ask("GET", "/studies?day=2026-02-30")[0] == 400
    assert 'name="day" type="date" value="2026-03-01"' in console.browser(UserRole.VIEWER).page(
        "/studies?day=2026-03-01"
    )


PATIENTS = ("AB-1", "AB-2", "AB_3", "ab-4", "ÄB-5", "B%6")


IMAGES = (
    ("US", "ROOM1"),
    ("US", "ROOM2"),
    ("DX", "ROOM2"),
    ("DX", "ROOM2"),
    ("DX", "ROOM2"),
    ("DX", "ROOM2"),
)


def fill(database: Database) -> None:
    """Studies 1 to 6, each with an image."""
    kept: dict[str, Any] = {
        **dict.fromkeys(("sop_class_uid", "series_instance_uid", "transfer_syntax_uid"), "1"),
        "path": "x",
        "bytes": 1,
        "identity_sha256": "",
        "attributes": {},
        "called_ae": "B",
        "received_at": NOW,
        "role": ObjectRole.SOURCE,
    }
    for n, (patient, (modality, sender)) in enumerate(zip(PATIENTS, IMAGES, strict=True)):
        at, number = NOW + timedelta(minutes=n), f"A{n}"
        study = a_study(f"1.2.{n}", at=at, patient_id=patient, accession_number=number)
        Stored(database).add(study)
        kept |= {"study_id": study.id, "modality": modality, "calling_ae": sender}
        names = [StudyName(study_id=study.id, word=word) for word in ("all", f"word{n}")]
        Stored(database).add(Instance(sop_instance_uid=f"1.3.{n}", **kept), *names)


SEARCHES: list[tuple[search.Search, set[int]]] = [
    (search.Search(patient="AB*"), {1, 2, 3}),
    (search.Search(patient="AB-*"), {1, 2}),
    (search.Search(patient="AB_*"), {3}),
    (search.Search(patient="ab*"), {4}),
    (search.Search(patient="Ä*"), {5}),
    (search.Search(patient="B%*"), {6}),
    (search.Search(patient="%*"), set()),
    (search.Search(patient="*"), {1, 2, 3, 4, 5, 6}),
    (search.Search(accession="A*"), {1, 2, 3, 4, 5, 6}),
    (search.Search(modality="US"), {1, 2}),
    (search.Search(modality="MG"), set()),
    (search.Search(sender="ROOM1"), {1}),
    (search.Search(sender="ROOM2", modality="US"), {2}),
    (search.Search(patient="AB*", sender="ROOM2"), {2, 3}),
    (search.Search(words=("all",)), {1, 2, 3, 4, 5, 6}),
    (search.Search(words=("all", "word1")), {2}),
    (search.Search(words=("word1", "word2")), set()),
]


def test_few_and_many_studies_are_found_alike_in_both_databases(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database)
    for few in (0, 500):
        monkeypatch.setattr(search, "_FEW", few)
        for wanted, found in SEARCHES:
            rows, _ = Stored(database).read(search.search, wanted)
            assert {row["id"] for row in rows} == found, (wanted, few)


def test_studies_are_found_by_what_their_newest_report_calls_present(node: Inbox) -> None:
    def found(name: str) -> list[list[str]]:
        return [list(row["findings"]) for row in node.read(search.search, search.Search(finding=name))[0]]

    assert (found("Mark"), found("mark"), found("Cardiomegaly")) == ([["Mark"]], [], [])
    withdraw(node)
    assert (found("Mark"), found("")) == ([], [[]])
