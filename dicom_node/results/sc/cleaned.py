"""The image without burned-in text, and masks.

The source's samples, inpainted, as secondary captures. Masks as Segmentations (PS3.3 A.51): the synthetic
pixels of a cleaned image, and the pixels of organs.
"""

from collections.abc import Sequence
from copy import deepcopy
from tempfile import TemporaryFile
from typing import Any, Final

import highdicom as hd
import numpy as np
import numpy.typing as npt
from highdicom import SOPClass
from highdicom.sc import SCImage
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import (
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)

from ai_pipeline.contract import DerivedImage, ModelRef, PixelArray
from ai_pipeline.images.numbers import decimal_of
from ai_pipeline.terms import shown_term
from dicom_node.dicom.uids import derived_uid
from dicom_node.errors import ResultRefused
from dicom_node.model.kinds import ResultKind
from dicom_node.results.common.concepts import BURNED_IN, coded
from dicom_node.results.common.context import ResultContext
from dicom_node.results.common.envelope import (
    OUTLINES_SERIES_NUMBER,
    PROCESSED_SERIES_NUMBER,
    complete,
    disclaimer,
    header_arguments,
    series_description,
)
from dicom_node.results.common.identity import tracking_uid
from dicom_node.results.common.source import (
    ORIENTATION_FOR_HIGHDICOM,
    Source,
    copy_aspect,
    copy_present,
    copy_spacing,
    describe_derivation,
    set_orientation,
)

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
    """The cleaned picture of one source, or another processed picture in a series of its own.

    Raises ResultRefused unless the cleaning was verified.

    ``image`` has samples ``[frames,] rows, columns[, 3]`` as stored in the source, ``mask`` the same without
    colour, nonzero in filled pixels. Grey stays grey with the source's depth, sign, window and rescale.
    Calibration is copied only where no pixel was filled; without a mask, nowhere.
    """
    if not image.verified:
        raise ResultRefused("the cleaned image was not verified to be free of legible text: it stays here")
    frames = frames_of(source, image)
    series = series_parts(source, image)
    arguments = header_arguments(context, ResultKind.CLEANED, source, uid, source.number, *series)
    if len(frames) == 1:
        picture = _still(source, image, frames[0], arguments)
    else:
        picture = _cine(source, frames, image.photometric, arguments)
    # PS3.3 C.8.6.1: in a secondary capture this is the modality of the source equipment.
    picture.Modality = modality_of(source)
    processed = [coded(image.processing.code)] if image.processing else []
    # CID 7203 has no inpainting; this code says that pixels under a mask were set.
    derived = (codes.DCM.PixelByPixelMask, *processed)
    describe_derivation(picture, source, _derivation(image, context, source.stored.by_hand), *derived)
    picture.BurnedInAnnotation = "NO"
    picture.SyntheticData = "YES"  # PS3.3 C.12.1: filled pixels were never measured
    set_orientation(picture, source)
    # Pixel Spacing if no pixel was filled; the ultrasound regions in which none was.
    changed = filled(source, mask) if mask else np.ones((source.rows, source.columns), np.bool_)
    copy_size = copy_aspect if changed.any() else copy_spacing
    copy_size(picture, source)
    regions = source.header.get("SequenceOfUltrasoundRegions") or []
    if untouched := [deepcopy(region) for region in regions if _is_untouched(region, changed)]:
        picture.SequenceOfUltrasoundRegions = untouched
    whole = complete(picture, context, ResultKind.CLEANED, [source])
    if image.processing:
        name = f"AI cleaned, {image.processing.title}"
        whole.SeriesNumber = PROCESSED_SERIES_NUMBER
        whole.SeriesDescription = series_description(context, ResultKind.CLEANED, name)
    return whole


def filled(source: Source, mask: DerivedImage) -> npt.NDArray[np.bool_]:
    """The pixels ``[rows, columns]`` that were filled in any frame. Raises ResultRefused for a mask of
    another size.
    """
    frames = mask.frames if mask.frames.ndim == 3 else mask.frames[None]
    if frames.shape != (source.frames, source.rows, source.columns):
        raise ResultRefused(f"the mask is {frames.shape}, its source {source.frames} × {source.rows} × …")
    any_frame: npt.NDArray[np.bool_] = np.any(frames, axis=0)
    return any_frame


def _is_untouched(region: Dataset, changed: npt.NDArray[np.bool_]) -> bool:
    """False also of a region that does not lie in the image: it is of another one (PS3.3 C.8.5.5.1.1)."""
    corners = [region.get(f"RegionLocation{end}") for end in ("MinX0", "MinY0", "MaxX1", "MaxY1")]
    if not all(isinstance(corner, int) for corner in corners):
        return False
    left, top, right, bottom = corners
    rows, columns = changed.shape
    lies_inside = 0 <= left < right < columns and 0 <= top < bottom < rows
    return bool(lies_inside and not changed[top : bottom + 1, left : right + 1].any())


def _derivation(image: DerivedImage, context: ResultContext, by_hand: str) -> str:
    """Derivation Description (0028,2111), VR ST: 1,024 characters."""
    if image.processing:
        ours = ", ".join(f"model {model.id} version {model.version}" for model in image.models[-1:])
        what = f"AI: {image.description} by {ours}, {image.processing.caution}"
        return f"{what}; burned-in text was removed before. {disclaimer(context)}"[:1024]
    proof = f" SHA-256 outside the mask: {image.outside_sha256}." if image.outside_sha256 else ""
    marked = f" {by_hand}." if by_hand else ""
    return (
        f"AI: {image.description} inpainted, not for measurement; verified that no text is left that had "
        f"to go.{marked}{proof} {disclaimer(context)}"
    )[:1024]


def series_parts(source: Source, image: DerivedImage) -> tuple[str, ...]:
    """The parts of the series UID that separate cleaned pictures from the other series of the study."""
    return (modality_of(source), *([image.name] if image.processing else []))


def modality_of(source: Source) -> str:
    """Modality (0008,0060) of a cleaned image and its series: the source's modality."""
    return str(source.header.get("Modality") or "OT")


def _cine(source: Source, frames: PixelArray, photometric: str, arguments: dict[str, Any]) -> Dataset:
    """Multi-frame SC (PS3.3 A.8.3 byte, A.8.4 word, A.8.5 true colour), built with one frame in memory."""
    colour = frames.ndim == 4
    if not colour and (photometric != "MONOCHROME2" or source.header.get("PixelRepresentation")):
        raise ResultRefused(
            "no SOP class holds a multi-frame grey secondary capture that is MONOCHROME1 or signed"
        )
    contributing = arguments.pop("contributing_equipment")
    picture = SOPClass(
        study_instance_uid=source.study_uid,
        sop_class_uid=cleaned_class(frames),
        modality="OT",
        referring_physician_name=None,
        **arguments,
    )
    picture._add_contributing_equipment(contributing, source.stand_in)
    picture.Rows, picture.Columns = source.rows, source.columns
    picture.SamplesPerPixel = 3 if colour else 1
    picture.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        picture.PlanarConfiguration = 0
    else:
        # SC Multi-frame Image (PS3.3 C.8.6.3) wants the identity transformation of a byte image stated.
        picture.PresentationLUTShape = "IDENTITY"
        picture.RescaleIntercept, picture.RescaleSlope, picture.RescaleType = 0, 1, "US"
        copy_present(picture, source, *_GREY_DISPLAY)
    picture.BitsAllocated = frames.dtype.itemsize * 8
    picture.BitsStored = 8 if colour else int(source.header.BitsStored)
    picture.HighBit, picture.PixelRepresentation = picture.BitsStored - 1, 0
    picture.NumberOfFrames = len(frames)
    _describe_time(picture, source, len(frames))
    samples = TemporaryFile()  # noqa: SIM115  (it is read when the picture is encoded)
    for frame in frames:  # a memmap stays on disk
        samples.write(np.ascontiguousarray(frame, frames.dtype.newbyteorder("<")).tobytes())
    samples.write(b"\0" * (frames.nbytes % 2))  # PS3.5 7.1.1
    samples.seek(0)
    picture.add_new("PixelData", "OW" if picture.BitsAllocated > 8 else "OB", samples)
    return picture


def frames_of(source: Source, image: DerivedImage) -> PixelArray:
    """Frames as ``[frames, rows, columns(, 3)]``. Raises ResultRefused if number or size differ from the
    source.
    """
    frames = image.frames
    colour = image.photometric == "RGB"
    if frames.ndim == (3 if colour else 2):
        frames = frames[None]
    wanted = (source.frames, source.rows, source.columns, *((3,) if colour else ()))
    if frames.shape != wanted:
        raise ResultRefused(f"the cleaned image is {frames.shape}, its source {wanted}")
    if colour and frames.dtype != np.uint8:
        raise ResultRefused("a cleaned colour image of more than 8 bits cannot be stored")
    if not colour and image.photometric != source.photometric:
        was = shown_term("PhotometricInterpretation", source.photometric)
        raise ResultRefused(f"a cleaned {was} image cannot be {image.photometric}")
    if frames.dtype.kind not in "iu" or frames.dtype.itemsize > 2:
        raise ResultRefused(f"samples of type {frames.dtype} cannot be stored in a secondary capture")
    return frames


def _still(source: Source, image: DerivedImage, pixels: PixelArray, arguments: dict[str, Any]) -> Dataset:
    bits = pixels.dtype.itemsize * 8
    picture = SCImage.from_ref_dataset(
        source.stand_in,
        # SCImage takes unsigned samples only; the bits are the same and Pixel Representation is set below.
        pixels if pixels.dtype.kind == "u" else pixels.view(f"u{pixels.dtype.itemsize}"),
        photometric_interpretation=image.photometric,
        bits_allocated=bits,
        coordinate_system="PATIENT",
        patient_orientation=ORIENTATION_FOR_HIGHDICOM,
        **arguments,
    )
    if image.photometric != "RGB":
        picture.BitsStored = int(source.header.BitsStored)
        picture.HighBit = picture.BitsStored - 1
        picture.PixelRepresentation = int(pixels.dtype.kind == "i")
        copy_present(picture, source, *_GREY_DISPLAY, "PixelPaddingValue", "ModalityLUTSequence")
        if "ModalityLUTSequence" not in picture:
            copy_present(picture, source, "RescaleIntercept", "RescaleSlope", "RescaleType")
            if "RescaleSlope" in picture and "RescaleType" not in picture:
                picture.RescaleType = "US"  # Type 1 in the Modality LUT module (PS3.3 C.11.1)
    return picture


def _describe_time(picture: Dataset, source: Source, frames: int) -> None:
    """Multi-frame and Cine modules: the source's own frame times, else its rate, else page numbers."""
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
    """The SOP class of a cleaned image with these ``frames_of`` its source."""
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
    """Binary segmentation with one segment and one frame. Raises ResultRefused for a mask of another size.

    Its category is from CID 7150, its type from our own scheme. For a cine it marks pixels that were changed
    in any frame, and refers to all frames: highdicom makes no multi-frame segmentation of images without a
    frame of reference, and ultrasound has none.
    """
    segment = SegmentDescription(
        segment_number=1,
        segment_label=_LABEL,
        segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
        segmented_property_type=BURNED_IN,
        algorithm_type="AUTOMATIC",
        algorithm_identification=_algorithm(context, context.models),
        tracking_uid=tracking_uid(context, source, "mask"),
        tracking_id=f"AI {_LABEL}, image {source.number}",
    )
    return _segmentation(
        context,
        source,
        filled(source, image)[None],
        [segment],
        content_label="AI_REMOVED_TEXT",
        content_description="Pixels that AI inpainted" + (", in any frame" if source.frames > 1 else ""),
        **header_arguments(context, ResultKind.SEG, source, uid, source.number),
    )


def build_organs(context: ResultContext, source: Source, image: DerivedImage, uid: str) -> Dataset:
    """Binary segmentation with one segment for each organ that the model outlined, in a series of its own.

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
    outlined.SeriesNumber = OUTLINES_SERIES_NUMBER
    outlined.SeriesDescription = series_description(context, ResultKind.SEG, "AI outlines of organs")
    return outlined


def _segmentation(
    context: ResultContext,
    source: Source,
    masks: npt.NDArray[np.bool_],
    segments: Sequence[SegmentDescription],
    **arguments: Any,
) -> Dataset:
    """``masks``: ``[1, rows, columns]``, or ``[1, rows, columns, segments]``."""
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
    named = ((model.id, model.version) for model in models)
    name, version = next(named, (context.pipeline, context.pipeline_version))
    return hd.AlgorithmIdentificationSequence(name, codes.DCM.ArtificialIntelligence, version)
