"""Creation of the jobs of a complete study, as the rules decide."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta

from sqlalchemy.orm import Session

from dicom_node.config.settings import RuleSettings, Settings
from dicom_node.events import NO_RULE
from dicom_node.jobs.forwarding import forward_originals
from dicom_node.jobs.queue import enqueue, estimated_seconds
from dicom_node.jobs.rules import ImageFacts, RuleDecision, StudyFacts, decide, why_none
from dicom_node.model.kinds import FetchPurpose, ObjectRole
from dicom_node.model.lifecycle import JobState, StudyState
from dicom_node.store import fetches, intake, questions, queue
from dicom_node.store.tables import Instance, Job, Study
from dicom_node.store.transitions import record, settle_study_as, utc_now

_RULE_PRIORITY = {"stat": 1, "routine": 0, "low": -1}


def enqueue_study(session: Session, study: Study, settings: Settings) -> list[RuleDecision]:
    """Make the jobs of a complete study, and set its state to queued, or to not_applicable with the reason.

    Returns the rules that took the study.
    """
    sources = intake.sources(session, study.id)
    decisions = decide_study(session, study, sources, settings)
    if not decisions:
        images = sources or intake.instances_of(session, study.id, [ObjectRole.NON_SOURCE])
        reason = why_none(settings.rules, [image_facts(image, settings) for image in images])
        record(session, NO_RULE, study.id, study=study.study_instance_uid, reason=reason)
        settle_study_as(session, study, StudyState.NOT_APPLICABLE, reason)
        return []
    attributes = {source.sop_instance_uid: source.attributes for source in sources}
    for decision in decisions:
        seconds = estimated_seconds(attributes[uid] for uid in decision.source_uids)
        _add(session, study, decision, seconds, settings)
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
    facts = [image_facts(source, settings) for source in sources]
    fetch = fetches.of_study(session, study.study_instance_uid)
    rules = [rule for rule in settings.rules if not (fetch and fetch.rule) or rule.name == fetch.rule]
    asked_for = fetch is not None and fetch.purpose is not FetchPurpose.INSTANCES
    return decide(rules, _study_facts(session, study, rules, asked_for=asked_for), facts)


def image_facts(instance: Instance, settings: Settings) -> ImageFacts:
    """The facts of an indexed image that the conditions of rules use."""
    senders = settings.sender_names
    return ImageFacts(
        sop_instance_uid=instance.sop_instance_uid,
        sop_class_uid=instance.sop_class_uid,
        modality=instance.modality,
        role=instance.role,
        calling_ae=instance.calling_ae,
        called_ae=instance.called_ae,
        sender=senders.get(instance.calling_ae, ""),
        attributes=instance.attributes,
    )


def _study_facts(
    session: Session, study: Study, rules: Sequence[RuleSettings], *, asked_for: bool
) -> StudyFacts:
    now = utc_now()
    capped = [rule.name for rule in rules if rule.daily_cap]
    midnight = datetime.combine(now.date(), time(), UTC)
    counted = queue.jobs_by_sender(session, capped, midnight) if capped else {}
    return StudyFacts(study.study_date, now.date(), counted, asked_for)


def _add(session: Session, study: Study, decision: RuleDecision, seconds: float, settings: Settings) -> None:
    rule, now = decision.rule, utc_now()
    later = now + timedelta(seconds=settings.assembly.archive_seconds)
    waits = rule.priors is not None and questions.wait_for_priors(session, study, rule.name, later)
    job = Job(
        study_id=study.id,
        study_revision=study.revision,
        rule=rule.name,
        pipeline=rule.pipeline,
        options=dict(rule.options),
        destinations=list(rule.send_to),
        source_uids=list(decision.source_uids),
        priority=_priority(study, rule),
        assess_first=rule.assess_first,
        cost_seconds=seconds,
        state=JobState.HELD if decision.held_reason else JobState.QUEUED,
        reason=decision.held_reason,
        run_at=later if waits else now,
        created_at=now,
    )
    enqueue(session, job)


def _priority(study: Study, rule: RuleSettings) -> int:
    """STAT when the sender (C-STORE priority HIGH) or the rule says so, else low when either does."""
    wanted = (study.priority, _RULE_PRIORITY[rule.priority])
    return 1 if 1 in wanted else min(wanted)
