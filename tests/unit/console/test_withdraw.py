"""Withdrawing results, and what an operator may do to deliveries."""

import logging
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from pydicom import dcmread
from sqlalchemy import select

from dicom_node.dicom.own_objects import is_own_result
from dicom_node.errors import NotAllowedNow
from dicom_node.model.kinds import ReaderVerdict, RejectionReason, ResultKind
from dicom_node.model.lifecycle import DeliveryState, JobState, StudyState
from dicom_node.model.roles import UserRole
from dicom_node.outbox.delivery_worker import DeliveryWorker
from dicom_node.scu import Confirmation, Outgoing, Presence, SendReport, SendStatus
from dicom_node.services import assessments, audit, deliveries
from dicom_node.services import results as withdrawal
from dicom_node.services.assessments import FindingAssessed
from dicom_node.services.audit import Person
from dicom_node.services.studies import rerun_rules
from dicom_node.store.tables import AuditRow, Delivery, Job, Result, Study
from dicom_node.store.transitions import utc_now
from tests.console_lab import ConsoleLab
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.console.illustrated import illustrated
from tests.unit.jobs.worker_lab import work

S = DeliveryState


WHY = "that of Nowak"


@pytest.fixture
def site(node: Inbox) -> ConsoleLab:
    """A study whose results are in the PACS, which knows IOCM; two are in an archive, which does not."""
    pacs = node.settings.peers[-1].model_copy(update={"iocm": True})
    archive = pacs.model_copy(update={"name": "archive", "iocm": False})
    peers = (*node.settings.peers[:-1], pacs, archive)
    node.settings = node.settings.model_copy(update={"peers": peers})
    node.put(Delivery, state=S.CONFIRMED, confirmed_at=utc_now())
    for result in node.rows(Result)[:2]:
        node.add(Delivery(result_id=result.id, destination="archive", state=S.CONFIRMED, next_at=utc_now()))
    return ConsoleLab(node.settings, node.database)


UID = str(ultrasound("one").StudyInstanceUID)


def note(site: ConsoleLab) -> Path:
    [row] = [row for row in site.rows(Result) if row.kind is ResultKind.REJECTION]
    return site.settings.node.data_dir / row.path


def withdraw(site: ConsoleLab, *numbers: int) -> dict[str, list[str]]:
    return withdrawal.withdraw(
        site.settings, UID, numbers or None, reason=RejectionReason.SAFETY, because=WHY
    )


def test_the_note_names_what_is_withdrawn_and_why(site: ConsoleLab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    before = site.rows(Result)
    by_hand = withdraw(site)
    assert by_hand == {"archive": [row.sop_instance_uid for row in before[:2]]}
    document = dcmread(note(site))
    title = document.ConceptNameCodeSequence[0]
    assert (title.CodeValue, title.CodingSchemeDesignator) == ("113037", "DCM")
    named = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in document.ContentSequence
        if "ReferencedSOPSequence" in item
    }
    evidence = {
        item.ReferencedSOPInstanceUID
        for study in document.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert named == evidence == {row.sop_instance_uid for row in before}
    assert [item.TextValue for item in document.ContentSequence if item.ValueType == "TEXT"][-1] == WHY
    first = dcmread(site.settings.node.data_dir / before[0].path)
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber", "StudyDate"):
        assert document[keyword].value == first[keyword].value, keyword
    assert is_own_result(document)
    assert "Nowak" not in caplog.text
    sent = site.scalars(select(Delivery).join(Result).where(Result.kind == ResultKind.REJECTION))
    assert [(row.destination, row.state) for row in sent] == [("pacs", S.PENDING)]


def test_what_has_no_file_any_more_is_named_for_removal_by_hand(site: ConsoleLab) -> None:
    before = site.rows(Result)
    for row in before:
        (site.settings.node.data_dir / row.path).unlink()
    site.put(Result, purged=True)
    assert set(withdraw(site)["pacs"]) == {row.sop_instance_uid for row in before}
    assert ResultKind.REJECTION not in {row.kind for row in site.rows(Result)}


def test_nothing_that_was_withdrawn_leaves_again(site: ConsoleLab, node: Inbox) -> None:
    for number, state in ((1, S.PENDING), (2, S.DEAD)):
        site.put(Delivery, number, state=state)
    withdraw(site)
    assert [site.get(Delivery, number).state for number in (1, 2)] == [S.DISCARDED] * 2
    for way, says in (
        (lambda: deliveries.retry(site.settings, [2]), "withdrawn"),
        (lambda: deliveries.send_study(site.settings, UID, "archive"), "."),
    ):
        with pytest.raises(NotAllowedNow, match=says):
            way()
    rerun_rules(site.settings, [UID])
    work(node)
    chosen = select(Delivery.state).join(Result).where(Result.kind != ResultKind.REJECTION)
    assert set(site.scalars(chosen)) == {S.CONFIRMED, S.DISCARDED}
    with pytest.raises(NotAllowedNow, match="before"):
        withdraw(site)


def test_what_is_being_sent_is_waited_for(site: ConsoleLab) -> None:
    site.put(Delivery, 1, state=S.SENDING)
    with pytest.raises(NotAllowedNow, match="being sent"):
        withdraw(site)
    assert not [row for row in site.rows(Result) if row.kind is ResultKind.REJECTION]


def delivered(site: ConsoleLab) -> list[str]:
    """What leaves from now on, until nothing is due, to a destination that shows only what it got by that."""
    sent: list[str] = []

    def send(objects: Sequence[Outgoing]) -> list[SendReport]:
        sent.extend(one.sop_instance_uid for one in objects)
        return [SendReport(SendStatus.STORED, "0000")] * len(objects)

    def confirm(objects: Sequence[Outgoing]) -> list[Confirmation]:
        known = {True: Presence.FOUND, False: Presence.NOT_FOUND}
        return [Confirmation(known[one.sop_instance_uid in sent]) for one in objects]

    destination = Mock(send=send, confirm=confirm)
    worker = DeliveryWorker(site.database, site.settings, open_destination=lambda *_: destination)
    for _ in range(6):
        worker.run_once()
    return sent


def test_a_withdrawn_result_that_the_peer_does_not_show_is_not_sent_again(site: ConsoleLab) -> None:
    [doubtful, *_] = site.rows(Delivery)
    values = {"state": S.UNCONFIRMED, "sent_at": None, "confirmed_at": None, "next_at": utc_now()}
    site.put(Delivery, doubtful.id, **values)
    withdraw(site)
    assert delivered(site) == [dcmread(note(site)).SOPInstanceUID]
    states = {row.state for row in site.rows(Delivery) if row.result_id == doubtful.result_id}
    assert S.DISCARDED in states and not {S.PENDING, S.DEAD, S.UNCONFIRMED} & states


def test_the_note_goes_though_the_rules_are_run_again_or_the_study_is_in_quarantine(
    site: ConsoleLab,
) -> None:
    withdraw(site)
    rerun_rules(site.settings, [UID])
    site.put(Study, 1, state=StudyState.QUARANTINED)
    assert delivered(site) == [dcmread(note(site)).SOPInstanceUID]


@pytest.mark.parametrize("state", [S.CANCELLED, S.DEAD, S.DISCARDED])
def test_who_did_not_take_the_note_is_listed_by_hand(site: ConsoleLab, state: DeliveryState) -> None:
    withdraw(site)
    site.put(Delivery, site.rows(Delivery)[-1].id, state=state)
    shown = site.read(withdrawal.show, site.settings, 1)["by_hand"]
    assert len(shown["pacs"]) == len(shown["archive"]) + len(site.rows(Result)) - 1 - 2


def test_a_withdrawal_that_was_killed_half_way_is_made_again(
    site: ConsoleLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As kill -9 does, after the file has its name and before the commit.
    killed = Mock(side_effect=KeyboardInterrupt)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("dicom_node.services.results._by_hand", killed)
        withdraw(site)
    files = list((site.settings.node.data_dir / "results").rglob("*.dcm"))
    withdraw(site)
    assert note(site) in files


def test_a_replaced_report_does_not_come_back_when_the_newest_is_withdrawn(site: ConsoleLab) -> None:
    [old, *_] = [row for row in site.rows(Result) if row.kind is ResultKind.SR]
    known = {one.name: getattr(old, one.name) for one in Result.__table__.columns}
    new = {"id": None, "sop_instance_uid": "2.25.99", "supersedes": old.sop_instance_uid}
    site.add(newest := Result(**known | new))
    withdraw(site, newest.id)
    assert "No report yet" in site.at("/studies/1", UserRole.VIEWER).text


def test_an_operator_withdraws_by_page_and_the_audit_says_who(site: ConsoleLab) -> None:
    browser = site.at("/studies/1", UserRole.OPERATOR)
    assert "75" in browser.text
    assert (
        "A rejection note (IHE IOCM), after which the results are hidden or deleted, goes to pacs"
        in browser.page("/studies/1/withdraw")
    )
    numbers = re.findall(r'name="result" value="(\d+)"', browser.text)
    assert len(numbers) == len(site.rows(Result))
    for fields, status in (
        ({"reason": "quality", "because": "x", "result": numbers[0]}, 409),
        ({"reason": "boredom", "because": WHY, "result": numbers[0]}, 400),
        ({"reason": "quality", "because": WHY}, 409),
        ({"reason": "quality", "because": WHY, "result": "9999"}, 404),
        ({"reason": "quality", "because": WHY, "result": numbers[0]}, 303),
    ):
        assert browser.post("/studies/1/withdraw", **fields) == status, fields
    browser.follow()
    assert "To be removed by hand" in browser.text and WHY in browser.text
    browser.get("/studies/1")
    assert browser.text.count(">withdrawn</span>") == 2  # in a line for each of its two destinations
    assert "No report yet" in browser.text
    noted = [row for row in site.read(audit.rows) if row["action"] == "result_withdrawn"]
    kept = site.scalars(select(AuditRow.fields).where(AuditRow.action == "result_withdrawn"))
    # The words may name a patient: an admin reads them here, but no other system gets them with the audit.
    assert kept == [{"reason": "quality", "results": [int(numbers[0])]}]
    assert [(row["actor"], row["fields"]) for row in noted] == [("operator", {**kept[0], "because": WHY})]


@pytest.mark.debian("postgresql")
def test_a_sender_that_comes_in_between_gets_nothing(
    open_inbox: Callable[..., Inbox], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = open_inbox(illustrated(), url=postgres_url)
    node.settle(ultrasound("one"))
    work(node)
    worker = DeliveryWorker(
        node.database,
        node.settings,
        open_destination=lambda _peer, _settings: Mock(spec=["close"]),
    )
    original = withdrawal._chosen

    def chosen(*arguments: Any) -> Any:
        found = original(*arguments)
        worker.run_once()
        return found

    monkeypatch.setattr(withdrawal, "_chosen", chosen)
    uid = str(ultrasound("one").StudyInstanceUID)
    assert {row.state for row in node.rows(Delivery)} == {S.PENDING}
    withdrawal.withdraw(node.settings, uid, None, reason=RejectionReason.SAFETY, because="of another")
    assert {row.state for row in node.rows(Delivery)} == {S.DISCARDED}


@pytest.mark.debian("postgresql")
def test_a_finding_is_not_rejected_while_its_results_are_accepted(
    open_inbox: Callable[..., Inbox], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = illustrated()
    settings["rules"][0]["assess_first"] = True
    node = open_inbox(settings, url=postgres_url)
    node.settle(ultrasound("one"))
    work(node)
    uid = str(ultrasound("one").StudyInstanceUID)
    about = node.read(assessments.findings_of_study, node.settings, uid)[0]
    which = {key: about[key] for key in ("finding", "tracking_uid", "model")}
    given = FindingAssessed(**which, verdict=ReaderVerdict.REJECTED, because="a rib")
    other = threading.Thread(target=assessments.assess, args=(node.settings, 1, given, Person("eva")))
    original, waited = assessments._contested, []

    def contested(*arguments: Any) -> Any:
        found = original(*arguments)
        other.start()
        other.join(0.5)
        waited.append(other.is_alive())
        return found

    monkeypatch.setattr(assessments, "_contested", contested)
    assessments.accept_results(node.settings, uid, Person("anna"))
    other.join(20)
    assert waited == [True] and not other.is_alive()


@pytest.fixture
def study(console: ConsoleLab, inbox: Inbox) -> int:
    """A study with a picture and a report; their deliveries to the PACS were given up."""
    inbox.settle(ultrasound("one"))
    for kind in (ResultKind.SC, ResultKind.SR):
        console.delivery(inbox.jobs()[0], S.DEAD, kind)
    console.put(Job, 1, state=JobState.SUCCEEDED)
    console.put(Study, 1, state=StudyState.FAILED)
    return 1


def test_what_is_discarded_says_why_on_the_page_and_nowhere_else(
    console: ConsoleLab, study: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    browser = console.browser(UserRole.OPERATOR)
    words = "Nowak was sent by mail"
    assert browser.post("/outbox/1/discard", because=words, state="dead") == 303
    assert browser.headers["location"] == "/outbox?state=dead"
    assert ([row.state for row in console.rows(Delivery)], console.get(Study, 1).state) == (
        [S.DISCARDED, S.DEAD],
        StudyState.FAILED,
    )
    assert browser.post("/outbox/2/discard", because="x") == 409 and "say why" in browser.text
    assert browser.post("/outbox/discard-dead", because=words, destination="pacs") == 303
    browser.follow()
    assert browser.text.count(words) == 2
    assert console.get(Study, 1).state is StudyState.CANCELLED
    assert console.audited("discarded") == [{"all_dead": 1, "destination": "pacs"}, {"deliveries": [1]}]
    assert "Nowak" not in caplog.text
    assert "Nowak" not in console.get(Study, 1).reason


@pytest.mark.parametrize("state", [S.SENDING, S.UNCONFIRMED, S.CONFIRMED])
def test_what_may_have_arrived_cannot_be_discarded(
    console: ConsoleLab, study: int, state: DeliveryState
) -> None:
    console.put(Delivery, 1, state=state)
    with pytest.raises(NotAllowedNow, match="discard only waiting or given-up ones"):
        deliveries.discard(console.settings, [1], because="for no reason")
    assert console.get(Delivery, 1).state is state


def with_peers(console: ConsoleLab, *peers: dict[str, object]) -> None:
    """The console of a node that knows these peers, too."""
    base = console.settings.peers[-1]
    more = tuple(base.model_copy(update=peer) for peer in peers)
    console.take(console.settings.model_copy(update={"peers": (*console.settings.peers, *more)}))


def test_results_go_to_a_further_peer_as_far_as_it_takes_them(console: ConsoleLab, study: int) -> None:
    with_peers(console, {"name": "teaching", "results": (ResultKind.SC,)})
    browser = console.at("/studies/1", UserRole.OPERATOR)
    assert "<option>teaching</option>" in browser.text and "<option>pacs</option>" not in browser.text
    assert browser.post("/studies/1/send", peer="teaching") == 303
    sent = select(Result.kind).join(Delivery).where(Delivery.destination == "teaching")
    assert console.scalars(sent.where(Delivery.state == S.PENDING)) == [ResultKind.SC]
    assert console.get(Study, 1).state is StudyState.DELIVERING
    assert console.audited("sent_to_peer") == [{"peer": "teaching", "objects": 1}]
    assert browser.post("/studies/1/send", peer="teaching") == 409 and "already" in browser.text


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
    assert browser.post("/studies/1/send", peer="other") == 409 and why in browser.text
    assert browser.post("/studies/1/send", peer="nobody") == 404


def test_all_held_jobs_of_a_rule_are_run_at_once(console: ConsoleLab, inbox: Inbox) -> None:
    """A limit holds jobs of two rules; one is of a study that still receives images."""
    inbox.settle(*map(ultrasound, ("one", "two", "three")))
    for job, rule in zip(inbox.jobs(), ("chest", "chest", "us"), strict=True):
        console.put(Job, job.id, state=JobState.HELD, rule=rule)
    console.put(Study, inbox.jobs()[1].study_id, state=StudyState.RECEIVING)
    browser = console.at("/jobs?state=held", UserRole.OPERATOR)
    assert browser.text.count("Run all 1") == 2  # of each rule; the study that receives is not counted
    for rule, states in (("chest", "queued held held"), ("", "queued held queued")):
        assert browser.post("/jobs/run-all", state="held", rule=rule) == 303
        assert " ".join(job.state.value for job in inbox.jobs()) == states
    assert browser.post("/jobs/run-all", state="running", rule="") in (400, 409, 422)
