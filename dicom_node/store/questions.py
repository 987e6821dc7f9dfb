"""Queries of questions to peers about studies that are being received; ``fetch.arriving`` decides."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, exists, select
from sqlalchemy.orm import Session

from dicom_node.model.kinds import QuestionKind
from dicom_node.model.lifecycle import JobState
from dicom_node.store.tables import ArchiveQuestion, Job, Study
from dicom_node.store.tables.base import has_come
from dicom_node.store.transitions import turn_changed, utc_now

_Q = ArchiveQuestion


def add(session: Session, study: Study, kind: QuestionKind, rule: str, peer: str) -> None:
    """Add a question about this revision of the study, once."""
    if session.scalar(select(exists().where(*_about(study), _Q.kind == kind, _Q.rule == rule))):
        return
    at_once = utc_now() if kind is QuestionKind.PRIORS else None
    row = _Q(study_id=study.id, revision=study.revision, kind=kind, rule=rule, peer=peer, next_at=at_once)
    session.add(row)
    session.flush()


def open_of(session: Session, peer: str) -> Sequence[ArchiveQuestion]:
    """Questions to a peer that are not ended, the oldest first."""
    return session.scalars(select(_Q).where(_Q.ended_at.is_(None), _Q.peer == peer).order_by(_Q.id)).all()


def number(session: Session, question_id: int) -> ArchiveQuestion | None:
    """The question with this number, locked; None if it is ended."""
    return session.scalar(select(_Q).where(_Q.id == question_id, _Q.ended_at.is_(None)).with_for_update())


def ask_for_instances(session: Session, study: Study, until: datetime) -> bool:
    """Let peers be asked now for the study's number of instances; returns whether one will be asked.

    The study waits for the answers until ``until`` at most.
    """
    rows = session.scalars(
        select(_Q)
        .where(*_about(study), _Q.kind == QuestionKind.INSTANCES, _Q.until.is_(None))
        .where(_Q.ended_at.is_(None))
    ).all()
    for row in rows:
        row.until, row.next_at = until, utc_now()
    return bool(rows)


def waits_for_no_instances(now: datetime, longest: timedelta) -> ColumnElement[bool]:
    """Whether a study waits for no missing instances from a peer; no wait is longer than ``longest``."""
    return ~exists().where(
        _Q.study_id == Study.id,
        _Q.revision == Study.revision,
        _Q.kind == QuestionKind.INSTANCES,
        _Q.ended_at.is_(None),
        ~has_come(_Q.until, now, longest),
    )


def wait_for_priors(session: Session, study: Study, rule: str, until: datetime) -> bool:
    """Let the job of this rule wait for earlier studies, until ``until`` at most; returns whether it must
    wait.
    """
    row = session.scalar(
        select(_Q)
        .where(*_about(study), _Q.kind == QuestionKind.PRIORS, _Q.rule == rule)
        .where(_Q.ended_at.is_(None))
    )
    if row is not None:
        row.until = until
    return row is not None


def let_job_run(session: Session, question: ArchiveQuestion) -> None:
    """Release the job that waits for the priors of this question."""
    mine = (Job.study_id == question.study_id, Job.study_revision == question.revision)
    waits = (Job.rule == question.rule, Job.state == JobState.QUEUED, Job.attempts == 0)
    now = utc_now()
    for job in session.scalars(select(Job).where(*mine, *waits, Job.run_at > now).with_for_update()).all():
        job.run_at = now
        session.flush()
        turn_changed(session, job)


def _about(study: Study) -> tuple[ColumnElement[bool], ...]:
    return _Q.study_id == study.id, _Q.revision == study.revision
