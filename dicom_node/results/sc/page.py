"""The summary of a job on one page, and pictures with the result drawn in.

Secondary captures are for viewers that show neither reports nor presentation states. The summary page is also
an Encapsulated PDF (PS3.3 A.45.1), for systems that accept documents, not pictures.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from highdicom.base import SOPClass
from highdicom.sc import SCImage
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage

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
from ai_pipeline.images.render import (
    NOT_FOR_DIAGNOSIS,
    PagePicture,
    annotate,
    draw_page,
    drawable,
    heatmap_overlay,
    lay_out_page,
    place_lines,
)
from ai_pipeline.summary import result_lines
from dicom_node.connectors import installed
from dicom_node.errors import ResultRefused
from dicom_node.model.kinds import ResultKind
from dicom_node.results.common.concepts import IMAGING_REPORT
from dicom_node.results.common.context import ResultContext
from dicom_node.results.common.envelope import (
    complete,
    dicom_datetime,
    disclaimer,
    header_arguments,
    offset_of,
)
from dicom_node.results.common.source import (
    ORIENTATION_FOR_HIGHDICOM,
    Source,
    copy_present,
    copy_spacing,
    describe_derivation,
    pixel_height,
    reference,
    referenced,
    set_orientation,
)
from dicom_node.results.common.tracked import (
    LocatedFinding,
    located_findings,
    of_source,
    purged_images,
    ranked,
    results_in_words,
    tracked,
)
from dicom_node.results.sc.cleaned import frames_of
from dicom_node.results.sr.examination import view_of

TITLE: Final = NOT_FOR_DIAGNOSIS.replace("AI result", "AI summary")
"""What the page begins with."""
_NOT_GIVEN: Final = "not given"
_OTHER_LETTERS: Final = "(in letters that this page cannot show)"


@dataclass(frozen=True, slots=True, eq=False)
class SummaryPage:
    """The content of a job's summary page.

    ``words``: texts of the results; ``source``: the image in the picture, ``frame``: its frame (from 1);
    ``filled``: whether the picture shows the cleaned image.
    """

    head: Sequence[str]
    shown: PagePicture | str
    captions: Sequence[str]
    words: Sequence[str]
    foot: Sequence[str]
    source: Source
    what: str
    frame: int = 1
    filled: bool = False


def summary_of(context: ResultContext, sources: Sequence[Source], result: PipelineResult) -> SummaryPage:
    """The page on all images of a job, with a picture of the most important one.

    If an image may have names burned in, the page shows the cleaned image, or none if the cleaning was not
    verified. Raises PixelError if the picture does not decode.
    """
    ordered = sorted(sources, key=lambda source: _importance(source, result))
    source, cleaned = ordered[0], _cleaned(ordered[0], result)
    located = located_findings(context, source, [one for one in result.findings if one.code != BURNED_IN])
    frame = first_frame(located)
    here = [one for one in located if (one.finding.frame or 1) == frame]
    places = place_lines(one.region for one in here if one.region is not None)
    caption = "; ".join(filter(None, [_name(source, sources, frame, cleaned=cleaned is not None), *places]))
    shown: PagePicture | str = (
        "No picture: names may be burned into this image, and it was not verified that none is left."
    )
    if cleaned is not None or not _may_show_names(source, result):
        display = display_of(source, cleaned, frame)
        measured = [
            one for one in result.measurements if one.source_uid == source.uid and (one.frame or 1) == frame
        ]
        shown = PagePicture(display, tracked(here), measured, pixel_height(source))
    words = [text.replace("\r\n", "\n") for text in results_in_words(ordered, result)]
    if len(sources) == 1:
        words = [line for text in words for line in text.split("\n")]
    return SummaryPage(
        _head(sources[0].header),
        shown,
        [caption],
        [*words, *purged_images(result)],
        _foot(context, sources),
        source,
        f"AI summary of {_counted(len(sources))} on one page.",
        frame,
        filled=cleaned is not None,
    )


def failure_summary(context: ResultContext, sources: Sequence[Source], reason: str) -> SummaryPage:
    """The page that reports that the AI did not run, and the reason.

    It has no picture, because the images may not decode.
    """
    head, foot = _head(sources[0].header), _foot(context, sources)
    words = [f"AI did not run: {reason}"]
    shown = "No picture: the AI did not run."
    return SummaryPage(head, shown, [], words, foot, sources[0], "AI did not run.")


def build_page(context: ResultContext, sources: Sequence[Source], summary: SummaryPage, uid: str) -> Dataset:
    """The page as a picture; without a body part if the ``sources`` have different ones."""
    pixels = draw_page(TITLE, summary.head, summary.shown, summary.captions, summary.words, summary.foot)
    kind = ResultKind.SUMMARY
    picture = _captured(
        context,
        sources[0],
        uid,
        kind,
        pixels,
        summary.frame,
        len(sources),
        summary.what,
        shown=summary.source,
        filled=summary.filled,
    )
    picture.SourceImageSequence = [reference(one) for one in sources]
    for one in sources:
        if not summary.filled:
            copy_present(picture, one, "SyntheticData")
    complete(picture, context, kind, sources)
    parts = (
        [str(one.header.get(word) or "") for word in ("BodyPartExamined", "Laterality")] for one in sources
    )
    if len(set(map(tuple, parts))) > 1:
        picture.pop("BodyPartExamined", None)
        picture.Laterality = ""
    return picture


def _importance(source: Source, result: PipelineResult) -> tuple[int, bool]:
    """Images with what is suspected come first, then those with what is not excluded or was measured; of such
    the ones that may be shown."""
    decisions = {one.decision for one in of_source(source, result.findings) if one.code != BURNED_IN}
    measured = any(one.model and one.source_uid == source.uid for one in result.measurements)
    hidden = _cleaned(source, result) is None and _may_show_names(source, result)
    if Decision.PRESENT in decisions:
        return 0, hidden
    return (1 if measured or Decision.INDETERMINATE in decisions else 2), hidden


def _may_show_names(source: Source, result: PipelineResult) -> bool:
    """Whether names may be burned into the image: it is an ultrasound, or such text was looked for."""
    looked = any(one.code == BURNED_IN for one in of_source(source, result.findings))
    return looked or result.drawn_on == "cleaned" or source.header.get("Modality") == "US"


def _cleaned(source: Source, result: PipelineResult) -> DerivedImage | None:
    """The cleaned image of a source, None where it was not verified."""
    made = (one for one in result.images if one.source_uid == source.uid and one.kind is ImageKind.CLEANED)
    return next((one for one in made if one.verified), None)


def _foot(context: ResultContext, sources: Sequence[Source]) -> list[str]:
    analysed = dicom_datetime(context.analysed_at, offset_of(sources[0]))
    when = f"{_date(analysed[:8])} {analysed[8:10]}:{analysed[10:12]}"
    return [f"{NOT_FOR_DIAGNOSIS}. Analysed {when}, {_counted(len(sources))}.", _models(context)]


def _models(context: ResultContext) -> str:
    """Names and versions of the models in 200 characters, those that are too many counted."""
    names = [f"{model.id} {model.version}" for model in context.models]
    if not names:
        return f"Pipeline: {context.pipeline} {context.pipeline_version}"
    fitting = next((n for n in range(len(names), 1, -1) if len(", ".join(names[:n])) <= 200), 1)
    more = f" and {len(names) - fitting} more" if fitting < len(names) else ""
    return f"Model{'s' if len(names) > 1 else ''}: {', '.join(names[:fitting])}{more}"


def _head(header: Dataset) -> list[str]:
    """Name; ID, birth date and sex; date, accession number and description of the study."""
    patient = {
        "ID": _value(header, "PatientID"),
        "Born": _date(_value(header, "PatientBirthDate")),
        "Sex": _value(header, "PatientSex"),
    }
    study = {
        "Study": _date(_value(header, "StudyDate")),
        "Accession number": _value(header, "AccessionNumber"),
    }
    lines = [[f"{name}: {value}" for name, value in group.items()] for group in (patient, study)]
    if header.get("StudyDescription"):
        lines[1].append(_value(header, "StudyDescription"))
    return [_patient_name(header), *(" | ".join(line) for line in lines)]


def _patient_name(header: Dataset) -> str:
    """Family name, a comma and the others, of the first group (PS3.5 6.2.1) whose letters can be drawn."""
    groups = [group.strip("^ ") for group in str(header.get("PatientName") or "").split("=")]
    given = [group for group in groups if group]
    group = next(filter(drawable, given), None)
    if group is None:
        return f"Name: {_OTHER_LETTERS if given else _NOT_GIVEN}"
    family, _, others = group.partition("^")
    return ", ".join(filter(None, (family.strip(), " ".join(others.replace("^", " ").split()))))


def _value(header: Dataset, keyword: str) -> str:
    text = str(header.get(keyword) or "").strip() or _NOT_GIVEN
    return text if drawable(text) else _OTHER_LETTERS


def _date(text: str) -> str:
    """19700131 as 1970-01-31, anything else as it is."""
    return re.sub(r"^(\d{4})(\d{2})(\d{2})$", r"\1-\2-\3", text)


def _name(source: Source, sources: Sequence[Source], frame: int, *, cleaned: bool) -> str:
    """Which image the picture is of, and how it was taken."""
    parts = [f"Image {source.number}"] if len(sources) > 1 else []
    view = view_of(source)
    position = source.view or (view.meaning if view else "")
    parts += [f"view: {position}"] if position else []
    parts += [f"frame {frame} of {source.frames}"] if source.frames > 1 else []
    parts += ["cleaned image"] if cleaned else []
    text = ", ".join(parts)
    return text[:1].upper() + text[1:]


def _counted(images: int) -> str:
    return f"{images} image{'s' if images > 1 else ''}"


Picture = npt.NDArray[np.uint8]


def build_annotated(
    context: ResultContext,
    source: Source,
    findings: Sequence[Finding],
    measurements: Sequence[Measurement],
    notes: Sequence[QualityNote],
    cleaned: DerivedImage | None,
    uid: str,
) -> Dataset:
    """The image, or its ``cleaned`` version, with boxes, names, probabilities and measured lines.

    Of a cine the frame with the first finding is shown. ``notes``: remarks to print beside the image.
    """
    located = located_findings(context, source, findings)
    frame = first_frame(located)
    shown = [one for one in located if (one.finding.frame or 1) == frame]
    words = result_lines(of_source(source, findings), measurements, notes)
    words += place_lines(one.region for one in shown if one.region is not None)
    if source.frames > 1:
        words.append(f"frame {frame} of {source.frames}")
    pixels = annotate(
        display_of(source, cleaned, frame),
        tracked(shown),
        legend=[*words, disclaimer(context)],
        measurements=[one for one in measurements if (one.frame or 1) == frame],
    )
    what = f"AI findings drawn into the {'cleaned ' if cleaned else ''}image."
    filled = cleaned is not None
    return _picture(context, source, uid, ResultKind.SC, pixels, frame, source.number, what, filled=filled)


def with_evidence(findings: Sequence[Finding]) -> list[Finding]:
    """The findings that get a heat map: those that are not absent and have one."""
    return [f for f in ranked(findings) if f.evidence is not None and f.decision is not Decision.ABSENT]


def build_heatmap(
    context: ResultContext,
    source: Source,
    finding: Finding,
    rank: int,
    cleaned: DerivedImage | None,
    uid: str,
) -> Dataset:
    """The image, or its ``cleaned`` version, under the heat map (0 to 1) of a finding, with a colour bar.

    ``rank`` 1 is the likeliest finding.
    """
    assert finding.evidence is not None
    frame = finding.frame or 1
    pixels = heatmap_overlay(display_of(source, cleaned, frame), finding, legend=[disclaimer(context)])
    what = f"AI heat map ({finding.evidence.method}) of {finding.name}."
    filled = cleaned is not None
    return _picture(context, source, uid, ResultKind.HEATMAP, pixels, frame, rank, what, filled=filled)


def build_failure_picture(context: ResultContext, source: Source, reason: str, uid: str) -> Dataset:
    """A black picture of the image's size with the text that the AI did not run, and the reason.

    The image is not shown: it may not decode, and its burned-in text was not removed. The picture is small if
    the image's header was refused.
    """
    opened = source.stored.image.header.rows > 0
    display = np.zeros((source.rows, source.columns) if opened else (512, 512), np.uint8)
    pixels = annotate(display, [], legend=["AI did not run", reason, disclaimer(context)])
    return _picture(context, source, uid, ResultKind.SC, pixels, 1, source.number, "AI did not run.")


def _captured(
    context: ResultContext,
    source: Source,
    uid: str,
    kind: ResultKind,
    pixels: Picture,
    frame: int,
    number: int,
    what: str,
    *,
    shown: Source,
    filled: bool,
) -> Dataset:
    """The object before :func:`dicom_node.results.common.envelope.complete`, without an orientation.

    ``source`` gives patient, study and series; ``shown`` is the image in the picture. ``frame`` and
    ``number`` (Instance Number) count from 1. ``filled``: whether it shows a cleaned image, in which some
    pixels were never measured.
    """
    picture = SCImage.from_ref_dataset(
        source.stand_in,
        pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=ORIENTATION_FOR_HIGHDICOM,
        **header_arguments(context, kind, source, uid, number),
    )
    picture.PatientOrientation = None
    describe_derivation(picture, shown, f"{what} {disclaimer(context)}"[:1024], frames=(frame,))
    picture.BurnedInAnnotation = "YES"
    if filled:
        picture.SyntheticData = "YES"  # PS3.3 C.12.1: filled pixels were never measured
    return picture


def display_of(source: Source, cleaned: DerivedImage | None, frame: int) -> Picture:
    """A frame (from 1) as displayed: from the cleaned image if there is one, else from the source.

    Raises PixelError, and ResultRefused for a cleaned image of another size.
    """
    image = source.stored.image
    if cleaned is None:
        return image.display(frame - 1)
    return image.show(frames_of(source, cleaned)[frame - 1], frame - 1)


def first_frame(located: Sequence[LocatedFinding]) -> int:
    """The frame (from 1) of the first finding that names one."""
    return next((one.finding.frame for one in located if one.finding.frame), 1)


def _picture(
    context: ResultContext,
    source: Source,
    uid: str,
    kind: ResultKind,
    pixels: Picture,
    frame: int,
    number: int,
    what: str,
    *,
    filled: bool = False,
) -> Dataset:
    picture = _captured(context, source, uid, kind, pixels, frame, number, what, shown=source, filled=filled)
    set_orientation(picture, source)
    copy_spacing(picture, source)  # the margin for the words leaves size and place of the picture's pixels
    return complete(picture, context, kind, [source])


_DATETIME: Final = re.compile(r"\d{14}(\.\d{1,6})?([+-]\d{4})?")  # PS3.5 6.2, whole


def build_document(
    context: ResultContext, sources: Sequence[Source], summary: SummaryPage, uid: str
) -> Dataset:
    """The page as a document on these ``sources``; marked unverified, because a program made it."""
    page = lay_out_page(TITLE, summary.head, summary.shown, summary.captions, summary.words, summary.foot)
    if not (writer := installed("documents").get("pdf")):
        raise ResultRefused("a PDF needs the connector pdf")
    pdf: bytes = writer.load()(page, TITLE, context.analysed_at)
    arguments = header_arguments(context, ResultKind.PDF, sources[0], uid, len(sources))
    equipment = arguments.pop("contributing_equipment")
    document = SOPClass(
        study_instance_uid=sources[0].study_uid,
        sop_class_uid=EncapsulatedPDFStorage,
        modality="DOC",
        **arguments,
    )
    document.ContributingEquipmentSequence = equipment
    document.ConversionType = "WSD"
    times = [
        str(one.header.get("AcquisitionDateTime") or "")
        or f"{one.header.get('AcquisitionDate') or ''}{one.header.get('AcquisitionTime') or ''}"
        for one in sources
    ]
    # Of the first image, "" where one does not say it.
    document.AcquisitionDateTime = min(times) if all(map(_DATETIME.fullmatch, times)) else ""
    document.BurnedInAnnotation = "YES"
    document.DocumentTitle = TITLE
    document.ConceptNameCodeSequence = [CodedConcept.from_code(IMAGING_REPORT)]
    document.VerificationFlag = "UNVERIFIED"
    document.SourceInstanceSequence = [referenced(one) for one in sources]
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"
    document.EncapsulatedDocumentLength = len(pdf)
    document.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    return complete(document, context, ResultKind.PDF, sources)
