"""Runs a second model beside the active one: the outputs of both are stored, and none is sent.

A worker without a job and without an image to analyse ahead has a finished job compared: the active model and
its shadow model run on the job's images again, in a separate process
(:mod:`dicom_node.jobs.worker.comparison`). The outputs are numbers in the table ``shadow_score``: no result
object is built from them, so none can be sent. The process is killed when the worker gets a job or an image,
or ends: nothing waits for a model that never ends, and the worker's own memory is not used.
"""

from __future__ import annotations

import logging
import os
import select as polling
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta

from sqlalchemy import exists, select

from ai_pipeline.errors import CardError, PluginError
from ai_pipeline.models.store.folder import in_use
from ai_pipeline.pipelines import card_of
from dicom_node.config.settings import Settings
from dicom_node.model.lifecycle import JobState
from dicom_node.store.database import Database
from dicom_node.store.tables import Job, ShadowScore
from dicom_node.store.transitions import utc_now

_LOGGER = logging.getLogger(__name__)
_BACK = timedelta(hours=1)  # jobs that ended so long before this worker started are compared too
_LOOK_SECONDS = 2.0  # between two looks at the database when nothing waits
_MOST_DONE = 500  # jobs that are remembered; then only newer ones are looked at


class Shadow:
    """Compares the active model with its shadow model on finished jobs, while the worker is idle."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database, self._settings = database, settings
        self._since = utc_now() - _BACK
        self._look_at = 0.0
        self._done: set[int] = set()  # by this worker, whatever came of it
        self._process: subprocess.Popen[bytes] | None = None
        self._job, self._began = 0, 0.0
        self._cards = dict(_cards_in_shadow(settings))

    def look(self) -> None:
        """Check the running comparison, and start the next one if it has ended. Never waits."""
        if not self._cards or (self._process is None and time.monotonic() < self._look_at):
            return
        if self._process is not None and not self._has_ended(self._process):
            return
        jobs = (self._next(pipeline, card_sha256) for pipeline, card_sha256 in self._cards.items())
        job = next((job for job in jobs if job is not None), None)
        if job is None:
            self._look_at = time.monotonic() + _LOOK_SECONDS
            self.give_way()
            return
        self._begin(job)

    def give_way(self) -> None:
        """Stop the comparison at once; its job is compared later."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _has_ended(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether the comparison of the job is over, well or not: it is not tried again by this worker."""
        assert process.stdout is not None
        limit = self._settings.workers.time_limit_seconds
        if process.poll() is not None:
            why = f"its process ended with {process.returncode}"
        elif time.monotonic() - self._began > limit:
            why = f"it took longer than {limit:g} s"
        elif polling.select([process.stdout], [], [], 0)[0]:
            # What a library prints is no answer; an end of file is seen by the next poll.
            if b"compared" not in os.read(process.stdout.fileno(), 65536).split(b"\n"):
                return False
            why = ""
        else:
            return False
        if why:
            _LOGGER.warning("job %s could not be compared: %s", self._job, why)
            self.give_way()
        self._done.add(self._job)
        if len(self._done) > _MOST_DONE:
            self._done, self._since = {self._job}, utc_now()
        return True

    def _begin(self, job: int) -> None:
        given = f"{job}\n"
        if self._process is None:
            command = [sys.executable, "-P", "-m", "dicom_node.jobs.worker.comparison"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            given = f"{self._settings.model_dump_json()}\n{given}"
        self._job, self._began = job, time.monotonic()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(given.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended: the next look says so

    def _next(self, pipeline: str, card_sha256: str) -> int | None:
        """The oldest job of a pipeline that ended since and is not compared yet."""
        compared = exists().where(ShadowScore.job_id == Job.id, ShadowScore.card_sha256 == card_sha256)
        with self._database.read() as session:
            return session.scalar(
                select(Job.id)
                .where(
                    Job.pipeline == pipeline,
                    Job.state == JobState.SUCCEEDED,
                    Job.finished_at >= self._since,
                    Job.id.not_in(self._done),
                    ~compared,
                )
                .order_by(Job.id)
                .limit(1)
            )


def _cards_in_shadow(settings: Settings) -> Iterator[tuple[str, str]]:
    """The pipelines of rules with a model in their shadow, each with the SHA-256 of that model's card."""
    for name in sorted({rule.pipeline for rule in settings.rules if settings.workers.takes(rule.pipeline)}):
        try:
            slot = card_of(name).slot("shadow")
            card = in_use(slot, settings.workers.models_dir) if slot else None
        except (KeyError, PluginError, CardError) as error:
            _LOGGER.error("no model runs in the shadow of %s: %s", name, error)
            continue
        if card is not None:
            yield name, card.sha256
