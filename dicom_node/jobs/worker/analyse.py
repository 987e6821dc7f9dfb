"""Runs a pipeline on the images of a job, one by one if possible."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ai_pipeline.contract import Accept, Pipeline, PipelineResult, Progress, QualityNote, Refuse
from ai_pipeline.errors import CleaningFailed, NoNumber, PixelError
from ai_pipeline.images.decode import DicomImage
from ai_pipeline.shown import without_research
from dicom_node.jobs.worker.at_work import AtWork
from dicom_node.jobs.worker.cleaning import WITHHELD, NothingCleaned
from dicom_node.jobs.worker.readings import ReadingRecord
from dicom_node.results import SourceObject

_MOST_DECODED = 4
"""With more images than these, no image keeps its last decoded frame: a mammogram's frame is 42 MB."""


@dataclass(frozen=True, slots=True)
class Analysed:
    """The findings, and the reason for each image that was left out, by UID."""

    result: PipelineResult
    faults: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Which images the pipeline accepts; for each image that could not be judged the reason, by UID."""

    verdict: Accept | Refuse
    faults: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ImageAnalysis:
    """Runs pipelines on images; ``readings`` receives text read in images."""

    readings: ReadingRecord
    at_work: AtWork

    def accepts(
        self, pipeline: Pipeline, sources: Sequence[SourceObject], options: Mapping[str, object]
    ) -> Acceptance:
        """Which images the pipeline accepts.

        Raises WorkerSpent; PixelError or NoNumber if it can judge no image.
        """
        if not pipeline.card.per_image:
            return Acceptance(pipeline.accepts([source.image for source in sources], options), {})
        verdicts: list[Accept | Refuse] = []
        faults: dict[str, PixelError | NoNumber] = {}
        for source in sources:
            try:
                with self.at_work.at(source.path.name):
                    verdicts.append(pipeline.accepts([source.image], options))
            except (PixelError, NoNumber) as fault:
                faults[source.image.uid] = fault
            _forget_pixels(source, sources)
        if not verdicts:
            raise _as_one(faults.values())
        return Acceptance(_joined(verdicts), _in_words(faults))

    def run(
        self,
        pipeline: Pipeline,
        sources: Sequence[SourceObject],
        options: Mapping[str, object],
        report: Progress,
    ) -> Analysed:
        """The pipeline's result for these images; text read in the images goes to ``readings`` only.

        An image that cannot be cleaned is left out with a note. An image that cannot be decoded, or for which
        the model gives no number, is left out as a fault. Raises CleaningFailed, PixelError or NoNumber if no
        image is left, WorkerSpent, and the exceptions of the pipeline.
        """
        if not pipeline.card.per_image:
            return Analysed(self._run(pipeline, sources, options, report), {})
        results: list[PipelineResult] = []
        faults: dict[str, PixelError | NoNumber] = {}
        withheld: list[QualityNote] = []
        failures: list[CleaningFailed] = []
        for number, source in enumerate(sources):
            report(number / len(sources), f"image {number + 1} of {len(sources)}")
            try:
                with self.at_work.at(source.path.name):
                    results.append(
                        self._run(pipeline, [source], options, _part(report, number, len(sources)))
                    )
            except (PixelError, NoNumber) as fault:
                faults[source.image.uid] = fault
            except CleaningFailed as failure:
                failures.append(failure)
                text = f"no cleaned picture: {failure}"
                note = QualityNote(WITHHELD, text, source.image.uid, places=failure.places)
                withheld.append(note)
                results.append(PipelineResult(quality=(note,), models=pipeline.models()))
            _forget_pixels(source, sources)
        if len(failures) + len(faults) == len(sources):
            if failures:
                raise NothingCleaned(str(failures[0]), withheld)
            raise _as_one(faults.values())
        return Analysed(PipelineResult.joined(results), _in_words(faults))

    def _run(
        self,
        pipeline: Pipeline,
        sources: Sequence[SourceObject],
        options: Mapping[str, object],
        report: Progress,
    ) -> PipelineResult:
        result = pipeline.run([source.image for source in sources], report, options)
        uids = [source.image.uid for source in sources]
        return self.readings.take(pipeline, options, uids, without_research(result))


def _joined(verdicts: Sequence[Accept | Refuse]) -> Accept | Refuse:
    """The verdicts on single images as one."""
    taken = tuple(uid for verdict in verdicts if isinstance(verdict, Accept) for uid in verdict.source_uids)
    refused = tuple(refusal for verdict in verdicts for refusal in verdict.refused)
    if taken:
        return Accept(taken, refused)
    reasons = [verdict.reason for verdict in verdicts if isinstance(verdict, Refuse)]
    return Refuse("; ".join(dict.fromkeys(reasons)), refused)


def _in_words(faults: Mapping[str, PixelError | NoNumber]) -> dict[str, str]:
    return {uid: str(fault) for uid, fault in faults.items()}


def _as_one(faults: Collection[PixelError | NoNumber]) -> PixelError | NoNumber:
    """The faults of all images as one: the model's where it is at fault for each."""
    words = "; ".join(dict.fromkeys(map(str, faults)))
    return NoNumber(words) if all(isinstance(fault, NoNumber) for fault in faults) else PixelError(words)


def _forget_pixels(source: SourceObject, among: Sequence[SourceObject]) -> None:
    if len(among) > _MOST_DECODED and isinstance(source.image, DicomImage):
        source.image.forget()


def _part(report: Progress, number: int, count: int) -> Progress:
    """A report of one image's progress as its part of all."""

    def part(share: float, what: str) -> None:
        report((number + share) / count, what)

    return part
