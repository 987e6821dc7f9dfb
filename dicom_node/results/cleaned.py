"""Cleaned images: the source's samples, inpainted, as secondary captures."""

from copy import deepcopy
from tempfile import TemporaryFile
from typing import Any, Final

import highdicom as hd
import numpy as np
import numpy.typing as npt
from highdicom.sc import SCImage
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import (
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)

from ai_pipeline.contract import (
    DerivedImage,
    PixelArray,
)
from ai_pipeline.images.numbers import decimal_of
from ai_pipeline.terms import shown_term
from dicom_node.base.errors import ResultRefused
from dicom_node.base.lifecycle import ResultKind
from dicom_node.results.context import ResultContext
from dicom_node.results.dataset import set_values, text_of
from dicom_node.results.derivation import (
    ORIENTATION_FOR_HIGHDICOM,
    copy_aspect,
    copy_present,
    copy_spacing,
    describe_derivation,
    set_orientation,
)
from dicom_node.results.envelope import complete, disclaimer, header_arguments
from dicom_node.results.source import Source

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
    return text_of(source.header, "Modality") or "OT"


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
    if frames.shape != wanted:
        raise ResultRefused(f"the cleaned image is {frames.shape}, its source {wanted}")
    if colour and samples != np.uint8:
        raise ResultRefused("a cleaned colour image of more than 8 bits cannot be stored")
    if not colour and image.photometric != source.photometric:
        raise ResultRefused(f"a cleaned {was} image cannot be {image.photometric}")
    if samples.kind not in "iu" or samples.itemsize > 2:
        raise ResultRefused(f"samples of type {samples} cannot be stored in a secondary capture")
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
