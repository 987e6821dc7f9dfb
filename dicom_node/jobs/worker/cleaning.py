"""How the removal of burned-in text from a job's images went: events, and the reviews that follow."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Final

from sqlalchemy.orm import Session

from ai_pipeline.contract import ImageKind, Pipeline, PipelineResult, QualityNote
from ai_pipeline.errors import CleaningFailed
from dicom_node.base.events import CLEANING_WITHHELD, IMAGES_CLEANED
from dicom_node.base.lifecycle import ReviewCause
from dicom_node.base.store import intake, results
from dicom_node.base.store.tables import Job
from dicom_node.jobs.queue import record_of_job
from dicom_node.results.source import SourceObject

WITHHELD: Final = "cleaning_failed"
"""The quality note on an image of which no cleaned picture is handed back."""
_REVIEWS: Final = {WITHHELD: ReviewCause.WITHHELD} | {
    cause.value: cause for cause in (ReviewCause.IN_DOUBT, ReviewCause.BLACKED_OUT, ReviewCause.WIDENED)
}


class NothingCleaned(CleaningFailed):
    """Burned-in text could be removed from no image of the job; ``notes`` give the reason for each image."""

    def __init__(self, text: str, notes: Sequence[QualityNote]) -> None:
        """Store the text, and the reason for each image."""
        super().__init__(text)
        self.notes = tuple(notes)


def record_cleaning(
    session: Session, job: Job, pipeline: Pipeline, result: PipelineResult, sources: Sequence[SourceObject]
) -> None:
    """Record how the removal of burned-in text from a job's images went, in the transaction that ends the
    job.

    These are events on how many images were cleaned and withheld, and the reviews that a person should make;
    none of a picture that a person tries, who sees what became of it.
    """
    noted = Counter(note.name for note in result.quality)
    if cleaned := sum(image.kind is ImageKind.CLEANED for image in result.images):
        record_of_job(
            session,
            job,
            IMAGES_CLEANED,
            images=cleaned,
            widened=noted["widened"],
            blacked_out=noted["blacked_out"],
        )
    if noted[WITHHELD]:
        record_of_job(session, job, CLEANING_WITHHELD, images=noted[WITHHELD])
    if sources and not intake.is_trial(session, job.study_id):
        asked = []
        for source in sources:  # one for each image, with the most urgent cause
            own = {note.name: note for note in result.quality if note.source_uid == source.image.uid}
            if name := next((name for name in _REVIEWS if name in own), None):
                card = pipeline.card
                shaped_by = [card.name, card.version, dict(job.options), source.pixels_sha256]
                analysis = hashlib.sha256(json.dumps(shaped_by, sort_keys=True, default=str).encode())
                note, cause = own[name], _REVIEWS[name]
                asked.append(
                    results.ReviewRequest(
                        source.image.uid, cause, note.text, note.places, analysis.hexdigest()
                    )
                )
        results.queue_reviews(session, job.id, [source.image.uid for source in sources], asked)


def not_cleaned(failure: CleaningFailed, sources: Sequence[SourceObject]) -> PipelineResult:
    """Return the pipeline result for the case that no image could be cleaned of burned-in text.

    If ``failure`` does not say which images failed, a person should review all of them.
    """
    if isinstance(failure, NothingCleaned):
        return PipelineResult(quality=failure.notes)
    return PipelineResult(
        quality=tuple(
            QualityNote(WITHHELD, f"no cleaned picture: {failure}", one.image.uid) for one in sources
        )
    )
