"""Attributes with which every derived picture describes its source (PS3.3 C.7.6.1, C.12.4, C.8.6)."""

from __future__ import annotations

from copy import deepcopy
from fractions import Fraction
from typing import Final

from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import UID

from ai_pipeline.images.numbers import decimal, value_of, whole_of
from dicom_node.results.common.concepts import SOURCE_FOR_PROCESSING
from dicom_node.results.common.source import Source

# PS3.3 C.7.6.1.1.5.1: what each lossy transfer syntax is called in Lossy Image Compression Method.
_LOSSY_METHODS: Final = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
}
# What states the shape of pixels beside their size; Pixel Aspect Ratio is for images without (PS3.3 C.7.6.3).
_SPACINGS: Final = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
ORIENTATION_FOR_HIGHDICOM: Final = ("L", "F")
"""SCImage wants one, and knows no compound ones ("PF"); :func:`set_orientation` writes the true one."""


def describe_derivation(
    picture: Dataset, source: Source, description: str, *codes: DicomCode, frames: tuple[int, ...] = ()
) -> None:
    """Set Image Type, Derivation Description and Code, Source Image Sequence and lossy compression.

    ``description``: VR ST, at most 1,024 characters. ``codes``: of CID 7203. ``frames``: numbers from 1;
    empty: all frames of the source.
    """
    picture.ImageType = ["DERIVED", "SECONDARY"]
    picture.ConversionType = "WSD"
    picture.DerivationDescription = description
    if codes:
        picture.DerivationCodeSequence = [CodedConcept.from_code(code) for code in codes]
    picture.SourceImageSequence = [reference(source, frames)]
    copy_present(picture, source, "SyntheticData")  # PS3.3 C.12.1.1.12: what was drawn on stays made up
    _carry_on_lossy(picture, source)


def set_orientation(picture: Dataset, source: Source) -> None:
    """Copy Patient Orientation of the source, or set it empty: Type 2C in General Image, and never a
    guess.
    """
    value = source.header.get("PatientOrientation")
    picture.PatientOrientation = deepcopy(value) if value else None


def copy_present(picture: Dataset, source: Source, *keywords: str) -> None:
    """Copy the attributes that have a value in the source."""
    for keyword in keywords:
        if keyword in source.header and source.header[keyword].value not in (None, "", []):
            picture[keyword] = deepcopy(source.header[keyword])


def copy_spacing(picture: Dataset, source: Source) -> None:
    """Copy Pixel Spacing of the source; if it has none, copy the shape of its pixels."""
    if _pair(source, "PixelSpacing"):
        keywords = ("PixelSpacing", "PixelSpacingCalibrationType", "PixelSpacingCalibrationDescription")
        copy_present(picture, source, *keywords)
    else:
        copy_aspect(picture, source)


def pixel_height(source: Source) -> float:
    """Height of a pixel as a multiple of its width; 1.0 if the source does not state it."""
    pairs = (_pair(source, keyword) for keyword in (*_SPACINGS, "PixelAspectRatio"))
    return next((high / wide for high, wide in filter(None, pairs)), 1.0)


def pixel_aspect(source: Source) -> list[int]:
    """Height and width of a pixel as Pixel Aspect Ratio (0028,0034) states them."""
    ratio = Fraction(pixel_height(source)).limit_denominator(1000)
    return [ratio.numerator, ratio.denominator]


def copy_aspect(picture: Dataset, source: Source) -> None:
    """Copy the shape of the pixels without their size, unless they are squares (PS3.3 C.7.6.3, Type 1C)."""
    if (ratio := pixel_aspect(source)) != [1, 1]:
        picture.PixelAspectRatio = ratio


def _pair(source: Source, keyword: str) -> tuple[float, float] | None:
    """Two positive numbers, height first. A spacing of 0 (seen in CR) is none, nor one that makes lines of
    pixels.
    """
    given = value_of(source.header, keyword)
    numbers = [decimal(one) or 0.0 for one in given] if isinstance(given, MultiValue) else []
    # The whole numbers of a larger ratio may be none that VR IS can hold.
    is_shape = len(numbers) == 2 and 0 < max(numbers) <= 100 * min(numbers)
    return (numbers[0], numbers[1]) if is_shape else None


def reference(source: Source, frames: tuple[int, ...] = ()) -> Dataset:
    """An item of Source Image Sequence; ``frames`` from 1, none for all."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.sop_class_uid, source.uid
    if source.frames > 1:
        item.ReferencedFrameNumber = list(frames or range(1, source.frames + 1))
    item.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(SOURCE_FOR_PROCESSING)]
    return item


def _carry_on_lossy(picture: Dataset, source: Source) -> None:
    """Lossy compression of the source stays declared (PS3.3 C.7.6.1.1.5), though ours is lossless."""
    if not source.stored.image.header.lossy:
        picture.LossyImageCompression = "00"
        return
    picture.LossyImageCompression = "01"
    ratio = source.header.get("LossyImageCompressionRatio") or _measured_ratio(source)
    method = source.header.get("LossyImageCompressionMethod") or _LOSSY_METHODS.get(_syntax(source))
    if ratio:
        picture.LossyImageCompressionRatio = deepcopy(ratio)
    if method:
        picture.LossyImageCompressionMethod = deepcopy(method)


def _measured_ratio(source: Source) -> float | None:
    """Size of the samples over size of the file; the header is negligible."""
    if _syntax(source) not in _LOSSY_METHODS:
        return None
    header = source.header
    samples = source.rows * source.columns * source.frames * whole_of(header, "SamplesPerPixel", 1)
    size = samples * whole_of(header, "BitsAllocated", 8) // 8
    return round(size / source.stored.path.stat().st_size, 2)


def _syntax(source: Source) -> UID:
    return UID(str(source.header.file_meta.get("TransferSyntaxUID") or ""))
