"""Builds the objects to send from a pipeline's result, checks them by the gate, and puts them on disk."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import (
    ColorSoftcopyPresentationStateStorage,
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from ai_pipeline.contract import BURNED_IN, Decision, ImageKind, PipelineResult
from ai_pipeline.images.render import assesses
from dicom_node.errors import ResultRefused
from dicom_node.model.deidentified import DEIDENTIFIED_FOLDER
from dicom_node.model.kinds import ResultKind
from dicom_node.object_store.files import Files
from dicom_node.results import gate
from dicom_node.results.common.context import BuiltObject, Cause, ResultContext, SourceObject
from dicom_node.results.common.envelope import encode
from dicom_node.results.common.identity import described
from dicom_node.results.common.report import ImageReport, Report, failure_of, report_of, reported
from dicom_node.results.common.source import Source, as_judged, read_sources
from dicom_node.results.presentation import build_presentation
from dicom_node.results.sc.cleaned import (
    ORGAN_SERIES,
    build_cleaned,
    build_organs,
    build_segmentation,
    cleaned_class,
    frames_of,
    is_empty,
    series_parts,
)
from dicom_node.results.sc.page import (
    build_annotated,
    build_failure_picture,
    build_heatmap,
    build_page,
    build_pdf,
    summary_of,
)
from dicom_node.results.sr.document import build_document
from dicom_node.results.sr.reading import stated

_PICTURE: Final = (ResultKind.SC, SecondaryCaptureImageStorage)
_MASK: Final = (ResultKind.SEG, SegmentationStorage)


def build(
    context: ResultContext, sources: Sequence[SourceObject], result: PipelineResult
) -> list[BuiltObject]:
    """Build all objects that the destinations can show, the report first.

    Report and summary page cover all images; every other object covers one image, so that a late image does
    not change the objects of the others. Raises ResultRefused (the gate; more than one patient; an unverified
    cleaned image), DecodedDifferently, and PixelError if the source of a picture does not decode.
    """
    report = report_of(context, as_judged(read_sources(sources), result.views), result)
    builder = ResultBuilder(context)
    builder.add_report(report, (*_boxed(context, report.images), *report.parts), report.parts)
    for image in report.images:
        builder.add_image(report, image)
    return builder.built


def build_failure(
    context: ResultContext, sources: Sequence[SourceObject], reason: str, cause: Cause = Cause.UNKNOWN
) -> list[BuiltObject]:
    """Build objects that report that the AI did not run, so that nobody waits for a result.

    ``reason`` is one sentence for a reader, without PHI; ``cause`` its kind. The images may be undecodable.
    """
    report = failure_of(context, read_sources(sources), reason, cause)
    builder = ResultBuilder(context)
    builder.add_report(report, ("failure", cause, reason), ("failure", reason))
    for source in report.sources:
        make = partial(build_failure_picture, context, source, reason)
        builder.add(_PICTURE, [source], make, ("failure", reason))
    return builder.built


def _boxed(context: ResultContext, images: Sequence[ImageReport]) -> tuple[str, ...]:
    """The part of the UID that distinguishes an object with boxes of burned-in annotation."""
    drawn = context.burned_in_boxes and any(
        one.code == BURNED_IN and one.decision is not Decision.ABSENT
        for image in images
        for one in image.findings
    )
    return ("burned-in boxes",) if drawn else ()


class ResultBuilder:
    """Builds the objects of one job, one after the other."""

    def __init__(self, context: ResultContext) -> None:
        self.context = context
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
        if kind[0] not in self.context.kinds:
            return
        one = described(self.context, *kind, sources, parts, of_series)
        if not self.context.exists(one.sop_instance_uid):
            dataset = make(one.sop_instance_uid)
            if (dataset.SOPClassUID, dataset.SOPInstanceUID) != (one.sop_class_uid, one.sop_instance_uid):
                raise ResultRefused(f"the {one.kind} result is not the object that was planned")
            one = replace(one, data=self.checked(dataset, one.kind, sources))
        self.built.append(one)

    def checked(self, dataset: Dataset, kind: ResultKind, sources: Sequence[Source]) -> bytes:
        """The encoded object, which has passed the gate."""
        data = encode(dataset, self.context, sources[0])
        gate.check(data, dataset, self.context, kind, sources)
        return data

    def add_report(self, report: Report, parts: tuple[str, ...], of_page: tuple[str, ...]) -> None:
        """The report, and the page of the job as a picture and as a document."""
        page = cache(lambda: summary_of(report))
        sr, picture = Comprehensive3DSRStorage, SecondaryCaptureImageStorage
        self.add((ResultKind.SR, sr), report.sources, partial(build_document, report), parts)
        self.add(
            (ResultKind.SUMMARY, picture),
            report.sources,
            lambda uid: build_page(report, page(), uid),
            of_page,
        )
        document = (ResultKind.PDF, EncapsulatedPDFStorage)
        self.add(document, report.sources, lambda uid: build_pdf(report, page(), uid), of_page)

    def add_image(self, report: Report, image: ImageReport) -> None:
        """Presentation state, annotated picture, heat maps, cleaned images, masks of one image.

        No picture of pixels that the report's ``drawn_on`` does not allow.
        """
        context, source = self.context, image.source
        parts = (*_boxed(context, [image]), *image.parts)
        cleaned, masks = image.of_kind(ImageKind.CLEANED), image.of_kind(ImageKind.MASK)
        grey, colour = GrayscaleSoftcopyPresentationStateStorage, ColorSoftcopyPresentationStateStorage
        state = (ResultKind.GSPS, grey if source.grey else colour)
        self.add(state, [source], partial(build_presentation, context, image), parts)
        below = image.cleaned if report.drawn_on == "cleaned" else None
        if below is not None or report.drawn_on == "source":
            # Drawn on the source, or on the cleaned image below the drawing.
            shows_cleaned = ResultKind.CLEANED in context.kinds and bool(cleaned)
            if reported(context, image.findings) or not shows_cleaned or assesses((), image.measurements):
                self.add(_PICTURE, [source], partial(build_annotated, report, image, below), parts)
            mapped = [one for one in image.findings if one.evidence and one.decision is not Decision.ABSENT]
            for rank, finding in enumerate(mapped, start=1):
                make = partial(build_heatmap, context, source, finding, rank, below)
                self.add((ResultKind.HEATMAP, SecondaryCaptureImageStorage), [source], make, (str(rank),))
        for one in (*cleaned, *(one for one in image.images if one.processing)):
            self.add(
                (ResultKind.CLEANED, cleaned_class(frames_of(source, one))),
                [source],
                partial(build_cleaned, context, source, one, next(iter(masks), None)),
                (one.name,) if one.processing else (),
                series_parts(source, one),
            )
        for mask in masks:
            if ResultKind.SEG in context.kinds and not is_empty(mask):
                self.add(_MASK, [source], partial(build_segmentation, context, source, mask))
        for outlines in image.of_kind(ImageKind.ORGANS):
            make = partial(build_organs, context, source, outlines)
            self.add(_MASK, [source], make, (ORGAN_SERIES,), (ORGAN_SERIES,))


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
    short = "\n".join(stated(BytesIO(built.data or b"")).short_result) if is_report else ""
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
