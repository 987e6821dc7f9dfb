"""A pipeline's run on the images of a job, without the images that fail."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TypeVar

from pydicom.uid import SecondaryCaptureImageStorage

from ai_pipeline.contract import (
    Accept,
    ImageHeader,
    Pipeline,
    PipelineResult,
    Progress,
    QualityNote,
    Refusal,
    Refuse,
    RefusedBy,
    SourceImage,
)
from ai_pipeline.errors import CleaningFailed, NoNumber, PixelError
from ai_pipeline.images.decode import DicomImage
from ai_pipeline.summary import without_research
from dicom_node.jobs.worker.at_work import AtWork
from dicom_node.jobs.worker.cleaning import WITHHELD, NothingCleaned
from dicom_node.jobs.worker.screens import ScreenLearner
from dicom_node.results.source import SourceObject

T = TypeVar("T")
_Fault = PixelError | NoNumber | CleaningFailed
_MOST_DECODED = 4
"""With more images than these, no image keeps its last decoded frame: a mammogram's frame is 42 MB."""


@dataclass(frozen=True, slots=True)
class ImageAnalysis:
    """Runs pipelines on images, leaving out images that fail. Text that was read in images leaves this
    process only as counts, by ``learner``.
    """

    at_work: AtWork
    learner: ScreenLearner

    def accepts(
        self, pipeline: Pipeline, sources: Sequence[SourceObject], options: Mapping[str, object]
    ) -> tuple[Accept | Refuse, Mapping[str, str]]:
        """Return which images the pipeline accepts, and for each image that could not be judged the reason,
        by UID.

        Raises WorkerSpent; PixelError or NoNumber if it can judge no image.
        """
        if not pipeline.card.per_image:
            return pipeline.accepts([source.image for source in sources], options), {}
        done, faults = self._each(sources, lambda _, source: pipeline.accepts([source.image], options))
        if not done:
            raise _as_one(faults.values())
        verdicts, in_words = done.values(), {uid: str(fault) for uid, fault in faults.items()}
        refused = tuple(refusal for verdict in verdicts for refusal in verdict.refused)
        taken = [uid for verdict in verdicts if isinstance(verdict, Accept) for uid in verdict.source_uids]
        if taken:
            return Accept(tuple(taken), refused), in_words
        reasons = dict.fromkeys(verdict.reason for verdict in verdicts if isinstance(verdict, Refuse))
        return Refuse("; ".join(reasons), refused), in_words

    def without_mistaken(
        self,
        verdict: Accept | Refuse,
        pipeline: Pipeline,
        others: Iterable[Pipeline],
        sources: Sequence[SourceObject],
    ) -> Accept | Refuse:
        """Return what the pipeline accepted without the Secondary Captures that another pipeline recognises.

        Their Modality is a person's word, and a pipeline may go by it alone: a chest film that is called
        ultrasound would be taken. ``others``: the other pipelines of this process.
        """
        if isinstance(verdict, Refuse):
            return verdict
        doubtful = [
            source
            for source in sources
            if source.image.uid in verdict.source_uids and _goes_by_word(pipeline, source.image.header)
        ]
        mistaken: dict[str, str] = {}
        for other in others:
            if other.card.recognises:
                mistaken |= self._recognised(other, doubtful)
        refused = (
            *verdict.refused,
            *(Refusal(uid, model, RefusedBy.PIXELS) for uid in mistaken for model in pipeline.models()[:1]),
        )
        taken = tuple(uid for uid in verdict.source_uids if uid not in mistaken)
        if taken:
            return Accept(taken, refused)
        return Refuse("; ".join(dict.fromkeys(mistaken.values())), refused)

    def _recognised(self, pipeline: Pipeline, sources: Sequence[SourceObject]) -> dict[str, str]:
        """Return why the images that the pipeline recognises are not what their modality says, by UID."""
        card = pipeline.card
        [modality, *_] = sorted(card.modalities)
        unlike = [source for source in sources if source.image.header.modality not in card.modalities]
        judged, _ = self._each(
            unlike, lambda _, source: pipeline.accepts([_with_modality(source.image, modality)])
        )
        said = {source.image.uid: source.image.header.modality for source in unlike}
        return {
            uid: f"the pixels look like {card.recognises}, and it was sent as {said[uid]}: send it as that"
            for uid, judgement in judged.items()
            if isinstance(judgement, Accept)
        }

    def run(
        self,
        pipeline: Pipeline,
        sources: Sequence[SourceObject],
        options: Mapping[str, object],
        report: Progress,
    ) -> tuple[PipelineResult, Mapping[str, str]]:
        """Return the pipeline's result, and the reason for each image that was left out, by UID.

        An image that cannot be cleaned of burned-in text is left out with a note. An image that cannot be
        decoded, or for which the model gives no number, is left out as a fault. Raises CleaningFailed,
        PixelError or NoNumber if no image is left, WorkerSpent, and the exceptions of the pipeline.
        """
        if not pipeline.card.per_image:
            return self._run(pipeline, sources, options, report), {}

        def run_one(number: int, source: SourceObject) -> PipelineResult:
            """Run the pipeline on one image, reporting progress as a part of all images."""
            return self._run(
                pipeline, [source], options, lambda share, what: report((number + share) / len(sources), what)
            )

        done, faults = self._each(sources, run_one, report)
        withheld = {
            uid: QualityNote(WITHHELD, f"no cleaned picture: {fault}", uid, places=fault.places)
            for uid, fault in faults.items()
            if isinstance(fault, CleaningFailed)
        }
        if withheld and not done:
            raise NothingCleaned(str(faults[next(iter(withheld))]), list(withheld.values()))
        if not done:
            raise _as_one(faults.values())
        for uid, note in withheld.items():
            done[uid] = PipelineResult(quality=(note,), models=pipeline.models())
        in_order = [done[uid] for uid in (source.image.uid for source in sources) if uid in done]
        left_out = {uid: str(fault) for uid, fault in faults.items() if uid not in withheld}
        return PipelineResult.joined(in_order), left_out

    def _each(
        self,
        sources: Sequence[SourceObject],
        analyse: Callable[[int, SourceObject], T],
        report: Progress | None = None,
    ) -> tuple[dict[str, T], dict[str, _Fault]]:
        """Call ``analyse`` with index and image for each image; return the results, and the faults of the
        images without a result, by UID.
        """
        done = {}
        faults: dict[str, _Fault] = {}
        for number, source in enumerate(sources):
            if report:  # a job that is to stop stops here, which is not this image's fault
                report(number / len(sources), f"image {number + 1} of {len(sources)}")
            try:
                with self.at_work.at(source.path.name):
                    done[source.image.uid] = analyse(number, source)
            except (PixelError, NoNumber, CleaningFailed) as fault:
                faults[source.image.uid] = fault
            if len(sources) > _MOST_DECODED and isinstance(source.image, DicomImage):
                source.image.forget()
        return done, faults

    def _run(
        self,
        pipeline: Pipeline,
        sources: Sequence[SourceObject],
        options: Mapping[str, object],
        report: Progress,
    ) -> PipelineResult:
        """Run the pipeline and return its result, without findings that are for research only and without the
        text that it read.
        """
        result = pipeline.run([source.image for source in sources], report, options)
        for source in sources:
            own = [reading for reading in result.readings if reading.source_uid == source.image.uid]
            self.learner.learn(source.image, own)
        return replace(without_research(result), readings=())


def _goes_by_word(pipeline: Pipeline, header: ImageHeader) -> bool:
    """Whether an image is a Secondary Capture with a modality by which the pipeline goes."""
    return (
        header.sop_class_uid == SecondaryCaptureImageStorage and header.modality in pipeline.card.modalities
    )


def _with_modality(image: SourceImage, modality: str) -> SourceImage:
    """The image as if its header had this modality."""
    other = copy(image)
    if isinstance(other, DicomImage):
        other.header = replace(other.header, modality=modality)
    return other


def _as_one(faults: Collection[Exception]) -> PixelError | NoNumber:
    """Return one error for the faults of all images: NoNumber if the model is at fault for each, otherwise
    PixelError.
    """
    words = "; ".join(dict.fromkeys(map(str, faults)))
    return NoNumber(words) if all(isinstance(fault, NoNumber) for fault in faults) else PixelError(words)
