"""What a peer is asked about a study that is being received, and how long a study waits for it."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicom_node import fetch
from dicom_node.events import ARCHIVE_ANSWERED, ARCHIVE_NOT_AWAITED, ARCHIVE_WAIT_ENDED
from dicom_node.model.kinds import FetchPurpose
from dicom_node.model.lifecycle import FetchState, StudyState
from dicom_node.scu import MOST_OBJECTS
from dicom_node.store import fetches
from dicom_node.store.tables import Fetch
from dicom_node.store.transitions import utc_now
from dicom_node.studies.fetched import OTHER_PATIENT
from tests.archive_lab import FakeArchive, answer_for, film, peer
from tests.hostile.valve import valve_before
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import chest
from tests.pacs_lab import free_port, run_pacs

PRIORS = {"priors": {"peer": "archive"}}
COMPLETE = {"complete_from": "archive"}
TODAY = f"{datetime.now().astimezone():%Y%m%d}"


def inbox_with(folder: Path, port: int, rule: dict[str, Any], url: str = "", **assembly: float) -> Inbox:
    films = {**CONFIG["rules"][0], "when": {"modality": "DX"}, "name": "films", "max_study_age_days": 7}
    others = [dict(one) for one in CONFIG["peers"]]
    others[-1]["ae_title"] = "RESULTS"
    config = {
        **CONFIG,
        "assembly": {**CONFIG["assembly"], **assembly},
        "peers": [*others, peer(port)],
        "rules": [{**films, **rule}],
        "outbox": {"answer_seconds": 1, "retry_seconds": 0.01, "retry_limit_seconds": 0.01},
    }
    return Inbox(folder, config, url=url)


def asked(inbox: Inbox) -> None:
    """Ask, and fetch what is to be fetched."""
    archive = inbox.settings.peer("archive")
    fetch.Questions(inbox.database, inbox.settings, archive, "tests").run_once(threading.Event())
    fetch.Fetcher(inbox.database, inbox.settings, archive, "tests").run_once(threading.Event())


def numbers(inbox: Inbox) -> list[tuple[int, str]]:
    mine = (ARCHIVE_ANSWERED, ARCHIVE_WAIT_ENDED, ARCHIVE_NOT_AWAITED)
    rows = [row for row in inbox.events() if row.number in {one.number for one in mine}]
    return [(row.number, str(row.fields.get("reason", ""))) for row in rows]


def today(image: Dataset) -> Dataset:
    image.StudyDate = TODAY
    return image


def prior_of(image: Dataset, name: str, day: str = "20250101") -> Dataset:
    prior = film(name)
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex"):
        setattr(prior, keyword, image.get(keyword))
    prior.StudyDate = day
    return prior


def rows_of(inbox: Inbox) -> list[Fetch]:
    with inbox.database.read() as session:
        rows = list(fetches.listed(session))
        session.expunge_all()
        return rows


def study_of_two() -> tuple[Dataset, Dataset, Dataset]:
    one, two = today(film("whole")), today(chest("whole", film("whole").pixel_array, number=2))
    two.StudyInstanceUID = one.StudyInstanceUID
    answer = answer_for(one, StudyDate=TODAY)
    answer.NumberOfStudyRelatedInstances = 2
    return one, two, answer


def test_what_did_not_come_is_fetched_before_the_study_is_complete(tmp_path: Path) -> None:
    one, two, answer = study_of_two()
    with run_pacs(FakeArchive(free_port(), answers=[answer], gives=[one, two]), classes=()) as pacs:
        inbox = inbox_with(tmp_path, pacs.port, COMPLETE)
        inbox.receive(one)
        inbox.index()
        assert inbox.assemble(10) == 1  # it is to be asked for
        assert inbox.study(one.StudyInstanceUID).state is StudyState.RECEIVING
        asked(inbox)
        assert inbox.assemble(10) == 0
        inbox.index()
        asked(inbox)
        inbox.settle()
    [job] = inbox.jobs()
    assert (job.study_revision, len(job.source_uids)) == (1, 2)
    assert [number for number, _ in numbers(inbox)] == [2058, 2059]
    assert [row.purpose for row in rows_of(inbox)] == [FetchPurpose.INSTANCES]


@pytest.mark.parametrize("count", [MOST_OBJECTS + 1, 999_999_999])
def test_a_count_that_cannot_be_is_not_believed(tmp_path: Path, count: int) -> None:
    one, _, answer = study_of_two()
    answer.NumberOfStudyRelatedInstances = count
    with run_pacs(FakeArchive(free_port(), answers=[answer]), classes=()) as pacs:
        inbox = inbox_with(tmp_path, pacs.port, COMPLETE)
        inbox.receive(one)
        inbox.settle()
        asked(inbox)
        inbox.settle()
    assert [number for number, _ in numbers(inbox)] == [2058, 2060]
    assert (len(inbox.jobs()), rows_of(inbox)) == (1, [])


def test_a_count_that_is_a_lie_ends_with_the_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicom_node.fetch.arriving._INDEXED", timedelta())
    one, two, answer = study_of_two()
    answer.NumberOfStudyRelatedInstances = 5
    with run_pacs(FakeArchive(free_port(), answers=[answer], gives=[one, two]), classes=()) as pacs:
        inbox = inbox_with(tmp_path, pacs.port, COMPLETE)
        inbox.receive(one, two)
        inbox.settle()
        asked(inbox)
        inbox.index()
        time.sleep(0.01)
        asked(inbox)
        inbox.settle()
    assert numbers(inbox)[-1] == (2060, "2 of 5 instances came")
    assert len(inbox.jobs()) == 1


@pytest.mark.parametrize("hangs", [True, False], ids=["hangs", "away"])
def test_a_peer_that_does_not_answer_holds_a_study_no_longer_than_set(
    tmp_path: Path, hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.scu.association._NEGOTIATE_SECONDS", 0.3)
    monkeypatch.setattr("dicom_node.scu.association._ASSOCIATE_SECONDS", 0.6)
    one, _, answer = study_of_two()
    with (
        run_pacs(FakeArchive(free_port(), answers=[answer]), classes=()) as pacs,
        valve_before(pacs.port) as valve,
    ):
        valve.from_peer = 0
        inbox = inbox_with(tmp_path, valve.port if hangs else free_port(), COMPLETE, archive_seconds=60)
        inbox.receive(one)
        inbox.index()
        inbox.assemble(10)
        asked(inbox)
        assert inbox.assemble(65) == 0
        assert inbox.assemble(75) == 1
        with inbox.database.write() as session:
            session.connection().exec_driver_sql("UPDATE archive_question SET until = '2026-01-01 00:00:00'")
        asked(inbox)
    assert len(inbox.jobs()) == 1
    assert numbers(inbox) == [(2060, "no answer in time")]


def test_a_study_that_came_whole_is_not_fetched(tmp_path: Path) -> None:
    one, two, answer = study_of_two()
    with run_pacs(FakeArchive(free_port(), answers=[answer]), classes=()) as pacs:
        inbox = inbox_with(tmp_path, pacs.port, COMPLETE)
        inbox.receive(one, two)
        inbox.settle()
        asked(inbox)
        inbox.settle()
    assert rows_of(inbox) == []
    assert len(inbox.jobs()) == 1


def priors_come(inbox: Inbox, image: Dataset) -> None:
    inbox.receive(image)
    inbox.index()
    asked(inbox)
    inbox.settle()


def test_priors_are_fetched_and_the_job_waits_for_them_a_set_time(tmp_path: Path) -> None:
    new = today(film("new"))
    prior = prior_of(new, "prior")
    answer = answer_for(prior, StudyDate="20250101")
    with run_pacs(FakeArchive(free_port(), answers=[answer], gives=[prior]), classes=()) as pacs:
        inbox = inbox_with(tmp_path, pacs.port, PRIORS)
        priors_come(inbox, new)
        asked(inbox)
    jobs = {job.source_uids[0]: job for job in inbox.jobs()}
    assert set(jobs) == {new.SOPInstanceUID, prior.SOPInstanceUID}  # the prior is old, and wanted
    assert 50 < (jobs[new.SOPInstanceUID].run_at - utc_now()).total_seconds() <= 60
    assert (jobs[prior.SOPInstanceUID].run_at - utc_now()).total_seconds() < 1
    [row] = rows_of(inbox)
    assert (row.purpose, row.state, row.urgent, row.rule) == (
        FetchPurpose.PRIOR,
        FetchState.FETCHED,
        True,
        "films",
    )
    with inbox.database.write() as session:
        fetches.here(session, [prior.StudyInstanceUID])[prior.StudyInstanceUID].state = StudyState.DELIVERED
    asked(inbox)
    jobs = {job.source_uids[0]: job for job in inbox.jobs()}
    assert (jobs[new.SOPInstanceUID].run_at - utc_now()).total_seconds() < 1
    assert [number for number, _ in numbers(inbox)] == [2058, 2059]  # and no priors of the prior


def test_a_kill_between_answer_and_fetch_has_nothing_fetched_twice(tmp_path: Path) -> None:
    new = today(film("new"))
    prior = prior_of(new, "prior")
    archive = FakeArchive(free_port(), answers=[answer_for(prior, StudyDate="20250101")], gives=[prior])
    with run_pacs(archive, classes=()) as pacs:
        inbox = inbox_with(tmp_path, pacs.port, PRIORS)
        priors_come(inbox, new)
        inbox.reopen()
        asked(inbox)
        inbox.receive(today(chest("new", new.pixel_array, number=2)))  # revision 2 asks again
        inbox.index()
        asked(inbox)
    assert archive.asked == [prior.StudyInstanceUID]


def test_at_most_so_many_of_the_same_part_and_what_is_here_is_not_fetched(tmp_path: Path) -> None:
    new = today(film("new"))
    days = ("20250101", "20250301", "20250201", "20100101")
    priors = [prior_of(new, f"prior{number}", day) for number, day in enumerate(days)]
    answers = [answer_for(one, StudyDate=one.StudyDate) for one in priors]
    answers[1].BodyPartExamined = answers[0].BodyPartExamined = "CHEST"
    other = answer_for(prior_of(new, "us"), StudyDate="20250401", ModalitiesInStudy="US")
    with run_pacs(FakeArchive(free_port(), answers=[*answers, other]), classes=()) as pacs:
        inbox = inbox_with(tmp_path, pacs.port, PRIORS)
        inbox.receive(priors[1])
        inbox.settle()
        inbox.receive(new)
        inbox.index()
        asked(inbox)
    assert {row.study_instance_uid for row in rows_of(inbox)} == {priors[2].StudyInstanceUID}


@pytest.mark.parametrize(
    "wrong", [{"PatientID": "OTHER"}, {"PatientName": "Some^Body"}, {"IssuerOfPatientID": "B"}]
)
def test_answers_for_another_patient_are_not_fetched(tmp_path: Path, wrong: dict[str, str]) -> None:
    new = today(film("new"))
    new.IssuerOfPatientID = "A"
    answer = answer_for(prior_of(new, "prior"), StudyDate="20250101", **wrong)
    with run_pacs(FakeArchive(free_port(), answers=[answer]), classes=()) as pacs:
        inbox = inbox_with(tmp_path, pacs.port, PRIORS)
        priors_come(inbox, new)
    assert rows_of(inbox) == []
    assert (inbox.jobs()[0].run_at - utc_now()).total_seconds() < 1  # nothing to wait for


def test_a_prior_whose_images_name_another_patient_goes_to_quarantine(tmp_path: Path) -> None:
    new = today(film("new"))
    prior = prior_of(new, "prior")
    answer = answer_for(prior, StudyDate="20250101", PatientName="")
    prior.PatientName = "Somebody^Else"
    with run_pacs(FakeArchive(free_port(), answers=[answer], gives=[prior]), classes=()) as pacs:
        inbox = inbox_with(tmp_path, pacs.port, PRIORS)
        priors_come(inbox, new)
        inbox.settle()
    study = inbox.study(prior.StudyInstanceUID)
    assert (study.state, study.reason) == (StudyState.QUARANTINED, OTHER_PATIENT)


@pytest.mark.parametrize("patient_id", ["*", "12?4", ""])
def test_no_archive_is_asked_for_a_wildcard(tmp_path: Path, patient_id: str) -> None:
    new = today(film("new"))
    new.PatientID = patient_id
    inbox = inbox_with(tmp_path, free_port(), PRIORS)
    priors_come(inbox, new)
    assert numbers(inbox) == [(2060, "without a Patient ID that can be asked for")]


@pytest.mark.debian("postgresql")
def test_on_postgresql_the_job_is_let_go_when_the_priors_are_here(tmp_path: Path, postgres_url: str) -> None:
    new = today(film("new"))
    prior = prior_of(new, "prior")
    answer = answer_for(prior, StudyDate="20250101")
    with run_pacs(FakeArchive(free_port(), answers=[answer], gives=[prior]), classes=()) as pacs:
        inbox = inbox_with(tmp_path, pacs.port, PRIORS, url=postgres_url)
        priors_come(inbox, new)
        with inbox.database.write() as session:
            fetches.here(session, [prior.StudyInstanceUID])[
                prior.StudyInstanceUID
            ].state = StudyState.DELIVERED
        asked(inbox)
    assert all(job.run_at <= utc_now() and job.ticket for job in inbox.jobs())
    inbox.close()
