"""The rules applied again to studies that are here."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotAllowedNow
from dicom_node.base.events import (
    STUDY_COMPLETE,
    STUDY_RERUN,
)
from dicom_node.base.lifecycle import JobState, ObjectRole, StudyState
from dicom_node.base.store import intake, queue
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Instance, Result, Study, Withdrawal
from dicom_node.base.store.transitions import FOR_UPDATE, move_study
from dicom_node.jobs.queue import RuleDecision, decide_study, enqueue_study
from dicom_node.studies.quarantine import stop_study

Row = dict[str, Any]
"""A study and a rule that takes it, or "" for none; the keys stand in ``docs/reference/lists.md``."""


_WITHDRAWN_STAYS: Final = (
    "results of it were withdrawn, and the same ones are never sent again: change an option of the rule, or "
    "the model"
)


def rerun(session: Session, study_id: int, settings: Settings) -> list[Row]:
    """Apply the rules to a study as if it had just been completed; return a row for each rule that takes it.

    Unsent deliveries of earlier jobs are withdrawn until a job wants them again. Results that do not change
    have the same derived UIDs, so they are neither built nor sent again. Raises NotAllowedNow.
    """
    study = session.get_one(Study, study_id, with_for_update=FOR_UPDATE)
    if reason := _refusal(study, intake.instances_of(session, study_id, [ObjectRole.SOURCE])):
        raise NotAllowedNow(reason)
    study.revision += 1
    session.flush()
    stop_study(session, study, f"replaced by revision {study.revision} of the study", same_data=True)
    move_study(session, study, STUDY_RERUN)
    move_study(session, study, STUDY_COMPLETE)
    decisions = enqueue_study(session, study, settings)
    withdrawn = select(Withdrawal).join(Result, Result.id == Withdrawal.result_id)
    is_withdrawn = session.scalar(withdrawn.where(Result.study_id == study_id).limit(1)) is not None
    reason = study.reason or (_WITHDRAWN_STAYS if is_withdrawn else "")
    return _rows(study.study_instance_uid, decisions, reason, queued=True)


def replay(
    database: Database, settings: Settings, since: datetime, also: Callable[[Session, int], None] | None
) -> list[Row]:
    """Apply the rules anew to studies that lack a job the rules now want; return a row for each study and
    rule that takes it.

    Considered are studies received after ``since``. A study that would only lose a job is left out, because
    delivered results stay; so is a study whose rules are still to be applied (being received, in quarantine).
    Each is done in one transaction, in which ``also`` writes; with None nothing is changed.
    """
    found, rows = [], []
    with database.read() as session:
        coming = (StudyState.RECEIVING, StudyState.COMPLETE, StudyState.QUARANTINED)
        settled = select(Study).where(Study.last_received_at >= since, Study.state.not_in(coming))
        for study in session.scalars(settled.order_by(Study.last_received_at, Study.id)).all():
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
    """Return what makes two jobs the same work, whatever their rules are called: equal values for equal
    work.
    """
    return pipeline, json.dumps(dict(options), sort_keys=True), sorted(destinations), list(source_uids)


def _rows(study: str | None, decisions: Sequence[RuleDecision], reason: str, *, queued: bool) -> list[Row]:
    """Return a row for each rule's decision on a study. ``reason``: for decisions without a limit that stops
    the job.
    """
    none = {"rule": "", "pipeline": "", "destinations": [], "sources": 0, "queued": False, "reason": reason}
    if not decisions:
        return [{"study_instance_uid": study, **none}]
    return [
        {
            "study_instance_uid": study,
            "rule": decision.rule.name,
            "pipeline": decision.rule.pipeline,
            "destinations": list(decision.rule.send_to),
            "sources": len(decision.source_uids),
            "queued": queued and not decision.held_reason,
            "reason": f"held: {decision.held_reason}" if decision.held_reason else reason,
        }
        for decision in decisions
    ]


def _refusal(study: Study, sources: Sequence[Instance]) -> str:
    """Return why the rules cannot be applied to a study again; "" if they can. ``sources``: its images."""
    coming = "is still being received: its rules are applied when it is complete"
    why = {
        StudyState.RECEIVING: coming,
        StudyState.COMPLETE: coming,
        StudyState.QUARANTINED: "is in quarantine: "
        "`dicom-node studies release` releases it and applies the rules",
    }.get(study.state, "")
    if not why and any(source.purged for source in sources):
        why = "has images that were deleted, after spool.keep_days or by a person: have them sent again"
    return why and f"study {study.study_instance_uid} {why}"
