"""Draw results into pictures, for viewers that show neither structured reports nor presentation states.

Words go below the picture, into an added margin, so that they cover nothing. The picture lies at the top
left, so drawings keep its coordinates. Only Pillow and its built-in scalable font are used: this runs where
no model is installed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
    """``display`` in RGB with the regions of findings that are not absent and the lines that a model
    measured; below it captions and a legend.

    ``display``: uint8, ``[rows, columns]`` or ``[rows, columns, 3]``; the result has more rows, and more
    columns where ``display`` is too narrow for words. ``legend``: the lines; the meaning of the boxes is
    inserted before the last one; without any, :func:`legend_of` findings and ``notes``. Several regions are
    numbered; if there are many, they are only counted.
    """
    canvas = _LabelledPicture.from_display(display)
    drawn = [measurement for measurement in measurements if measurement.model is not None]
    canvas.mark(findings, drawn)
    *lines, last = legend or legend_of(findings, notes, drawn)
    return canvas.above([], [*_in(WHITE, lines), *_in(YELLOW, box_captions(findings)), (last, WHITE)])


def marked(
    display: Picture, findings: Sequence[Finding], measurements: Sequence[Measurement], letters: int
) -> Picture:
    """``display`` with boxes and lines as :func:`annotate` draws them, without captions: RGB of the same
    size.

    ``letters``: height of the boxes' numbers in pixels, by which the width of lines is chosen.
    """
    canvas = _LabelledPicture(Image.fromarray(_rgb(display)), ImageFont.load_default(letters), letters)
    canvas.mark(findings, [one for one in measurements if one.model is not None])
    return np.array(canvas.image, np.uint8)


def box_captions(findings: Sequence[Finding]) -> list[str]:
    """The caption of each box of :func:`annotate` and :func:`marked`, with its number if there are several;
    of many how many there are of each label.
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
    """``display`` under the heat map of ``finding``, RGB; below it a colour bar from 0 to 1 and words.

    The words are the finding, the meaning of the colours, and ``legend`` (by default the model and the
    warning). Sizes as in :func:`annotate`. Raises ValueError if the finding has no heat map, or one of
    another size.
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
    return canvas.above([bar], [(label_text(finding), YELLOW), *_in(WHITE, [meaning, *warning])])


def label_text(finding: Finding) -> str:
    """The words for a box: ``AI: left pleural effusion suspected, low certainty``.

    If certainty was never measured, the model's number follows with the cut-off that it reached, since a
    number alone says nothing: ``83 % (cut-off 40 %)``, for an uncalibrated model ``score 0.83 (…)``.
    Presentation states use the same words.
    """
    if finding.code == BURNED_IN:
        return f"AI: {finding.name}"
    if finding.exclusive and finding.decision is not Decision.PRESENT:
        return "AI: outline"
    text = f"AI: {decided_in_words(finding)}"
    if finding.certainty or finding.probability is None:
        return text
    written = _per_cent if finding.model.calibrated else "{:.2f}".format
    cut_off = f" (cut-off {written(finding.threshold)})" if finding.threshold is not None else ""
    return f"{text}, {'' if finding.model.calibrated else 'score '}{written(finding.probability)}{cut_off}"


def _per_cent(share: float) -> str:
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
    """Whether any finding, or a model's measurement, is about the patient: burned-in annotation is not."""
    return any(finding.code != BURNED_IN for finding in findings) or any(one.model for one in measurements)


def place_lines(regions: Iterable[Region]) -> list[str]:
    """The origins of boxes and outlines, each once, as lines for the legend."""
    regions = list(regions)
    boxes = {region.origin for region in regions if region.type == "box"}
    outlined = any(region.type == "polygon" and region.origin is Origin.DETECTOR for region in regions)
    lines = [line for origin, line in PLACE_IS_APPROXIMATE.items() if origin in boxes]
    return [*lines, *([EDGE_IS_APPROXIMATE] if outlined else [])]


def _placed(findings: Sequence[Finding]) -> list[tuple[Finding, Region]]:
    """Each place of what is not absent."""
    shown = [finding for finding in findings if finding.decision is not Decision.ABSENT]
    return [(finding, region) for finding in shown for region in finding.regions]


@dataclass(frozen=True, slots=True)
class _LabelledPicture:
    image: Image.Image
    font: Font
    letters: int

    @staticmethod
    def from_display(display: Picture) -> _LabelledPicture:
        image = Image.fromarray(_rgb(display))
        # Height of letters as a share of the picture's shorter and longer side: the larger, because a
        # viewer fits the longer side to its window.
        wanted = max(min(image.size) * 0.026, max(image.size) * 0.014)
        # Letter sizes in pixels: less is not readable, more is not needed.
        letters = min(max(round(wanted), 11), 72)
        return _LabelledPicture(image, ImageFont.load_default(letters), letters)

    @property
    def line_width(self) -> int:
        return max(1, round(self.letters / 7))

    @property
    def line_height(self) -> int:
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
        """Draw in yellow with a black rim, so that it is seen on white and on black."""
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
        """Draw an open line with a stroke across each end."""
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
        """Write outside a corner of the box where nothing is ``taken``, else inside it; return the place."""
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
            if all(
                place[0] >= other[2] or other[0] >= place[2] or place[1] >= other[3] or other[1] >= place[3]
                for other in taken
            )
        )
        chosen = next(free, (*inside, inside[0] + width, inside[1] + height))
        ImageDraw.Draw(self.image).text(
            chosen[:2], text, fill=YELLOW, font=self.font, stroke_width=rim, stroke_fill=BLACK
        )
        return chosen

    def above(self, bars: Sequence[Picture], texts: Sequence[tuple[str, Colour]]) -> Picture:
        """The picture with a margin below: colour bars, and ``texts``, each with its colour."""
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


def _in(colour: Colour, texts: Iterable[str]) -> list[tuple[str, Colour]]:
    return [(text, colour) for text in texts]


def wrapped(text: str, font: Font, room: float) -> list[str]:
    """The lines of ``text``, each at most ``room`` pixels wide; wider words (a long model name)
    are broken.
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
    return f"Model: {', '.join(sorted({f'{model.id} {model.version}' for model in models}))}"


def _rgb(display: Picture) -> Picture:
    return display if display.ndim == 3 else np.repeat(display[:, :, None], 3, axis=2)


def _under_colours(picture: Picture, values: npt.NDArray[np.float64]) -> Picture:
    """``picture`` (RGB) seen through the colours of ``values``: the higher, the more opaque."""
    # Opacity of the heat map where it is 1; the picture must stay visible below.
    opacity = (0.6 * values)[..., None]
    places = np.linspace(0.0, 1.0, len(INFERNO))
    channels = [np.interp(values, places, INFERNO[:, channel]) for channel in range(3)]
    return np.asarray(np.rint((1.0 - opacity) * picture + opacity * np.stack(channels, axis=-1)), np.uint8)


def _printable(text: str) -> str:
    """Return ``text`` in the characters that the built-in font has (Latin-1)."""
    plain = text.replace("–", "-").replace("—", "-").replace("≥", ">=").replace("≤", "<=").replace("×", "x")
    return plain.encode("latin-1", "replace").decode("latin-1")
