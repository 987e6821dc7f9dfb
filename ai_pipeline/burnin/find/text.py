"""Find and read text in pictures by rapidocr's networks (PP-OCRv6 small, Apache-2.0; in its wheel)."""

from __future__ import annotations

import os
from copy import copy
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import ceil, floor
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ai_pipeline.burnin.find.annotation import Box, Mask, Picture, brightest, clipped, index_of
from ai_pipeline.burnin.find.networks import Line, LineReader
from ai_pipeline.models.engine import giving_memory_back, session

POSSIBLE_TEXT = 0.3
"""Confidence of the detector from which a box is read; below it is no text."""
LOW_SHARE = 0.08
"""Height of a line of text, at most (share of the picture's shorter side)."""
SMALLEST_LINE = 6.0
"""Height of an unreadable line, at least: "letters" of 4 pixels are speckle (pixels)."""
LEGIBLE, LEGIBLE_SINGLE = 0.5, 0.9
"""Mean confidence of the recogniser from which a word, or a single character, counts as legible."""
STROKES = frozenset("1lI|!i一丨")
"""Single characters that the recogniser reads in speckle and grey bars: one of them alone is not text."""
CROSS = "十"
"""What the recogniser makes of the cross of a caliper; two of them are no text either."""
UPRIGHT = 1.5
"""Length of an upright line, at least (heights of the line)."""
WORKING_SIDE = 736
"""Shorter side to which smaller pictures are enlarged: characters of 8 pixels are lost otherwise (pixels)."""
LARGEST_ENLARGEMENT = 3.0
TILE, OVERLAP = 1536, 160
"""Larger pictures are read in overlapping tiles of this side, so that memory is bounded (pixels)."""


@dataclass(frozen=True, slots=True, eq=False)
class TextBox:
    """A place that looks like text.

    ``corners [4, 2]``: column and row, clockwise from the top left; ``confidence`` 0 to 1, of the detector.
    """

    corners: npt.NDArray[np.float32]
    confidence: float

    @property
    def box(self) -> Box:
        """The smallest box along rows and columns around the corners: left, top, right, bottom in pixels."""
        columns, rows = zip(*self.corners.tolist(), strict=True)  # on four corners slower in NumPy
        return floor(min(columns)), floor(min(rows)), ceil(max(columns)), ceil(max(rows))

    @property
    def height(self) -> float:
        """The shorter side in pixels: the height of the line, horizontal or vertical."""
        return min(self._sides())

    @property
    def length(self) -> float:
        """The longer side in pixels: the length of the line."""
        return max(self._sides())

    @property
    def is_upright(self) -> bool:
        """Whether the text runs up or down: the box's first side is vertical and long (``UPRIGHT``)."""
        across, down = np.abs(self.corners[1] - self.corners[0])
        return bool(down > UPRIGHT * max(across, self.height))

    def longer(self, heights: float, shape: tuple[int, ...], *, end: bool) -> TextBox:
        """Return the box of a line, longer by ``heights`` times its height at its end or start, within a
        picture of ``shape``.
        """
        start, stop, *_ = self.corners
        reach = heights * self.height * (stop - start) / max(float(np.linalg.norm(stop - start)), 1.0)
        corners = self.corners.copy()
        corners[[1, 2] if end else [0, 3]] += reach if end else -reach
        return TextBox(np.clip(corners, 0, np.array(shape[1::-1], np.float32)), self.confidence)

    def beyond(self, longer: TextBox) -> TextBox:
        """Return what a ``longer`` box of this line, at one end, has more than this one."""
        start, stop = self.corners[[0, 3]], self.corners[[1, 2]]
        at_end = bool(np.allclose(longer.corners[[0, 3]], start))
        from_, to = (stop, longer.corners[[1, 2]]) if at_end else (longer.corners[[0, 3]], start)
        return TextBox(np.stack([from_[0], to[0], to[1], from_[1]]), 0.0)

    def _sides(self) -> tuple[float, float]:
        """The lengths of the first and the second side in pixels."""
        first, second, third, _ = self.corners
        return float(np.linalg.norm(first - second)), float(np.linalg.norm(second - third))


class TextReader:
    """Finds text and reads it. Construct it once per process; do not share it between threads.

    ``threads``: cores for one inference; by default all that this process may use, at most 4. ``small``: the
    reader of small letters; without it :meth:`read_small` reads nothing.
    """

    small: LineReader | None = None

    def __init__(self, threads: int | None = None) -> None:
        """Create rapidocr with its two networks."""
        from omegaconf import flag_override
        from rapidocr import RapidOCR

        cores = threads or min(len(os.sched_getaffinity(0)), 4)
        detector, recogniser = model_files()
        self._ocr = RapidOCR(
            params={
                "Global.log_level": "critical",  # rapidocr logs to stderr, and may log what it read
                "Global.use_cls": False,
                "Global.text_score": 0.0,
                "Global.min_side_len": 32,
                "Global.max_side_len": 8192,  # scaling is decided here, not there
                "Det.model_path": str(detector),  # with a path given rapidocr never downloads
                "Rec.model_path": str(recogniser),
                # Width to which shorter lines, 48 high, are padded: the 320 of rapidocr read no better; with
                # 96 "M8" is read as "MB" (pixels).
                "Rec.rec_img_shape": [3, 48, 160],
                "Det.limit_side_len": 32,
                "Det.box_thresh": POSSIBLE_TEXT,
            }
        )
        with flag_override(self._ocr.cfg, "allow_objects", True):  # sessions of rapidocr lack our options
            self._ocr.cfg.Det.session = session(detector.read_bytes(), cores)
            self._ocr.cfg.Rec.session = session(recogniser.read_bytes(), cores)
            # In float64, as lists are, a picture takes thrice as long.
            self._ocr.cfg.Det.mean = self._ocr.cfg.Det.std = np.full(3, 0.5, np.float32)

    def warm_up(self) -> None:
        """Load both networks."""
        blank: Picture = np.zeros((64, 256), np.uint8)
        self.find(blank)
        self._recognise(_three_channels(blank), 1)

    def find(self, picture: Picture, scale: float = 1.0, within: Box | None = None) -> list[TextBox]:
        """Find all places that the text detector takes for text, in the whole picture or ``within`` a box.
        ``picture``: uint8, grey or RGB. ``scale`` multiplies the enlargement (:func:`working_scale`): a scale
        below 1 finds larger text, above 1 smaller text.
        """
        factor = working_scale(picture) * scale
        left, top, right, bottom = within or (0, 0, picture.shape[1], picture.shape[0])
        part = picture[top:bottom, left:right]
        rows, columns = part.shape[:2]
        size = (max(32, round(columns * factor)), max(32, round(rows * factor)))
        way = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
        resized = _three_channels(cv2.resize(np.ascontiguousarray(part), size, interpolation=way))
        stretch = np.array([columns / size[0], rows / size[1]], np.float32)
        origin = np.array([left, top], np.float32)
        found = []
        cuts = list(product(_cuts(size[1]), _cuts(size[0])))
        for rows_cut, columns_cut in cuts:
            result = self._ocr(
                np.ascontiguousarray(resized[rows_cut, columns_cut]),
                use_det=True,
                use_rec=False,
                use_cls=False,
                box_thresh=POSSIBLE_TEXT,
            )
            corner = np.array([columns_cut.start, rows_cut.start], np.float32)
            if result.boxes is not None:
                found += [
                    TextBox((np.asarray(corners, np.float32) + corner) * stretch + origin, float(confidence))
                    for corners, confidence in zip(result.boxes, result.scores, strict=True)
                ]
        if len(cuts) > 1:
            # What the detector took for a tile, half a gigabyte: the next steps on a large picture need it.
            detector = self._ocr.text_det.session.session
            [given] = detector.get_inputs()
            detector.run(None, {given.name: np.zeros((1, 3, 32, 32), np.float32)}, giving_memory_back())
        return found

    def find_upright(self, picture: Picture, scale: float = 1.0, within: Box | None = None) -> list[TextBox]:
        """Find the vertical lines of text, which :meth:`find` splits; the first corner is at a line's start.
        Arguments as for :meth:`find`. The picture is searched turned by a quarter to the right, so that lines
        that run up are level, as most do; lines that run down are found upside down.
        """
        rows, columns = picture.shape[:2]
        left, top, right, bottom = within or (0, 0, columns, rows)
        found = [
            TextBox(np.stack([box.corners[:, 1], rows - box.corners[:, 0]], axis=1), box.confidence)
            for box in self.find(
                np.ascontiguousarray(np.rot90(picture, -1)), scale, (rows - bottom, left, rows - top, right)
            )
        ]
        return [line for line in found if line.is_upright]

    def read(self, picture: Picture, box: TextBox, least: int = 1) -> Line:
        """Read the text in ``box``, horizontal or vertical, by rapidocr; upside down if nothing is legible
        that way in a box that looks like text, or if a vertical line is read more surely so. ``least``: the
        fewest letters and digits of a legible text.
        """
        crop = _level_crop(picture, box)
        if crop.shape[0] < 3 or crop.shape[1] < 3:
            return Line("", 0.0, legible=False)
        # A box taller than this share of the shorter side holds echoes, if not three characters are surely
        # read.
        if box.height > max(32.0, 0.12 * min(picture.shape[:2])):
            least = 3
        line = self._recognise(crop, least)
        left, top, right, bottom = box.box
        # A line along a vertical may run up or down.
        runs_level = not box.is_upright and bottom - top <= UPRIGHT * (right - left)
        if runs_level and (line.legible or not looks_like_text(box, picture.shape)):
            return line
        turned = self._recognise(np.ascontiguousarray(crop[::-1, ::-1]), least)
        return max(line, turned, key=lambda way: (way.legible, way.confidence if turned.legible else 0.0))

    def read_small(self, picture: Picture, box: TextBox) -> Line:
        """Read a horizontal or vertical line with the reader of small letters.

        A nearly horizontal line is cut out along rows and columns: rotating it would blur small letters.
        """
        if self.small is None:
            return Line("", 0.0, legible=False)
        left, top, right, bottom = box.box
        slope = abs(float(box.corners[0, 1] - box.corners[1, 1]))
        # Slope of a level line, at most (heights).
        if slope <= 0.2 * box.height and right - left > bottom - top:
            return self.small.read(picture[index_of(box.box)])
        crop = _level_crop(picture, box)
        ways = (crop, np.ascontiguousarray(crop[::-1, ::-1])) if box.is_upright else (crop,)
        return max((self.small.read(way) for way in ways), key=lambda line: line.confidence)

    def beside(self, small: LineReader) -> TextReader:
        """A text reader that runs the same networks and also has the reader of small letters ``small``."""
        reader = copy(self)
        reader.small = small
        return reader

    def _recognise(self, crop: Picture, least: int) -> Line:
        """Read a level line; ``least``: the fewest letters and digits of a legible text."""
        result = self._ocr(crop, use_det=False, use_rec=True, use_cls=False)
        text, score = (result.txts[0], float(result.scores[0])) if result.txts else ("", 0.0)
        return Line(text, score, legible=_counts_as_text("".join(filter(str.isalnum, text)), score, least))


def _counts_as_text(characters: str, score: float, least: int) -> bool:
    """Whether letters and digits read with this confidence (``score``) count as legible text. ``least``: the
    fewest of them.
    """
    if len(characters) < least or set(characters) == {CROSS}:
        return False
    if len(characters) == 1:
        return score >= LEGIBLE_SINGLE and characters not in STROKES
    return score >= (0.9 if least == 3 else LEGIBLE)


def working_scale(picture: Picture) -> float:
    """Enlargement of a picture that is read: 1 from a shorter side of 736 pixels on, else up to 3."""
    return float(np.clip(WORKING_SIDE / min(picture.shape[:2]), 1.0, LARGEST_ENLARGEMENT))


def looks_like_text(box: TextBox, shape: tuple[int, ...]) -> bool:
    """Whether shape and confidence of a box alone prove text, as for scripts that the recogniser does not
    know. ``shape``: rows and columns of the picture.
    """
    low = box.height <= max(24.0, LOW_SHARE * min(shape[:2]))
    left, top, right, bottom = box.box
    # Confidence of the detector from which a box of a line's shape is text though it cannot be read.
    return (
        box.confidence >= 0.5 and low and right - left >= 1.5 * (bottom - top) and box.height >= SMALLEST_LINE
    )


def paint(boxes: list[TextBox], shape: tuple[int, ...], margin: float) -> Mask:
    """The mask of text boxes in a picture of ``shape``, each grown by ``margin`` × its height, or 2
    pixels.
    """
    mask = np.zeros(shape[:2], np.uint8)
    for box in boxes:
        # Height from which the margin of a mask grows no further (pixels).
        reach = max(2, round(min(box.height, 32.0) * margin))
        left, top, right, bottom = box.box
        place = clipped((left - reach - 1, top - reach - 1, right + reach + 1, bottom + reach + 1), shape)
        if place is None:
            continue
        single = np.zeros((place[3] - place[1], place[2] - place[0]), np.uint8)
        cv2.fillPoly(single, [np.rint(box.corners).astype(np.int32) - np.array(place[:2], np.int32)], 1)
        mask[index_of(place)] |= cv2.dilate(single, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    return mask.astype(np.bool_)


TILES = 8
"""Tiles along each side of a picture whose contrast is enhanced; a pixel has effect up to 1.5 tiles away."""


def high_contrast(picture: Picture) -> Picture:
    """Return a grey copy in which faint text stands out: the brightest channel, equalised locally (CLAHE)."""
    grey = brightest(picture)
    clahe = cv2.createCLAHE(clipLimit=3.0, tileGridSize=(TILES, TILES))
    return np.asarray(clahe.apply(np.ascontiguousarray(grey)), np.uint8)


def model_files() -> tuple[Path, ...]:
    """The paths of the files of the detector and of the recogniser."""
    import rapidocr

    folder = Path(rapidocr.__file__).parent / "models"
    return folder / "PP-OCRv6_det_small.onnx", folder / "PP-OCRv6_rec_small.onnx"


@cache
def shared_reader() -> TextReader:
    """This process's text reader, created when first needed; that takes a second."""
    return TextReader()


def _cuts(length: int) -> list[slice]:
    """Cut a side into equal overlapping parts of at most a tile."""
    count = 1 if length <= TILE else -(-(length - OVERLAP) // (TILE - OVERLAP))
    part = -(-(length + (count - 1) * OVERLAP) // count)
    return [
        slice(start, start + part)
        for start in [round(i * (length - part) / max(1, count - 1)) for i in range(count)]
    ]


def _level_crop(picture: Picture, box: TextBox) -> Picture:
    """Cut the box out so that its long side lies level; the reader expects lines, not slopes."""
    corners = box.corners
    width = max(1, round(float(np.linalg.norm(corners[0] - corners[1]))))
    height = max(1, round(float(np.linalg.norm(corners[1] - corners[2]))))
    warp = cv2.getPerspectiveTransform(
        corners.astype(np.float32), np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    )
    crop = cv2.warpPerspective(
        _three_channels(picture), warp, (width, height), borderMode=cv2.BORDER_REPLICATE
    )
    return np.ascontiguousarray(np.rot90(crop) if height > 1.5 * width else crop)


def _three_channels(picture: Picture) -> Picture:
    """Return the picture with three channels."""
    return picture if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, axis=2)
