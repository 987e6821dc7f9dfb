"""The summary of a job on one page, as a picture and as an Encapsulated PDF (PS3.3 A.45.1).

The PDF is for systems that accept documents, not pictures.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import highdicom as hd
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    EncapsulatedPDFStorage,
)

from ai_pipeline.contract import (
    BURNED_IN,
    Decision,
)
from ai_pipeline.images.render import (
    NOT_FOR_DIAGNOSIS,
    PagePicture,
    draw_page,
    drawable,
    lay_out_page,
    place_lines,
)
from dicom_node.base.connectors import installed
from dicom_node.base.errors import ResultRefused
from dicom_node.base.lifecycle import ResultKind
from dicom_node.results.anatomy import view_of
from dicom_node.results.dataset import set_values, text_of
from dicom_node.results.derivation import (
    pixel_height,
    referenced,
)
from dicom_node.results.envelope import complete, header_arguments
from dicom_node.results.pictures import display_of, secondary_capture
from dicom_node.results.report import ImageReport, Report, first_frame, in_words
from dicom_node.results.source import Source, offset_of
from dicom_node.results.times import local

TITLE: Final = NOT_FOR_DIAGNOSIS.replace("AI result", "AI summary")
"""What the page begins with."""
_NOT_GIVEN: Final = "not given"
_OTHER_LETTERS: Final = "(in letters that this page cannot show)"


@dataclass(frozen=True, slots=True, eq=False)
class SummaryPage:
    """The content of a job's summary page.

    ``content``: (title, lines on the patient, picture or why there is none, captions, texts of the results,
    last lines). ``source``: the image in the picture, ``frame``: its frame (from 1); ``filled``: whether the
    picture shows the cleaned image, in which pixels were filled. ``what``: a sentence that describes the
    page.
    """

    content: tuple[str, Sequence[str], PagePicture | str, Sequence[str], Sequence[str], Sequence[str]]
    source: Source
    what: str
    frame: int = 1
    filled: bool = False


def summary_of(report: Report) -> SummaryPage:
    """Make the content of the page on all images of a job, with a picture of the most important one.

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
    frame = first_frame(first.located)
    here = [one for one in first.located if (one.finding.frame or 1) == frame]
    places = place_lines(one.region for one in here if one.region is not None)
    caption = "; ".join(
        filter(None, [_caption(source, sources, frame, cleaned=cleaned is not None), *places])
    )
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
        (TITLE, head, shown, [caption], [*words, *report.uncovered], foot),
        source,
        f"AI summary of {_count_in_words(len(sources))} on one page.",
        frame,
        filled=cleaned is not None,
    )


def build_page(report: Report, summary: SummaryPage, uid: str) -> Dataset:
    """Build the summary page as a picture (secondary capture); it names no body part if the images have
    different ones.

    ``uid``: its SOP Instance UID.
    """
    return secondary_capture(
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
    """A sort key by which the most important images of a job come first: suspected, then measured or not
    excluded.

    Among equals, images whose picture may be shown come first.
    """
    decisions = {one.decision for one in image.findings if one.code != BURNED_IN}
    hidden = image.cleaned is None and _may_show_names(image, report)
    if Decision.PRESENT in decisions:
        return 0, hidden
    measured = any(one.model for one in image.measurements)
    return (1 if measured or Decision.INDETERMINATE in decisions else 2), hidden


def _may_show_names(image: ImageReport, report: Report) -> bool:
    """Whether names may be burned into the image: it is an ultrasound, or the pipeline looked for such
    text.
    """
    return (
        report.drawn_on == "cleaned"
        or image.source.header.get("Modality") == "US"
        or any(one.code == BURNED_IN for one in image.findings)
    )


def _foot(report: Report) -> list[str]:
    """The last lines of the page: the warning and time, and the models with versions, of which 200 characters
    are named and the others counted.
    """
    context = report.context
    analysed = local(context.analysed_at, offset_of(report.sources[0].header))
    names = [f"{model.id} {model.version}" for model in context.models]
    fitting = next((n for n in range(len(names), 1, -1) if len(", ".join(names[:n])) <= 200), 1)
    more = f" and {len(names) - fitting} more" if fitting < len(names) else ""
    models = f"Model{'s' if len(names) > 1 else ''}: {', '.join(names[:fitting])}{more}"
    images = _count_in_words(len(report.images))
    return [
        f"{NOT_FOR_DIAGNOSIS}. Analysed {analysed:%Y-%m-%d %H:%M (UTC%z)}, {images}.",
        models if names else f"Pipeline: {context.pipeline} {context.pipeline_version}",
    ]


def _head(header: Dataset) -> list[str]:
    """The lines on the patient: name; ID, birth date and sex; date, accession number and description of the
    study.
    """
    identity = [
        f"ID: {_value(header, 'PatientID')}",
        f"Born: {_date(_value(header, 'PatientBirthDate'))}",
        f"Sex: {_value(header, 'PatientSex')}",
    ]
    study = [
        f"Study: {_date(_value(header, 'StudyDate'))}",
        f"Accession number: {_value(header, 'AccessionNumber')}",
    ]
    if header.get("StudyDescription"):
        study.append(_value(header, "StudyDescription"))
    return [_patient_name(header), " | ".join(identity), " | ".join(study)]


def _patient_name(header: Dataset) -> str:
    """The patient's name as "family name, other names", of the first group (PS3.5 6.2.1) whose letters can be
    drawn.
    """
    groups = [group.strip("^ ") for group in text_of(header, "PatientName").split("=")]
    given = [group for group in groups if group]
    group = next(filter(drawable, given), None)
    if group is None:
        return f"Name: {_OTHER_LETTERS if given else _NOT_GIVEN}"
    family, _, others = group.partition("^")
    return ", ".join(filter(None, (family.strip(), " ".join(others.replace("^", " ").split()))))


def _value(header: Dataset, keyword: str) -> str:
    """The text on the page for an attribute: its value, or words that say that it is missing or cannot be
    drawn.
    """
    text = text_of(header, keyword).strip() or _NOT_GIVEN
    return text if drawable(text) else _OTHER_LETTERS


def _date(text: str) -> str:
    """The DICOM date 19700131 as 1970-01-31; any other text unchanged."""
    return re.sub(r"^(\d{4})(\d{2})(\d{2})$", r"\1-\2-\3", text)


def _caption(source: Source, sources: Sequence[Source], frame: int, *, cleaned: bool) -> str:
    """A caption that names the image in the picture: its number, view and frame, and whether it was cleaned.

    The number is left out if ``sources`` has only one image.
    """
    view = view_of(source)
    position = source.view or (view.meaning if view else "")
    parts = (
        f"Image {source.number}" if len(sources) > 1 else "",
        f"view: {position}" if position else "",
        f"frame {frame} of {source.frames}" if source.frames > 1 else "",
        "cleaned image" if cleaned else "",
    )
    text = ", ".join(filter(None, parts))
    return text[:1].upper() + text[1:]


def _count_in_words(images: int) -> str:
    """The number with its noun: "1 image", "2 images"."""
    return f"{images} image{'s' if images > 1 else ''}"


_DATETIME: Final = re.compile(r"\d{14}(\.\d{1,6})?([+-]\d{4})?")  # PS3.5 6.2, whole


def build_pdf(report: Report, summary: SummaryPage, uid: str) -> Dataset:
    """Build the summary page as an Encapsulated PDF on all images, marked unverified because a program made
    it.

    ``uid``: its SOP Instance UID. Raises ResultRefused without the connector that writes PDF files.
    """
    context, sources = report.context, report.sources
    page = lay_out_page(*summary.content)
    if not (writer := installed("documents").get("pdf")):
        raise ResultRefused("a PDF needs the connector pdf")
    pdf: bytes = writer.load()(page, TITLE, context.analysed_at)
    arguments = header_arguments(context, ResultKind.PDF, sources[0], uid, len(sources))
    equipment = arguments.pop("contributing_equipment")
    document = hd.SOPClass(
        study_instance_uid=sources[0].study_uid,
        sop_class_uid=EncapsulatedPDFStorage,
        modality="DOC",
        **arguments,
    )
    times = [
        text_of(one.header, "AcquisitionDateTime")
        or text_of(one.header, "AcquisitionDate") + text_of(one.header, "AcquisitionTime")
        for one in sources
    ]
    set_values(
        document,
        ContributingEquipmentSequence=equipment,
        ConversionType="WSD",
        # Of the first image, "" where one does not say it.
        AcquisitionDateTime=min(times) if all(map(_DATETIME.fullmatch, times)) else "",
        BurnedInAnnotation="YES",
        DocumentTitle=TITLE,
        ConceptNameCodeSequence=[CodedConcept.from_code(codes.LN.DiagnosticImagingReport)],
        VerificationFlag="UNVERIFIED",
        SourceInstanceSequence=[referenced(one) for one in sources],
        MIMETypeOfEncapsulatedDocument="application/pdf",
        EncapsulatedDocumentLength=len(pdf),
        EncapsulatedDocument=pdf + b"\0" * (len(pdf) % 2),
    )
    return complete(document, context, ResultKind.PDF, sources)
