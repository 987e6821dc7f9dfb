"""Jobs of a complete study, as the rules decide; what is forwarded; what a person does to jobs.

Received objects that rules forward: queued for delivery unchanged, each version once for each peer.
This is decided when the study is complete: then it has one patient and no conflict, and the rules have all of
its images.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotAllowedNow, NotFound
from dicom_node.base.events import JOB_CANCELLED, JOB_FIRST, JOB_QUEUED, NO_RULE, ORIGINALS_FORWARDED
from dicom_node.base.kinds import ObjectRole
from dicom_node.base.lifecycle import JOB, JobState, StudyState
from dicom_node.base.store import deliveries, fetches, intake
from dicom_node.base.store.tables import Instance, Job, Original, Study
from dicom_node.base.store.transitions import (
    FOR_UPDATE,
    move_job,
    record,
    settle_study,
    settle_study_as,
    turn_changed,
    utc_now,
)
from dicom_node.jobs.queue import enqueue, estimated_seconds
from dicom_node.jobs.rules import RuleDecision, decide, why_none

_RULE_PRIORITY = {"stat": 1, "routine": 0, "low": -1}


def enqueue_study(session: Session, study: Study, settings: Settings) -> list[RuleDecision]:
    """Make the jobs of a complete study, and set its state to queued, or to not_applicable with the reason.

    Returns the rules that took the study.
    """
    sources = intake.sources(session, study.id)
    decisions = decide_study(session, study, sources, settings)
    if not decisions:
        images = sources or intake.instances_of(session, study.id, [ObjectRole.NON_SOURCE])
        reason = why_none(settings.rules, images, settings.sender_names)
        record(session, NO_RULE, study.id, study=study.study_instance_uid, reason=reason)
        settle_study_as(session, study, StudyState.NOT_APPLICABLE, reason)
        return []
    attributes, now = {source.sop_instance_uid: source.attributes for source in sources}, utc_now()
    later = now + timedelta(seconds=settings.assembly.archive_seconds)
    for decision in decisions:
        rule = decision.rule
        waits = rule.priors is not None and fetches.wait_for_priors(session, study, rule.name, later)
        # STAT when the sender (C-STORE priority HIGH) or the rule says so, else low when either does.
        wanted = (study.priority, _RULE_PRIORITY[rule.priority])
        enqueue(
            session,
            Job(
                study_id=study.id,
                study_revision=study.revision,
                rule=rule.name,
                pipeline=rule.pipeline,
                options=dict(rule.options),
                destinations=list(rule.send_to),
                source_uids=list(decision.source_uids),
                priority=1 if 1 in wanted else min(wanted),
                assess_first=rule.assess_first,
                cost_seconds=estimated_seconds(attributes[uid] for uid in decision.source_uids),
                state=JobState.HELD if decision.held_reason else JobState.QUEUED,
                reason=decision.held_reason,
                run_at=later if waits else now,
                created_at=now,
            ),
        )
    forwards = forward_originals(session, study, decisions, sources, settings)
    if all(decision.held_reason for decision in decisions):
        reason = "held: " + "; ".join(decision.held_reason for decision in decisions)
        state = StudyState.DELIVERING if forwards else StudyState.NOT_APPLICABLE
        settle_study_as(session, study, state, reason)
    else:
        settle_study_as(session, study, StudyState.QUEUED)
    return decisions


def decide_study(
    session: Session, study: Study, sources: Sequence[Instance], settings: Settings
) -> list[RuleDecision]:
    """The rules' decisions on a study with these images; for a study fetched for a rule, only that rule's."""
    fetch = fetches.of_study(session, study.study_instance_uid)
    rules = [rule for rule in settings.rules if not (fetch and fetch.rule) or rule.name == fetch.rule]
    today, senders = utc_now().date(), settings.sender_names
    return decide(rules, study.study_date, sources, today, senders, asked_for=fetch is not None)


def forward_originals(
    session: Session,
    study: Study,
    decisions: Sequence[RuleDecision],
    sources: Sequence[Instance],
    settings: Settings,
) -> bool:
    """Queue the images that these rules take for the peers in ``forward``; returns whether any is new.

    Reports, presentation states and captures from the senders of the images are queued with them. A limit of
    the rule that holds its job does not hold these objects. Nothing of a study that was fetched as a prior is
    queued.
    """
    wanted = [decision for decision in decisions if decision.rule.forward]
    if not wanted or fetches.is_prior(session, study.id):
        return False
    by_uid = {source.sop_instance_uid: source for source in sources}
    others = intake.instances_of(session, study.id, [ObjectRole.NON_SOURCE])
    added: Counter[tuple[str, str]] = Counter()
    for decision in wanted:
        images = [by_uid[uid] for uid in decision.source_uids]
        senders = {image.calling_ae for image in images}
        beside = [one for one in others if one.calling_ae in senders and not one.purged]
        for name in decision.rule.forward:
            for instance in (*images, *beside):
                added[decision.rule.name, name] += _forward(session, instance, name, settings)
    for (rule, name), number in added.items():
        if number:
            record(session, ORIGINALS_FORWARDED, study.id, rule=rule, destination=name, objects=number)
    return added.total() > 0


def forward_late(session: Session, study: Study, instance: Instance, settings: Settings) -> None:
    """Queue an object that is no image and arrived after the study was complete for the peers of its images.

    Such an object does not reopen its study, so no rule will be applied to it.
    """
    for name in intake.forwarded_to(session, study.id, instance.calling_ae):
        if _forward(session, instance, name, settings):
            record(session, ORIGINALS_FORWARDED, study.id, destination=name, objects=1)
            settle_study(session, study.id)


def _forward(session: Session, instance: Instance, name: str, settings: Settings) -> bool:
    """Whether it is queued anew; not for a peer that may not have it, or that sent it."""
    peer = next((one for one in settings.peers if one.name == name), None)
    # It would come back to where it is.
    sent_it = peer and instance.calling_ae.strip().casefold() in {one.casefold() for one in peer.titles}
    if peer is None or "receive" not in peer.may or peer.deidentify or sent_it:
        return False
    return deliveries.forward(session, _original(session, instance), name)


def _original(session: Session, instance: Instance) -> Original:
    """The version in force, as the outbox knows it. The same bytes, again after their purge, are no other."""
    received = intake.file_of(session, instance)
    newest = intake.newest_original(session, instance.sop_instance_uid)
    if newest is not None and newest.study_id == instance.study_id:
        if newest.received_id == received.id:
            return newest
        if received.dataset_sha256 and newest.received.dataset_sha256 == received.dataset_sha256:
            newest.received = received
            return newest
    original = Original(
        study_id=instance.study_id,
        received_id=received.id,
        sop_instance_uid=instance.sop_instance_uid,
        sop_class_uid=instance.sop_class_uid,
        series_instance_uid=instance.series_instance_uid,
    )
    session.add(original)
    session.flush()
    return original


def retry(session: Session, job_id: int) -> None:
    """Queue a job that failed, was held, cancelled or did not apply. Raises NotFound, NotAllowedNow."""
    job = _locked(session, job_id)
    if (job.state, JOB_QUEUED) not in JOB:
        raise NotAllowedNow(f"job {job_id} is {job.state}: it cannot be queued again")
    study = session.get_one(Study, job.study_id, with_for_update=FOR_UPDATE)
    if job.study_revision != study.revision or study.state in (StudyState.RECEIVING, StudyState.QUARANTINED):
        raise NotAllowedNow(
            f"job {job_id} is of revision {job.study_revision}; its study is {study.state}, "
            f"revision {study.revision}"
        )
    move_job(
        session,
        job,
        JOB_QUEUED,
        reason="",
        run_at=utc_now(),
        tries=0,
        share_done=0.0,
        doing="",
        cancel_requested=False,
        finished_at=None,
        lease_until=None,
    )
    settle_study(session, job.study_id)


def cancel(session: Session, job_id: int) -> None:
    """Cancel waiting jobs; ask running jobs to stop. Raises NotFound, NotAllowedNow."""
    job = _locked(session, job_id)
    reason = "cancelled by a person"
    if job.state is JobState.RUNNING:
        job.cancel_requested, job.reason = True, reason
        session.flush()
        return
    if job.state not in (JobState.QUEUED, JobState.HELD):
        raise NotAllowedNow(f"job {job_id} is {job.state}: only one that waits or runs can be cancelled")
    move_job(session, job, JOB_CANCELLED, reason=reason, finished_at=utc_now())
    settle_study(session, job.study_id)


def put_first(session: Session, job_id: int) -> None:
    """Move a waiting job to the front of the queue. Raises NotFound, NotAllowedNow."""
    job = _locked(session, job_id)
    if job.state is not JobState.QUEUED:
        raise NotAllowedNow(f"job {job_id} is {job.state}: only one that is queued can be put first")
    now = utc_now()
    job.priority, job.turn_at, job.run_at = 1, datetime.min.replace(tzinfo=now.tzinfo), min(job.run_at, now)
    session.flush()
    turn_changed(session, job)
    record(session, JOB_FIRST, job.study_id, job=job.id, rule=job.rule)


def _locked(session: Session, job_id: int) -> Job:
    job = session.get(Job, job_id, with_for_update=True)
    if job is None:
        raise NotFound(f"no job has the number {job_id}")
    return job
