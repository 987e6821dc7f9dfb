"""From a pipeline's result to the objects that are sent: each built and checked by the gate, or looked up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pydicom.dataset import Dataset
from pydicom.uid import (
    ColorSoftcopyPresentationStateStorage,
    Comprehensive3DSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from ai_pipeline.contract import BURNED_IN, Decision, DerivedImage, Finding, ImageKind, PipelineResult
from dicom_node.errors import ResultRefused
from dicom_node.model.kinds import ResultKind
from dicom_node.results import gate
from dicom_node.results.common.context import BuiltObject, Cause, ResultContext, SourceObject
from dicom_node.results.common.envelope import encode
from dicom_node.results.common.identity import object_uid, series_uid
from dicom_node.results.common.located_findings import of_source, reported
from dicom_node.results.common.source import Source, read_sources
from dicom_node.results.gsps.presentation import build_presentation
from dicom_node.results.sc.captures import (
    build_annotated,
    build_failure_picture,
    build_heatmap,
    with_evidence,
)
from dicom_node.results.sc.cleaned import build_cleaned, cleaned_class, modality_of
from dicom_node.results.seg.segmentation import build_segmentation, is_empty
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
    plans = [*_report(context, read, result)]
    for source in read:
        plans += _faces(context, source, of_source(source, result.findings), _images(source, result))
    return [_built(context, plan) for plan in plans if plan.kind in context.kinds]


def build_failure(
    context: ResultContext, sources: Sequence[SourceObject], reason: str, cause: Cause = Cause.UNKNOWN
) -> list[BuiltObject]:
    """Objects that say that the AI did not run (fail loud for care).

    ``reason`` is one sentence for a reader, without PHI; ``cause`` its kind. The images need not decode.
    """
    read = read_sources(sources)
    uid = object_uid(context, ResultKind.SR, read, "failure", cause, reason)
    plans = [
        _Plan(
            ResultKind.SR,
            uid,
            Comprehensive3DSRStorage,
            read,
            lambda: build_failure_report(context, read, reason, cause, uid),
        )
    ]
    for source in read:
        plans.append(_failure_picture(context, source, reason))
    built = [_built(context, plan) for plan in plans if plan.kind in context.kinds]
    return [replace(item, burned_in_boxes=None) for item in built]


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """One object that is to be built; its UID is known before."""

    kind: ResultKind
    uid: str
    sop_class_uid: str
    sources: Sequence[Source]
    make: Callable[[], Dataset]
    series_parts: tuple[str, ...] = ()


def _report(context: ResultContext, sources: Sequence[Source], result: PipelineResult) -> Iterator[_Plan]:
    uid = object_uid(context, ResultKind.SR, sources, *_boxed(context, result.findings))
    yield _Plan(
        ResultKind.SR,
        uid,
        Comprehensive3DSRStorage,
        sources,
        lambda: build_report(context, sources, result, uid),
    )


def _faces(
    context: ResultContext, source: Source, findings: Sequence[Finding], images: Sequence[DerivedImage]
) -> list[_Plan]:
    plans = [_presentation(context, source, findings)]
    cleaned = [image for image in images if image.kind is ImageKind.CLEANED]
    if reported(context, findings) or not cleaned or ResultKind.CLEANED not in context.kinds:
        plans.append(_annotated(context, source, findings))
    for place, finding in enumerate(with_evidence(findings), start=1):
        plans.append(_heatmap(context, source, finding, place))
    mask = next((image for image in images if image.kind is ImageKind.MASK), None)
    plans += [_cleaned(context, source, image, mask) for image in cleaned]
    plans += [
        _segmentation(context, source, image)
        for image in images
        if image.kind is ImageKind.MASK and ResultKind.SEG in context.kinds and not is_empty(image)
    ]
    return plans


def _presentation(context: ResultContext, source: Source, findings: Sequence[Finding]) -> _Plan:
    uid = object_uid(context, ResultKind.GSPS, [source], *_boxed(context, findings))
    grey, colour = GrayscaleSoftcopyPresentationStateStorage, ColorSoftcopyPresentationStateStorage
    return _Plan(
        ResultKind.GSPS,
        uid,
        grey if source.grey else colour,
        [source],
        lambda: build_presentation(context, source, findings, uid),
    )


def _annotated(context: ResultContext, source: Source, findings: Sequence[Finding]) -> _Plan:
    uid = object_uid(context, ResultKind.SC, [source], *_boxed(context, findings))
    return _Plan(
        ResultKind.SC,
        uid,
        SecondaryCaptureImageStorage,
        [source],
        lambda: build_annotated(context, source, findings, uid),
    )


def _boxed(context: ResultContext, findings: Sequence[Finding]) -> tuple[str, ...]:
    """The part of the UID that distinguishes an object with boxes of burned-in annotation."""
    drawn = context.burned_in_boxes and any(
        finding.code == BURNED_IN and finding.decision is not Decision.ABSENT for finding in findings
    )
    return ("burned-in boxes",) if drawn else ()


def _heatmap(context: ResultContext, source: Source, finding: Finding, place: int) -> _Plan:
    uid = object_uid(context, ResultKind.HEATMAP, [source], str(place))
    return _Plan(
        ResultKind.HEATMAP,
        uid,
        SecondaryCaptureImageStorage,
        [source],
        lambda: build_heatmap(context, source, finding, uid, place),
    )


def _cleaned(context: ResultContext, source: Source, image: DerivedImage, mask: DerivedImage | None) -> _Plan:
    uid = object_uid(context, ResultKind.CLEANED, [source])
    return _Plan(
        ResultKind.CLEANED,
        uid,
        cleaned_class(source, image),
        [source],
        lambda: build_cleaned(context, source, image, mask, uid),
        (modality_of(source),),
    )


def _segmentation(context: ResultContext, source: Source, image: DerivedImage) -> _Plan:
    uid = object_uid(context, ResultKind.SEG, [source])
    return _Plan(
        ResultKind.SEG,
        uid,
        SegmentationStorage,
        [source],
        lambda: build_segmentation(context, source, image, uid),
    )


def _failure_picture(context: ResultContext, source: Source, reason: str) -> _Plan:
    uid = object_uid(context, ResultKind.SC, [source], "failure", reason)
    return _Plan(
        ResultKind.SC,
        uid,
        SecondaryCaptureImageStorage,
        [source],
        lambda: build_failure_picture(context, source, reason, uid),
    )


def _images(source: Source, result: PipelineResult) -> list[DerivedImage]:
    return [image for image in result.images if image.source_uid == source.uid]


def _built(context: ResultContext, plan: _Plan) -> BuiltObject:
    data = None if context.exists(plan.uid) else _checked(context, plan)
    return BuiltObject(
        kind=plan.kind,
        sop_instance_uid=plan.uid,
        sop_class_uid=str(plan.sop_class_uid),
        series_instance_uid=series_uid(context, plan.kind, plan.sources[0], *plan.series_parts),
        supersedes=context.supersedes if plan.kind is ResultKind.SR else "",
        data=data,
        burned_in_boxes=context.burned_in_boxes,
    )


def _checked(context: ResultContext, plan: _Plan) -> bytes:
    dataset = plan.make()
    if (dataset.SOPClassUID, dataset.SOPInstanceUID) != (plan.sop_class_uid, plan.uid):
        raise ResultRefused(f"the {plan.kind} result is not the object that was planned")
    data = encode(dataset, context, plan.sources[0])
    gate.check(data, dataset, context, plan.kind, plan.sources)
    return data
