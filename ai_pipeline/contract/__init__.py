"""The contract between the node and a pipeline: plain frozen types, no DICOM object, no torch.

This is its door: `from ai_pipeline.contract import Finding`.
"""

from ai_pipeline.contract.arrays import PixelArray, Point
from ai_pipeline.contract.card import (
    CodingScheme,
    MeasuredQuantity,
    ModelSlot,
    PipelineCard,
    PipelineOption,
    PipelineOptions,
    option,
)
from ai_pipeline.contract.findings import (
    BURNED_IN,
    Code,
    Decision,
    Finding,
    Heatmap,
    Measurement,
    ModelRef,
    Origin,
    QualityNote,
    Region,
    repeatability,
)
from ai_pipeline.contract.images import (
    DerivedImage,
    ImageHeader,
    ImageKind,
    Processing,
    SourceImage,
    UltrasoundRegion,
)
from ai_pipeline.contract.pipeline import (
    Accept,
    ChecksOptions,
    ExchangesModels,
    Pipeline,
    PipelineResult,
    Progress,
    Refuse,
)
from ai_pipeline.contract.records import JudgedView, Meaning, Reading, Refusal, RefusedBy, Scores

__all__ = [
    "BURNED_IN",
    "Accept",
    "ChecksOptions",
    "Code",
    "CodingScheme",
    "Decision",
    "DerivedImage",
    "ExchangesModels",
    "Finding",
    "Heatmap",
    "ImageHeader",
    "ImageKind",
    "JudgedView",
    "Meaning",
    "MeasuredQuantity",
    "Measurement",
    "ModelRef",
    "ModelSlot",
    "Origin",
    "Pipeline",
    "PipelineCard",
    "PipelineOption",
    "PipelineOptions",
    "PipelineResult",
    "PixelArray",
    "Point",
    "Processing",
    "Progress",
    "QualityNote",
    "Reading",
    "Refusal",
    "Refuse",
    "RefusedBy",
    "Region",
    "Scores",
    "SourceImage",
    "UltrasoundRegion",
    "option",
    "repeatability",
]
