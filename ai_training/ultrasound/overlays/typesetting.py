"""Text as scanners draw it: outline fonts, plotter strokes, pixel letters; outlined, shadowed, boxed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ai_training.ultrasound.overlays.canvas import Alpha, Canvas, Colour, Stamp

STROKE_HEIGHT = 21.0
"""Height of a capital in the units of the Hershey fonts."""


@dataclass(frozen=True, slots=True)
class Face:
    """One font. ``path`` is empty for the plotter fonts of A. V. Hershey, which have only a name."""

    name: str
    path: str = ""
    bold: bool = False

    @property
    def is_stroked(self) -> bool:
        return not self.path


@dataclass(frozen=True, slots=True)
class Hand:
    """The style of the texts of one overlay. ``size``: the letters' height in pixels."""

    face: Face
    size: int
    colour: Colour
    opacity: float = 1.0
    smooth: bool = True
    coarse: int = 1
    outline: Colour | None = None
    shadow: Colour | None = None
    box: Colour | None = None
    box_opacity: float = 1.0
    frame: Colour | None = None
    angle: float = 0.0

    def sized(self, size: float) -> Hand:
        return replace(self, size=max(6, round(size)))


@dataclass(frozen=True, slots=True)
class Font:
    """An openly licensed font family in a Python package, and the files of its upright faces there."""

    name: str
    package: str
    regular: str
    bold: str = ""

    @classmethod
    def packaged(cls, name: str) -> Font:
        """The font of a ``font-*`` package of PyPI; these packages share one layout."""
        start = f"files/{name.replace(' ', '')}"
        return cls(
            name, f"font_{name.casefold().replace(' ', '_')}", f"{start}-Regular.ttf", f"{start}-Bold.ttf"
        )

    def faces(self) -> tuple[Face, ...]:
        """The faces of the font. Raises ModuleNotFoundError without the package: other fonts would change
        pictures.
        """
        return tuple(
            Face(self.name, str(files(self.package).joinpath(file)), bold=file == self.bold)
            for file in (self.regular, self.bold)
            if file
        )


def font_list(faces: Iterable[Face]) -> list[dict[str, str]]:
    """The used fonts, for the record: name, weight, file name, SHA-256 of the file."""
    return [
        {
            "name": face.name,
            "weight": "bold" if face.bold else "regular",
            "file": Path(face.path).name if face.path else "Hershey-Fonts",
            "sha256": _digest(face.path) if face.path else "",
        }
        for face in faces
    ]


def stencil(text: str, hand: Hand) -> tuple[Alpha, Alpha]:
    """The stencil of the letters, and that of their outline (equal shapes; the second contains the first)."""
    size = max(4, hand.size // hand.coarse)
    if hand.face.is_stroked:
        letters = _plotted(text, hand.face.name, size, hand.smooth)
        wide = cv2.dilate(letters, np.ones((3, 3), np.uint8))
    else:
        width = 1 if hand.outline is not None else 0
        letters, wide = _typeset(text, hand, size, 0), _typeset(text, hand, size, width)
    if hand.coarse > 1:
        letters, wide = (
            np.kron(part, np.ones((hand.coarse, hand.coarse), np.uint8)) for part in (letters, wide)
        )
    if hand.angle:
        letters, wide = _turned(letters, hand.angle), _turned(wide, hand.angle)
    return letters, wide


def write(
    canvas: Canvas, text: str, place: tuple[int, int], hand: Hand, *, right: bool = False
) -> list[Stamp]:
    """Stamps for ``text`` with its upper left (``right``: upper right) corner at ``place``; cut at the edges.

    The box behind the text, if there is one, is painted onto the canvas here.
    """
    letters, wide = stencil(text, hand)
    rows, columns = letters.shape
    left, top = place[0] - (columns if right else 0), place[1]
    stamps: list[Stamp] = []
    if hand.box is not None or hand.frame is not None:
        pad = max(2, hand.size // 4)
        corners = (left - pad, top - pad), (left + columns + pad - 1, top + rows + pad - 1)
        if hand.box is not None:
            ground = canvas.blank()
            cv2.rectangle(ground, *corners, 255, -1)
            canvas.ground(Stamp(ground, hand.box, hand.box_opacity))
        if hand.frame is not None:
            rim = canvas.blank()
            cv2.rectangle(rim, *corners, 255, 1)
            stamps.append(Stamp(rim, hand.frame))
    if hand.shadow is not None:
        stamps.append(Stamp(_placed(canvas, letters, left + 1, top + 1), hand.shadow, hand.opacity))
    if hand.outline is not None:
        stamps.append(Stamp(_placed(canvas, wide, left, top), hand.outline, hand.opacity))
    stamps.append(Stamp(_placed(canvas, letters, left, top), hand.colour, hand.opacity))
    return stamps


def extent(text: str, hand: Hand) -> tuple[int, int]:
    """The columns and rows that ``text`` takes up."""
    rows, columns = stencil(text, hand)[0].shape
    return columns, rows


def _typeset(text: str, hand: Hand, size: int, outline: int) -> Alpha:
    # Letters' height, not em: a font's em is about 1.4 times its capitals.
    font = _font(hand.face.path, round(size * 1.35))
    left, top, right, bottom = font.getbbox(text, stroke_width=1)
    image = Image.new("L", (max(1, int(right - left) + 2), max(1, int(bottom - top) + 2)), 0)
    draw = ImageDraw.Draw(image)
    draw.fontmode = "L" if hand.smooth else "1"
    draw.text((1 - left, 1 - top), text, fill=255, font=font, stroke_width=outline)
    return np.array(image, np.uint8)


def _plotted(text: str, name: str, size: int, smooth: bool) -> Alpha:
    scale = size / STROKE_HEIGHT
    strokes = [
        np.array(stroke, np.float64) * scale for stroke in _hershey(name).strokes_for_text(_ascii(text))
    ]
    if not strokes:
        return np.zeros((size, 1), np.uint8)
    points = np.concatenate(strokes)
    low, high = points.min(axis=0), points.max(axis=0)
    width, height = np.ceil(high - low).astype(int) + 4
    alpha = np.zeros((height, width), np.uint8)
    shift = 4
    for stroke in strokes:
        cv2.polylines(
            alpha,
            [np.rint((stroke - low + 2) * (1 << shift)).astype(np.int32)],
            False,
            255,
            max(1, size // 14),
            cv2.LINE_AA if smooth else cv2.LINE_8,
            shift,
        )
    return alpha


def _turned(alpha: Alpha, angle: float) -> Alpha:
    if angle % 90 == 0:
        return np.ascontiguousarray(np.rot90(alpha, round(angle / 90)))
    rows, columns = alpha.shape
    turn = cv2.getRotationMatrix2D((columns / 2, rows / 2), angle, 1.0)
    width = int(rows * abs(turn[0, 1]) + columns * abs(turn[0, 0])) + 2
    height = int(rows * abs(turn[0, 0]) + columns * abs(turn[0, 1])) + 2
    turn[:, 2] += (width - columns) / 2, (height - rows) / 2
    return np.asarray(cv2.warpAffine(alpha, turn, (width, height), flags=cv2.INTER_LINEAR), np.uint8)


def _placed(canvas: Canvas, patch: Alpha, left: int, top: int) -> Alpha:
    alpha = canvas.blank()
    columns, rows = canvas.size
    inner = (
        slice(max(0, top), min(rows, top + patch.shape[0])),
        slice(max(0, left), min(columns, left + patch.shape[1])),
    )
    own = slice(inner[0].start - top, inner[0].stop - top), slice(inner[1].start - left, inner[1].stop - left)
    if inner[0].stop > inner[0].start and inner[1].stop > inner[1].start:
        alpha[inner] = patch[own]
    return alpha


def _ascii(text: str) -> str:
    """What plotter fonts have: the plain letters, digits and signs."""
    return text.replace("²", "2").replace("°", "").encode("ascii", "ignore").decode()


@cache
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@cache
def _hershey(name: str):  # type: ignore[no-untyped-def]
    from HersheyFonts import HersheyFonts

    font = HersheyFonts()
    font.load_default_font(name)
    return font


@cache
def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
