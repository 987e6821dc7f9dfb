"""Softcopy presentation states of a program (PS3.3 A.33, C.10.4 to C.10.8, C.11.11): what they draw and hide.

A presentation state may draw on the images that the program got. It may not hide: a reader who opens it must
see all that the source shows.
"""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Final

from pydicom.dataset import Dataset

from ai_pipeline.images.numbers import decimal, whole
from dicom_node.base.dicom.header import listed
from dicom_node.results.dataset import sequence, text_of
from dicom_node.results.foreign.candidate import Candidate
from dicom_node.results.foreign.coordinates import (
    Frame,
    check_graphic,
    check_input_size,
    frame_of,
    numbers_of,
)
from dicom_node.results.foreign.kinds import COLOUR_PRESENTATIONS
from dicom_node.results.foreign.planes import Vector
from dicom_node.results.foreign.references import header_of
from dicom_node.results.foreign.verdict import Remark, held, refused, repaired

_LAYER: Final = "AI_"
_LONGEST_TEXT: Final = 1024  # characters of VR ST
_UNITS: Final = frozenset({"PIXEL", "DISPLAY", "MATRIX"})
_SHUTTERS: Final = (
    "ShutterShape", "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge", "ShutterUpperHorizontalEdge",
    "ShutterLowerHorizontalEdge", "CenterOfCircularShutter", "RadiusOfCircularShutter",
    "VerticesOfThePolygonalShutter",
)  # fmt: skip
_AREA: Final = "DisplayedAreaSelectionSequence"
_NO_MATRIX: Final = "its coordinates are of a total pixel matrix (MATRIX), and its image is not tiled"


def images_of(candidate: Candidate) -> dict[str, Dataset]:
    """The headers of the images that the presentation state is for, by SOP Instance UID."""
    uids = [
        text_of(image, "ReferencedSOPInstanceUID")
        for series in sequence(candidate.dataset, "ReferencedSeriesSequence")
        for image in sequence(series, "ReferencedImageSequence")
    ]
    found = {uid: header_of(candidate, uid) for uid in uids}
    return {uid: header for uid, header in found.items() if header is not None}


def check_images(candidate: Candidate) -> Iterator[Remark]:
    """Yield images of another kind than the presentation state is for (PS3.3 A.33.1, A.33.2)."""
    is_for_colour = candidate.sop_class_uid in COLOUR_PRESENTATIONS
    for header in images_of(candidate).values():
        photometric = text_of(header, "PhotometricInterpretation")
        if not whole(header.get("Rows")):
            yield refused("it is for an object without pixels")
        elif photometric.startswith("MONOCHROME") == is_for_colour and not _is_pseudo_colour(candidate):
            yield refused("a grayscale state is for a colour image, or a colour state for a grayscale one")


def check_displayed_areas(candidate: Candidate) -> Iterator[Remark]:
    """Yield displayed areas outside of their image; each image gets exactly one (PS3.3 C.10.4)."""
    dataset, images = candidate.dataset, images_of(candidate)
    areas = list(sequence(dataset, _AREA))
    counts = dict.fromkeys(images, 0)
    for area in areas:
        named = [
            text_of(one, "ReferencedSOPInstanceUID") for one in sequence(area, "ReferencedImageSequence")
        ]
        for uid in named or images:
            if uid in counts:
                counts[uid] += 1
                yield from _area_remarks(area, images[uid])
    if any(count > 1 and not _is_by_frame(areas) for count in counts.values()):
        yield refused("an image has two displayed areas")
    missing = [uid for uid, count in counts.items() if not count]
    if missing:
        dataset.DisplayedAreaSelectionSequence = areas + [_whole_area(images[uid], uid) for uid in missing]
        yield repaired("images without a displayed area are shown whole")


def check_nothing_hidden(candidate: Candidate) -> Iterator[Remark]:
    """Yield what hides pixels or moves them: shutters, masks, turns."""
    dataset, images = candidate.dataset, list(images_of(candidate).values())
    if "ShutterShape" in dataset and not any(_has_shutter(dataset, header) for header in images):
        yield refused("a shutter that the image has not hides pixels")
    for keyword, what in (("OverlayPlane", "a bitmap shutter"), ("MaskSubtractionSequence", "a mask")):
        if keyword in dataset or (keyword == "OverlayPlane" and text_of(dataset, "ShutterShape") == "BITMAP"):
            yield refused(f"{what} hides pixels")
    if whole(dataset.get("ImageRotation")) or text_of(dataset, "ImageHorizontalFlip") == "Y":
        yield refused("it turns or mirrors the image")


def check_greys(candidate: Candidate) -> Iterator[Remark]:
    """Yield what shows other greys than the image: inversion, tables, other values, narrow windows."""
    dataset, images = candidate.dataset, list(images_of(candidate).values())
    shapes = {text_of(header, "PresentationLUTShape") or "IDENTITY" for header in images}
    shape = text_of(dataset, "PresentationLUTShape")
    if shape == "INVERSE" and "INVERSE" not in shapes:
        yield refused("it inverts the image (Presentation LUT Shape)")
    if sequence(dataset, "PresentationLUTSequence"):
        yield held("it changes the grey scale by a table (Presentation LUT Sequence)")
    for keyword, usual in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
        stated = decimal(dataset.get(keyword))
        if stated is not None and any((decimal(one.get(keyword)) or usual) != stated for one in images):
            yield refused(f"{keyword} is not that of the image")
    for item in sequence(dataset, "SoftcopyVOILUTSequence"):
        yield from _window_remarks(item, images)


def check_drawings(candidate: Candidate) -> Iterator[Remark]:
    """Yield graphics and texts that lie outside of their image, or on no layer (PS3.3 C.10.5, C.10.7)."""
    dataset = candidate.dataset
    images = images_of(candidate)
    layers = {text_of(one, "GraphicLayer") for one in sequence(dataset, "GraphicLayerSequence")}
    sets: list[tuple[Vector, Frame]] = []
    for annotation in sequence(dataset, "GraphicAnnotationSequence"):
        if text_of(annotation, "GraphicLayer") not in layers:
            yield refused("a drawing is on a graphic layer that is not there")
        uids = [
            text_of(one, "ReferencedSOPInstanceUID")
            for one in sequence(annotation, "ReferencedImageSequence")
        ]
        frames = [frame for uid in uids or images if (frame := frame_of(images.get(uid, Dataset())))]
        for frame in frames[:1]:
            yield from _annotation_remarks(annotation, frame, sets)
        if not frames:
            yield refused("a drawing is on an image that the presentation state is not for")
        if sequence(annotation, "CompoundGraphicSequence") and not sequence(
            annotation, "GraphicObjectSequence"
        ):
            yield refused("compound graphics have no simple ones beside them, which most viewers show alone")
    yield from check_input_size(sets, candidate)


def add_warning(candidate: Candidate) -> Iterator[Remark]:
    """Add a layer that says on every image that an AI drew it (R of the gate)."""
    dataset, context = candidate.dataset, candidate.given.context
    layers = list(sequence(dataset, "GraphicLayerSequence"))
    taken = {text_of(one, "GraphicLayer") for one in layers}
    name = next(one for number in count(1) if (one := f"{_LAYER}{number}") not in taken)
    layer, annotation, text = Dataset(), Dataset(), Dataset()
    layer.GraphicLayer = name
    layer.GraphicLayerOrder = 1 + max((whole(one.get("GraphicLayerOrder")) or 0 for one in layers), default=0)
    layer.GraphicLayerRecommendedDisplayGrayscaleValue = 65535
    text.BoundingBoxAnnotationUnits = "DISPLAY"
    text.BoundingBoxTopLeftHandCorner, text.BoundingBoxBottomRightHandCorner = [0.0, 0.95], [1.0, 1.0]
    text.BoundingBoxTextHorizontalJustification = "LEFT"
    said = f"AI, not verified, not for diagnostic use: {context.pipeline} {context.pipeline_version}"
    text.UnformattedTextValue = said[:_LONGEST_TEXT]
    annotation.GraphicLayer, annotation.TextObjectSequence = name, [text]
    dataset.GraphicLayerSequence = [*layers, layer]
    dataset.GraphicAnnotationSequence = [*sequence(dataset, "GraphicAnnotationSequence"), annotation]
    dataset.setdefault("ContentCreatorName", None)
    yield repaired("a layer was added that says that an AI drew it")


def _named_images(item: Dataset) -> list[str]:
    """The images that an item of the presentation state names; empty: it is for all."""
    return [text_of(one, "ReferencedSOPInstanceUID") for one in sequence(item, "ReferencedImageSequence")]


def _is_pseudo_colour(candidate: Candidate) -> bool:
    """Whether it gives colours to grey values (PS3.3 A.33.3)."""
    return candidate.sop_class_uid.endswith(".11.3")


def _is_by_frame(areas: Sequence[Dataset]) -> bool:
    """Whether the displayed areas name frames: then an image may have several."""
    return any(
        "ReferencedFrameNumber" in one for area in areas for one in sequence(area, "ReferencedImageSequence")
    )


def _area_remarks(area: Dataset, image: Dataset) -> Iterator[Remark]:
    """Yield if an area is not in its image, or not all of it; give it the shape of the image's pixels."""
    size = frame_of(image)
    corners = [
        [decimal(number) for number in listed(area.get(keyword))]
        for keyword in ("DisplayedAreaTopLeftHandCorner", "DisplayedAreaBottomRightHandCorner")
    ]
    numbers = [number for corner in corners for number in corner]
    if size is None or len(numbers) != 4 or None in numbers:
        yield refused("a displayed area has no corners")
        return
    left, top, right, bottom = (number or 0.0 for number in numbers)
    if left < 0 or top < 0 or right > size.columns or bottom > size.rows or left >= right or top >= bottom:
        yield refused("a displayed area reaches out of its image")
    elif (left, top) > (1, 1) or (right, bottom) < (size.columns, size.rows) or max(left, top) > 1:
        yield held("it shows only a part of an image")
    yield from _set_shape(area, image)


def _set_shape(area: Dataset, image: Dataset) -> Iterator[Remark]:
    """State the size or shape of pixels as the image does (PS3.3 C.10.4)."""
    spacing = [decimal(number) for number in listed(image.get("PixelSpacing"))]
    stated = [decimal(number) for number in listed(area.get("PresentationPixelSpacing"))]
    if len(spacing) == 2 and None not in spacing:
        if stated != spacing:
            area.pop("PresentationPixelAspectRatio", None)
            area.PresentationPixelSpacing = list(image.PixelSpacing)
            yield repaired("the size of pixels was taken from the image")
    elif stated or "PresentationPixelAspectRatio" not in area:
        area.pop("PresentationPixelSpacing", None)
        area.PresentationPixelAspectRatio = [int(one) for one in listed(image.get("PixelAspectRatio"))] or [
            1,
            1,
        ]
        yield repaired("the shape of pixels was taken from the image")


def _whole_area(image: Dataset, uid: str) -> Dataset:
    """A displayed area that shows an image whole."""
    area, reference = Dataset(), Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = text_of(image, "SOPClassUID"), uid
    area.ReferencedImageSequence = [reference]
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [int(image.Columns), int(image.Rows)]
    area.PresentationSizeMode = "SCALE TO FIT"
    list(_set_shape(area, image))
    return area


def _has_shutter(dataset: Dataset, image: Dataset) -> bool:
    """Whether the image has itself the shutter of the presentation state."""
    return all(dataset.get(keyword) == image.get(keyword) for keyword in _SHUTTERS)


def _window_remarks(item: Dataset, images: Sequence[Dataset]) -> Iterator[Remark]:
    """Yield if a window is none, or leaves the image with (almost) one grey."""
    widths = [decimal(one) for one in listed(item.get("WindowWidth"))]
    centres = [decimal(one) for one in listed(item.get("WindowCenter"))]
    if any(one is None or one <= 0 for one in widths) or len(widths) != len(centres) or None in centres:
        yield refused("a window has no width or no centre")
        return
    for centre, width in zip(centres, widths, strict=True):
        if any(_leaves_one_grey(centre or 0.0, width or 0.0, image) for image in images):
            yield held("its window shows the image in almost one grey")


def _leaves_one_grey(centre: float, width: float, image: Dataset) -> bool:
    """Whether more than 99 % of what the image can hold, by its own windows, falls on black or on white."""
    own = zip(listed(image.get("WindowCenter")), listed(image.get("WindowWidth")), strict=False)
    spans = [
        (c - w / 2, c + w / 2)
        for one, other in own
        if (c := decimal(one)) is not None and (w := decimal(other))
    ]
    low, high = centre - width / 2, centre + width / 2
    return bool(spans) and all(
        min(high, last) - max(low, first) < 0.01 * (last - first) and not first <= low <= high <= last
        for first, last in spans
    )


def _annotation_remarks(
    annotation: Dataset, frame: Frame, sets: list[tuple[Vector, Frame]]
) -> Iterator[Remark]:
    """Yield what is wrong with the graphics and texts of one annotation; points in pixels go to ``sets``."""
    for graphic in sequence(annotation, "GraphicObjectSequence"):
        units = text_of(graphic, "GraphicAnnotationUnits")
        if units not in _UNITS:
            yield refused("a drawing has no units")
            continue
        if units == "MATRIX" and not frame.is_tiled:
            yield refused(_NO_MATRIX)
        yield from check_graphic(
            graphic, _extent(units, frame), text_of(graphic, "GraphicType"), region=False
        )
        points = numbers_of(graphic)
        if points is not None and whole(graphic.get("NumberOfGraphicPoints")) != len(points) // 2:
            yield refused("Number of Graphic Points is not that of its points")
        if points is not None and len(points) % 2 == 0 and units != "DISPLAY":
            sets.append((points.reshape(-1, 2), frame))
    for text in sequence(annotation, "TextObjectSequence"):
        yield from _text_remarks(text, frame)


def _extent(units: str, frame: Frame) -> Frame:
    """The extent of an image in units of its pixels, or of the display (0 to 1)."""
    return Frame(1.0, 1.0, 1 / max(frame.columns, frame.rows)) if units == "DISPLAY" else frame


def _text_remarks(text: Dataset, frame: Frame) -> Iterator[Remark]:
    """Yield if a text is too long, lies nowhere, or outside of the image."""
    if len(text_of(text, "UnformattedTextValue")) > _LONGEST_TEXT:
        yield refused("a text has more than 1,024 characters")
    places = []
    for units, *keywords in (
        ("BoundingBoxAnnotationUnits", "BoundingBoxTopLeftHandCorner", "BoundingBoxBottomRightHandCorner"),
        ("AnchorPointAnnotationUnits", "AnchorPoint"),
    ):
        extent = _extent(text_of(text, units), frame)
        if text_of(text, units) == "MATRIX" and not frame.is_tiled:
            yield refused(_NO_MATRIX)
        places += [(extent, numbers_of(text, keyword)) for keyword in keywords if keyword in text]
    if not places:
        yield refused("a text has no place")
    for extent, point in places:
        size = (extent.columns, extent.rows)
        if (
            point is None
            or len(point) != 2
            or not (-1 < point[0] < size[0] + 1 and -1 < point[1] < size[1] + 1)
        ):
            yield refused("a text lies outside of its image")
