"""Synthetic burned-in annotation on clean ultrasound frames, with the truth: each drawn object and its place.

Texts are as scanners write them: invented words, fonts, styles. Two families of styles share nothing: a
detector is trained on one family and evaluated on the other, because a site's scanners write in ways that
the detector has never seen. Calipers, arrows, bars, rulers and logos are drawn as stencils of the canvas's
size, and placed at random. :func:`burn_in` gives the clean picture, mask, classes and objects as well.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cache, partial
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import find_objects

from ai_pipeline.burnin.find.annotation import Box, Picture, brightest
from ai_pipeline.contract import Meaning
from ai_training.sets import read_rgb, rows

Colour = tuple[int, int, int]
Alpha = npt.NDArray[np.uint8]
"""How much of the colour a pixel takes: 0 none, 255 all. Shape of the picture."""


class MarkClass(IntEnum):
    """The classes of marks that the detector distinguishes by appearance."""

    BACKGROUND = 0
    TEXT = 1
    CALIPER = 2
    MARKER = 3
    SCALE = 4
    LOGO = 5


@dataclass(frozen=True, slots=True)
class BurnedObject:
    """One object that was drawn into a synthetic picture. ``text``: its whole text (names are invented).
    ``box`` (pixels; right and bottom exclusive) is computed from the pixels of the stored picture.
    """

    kind: MarkClass
    meaning: Meaning
    text: str
    box: Box = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Stamp:
    """A colour to be painted through a stencil ``alpha``; ``opacity`` 0 to 1."""

    alpha: Alpha
    colour: Colour
    opacity: float = 1.0


class Canvas:
    """An RGB picture into which :meth:`burn` draws marks; ``owners`` holds 1 + the object's index at each
    pixel. A pixel has an owner if and only if it differs from the clean picture.
    """

    def __init__(self, clean: Picture) -> None:
        """Start from the picture ``clean``."""
        self.clean: Picture = clean.copy()
        self.picture: Picture = clean.copy()
        self.owners: npt.NDArray[np.uint16] = np.zeros(clean.shape[:2], np.uint16)
        self.objects: list[BurnedObject] = []

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return self.clean.shape[1], self.clean.shape[0]

    def blank(self) -> Alpha:
        """An empty stencil of the picture's size."""
        return np.zeros(self.clean.shape[:2], np.uint8)

    def sketch(self, *strokes: tuple[Any, ...]) -> Alpha:
        """The stencil that ``strokes`` draw: each is a function of OpenCV with its arguments after the
        picture.
        """
        alpha = self.blank()
        for draw, *how in strokes:
            draw(alpha, *how)
        return alpha

    def burn(self, stamps: list[Stamp], kind: MarkClass, meaning: Meaning, text: str = "") -> None:
        """Draw one object of the class ``kind`` from ``stamps`` (stencils with colours), and list it with its
        ``meaning`` and ``text``. An object that changes no pixel (outside the picture, white on white) is not
        listed.
        """
        number = len(self.objects) + 1
        for stamp in stamps:
            cut = _blend(self.picture, stamp)
            differs, owners = (self.picture[cut] != self.clean[cut]).any(axis=2), self.owners[cut]
            owners[differs & (stamp.alpha[cut] > 0)] = number
            owners[~differs] = 0
        if (self.owners == number).any():
            self.objects.append(BurnedObject(kind, meaning, text))

    def ground(self, stamp: Stamp) -> None:
        """Draw a bar or box as the background of text, in the clean picture too.

        Without its text such a bar identifies nobody, so it belongs to the clean picture: cleaning keeps it.
        """
        for picture in (self.clean, self.picture):
            _blend(picture, stamp)
        self.owners[(self.picture == self.clean).all(axis=2)] = 0


def _blend(picture: Picture, stamp: Stamp) -> tuple[slice, slice]:
    """Draw a stamp; returns the part of the picture that it covers."""
    left, top, width, height = cv2.boundingRect(stamp.alpha)
    cut = slice(top, top + height), slice(left, left + width)
    weight = stamp.alpha[cut].astype(np.float32)[..., None] * (stamp.opacity / 255.0)
    below = picture[cut].astype(np.float32)
    picture[cut] = np.rint(below + weight * (np.array(stamp.colour, np.float32) - below))
    return cut


Random = np.random.Generator

VOCABULARY: dict[str, list[str]] = tomllib.loads(Path(__file__).with_name("words.toml").read_text("utf-8"))
T = TypeVar("T")


def one(random: Random, choices: Sequence[T]) -> T:
    """Choose one of ``choices`` at random, all equally likely."""
    return choices[int(random.integers(len(choices)))]


def person_name(random: Random, form: str) -> str:
    """Make an invented person's name in the form ``form``, one that a style family names."""
    if form == "korean":
        return one(random, VOCABULARY["korean_surnames"]) + one(random, VOCABULARY["korean_given"])
    last, first = one(random, VOCABULARY["surnames"]), one(random, VOCABULARY["given_names"])
    initial = chr(ord("A") + int(random.integers(26)))
    return {
        "last, first": f"{last}, {first}",
        "LAST FIRST": f"{last} {first}".upper(),
        "LAST^FIRST": f"{last}^{first}".upper(),
        "first last": f"{first} {last}",
        "F. Last": f"{initial}. {last}",
        "Last, First I.": f"{last}, {first} {initial}.",
        "MRS LAST": f"{one(random, ('MRS', 'MS', 'Frau', 'Mme'))} {last.upper()}",
    }[form]


def date_text(random: Random, form: str, first_year: int = 1940, last_year: int = 2025) -> str:
    """Make a random date in the form ``form``, one that a style family names."""
    year = int(random.integers(first_year, last_year + 1))
    month, day = int(random.integers(1, 13)), int(random.integers(1, 29))
    month_name = VOCABULARY["months"][month - 1]
    return {
        "d.m.y": f"{day:02}.{month:02}.{year}",
        "m/d/y": f"{month:02}/{day:02}/{year}",
        "y-m-d": f"{year}-{month:02}-{day:02}",
        "ymd": f"{year}{month:02}{day:02}",
        "d Mon y": f"{day} {month_name} {year}",
        "d-MON-yy": f"{day:02}-{month_name.upper()}-{year % 100:02}",
        "y/m/d": f"{year}/{month:02}/{day:02}",
        "d/m/yy": f"{day}/{month}/{year % 100:02}",
    }[form]


def time_text(random: Random) -> str:
    """A time of day in a random form."""
    hour, minute, second = (int(random.integers(top)) for top in (24, 60, 60))
    forms = (
        f"{hour:02}:{minute:02}:{second:02}",
        f"{hour:02}:{minute:02}",
        f"{(hour - 1) % 12 + 1}:{minute:02}:{second:02} {'AM' if hour < 12 else 'PM'}",
    )
    return one(random, forms)


def identifier(random: Random) -> str:
    """Make a random number of a patient or of an examination."""
    number = int(random.integers(10_000, 10**8))
    letter = chr(ord("A") + int(random.integers(26)))
    forms = (
        f"{number:08}",
        f"{letter}{number:07}",
        f"{number % 10**6:06}-{number % 97:02}",
        f"ID {number:07}",
        f"MRN{number:08}",
        f"ID: {letter}{number % 10**5:05}",
        f"{number % 10**6:06}-{1 + number % 4}{number % 10**6:06}",
        f"Acc# {number % 10**7}",
    )
    return one(random, forms)


def settings(random: Random, lines: int) -> list[str]:
    """Make random lines about a machine's settings, as scanners show them beside a picture."""
    ten, hundred = (int(random.integers(1, top)) for top in (10, 100))
    forms = [
        f"FR {hundred} Hz",
        f"{hundred}Hz",
        f"Gn {hundred}",
        f"G {hundred}%",
        f"C{ten} / M{ten}",
        f"P{ten} / E{ten}",
        f"FF{ten} / E{ten}",
        "SRI II 4 / CRI 3",
        f"2D {hundred}%",
        f"DR {hundred}",
        f"PRF {ten}.2 kHz",
        "WMF Low",
        f"{ten + 2}.{ten}cm",
        f"D {ten + 4} cm",
        f"Har-mid {ten}.0",
        f"Pwr {hundred} %",
        "Frq mid",
        f"Persist {ten}",
        f"{ten}.{hundred // 10}MHz",
        "THI",
        "Zoom",
        f"Z {1 + ten / 10:.1f}",
        "AO 100%",
        f"Map {chr(64 + ten)}",
        "CF",
        "Gen",
        f"L{ten + 4}-{ten}",
        f"RAB{ten}-6-D",
        f"C{ten}-1",
        f"Qual norm B{hundred}°",
        "SA / RA",
        "P Low",
        "Res",
    ]
    return [str(form) for form in random.permutation(forms)[:lines]]


def acoustic_output(random: Random) -> str:
    """Make a random text about acoustic output, such as "MI 1.2"."""
    first, second = random.integers(0, 20, 2) / 10
    forms = (f"MI {first:.1f}", f"TIs {first:.1f}", f"TIb {second:.1f}", f"MI:{first:.1f} TIs:{second:.1f}")
    return one(random, forms)


def measurement(random: Random) -> str:
    """Make a random measured value with its label and unit."""
    value, index = float(random.uniform(0.1, 30)), int(random.integers(1, 5))
    unit = one(random, ("cm", "mm", " cm", " mm", "cm", "ml", "cm²", " cm/s"))
    quantity = one(random, VOCABULARY["quantities"])
    weeks = f"{int(random.integers(5, 41))}w{int(random.integers(7))}d"
    forms = (
        f"{index} {quantity} {value:.2f}{unit}",
        f"{quantity} {value:.2f}{unit}",
        f"{quantity}: {value:.1f}{unit}",
        f"+ {quantity} {value:.2f}{unit}",
        f"{index}: {value:.2f}{unit}",
        f"{value:.1f} mm",
        f"{quantity} {value:.2f}cm {weeks}",
        f"GA {weeks}",
        f"EFW {int(value * 100)}g",
        f"RI 0.{index}{index}",
    )
    return one(random, forms)


def hospital(random: Random, korean: bool) -> str:
    """Choose an invented name of a hospital; ``korean``: in Korean."""
    return one(random, VOCABULARY["korean_hospitals"] if korean else VOCABULARY["hospitals"])


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
    return Hand(
        face=chosen,
        size=max(6, round(size)),
        colour=ink,
        opacity=float(random.choice([1.0, 0.85, 0.65])) if random.random() < 0.3 else 1.0,
        smooth=bool(random.random() < 0.75) and coarse == 1,
        coarse=coarse,
        outline=(WHITE if dark else BLACK) if style == "outline" else None,
        shadow=(WHITE if dark else BLACK) if style == "shadow" else None,
        box=ground if style == "box" or (dark and style == "plain") else None,
        box_opacity=float(random.choice([1.0, 1.0, 0.7, 0.4])),
        frame=ink if style == "frame" else None,
    )


def letter_height(canvas: Canvas, random: Random, low: float, high: float) -> float:
    """A random height of letters in pixels, at least 7: a share ``low`` to ``high`` (0 to 1) of the shorter
    side.
    """
    return max(7.0, float(random.uniform(low, high)) * min(canvas.size))


Point = tuple[int, int]
Points = npt.NDArray[np.float64]
"""A path: columns and rows, ``[n, 2]``."""
PLUS = ((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0))
TIMES = ((0.8, 0.8), (-0.8, 0.8), (0.8, -0.8), (-0.8, -0.8))


def glyph(canvas: Canvas, shape: str, centre: Point, arm: int, thick: int, smooth: bool) -> Alpha:
    """Make the stencil of a caliper's end. ``shape``: a name in :data:`GLYPHS`; ``arm``: half its width in
    pixels.
    """
    return canvas.sketch((GLYPHS[shape], centre, arm, thick, cv2.LINE_AA if smooth else cv2.LINE_8))


def dotted_path(canvas: Canvas, points: Points, gap: float, dot: int, smooth: bool) -> Alpha:
    """Make the stencil of dots, or dashes, of ``dot`` pixels at every ``gap`` pixels along the path through
    ``points``.
    """
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    dashes = []
    for place in np.arange(0, along[-1], max(gap, 2.0)):
        ends = np.clip([place, place + max(0, dot - 1)], 0, along[-1])
        start, end = _whole(np.column_stack([np.interp(ends, along, axis) for axis in points.T])).tolist()
        dashes.append((cv2.line, start, end, 255, 1, cv2.LINE_AA if smooth else cv2.LINE_8))
    return canvas.sketch(*dashes)


def arrow(canvas: Canvas, random: Random, tip: Point, length: int) -> Alpha:
    """Make the stencil of an arrow that points to ``tip`` from a random direction: with a line, as a block,
    or a head alone. ``length`` in pixels.
    """
    back = _direction(float(random.uniform(0, 2 * np.pi)))
    across = np.array([-back[1], back[0]])
    point, tail = np.array(tip, float), np.array(tip) + length * back
    style = int(random.integers(3))
    if style == 0:
        thick = int(random.integers(1, 3))
        return canvas.sketch((cv2.arrowedLine, _at(tail), _at(point), 255, thick, cv2.LINE_AA, 0, 0.35))
    head = 0.5 * length
    corners = [point, point + head * back + 0.4 * head * across, point + head * back - 0.4 * head * across]
    if style == 1:
        wide, neck = 0.15 * head * across, point + head * back
        corners[2:2] = [neck + wide, tail + wide, tail - wide, neck - wide]
    shape = [_whole(np.array(corners))]
    if random.random() < 0.6:
        return canvas.sketch((cv2.fillPoly, shape, 255, cv2.LINE_AA))
    return canvas.sketch((cv2.polylines, shape, True, 255, 1, cv2.LINE_AA))


def hand_cursor(canvas: Canvas, place: Point, size: int) -> Alpha:
    """Make the stencil of the hand-shaped cursor that sonographers leave in a picture."""
    (column, row), unit = place, max(1, size // 8)
    fingers = []
    for finger, tall in enumerate((3, 0, 1, 1)):
        left = column + finger * 3 * unit // 2
        fingers.append((cv2.rectangle, (left, row + tall * unit), (left + unit, row + 4 * unit), 255, -1))
    return canvas.sketch(
        (cv2.rectangle, (column, row + 3 * unit), (column + 5 * unit, row + 7 * unit), 255, -1),
        *fingers,
        (cv2.line, (column - unit, row + 3 * unit), (column + unit, row + 6 * unit), 255, unit + 1),
    )


def mouse_cursor(canvas: Canvas, place: Point, size: int) -> Alpha:
    """Make the stencil of a cursor in the shape of an arrow."""
    shape = np.array([(0, 0), (0, 16), (4, 12), (7, 18), (9, 17), (6, 11), (11, 11)]) * size / 18 + place
    return canvas.sketch((cv2.fillPoly, [_whole(shape)], 255))


def _at(point: Points) -> Point:
    """A point on whole pixels."""
    return round(float(point[0])), round(float(point[1]))


def _direction(angle: float) -> Points:
    """The unit vector of an angle."""
    return np.array([np.cos(angle), np.sin(angle)])


def _whole(points: Points) -> npt.NDArray[np.int32]:
    """The path on whole pixels, as OpenCV draws it."""
    return np.rint(points).astype(np.int32)


def _spokes(
    alpha: Alpha,
    centre: Point,
    arm: int,
    thick: int,
    line: int,
    directions: Sequence[tuple[float, float]] = PLUS,
    begin: float = 0.0,
) -> None:
    """Draw lines away from the centre; ``directions`` across and down, ``begin`` as a share of their
    length.
    """
    for way in directions:
        start, end = (_at(centre + r * np.array(way)) for r in (begin * arm, arm))
        cv2.line(alpha, start, end, 255, thick, line)


def _ringed_plus(alpha: Alpha, centre: Point, arm: int, thick: int, line: int) -> None:
    """Draw a plus with a ring around its centre."""
    _spokes(alpha, centre, arm, thick, line)
    cv2.circle(alpha, centre, max(2, arm // 2), 255, thick, line)


def _diamond(alpha: Alpha, centre: Point, arm: int, thick: int, line: int) -> None:
    """Draw a diamond with a dot at its centre."""
    x, y = centre
    corners = np.array([(x - arm, y), (x, y - arm), (x + arm, y), (x, y + arm)], np.int32)
    cv2.polylines(alpha, [corners], True, 255, thick, line)
    cv2.circle(alpha, centre, 0, 255, -1)


def _square(alpha: Alpha, centre: Point, arm: int, thick: int, line: int) -> None:
    """Draw an empty square."""
    x, y = centre
    half = max(2, arm * 2 // 3)
    cv2.rectangle(alpha, (x - half, y - half), (x + half, y + half), 255, thick, line)


GLYPHS: dict[str, Callable[[Alpha, Point, int, int, int], None]] = {
    "plus": _spokes,
    "times": partial(_spokes, directions=TIMES),
    "gapped plus": partial(_spokes, begin=0.35),
    "tee": partial(_spokes, directions=PLUS[:3]),
    "up tack": partial(_spokes, directions=(*PLUS[:2], PLUS[3])),
    "star": partial(_spokes, directions=PLUS + TIMES),
    "ringed plus": _ringed_plus,
    "diamond": _diamond,
    "square": _square,
}


def calipers(canvas: Canvas, random: Random, family: StyleFamily) -> None:
    """Draw one to three measured distances: two end marks each, mostly with dots between them and mostly with
    a number.
    """
    ink, shape = colour(random), one(random, family.glyphs)
    arm, thick = _arm(canvas, random), int(random.random() < 0.3) + 1
    smooth, numbered = bool(random.random() < 0.6), random.random() < 0.7
    middle = _place(canvas, random, 0.25, 0.75)
    for number in range(1, int(random.integers(1, 4)) + 1):
        angle, reach = random.uniform(0, np.pi), random.uniform(0.04, 0.25) * min(canvas.size)
        offset = reach * _direction(angle)
        shift = random.uniform(-0.08, 0.08, 2) * min(canvas.size)
        start, end = (_at(np.array(middle) + shift + way * offset) for way in (-1, 1))
        ends = [Stamp(glyph(canvas, shape, point, arm, thick, smooth), ink) for point in (start, end)]
        canvas.burn(ends, MarkClass.CALIPER, Meaning.MEASUREMENT)
        if random.random() < 0.75:
            _trace(canvas, random, np.array([start, end], np.float64), ink)
        if numbered:
            spot = end[0] + arm + 1, end[1] + int(random.integers(-arm, arm + 1))
            look = hand(random, family, letter_height(canvas, random, 0.02, 0.045), korean=False)
            stamps = write(canvas, str(number), spot, replace(look, box=None, frame=None))
            canvas.burn(stamps, MarkClass.TEXT, Meaning.MEASUREMENT, str(number))


def ellipse(canvas: Canvas, random: Random, family: StyleFamily) -> None:
    """Draw a dotted ellipse, often with the ends of its axes marked, or a trace by hand."""
    ink, centre = colour(random), _place(canvas, random, 0.3, 0.7)
    reach = float(random.uniform(0.06, 0.3)) * min(canvas.size)
    if random.random() < 0.25:  # as a planimeter leaves
        turn = np.linspace(0, 2 * np.pi, 60)
        wobble = sum(random.normal(0, 0.12) * np.sin(k * turn + random.uniform(0, 6.3)) for k in (2, 3, 4, 5))
        radii = reach * (1 + np.asarray(wobble))
        points = np.column_stack([centre[0] + radii * np.cos(turn), centre[1] + 0.8 * radii * np.sin(turn)])
        _trace(canvas, random, points, ink)
        return
    cos, sin = _direction(float(random.uniform(0, np.pi)))
    turn = np.linspace(0, 2 * np.pi, 90)
    x, y = reach * np.cos(turn), reach * float(random.uniform(0.4, 0.95)) * np.sin(turn)
    points = np.column_stack([centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos])
    _trace(canvas, random, points, ink)
    if random.random() < 0.6:
        shape, arm = one(random, family.glyphs), _arm(canvas, random)
        quarters = points[[0, len(points) // 4, len(points) // 2, 3 * len(points) // 4]]
        stamps = [Stamp(glyph(canvas, shape, _at(end), arm, 1, True), ink) for end in quarters]
        canvas.burn(stamps, MarkClass.CALIPER, Meaning.MEASUREMENT)


def lone_glyphs(canvas: Canvas, random: Random, family: StyleFamily) -> None:
    """Draw several end marks of calipers without a line, as in a picture that was frozen during a
    measurement.
    """
    ink, shape = colour(random), one(random, family.glyphs)
    for _ in range(int(random.integers(1, 6))):
        stamp = Stamp(
            glyph(canvas, shape, _place(canvas, random, 0.1, 0.9), _arm(canvas, random), 1, True), ink
        )
        canvas.burn([stamp], MarkClass.CALIPER, Meaning.MEASUREMENT)


def arrows(canvas: Canvas, random: Random, _family: StyleFamily) -> None:
    """Draw one to three arrows."""
    ink = colour(random)
    for _ in range(int(random.integers(1, 4))):
        length = int(random.uniform(0.03, 0.12) * min(canvas.size)) + 5
        alpha = arrow(canvas, random, _place(canvas, random, 0.1, 0.9), length)
        canvas.burn([Stamp(alpha, ink)], MarkClass.MARKER, Meaning.ORIENTATION)


def cursor(canvas: Canvas, random: Random, _family: StyleFamily) -> None:
    """Draw one cursor or more."""
    size = int(random.integers(12, 26))
    drawer = hand_cursor if random.random() < 0.6 else mouse_cursor
    for _ in range(1 if random.random() < 0.7 else int(random.integers(2, 9))):
        inner = drawer(canvas, _place(canvas, random, 0.05, 0.9), size)
        rim = cv2.dilate(inner, np.ones((3, 3), np.uint8))
        stamps = [Stamp(rim, (0, 0, 0)), Stamp(inner, (255, 255, 255))]
        canvas.burn(stamps, MarkClass.MARKER, Meaning.ORIENTATION)


def body_mark(canvas: Canvas, random: Random, _family: StyleFamily) -> None:
    """Draw a small outline of two breasts, a torso, an abdomen or a head, and the bar that shows how the
    probe was held.
    """
    size = int(random.uniform(0.07, 0.15) * min(canvas.size)) + 8
    columns, rows = canvas.size
    place = int(random.choice([size, columns - 2 * size])), int(random.choice([6, rows - int(1.3 * size)]))
    (column, row), half, thick = place, size // 2, int(random.integers(1, 3))
    middle, smooth = (column + half, row + half), (255, thick, cv2.LINE_AA)
    sides = [(middle[0] + side * size // 2, middle[1]) for side in (-1, 1)]
    x = np.array([0, 0.1, 0.25, 0.2, 0.3, 0.7, 0.8, 0.75, 0.9, 1])
    y = np.array([0, 0.2, 0.25, 0.6, 1, 1, 0.6, 0.25, 0.2, 0])
    torso = np.column_stack([column + x * size, row + y * size])
    styles: tuple[list[tuple[Any, ...]], ...] = (
        [
            *((cv2.circle, side, half, *smooth) for side in sides),
            *((cv2.circle, side, max(1, size // 10), 255, -1, cv2.LINE_AA) for side in sides),
        ],
        [
            (cv2.polylines, [_whole(torso)], False, *smooth),
            (cv2.line, (middle[0], row + size // 4), (middle[0], row + size), 255, 1),
        ],
        [
            (cv2.ellipse, middle, (half, int(size * 0.6)), 0, 0, 360, *smooth),
            (cv2.line, (middle[0], row), (middle[0], row + size // 3), 255, 1, cv2.LINE_AA),
            (cv2.circle, (middle[0], row + int(0.65 * size)), 2, 255, -1),
        ],
        [
            (cv2.ellipse, middle, (half, size // 3), 0, 0, 360, *smooth),
            (cv2.line, (column, middle[1]), (column + size, middle[1]), 255, 1, cv2.LINE_AA),
        ],
    )
    outline = canvas.sketch(*one(random, styles))
    offset = 0.3 * size * _direction(float(random.uniform(0, np.pi)))
    spot = np.array(place) + size // 2 + random.uniform(-0.25, 0.25, 2) * size
    bar = (cv2.line, _at(spot - offset), _at(spot + offset), 255, max(2, size // 14), cv2.LINE_AA)
    stamps = [Stamp(outline, colour(random)), Stamp(canvas.sketch(bar), colour(random))]
    canvas.burn(stamps, MarkClass.MARKER, Meaning.ORIENTATION)


def probe_icon(canvas: Canvas, random: Random, _family: StyleFamily) -> None:
    """Draw the mark at the sector's edge that shows the probe's side: a dot, two letter-like signs of makers,
    a small probe.
    """
    size = int(random.uniform(0.02, 0.05) * min(canvas.size)) + 6
    place = int(random.uniform(0.02, 0.9) * canvas.size[0]), int(random.uniform(0.0, 0.12) * canvas.size[1])
    (column, row), style = place, int(random.integers(4))
    middle, stem, low = (column + size // 2, row + size // 2), column + size // 3, row + 3 * size // 4
    body = np.array([(0, 0), (1, 0), (1, 0.5), (0.65, 0.7), (0.65, 1), (0.35, 1), (0.35, 0.7), (0, 0.5)])
    thick = int(random.choice([-1, 1, 2])) if style == 0 else 2
    styles: tuple[list[tuple[Any, ...]], ...] = (
        [(cv2.circle, middle, size // 2, 255, thick, cv2.LINE_AA)],
        [
            (cv2.ellipse, middle, (size // 2, size // 3), 0, 30, 330, 255, 2, cv2.LINE_AA),
            (cv2.line, (middle[0], row), (middle[0], row + size), 255, 2, cv2.LINE_AA),
        ],
        [
            (cv2.rectangle, (column, row), (column + size, row + size), 255, 1),
            (cv2.line, (stem, row + size // 4), (stem, low), 255, 2),
            (cv2.line, (stem, low), (column + 2 * size // 3, low), 255, 2),
        ],
        [(cv2.polylines, [_whole(body * size + (column, row))], True, 255, 1, cv2.LINE_AA)],
    )
    alpha = canvas.sketch(*styles[style])
    canvas.burn([Stamp(alpha, colour(random))], MarkClass.MARKER, Meaning.ORIENTATION)


def guide_line(canvas: Canvas, random: Random, _family: StyleFamily) -> None:
    """Draw the biopsy guide: a long dotted line across the picture."""
    columns, rows = canvas.size
    top = int(random.uniform(0.3, 0.7) * columns)
    bottom = top + int(random.uniform(-0.3, 0.3) * columns)
    _trace(canvas, random, np.array([(top, 0), (bottom, rows)], np.float64), colour(random), MarkClass.MARKER)


def colour_box(canvas: Canvas, random: Random, _family: StyleFamily) -> None:
    """Draw the outline of the colour box: a rectangle, a slanted one, or a piece of the sector."""
    ink: Colour = (60, 220, 60) if random.random() < 0.5 else colour(random)
    columns, rows = canvas.size
    centre = int(columns * random.uniform(0.35, 0.65)), int(rows * random.uniform(0.35, 0.6))
    width, height = int(columns * random.uniform(0.15, 0.35)), int(rows * random.uniform(0.15, 0.3))
    if random.random() < 0.5:
        lean = int(random.integers(-width // 3, width // 3 + 1)) if random.random() < 0.5 else 0
        across = np.array([lean - width, lean + width, width - lean, -width - lean])
        corners = np.column_stack([across, (-height, -height, height, height)]) + centre
    else:
        turn = np.linspace(np.pi * 0.5 - 0.6, np.pi * 0.5 + 0.6, 24)
        apex = np.array([centre[0], -0.2 * rows])
        radii = np.array([centre[1] - height, centre[1] + height]) - apex[1]
        arcs = [apex + radius * np.column_stack([np.cos(turn), np.sin(turn)]) for radius in radii]
        corners = np.concatenate([arcs[0], arcs[1][::-1]])
    outline = canvas.sketch((cv2.polylines, [_whole(corners)], True, 255, 1, cv2.LINE_AA))
    canvas.burn([Stamp(outline, ink, 0.9)], MarkClass.MARKER, Meaning.SCALE)


def ruler(canvas: Canvas, random: Random, family: StyleFamily) -> None:
    """Draw depth ticks at a side or the bottom, sometimes with numbers and the focus pointer."""
    columns, rows = canvas.size
    side = str(random.choice(["l", "r", "b"]))
    edge = int(random.integers(1, 25))
    position = {"l": edge, "r": columns - edge, "b": rows - edge}[side]
    step, length = float(random.uniform(8, 60)), int(random.integers(2, 7))
    ink: Colour = (230, 230, 230) if random.random() < 0.6 else colour(random)
    start, end = int(random.integers(0, max(1, int(step)))), rows if side in "lr" else columns
    thick = int(random.integers(1, 3))
    length *= -1 if side in "rb" else 1

    def line(at: tuple[float, float], across: tuple[int, int], wide: int) -> tuple[Any, ...]:
        """A stroke of the ruler for :meth:`Canvas.sketch`."""
        ends = [(round(along), beside) for along, beside in zip(at, across, strict=True)]
        return (cv2.line, *(one[::-1] if side in "lr" else one for one in ends), 255, wide)

    lines = [
        line((place, place), (position, position + length * (1 if number % 5 else 2)), thick)
        for number, place in enumerate(np.arange(start, end, step).tolist())
    ]
    if random.random() < 0.3:
        lines.append(line((start, end), (position, position), 1))
    ticks = canvas.sketch(*lines)
    canvas.burn([Stamp(ticks, ink)], MarkClass.SCALE, Meaning.SCALE)
    if side in "lr" and random.random() < 0.4:
        look = hand(random, family, 8.0, korean=False)
        for number, row in enumerate(np.arange(step, rows, 5 * step)):
            place = position + (12 if side == "l" else -12), int(row)
            stamps = write(canvas, str(5 * number), place, look, right=side == "r")
            canvas.burn(stamps, MarkClass.SCALE, Meaning.SCALE, str(5 * number))
    if random.random() < 0.5:
        spot = (position if side in "lr" else edge), int(random.uniform(0.1, 0.9) * rows)
        size = int(random.integers(4, 10))
        tip = spot[0] + (-size if random.random() < 0.5 else size)
        corners = np.array([spot, (tip, spot[1] - size // 2), (tip, spot[1] + size // 2)], np.int32)
        focus = canvas.sketch((cv2.fillPoly, [corners], 255))
        canvas.burn([Stamp(focus, ink)], MarkClass.SCALE, Meaning.SCALE)


def level_bar(canvas: Canvas, random: Random, _family: StyleFamily) -> None:
    """Draw the bar of grey levels or of flow colours at a side."""
    columns, rows = canvas.size
    width, height = int(random.integers(4, 14)), int(random.uniform(0.12, 0.45) * rows)
    left, row = int(random.choice([1, 8, columns - width - 2])), int(random.uniform(0.0, 0.4) * rows)
    if random.random() < 0.6:
        table = [(level, level, level) for level in range(255, 0, -6)]
    else:
        half = np.linspace(255, 30, 20).astype(int).tolist()
        table = [(255, level, 0) for level in half] + [(0, 255 - level, 255) for level in half]
    edges, stamps = np.linspace(0, height, len(table) + 1).astype(int), []
    for (top, bottom), tone in zip(pairwise((row + edges).tolist()), table, strict=True):
        if bottom > top:
            level = (cv2.rectangle, (left, top), (left + width, bottom - 1), 255, -1)
            stamps.append(Stamp(canvas.sketch(level), tone))
    canvas.burn(stamps, MarkClass.SCALE, Meaning.SCALE)


def logo(canvas: Canvas, random: Random, family: StyleFamily) -> None:
    """Draw a maker's name in an upper corner or at the bottom, mostly with a sign: a wheel, a filled square
    with a ring, or waves.
    """
    columns, rows = canvas.size
    suffix = one(random, ("", " E8", " S10", " V730", " 7", " EPIQ", " X8"))
    name = one(random, VOCABULARY["makers"]) + suffix
    size = float(random.uniform(0.025, 0.05)) * min(canvas.size) + 4
    look = hand(random, family, size, korean=False)
    place = int(random.choice([6, int(0.7 * columns)])), int(random.choice([4, rows - int(2 * size) - 4]))
    stamps = []
    if random.random() < 0.6:
        tall = int(size * 1.4)
        (column, row), middle = place, (place[0] + tall // 2, place[1] + tall // 2)
        spokes = [tall * 0.3 * _direction(angle) for angle in np.linspace(0, np.pi, 4)]
        radii = [ring * tall // 3 for ring in range(1, 4)]
        styles: tuple[list[tuple[Any, ...]], ...] = (
            [
                (cv2.circle, middle, tall // 2, 255, max(1, tall // 10), cv2.LINE_AA),
                *((cv2.line, _at(middle - way), _at(middle + way), 255, 1, cv2.LINE_AA) for way in spokes),
            ],
            [
                (cv2.rectangle, (column, row), (column + tall, row + tall), 255, -1),
                (cv2.circle, middle, tall // 3, 0, max(1, tall // 8), cv2.LINE_AA),
            ],
            [(cv2.ellipse, (column, row + tall), (r, r), 0, 270, 360, 255, 2, cv2.LINE_AA) for r in radii],
        )
        stamps.append(Stamp(canvas.sketch(*one(random, styles)), look.colour))
    stamps += write(canvas, name, (place[0] + int(size * 1.7), place[1]), look)
    canvas.burn(stamps, MarkClass.LOGO, Meaning.LOGO, name)


DRAWERS: tuple[tuple[Callable[[Canvas, Random, StyleFamily], None], float], ...] = (
    (calipers, 0.6),
    (ellipse, 0.2),
    (lone_glyphs, 0.15),
    (arrows, 0.15),
    (cursor, 0.1),
    (body_mark, 0.2),
    (probe_icon, 0.25),
    (guide_line, 0.06),
    (colour_box, 0.08),
    (ruler, 0.5),
    (level_bar, 0.3),
    (logo, 0.3),
)
"""Each kind of mark with the share of overlays that show it."""


def _trace(
    canvas: Canvas, random: Random, points: Points, ink: Colour, kind: MarkClass = MarkClass.CALIPER
) -> None:
    """Draw a dotted line through ``points`` in the colour ``ink``, as an object of the class ``kind``."""
    gap, dot = float(random.choice([2, 3, 4, 4, 6, 8])), int(random.choice([1, 1, 2, 3]))
    alpha = dotted_path(canvas, points, max(gap, dot + 1.0), dot, bool(random.random() < 0.5))
    meaning = Meaning.MEASUREMENT if kind is MarkClass.CALIPER else Meaning.ORIENTATION
    canvas.burn([Stamp(alpha, ink, float(random.choice([1.0, 0.8, 0.5])))], kind, meaning)


def _arm(canvas: Canvas, random: Random) -> int:
    """Half the width of a caliper's end: 3 pixels and more."""
    return max(3, round(float(random.uniform(0.008, 0.022)) * min(canvas.size)))


def _place(canvas: Canvas, random: Random, low: float, high: float) -> tuple[int, int]:
    """A random point, between ``low`` and ``high`` of each side."""
    columns, rows = canvas.size
    return int(random.uniform(low, high) * columns), int(random.uniform(low, high) * rows)


@dataclass(frozen=True, slots=True)
class CleanFrame:
    """A part of a public frame that has no annotation. ``box`` in pixels of the file; ``split`` as
    published.
    """

    source: str
    file: str
    split: str
    box: Box

    def read(self, data: Path) -> Picture:
        """The part as RGB ``[rows, columns, 3]``. Raises DataMissing if the file does not exist."""
        left, top, right, bottom = self.box
        return np.ascontiguousarray(read_rgb(data / self.source / self.file)[top:bottom, left:right])


def clean_frames(split: str) -> tuple[CleanFrame, ...]:
    """Read the list of clean frames of one split (train, val or test), in the order of the list."""
    return tuple(
        CleanFrame(row["source"], row["file"], row["split"], box_of(row))
        for row in rows(Path(__file__).with_name("clean_frames.csv"))
        if row["split"] == split
    )


def box_of(row: dict[str, str]) -> Box:
    """The box in the columns ``left`` to ``bottom`` of a list's row (pixels)."""
    return int(row["left"]), int(row["top"]), int(row["right"]), int(row["bottom"])


def chroma(picture: Picture) -> Picture:
    """The difference between the largest and the smallest channel of each pixel (grey levels)."""
    return np.asarray(brightest(picture) - picture.min(axis=2), np.uint8)


FLOW_SIDE = 12  # cells of the coarse random field that colour flow is cut from


@dataclass(frozen=True, slots=True)
class Storing:
    """How a synthetic picture is stored: scaled by ``factor``, then JPEG of ``quality`` (None: lossless),
    with the colours at full resolution (``whole_chroma``) or at half.
    """

    factor: float
    interpolation: int
    quality: int | None
    whole_chroma: bool

    def scaled(self, picture: Picture) -> Picture:
        """The picture at the stored size."""
        size = tuple(round(side * self.factor) for side in (picture.shape[1], picture.shape[0]))
        return np.asarray(cv2.resize(picture, size, interpolation=self.interpolation), np.uint8)

    def compressed(self, picture: Picture) -> Picture:
        """The picture after JPEG, if it is stored so."""
        if self.quality is None:
            return picture
        sampling = (
            cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
            if self.whole_chroma
            else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
        )
        choices = [cv2.IMWRITE_JPEG_QUALITY, self.quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
        _, coded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), choices)
        return np.asarray(cv2.cvtColor(cv2.imdecode(coded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)


def scene(part: Picture, random: Random) -> Picture:
    """Make a whole picture around the clean part ``part``: at random cut to a sector, placed on black,
    tinted, with colour flow.
    """
    if random.random() < 0.5:
        part = np.ascontiguousarray(part[:, ::-1])
    factor = float(random.uniform(0.8, 2.0)) if min(part.shape[:2]) < 300 else float(random.uniform(0.7, 1.3))
    size = round(part.shape[1] * factor), round(part.shape[0] * factor)
    part = np.asarray(
        cv2.resize(part, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC), np.uint8
    )
    if random.random() < 0.35:
        part = part * _sector(part.shape[:2], random)[..., None]
    if random.random() < 0.15:
        part = _with_flow(part, random)
    if random.random() < 0.25:
        tint = 1 - random.uniform(0, 0.25, 3)
        part = np.rint(part * (tint / tint.max())).astype(np.uint8)
    if random.random() < 0.5:
        rows, columns = part.shape[:2]
        above, below = (int(rows * share) for share in random.uniform(0, 0.22, 2))
        left, right = (int(columns * share) for share in random.uniform(0, 0.25, 2))
        level = int(random.choice([0, 0, 0, 2, 12]))
        part = cv2.copyMakeBorder(part, above, below, left, right, cv2.BORDER_CONSTANT, value=(level,) * 3)
    return np.ascontiguousarray(part)


def _sector(shape: tuple[int, ...], random: Random) -> npt.NDArray[np.uint8]:
    """The mask (1 inside) of a fan whose edges lie at the picture's sides."""
    rows, columns = shape
    mask = np.zeros((rows, columns), np.uint8)
    apex = columns // 2, -int(rows * random.uniform(0.05, 0.5))
    radius = rows - apex[1]
    spread = float(random.uniform(28, 65))
    cv2.ellipse(mask, apex, (radius, radius), 90, -spread, spread, 1, -1)
    cv2.circle(mask, apex, -apex[1] + int(rows * random.uniform(0, 0.12)), 0, -1)
    return mask


def _with_flow(part: Picture, random: Random) -> Picture:
    """Add red-yellow and blue-cyan patches as colour Doppler paints them, which are no marks."""
    rows, columns = part.shape[:2]
    coarse = random.normal(size=(FLOW_SIDE, FLOW_SIDE)).astype(np.float32)
    field = cv2.resize(coarse, (columns, rows), interpolation=cv2.INTER_CUBIC)
    fine = cv2.resize(
        random.normal(size=(rows // 4 + 1, columns // 4 + 1)).astype(np.float32), (columns, rows)
    )
    field = field + 0.3 * fine
    threshold = float(np.quantile(np.abs(field), random.uniform(0.85, 0.98)))
    speed = np.clip((np.abs(field) - threshold) / max(1e-6, float(np.abs(field).max()) - threshold), 0, 1)
    level = (80 + 175 * speed)[..., None]
    towards = level * np.stack([np.ones_like(speed), speed, np.zeros_like(speed)], axis=2)
    away = level * np.stack([np.zeros_like(speed), speed, np.ones_like(speed)], axis=2)
    flow = np.where((field > 0)[..., None], towards, away)
    painted = (np.abs(field) > threshold)[..., None]
    return np.asarray(np.where(painted, flow, part), np.uint8)


Token = tuple[str, Meaning]
GROUNDS: tuple[Colour, ...] = ((0, 0, 0), (20, 20, 30), (45, 45, 45), (0, 0, 90), (70, 90, 120))


@dataclass(frozen=True, slots=True)
class Page:
    """The surface on which a layout writes: canvas, size, random generator, family of styles, lettering;
    whether names are Korean.
    """

    canvas: Canvas
    columns: int
    rows: int
    random: Random
    family: StyleFamily
    hand: Hand
    korean: bool

    def write(self, token: Token, place: tuple[int, int], hand: Hand, *, right: bool = False) -> None:
        """Write one token (text and meaning) at a place in the lettering ``hand``."""
        text, meaning = token
        self.canvas.burn(write(self.canvas, text, place, hand, right=right), MarkClass.TEXT, meaning, text)

    def write_down(self, tokens: Sequence[Token], place: tuple[int, int], hand: Hand, gap: int) -> None:
        """Write tokens below one another, ``gap`` pixels apart."""
        column, row = place
        for token in tokens:
            self.write(token, (column, row), hand)
            row += extent(token[0], hand)[1] + gap

    @property
    def plain(self) -> Hand:
        """The page's lettering without box and frame."""
        return replace(self.hand, box=None, frame=None)

    def resized(self, look: Hand, low: float, high: float) -> Hand:
        """Return the lettering ``look`` at a random size (:func:`letter_height`)."""
        return look.sized(letter_height(self.canvas, self.random, low, high))

    def ground_colour(self, most: int = len(GROUNDS)) -> Colour:
        """A random background colour, one of the first ``most`` of :data:`GROUNDS`."""
        return one(self.random, GROUNDS[:most])


def patient_tokens(page: Page) -> list[Token]:
    """Make random texts that must not leave the hospital: name, number, dates, place, each with its
    meaning.
    """
    random, family = page.random, page.family
    form = "korean" if page.korean else one(random, [f for f in family.names if f != "korean"])
    dates = [date_text(random, one(random, family.dates), *years) for years in ((1940, 2005), (2015, 2025))]
    born = one(random, ("", "DOB ", "b. ", "*")) + dates[0]
    texts = [
        person_name(random, form),
        identifier(random),
        born,
        hospital(random, page.korean),
        f"{dates[1]} {time_text(random)}" if random.random() < 0.5 else dates[1],
    ]
    return [(text, Meaning.IDENTITY) for text in texts]


def _top_strip(page: Page) -> None:
    """Write a bar with the patient on the left and the place and time on the right, in one or two lines."""
    tokens = patient_tokens(page)
    look = _fitting(page.plain, tokens[0][0] + tokens[3][0], int(page.columns * 0.9))
    line = extent("Ág", look)[1] + 3
    lines = int(page.random.integers(1, 3))
    _ground(page, (0, 0, page.columns, lines * line + 6))
    for number in range(lines):
        row = 3 + number * line
        page.write(tokens[number], (5, row), look)
        page.write(tokens[3 + number], (page.columns - 5, row), look, right=True)


def _bottom_strip(page: Page) -> None:
    """Write one line at the bottom, its parts between separators."""
    separator = one(page.random, (" | ", " / ", "  -  "))
    tokens = patient_tokens(page)[: int(page.random.integers(2, 5))]
    line = separator.join(text for text, _ in tokens)
    look = _fitting(page.plain, line, page.columns - 8)
    height = extent(line, look)[1] + 8
    _ground(page, (0, page.rows - height, page.columns, page.rows))
    page.write((line, Meaning.IDENTITY), (4, page.rows - height + 4), look)


def _top_left_stack(page: Page) -> None:
    """Write the patient's data below one another in the upper left corner."""
    _stack(page, patient_tokens(page), (6, 6))


def _centred_heading(page: Page) -> None:
    """Write a few of the patient's data, centred at the top."""
    row = int(page.random.integers(2, 12))
    for token in patient_tokens(page)[: int(page.random.integers(1, 4))]:
        look = _fitting(page.hand, token[0], page.columns - 8)
        width, height = extent(token[0], look)
        page.write(token, ((page.columns - width) // 2, row), look)
        row += height + 3


def _left_column(page: Page) -> None:
    """Write rows of "key: value" down the left side."""
    keys = ("Name", "ID", "DOB", "Site", "Date")
    tokens = [
        (f"{key}: {text}", meaning) for key, (text, meaning) in zip(keys, patient_tokens(page), strict=True)
    ]
    tokens += [(text, Meaning.ACOUSTIC) for text in settings(page.random, 4)]
    start = int(page.rows * page.random.uniform(0.02, 0.5))
    _stack(page, tokens, (5, start))


def _framed_block(page: Page) -> None:
    """Write a framed box with a few lines of the patient's data, in any corner."""
    look = page.plain
    tokens = patient_tokens(page)[: int(page.random.integers(2, 6))]
    sizes = [extent(text, look) for text, _ in tokens]
    width, height = max(size[0] for size in sizes) + 12, sum(size[1] + 3 for size in sizes) + 9
    left = int(page.random.choice([2, max(2, page.columns - width - 2)]))
    top = int(page.random.choice([2, max(2, page.rows - height - 2)]))
    _ground(page, (left, top, left + width, top + height))
    rim = page.canvas.sketch((cv2.rectangle, (left, top), (left + width - 1, top + height - 1), 255, 1))
    page.canvas.burn([Stamp(rim, look.colour)], MarkClass.TEXT, Meaning.IDENTITY)
    page.write_down(tokens, (left + 6, top + 5), look, 3)


def _boxed_line(page: Page) -> None:
    """Write the name alone in a filled box, somewhere at the edge."""
    token = one(page.random, patient_tokens(page)[:3])
    look = replace(_fitting(page.hand, token[0], page.columns // 2), box=page.ground_colour(3))
    width, height = extent(token[0], look)
    left = int(page.random.choice([8, max(8, page.columns - width - 8)]))
    top = int(page.random.choice([8, max(8, page.rows - height - 8)]))
    page.write(token, (left, top), look)


def _right_column(page: Page) -> None:
    """Write settings and acoustic output down the right side, as most machines do."""
    look = page.resized(page.plain, 0.016, 0.032)
    tokens = [
        acoustic_output(page.random),
        *settings(page.random, int(page.random.integers(3, 9))),
    ]
    row = int(page.random.integers(2, max(3, page.rows // 3)))
    for text in tokens:
        page.write((text, Meaning.ACOUSTIC), (page.columns - 4, row), look, right=True)
        row += extent("Ág", look)[1] + 2


def _bottom_results(page: Page) -> None:
    """Write measured values in a box at the bottom, right or left."""
    lines = [measurement(page.random) for _ in range(int(page.random.integers(1, 5)))]
    look = page.resized(page.plain, 0.022, 0.042)
    sizes = [extent(text, look) for text in lines]
    width, height = max(size[0] for size in sizes) + 8, sum(size[1] + 2 for size in sizes) + 6
    left = int(page.random.choice([3, max(3, page.columns - width - 3)]))
    top = max(0, page.rows - height - int(page.random.integers(2, 12)))
    if page.random.random() < 0.5:
        _ground(page, (left, top, left + width, top + height))
    tokens = [(text, Meaning.MEASUREMENT) for text in lines]
    page.write_down(tokens, (left + 4, top + 3), look, 2)


def _results_table(page: Page) -> None:
    """Write measured values in a ruled table in the upper part."""
    look = page.resized(replace(page.hand, box=None, frame=None, coarse=1), 0.02, 0.036)
    lines = [measurement(page.random) for _ in range(int(page.random.integers(2, 6)))]
    height = extent("Ág", look)[1] + 5
    width = max(extent(text, look)[0] for text in lines) + 10
    left, top = (
        int(page.random.integers(2, max(3, page.columns - width))),
        int(page.random.integers(2, max(3, page.rows // 2))),
    )
    rows = [top + number * height for number in range(len(lines) + 1)]
    grid = page.canvas.sketch(
        *((cv2.line, (left, row), (left + width, row), 255, 1) for row in rows),
        *((cv2.line, (edge, top), (edge, rows[-1]), 255, 1) for edge in (left, left + width)),
    )
    page.canvas.burn([Stamp(grid, look.colour, 0.8)], MarkClass.TEXT, Meaning.MEASUREMENT)
    for row, text in zip(rows, lines, strict=False):
        page.write((text, Meaning.MEASUREMENT), (left + 5, row + 3), look)


def _inner_labels(page: Page) -> None:
    """Write labels on the image itself, as a sonographer types them; sometimes a name, upright or along a
    side.
    """
    for _ in range(int(page.random.integers(1, 4))):
        look = page.resized(page.hand, 0.022, 0.06)
        token = (one(page.random, VOCABULARY["sites"]), Meaning.ORIENTATION)
        if page.random.random() < 0.25:
            token = one(page.random, patient_tokens(page)[:3])
        elif page.random.random() < 0.3:
            token = (measurement(page.random), Meaning.MEASUREMENT)
        if page.random.random() < 0.1:
            look = replace(look, angle=float(page.random.choice([90, 180, 270])), box=None, frame=None)
        place = (
            int(page.random.uniform(0.05, 0.75) * page.columns),
            int(page.random.uniform(0.05, 0.9) * page.rows),
        )
        page.write(token, place, look)


def _slanted_note(page: Page) -> None:
    """Write texts that are not horizontal: turned, upside down, or slanted as by hand."""
    tokens = patient_tokens(page)
    for _ in range(int(page.random.integers(1, 3))):
        angle = float(page.random.choice([page.random.uniform(-35, 35), 90, 180, 270]))
        if page.random.random() < 0.5:
            token = one(page.random, tokens)
        else:
            token = (one(page.random, VOCABULARY["sites"]), Meaning.ORIENTATION)
        look = replace(page.resized(page.hand, 0.025, 0.06), angle=angle, box=None, frame=None)
        place = (
            int(page.random.uniform(0.05, 0.7) * page.columns),
            int(page.random.uniform(0.05, 0.7) * page.rows),
        )
        page.write(token, place, look)


def _stack(page: Page, tokens: list[Token], place: tuple[int, int]) -> None:
    """Write the first few of ``tokens`` below one another from ``place`` on."""
    count = int(page.random.integers(1, len(tokens) + 1))
    page.write_down(tokens[:count], place, page.plain, 3)


def _ground(page: Page, box: tuple[int, int, int, int]) -> None:
    """Draw the bar or box under a group of texts: opaque, or letting the picture shine through."""
    left, top, right, bottom = box
    alpha = page.canvas.sketch((cv2.rectangle, (left, top), (right - 1, bottom - 1), 255, -1))
    opacity = float(page.random.choice([1.0, 1.0, 0.8, 0.5]))
    page.canvas.ground(Stamp(alpha, page.ground_colour(), opacity))


def _fitting(look: Hand, text: str, width: int) -> Hand:
    """Return the lettering ``look``, made smaller until ``text`` fits into ``width`` (not under 7 pixels)."""
    needed = extent(text, look)[0]
    return look if needed <= width else look.sized(max(7.0, look.size * width / needed))


LAYOUTS: dict[str, Callable[[Page], None]] = {
    "top strip": _top_strip,
    "top left stack": _top_left_stack,
    "right column": _right_column,
    "bottom results": _bottom_results,
    "inner labels": _inner_labels,
    "boxed line": _boxed_line,
    "bottom strip": _bottom_strip,
    "centred heading": _centred_heading,
    "left column": _left_column,
    "results table": _results_table,
    "slanted note": _slanted_note,
    "framed block": _framed_block,
}


@dataclass(frozen=True, slots=True, eq=False)
class BurnIn:
    """A synthetic picture with marks, and the truth on them. All arrays have the picture's rows and columns.
    ``image`` and ``clean``: RGB with and without the marks, as the device stores them (both scaled and
    compressed). ``drawn`` and ``plain``: the same two before compression; they differ exactly where ``mask``
    (uint8, 255 in marks) is not 0. ``owners`` holds 1 + the index in ``objects``, 0 outside marks.
    """

    image: Picture
    clean: Picture
    drawn: Picture
    plain: Picture
    owners: npt.NDArray[np.uint16]
    objects: tuple[BurnedObject, ...]

    @property
    def mask(self) -> npt.NDArray[np.uint8]:
        """The drawn pixels: 255, all others 0."""
        return np.where(self.owners > 0, 255, 0).astype(np.uint8)

    @property
    def classes(self) -> npt.NDArray[np.uint8]:
        """The :class:`MarkClass` of each pixel."""
        table = np.array([MarkClass.BACKGROUND, *(thing.kind for thing in self.objects)], np.uint8)
        return table[self.owners]


def burn_in(part: Picture, family: StyleFamily, seed: tuple[int, ...]) -> BurnIn:
    """Draw one random overlay of ``family`` onto ``part`` (RGB uint8 without annotation).

    The same part, family and seed give the same picture. The picture may be larger than the part: sometimes a
    black surround is added, and devices scale.
    """
    random = np.random.default_rng(seed)
    canvas = Canvas(scene(part, random))
    # There too the detector has to find nothing.
    if random.random() >= 0.1:
        for drawer, share in DRAWERS:
            if random.random() < share:
                drawer(canvas, random, family)
        count = int(random.integers(1, 4))
        for layout in random.permutation(family.layouts)[:count]:
            korean = bool(random.random() < 1 / 6)
            size = letter_height(canvas, random, 0.022, 0.05)
            look = hand(random, family, size, korean=korean)
            LAYOUTS[str(layout)](Page(canvas, *canvas.size, random, family, look, korean))
    # Two of five are scaled after writing, three of five are compressed.
    factor = float(random.uniform(0.6, 1.5)) if random.random() < 0.4 else 1.0
    quality = int(random.integers(60, 97)) if random.random() < 0.6 else None
    way, whole_chroma = (
        int(random.choice((cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_NEAREST))),
        bool(random.random() < 0.5),
    )
    return store(canvas, Storing(factor, way, quality, whole_chroma))


def store(canvas: Canvas, storing: Storing) -> BurnIn:
    """Scale and compress a drawn canvas and its clean picture in the same way, as ``storing`` says;
    ``owners`` and boxes are computed from the pixels that differ afterwards. The box of an object that later
    ones cover altogether is empty.
    """
    drawn, plain = storing.scaled(canvas.picture), storing.scaled(canvas.clean)
    owners = _followed(canvas.owners, (drawn != plain).any(axis=2))
    objects = tuple(
        replace(thing, box=(place[1].start, place[0].start, place[1].stop, place[0].stop)) if place else thing
        for thing, place in zip(
            canvas.objects, find_objects(owners, max_label=len(canvas.objects)), strict=True
        )
    )
    return BurnIn(storing.compressed(drawn), storing.compressed(plain), drawn, plain, owners, objects)


def _followed(owners: npt.NDArray[np.uint16], changed: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint16]:
    """Resize ``owners`` to the size of ``changed``: each changed pixel belongs to the nearest drawn object,
    others to none. The nearest is looked for before scaling, since a coarser grid steps over thin strokes and
    lone dots.
    """
    rows, columns = changed.shape
    if not owners.any():
        return np.zeros((rows, columns), np.uint16)
    empty = (owners == 0).astype(np.uint8)
    _, labels = cv2.distanceTransformWithLabels(empty, cv2.DIST_L1, 3, labelType=cv2.DIST_LABEL_PIXEL)
    nearest = np.zeros(int(labels.max()) + 1, np.uint16)
    nearest[labels[empty == 0]] = owners[empty == 0]
    resized = cv2.resize(nearest[labels], (columns, rows), interpolation=cv2.INTER_NEAREST)
    return np.where(changed, resized, 0).astype(np.uint16)
