"""An image for the viewer, besides its picture: samples, windows, pixel sizes, outlines."""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels import pixel_array
from sqlalchemy import select
from sqlalchemy.orm import Session

from ai_pipeline.contract import ImageHeader, PixelArray
from ai_pipeline.images.decode import DicomImage, open_dicom
from ai_pipeline.images.header import calibrated_regions, is_calibrated, radiograph_spacing
from ai_pipeline.images.numbers import decimal, decimal_of, value_of
from dicom_console.views.pictures import Shown, two_at_a_time
from dicom_node.base.config.settings import Settings
from dicom_node.base.errors import NotFound
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import ResultKind
from dicom_node.base.store import results
from dicom_node.base.store.tables import Result
from dicom_node.base.store.views import View

_RADIOGRAPHS = ("CR", "DX", "MG", "RF", "XA", "PX", "IO")
_RATES = (1.0, 60.0)  # frames a second that are played
_PRESETS = 10
_COLOURS = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (204, 121, 167))
"""By Okabe and Ito: people with any colour vision distinguish them."""
_OPACITY = 96  # of 255
_OUTLINES = 16  # that a viewer offers
_MOST_FRAMES = 256  # of a mask on one image, a cine


@dataclass(frozen=True, slots=True)
class Samples:
    """The sample values of one frame, for the viewer's own grey levels.

    ``data``: rows × columns values, little-endian; ``about``: their type and the window. Types are "u2" and
    "i2" (16 bit) and "f4", all after the Modality LUT (PS3.3 C.11.1), and "rgb" (8 bits a colour).
    """

    data: bytes
    about: dict[str, Any]


def samples(shown: Shown, frame: int) -> Samples:
    """Return the sample values of a frame (from 1). Raises NotFound if it cannot be decoded."""
    with two_at_a_time():
        image = open_dicom(shown.path)
        stored = image.stored(frame - 1)
        if stored.ndim == 3:
            return Samples(image.show(stored).tobytes(), {"type": "rgb"})
        display = image.grey_display(frame - 1)
        values, kind = _packed(display.modality(stored))
        centre, width, function = display.window(stored)
        if not math.isfinite(centre + width):
            raise NotFound("this image has no grey levels that are numbers")
        inverted = image.header.photometric == "MONOCHROME1"
        window = {"centre": centre, "width": width, "function": function}
        return Samples(values.tobytes(), {"type": kind, "window": window, "inverted": inverted})


def _packed(values: PixelArray) -> tuple[PixelArray, str]:
    """Return (the values in the smallest of the types u2, i2 and f4 that can express them, name of that
    type).
    """
    if np.array_equal(values, np.rint(values)):
        low, high = values.min(), values.max()
        if low >= 0 and high < 2**16:
            return values.astype("<u2"), "u2"
        if low >= -(2**15) and high < 2**15:
            return values.astype("<i2"), "i2"
    return values.astype("<f4"), "f4"


def described(shown: Shown) -> dict[str, Any]:
    """Return size, number of frames, frames a second, regions in which lengths can be measured, and windows
    of an image.

    Raises NotFound if it cannot be read.
    """
    with two_at_a_time():
        image = open_dicom(shown.path)
        header = image.header
        return {
            "columns": header.columns,
            "rows": header.rows,
            "frames": header.frames,
            "rate": _frame_rate(image),
            "regions": _regions(header),
            "windows": list(_windows(image.dataset)),
        }


def _regions(header: ImageHeader) -> list[dict[str, Any]]:
    """Return the regions of an image in which lengths can be measured: box in pixels, millimetres between
    rows and between columns, and a note.
    """
    if header.modality not in _RADIOGRAPHS:
        return [
            {"box": one.box, "row": one.row_spacing, "column": one.column_spacing, "note": ""}
            for one in calibrated_regions(header)
        ]
    spacing = radiograph_spacing(header)
    note = "" if is_calibrated(header) else " at the detector"
    box = (0, 0, header.columns, header.rows)
    return [{"box": box, "row": spacing[0], "column": spacing[1], "note": note}] if spacing else []


def _frame_rate(image: DicomImage) -> float:
    """Return the frame rate at which to play a cine, in frames per second, 1 to 60: that of the file (PS3.3
    C.7.6.5), else 15.
    """
    said = [decimal_of(image.dataset, key, 0.0) for key in ("RecommendedDisplayFrameRate", "CineRate")]
    time = decimal_of(image.dataset, "FrameTime", 0.0)  # ms
    rates = [*said, 1000.0 / time if time > 0 else 0.0, 15.0]
    return float(np.clip(next(rate for rate in rates if rate > 0), *_RATES))


def _windows(dataset: Dataset) -> list[tuple[float, float, str]]:
    """Return (Window Center, Window Width, explanation) of each valid window in the file (PS3.3 C.11.2)."""
    keywords = ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation")
    values = (value_of(dataset, keyword) for keyword in keywords)
    centres, widths, names = (
        value if isinstance(value, MultiValue) else [] if value is None else [value] for value in values
    )
    found = zip_longest(map(decimal, centres), map(decimal, widths), map(str, names), fillvalue="")
    return [
        (centre, width, name[:64])
        for centre, width, name in islice(found, _PRESETS)
        if isinstance(centre, float) and isinstance(width, float) and width > 0
    ]


def masks(session: Session, settings: Settings, study: int, uid: str) -> list[View]:
    """Return the segments (SEG) that results drew on the image ``uid``, the newest of each label, without
    withdrawn results.
    """
    chosen = select(Result).where(Result.study_id == study, Result.kind == ResultKind.SEG)
    rows = session.scalars(chosen.where(Result.deidentified.is_(False)).order_by(Result.id.desc())).all()
    gone = results.withdrawn(session, [row.id for row in rows])
    replaced = {row.supersedes for row in rows}
    door = Files(settings)
    found: dict[str, View] = {}
    for row in rows:
        path = door.if_here(session, row.path)
        if path is None or row.id in gone or row.sop_instance_uid in replaced:
            continue
        header = dcmread(path, stop_before_pixels=True)
        if uid in _images(header):
            for segment in header.SegmentSequence:
                number, label = int(segment.SegmentNumber), str(segment.SegmentLabel)
                found.setdefault(label, {"result": row.id, "segment": number, "name": label})
    return list(islice(found.values(), _OUTLINES))


def mask_png(shown: Shown, segment: int, image: str) -> bytes:
    """Return a segment as coloured, half transparent PNG in the size of its image. Raises NotFound.

    ``image``: its SOP Instance UID; "" for a mask of one image alone.
    """
    if shown.kind != ResultKind.SEG:
        raise NotFound("there is no such outline")
    with two_at_a_time():
        header = dcmread(shown.path, stop_before_pixels=True)
        here = list(islice(_frames_of(header, segment, image), _MOST_FRAMES))
        if not here:
            raise NotFound("there is no such outline")
        in_labels = header.get("SegmentationType") == "LABELMAP"
        frames = [np.asarray(pixel_array(shown.path, index=place)) for place in here]
        drawn = [frame == segment if in_labels else frame > 0 for frame in frames]
        painted = np.zeros((*drawn[0].shape, 4), np.uint8)
        painted[np.any(drawn, axis=0)] = (*_COLOURS[(segment - 1) % len(_COLOURS)], _OPACITY)
        data = io.BytesIO()
        Image.fromarray(painted).save(data, "PNG", compress_level=1)
    return data.getvalue()


def _frames_of(header: Dataset, segment: int, image: str) -> Iterator[int]:
    """Yield the places (from 0) of the frames of a segmentation that show this segment on this image.

    What is the same in all frames stands in the shared groups; a label map has all segments in each frame
    (PS3.3 C.8.20.2).
    """
    shared = next(iter(header.get("SharedFunctionalGroupsSequence", ())), Dataset())
    numbers = [int(item.SegmentNumber) for item in header.get("SegmentSequence", ())]
    in_labels = header.get("SegmentationType") == "LABELMAP"
    for place, item in enumerate(header.get("PerFrameFunctionalGroupsSequence", ())):
        named = item.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence") or ()
        shows = numbers if in_labels else [int(one.ReferencedSegmentNumber) for one in named]
        derived = item.get("DerivationImageSequence") or shared.get("DerivationImageSequence") or ()
        sources = {
            str(source.get("ReferencedSOPInstanceUID", ""))
            for one in derived
            for source in one.get("SourceImageSequence", ())
        }
        if segment in shows and (not image or not sources or image in sources):
            yield place


def _images(header: Dataset) -> set[str]:
    """Return the SOP Instance UIDs of the images that a segmentation (SEG) refers to."""
    series = header.get("ReferencedSeriesSequence", ())
    listed = [item for one in series for item in one.get("ReferencedInstanceSequence", ())]
    return {str(item.ReferencedSOPInstanceUID) for item in (*listed, *header.get("SourceImageSequence", ()))}
