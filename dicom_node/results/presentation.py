"""Presentation states: boxes and measured lines over the untouched image, for PACS viewers (PS3.3 A.33)."""

import textwrap
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
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
from PIL import ImageCms
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from ai_pipeline.images.display import lut_of
from ai_pipeline.images.numbers import decimal, decimal_of
from ai_pipeline.images.render import label_text
from dicom_node.base.dicom.header import quiet_pydicom
from dicom_node.base.dicom.walk import listed
from dicom_node.base.kinds import ResultKind
from dicom_node.results.common.envelope import complete, disclaimer, header_arguments
from dicom_node.results.common.report import (
    ImageReport,
    ReportedFinding,
    TrackedMeasurement,
    further_numbers,
)
from dicom_node.results.common.source import ResultContext, Source, copy_present, pixel_aspect

LINE: Final = "INTERPOLATED"
"""Graphic Type of measured lines in presentation states: of two points, it is a straight line."""
LINES: Final = "AI_LINES"
TEXTS: Final = "AI_TEXTS"
"""Layers of boxes and measured lines, and of words: a viewer can hide either."""
OVERLAYS: Final = "OVERLAYS"

_FOOTER_LINE, _FOOTER_LETTERS = 0.035, 100
"""Height of a line of the footer (share of the display), and its letters, at most."""
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
    """Presentation state of one image: grayscale for MONOCHROME images, colour for all others.

    A state replaces the image's own window, rescale, polarity, shutter and overlays (PS3.4 N.2), so these are
    copied, and the overlays stay visible.
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
        "graphic_annotations": list(_annotations(context, report, lines, texts, image)),
        **header_arguments(context, ResultKind.GSPS, source, uid, source.number),
    }
    if source.grey:
        # highdicom looks for rescale, window and polarity in functional groups where the class is a
        # multi-frame one, and writes IDENTITY for MONOCHROME1, which shows the negative: they are given here.
        shape = "INVERSE" if source.photometric == "MONOCHROME1" else "IDENTITY"
        state = GrayscaleSoftcopyPresentationState(
            **arguments,
            modality_lut_transformation=_modality_lut(source),
            presentation_lut_transformation=hd.PresentationLUTTransformation(presentation_lut_shape=shape),
            voi_lut_transformations=[_voi(source)],
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
    """Display Shutter (PS3.3 C.7.6.11) and its colour (C.11.12): black, if the image gives none."""
    shapes = [shape for shape in listed(source.header.get("ShutterShape")) if shape in _SHUTTER]
    whole = [shape for shape in shapes if all(source.header.get(word) for word in _SHUTTER[shape])]
    if not whole:
        return
    state.ShutterShape = whole
    copy_present(state, source, *(word for shape in whole for word in _SHUTTER[shape]))
    state.ShutterPresentationValue = 0
    copy_present(state, source, "ShutterPresentationValue", "ShutterPresentationColorCIELabValue")
    if not source.grey and "ShutterPresentationColorCIELabValue" not in state:
        state.ShutterPresentationColorCIELabValue = [0, 32896, 32896]  # black (PS3.3 C.10.7.1.1)


@cache
def srgb_profile() -> bytes:
    """sRGB as a profile of class ``scnr`` with a fixed date.

    PS3.3 C.11.15.1.1 requires an input profile (scnr or spac); Pillow makes a monitor profile (mntr) with the
    present date.
    """
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[12:16] = b"scnr"
    profile[24:36] = bytes.fromhex("07E9 0001 0001 0000 0000 0000")
    return bytes(profile)


def _annotations(
    context: ResultContext, report: ImageReport, lines: GraphicLayer, texts: GraphicLayer, image: Dataset
) -> Iterator[GraphicAnnotation]:
    """Measured lines, the boxes of each frame with their names, and the words."""
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
        names = [_label(one) for one in here]
        number = (frame or 1) if several else None
        yield GraphicAnnotation([image], lines, referenced_frame_number=number, graphic_objects=boxes)
        yield GraphicAnnotation([image], texts, referenced_frame_number=number, text_objects=names)
    footer = textwrap.wrap(disclaimer(context), _FOOTER_LETTERS)
    above = max(0.5, 0.99 - _FOOTER_LINE * len(footer))
    boxed = [
        # VR ST: 1024 characters, lines end with CR LF (PS3.5 6.1.3).
        TextObject("\r\n".join(words)[:1024], units="DISPLAY", bounding_box=box, text_justification="LEFT")
        for words, box in (
            # At the top, where nothing overprints them.
            ([*report.lines, *further_numbers(report)], (0.01, 0.02, 0.5, 0.3)),
            (footer, (0.01, above, 0.99, 0.99)),
        )
        if words
    ]
    yield GraphicAnnotation([image], texts, text_objects=boxed)


def _graphic(
    kind: str, points: npt.NDArray[np.float64] | None, one: TrackedMeasurement | ReportedFinding
) -> GraphicObject:
    return GraphicObject(
        kind, points, units="PIXEL", tracking_id=one.identifier, tracking_uid=one.tracking_uid
    )


def _measured_lines(
    measured: Sequence[TrackedMeasurement],
) -> Iterator[tuple[TrackedMeasurement, list[npt.NDArray[np.float64]]]]:
    """The lines that a model measured, each once: an outline, or the pieces of an open line, because programs
    take a POLYLINE for a region of the report. What was read from the picture is in it already.
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
    """The label above a finding's box, or in it at the upper edge of the image.

    It has a place of its own: without one DICOMscope writes it left of the anchor, outside the image.
    """
    source = located.source
    assert located.outline is not None
    left, top = map(float, located.outline.min(axis=0))
    width, height = _LABEL_SIZE[0] * source.columns, _LABEL_SIZE[1] * source.rows
    first = float(np.clip(left, 0.01 * source.columns, source.columns - width))
    above = top - height if top >= height else top
    return TextObject(
        label_text(located.finding),
        units="PIXEL",
        bounding_box=(first, above, first + width, above + height),
        text_justification="LEFT",
        anchor_point=(left, top),
        anchor_point_visible=False,
        tracking_id=located.identifier,
        tracking_uid=located.tracking_uid,
    )


def _modality_lut(source: Source) -> hd.ModalityLUTTransformation:
    header = source.header
    tables = header.get("ModalityLUTSequence")
    if tables and (table := _table(source, tables[0])):
        kind = str(tables[0].get("ModalityLUTType") or "US")
        lut = hd.ModalityLUT(lut_type=kind, **table)
        return hd.ModalityLUTTransformation(modality_lut=_with_depth(lut, tables[0]))
    return hd.ModalityLUTTransformation(
        rescale_intercept=decimal_of(header, "RescaleIntercept", 0.0),
        rescale_slope=decimal_of(header, "RescaleSlope", 0.0) or 1.0,
        rescale_type=str(header.get("RescaleType") or "US"),
    )


def _voi(source: Source) -> SoftcopyVOILUTTransformation:
    """The image's VOI LUTs or windows; without any the whole range, or a viewer would choose its own."""
    header = source.header
    luts = [
        _with_depth(hd.VOILUT(**lut), table)
        for table in header.get("VOILUTSequence") or []
        if (lut := _table(source, table))
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
    tables = source.header.get("ModalityLUTSequence")
    if tables and _table(source, tables[0]):
        width = 2.0 ** int(tables[0].LUTDescriptor[2])
        return SoftcopyVOILUTTransformation(window_center=width / 2, window_width=width)
    bits = int(source.header.BitsStored)
    lowest = -(2 ** (bits - 1)) if source.header.get("PixelRepresentation") else 0
    slope = decimal_of(source.header, "RescaleSlope", 0.0) or 1.0
    centre = (lowest + 2 ** (bits - 1)) * slope + decimal_of(source.header, "RescaleIntercept", 0.0)
    return SoftcopyVOILUTTransformation(window_center=centre, window_width=max(2**bits * abs(slope), 1.0))


def _table(source: Source, table: Dataset) -> dict[str, Any] | None:
    """A LUT for highdicom; None for one by which no picture can be shown."""
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
    """Bits per entry as in the source: highdicom knows 8 and 16, but 10 and 12 are the usual ones.

    The number is the range of the output (PS3.3 C.11.2.1.1), so 16 for 12 would show a black image.
    """
    lut.LUTDescriptor = [lut.LUTDescriptor[0], lut.LUTDescriptor[1], int(table.LUTDescriptor[2])]
    return lut
