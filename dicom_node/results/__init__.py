"""Findings → SR, presentation state, SC, cleaned image and segmentation, with stable UIDs."""

from dicom_node.model.own import DEVICE_UID, is_own_result
from dicom_node.results.build import build, build_failure
from dicom_node.results.context import BuiltObject, ResultContext, SourceObject

__all__ = [
    "DEVICE_UID",
    "BuiltObject",
    "ResultContext",
    "SourceObject",
    "build",
    "build_failure",
    "is_own_result",
]
