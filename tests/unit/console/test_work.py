"""What an operator may do to deliveries: discard with a reason, send to a further peer."""

from __future__ import annotations

import logging

import pytest
from sqlalchemy import select

from dicom_node.errors import NotAllowedNow
from dicom_node.events import DELIVERY_RETRIED
from dicom_node.model.kinds import ResultKind
from dicom_node.model.lifecycle import DeliveryState, JobState, StudyState
from dicom_node.model.roles import UserRole
from dicom_node.services import deliveries
from dicom_node.store.tables import Delivery, Job, Result, Study
from dicom_node.store.transitions import record, utc_now
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.rows import a_result

S = DeliveryState


@pytest.fixture
def study(console: ConsoleLab, inbox: Inbox) -> int:
    """A study with a picture and a report; their deliveries to the PACS were given up."""
    inbox.receive(ultrasound("one"))
    inbox.settle()
    with console.database.write() as session:
        job = session.get_one(Job, 1)
        job.state = JobState.SUCCEEDED
        for kind in (ResultKind.SC, ResultKind.SR):
            result = a_result(job, kind)
            session.add(result)
            session.flush()
            session.add(Delivery(result_id=result.id, destination="pacs", state=S.DEAD, next_at=utc_now()))
        session.get_one(Study, 1).state = StudyState.FAILED
    return 1


def states(console: ConsoleLab) -> list[DeliveryState]:
    with console.database.read() as session:
        return list(session.scalars(select(Delivery.state).order_by(Delivery.id)))


def state_of_study(console: ConsoleLab) -> StudyState:
    with console.database.read() as session:
        return session.get_one(Study, 1).state


def test_what_is_discarded_says_why_on_the_page_and_nowhere_else(
    console: ConsoleLab, study: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    browser = console.browser(UserRole.OPERATOR)
    words = "Nowak was sent by mail"
    assert browser.post("/outbox/1/discard", because=words, state="dead") == 303
    assert browser.headers["location"] == "/outbox?state=dead"
    assert (states(console), state_of_study(console)) == ([S.DISCARDED, S.DEAD], StudyState.FAILED)
    assert browser.post("/outbox/2/discard", because="x") == 409
    assert "say why" in browser.text
    assert browser.post("/outbox/discard-dead", because=words, destination="pacs") == 303
    browser.follow()
    assert browser.text.count(words) == 2
    assert state_of_study(console) is StudyState.CANCELLED
    assert console.audited("discarded") == [{"all_dead": 1, "destination": "pacs"}, {"deliveries": [1]}]
    assert "Nowak" not in caplog.text
    with console.database.read() as session:
        assert "Nowak" not in session.get_one(Study, 1).reason


def test_what_was_discarded_can_be_sent_all_the_same(console: ConsoleLab, study: int) -> None:
    browser = console.browser(UserRole.OPERATOR)
    browser.post("/outbox/1/discard", because="a mistake")
    assert browser.post("/outbox/1/retry", study="1") == 303
    assert browser.headers["location"] == "/studies/1"
    assert states(console) == [S.PENDING, S.DEAD]
    with console.database.read() as session:
        assert session.get_one(Delivery, 1).discarded_because == ""


@pytest.mark.parametrize("state", [S.SENDING, S.UNCONFIRMED, S.CONFIRMED])
def test_what_may_have_arrived_cannot_be_discarded(
    console: ConsoleLab, study: int, state: DeliveryState
) -> None:
    with console.database.write() as session:
        session.get_one(Delivery, 1).state = state
    with pytest.raises(NotAllowedNow, match="discard only waiting or given-up ones"):
        deliveries.discard(console.settings, [1], because="for no reason")
    assert states(console)[0] is state


def with_peers(console: ConsoleLab, *peers: dict[str, object]) -> None:
    """The console of a node that knows these peers, too."""
    base = console.settings.peers[-1]
    more = tuple(base.model_copy(update=peer) for peer in peers)
    console.take(console.settings.model_copy(update={"peers": (*console.settings.peers, *more)}))


def test_results_go_to_a_further_peer_as_far_as_it_takes_them(console: ConsoleLab, study: int) -> None:
    with_peers(console, {"name": "teaching", "results": (ResultKind.SC,)})
    browser = console.browser(UserRole.OPERATOR)
    browser.get("/studies/1")
    assert "<option>teaching</option>" in browser.text
    assert "<option>pacs</option>" not in browser.text
    assert browser.post("/studies/1/send", peer="teaching") == 303
    with console.database.read() as session:
        sent = session.scalars(select(Delivery).where(Delivery.destination == "teaching")).all()
        assert [(row.state, row.result.kind) for row in sent] == [(S.PENDING, ResultKind.SC)]
    assert state_of_study(console) is StudyState.DELIVERING
    assert console.audited("sent_to_peer") == [{"peer": "teaching", "objects": 1}]
    assert browser.post("/studies/1/send", peer="teaching") == 409
    assert "already" in browser.text


@pytest.mark.parametrize(
    ("peer", "why"),
    [
        ({"name": "other", "results": (ResultKind.GSPS,)}, "no results that other takes"),
        ({"name": "other", "deidentify": True, "results": (ResultKind.SC,)}, "no results that other takes"),
        ({"name": "other", "burned_in_boxes": True}, "no results that other takes"),
        ({"name": "other", "may": ("send",)}, "gets no results"),
    ],
)
def test_a_peer_gets_nothing_that_is_not_meant_for_it(
    console: ConsoleLab, study: int, peer: dict[str, object], why: str
) -> None:
    with_peers(console, peer)
    browser = console.browser(UserRole.OPERATOR)
    assert browser.post("/studies/1/send", peer="other") == 409
    assert why in browser.text
    assert browser.post("/studies/1/send", peer="nobody") == 404


def test_a_replaced_result_and_a_quarantined_study_go_nowhere(console: ConsoleLab, study: int) -> None:
    with_peers(console, {"name": "teaching"})
    with console.database.write() as session:
        old, new = session.scalars(select(Result).order_by(Result.id)).all()
        new.supersedes = old.sop_instance_uid
    browser = console.browser(UserRole.OPERATOR)
    assert browser.post("/studies/1/send", peer="teaching") == 303
    with console.database.write() as session:
        session.get_one(Study, 1).state = StudyState.QUARANTINED
        sent = session.scalars(select(Delivery).where(Delivery.destination == "teaching")).all()
        assert [row.result_id for row in sent] == [new.id]
    assert browser.post("/studies/1/send", peer="teaching") == 409
    assert "quarantined" in browser.text


def test_jobs_are_changed_from_the_page_of_their_study(console: ConsoleLab, inbox: Inbox) -> None:
    inbox.receive(ultrasound("one"))
    inbox.settle()
    browser = console.browser(UserRole.OPERATOR)
    browser.get("/studies/1")
    assert "/jobs/1/cancel" in browser.text
    assert browser.post("/jobs/1/cancel", study="1") == 303
    assert browser.headers["location"] == "/studies/1"


def test_the_page_of_a_peer_that_takes_nothing_says_so(console: ConsoleLab, study: int) -> None:
    browser = console.browser(UserRole.VIEWER)
    browser.get("/peers/pacs")
    assert "results that wait" not in browser.text
    with console.database.write() as session:
        for delivery in session.scalars(select(Delivery)):
            delivery.state, delivery.attempts, delivery.reason = S.PENDING, 3, "no connection"
            record(session, DELIVERY_RETRIED, study, delivery=delivery.id, destination="pacs")
    browser.get("/peers/pacs")
    section = browser.text.partition("Results sent to it")[2].partition("</section>")[0]
    assert "it takes none of the 2 results that wait for it (no connection)" in section


@pytest.fixture
def held(console: ConsoleLab, inbox: Inbox) -> list[int]:
    """Jobs of two rules that a limit holds, and one of a study that still receives images."""
    for name in ("one", "two", "three"):
        inbox.receive(ultrasound(name))
    inbox.settle()
    with console.database.write() as session:
        jobs = list(session.scalars(select(Job).order_by(Job.id)))
        for job, rule in zip(jobs, ("chest", "chest", "us"), strict=True):
            job.state, job.rule = JobState.HELD, rule
        session.get_one(Study, jobs[1].study_id).state = StudyState.RECEIVING
        return [job.id for job in jobs]


def state_of_jobs(console: ConsoleLab) -> list[JobState]:
    with console.database.read() as session:
        return list(session.scalars(select(Job.state).order_by(Job.id)))


def test_all_held_jobs_of_a_rule_are_run_at_once(console: ConsoleLab, held: list[int]) -> None:
    assert len(held) == 3
    browser = console.browser(UserRole.OPERATOR)
    browser.get("/jobs?state=held")
    assert browser.text.count("Run all 1") == 2  # of each rule; the study that receives is not counted
    assert browser.post("/jobs/run-all", state="held", rule="chest") == 303
    assert state_of_jobs(console) == [JobState.QUEUED, JobState.HELD, JobState.HELD]
    assert len(console.audited("job_changed")) == 1
    assert browser.post("/jobs/run-all", state="held", rule="") == 303
    assert state_of_jobs(console) == [JobState.QUEUED, JobState.HELD, JobState.QUEUED]
    assert browser.post("/jobs/run-all", state="running", rule="") in (400, 409, 422)


def test_a_viewer_runs_none(console: ConsoleLab, held: list[int]) -> None:
    browser = console.browser(UserRole.VIEWER)
    browser.get("/jobs?state=held")
    assert "Run all" not in browser.text and held
    assert browser.post("/jobs/run-all", state="held", rule="") == 403
