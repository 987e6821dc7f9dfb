"""Runs a pipeline on the images of a job, which the one decoder opens, one by one if possible.

The images of a job: their versions in force from the spool, opened by the one decoder. What became of their
cleaning: counts for events, and images for a person's review.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from sqlalchemy import select
from sqlalchemy.orm import Session

from ai_pipeline.burnin.devices.rules import matching_rules
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
from dicom_node.config.settings import Settings
from dicom_node.errors import NotInSpool
from dicom_node.events import CLEANING_WITHHELD, IMAGES_CLEANED
from dicom_node.jobs.queue import ClaimedJob
from dicom_node.jobs.worker.at_start import device_rules_of
from dicom_node.jobs.worker.at_work import AtWork
from dicom_node.jobs.worker.readings import ReadingRecord
from dicom_node.model.kinds import ReviewCause
from dicom_node.object_store.files import Files
from dicom_node.results import SourceObject
from dicom_node.store import burned_in, intake
from dicom_node.store import results as stored
from dicom_node.store.burned_in import Drawn
from dicom_node.store.database import Database
from dicom_node.store.tables import Instance
from dicom_node.store.transitions import record

WITHHELD: Final = "cleaning_failed"
"""The quality note on an image of which no cleaned picture is handed back."""
_CAUSES: Final = {WITHHELD: ReviewCause.WITHHELD} | {
    cause.value: cause for cause in (ReviewCause.IN_DOUBT, ReviewCause.BLACKED_OUT, ReviewCause.WIDENED)
}
_MOST_DECODED = 4
"""With more images than these, no image keeps its last decoded frame: a mammogram's frame is 42 MB."""


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


@dataclass(frozen=True, slots=True)
class ImageAnalysis:
    """Runs pipelines on images; ``readings`` receives text read in images."""

    readings: ReadingRecord
    at_work: AtWork

    def accepts(
        self, pipeline: Pipeline, sources: Sequence[SourceObject], options: Mapping[str, object]
    ) -> tuple[Accept | Refuse, Mapping[str, str]]:
        """Which images the pipeline accepts; for each image that could not be judged the reason, by UID.

        Raises WorkerSpent; PixelError or NoNumber if it can judge no image.
        """
        if not pipeline.card.per_image:
            return pipeline.accepts([source.image for source in sources], options), {}
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
        in_words = {uid: str(fault) for uid, fault in faults.items()}
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

        Text read in the images goes to ``readings`` only.

        An image that cannot be cleaned is left out with a note. An image that cannot be decoded, or for which
        the model gives no number, is left out as a fault. Raises CleaningFailed, PixelError or NoNumber if no
        image is left, WorkerSpent, and the exceptions of the pipeline.
        """
        if not pipeline.card.per_image:
            return self._run(pipeline, sources, options, report), {}
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
                text, uid = f"no cleaned picture: {failure}", source.image.uid
                withheld.append(note := QualityNote(WITHHELD, text, uid, places=failure.places))
                results.append(PipelineResult(quality=(note,), models=pipeline.models()))
            _forget_pixels(source, sources)
        if len(failures) + len(faults) == len(sources):
            if failures:
                raise NothingCleaned(str(failures[0]), withheld)
            raise _as_one(faults.values())
        return PipelineResult.joined(results), {uid: str(fault) for uid, fault in faults.items()}

    def _run(
        self,
        pipeline: Pipeline,
        sources: Sequence[SourceObject],
        options: Mapping[str, object],
        report: Progress,
    ) -> PipelineResult:
        images = [source.image for source in sources]
        result = without_research(pipeline.run(images, report, options))
        return self.readings.take(pipeline, options, [image.uid for image in images], result)


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


def open_images(database: Database, settings: Settings, job: ClaimedJob) -> JobImages:
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
        drawn = burned_in.drawn(session, job.source_uids)
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
