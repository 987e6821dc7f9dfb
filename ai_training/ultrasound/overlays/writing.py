"""Texts as scanners write them: invented words, fonts, styles; two families of styles share nothing.

A detector is trained on one family and evaluated on the other, because a site's scanners write in ways that
the detector has never seen."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ai_pipeline.burnin.find.annotation import Box, Picture
from ai_pipeline.contract import Meaning

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
    """One drawn object. ``text``: its whole text (the names are invented).

    ``box`` (pixels; right and bottom exclusive) is computed from the pixels of the stored picture.
    """

    kind: MarkClass
    meaning: Meaning
    text: str
    box: Box = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Stamp:
    """One colour, painted through one stencil. ``opacity`` 0 to 1."""

    alpha: Alpha
    colour: Colour
    opacity: float = 1.0


class Canvas:
    """An RGB picture that :meth:`burn` changes in place; ``owners`` holds 1 + the object's index per pixel.

    A pixel has an owner if and only if it differs from the clean picture.
    """

    def __init__(self, clean: Picture) -> None:
        self.clean: Picture = clean.copy()
        self.picture: Picture = clean.copy()
        self.owners: npt.NDArray[np.uint16] = np.zeros(clean.shape[:2], np.uint16)
        self.objects: list[BurnedObject] = []

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return self.clean.shape[1], self.clean.shape[0]

    def blank(self) -> Alpha:
        return np.zeros(self.clean.shape[:2], np.uint8)

    def sketch(self, *strokes: tuple[Any, ...]) -> Alpha:
        """The stencil that ``strokes`` draw: functions of OpenCV with what they take after the picture."""
        alpha = self.blank()
        for draw, *how in strokes:
            draw(alpha, *how)
        return alpha

    def burn(self, stamps: list[Stamp], kind: MarkClass, meaning: Meaning, text: str = "") -> None:
        """Draw one object. An object that changes no pixel (outside the picture, white on white) is not
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
    """One of ``choices``, all equally likely."""
    return choices[int(random.integers(len(choices)))]


def name(random: Random, form: str) -> str:
    """A person's name in one of the forms that a style family names."""
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


def date(random: Random, form: str, first_year: int = 1940, last_year: int = 2025) -> str:
    """A date in one of the forms that a style family names."""
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


def time(random: Random) -> str:
    hour, minute, second = (int(random.integers(top)) for top in (24, 60, 60))
    forms = (
        f"{hour:02}:{minute:02}:{second:02}",
        f"{hour:02}:{minute:02}",
        f"{(hour - 1) % 12 + 1}:{minute:02}:{second:02} {'AM' if hour < 12 else 'PM'}",
    )
    return one(random, forms)


def identifier(random: Random) -> str:
    """A number of a patient or of an examination."""
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
    """Lines about the machine's settings, as scanners show them beside a picture."""
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
    first, second = random.integers(0, 20, 2) / 10
    forms = (f"MI {first:.1f}", f"TIs {first:.1f}", f"TIb {second:.1f}", f"MI:{first:.1f} TIs:{second:.1f}")
    return one(random, forms)


def measurement(random: Random) -> str:
    """One measured value with its label and unit."""
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
    return one(random, VOCABULARY["korean_hospitals"] if korean else VOCABULARY["hospitals"])


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
    if angle % 90 == 0:
        return np.ascontiguousarray(np.rot90(alpha, round(angle / 90)))
    rows, columns = alpha.shape
    turn = cv2.getRotationMatrix2D((columns / 2, rows / 2), angle, 1.0)
    width = int(rows * abs(turn[0, 1]) + columns * abs(turn[0, 0])) + 2
    height = int(rows * abs(turn[0, 0]) + columns * abs(turn[0, 1])) + 2
    turn[:, 2] += (width - columns) / 2, (height - rows) / 2
    return np.asarray(cv2.warpAffine(alpha, turn, (width, height), flags=cv2.INTER_LINEAR), np.uint8)


def _placed(canvas: Canvas, patch: Alpha, left: int, top: int) -> Alpha:
    shift = np.array([[1, 0, left], [0, 1, top]], np.float32)
    return np.asarray(cv2.warpAffine(patch, shift, canvas.size, flags=cv2.INTER_NEAREST), np.uint8)


@cache
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@cache
def _hershey(name: str):  # type: ignore[no-untyped-def]
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
    """A random colour that scanners write in; white and yellow are the most frequent."""
    weights = [weight for _, weight in COLOURS]
    chosen = COLOURS[int(random.choice(len(COLOURS), p=[weight / sum(weights) for weight in weights]))][0]
    wobble = random.integers(-12, 13, 3)
    red, green, blue = (
        min(255, max(0, value + int(shift))) for value, shift in zip(chosen, wobble, strict=True)
    )
    return red, green, blue


def hand(random: Random, family: StyleFamily, size: float, *, korean: bool) -> Hand:
    """A random style for a group of texts: font, size, colour, opacity, outline, shadow, box and frame."""
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
