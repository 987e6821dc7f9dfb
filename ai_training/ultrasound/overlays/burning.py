"""Burn a random overlay into a clean frame; gives the clean picture, mask, classes and objects as well."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

from ai_pipeline.burnin.find.annotation import Box, Picture, brightest
from ai_pipeline.contract import Meaning
from ai_training.sets.images import read_rgb, rows
from ai_training.ultrasound.overlays import writing
from ai_training.ultrasound.overlays.graphics import DRAWERS
from ai_training.ultrasound.overlays.writing import (
    BurnedObject,
    Canvas,
    Colour,
    Hand,
    MarkClass,
    Random,
    Stamp,
    StyleFamily,
    extent,
    hand,
    letter_height,
    write,
)


@dataclass(frozen=True, slots=True)
class CleanFrame:
    """A part of a public frame without annotation. ``box`` in pixels of the file; ``split`` as published."""

    source: str
    file: str
    split: str
    box: Box

    def read(self, data: Path) -> Picture:
        """The part as RGB ``[rows, columns, 3]``. Raises DataMissing when the file is not there."""
        left, top, right, bottom = self.box
        return np.ascontiguousarray(read_rgb(data / self.source / self.file)[top:bottom, left:right])


def clean_frames(split: str) -> tuple[CleanFrame, ...]:
    """The listed parts of one split (train, val or test), in the order of the list."""
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
    """How a picture is stored: scaled by ``factor``, then JPEG of ``quality`` (None: lossless)."""

    factor: float
    interpolation: int
    quality: int | None
    whole_chroma: bool

    def scaled(self, picture: Picture) -> Picture:
        size = tuple(round(side * self.factor) for side in (picture.shape[1], picture.shape[0]))
        return np.asarray(cv2.resize(picture, size, interpolation=self.interpolation), np.uint8)

    def compressed(self, picture: Picture) -> Picture:
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
    """A whole picture made of a clean part: each at times cut to a sector, on black, tinted, with flow."""
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
    """1 inside a fan whose edges lie at the picture's sides."""
    rows, columns = shape
    mask = np.zeros((rows, columns), np.uint8)
    apex = columns // 2, -int(rows * random.uniform(0.05, 0.5))
    radius = rows - apex[1]
    spread = float(random.uniform(28, 65))
    cv2.ellipse(mask, apex, (radius, radius), 90, -spread, spread, 1, -1)
    cv2.circle(mask, apex, -apex[1] + int(rows * random.uniform(0, 0.12)), 0, -1)
    return mask


def _with_flow(part: Picture, random: Random) -> Picture:
    """Red-yellow and blue-cyan patches as colour Doppler paints them: coloured, and no mark."""
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
    """What a layout writes on, and how: canvas and its size, random generator, family of styles, font and
    size; whether names are Korean.
    """

    canvas: Canvas
    columns: int
    rows: int
    random: Random
    family: StyleFamily
    hand: Hand
    korean: bool

    def write(self, token: Token, place: tuple[int, int], hand: Hand, *, right: bool = False) -> None:
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
        """The style of writing without box and frame."""
        return replace(self.hand, box=None, frame=None)

    def resized(self, look: Hand, low: float, high: float) -> Hand:
        """The style ``look`` at another size (:func:`letter_height`)."""
        return look.sized(letter_height(self.canvas, self.random, low, high))

    def ground_colour(self, most: int = len(GROUNDS)) -> Colour:
        """A random background colour, one of the first ``most`` of :data:`GROUNDS`."""
        return writing.one(self.random, GROUNDS[:most])


def patient_tokens(page: Page) -> list[Token]:
    """Name, number, dates, place: texts that must not leave the hospital."""
    random, family = page.random, page.family
    form = "korean" if page.korean else writing.one(random, [f for f in family.names if f != "korean"])
    dates = [
        writing.date(random, writing.one(random, family.dates), *years)
        for years in ((1940, 2005), (2015, 2025))
    ]
    born = writing.one(random, ("", "DOB ", "b. ", "*")) + dates[0]
    texts = [
        writing.name(random, form),
        writing.identifier(random),
        born,
        writing.hospital(random, page.korean),
        f"{dates[1]} {writing.time(random)}" if random.random() < 0.5 else dates[1],
    ]
    return [(text, Meaning.IDENTITY) for text in texts]


def _top_strip(page: Page) -> None:
    """A bar with the patient on the left and the place and time on the right, in one or two lines."""
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
    """One line at the bottom, its parts between separators."""
    separator = writing.one(page.random, (" | ", " / ", "  -  "))
    tokens = patient_tokens(page)[: int(page.random.integers(2, 5))]
    line = separator.join(text for text, _ in tokens)
    look = _fitting(page.plain, line, page.columns - 8)
    height = extent(line, look)[1] + 8
    _ground(page, (0, page.rows - height, page.columns, page.rows))
    page.write((line, Meaning.IDENTITY), (4, page.rows - height + 4), look)


def _top_left_stack(page: Page) -> None:
    _stack(page, patient_tokens(page), (6, 6))


def _centred_heading(page: Page) -> None:
    row = int(page.random.integers(2, 12))
    for token in patient_tokens(page)[: int(page.random.integers(1, 4))]:
        look = _fitting(page.hand, token[0], page.columns - 8)
        width, height = extent(token[0], look)
        page.write(token, ((page.columns - width) // 2, row), look)
        row += height + 3


def _left_column(page: Page) -> None:
    """Rows of "key: value" down the left side."""
    keys = ("Name", "ID", "DOB", "Site", "Date")
    tokens = [
        (f"{key}: {text}", meaning) for key, (text, meaning) in zip(keys, patient_tokens(page), strict=True)
    ]
    tokens += [(text, Meaning.ACOUSTIC) for text in writing.settings(page.random, 4)]
    start = int(page.rows * page.random.uniform(0.02, 0.5))
    _stack(page, tokens, (5, start))


def _framed_block(page: Page) -> None:
    """A framed box with a few lines of the patient's data, in any corner."""
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
    """The name alone in a filled box, somewhere at the edge."""
    token = writing.one(page.random, patient_tokens(page)[:3])
    look = replace(_fitting(page.hand, token[0], page.columns // 2), box=page.ground_colour(3))
    width, height = extent(token[0], look)
    left = int(page.random.choice([8, max(8, page.columns - width - 8)]))
    top = int(page.random.choice([8, max(8, page.rows - height - 8)]))
    page.write(token, (left, top), look)


def _right_column(page: Page) -> None:
    """Settings and acoustic output down the right side, as most machines write them."""
    look = page.resized(page.plain, 0.016, 0.032)
    tokens = [
        writing.acoustic_output(page.random),
        *writing.settings(page.random, int(page.random.integers(3, 9))),
    ]
    row = int(page.random.integers(2, max(3, page.rows // 3)))
    for text in tokens:
        page.write((text, Meaning.ACOUSTIC), (page.columns - 4, row), look, right=True)
        row += extent("Ág", look)[1] + 2


def _bottom_results(page: Page) -> None:
    """Measured values in a box at the bottom, right or left."""
    lines = [writing.measurement(page.random) for _ in range(int(page.random.integers(1, 5)))]
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
    """Measured values in a ruled table in the upper part."""
    look = page.resized(replace(page.hand, box=None, frame=None, coarse=1), 0.02, 0.036)
    lines = [writing.measurement(page.random) for _ in range(int(page.random.integers(2, 6)))]
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
    """What the sonographer typed onto the picture; now and then a name, upright or along a side."""
    for _ in range(int(page.random.integers(1, 4))):
        look = page.resized(page.hand, 0.022, 0.06)
        token = (writing.one(page.random, writing.VOCABULARY["sites"]), Meaning.ORIENTATION)
        if page.random.random() < 0.25:
            token = writing.one(page.random, patient_tokens(page)[:3])
        elif page.random.random() < 0.3:
            token = (writing.measurement(page.random), Meaning.MEASUREMENT)
        if page.random.random() < 0.1:
            look = replace(look, angle=float(page.random.choice([90, 180, 270])), box=None, frame=None)
        place = (
            int(page.random.uniform(0.05, 0.75) * page.columns),
            int(page.random.uniform(0.05, 0.9) * page.rows),
        )
        page.write(token, place, look)


def _slanted_note(page: Page) -> None:
    """Writing that does not stand level: turned, upside down, by hand."""
    tokens = patient_tokens(page)
    for _ in range(int(page.random.integers(1, 3))):
        angle = float(page.random.choice([page.random.uniform(-35, 35), 90, 180, 270]))
        if page.random.random() < 0.5:
            token = writing.one(page.random, tokens)
        else:
            token = (writing.one(page.random, writing.VOCABULARY["sites"]), Meaning.ORIENTATION)
        look = replace(page.resized(page.hand, 0.025, 0.06), angle=angle, box=None, frame=None)
        place = (
            int(page.random.uniform(0.05, 0.7) * page.columns),
            int(page.random.uniform(0.05, 0.7) * page.rows),
        )
        page.write(token, place, look)


def _stack(page: Page, tokens: list[Token], place: tuple[int, int]) -> None:
    """The first of ``tokens``, one below the other."""
    count = int(page.random.integers(1, len(tokens) + 1))
    page.write_down(tokens[:count], place, page.plain, 3)


def _ground(page: Page, box: tuple[int, int, int, int]) -> None:
    """The bar or box under a group of texts: opaque, or letting the picture shine through."""
    left, top, right, bottom = box
    alpha = page.canvas.sketch((cv2.rectangle, (left, top), (right - 1, bottom - 1), 255, -1))
    opacity = float(page.random.choice([1.0, 1.0, 0.8, 0.5]))
    page.canvas.ground(Stamp(alpha, page.ground_colour(), opacity))


def _fitting(look: Hand, text: str, width: int) -> Hand:
    """The writing, made smaller until ``text`` fits (not under 7 pixels)."""
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
    """One synthetic picture and its truth. All arrays have the picture's rows and columns.

    ``image`` and ``clean`` are RGB as the device stores them (both scaled and compressed). ``drawn`` and
    ``plain`` are the same two before compression: equal wherever ``mask`` (uint8, 255 in marks) is 0 and
    different wherever it is not. ``owners`` holds 1 + the index in ``objects``, 0 outside marks.
    """

    image: Picture
    clean: Picture
    drawn: Picture
    plain: Picture
    owners: npt.NDArray[np.uint16]
    objects: tuple[BurnedObject, ...]

    @property
    def mask(self) -> npt.NDArray[np.uint8]:
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
    """Scale and compress a drawn canvas and its clean picture alike; ``owners`` and boxes are computed from
    the pixels that differ afterwards. The box of an object that later ones cover altogether is empty.
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
    """Owners at a new size: each changed pixel belongs to the object drawn nearest to it, the others to none.

    The nearest is looked for before scaling, since a coarser grid steps over thin strokes and lone dots.
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
