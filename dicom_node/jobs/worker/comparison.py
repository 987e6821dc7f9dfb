"""Compares two models on the images of finished jobs: ``python -m dicom_node.jobs.worker.comparison``.

Standard input has the settings as one line of JSON, then the number of a job on each line; standard output
gets one line when that job is compared. :mod:`dicom_node.jobs.worker.shadow` starts this process and ends it
at any time.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from ai_pipeline import confinement
from ai_pipeline.contract import Accept, Decision, Finding, Pipeline
from ai_pipeline.errors import ModelError
from ai_pipeline.images.decode import DicomImage, open_dicom
from ai_pipeline.models.store.folder import in_use
from ai_pipeline.pipelines import card_of, create, option_faults
from dicom_node import logs
from dicom_node.child import give_way, limit_memory
from dicom_node.config.settings import Settings
from dicom_node.object_store.files import Files
from dicom_node.store.database import Database
from dicom_node.store.tables import Instance, Job, ShadowScore
from dicom_node.store.transitions import utc_now

_LOGGER = logging.getLogger(__name__)


def main() -> int:
    """Compare jobs until standard input ends."""
    confinement.die_with_parent(os.getppid())
    settings = Settings.model_validate_json(sys.stdin.readline())
    logs.configure(settings.node.log_level, f"shadow {os.getpid()}", settings.log_target)
    give_way()
    limit_memory(settings.workers.memory_mib)
    database = Database(settings.database_url)
    for line in sys.stdin:
        _compare(database, settings, int(line))
        sys.stdout.write("\ncompared\n")  # a line of its own, whatever a pipeline printed
        sys.stdout.flush()
    return 0


@cache
def _pipelines(name: str, models_dir: Path | None) -> tuple[Pipeline, ...]:
    """The pipeline with its active model, and with the one in its shadow; none where there is none."""
    slot = card_of(name).slot("shadow")
    card = in_use(slot, models_dir) if slot else None
    if card is None:
        return ()
    pair = create(name, models_dir=models_dir), create(name, models_dir=models_dir, card=card)
    for pipeline in pair:
        pipeline.warm_up()
    return pair


def _compare(database: Database, settings: Settings, job: int) -> None:
    """All images at once: a job whose comparison was ended is compared again from its first."""
    with database.read() as session:
        asked = select(Job.pipeline, Job.options, Job.source_uids).where(Job.id == job)
        name, options, uids = session.execute(asked).one()
        chosen = select(Instance.id, Instance.path).where(
            Instance.sop_instance_uid.in_(uids), Instance.purged.is_(False)
        )
        files = Files(settings)
        images = {number: files.here(session, path) for number, path in session.execute(chosen)}
    pair = _pipelines(name, settings.workers.models_dir)
    rows = [
        row
        for number, path in images.items()
        for row in (_compared(settings, job, options, number, path, *pair) if pair else ())
    ]
    try:
        with database.write() as session:
            session.add_all(rows)
    except IntegrityError:  # another worker was faster
        _LOGGER.info("job %s is compared already", job)


def _compared(
    settings: Settings,
    job: int,
    options: Mapping[str, object],
    instance: int,
    path: Path,
    first: Pipeline,
    second: Pipeline,
) -> list[ShadowScore]:
    """What both models say of the labels that both have."""
    image = open_dicom(path, settings.images.limits)
    ours = _findings(first, image, _usable(first, options))
    theirs = _findings(second, image, _usable(second, options))
    return [_score(job, instance, ours[label], theirs[label]) for label in ours if label in theirs]


def _findings(pipeline: Pipeline, image: DicomImage, options: Mapping[str, object]) -> dict[str, Finding]:
    """What a model says of all its labels; nothing where it refuses the image."""
    if not isinstance(pipeline.accepts([image], options), Accept):
        return {}
    return {finding.label: finding for finding in pipeline.run([image], _no_report, options).findings}


def _usable(pipeline: Pipeline, options: Mapping[str, object]) -> dict[str, object]:
    """The job's options without those that this model cannot follow, and as models are compared."""
    wanted = {**options, **(pipeline.card.compared_with or {})}
    faults = option_faults(pipeline, wanted)
    return {key: value for key, value in wanted.items() if key not in faults}


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


def _no_report(share: float, what: str) -> None:
    """Report no progress: nobody waits for a comparison."""


if __name__ == "__main__":
    sys.exit(main())
