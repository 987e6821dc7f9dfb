#!/usr/bin/env python3
"""Drawn panels of results, in eight languages and six layouts: which rows stay when a picture is cleaned?

    examples/studies/result_panels.py [--panels N] [--seed N] [--save DIR]

    example: examples/studies/result_panels.py --panels 24 --seed 1

Each picture has a head line with a name, a number and a date, and a panel of three to five rows: a label
that cleaning need not know (half of them are syllables without a sense) and a number with its unit. Counted
are rows of which no pixel was filled, numbers that stay without their label, labels without their number,
numbers that are read otherwise than before, and head lines of which pixels stay.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.decide.layout import level_box
from ai_pipeline.burnin.find.annotation import Box, Mask, Picture
from ai_pipeline.burnin.find.text import shared_reader
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.images.decode import PictureImage
from ai_pipeline.images.header import picture_header

ROWS, COLUMNS = 576, 768
LABELS = {
    "de": "KSL SSL BIP KU AU FOD Blase Zyste Abstand Wanddicke VTD Milz EF Vmax Niere",
    "fr": "LCC BIP PC PA LF VTD Kyste Paroi Rein FE Rate Vessie Epaiss OD",
    "es": "LCC DBP CC CA Vejiga Quiste Grosor FEVI Utero Bazo Pared VTD",
    "it": "LVM DBP CA LF Cisti Utero Spess VTD FE Parete Rene Milza",
    "pt": "CCN DBP CF Bexiga Cisto Espess VDF FE Parede Rim Baço",
    "pl": "DPC WO OG KU Torbiel Jajnik Scianka Obj EF Nerka PMR",
    "tr": "KC FU Kist Mesane Rahim Duvar Hacim EF Dalak Bobrek",
    "romanised": "Jidar Tihal Shikyu Nou Hizo Kulya Mathana Ranso Zigong Danguan",
}
UNITS = ("cm", "mm", "cm/s", "m/s", "mmHg", "%", "bpm", "ml", "w d", "cm", "mm", "ml")
LAYOUTS = ("line", "columns", "two columns", "above", "units apart", "to the right")
FONTS = (
    *("liberation*/*Sans-Regular*", "liberation*/*Sans-Bold*", "roboto/**/Roboto-Medium*", "hack/Hack-R*"),
    *("open-sans/OpenSans-R*", "lato/Lato-Regular*", "noto/NotoSans-Regular*", "freefont/FreeMonoBold.*"),
)
INKS = ((255, 255, 255), (230, 230, 230), (255, 230, 0), (90, 255, 120), (90, 220, 255), (255, 170, 60))
PANELS = (None, (30, 30, 30), (10, 20, 60), (60, 60, 60))
NAMES = ("KOWALSKA MARIA", "Lindqvist, Per", "OZTURK^AYLIN", "Ferrari Giulia", "DUBOIS JEAN", "Yamada Hanako")


@dataclass(frozen=True)
class Row:
    """A row of a panel: the boxes of its label and of its number with the unit."""

    label: Box
    number: Box


@dataclass(frozen=True)
class Panel:
    """A drawn picture, RGB, what it shows without letters, its rows, and the rows of pixels of its head."""

    picture: Picture
    plain: Picture
    rows: tuple[Row, ...]
    head: int
    kind: str


def main() -> int:
    """Draw, clean, count, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--panels", type=int, default=24)
    parser.add_argument("--first", type=int, default=0, help="number of the first panel")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", type=Path, help="write pictures before and after into this folder")
    arguments = parser.parse_args()
    counts: Counter[str] = Counter()
    for number in range(arguments.first, arguments.first + arguments.panels):
        panel = drawn_panel(arguments.seed, number)
        image = PictureImage(
            "2.25.1", "2.25.2", picture_header(panel.picture, "US", lossy=True), panel.picture
        )
        try:
            result = clean(image, lambda _share, _what: None)
        except CleaningFailed as failure:
            print(f"{number}: withheld: {failure}", flush=True)
            counts["withheld"] += 1
            continue
        after = np.asarray(result.image.frames[0])
        own = Counter(judged(panel, after))
        counts += own
        print(f"{number}: {panel.kind}: {dict(own)}", flush=True)
        if arguments.save:
            arguments.save.mkdir(parents=True, exist_ok=True)
            both = np.concatenate([panel.picture, after], axis=1)
            cv2.imwrite(str(arguments.save / f"{number}.png"), both[..., ::-1])
    rows = sum(count for what, count in counts.items() if what.startswith("row"))
    print(f"\n{rows} rows: " + ", ".join(f"{what} {count}" for what, count in sorted(counts.items())))
    return 0


def drawn_panel(seed: int, number: int) -> Panel:
    """Draw picture ``number`` of a series: the same numbers give the same picture."""
    random = np.random.default_rng((seed, number))
    tissue = _tissue(random)
    language = sorted(LABELS)[number % len(LABELS)]
    layout = LAYOUTS[(number // 2) % len(LAYOUTS)]
    ink, ground = INKS[random.integers(len(INKS))], PANELS[random.integers(len(PANELS))]
    size = int(random.integers(13, 24))
    font = _font(str(random.choice(FONTS)), size)
    image, plain = Image.fromarray(tissue), Image.fromarray(tissue)
    head = _write_head(ImageDraw.Draw(image), random)
    pitch = round(size * float(random.uniform(1.25, 1.7)))
    origin = _origin(random, layout, size, on_tissue=ground is None and random.random() < 0.5)
    items = [_item(random, language) for _ in range(int(random.integers(3, 6)))]
    boxes = _places(layout, origin, items, font, pitch)
    if ground is not None:
        left = min(box[0] for row in boxes for box, _ in row) - 6
        top = min(box[1] for row in boxes for box, _ in row) - 6
        right = max(box[2] for row in boxes for box, _ in row) + 6
        bottom = max(box[3] for row in boxes for box, _ in row) + 6
        for one in (image, plain):
            ImageDraw.Draw(one).rectangle((left, top, right, bottom), fill=ground)
    drawing = ImageDraw.Draw(image)
    rows = []
    for parts in boxes:
        for box, words in parts:
            drawing.text(box[:2], words, fill=ink, font=font)
        numbers = [box for box, _ in parts[1:]]
        rows.append(Row(parts[0][0], (numbers[0][0], numbers[0][1], numbers[-1][2], numbers[-1][3])))
    quality = int(random.choice([100, 95, 85]))
    stored, empty = (_compressed(np.asarray(one), quality) for one in (image, plain))
    return Panel(stored, empty, tuple(rows), head, f"{language}, {layout}")


def judged(panel: Panel, after: Picture) -> Iterator[str]:
    """What became of each row of a panel, and of its head line."""
    changed = (panel.picture != after).any(axis=2)
    ink = cv2.absdiff(panel.picture, panel.plain).max(axis=2) > 60
    for row in panel.rows:
        label, number = (_share_gone(changed, ink, box) for box in (row.label, row.number))
        if max(label, number) < 0.01:
            yield "row whole"
        elif label > 0.5 >= number:
            yield "row: number without label"
        elif number > 0.5 >= label:
            yield "row: label without number"
        else:
            yield "row gone" if min(label, number) > 0.9 else "row cut"
        if number < 0.5 and _read(after, row.number) != _read(panel.picture, row.number):
            yield "number changed"
    if _share_gone(changed, ink, (0, 0, COLUMNS, panel.head)) < 0.95:
        yield "head line left"


def _share_gone(changed: Mask, ink: Mask, box: Box) -> float:
    """The share of the letters' pixels in a box that were changed."""
    place = slice(max(0, box[1]), box[3]), slice(max(0, box[0]), box[2])
    return float(changed[place][ink[place]].mean()) if ink[place].any() else 0.0


def _read(picture: Picture, box: Box) -> str:
    """The letters and digits that rapidocr reads in a box."""
    left, top, right, bottom = box
    line = shared_reader().read(picture, level_box((left - 3, top - 3, right + 3, bottom + 3), 1.0))
    return "".join(filter(str.isalnum, line.text))


def _tissue(random: np.random.Generator) -> Picture:
    """A sector of speckle on black, RGB."""
    y, x = np.mgrid[0:ROWS, 0:COLUMNS].astype(np.float32)
    depth, angle = np.hypot(x - COLUMNS / 2, y + 40), np.arctan2(x - COLUMNS / 2, y + 40)
    inside = (np.abs(angle) < 0.55) & (depth > 110) & (depth < ROWS)
    speckle = cv2.GaussianBlur(random.rayleigh(48, (ROWS, COLUMNS)).astype(np.float32), (0, 0), 1.6)
    grey = np.where(inside, np.clip(speckle * (1.3 - 0.6 * depth / ROWS) - 10, 4, 200), 0)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def _write_head(drawing: ImageDraw.ImageDraw, random: np.random.Generator) -> int:
    """Write the head line; returns the row below it."""
    font = _font(FONTS[0], 17)
    name, number = NAMES[random.integers(len(NAMES))], int(random.integers(10**6, 10**7))
    drawing.text((8, 5), name, fill=(255, 255, 255), font=font)
    drawing.text((300, 5), f"ID {number}", fill=(255, 255, 255), font=font)
    day = f"{random.integers(10, 28)}.0{random.integers(1, 9)}.20{random.integers(10, 26)}"
    drawing.text((600, 5), day, fill=(255, 255, 255), font=font)
    return 30


def _origin(random: np.random.Generator, layout: str, size: int, *, on_tissue: bool) -> tuple[int, int]:
    """Where a panel starts: beside the sector or over it."""
    if on_tissue:
        return int(random.integers(240, 300)), int(random.integers(220, 330))
    bottom = ROWS - 12 * size if layout == "above" else ROWS - 10 * size
    return int(random.integers(8, 30)), int(random.choice([60, 90, bottom]))


def _item(random: np.random.Generator, language: str) -> tuple[str, str, str]:
    """A label, a number, a unit."""
    words = LABELS[language].split()
    label = words[random.integers(len(words))]
    if random.random() < 0.5:
        syllables = int(random.integers(1, 4))
        label = "".join(random.choice(list(letters)) for letters in ("BDFGKLMNPRSTVZ", "aeiou") * syllables)
        label = label.capitalize() if random.random() < 0.5 else label.upper()
        label += f" {random.choice(list('dslr'))}" if random.random() < 0.2 else ""
    unit = UNITS[random.integers(len(UNITS))]
    if random.random() < 0.1:
        return label, f"{random.uniform(0.2, 0.95):.2f}", ""
    if unit == "w d":
        return label, f"{random.integers(12, 40)}w{random.integers(0, 7)}d", ""
    whole = unit in {"%", "bpm", "mmHg"} or (unit == "cm/s" and random.random() < 0.5)
    if whole:
        return label, f"{random.integers(20, 160)}", unit
    return label, f"{random.uniform(0.5, 25):.{random.integers(1, 3)}f}", unit


def _places(
    layout: str,
    origin: tuple[int, int],
    items: list[tuple[str, str, str]],
    font: ImageFont.FreeTypeFont,
    pitch: int,
) -> list[list[tuple[Box, str]]]:
    """Where each part of each row stands: the label, then the number with its unit or both apart."""
    left, top = origin
    widest = max(round(font.getlength(label)) for label, _, _ in items)
    size, made = round(font.size), []
    for index, (label, number, unit) in enumerate(items):
        column, row = left, top + index * pitch
        glue = "" if unit in {"%", "cm", "mm"} and len(number) % 2 else " "
        value = f"{number}{glue}{unit}".strip()
        if layout == "two columns":
            column, row = left + (index % 2) * (widest + 10 * size), top + (index // 2) * pitch
        if layout == "above":
            column, row = left + (index % 2) * (widest + 6 * size), top + (index // 2) * round(2.6 * pitch)
            parts = [(label, column, row), (value, column, row + pitch)]
        elif layout == "line":
            parts = [(label, column, row), (value, column + round(font.getlength(label + " ")), row)]
        elif layout == "units apart" and unit:
            at = column + widest + 2 * size
            parts = [(label, column, row), (number, at, row), (unit, at + 4 * size, row)]
        elif layout == "to the right":
            end = column + widest + 8 * size
            parts = [(label, column, row), (value, end - round(font.getlength(value)), row)]
        else:
            parts = [(label, column, row), (value, column + widest + size, row)]
        made.append([(_box(font, words, place, line), words) for words, place, line in parts])
    return made


def _box(font: ImageFont.FreeTypeFont, words: str, left: int, top: int) -> Box:
    """The box of words that are drawn from their upper left corner on."""
    return left, top, left + round(font.getlength(words)), top + round(1.25 * font.size)


def _font(pattern: str, size: int) -> ImageFont.FreeTypeFont:
    """The first font of this pattern, in this size."""
    return ImageFont.truetype(str(min(Path("/usr/share/fonts/truetype").glob(pattern))), size)


def _compressed(picture: Picture, quality: int) -> Picture:
    """The picture as a device stores it: compressed by JPEG below a quality of 100."""
    if quality == 100:
        return picture
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


if __name__ == "__main__":
    sys.exit(main())
