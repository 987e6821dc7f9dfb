"""Studies that are fetched: what is missing, priors, and worklist items."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import select

from dicom_connectors.worklist.performer import Cancellations, Worklist, open_manager
from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.identity import Patient
from dicom_node.base.errors import SpoolFull
from dicom_node.base.events import (
    ARCHIVE_ANSWERED,
    ARCHIVE_NOT_AWAITED,
    ARCHIVE_WAIT_ENDED,
    FETCH_STARTED,
    STUDIES_MISSING,
    WORKITEM_PASSED,
    WORKITEM_STOPPED,
    WORKLIST_AWAY,
    WORKLIST_BACK,
)
from dicom_node.base.lifecycle import (
    DeliveryState,
    FetchPurpose,
    FetchState,
    JobState,
    StudyState,
    WorkitemState,
)
from dicom_node.base.outcomes import NotYet
from dicom_node.base.store.tables import ClaimedWorkitem, Delivery, EventRow, Fetch, Job, Study
from dicom_node.base.store.transitions import move, settle_study, utc_now
from dicom_node.deliver.scu import open_archive
from dicom_node.studies import fetch, fetch_queue, missing_studies, priors
from dicom_node.studies.fetched import OTHER_PATIENT
from tests.hostile.valve import valve_before
from tests.hostile.web import answering
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import assign, chest, ultrasound
from tests.pacs_lab import FakeArchive, answer_for, beside, film, free_port, inbox_beside, run_pacs
from tests.peers import a_receiver
from tests.postgres_lab import POSTGRESQL
from tests.result_reading import coded
from tests.rows import a_job, a_study
from tests.waiting import wait_until
from tests.worklist_lab import (
    CANCELED,
    COMPLETED,
    HANG,
    IN_PROGRESS,
    LOSE,
    SCHEDULED,
    Manager,
    instances,
    ups_pull,
    ups_rs,
    work_item,
)

PRIORS = {"priors": "archive"}


TODAY = f"{datetime.now().astimezone():%Y%m%d}"


@pytest.fixture(autouse=True)
def _calls_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call to an archive or a manager ends up to this much later than its answer."""
    monkeypatch.setattr("dicom_node.studies.fetch._WATCH_SECONDS", 0.01)
    monkeypatch.setattr("dicom_node.studies.priors._LOOK", timedelta())


def asked(inbox: Inbox) -> None:
    """Ask, and fetch what is to be fetched."""
    archive = inbox.settings.peer("archive")
    priors.PriorQueries(inbox.database, inbox.settings, archive, "tests").run_once(threading.Event())
    fetcher(inbox).run_once(threading.Event())


def fetcher(inbox: Inbox) -> fetch.Fetcher:
    return fetch.Fetcher(inbox.database, inbox.settings, inbox.settings.peer("archive"), "tests")


def seconds_until(job: Job) -> float:
    """How long the job is to wait yet."""
    return (job.run_at - utc_now()).total_seconds()


def numbers(inbox: Inbox) -> list[tuple[int, str]]:
    told = {one.number for one in (ARCHIVE_ANSWERED, ARCHIVE_WAIT_ENDED, ARCHIVE_NOT_AWAITED)}
    return [(row.number, str(row.fields.get("reason", ""))) for row in inbox.events() if row.number in told]


def today(image: Dataset) -> Dataset:
    return assign(image, StudyDate=TODAY, PatientID="A-4711", PatientBirthDate="19700203")


def prior_of(image: Dataset, name: str) -> Dataset:
    patient = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")
    return assign(film(name), StudyDate="20250101", **{keyword: image.get(keyword) for keyword in patient})


@pytest.mark.parametrize("hangs", [True, False], ids=["hangs", "away"])
def test_a_peer_that_does_not_answer_holds_a_job_no_longer_than_set(
    tmp_path: Path, hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.deliver.scu.association._NEGOTIATE_SECONDS", 0.3)
    monkeypatch.setattr("dicom_node.deliver.scu.association._ASSOCIATE_SECONDS", 0.6)
    with run_pacs(FakeArchive(), classes=()) as pacs, valve_before(pacs.port) as valve:
        valve.from_peer = 0
        inbox = inbox_beside(tmp_path, valve.port if hangs else free_port(), PRIORS)
        priors_come(inbox, today(film("whole")))
        assert 50 < seconds_until(inbox.jobs()[0]) <= 60
        past, row = "'2026-01-01 00:00:00'", "archive_question"
        with inbox.database.write() as session:
            session.connection().exec_driver_sql(f"UPDATE {row} SET until = {past}, next_at = {past}")
        asked(inbox)
    assert seconds_until(inbox.jobs()[0]) < 1
    assert numbers(inbox) == [(2060, "no answer in time")]


def priors_come(inbox: Inbox, image: Dataset) -> None:
    inbox.index(image)
    asked(inbox)
    inbox.settle()


def test_priors_are_fetched_and_the_job_waits_for_them_a_set_time(tmp_path: Path) -> None:
    new = today(film("new"))
    prior = prior_of(new, "prior")
    with beside(tmp_path, PRIORS, answers=[answer_for(prior, StudyDate="20250101")], gives=[prior]) as inbox:
        priors_come(inbox, new)
        asked(inbox)
    jobs = {job.source_uids[0]: job for job in inbox.jobs()}
    assert set(jobs) == {new.SOPInstanceUID, prior.SOPInstanceUID}  # the prior is old, and wanted
    assert 50 < seconds_until(jobs[new.SOPInstanceUID]) <= 60
    assert seconds_until(jobs[prior.SOPInstanceUID]) < 1
    [row] = inbox.rows(Fetch)
    assert (row.purpose, row.state, row.urgent, row.rule) == (
        FetchPurpose.PRIOR,
        FetchState.FETCHED,
        True,
        "films",
    )
    inbox.put(Study, inbox.study_of(prior).id, state=StudyState.DELIVERED)
    asked(inbox)
    jobs = {job.source_uids[0]: job for job in inbox.jobs()}
    assert seconds_until(jobs[new.SOPInstanceUID]) < 1
    assert [number for number, _ in numbers(inbox)] == [2058, 2059]  # and no priors of the prior


def test_a_kill_between_answer_and_fetch_has_nothing_fetched_twice(tmp_path: Path) -> None:
    new = today(film("new"))
    prior = prior_of(new, "prior")
    archive = FakeArchive(answers=[answer_for(prior, StudyDate="20250101")], gives=[prior])
    with run_pacs(archive, classes=()) as pacs:
        inbox = inbox_beside(tmp_path, pacs.port, PRIORS)
        priors_come(inbox, new)
        inbox.reopen()
        asked(inbox)
        inbox.receive(today(chest("new", new.pixel_array, number=2)))  # revision 2 asks again
        inbox.index()
        asked(inbox)
    assert archive.asked == [prior.StudyInstanceUID]


@pytest.mark.parametrize(
    "wrong", [{"PatientID": "OTHER"}, {"PatientName": "Some^Body"}, {"IssuerOfPatientID": "B"}]
)
def test_answers_for_another_patient_are_not_fetched(tmp_path: Path, wrong: dict[str, str]) -> None:
    new = today(film("new"))
    new.IssuerOfPatientID = "A"
    with beside(
        tmp_path, PRIORS, answers=[answer_for(prior_of(new, "prior"), StudyDate="20250101", **wrong)]
    ) as inbox:
        priors_come(inbox, new)
    assert inbox.rows(Fetch) == []
    assert seconds_until(inbox.jobs()[0]) < 1  # nothing to wait for


def test_a_prior_whose_images_name_another_patient_goes_to_quarantine(tmp_path: Path) -> None:
    new = today(film("new"))
    prior = prior_of(new, "prior")
    answer = answer_for(prior, StudyDate="20250101", PatientName="")
    prior.PatientName = "Somebody^Else"
    with beside(tmp_path, PRIORS, answers=[answer], gives=[prior]) as inbox:
        priors_come(inbox, new)
        inbox.settle()
    study = inbox.study_of(prior)
    assert (study.state, study.reason) == (StudyState.QUARANTINED, OTHER_PATIENT)


def missing(inbox: Inbox) -> list[missing_studies.MissingStudy]:
    return missing_studies.missing(inbox.database, inbox.settings, inbox.settings.peer("archive"), 1)


def why(inbox: Inbox) -> dict[str, str]:
    return {study.found.study_instance_uid: study.why for study in missing(inbox)}


def test_what_never_came_or_came_in_part_is_missing_and_fetched(tmp_path: Path) -> None:
    never, part, whole, failed = (film(name) for name in ("never", "part", "whole", "failed"))
    answers = [answer_for(image, StudyDate=TODAY) for image in (never, part, whole, failed)]
    answers[1].NumberOfStudyRelatedInstances = 2
    answers[2].NumberOfStudyRelatedInstances = 1
    with beside(
        tmp_path,
        answers=[*answers, answer_for(film("other"), StudyDate=TODAY, ModalitiesInStudy="MG")],
        missing_days=1,
    ) as inbox:
        inbox.settle(part, whole, failed)
        for image, state in (
            (part, StudyState.DELIVERED),
            (whole, StudyState.DELIVERED),
            (failed, StudyState.FAILED),
        ):
            inbox.put(Study, inbox.study_of(image).id, state=state, reason="a reason")
        assert why(inbox) == {
            never.StudyInstanceUID: "it never came",
            part.StudyInstanceUID: "incomplete: 1 of 2 objects came",
            failed.StudyInstanceUID: "failed: a reason",
        }
        assert missing_studies.report_missing(inbox.database, inbox.settings) == 3
        [event] = inbox.events(STUDIES_MISSING.number)
        assert (event.fields["peer"], event.fields["number"]) == ("archive", 3)
        for row in missing(inbox):
            if row.fetchable:
                inbox.write(missing_studies.fetch_missing, "archive", row)
        assert set(why(inbox)) == {failed.StudyInstanceUID}  # the others are on their way


def test_a_study_is_asked_for_once_again_and_cancelled(tmp_path: Path) -> None:
    with beside(tmp_path, answers=[answer_for(film("once"))]) as inbox:
        archive = open_archive(inbox.settings.peer("archive"), inbox.settings)
        asked = fetch_queue.daily_queries(date(2024, 3, 1), date(2024, 3, 3), ["DX"])
        assert len(asked) == 3
        for _ in range(2):
            found = fetch_queue.ask(inbox.database, archive, "archive", asked)
            assert (found["wanted"], found["first"]) == (1, 1)
    assert [inbox.write(fetch_queue.cancel, "archive") for _ in range(2)] == [1, 0]
    assert inbox.write(fetch_queue.fetch_again, "archive") == 1
    assert inbox.column(Fetch.state) == [FetchState.WAITING]


def test_the_pace_is_that_of_the_peer_or_slower_and_a_clock_put_back_stops_nothing(tmp_path: Path) -> None:
    inbox = inbox_beside(tmp_path, free_port(), fetch_per_minute=60)
    paced = fetcher(inbox)
    for per_minute, seconds_ago, pause in (
        (0, None, 0), (0, 0, 1), (600, 0, 1), (6, 4, 6), (0, 5, -4), (0, -10_800, 1),
    ):  # fmt: skip
        now = datetime.now(UTC)
        last = None if seconds_ago is None else now - timedelta(seconds=seconds_ago)
        assert paced._pause(Fetch(per_minute=per_minute), last, now) == pause


def test_a_full_disk_uses_up_no_try_of_a_retrieval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_LOOK_SECONDS", 0.01)
    inbox, now, stop = inbox_beside(tmp_path, free_port()), utc_now(), threading.Event()
    inbox.add(Fetch(peer="archive", study_instance_uid="1.2.1", asked_at=now, next_at=now))
    full = fetcher(inbox)
    monkeypatch.setattr(full._spool, "check_space", Mock(side_effect=[SpoolFull("0 MiB free"), stop.set()]))
    assert full.work(inbox.rows(Fetch)[0], stop) == NotYet()
    assert inbox.column(Fetch.attempts) == [0]


def test_what_a_killed_node_left_is_fetched_again_and_not_for_ever(tmp_path: Path) -> None:
    inbox, now = inbox_beside(tmp_path, free_port()), utc_now()
    for uid, attempts in (("1.2.1", 1), ("1.2.2", fetch.ATTEMPTS_OF_KILLED)):
        killed = {"state": FetchState.FETCHING, "attempts": attempts, "next_at": now, "started_at": now}
        inbox.add(Fetch(peer="archive", study_instance_uid=uid, asked_at=now, **killed))
    assert fetcher(inbox).run_once() == 0
    found = [(row.state, row.attempts) for row in inbox.rows(Fetch)]
    assert found == [(FetchState.WAITING, 2), (FetchState.FAILED, 10)]


@POSTGRESQL
def test_a_study_of_another_patient_is_quarantined_though_its_fetch_moves_at_that_moment(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = film("raced")
    inbox = inbox_beside(tmp_path, free_port(), url_of_database=postgres_url)
    now = utc_now()
    inbox.add(
        Fetch(
            study_instance_uid=image.StudyInstanceUID,
            asked_at=now,
            next_at=now,
            peer="archive",
            patient_id="SOMEBODY-ELSE",
            patient=str(Patient()),
        )
    )
    inbox.index(image)

    def patients_while_the_retrieval_starts(*given: Any) -> list[Patient]:
        with inbox.database.write() as session:
            if (row := session.scalars(select(Fetch)).one()).state is FetchState.WAITING:
                move(session, row, FETCH_STARTED, attempts=1)
        return []

    monkeypatch.setattr("dicom_node.studies.fetched.intake.patients", patients_while_the_retrieval_starts)
    inbox.assemble(300)
    study = inbox.study_of(image)
    assert (study.state, study.reason) == (StudyState.QUARANTINED, OTHER_PATIENT)
    assert inbox.column(Fetch.state) == [FetchState.OTHER_PATIENT]
    inbox.close()


ARCHIVE = a_receiver("archive", may=["query"], retrieve="get")


class Site:
    """A node's database, and the manager whose work it takes."""

    def __init__(self, folder: Path, manager: Manager, at: dict[str, Any], **settings: Any) -> None:
        ris = {
            "name": "ris",
            "ae_title": "MANAGER",
            "may": [],
            **at,
            "worklist": ["110004^DCM"],
            "worklist_seconds": 2,
            "worklist_hours": 1,
            **settings,
        }
        outbox = {"answer_seconds": 1, "retry_seconds": 0.01, "retry_limit_seconds": 0.01}
        config = {**CONFIG, "peers": [*CONFIG["peers"], ARCHIVE, ris], "outbox": outbox}
        self.inbox, self.manager = Inbox(folder, config), manager
        self.restart()

    def restart(self, open_manager: Callable[..., Any] = open_manager) -> None:
        settings = self.inbox.settings
        self.worklist = Worklist(self.inbox.database, settings, settings.peer("ris"), "me", open_manager)

    def turn(self, times: int = 1) -> None:
        """As if the next moment had come for everything."""
        for _ in range(times):
            self.inbox.put(ClaimedWorkitem, next_at=utc_now())
            self.worklist._search_at = 0.0
            self.worklist.run_once(threading.Event())

    def study(self, name: str = "a study", **item: Any) -> str:
        """A study here that an item asks for; the item's UID."""
        uid = str(ultrasound(name).StudyInstanceUID)
        self.inbox.add(study := a_study(uid, StudyState.QUEUED))
        self.inbox.add(a_job(study, JobState.QUEUED))
        return self.manager.add(work_item(uid, **item))

    def deliver(self, state: DeliveryState = DeliveryState.CONFIRMED) -> None:
        """The jobs of all studies have succeeded, with a report in this state at the PACS."""
        for job in self.inbox.jobs():
            if job.state is not JobState.SUCCEEDED:
                self.inbox.put(Job, job.id, state=JobState.SUCCEEDED)
                self.inbox.delivery(
                    job,
                    state,
                    sop_instance_uid=f"1.2.{job.id}",
                    sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
                    series_instance_uid="1.2.9",
                )
                self.inbox.write(settle_study, job.study_id)

    def row(self) -> ClaimedWorkitem:
        [row] = self.inbox.rows(ClaimedWorkitem)
        return row

    def events(self) -> list[int]:
        return self.inbox.column(EventRow.number)


@contextmanager
def by(service: str, folder: Path, **settings: Any) -> Iterator[Site]:
    serve, at, key = {
        "UPS-RS": (ups_rs, {"transport": "dicomweb"}, "url"),
        "UPS Pull": (ups_pull, {"host": "127.0.0.1"}, "port"),
    }[service]
    with serve(manager := Manager()) as address:
        site = Site(folder, manager, {**at, key: address}, **settings)
        yield site
        site.inbox.close()


@pytest.fixture(params=["UPS-RS", "UPS Pull"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with by(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Site]:
    with by("UPS-RS", tmp_path) as made:
        yield made


def test_an_item_is_claimed_reported_and_completed_when_its_results_are_confirmed(site: Site) -> None:
    uid = site.study()
    site.turn(2)
    assert site.manager.done() == ["claim", "update 30"]
    site.deliver(DeliveryState.UNCONFIRMED)
    site.turn(2)
    assert (site.manager.done()[2:], site.manager.state(uid)) == (["update 90"], IN_PROGRESS)
    site.inbox.put(Delivery, state=DeliveryState.CONFIRMED)
    site.inbox.write(settle_study, 1)
    site.turn(3)
    assert site.manager.done()[3:] == ["update 100", COMPLETED]
    [performed] = site.manager.items[uid].UnifiedProcedureStepPerformedProcedureSequence
    [output] = performed.OutputInformationSequence
    [named], [place] = output.ReferencedSOPSequence, output.DICOMRetrievalSequence
    assert (output.SeriesInstanceUID, named.ReferencedSOPInstanceUID) == ("1.2.9", "1.2.1")
    assert place.RetrieveAETitle == "PACS"
    assert performed.PerformedWorkitemCodeSequence[0].CodeValue == "110004"
    assert site.row().state is WorkitemState.COMPLETED


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_any_call_claims_once_and_completes_once(web: Site, when: str) -> None:
    class Killed(BaseException):
        """As by a signal: nothing catches it."""

    calls = fatal = 0

    def call(real: Callable[..., Any], *given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == fatal and when == "before":
            raise Killed
        answer = real(*given)
        if calls == fatal:
            raise Killed
        return answer

    def opened(peer: PeerSettings, settings: Settings) -> Any:
        manager = open_manager(peer, settings)
        for name in ("search", "read", "change_state", "update"):
            setattr(manager, name, partial(call, getattr(manager, name)))
        return manager

    for fatal in range(1, 9):
        calls, before = 0, len(web.manager.log)
        uid = web.study(f"study {fatal}")
        web.restart(opened)
        for step in range(10):
            if step == 5:
                web.deliver()
            try:
                web.turn()
            except Killed:
                web.restart()
        mine = [name for name, status in web.manager.log[before:] if status == 0]
        assert (web.manager.state(uid), mine.count("claim"), mine.count(COMPLETED)) == (COMPLETED, 1, 1)


@pytest.mark.parametrize("operation", ["claim", "update", COMPLETED])
def test_a_lost_answer_is_settled_by_what_the_manager_says(site: Site, operation: str) -> None:
    site.manager.fault = lambda name, times: LOSE if name == operation and times == 1 else ""
    uid = site.study()
    site.turn(4)
    site.deliver()
    site.turn(4)
    assert site.manager.done().count("claim") == 1
    assert (site.manager.state(uid), site.row().state) == (COMPLETED, WorkitemState.COMPLETED)


def test_what_another_performer_claims_is_left_to_it(site: Site) -> None:
    uid = site.study()
    real = site.manager.search

    def late(keys: dict[str, str]) -> list[Dataset]:
        found = [deepcopy(item) for item in real(keys)]
        if site.manager.state(uid) == SCHEDULED:
            site.manager.claimed_by_another(uid)
        return found

    site.manager.search = late  # type: ignore[method-assign]
    site.turn(3)
    site.deliver()
    site.turn(3)
    assert site.row().state is WorkitemState.LOST
    assert (site.manager.state(uid), site.manager.done()) == (IN_PROGRESS, ["claim"])


@pytest.mark.parametrize(
    ("jobs", "reason"), [(JobState.FAILED, "110501"), (JobState.NOT_APPLICABLE, "110522"), (None, "110533")]
)
def test_what_cannot_be_done_is_cancelled_with_a_code(site: Site, jobs: JobState | None, reason: str) -> None:
    uid = site.study()
    site.turn(2)
    if jobs is not None:
        site.inbox.put(Job, state=jobs)
        site.inbox.write(settle_study, 1)
    else:
        ago = site.row().began_at - timedelta(hours=1.1)
        site.inbox.put(ClaimedWorkitem, began_at=ago, checked_at=ago)
    site.turn(3)
    [progress] = site.manager.items[uid].ProcedureStepProgressInformationSequence
    [why] = progress.ProcedureStepDiscontinuationReasonCodeSequence
    assert (site.manager.state(uid), why.CodeValue, why.CodingSchemeDesignator) == (CANCELED, reason, "DCM")
    assert site.row().state is WorkitemState.CANCELED


def test_a_work_item_that_cannot_be_read_is_named_once(tmp_path: Path) -> None:
    row = {**work_item("1.2.3").to_json_dict(), "00100010": {"vr": "PN", "Value": [["a list"]]}}
    with answering(body=json.dumps([row]).encode(), Content_Type="application/dicom+json") as (url, _):
        site = Site(tmp_path, Manager(), {"transport": "dicomweb", "url": url})
        site.turn(2)
        assert site.events().count(WORKITEM_PASSED.number) == 1
        site.inbox.close()


def test_an_input_that_is_not_here_is_fetched_from_a_peer_that_is_known(site: Site) -> None:
    uid = site.manager.add(
        work_item("1.2.3", PatientID="P1", InputInformationSequence=[instances("1.2.3", "ARCHIVE")])
    )
    site.manager.add(work_item("1.2.4", InputInformationSequence=[instances("1.2.4", "SOMEBODY")]))
    site.manager.add(
        work_item(
            "1.2.5",
            InputInformationSequence=[instances("1.2.5", url="http://169.254.169.254/studies/1.2.5")],
        )
    )
    site.manager.add(work_item("1.2.6", InputInformationSequence=[instances("1.2.6"), instances("1.2.7")]))
    site.turn(3)
    [fetch] = site.inbox.rows(Fetch)
    assert (fetch.study_instance_uid, fetch.peer, fetch.patient_id, fetch.urgent) == (
        "1.2.3",
        "archive",
        "P1",
        True,
    )
    assert site.manager.done() == ["claim", "update 0"]
    assert site.events().count(WORKITEM_PASSED.number) == 3
    site.inbox.put(Fetch, state=FetchState.FAILED)
    site.turn(3)
    assert site.manager.state(uid) == CANCELED


@pytest.mark.parametrize(
    "other",
    [
        {"ScheduledWorkitemCodeSequence": [coded("110001", "DCM", "Image Processing")]},
        {"ScheduledStationNameCodeSequence": [coded("OTHER", "99X", "Other")]},
        {"InputReadinessState": "INCOMPLETE"},
        {"ProcedureStepState": COMPLETED},
        {"PatientID": "ANOTHER"},
        {"InputInformationSequence": []},
    ],
)
def test_what_is_not_for_the_node_is_not_claimed(web: Site, other: dict[str, Any]) -> None:
    web.study(**other)
    web.turn(2)
    assert web.manager.log == []


@pytest.mark.parametrize("fault", [HANG, "500", "401", LOSE])
def test_a_manager_that_does_not_answer_is_an_event_once_and_nothing_is_lost(web: Site, fault: str) -> None:
    uid = web.study()
    web.turn(2)
    web.manager.fault = lambda name, times: fault if name in ("read", "search", COMPLETED) else ""
    web.turn(2)
    assert web.events().count(WORKLIST_AWAY.number) == 1
    web.manager.fault = lambda name, times: ""
    web.turn()
    assert web.events().count(WORKLIST_BACK.number) == 1
    web.deliver()
    web.turn(3)
    assert web.manager.state(uid) == COMPLETED


@contextmanager
def listening(site: Site) -> Iterator[Cancellations]:
    stop = threading.Event()
    mine = Cancellations(site.inbox.database, site.inbox.settings, site.inbox.settings.peer("ris"))
    thread = threading.Thread(target=mine.run_once, args=(stop,))
    thread.start()
    try:
        yield mine
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize("fetched", [True, False])
def test_an_item_is_cancelled_with_its_fetch_when_the_manager_asks(web: Site, fetched: bool) -> None:
    uid, other = web.study("one"), web.study("two")
    web.turn(2)
    web.inbox.put(ClaimedWorkitem, fetch_asked=fetched)
    study = web.manager.items[uid].InputInformationSequence[0].StudyInstanceUID
    now = utc_now() + timedelta(hours=1)
    web.inbox.add(Fetch(peer="archive", study_instance_uid=study, asked_at=now, next_at=now))
    with listening(web):
        wait_until(lambda: set(web.manager.subscribed) == {uid, other}, seconds=30)
        web.manager.frames.put(b"\x89\x02hi")  # a ping
        for event in (["nothing"], {"00001000": 1}, {"00001002": {"Value": [2]}}, {"a": "b" * 300}):
            web.manager.tell(event)
        for asked in ("1.2.3", uid, uid):
            web.manager.request_cancel(asked)
        wait_until(lambda: WORKITEM_STOPPED.number in web.events(), seconds=30)
    web.turn(3)
    assert (web.manager.state(uid), web.manager.state(other)) == (CANCELED, IN_PROGRESS)
    assert web.events().count(WORKITEM_STOPPED.number) == 1
    states = sorted(job.state for job in web.inbox.jobs())
    # What came for the item alone is not analysed; a study that somebody sent is.
    assert states == ([JobState.CANCELLED, JobState.QUEUED] if fetched else [JobState.QUEUED] * 2)
    assert web.inbox.column(Fetch.state) == [FetchState.CANCELLED if fetched else FetchState.WAITING]
