"""Ask a pipeline about the images of a job: one by one where it can, and what was asked ahead is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ai_pipeline.contract import CleaningFailed, Pipeline, PipelineResult, Progress, QualityNote
from dicom_node.jobs.analyses import Analyses, key_of, merged
from dicom_node.jobs.cleaning import WITHHELD
from dicom_node.jobs.readings import ReadingRecord
from dicom_node.results import SourceObject


def analyse(
    pipeline: Pipeline,
    sources: Sequence[SourceObject],
    options: Mapping[str, object],
    report: Progress,
    kept: Analyses,
    readings: ReadingRecord,
) -> PipelineResult:
    """The pipeline's result for these images; what it read in them goes to ``readings`` alone.

    An image that cannot be cleaned is left out with a note. Raises CleaningFailed when none can, PixelError,
    and whatever the pipeline raises.
    """
    if not pipeline.per_image:
        return _run(pipeline, sources, options, report, readings)
    results: list[PipelineResult] = []
    failures: list[CleaningFailed] = []
    for number, source in enumerate(sources):
        report(number / len(sources), f"image {number + 1} of {len(sources)}")
        key = key_of(pipeline, options, source.path.name, source.pixels_sha256)
        try:
            part = _part(report, number, len(sources))
            results.append(kept.get(key) or _run(pipeline, [source], options, part, readings))
        except CleaningFailed as failure:
            failures.append(failure)
            note = QualityNote(WITHHELD, f"no cleaned picture: {failure}", source.image.uid)
            results.append(PipelineResult(quality=(note,), models=pipeline.models()))
    if failures and len(failures) == len(sources):
        raise failures[0]
    return merged(results)


def forget(
    pipeline: Pipeline, sources: Sequence[SourceObject], options: Mapping[str, object], kept: Analyses
) -> None:
    """The results are released: what was kept of these images is not needed any more."""
    for source in sources:
        kept.drop(key_of(pipeline, options, source.path.name, source.pixels_sha256))


def _run(
    pipeline: Pipeline,
    sources: Sequence[SourceObject],
    options: Mapping[str, object],
    report: Progress,
    readings: ReadingRecord,
) -> PipelineResult:
    result = pipeline.run([source.image for source in sources], report, options)
    return readings.take(pipeline, options, [source.image.uid for source in sources], result)


def _part(report: Progress, number: int, count: int) -> Progress:
    """A report of one image's progress as its part of all."""

    def part(share: float, what: str) -> None:
        report((number + share) / count, what)

    return part
