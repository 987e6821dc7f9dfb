"""Marks placed at random: calipers, arrows, body marks, bars, rulers, logos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import cv2
import numpy as np

from ai_pipeline.contract import Meaning
from ai_training.ultrasound.overlays.canvas import Canvas, Colour, MarkClass, Stamp
from ai_training.ultrasound.overlays.hands import StyleFamily, colour, hand, letter_height, write
from ai_training.ultrasound.overlays.symbols import (
    Points,
    arrow,
    direction,
    dotted_path,
    glyph,
    hand_cursor,
    mouse_cursor,
    on_pixel,
    on_pixels,
)
from ai_training.ultrasound.overlays.texts import VOCABULARY, Random, one


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
        offset = reach * direction(angle)
        shift = random.uniform(-0.08, 0.08, 2) * min(canvas.size)
        start, end = (on_pixel(np.array(middle) + shift + way * offset) for way in (-1, 1))
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
    cos, sin = direction(float(random.uniform(0, np.pi)))
    turn = np.linspace(0, 2 * np.pi, 90)
    x, y = reach * np.cos(turn), reach * float(random.uniform(0.4, 0.95)) * np.sin(turn)
    points = np.column_stack([centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos])
    _trace(canvas, random, points, ink)
    if random.random() < 0.6:
        shape, arm = one(random, family.glyphs), _arm(canvas, random)
        quarters = points[[0, len(points) // 4, len(points) // 2, 3 * len(points) // 4]]
        stamps = [Stamp(glyph(canvas, shape, on_pixel(end), arm, 1, True), ink) for end in quarters]
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
            (cv2.polylines, [on_pixels(torso)], False, *smooth),
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
    offset = 0.3 * size * direction(float(random.uniform(0, np.pi)))
    spot = np.array(place) + size // 2 + random.uniform(-0.25, 0.25, 2) * size
    bar = (cv2.line, on_pixel(spot - offset), on_pixel(spot + offset), 255, max(2, size // 14), cv2.LINE_AA)
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
        [(cv2.polylines, [on_pixels(body * size + (column, row))], True, 255, 1, cv2.LINE_AA)],
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
    outline = canvas.sketch((cv2.polylines, [on_pixels(corners)], True, 255, 1, cv2.LINE_AA))
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
        spokes = [tall * 0.3 * direction(angle) for angle in np.linspace(0, np.pi, 4)]
        radii = [ring * tall // 3 for ring in range(1, 4)]
        styles: tuple[list[tuple[Any, ...]], ...] = (
            [
                (cv2.circle, middle, tall // 2, 255, max(1, tall // 10), cv2.LINE_AA),
                *(
                    (cv2.line, on_pixel(middle - way), on_pixel(middle + way), 255, 1, cv2.LINE_AA)
                    for way in spokes
                ),
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
