"""Burned-in annotation: find it, fill it, prove that nothing legible is left. Fails closed."""

from ai_pipeline.burnin.cleaning import CleaningResult, clean
from ai_pipeline.burnin.marks import Mark, MarkKind

__all__ = ["CleaningResult", "Mark", "MarkKind", "clean"]
