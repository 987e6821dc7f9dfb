"""The life sign of a running job: a thread renews the lease, and brings the news that the job must stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from dicom_node.errors import JobCancelled, LeaseLost, NodeError, TimeLimitReached
from dicom_node.jobs.queue import ClaimedJob, JobQueue
from dicom_node.jobs.worker.run import HandedBack

_LOGGER = logging.getLogger(__name__)


class JobHeartbeat:
    """While a job runs: heartbeats, the time limit, and the way to stop it.

    ``interval`` and ``limit`` in seconds. A job is stopped when it reports progress next; one that does not
    for ``grace`` seconds is left behind by ``abandon(job, reason)``, which ends the process.
    """

    def __init__(
        self,
        queue: JobQueue,
        job: ClaimedJob,
        *,
        interval: float,
        limit: float,
        grace: float,
        stopping: threading.Event,
        finish: float,
        abandon: Callable[[ClaimedJob, NodeError], None],
    ) -> None:
        self._queue, self._job = queue, job
        self._interval, self._limit, self._grace, self._finish = interval, limit, grace, finish
        self._stopping, self._abandon = stopping, abandon
        self._started = time.monotonic()
        self._asked_at: float | None = None  # when the worker was asked to stop
        self._told_at = 0.0
        self._paused = False
        self._stop: NodeError | None = None
        self._share, self._doing = 0.0, ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"pulse-{job.id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def __call__(self, share: float, what: str) -> None:
        """Progress, from the job; raises when the job must stop."""
        self._share, self._doing = share, what
        if self._stop is not None:
            raise self._stop

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While another job passes this one: the lease is renewed, its time limit waits."""
        began, self._paused = time.monotonic(), True
        try:
            yield
        finally:
            gone = time.monotonic() - began
            self._started, self._told_at, self._paused = self._started + gone, self._told_at + gone, False

    def _beat(self) -> None:
        next_beat = time.monotonic() + self._interval
        while not self._ended.wait(min(self._interval, 0.1)):
            now = time.monotonic()
            if not self._paused:
                self._look(now)
            if now >= next_beat and not isinstance(self._stop, (LeaseLost, JobCancelled)):
                next_beat = now + self._interval
                self._send()
            idle = self._paused or self._ended.is_set()
            if self._stop is not None and not idle and now - self._told_at > self._grace:
                self._abandon(self._job, self._stop)

    def _look(self, now: float) -> None:
        if self._stop is not None:
            return
        if now - self._started > self._limit:
            self._tell(TimeLimitReached(f"took longer than {self._limit:g} s"))
        elif self._stopping.is_set():
            self._asked_at = self._asked_at or now
            if now - self._asked_at >= self._finish:
                self._tell(HandedBack("the worker stops"))

    def _send(self) -> None:
        try:
            self._queue.heartbeat(self._job, self._share, self._doing)
        except (LeaseLost, JobCancelled) as stop:
            self._tell(stop)
        except (SQLAlchemyError, MemoryError) as error:  # the lease outlasts several beats
            _LOGGER.warning("job %s: no heartbeat: %s", self._job.id, type(error).__name__)

    def _tell(self, stop: NodeError) -> None:
        self._stop, self._told_at = stop, time.monotonic()
