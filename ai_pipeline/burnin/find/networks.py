"""The trained reader of small letters at run time: from a line of text to its symbols.

The trained mark detector at run time: from a picture to a probability and a class per pixel.
"""

import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.find.annotation import Picture, brightest

HEIGHT, STEP = 32, 4
"""Rows of the network's input; its columns are multiples of this (`examples/studies/reader.py`)."""
NARROWEST, WIDEST = 32, 1600
"""Columns of an input, at least and at most."""

ROOM = 0.3
"""What is added at both ends of a line, since its last letter is lost without room behind it (heights)."""
LEGIBLE = 0.5
"""Mean probability of the symbols from which a line counts as read."""

Run = Callable[[npt.NDArray[np.float32]], Mapping[str, npt.NDArray[Any]]]


@dataclass(frozen=True, slots=True)
class Line:
    """The text that was read at a place, with the reader's mean ``confidence`` (0 to 1).

    The text may be a name: the repr leaves it out.
    """

    text: str = field(repr=False)
    confidence: float
    legible: bool

    @property
    def letters(self) -> int:
        """The number of letters and digits, including letters of unknown scripts."""
        return sum(letter.isalnum() or letter == UNKNOWN for letter in self.text)


def is_wide(length: float, height: float, line: Line) -> bool:
    """Whether a place of this length and height (pixels) is too long for the characters read in it."""
    # Mean width of a character, at most (heights of the line): wider ones show that some were not read.
    return length > 1.3 * (len(line.text) + 1) * max(1.0, height)


def prepared(crop: Picture) -> npt.NDArray[np.float32]:
    """Convert a horizontal line, uint8 grey or RGB, to the network's input: ``[32, columns]``, -1 (darkest)
    to 1.
    """
    grey = np.ascontiguousarray(brightest(crop))
    columns = int(np.clip(round(grey.shape[1] * HEIGHT / grey.shape[0]), NARROWEST, WIDEST))
    columns += -columns % STEP
    way = cv2.INTER_CUBIC if grey.shape[0] < HEIGHT else cv2.INTER_AREA
    line = cv2.resize(grey, (columns, HEIGHT), interpolation=way).astype(np.float32)
    low, high = float(line.min()), float(line.max())
    return np.asarray((line - low) * (2 / max(high - low, 20.0)) - 1, np.float32)


@dataclass(frozen=True, slots=True)
class LineReader:
    """Reads small letters by the network ``ultrasound-line-reader``. ``run``: the loaded network (an engine
    of :mod:`ai_pipeline.models.engine`).
    """

    run: Run

    def read(self, crop: Picture) -> Line:
        """Read the text of a horizontal line; it is marked as not legible if there is none."""
        if min(crop.shape[:2]) < 3:
            return Line("", 0.0, legible=False)
        room = round(ROOM * crop.shape[0])
        wider = cv2.copyMakeBorder(crop, 0, 0, room, room, cv2.BORDER_REPLICATE)
        text, sure = decoded(self.run(prepared(wider)[None, None])["symbols"][0])
        return Line(text, sure, legible=sure >= LEGIBLE and any(map(str.isalnum, text.replace(UNKNOWN, "x"))))


def decoded(shares: npt.NDArray[Any]) -> tuple[str, float]:
    """The likeliest text from the probabilities ``shares [columns, symbols]``, and the mean probability of
    its symbols, 0 to 1. A symbol that repeats in neighbouring columns counts once; blanks are dropped.
    """
    best = shares.argmax(axis=1)
    first = (best > 0) & (best != np.concatenate([[0], best[:-1]]))
    text = "".join(SYMBOLS[symbol - 1] for symbol in best[first]).strip()
    sure = float(shares.max(axis=1)[best > 0].mean()) if (best > 0).any() else 0.0
    return (" ".join(text.split()), sure) if text else ("", 0.0)


UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""A letter of another script: it is seen, and not read."""
SYMBOLS = (
    " "
    + string.digits
    + string.ascii_letters
    + string.punctuation
    + "°²³·×±µäöüßéèêàáâãçíóôõúñÄÖÜÉÁÍÓÚÑÇ"
    + UNKNOWN
)


def known(text: str) -> str:
    """Replace every character that is not among the network's symbols by :data:`UNKNOWN`."""
    return "".join(letter if letter in SYMBOLS else UNKNOWN for letter in text)


WHOLE = 2_400_000
"""Pixels up to which a picture is run whole: full HD and all that is usual. It takes 240 bytes for each."""
TILE, MARGIN = 1280, 128
"""Side of the tiles in which larger pictures are run, and the border of a tile whose output is not used
(pixels). The network looks 116 pixels around each pixel, so tiles give what the whole would give."""


@dataclass(frozen=True, slots=True, eq=False)
class MarkMaps:
    """The mark network's output at the picture's size. ``marked [rows, columns]``: the probability 0 to 1
    that a pixel is drawn; ``classes [rows, columns]``: the likeliest kind, 1 to 5
    (:data:`ai_pipeline.burnin.find.drawings.KINDS`).
    """

    marked: npt.NDArray[np.float32]
    classes: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class MarkFinder:
    """Finds drawn marks by the network ``ultrasound-marks-unet``. ``run``: the loaded network (an engine of
    :mod:`ai_pipeline.models.engine`).
    """

    run: Run

    def find(self, picture: Picture) -> MarkMaps:
        """Run the network on a picture: uint8, grey ``[rows, columns]`` or RGB ``[rows, columns, 3]``, any
        size.
        """
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
        """Run the network on a picture of at most one tile."""
        rows, columns = picture.shape[:2]
        colour = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
        # The network takes multiples of 16, as `ai_training.ultrasound.marks` says. Padded with black, as in
        # training: repeating the edge would draw out its ticks and letters.
        framed = np.pad(colour, ((0, -rows % 16), (0, -columns % 16), (0, 0)))
        outputs = self.run(np.ascontiguousarray(framed.transpose(2, 0, 1)[None], np.float32))
        return MarkMaps(
            np.asarray(outputs["marked"][0, :rows, :columns], np.float32),
            np.asarray(outputs["classes"][0, :rows, :columns], np.uint8),
        )


def _tiles(length: int) -> Iterator[tuple[slice, slice]]:
    """Divide a side of ``length`` pixels into overlapping tiles: for each, the pixels that it sees, and those
    for which its output is used.
    """
    for start in range(0, max(1, length - 2 * MARGIN), TILE - 2 * MARGIN):
        end = min(start + TILE, length)
        given_from = start + MARGIN if start else 0
        yield slice(start, end), slice(given_from, length if end == length else end - MARGIN)


def _within(part: slice, seen: slice) -> slice:
    """The range ``part`` counted from the start of the range ``seen``."""
    return slice(part.start - seen.start, part.stop - seen.start)
