"""Drawing results into pictures, for viewers that show neither structured reports nor presentation states.

Pillow and its built-in scalable font only: this runs where no model is installed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ai_pipeline.contract import Decision, Finding, Origin, Region

Picture = npt.NDArray[np.uint8]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

NOT_FOR_DIAGNOSIS = "AI result - not for diagnostic use"
PLACE_IS_APPROXIMATE = {
    Origin.ACTIVATION: "box: class activation, approximate place",
    Origin.DETECTOR: "box: detector, approximate place",
}

YELLOW, BLACK, WHITE = (255, 214, 0), (0, 0, 0), (255, 255, 255)
"""Yellow on black is seen by colour-blind readers and is no colour of anatomy or of flow alone."""
LETTER_SHARE = 0.026
"""Height of letters as a share of the picture's shorter side."""
SMALLEST_LETTERS, LARGEST_LETTERS = 9, 72
"""Letter sizes in pixels: less is not readable, more hides the picture."""
MOST_LABELS = 6
"""Boxes that bear a label each; of more the legend tells how many there are."""
ROOM_FOR_LEGEND = 140
"""Shorter side below which there is room for "AI" only (pixels)."""
LARGEST_LEGEND = 0.35
"""Share of the picture's height that the legend may take; further lines are dropped, the last one never."""
MOST_OPAQUE = 0.6
"""Opacity of the heat map where it is 1; the picture must stay visible below."""
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


def annotate(display: Picture, findings: Sequence[Finding], legend: Sequence[str] = ()) -> Picture:
    """Return RGB of the size of ``display`` with the regions of what is not absent, and a legend.

    ``display``: uint8, ``[rows, columns]`` or ``[rows, columns, 3]``. ``legend``: lines at the foot, the most
    important last; without any, :func:`legend_of` of the findings. Many boxes bear no label each, which would
    hide the picture: the legend counts them.
    """
    canvas = _Canvas.of(display)
    placed = [
        (finding, region)
        for finding in findings
        if finding.decision is not Decision.ABSENT
        for region in finding.regions
    ]
    for _, region in placed:
        canvas.outline(region.bounds if region.type == "box" else None, region.points)
    lines = list(legend) or legend_of(findings)
    if len(placed) <= MOST_LABELS:
        for finding, region in placed:
            canvas.label(label_text(finding), region.bounds)
    else:
        counts = Counter(finding.label for finding, _ in placed)
        lines = ["AI: " + ", ".join(f"{count} x {label}" for label, count in counts.items()), *lines]
    canvas.legend(lines)
    return canvas.result()


def heatmap_overlay(display: Picture, finding: Finding, legend: Sequence[str] = ()) -> Picture:
    """Return RGB of the size of ``display`` under the heat map of ``finding``, with a colour bar from 0 to 1.

    Above stands what was found, below what the colours mean, then ``legend`` (by default the model and the
    warning). Raises ValueError when the finding has no heat map or one of another size.
    """
    evidence = finding.evidence
    if evidence is None or evidence.values.shape != display.shape[:2]:
        size = "none" if evidence is None else f"one of {evidence.values.shape}"
        raise ValueError(f"a heat map over a picture of {display.shape[:2]} is asked for, there is {size}")
    values = np.clip(evidence.values.astype(np.float64), 0.0, 1.0)
    canvas = _Canvas.of(_under_colours(_rgb(display), values))
    canvas.colour_bar()
    canvas.heading(label_text(finding))
    warning = list(legend) or [_models([finding]), NOT_FOR_DIAGNOSIS]
    canvas.legend([f"Colours: {evidence.method}; 1 = peak; no outline", *warning])
    return canvas.result()


def label_text(finding: Finding) -> str:
    """Say what a box shows: the finding and how sure the model is, in per cent only if calibrated.

    ``AI: Cardiomegaly 83 %``, of an uncalibrated model ``AI: Cardiomegaly score 0.83``. Presentation states
    say it in the same words.
    """
    doubt = " (indeterminate)" if finding.decision is Decision.INDETERMINATE else ""
    if finding.probability is None:
        return f"AI: {finding.label}{doubt}"
    if finding.model.calibrated:
        return f"AI: {finding.label}{doubt} {finding.probability * 100:.0f} %"
    return f"AI: {finding.label}{doubt} score {finding.probability:.2f}"


def legend_of(findings: Sequence[Finding]) -> list[str]:
    """Return the usual legend: what has no place, what the boxes are, the models, the warning."""
    shown = [finding for finding in findings if finding.decision is not Decision.ABSENT]
    lines = [label_text(finding) for finding in shown if not finding.regions]
    if not shown:
        lines = ["AI: nothing found"]
    lines += places_told(region for finding in shown for region in finding.regions)
    return [*lines, *([_models(findings)] if findings else []), NOT_FOR_DIAGNOSIS]


def places_told(regions: Iterable[Region]) -> list[str]:
    """What the legend says of where boxes come from, each origin once."""
    origins = {region.origin for region in regions}
    return [line for origin, line in PLACE_IS_APPROXIMATE.items() if origin in origins]


@dataclass(slots=True)
class _Canvas:
    image: Image.Image
    draw: ImageDraw.ImageDraw
    font: Font
    letters: int
    taken: list[tuple[float, float, float, float]]
    said: set[str]

    @staticmethod
    def of(display: Picture) -> _Canvas:
        image = Image.fromarray(_rgb(display))
        letters = round(min(image.size) * LETTER_SHARE)
        letters = min(max(letters, SMALLEST_LETTERS), LARGEST_LETTERS)
        return _Canvas(image, ImageDraw.Draw(image), ImageFont.load_default(letters), letters, [], set())

    @property
    def line_width(self) -> int:
        return max(1, round(self.letters / 7))

    @property
    def small(self) -> bool:
        return min(self.image.size) < ROOM_FOR_LEGEND

    def result(self) -> Picture:
        return np.array(self.image, np.uint8)

    def outline(
        self, box: tuple[float, float, float, float] | None, points: Sequence[tuple[float, float]]
    ) -> None:
        """Draw in yellow with a black rim, so that it is seen on white and on black."""
        width = self.line_width
        for colour, thickness in ((BLACK, width + 2), (YELLOW, width)):
            if box is not None:
                self.draw.rectangle(self._pixels(box), outline=colour, width=thickness)
            else:
                self.draw.line([*points, points[0]], fill=colour, width=thickness, joint="curve")

    def label(self, text: str, box: tuple[float, float, float, float]) -> None:
        """Write above the box, else below it, else inside; leave it out where the same was said nearby."""
        text = "AI" if self.small else text
        width, height = self._size(text)
        left = min(max(box[0], 0.0), max(0.0, self.image.width - width))
        places = [box[1] - height, box[3] + 1, box[1] + 1]
        free = [
            top
            for top in places
            if 0 <= top <= self.image.height - height and not self._overlaps(left, top, width, height)
        ]
        if not free and text in self.said:
            return
        top = free[0] if free else min(max(box[1] - height, 0.0), max(0.0, self.image.height - height))
        self._write(text, left, top, YELLOW)
        self.said.add(text)

    def heading(self, text: str) -> None:
        self._write("AI" if self.small else self._fitted(text), 0, 0, YELLOW)
        self.said.add("AI")

    def legend(self, lines: Sequence[str]) -> None:
        """Write the lines at the foot; a small picture has room for "AI" only."""
        if self.small:
            if "AI" not in self.said:
                self._write("AI", 0, self.image.height - self._size("AI")[1], YELLOW)
            return
        wrapped = [piece for line in lines for piece in self._wrapped(line)]
        height = self._size("AI")[1]
        room = max(1, int(LARGEST_LEGEND * self.image.height / height))
        kept = wrapped if len(wrapped) <= room else [*wrapped[: room - 1], wrapped[-1]]
        for number, line in enumerate(kept):
            self._write(line, 0, self.image.height - height * (len(kept) - number), WHITE)

    def colour_bar(self) -> None:
        """Draw the scale at the right edge: 1 at the top, 0 at the bottom, as it looks over medium grey."""
        width = max(3, self.image.width // 40)
        height = max(8, int(0.45 * self.image.height))
        left = self.image.width - width - 2
        top = (self.image.height - height) // 2
        scale = np.linspace(1.0, 0.0, height)[:, None].repeat(width, axis=1)
        grey = np.full((height, width, 3), MEDIUM_GREY, np.uint8)
        self.image.paste(Image.fromarray(_under_colours(grey, scale)), (left, top))
        self.draw.rectangle((left - 1, top - 1, left + width, top + height), outline=WHITE)
        if not self.small:
            for value in (1.0, 0.5, 0.0):
                text = f"{value:.1f}"
                text_width, text_height = self._size(text)
                self._write(text, left - text_width - 2, top + (1 - value) * height - text_height / 2, WHITE)

    def _write(self, text: str, left: float, top: float, colour: tuple[int, int, int]) -> None:
        width, height = self._size(text)
        self.draw.rectangle((left, top, left + width, top + height), fill=BLACK)
        self.draw.text((left + self.letters / 4, top), _printable(text), fill=colour, font=self.font)
        self.taken.append((left, top, left + width, top + height))

    def _size(self, text: str) -> tuple[float, float]:
        """Return width and height of a written line with its black ground (pixels)."""
        return float(self.font.getlength(_printable(text))) + self.letters / 2, round(self.letters * 1.3)

    def _overlaps(self, left: float, top: float, width: float, height: float) -> bool:
        return any(
            left < right_ and left_ < left + width and top < bottom_ and top_ < top + height
            for left_, top_, right_, bottom_ in self.taken
        )

    def _fitted(self, text: str) -> str:
        return self._wrapped(text)[0]

    def _wrapped(self, text: str) -> list[str]:
        lines: list[str] = []
        for word in text.split():
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and self._size(longer)[0] <= self.image.width:
                lines[-1] = longer
            else:
                lines.append(word)
        return lines or [""]

    def _pixels(self, box: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
        """From the corners of an area to the pixels that lie on its edge, kept inside the picture."""
        left, top = max(0, int(box[0])), max(0, int(box[1]))
        right = min(self.image.width - 1, max(left, round(box[2]) - 1))
        bottom = min(self.image.height - 1, max(top, round(box[3]) - 1))
        return left, top, right, bottom


def _models(findings: Sequence[Finding]) -> str:
    names = sorted({f"{finding.model.id} {finding.model.version}" for finding in findings})
    return f"Model: {', '.join(names)}"


def _rgb(display: Picture) -> Picture:
    return display if display.ndim == 3 else np.repeat(display[:, :, None], 3, axis=2)


def _under_colours(picture: Picture, values: npt.NDArray[np.float64]) -> Picture:
    """``picture`` (RGB) seen through the colours of ``values``: the higher, the more opaque."""
    opacity = (MOST_OPAQUE * values)[..., None]
    return np.asarray(np.rint((1.0 - opacity) * picture + opacity * _coloured(values)), np.uint8)


def _coloured(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    places = np.linspace(0.0, 1.0, len(INFERNO))
    channels = [np.interp(values, places, INFERNO[:, channel]) for channel in range(3)]
    return cast(npt.NDArray[np.float64], np.stack(channels, axis=-1))


def _printable(text: str) -> str:
    """Return ``text`` in the characters that the built-in font has (Latin-1)."""
    plain = text.replace("–", "-").replace("—", "-").replace("≥", ">=").replace("≤", "<=").replace("×", "x")
    return plain.encode("latin-1", "replace").decode("latin-1")
