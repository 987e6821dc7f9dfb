"""The mask of what was inpainted, as a Segmentation (PS3.3 A.51): which pixels are synthetic."""

from __future__ import annotations

from copy import deepcopy
from typing import Final

import highdicom as hd
import numpy as np
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import SecondaryCaptureImageStorage

from ai_pipeline.contract import DerivedImage
from dicom_node.dicom.uids import derived_uid
from dicom_node.model.kinds import ResultKind
from dicom_node.results.common.concepts import BURNED_IN, SPATIAL_CONCEPT
from dicom_node.results.common.context import ResultContext
from dicom_node.results.common.derivation import set_orientation
from dicom_node.results.common.envelope import complete, header_arguments
from dicom_node.results.common.identity import tracking_uid
from dicom_node.results.common.source import Source
from dicom_node.results.sc.cleaned import filled

_LABEL: Final = "Removed burned-in text"


def is_empty(image: DerivedImage) -> bool:
    """Whether no pixel of the mask ``[frames,] rows, columns`` is set: there is no segmentation to send."""
    return not any(np.any(frame) for frame in image.frames)


def build_segmentation(context: ResultContext, source: Source, image: DerivedImage, uid: str) -> Dataset:
    """Binary segmentation with one segment and one frame. Raises ResultRefused for a mask of another size.

    Its category is of CID 7150, its type of our own scheme. Of a cine it shows what was changed in any frame,
    and refers to all of them: highdicom makes no multi-frame segmentation of images without a frame of
    reference, and ultrasound has none.
    """
    mask = filled(source, image)
    arguments = header_arguments(context, ResultKind.SEG, source, uid, source.number)
    segment = SegmentDescription(
        segment_number=1,
        segment_label=_LABEL,
        segmented_property_category=SPATIAL_CONCEPT,
        segmented_property_type=BURNED_IN,
        algorithm_type="AUTOMATIC",
        algorithm_identification=_algorithm(context),
        tracking_uid=tracking_uid(context, source, "mask"),
        tracking_id=f"AI {_LABEL}, image {source.number}",
    )
    segmentation = Segmentation(
        source_images=[_one_frame(source)],
        pixel_array=mask[None],
        segmentation_type="BINARY",
        segment_descriptions=[segment],
        content_label="AI_REMOVED_TEXT",
        content_description="Pixels that AI inpainted" + (", in any frame" if source.frames > 1 else ""),
        **arguments,
    )
    # highdicom draws this UID at random; the same input must give the same object.
    dimension = derived_uid("dimension", uid)
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimension
    # Type 2C in General Image for images without a frame of reference; highdicom leaves it out.
    set_orientation(segmentation, source)
    return complete(segmentation, context, ResultKind.SEG, [source])


def _one_frame(source: Source) -> Dataset:
    """The stand-in as a single-frame secondary capture; envelope.complete names the true SOP class again."""
    image = deepcopy(source.stand_in)  # the elements too: the stand-in is used again
    image.SOPClassUID = SecondaryCaptureImageStorage
    if "NumberOfFrames" in image:
        del image.NumberOfFrames
    return image


def _algorithm(context: ResultContext) -> hd.AlgorithmIdentificationSequence:
    if context.models:
        name, version = context.models[0].id, context.models[0].version
    else:
        name, version = context.pipeline, context.pipeline_version
    return hd.AlgorithmIdentificationSequence(name, codes.DCM.ArtificialIntelligence, version)
