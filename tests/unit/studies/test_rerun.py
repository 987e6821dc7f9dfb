"""A study once more under the rules of now: nothing is sent twice, nothing is taken that may not be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from dicom_node.config.settings import Settings
from dicom_node.errors import JobCancelled, NotAllowedNow
from dicom_node.events import NO_RULE, STUDY_RERUN
from dicom_node.jobs.queue import JobQueue
from dicom_node.model.lifecycle import DeliveryState, JobState, StudyState
from dicom_node.services import audit, deliveries, rules, studies
from dicom_node.store import intake
from dicom_node.store.tables import Delivery, Instance, Result
from dicom_node.store.transitions import settle_study, utc_now
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.inbox.objects import changed
from tests.unit.jobs.worker_lab import configuration, register, work

SECOND = {"name": "second", "ae_title": "SECOND", "host": "127.0.0.1", "port": 4243, "may": ["receive"]}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Inbox]:
    register()
    node = Inbox(tmp_path / "var", configuration())
    yield node
    node.close()


def with_rule(node: Inbox, **values: Any) -> Settings:
    """The configuration with a changed rule, and a second PACS."""
    rule = {**configuration()["rules"][0], **values}
    peers = [*configuration()["peers"], {**SECOND, "results": ["sr", "sc"]}]
    return Settings.model_validate(
        {**configuration(), "peers": peers, "rules": [rule], "node": {"data_dir": node.folder}}
    )


def analysed(node: Inbox, name: str, **values: str) -> str:
    """Receive, assemble and run one study; its UID."""
    image = changed(ultrasound(name), **values)
    node.receive(image)
    node.settle()
    work(node)
    return str(image.StudyInstanceUID)


def delivered(node: Inbox, uid: str) -> None:
    """Everything that waits is confirmed."""
    with node.database.write() as session:
        for delivery in session.scalars(select(Delivery)):
            if delivery.state is DeliveryState.PENDING:
                delivery.state = DeliveryState.CONFIRMED
        session.flush()
        settle_study(session, node.study(uid).id)


def sent(node: Inbox) -> list[tuple[str, str, str]]:
    """UID, destination and state of every delivery."""
    with node.database.read() as session:
        chosen = select(Result.sop_instance_uid, Delivery.destination, Delivery.state).join(Delivery.result)
        return [(row[0], row[1], row[2].value) for row in session.execute(chosen.order_by(Delivery.id))]


def numbers(node: Inbox) -> list[int]:
    return [event.number for event in node.events()]


def test_a_delivered_study_is_analysed_again_and_nothing_is_sent_twice(node: Inbox) -> None:
    uid = analysed(node, "again")
    delivered(node, uid)
    before = sent(node)
    assert node.study(uid).state is StudyState.DELIVERED and len(before) == 2
    [row] = studies.rerun_rules(node.settings, [uid])
    assert (row["rule"], row["pipeline"], row["queued"], row["sources"]) == ("rule", "obedient", True, 1)
    assert node.study(uid).state is StudyState.QUEUED and STUDY_RERUN.number in numbers(node)
    work(node)
    assert sent(node) == before
    assert node.study(uid).state is StudyState.DELIVERED
    assert [job.state for job in node.jobs()] == [JobState.SUCCEEDED] * 2


def test_what_waits_for_another_destination_is_withdrawn_when_the_rule_names_a_new_one(node: Inbox) -> None:
    uid = analysed(node, "moved")
    changed_rule = with_rule(node, send_to=["second"])
    studies.rerun_rules(changed_rule, [uid])
    work(node, changed_rule)
    states = sorted({(peer, state) for _, peer, state in sent(node)})
    assert states == [("pacs", "cancelled"), ("second", "pending")]
    studies.rerun_rules(node.settings, [uid])
    work(node)
    states = sorted({(peer, state) for _, peer, state in sent(node)})
    assert states == [("pacs", "pending"), ("second", "cancelled")], "what is wanted again is sent again"
    with node.database.read() as session:
        assert len(session.scalars(select(Result)).all()) == 2, "results were built once"


def test_what_a_person_sent_to_a_further_peer_goes_there_as_the_rerun_makes_it(node: Inbox) -> None:
    uid = analysed(node, "further")
    delivered(node, uid)
    settings = with_rule(node)
    deliveries.send_study(settings, uid, "second")
    changed_rule = with_rule(node, options={"do": "find", "log": "", "note": "other"})
    before = sent(node)
    studies.rerun_rules(changed_rule, [uid])
    assert {state for _, peer, state in sent(node) if peer == "second"} == {"cancelled"}
    work(node, changed_rule)
    there = {result: state for result, peer, state in sent(node) if peer == "second"}
    new = {result for result, peer, _ in sent(node) if peer == "pacs"} - {result for result, *_ in before}
    assert len(new) == 2 and {result for result, state in there.items() if state == "pending"} == new
    delivered(node, uid)
    studies.rerun_rules(settings, [uid])
    work(node, settings)
    assert {state for _, peer, state in sent(node) if peer == "second"} == {"cancelled", "confirmed"}


def test_unchanged_results_wait_for_the_further_peer_as_before(node: Inbox) -> None:
    uid = analysed(node, "unchanged")
    settings = with_rule(node)
    deliveries.send_study(settings, uid, "second")
    before = sent(node)
    studies.rerun_rules(settings, [uid])
    work(node, settings)
    assert sent(node) == before and len(before) == 4


def test_a_study_that_failed_or_that_no_rule_took_is_taken_up(tmp_path: Path) -> None:
    register()
    node = Inbox(tmp_path / "var", configuration("not-decode"))
    uid = analysed(node, "fails")
    assert [job.state for job in node.jobs()] == [JobState.FAILED]
    mended = with_rule(node, options={"do": "find"})
    studies.rerun_rules(mended, [uid])
    work(node, mended)
    assert [job.state for job in node.jobs()] == [JobState.FAILED, JobState.SUCCEEDED]
    nowhere = with_rule(node, when={"modality": "DX"})
    [row] = studies.rerun_rules(nowhere, [uid])
    study = node.study(uid)
    assert study.state is StudyState.NOT_APPLICABLE
    assert study.reason == "no rule applies; closest is rule: modality US does not match DX" == row["reason"]
    [told] = [event for event in node.events() if event.number == NO_RULE.number]
    assert told.fields["reason"] == study.reason
    studies.rerun_rules(mended, [uid])
    assert node.study(uid).state is StudyState.QUEUED
    node.close()


def test_a_job_that_runs_is_stopped_and_the_new_one_waits_for_it(node: Inbox) -> None:
    image = ultrasound("running")
    node.receive(image)
    node.settle()
    queue = JobQueue(node.database, node.settings.workers)
    running = queue.claim("elsewhere/1/1/x")
    assert running is not None
    studies.rerun_rules(node.settings, [str(image.StudyInstanceUID)])
    assert queue.claim("elsewhere/1/1/y") is None, "two jobs of one rule and study do not run together"
    with pytest.raises(JobCancelled):
        queue.heartbeat(running, 0.5, "analysing")
    with node.database.write() as session:
        queue.complete_if_owner(session, running, JobState.CANCELLED)
        settle_study(session, running.study_id)
    assert node.study(image.StudyInstanceUID).state is StudyState.QUEUED
    work(node)
    assert [job.state for job in node.jobs()] == [JobState.CANCELLED, JobState.SUCCEEDED]


def test_what_may_not_be_run_again_is_refused_with_a_sentence_and_nothing_is_queued(node: Inbox) -> None:
    good = analysed(node, "good")
    conflict = analysed(node, "conflict")
    node.receive(changed(ultrasound("conflict", number=2), PatientID="SOMEBODY-ELSE"))
    node.settle()
    purged = analysed(node, "purged")
    with node.database.write() as session:
        intake.mark_purged(session, node.study(purged).id)
    coming = ultrasound("coming")
    node.receive(coming)
    node.index()
    for uid, sentence in (
        (conflict, "is in quarantine"),
        (purged, "were purged"),
        (str(coming.StudyInstanceUID), "is still being received"),
    ):
        with pytest.raises(NotAllowedNow, match=sentence):
            studies.rerun_rules(node.settings, [good, uid])
    assert node.study(good).revision == 1 and STUDY_RERUN.number not in numbers(node)


def test_a_changed_rule_is_replayed_over_the_studies_that_it_missed(node: Inbox) -> None:
    ovary, breast = analysed(node, "ovary"), analysed(node, "breast", BodyPartExamined="BREAST")
    purged = analysed(node, "purged")
    with node.database.write() as session:
        intake.mark_purged(session, node.study(purged).id)
        session.scalars(select(Instance).where(Instance.purged)).one()
    analysed(node, "conflict")
    node.receive(changed(ultrasound("conflict", number=2), PatientID="SOMEBODY-ELSE"))
    node.settle()
    since = node.study(ovary).last_received_at
    assert rules.replay(node.settings, since, dry_run=False) == [], "the rules are the same"
    assert rules.replay(with_rule(node, name="renamed"), since, dry_run=False) == []
    narrower = with_rule(node, when={"body_part": "KNEE"})
    assert rules.replay(narrower, since, dry_run=False) == [], "what was delivered stays"

    second = with_rule(node, send_to=["pacs", "second"], when={"body_part": "OVARY"})
    jobs = len(node.jobs())
    rows = rules.replay(second, since, dry_run=True)
    assert [(row["study_instance_uid"], row["queued"]) for row in rows] == [(ovary, False), (purged, False)]
    assert rows[0]["destinations"] == ["pacs", "second"] and "were purged" in rows[1]["reason"]
    assert rows[0]["reason"] == "would be queued"
    assert len(node.jobs()) == jobs and node.study(ovary).revision == 1, "nothing was changed"

    rows = rules.replay(second, since, dry_run=False)
    assert [(row["study_instance_uid"], row["queued"]) for row in rows] == [(ovary, True), (purged, False)]
    assert node.study(ovary).state is StudyState.QUEUED and node.study(breast).revision == 1
    with node.database.read() as session:
        told = [(row["study"], row["actor"], row["fields"]) for row in audit.rows(session)]
    assert told == [(ovary, "command line", {"replay": True})], "neither foreseen nor refused ones"
    work(node, second)
    assert {peer for _, peer, _ in sent(node)} == {"pacs", "second"}
    assert [row["queued"] for row in rules.replay(second, since, dry_run=False)] == [False]
    assert rules.replay(second, utc_now(), dry_run=False) == []


def test_a_limit_that_still_holds_is_no_missed_job(node: Inbox) -> None:
    old = analysed(node, "old", StudyDate="20010101")
    aged = with_rule(node, send_to=["second"], max_study_age_days=7)
    since = node.study(old).last_received_at
    assert rules.replay(aged, since, dry_run=False) == []
    [row] = studies.rerun_rules(aged, [old])
    assert (row["queued"], row["reason"].startswith("held: the study is")) == (False, True)
    freed = with_rule(node, send_to=["second"])
    assert [row["queued"] for row in rules.replay(freed, since, dry_run=False)] == [True]
