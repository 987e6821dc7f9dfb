"""What a picture says of the image that it was made from: derivation, orientation, spacing, references."""

from copy import deepcopy
from fractions import Fraction
from typing import Final

from highdicom.sr import (
    CodedConcept,
)
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode

from ai_pipeline.images.numbers import decimal, value_of, whole_of
from dicom_node.results.dataset import set_values, text_of
from dicom_node.results.source import Source

# PS3.3 C.7.6.1.1.5.1: what each lossy transfer syntax is called in Lossy Image Compression Method.
_LOSSY_METHODS: Final = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.111": "ISO_10918_1",  # that of the JPEG which was packed once more
    "1.2.840.10008.1.2.4.112": "ISO_18181_1",
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
}
# What states the shape of pixels beside their size; Pixel Aspect Ratio is for images without (PS3.3 C.7.6.3).
_SPACINGS: Final = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
CALIBRATION: Final = ("PixelSpacingCalibrationType", "PixelSpacingCalibrationDescription")
ORIENTATION_FOR_HIGHDICOM: Final = ("L", "F")
"""SCImage wants one, and knows no compound ones ("PF"); :func:`set_orientation` writes the true one."""


def describe_derivation(
    picture: Dataset, source: Source, description: str, *codes: DicomCode, frames: tuple[int, ...] = ()
) -> None:
    """Set in a picture its Image Type, Derivation Description and Code, Source Image Sequence and lossy
    compression.

    ``description``: VR ST, at most 1,024 characters. ``codes``: derivation codes of CID 7203. ``frames``:
    numbers (from 1) of the source's frames that it shows; empty: all.
    """
    header, lossy = source.header, source.stored.image.header.lossy
    set_values(
        picture,
        ImageType=["DERIVED", "SECONDARY"],
        ConversionType="WSD",
        DerivationDescription=description,
        SourceImageSequence=[reference(source, frames)],
        # Lossy compression of the source stays declared (PS3.3 C.7.6.1.1.5), though ours is lossless.
        LossyImageCompression="01" if lossy else "00",
    )
    if codes:
        picture.DerivationCodeSequence = [CodedConcept.from_code(code) for code in codes]
    copy_present(picture, source, "SyntheticData")  # PS3.3 C.12.1.1.12: what was drawn on stays made up
    if not lossy:
        return
    ratio, method = (header.get(f"LossyImageCompression{what}") for what in ("Ratio", "Method"))
    by_syntax = _LOSSY_METHODS.get(text_of(header.file_meta, "TransferSyntaxUID"))
    if not ratio and by_syntax:  # size of the samples over size of the file; the header is negligible
        samples = source.rows * source.columns * source.frames * whole_of(header, "SamplesPerPixel", 1)
        size = samples * whole_of(header, "BitsAllocated", 8) // 8
        ratio = round(size / source.stored.path.stat().st_size, 2)
    if ratio:
        picture.LossyImageCompressionRatio = deepcopy(ratio)
    if method or by_syntax:
        picture.LossyImageCompressionMethod = deepcopy(method or by_syntax)


def set_orientation(picture: Dataset, source: Source) -> None:
    """Copy Patient Orientation of the source, or set it empty (Type 2C in General Image): it is never
    guessed.
    """
    picture.PatientOrientation = deepcopy(source.header.get("PatientOrientation")) or None


def copy_present(picture: Dataset, source: Source, *keywords: str) -> None:
    """Copy those of the attributes that have a value in the source."""
    for keyword in keywords:
        if keyword in source.header and source.header[keyword].value not in (None, "", []):
            picture[keyword] = deepcopy(source.header[keyword])


def copy_spacing(picture: Dataset, source: Source) -> None:
    """Copy Pixel Spacing of the source into the picture; if it has none, copy only the shape of its
    pixels.

    How it was calibrated is copied as type and description, or not at all (PS3.3 10.7.1: Type 1C).
    """
    if _height_and_width(source, "PixelSpacing"):
        copy_present(picture, source, "PixelSpacing")
        if all(source.header.get(keyword) for keyword in CALIBRATION):
            copy_present(picture, source, *CALIBRATION)
    else:
        copy_aspect(picture, source)


def pixel_height(source: Source) -> float:
    """The height of a pixel as a multiple of its width; 1.0 if the source does not state it."""
    pairs = (_height_and_width(source, keyword) for keyword in (*_SPACINGS, "PixelAspectRatio"))
    return next((high / wide for high, wide in filter(None, pairs)), 1.0)


def pixel_aspect(source: Source) -> list[int]:
    """The height and width of a pixel as whole numbers, as in Pixel Aspect Ratio (0028,0034); [1, 1] for
    squares.
    """
    ratio = Fraction(pixel_height(source)).limit_denominator(1000)
    return [ratio.numerator, ratio.denominator]


def copy_aspect(picture: Dataset, source: Source) -> None:
    """Set Pixel Aspect Ratio, the shape of the pixels without their size, unless they are squares (PS3.3
    C.7.6.3).
    """
    if (ratio := pixel_aspect(source)) != [1, 1]:
        picture.PixelAspectRatio = ratio


def _height_and_width(source: Source, keyword: str) -> tuple[float, float] | None:
    """The two positive numbers (height, width) of a spacing or ratio attribute; None if it has no usable
    ones.

    A spacing of 0 (seen in CR) is not usable, nor one in which one number exceeds 100 times the other.
    """
    given = value_of(source.header, keyword)
    numbers = [decimal(one) or 0.0 for one in given] if isinstance(given, MultiValue) else []
    # The whole numbers of a larger ratio may be none that VR IS can hold.
    is_shape = len(numbers) == 2 and 0 < max(numbers) <= 100 * min(numbers)
    return (numbers[0], numbers[1]) if is_shape else None


def reference(source: Source, frames: tuple[int, ...] = ()) -> Dataset:
    """An item of Source Image Sequence that refers to ``source``; ``frames``: numbers from 1, empty for
    all.
    """
    item = referenced(source)
    if source.frames > 1:
        item.ReferencedFrameNumber = list(frames or range(1, source.frames + 1))
    item.PurposeOfReferenceCodeSequence = [
        CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)
    ]
    return item


def referenced(source: Source) -> Dataset:
    """A sequence item with Referenced SOP Class UID and Referenced SOP Instance UID of the source."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.sop_class_uid, source.uid
    return item
