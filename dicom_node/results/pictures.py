"""What viewers show: presentation states, pictures with the result drawn in, cleaned images, masks.

Presentation states (PS3.3 A.33) have boxes and measured lines over the untouched image. Secondary captures
are for viewers that show neither these nor reports; the summary of a job on one page is also an Encapsulated
PDF (PS3.3 A.45.1), for systems that accept documents, not pictures. Cleaned images are the source's samples,
inpainted, as secondary captures. Masks are Segmentations (PS3.3 A.51): the synthetic pixels of a cleaned
image, and the pixels of organs.
"""

import re
import textwrap
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from tempfile import TemporaryFile
from typing import Any, Final

import highdicom as hd
import numpy as np
import numpy.typing as npt
import pydicom
from highdicom.color import CIELabColor
from highdicom.pr import (
    ColorSoftcopyPresentationState,
    GraphicAnnotation,
    GraphicLayer,
    GraphicObject,
    GrayscaleSoftcopyPresentationState,
    SoftcopyVOILUTTransformation,
    TextObject,
)
from highdicom.sc import SCImage
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr import CodedConcept
from PIL import ImageCms
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import (
    EncapsulatedPDFStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)

from ai_pipeline.contract import (
    BURNED_IN,
    Decision,
    DerivedImage,
    Finding,
    ModelRef,
    Picture,
    PixelArray,
)
from ai_pipeline.images.display import lut_of
from ai_pipeline.images.numbers import decimal, decimal_of
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
from ai_pipeline.terms import shown_term
from dicom_node.base.connectors import installed
from dicom_node.base.dicom.header import listed, quiet_pydicom
from dicom_node.base.dicom.uids import derived_uid
from dicom_node.base.errors import ResultRefused
from dicom_node.base.lifecycle import ResultKind
from dicom_node.results.envelope import (
    ORIENTATION_FOR_HIGHDICOM,
    OURS,
    OUTLINES_SERIES_NUMBER,
    ResultContext,
    Source,
    coded,
    complete,
    copy_aspect,
    copy_present,
    copy_spacing,
    describe_derivation,
    disclaimer,
    header_arguments,
    local,
    offset_of,
    pixel_aspect,
    pixel_height,
    reference,
    referenced,
    series_description,
    set_orientation,
    set_values,
    tracking_uid,
    view_of,
)
from dicom_node.results.report import (
    ImageReport,
    Report,
    ReportedFinding,
    TrackedMeasurement,
    first_frame,
    further_numbers,
    in_words,
)

LINE: Final = "INTERPOLATED"
"""Graphic Type of measured lines in presentation states: of two points, it is a straight line."""
LINES: Final = "AI_LINES"
TEXTS: Final = "AI_TEXTS"
"""Layers of boxes and measured lines, and of words: a viewer can hide either."""
OVERLAYS: Final = "OVERLAYS"

_LINE_LETTERS: Final = 80
"""Letters of each of the two lines of a presentation state, at most."""
_EDGES: Final = (
    (0.2, 0.92, 0.8, 0.99), (0.2, 0.01, 0.8, 0.08), (0.2, 0.84, 0.8, 0.91), (0.2, 0.1, 0.8, 0.17),
)  # fmt: skip
"""Where the lines may stand (left, top, right, bottom as shares of the image): in the middle of its lower and
upper edge, because viewers write into the corners."""
_LABEL_SIZE: Final = (0.3, 0.04)
"""Width and height of a finding's label (shares of the image)."""

_SHUTTER: Final = {
    "RECTANGULAR": (
        "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge", "ShutterUpperHorizontalEdge",
        "ShutterLowerHorizontalEdge",
    ),
    "CIRCULAR": ("CenterOfCircularShutter", "RadiusOfCircularShutter"),
    "POLYGONAL": ("VerticesOfThePolygonalShutter",),
}  # fmt: skip
_OVERLAY_ROWS, _ACTIVATION_LAYER = 0x0010, 0x1001


def build_presentation(context: ResultContext, report: ImageReport, uid: str) -> Dataset:
    """Build the presentation state of one image: grayscale for MONOCHROME images, colour for all others.

    A state replaces the image's own window, rescale, polarity, shutter and overlays (PS3.4 N.2), so these are
    copied, and the overlays stay visible. ``uid``: its SOP Instance UID.
    """
    source = report.source
    # Overlay Activation (PS3.3 C.11.7) is of each of the image's overlay planes.
    with quiet_pydicom():
        tags = pydicom.dcmread(source.stored.path, stop_before_pixels=True).keys()
    overlays = [group for group in range(0x6000, 0x6020, 2) if Tag(group, _OVERLAY_ROWS) in tags]
    colour = CIELabColor(82.0, 10.0, 80.0)
    lines = GraphicLayer(LINES, order=2, description="AI boxes and lines", display_color=colour)
    texts = GraphicLayer(TEXTS, order=3, description="AI texts", display_color=colour)
    image = source.stand_in
    if not source.grey:
        # highdicom takes three samples per pixel only; PALETTE COLOR is a colour image too (PS3.4 N.2.2).
        image = Dataset()
        image.update(source.stand_in)
        image.SamplesPerPixel = 3
    of_image = [GraphicLayer(OVERLAYS, order=1, description="Overlays of the image")] if overlays else []
    arguments: dict[str, Any] = {
        "referenced_images": [image],
        "content_label": "AI_FINDINGS",
        "content_description": "AI findings - not for diagnostic use",
        "graphic_layers": [*of_image, lines, texts],
        "graphic_annotations": list(_annotations(report, lines, texts, image)),
        **header_arguments(context, ResultKind.GSPS, source, uid, source.number),
    }
    if source.grey:
        # highdicom looks for rescale, window and polarity in functional groups where the class is a
        # multi-frame one, and writes IDENTITY for MONOCHROME1, which shows the negative: they are given here.
        shape = "INVERSE" if source.photometric == "MONOCHROME1" else "IDENTITY"
        state = GrayscaleSoftcopyPresentationState(
            **arguments,
            modality_lut_transformation=_modality_transformation(source),
            presentation_lut_transformation=hd.PresentationLUTTransformation(presentation_lut_shape=shape),
            voi_lut_transformations=[_display_transformation(source)],
        )
    else:
        state = ColorSoftcopyPresentationState(icc_profile=srgb_profile(), **arguments)
    # PS3.3 C.10.4: in place of the image's own ratio, which viewers ignore here; highdicom writes 1:1.
    state.DisplayedAreaSelectionSequence[0].PresentationPixelAspectRatio = pixel_aspect(source)
    _copy_shutter(state, source)
    for group in overlays:
        state.add_new((group, _ACTIVATION_LAYER), "CS", OVERLAYS)
    return complete(state, context, ResultKind.GSPS, [source])


def _copy_shutter(state: Dataset, source: Source) -> None:
    """Copy the image's Display Shutter (PS3.3 C.7.6.11) and its colour (C.11.12) into the state; black
    without a colour.
    """
    shapes = [shape for shape in listed(source.header.get("ShutterShape")) if shape in _SHUTTER]
    whole = [shape for shape in shapes if all(source.header.get(word) for word in _SHUTTER[shape])]
    if not whole:
        return
    set_values(state, ShutterShape=whole, ShutterPresentationValue=0)
    copy_present(state, source, *(word for shape in whole for word in _SHUTTER[shape]))
    copy_present(state, source, "ShutterPresentationValue", "ShutterPresentationColorCIELabValue")
    if not source.grey and "ShutterPresentationColorCIELabValue" not in state:
        state.ShutterPresentationColorCIELabValue = [0, 32896, 32896]  # black (PS3.3 C.10.7.1.1)


@cache
def srgb_profile() -> bytes:
    """The sRGB colour profile (ICC) as an input profile of class ``scnr`` with a fixed date.

    PS3.3 C.11.15.1.1 requires an input profile (scnr or spac); Pillow makes a monitor profile (mntr) with the
    present date.
    """
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[12:16] = b"scnr"
    profile[24:36] = bytes.fromhex("07E9 0001 0001 0000 0000 0000")
    return bytes(profile)


def _annotations(
    report: ImageReport, lines: GraphicLayer, texts: GraphicLayer, image: Dataset
) -> Iterator[GraphicAnnotation]:
    """Yield the graphics of a presentation state: measured lines, boxes of findings by frame, their names,
    short result.

    Names stand beside boxes only if a frame has several. ``lines`` and ``texts``: the layers for graphics and
    words. ``image``: the stand-in of the image.
    """
    several = report.source.frames > 1
    for measured, pieces in _measured_lines(report.measured):
        yield GraphicAnnotation(
            [image],
            lines,
            referenced_frame_number=(measured.measurement.frame or 1) if several else None,
            graphic_objects=[_graphic(LINE, points, measured) for points in pieces],
        )
    placed = [one for one in report.located if one.outline is not None]
    for frame in dict.fromkeys(one.finding.frame for one in placed):
        here = [one for one in placed if one.finding.frame == frame]
        boxes = [_graphic("POLYLINE", one.outline, one) for one in here]
        number = (frame or 1) if several else None
        yield GraphicAnnotation([image], lines, referenced_frame_number=number, graphic_objects=boxes)
        if len(here) > 1:  # the name of a single one is in the lines
            names = [_label(one) for one in here]
            yield GraphicAnnotation([image], texts, referenced_frame_number=number, text_objects=names)
    said = [line for line in report.lines if not line.startswith("Not assessed")]
    whole = " ".join([*said, ", ".join(further_numbers(report))]).replace(
        "AI:", "AI, not for diagnostic use:", 1
    )
    words = textwrap.wrap(whole, _LINE_LETTERS, max_lines=2, placeholder=" ...")
    # VR ST: lines end with CR LF (PS3.5 6.1.3).
    place = min(_EDGES, key=partial(_letters_in, report.source.stored.image.display()))
    text = TextObject("\r\n".join(words), units="DISPLAY", bounding_box=place, text_justification="CENTER")
    yield GraphicAnnotation([image], texts, text_objects=[text])


def _letters_in(display: Picture, place: tuple[float, float, float, float]) -> float:
    """How much of a place looks like letters: the share of sharp steps between neighbouring pixels, rounded
    to 0.01.

    ``display``: the displayed picture. ``place``: left, top, right, bottom as shares (0 to 1) of its size.
    """
    rows, columns = display.shape[:2]
    left, top, right, bottom = place
    part = display[int(top * rows) : int(bottom * rows), int(left * columns) : int(right * columns)]
    steps = np.abs(np.diff(part.astype(np.int16), axis=1)) > 60
    return round(float(steps.mean()), 2) if steps.size else 0.0


def _graphic(
    kind: str, points: npt.NDArray[np.float64] | None, one: TrackedMeasurement | ReportedFinding
) -> GraphicObject:
    """A graphic of this Graphic Type (``kind``) with the tracking UID of a finding or measurement.

    ``points``: ``[points, 2]``, column and row in pixels.
    """
    return GraphicObject(
        kind, points, units="PIXEL", tracking_id=one.identifier, tracking_uid=one.tracking_uid
    )


def _measured_lines(
    measured: Sequence[TrackedMeasurement],
) -> Iterator[tuple[TrackedMeasurement, list[npt.NDArray[np.float64]]]]:
    """Yield each measurement by a model with the lines to draw for it, each line once: an outline, or
    straight pieces.

    Open lines are cut into pieces because programs take a POLYLINE for a region of the report. Measurements
    that were read from the picture are left out: their lines are in it already.
    """
    drawn: set[bytes] = set()
    by_model = [one for one in measured if one.measurement.model is not None]
    # A line that two numbers share is drawn for the one that has it alone.
    for one in sorted(by_model, key=lambda one: len(one.lines)):
        pieces = [line for line in one.lines if line.tobytes() not in drawn]
        drawn.update(line.tobytes() for line in pieces)
        if not one.measurement.closed:
            pairs = (pair for line in pieces for pair in pairwise(line))
            pieces = [np.stack(pair) for pair in pairs if (pair[0] != pair[1]).any()]
        if pieces:
            yield one, pieces


def _label(located: ReportedFinding) -> TextObject:
    """The text object with a finding's name, placed above its box, or in it at the upper edge of the image.

    It has a place of its own: without one DICOMscope writes it left of the anchor, outside the image.
    """
    source = located.source
    assert located.outline is not None
    left, top = map(float, located.outline.min(axis=0))
    width, height = _LABEL_SIZE[0] * source.columns, _LABEL_SIZE[1] * source.rows
    first = float(np.clip(left, 0.01 * source.columns, source.columns - width))
    above = top - height if top >= height else top
    return TextObject(
        located.finding.name,
        units="PIXEL",
        bounding_box=(first, above, first + width, above + height),
        text_justification="LEFT",
        anchor_point=(left, top),
        anchor_point_visible=False,
        tracking_id=located.identifier,
        tracking_uid=located.tracking_uid,
    )


def _modality_transformation(source: Source) -> hd.ModalityLUTTransformation:
    """The modality transformation of a grey image: its Modality LUT, else rescale intercept and slope."""
    header = source.header
    tables = header.get("ModalityLUTSequence")
    if tables and (table := _lut_arguments(source, tables[0])):
        lut = hd.ModalityLUT(lut_type=str(tables[0].get("ModalityLUTType") or "US"), **table)
        return hd.ModalityLUTTransformation(modality_lut=_with_depth(lut, tables[0]))
    return hd.ModalityLUTTransformation(
        rescale_intercept=decimal_of(header, "RescaleIntercept", 0.0),
        rescale_slope=decimal_of(header, "RescaleSlope", 0.0) or 1.0,
        rescale_type=str(header.get("RescaleType") or "US"),
    )


def _display_transformation(source: Source) -> SoftcopyVOILUTTransformation:
    """The display transformation of a grey image: its VOI LUTs and first window; without any the full range
    of values, or a viewer would choose its own.
    """
    header = source.header
    luts = [
        _with_depth(hd.VOILUT(**lut), table)
        for table in header.get("VOILUTSequence") or []
        if (lut := _lut_arguments(source, table))
    ]
    centres, widths = (listed(header.get(word)) for word in ("WindowCenter", "WindowWidth"))
    are_numbers = all(decimal(one) is not None for one in (*centres, *widths))
    if not centres or len(centres) != len(widths) or not are_numbers:
        return SoftcopyVOILUTTransformation(voi_luts=luts) if luts else _full_range(source)
    explanations = listed(header.get("WindowCenterWidthExplanation"))
    # The first is the one that the image is shown with; DCMTK's check wants one in a presentation state.
    return SoftcopyVOILUTTransformation(
        window_center=centres[0],
        window_width=widths[0],
        window_explanation=explanations[0] if len(explanations) == len(centres) else None,
        # A width under 1 can only be meant so (PS3.3 C.11.2.1.2.1).
        voi_lut_function=header.get("VOILUTFunction") or ("LINEAR_EXACT" if float(widths[0]) < 1 else None),
        voi_luts=luts or None,
    )


def _full_range(source: Source) -> SoftcopyVOILUTTransformation:
    """A window over all values that the pixels of an image can have after the modality transformation."""
    tables = source.header.get("ModalityLUTSequence")
    if tables and _lut_arguments(source, tables[0]):
        width = 2.0 ** int(tables[0].LUTDescriptor[2])
        return SoftcopyVOILUTTransformation(window_center=width / 2, window_width=width)
    bits = int(source.header.BitsStored)
    lowest = -(2 ** (bits - 1)) if source.header.get("PixelRepresentation") else 0
    slope = decimal_of(source.header, "RescaleSlope", 0.0) or 1.0
    centre = (lowest + 2 ** (bits - 1)) * slope + decimal_of(source.header, "RescaleIntercept", 0.0)
    return SoftcopyVOILUTTransformation(window_center=centre, window_width=max(2**bits * abs(slope), 1.0))


def _lut_arguments(source: Source, table: Dataset) -> dict[str, Any] | None:
    """The arguments for highdicom's LUT constructor from this sequence item, ``table``; None if the table is
    not usable.
    """
    try:
        numbers, first, _ = lut_of(table, source.header)
    except ValueError:
        return None
    return {
        "first_mapped_value": first,  # signed or not, as the pixels are (PS3.3 C.11.1.1)
        "lut_data": numbers.astype(np.uint16),
        "lut_explanation": table.get("LUTExplanation") or None,
    }


def _with_depth(lut: Dataset, table: Dataset) -> Dataset:
    """Set the bits per entry of highdicom's ``lut`` as in the source's ``table``; returns ``lut``.

    highdicom knows only 8 and 16, but 10 and 12 are the usual ones. The number is the range of the output
    (PS3.3 C.11.2.1.1), so 16 for 12 would show a black image.
    """
    lut.LUTDescriptor = [lut.LUTDescriptor[0], lut.LUTDescriptor[1], int(table.LUTDescriptor[2])]
    return lut


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
    analysed = local(context.analysed_at, offset_of(report.sources[0]))
    names = [f"{model.id} {model.version}" for model in context.models]
    fitting = next((n for n in range(len(names), 1, -1) if len(", ".join(names[:n])) <= 200), 1)
    more = f" and {len(names) - fitting} more" if fitting < len(names) else ""
    models = f"Model{'s' if len(names) > 1 else ''}: {', '.join(names[:fitting])}{more}"
    return [
        f"{NOT_FOR_DIAGNOSIS}. Analysed {analysed:%Y-%m-%d %H:%M}, {_count_in_words(len(report.images))}.",
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
    groups = [group.strip("^ ") for group in str(header.get("PatientName") or "").split("=")]
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
    text = str(header.get(keyword) or "").strip() or _NOT_GIVEN
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


def build_annotated(report: Report, image: ImageReport, cleaned: DerivedImage | None, uid: str) -> Dataset:
    """Build the picture of an image, or of its ``cleaned`` version, with boxes, names, probabilities and
    measured lines.

    Of a cine the frame with the first finding is shown. ``cleaned``: None to draw on the source; ``uid``: SOP
    Instance UID of the picture.
    """
    source, frame = image.source, first_frame(image.located)
    shown = [one for one in image.located if (one.finding.frame or 1) == frame]
    words = [
        *image.lines,
        *further_numbers(image),
        *place_lines(one.region for one in shown if one.region is not None),
    ]
    if source.frames > 1:
        words.append(f"frame {frame} of {source.frames}")
    pixels = annotate(
        display_of(source, cleaned, frame),
        [one.finding for one in shown],
        legend=[*words, disclaimer(report.context)],
        measurements=[one for one in image.measurements if (one.frame or 1) == frame],
    )
    return _picture(
        report.context,
        [source],
        uid,
        ResultKind.SC,
        pixels,
        frame,
        source.number,
        f"AI findings drawn into the {'cleaned ' if cleaned else ''}image.",
        filled=cleaned is not None,
    )


def build_heatmap(
    context: ResultContext,
    source: Source,
    finding: Finding,
    rank: int,
    cleaned: DerivedImage | None,
    uid: str,
) -> Dataset:
    """Build the picture of an image, or of its ``cleaned`` version, under a finding's heat map (0 to 1), with
    a colour bar.

    ``rank``: 1 for the likeliest finding, its Instance Number. ``cleaned``: None to draw on the source;
    ``uid``: SOP Instance UID of the picture.
    """
    assert finding.evidence is not None
    frame = finding.frame or 1
    pixels = heatmap_overlay(display_of(source, cleaned, frame), finding, legend=[disclaimer(context)])
    return _picture(
        context,
        [source],
        uid,
        ResultKind.HEATMAP,
        pixels,
        frame,
        rank,
        f"AI heat map ({finding.evidence.method}) of {finding.name}.",
        filled=cleaned is not None,
    )


def build_failure_picture(context: ResultContext, source: Source, reason: str, uid: str) -> Dataset:
    """Build a black picture of the image's size with the text that the AI did not run, and the reason.

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
    """Build a secondary capture of RGB ``pixels``; the first of ``sources`` gives patient, study and series.

    ``frame``: the frame shown, ``number``: Instance Number, both from 1. ``what``: a sentence that describes
    the picture. ``filled``: whether it shows a cleaned image, in which some pixels were never measured.
    ``shown``: on a page about several images the one in its picture; None for a picture of one image.
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
    describe_derivation(picture, shown or source, f"{what} {disclaimer(context)}"[:1024], frames=(frame,))
    picture.BurnedInAnnotation = "YES"
    if filled:
        picture.SyntheticData = "YES"  # PS3.3 C.12.1: filled pixels were never measured
    if shown is None:
        set_orientation(picture, source)
        copy_spacing(picture, source)  # the margin for the words leaves size and place of the pixels
        return complete(picture, context, kind, sources)
    set_values(picture, PatientOrientation=None, SourceImageSequence=[reference(one) for one in sources])
    for one in () if filled else sources:
        copy_present(picture, one, "SyntheticData")
    complete(picture, context, kind, sources)
    words = ("BodyPartExamined", "Laterality")
    if len({tuple(str(one.header.get(word) or "") for word in words) for one in sources}) > 1:
        picture.pop("BodyPartExamined", None)
        picture.Laterality = ""
    return picture


def display_of(source: Source, cleaned: DerivedImage | None, frame: int) -> Picture:
    """A frame (from 1) as it is displayed, from the ``cleaned`` image if there is one, else from the source.

    Raises PixelError, and ResultRefused for a cleaned image of another size.
    """
    image = source.stored.image
    if cleaned is None:
        return image.display(frame - 1)
    return image.show(frames_of(source, cleaned)[frame - 1], frame - 1)


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
        str(one.header.get("AcquisitionDateTime") or "")
        or f"{one.header.get('AcquisitionDate') or ''}{one.header.get('AcquisitionTime') or ''}"
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


_GREY_DISPLAY: Final = (
    "WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction", "VOILUTSequence",
)  # fmt: skip
_CINE: Final = (
    "CineRate", "RecommendedDisplayFrameRate", "FrameDelay", "ActualFrameDuration", "StartTrim", "StopTrim",
    "PreferredPlaybackSequencing",
)  # fmt: skip


def build_cleaned(
    context: ResultContext, source: Source, image: DerivedImage, mask: DerivedImage | None, uid: str
) -> Dataset:
    """Build the cleaned picture of one source. Raises ResultRefused unless the cleaning was verified.

    ``image`` has samples ``[frames,] rows, columns[, 3]`` as stored in the source, ``mask`` the same without
    colour, nonzero in filled pixels. Grey stays grey with the source's depth, sign, window and rescale.
    Calibration is copied only where no pixel was filled; without a mask, nowhere.
    """
    if not image.verified:
        raise ResultRefused("the cleaned image was not verified to be free of legible text: it stays here")
    frames = frames_of(source, image)
    arguments = header_arguments(context, ResultKind.CLEANED, source, uid, source.number, modality_of(source))
    if len(frames) == 1:
        picture = _still(source, image, frames[0], arguments)
    else:
        picture = _cine(source, frames, image.photometric, arguments)
    describe_derivation(
        picture,
        source,
        _derivation(image, context, source.stored.by_hand),
        # CID 7203 has no inpainting; this code says that pixels under a mask were set.
        codes.DCM.PixelByPixelMask,
    )
    set_values(
        picture,
        Modality=modality_of(source),  # PS3.3 C.8.6.1: that of the source equipment
        BurnedInAnnotation="NO",
        SyntheticData="YES",  # PS3.3 C.12.1: filled pixels were never measured
    )
    set_orientation(picture, source)
    # Pixel Spacing if no pixel was filled; the ultrasound regions in which none was.
    changed = filled(source, mask) if mask else np.ones((source.rows, source.columns), np.bool_)
    (copy_aspect if changed.any() else copy_spacing)(picture, source)
    regions = source.header.get("SequenceOfUltrasoundRegions") or []
    if untouched := [deepcopy(region) for region in regions if _is_untouched(region, changed)]:
        picture.SequenceOfUltrasoundRegions = untouched
    return complete(picture, context, ResultKind.CLEANED, [source])


def filled(source: Source, mask: DerivedImage) -> npt.NDArray[np.bool_]:
    """The pixels ``[rows, columns]`` that were filled in any frame. Raises ResultRefused for a mask of
    another size.
    """
    frames = mask.frames if mask.frames.ndim == 3 else mask.frames[None]
    if frames.shape != (source.frames, source.rows, source.columns):
        raise ResultRefused(f"the mask is {frames.shape}, its source {source.frames} × {source.rows} × …")
    return np.asarray(np.any(frames, axis=0), np.bool_)


def _is_untouched(region: Dataset, changed: npt.NDArray[np.bool_]) -> bool:
    """Whether an ultrasound region lies in the image and none of its pixels was changed.

    A region outside the image belongs to another one (PS3.3 C.8.5.5.1.1).
    """
    corners = [region.get(f"RegionLocation{end}") for end in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
    if not all(isinstance(corner, int) for corner in corners):
        return False
    left, top, right, bottom = corners
    rows, columns = changed.shape
    lies_inside = 0 <= left < right < columns and 0 <= top < bottom < rows
    return bool(lies_inside and not changed[top : bottom + 1, left : right + 1].any())


def _derivation(image: DerivedImage, context: ResultContext, by_hand: str) -> str:
    """The Derivation Description (0028,2111) of a cleaned image, at most 1,024 characters (VR ST).

    ``by_hand``: a sentence about boxes that a person drew, "" for none.
    """
    proof = f" SHA-256 outside the mask: {image.outside_sha256}." if image.outside_sha256 else ""
    marked = f" {by_hand}." if by_hand else ""
    return (
        f"AI: {image.description} inpainted, not for measurement; verified that no text is left that had "
        f"to go.{marked}{proof} {disclaimer(context)}"
    )[:1024]


def modality_of(source: Source) -> str:
    """The Modality (0008,0060) of a cleaned image and its series: the source's, "OT" if it has none."""
    return str(source.header.get("Modality") or "OT")


def _cine(source: Source, frames: PixelArray, photometric: str, arguments: dict[str, Any]) -> Dataset:
    """Build a multi-frame secondary capture (PS3.3 A.8.3 byte, A.8.4 word, A.8.5 true colour), one frame at a
    time.

    ``photometric``: the cleaned image's Photometric Interpretation; ``arguments``: those of
    ``header_arguments``. Raises ResultRefused for grey frames that are MONOCHROME1 or signed.
    """
    colour = frames.ndim == 4
    if not colour and (photometric != "MONOCHROME2" or source.header.get("PixelRepresentation")):
        raise ResultRefused(
            "no SOP class holds a multi-frame grey secondary capture that is MONOCHROME1 or signed"
        )
    contributing = arguments.pop("contributing_equipment")
    picture = hd.SOPClass(
        study_instance_uid=source.study_uid,
        sop_class_uid=cleaned_class(frames),
        modality="OT",
        referring_physician_name=None,
        **arguments,
    )
    picture._add_contributing_equipment(contributing, source.stand_in)
    bits = 8 if colour else int(source.header.BitsStored)
    set_values(
        picture,
        Rows=source.rows,
        Columns=source.columns,
        SamplesPerPixel=3 if colour else 1,
        PhotometricInterpretation="RGB" if colour else "MONOCHROME2",
        BitsAllocated=frames.dtype.itemsize * 8,
        BitsStored=bits,
        HighBit=bits - 1,
        PixelRepresentation=0,
        NumberOfFrames=len(frames),
    )
    if colour:
        picture.PlanarConfiguration = 0
    else:
        # SC Multi-frame Image (PS3.3 C.8.6.3) wants the identity transformation of a byte image stated.
        set_values(
            picture, PresentationLUTShape="IDENTITY", RescaleIntercept=0, RescaleSlope=1, RescaleType="US"
        )
        copy_present(picture, source, *_GREY_DISPLAY)
    _describe_time(picture, source, len(frames))
    samples = TemporaryFile()  # noqa: SIM115  (it is read when the picture is encoded)
    for frame in frames:  # a memmap stays on disk
        samples.write(np.ascontiguousarray(frame, frames.dtype.newbyteorder("<")).tobytes())
    samples.write(b"\0" * (frames.nbytes % 2))  # PS3.5 7.1.1
    samples.seek(0)
    picture.add_new("PixelData", "OW" if picture.BitsAllocated > 8 else "OB", samples)
    return picture


def frames_of(source: Source, image: DerivedImage) -> PixelArray:
    """The frames of a cleaned image as ``[frames, rows, columns(, 3)]``.

    Raises ResultRefused if number, size or type of the samples do not fit the source.
    """
    frames = image.frames
    colour = image.photometric == "RGB"
    if frames.ndim == (3 if colour else 2):
        frames = frames[None]
    wanted = (source.frames, source.rows, source.columns, *((3,) if colour else ()))
    was, samples = shown_term("PhotometricInterpretation", source.photometric), frames.dtype
    faults = {
        f"the cleaned image is {frames.shape}, its source {wanted}": frames.shape != wanted,
        "a cleaned colour image of more than 8 bits cannot be stored": colour and samples != np.uint8,
        f"a cleaned {was} image cannot be {image.photometric}": (
            not colour and image.photometric != source.photometric
        ),
        f"samples of type {samples} cannot be stored in a secondary capture": (
            samples.kind not in "iu" or samples.itemsize > 2
        ),
    }
    for fault, holds in faults.items():
        if holds:
            raise ResultRefused(fault)
    return frames


def _still(source: Source, image: DerivedImage, pixels: PixelArray, arguments: dict[str, Any]) -> Dataset:
    """Build a single-frame secondary capture of a cleaned image; ``arguments``: those of
    ``header_arguments``.
    """
    picture = SCImage.from_ref_dataset(
        source.stand_in,
        # SCImage takes unsigned samples only; the bits are the same and Pixel Representation is set below.
        pixels if pixels.dtype.kind == "u" else pixels.view(f"u{pixels.dtype.itemsize}"),
        photometric_interpretation=image.photometric,
        bits_allocated=pixels.dtype.itemsize * 8,
        coordinate_system="PATIENT",
        patient_orientation=ORIENTATION_FOR_HIGHDICOM,
        **arguments,
    )
    if image.photometric != "RGB":
        stored = int(source.header.BitsStored)
        set_values(
            picture,
            BitsStored=stored,
            HighBit=stored - 1,
            PixelRepresentation=int(pixels.dtype.kind == "i"),
        )
        copy_present(picture, source, *_GREY_DISPLAY, "PixelPaddingValue", "ModalityLUTSequence")
        if "ModalityLUTSequence" not in picture:
            copy_present(picture, source, "RescaleIntercept", "RescaleSlope", "RescaleType")
            if "RescaleSlope" in picture and "RescaleType" not in picture:
                picture.RescaleType = "US"  # Type 1 in the Modality LUT module (PS3.3 C.11.1)
    return picture


def _describe_time(picture: Dataset, source: Source, frames: int) -> None:
    """Set the Multi-frame and Cine modules: the source's own frame times, else its frame rate, else page
    numbers.
    """
    rates = (decimal_of(source.header, word, 0.0) for word in ("CineRate", "RecommendedDisplayFrameRate"))
    rate = next((one for one in rates if one > 0), 0.0)
    given = next(filter(source.header.get, ("FrameTimeVector", "FrameTime")), "")
    picture.FrameIncrementPointer = Tag(given or ("FrameTime" if rate else "PageNumberVector"))
    if given:
        copy_present(picture, source, given)
    elif rate:
        picture.FrameTime = f"{1000 / rate:.4f}"  # milliseconds
    else:
        picture.PageNumberVector = list(range(1, frames + 1))
    copy_present(picture, source, *_CINE)


def cleaned_class(frames: PixelArray) -> str:
    """The SOP class UID for a cleaned image; ``frames``: its samples, as ``frames_of`` returns them."""
    if len(frames) == 1:
        return str(SecondaryCaptureImageStorage)
    if frames.ndim == 4:
        return str(MultiFrameTrueColorSecondaryCaptureImageStorage)
    if frames.dtype.itemsize == 1:
        return str(MultiFrameGrayscaleByteSecondaryCaptureImageStorage)
    return str(MultiFrameGrayscaleWordSecondaryCaptureImageStorage)


_LABEL: Final = "Removed burned-in text"
ORGAN_SERIES: Final = "organs"
"""What tells the series of outlined organs from that of removed text."""


def is_empty(image: DerivedImage) -> bool:
    """Whether no pixel of the mask ``[frames,] rows, columns`` is set; then no segmentation is sent."""
    return not any(np.any(frame) for frame in image.frames)


def build_segmentation(context: ResultContext, source: Source, image: DerivedImage, uid: str) -> Dataset:
    """Build the binary segmentation of removed text, with one segment and one frame.

    Its category is from CID 7150, its type from our own scheme. For a cine it marks pixels that were changed
    in any frame, and refers to all frames: highdicom makes no multi-frame segmentation of images without a
    frame of reference, and ultrasound has none. ``image``: the mask; ResultRefused is raised if it has
    another size.
    """
    return _segmentation(
        context,
        source,
        filled(source, image)[None],
        [
            SegmentDescription(
                segment_number=1,
                segment_label=_LABEL,
                segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
                segmented_property_type=OURS[BURNED_IN.value],
                algorithm_type="AUTOMATIC",
                algorithm_identification=_algorithm(context, context.models),
                tracking_uid=tracking_uid(context, source, "mask"),
                tracking_id=f"AI {_LABEL}, image {source.number}",
            )
        ],
        content_label="AI_REMOVED_TEXT",
        content_description="Pixels that AI inpainted" + (", in any frame" if source.frames > 1 else ""),
        **header_arguments(context, ResultKind.SEG, source, uid, source.number),
    )


def build_organs(context: ResultContext, source: Source, image: DerivedImage, uid: str) -> Dataset:
    """Build the binary segmentation with one segment for each organ that the model outlined, in a series of
    its own.

    Category and types are from CID 7150 and CID 7151. Raises ResultRefused for masks of another size.
    """
    masks = np.asarray(image.frames, np.uint8) > 0
    if masks.shape != (len(image.organs), source.rows, source.columns):
        raise ResultRefused("outlines of organs have not the size of their image")
    segments = [
        SegmentDescription(
            segment_number=number,
            segment_label=f"AI {organ.meaning}",
            # PS3.16 CID 7150: a lesion is no anatomical structure.
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure
            if organ.value == codes.SCT.Lesion.value
            else codes.SCT.AnatomicalStructure,
            segmented_property_type=coded(organ),
            algorithm_type="AUTOMATIC",
            algorithm_identification=_algorithm(context, image.models),
            tracking_uid=tracking_uid(context, source, "organ", organ.scheme, organ.value),
            tracking_id=f"AI {organ.meaning}, image {source.number}",
        )
        for number, organ in enumerate(image.organs, start=1)
    ]
    outlined = _segmentation(
        context,
        source,
        np.moveaxis(masks, 0, -1)[None],
        segments,
        content_label="AI_ORGANS",
        content_description="Outlines by AI - not for diagnostic use",
        **header_arguments(context, ResultKind.SEG, source, uid, source.number, ORGAN_SERIES),
    )
    set_values(
        outlined,
        SeriesNumber=OUTLINES_SERIES_NUMBER + context.series_offset,
        SeriesDescription=series_description(context, ResultKind.SEG, "AI outlines of organs"),
    )
    return outlined


def _segmentation(
    context: ResultContext,
    source: Source,
    masks: npt.NDArray[np.bool_],
    segments: Sequence[SegmentDescription],
    **arguments: Any,
) -> Dataset:
    """Build a binary segmentation of one image from ``masks`` ``[1, rows, columns]`` or ``[1, rows, columns,
    segments]``.

    ``arguments``: further arguments of highdicom's constructor.
    """
    # The stand-in as a single-frame secondary capture; envelope.complete names the true SOP class again.
    image = deepcopy(source.stand_in)  # the elements too: the stand-in is used again
    image.SOPClassUID = SecondaryCaptureImageStorage
    image.pop("NumberOfFrames", None)
    segmentation = Segmentation(
        source_images=[image],
        pixel_array=masks,
        segmentation_type="BINARY",
        segment_descriptions=segments,
        **arguments,
    )
    # highdicom draws this UID at random; the same input must give the same object.
    dimension = derived_uid("dimension", str(segmentation.SOPInstanceUID))
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimension
    # Type 2C in General Image for images without a frame of reference; highdicom leaves it out.
    set_orientation(segmentation, source)
    return complete(segmentation, context, ResultKind.SEG, [source])


def _algorithm(context: ResultContext, models: Sequence[ModelRef]) -> hd.AlgorithmIdentificationSequence:
    """The algorithm identification of a segmentation: the first of ``models``, or the pipeline if there is
    none.
    """
    named = ((model.id, model.version) for model in models)
    name, version = next(named, (context.pipeline, context.pipeline_version))
    return hd.AlgorithmIdentificationSequence(name, codes.DCM.ArtificialIntelligence, version)
