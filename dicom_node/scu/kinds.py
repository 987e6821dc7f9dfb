"""The SOP classes of each kind of result, which ``peers test`` proposes to a PACS."""

from __future__ import annotations

from collections.abc import Mapping

from pydicom.uid import (
    UID,
    ColorSoftcopyPresentationStateStorage,
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from dicom_node.model.kinds import ResultKind

SOP_CLASSES: Mapping[ResultKind, tuple[UID, ...]] = {
    ResultKind.SR: (Comprehensive3DSRStorage,),
    ResultKind.GSPS: (GrayscaleSoftcopyPresentationStateStorage, ColorSoftcopyPresentationStateStorage),
    ResultKind.SC: (SecondaryCaptureImageStorage,),
    ResultKind.SUMMARY: (SecondaryCaptureImageStorage,),
    ResultKind.PDF: (EncapsulatedPDFStorage,),
    ResultKind.HEATMAP: (SecondaryCaptureImageStorage,),
    ResultKind.CLEANED: (
        SecondaryCaptureImageStorage,
        MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        MultiFrameTrueColorSecondaryCaptureImageStorage,
    ),
    ResultKind.SEG: (SegmentationStorage,),
    ResultKind.ASSESSMENT: (Comprehensive3DSRStorage,),
    ResultKind.REJECTION: (KeyObjectSelectionDocumentStorage,),
}
