"""The outcome of cleaning for the images of a job: counts for events, and images for a person's review."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session

from ai_pipeline.contract import ImageKind, Pipeline, PipelineResult, QualityNote
from ai_pipeline.errors import CleaningFailed
from dicom_node.events import CLEANING_WITHHELD, IMAGES_CLEANED
from dicom_node.jobs.queue import ClaimedJob
from dicom_node.model.kinds import ReviewCause
from dicom_node.results import SourceObject
from dicom_node.store import burned_in
from dicom_node.store.transitions import record

WITHHELD: Final = "cleaning_failed"
"""The quality note on an image of which no cleaned picture is handed back."""
_CAUSES: Final = {WITHHELD: ReviewCause.WITHHELD} | {
    cause.value: cause for cause in (ReviewCause.IN_DOUBT, ReviewCause.BLACKED_OUT, ReviewCause.WIDENED)
}


class NothingCleaned(CleaningFailed):
    """No image of the job could be cleaned; ``notes`` give the reason for each."""

    def __init__(self, text: str, notes: Sequence[QualityNote]) -> None:
        super().__init__(text)
        self.notes = tuple(notes)


@dataclass(frozen=True, slots=True)
class Cleaning:
    """Counts of a job's images: cleaned (of these: filled wider, blacked out), and withheld.

    ``seen``: SOP Instance UIDs of all judged images; ``asked``: the reviews that a person should make of
    them.
    """

    cleaned: int = 0
    widened: int = 0
    blacked_out: int = 0
    withheld: int = 0
    seen: tuple[str, ...] = ()
    asked: tuple[burned_in.Asked, ...] = ()

    @staticmethod
    def from_result(
        result: PipelineResult, pipeline: Pipeline, job: ClaimedJob, sources: Sequence[SourceObject]
    ) -> Cleaning:
        noted = Counter(note.name for note in result.quality)
        return Cleaning(
            sum(image.kind is ImageKind.CLEANED for image in result.images),
            noted["widened"],
            noted["blacked_out"],
            noted[WITHHELD],
            tuple(source.image.uid for source in sources),
            tuple(_asked(result.quality, pipeline, job, sources)),
        )

    @staticmethod
    def failed(
        failure: CleaningFailed, pipeline: Pipeline | None, job: ClaimedJob, sources: Sequence[SourceObject]
    ) -> Cleaning:
        """The outcome if no image could be cleaned.

        If the pipeline does not say which images failed, a person should look at all of them.
        """
        if pipeline is None:
            return Cleaning(withheld=len(sources))
        if isinstance(failure, NothingCleaned):
            notes = failure.notes
        else:
            text = f"no cleaned picture: {failure}"
            notes = tuple(QualityNote(WITHHELD, text, source.image.uid) for source in sources)
        return Cleaning.from_result(PipelineResult(quality=notes), pipeline, job, sources)

    def record(self, session: Session, job: ClaimedJob) -> None:
        """Record events and reviews in the transaction that ends the job; do nothing if no image was
        judged.
        """
        if self.cleaned:
            counts = {"images": self.cleaned, "widened": self.widened, "blacked_out": self.blacked_out}
            record(session, IMAGES_CLEANED, job.study_id, job=job.id, **counts)
        if self.withheld:
            record(session, CLEANING_WITHHELD, job.study_id, job=job.id, images=self.withheld)
        if self.seen:
            burned_in.ask(session, job.id, self.seen, self.asked)


NOTHING_CLEANED = Cleaning()


def _asked(
    notes: Sequence[QualityNote], pipeline: Pipeline, job: ClaimedJob, sources: Sequence[SourceObject]
) -> Iterator[burned_in.Asked]:
    """One for each image, with the most urgent cause."""
    for source in sources:
        own = {note.name: note for note in notes if note.source_uid == source.image.uid}
        name = next((name for name in _CAUSES if name in own), None)
        if name is not None:
            shaped_by = [pipeline.card.name, pipeline.card.version, dict(job.options), source.pixels_sha256]
            analysis = hashlib.sha256(json.dumps(shaped_by, sort_keys=True, default=str).encode())
            note, of_image = own[name], (source.image.uid, _CAUSES[name])
            yield burned_in.Asked(*of_image, note.text, note.places, analysis.hexdigest())
