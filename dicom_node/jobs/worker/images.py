"""The images of a job: their headers, why one is left out, and what shapes the results of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ai_pipeline.burnin.devices.rules import matching_rules, site_folder
from ai_pipeline.contract import ImageHeader, QualityNote, Refusal, RefusedBy
from ai_pipeline.errors import PixelError
from ai_pipeline.images.decode import DicomImage, DicomObject, read_dicom, read_object
from dicom_node.base.config.rule import PROGRAMS
from dicom_node.base.config.settings import DEVICE_RULES_FOLDER, Settings
from dicom_node.base.errors import NotInSpool
from dicom_node.base.files import Files
from dicom_node.base.store import completeness, intake, results
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Instance, Job
from dicom_node.results.report import NOT_ANALYSED, NOT_HERE, NOT_READ, NOT_TAKEN
from dicom_node.results.source import SourceObject


@dataclass(frozen=True, slots=True)
class JobImages:
    """The images of a job.

    ``all``: images with a readable header, in the job's order. ``faults``: why an image is left out, by UID.
    ``unopened``: images that were refused before decoding; only the report needs them. ``purged``: Instance
    Numbers, as text, of images of an earlier job of the rule whose files are deleted now. ``unread``: number
    of objects that came with the study and cannot be read, so that nobody knows whether they belong to it.
    ``broken_off``: whether an association that brought the study broke off.
    """

    all: tuple[SourceObject, ...] = ()
    faults: Mapping[str, str] = field(default_factory=dict)
    purged: tuple[str, ...] = ()
    unopened: tuple[SourceObject, ...] = ()
    unread: int = 0
    broken_off: bool = False

    @property
    def readable(self) -> list[SourceObject]:
        """The images without a fault, which a pipeline may analyse."""
        return [source for source in self.all if source.image.uid not in self.faults]

    @property
    def reasons(self) -> str:
        """Why images are left out: each reason once, in one text."""
        return "; ".join(dict.fromkeys(self.faults.values()))

    def only(self, uids: Collection[str]) -> JobImages:
        """Return a copy with only the images with these UIDs, and the images with a fault, which the report
        lists too.
        """
        return replace(
            self, all=tuple(s for s in self.all if s.image.uid in uids or s.image.uid in self.faults)
        )

    def without(self, faults: Mapping[str, str]) -> JobImages:
        """Return a copy in which the images in ``faults`` (UID -> reason) are left out. Raises PixelError if
        none is left.
        """
        left = replace(self, faults={**self.faults, **faults})
        if faults and not left.readable:
            raise PixelError("; ".join(dict.fromkeys(faults.values())))
        return left


def open_images(database: Database, settings: Settings, job: Job) -> JobImages:
    """Read the headers of a job's images; pixels are decoded later. Raises NotInSpool, StoreAway.

    A program reads files itself: it gets objects without pixels, and those that are not decoded here, too.
    """
    files = Files(settings)
    with database.read() as session:
        known = intake.instances(session, job.source_uids)
        purged = results.purged_images(session, job.study_id, job.rule)
        unread = intake.unread_beside(session, job.study_id)
        broken_off = bool(completeness.broken_off(session, completeness.only(job.study_id)))
        drawn = results.drawn_boxes(session, job.source_uids)
        here = {uid: files.here(session, row.path) for uid, row in known.items() if not row.purged}
        session.expunge_all()
    rules = device_rules_of(settings)
    sources = []
    faults = {}
    unopened = []
    for uid in filter(known.__contains__, job.source_uids):
        row = known[uid]
        if row.purged:
            faults[uid] = "an image was purged from the spool"
            continue
        path = here[uid]
        if not path.is_file():
            raise NotInSpool("an image is not in the spool")
        try:
            if job.pipeline in PROGRAMS:
                sources.append(_source(read_object(path), path, row, rules))
                continue
            image = read_dicom(path)
            note = _add_drawn(image, drawn[uid]) if uid in drawn else ""
            sources.append(_source(image, path, row, rules, note))
            image.check_decodable()  # it stays among the sources: a report can name it
        except PixelError as error:
            faults[uid] = str(error)
            unopened.append(_source(DicomObject(uid, str(error)), path, row, rules))
    earlier = tuple(
        number if number.isdecimal() else "without number"
        for uid, number in purged.items()
        if uid not in known
    )
    return JobImages(tuple(sources), faults, earlier, tuple(unopened), unread, broken_off)


def _add_drawn(image: DicomImage, drawn: results.DrawnBoxes) -> str:
    """Add to an image's header the boxes that a person drew; return the sentence on them for the cleaned
    image, without names of staff.
    """
    image.header = replace(image.header, removed_by_hand=drawn.boxes)
    places = "1 place was" if len(drawn.boxes) == 1 else f"{len(drawn.boxes)} places were"
    return f"{places} marked by a person ({drawn.role}) on {drawn.at:%Y-%m-%d}"


def _source(
    image: DicomImage | DicomObject,
    path: Path,
    row: Instance,
    rules: Path | None,
    note: str = "",
) -> SourceObject:
    """Return an image as results are built of it. ``row``: its hashes and character set."""
    shape = shape_sha256(row.pixels_sha256, row.header_sha256, image.header, rules)
    return SourceObject(image, path, shape, row.identity_sha256, row.assumed_charset, note)


def device_rules_of(settings: Settings) -> Path | None:
    """Return the site's folder of rules on where devices burn in text: the configured folder, else the one
    that the environment names, else the one that the console writes to; None if that does not exist.
    """
    return site_folder(settings.workers.device_rules_dir, settings.node.data_dir / DEVICE_RULES_FOLDER)


def shape_sha256(
    pixels_sha256: str, header_sha256: str, header: ImageHeader, device_rules: Path | None
) -> str:
    """Return a hash of all that shapes the results of an image, except patient and study: its pixels, its
    header, the boxes that a person drew on it, and the rules for its device. Raises
    ``ai_pipeline.errors.DeviceRuleError``.
    """
    rules = [rule.model_dump(mode="json") for rule in matching_rules(header, device_rules)]
    shaped_by = json.dumps([pixels_sha256, header_sha256, header.removed_by_hand, rules], sort_keys=True)
    return hashlib.sha256(shaped_by.encode()).hexdigest()


_MOST_NAMED = 50  # purged images, in a note


def missing_notes(images: JobImages, refused: Sequence[Refusal]) -> Iterator[QualityNote]:
    """Yield notes for the report on the images of the study that this result does not cover. ``refused``: by
    the pipeline; those refused by their header are of another kind, and no reader expects a word on them.
    """
    if beside := sum(one.by is RefusedBy.PIXELS for one in refused):
        yield QualityNote(
            NOT_TAKEN,
            f"{beside} further image{'s' * (beside > 1)} of this study refused by the pixels: "
            "not assessed, so nothing is excluded.",
        )
    if images.faults:
        yield QualityNote(NOT_ANALYSED, f"{len(images.faults)} of the images not analysed: {images.reasons}")
    if images.unread:
        yield QualityNote(
            NOT_READ,
            f"{images.unread} object{'s' * (images.unread > 1)} received with these cannot be read: "
            "images of this study may be missing here.",
        )
    if images.broken_off:
        yield QualityNote(
            NOT_READ,
            "The association broke off: images of this study may be missing here.",
        )
    if images.purged:
        named = ", ".join(images.purged[:_MOST_NAMED])
        if len(images.purged) > _MOST_NAMED:
            named += f" and {len(images.purged) - _MOST_NAMED} more"
        yield QualityNote(
            NOT_HERE,
            f"No longer here: image {named} of this study; what an earlier report says of it stays.",
        )
