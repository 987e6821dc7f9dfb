"""Builds the objects to send from a pipeline's result, and checks them by the gate."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from types import MappingProxyType

from pydicom.dataset import Dataset
from pydicom.uid import (
    ColorSoftcopyPresentationStateStorage,
    GrayscaleSoftcopyPresentationStateStorage,
)

from ai_pipeline.contract import Decision, DerivedImage, ImageKind, PipelineResult
from ai_pipeline.images.render import assesses
from dicom_node.base.dicom.uids import SECONDARY_CAPTURES, SOURCES
from dicom_node.base.errors import ResultRefused
from dicom_node.base.lifecycle import RESULT_KINDS, ResultKind
from dicom_node.results import gate
from dicom_node.results.built_object import BuiltObject, encode, unbuilt_object
from dicom_node.results.cleaned import build_cleaned, cleaned_class, frames_of, modality_of
from dicom_node.results.concepts import (
    Cause,
)
from dicom_node.results.context import ResultContext
from dicom_node.results.key_objects import build_key_objects
from dicom_node.results.obstetric import build_obstetric_report, has_biometry
from dicom_node.results.page import build_page, build_pdf, summary_of
from dicom_node.results.pictures import build_annotated, build_failure_picture, build_heatmap
from dicom_node.results.presentation import build_presentation
from dicom_node.results.report import ImageReport, Report, failure_of, report_of
from dicom_node.results.segmentation import ORGAN_SERIES, build_organs, build_segmentation, is_empty
from dicom_node.results.source import (
    Source,
    SourceObject,
    as_judged,
    read_sources,
)
from dicom_node.results.sr import build_document


def build(
    context: ResultContext, sources: Sequence[SourceObject], result: PipelineResult
) -> list[BuiltObject]:
    """Build the result objects of a job that at least one destination can show, the report first.

    ``result``: what the pipeline found in ``sources``. Report and summary page cover all images; every other
    object covers one image, so that a late image does not change the objects of the others. Raises
    ResultRefused (an object fails the check before release; more than one patient; an unverified cleaned
    image), DecodedDifferently, and PixelError if the source of a picture does not decode.
    """
    report = report_of(context, as_judged(read_sources(sources), result.views), result)
    quiet = frozenset({ResultKind.SR, ResultKind.CLEANED}) if context.no_call is None else context.no_call
    says = any(assesses(image.findings, image.measurements) for image in report.images)
    builder, has_call = ResultBuilder(context), any(image.has_call for image in report.images)
    # The node has a report of every job; a peer too if it replaces one there, or images are missing.
    builder.kinds = context.kinds if has_call else context.kinds & (quiet | {ResultKind.SR})
    builder.add_report(report, report.parts, report.parts)
    if not (has_call or report.incomplete or context.supersedes):
        not_beside = frozenset() if says or context.no_call is not None else frozenset({ResultKind.CLEANED})
        if ResultKind.SR not in quiet:
            not_beside = frozenset(ResultKind)
        builder.built = [replace(one, not_beside=not_beside) for one in builder.built]
    for image in report.images:
        builder.kinds = context.kinds if image.has_call else context.kinds & quiet
        builder.add_image(report, image)
    builder.kinds = context.kinds if has_call else context.kinds & quiet
    builder.add_key_objects(report)
    return builder.built


def build_failure(
    context: ResultContext,
    sources: Sequence[SourceObject],
    reason: str,
    cause: Cause = Cause.UNKNOWN,
    look_first: Mapping[str, str] = MappingProxyType({}),
) -> list[BuiltObject]:
    """Build objects that report that the AI did not run, so that nobody waits for a result.

    ``reason``: one sentence for the person who reads the images, without PHI. ``cause``: the coded cause.
    ``look_first``: what is said first of an image, by UID. The images may be undecodable.
    """
    report = failure_of(context, read_sources(sources), reason, cause, look_first)
    builder = ResultBuilder(context)
    builder.add_report(
        report, ("failure", cause, reason, *look_first.values()), ("failure", reason, *look_first.values())
    )
    for image in _pictured(report.images):
        make = partial(build_failure_picture, context, image)
        builder.add(ResultKind.SC, [image.source], make, ("failure", *image.lines))
    return builder.built


def _pictured(images: Sequence[ImageReport]) -> Iterator[ImageReport]:
    """Yield the images that get a picture that the AI did not run: each ultrasound, film and capture; of
    slices, of which a series has thousands, the first one of the series.
    """
    series = set()
    for image in images:
        source = image.source
        if source.sop_class_uid in SOURCES | SECONDARY_CAPTURES or source.series_uid not in series:
            yield image
        series.add(source.series_uid)


class ResultBuilder:
    """Builds the result objects of one job, one after the other; they collect in ``built``."""

    def __init__(self, context: ResultContext) -> None:
        """Prepare for the job of ``context``; no object is built yet."""
        self.context = context
        self.kinds = context.kinds
        """``kinds``: those that are wanted now."""

        self.built: list[BuiltObject] = []
        self.named: Mapping[str, str] = {}
        """SOP Class UIDs of the results that an object may refer to, by SOP Instance UID."""

    def add(
        self,
        kind: ResultKind,
        sources: Sequence[Source],
        make: Callable[[str], Dataset],
        parts: tuple[str, ...] = (),
        of_series: tuple[str, ...] = (),
        sop_class_uid: str = "",
    ) -> None:
        """Build and check one object, and append it to ``built``; if it exists already, append only its UIDs.

        Does nothing for a ``kind`` that is not wanted. ``make``: a function that takes the SOP Instance UID
        and returns the data set. ``parts`` and ``of_series``: texts that distinguish several objects, or
        series, of one kind. ``sop_class_uid``: for a kind with several SOP classes; "" for all others.
        Raises ResultRefused.
        """
        if kind not in self.kinds:
            return
        sop_class = sop_class_uid or RESULT_KINDS[kind].sop_classes[0]
        one = unbuilt_object(self.context, kind, sop_class, sources, parts, of_series)
        if not self.context.exists(one.sop_instance_uid):
            dataset = make(one.sop_instance_uid)
            if (dataset.SOPClassUID, dataset.SOPInstanceUID) != (one.sop_class_uid, one.sop_instance_uid):
                raise ResultRefused(f"the {one.kind} result is not the object that was planned")
            one = replace(one, data=self.encode_checked(dataset, one.kind, sources))
        self.built.append(one)

    def encode_checked(self, dataset: Dataset, kind: ResultKind, sources: Sequence[Source]) -> bytes:
        """Encode an object, check it before release (``gate.check``), and return its bytes. Raises
        ResultRefused.
        """
        data = encode(dataset, self.context, sources[0])
        gate.check(data, dataset, self.context, kind, sources, results=self.named)
        return data

    def add_report(self, report: Report, parts: tuple[str, ...], of_page: tuple[str, ...]) -> None:
        """Add the report as an SR, fetal biometry as a further one, and the summary page of the job as a
        picture and as a PDF.

        ``parts``: texts that distinguish the SR from other ones of these images; ``of_page``: the same for
        the page.
        """
        page = cache(lambda: summary_of(report))
        self.add(ResultKind.SR, report.sources, partial(build_document, report), parts)
        if has_biometry(report):
            make = partial(build_obstetric_report, report)
            self.add(ResultKind.OBSTETRIC, report.sources, make, parts)
        self.add(ResultKind.SUMMARY, report.sources, lambda uid: build_page(report, page(), uid), of_page)
        self.add(ResultKind.PDF, report.sources, lambda uid: build_pdf(report, page(), uid), of_page)

    def add_key_objects(self, report: Report) -> None:
        """Add the selection of the objects that a destination gets of this job; none if it gets no other."""
        kinds = self.context.form.key_objects or self.context.kinds
        named = [one for one in self.built if one.kind in kinds and one.not_beside.isdisjoint(kinds)]
        if named:
            self.named = {one.sop_instance_uid: one.sop_class_uid for one in named}
            make = partial(build_key_objects, report, named)
            self.add(ResultKind.KEY_OBJECTS, report.sources, make, tuple(self.named))

    def add_image(self, report: Report, image: ImageReport) -> None:
        """Add all objects of one image: presentation state, annotated picture, heat maps, cleaned images and
        masks.

        Pictures are drawn only on pixels that the report's ``drawn_on`` allows.
        """
        context, source = self.context, image.source
        cleaned, masks = image.of_kind(ImageKind.CLEANED), image.of_kind(ImageKind.MASK)
        grey, colour = GrayscaleSoftcopyPresentationStateStorage, ColorSoftcopyPresentationStateStorage
        self.add(
            ResultKind.GSPS,
            [source],
            partial(build_presentation, context, image),
            image.parts,
            sop_class_uid=grey if source.grey else colour,
        )
        below = image.cleaned if report.drawn_on == "cleaned" else None
        if below is not None or report.drawn_on == "source":
            # Drawn on the source, or on the cleaned image below the drawing.
            shows_cleaned = ResultKind.CLEANED in self.kinds and bool(cleaned)
            if not shows_cleaned or assesses(image.findings, image.measurements):
                self.add(ResultKind.SC, [source], partial(build_annotated, report, image, below), image.parts)
            mapped = [one for one in image.findings if one.evidence and one.decision is not Decision.ABSENT]
            for rank, finding in enumerate(mapped, start=1):
                make = partial(build_heatmap, context, source, finding, rank, below)
                self.add(ResultKind.HEATMAP, [source], make, (str(rank),))
        for one in cleaned:
            self.add_cleaned(source, one, next(iter(masks), None))
        for mask in masks:
            if ResultKind.SEG in self.kinds and not is_empty(mask):
                self.add(ResultKind.SEG, [source], partial(build_segmentation, context, source, mask))
        for outlines in image.of_kind(ImageKind.ORGANS) if context.form.outlines == "seg" else ():
            make = partial(build_organs, context, source, outlines)
            self.add(ResultKind.SEG, [source], make, (ORGAN_SERIES,), (ORGAN_SERIES,))

    def add_cleaned(self, source: Source, image: DerivedImage, mask: DerivedImage | None) -> None:
        """Add a cleaned image of ``source``; ``mask``: the pixels that were filled, None if not known."""
        self.add(
            ResultKind.CLEANED,
            [source],
            partial(build_cleaned, self.context, source, image, mask),
            of_series=(modality_of(source),),
            sop_class_uid=cleaned_class(frames_of(source, image)),
        )
