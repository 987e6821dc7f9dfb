"""Searches of the list of studies: the same of both databases, and by an index where that is sooner."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, insert, select

from dicom_console.views import search
from dicom_console.views.search import Search
from dicom_node.model.kinds import ObjectRole, RejectionReason, ResultKind
from dicom_node.model.lifecycle import StudyState
from dicom_node.model.roles import UserRole
from dicom_node.services.results import withdraw_by_uid
from dicom_node.store import results
from dicom_node.store.database import Database
from dicom_node.store.tables import Instance, Result, Study, StudyName
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.inbox.objects import changed

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
        session.execute(insert(Study), [a_study(n) for n in numbers])
        session.execute(insert(Instance), [an_image(n) for n in numbers])
        named = [(n + 1, word) for n in numbers for word in ("all", f"word{n % 6}")]
        session.execute(insert(StudyName), [{"study_id": study, "word": word} for study, word in named])


def a_study(n: int) -> dict[str, object]:
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


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (Search(patient="AB-1*"), "ix_study_patient"),
        (Search(accession="A11*"), "ix_study_accession"),
        (Search(modality="MG"), "ix_instance_modality"),
        (Search(words=("none",)), "ix_study_name_word"),
        (Search(sender="ROOM9"), "ix_instance_sender"),
        (Search(finding="Mark"), "ix_reported_finding_name"),
    ],
)
def test_what_few_studies_have_is_looked_up_in_sqlite(
    inbox_database: Database, wanted: Search, index: str
) -> None:
    steps = plan(inbox_database, wanted)
    assert any(f"USING INDEX {index}" in step or f"USING COVERING INDEX {index}" in step for step in steps)
    assert not [step for step in steps if step.startswith(("SCAN study", "SCAN instance"))]


def test_what_most_studies_have_is_found_along_the_order_in_sqlite(
    inbox_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_FEW", 10)
    for wanted in (
        Search(patient="A*"),
        Search(accession="A*"),
        Search(modality="DX"),
        Search(sender="ROOM2"),
    ):
        steps = plan(inbox_database, wanted)
        assert any(step.startswith("SCAN study USING") and "ix_study_received" in step for step in steps)
        assert not [step for step in steps if "TEMP B-TREE FOR ORDER BY" in step]


@pytest.fixture
def inbox_database(inbox: Inbox) -> Database:
    """In SQLite, with a hundred studies."""
    fill(inbox.database, 17)
    return inbox.database


def test_studies_are_found_by_what_their_newest_report_calls_present(node: Inbox) -> None:
    def found(name: str) -> list[int]:
        with node.database.read() as session:
            return [row["id"] for row in search.search(session, Search(finding=name))[0]]

    def told() -> list[str]:
        with node.database.read() as session:
            [row] = search.search(session, Search())[0]
            return list(row["findings"])

    assert told() == ["Mark"]
    assert (found("Mark"), found("mark"), found("Cardiomegaly")) == ([1], [], [])
    uid = str(ultrasound("one").StudyInstanceUID)
    withdraw_by_uid(node.settings, uid, None, reason=RejectionReason.QUALITY, because="the other side")
    assert found("Mark") == [] and told() == []


def test_what_a_report_said_that_never_left_is_forgotten_with_the_next_one(node: Inbox) -> None:
    """It replaces none, since no PACS has the former one; a meaning may be longer than tables take."""
    with node.database.write() as session:
        first = session.scalars(select(Result).where(Result.kind == ResultKind.SR)).one()
        columns = [column.key for column in Result.__table__.columns if column.key != "id"]
        values = {name: getattr(first, name) for name in columns} | {"sop_instance_uid": "2.25.9"}
        second = results.add(session, Result(**values))
        assert second.supersedes == ""
        results.note_findings(session, second, ["A" * 64])
        assert search.search(session, Search(finding="Mark"))[0] == []
        assert [row["id"] for row in search.search(session, Search(finding="A" * 70))[0]] == [1]


def plan(database: Database, wanted: Search) -> list[str]:
    """How SQLite carries out what a search asks: of each statement up to the one that chooses a page."""
    asked: list[tuple[str, object]] = []
    with database.read() as session:
        connection = session.connection()

        def keep(*args: object) -> None:
            asked.append((str(args[2]), args[3]))

        event.listen(connection, "before_cursor_execute", keep)
        search.search(session, wanted)
        event.remove(connection, "before_cursor_execute", keep)
        choosing = [one for one in asked if "LIMIT" in one[0]]
        rows = [
            row
            for statement, values in choosing
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)  # type: ignore[arg-type]
        ]
    assert len(choosing) == 2
    return [row.detail for row in rows]


def test_a_study_is_found_by_its_patients_name_which_no_address_holds(
    console: ConsoleLab, inbox: Inbox
) -> None:
    for name in ("Nowak^Anna", "Kim^Min-jun"):
        inbox.receive(changed(ultrasound(name), PatientName=name))
    inbox.settle()
    browser = console.browser(UserRole.VIEWER)
    assert browser.post("/studies/search", name="anna NOWAK") == 303
    assert "nowak" not in browser.headers["location"].casefold()
    browser.follow()
    assert "Nowak, Anna" in browser.text and "Kim" not in browser.text
    assert browser.post("/studies/search", name="Now") == 303
    browser.follow()
    assert "No studies" in browser.text
    assert {"searched_by": ["name"]} in console.audited("study_searched")
