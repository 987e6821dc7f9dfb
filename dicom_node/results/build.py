"""Builds the objects to send from a pipeline's result, checks them by the gate, and puts them on disk.

What persons say of results, as objects: the assessment of a report's findings, and the rejection note.

The assessment is a further SR that refers to the report (IHE AIRA).
Comprehensive 3D SR, TID 1500 (PS3.16): a TID 1501 group for each finding with the finding's own tracking UID,
and the UID of the report as a UIDREF item (the template is extensible). The report itself is referenced in
the header's place for related documents, Referenced Instance Sequence (PS3.3 C.17.2) with its purpose, and in
the evidence: the content tree refers only to images, as readers of TID 1500 expect. The verdicts are codes of
our scheme.

The rejection note of IHE IOCM (RAD TF-3, 4.66) is a Key Object Selection that names the withdrawn results.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    ContentSequence,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PersonObserverIdentifyingAttributes,
    QualitativeEvaluation,
    RelationshipTypeValues,
    TextContentItem,
    TrackingIdentifier,
    UIDRefContentItem,
)
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
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

from ai_pipeline.contract import Decision, ImageKind, PipelineResult
from ai_pipeline.images.render import assesses
from dicom_node.base.dicom.header import quiet_pydicom
from dicom_node.base.dicom.identity import COPIED
from dicom_node.base.dicom.uids import Installation, derived_uid
from dicom_node.base.durable import sync_folder
from dicom_node.base.errors import ResultRefused
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import DEIDENTIFIED_FOLDER, ReaderVerdict, RejectionReason, ResultKind
from dicom_node.results import gate
from dicom_node.results.envelope import (
    OURS,
    RULE_STEP,
    SERIES_NUMBERS,
    UTF8,
    BuiltObject,
    Cause,
    ResultContext,
    Source,
    SourceObject,
    as_judged,
    built_document,
    coding_schemes,
    contributing_equipment,
    device_observer,
    encode,
    fetus_of_reports,
    general_equipment,
    name_of,
    read_sources,
    set_values,
    stand_in_of,
    statement_uid,
    subject_context,
    unbuilt_object,
    without_identity,
)
from dicom_node.results.pictures import (
    ORGAN_SERIES,
    build_annotated,
    build_cleaned,
    build_failure_picture,
    build_heatmap,
    build_organs,
    build_page,
    build_pdf,
    build_presentation,
    build_segmentation,
    cleaned_class,
    frames_of,
    is_empty,
    modality_of,
    summary_of,
)
from dicom_node.results.report import ImageReport, Report, failure_of, report_of
from dicom_node.results.sr import build_document, read_report

_CLASSES: Final[Mapping[ResultKind, str]] = {
    ResultKind.SR: Comprehensive3DSRStorage,
    ResultKind.SC: SecondaryCaptureImageStorage,
    ResultKind.SUMMARY: SecondaryCaptureImageStorage,
    ResultKind.HEATMAP: SecondaryCaptureImageStorage,
    ResultKind.SEG: SegmentationStorage,
    ResultKind.PDF: EncapsulatedPDFStorage,
}


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
    return builder.built


def build_failure(
    context: ResultContext, sources: Sequence[SourceObject], reason: str, cause: Cause = Cause.UNKNOWN
) -> list[BuiltObject]:
    """Build objects that report that the AI did not run, so that nobody waits for a result.

    ``reason``: one sentence for the person who reads the images, without PHI. ``cause``: the coded cause. The
    images may be undecodable.
    """
    report = failure_of(context, read_sources(sources), reason, cause)
    builder = ResultBuilder(context)
    builder.add_report(report, ("failure", cause, reason), ("failure", reason))
    for source in report.sources:
        make = partial(build_failure_picture, context, source, reason)
        builder.add(ResultKind.SC, [source], make, ("failure", reason))
    return builder.built


class ResultBuilder:
    """Builds the result objects of one job, one after the other; they collect in ``built``."""

    def __init__(self, context: ResultContext) -> None:
        """Prepare for the job of ``context``; no object is built yet."""
        self.context, self.kinds = context, context.kinds
        """``kinds``: those that are wanted now."""

        self.built: list[BuiltObject] = []

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
        series, of one kind. ``sop_class_uid``: for a kind with several SOP classes; "" for all others. Raises
        ResultRefused.
        """
        if kind not in self.kinds:
            return
        one = unbuilt_object(self.context, kind, sop_class_uid or _CLASSES[kind], sources, parts, of_series)
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
        gate.check(data, dataset, self.context, kind, sources)
        return data

    def add_report(self, report: Report, parts: tuple[str, ...], of_page: tuple[str, ...]) -> None:
        """Add the report as an SR, and the summary page of the job as a picture and as a PDF.

        ``parts``: texts that distinguish the SR from other ones of these images; ``of_page``: the same for
        the page.
        """
        page = cache(lambda: summary_of(report))
        self.add(ResultKind.SR, report.sources, partial(build_document, report), parts)
        self.add(
            ResultKind.SUMMARY,
            report.sources,
            lambda uid: build_page(report, page(), uid),
            of_page,
        )
        self.add(ResultKind.PDF, report.sources, lambda uid: build_pdf(report, page(), uid), of_page)

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
            self.add(
                ResultKind.CLEANED,
                [source],
                partial(build_cleaned, context, source, one, next(iter(masks), None)),
                of_series=(modality_of(source),),
                sop_class_uid=cleaned_class(frames_of(source, one)),
            )
        for mask in masks:
            if ResultKind.SEG in self.kinds and not is_empty(mask):
                self.add(ResultKind.SEG, [source], partial(build_segmentation, context, source, mask))
        for outlines in image.of_kind(ImageKind.ORGANS):
            make = partial(build_organs, context, source, outlines)
            self.add(ResultKind.SEG, [source], make, (ORGAN_SERIES,), (ORGAN_SERIES,))


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A result's file on disk that still has a temporary name. ``final``: its path once it is kept; ``size``
    in bytes.

    ``was_there``: the file was written before, but its database row was lost. Then the existing bytes are the
    object (a result is built once), and whether they were sent is unknown.
    """

    temporary: Path
    final: Path
    sha256: str
    size: int
    was_there: bool = False


@contextlib.contextmanager
def temporary_files(built: Iterable[BuiltObject], door: Files) -> Iterator[dict[str, ResultFile]]:
    """Context manager: write the files of newly built objects under temporary names, by SOP Instance UID.

    ``door``: the store of the node's files. Objects that were built before (``data`` None) are skipped. Files
    that the caller does not move to their final path are deleted at the end of the scope.
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
    """The values for a new row of the results table that come from the object and its file.

    ``door``: the store of the node's files, which makes the path relative to the data folder.
    """
    is_report = built.kind is ResultKind.SR and built.data is not None
    return {
        "kind": built.kind,
        "sop_instance_uid": built.sop_instance_uid,
        "sop_class_uid": built.sop_class_uid,
        "series_instance_uid": built.series_instance_uid,
        "supersedes": built.supersedes,
        "deidentified": built.deidentified,
        "pseudonym_domain": built.pseudonym_domain,
        "path": door.relative(file.final),
        "sha256": file.sha256,
        "bytes": file.size,
        "short_result": "\n".join(read_report(BytesIO(built.data or b"")).short_result) if is_report else "",
    }


def put_in_place(files: Sequence[ResultFile], door: Files) -> None:
    """Rename the files to their final names, durably, and upload them to the object store. Raises StoreAway.

    ``door``: the store of the node's files.
    """
    for file in files:
        door.keep(file.temporary, door.relative(file.final))
    folders = {file.final.parent for file in files}
    for folder in folders | {folder.parent for folder in folders}:
        sync_folder(folder)


def _write(door: Files, folder: Path, uid: str, data: bytes) -> ResultFile:
    """Write the bytes of one result durably under a temporary name, unless its final file is there already.

    ``door``: the store of the node's files; ``uid``: SOP Instance UID; ``folder``: where the final file
    belongs.
    """
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


_DISCLAIMER: Final = "A person's assessment of an AI result - not for diagnostic use"
_CONTAINS: Final = RelationshipTypeValues.CONTAINS
_IMAGE_LIBRARY, _PROCEDURE = "111028", "121058"  # PS3.16 TID 1600, TID 1500


@dataclass(frozen=True, slots=True)
class FindingAssessment:
    """One finding of a report with a person's verdict on it. ``code``: value and scheme of the finding.

    ``tracking_uid``: "" if the finding has none in the report, as absent or missing ones. ``model`` and
    ``version``: the model that reported it. ``because``: the person's reason, "" without one. ``at``: the
    time of the verdict, with time zone.
    """

    finding: str
    code: tuple[str, str]
    tracking_uid: str
    model: str
    version: str
    verdict: ReaderVerdict
    because: str
    at: datetime


def build_assessment(
    report: Path,
    said: Sequence[FindingAssessment],
    person: str,
    station: str,
    installation: Installation,
    former: str,
) -> BuiltObject:
    """Build the SR with the verdicts of ``person`` (a user name) on the findings in the SR file ``report``.

    ``said``: the verdicts. ``station``: our AE title. ``former``: SOP Instance UID of the assessment that
    this one replaces, or "". Raises ResultRefused.
    """
    with quiet_pydicom():
        about = dcmread(report)
    context = ResultContext.of_person("assessment", max(one.at for one in said), installation, station)
    shaping = [
        (one.finding, *one.code, one.tracking_uid, one.model, one.version, one.verdict, one.because, one.at)
        for one in said
    ]
    parts = (str(about.SOPInstanceUID), person, *(str(part) for one in shaping for part in one))
    series_uid = derived_uid("assessment series", str(about.StudyInstanceUID), person)
    groups = []
    for one in said:  # TID 1501 with the finding's own tracking UID, the model that found it, and the verdict
        own = derived_uid("assessed finding", str(about.SOPInstanceUID), one.finding, one.model, one.version)
        group = MeasurementsAndQualitativeEvaluations(
            tracking_identifier=TrackingIdentifier(uid=one.tracking_uid or own, identifier=one.finding),
            finding_type=CodedConcept(*one.code, one.finding[:64]),
            algorithm_id=AlgorithmIdentification(name=one.model, version=one.version),
            qualitative_evaluations=[QualitativeEvaluation(OURS["ASSESSMENT"], OURS[one.verdict.upper()])],
        )
        if one.because:
            group[0].ContentSequence.append(_comment_item(one.because))
        groups.append(group)
    content = MeasurementReport(
        # TID 1001 with a person (TID 1003: the account's name) and the node on which it was said (TID 1004).
        observation_context=ObservationContext(
            observer_person_context=ObserverContext(
                observer_type=codes.DCM.Person,
                observer_identifying_attributes=PersonObserverIdentifyingAttributes(
                    name=f"{person}^", login_name=person
                ),
            ),
            observer_device_context=device_observer(context),
        ),
        procedure_reported=[
            CodedConcept.from_dataset(item.ConceptCodeSequence[0])
            for item in about.ContentSequence
            if name_of(item) == _PROCEDURE
        ],
        title=codes.DCM.ImagingMeasurementReport,
        imaging_measurements=groups,
    )
    *first, measurements = content[0].ContentSequence
    assessed = UIDRefContentItem(
        name=OURS["ASSESSEDREPORT"], value=about.SOPInstanceUID, relationship_type=_CONTAINS
    )
    content[0].ContentSequence = ContentSequence([*first, assessed, _comment_item(_DISCLAIMER), measurements])
    document = Comprehensive3DSR(
        evidence=[without_identity(about)],
        content=content,
        series_instance_uid=series_uid,
        series_number=_series_number_beside(about, ResultKind.ASSESSMENT),
        sop_instance_uid=statement_uid(context, "assessment", *parts),
        instance_number=1,
        is_complete=True,
        is_final=False,
        is_verified=False,
        requested_procedures=deepcopy(about.get("ReferencedRequestSequence")) or None,
        performed_procedure_codes=[
            CodedConcept.from_dataset(item) for item in about.get("PerformedProcedureCodeSequence") or []
        ],
        # The assessment that this one replaces: of the same person, so of the same series.
        previous_versions=[stand_in_of(Comprehensive3DSRStorage, former, about.StudyInstanceUID, series_uid)]
        if former
        else None,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set=UTF8,
        coding_schemes=coding_schemes(),
        contributing_equipment=contributing_equipment(
            context, str(about.get("TimezoneOffsetFromUTC") or ""), ResultKind.ASSESSMENT
        ),
        **general_equipment(context),
    )
    # Patient and study as the report has them, and its images with their series (PS3.3 C.17.2).
    for keyword in (*COPIED, "BodyPartExamined", "Laterality"):
        if keyword in about:
            document[keyword] = deepcopy(about[keyword])
    library = [deepcopy(item) for item in about.ContentSequence if name_of(item) == _IMAGE_LIBRARY]
    *first, measurements = document.ContentSequence
    document.ContentSequence = [*first, *library, measurements]
    [mine] = document.CurrentRequestedProcedureEvidenceSequence
    for study in about.CurrentRequestedProcedureEvidenceSequence:
        if study.StudyInstanceUID == mine.StudyInstanceUID:
            mine.ReferencedSeriesSequence.extend(deepcopy(study.ReferencedSeriesSequence))
    # The assessed report, and why it is named (PS3.3 Table C.17-2).
    related = Dataset()
    set_values(
        related,
        ReferencedSOPClassUID=about.SOPClassUID,
        ReferencedSOPInstanceUID=about.SOPInstanceUID,
        PurposeOfReferenceCodeSequence=[CodedConcept.from_code(OURS["ASSESSEDREPORT"])],
    )
    document.ReferencedInstanceSequence = [related]
    built = built_document(document, context, ResultKind.ASSESSMENT, about, former)
    gate.check_assessment(built.data or b"", document, about)
    return built


def _series_number_beside(result: Dataset, kind: ResultKind) -> int:
    """The series number for an object of this kind beside ``result``, among the numbers of the same rule."""
    return int(result.SeriesNumber) // RULE_STEP * RULE_STEP + SERIES_NUMBERS[kind] % RULE_STEP


def _comment_item(value: str) -> TextContentItem:
    """An SR content item: a comment with this text."""
    return TextContentItem(name=codes.DCM.Comment, value=value, relationship_type=_CONTAINS)


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
    """Build the rejection note (IHE IOCM) that withdraws these result files, all of one study.

    Its character set is that of the first file. ``because``: the person's reason, its Key Object Description
    (TID 2010). ``at``: the time in all its attributes; ``station``: our AE title.
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
        content[0].ContentSequence = ContentSequence(
            sorted(
                [*content[0].ContentSequence, *subject_context(fetus)],
                key=lambda item: item.RelationshipType != "HAS OBS CONTEXT",
            )
        )
    note = KeyObjectSelectionDocument(
        evidence=[without_identity(one) for one in objects],
        content=content,
        series_instance_uid=derived_uid("rejection series", *parts),
        series_number=_series_number_beside(first, ResultKind.REJECTION),
        sop_instance_uid=statement_uid(context, "rejection", *parts),
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
