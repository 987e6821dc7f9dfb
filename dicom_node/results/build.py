"""From a pipeline's result to the objects that are sent: each built and checked by the gate, or looked up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from pydicom.uid import (
    ColorSoftcopyPresentationStateStorage,
    Comprehensive3DSRStorage,
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
from dicom_node.results.common.located_findings import of_source, reported
from dicom_node.results.common.planned import Planned
from dicom_node.results.common.source import Source, read_sources
from dicom_node.results.gsps.presentation import build_presentation
from dicom_node.results.sc.captures import (
    build_annotated,
    build_failure_picture,
    build_heatmap,
    with_evidence,
)
from dicom_node.results.sc.cleaned import (
    DESPECKLED_SERIES,
    build_cleaned,
    cleaned_class,
    modality_of,
)
from dicom_node.results.seg.segmentation import (
    ORGAN_SERIES,
    build_organs,
    build_segmentation,
    is_empty,
)
from dicom_node.results.sr.report import build_failure_report, build_report


def build(
    context: ResultContext, sources: Sequence[SourceObject], result: PipelineResult
) -> list[BuiltObject]:
    """All objects that the destinations can show, the report first.

    The report is of all images; every other object is of one image, so that a late image leaves those of the
    others as they are. Raises ResultRefused (the gate; more than one patient; an unverified cleaned image),
    DecodedDifferently, and PixelError where a picture's source does not decode.
    """
    read = read_sources(sources)
    known = {source.uid for source in read}
    named = [finding.source_uid for finding in result.findings]
    named += [image.source_uid for image in result.images]
    named += [measurement.source_uid for measurement in result.measurements]
    if not known.issuperset(named):
        raise ResultRefused("the pipeline names an image that is none of this job's sources")
    make_report = partial(build_report, context, read, result)
    parts = (*_boxed(context, result.findings), *not_here(result))
    plans = [Planned(ResultKind.SR, Comprehensive3DSRStorage, read, make_report, parts)]
    for source in read:
        images = [image for image in result.images if image.source_uid == source.uid]
        measurements = [one for one in result.measurements if one.source_uid == source.uid]
        findings = of_source(source, result.findings)
        notes = [note for note in result.quality if note.source_uid in {None, source.uid}]
        plans += _of_image(context, source, findings, measurements, notes, images, result.drawn_on)
    return [_built(context, plan) for plan in plans if plan.kind in context.kinds]


def build_failure(
    context: ResultContext, sources: Sequence[SourceObject], reason: str, cause: Cause = Cause.UNKNOWN
) -> list[BuiltObject]:
    """Objects that say that the AI did not run (fail loud for care).

    ``reason`` is one sentence for a reader, without PHI; ``cause`` its kind. The images need not decode.
    """
    read = read_sources(sources)
    make = partial(build_failure_report, context, read, reason, cause)
    plans = [Planned(ResultKind.SR, Comprehensive3DSRStorage, read, make, ("failure", cause, reason))]
    for source in read:
        make = partial(build_failure_picture, context, source, reason)
        parts = ("failure", reason)
        plans.append(Planned(ResultKind.SC, SecondaryCaptureImageStorage, [source], make, parts))
    built = [_built(context, plan) for plan in plans if plan.kind in context.kinds]
    return [replace(item, burned_in_boxes=None) for item in built]


def _of_image(
    context: ResultContext,
    source: Source,
    findings: Sequence[Finding],
    measurements: Sequence[Measurement],
    notes: Sequence[QualityNote],
    images: Sequence[DerivedImage],
    drawn_on: Literal["source", "cleaned"],
) -> Iterator[Planned]:
    """What is built of one image: presentation state, annotated picture, heat maps, cleaned image, mask.

    No picture of pixels that ``drawn_on`` does not allow.
    """
    boxed, capture = _boxed(context, findings), SecondaryCaptureImageStorage
    grey, colour = GrayscaleSoftcopyPresentationStateStorage, ColorSoftcopyPresentationStateStorage
    make = partial(build_presentation, context, source, findings, measurements, notes)
    yield Planned(ResultKind.GSPS, grey if source.grey else colour, [source], make, boxed)
    cleaned = [image for image in images if image.kind is ImageKind.CLEANED]
    masks = [image for image in images if image.kind is ImageKind.MASK]
    below = next((image for image in cleaned if image.verified), None) if drawn_on == "cleaned" else None
    allowed = below is not None or drawn_on == "source"
    worth_it = reported(context, findings) or not cleaned or ResultKind.CLEANED not in context.kinds
    if allowed and (worth_it or assesses((), measurements)):
        make = partial(build_annotated, context, source, findings, measurements, notes, below)
        yield Planned(ResultKind.SC, capture, [source], make, boxed)
    for rank, finding in enumerate(with_evidence(findings) if allowed else [], start=1):
        make = partial(build_heatmap, context, source, finding, rank, below)
        yield Planned(ResultKind.HEATMAP, capture, [source], make, (str(rank),))
    for image in cleaned:
        make = partial(build_cleaned, context, source, image, masks[0] if masks else None)
        series = (modality_of(source),)
        yield Planned(ResultKind.CLEANED, cleaned_class(source, image), [source], make, (), series)
    for image in (image for image in images if image.kind is ImageKind.DESPECKLED):
        make = partial(build_cleaned, context, source, image, masks[0] if masks else None)
        name, own = (DESPECKLED_SERIES,), (modality_of(source), DESPECKLED_SERIES)
        yield Planned(ResultKind.CLEANED, cleaned_class(source, image), [source], make, name, own)
    for mask in masks:
        if ResultKind.SEG in context.kinds and not is_empty(mask):
            make = partial(build_segmentation, context, source, mask)
            yield Planned(ResultKind.SEG, SegmentationStorage, [source], make)
    for outlines in (image for image in images if image.kind is ImageKind.ORGANS):
        make = partial(build_organs, context, source, outlines)
        series = (ORGAN_SERIES,)
        yield Planned(ResultKind.SEG, SegmentationStorage, [source], make, series, series)


def _boxed(context: ResultContext, findings: Sequence[Finding]) -> tuple[str, ...]:
    """The part of the UID that distinguishes an object with boxes of burned-in annotation."""
    drawn = context.burned_in_boxes and any(
        finding.code == BURNED_IN and finding.decision is not Decision.ABSENT for finding in findings
    )
    return ("burned-in boxes",) if drawn else ()


def _built(context: ResultContext, plan: Planned) -> BuiltObject:
    built = plan.described(context)
    if context.exists(built.sop_instance_uid):
        return built
    dataset = plan.make(built.sop_instance_uid)
    if (dataset.SOPClassUID, dataset.SOPInstanceUID) != (built.sop_class_uid, built.sop_instance_uid):
        raise ResultRefused(f"the {plan.kind} result is not the object that was planned")
    data = encode(dataset, context, plan.sources[0])
    gate.check(data, dataset, context, plan.kind, plan.sources)
    return replace(built, data=data)
