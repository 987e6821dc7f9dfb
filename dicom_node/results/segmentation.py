"""Segmentations (PS3.3 A.51): the synthetic pixels of a cleaned image, and the pixels of organs."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Final

import highdicom as hd
import numpy as np
import numpy.typing as npt
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    SecondaryCaptureImageStorage,
)

from ai_pipeline.contract import (
    BURNED_IN,
    DerivedImage,
    ModelRef,
)
from dicom_node.base.dicom.uids import derived_uid
from dicom_node.base.errors import ResultRefused
from dicom_node.base.lifecycle import ResultKind
from dicom_node.results.cleaned import filled
from dicom_node.results.concepts import OURS, coded
from dicom_node.results.context import ResultContext
from dicom_node.results.dataset import set_values
from dicom_node.results.derivation import pixel_height, set_orientation
from dicom_node.results.envelope import complete, header_arguments
from dicom_node.results.series import OUTLINES_SERIES_NUMBER, series_description
from dicom_node.results.source import Source
from dicom_node.results.uids import tracking_uid

_LABEL: Final = "Removed burned-in text"
_INVENTED: Final = "invented geometry"
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
    if context.form.seg_geometry and not source.header.get("ImageOrientationPatient"):
        _invent_geometry(segmentation, source)
    return complete(segmentation, context, ResultKind.SEG, [source])


def _invent_geometry(segmentation: Dataset, source: Source) -> None:
    """Give a segmentation of an image without orientation a plane (PS3.3 C.7.6.16.2.3, C.7.6.16.2.4), the
    size of its pixels (C.7.6.16.2.1) and a frame of reference (C.7.4.1), and say that they are invented.

    Rows run along x and columns along y, as OHIF takes such an image to lie. A pixel is 1 mm wide.
    """
    measures, orientation, position = Dataset(), Dataset(), Dataset()
    set_values(
        measures, PixelSpacing=[pixel_height(source), 1.0], SliceThickness=1.0, SpacingBetweenSlices=1.0
    )
    set_values(orientation, ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    set_values(position, ImagePositionPatient=[0, 0, 0])
    [shared] = segmentation.SharedFunctionalGroupsSequence
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        frame.PlanePositionSequence = [deepcopy(position)]
    set_values(
        segmentation,
        FrameOfReferenceUID=derived_uid("invented frame of reference", str(segmentation.SOPInstanceUID)),
        PositionReferenceIndicator="",
        ContentDescription=f"{segmentation.ContentDescription} - {_INVENTED}",
        ImageComments=f"{_INVENTED}: orientation, position and size of pixels are not those of the patient",
    )


def _algorithm(context: ResultContext, models: Sequence[ModelRef]) -> hd.AlgorithmIdentificationSequence:
    """The algorithm identification of a segmentation: the first of ``models``, or the pipeline if there is
    none.
    """
    named = ((model.id, model.version) for model in models)
    name, version = next(named, (context.pipeline, context.pipeline_version))
    return hd.AlgorithmIdentificationSequence(name, codes.DCM.ArtificialIntelligence, version)
