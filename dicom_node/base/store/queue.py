"""Queries of jobs: free jobs, running jobs, jobs of a study."""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, exists, select, true, update
from sqlalchemy.orm import Session, aliased

from dicom_node.base.config.settings import WorkerSettings
from dicom_node.base.lifecycle import JobState
from dicom_node.base.store.locks import lock_studies, locked_with_study
from dicom_node.base.store.mapping import has_come
from dicom_node.base.store.tables import Job, Study
from dicom_node.base.store.transitions import FOR_UPDATE

_IN_TURN = ((Job.priority > 0).desc(), Job.turn_at, Job.id)


def of_study(session: Session, study_id: int, states: Collection[JobState]) -> Sequence[Job]:
    """Return the jobs of a study in these states, of every revision."""
    return session.scalars(select(Job).where(Job.study_id == study_id, Job.state.in_(states))).all()


def waiting_until(session: Session, later: datetime) -> Sequence[int]:
    """Return the ids of queued jobs that may start only after ``later``, because of a retry or because they
    wait for earlier studies.
    """
    return session.scalars(select(Job.id).where(Job.state == JobState.QUEUED, Job.run_at > later)).all()


def next_free(
    session: Session, now: datetime, workers: WorkerSettings, passing: tuple[int, float] | None = None
) -> Job | None:
    """Return the job that a worker should run next, locked: STAT first, then the earliest ``turn_at``; None
    if there is none.

    ``passing``: priority and seconds of a job in progress that would be interrupted: only a more urgent job
    qualifies, or an equally urgent one with at most so many seconds of work.
    """
    chosen = select(Job).where(_is_free(now, workers)).order_by(*_IN_TURN).limit(1)
    if passing is not None:
        priority, seconds = passing
        short = (Job.priority == priority) & (Job.cost_seconds <= seconds)
        chosen = chosen.where((Job.priority > priority) | short)
    return session.scalar(locked_with_study(chosen))


def claimable_and_running(session: Session, now: datetime, workers: WorkerSettings) -> tuple[bool, bool]:
    """Return whether there is a job that these workers can claim, and whether any worker is running a job.

    Every worker calls this at each poll, so it is one query.
    """
    is_free, is_running = session.execute(
        select(
            exists().where(_is_free(now, workers)),
            exists().where(Job.state == JobState.RUNNING),
        )
    ).one()
    return bool(is_free), bool(is_running)


def running(session: Session, *, lock: bool = False) -> Sequence[Job]:
    """Return the running jobs. ``lock``: locked (``locked_with_study``)."""
    chosen = select(Job).where(Job.state == JobState.RUNNING)
    return session.scalars(locked_with_study(chosen) if lock else chosen).all()


def renew_lease(
    session: Session, job_id: int, owner: str, attempt: int, *, until: datetime, share: float, doing: str
) -> bool | None:
    """Renew a worker's lease on a job, with its progress; return whether a person requested cancellation,
    None if this attempt lost the job.

    ``share``: the finished part, 0 to 1. ``doing``: the present step in words.
    """
    changed = session.execute(
        update(Job)
        .where(_is_leased_by(job_id, owner, attempt))
        .values(lease_until=until, share_done=share, doing=doing[:255])
    )
    if not getattr(changed, "rowcount", 0):
        return None
    return session.scalar(select(Job.cancel_requested).where(Job.id == job_id))


def leased_job(session: Session, job_id: int, owner: str, attempt: int) -> Job | None:
    """Return the job, locked after its study, if ``owner`` still has the lease for this attempt; None
    otherwise.
    """
    job = locked_job(session, job_id)
    is_mine = job and (job.state, job.attempts, job.lease_owner) == (JobState.RUNNING, attempt, owner)
    return job if is_mine else None


def lock_studies_of(session: Session, job_ids: Collection[int]) -> None:
    """Lock the studies of these jobs until the transaction ends."""
    lock_studies(session, Study.id.in_(select(Job.study_id).where(Job.id.in_(job_ids))))


def locked_job(session: Session, job_id: int) -> Job | None:
    """Return the job with this id, locked after its study; None if there is none."""
    lock_studies_of(session, [job_id])
    return session.get(Job, job_id, with_for_update=FOR_UPDATE, populate_existing=True)


def _is_leased_by(job_id: int, owner: str, attempt: int) -> ColumnElement[bool]:
    """SQL: whether this owner has the lease of this attempt at the job."""
    return (
        (Job.id == job_id)
        & (Job.state == JobState.RUNNING)
        & (Job.attempts == attempt)
        & (Job.lease_owner == owner)
    )


def _is_free(now: datetime, workers: WorkerSettings) -> ColumnElement[bool]:
    """SQL: queued jobs that are due, whose pipeline these workers run, and whose rule is not running on
    another revision of the study.
    """
    other = aliased(Job)
    same_work_runs = exists().where(
        other.study_id == Job.study_id, other.rule == Job.rule, other.state == JobState.RUNNING
    )
    taken = Job.pipeline.in_(workers.pipelines) if workers.pipelines else true()
    return (Job.state == JobState.QUEUED) & has_come(Job.run_at, now) & ~same_work_runs & taken
