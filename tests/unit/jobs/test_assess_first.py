"""Results that wait until a person has accepted them: nothing leaves before, nothing rejected ever."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select

from dicom_node import preflight
from dicom_node.config.notifications import NotificationSettings
from dicom_node.config.settings import Settings
from dicom_node.errors import FaultyInput, NotAllowedNow
from dicom_node.events import ASSESSMENT_OVERDUE, RESULTS_ACCEPTED, RESULTS_HELD
from dicom_node.model.kinds import AuditAction, ReaderVerdict, RejectionReason
from dicom_node.model.lifecycle import DeliveryState, HeldState, StudyState
from dicom_node.notifications.gather import Gatherer
from dicom_node.outbox import held
from dicom_node.outbox.delivery_worker import DeliveryWorker
from dicom_node.outbox.held import report_overdue
from dicom_node.services import assessments, audit, deliveries, results, studies
from dicom_node.services.assessments import FindingAssessed
from dicom_node.services.audit import Person
from dicom_node.store.database import Database
from dicom_node.store.tables import Delivery, HeldResult, Notification, Result
from dicom_node.store.transitions import utc_now
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.unit.inbox.objects import changed
from tests.unit.jobs.worker_lab import configuration, register, work

ANNA = Person("anna", "10.0.0.1")
D = DeliveryState


def settings(node: Inbox, *, assess_first: bool = True, do: str = "find", **peer: Any) -> Settings:
    made = configuration(do)
    made["rules"][0]["assess_first"] = assess_first
    made["peers"][1] |= peer
    made["outbox"] = {"retry_seconds": 0.1, "assess_hours": 4}
    return Settings.model_validate({**made, "node": {"data_dir": node.folder}})


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Inbox]:
    register()
    node = Inbox(tmp_path / "var", configuration())
    node.settings = settings(node)
    node.reopen()
    yield node
    node.close()


def analysed(node: Inbox, number: int = 1) -> str:
    """One more image of the study, and its jobs; returns the study's UID."""
    image = changed(ultrasound("one", number=number), StudyInstanceUID="1.2.840.1")
    node.receive(image)
    node.settle()
    work(node)
    return str(image.StudyInstanceUID)


def states(node: Inbox) -> list[DeliveryState]:
    with node.database.read() as session:
        return list(session.scalars(select(Delivery.state).order_by(Delivery.id)))


def holds(node: Inbox) -> list[HeldResult]:
    with node.database.read() as session:
        rows = list(session.scalars(select(HeldResult).order_by(HeldResult.result_id)))
        session.expunge_all()
        return rows


def mark(node: Inbox, uid: str) -> str:
    with node.database.read() as session:
        return str(assessments.held_results(session, node.settings, node.study(uid).id)["as_of"])


def finding(node: Inbox, uid: str) -> dict[str, Any]:
    with node.database.read() as session:
        return assessments.findings_of_study(session, node.settings, uid)[0]


def test_nothing_leaves_before_a_person_has_accepted_it(node: Inbox) -> None:
    with run_pacs(Pacs(free_port())) as pacs:
        peer = pacs.peer()
        node.settings = settings(node, host=peer.host, port=peer.port, ae_title=peer.ae_title)
        uid = analysed(node)
        assert states(node) == [D.UNASSESSED] * 2
        assert node.study(uid).state is StudyState.UNASSESSED
        # As after a kill of everything: another database object, another sender.
        other = Database(node.settings.database_url)
        sender = DeliveryWorker(other, node.settings)
        for _ in range(3):
            assert sender.run_once() == 0
        assert pacs.received == []
        assert assessments.accept_results(node.settings, uid, ANNA, as_of=mark(node, uid)) == 2
        assert node.study(uid).state is StudyState.DELIVERING
        for _ in range(50):
            if set(states(node)) == {D.CONFIRMED}:
                break
            sender.run_once()
        other.dispose()
        assert len(pacs.received) == 2 and node.study(uid).state is StudyState.DELIVERED
    with node.database.read() as session:
        [row] = [row for row in audit.rows(session) if row["action"] == AuditAction.RESULTS_ASSESSED]
        [said] = assessments.all_assessments(session)
    assert (row["actor"], row["fields"]) == ("anna", {"verdict": "accepted", "results": 2})
    assert (said["verdict"], said["actor"], said["version"]) == ("accepted", "anna", "1")
    numbers = [event.number for event in node.events()]
    assert RESULTS_HELD.number in numbers and RESULTS_ACCEPTED.number in numbers


def test_what_was_rejected_leaves_by_no_way_until_a_person_thinks_again(node: Inbox) -> None:
    uid = analysed(node)
    with pytest.raises(FaultyInput):
        assessments.reject_results(node.settings, uid, ANNA, because=" ")
    assert assessments.reject_results(node.settings, uid, ANNA, because="wrong side") == 2
    assert node.study(uid).state is StudyState.CANCELLED
    studies.rerun_rules(node.settings, [uid])
    work(node)
    assert states(node) == [D.DISCARDED] * 2, "the same results stay rejected"
    with pytest.raises(NotAllowedNow, match="rejected"):
        deliveries.retry(node.settings, [1])
    with pytest.raises(NotAllowedNow):
        deliveries.send_study(node.settings, uid, "pacs")
    with pytest.raises(NotAllowedNow, match="rejected already"):
        assessments.reject_results(node.settings, uid, ANNA, because="again")
    with pytest.raises(NotAllowedNow, match="--rejected"):
        assessments.accept_results(node.settings, uid, ANNA)
    assert assessments.accept_results(node.settings, uid, ANNA, as_of=mark(node, uid)) == 2
    assert states(node) == [D.PENDING] * 2
    with pytest.raises(NotAllowedNow, match="waits for"):
        assessments.accept_results(node.settings, uid, ANNA)


def test_a_second_acceptance_frees_nothing_that_was_rejected(node: Inbox) -> None:
    uid = analysed(node)
    assessments.reject_results(node.settings, uid, ANNA, because="wrong side")
    analysed(node, 2)
    with pytest.raises(NotAllowedNow, match="newer results wait"):
        assessments.accept_results(node.settings, uid, ANNA, rejected=True)
    seen = mark(node, uid)
    assert assessments.accept_results(node.settings, uid, ANNA, as_of=seen) == 2
    for asked in ({}, {"as_of": seen}, {"rejected": True}):
        with pytest.raises(NotAllowedNow):
            assessments.accept_results(node.settings, uid, ANNA, **asked)  # type: ignore[arg-type]
    assert sorted(states(node)) == [D.DISCARDED] * 2 + [D.PENDING] * 2


def test_what_was_discarded_or_withdrawn_is_not_accepted_with_the_others(node: Inbox) -> None:
    uid = analysed(node)
    deliveries.discard(node.settings, [1], because="wrong destination")
    assessments.reject_results(node.settings, uid, ANNA, because="wrong side")
    assessments.accept_results(node.settings, uid, ANNA, rejected=True)
    assert states(node) == [D.DISCARDED, D.PENDING]
    other = analysed(node, 2)
    assessments.reject_results(node.settings, other, ANNA, because="wrong side")
    results.withdraw(node.settings, uid, None, reason=RejectionReason.QUALITY, because="other patient")
    with pytest.raises(NotAllowedNow, match="waits for"):
        assessments.accept_results(node.settings, uid, ANNA, rejected=True)


def test_a_rule_without_assessment_frees_nothing_of_another_rule(node: Inbox) -> None:
    second = node.settings.peers[1].model_copy(update={"name": "second"})
    held_rule = node.settings.rules[0]
    free = held_rule.model_copy(update={"name": "other", "send_to": ("second",), "assess_first": False})
    peers = (*node.settings.peers, second)
    node.settings = node.settings.model_copy(update={"peers": peers, "rules": (held_rule, free)})
    node.reopen()
    uid = analysed(node)
    assert sorted(states(node)) == [D.PENDING] * 2 + [D.UNASSESSED] * 2 and len(holds(node)) == 2
    with node.database.write() as session:
        session.execute(delete(HeldResult))  # as an earlier version left it
    with pytest.raises(NotAllowedNow, match="studies accept"):
        deliveries.retry(node.settings, [1])
    studies.rerun_rules(node.settings, [uid])
    work(node)
    assert assessments.accept_results(node.settings, uid, ANNA) == 2
    assert states(node) == [D.PENDING] * 4


@pytest.mark.parametrize(("peer", "warnings"), [("pacs", 1), ("second", 0), ("alias", 1)])
def test_a_rule_that_sends_at_once_what_another_holds_is_warned_of(
    tmp_path: Path, peer: str, warnings: int
) -> None:
    made = configuration() | {"node": {"data_dir": str(tmp_path)}}
    made["peers"].append({**made["peers"][1], "name": "second", "port": 2})
    made["peers"].append({**made["peers"][1], "name": "alias"})
    made["rules"][0]["assess_first"] = True
    made["rules"].append({**made["rules"][0], "name": "other", "send_to": [peer], "assess_first": False})
    tried = preflight.check_data(made).tried
    assert [one.ok for one in tried if one.subject == "rule other" and "holds" in one.text] == [
        False
    ] * warnings


def test_what_was_given_up_before_is_not_held_and_blocks_nothing(node: Inbox) -> None:
    wanted = node.settings
    node.settings = settings(node, assess_first=False)
    node.reopen()
    uid = analysed(node)
    with node.database.write() as session:
        for row in session.scalars(select(Delivery)):
            row.state = D.DEAD
    node.settings = wanted
    node.reopen()
    studies.rerun_rules(node.settings, [uid])
    work(node)
    assert holds(node) == [] and deliveries.retry(node.settings) == 2
    with node.database.write() as session:
        rows = session.scalars(select(Delivery)).all()
        for row in rows:
            row.state = D.DEAD
        held_one = HeldResult(result_id=rows[0].result_id, study_id=1, since=utc_now())
        session.add(held_one)
    assert deliveries.retry(node.settings) == 1


def test_no_way_leads_around_the_assessment(node: Inbox) -> None:
    uid = analysed(node)
    with pytest.raises(NotAllowedNow, match="studies accept"):
        deliveries.retry(node.settings, [1])
    made = node.settings.peers[1].model_copy(update={"name": "second"})
    node.settings = node.settings.model_copy(update={"peers": (*node.settings.peers, made)})
    with pytest.raises(NotAllowedNow, match="studies accept"):
        deliveries.send_study(node.settings, uid, "second")
    assert deliveries.retry(node.settings) == 0
    assert states(node) == [D.UNASSESSED] * 2


def test_a_late_image_makes_results_that_wait_anew(node: Inbox) -> None:
    uid = analysed(node)
    seen = mark(node, uid)
    node.receive(changed(ultrasound("one", number=2), StudyInstanceUID=uid))
    node.index()
    with pytest.raises(NotAllowedNow, match="receiving"):
        assessments.accept_results(node.settings, uid, ANNA, as_of=seen)
    node.settle()
    work(node)
    assert states(node).count(D.UNASSESSED) == 3, "the new report, and both pictures"
    with pytest.raises(NotAllowedNow, match="changed since you saw them"):
        assessments.accept_results(node.settings, uid, ANNA, as_of=seen)
    assert assessments.accept_results(node.settings, uid, ANNA, as_of=mark(node, uid)) == 3
    assert sorted(states(node)) == [D.CANCELLED, D.PENDING, D.PENDING, D.PENDING]
    with node.database.read() as session:
        assert {row.supersedes for row in session.scalars(select(Result))} == {""}, "the first never left"


def test_what_was_accepted_is_not_asked_again_and_what_waits_waits_on(node: Inbox) -> None:
    uid = analysed(node)
    since = [row.since for row in holds(node)]
    studies.rerun_rules(node.settings, [uid])
    assert states(node) == [D.CANCELLED] * 2
    work(node)
    assert states(node) == [D.UNASSESSED] * 2 and [row.since for row in holds(node)] == since
    assessments.accept_results(node.settings, uid, ANNA)
    studies.rerun_rules(node.settings, [uid])
    work(node)
    assert states(node) == [D.PENDING] * 2


def test_a_rule_that_wants_no_assessment_any_more_lets_its_results_go(node: Inbox) -> None:
    uid = analysed(node)
    node.settings = settings(node, assess_first=False)
    assert states(node) == [D.UNASSESSED] * 2, "not by the change alone"
    studies.rerun_rules(node.settings, [uid])
    work(node)
    assert states(node) == [D.PENDING] * 2 and holds(node) == []


def test_unchanged_results_go_too_when_the_rule_wants_no_assessment_any_more(node: Inbox) -> None:
    analysed(node)
    node.settings = settings(node, assess_first=False)
    node.reopen()
    analysed(node, 2)
    assert sorted(states(node)) == [D.CANCELLED] + [D.PENDING] * 3


def test_a_job_keeps_to_the_rule_that_made_it(node: Inbox) -> None:
    node.receive(ultrasound("one"))
    node.settle()
    work(node, settings(node, assess_first=False))
    assert states(node) == [D.UNASSESSED] * 2


def test_a_failure_is_told_at_once(node: Inbox) -> None:
    node.settings = settings(node, do="stumble")
    node.reopen()
    uid = analysed(node)
    assert set(states(node)) == {D.PENDING} and holds(node) == []
    assert node.study(uid).state is StudyState.DELIVERING


def test_a_failure_is_told_at_once_to_whom_a_person_sent_the_results(node: Inbox) -> None:
    uid = analysed(node)
    assessments.accept_results(node.settings, uid, ANNA)
    second = node.settings.peers[1].model_copy(update={"name": "second"})
    failing = settings(node, do="stumble")
    for one in (node.settings, failing):
        node.settings = one.model_copy(update={"peers": (*one.peers, second)})
        if one is not failing:
            assert deliveries.send_study(node.settings, uid, "second") == 2
    node.reopen()
    studies.rerun_rules(node.settings, [uid])
    work(node)
    assert sorted(states(node)) == [D.CANCELLED] * 4 + [D.PENDING] * 4


def test_withdrawn_results_wait_no_more(node: Inbox) -> None:
    uid = analysed(node)
    results.withdraw(node.settings, uid, None, reason=RejectionReason.QUALITY, because="other patient")
    assert states(node) == [D.DISCARDED] * 2
    with pytest.raises(NotAllowedNow, match="waits for"):
        assessments.accept_results(node.settings, uid, ANNA)


def test_results_with_a_finding_that_was_not_accepted_stay_here(node: Inbox) -> None:
    uid = analysed(node)
    about, study = finding(node, uid), node.study(uid).id

    def assess(verdict: ReaderVerdict, by: Person, because: str = "") -> None:
        which = {key: about[key] for key in ("finding", "tracking_uid", "model")}
        given = FindingAssessed(**which, verdict=verdict, because=because)
        assessments.assess(node.settings, study, given, by)

    for verdict in (ReaderVerdict.REJECTED, ReaderVerdict.MODIFIED):
        with pytest.raises(FaultyInput):
            assess(verdict, ANNA)
        assess(verdict, ANNA, "a rib")
        with pytest.raises(NotAllowedNow, match="Mark: not accepted"):
            assessments.accept_results(node.settings, uid, ANNA)
        assert states(node) == [D.UNASSESSED] * 2 and node.study(uid).state is StudyState.UNASSESSED
    assess(ReaderVerdict.ACCEPTED, Person("eva"))
    assert assessments.accept_results(node.settings, uid, ANNA) == 2
    with node.database.read() as session:
        rows = assessments.all_assessments(session)
    assert [(row["verdict"], row["because"]) for row in rows] == [("modified", "a rib"), ("accepted", "")]
    assert {row["report_uid"] for row in rows} == {about["report_uid"]} != {""}


def test_an_acceptance_that_is_cut_off_has_done_nothing(node: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = analysed(node)

    def cut(*_: object) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr(held, "settle_study", cut)
    with pytest.raises(RuntimeError, match="killed"):
        assessments.accept_results(node.settings, uid, ANNA)
    assert states(node) == [D.UNASSESSED] * 2
    assert [row.state for row in holds(node)] == [HeldState.WAITING] * 2


def test_a_quarantined_study_cannot_be_accepted(node: Inbox) -> None:
    uid = analysed(node)
    node.receive(changed(ultrasound("one", number=2), StudyInstanceUID=uid, PatientID="ANOTHER"))
    node.settle()
    assert node.study(uid).state is StudyState.QUARANTINED
    assert states(node) == [D.CANCELLED] * 2
    with pytest.raises(NotAllowedNow, match="quarantined"):
        assessments.accept_results(node.settings, uid, ANNA)


@pytest.mark.parametrize("accepted", [True, False])
def test_findings_are_told_once_they_were_accepted(node: Inbox, accepted: bool) -> None:
    rule = {"name": "ward", "findings": ["*"], "url": "http://localhost/", "every_minutes": 0}
    made = NotificationSettings.model_validate(rule)
    node.settings = node.settings.model_copy(update={"notifications": (made,)})
    gatherer = Gatherer(node.database, node.settings)
    gatherer.run_once()
    uid = analysed(node)
    assert gatherer.run_once() == 0
    if accepted:
        assessments.accept_results(node.settings, uid, ANNA)
    else:
        assessments.reject_results(node.settings, uid, ANNA, because="wrong side")
    assert gatherer.run_once() == int(accepted)
    with node.database.read() as session:
        told = [row.content["groups"][0]["events"][0] for row in session.scalars(select(Notification))]
    assert [row["findings"] for row in told] == [["Mark"]] * accepted


def test_waiting_too_long_is_told_once(node: Inbox) -> None:
    uid = analysed(node)
    assert report_overdue(node.database, node.settings) == 0
    with node.database.write() as session:
        for row in session.scalars(select(HeldResult)):
            row.since -= timedelta(hours=5)
    assert [report_overdue(node.database, node.settings) for _ in range(2)] == [1, 0]
    [event] = [event for event in node.events() if event.number == ASSESSMENT_OVERDUE.number]
    assert event.fields["results"] == 2 and event.study_id == node.study(uid).id


def test_a_summary_page_waits_and_is_withdrawn_as_the_report_is(node: Inbox) -> None:
    node.settings = settings(node, results=["sr", "summary"])
    uid = analysed(node)
    with node.database.read() as session:
        assert sorted(session.scalars(select(Result.kind))) == ["sr", "summary"]
    assert states(node) == [D.UNASSESSED] * 2
    assert assessments.accept_results(node.settings, uid, ANNA, as_of=mark(node, uid)) == 2
    assert states(node) == [D.PENDING] * 2
    results.withdraw(node.settings, uid, None, reason=RejectionReason.QUALITY, because="wrong film")
    assert states(node) == [D.DISCARDED] * 2
