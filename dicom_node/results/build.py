"""Builds the objects to send from a pipeline's result; each is checked by the gate, or was built before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final, Literal

from pydicom.dataset import Dataset
from pydicom.uid import (
    ColorSoftcopyPresentationStateStorage,
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
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
from dicom_node.errors import ResultRefused
from dicom_node.model.kinds import ResultKind
from dicom_node.results import gate
from dicom_node.results.common.context import BuiltObject, Cause, ResultContext, SourceObject, not_here
from dicom_node.results.common.envelope import encode
from dicom_node.results.common.identity import described
from dicom_node.results.common.previous import comparison_parts, with_comparisons
from dicom_node.results.common.source import Source, as_judged, read_sources
from dicom_node.results.common.tracked import of_source, reported
from dicom_node.results.document import build_document
from dicom_node.results.presentation import build_presentation
from dicom_node.results.sc.captures import (
    build_annotated,
    build_failure_picture,
    build_heatmap,
    with_evidence,
)
from dicom_node.results.sc.cleaned import build_cleaned, cleaned_class, series_parts
from dicom_node.results.sc.page import SummaryPage, build_page, failure_summary, summary_of
from dicom_node.results.segmentation import ORGAN_SERIES, build_organs, build_segmentation, is_empty
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
        self._add_presentation(image)
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

    def _add_presentation(self, image: _ImageResults) -> None:
        self.add(
            (ResultKind.GSPS, _GREY_STATE if image.source.grey else _COLOUR_STATE),
            [image.source],
            lambda uid: build_presentation(
                self._context, image.source, image.findings, image.measurements, image.notes, uid
            ),
            (*_boxed(self._context, image.findings), *image.compared),
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
