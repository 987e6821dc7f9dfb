"""Burned-in annotation: find it, fill it, prove that nothing legible is left. Fails closed."""

from ai_pipeline.burnin.annotation import Mark, MarkKind, Policy
from ai_pipeline.burnin.cleaning import CleaningResult, clean
from ai_pipeline.burnin.tools import Tools, shared_tools

__all__ = ["CleaningResult", "Mark", "MarkKind", "Policy", "Tools", "clean", "shared_tools"]
