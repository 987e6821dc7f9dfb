"""Synthetic burned-in annotation on clean ultrasound frames, with the truth: what was drawn, and where."""

from ai_pipeline.training.overlays.burning import BurnIn, burn_in
from ai_pipeline.training.overlays.canvas import BurnedObject, MarkClass, Meaning
from ai_pipeline.training.overlays.cleanframes import CleanFrame, clean_frames
from ai_pipeline.training.overlays.styles import FAMILIES, HELD_OUT, TRAIN, StyleFamily

__all__ = [
    "FAMILIES",
    "HELD_OUT",
    "TRAIN",
    "BurnIn",
    "BurnedObject",
    "CleanFrame",
    "MarkClass",
    "Meaning",
    "StyleFamily",
    "burn_in",
    "clean_frames",
]
