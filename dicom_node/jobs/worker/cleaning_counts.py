"""What cleaning did to the images of a job, counted in events: filled wider, blacked out, withheld."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from sqlalchemy.orm import Session

from ai_pipeline.contract import ImageKind, PipelineResult
from dicom_node.events import CLEANING_WITHHELD, IMAGES_CLEANED
from dicom_node.jobs.queue import ClaimedJob
from dicom_node.store.transitions import record

WITHHELD = "cleaning_failed"
"""The quality note on an image of which no cleaned picture is handed back."""


@dataclass(frozen=True, slots=True)
class CleaningCounts:
    """Images of one job: cleaned, those of them that were filled wider or blacked out, and withheld."""

    cleaned: int = 0
    widened: int = 0
    blacked_out: int = 0
    withheld: int = 0

    @staticmethod
    def of(result: PipelineResult) -> CleaningCounts:
        noted = Counter(note.name for note in result.quality)
        cleaned = sum(image.kind is ImageKind.CLEANED for image in result.images)
        return CleaningCounts(cleaned, noted["widened"], noted["blacked_out"], noted[WITHHELD])

    def record(self, session: Session, job: ClaimedJob) -> None:
        """Write them down with the job's end; nothing where nothing was to be cleaned."""
        if self.cleaned:
            counts = {"images": self.cleaned, "widened": self.widened, "blacked_out": self.blacked_out}
            record(session, IMAGES_CLEANED, job.study_id, job=job.id, **counts)
        if self.withheld:
            record(session, CLEANING_WITHHELD, job.study_id, job=job.id, images=self.withheld)


NOTHING_CLEANED = CleaningCounts()
