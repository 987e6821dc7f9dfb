"""The trained mark detector at run time: a picture in, a probability and a class per pixel out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.annotation.pixels import Mask, Picture

STEP = 16
"""Rows and columns that the network takes are multiples of this (:data:`ai_training.networks.marks.STEP`)."""

Run = Callable[[npt.NDArray[np.float32]], Mapping[str, npt.NDArray[Any]]]


@dataclass(frozen=True, slots=True, eq=False)
class MarkMaps:
    """The network's output in the picture's size.

    ``marked [rows, columns]``: the probability 0 to 1 that a pixel is drawn; ``classes [rows, columns]``: the
    likeliest kind, 1 to 5 (:data:`ai_pipeline.burnin.find.drawings.KINDS`).
    """

    marked: npt.NDArray[np.float32]
    classes: npt.NDArray[np.uint8]

    def above(self, threshold: float) -> Mask:
        """The pixels of a probability of ``threshold`` (0 to 1) or more."""
        return self.marked >= threshold


class MarkFinder:
    """Runs ``ultrasound-marks-unet``. ``run`` is an engine of :mod:`ai_pipeline.models.engine`."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def find(self, picture: Picture) -> MarkMaps:
        """The maps of a picture: uint8, grey ``[rows, columns]`` or RGB ``[rows, columns, 3]``, any size."""
        rows, columns = picture.shape[:2]
        colour = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
        # Padded with black, as in training: repeating the edge would draw out its ticks and letters.
        framed = np.pad(colour, ((0, -rows % STEP), (0, -columns % STEP), (0, 0)))
        frames = np.ascontiguousarray(framed.transpose(2, 0, 1)[None], np.float32)
        outputs = self._run(frames)
        return MarkMaps(
            np.asarray(outputs["marked"][0, :rows, :columns], np.float32),
            np.asarray(outputs["classes"][0, :rows, :columns], np.uint8),
        )
