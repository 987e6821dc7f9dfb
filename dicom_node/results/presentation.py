"""Presentation states (PS3.3 A.33): boxes and measured lines over the untouched image."""

import textwrap
from collections.abc import Iterator, Sequence
from functools import cache, partial
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

from ai_pipeline.contract import (
    Picture,
)
from ai_pipeline.images.display import lut_of
from ai_pipeline.images.numbers import decimal, decimal_of
from dicom_node.base.dicom.header import listed, quiet_pydicom
from dicom_node.base.lifecycle import ResultKind
from dicom_node.results.context import ResultContext
from dicom_node.results.dataset import set_values
from dicom_node.results.derivation import (
    copy_present,
    pixel_aspect,
)
from dicom_node.results.envelope import complete, header_arguments
from dicom_node.results.located import ReportedFinding, TrackedMeasurement
from dicom_node.results.report import ImageReport, further_numbers
from dicom_node.results.source import Source

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
    arguments = {
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
