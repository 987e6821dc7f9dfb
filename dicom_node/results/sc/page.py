"""The summary of a job on one page, and pictures with the result drawn in.

Secondary captures are for viewers that show neither reports nor presentation states. The summary page is also
an Encapsulated PDF (PS3.3 A.45.1), for systems that accept documents, not pictures.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from highdicom.base import SOPClass
from highdicom.sc import SCImage
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import EncapsulatedPDFStorage

from ai_pipeline.contract import (
    BURNED_IN,
    Decision,
    DerivedImage,
    Finding,
    Picture,
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
from dicom_node.connectors import installed
from dicom_node.errors import ResultRefused
from dicom_node.model.kinds import ResultKind
from dicom_node.results.common.context import ResultContext
from dicom_node.results.common.envelope import (
    complete,
    disclaimer,
    header_arguments,
    local,
    offset_of,
)
from dicom_node.results.common.examination import view_of
from dicom_node.results.common.report import ImageReport, Report, first_frame, in_words
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
from dicom_node.results.sc.cleaned import frames_of

TITLE: Final = NOT_FOR_DIAGNOSIS.replace("AI result", "AI summary")
"""What the page begins with."""
_NOT_GIVEN: Final = "not given"
_OTHER_LETTERS: Final = "(in letters that this page cannot show)"


@dataclass(frozen=True, slots=True, eq=False)
class SummaryPage:
    """The content of a job's summary page.

    ``content``: title, lines on the patient, picture or why there is none, captions, texts of the results,
    last lines. ``source``: the image in the picture, ``frame``: its frame (from 1); ``filled``: whether the
    picture shows the cleaned image.
    """

    content: tuple[str, Sequence[str], PagePicture | str, Sequence[str], Sequence[str], Sequence[str]]
    source: Source
    what: str
    frame: int = 1
    filled: bool = False


def summary_of(report: Report) -> SummaryPage:
    """The page on all images of a job, with a picture of the most important one.

    If an image may have names burned in, the page shows the cleaned image, or none if the cleaning was not
    verified; none at all if the AI did not run, because the images may not decode. Raises PixelError if the
    picture does not decode.
    """
    sources = report.sources
    head, foot = _head(sources[0].header), _foot(report)
    if not report.drawn_on:
        what = "AI did not run."
        return SummaryPage(
            (TITLE, head, f"No picture: the {what}", [], [report.conclusion], foot), sources[0], what
        )
    ordered = sorted(report.images, key=lambda image: _importance(image, report))
    first, *_ = ordered
    source, cleaned = first.source, first.cleaned
    located = [one for one in first.located if one.finding.code != BURNED_IN]
    frame = first_frame(located)
    here = [one for one in located if (one.finding.frame or 1) == frame]
    places = place_lines(one.region for one in here if one.region is not None)
    caption = "; ".join(filter(None, [_name(source, sources, frame, cleaned=cleaned is not None), *places]))
    shown: PagePicture | str = (
        "No picture: names may be burned into this image, and it was not verified that none is left."
    )
    if cleaned is not None or not _may_show_names(first, report):
        display = display_of(source, cleaned, frame)
        measured = [one for one in first.measurements if (one.frame or 1) == frame]
        shown = PagePicture(display, [one.finding for one in here], measured, pixel_height(source))
    words = [text.replace("\r\n", "\n") for text in in_words(ordered)]
    if len(sources) == 1:
        words = [line for text in words for line in text.split("\n")]
    return SummaryPage(
        (TITLE, head, shown, [caption], [*words, *report.purged], foot),
        source,
        f"AI summary of {_counted(len(sources))} on one page.",
        frame,
        filled=cleaned is not None,
    )


def build_page(report: Report, summary: SummaryPage, uid: str) -> Dataset:
    """The page as a picture; without a body part if the images have different ones."""
    return _picture(
        report.context,
        report.sources,
        uid,
        ResultKind.SUMMARY,
        draw_page(*summary.content),
        summary.frame,
        len(report.images),
        summary.what,
        shown=summary.source,
        filled=summary.filled,
    )


def _importance(image: ImageReport, report: Report) -> tuple[int, bool]:
    """Images with what is suspected come first, then those with what is not excluded or was measured; of such
    the ones that may be shown."""
    decisions = {one.decision for one in image.findings if one.code != BURNED_IN}
    hidden = image.cleaned is None and _may_show_names(image, report)
    if Decision.PRESENT in decisions:
        return 0, hidden
    measured = any(one.model for one in image.measurements)
    return (1 if measured or Decision.INDETERMINATE in decisions else 2), hidden


def _may_show_names(image: ImageReport, report: Report) -> bool:
    """Whether names may be burned into the image: it is an ultrasound, or such text was looked for."""
    looked = any(one.code == BURNED_IN for one in image.findings)
    return looked or report.drawn_on == "cleaned" or image.source.header.get("Modality") == "US"


def _foot(report: Report) -> list[str]:
    """The warning, and the models' names and versions in 200 characters, those too many counted."""
    context = report.context
    analysed = local(context.analysed_at, offset_of(report.sources[0]))
    names = [f"{model.id} {model.version}" for model in context.models]
    fitting = next((n for n in range(len(names), 1, -1) if len(", ".join(names[:n])) <= 200), 1)
    more = f" and {len(names) - fitting} more" if fitting < len(names) else ""
    models = f"Model{'s' if len(names) > 1 else ''}: {', '.join(names[:fitting])}{more}"
    return [
        f"{NOT_FOR_DIAGNOSIS}. Analysed {analysed:%Y-%m-%d %H:%M}, {_counted(len(report.images))}.",
        models if names else f"Pipeline: {context.pipeline} {context.pipeline_version}",
    ]


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


def build_annotated(report: Report, image: ImageReport, cleaned: DerivedImage | None, uid: str) -> Dataset:
    """The image, or its ``cleaned`` version, with boxes, names, probabilities and measured lines.

    Of a cine the frame with the first finding is shown.
    """
    source, frame = image.source, first_frame(image.located)
    shown = [one for one in image.located if (one.finding.frame or 1) == frame]
    words = [*image.lines, *place_lines(one.region for one in shown if one.region is not None)]
    if source.frames > 1:
        words.append(f"frame {frame} of {source.frames}")
    pixels = annotate(
        display_of(source, cleaned, frame),
        [one.finding for one in shown],
        legend=[*words, disclaimer(report.context)],
        measurements=[one for one in image.measurements if (one.frame or 1) == frame],
    )
    what = f"AI findings drawn into the {'cleaned ' if cleaned else ''}image."
    filled = cleaned is not None
    return _picture(
        report.context, [source], uid, ResultKind.SC, pixels, frame, source.number, what, filled=filled
    )


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
    return _picture(context, [source], uid, ResultKind.HEATMAP, pixels, frame, rank, what, filled=filled)


def build_failure_picture(context: ResultContext, source: Source, reason: str, uid: str) -> Dataset:
    """A black picture of the image's size with the text that the AI did not run, and the reason.

    The image is not shown: it may not decode, and its burned-in text was not removed. The picture is small if
    the image's header was refused.
    """
    display = np.zeros((source.rows, source.columns) if source.rows > 0 else (512, 512), np.uint8)
    pixels = annotate(display, [], legend=["AI did not run", reason, disclaimer(context)])
    return _picture(context, [source], uid, ResultKind.SC, pixels, 1, source.number, "AI did not run.")


def _picture(
    context: ResultContext,
    sources: Sequence[Source],
    uid: str,
    kind: ResultKind,
    pixels: Picture,
    frame: int,
    number: int,
    what: str,
    *,
    filled: bool = False,
    shown: Source | None = None,
) -> Dataset:
    """The first of ``sources`` gives patient, study and series; ``shown`` is the image on a page of several.

    ``frame`` and ``number`` (Instance Number) count from 1. ``filled``: whether it shows a cleaned image, in
    which some pixels were never measured.
    """
    source, *_ = sources
    picture = SCImage.from_ref_dataset(
        source.stand_in,
        pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=ORIENTATION_FOR_HIGHDICOM,
        **header_arguments(context, kind, source, uid, number),
    )
    description = f"{what} {disclaimer(context)}"[:1024]
    describe_derivation(picture, shown or source, description, frames=(frame,))
    picture.BurnedInAnnotation = "YES"
    if filled:
        picture.SyntheticData = "YES"  # PS3.3 C.12.1: filled pixels were never measured
    if shown is None:
        set_orientation(picture, source)
        copy_spacing(picture, source)  # the margin for the words leaves size and place of the pixels
        return complete(picture, context, kind, sources)
    picture.PatientOrientation = None
    picture.SourceImageSequence = [reference(one) for one in sources]
    for one in () if filled else sources:
        copy_present(picture, one, "SyntheticData")
    complete(picture, context, kind, sources)
    words = ("BodyPartExamined", "Laterality")
    if len({tuple(str(one.header.get(word) or "") for word in words) for one in sources}) > 1:
        picture.pop("BodyPartExamined", None)
        picture.Laterality = ""
    return picture


def display_of(source: Source, cleaned: DerivedImage | None, frame: int) -> Picture:
    """A frame (from 1) as displayed: from the cleaned image if there is one, else from the source.

    Raises PixelError, and ResultRefused for a cleaned image of another size.
    """
    image = source.stored.image
    if cleaned is None:
        return image.display(frame - 1)
    return image.show(frames_of(source, cleaned)[frame - 1], frame - 1)


_DATETIME: Final = re.compile(r"\d{14}(\.\d{1,6})?([+-]\d{4})?")  # PS3.5 6.2, whole


def build_pdf(report: Report, summary: SummaryPage, uid: str) -> Dataset:
    """The page as a document on all images; marked unverified, because a program made it."""
    context, sources = report.context, report.sources
    page = lay_out_page(*summary.content)
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
    document.ConceptNameCodeSequence = [CodedConcept.from_code(codes.LN.DiagnosticImagingReport)]
    document.VerificationFlag = "UNVERIFIED"
    document.SourceInstanceSequence = [referenced(one) for one in sources]
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"
    document.EncapsulatedDocumentLength = len(pdf)
    document.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    return complete(document, context, ResultKind.PDF, sources)
