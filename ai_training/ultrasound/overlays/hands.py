"""How texts are written: fonts, colours and styles of two families that share nothing."""

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
from ai_training.ultrasound.overlays.texts import Random, one


@dataclass(frozen=True, slots=True)
class Face:
    """One font. ``path`` is empty for the plotter fonts of A. V. Hershey, which have only a name."""

    name: str
    path: str = ""
    bold: bool = False

    @property
    def is_stroked(self) -> bool:
        """Whether the font is drawn as strokes."""
        return not self.path


@dataclass(frozen=True, slots=True)
class Hand:
    """The lettering of the texts of one overlay: font, colour, effects. ``size``: the letters' height in
    pixels.
    """

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
        """Return the same lettering at another size (pixels)."""
        return replace(self, size=max(6, round(size)))


def font_list(faces: Iterable[Face]) -> list[dict[str, str]]:
    """The used fonts, for the record: name, weight, file name, SHA-256 of the file."""
    return [
        {
            "name": face.name,
            "weight": "bold" if face.bold else "regular",
            "file": Path(face.path).name if face.path else "Hershey-Fonts",
            "sha256": hashlib.sha256(Path(face.path).read_bytes()).hexdigest() if face.path else "",
        }
        for face in faces
    ]


def stencil(text: str, hand: Hand) -> tuple[Alpha, Alpha]:
    """Make the stencil of the letters of ``text`` in the lettering ``hand``, and that of their outline (equal
    shapes; the second contains the first).
    """
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
    """Make stamps for ``text`` in the lettering ``hand``, with its upper left (``right``: upper right) corner
    at ``place``; cut at the edges. The box behind the text, if there is one, is painted onto the canvas
    here.
    """
    letters, wide = stencil(text, hand)
    rows, columns = letters.shape
    left, top = place[0] - (columns if right else 0), place[1]
    stamps: list[Stamp] = []
    if hand.box is not None or hand.frame is not None:
        pad = max(2, hand.size // 4)
        corners = (left - pad, top - pad), (left + columns + pad - 1, top + rows + pad - 1)
        if hand.box is not None:
            ground = canvas.sketch((cv2.rectangle, *corners, 255, -1))
            canvas.ground(Stamp(ground, hand.box, hand.box_opacity))
        if hand.frame is not None:
            stamps.append(Stamp(canvas.sketch((cv2.rectangle, *corners, 255, 1)), hand.frame))
    if hand.shadow is not None:
        stamps.append(Stamp(_placed(canvas, letters, left + 1, top + 1), hand.shadow, hand.opacity))
    if hand.outline is not None:
        stamps.append(Stamp(_placed(canvas, wide, left, top), hand.outline, hand.opacity))
    stamps.append(Stamp(_placed(canvas, letters, left, top), hand.colour, hand.opacity))
    return stamps


def extent(text: str, hand: Hand) -> tuple[int, int]:
    """The numbers of columns and rows that ``text`` needs in the lettering ``hand``."""
    rows, columns = stencil(text, hand)[0].shape
    return columns, rows


def _typeset(text: str, hand: Hand, size: int, outline: int) -> Alpha:
    """The stencil of a text in an outline font."""
    # Letters' height, not em: a font's em is about 1.4 times its capitals.
    font = _font(hand.face.path, round(size * 1.35))
    left, top, right, bottom = font.getbbox(text, stroke_width=1)
    image = Image.new("L", (max(1, int(right - left) + 2), max(1, int(bottom - top) + 2)), 0)
    draw = ImageDraw.Draw(image)
    draw.fontmode = "L" if hand.smooth else "1"
    draw.text((1 - left, 1 - top), text, fill=255, font=font, stroke_width=outline)
    return np.array(image, np.uint8)


def _plotted(text: str, name: str, size: int, smooth: bool) -> Alpha:
    """The stencil of a text in a plotter font."""
    # The height of a capital in the units of the Hershey fonts.
    scale = size / 21.0
    strokes = [
        np.array(stroke, np.float64) * scale
        for stroke in _hershey(name).strokes_for_text(
            text.replace("²", "2").replace("°", "").encode("ascii", "ignore").decode()
        )
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
    """Turn a stencil by ``angle`` degrees."""
    if angle % 90 == 0:
        return np.ascontiguousarray(np.rot90(alpha, round(angle / 90)))
    rows, columns = alpha.shape
    turn = cv2.getRotationMatrix2D((columns / 2, rows / 2), angle, 1.0)
    width = int(rows * abs(turn[0, 1]) + columns * abs(turn[0, 0])) + 2
    height = int(rows * abs(turn[0, 0]) + columns * abs(turn[0, 1])) + 2
    turn[:, 2] += (width - columns) / 2, (height - rows) / 2
    return np.asarray(cv2.warpAffine(alpha, turn, (width, height), flags=cv2.INTER_LINEAR), np.uint8)


def _placed(canvas: Canvas, patch: Alpha, left: int, top: int) -> Alpha:
    """Place the stencil ``patch`` on an empty stencil of the canvas's size."""
    shift = np.array([[1, 0, left], [0, 1, top]], np.float32)
    return np.asarray(cv2.warpAffine(patch, shift, canvas.size, flags=cv2.INTER_NEAREST), np.uint8)


@cache
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    """Load the font file at this size (pixels)."""
    return ImageFont.truetype(path, size)


@cache
def _hershey(name: str):  # type: ignore[no-untyped-def]
    """The Hershey font with this name."""
    from HersheyFonts import HersheyFonts

    font = HersheyFonts()
    font.load_default_font(name)
    return font


TTF = "mpl-data/fonts/ttf"
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
COLOURS: tuple[tuple[Colour, float], ...] = (
    (WHITE, 6),
    ((225, 225, 225), 4),
    ((180, 180, 180), 2),
    ((255, 255, 0), 5),
    ((230, 220, 60), 3),
    ((0, 255, 255), 2),
    ((90, 210, 230), 1),
    ((0, 255, 0), 1.5),
    ((120, 230, 120), 1),
    ((255, 165, 0), 1),
    ((95, 95, 255), 1.5),
    ((255, 70, 70), 0.7),
    ((255, 130, 255), 0.4),
    ((20, 20, 20), 0.3),
)


@dataclass(frozen=True, slots=True)
class StyleFamily:
    """The fonts, colours and texts of one family of overlays. Every font comes with a Python package.

    ``latin``: outline fonts, then plotter fonts.
    """

    name: str
    latin: tuple[Face, ...]
    korean: tuple[Face, ...]
    layouts: tuple[str, ...]
    glyphs: tuple[str, ...]
    names: tuple[str, ...]
    dates: tuple[str, ...]


def _faces(name: str, package: str, regular: str, bold: str = "") -> tuple[Face, ...]:
    """The upright faces of an openly licensed font in a Python package. Raises ModuleNotFoundError without
    the package: other fonts would change pictures.
    """
    there = [file for file in (regular, bold) if file]
    return tuple(Face(name, str(files(package).joinpath(file)), bold=file == bold) for file in there)


def _packaged(name: str) -> tuple[Face, ...]:
    """The faces of a ``font-*`` package of PyPI; these packages share one layout."""
    start, package = f"files/{name.replace(' ', '')}", f"font_{name.casefold().replace(' ', '_')}"
    return _faces(name, package, f"{start}-Regular.ttf", f"{start}-Bold.ttf")


TRAIN = StyleFamily(
    name="train",
    latin=(
        *_packaged("Source Sans Pro"),
        *_packaged("Source Serif Pro"),
        *_packaged("Manrope"),
        *_faces("STIXGeneral", "matplotlib", f"{TTF}/STIXGeneral.ttf", f"{TTF}/STIXGeneralBol.ttf"),
        *_faces("cmss10", "matplotlib", f"{TTF}/cmss10.ttf"),
        *_faces("cmtt10", "matplotlib", f"{TTF}/cmtt10.ttf"),
        *map(Face, ("futural", "futuram", "rowmans", "scripts")),
    ),
    korean=_faces("Noto Sans KR", "pylopdf_fonts_ko", "NotoSansKR-Regular.otf"),
    layouts=("top strip", "top left stack", "right column", "bottom results", "inner labels", "boxed line"),
    glyphs=("plus", "times", "gapped plus", "tee", "up tack"),
    names=("korean", "last, first", "LAST FIRST", "first last", "MRS LAST"),
    dates=("d.m.y", "m/d/y", "y-m-d", "ymd", "d/m/yy"),
)
HELD_OUT = StyleFamily(
    name="held-out",
    latin=(
        *_faces("DejaVu Sans", "matplotlib", f"{TTF}/DejaVuSans.ttf", f"{TTF}/DejaVuSans-Bold.ttf"),
        *_faces(
            "DejaVu Sans Mono", "matplotlib", f"{TTF}/DejaVuSansMono.ttf", f"{TTF}/DejaVuSansMono-Bold.ttf"
        ),
        *_faces("DejaVu Serif", "matplotlib", f"{TTF}/DejaVuSerif.ttf", f"{TTF}/DejaVuSerif-Bold.ttf"),
        *_packaged("Caladea"),
        *map(Face, ("timesr", "rowmant", "cursive", "scriptc")),
    ),
    korean=_faces("Noto Serif KR", "pylopdf_fonts_ko", "NotoSerifKR-Regular.otf"),
    layouts=(
        "bottom strip",
        "centred heading",
        "left column",
        "results table",
        "slanted note",
        "framed block",
    ),
    glyphs=("star", "ringed plus", "diamond", "square"),
    names=("korean", "LAST^FIRST", "F. Last", "Last, First I."),
    dates=("d Mon y", "d-MON-yy", "y/m/d"),
)
FAMILIES = {family.name: family for family in (TRAIN, HELD_OUT)}


def colour(random: Random) -> Colour:
    """Choose a random colour, varied a little, of those in which scanners write; white and yellow are the
    most frequent.
    """
    weights = [weight for _, weight in COLOURS]
    chosen = COLOURS[int(random.choice(len(COLOURS), p=[weight / sum(weights) for weight in weights]))][0]
    wobble = random.integers(-12, 13, 3)
    red, green, blue = (
        min(255, max(0, value + int(shift))) for value, shift in zip(chosen, wobble, strict=True)
    )
    return red, green, blue


def hand(random: Random, family: StyleFamily, size: float, *, korean: bool) -> Hand:
    """Choose a random lettering for a group of texts, as ``family`` allows: font, size, colour, opacity,
    outline, shadow, box and frame. ``size``: height of letters in pixels; ``korean``: the font must have
    Korean letters.
    """
    chosen = one(random, family.korean if korean else family.latin)
    ink = colour(random)
    dark = sum(ink) < 200
    style = random.choice(["plain", "outline", "shadow", "box", "frame"], p=[0.52, 0.16, 0.12, 0.15, 0.05])
    grounds: tuple[Colour, ...] = (BLACK, (25, 25, 40), (60, 60, 60), (0, 0, 120))
    ground = one(random, grounds) if not dark else (210, 210, 210)
    coarse = int(size >= 14 and random.random() < 0.18) + 1
    opacity = float(random.choice([1.0, 0.85, 0.65])) if random.random() < 0.3 else 1.0
    smooth = bool(random.random() < 0.75) and coarse == 1
    contrast = WHITE if dark else BLACK
    is_boxed = style == "box" or (dark and style == "plain")
    return Hand(
        face=chosen,
        size=max(6, round(size)),
        colour=ink,
        opacity=opacity,
        smooth=smooth,
        coarse=coarse,
        outline=contrast if style == "outline" else None,
        shadow=contrast if style == "shadow" else None,
        box=ground if is_boxed else None,
        box_opacity=float(random.choice([1.0, 1.0, 0.7, 0.4])),
        frame=ink if style == "frame" else None,
    )


def letter_height(canvas: Canvas, random: Random, low: float, high: float) -> float:
    """A random height of letters in pixels, at least 7: a share ``low`` to ``high`` (0 to 1) of the shorter
    side.
    """
    return max(7.0, float(random.uniform(low, high)) * min(canvas.size))
