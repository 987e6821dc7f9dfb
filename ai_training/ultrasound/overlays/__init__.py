"""Synthetic burned-in annotation on clean ultrasound frames, with the truth: each drawn object
and its place.
"""

from ai_training.ultrasound.overlays.burning import BurnIn, burn_in
from ai_training.ultrasound.overlays.canvas import BurnedObject, MarkClass
from ai_training.ultrasound.overlays.frame_list import CleanFrame, clean_frames
from ai_training.ultrasound.overlays.styles import FAMILIES, HELD_OUT, TRAIN, StyleFamily

__all__ = [
    "FAMILIES",
    "HELD_OUT",
    "TRAIN",
    "BurnIn",
    "BurnedObject",
    "CleanFrame",
    "MarkClass",
    "StyleFamily",
    "burn_in",
    "clean_frames",
]
