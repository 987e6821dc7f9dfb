"""The trained mark detector at run time: from a picture to a probability and a class per pixel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.find.annotation import Mask, Picture

STEP = 16
"""Rows and columns that the network takes are multiples of this, as `ai_training.ultrasound.marks.STEP`."""

WHOLE = 2_400_000
"""Pixels up to which a picture is run whole: full HD and all that is usual. It takes 240 bytes for each."""
TILE, MARGIN = 1280, 128
"""Side of the tiles in which larger pictures are run, and the border of a tile whose output is not used
(pixels). The network looks 116 pixels around each pixel, so tiles give what the whole would give."""

Run = Callable[[npt.NDArray[np.float32]], Mapping[str, npt.NDArray[Any]]]


@dataclass(frozen=True, slots=True, eq=False)
class MarkMaps:
    """The network's output at the picture's size.

    ``marked [rows, columns]``: the probability 0 to 1 that a pixel is drawn; ``classes [rows, columns]``: the
    likeliest kind, 1 to 5 (:data:`ai_pipeline.burnin.find.drawings.KINDS`).
    """

    marked: npt.NDArray[np.float32]
    classes: npt.NDArray[np.uint8]

    def above(self, threshold: float) -> Mask:
        """The mask of the pixels with a probability of ``threshold`` (0 to 1) or more."""
        return self.marked >= threshold


class MarkFinder:
    """Runs ``ultrasound-marks-unet``. ``run`` is an engine of :mod:`ai_pipeline.models.engine`."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def find(self, picture: Picture) -> MarkMaps:
        """The maps of a picture: uint8, grey ``[rows, columns]`` or RGB ``[rows, columns, 3]``, any size."""
        rows, columns = picture.shape[:2]
        if rows * columns <= WHOLE:
            return self._run_on(picture)
        maps = MarkMaps(np.empty((rows, columns), np.float32), np.empty((rows, columns), np.uint8))
        for (seen_rows, given_rows), (seen_columns, given_columns) in product(_tiles(rows), _tiles(columns)):
            found = self._run_on(picture[seen_rows, seen_columns])
            given = given_rows, given_columns
            own = _within(given_rows, seen_rows), _within(given_columns, seen_columns)
            maps.marked[given], maps.classes[given] = found.marked[own], found.classes[own]
        return maps

    def _run_on(self, picture: Picture) -> MarkMaps:
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


def _tiles(length: int) -> Iterator[tuple[slice, slice]]:
    """Along one side: what a tile sees, and the part of it for which it gives the maps."""
    last = max(0, length - TILE)
    last += -last % STEP  # of one grid with the whole picture: the network folds and halves
    for start in range(0, last + TILE - 2 * MARGIN, TILE - 2 * MARGIN):
        first = min(start, last)
        seen = slice(first, min(first + TILE, length))
        given_from = start + MARGIN if start else 0
        yield seen, slice(given_from, length if first == last else first + TILE - MARGIN)
        if first == last:
            return


def _within(part: slice, seen: slice) -> slice:
    return slice(part.start - seen.start, part.stop - seen.start)
