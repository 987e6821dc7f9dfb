"""Burned-in annotation: find it, fill it, prove that nothing legible is left. Fails closed."""

from ai_pipeline.burnin.annotation import Annotation, AnnotationKind, CleaningPolicy
from ai_pipeline.burnin.cleaning import CleaningResult, clean
from ai_pipeline.burnin.tools import Tools, shared_tools

__all__ = [
    "Annotation",
    "AnnotationKind",
    "CleaningPolicy",
    "CleaningResult",
    "Tools",
    "clean",
    "shared_tools",
]
