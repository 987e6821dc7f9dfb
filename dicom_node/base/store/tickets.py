"""Tickets: the entries of procrastinate's queue in PostgreSQL, one for each job that is queued or runs.

The job's row says what is to be done, who does it and until when; the ticket says whose turn it is. Both
change in the transaction of one session, by procrastinate's own statements. A ticket that its job does not
name is thrown away when fetched.
"""

import math
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from procrastinate import jobs, types
from procrastinate.connector import BaseConnector
from procrastinate.manager import JobManager
from psycopg.types.json import Jsonb
from sqlalchemy import column, func, or_, select, table, text
from sqlalchemy.orm import Session

from dicom_node.base.config.settings import WorkerSettings
from dicom_node.base.lifecycle import JobState
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import LATEST, Job

Answer = TypeVar("Answer")
TASK: Final = "dicom_node.job"
_MOST_STALE = 20  # tickets that one claim throws away before it leaves the rest to the next
_MOST_OFFERED = 100  # jobs without a ticket that one look gives one
_SINCE = datetime(2020, 1, 1, tzinfo=UTC)
_LONGEST_TURN = 2_000_000_000  # seconds since then, until 2083: a ticket's priority is a signed 32-bit number
_STEPS = 4  # classes of estimated work for each doubling of it
_MOST_WORK = 99  # the highest class: a year and more
_TICKETS = table("procrastinate_jobs", *map(column, ("id", "queue_name", "status", "scheduled_at")))


def follow(session: Session, job: Job) -> None:
    """Update the ticket of a job (its entry in procrastinate's queue): one while the job is queued, none once
    it has ended.
    """
    if job.state is JobState.RUNNING:
        return
    if job.ticket is not None:
        _remove(session, job.ticket)
    job.ticket = _offer(session, job) if job.state is JobState.QUEUED else None
    session.flush()


def next_free(
    session: Session,
    _now: datetime,
    workers: WorkerSettings,
    passing: tuple[int, float] | None = None,
) -> Job | None:
    """Return the queued job, locked, whose ticket comes first, together with its ticket; None if there is
    none.

    ``passing``: priority and seconds of a job in progress, which only a more urgent or equally urgent shorter
    job may interrupt.
    """
    manager, queues = _manager(session), _open_queues(session, workers, passing)
    for _ in range(_MOST_STALE):
        # No worker of procrastinate: the owner is in the job's row.
        ticket = _run(manager.fetch_job(queues, None))  # type: ignore[arg-type]
        if ticket is None or ticket.id is None:
            break
        number = ticket.task_kwargs.get("job")
        there = session.execute(select(Job.state, Job.ticket).where(Job.id == number)).first()
        if there is None or (there.state, there.ticket) != (JobState.QUEUED, ticket.id):
            _run(manager.finish_job_by_id_async(ticket.id, jobs.Status.ABORTED, delete_job=True))
            continue
        # Never waited for: who holds the job may wait for its ticket, which is ours until this ends.
        job = session.scalar(
            select(Job)
            .where(Job.id == number)
            .with_for_update(skip_locked=True)
            .execution_options(populate_existing=True)
        )
        if job is not None and (job.state, job.ticket) == (JobState.QUEUED, ticket.id):
            return job
        _run(manager.retry_job_by_id_async(ticket.id, datetime.now(UTC)))
        break
    return None


def repair(database: Database) -> int:
    """Create new tickets for queued jobs whose ticket is missing or has a time impossibly far ahead; return
    their number.
    """
    with database.write() as session:
        waits = (
            select(_TICKETS.c.id)
            .where(
                _TICKETS.c.id == Job.ticket,
                or_(_TICKETS.c.scheduled_at.is_(None), _TICKETS.c.scheduled_at < func.now() + LATEST),
            )
            .exists()
        )
        without = session.scalars(
            select(Job)
            .where(Job.state == JobState.QUEUED, ~waits)
            .limit(_MOST_OFFERED)
            .with_for_update(skip_locked=True)
        ).all()
        for job in without:
            follow(session, job)
        return len(without)


def _offer(session: Session, job: Job) -> int | None:
    """Add a ticket for a job to procrastinate's queue; return the ticket's id."""
    ahead = job.run_at - datetime.now(UTC)
    # The lowest class whose seconds are at least so many.
    work = min(max(math.ceil(_STEPS * math.log2(max(job.cost_seconds, 1.0))), 0), _MOST_WORK)
    turn = min(max((job.turn_at - _SINCE).total_seconds(), 0), _LONGEST_TURN)
    ticket = jobs.Job(
        queue=f"{job.pipeline}/{job.priority}/{work}",
        # Higher is sooner: STAT before all others, then whose turn is earlier, by the second.
        priority=(_LONGEST_TURN if job.priority > 0 else 0) - int(turn),
        lock=_lock(job),
        queueing_lock=None,
        task_name=TASK,
        task_kwargs={"job": job.id},
        scheduled_at=job.run_at if timedelta() < ahead <= LATEST else None,
    )
    return _run(_manager(session).defer_job_async(ticket)).id


def _lock(job: Job) -> str:
    """Return the name of the lock that two jobs of one rule and study share, so that only one of them runs at
    a time.
    """
    return f"{job.study_id}/{job.rule}"


def _remove(session: Session, ticket: int) -> None:
    """Delete the ticket with this id, if it exists."""
    if session.execute(select(_TICKETS.c.id).where(_TICKETS.c.id == ticket)).first() is not None:
        _run(_manager(session).finish_job_by_id_async(ticket, jobs.Status.SUCCEEDED, delete_job=True))


def _open_queues(
    session: Session, workers: WorkerSettings, passing: tuple[int, float] | None
) -> list[str] | None:
    """Return the names of procrastinate's queues from which these workers may take a job; None for all.

    ``passing``: as of ``next_free``.
    """
    if not workers.pipelines and passing is None:
        return None
    return [
        name
        for name in session.scalars(
            select(_TICKETS.c.queue_name).where(_TICKETS.c.status == text("'todo'")).distinct()
        )
        if _is_open(name, workers, passing)
    ]


def _is_open(name: str, workers: WorkerSettings, passing: tuple[int, float] | None) -> bool:
    """Return whether these workers may take a job from the queue called ``name`` ("pipeline/priority/work");
    ``passing`` as in ``next_free``.
    """
    pipeline, priority, work = name.rsplit("/", 2)
    if not workers.takes(pipeline):
        return False
    if passing is None:
        return True
    urgency, seconds = passing
    most = math.inf if int(work) == _MOST_WORK else 2.0 ** (int(work) / _STEPS)
    return int(priority) > urgency or (int(priority) == urgency and most <= seconds)


def _manager(session: Session) -> JobManager:
    """Return procrastinate's job manager working in the transaction of ``session``."""
    return JobManager(_InSession(session))


def _run(coroutine: Coroutine[Any, Any, Answer]) -> Answer:
    """Return the result of a coroutine that never waits, because the session below it blocks."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        answer: Answer = end.value
        return answer
    raise AssertionError("a statement in a session does not wait")


class _InSession(BaseConnector):
    """A connector by which procrastinate executes its statements in the transaction of a session."""

    def __init__(self, session: Session) -> None:
        """Work in the transaction of ``session``."""
        self._session = session

    async def execute_query_async(self, query: str, **arguments: Any) -> None:
        """Execute a statement without a result."""
        self._execute(query, arguments)

    async def execute_query_one_async(self, query: str, **arguments: Any) -> dict[str, Any]:
        """Execute a query and return its only row."""
        return dict(self._execute(query, arguments).mappings().one())

    async def execute_query_all_async(self, query: str, **arguments: Any) -> list[dict[str, Any]]:
        """Execute a query and return all rows."""
        return [dict(row) for row in self._execute(query, arguments).mappings()]

    def _execute(self, query: str, arguments: Mapping[str, Any]) -> Any:
        """Execute a statement in the session's transaction."""
        given = {name: _as_driver_takes_it(value) for name, value in arguments.items()}
        return self._session.connection().exec_driver_sql(query, given)


def _as_driver_takes_it(value: Any) -> Any:
    """Return a parameter of a statement in the form that the database driver accepts."""
    if isinstance(value, list):
        return [_as_driver_takes_it(one) for one in value]
    if isinstance(value, types.JobToDefer):
        return tuple(value._replace(args=Jsonb(value.args)))  # type: ignore[arg-type]
    return value
