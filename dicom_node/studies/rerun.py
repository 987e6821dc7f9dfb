"""Applies the present rules to a study again: on request of a person, or because a rule changed."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from dicom_node.config.settings import Settings
from dicom_node.errors import NotAllowedNow
from dicom_node.events import STUDY_COMPLETE, STUDY_RERUN
from dicom_node.jobs import RuleDecision, decide_study, enqueue_study
from dicom_node.model.kinds import ObjectRole
from dicom_node.model.lifecycle import JobState, StudyState
from dicom_node.store import intake, queue
from dicom_node.store.database import Database
from dicom_node.store.tables import Instance, Study
from dicom_node.store.transitions import FOR_UPDATE, move_study
from dicom_node.studies.quarantine import stop_study

Row = dict[str, Any]
"""A study and a rule that takes it, or "" for none; the keys stand in ``docs/reference/lists.md``."""
_Missed = tuple[int, str | None, Sequence[RuleDecision], str]
"""A study that the present rules would have taken: number, UID, decisions, why it cannot be run again, or
""."""


def rerun(session: Session, study_id: int, settings: Settings) -> list[Row]:
    """Apply the rules to a study as if it had just been completed; a row for each rule that takes it.

    Unsent deliveries of earlier jobs are withdrawn until a job wants them again. Results that do not change
    have the same derived UIDs, so they are neither built nor sent again. Raises NotAllowedNow.
    """
    study = session.get_one(Study, study_id, with_for_update=FOR_UPDATE)
    if reason := _refusal(study, _sources(session, study_id)):
        raise NotAllowedNow(reason)
    study.revision += 1
    session.flush()
    stop_study(session, study, f"superseded by revision {study.revision}", same_data=True)
    move_study(session, study, STUDY_RERUN)
    move_study(session, study, STUDY_COMPLETE)
    decisions = enqueue_study(session, study, settings)
    return _rows(study.study_instance_uid, decisions, study.reason, queued=True)


def replay(
    database: Database, settings: Settings, since: datetime, also: Callable[[Session, int], None]
) -> list[Row]:
    """Apply the rules to the studies of :func:`foresee`, one transaction each, in which ``also`` writes."""
    with database.read() as session:
        found = _missed(session, settings, since)
    rows = []
    for study_id, uid, decisions, _ in found:
        try:
            with database.write() as session:
                rows += rerun(session, study_id, settings)
                also(session, study_id)
        except NotAllowedNow as refused:
            rows += _rows(uid, decisions, str(refused), queued=False)
    return rows


def foresee(database: Database, settings: Settings, since: datetime) -> list[Row]:
    """Find the studies that :func:`replay` would change; a row for each study and rule that takes it.

    These are studies received after ``since`` for which the rules now want a job that the study did not get.
    A study that would only lose a job is left out, because delivered results stay. A study whose rules are
    still to be applied (being received, in quarantine) is left out too.
    """
    with database.read() as session:
        found = _missed(session, settings, since)
    return [
        row
        for _, uid, decisions, refusal in found
        for row in _rows(uid, decisions, refusal or "would be queued", queued=False)
    ]


def _missed(session: Session, settings: Settings, since: datetime) -> list[_Missed]:
    found: list[_Missed] = []
    without_held = [state for state in JobState if state is not JobState.HELD]
    for study in intake.settled_studies(session, since):
        sources = _sources(session, study.id)
        # What tells one job from another, whatever its rule is called.
        had = {
            (job.pipeline, _text(job.options), tuple(sorted(job.destinations)), tuple(job.source_uids))
            for job in queue.of_study(session, study.id, without_held)
            if job.study_revision == study.revision
        }
        decisions = decide_study(session, study, sources, settings)
        if any(not decision.held_reason and _work(decision) not in had for decision in decisions):
            found.append((study.id, study.study_instance_uid, decisions, _refusal(study, sources)))
    return found


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


def _sources(session: Session, study_id: int) -> Sequence[Instance]:
    """Its images, purged ones too."""
    return intake.instances_of(session, study_id, [ObjectRole.SOURCE])


def _work(decision: RuleDecision) -> tuple[str, str, tuple[str, ...], tuple[str, ...]]:
    rule = decision.rule
    return (rule.pipeline, _text(rule.options), tuple(sorted(rule.send_to)), decision.source_uids)


def _text(options: Any) -> str:
    return json.dumps(dict(options), sort_keys=True)
