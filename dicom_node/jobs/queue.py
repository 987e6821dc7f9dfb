"""The queue of jobs, with one of two engines: the lease table (SQLite), procrastinate (PostgreSQL).

Delivery is at least once: a worker that dies loses its job and another takes the job over. So a job's effects
are idempotent (derived UIDs), and only the newest attempt at a job can end it.

Short jobs overtake long ones, and none waits for ever. A job's turn is its arrival plus ten times its
estimated work; the earliest turn is first. So a chest film (a few seconds) overtakes a cine loop (minutes)
that came up to half an hour before it, and not one that has waited longer. Urgent jobs (STAT, or put first by
a person) go before all turns.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from dicom_node.base import events
from dicom_node.base.config.settings import WorkerSettings
from dicom_node.base.errors import JobCancelled, LeaseLost
from dicom_node.base.events import EventType
from dicom_node.base.lifecycle import JobState
from dicom_node.base.store import queue as table
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import LONGEST_WAIT, Job, has_ended
from dicom_node.base.store.transitions import (
    database_time,
    move_job,
    record,
    settle_study,
    turn_changed,
    utc_now,
)
from dicom_node.jobs import lease as owners

NextFree = Callable[[Session, datetime, WorkerSettings, tuple[int, float] | None], Job | None]
_LOSSES = 20  # times workers.attempts: so often a job may be lost with its node before it is counted
_ENDS: Mapping[JobState, EventType] = {
    JobState.SUCCEEDED: events.JOB_SUCCEEDED,
    JobState.NOT_APPLICABLE: events.JOB_NOT_APPLICABLE,
    JobState.FAILED: events.JOB_FAILED,
    JobState.CANCELLED: events.JOB_CANCELLED,
}


def enqueue(session: Session, job: Job) -> None:
    """Add a job with its turn and its event; workers see it when the caller's transaction commits."""
    job.turn_at = turn_of(job.run_at, job.priority or 0, job.cost_seconds or 0.0)
    session.add(job)
    session.flush()
    record(
        session,
        events.JOB_HELD if job.state is JobState.HELD else events.JOB_QUEUED,
        job.study_id,
        job=job.id,
        rule=job.rule,
        pipeline=job.pipeline,
        images=len(job.source_uids),
        reason=job.reason,
    )
    turn_changed(session, job)


class JobQueue:
    """Gives jobs to workers and ends them. State, attempt and progress of a job are columns of its row.

    Methods with a ``session`` run in the caller's transaction, the others in a separate one.
    """

    def __init__(self, database: Database, workers: WorkerSettings) -> None:
        self._database = database
        self.outage = database.outage
        """For who tries again."""
        self._workers = workers
        self._lease = timedelta(seconds=workers.lease_seconds)
        self._next_free: NextFree = table.next_free  # the built-in engine: a turn is a column of the job
        self._repair: Callable[[Database], object] = bool
        if not database.is_sqlite:
            from dicom_node.base.store import tickets  # only there procrastinate is installed

            self._next_free, self._repair = tickets.next_free, tickets.repair

    def claim(self, owner: str, passing: Job | None = None) -> Job | None:
        """Take the job whose turn it is, STAT before others; None if no job waits.

        ``passing``: a job that this owner works on; only a more urgent or a much shorter job may pass it. The
        row that is returned is as it was claimed. Its owner and attempt are the fence: only the newest
        attempt may end the job.
        """
        now = utc_now()
        with self._database.read() as session:  # no writing transaction while there is nothing to do
            is_free, is_running = table.work(session, now, self._workers)
            if not is_free and not (is_running and self._lost(session)):
                return None
        with self._database.write() as session:
            self._take_back(session, now)
            short = None if passing is None else (passing.priority, PASSES * passing.cost_seconds)
            job = self._next_free(session, now, self._workers, short)
            if job is None:
                return None
            taken = move_job(
                session,
                job,
                events.JOB_STARTED,
                attempts=job.attempts + 1,
                tries=job.tries + 1,
                lease_owner=owner,
                lease_until=database_time(session) + self._lease,
                started_at=now,
            )
            if not taken:
                return None
            settle_study(session, job.study_id)
            return job

    def heartbeat(self, job: Job, share: float, doing: str) -> None:
        """Renew the lease. Raises LeaseLost, or JobCancelled if a person has cancelled the job."""
        with self._database.write() as session:
            until = database_time(session) + self._lease
            cancelled = table.beat(
                session, job.id, job.lease_owner, job.attempts, until=until, share=share, doing=doing
            )
        if cancelled is None:
            raise _lost(job)
        if cancelled:
            raise _stopped(job)

    def complete_if_owner(self, session: Session, job: Job, state: JobState, reason: str = "") -> Job:
        """End the job in ``state`` (for good). Raises LeaseLost, or JobCancelled if ``state`` is a
        success.
        """
        row = self._held(session, job)
        if row.cancel_requested and state is not JobState.CANCELLED:
            raise _stopped(job)
        # What a person or a newer revision gave as reason for the cancellation stays.
        reason = row.reason if state is JobState.CANCELLED and row.cancel_requested else reason
        values = {"reason": reason, "finished_at": utc_now(), "lease_until": None, "cancel_requested": False}
        if state is JobState.SUCCEEDED:
            values["share_done"] = 1.0
        if not move_job(session, row, _ENDS[state], **values):
            raise _lost(job)
        return row

    def retry_at(self, job: Job, when: datetime, reason: str) -> None:
        """Put the job back, to be tried again at ``when``. Raises LeaseLost."""
        self._put_back(job, events.JOB_RETRIED, run_at=when, reason=reason)

    def hand_back(self, job: Job, seconds: float = 0.0, reason: str = "") -> None:
        """Put the job back, free for other workers after ``seconds``; this try does not count. Raises
        LeaseLost.
        """
        when = utc_now() + timedelta(seconds=seconds)
        self._put_back(job, events.JOB_HANDED_BACK, run_at=when, reason=reason, tries=job.tries - 1)

    def end(self, job: Job, state: JobState, reason: str = "") -> None:
        """End the job in ``state``, without results. Raises as ``complete_if_owner``."""
        with self._database.write() as session:
            self.complete_if_owner(session, job, state, reason)
            settle_study(session, job.study_id)

    def reap(self) -> int:
        """Take back the jobs of workers that have ended; returns how many."""
        now = utc_now()
        self._repair(self._database)
        with self._database.read() as session:
            if not self._lost(session):
                return 0
        with self._database.write() as session:
            return self._take_back(session, now)

    def clock_put_back(self) -> None:
        """Make waiting jobs due now, after the clock was put back: their times are too late."""
        with self._database.write() as session:
            for job in table.waiting_until(session, utc_now()):
                job.run_at = utc_now()
                session.flush()
                turn_changed(session, job)

    def retry_delay(self, tries: int) -> timedelta:
        """The wait before the next attempt; it doubles with each."""
        return min(timedelta(seconds=self._workers.retry_seconds * 2.0 ** min(tries - 1, 20)), LONGEST_WAIT)

    def is_last_try(self, job: Job) -> bool:
        """Whether this is the last try, so that a failure ends the job."""
        return job.tries >= self._workers.attempts

    def gives_up(self, job: Job) -> bool:
        """Whether the last try was lost with its worker, so that this one only reports that the job failed.

        The report is tried as often as the job was.
        """
        return job.tries > self._workers.attempts

    def may_be_tried_again(self, job: Job) -> bool:
        """Whether a further try is allowed, even if only to report the failure."""
        return job.tries < 2 * self._workers.attempts

    def _put_back(self, job: Job, event: EventType, **values: Any) -> None:
        with self._database.write() as session:
            row = self._held(session, job)
            if row.cancel_requested:
                self.complete_if_owner(session, job, JobState.CANCELLED)
            elif row.study.revision > row.study_revision:  # as what waited when the study changed
                reason = f"superseded by revision {row.study.revision}"
                self.complete_if_owner(session, job, JobState.CANCELLED, reason)
            elif not move_job(session, row, event, lease_until=None, **values):
                raise _lost(job)
            settle_study(session, job.study_id)

    def _held(self, session: Session, job: Job) -> Job:
        row = table.held(session, job.id, job.lease_owner, job.attempts)
        if row is None:
            raise _lost(job)
        return row

    def _lost(self, session: Session, *, lock: bool = False) -> list[Job]:
        """Running jobs whose worker shows no life, or is dead on this machine."""
        now = database_time(session)
        return [
            job
            for job in table.running(session, lock=lock)
            if has_ended(job.lease_until, now) or owners.is_dead(job.lease_owner)
        ]

    def _take_back(self, session: Session, now: datetime) -> int:
        lost = self._lost(session, lock=True)
        for job in lost:
            if job.cancel_requested:
                move_job(session, job, events.JOB_CANCELLED, finished_at=now, lease_until=None)
            elif job.tries >= 2 * self._workers.attempts:  # failure reports count as tries too
                move_job(
                    session,
                    job,
                    events.JOB_FAILED,
                    reason=f"{job.tries} workers were lost with this job",
                    finished_at=now,
                )
            else:
                # No try for one that ended with the whole node: a power cut is not the job's fault. Within
                # limits: a job may also be what brings the node down.
                may_be_free = job.attempts < _LOSSES * self._workers.attempts
                is_free = may_be_free and owners.is_dead_with_its_node(job.lease_owner)
                move_job(
                    session,
                    job,
                    events.JOB_TAKEN_OVER,
                    reason="its worker was lost",
                    lease_until=None,
                    tries=job.tries - is_free,
                )
            settle_study(session, job.study_id)
        return len(lost)


def _lost(job: Job) -> LeaseLost:
    return LeaseLost(f"job {job.id} is another worker's now")


def _stopped(job: Job) -> JobCancelled:
    return JobCancelled(f"job {job.id} is to be stopped")


OVERTAKING = 10.0
"""Seconds by which each second of estimated work puts a job's turn later."""
LOW = timedelta(hours=1)
"""Added to the turn of a job of low priority."""
PASSES = 0.25
"""A running job is interrupted for others whose estimated work is at most this share of its own."""
SECONDS_PER_IMAGE, SECONDS_PER_MEGAPIXEL = 1.0, 0.5
"""A chest film of 6 megapixels: 4 s; a cine of 300 frames of 1024 × 768: 2 min (docs/reference/
measurements.md)."""


def estimated_seconds(images: Iterable[Mapping[str, Any]]) -> float:
    """The estimated work in images with these attributes (Rows, Columns, NumberOfFrames as text).

    The work is proportional to frames × pixels.
    """
    from ai_pipeline.images.numbers import whole  # with pydicom, which `jobs retry` does without

    size = ("Rows", "Columns", "NumberOfFrames")
    sizes = ([whole(image.get(word), least=1, most=999_999) or 1 for word in size] for image in images)
    return sum(SECONDS_PER_IMAGE + SECONDS_PER_MEGAPIXEL * math.prod(one, start=1.0) / 1e6 for one in sizes)


def turn_of(came_at: datetime, priority: int, seconds: float) -> datetime:
    """The turn of a job. ``priority``: 1 STAT, 0 routine, -1 low; ``seconds``: estimated work."""
    return came_at + timedelta(seconds=OVERTAKING * seconds) + (LOW if priority < 0 else timedelta())
