"""Layouts of texts, one function each; a style family names the layouts that it draws from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2

from ai_pipeline.contract import Meaning
from ai_training.ultrasound.overlays import words
from ai_training.ultrasound.overlays.canvas import Canvas, Colour, MarkClass, Stamp
from ai_training.ultrasound.overlays.styles import StyleFamily, hand, person, writes_korean
from ai_training.ultrasound.overlays.typesetting import Hand, extent, write
from ai_training.ultrasound.overlays.words import Random

Token = tuple[str, Meaning]
GROUNDS: tuple[Colour, ...] = ((0, 0, 0), (20, 20, 30), (45, 45, 45), (0, 0, 90), (70, 90, 120))


@dataclass(frozen=True, slots=True)
class Setting:
    """The inputs of a layout: canvas, random generator, family of styles, font and size; whether names are
    Korean.
    """

    canvas: Canvas
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
        return words.one(self.random, GROUNDS[:most])


def letter_height(canvas: Canvas, random: Random, low: float, high: float) -> float:
    """A random height of letters in pixels, at least 7: a share ``low`` to ``high`` (0 to 1) of the shorter
    side.
    """
    return max(7.0, float(random.uniform(low, high)) * min(canvas.size))


def lay_out(canvas: Canvas, random: Random, family: StyleFamily, layout: str) -> None:
    """Write the texts of one layout."""
    korean = writes_korean(random)
    size = letter_height(canvas, random, 0.022, 0.05)
    LAYOUTS[layout](Setting(canvas, random, family, hand(random, family, size, korean=korean), korean))


def label(
    canvas: Canvas, random: Random, family: StyleFamily, text: str, place: tuple[int, int], meaning: Meaning
) -> None:
    """Write one short text by itself, such as a caliper's number."""
    size = letter_height(canvas, random, 0.02, 0.045)
    look = replace(hand(random, family, size, korean=False), box=None, frame=None)
    canvas.burn(write(canvas, text, place, look), MarkClass.TEXT, meaning, text)


def patient_tokens(setting: Setting) -> list[Token]:
    """Name, number, dates, place: texts that must not leave the hospital."""
    random, family = setting.random, setting.family
    form = person(random, family, korean=setting.korean)
    dates = [
        words.date(random, words.one(random, family.dates), *years) for years in ((1940, 2005), (2015, 2025))
    ]
    born = words.one(random, ("", "DOB ", "b. ", "*")) + dates[0]
    texts = [
        words.name(random, form),
        words.identifier(random),
        born,
        words.hospital(random, setting.korean),
        f"{dates[1]} {words.time(random)}" if random.random() < 0.5 else dates[1],
    ]
    return [(text, Meaning.IDENTITY) for text in texts]


def _top_strip(setting: Setting) -> None:
    """A bar with the patient on the left and the place and time on the right, in one or two lines."""
    columns, _ = setting.canvas.size
    tokens = patient_tokens(setting)
    look = _fitting(setting.plain, tokens[0][0] + tokens[3][0], int(columns * 0.9))
    line = extent("Ág", look)[1] + 3
    lines = int(setting.random.integers(1, 3))
    _ground(setting, (0, 0, columns, lines * line + 6))
    for number in range(lines):
        row = 3 + number * line
        setting.write(tokens[number], (5, row), look)
        setting.write(tokens[3 + number], (columns - 5, row), look, right=True)


def _bottom_strip(setting: Setting) -> None:
    """One line at the bottom, its parts between separators."""
    columns, rows = setting.canvas.size
    separator = words.one(setting.random, (" | ", " / ", "  -  "))
    tokens = patient_tokens(setting)[: int(setting.random.integers(2, 5))]
    line = separator.join(text for text, _ in tokens)
    look = _fitting(setting.plain, line, columns - 8)
    height = extent(line, look)[1] + 8
    _ground(setting, (0, rows - height, columns, rows))
    setting.write((line, Meaning.IDENTITY), (4, rows - height + 4), look)


def _top_left_stack(setting: Setting) -> None:
    _stack(setting, patient_tokens(setting), (6, 6))


def _centred_heading(setting: Setting) -> None:
    columns, _ = setting.canvas.size
    row = int(setting.random.integers(2, 12))
    for token in patient_tokens(setting)[: int(setting.random.integers(1, 4))]:
        look = _fitting(setting.hand, token[0], columns - 8)
        width, height = extent(token[0], look)
        setting.write(token, ((columns - width) // 2, row), look)
        row += height + 3


def _left_column(setting: Setting) -> None:
    """Rows of "key: value" down the left side."""
    keys = ("Name", "ID", "DOB", "Site", "Date")
    tokens = [
        (f"{key}: {text}", meaning)
        for key, (text, meaning) in zip(keys, patient_tokens(setting), strict=True)
    ]
    tokens += [(text, Meaning.ACOUSTIC) for text in words.settings(setting.random, 4)]
    start = int(setting.canvas.size[1] * setting.random.uniform(0.02, 0.5))
    _stack(setting, tokens, (5, start))


def _framed_block(setting: Setting) -> None:
    """A framed box with a few lines of the patient's data, in any corner."""
    columns, rows = setting.canvas.size
    look = setting.plain
    tokens = patient_tokens(setting)[: int(setting.random.integers(2, 6))]
    sizes = [extent(text, look) for text, _ in tokens]
    width, height = max(size[0] for size in sizes) + 12, sum(size[1] + 3 for size in sizes) + 9
    left = int(setting.random.choice([2, max(2, columns - width - 2)]))
    top = int(setting.random.choice([2, max(2, rows - height - 2)]))
    _ground(setting, (left, top, left + width, top + height), rim=look.colour)
    setting.write_down(tokens, (left + 6, top + 5), look, 3)


def _boxed_line(setting: Setting) -> None:
    """The name alone in a filled box, somewhere at the edge."""
    columns, rows = setting.canvas.size
    token = words.one(setting.random, patient_tokens(setting)[:3])
    look = replace(_fitting(setting.hand, token[0], columns // 2), box=setting.ground_colour(3))
    width, height = extent(token[0], look)
    left = int(setting.random.choice([8, max(8, columns - width - 8)]))
    top = int(setting.random.choice([8, max(8, rows - height - 8)]))
    setting.write(token, (left, top), look)


def _right_column(setting: Setting) -> None:
    """Settings and acoustic output down the right side, as most machines write them."""
    columns, rows = setting.canvas.size
    random = setting.random
    look = setting.resized(setting.plain, 0.016, 0.032)
    tokens = [words.acoustic_output(random), *words.settings(random, int(random.integers(3, 9)))]
    row = int(random.integers(2, max(3, rows // 3)))
    for text in tokens:
        setting.write((text, Meaning.ACOUSTIC), (columns - 4, row), look, right=True)
        row += extent("Ág", look)[1] + 2


def _bottom_results(setting: Setting) -> None:
    """Measured values in a box at the bottom, right or left."""
    columns, rows = setting.canvas.size
    random = setting.random
    lines = [words.measurement(random) for _ in range(int(random.integers(1, 5)))]
    look = setting.resized(setting.plain, 0.022, 0.042)
    sizes = [extent(text, look) for text in lines]
    width, height = max(size[0] for size in sizes) + 8, sum(size[1] + 2 for size in sizes) + 6
    left = int(random.choice([3, max(3, columns - width - 3)]))
    top = max(0, rows - height - int(random.integers(2, 12)))
    if random.random() < 0.5:
        _ground(setting, (left, top, left + width, top + height))
    tokens = [(text, Meaning.MEASUREMENT) for text in lines]
    setting.write_down(tokens, (left + 4, top + 3), look, 2)


def _results_table(setting: Setting) -> None:
    """Measured values in a ruled table in the upper part."""
    random = setting.random
    columns, rows = setting.canvas.size
    look = setting.resized(replace(setting.hand, box=None, frame=None, coarse=1), 0.02, 0.036)
    lines = [words.measurement(random) for _ in range(int(random.integers(2, 6)))]
    height = extent("Ág", look)[1] + 5
    width = max(extent(text, look)[0] for text in lines) + 10
    left, top = int(random.integers(2, max(3, columns - width))), int(random.integers(2, max(3, rows // 2)))
    grid = setting.canvas.blank()
    for number in range(len(lines) + 1):
        cv2.line(grid, (left, top + number * height), (left + width, top + number * height), 255, 1)
    for edge in (left, left + width):
        cv2.line(grid, (edge, top), (edge, top + len(lines) * height), 255, 1)
    setting.canvas.burn([Stamp(grid, look.colour, 0.8)], MarkClass.TEXT, Meaning.MEASUREMENT)
    for number, text in enumerate(lines):
        setting.write((text, Meaning.MEASUREMENT), (left + 5, top + number * height + 3), look)


def _inner_labels(setting: Setting) -> None:
    """What the sonographer typed onto the picture; now and then a name, upright or along a side."""
    random = setting.random
    columns, rows = setting.canvas.size
    for _ in range(int(random.integers(1, 4))):
        look = setting.resized(setting.hand, 0.022, 0.06)
        token = (words.site(random), Meaning.ORIENTATION)
        if random.random() < 0.25:
            token = words.one(random, patient_tokens(setting)[:3])
        elif random.random() < 0.3:
            token = (words.measurement(random), Meaning.MEASUREMENT)
        if random.random() < 0.1:
            look = replace(look, angle=float(random.choice([90, 180, 270])), box=None, frame=None)
        place = int(random.uniform(0.05, 0.75) * columns), int(random.uniform(0.05, 0.9) * rows)
        setting.write(token, place, look)


def _slanted_note(setting: Setting) -> None:
    """Writing that does not stand level: turned, upside down, by hand."""
    random = setting.random
    columns, rows = setting.canvas.size
    tokens = patient_tokens(setting)
    for _ in range(int(random.integers(1, 3))):
        angle = float(random.choice([random.uniform(-35, 35), 90, 180, 270]))
        if random.random() < 0.5:
            token = words.one(random, tokens)
        else:
            token = (words.site(random), Meaning.ORIENTATION)
        look = replace(setting.resized(setting.hand, 0.025, 0.06), angle=angle, box=None, frame=None)
        place = int(random.uniform(0.05, 0.7) * columns), int(random.uniform(0.05, 0.7) * rows)
        setting.write(token, place, look)


def _stack(setting: Setting, tokens: list[Token], place: tuple[int, int]) -> None:
    """The first of ``tokens``, one below the other."""
    count = int(setting.random.integers(1, len(tokens) + 1))
    setting.write_down(tokens[:count], place, setting.plain, 3)


def _ground(setting: Setting, box: tuple[int, int, int, int], *, rim: Colour | None = None) -> None:
    """The bar or box under a group of texts: opaque, or letting the picture shine through."""
    left, top, right, bottom = box
    corners = (left, top), (right - 1, bottom - 1)
    alpha = setting.canvas.blank()
    cv2.rectangle(alpha, *corners, 255, -1)
    opacity = float(setting.random.choice([1.0, 1.0, 0.8, 0.5]))
    setting.canvas.ground(Stamp(alpha, setting.ground_colour(), opacity))
    if rim is not None:
        edge = setting.canvas.blank()
        cv2.rectangle(edge, *corners, 255, 1)
        setting.canvas.burn([Stamp(edge, rim)], MarkClass.TEXT, Meaning.IDENTITY)


def _fitting(look: Hand, text: str, width: int) -> Hand:
    """The writing, made smaller until ``text`` fits (not under 7 pixels)."""
    needed = extent(text, look)[0]
    return look if needed <= width else look.sized(max(7.0, look.size * width / needed))


LAYOUTS: dict[str, Callable[[Setting], None]] = {
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
