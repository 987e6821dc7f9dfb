"""Analyses images as they arrive, while their study is still being received.

A worker without a job takes the next image that a rule wants, runs the pipeline on it alone, and stores the
result for the study's job. It stops as soon as a job waits. An error here only costs time: the job analyses
the image again and reports the error.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from ai_pipeline.contract import Accept, Pipeline, Progress
from ai_pipeline.shown import without_research
from dicom_node.config.settings import RuleSettings, Settings
from dicom_node.errors import JobStopped, TimeLimitReached, WorkerSpent
from dicom_node.jobs.enqueue import image_facts
from dicom_node.jobs.rules import StudyFacts, decide
from dicom_node.jobs.worker.at_work import AtWork
from dicom_node.jobs.worker.images import device_rules_of, opened, shape_sha256
from dicom_node.jobs.worker.kept_analyses import Analyses, key_of
from dicom_node.jobs.worker.readings import ReadingRecord
from dicom_node.model.kinds import ObjectRole
from dicom_node.model.lifecycle import StudyState
from dicom_node.object_store.files import Files
from dicom_node.store import queue
from dicom_node.store.burned_in import reviews
from dicom_node.store.burned_in.reviews import Drawn
from dicom_node.store.database import Database
from dicom_node.store.tables import Instance, Study
from dicom_node.store.transitions import utc_now

_LOGGER = logging.getLogger(__name__)
_CHECK_SECONDS = 0.5  # how often an analysis looks whether a job is free
_FORGET_SECONDS = 3600.0
_GRACE_SECONDS = 10.0
_SILENCE_SECONDS = 60.0  # a job waits so long for an analysis ahead that reports no progress


class _GiveWay(JobStopped):
    """A job is free, or the worker stops."""


@dataclass(frozen=True, slots=True)
class _Image:
    """An image of a study that is being received, and what rules want with it."""

    id: int
    path: str
    pixels_sha256: str
    by_hand: Drawn | None
    rules: tuple[RuleSettings, ...]


class Ahead:
    """Analyses single images before their study's job.

    ``pipelines`` returns a pipeline by its name; ``begins`` is called before an image is analysed.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        analyses: Analyses,
        pipelines: Callable[[str], Pipeline],
        stopping: threading.Event,
        at_work: AtWork,
        begins: Callable[[], None] = lambda: None,
    ) -> None:
        self._database, self._settings = database, settings
        self._analyses, self._pipelines, self._stopping = analyses, pipelines, stopping
        self._at_work, self._begins = at_work, begins
        self._readings = ReadingRecord(database, settings)
        self._seen = 0  # instance ids rise: an image is looked at once
        self._forgot_at = 0.0

    def run_once(self) -> bool:
        """Analyse one image; returns False if no image waits."""
        self._forget_old()
        image = self._next()
        if image is None:
            return False
        try:
            for rule in image.rules:
                self._analyse(image, rule)
        except _GiveWay:
            return True
        except WorkerSpent:
            raise
        except Exception as error:  # noqa: BLE001  (a pipeline may raise anything; the job will tell it)
            _LOGGER.info("an image could not be analysed ahead: %s", type(error).__name__)
        self._seen = max(self._seen, image.id)
        return True

    def _next(self) -> _Image | None:
        with self._database.read() as session:
            row = session.execute(
                select(Instance, Study.study_date)
                .join(Instance.study)
                .where(
                    Instance.id > self._seen,
                    Instance.role == ObjectRole.SOURCE,
                    Study.state == StudyState.RECEIVING,
                )
                .order_by(Instance.id)
                .limit(1)
            ).first()
            if row is None:
                return None
            instance, study_date = row
            facts = StudyFacts(study_date, utc_now().date())
            decisions = decide(self._settings.rules, facts, [image_facts(instance, self._settings)])
            takes = self._settings.workers.takes
            rules = tuple(one.rule for one in decisions if not one.held_reason and takes(one.rule.pipeline))
            by_hand = reviews.drawn(session, [instance.sop_instance_uid]).get(instance.sop_instance_uid)
            return _Image(instance.id, instance.path, instance.pixels_sha256, by_hand, rules)

    def _analyse(self, image: _Image, rule: RuleSettings) -> None:
        pipeline = self._pipelines(rule.pipeline)
        if not pipeline.card.per_image:
            return
        with self._database.read() as session:
            path = Files(self._settings).if_here(session, image.path)
        if path is None:
            return
        source = opened(path, self._settings, image.by_hand)
        source.check_decodable()
        shape = shape_sha256(image.pixels_sha256, source.header, device_rules_of(self._settings))
        key = key_of(pipeline, rule.options, path.name, shape)
        if not self._analyses.claim(key):
            return
        try:
            self._check_for_job()
            self._begins()
            leave = partial(self._at_work.leave, path.name)
            with self._at_work.at(path.name), self._watched(leave) as progress:
                if isinstance(pipeline.accepts([source], rule.options), Accept):
                    result = pipeline.run([source], progress, rule.options)
                    shown = without_research(result)
                    kept = self._readings.take(pipeline, rule.options, [source.uid], shown)
                    self._analyses.put(key, kept)
        except _GiveWay:
            self._analyses.drop(key)  # the claim too: it may be made later
            raise

    @contextmanager
    def _watched(self, leave: Callable[[], None]) -> Iterator[Progress]:
        """Progress of one analysis under a watchdog: if it hangs, this process ends; the node starts another.

        After the time limit of a job, or sooner when a job waits: then ``leave`` is called, so that the image
        is not recorded as a loss.
        """
        limit = self._settings.workers.time_limit_seconds
        started = moved = time.monotonic()
        ended = threading.Event()

        def report(share: float, what: str) -> None:  # noqa: ARG001  (no row shows this progress)
            nonlocal moved
            now = time.monotonic()
            if now - moved < _CHECK_SECONDS and not self._stopping.is_set():
                return
            moved = now
            if now - started > limit:
                raise TimeLimitReached(f"took longer than {limit:g} s")
            self._check_for_job()

        def watch() -> None:
            while not ended.wait(_CHECK_SECONDS):
                now = time.monotonic()
                if now - started > limit + _GRACE_SECONDS:
                    _end("does not come to an end")
                if now - moved > _SILENCE_SECONDS and self._is_job_free():
                    leave()
                    _end("does not give way to a job")

        threading.Thread(target=watch, name="watch-ahead", daemon=True).start()
        try:
            yield report
        finally:
            ended.set()

    def _is_job_free(self) -> bool:
        try:
            with self._database.read() as session:
                return queue.work(session, utc_now(), self._settings.workers).free
        except SQLAlchemyError:
            return False

    def _check_for_job(self) -> None:
        if self._stopping.is_set():
            raise _GiveWay("the worker stops")
        if self._is_job_free():
            raise _GiveWay("a job is free")

    def _forget_old(self) -> None:
        now = time.monotonic()
        if now - self._forgot_at > _FORGET_SECONDS:
            self._forgot_at = now
            self._analyses.forget_old()
            self._at_work.forget_old()


def _end(why: str) -> None:
    _LOGGER.error("an image analysed ahead %s: this worker ends", why)
    os._exit(1)
