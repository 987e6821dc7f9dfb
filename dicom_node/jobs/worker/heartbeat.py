"""The heartbeat of a running job: its lease, its time limit, and its stop."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from dicom_node.base.errors import HandedBack, JobCancelled, LeaseLost, NodeError, TimeLimitReached
from dicom_node.base.store.tables import Job
from dicom_node.jobs.queue import JobQueue

_LOOK_SECONDS = 0.25  # until the job's time is counted on
_LONGEST_LOOK_SECONDS = 1.0  # counted of a longer time: the whole process was stopped
_COMPUTES = 0.02  # share of a processor: the thread of the heartbeat gets less
_SLOWEST = 10.0  # a machine on which a job may last so many times as long
_LOGGER = logging.getLogger(__name__)


@dataclass(eq=False)
class JobHeartbeat:
    """Renews the lease of a running job in a thread, watches its time limit, and stops it; called with the
    job's progress.

    All times are in seconds: ``interval`` between renewals, ``limit`` of the job's time (of a process that
    computes: the processor time that it got, at least a tenth of what passed), ``finish``: how long
    the job may still run when the worker has to stop. A job is stopped at its next report of progress; if
    none comes for ``grace`` seconds, ``abandon(job, reason)`` is called, which ends the process.
    """

    queue: JobQueue
    job: Job
    _: KW_ONLY
    interval: float
    limit: float
    grace: float
    stopping: threading.Event
    finish: float
    abandon: Callable[[Job, NodeError], None]

    def __post_init__(self) -> None:
        """Prepare the heartbeat of ``job``; a ``with`` block around the job starts and ends it."""
        self._used, self._looked_at, self._computed = 0.0, time.monotonic(), time.process_time()
        self._stopping_since: float | None = None  # when the worker was asked to stop
        self._stop_decided_at = 0.0
        self._paused = False
        self._stop: NodeError | None = None
        self._share, self._doing = 0.0, ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{self.job.id}", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread that renews the lease."""
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """End the thread that renews the lease."""
        self._ended.set()
        self._thread.join()

    def __call__(self, share: float, what: str) -> None:
        """Report the job's progress: ``share`` done (0 to 1), and the present step in words. Raises NodeError
        if the job must stop.
        """
        self._share, self._doing = share, what
        if self._stop is not None:
            raise self._stop

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Context manager for running another job in between: this job's lease is renewed, its time limit is
        suspended.
        """
        began, self._paused = time.monotonic(), True
        try:
            yield
        finally:
            self._stop_decided_at += time.monotonic() - began
            self._paused = False

    def _beat(self) -> None:
        """Renew the lease at intervals, and request a stop when a limit is reached; runs in a thread."""
        next_beat = time.monotonic() + self.interval
        while not self._ended.wait(min(self.interval, 0.1)):
            now = time.monotonic()
            self._count_time(now)
            if self._stop is None and not self._paused:
                if self._used > self.limit:
                    self._request_stop(TimeLimitReached(f"took longer than {self.limit:g} s"))
                elif self.stopping.is_set():
                    self._stopping_since = self._stopping_since or now
                    if now - self._stopping_since >= self.finish:
                        self._request_stop(HandedBack("the worker stops"))
            if now >= next_beat and not isinstance(self._stop, (LeaseLost, JobCancelled)):
                next_beat = now + self.interval
                try:
                    self.queue.heartbeat(self.job, self._share, self._doing)
                except (LeaseLost, JobCancelled) as stop:
                    self._request_stop(stop)
                except SQLAlchemyError as error:  # the lease outlasts several beats
                    self.queue.outage.note_error(error)
                except Exception as error:  # noqa: BLE001  (no memory, say: the next one may succeed)
                    _LOGGER.warning("job %s: no heartbeat: %s", self.job.id, type(error).__name__)
            idle = self._paused or self._ended.is_set()
            if self._stop is not None and not idle and now - self._stop_decided_at > self.grace:
                self.abandon(self.job, self._stop)

    def _count_time(self, now: float) -> None:
        """Add the time since the last look to that of the job, unless it is paused.

        A process that computes on a slow machine is not at fault for what passes; one that waits is, except
        for the time in which it was stopped as a whole.
        """
        passed, computed = now - self._looked_at, time.process_time() - self._computed
        if passed < _LOOK_SECONDS and not self._paused:
            return
        self._looked_at, self._computed = now, self._computed + computed
        if self._paused:
            return
        if computed < _COMPUTES * passed:
            self._used += min(passed, _LONGEST_LOOK_SECONDS)
        else:
            self._used += min(passed, max(computed, passed / _SLOWEST))

    def _request_stop(self, stop: NodeError) -> None:
        """Let the job stop at its next report of progress by raising ``stop``."""
        self._stop, self._stop_decided_at = stop, time.monotonic()
