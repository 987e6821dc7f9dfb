"""The image of a form that Karnak sends, the rectangles that must cover it, and which values stand in it.

Karnak sends no file but pixel data: the first fragment of compressed ones, else the samples of all frames;
the form's fields describe them (deidentification-api.yaml 0.1.0).
"""

import json
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from ai_pipeline.burnin.cleaning import CleaningResult
from ai_pipeline.burnin.find.annotation import Box, Mask, components, dilated, index_of
from ai_pipeline.contract import SourceImage
from ai_pipeline.errors import PixelError
from ai_pipeline.images.codestreams import COMPRESSED
from ai_pipeline.images.decode import open_dicom, picture_of
from ai_pipeline.images.header import NO_ATTRIBUTES
from ai_pipeline.images.limits import ImageLimits

NUMBERS = ("rows", "columns", "bits_allocated", "samples_per_pixel")
SHORTEST = 3
"""Characters of a value that is looked for in what was read: shorter ones stand everywhere."""
JOINED = 9
"""Distance up to which filled pixels are covered by one rectangle (pixels)."""
MOST_RECTANGLES = 2000
_NATIVE = {
    "",
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
}
_DECIMALS = {
    "rescale_slope": "RescaleSlope",
    "rescale_intercept": "RescaleIntercept",
    "window_center": "WindowCenter",
    "window_width": "WindowWidth",
}
_DATE = re.compile(r"(\d{4})(\d{2})(\d{2})")


@contextmanager
def image_of_form(form: Mapping[str, str], data: bytes, limits: ImageLimits) -> Iterator[SourceImage]:
    """The image that ``data`` and the fields ``form`` describe; it exists within the context. Raises
    PixelError.
    """
    syntax = form.get("transfer_syntax_uid", "").removeprefix("null")  # Java's word for none
    if data.startswith(b"\x89PNG") or (data.startswith(b"\xff\xd8\xff") and not syntax):
        yield picture_of(data, "US", limits, NO_ATTRIBUTES)
        return
    dataset = _described(form)
    if syntax in _NATIVE:
        _add_samples(dataset, data, swapped=syntax == ExplicitVRBigEndian)
        syntax = ExplicitVRLittleEndian
    elif syntax in COMPRESSED:
        dataset.PixelData = encapsulate([data])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
    else:
        raise PixelError("Unsupported file type: this transfer syntax is not decoded here.")
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    with tempfile.TemporaryFile() as file:
        dataset.save_as(file, enforce_file_format=True)
        file.flush()
        yield open_dicom(Path(f"/proc/self/fd/{file.fileno()}"), limits)


def _described(form: Mapping[str, str]) -> Dataset:
    """A data set with the attributes of the pixels. Raises PixelError."""
    wanted = {name: form.get(name, "") for name in NUMBERS}
    if not all(re.fullmatch(r"\d{1,5}", text) and 0 < int(text) <= 0xFFFF for text in wanted.values()):
        raise PixelError("Failed to decode image. Provide rows, columns, bits_allocated, samples_per_pixel, "
                         "transfer_syntax_uid, and photometric_interpretation.")  # fmt: skip
    rows, columns, bits, samples = (int(text) for text in wanted.values())
    photometric = form.get("photometric_interpretation", "").strip()
    if not re.fullmatch(r"[A-Z0-9_ ]{0,16}", photometric):
        raise PixelError("photometric_interpretation is no term of PS3.3 C.7.6.3.1.2")
    if form.get("is_monochrome1", "").lower() == "true":
        photometric = "MONOCHROME1"
    dataset = Dataset()
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = "2.25.1"  # no UID of the patient's object is needed here
    dataset.Modality = "US"  # the form names none; of the kinds that Karnak sends it is searched for most
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.SamplesPerPixel, dataset.PixelRepresentation = samples, 0
    if samples > 1:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric or ("RGB" if samples > 1 else "MONOCHROME2")
    for name, keyword in _DECIMALS.items():
        if text := form.get(name, ""):
            setattr(dataset, keyword, _decimal(name, text))
    if palette := form.get("palette_color_lut", ""):
        _add_palette(dataset, palette)
    return dataset


def _decimal(name: str, text: str) -> str:
    """A number of the form as VR DS. Raises PixelError."""
    try:
        return f"{float(text):.10g}"
    except ValueError:
        raise PixelError(f"{name} is not a number") from None


def _add_palette(dataset: Dataset, text: str) -> None:
    """Set the palette of a form: JSON arrays red, green and blue, of 8 or 16 bits. Raises PixelError."""
    try:
        given = json.loads(text)
        tables = {colour: np.asarray(given[colour], np.uint16) for colour in ("red", "green", "blue")}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise PixelError("Invalid JSON format for palette_color_lut.") from None
    for colour, table in tables.items():
        if table.ndim != 1 or not 0 < len(table) <= 65_536:
            raise PixelError("palette_color_lut must have 1 to 65,536 entries of each colour.")
        name = f"{colour.title()}PaletteColorLookupTable"
        setattr(dataset, f"{name}Descriptor", [len(table) % 65_536, 0, 16])
        widened = table if int(table.max()) > 255 else table * 257  # C.7.6.3.1.6: the colour in the high byte
        setattr(dataset, f"{name}Data", widened.astype("<u2").tobytes())


def _add_samples(dataset: Dataset, data: bytes, *, swapped: bool) -> None:
    """Set uncompressed pixel data of one frame or more. ``swapped``: words of 16 bits are big endian. Raises
    PixelError.
    """
    rows, columns, wide = dataset.Rows, dataset.Columns, dataset.BitsAllocated // 8
    samples = 2 if "_422" in dataset.PhotometricInterpretation else dataset.SamplesPerPixel
    length = rows * columns * samples * wide
    if wide not in (1, 2) or len(data) < length:
        raise PixelError(f"the image has {len(data)} bytes, its fields describe {length}")
    frames = len(data) // length
    if frames > 1:
        dataset.NumberOfFrames = frames
    data = data[: frames * length]
    if wide == 2:
        words = np.frombuffer(data, ">u2" if swapped else "<u2")
        dataset.BitsStored = max(int(words.max()).bit_length(), 1)  # the form does not say how many
        dataset.HighBit = dataset.BitsStored - 1
        data = words.astype("<u2").tobytes()
    if samples == 3 and _is_by_plane(np.frombuffer(data[:length], "<u2" if wide == 2 else np.uint8)):
        dataset.PlanarConfiguration = 1
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW" if wide == 2 else "OB"


_SURELY: Final = 3
"""How many times the colours of one reading are less alike than those of the other, at least."""


def _is_by_plane(samples: npt.NDArray[np.unsignedinteger[Any]]) -> bool:
    """Whether the samples of an RGB frame are one plane after the other, which the form does not say.

    Most of a picture with text is grey: its three colours are alike, where they are taken from one pixel.
    Raises PixelError for a tinted picture: its masks could lie at other places than its text.
    """
    by_plane, by_pixel = samples.reshape(3, -1).astype(np.int32), samples.reshape(-1, 3).T.astype(np.int32)
    planes, pixels = (float(np.abs(np.diff(colours, axis=0)).mean()) for colours in (by_plane, by_pixel))
    if min(planes, pixels) * _SURELY > max(planes, pixels):
        raise PixelError("by pixel or by plane? send a tinted picture as DICOM to /clean")
    return planes < pixels


def masks_of(
    image: SourceImage, result: CleaningResult, sensitive: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The masks of Karnak's answer: rectangles "x y width height" by their colour (RRGGBB), that of the
    cleaned picture there. They cover every filled pixel of any frame, and each text that was kept but has one
    of the ``sensitive`` values. Raises PixelError for too many.
    """
    filled: Mask = np.asarray(result.mask.frames.any(axis=0), np.bool_).copy()
    for reading in result.readings:
        if matching_tags(sensitive, [reading.text]):
            left, top, right, bottom = (round(edge) for edge in reading.bounds)
            filled[index_of((left, top, right, bottom))] = True
    boxes = _boxes(filled)
    if len(boxes) > MOST_RECTANGLES:
        raise PixelError(f"more than {MOST_RECTANGLES} places would have to be covered")
    # Karnak takes an answer without masks for a failure and does not forward the image (Profile.java): one
    # pixel, in its own colour, changes nothing.
    picture = image.show(result.image.frames[0])
    by_colour: dict[str, list[str]] = {}
    for left, top, right, bottom in boxes or [(0, 0, 1, 1)]:
        pixels = picture[top:bottom, left:right].reshape((bottom - top) * (right - left), -1)
        middle = np.median(pixels, axis=0).astype(int)
        colour = "".join(f"{level:02x}" for level in np.broadcast_to(middle, 3))
        by_colour.setdefault(colour, []).append(f"{left} {top} {right - left} {bottom - top}")
    return [
        {"stationName": "*", "color": colour, "rectangles": rectangles}
        for colour, rectangles in by_colour.items()
    ]


def _boxes(filled: Mask) -> list[Box]:
    """Boxes that cover every filled pixel: one for those that lie together."""
    labels, stats = components(dilated(filled, JOINED))
    boxes = []
    for label, (left, top, width, height, _) in enumerate(stats[1:], start=1):
        part = index_of((left, top, left + width, top + height))
        rows, columns = np.nonzero(filled[part] & (labels[part] == label))
        low, right = int(top + rows.max()) + 1, int(left + columns.max()) + 1
        boxes.append((int(left + columns.min()), int(top + rows.min()), right, low))
    return boxes


def matching_tags(sensitive: Mapping[str, str], texts: Iterable[str]) -> list[str]:
    """The names of the ``sensitive`` values of which a part stands in one of the ``texts``: a name's
    component, a date in any order. Of values, parts of fewer than SHORTEST characters are not looked for.
    """
    read = [_plain(text) for text in texts]
    return [
        tag
        for tag, value in sensitive.items()
        if any(part in text for part in _parts(value) for text in read)
    ]


def _parts(value: str) -> set[str]:
    """What of a value is looked for: letters and digits, in capitals."""
    if date := _DATE.fullmatch(value.strip()):
        year, month, day = date.groups()
        return {year + month + day, day + month + year, month + day + year}
    parts = {_plain(part).lstrip("0") for part in re.split(r"[\s^=\\,/]+", value)}
    return {part for part in parts if len(part) >= SHORTEST}


def _plain(text: str) -> str:
    """The letters and digits of a text, in capitals, without accents."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", text).upper() if letter.isalnum())
