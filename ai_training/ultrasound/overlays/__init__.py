"""Synthetic burned-in annotation on clean ultrasound frames, with the truth: each drawn object
and its place.
"""

from ai_training.ultrasound.overlays.burning import BurnIn, CleanFrame, burn_in, clean_frames
from ai_training.ultrasound.overlays.writing import (
    FAMILIES,
    HELD_OUT,
    TRAIN,
    BurnedObject,
    MarkClass,
    StyleFamily,
)

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
