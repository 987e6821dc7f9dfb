"""Builds the objects to send from a pipeline's result, checks them by the gate, and puts them on disk.

The rejection note of IHE IOCM (RAD TF-3, 4.66): a Key Object Selection that names the withdrawn
results.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import ContentSequence
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import (
    ColorSoftcopyPresentationStateStorage,
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from ai_pipeline.contract import (
    BURNED_IN,
    Decision,
    DerivedImage,
    Finding,
    ImageKind,
    Measurement,
    PipelineResult,
    QualityNote,
)
from ai_pipeline.images.render import assesses
from dicom_node.dicom.header import quiet_pydicom
from dicom_node.dicom.identity import COPIED
from dicom_node.dicom.own_objects import Installation
from dicom_node.dicom.uids import derived_uid
from dicom_node.errors import ResultRefused
from dicom_node.model.deidentified import DEIDENTIFIED_FOLDER
from dicom_node.model.kinds import RejectionReason, ResultKind
from dicom_node.object_store.files import Files
from dicom_node.results import gate
from dicom_node.results.common.concepts import fetus_of_reports, subject_context
from dicom_node.results.common.context import BuiltObject, Cause, ResultContext, SourceObject, not_here
from dicom_node.results.common.envelope import (
    SERIES_NUMBERS,
    UTF8,
    built_document,
    contributing_equipment,
    device_observer,
    encode,
    general_equipment,
)
from dicom_node.results.common.identity import described, document_uid
from dicom_node.results.common.previous import comparison_parts, with_comparisons
from dicom_node.results.common.source import Source, as_judged, read_sources, without_identity
from dicom_node.results.common.tracked import of_source, reported
from dicom_node.results.presentation import build_presentation
from dicom_node.results.sc.cleaned import (
    ORGAN_SERIES,
    build_cleaned,
    build_organs,
    build_segmentation,
    cleaned_class,
    is_empty,
    series_parts,
)
from dicom_node.results.sc.page import (
    SummaryPage,
    build_annotated,
    build_document,
    build_failure_picture,
    build_heatmap,
    build_page,
    failure_summary,
    summary_of,
    with_evidence,
)
from dicom_node.results.sr.reading import short_result
from dicom_node.results.sr.report import build_failure_report, build_report

_REPORT: Final = (ResultKind.SR, Comprehensive3DSRStorage)
_PICTURE: Final = (ResultKind.SC, SecondaryCaptureImageStorage)
_PAGE: Final = (ResultKind.SUMMARY, SecondaryCaptureImageStorage)
_DOCUMENT: Final = (ResultKind.PDF, EncapsulatedPDFStorage)
_MASK: Final = (ResultKind.SEG, SegmentationStorage)
_GREY_STATE: Final = GrayscaleSoftcopyPresentationStateStorage
_COLOUR_STATE: Final = ColorSoftcopyPresentationStateStorage


def build(
    context: ResultContext, sources: Sequence[SourceObject], result: PipelineResult
) -> list[BuiltObject]:
    """Build all objects that the destinations can show, the report first.

    Report and summary page cover all images; every other object covers one image, so that a late image does
    not change the objects of the others. Raises ResultRefused (the gate; more than one patient; an unverified
    cleaned image), DecodedDifferently, and PixelError if the source of a picture does not decode.
    """
    read = as_judged(read_sources(sources), result.views)
    _check_names(read, result)
    result = with_comparisons(result, context.previous, context.study_day)
    compared = comparison_parts(result, context.previous)
    builder = _ResultBuilder(context)
    parts = (*_boxed(context, result.findings), *not_here(result), *compared)
    builder.add(_REPORT, read, lambda uid: build_report(context, read, result, uid), parts)
    summary = cache(lambda: summary_of(context, read, result))
    builder.add_summary(read, summary, (*not_here(result), *compared))
    for source in read:
        parts = comparison_parts(result, context.previous, source.uid)
        builder.add_image(_of_image(source, result, parts))
    return builder.built


def build_failure(
    context: ResultContext, sources: Sequence[SourceObject], reason: str, cause: Cause = Cause.UNKNOWN
) -> list[BuiltObject]:
    """Build objects that report that the AI did not run, so that nobody waits for a result.

    ``reason`` is one sentence for a reader, without PHI; ``cause`` its kind. The images may be undecodable.
    """
    read = read_sources(sources)
    builder = _ResultBuilder(context)
    parts = ("failure", cause, reason)
    builder.add(_REPORT, read, lambda uid: build_failure_report(context, read, reason, cause, uid), parts)
    builder.add_summary(read, lambda: failure_summary(context, read, reason), ("failure", reason))
    for source in read:
        builder.add_failure_picture(source, reason)
    return builder.built


@dataclass(frozen=True, slots=True, eq=False)
class _ImageResults:
    """One image with what the pipeline says of it."""

    source: Source
    findings: Sequence[Finding]
    measurements: Sequence[Measurement]
    notes: Sequence[QualityNote]
    derived: Sequence[DerivedImage]
    drawn_on: Literal["source", "cleaned"]
    compared: tuple[str, ...]

    def of_kind(self, kind: ImageKind) -> list[DerivedImage]:
        return [image for image in self.derived if image.kind is kind]


def _check_names(read: Sequence[Source], result: PipelineResult) -> None:
    named = [finding.source_uid for finding in result.findings]
    named += [image.source_uid for image in result.images]
    named += [measurement.source_uid for measurement in result.measurements]
    if not {source.uid for source in read}.issuperset(named):
        raise ResultRefused("the pipeline names an image that is not a source of this job")


def _of_image(source: Source, result: PipelineResult, compared: tuple[str, ...]) -> _ImageResults:
    return _ImageResults(
        source,
        of_source(source, result.findings),
        [one for one in result.measurements if one.source_uid == source.uid],
        [note for note in result.quality if note.source_uid in {None, source.uid}],
        [image for image in result.images if image.source_uid == source.uid],
        result.drawn_on,
        compared,
    )


def _boxed(context: ResultContext, findings: Sequence[Finding]) -> tuple[str, ...]:
    """The part of the UID that distinguishes an object with boxes of burned-in annotation."""
    drawn = context.burned_in_boxes and any(
        finding.code == BURNED_IN and finding.decision is not Decision.ABSENT for finding in findings
    )
    return ("burned-in boxes",) if drawn else ()


class _ResultBuilder:
    """Builds the objects of one job, one after the other."""

    def __init__(self, context: ResultContext) -> None:
        self._context = context
        self.built: list[BuiltObject] = []

    def add(
        self,
        kind: tuple[ResultKind, str],
        sources: Sequence[Source],
        make: Callable[[str], Dataset],
        parts: tuple[str, ...] = (),
        of_series: tuple[str, ...] = (),
    ) -> None:
        """Build and check an object of a kind and SOP class; if it exists already, only list its UIDs.

        ``make`` builds the data set under the SOP Instance UID that it is given. ``parts`` and
        ``of_series`` tell apart several objects, or series, of one kind.
        """
        if kind[0] not in self._context.kinds:
            return
        one = described(self._context, *kind, sources, parts, of_series)
        if not self._context.exists(one.sop_instance_uid):
            dataset = make(one.sop_instance_uid)
            if (dataset.SOPClassUID, dataset.SOPInstanceUID) != (one.sop_class_uid, one.sop_instance_uid):
                raise ResultRefused(f"the {one.kind} result is not the object that was planned")
            data = encode(dataset, self._context, sources[0])
            gate.check(data, dataset, self._context, one.kind, sources)
            one = replace(one, data=data)
        self.built.append(one)

    def add_summary(
        self, sources: Sequence[Source], summary: Callable[[], SummaryPage], parts: tuple[str, ...]
    ) -> None:
        """The page of the job, as a picture and as a document."""
        context = self._context
        self.add(_PAGE, sources, lambda uid: build_page(context, sources, summary(), uid), parts)
        self.add(_DOCUMENT, sources, lambda uid: build_document(context, sources, summary(), uid), parts)

    def add_image(self, image: _ImageResults) -> None:
        """Presentation state, annotated picture, heat maps, cleaned images, masks of one image.

        No picture of pixels that ``drawn_on`` does not allow.
        """
        self.add(
            (ResultKind.GSPS, _GREY_STATE if image.source.grey else _COLOUR_STATE),
            [image.source],
            lambda uid: build_presentation(
                self._context, image.source, image.findings, image.measurements, image.notes, uid
            ),
            (*_boxed(self._context, image.findings), *image.compared),
        )
        cleaned = image.of_kind(ImageKind.CLEANED)
        verified = next((one for one in cleaned if one.verified), None)
        below = verified if image.drawn_on == "cleaned" else None
        if below is not None or image.drawn_on == "source":
            self._add_pictures(image, below)
        for one in (*cleaned, *(one for one in image.derived if one.processing)):
            self._add_cleaned(image, one)
        for mask in image.of_kind(ImageKind.MASK):
            self._add_mask(image.source, mask)
        for outlines in image.of_kind(ImageKind.ORGANS):
            self._add_organs(image.source, outlines)

    def add_failure_picture(self, source: Source, reason: str) -> None:
        """Add the picture that says that the AI did not run."""
        parts = ("failure", reason)
        self.add(
            _PICTURE, [source], lambda uid: build_failure_picture(self._context, source, reason, uid), parts
        )

    def _add_pictures(self, image: _ImageResults, below: DerivedImage | None) -> None:
        """Drawn on the source, or on the cleaned image ``below`` the drawing."""
        cleaned = ResultKind.CLEANED in self._context.kinds and bool(image.of_kind(ImageKind.CLEANED))
        if reported(self._context, image.findings) or not cleaned or assesses((), image.measurements):
            self.add(
                _PICTURE,
                [image.source],
                lambda uid: build_annotated(
                    self._context, image.source, image.findings, image.measurements, image.notes, below, uid
                ),
                (*_boxed(self._context, image.findings), *image.compared),
            )
        for rank, finding in enumerate(with_evidence(image.findings), start=1):
            self._add_heatmap(image.source, finding, rank, below)

    def _add_heatmap(self, source: Source, finding: Finding, rank: int, below: DerivedImage | None) -> None:
        self.add(
            (ResultKind.HEATMAP, SecondaryCaptureImageStorage),
            [source],
            lambda uid: build_heatmap(self._context, source, finding, rank, below, uid),
            (str(rank),),
        )

    def _add_cleaned(self, image: _ImageResults, cleaned: DerivedImage) -> None:
        mask = next(iter(image.of_kind(ImageKind.MASK)), None)
        self.add(
            (ResultKind.CLEANED, cleaned_class(image.source, cleaned)),
            [image.source],
            lambda uid: build_cleaned(self._context, image.source, cleaned, mask, uid),
            (cleaned.name,) if cleaned.processing else (),
            series_parts(image.source, cleaned),
        )

    def _add_mask(self, source: Source, mask: DerivedImage) -> None:
        if ResultKind.SEG in self._context.kinds and not is_empty(mask):
            self.add(_MASK, [source], lambda uid: build_segmentation(self._context, source, mask, uid))

    def _add_organs(self, source: Source, outlines: DerivedImage) -> None:
        parts = (ORGAN_SERIES,)
        self.add(
            _MASK, [source], lambda uid: build_organs(self._context, source, outlines, uid), parts, parts
        )


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A built object under a temporary name. ``final``: its final path; ``size`` in bytes.

    ``was_there``: it was built before, and its row was lost with the database. Then the existing bytes are
    the object (a result is built once), and whether they were sent is unknown.
    """

    temporary: Path
    final: Path
    sha256: str
    size: int
    was_there: bool = False


@contextlib.contextmanager
def written(built: Iterable[BuiltObject], door: Files) -> Iterator[dict[str, ResultFile]]:
    """Write the files of newly built objects, by SOP Instance UID.

    Files that the caller does not move to their final path are deleted at the end of the scope.
    """
    files: dict[str, ResultFile] = {}
    try:
        for item in built:
            if item.data is not None:
                folder = door.data_dir / (DEIDENTIFIED_FOLDER if item.deidentified else "results")
                files[item.sop_instance_uid] = _write(door, folder, item.sop_instance_uid, item.data)
        yield files
    finally:
        for file in files.values():
            file.temporary.unlink(missing_ok=True)


def row_values(built: BuiltObject, file: ResultFile, door: Files) -> dict[str, Any]:
    """The values for a new result's row that come from the object and its file."""
    names = ("kind", "sop_instance_uid", "sop_class_uid", "series_instance_uid", "supersedes")
    values = {name: getattr(built, name) for name in (*names, "deidentified", "pseudonym_domain")}
    is_report = built.kind is ResultKind.SR and built.data is not None
    short = "\n".join(short_result(BytesIO(built.data or b""))) if is_report else ""
    where = {"path": door.relative(file.final), "sha256": file.sha256, "bytes": file.size}
    return {**values, **where, "short_result": short}


def put_in_place(files: Sequence[ResultFile], door: Files) -> None:
    """Rename files to their final names, durably, and upload them to the object store. Raises StoreAway."""
    for file in files:
        door.keep(file.temporary, door.relative(file.final))
    folders = {file.final.parent for file in files}
    for folder in folders | {folder.parent for folder in folders}:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write(door: Files, folder: Path, uid: str, data: bytes) -> ResultFile:
    place = folder / hashlib.sha256(uid.encode("ascii")).hexdigest()[:2]
    place.mkdir(parents=True, exist_ok=True)
    temporary, final = place / f".{uid}.{os.getpid()}", place / f"{uid}.dcm"
    if door.built_before(door.relative(final)):
        data = final.read_bytes()
        return ResultFile(temporary, final, hashlib.sha256(data).hexdigest(), len(data), was_there=True)
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return ResultFile(temporary, final, hashlib.sha256(data).hexdigest(), len(data))


# CID 7011: the titles that IOCM takes for reasons of a person.
_TITLES: Final[Mapping[RejectionReason, Code]] = {
    RejectionReason.QUALITY: Code("113001", "DCM", "Rejected for Quality Reasons"),
    RejectionReason.SAFETY: Code("113037", "DCM", "Rejected for Patient Safety Reasons"),
}


def build_rejection(
    withdrawn: Sequence[Path],
    reason: RejectionReason,
    because: str,
    at: datetime,
    station: str,
    installation: Installation,
) -> BuiltObject:
    """Build the rejection note for these results of one study, given as files; in the character set of the
    first.

    ``because``: its Key Object Description (TID 2010). ``at``: the time in all its attributes; ``station``:
    our AE title.
    """
    with quiet_pydicom():
        objects = [dcmread(path, stop_before_pixels=True) for path in withdrawn]
    context = ResultContext.of_person("withdrawal", at, installation, station)
    first = objects[0]
    parts = (reason, because, *sorted(str(one.SOPInstanceUID) for one in objects))
    content = KeyObjectSelection(
        document_title=_TITLES[reason],
        referenced_objects=objects,
        observer_device_context=device_observer(context),
        description=because,
    )
    if fetus := fetus_of_reports(objects):
        by_relationship = sorted(
            [*content[0].ContentSequence, *subject_context(fetus)],
            key=lambda item: item.RelationshipType != "HAS OBS CONTEXT",
        )
        content[0].ContentSequence = ContentSequence(by_relationship)
    note = KeyObjectSelectionDocument(
        evidence=[without_identity(one) for one in objects],
        content=content,
        series_instance_uid=derived_uid("rejection series", *parts),
        series_number=SERIES_NUMBERS[ResultKind.REJECTION],
        sop_instance_uid=document_uid(context, "rejection", *parts),
        instance_number=1,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set=UTF8,
        contributing_equipment=contributing_equipment(
            context, str(first.get("TimezoneOffsetFromUTC") or ""), ResultKind.REJECTION
        ),
        **general_equipment(context),
    )
    for keyword in COPIED:
        if keyword in first:
            note[keyword] = deepcopy(first[keyword])
    return built_document(note, context, ResultKind.REJECTION, first)
