"""The rules applied again to studies that are here."""

from functools import partial
from typing import Any

import pytest

from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import JobCancelled, NotAllowedNow
from dicom_node.base.events import (
    STUDY_RERUN,
)
from dicom_node.base.lifecycle import (
    DeliveryState,
    JobState,
    StudyState,
)
from dicom_node.base.store import intake
from dicom_node.base.store.tables import (
    Delivery,
    EventRow,
    Job,
    Result,
)
from dicom_node.base.store.transitions import settle_study, utc_now
from dicom_node.jobs.queue import JobQueue
from dicom_node.people import audit, held_results, outbox, rule_trial, studies
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.peers import a_peer
from tests.unit.jobs.worker_lab import configuration, confirm, work
from tests.unit.receive.objects import (
    changed,
)
from tests.unit.studies.studies_lab import analysed_rerun


def with_rule(node: Inbox, **values: Any) -> Settings:
    """The configuration with a changed rule, and a second PACS."""
    config = configuration()
    config["peers"].append(config["peers"][1] | a_peer("second", port=4243))
    config["rules"][0] |= values
    return Settings.model_validate(config | {"node": {"data_dir": node.folder}})


def sent(node: Inbox) -> list[tuple[str, str]]:
    """Destination and state of every delivery."""
    return [(row.destination, row.state.value) for row in node.rows(Delivery)]


def numbers(node: Inbox) -> list[int]:
    return node.column(EventRow.number)


def test_a_delivered_study_is_analysed_again_and_nothing_is_sent_twice(node: Inbox) -> None:
    uid = analysed_rerun(node, "again")
    confirm(node)
    before = sent(node)
    assert node.study(uid).state is StudyState.DELIVERED
    assert len(before) == 2
    [row] = studies.rerun_rules(node.settings, [uid])
    assert (row["rule"], row["pipeline"], row["queued"], row["sources"]) == ("rule", "obedient", True, 1)
    assert node.study(uid).state is StudyState.QUEUED
    assert STUDY_RERUN.number in numbers(node)
    work(node)
    assert sent(node) == before
    assert node.study(uid).state is StudyState.DELIVERED
    assert node.column(Job.state) == [JobState.SUCCEEDED] * 2


def test_what_waits_for_another_destination_is_withdrawn_when_the_rule_names_a_new_one(node: Inbox) -> None:
    uid = analysed_rerun(node, "moved")
    for wanted, states in (
        (with_rule(node, send_to=["second"]), {("pacs", "cancelled"), ("second", "pending")}),
        (node.settings, {("pacs", "pending"), ("second", "cancelled")}),  # what is wanted again is sent again
    ):
        studies.rerun_rules(wanted, [uid])
        work(node, wanted)
        assert set(sent(node)) == states
    assert len(node.rows(Result)) == 2, "results were built once"


@pytest.mark.parametrize("assess_first", [False, True])
def test_of_before_a_correction_no_person_sends_anything(node: Inbox, assess_first: bool) -> None:
    """Neither what waited, was discarded or rejected, nor to a further peer; also while the new job waits."""
    settings, image = with_rule(node, assess_first=assess_first), ultrasound("corrected")
    uid = str(image.StudyInstanceUID)
    node.settle(image)
    work(node, settings)
    if assess_first:
        held_results.reject_results(settings, uid, because="of another patient")
    else:
        outbox.discard_deliveries(settings, [1], because="of another patient")
    node.settle(changed(image, PatientID="RIGHT"))
    for refused in (
        partial(outbox.send_again, settings, [1]),
        partial(outbox.send_again, settings, [2]),
        partial(outbox.send_study, settings, uid, "second"),
        partial(held_results.accept_results, settings, uid, rejected=True),
    ):
        with pytest.raises(NotAllowedNow):
            refused()
    work(node, settings)
    if assess_first:
        held_results.accept_results(settings, uid)
    outbox.send_study(settings, uid, "second")
    pending = [row.result_id for row in node.rows(Delivery) if row.state is DeliveryState.PENDING]
    assert len(pending) == 4
    assert {node.get(Result, number).job_id for number in pending} == {2}
    node.settle(image)
    outbox.send_again(node.settings, dead=True)
    work(node, settings)
    assert sent(node)[1] == ("pacs", "discarded" if assess_first else "pending"), "it is wanted again"


def test_a_job_that_runs_is_stopped_and_the_new_one_waits_for_it(node: Inbox) -> None:
    image = ultrasound("running")
    node.settle(image)
    queue = JobQueue(node.database, node.settings.workers)
    running = queue.claim("elsewhere/1/1/x")
    studies.rerun_rules(node.settings, [str(image.StudyInstanceUID)])
    assert queue.claim("elsewhere/1/1/y") is None, "two jobs of one rule and study do not run together"
    with pytest.raises(JobCancelled):
        queue.heartbeat(running, 0.5, "analysing")
    node.write(queue.complete_if_owner, running, JobState.CANCELLED)
    node.write(settle_study, running.study_id)
    assert node.study_of(image).state is StudyState.QUEUED
    work(node)
    assert node.column(Job.state) == [JobState.CANCELLED, JobState.SUCCEEDED]


def test_what_may_not_be_run_again_is_refused_with_a_sentence_and_nothing_is_queued(node: Inbox) -> None:
    good, conflict, purged = (analysed_rerun(node, name) for name in ("good", "conflict", "purged"))
    node.settle(changed(ultrasound("conflict", number=2), PatientID="SOMEBODY-ELSE"))
    node.write(intake.mark_purged, node.study(purged).id)
    coming = ultrasound("coming")
    node.index(coming)
    for uid, sentence in (
        (conflict, "is in quarantine"),
        (purged, "were deleted, after spool.keep_days or by a person"),
        (str(coming.StudyInstanceUID), "is still being received"),
    ):
        with pytest.raises(NotAllowedNow, match=sentence):
            studies.rerun_rules(node.settings, [good, uid])
    assert node.study(good).revision == 1
    assert STUDY_RERUN.number not in numbers(node)


def test_a_changed_rule_is_replayed_over_the_studies_that_it_missed(node: Inbox) -> None:
    ovary, breast = analysed_rerun(node, "ovary"), analysed_rerun(node, "breast", BodyPartExamined="BREAST")
    purged = analysed_rerun(node, "purged")
    node.write(intake.mark_purged, node.study(purged).id)
    analysed_rerun(node, "conflict")
    node.settle(changed(ultrasound("conflict", number=2), PatientID="SOMEBODY-ELSE"))
    since, jobs = node.study(ovary).last_received_at, len(node.jobs())
    for same in (node.settings, with_rule(node, name="renamed"), with_rule(node, when={"body_part": "KNEE"})):
        assert rule_trial.replay_rules(same, since, dry_run=False) == [], "what was delivered stays"
    second = with_rule(node, send_to=["pacs", "second"], when={"body_part": "OVARY"})

    def replayed(dry_run: bool) -> list[tuple[str, bool]]:
        rows = rule_trial.replay_rules(second, since, dry_run=dry_run)
        assert rows[0]["destinations"] == ["pacs", "second"]
        assert "were deleted, after spool.keep_days or by a person" in rows[-1]["reason"]
        return [(row["study_instance_uid"], row["queued"]) for row in rows]

    assert replayed(True) == [(ovary, False), (purged, False)]
    assert len(node.jobs()) == jobs, "nothing was changed"
    assert node.study(ovary).revision == 1, "nothing was changed"
    assert replayed(False) == [(ovary, True), (purged, False)]
    assert node.study(ovary).state is StudyState.QUEUED
    assert node.study(breast).revision == 1
    told = [(row["study"], row["actor"], row["fields"]) for row in node.read(audit.rows)]
    assert told == [(ovary, "command line", {"replay": True})], "neither foreseen nor refused ones"
    work(node, second)
    assert {peer for peer, _ in sent(node)} == {"pacs", "second"}
    assert [row["queued"] for row in rule_trial.replay_rules(second, since, dry_run=False)] == [False]
    assert rule_trial.replay_rules(second, utc_now(), dry_run=False) == []
