"""One page that sums up a result: the picture with its boxes, and words in large letters.

The page has its own font (DejaVu Sans Condensed, in ``fonts/``), because Pillow's font has no umlauts. It has
Latin, Greek and Cyrillic letters. No font of the machine is used: every machine draws the same page.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ai_pipeline.contract import Finding, Measurement, Picture, Point
from ai_pipeline.images.render import BLACK, EDGE, WHITE, YELLOW, box_captions, marked, wrapped

LONG_SIDE, SHORT_SIDE = 1600, 1200
"""Pixels of the page's sides."""
LETTERS, LARGE_LETTERS = 31, 42
"""Font sizes in pixels: capitals are 23 and 31 pixels high."""
MARGIN: Final = 24
"""Pixels between text, picture and the edge of the page."""
WIDE: Final = 1.2
"""A picture that is wider than so many times its height is above the words, on an upright page."""
MOST_OF_A_HEAD_LINE, MOST_CAPTIONS, MOST_OF_THE_FOOT = 2, 6, 4
"""Lines on the page."""

FONT: Final = Path(__file__).parent / "fonts" / "DejaVuSansCondensed.ttf"
"""The font of the page."""
_DRAWN: Final = (range(0x20, 0x7F), range(0xA1, 0x250), range(0x370, 0x526), range(0x1E00, 0x1EFA))
_DRAWN_BESIDES: Final = frozenset("–—‘’“”„†•…€≤≥−→")
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the page, the last two exclusive."""


@dataclass(frozen=True, slots=True, eq=False)
class PagePicture:
    """The picture of a page.

    ``display``: uint8, ``[rows, columns]`` or ``[rows, columns, 3]``. ``findings`` and ``measurements`` are
    in the picture's coordinates and drawn into it. ``pixel_height``: height of a pixel as a multiple of its
    width.
    """

    display: Picture
    findings: Sequence[Finding] = ()
    measurements: Sequence[Measurement] = ()
    pixel_height: float = 1.0

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the picture, in widths of a pixel."""
        rows, columns = self.display.shape[:2]
        return columns, rows * self.pixel_height

    def fitted(self, width: int, height: int) -> Picture:
        """The picture with its drawings, RGB, as large as fits into ``width`` × ``height``."""
        scale = min(width / self.size[0], height / self.size[1])
        columns, rows = (
            max(1, min(round(one * scale), most))
            for one, most in zip(self.size, (width, height), strict=True)
        )
        display = np.array(Image.fromarray(self.display).resize((columns, rows), Image.Resampling.LANCZOS))
        across, down = columns / self.display.shape[1], rows / self.display.shape[0]

        def moved(points: Sequence[Point]) -> tuple[Point, ...]:
            return tuple((x * across, y * down) for x, y in points)

        findings = [
            replace(one, regions=tuple(replace(part, points=moved(part.points)) for part in one.regions))
            for one in self.findings
        ]
        measured = [replace(one, lines=tuple(map(moved, one.lines))) for one in self.measurements]
        return marked(display, findings, measured, LETTERS)


@dataclass(frozen=True, slots=True)
class PlacedText:
    """A line of text on a page. ``left``: its first column; ``baseline``: the row on which letters stand;
    ``size`` of the letters; all in pixels of the page.
    """

    text: str
    left: int
    baseline: int
    size: int


@dataclass(slots=True, eq=False)
class PageLayout:
    """The places of everything on a page, for writing the page in another form than pixels."""

    width: int
    height: int
    texts: list[PlacedText] = field(default_factory=list)
    frames: list[Box] = field(default_factory=list)
    """Thin lines around something."""
    rules: list[int] = field(default_factory=list)
    """Rows with a thin line from margin to margin."""
    pictures: list[tuple[Picture, int, int]] = field(default_factory=list)
    """With the drawings in them; left and top."""


def draw_page(
    title: str,
    head: Sequence[str],
    shown: PagePicture | str,
    captions: Sequence[str],
    results: Sequence[str],
    foot: Sequence[str],
) -> Picture:
    """Draw the page: RGB, 1200 columns and 1600 rows for a wide picture, else 1600 and 1200.

    ``head``: lines on patient and study, the first one in large letters. ``shown``: the picture, or why there
    is none. ``captions``: lines below the picture; the captions of its boxes come first. ``results``: texts
    of one or more lines each (``\\n``). ``foot``: the last lines of the page. If there is too little room,
    the page says how much is left out.
    """
    return np.array(_filled(title, head, shown, captions, results, foot).image, np.uint8)


def lay_out_page(
    title: str,
    head: Sequence[str],
    shown: PagePicture | str,
    captions: Sequence[str],
    results: Sequence[str],
    foot: Sequence[str],
) -> PageLayout:
    """The layout of the page that :func:`draw_page` draws from the same arguments."""
    return _filled(title, head, shown, captions, results, foot).layout


def _filled(
    title: str,
    head: Sequence[str],
    shown: PagePicture | str,
    captions: Sequence[str],
    results: Sequence[str],
    foot: Sequence[str],
) -> _Page:
    wide = isinstance(shown, PagePicture) and shown.size[0] > WIDE * shown.size[1]
    page = _Page(SHORT_SIDE, LONG_SIDE) if wide else _Page(LONG_SIDE, SHORT_SIDE)
    top, bottom = page.head(title, head), page.foot(foot)
    if wide:
        column = page.width - 2 * MARGIN
        free = bottom - page.height_of(results, MARGIN) - MARGIN
        # Share of the free height that picture and captions have at least where they are above the words.
        lowest = max(top + round((bottom - top) * 0.5), free)
        left, top = MARGIN, page.picture(shown, captions, (column, column), top, lowest)[1]
    else:
        # Least and greatest width in pixels of the picture where it is beside the words.
        left, _ = page.picture(shown, captions, (420, 900), top, bottom)
    page.results(results, left, top, bottom)
    return page


def drawable(text: str) -> bool:
    """Whether the font has all letters of ``text``; the page shows "?" for other letters."""
    return all(one.isspace() or _is_drawn(one) for one in unicodedata.normalize("NFC", text))


def _is_drawn(letter: str) -> bool:
    return letter in _DRAWN_BESIDES or any(ord(letter) in letters for letters in _DRAWN)


class _Page:
    """A black sheet. Methods return where the room begins, or ends, that they leave; all in pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), BLACK)
        self.layout = PageLayout(width, height)
        self.width = width
        self._draw = ImageDraw.Draw(self.image)

    def head(self, title: str, texts: Sequence[str]) -> int:
        """Title and texts at the upper edge."""
        top = self._write([title], YELLOW, MARGIN, MARGIN // 2, LARGE_LETTERS)
        for number, text in enumerate(texts):
            size = LETTERS if number else LARGE_LETTERS
            lines = _cut([self._lines(text, self.width - 2 * MARGIN, size)], MOST_OF_A_HEAD_LINE)
            top = self._write(lines, WHITE, MARGIN, top, size)
        return self._rule(top + MARGIN // 2) + MARGIN

    def foot(self, texts: Sequence[str]) -> int:
        """Texts at the lower edge."""
        lines = _cut([self._lines(text, self.width - 2 * MARGIN) for text in texts], MOST_OF_THE_FOOT)
        top = self.image.height - MARGIN // 2 - len(lines) * _line_height(LETTERS)
        self._write(lines, YELLOW, MARGIN, top)
        return self._rule(top - MARGIN // 2) - MARGIN

    def picture(
        self,
        shown: PagePicture | str,
        captions: Sequence[str],
        widths: tuple[int, int],
        top: int,
        bottom: int,
    ) -> tuple[int, int]:
        """The picture at the left, its captions below. ``widths``: the least and the greatest one."""
        if isinstance(shown, str):
            column, boxes = widths[0], []
        else:
            free = shown.size[0] * (bottom - top) / shown.size[1]
            column, boxes = round(min(max(free, widths[0]), widths[1])), box_captions(shown.findings)
        of_boxes = _cut([self._lines(text, column) for text in boxes], MOST_CAPTIONS)
        others = [line for text in captions for line in self._lines(text, column)]
        height = bottom - top - MARGIN - (len(of_boxes) + len(others)) * _line_height(LETTERS)
        if isinstance(shown, str):
            # An empty frame with the reason.
            width, end = column, top + min(column, height)
            self._frame((MARGIN, top, MARGIN + column, end))
            lines = self._lines(shown, column - 2 * MARGIN)
            most = (end - top - MARGIN) // _line_height(LETTERS)
            self._write(_cut([lines], most), WHITE, 2 * MARGIN, top + MARGIN // 2)
        else:
            fitted = shown.fitted(column, height)
            self.layout.pictures.append((fitted, MARGIN, top))
            drawn = Image.fromarray(fitted)
            self.image.paste(drawn, (MARGIN, top))
            width, end = drawn.width, top + drawn.height
            self._frame((MARGIN - 1, top - 1, MARGIN + width + 1, end + 1))
        end = self._write(of_boxes, YELLOW, MARGIN, end + MARGIN // 2)
        end = self._write(others, WHITE, MARGIN, end)
        widest = max([width, *(round(_font(LETTERS).getlength(line)) for line in (*of_boxes, *others))])
        return MARGIN + widest + 2 * MARGIN, end + MARGIN // 2

    def results(self, texts: Sequence[str], left: int, top: int, bottom: int) -> None:
        """Texts between these borders and the right edge, in large letters if they have room."""
        size = LARGE_LETTERS if self.height_of(texts, left) <= bottom - top else LETTERS
        blocks = [self._block(text, self.width - left - MARGIN, size) for text in texts]
        self._write(_cut(blocks, (bottom - top) // _line_height(size)), WHITE, left, top, size)

    def height_of(self, texts: Sequence[str], left: int) -> int:
        """Height of the results in large letters."""
        blocks = [self._block(text, self.width - left - MARGIN, LARGE_LETTERS) for text in texts]
        return sum(map(len, blocks)) * _line_height(LARGE_LETTERS)

    def _block(self, text: str, room: int, size: int) -> list[str]:
        """The lines of a result: those after the first are indented, and so is what goes on in the next."""
        step = "    "
        found: list[str] = []
        for part in text.split("\n"):
            first = step if found else ""
            pieces = self._lines(part, room - round(_font(size).getlength(first + step)), size)
            found += [f"{first}{step if place else ''}{piece}" for place, piece in enumerate(pieces)]
        return found

    def _lines(self, text: str, room: int, size: int = LETTERS) -> list[str]:
        line = " ".join(unicodedata.normalize("NFC", text).split())
        return wrapped("".join(one if _is_drawn(one) else "?" for one in line), _font(size), room)

    def _write(
        self, lines: Sequence[str], colour: tuple[int, int, int], left: int, top: int, size: int = LETTERS
    ) -> int:
        ascent, _ = _font(size).getmetrics()
        for line in lines:
            self._draw.text((left, top), line, fill=colour, font=_font(size))
            self.layout.texts.append(PlacedText(line, left, top + ascent, size))
            top += _line_height(size)
        return top

    def _frame(self, box: Box) -> None:
        left, top, right, bottom = box
        self._draw.rectangle((left, top, right - 1, bottom - 1), outline=EDGE)
        self.layout.frames.append(box)

    def _rule(self, row: int) -> int:
        self._draw.line([(MARGIN, row), (self.width - MARGIN, row)], fill=EDGE)
        self.layout.rules.append(row)
        return row


def _cut(blocks: Sequence[Sequence[str]], most: int) -> list[str]:
    """At most ``most`` lines of the blocks. The last one counts the blocks, or lines, that have no room."""
    lines = list(chain.from_iterable(blocks))
    if len(lines) <= most:
        return lines
    for count in range(len(blocks) - 1, 0, -1):
        lines = list(chain.from_iterable(blocks[:count]))
        if len(lines) < most:
            return [*lines, f"and {len(blocks) - count} more: see the report"]
    left = sum(map(len, blocks)) - (most - 1)
    return [*blocks[0][: most - 1], f"and {left} more lines: see the report"]


def _line_height(size: int) -> int:
    return round(size * 1.3)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(FONT, size, layout_engine=ImageFont.Layout.BASIC)
