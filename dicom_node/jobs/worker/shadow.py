"""A second model beside the active one: what both say of the same images is kept, and none of it is sent.

A worker that has neither a job nor an image to analyse ahead takes a job of ``chest_xray`` that succeeded,
and runs the active model and the one in its shadow on the job's images again. What comes of it are numbers
in the table ``shadow_score``: no result object is built of it, so none can leave. It stops as soon as a job
is free.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

from sqlalchemy import exists, select
from sqlalchemy.exc import IntegrityError

from ai_pipeline.chest.pipeline import ChestXray
from ai_pipeline.contract import Accept, Decision, Finding, Pipeline, Progress
from ai_pipeline.errors import CardError, ModelError
from ai_pipeline.images.decode import DicomImage, open_dicom
from ai_pipeline.models.store.folder import in_shadow
from dicom_node.config.settings import Settings
from dicom_node.errors import JobStopped, WorkerSpent
from dicom_node.jobs.worker.at_work import AtWork
from dicom_node.model.lifecycle import JobState
from dicom_node.object_store.files import Files
from dicom_node.store.database import Database
from dicom_node.store.tables import Instance, Job, ShadowScore
from dicom_node.store.transitions import utc_now

_LOGGER = logging.getLogger(__name__)
_BACK = timedelta(hours=1)  # jobs that ended so long before this worker started are compared too
_LOOK_SECONDS = 2.0  # between two looks at the database when nothing waits
_MOST_DONE = 500  # jobs that are remembered; then only newer ones are looked at
_NOT_COMPARED = frozenset({"clean", "heatmaps", "outlines", "ratio"})
"""Options that add pictures and measurements, which are no findings of the classifier."""


@dataclass(frozen=True, slots=True)
class _EndedJob:
    """A job that succeeded: ``images`` by row number of their instance."""

    id: int
    options: Mapping[str, object]
    images: Mapping[int, Path]


class Shadow:
    """Compares the active chest model with the one in its shadow.

    ``watched``: of :class:`.ahead.Ahead`. ``at_work``: not that of jobs, where an image that the model in the
    shadow fails at would be left out.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        pipelines: Callable[[str], Pipeline],
        watched: Callable[[Callable[[], None]], AbstractContextManager[Progress]],
        at_work: AtWork,
    ) -> None:
        self._database, self._settings = database, settings
        self._pipelines, self._watched, self._at_work = pipelines, watched, at_work
        self._since = utc_now() - _BACK
        self._look_at = 0.0
        self._done: set[int] = set()  # by this worker, whatever came of it
        self._second: ChestXray | None = None
        try:
            takes = settings.workers.takes(ChestXray.name)
            self._card = in_shadow(settings.workers.models_dir) if takes else None
        except CardError as error:
            _LOGGER.error("no model runs in shadow: %s", error)
            self._card = None

    @property
    def spent(self) -> bool:
        """Whether memory ran out: this process shall end."""
        return self._at_work.spent

    def run_once(self) -> bool:
        """Compare one job; False when there is none, or no model in shadow."""
        if self._card is None or time.monotonic() < self._look_at:
            return False
        job = self._next(self._card.sha256)
        if job is None:
            self._look_at = time.monotonic() + _LOOK_SECONDS
            self._at_work.forget_old()
            return False
        try:
            # All images at once: a job that had to give way is compared again from its first.
            self._keep(
                job, [row for number, path in job.images.items() for row in self._compared(job, number, path)]
            )
        except JobStopped:  # a job is free: it comes first
            return True
        except WorkerSpent:
            raise
        except Exception as error:  # noqa: BLE001  (a model may raise anything; no job depends on it)
            _LOGGER.warning("job %s could not be compared: %s", job.id, type(error).__name__)
        self._done.add(job.id)
        if len(self._done) > _MOST_DONE:
            self._done, self._since = {job.id}, utc_now()
        return True

    def _next(self, card_sha256: str) -> _EndedJob | None:
        """The oldest job that ended since and is not compared yet, with its images that are still there."""
        compared = exists().where(ShadowScore.job_id == Job.id, ShadowScore.card_sha256 == card_sha256)
        with self._database.read() as session:
            rows = session.execute(
                select(Job.id, Job.options, Job.source_uids)
                .where(
                    Job.pipeline == ChestXray.name,
                    Job.state == JobState.SUCCEEDED,
                    Job.finished_at >= self._since,
                    Job.id.not_in(self._done),
                    ~compared,
                )
                .order_by(Job.id)
                .limit(1)
            ).first()
            if rows is None:
                return None
            found = session.execute(
                select(Instance.id, Instance.path).where(
                    Instance.sop_instance_uid.in_(rows.source_uids), Instance.purged.is_(False)
                )
            ).all()
            files = Files(self._settings)
            paths = {number: files.here(session, path) for number, path in found}
        return _EndedJob(rows.id, rows.options, paths)

    def _compared(self, job: _EndedJob, instance: int, path: Path) -> list[ShadowScore]:
        """What both models say of the labels that both have."""
        first, second = self._pipelines(ChestXray.name), self._second_pipeline()
        image = open_dicom(path, self._settings.images.limits)
        leave = partial(self._at_work.leave, path.name)
        with self._at_work.at(path.name), self._watched(leave) as progress:
            ours = _findings(first, image, _usable(first, job.options), progress)
            theirs = _findings(second, image, _usable(second, job.options), progress)
        return [_score(job.id, instance, ours[label], theirs[label]) for label in ours if label in theirs]

    def _second_pipeline(self) -> ChestXray:
        if self._second is None:
            self._second = ChestXray(models_dir=self._settings.workers.models_dir, card=self._card)
            self._second.warm_up()
        return self._second

    def _keep(self, job: _EndedJob, rows: Sequence[ShadowScore]) -> None:
        try:
            with self._database.write() as session:
                session.add_all(rows)
        except IntegrityError:  # another worker was faster
            _LOGGER.info("job %s is compared already", job.id)


def _findings(
    pipeline: Pipeline, image: DicomImage, options: Mapping[str, object], progress: Progress
) -> dict[str, Finding]:
    """What a model says of all its labels; nothing where it refuses the image."""
    if not isinstance(pipeline.accepts([image], options), Accept):
        return {}
    return {finding.label: finding for finding in pipeline.run([image], progress, options).findings}


def _usable(pipeline: Pipeline, options: Mapping[str, object]) -> dict[str, object]:
    """The job's options without those that this model cannot follow; all its labels, hidden ones too."""
    known = {key: value for key, value in options.items() if key not in _NOT_COMPARED}
    faults = pipeline.option_faults(known) if isinstance(pipeline, ChestXray) else {}
    return {key: value for key, value in known.items() if key not in faults} | {
        "all_labels": True,
        "ratio": "off",
    }


def _score(job: int, instance: int, ours: Finding, theirs: Finding) -> ShadowScore:
    if theirs.model is None or ours.model is None:
        raise ModelError("a finding without its model")
    return ShadowScore(
        job_id=job,
        instance_id=instance,
        card_sha256=theirs.model.card_sha256,
        label=theirs.label,
        day=utc_now().date(),
        model=f"{theirs.model.id}@{theirs.model.version}",
        active_model=f"{ours.model.id}@{ours.model.version}",
        probability=theirs.probability,
        active_probability=ours.probability,
        called=theirs.decision is Decision.PRESENT,
        active_called=ours.decision is Decision.PRESENT,
    )
