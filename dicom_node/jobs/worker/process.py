"""A worker process: loads the pipelines once, then claims and runs jobs until it must stop.

The heartbeat of a running job: a thread renews the job's lease, and notices when the job must stop.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from ai_pipeline import pipelines
from ai_pipeline.contract import Pipeline
from ai_pipeline.errors import PluginError
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import (
    HandedBack,
    JobCancelled,
    JobStopped,
    LeaseLost,
    NodeError,
    NoSuchPipeline,
    TimeLimitReached,
    WorkerSpent,
)
from dicom_node.base.events import WORKER_READY
from dicom_node.base.lifecycle import JobState
from dicom_node.base.processes import show_life
from dicom_node.base.store.database import SHORTEST, Database
from dicom_node.base.store.tables import Job
from dicom_node.base.store.transitions import record, utc_now
from dicom_node.jobs.lease import new_owner
from dicom_node.jobs.queue import JobQueue
from dicom_node.jobs.worker.analyse import device_rules_of
from dicom_node.jobs.worker.run import AtWork, JobRunner

_LOGGER = logging.getLogger(__name__)
_FINISH_SECONDS = 8.0  # a worker that stops lets its job run so long, then hands it back
_GRACE_SECONDS = 10.0  # a job that reports no progress for so long after it was to stop is abandoned
_FAILURE_REPORT_SECONDS = 60.0  # at least, for the attempt that only builds the report of a failure
_LOOK_SECONDS = 1.0  # how often a running job looks whether another may pass
_PAUSE_SECONDS = 1.0  # when the database is away


class Worker:
    """Runs jobs of the queue, one at a time, under one configuration."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._owner = new_owner()
        self._queue = JobQueue(database, settings.workers)
        self._pipelines: dict[str, Pipeline] = {}
        self.stopping = threading.Event()
        """Set by SIGTERM, and when the node that started this process is gone."""
        self.retiring = threading.Event()
        """Set by SIGHUP: end after this job, another process works under another configuration."""
        workers = settings.workers
        # The last attempt of a job is made without an image that failed the ones before.
        most, data_dir = max(1, workers.attempts - 1), settings.node.data_dir
        self._at_work = AtWork(data_dir / "at-work", self._owner, most, workers.memory_mib)
        self._runner = JobRunner(database, settings, self._queue, self._pipeline, self._at_work)

    def run_forever(self) -> None:
        """Warm up, report that the worker is ready, and work until it must stop or its memory is used up."""
        self.warm_up()
        # One JSON line for the node that started us, and the event for everybody.
        with contextlib.suppress(SQLAlchemyError), self._database.write() as session:
            record(session, WORKER_READY, owner=self._owner, pipelines=" ".join(sorted(self._pipelines)))
        with contextlib.suppress(BrokenPipeError):
            # A line of its own, whatever a pipeline printed.
            sys.stdout.write(f"\n{json.dumps({'ready': True, 'owner': self._owner})}\n")
            sys.stdout.flush()
        changes, pause = self._database.changes, SHORTEST
        while not (self.stopping.is_set() or self.retiring.is_set() or self._at_work.spent):
            seen = changes.count
            try:
                found = self.run_once()
                pause = changes.pause(pause, found=found)
                if found:
                    show_life(busy_seconds=0)
                else:  # a look costs 0.4 ms with SQLite, some 5 ms of both sides with PostgreSQL
                    changes.wait(seen, pause, self.stopping)
            except WorkerSpent as spent:
                _LOGGER.warning("%s: this worker ends", spent)
            except SQLAlchemyError as error:  # the job's lease ends, and somebody takes it over
                show_life(busy_seconds=0)
                self._database.outage.noticed(error)
                self.stopping.wait(_PAUSE_SECONDS)

    def run_once(self) -> bool:
        """Claim and run one job; returns False if no job waits."""
        job = self._queue.claim(self._owner)
        if job is None:
            return False
        # This process may be silent until the job's time limit ends it.
        limit = max(self._settings.workers.time_limit_seconds, _FAILURE_REPORT_SECONDS)
        show_life(busy_seconds=limit + 2 * _GRACE_SECONDS)
        looked_at = time.monotonic()

        def progress(share: float, what: str) -> None:
            """Between the steps of the job shorter or more urgent ones run."""
            nonlocal looked_at
            heartbeat(share, what)
            if time.monotonic() - looked_at > _LOOK_SECONDS:
                self._run_passing_job(job, heartbeat)
                looked_at = time.monotonic()

        with self._heartbeat(job) as heartbeat:
            self._runner.run(job, progress)
        return True

    def _run_passing_job(self, job: Job, heartbeat: JobHeartbeat) -> None:
        """Between two steps of a job: run one that is more urgent or much shorter, if there is any.

        So a chest film waits for 16 frames of a cine (10 s), not for all of it; the cine goes on after it.
        """
        if self.stopping.is_set() or self._at_work.spent:
            return
        try:
            other = self._queue.claim(self._owner, passing=job)
            if other is not None:
                with heartbeat.paused(), self._at_work.aside(), self._heartbeat(other) as report:
                    self._runner.run(other, report)
        except SQLAlchemyError as error:  # the other's lease ends; this job goes on
            self._database.outage.noticed(error)

    def _heartbeat(self, job: Job) -> JobHeartbeat:
        workers = self._settings.workers
        return JobHeartbeat(
            self._queue,
            job,
            interval=min(1.0, workers.lease_seconds / 4),
            limit=max(workers.time_limit_seconds, _FAILURE_REPORT_SECONDS)
            if self._queue.gives_up(job)
            else workers.time_limit_seconds,
            grace=_GRACE_SECONDS,
            stopping=self.stopping,
            finish=_FINISH_SECONDS,
            abandon=self._abandon,
        )

    def warm_up(self) -> None:
        """Load the pipelines of the rules; if one cannot be loaded, only its jobs fail."""
        self._at_work.forget_old()
        started = time.monotonic()
        named = dict.fromkeys(rule.pipeline for rule in self._settings.rules)
        for name in filter(self._settings.workers.takes, named):
            try:
                self._pipeline(name)
            except (Exception, SystemExit) as error:  # noqa: BLE001  (a model or another package)
                _LOGGER.error("pipeline %s cannot be loaded: %s", name, error)
        _LOGGER.info("pipelines loaded in %.1f s", time.monotonic() - started)

    def _pipeline(self, name: str) -> Pipeline:
        if name not in self._pipelines:
            try:
                pipeline = pipelines.create(
                    name,
                    models_dir=self._settings.workers.models_dir,
                    device_rules=device_rules_of(self._settings),
                )
            except (KeyError, PluginError) as error:
                raise NoSuchPipeline(str(error.args[0])) from None
            pipeline.warm_up()
            self._pipelines[name] = pipeline
        return self._pipelines[name]

    def _abandon(self, job: Job, stop: JobStopped) -> None:
        """The job hangs in code that cannot be stopped: settle it and end this process."""
        _LOGGER.error("job %s does not stop (%s): this worker ends", job.id, stop)
        try:
            with contextlib.suppress(LeaseLost):
                if isinstance(stop, JobCancelled):
                    self._queue.end(job, JobState.CANCELLED)
                elif isinstance(stop, HandedBack):
                    self._queue.hand_back(job)
                elif self._queue.gives_up(job):
                    self._queue.end(job, JobState.FAILED, str(stop))
                elif not isinstance(stop, LeaseLost):
                    # After the last try the next claim gives up, and tells the PACS.
                    wait = self._queue.retry_delay(job.tries)
                    self._queue.retry_at(
                        job, utc_now() + (timedelta() if self._queue.is_last_try(job) else wait), str(stop)
                    )
        except (NodeError, SQLAlchemyError) as error:
            _LOGGER.error("job %s is left to its lease: %s", job.id, type(error).__name__)
        finally:
            os._exit(1)


class JobHeartbeat:
    """Sends the heartbeats of a running job, watches its time limit, and stops it.

    All times are in seconds: ``interval`` between heartbeats, ``limit`` of the job's time, ``finish``: how
    long the job may still run when the worker has to stop. A job is stopped at its next report of progress;
    if none comes for ``grace`` seconds, ``abandon(job, reason)`` is called, which ends the process.
    """

    def __init__(
        self,
        queue: JobQueue,
        job: Job,
        *,
        interval: float,
        limit: float,
        grace: float,
        stopping: threading.Event,
        finish: float,
        abandon: Callable[[Job, JobStopped], None],
    ) -> None:
        self._queue, self._job = queue, job
        self._interval, self._limit, self._grace, self._finish = interval, limit, grace, finish
        self._stopping, self._abandon = stopping, abandon
        self._started = time.monotonic()
        self._stopping_since: float | None = None  # when the worker was asked to stop
        self._stop_decided_at = 0.0
        self._paused = False
        self._stop: JobStopped | None = None
        self._share, self._doing = 0.0, ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{job.id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def __call__(self, share: float, what: str) -> None:
        """Report the job's progress: ``share`` done, 0 to 1. Raises JobStopped if the job must stop."""
        self._share, self._doing = share, what
        if self._stop is not None:
            raise self._stop

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A scope in which another job runs first: this job's lease is renewed, its time limit is
        suspended.
        """
        began, self._paused = time.monotonic(), True
        try:
            yield
        finally:
            gone = time.monotonic() - began
            self._started += gone
            self._stop_decided_at += gone
            self._paused = False

    def _beat(self) -> None:
        next_beat = time.monotonic() + self._interval
        while not self._ended.wait(min(self._interval, 0.1)):
            now = time.monotonic()
            if self._stop is None and not self._paused:
                if now - self._started > self._limit:
                    self._request_stop(TimeLimitReached(f"took longer than {self._limit:g} s"))
                elif self._stopping.is_set():
                    self._stopping_since = self._stopping_since or now
                    if now - self._stopping_since >= self._finish:
                        self._request_stop(HandedBack("the worker stops"))
            if now >= next_beat and not isinstance(self._stop, (LeaseLost, JobCancelled)):
                next_beat = now + self._interval
                try:
                    self._queue.heartbeat(self._job, self._share, self._doing)
                except (LeaseLost, JobCancelled) as stop:
                    self._request_stop(stop)
                except SQLAlchemyError as error:  # the lease outlasts several beats
                    self._queue.outage.noticed(error)
                except Exception as error:  # noqa: BLE001  (no memory, say: the next one may succeed)
                    _LOGGER.warning("job %s: no heartbeat: %s", self._job.id, type(error).__name__)
            idle = self._paused or self._ended.is_set()
            if self._stop is not None and not idle and now - self._stop_decided_at > self._grace:
                self._abandon(self._job, self._stop)

    def _request_stop(self, stop: JobStopped) -> None:
        self._stop, self._stop_decided_at = stop, time.monotonic()
