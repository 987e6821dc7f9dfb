"""Two style families that share no font, layout, shape of calipers, or way to write a name or a date.

A detector is trained on one and evaluated on the other, because a site's scanners write in ways that the
detector has never seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ai_training.ultrasound.overlays.canvas import Colour
from ai_training.ultrasound.overlays.typesetting import Face, Font, Hand
from ai_training.ultrasound.overlays.words import Random, one

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
    """The fonts, colours and texts of one family of overlays. Every font comes with a Python package."""

    name: str
    fonts: tuple[Font, ...]
    strokes: tuple[str, ...]
    korean: tuple[Font, ...]
    layouts: tuple[str, ...]
    glyphs: tuple[str, ...]
    names: tuple[str, ...]
    dates: tuple[str, ...]


TRAIN = StyleFamily(
    name="train",
    fonts=(
        Font.packaged("Source Sans Pro"),
        Font.packaged("Source Serif Pro"),
        Font.packaged("Manrope"),
        Font("STIXGeneral", "matplotlib", f"{TTF}/STIXGeneral.ttf", f"{TTF}/STIXGeneralBol.ttf"),
        Font("cmss10", "matplotlib", f"{TTF}/cmss10.ttf"),
        Font("cmtt10", "matplotlib", f"{TTF}/cmtt10.ttf"),
    ),
    strokes=("futural", "futuram", "rowmans", "scripts"),
    korean=(Font("Noto Sans KR", "pylopdf_fonts_ko", "NotoSansKR-Regular.otf"),),
    layouts=("top strip", "top left stack", "right column", "bottom results", "inner labels", "boxed line"),
    glyphs=("plus", "times", "gapped plus", "tee", "up tack"),
    names=("korean", "last, first", "LAST FIRST", "first last", "MRS LAST"),
    dates=("d.m.y", "m/d/y", "y-m-d", "ymd", "d/m/yy"),
)
HELD_OUT = StyleFamily(
    name="held-out",
    fonts=(
        Font("DejaVu Sans", "matplotlib", f"{TTF}/DejaVuSans.ttf", f"{TTF}/DejaVuSans-Bold.ttf"),
        Font("DejaVu Sans Mono", "matplotlib", f"{TTF}/DejaVuSansMono.ttf", f"{TTF}/DejaVuSansMono-Bold.ttf"),
        Font("DejaVu Serif", "matplotlib", f"{TTF}/DejaVuSerif.ttf", f"{TTF}/DejaVuSerif-Bold.ttf"),
        Font.packaged("Caladea"),
    ),
    strokes=("timesr", "rowmant", "cursive", "scriptc"),
    korean=(Font("Noto Serif KR", "pylopdf_fonts_ko", "NotoSerifKR-Regular.otf"),),
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


@cache
def latin_faces(family: StyleFamily) -> tuple[Face, ...]:
    """The outline fonts of the family, then its plotter fonts."""
    outlines = tuple(face for font in family.fonts for face in font.faces())
    return outlines + tuple(Face(name) for name in family.strokes)


@cache
def korean_faces(family: StyleFamily) -> tuple[Face, ...]:
    return tuple(face for font in family.korean for face in font.faces())


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
    faces = korean_faces(family) if korean else latin_faces(family)
    chosen = one(random, faces)
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


def writes_korean(random: Random) -> bool:
    """Whether this overlay has Korean texts: True for one in six, at random."""
    return bool(random.random() < 1 / 6)


def person(random: Random, family: StyleFamily, *, korean: bool) -> str:
    """A random name in one of the family's forms (:func:`.words.name`)."""
    return "korean" if korean else one(random, [form for form in family.names if form != "korean"])
