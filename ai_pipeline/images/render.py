"""Draw results into pictures, for viewers that show neither structured reports nor presentation states.

Words go below the picture, into an added margin, so that they cover nothing. The picture lies at the top
left, so drawings keep its coordinates. Only Pillow and its built-in scalable font are used: this runs where
no model is installed.

The summary page shows the picture with its boxes, and words in large letters. It has its own font (DejaVu
Sans Condensed, in ``fonts/``), because Pillow's font has no umlauts. It has Latin, Greek and Cyrillic
letters. No font of the machine is used: every machine draws the same page.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ai_pipeline.contract import (
    BURNED_IN,
    Decision,
    Finding,
    Measurement,
    ModelRef,
    Origin,
    Picture,
    Point,
    QualityNote,
    Region,
)
from ai_pipeline.summary import decided_in_words, result_lines

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Box = tuple[float, float, float, float]

NOT_FOR_DIAGNOSIS = "AI result - not for diagnostic use"
PLACE_IS_APPROXIMATE = {
    Origin.ACTIVATION: "box: class activation, approximate place",
    Origin.DETECTOR: "box: detector, approximate place",
}
EDGE_IS_APPROXIMATE = "outline: by a network, approximate edge"

Colour = tuple[int, int, int]
YELLOW, BLACK, WHITE, EDGE = (255, 214, 0), (0, 0, 0), (255, 255, 255), (70, 70, 70)
"""Yellow on black is seen by colour-blind readers and is no colour of anatomy or of flow alone."""
MOST_NUMBERED = 9
"""Boxes that bear a number each; of more the legend tells how many there are."""
MOST_LINES = 40
"""Lines of the legend; further ones are dropped from the middle, never the last one."""
SCALE_COLUMNS = 256
"""Steps of the colour bar."""
MEDIUM_GREY = 128
"""What the colour bar is drawn over: where the map is 0 it adds no colour, so black there would mislead."""

# matplotlib's "inferno" (CC0), every tenth: perceptually uniform, readable in grey.
INFERNO = np.array(
    [
        (0, 0, 4), (22, 11, 57), (66, 10, 104), (106, 23, 110), (147, 38, 103), (188, 55, 84),
        (221, 81, 58), (243, 120, 25), (252, 165, 10), (246, 215, 70), (252, 255, 164),
    ],
    np.float64,
)  # fmt: skip


def annotate(
    display: Picture,
    findings: Sequence[Finding],
    legend: Sequence[str] = (),
    measurements: Sequence[Measurement] = (),
    notes: Sequence[QualityNote] = (),
) -> Picture:
    """Draw a result on ``display`` (uint8, ``[rows, columns]`` or ``[rows, columns, 3]``); returns RGB.

    The regions of findings that are not absent and the lines that a model measured are drawn in the picture;
    captions and a legend are written below it, so that the result has more rows, and more columns where
    ``display`` is too narrow for words. ``legend``: the lines of the legend, by default those of
    :func:`legend_of`; the meaning of the boxes is inserted before the last one. Several regions are numbered;
    if there are many, they are only counted.
    """
    canvas = _LabelledPicture.from_display(display)
    drawn = [measurement for measurement in measurements if measurement.model is not None]
    canvas.mark(findings, drawn)
    *lines, last = legend or legend_of(findings, notes, drawn)
    return canvas.above(
        [], [*_coloured(WHITE, lines), *_coloured(YELLOW, box_captions(findings)), (last, WHITE)]
    )


def draw_marks(
    display: Picture, findings: Sequence[Finding], measurements: Sequence[Measurement], letters: int
) -> Picture:
    """Draw boxes and lines on ``display`` as :func:`annotate` does, without captions: RGB of the same size.
    ``letters``: height of the boxes' numbers in pixels, which also sets the width of lines.
    """
    canvas = _LabelledPicture(Image.fromarray(_rgb(display)), ImageFont.load_default(letters), letters)
    canvas.mark(findings, [one for one in measurements if one.model is not None])
    return np.array(canvas.image, np.uint8)


def box_captions(findings: Sequence[Finding]) -> list[str]:
    """The caption of each box that :func:`annotate` and :func:`draw_marks` draw, numbered if there are
    several boxes; if there are many, the number of boxes of each label.
    """
    boxed = [finding for finding, _ in _placed(findings)]
    if len(boxed) > MOST_NUMBERED:
        counts = Counter(finding.name for finding in boxed)
        return ["AI: " + ", ".join(f"{count} x {label}" for label, count in counts.items())]
    numbers: dict[str, list[str]] = {}
    for number, finding in enumerate(boxed, start=1):
        numbers.setdefault(label_text(finding), []).append(str(number))
    if len(boxed) < 2:
        return list(numbers)
    return [f"[{', '.join(of_text)}] {text}" for text, of_text in numbers.items()]


def heatmap_overlay(display: Picture, finding: Finding, legend: Sequence[str] = ()) -> Picture:
    """Draw the heat map of ``finding`` over ``display``, RGB; below it a colour bar from 0 to 1, the finding
    in words, the meaning of the colours, and ``legend`` (by default the model and the warning). Sizes as in
    :func:`annotate`. Raises ValueError if the finding has no heat map, or one of another size.
    """
    evidence = finding.evidence
    if evidence is None or evidence.values.shape != display.shape[:2]:
        size = "none" if evidence is None else f"one of {evidence.values.shape}"
        raise ValueError(f"a heat map over a picture of {display.shape[:2]} is asked for, there is {size}")
    values = np.clip(evidence.values.astype(np.float64), 0.0, 1.0)
    warning = list(legend) or [_models([finding.model]), NOT_FOR_DIAGNOSIS]
    meaning = f"Colours: {evidence.method}; 1 = peak; no outline"
    scale = np.linspace(0.0, 1.0, SCALE_COLUMNS)[None]
    bar = _under_colours(np.full((1, SCALE_COLUMNS, 3), MEDIUM_GREY, np.uint8), scale)
    canvas = _LabelledPicture.from_display(_under_colours(_rgb(display), values))
    return canvas.above([bar], [(label_text(finding), YELLOW), *_coloured(WHITE, [meaning, *warning])])


def label_text(finding: Finding) -> str:
    """The words for a finding's box: ``AI: left pleural effusion suspected, low certainty``. If certainty was
    never measured, the model's number follows with the threshold that it reached, since a number alone says
    nothing: ``83 % (cut-off 40 %)``, for an uncalibrated model ``score 0.83 (…)``. Presentation states use
    the same words.
    """
    if finding.code == BURNED_IN:
        return f"AI: {finding.name}"
    text = f"AI: {decided_in_words(finding)}"
    if finding.certainty or finding.probability is None:
        return text
    written = _per_cent if finding.model.calibrated else "{:.2f}".format
    cut_off = f" (cut-off {written(finding.threshold)})" if finding.threshold is not None else ""
    return f"{text}, {'' if finding.model.calibrated else 'score '}{written(finding.probability)}{cut_off}"


def _per_cent(share: float) -> str:
    """A share (0 to 1) in per cent; small ones with a decimal."""
    # Smaller probabilities are written with a decimal, so that they differ from their cut-off.
    return f"{share * 100:.0f} %" if share >= 0.0995 else f"{share * 100:.1f} %"


def legend_of(
    findings: Sequence[Finding],
    notes: Sequence[QualityNote] = (),
    measurements: Sequence[Measurement] = (),
) -> list[str]:
    """The usual legend: the short result, the meaning of the boxes, the models, the warning."""
    shown = [finding for finding in findings if finding.decision is not Decision.ABSENT]
    lines = result_lines(findings, measurements, notes)
    lines += place_lines(region for finding in shown for region in finding.regions)
    models = [finding.model for finding in findings] + [one.model for one in measurements if one.model]
    return [*lines, *([_models(models)] if models else []), NOT_FOR_DIAGNOSIS]


def assesses(findings: Iterable[Finding], measurements: Iterable[Measurement] = ()) -> bool:
    """Whether any finding, or any measurement of a model, is about the patient; findings of burned-in
    annotation are not.
    """
    return any(finding.code != BURNED_IN for finding in findings) or any(one.model for one in measurements)


def place_lines(regions: Iterable[Region]) -> list[str]:
    """Sentences for the legend on how far to trust boxes and outlines, by their origin, each once."""
    regions = list(regions)
    boxes = {region.origin for region in regions if region.type == "box"}
    outlined = any(region.type == "polygon" and region.origin is Origin.DETECTOR for region in regions)
    lines = [line for origin, line in PLACE_IS_APPROXIMATE.items() if origin in boxes]
    return [*lines, *([EDGE_IS_APPROXIMATE] if outlined else [])]


def _placed(findings: Sequence[Finding]) -> list[tuple[Finding, Region]]:
    """Each region of the findings that are not absent, with its finding."""
    shown = [finding for finding in findings if finding.decision is not Decision.ABSENT]
    return [(finding, region) for finding in shown for region in finding.regions]


@dataclass(frozen=True, slots=True)
class _LabelledPicture:
    """A picture on which boxes, lines and captions are drawn."""

    image: Image.Image
    font: Font
    letters: int

    @staticmethod
    def from_display(display: Picture) -> _LabelledPicture:
        """Start from a displayed picture, with letters that suit its size."""
        image = Image.fromarray(_rgb(display))
        # Height of letters as a share of the picture's shorter and longer side: the larger, because a
        # viewer fits the longer side to its window.
        wanted = max(min(image.size) * 0.026, max(image.size) * 0.014)
        # Letter sizes in pixels: less is not readable, more is not needed.
        letters = min(max(round(wanted), 11), 72)
        return _LabelledPicture(image, ImageFont.load_default(letters), letters)

    @property
    def line_width(self) -> int:
        """The width of drawn lines in pixels."""
        return max(1, round(self.letters / 7))

    @property
    def line_height(self) -> int:
        """The height of a line of text in pixels."""
        return round(self.letters * 1.3)

    def mark(self, findings: Sequence[Finding], measurements: Sequence[Measurement]) -> None:
        """Draw the regions of findings that are not absent, and the measured lines."""
        placed = _placed(findings)
        for _, region in placed:
            self.outline(region.bounds if region.type == "box" else None, region.points)
        if 1 < len(placed) <= MOST_NUMBERED:
            taken = [region.bounds for _, region in placed]
            for number, (_, region) in enumerate(placed, start=1):
                taken.append(self.number(str(number), region.bounds, taken))
        for line, closed in dict.fromkeys((line, one.closed) for one in measurements for line in one.lines):
            if closed:
                self.outline(None, line)
            else:
                self.measured(line)

    def outline(self, box: Box | None, points: Sequence[tuple[float, float]]) -> None:
        """Draw the box, or else the closed line through ``points``, in yellow with a black rim, so that it is
        seen on white and on black.
        """
        draw = ImageDraw.Draw(self.image)
        width = self.line_width
        for colour, thickness in ((BLACK, width + 2), (YELLOW, width)):
            if box is not None:
                # From the corners of an area to the pixels that lie on its edge, kept inside the picture.
                left, top = max(0, int(box[0])), max(0, int(box[1]))
                right = min(self.image.width - 1, max(left, round(box[2]) - 1))
                bottom = min(self.image.height - 1, max(top, round(box[3]) - 1))
                draw.rectangle((left, top, right, bottom), outline=colour, width=thickness)
            else:
                draw.line([*points, points[0]], fill=colour, width=thickness, joint="curve")

    def measured(self, line: Sequence[Point]) -> None:
        """Draw an open measurement line with a stroke across each end."""
        draw = ImageDraw.Draw(self.image)
        width = self.line_width
        (left, upper), (right, lower) = line[:2]
        scale = self.letters / 3 / max(math.hypot(right - left, lower - upper), 1.0)
        across, down = (upper - lower) * scale, (right - left) * scale  # at right angles to the line
        ends = [[(x - across, y - down), (x + across, y + down)] for x, y in (line[0], line[-1])]
        strokes = [line, *ends]
        for colour, thickness in ((BLACK, width + 2), (YELLOW, width)):
            for stroke in strokes:
                draw.line(list(stroke), fill=colour, width=thickness)

    def number(self, text: str, box: Box, taken: Sequence[Box]) -> Box:
        """Write a box's number outside one of its corners where nothing is ``taken`` (boxes), else inside it;
        return the number's box.
        """
        rim = max(1, self.line_width // 2)
        width, height = self.letters * 0.8 + 2 * rim, float(self.line_height)
        places = [
            (left, top, left + width, top + height)
            for top in (box[1] - height, box[3] + 1)
            for left in (max(box[0], rim), min(box[2], self.image.width) - width)
        ]
        inside = max(box[0], 0.0) + self.line_width + rim, max(box[1], 0.0) + self.line_width
        free = (
            place
            for place in places
            if place[0] >= 0 and place[1] >= 0 and place[3] <= self.image.height
            if all(_are_apart(place, other) for other in taken)
        )
        chosen = next(free, (*inside, inside[0] + width, inside[1] + height))
        ImageDraw.Draw(self.image).text(
            chosen[:2], text, fill=YELLOW, font=self.font, stroke_width=rim, stroke_fill=BLACK
        )
        return chosen

    def above(self, bars: Sequence[Picture], texts: Sequence[tuple[str, Colour]]) -> Picture:
        """Return the picture with a margin below it that holds colour bars, and ``texts``, each with its
        colour.
        """
        # Least width of the result in letter heights, about forty characters; black is added at the right.
        width = max(self.image.width, 22 * self.letters)
        room = width - self.letters // 2
        lines = [
            (piece, colour) for text, colour in texts for piece in wrapped(_printable(text), self.font, room)
        ]
        if len(lines) > MOST_LINES:
            lines = [*lines[: MOST_LINES - 1], lines[-1]]
        gap = self.letters // 2
        height = self.image.height + gap + (len(bars) + len(lines)) * self.line_height + gap
        sheet = Image.new("RGB", (width, height), BLACK)
        sheet.paste(self.image, (0, 0))
        draw = ImageDraw.Draw(sheet)
        # Where the picture ends must be seen, of a dark one too.
        draw.line([(0, self.image.height), (width, self.image.height)], fill=EDGE)
        draw.line([(self.image.width, 0), (self.image.width, self.image.height)], fill=EDGE)
        top = self.image.height + gap
        for bar in bars:
            # Between its numbers, as the colours look over medium grey.
            left, wide = self.letters * 2, sheet.width - self.letters * 4
            sheet.paste(Image.fromarray(bar).resize((wide, self.letters)), (left, top))
            draw.rectangle((left - 1, top - 1, left + wide, top + self.letters), outline=WHITE)
            draw.text((self.letters / 4, top), "0.0", fill=WHITE, font=self.font)
            draw.text((left + wide + self.letters / 4, top), "1.0", fill=WHITE, font=self.font)
            top += self.line_height
        for text, colour in lines:
            draw.text((self.letters / 4, top), text, fill=colour, font=self.font)
            top += self.line_height
        return np.array(sheet, np.uint8)


def _are_apart(box: Box, other: Box) -> bool:
    """Whether two boxes have no pixel in common."""
    return box[0] >= other[2] or other[0] >= box[2] or box[1] >= other[3] or other[1] >= box[3]


def _coloured(colour: Colour, texts: Iterable[str]) -> list[tuple[str, Colour]]:
    """Pair each text with this colour."""
    return [(text, colour) for text in texts]


def wrapped(text: str, font: Font, room: float) -> list[str]:
    """Break ``text`` into lines, each at most ``room`` pixels wide; wider words (a long model name) are
    broken.
    """
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= room:
            lines[-1] = longer
            continue
        lines.append(word)
        while font.getlength(lines[-1]) > room:
            fitting = max(1, int(len(lines[-1]) * room / font.getlength(lines[-1])) - 1)
            while fitting > 1 and font.getlength(lines[-1][:fitting]) > room:
                fitting -= 1
            lines[-1:] = [lines[-1][:fitting], lines[-1][fitting:]]
    return lines


def _models(models: Iterable[ModelRef]) -> str:
    """The line of a legend that names the models."""
    return f"Model: {', '.join(sorted({f'{model.id} {model.version}' for model in models}))}"


def _rgb(display: Picture) -> Picture:
    """Convert the picture to RGB."""
    return display if display.ndim == 3 else np.repeat(display[:, :, None], 3, axis=2)


def _under_colours(picture: Picture, values: npt.NDArray[np.float64]) -> Picture:
    """Lay a colour map of ``values`` (0 to 1) over ``picture`` (RGB): the higher a value, the more opaque."""
    # Opacity of the heat map where it is 1; the picture must stay visible below.
    opacity = (0.6 * values)[..., None]
    places = np.linspace(0.0, 1.0, len(INFERNO))
    channels = [np.interp(values, places, INFERNO[:, channel]) for channel in range(3)]
    return np.asarray(np.rint((1.0 - opacity) * picture + opacity * np.stack(channels, axis=-1)), np.uint8)


def _printable(text: str) -> str:
    """Return ``text`` in the characters that the built-in font has (Latin-1)."""
    plain = text.replace("–", "-").replace("—", "-").replace("≥", ">=").replace("≤", "<=").replace("×", "x")
    return plain.encode("latin-1", "replace").decode("latin-1")


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
PixelBox = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the page, the last two exclusive."""


@dataclass(frozen=True, slots=True, eq=False)
class PagePicture:
    """The picture on a page of results. ``display``: uint8, ``[rows, columns]`` or ``[rows, columns, 3]``.
    ``findings`` and ``measurements`` are in the picture's coordinates and drawn into it. ``pixel_height``:
    height of a pixel as a multiple of its width.
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
        """The picture with its drawings, RGB, scaled to fit into ``width`` × ``height`` pixels."""
        scale = min(width / self.size[0], height / self.size[1])
        columns, rows = (
            max(1, min(round(one * scale), most))
            for one, most in zip(self.size, (width, height), strict=True)
        )
        display = np.array(Image.fromarray(self.display).resize((columns, rows), Image.Resampling.LANCZOS))
        across, down = columns / self.display.shape[1], rows / self.display.shape[0]

        def moved(points: Sequence[Point]) -> tuple[Point, ...]:
            """Scale points to the fitted picture."""
            return tuple((x * across, y * down) for x, y in points)

        findings = [
            replace(one, regions=tuple(replace(part, points=moved(part.points)) for part in one.regions))
            for one in self.findings
        ]
        measured = [replace(one, lines=tuple(map(moved, one.lines))) for one in self.measurements]
        return draw_marks(display, findings, measured, LETTERS)


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
    """The places of everything on a page, so that it can be written in another form than pixels. ``frames``:
    boxes around pictures; ``rules``: rows of lines across the page; ``pictures``: each with its left column
    and top row.
    """

    width: int
    height: int
    texts: list[PlacedText] = field(default_factory=list)
    frames: list[PixelBox] = field(default_factory=list)
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
    """Draw a page of results: RGB, 1200 columns and 1600 rows for a wide picture, else 1600 and 1200.
    ``title``: its heading. ``head``: lines on patient and study, the first one in large letters. ``shown``:
    the picture, or why there is none. ``captions``: lines below the picture; the captions of its boxes come
    first. ``results``: texts of one or more lines each (separated by line feeds). ``foot``: the last lines of
    the page. If there is too little room, the page says how much is left out.
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
    """Return the layout of the page that :func:`draw_page` draws from the same arguments."""
    return _filled(title, head, shown, captions, results, foot).layout


def _filled(
    title: str,
    head: Sequence[str],
    shown: PagePicture | str,
    captions: Sequence[str],
    results: Sequence[str],
    foot: Sequence[str],
) -> _Page:
    """Fill a page with all its content; arguments as in :func:`draw_page`."""
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
    """Whether the font has all letters of ``text``; a page shows "?" for other letters."""
    return all(one.isspace() or _is_drawn(one) for one in unicodedata.normalize("NFC", text))


def _is_drawn(letter: str) -> bool:
    """Whether the font has this letter."""
    return letter in _DRAWN_BESIDES or any(ord(letter) in letters for letters in _DRAWN)


class _Page:
    """A black page to write on. Its methods return where the remaining room begins or ends; all numbers are
    pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        """Create an empty page."""
        self.image = Image.new("RGB", (width, height), BLACK)
        self.layout = PageLayout(width, height)
        self.width = width
        self._draw = ImageDraw.Draw(self.image)

    def head(self, title: str, texts: Sequence[str]) -> int:
        """Write title and texts at the upper edge; return the row where the room below them begins."""
        top = self._write([title], YELLOW, MARGIN, MARGIN // 2, LARGE_LETTERS)
        for number, text in enumerate(texts):
            size = LETTERS if number else LARGE_LETTERS
            lines = _cut([self._lines(text, self.width - 2 * MARGIN, size)], MOST_OF_A_HEAD_LINE)
            top = self._write(lines, WHITE, MARGIN, top, size)
        return self._rule(top + MARGIN // 2) + MARGIN

    def foot(self, texts: Sequence[str]) -> int:
        """Write texts at the lower edge; return the row where the room above them ends."""
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
        """Put the picture at the left, its captions below. ``widths``: the least and the greatest width;
        ``top``, ``bottom``: the rows between which it must fit. Returns the column right of it and the row
        below its captions.
        """
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
        """Write texts right of the column ``left``, between the rows ``top`` and ``bottom``, in large letters
        if they have room.
        """
        size = LARGE_LETTERS if self.height_of(texts, left) <= bottom - top else LETTERS
        blocks = [self._block(text, self.width - left - MARGIN, size) for text in texts]
        self._write(_cut(blocks, (bottom - top) // _line_height(size)), WHITE, left, top, size)

    def height_of(self, texts: Sequence[str], left: int) -> int:
        """The height of the result ``texts`` in large letters, written from the column ``left`` on."""
        blocks = [self._block(text, self.width - left - MARGIN, LARGE_LETTERS) for text in texts]
        return sum(map(len, blocks)) * _line_height(LARGE_LETTERS)

    def _block(self, text: str, room: int, size: int) -> list[str]:
        """Break one result into lines; all but the first are indented. ``room``: their width; ``size``: of
        the letters.
        """
        step = "    "
        found: list[str] = []
        for part in text.split("\n"):
            first = step if found else ""
            pieces = self._lines(part, room - round(_font(size).getlength(first + step)), size)
            found += [f"{first}{step if place else ''}{piece}" for place, piece in enumerate(pieces)]
        return found

    def _lines(self, text: str, room: int, size: int = LETTERS) -> list[str]:
        """Break a text into lines of the width ``room``, with "?" for letters that the font lacks."""
        line = " ".join(unicodedata.normalize("NFC", text).split())
        return wrapped("".join(one if _is_drawn(one) else "?" for one in line), _font(size), room)

    def _write(
        self, lines: Sequence[str], colour: tuple[int, int, int], left: int, top: int, size: int = LETTERS
    ) -> int:
        """Write lines one below the other; returns the row below them."""
        ascent, _ = _font(size).getmetrics()
        for line in lines:
            self._draw.text((left, top), line, fill=colour, font=_font(size))
            self.layout.texts.append(PlacedText(line, left, top + ascent, size))
            top += _line_height(size)
        return top

    def _frame(self, box: PixelBox) -> None:
        """Draw a frame around a box."""
        left, top, right, bottom = box
        self._draw.rectangle((left, top, right - 1, bottom - 1), outline=EDGE)
        self.layout.frames.append(box)

    def _rule(self, row: int) -> int:
        """Draw a line across the page; returns its row."""
        self._draw.line([(MARGIN, row), (self.width - MARGIN, row)], fill=EDGE)
        self.layout.rules.append(row)
        return row


def _cut(blocks: Sequence[Sequence[str]], most: int) -> list[str]:
    """Return the first ``most`` lines of the ``blocks``. If there are more, the last line says how many
    blocks or lines are left out.
    """
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
    """The height of a line of text with letters of this size, in pixels."""
    return round(size * 1.3)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Load the font of all pictures in this size (pixels)."""
    return ImageFont.truetype(FONT, size, layout_engine=ImageFont.Layout.BASIC)
