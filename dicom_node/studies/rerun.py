"""Applies the present rules to a study again: on request of a person, or because a rule changed."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotAllowedNow
from dicom_node.base.events import STUDY_COMPLETE, STUDY_RERUN
from dicom_node.base.kinds import ObjectRole
from dicom_node.base.lifecycle import JobState, StudyState
from dicom_node.base.store import intake, queue
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Instance, Study
from dicom_node.base.store.transitions import FOR_UPDATE, move_study
from dicom_node.jobs.queue import RuleDecision, decide_study, enqueue_study
from dicom_node.studies.quarantine import stop_study

Row = dict[str, Any]
"""A study and a rule that takes it, or "" for none; the keys stand in ``docs/reference/lists.md``."""


def rerun(session: Session, study_id: int, settings: Settings) -> list[Row]:
    """Apply the rules to a study as if it had just been completed; a row for each rule that takes it.

    Unsent deliveries of earlier jobs are withdrawn until a job wants them again. Results that do not change
    have the same derived UIDs, so they are neither built nor sent again. Raises NotAllowedNow.
    """
    study = session.get_one(Study, study_id, with_for_update=FOR_UPDATE)
    if reason := _refusal(study, intake.instances_of(session, study_id, [ObjectRole.SOURCE])):
        raise NotAllowedNow(reason)
    study.revision += 1
    session.flush()
    stop_study(session, study, f"superseded by revision {study.revision}", same_data=True)
    move_study(session, study, STUDY_RERUN)
    move_study(session, study, STUDY_COMPLETE)
    decisions = enqueue_study(session, study, settings)
    return _rows(study.study_instance_uid, decisions, study.reason, queued=True)


def replay(
    database: Database, settings: Settings, since: datetime, also: Callable[[Session, int], None] | None
) -> list[Row]:
    """Apply the rules to the studies that they missed; a row for each study and rule that takes it.

    These are studies received after ``since`` for which the rules now want a job that the study did not get.
    A study that would only lose a job is left out, because delivered results stay. A study whose rules are
    still to be applied (being received, in quarantine) is left out too. One transaction each, in which
    ``also`` writes; with None nothing is done.
    """
    found, rows = [], []
    with database.read() as session:
        for study in intake.settled_studies(session, since):
            sources = intake.instances_of(session, study.id, [ObjectRole.SOURCE])
            had = [
                _work(job.pipeline, job.options, job.destinations, job.source_uids)
                for job in queue.of_study(session, study.id, set(JobState) - {JobState.HELD})
                if job.study_revision == study.revision
            ]
            decisions = decide_study(session, study, sources, settings)
            wanted = [
                _work(one.rule.pipeline, one.rule.options, one.rule.send_to, one.source_uids)
                for one in decisions
                if not one.held_reason
            ]
            if any(work not in had for work in wanted):
                uid, refusal = study.study_instance_uid, _refusal(study, sources)
                found.append((study.id, uid, decisions, refusal or "would be queued"))
    for study_id, uid, decisions, reason in found:
        if also is None:
            rows += _rows(uid, decisions, reason, queued=False)
            continue
        try:
            with database.write() as session:
                rows += rerun(session, study_id, settings)
                also(session, study_id)
        except NotAllowedNow as refused:
            rows += _rows(uid, decisions, str(refused), queued=False)
    return rows


def _work(
    pipeline: str, options: Mapping[str, Any], destinations: Sequence[str], source_uids: Sequence[str]
) -> tuple[object, ...]:
    """What tells one job from another, whatever its rule is called."""
    options_text = json.dumps(dict(options), sort_keys=True)
    return pipeline, options_text, sorted(destinations), list(source_uids)


def _rows(study: str | None, decisions: Sequence[RuleDecision], reason: str, *, queued: bool) -> list[Row]:
    """``reason`` is the study's; a limit of a rule itself goes before."""
    none = {"rule": "", "pipeline": "", "destinations": [], "sources": 0, "queued": False, "reason": reason}
    named = {"study_instance_uid": study}
    taken = [
        named
        | {
            "rule": decision.rule.name,
            "pipeline": decision.rule.pipeline,
            "destinations": list(decision.rule.send_to),
            "sources": len(decision.source_uids),
            "queued": queued and not decision.held_reason,
            "reason": f"held: {decision.held_reason}" if decision.held_reason else reason,
        }
        for decision in decisions
    ]
    return taken or [named | none]


def _refusal(study: Study, sources: Sequence[Instance]) -> str:
    """Why a study cannot be run again, "" where it can."""
    named = f"study {study.study_instance_uid}"
    if study.state in (StudyState.RECEIVING, StudyState.COMPLETE):
        return f"{named} is still being received: its rules are applied when it is complete"
    if study.state is StudyState.QUARANTINED:
        return f"{named} is in quarantine: `dicom-node studies release` releases it and applies the rules"
    if any(source.purged for source in sources):
        return f"{named} has images that were purged after spool.keep_days: have them sent again"
    return ""
