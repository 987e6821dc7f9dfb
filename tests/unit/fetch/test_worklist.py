"""Work taken from a worklist manager (UPS): claimed once, reported as it is, ended when it is done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydicom.dataset import Dataset
from sqlalchemy import select, update

from dicom_node import scu
from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.events import (
    WORKITEM_GIVEN_UP,
    WORKITEM_LOST,
    WORKITEM_PASSED,
    WORKLIST_AWAY,
    WORKLIST_BACK,
)
from dicom_node.fetch import Worklist, give_up_workitems
from dicom_node.model.kinds import ResultKind
from dicom_node.model.lifecycle import DeliveryState, FetchState, JobState, StudyState, WorkitemState
from dicom_node.store.tables import ClaimedWorkitem, Delivery, Fetch, Job, Result, Study
from dicom_node.store.transitions import settle_study, utc_now
from tests.inbox_lab import CONFIG, Inbox
from tests.modality import ultrasound
from tests.worklist_lab import (
    CANCELED,
    COMPLETED,
    HANG,
    IN_PROGRESS,
    LOSE,
    SCHEDULED,
    Manager,
    code,
    instances,
    ups_pull,
    ups_rs,
    work_item,
)

ARCHIVE = {"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": 1, "may": ["query"]}
ARCHIVE |= {"retrieve": "get"}
WANTS = {"worklist": ["110004^DCM"], "worklist_seconds": 2, "worklist_hours": 1}


class Site:
    """A node's database, and the manager whose work it takes."""

    def __init__(self, folder: Path, manager: Manager, at: dict[str, Any], **settings: Any) -> None:
        ris = {"name": "ris", "ae_title": "MANAGER", "may": [], **at, **WANTS, **settings}
        outbox = {"answer_seconds": 1, "retry_seconds": 0.01, "retry_limit_seconds": 0.01}
        config = {**CONFIG, "peers": [*CONFIG["peers"], ARCHIVE, ris], "outbox": outbox}
        self.inbox, self.manager = Inbox(folder, config), manager
        self.restart()

    def restart(self, open_manager: Callable[..., Any] = scu.open_worklist) -> None:
        settings = self.inbox.settings
        self.worklist = Worklist(self.inbox.database, settings, settings.peer("ris"), "me", open_manager)

    def turn(self, times: int = 1) -> None:
        """As if the next moment had come for everything."""
        for _ in range(times):
            with self.inbox.database.write() as session:
                session.execute(update(ClaimedWorkitem).values(next_at=utc_now()))
            self.worklist._search_at = 0.0
            self.worklist.run_once(threading.Event())

    def hours_pass(self, hours: float) -> None:
        with self.inbox.database.write() as session:
            for row in session.scalars(select(ClaimedWorkitem)):
                row.began_at -= timedelta(hours=hours)
                row.checked_at -= timedelta(hours=hours)
                row.decided_at = row.decided_at and row.decided_at - timedelta(hours=hours)

    def study(self, name: str = "a study", **item: Any) -> str:
        """A study here that an item asks for; the item's UID."""
        now, uid = utc_now(), str(ultrasound(name).StudyInstanceUID)
        with self.inbox.database.write() as session:
            study = Study(study_instance_uid=uid, first_received_at=now, last_received_at=now)
            study.state, study.patient_id = StudyState.QUEUED, "P1"
            job = Job(study=study, study_revision=1, rule="ultrasound", pipeline="ultrasound", source_uids=[])
            job.destinations, job.run_at, job.created_at = ["pacs"], now, now
            session.add_all([study, job])
        return self.manager.add(work_item(uid, **item))

    def deliver(self, state: DeliveryState = DeliveryState.CONFIRMED) -> None:
        """The jobs of all studies have succeeded, with a report in this state at the PACS."""
        with self.inbox.database.write() as session:
            for job in session.scalars(select(Job).where(Job.state != JobState.SUCCEEDED)):
                job.state, study = JobState.SUCCEEDED, session.get_one(Study, job.study_id)
                names = {
                    "study_id": study.id,
                    "job_id": job.id,
                    "path": "results/x",
                    "sha256": "",
                    "bytes": 1,
                }
                uids = {"sop_instance_uid": f"1.2.{job.id}", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.34"}
                made = Result(
                    kind=ResultKind.SR, series_instance_uid="1.2.9", created_at=utc_now(), **uids, **names
                )
                session.add(made)
                session.flush()
                session.add(Delivery(result_id=made.id, destination="pacs", state=state, next_at=utc_now()))
                session.flush()
                settle_study(session, study.id)

    def row(self) -> ClaimedWorkitem:
        with self.inbox.database.read() as session:
            [row] = session.scalars(select(ClaimedWorkitem))
            session.expunge(row)
            return row

    def events(self) -> list[int]:
        return [event.number for event in self.inbox.events()]

    def reasons(self, number: int) -> list[str]:
        return [str(event.fields.get("reason")) for event in self.inbox.events() if event.number == number]


@contextmanager
def by(service: str, folder: Path, **settings: Any) -> Iterator[Site]:
    manager = Manager()
    if service == "UPS-RS":
        with ups_rs(manager) as url:
            site = Site(folder, manager, {"transport": "dicomweb", "url": url}, **settings)
            yield site
            site.inbox.close()
    else:
        with ups_pull(manager) as port:
            site = Site(folder, manager, {"host": "127.0.0.1", "port": port}, **settings)
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
    with site.inbox.database.write() as session:
        session.execute(update(Delivery).values(state=DeliveryState.CONFIRMED))
        settle_study(session, 1)
    site.turn(3)
    assert site.manager.done()[3:] == ["update 100", COMPLETED]
    [performed] = site.manager.items[uid].UnifiedProcedureStepPerformedProcedureSequence
    [output] = performed.OutputInformationSequence
    [named] = output.ReferencedSOPSequence
    [place] = output.DICOMRetrievalSequence
    assert (output.SeriesInstanceUID, named.ReferencedSOPInstanceUID) == ("1.2.9", "1.2.1")
    assert place.RetrieveAETitle == "PACS"
    assert performed.PerformedWorkitemCodeSequence[0].CodeValue == "110004"
    assert site.row().state is WorkitemState.COMPLETED


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_any_call_claims_once_and_completes_once(tmp_path: Path, when: str) -> None:
    class Killed(BaseException):
        """As by a signal: nothing catches it."""

    calls = 0

    def dies_at(number: int) -> Callable[[PeerSettings, Settings], Any]:
        def opened(peer: PeerSettings, settings: Settings) -> Any:
            manager = scu.open_worklist(peer, settings)

            def dying(name: str) -> None:
                real = getattr(manager, name)

                def call(*given: Any) -> Any:
                    nonlocal calls
                    calls += 1
                    if calls == number and when == "before":
                        raise Killed
                    answer = real(*given)
                    if calls == number:
                        raise Killed
                    return answer

                setattr(manager, name, call)

            for name in ("search", "read", "change_state", "update"):
                dying(name)
            return manager

        return opened

    with by("UPS-RS", tmp_path) as site:
        for number in range(1, 9):
            calls, before = 0, len(site.manager.log)
            uid = site.study(f"study {number}")
            site.restart(dies_at(number))
            for step in range(10):
                if step == 5:
                    site.deliver()
                try:
                    site.turn()
                except Killed:
                    site.restart()
            mine = [name for name, status in site.manager.log[before:] if status == 0]
            assert (site.manager.state(uid), mine.count("claim"), mine.count(COMPLETED)) == (COMPLETED, 1, 1)


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


def test_an_item_that_its_manager_ends_is_let_go(site: Site) -> None:
    uid = site.study()
    site.turn(2)
    site.manager.items[uid].ProcedureStepState = CANCELED
    site.turn()
    assert site.row().state is WorkitemState.CLAIMED  # not asked again before its time
    site.hours_pass(0.1)
    site.turn()
    assert (site.row().state, site.reasons(WORKITEM_LOST.number)) == (WorkitemState.LOST, [CANCELED])


@pytest.mark.parametrize(
    ("jobs", "reason"), [(JobState.FAILED, "110501"), (JobState.NOT_APPLICABLE, "110522"), (None, "110533")]
)
def test_what_cannot_be_done_is_cancelled_with_a_code(site: Site, jobs: JobState | None, reason: str) -> None:
    uid = site.study()
    site.turn(2)
    with site.inbox.database.write() as session:
        if jobs is not None:
            session.execute(update(Job).values(state=jobs))
            settle_study(session, 1)
    if jobs is None:
        site.hours_pass(1.1)
    site.turn(3)
    [progress] = site.manager.items[uid].ProcedureStepProgressInformationSequence
    [why] = progress.ProcedureStepDiscontinuationReasonCodeSequence
    assert (site.manager.state(uid), why.CodeValue, why.CodingSchemeDesignator) == (CANCELED, reason, "DCM")
    assert site.row().state is WorkitemState.CANCELED


def test_an_input_that_is_not_here_is_fetched_from_a_peer_that_is_known(site: Site) -> None:
    item = work_item("1.2.3", PatientID="P1", InputInformationSequence=[instances("1.2.3", "ARCHIVE")])
    uid = site.manager.add(item)
    site.manager.add(work_item("1.2.4", InputInformationSequence=[instances("1.2.4", "SOMEBODY")]))
    away = instances("1.2.5", url="http://169.254.169.254/studies/1.2.5")
    site.manager.add(work_item("1.2.5", InputInformationSequence=[away]))
    site.manager.add(work_item("1.2.6", InputInformationSequence=[instances("1.2.6"), instances("1.2.7")]))
    site.turn(3)
    with site.inbox.database.read() as session:
        [fetch] = session.scalars(select(Fetch))
        assert (fetch.study_instance_uid, fetch.peer, fetch.patient_id, fetch.urgent) == (
            "1.2.3",
            "archive",
            "P1",
            True,
        )
    assert site.manager.done() == ["claim", "update 0"]
    assert len(site.reasons(WORKITEM_PASSED.number)) == 3
    with site.inbox.database.write() as session:
        session.execute(update(Fetch).values(state=FetchState.FAILED))
    site.turn(3)
    assert site.manager.state(uid) == CANCELED


@pytest.mark.parametrize(
    "other",
    [
        {"ScheduledWorkitemCodeSequence": [code("110001", "DCM", "Image Processing")]},
        {"ScheduledStationNameCodeSequence": [code("OTHER", "99X", "Other")]},
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


def test_no_more_is_claimed_than_the_setting_says_and_what_is_urgent_first(tmp_path: Path) -> None:
    with by("UPS-RS", tmp_path, worklist_items=1) as site:
        site.study("first")
        urgent = site.study("second", ScheduledProcedureStepPriority="HIGH")
        site.turn(3)
        assert site.manager.done().count("claim") == 1
        assert site.manager.state(urgent) == IN_PROGRESS


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


def test_an_outcome_that_is_refused_is_given_up_with_an_error(web: Site) -> None:
    uid = web.study()
    web.turn(2)
    web.deliver()
    web.manager.fault = lambda name, times: "503" if name == COMPLETED else ""
    web.turn(2)
    assert web.row().state is WorkitemState.ENDING
    web.hours_pass(1.1)
    web.turn()
    assert (web.row().state, web.manager.state(uid)) == (WorkitemState.GIVEN_UP, IN_PROGRESS)
    assert web.reasons(WORKITEM_GIVEN_UP.number) == ["HTTP 503 the server has a problem"]


def test_items_of_a_manager_that_is_configured_no_more_are_given_up(web: Site) -> None:
    web.study()
    web.turn(2)
    others = tuple(peer for peer in web.inbox.settings.peers if peer.name != "ris")
    give_up_workitems(web.inbox.database, web.inbox.settings)
    assert web.row().state is WorkitemState.CLAIMED
    give_up_workitems(web.inbox.database, web.inbox.settings.model_copy(update={"peers": others}))
    assert web.row().state is WorkitemState.GIVEN_UP


def test_a_peer_without_an_address_or_of_another_kind_has_no_worklist() -> None:
    known = {"name": "ris", "ae_title": "RIS", "may": []}
    for wrong in (
        {"worklist": ["*"]},
        {"worklist": ["*"], "transport": "dicomweb"},
        {"worklist": ["*"], "transport": "orthanc", "url": "http://ris"},
        {"worklist": ["110004"], "transport": "dicomweb", "url": "http://ris"},
    ):
        with pytest.raises(ValidationError):
            PeerSettings.model_validate({**known, **wrong})
