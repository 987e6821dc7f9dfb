"""Runs a pipeline on the images of a job, which the one decoder opens, one by one if possible.

The images of a job: their versions in force from the spool, opened by the one decoder. What became of their
cleaning: counts for events, and images for a person's review.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import numpy.typing as npt
from sqlalchemy import select
from sqlalchemy.orm import Session

from ai_pipeline.burnin.devices.rules import matching_rules, site_folder
from ai_pipeline.contract import (
    Accept,
    ImageHeader,
    ImageKind,
    Pipeline,
    PipelineResult,
    PixelArray,
    Progress,
    QualityNote,
    Refuse,
)
from ai_pipeline.errors import CleaningFailed, NoNumber, PixelError
from ai_pipeline.images.decode import DicomImage, read_dicom
from ai_pipeline.summary import without_research
from dicom_node.base.config.settings import DEVICE_RULES_FOLDER, Settings
from dicom_node.base.errors import NotInSpool
from dicom_node.base.events import CLEANING_WITHHELD, IMAGES_CLEANED
from dicom_node.base.files import Files
from dicom_node.base.kinds import ReviewCause
from dicom_node.base.store import intake
from dicom_node.base.store import results as stored
from dicom_node.base.store.database import Database
from dicom_node.base.store.results import Drawn
from dicom_node.base.store.tables import Instance, Job
from dicom_node.base.store.transitions import record
from dicom_node.results.common.source import SourceObject

if TYPE_CHECKING:
    from dicom_node.jobs.worker.run import AtWork

WITHHELD: Final = "cleaning_failed"
"""The quality note on an image of which no cleaned picture is handed back."""
_REVIEWS: Final = {WITHHELD: ReviewCause.WITHHELD} | {
    cause.value: cause for cause in (ReviewCause.IN_DOUBT, ReviewCause.BLACKED_OUT, ReviewCause.WIDENED)
}
Answer = TypeVar("Answer")
_Fault = PixelError | NoNumber | CleaningFailed
_FAULTS = (PixelError, NoNumber, CleaningFailed)
_MOST_DECODED = 4
"""With more images than these, no image keeps its last decoded frame: a mammogram's frame is 42 MB."""


class NothingCleaned(CleaningFailed):
    """No image of the job could be cleaned; ``notes`` give the reason for each."""

    def __init__(self, text: str, notes: Sequence[QualityNote]) -> None:
        super().__init__(text)
        self.notes = tuple(notes)


def record_cleaning(
    session: Session, job: Job, pipeline: Pipeline, result: PipelineResult, sources: Sequence[SourceObject]
) -> None:
    """Record in the transaction that ends the job what became of the cleaning of its images: how many were
    cleaned (of these: filled wider, blacked out) and withheld, and the reviews that a person should make.
    """
    noted = Counter(note.name for note in result.quality)
    if cleaned := sum(image.kind is ImageKind.CLEANED for image in result.images):
        counts = {"images": cleaned, "widened": noted["widened"], "blacked_out": noted["blacked_out"]}
        record(session, IMAGES_CLEANED, job.study_id, job=job.id, **counts)
    if noted[WITHHELD]:
        record(session, CLEANING_WITHHELD, job.study_id, job=job.id, images=noted[WITHHELD])
    if sources:
        asked = []
        for source in sources:  # one for each image, with the most urgent cause
            own = {note.name: note for note in result.quality if note.source_uid == source.image.uid}
            if name := next((name for name in _REVIEWS if name in own), None):
                card = pipeline.card
                shaped_by = [card.name, card.version, dict(job.options), source.pixels_sha256]
                analysis = hashlib.sha256(json.dumps(shaped_by, sort_keys=True, default=str).encode())
                note, of_image = own[name], (source.image.uid, _REVIEWS[name])
                asked.append(stored.Asked(*of_image, note.text, note.places, analysis.hexdigest()))
        stored.ask_for_reviews(session, job.id, [source.image.uid for source in sources], asked)


def not_cleaned(failure: CleaningFailed, sources: Sequence[SourceObject]) -> PipelineResult:
    """The result where no image could be cleaned.

    If the pipeline does not say which images failed, a person should look at all of them.
    """
    if isinstance(failure, NothingCleaned):
        return PipelineResult(quality=failure.notes)
    text = f"no cleaned picture: {failure}"
    return PipelineResult(quality=tuple(QualityNote(WITHHELD, text, one.image.uid) for one in sources))


@dataclass(frozen=True, slots=True)
class ImageAnalysis:
    """Runs pipelines on images. The text that was read in images stays in this process."""

    at_work: AtWork

    def accepts(
        self, pipeline: Pipeline, sources: Sequence[SourceObject], options: Mapping[str, object]
    ) -> tuple[Accept | Refuse, Mapping[str, str]]:
        """Which images the pipeline accepts; for each image that could not be judged the reason, by UID.

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

    def run(
        self,
        pipeline: Pipeline,
        sources: Sequence[SourceObject],
        options: Mapping[str, object],
        report: Progress,
    ) -> tuple[PipelineResult, Mapping[str, str]]:
        """The pipeline's result, and the reason for each image that was left out, by UID.

        An image that cannot be cleaned is left out with a note. An image that cannot be decoded, or for which
        the model gives no number, is left out as a fault. Raises CleaningFailed, PixelError or NoNumber if no
        image is left, WorkerSpent, and the exceptions of the pipeline.
        """
        if not pipeline.card.per_image:
            return self._run(pipeline, sources, options, report), {}

        def run_one(number: int, source: SourceObject) -> PipelineResult:
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
        analyse: Callable[[int, SourceObject], Answer],
        report: Progress | None = None,
    ) -> tuple[dict[str, Answer], dict[str, _Fault]]:
        """What comes of each image, by UID, and what is wrong with those of which nothing comes."""
        done: dict[str, Answer] = {}
        faults: dict[str, _Fault] = {}
        for number, source in enumerate(sources):
            if report:  # a job that is to stop stops here, which is not this image's fault
                report(number / len(sources), f"image {number + 1} of {len(sources)}")
            try:
                with self.at_work.at(source.path.name):
                    done[source.image.uid] = analyse(number, source)
            except _FAULTS as fault:
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
        result = pipeline.run([source.image for source in sources], report, options)
        return replace(without_research(result), readings=())


def _as_one(faults: Collection[Exception]) -> PixelError | NoNumber:
    """The faults of all images as one: the model's where it is at fault for each."""
    words = "; ".join(dict.fromkeys(map(str, faults)))
    return NoNumber(words) if all(isinstance(fault, NoNumber) for fault in faults) else PixelError(words)


@dataclass(frozen=True, slots=True)
class JobImages:
    """The images of a job.

    ``all``: images with a readable header, in the job's order. ``faults``: why an image is left out, by UID.
    ``unopened``: images that were refused before decoding; only the report needs them. ``purged``: Instance
    Numbers, as text, of images of an earlier job of the rule that are deleted now. ``unread``: objects that
    came with the study and cannot be read, so that nobody knows whether they belong to it.
    """

    all: tuple[SourceObject, ...] = ()
    faults: Mapping[str, str] = field(default_factory=dict)
    purged: tuple[str, ...] = ()
    unopened: tuple[SourceObject, ...] = ()
    unread: int = 0

    @property
    def readable(self) -> list[SourceObject]:
        """The images without a fault, which a pipeline may analyse."""
        return [source for source in self.all if source.image.uid not in self.faults]

    def only(self, uids: Collection[str]) -> JobImages:
        """Only the images with these UIDs, and the images with a fault, which the report lists too."""
        chosen = tuple(s for s in self.all if s.image.uid in uids or s.image.uid in self.faults)
        return replace(self, all=chosen)

    def without(self, faults: Mapping[str, str]) -> JobImages:
        """The images without those in ``faults`` (by UID). Raises PixelError if none is left."""
        left = replace(self, faults={**self.faults, **faults})
        if faults and not left.readable:
            raise PixelError("; ".join(dict.fromkeys(faults.values())))
        return left


_NO_HEADER = ImageHeader("", "", rows=0, columns=0, frames=1, photometric="", bits_stored=0)


@dataclass(frozen=True, slots=True)
class RefusedImage:
    """An image that was refused by its header (:class:`ai_pipeline.contract.SourceImage`): it has no pixels.

    A report can name it, because the node reads the header itself.
    """

    uid: str
    fault: str
    series_uid: str = ""
    header: ImageHeader = _NO_HEADER

    def stored(self, frame: int = 0) -> PixelArray:  # noqa: ARG002
        raise PixelError(self.fault)

    def display(self, frame: int = 0, shorter_side: int = 0) -> npt.NDArray[np.uint8]:  # noqa: ARG002
        raise PixelError(self.fault)

    def show(self, samples: PixelArray, frame: int = 0) -> npt.NDArray[np.uint8]:  # noqa: ARG002
        raise PixelError(self.fault)


def open_images(database: Database, settings: Settings, job: Job) -> JobImages:
    """Open the job's images, headers only. Raises NotInSpool."""
    files = Files(settings)
    with database.read() as session:
        rows = session.execute(
            select(
                Instance.sop_instance_uid,
                Instance.path,
                Instance.purged,
                Instance.pixels_sha256,
                Instance.identity_sha256,
                Instance.header_sha256,
                Instance.assumed_charset,
            ).where(Instance.sop_instance_uid.in_(job.source_uids))
        ).all()
        purged = stored.purged_images(session, job.study_id, job.rule)
        unread = intake.unread_beside(session, job.study_id)
        drawn = stored.drawn_boxes(session, job.source_uids)
        here = {row.path: files.here(session, row.path) for row in rows if not row.purged}
    rules = device_rules_of(settings)
    known = {row.sop_instance_uid: row for row in rows}
    sources: list[SourceObject] = []
    faults: dict[str, str] = {}
    unopened: list[SourceObject] = []
    for row in [known[uid] for uid in job.source_uids if uid in known]:
        if row.purged:
            faults[row.sop_instance_uid] = "an image was purged from the spool"
            continue
        path = here[row.path]
        if not path.is_file():
            raise NotInSpool("an image is not in the spool")
        try:
            by_hand = drawn.get(row.sop_instance_uid)
            image = opened(path, by_hand)
            shape = shape_sha256(row.pixels_sha256, row.header_sha256, image.header, rules)
            sources.append(
                SourceObject(
                    image, path, shape, row.identity_sha256, row.assumed_charset, _note_by_hand(by_hand)
                )
            )
            image.check_decodable()  # it stays among the sources: a report can name it
        except PixelError as error:
            faults[row.sop_instance_uid] = str(error)
            refused = RefusedImage(row.sop_instance_uid, str(error))
            shape = shape_sha256(row.pixels_sha256, row.header_sha256, refused.header, rules)
            unopened.append(SourceObject(refused, path, shape, row.identity_sha256, row.assumed_charset))
    earlier = tuple(
        number if number.isdecimal() else "without number"
        for uid, number in purged.items()
        if uid not in known
    )
    return JobImages(tuple(sources), faults, earlier, tuple(unopened), unread)


def device_rules_of(settings: Settings) -> Path | None:
    """The site's folder of device rules: the configured folder, else the folder that the console writes
    to.
    """
    return site_folder(settings.workers.device_rules_dir, settings.node.data_dir / DEVICE_RULES_FOLDER)


def opened(path: Path, by_hand: Drawn | None) -> DicomImage:
    """An image with the boxes that a person drew in it; it may be undecodable. Raises PixelError."""
    image = read_dicom(path)
    if by_hand is not None:
        image.header = replace(image.header, removed_by_hand=by_hand.boxes)
    return image


def shape_sha256(
    pixels_sha256: str, header_sha256: str, header: ImageHeader, device_rules: Path | None
) -> str:
    """The hash of everything that shapes the results of an image, beside its patient and study.

    That is its pixels, its header, the boxes that a person drew and the device rules for it. Raises
    ``ai_pipeline.errors.DeviceRuleError``.
    """
    rules = [rule.model_dump(mode="json") for rule in matching_rules(header, device_rules)]
    shaped_by = json.dumps([pixels_sha256, header_sha256, header.removed_by_hand, rules], sort_keys=True)
    return hashlib.sha256(shaped_by.encode()).hexdigest()


def _note_by_hand(by_hand: Drawn | None) -> str:
    """What the cleaned image says of it: no names of staff."""
    if by_hand is None:
        return ""
    count = len(by_hand.boxes)
    places = "1 place was" if count == 1 else f"{count} places were"
    return f"{places} marked by a person ({by_hand.role}) on {by_hand.at:%Y-%m-%d}"
