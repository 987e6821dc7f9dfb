"""Tickets: the entries of procrastinate's queue in PostgreSQL, one for each job that is queued or runs.

The job's row says what is to be done, who does it and until when; the ticket says whose turn it is. It is
added, and taken back while it waits, in the transaction of its job's row. It is fetched, and finished after
its job's transaction, on a connection of procrastinate's own, which waits for no session. A process that is
killed in between leaves a ticket that its job does not name, or a job whose ticket nobody holds: the first is
thrown away, the second replaced, by ``repair``.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from procrastinate import PsycopgConnector, SyncPsycopgConnector, jobs
from procrastinate.exceptions import ConnectorException
from procrastinate.manager import JobManager
from sqlalchemy import Engine, column, event, func, or_, select, table, text
from sqlalchemy.engine.url import URL
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node.base.config.settings import WorkerSettings
from dicom_node.base.lifecycle import JobState
from dicom_node.base.store.database import Database
from dicom_node.base.store.locks import locked_with_study
from dicom_node.base.store.mapping import LATEST
from dicom_node.base.store.tables import Job

Answer = TypeVar("Answer")
TASK: Final = "dicom_node.job"
_MOST_STALE = 20  # tickets that one claim throws away before it leaves the rest to the next
_MOST_OFFERED = 100  # jobs without a ticket that one look gives one
_SINCE = datetime(2020, 1, 1, tzinfo=UTC)
_LONGEST_TURN = 2_000_000_000  # seconds since then, until 2083: a ticket's priority is a signed 32-bit number
_STEPS = 4  # classes of estimated work for each doubling of it
_CONNECT_SECONDS = 10.0
_MOST_WORK = 99  # the highest class: a year and more
_TICKETS = table("procrastinate_jobs", *map(column, ("id", "queue_name", "status", "scheduled_at")))
_WAITS = _TICKETS.c.status == text("'todo'")
_FETCHED = _TICKETS.c.status == text("'doing'")


def follow(session: Session, job: Job) -> None:
    """Update the ticket of a job (its entry in procrastinate's queue): one while the job is queued, none once
    it has ended.
    """
    if job.state is JobState.RUNNING:
        return
    if job.ticket is not None:
        _take_back(session, job.ticket)
    job.ticket = _offer(session, job) if job.state is JobState.QUEUED else None
    session.flush()


def next_free(
    session: Session,
    _now: datetime,
    workers: WorkerSettings,
    passing: tuple[int, float] | None = None,
) -> Job | None:
    """Return the queued job, locked, whose ticket comes first, and fetch its ticket; None if there is none.

    ``passing``: priority and seconds of a job in progress, which only a more urgent or equally urgent shorter
    job may interrupt.
    """
    queues = _open_queues(session, workers, passing)
    for _ in range(_MOST_STALE):
        # No worker of procrastinate: the owner is in the job's row.
        ticket = _apart(session, lambda manager: manager.fetch_job(queues, None))  # type: ignore[arg-type]
        if ticket is None or ticket.id is None:
            break
        named = select(Job).where(
            Job.id == ticket.task_kwargs.get("job"), Job.ticket == ticket.id, Job.state == JobState.QUEUED
        )
        # Never waited for: who holds the job may wait for another one that we hold.
        job = session.scalar(locked_with_study(named))
        if job is not None:
            return job
        if session.scalar(named.with_only_columns(Job.id)) is not None:  # somebody else changes the job
            _put_back(session, ticket.id)
            break
        _throw_away(session, ticket.id)
    return None


def repair(database: Database) -> int:
    """Create new tickets for queued jobs whose ticket is missing, fetched by a process that was killed, or
    has a time impossibly far ahead; return their number. Throw away fetched tickets that no job names.
    """
    with database.write() as session:
        is_soon = or_(_TICKETS.c.scheduled_at.is_(None), _TICKETS.c.scheduled_at < func.now() + LATEST)
        waits = select(_TICKETS.c.id).where(_TICKETS.c.id == Job.ticket, _WAITS, is_soon).exists()
        without = session.scalars(
            select(Job)
            .where(Job.state == JobState.QUEUED, ~waits)
            .limit(_MOST_OFFERED)
            .with_for_update(skip_locked=True)
        ).all()
        for job in without:
            follow(session, job)
        is_named = select(Job.id).where(Job.ticket == _TICKETS.c.id).exists()
        for ticket in session.scalars(select(_TICKETS.c.id).where(_FETCHED, ~is_named)).all():
            _throw_away(session, ticket)
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
    with _as_sqlalchemy_error():
        return _IN_SESSION.defer_job(ticket, _connection(session)).id


def _lock(job: Job) -> str:
    """Return the name of the lock that two jobs of one rule and study share, so that only one of them runs at
    a time.
    """
    return f"{job.study_id}/{job.rule}"


def _take_back(session: Session, ticket: int) -> None:
    """Delete the ticket with this id, at once while it waits; if it was fetched, once the session has
    committed.
    """
    with _as_sqlalchemy_error():
        waited = _IN_SESSION.cancel_job_by_id(ticket, delete_job=True, connection=_connection(session))
    if not waited:
        event.listen(session, "after_commit", lambda ended: _after_commit(ended, ticket))


def _after_commit(session: Session, ticket: int) -> None:
    """Delete a ticket whose job has ended or waits again; the lock of its rule and study is free then."""
    if not session.in_nested_transaction():  # the end of a savepoint is no commit
        _throw_away(session, ticket)


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
        for name in session.scalars(select(_TICKETS.c.queue_name).where(_WAITS).distinct())
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


# procrastinate's calls in the transaction of a session: they take its connection, and this has none itself.
_IN_SESSION = JobManager(SyncPsycopgConnector())
# Its other calls are asynchronous. One thread makes them, one after the other, in one event loop.
_THREAD = ThreadPoolExecutor(1, "tickets")
_LOOP = asyncio.Runner()
_CONNECTORS: dict[URL, PsycopgConnector] = {}


def _connection(session: Session) -> Any:
    """Return the driver's connection of a session, in the session's transaction."""
    return session.connection().connection.driver_connection


def _put_back(session: Session, ticket: int) -> None:
    """Let a fetched ticket wait again; where that fails, because who changed the job has deleted it,
    ``repair`` does what is left to do.
    """
    with contextlib.suppress(SQLAlchemyError):
        _apart(session, lambda manager: manager.retry_job_by_id_async(ticket, datetime.now(UTC)))


def _throw_away(session: Session, ticket: int) -> None:
    """Delete a ticket; where that fails, ``repair`` does it."""
    with contextlib.suppress(SQLAlchemyError):
        aborted = jobs.Status.ABORTED
        _apart(session, lambda manager: manager.finish_job_by_id_async(ticket, aborted, delete_job=True))


def _apart(session: Session, call: Callable[[JobManager], Coroutine[Any, Any, Answer]]) -> Answer:
    """Return the result of a call of procrastinate's job manager, committed at once on a connection of its
    own to the database of ``session``. Raises OperationalError.
    """
    engine = session.get_bind()
    assert isinstance(engine, Engine)

    async def result() -> Answer:
        """Call it, connected; the connection is kept for the next call."""
        if engine.url not in _CONNECTORS:
            _, words = engine.dialect.create_connect_args(engine.url)
            _CONNECTORS[engine.url] = PsycopgConnector(
                kwargs={**words, "autocommit": True}, min_size=0, max_size=1, timeout=_CONNECT_SECONDS
            )
        connector = _CONNECTORS[engine.url]
        await connector.open_async()
        return await call(JobManager(connector))

    with _as_sqlalchemy_error():
        return _THREAD.submit(lambda: _LOOP.run(result())).result()


@event.listens_for(Engine, "engine_disposed")
def _close(engine: Engine) -> None:
    """Close procrastinate's connection to a database together with ours."""
    if (connector := _CONNECTORS.pop(engine.url, None)) is not None:
        _THREAD.submit(lambda: _LOOP.run(connector.close_async())).result()


@contextlib.contextmanager
def _as_sqlalchemy_error() -> Iterator[None]:
    """Context manager: turn procrastinate's errors of the database into those that all callers expect."""
    try:
        yield
    except ConnectorException as error:
        raise OperationalError("procrastinate", None, error.__cause__ or error) from error
