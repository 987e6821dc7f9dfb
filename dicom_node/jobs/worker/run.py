"""A worker: loads the pipelines once, then claims and runs jobs until it must stop.

One job: its images, opened by the one decoder → pipeline → files of its results → one transaction that writes
rows and deliveries and ends the job. A thread renews the job's lease meanwhile, and notices when it must
stop.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from ai_pipeline import pipelines
from ai_pipeline.contract import Pipeline, Progress, Refusal, Refuse
from ai_pipeline.errors import CleaningFailed, PluginError
from ai_pipeline.images.limits import lacks_memory
from dicom_node.base.config.loading import is_behind
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import installed
from dicom_node.base.errors import (
    AnswerAwaited,
    HandedBack,
    JobCancelled,
    LeaseLost,
    NodeError,
    NotFound,
    NotTakenOverYet,
    ResultRefused,
    StoreAway,
    TimeLimitReached,
    WorkerSpent,
)
from dicom_node.base.events import IMAGE_LEFT_OUT, RESULT_REFUSED, WORKER_READY, WORKER_SPENT
from dicom_node.base.lifecycle import JobState
from dicom_node.base.processes import show_life
from dicom_node.base.store.database import SHORTEST, Database, is_outage, is_undone
from dicom_node.base.store.tables import Job
from dicom_node.base.store.transitions import record, utc_now
from dicom_node.jobs.owners import new_owner
from dicom_node.jobs.queue import JobQueue, record_of_job
from dicom_node.jobs.worker.analysis import ImageAnalysis
from dicom_node.jobs.worker.at_work import AtWork
from dicom_node.jobs.worker.cleaning import not_cleaned, record_cleaning
from dicom_node.jobs.worker.failures import FINAL, JobFailed, cause_of, disk_apart, place_of, sentence_of
from dicom_node.jobs.worker.heartbeat import JobHeartbeat
from dicom_node.jobs.worker.images import JobImages, device_rules_of, missing_notes, open_images
from dicom_node.jobs.worker.result_writer import ResultWriter
from dicom_node.jobs.worker.screens import ScreenLearner
from dicom_node.results.concepts import Cause

_LOGGER = logging.getLogger(__name__)
_AWAY_SECONDS, _LONGEST_AWAY_SECONDS = 2.0, 60.0  # wait for store or peer, longer each time
_ACCEPTED, _ANALYSED = 0.01, 0.95  # shares done


@dataclass(slots=True)
class _Attempt:
    """How far an attempt at a job has come, for the report if it fails."""

    job: Job
    pipeline: Pipeline | None = None
    images: JobImages = field(default_factory=JobImages)
    refused: tuple[Refusal, ...] = ()  # by the pipeline; counted when the job ends


_FINISH_SECONDS = 8.0  # a worker that stops lets its job run so long, then hands it back
_GRACE_SECONDS = 10.0  # a job that reports no progress for so long after it was to stop is abandoned
_FAILURE_REPORT_SECONDS = 60.0  # at least, for the attempt that only builds the report of a failure
_LOOK_SECONDS = 1.0  # how often a running job looks whether another may pass
_PAUSE_SECONDS = 1.0  # when the database is away


class Worker:
    """Runs jobs of the queue, one at a time, with one configuration."""

    def __init__(self, settings: Settings, database: Database) -> None:
        """Prepare a worker with a name of its own; pipelines are loaded by :meth:`warm_up`."""
        self._settings = settings
        self._database = database
        self._owner = new_owner()
        self._queue = JobQueue(database, settings.workers)
        self._pipelines: dict[str, Pipeline] = {}
        self._is_claim_unheard = False
        self.stopping = threading.Event()
        """Set by SIGTERM, and when the node that started this process is gone."""
        self.retiring = threading.Event()
        """Set by SIGHUP: end after this job, another process works under another configuration."""
        workers = settings.workers
        # The last attempt of a job is made without an image that failed the ones before.
        most, data_dir = max(1, workers.attempts - 1), settings.node.data_dir
        self._at_work = AtWork(data_dir / "at-work", self._owner, most, workers.memory_mib)
        self._analysis = ImageAnalysis(self._at_work, ScreenLearner(database, settings))
        self._results = ResultWriter(database, settings, self._queue)

    def run_forever(self) -> None:
        """Load the pipelines, report that the worker is ready, and run jobs until it must stop or its memory
        is exhausted.
        """
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
            except SQLAlchemyError as error:
                show_life(busy_seconds=0)
                self._database.outage.note_error(error)
                self.stopping.wait(_PAUSE_SECONDS)

    def run_once(self) -> bool:
        """Claim and run one job; return False if no job waits."""
        if self._is_claim_unheard:
            self._queue.give_back_unheard(self._owner)
            self._is_claim_unheard = False
        job = self._claim()
        if job is None:
            return False
        # This process may be silent until the job's time limit ends it.
        limit = max(self._settings.workers.time_limit_seconds, _FAILURE_REPORT_SECONDS)
        show_life(busy_seconds=limit + 2 * _GRACE_SECONDS)
        looked_at = time.monotonic()

        def progress(share: float, what: str) -> None:
            """Report progress, and now and then run a shorter or more urgent job in between."""
            nonlocal looked_at
            heartbeat(share, what)
            if time.monotonic() - looked_at > _LOOK_SECONDS:
                self._run_passing_job(job, heartbeat)
                looked_at = time.monotonic()

        with self._heartbeat(job) as heartbeat:
            self._run(job, progress)
        return True

    def _claim(self, passing: Job | None = None) -> Job | None:
        """Claim a job as ``JobQueue.claim`` does; note where no answer to it came."""
        try:
            return self._queue.claim(self._owner, passing)
        except SQLAlchemyError:
            self._is_claim_unheard = True
            raise

    def _run_passing_job(self, job: Job, heartbeat: JobHeartbeat) -> None:
        """Between two steps of a job, run another job that is more urgent or much shorter, if there is one.

        So a chest film waits for 16 frames of a cine (10 s), not for all of it; the cine continues after it.
        """
        if self.stopping.is_set() or self._at_work.spent:
            return
        try:
            other = self._claim(passing=job)
            if other is not None:
                with heartbeat.paused(), self._at_work.aside(), self._heartbeat(other) as report:
                    self._run(other, report)
        except SQLAlchemyError as error:  # nothing was claimed; this job goes on
            self._database.outage.note_error(error)

    def _heartbeat(self, job: Job) -> JobHeartbeat:
        """Return the heartbeat for a job, with the configured time limits."""
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
        """Load the pipelines that the rules name; if one cannot be loaded, only its jobs fail."""
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
        """Return the pipeline with this name, loaded once. Raises JobFailed if it is unknown or cannot be
        created.
        """
        if name not in self._pipelines:
            try:
                pipeline = pipelines.create(
                    name,
                    models_dir=self._settings.workers.models_dir,
                    device_rules=device_rules_of(self._settings),
                )
            except (KeyError, PluginError) as error:
                raise JobFailed(str(error.args[0]), Cause.EQUIPMENT) from None
            pipeline.warm_up()
            self._pipelines[name] = pipeline
        return self._pipelines[name]

    def _abandon(self, job: Job, stop: NodeError) -> None:
        """Settle a job that hangs in code that cannot be stopped, for the reason ``stop``, and kill this
        process.
        """
        _LOGGER.error("job %s does not stop (%s): this worker ends", job.id, stop)
        try:
            if not isinstance(stop, TimeLimitReached):
                self._at_work.let_go()
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
        except (NodeError, OSError, SQLAlchemyError) as error:
            _LOGGER.error("job %s is left to its lease: %s", job.id, type(error).__name__)
        finally:
            os._exit(1)

    def _run(self, job: Job, report: Progress) -> None:
        """Run a job until it is finished, put back, or lost to another worker.

        ``report`` stops the job by raising JobCancelled, LeaseLost, HandedBack or TimeLimitReached. What
        database, disk or object store do is not the job's fault: it is handed back, and no try is lost, as
        soon as the database answers. After a job that exhausted the memory (``AtWork.spent``) this process
        must end.
        """
        self._at_work.last_try = self._queue.is_last_try(job)
        step: Callable[[], object] | None = partial(self._end, _Attempt(job), report)
        hand_back = partial(self._queue.hand_back, job)
        while step:
            try:
                step()
                step = None
            except LeaseLost as lost:
                _LOGGER.warning("%s", lost)
                step = None
            except JobCancelled:
                step = partial(self._results.end, job, JobState.CANCELLED)
            except (StoreAway, NotTakenOverYet) as away:
                step = partial(hand_back, min(_AWAY_SECONDS * job.attempts, _LONGEST_AWAY_SECONDS), str(away))
            except AnswerAwaited as awaited:
                step = partial(hand_back, awaited.seconds, str(awaited))
            except SQLAlchemyError as error:  # while it is tried again, the heartbeat keeps the lease
                step = partial(hand_back, reason="the database did not answer")
                if not is_undone(error):
                    self._database.outage.note_error(error)
                    if self.stopping.wait(_PAUSE_SECONDS) or not is_outage(error):
                        break  # the job's lease ends, and somebody takes it over
        self._at_work.last_try = False

    def _end(self, attempt: _Attempt, report: Progress) -> None:
        """Run an attempt, and end the job with its results, with a failure report, or by putting it back for
        another try.
        """
        job = attempt.job
        try:
            with disk_apart():
                self._try(attempt, report)
        except (LeaseLost, JobCancelled, StoreAway, NotTakenOverYet, AnswerAwaited):
            raise
        except HandedBack:
            self._queue.hand_back(job)
        except FINAL as failure:
            if isinstance(failure, CleaningFailed) and attempt.pipeline:
                readable = attempt.images.readable
                withheld = not_cleaned(failure, readable)
                with self._database.write() as session:
                    record_cleaning(session, job, attempt.pipeline, withheld, readable)
            self._fail(attempt, sentence_of(failure), cause_of(failure))
        except ResultRefused as refused:
            with self._database.write() as session:
                record_of_job(session, job, RESULT_REFUSED, reason=str(refused))
            self._fail(attempt, f"a result was refused: {refused}", cause_of(refused))
        except Exception as error:
            if is_outage(error):
                raise
            reason = sentence_of(error)
            self._at_work.spent |= lacks_memory(error)
            if self._at_work.spent:
                with self._database.write() as session:
                    record_of_job(session, job, WORKER_SPENT, memory_mib=self._at_work.memory_mib)
            _LOGGER.error("job %s, attempt %s: %s", job.id, job.attempts, place_of(error))
            if self._queue.is_last_try(job):
                self._fail(attempt, reason, cause_of(error))
            else:
                self._queue.retry_at(job, utc_now() + self._queue.retry_delay(job.tries), reason)

    def _try(self, attempt: _Attempt, report: Progress) -> None:
        """Run an attempt at a job up to its results. Raises an exception if it fails."""
        job = attempt.job
        report(0.0, "reading")
        attempt.images = images = open_images(self._database, self._settings, job)
        attempt.pipeline = pipeline = self._pipeline(job.pipeline)
        # A destination of the job may have been taken out of the configuration, or entered just now: this
        # machine will know it in a moment.
        for name in job.destinations:
            try:
                self._settings.peer(name)
            except NotFound as unknown:
                if is_behind(self._settings):
                    raise NotTakenOverYet(f"this machine has yet to take over the peer {name}") from None
                raise JobFailed(str(unknown), Cause.EQUIPMENT) from None
        if self._queue.gives_up(job):
            tries = min(job.tries - 1, self._settings.workers.attempts)
            raise JobFailed(f"given up after {tries} tries: {job.reason or 'its worker was lost'}")
        if not images.readable:
            raise (
                JobFailed(images.reasons, Cause.FORMAT)
                if images.reasons
                else JobFailed("there is no image any more", Cause.INCOMPLETE)
            )
        # Ask the pipeline; images that do not decode are left out, so that one does not spoil the rest.
        verdict, faults = self._analysis.accepts(pipeline, images.readable, job.options)
        self._leave_out(attempt, faults)
        others = [other for other in self._pipelines.values() if other is not pipeline]
        verdict = self._analysis.without_mistaken(verdict, pipeline, others, attempt.images.readable)
        attempt.refused = verdict.refused
        if isinstance(verdict, Refuse):
            if attempt.images.faults:  # the pipeline did not see these: the PACS gets a report
                raise JobFailed(attempt.images.reasons, Cause.FORMAT)
            # Out of scope: listed in the node; reported to the PACS only where the rule asks for it, or where
            # a person should look: then of these images alone.
            look_first = {one.source_uid for one in verdict.refused if one.look_first}
            tells = (rule := self._settings.rule(job.rule)) is not None and rule.tell_pacs_refusals
            if look_first and not tells:
                attempt.images = attempt.images.only(look_first)
            if look_first or tells:
                self._report_failure(attempt, JobState.NOT_APPLICABLE, verdict.reason, Cause.OBJECT_TYPE)
            else:
                self._results.end(job, JobState.NOT_APPLICABLE, verdict.reason, attempt.refused)
            return
        attempt.images = attempt.images.only(verdict.source_uids)

        def progress(share: float, what: str) -> None:
            """Report the pipeline's progress as the corresponding part of the whole job's."""
            report(_ACCEPTED + share * (_ANALYSED - _ACCEPTED), what)

        report(_ACCEPTED, "analysing")
        if offer := installed("answers").get(job.pipeline):  # another party analyses the images
            answer = offer.load()
            result, faults = answer(self._database, self._settings, job, attempt.images.readable), {}
        else:
            result, faults = self._analysis.run(pipeline, attempt.images.readable, job.options, progress)
        self._leave_out(attempt, faults)
        result = replace(result, quality=(*result.quality, *missing_notes(attempt.images, attempt.refused)))
        report(_ANALYSED, "building results")
        self._results.write(job, pipeline, attempt.images, result, attempt.refused)

    def _leave_out(self, attempt: _Attempt, faults: Mapping[str, str]) -> None:
        """Leave out the images in ``faults`` (UID -> reason), recording events; the others of the study are
        analysed.
        """
        if faults:
            job, attempt.images = attempt.job, attempt.images.without(faults)
            with self._database.write() as session:
                for uid, reason in faults.items():
                    record_of_job(session, job, IMAGE_LEFT_OUT, instance=uid, reason=reason)

    def _fail(self, attempt: _Attempt, reason: str, cause: Cause) -> None:
        """End the job as failed; the PACS gets a report that says so, unless the job had results before."""
        if attempt.job.analysed_at is None:
            self._report_failure(attempt, JobState.FAILED, reason, cause)
        else:
            self._results.end(attempt.job, JobState.FAILED, reason)

    def _report_failure(self, attempt: _Attempt, state: JobState, reason: str, cause: Cause) -> None:
        """Send the report that the AI did not analyse the images, and end the job in ``state``.

        If the memory of this process is exhausted, the job is put back so that another process writes the
        report.
        """
        job, refused = attempt.job, attempt.refused if state is JobState.NOT_APPLICABLE else ()
        known, again = attempt.images.all or attempt.images.unopened, self._queue.may_be_tried_again(job)
        if known and not (self._at_work.spent and again):  # not known: nothing says whose study it is
            try:
                with disk_apart():
                    self._results.write_failure(job, attempt.pipeline, known, state, reason, cause, refused)
                return
            except (LeaseLost, JobCancelled, StoreAway):
                raise
            except Exception as error:
                if is_outage(error):
                    raise
                self._at_work.spent |= lacks_memory(error)
                _LOGGER.error("job %s: the PACS gets no report: %s", job.id, place_of(error))
        if self._at_work.spent and again:
            self._queue.retry_at(job, utc_now(), reason)
        else:
            self._results.end(job, state, reason, refused)
