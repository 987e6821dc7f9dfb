"""Layouts of the texts around a picture, as scanners have them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2

from ai_pipeline.contract import Meaning
from ai_training.ultrasound.overlays.canvas import Canvas, Colour, MarkClass, Stamp
from ai_training.ultrasound.overlays.hands import Hand, StyleFamily, extent, letter_height, write
from ai_training.ultrasound.overlays.texts import (
    VOCABULARY,
    Random,
    acoustic_output,
    date_text,
    hospital,
    identifier,
    measurement,
    one,
    person_name,
    settings,
    time_text,
)

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
