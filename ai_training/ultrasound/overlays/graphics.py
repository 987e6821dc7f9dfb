"""Draw marks in the places where scanners and sonographers put them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ai_pipeline.contract import Meaning
from ai_training.ultrasound.overlays import drawings as draw
from ai_training.ultrasound.overlays import words
from ai_training.ultrasound.overlays.canvas import Canvas, Colour, MarkClass, Stamp
from ai_training.ultrasound.overlays.layouts import label
from ai_training.ultrasound.overlays.styles import StyleFamily, colour, hand
from ai_training.ultrasound.overlays.typesetting import write
from ai_training.ultrasound.overlays.words import Random, one

Drawer = Callable[[Canvas, Random, StyleFamily], None]


def calipers(canvas: Canvas, random: Random, family: StyleFamily) -> None:
    """Draw one to three measured distances: two ends, mostly with dots between them, mostly with a number."""
    ink, shape = colour(random), one(random, family.glyphs)
    arm, thick = _arm(canvas, random), int(random.random() < 0.3) + 1
    smooth, numbered = bool(random.random() < 0.6), random.random() < 0.7
    middle = _place(canvas, random, 0.25, 0.75)
    for number in range(1, int(random.integers(1, 4)) + 1):
        angle, reach = random.uniform(0, np.pi), random.uniform(0.04, 0.25) * min(canvas.size)
        offset = reach * np.array([np.cos(angle), np.sin(angle)])
        shift = random.uniform(-0.08, 0.08, 2) * min(canvas.size)
        start, end = (_whole(np.array(middle) + shift + way * offset) for way in (-1, 1))
        ends = [Stamp(draw.glyph(canvas, shape, point, arm, thick, smooth), ink) for point in (start, end)]
        canvas.burn(ends, MarkClass.CALIPER, Meaning.MEASUREMENT)
        if random.random() < 0.75:
            _trace(canvas, random, draw.line_points(start, end), ink)
        if numbered:
            spot = end[0] + arm + 1, end[1] + int(random.integers(-arm, arm + 1))
            label(canvas, random, family, str(number), spot, Meaning.MEASUREMENT)


def ellipse(canvas: Canvas, random: Random, family: StyleFamily) -> None:
    """Draw a dotted ellipse, often with the ends of its axes marked, or a trace by hand."""
    ink, centre = colour(random), _place(canvas, random, 0.3, 0.7)
    reach = float(random.uniform(0.06, 0.3)) * min(canvas.size)
    if random.random() < 0.25:
        _trace(canvas, random, draw.free_trace(random, centre, reach), ink)
        return
    angle = float(random.uniform(0, np.pi))
    points = draw.ellipse_points(centre, (reach, reach * float(random.uniform(0.4, 0.95))), angle)
    _trace(canvas, random, points, ink)
    if random.random() < 0.6:
        shape, arm = one(random, family.glyphs), _arm(canvas, random)
        ends = [
            _whole(points[index]) for index in (0, len(points) // 4, len(points) // 2, 3 * len(points) // 4)
        ]
        stamps = [Stamp(draw.glyph(canvas, shape, end, arm, 1, True), ink) for end in ends]
        canvas.burn(stamps, MarkClass.CALIPER, Meaning.MEASUREMENT)


def lone_glyphs(canvas: Canvas, random: Random, family: StyleFamily) -> None:
    """Draw several small ends of calipers without a line, as in a picture frozen during a measurement."""
    ink, shape = colour(random), one(random, family.glyphs)
    for _ in range(int(random.integers(1, 6))):
        stamp = Stamp(
            draw.glyph(canvas, shape, _place(canvas, random, 0.1, 0.9), _arm(canvas, random), 1, True), ink
        )
        canvas.burn([stamp], MarkClass.CALIPER, Meaning.MEASUREMENT)


def arrows(canvas: Canvas, random: Random, _family: StyleFamily) -> None:
    ink = colour(random)
    for _ in range(int(random.integers(1, 4))):
        length = int(random.uniform(0.03, 0.12) * min(canvas.size)) + 5
        alpha = draw.arrow(canvas, random, _place(canvas, random, 0.1, 0.9), length)
        canvas.burn([Stamp(alpha, ink)], MarkClass.MARKER, Meaning.ORIENTATION)


def cursor(canvas: Canvas, random: Random, _family: StyleFamily) -> None:
    size = int(random.integers(12, 26))
    drawer = draw.hand_cursor if random.random() < 0.6 else draw.mouse_cursor
    for _ in range(1 if random.random() < 0.7 else int(random.integers(2, 9))):
        stamps = drawer(canvas, _place(canvas, random, 0.05, 0.9), size)
        canvas.burn(stamps, MarkClass.MARKER, Meaning.ORIENTATION)


def body_mark(canvas: Canvas, random: Random, _family: StyleFamily) -> None:
    size = int(random.uniform(0.07, 0.15) * min(canvas.size)) + 8
    columns, rows = canvas.size
    place = int(random.choice([size, columns - 2 * size])), int(random.choice([6, rows - int(1.3 * size)]))
    outline, probe = draw.body_mark(canvas, random, place, size)
    ink, bar = colour(random), colour(random)
    canvas.burn([Stamp(outline, ink), Stamp(probe, bar)], MarkClass.MARKER, Meaning.ORIENTATION)


def probe_icon(canvas: Canvas, random: Random, _family: StyleFamily) -> None:
    """Draw the mark of the probe's side at the top of the picture."""
    size = int(random.uniform(0.02, 0.05) * min(canvas.size)) + 6
    place = int(random.uniform(0.02, 0.9) * canvas.size[0]), int(random.uniform(0.0, 0.12) * canvas.size[1])
    alpha = draw.probe_icon(canvas, random, place, size)
    canvas.burn([Stamp(alpha, colour(random))], MarkClass.MARKER, Meaning.ORIENTATION)


def guide_line(canvas: Canvas, random: Random, _family: StyleFamily) -> None:
    """Draw the biopsy guide: a long dotted line across the picture."""
    columns, rows = canvas.size
    top = int(random.uniform(0.3, 0.7) * columns)
    bottom = top + int(random.uniform(-0.3, 0.3) * columns)
    _trace(canvas, random, draw.line_points((top, 0), (bottom, rows)), colour(random), MarkClass.MARKER)


def colour_box(canvas: Canvas, random: Random, _family: StyleFamily) -> None:
    ink: Colour = (60, 220, 60) if random.random() < 0.5 else colour(random)
    canvas.burn([Stamp(draw.roi_outline(canvas, random), ink, 0.9)], MarkClass.MARKER, Meaning.SCALE)


def ruler(canvas: Canvas, random: Random, family: StyleFamily) -> None:
    """Draw depth ticks at a side or the bottom, sometimes with numbers and the focus pointer."""
    columns, rows = canvas.size
    side = str(random.choice(["l", "r", "b"]))
    edge = int(random.integers(1, 25))
    position = {"l": edge, "r": columns - edge, "b": rows - edge}[side]
    step, length = float(random.uniform(8, 60)), int(random.integers(2, 7))
    ink: Colour = (230, 230, 230) if random.random() < 0.6 else colour(random)
    ticks = draw.ruler(canvas, random, side, position, step, length)
    canvas.burn([Stamp(ticks, ink)], MarkClass.SCALE, Meaning.SCALE)
    if side in "lr" and random.random() < 0.4:
        look = hand(random, family, 8.0, korean=False)
        for number, row in enumerate(np.arange(step, rows, 5 * step)):
            place = position + (12 if side == "l" else -12), int(row)
            stamps = write(canvas, str(5 * number), place, look, right=side == "r")
            canvas.burn(stamps, MarkClass.SCALE, Meaning.SCALE, str(5 * number))
    if random.random() < 0.5:
        spot = (position if side in "lr" else edge), int(random.uniform(0.1, 0.9) * rows)
        alpha = draw.pointer(canvas, random, spot, int(random.integers(4, 10)))
        canvas.burn([Stamp(alpha, ink)], MarkClass.SCALE, Meaning.SCALE)


def level_bar(canvas: Canvas, random: Random, _family: StyleFamily) -> None:
    """Draw the bar of grey levels or of flow colours at a side."""
    columns, rows = canvas.size
    width, height = int(random.integers(4, 14)), int(random.uniform(0.12, 0.45) * rows)
    corner = int(random.choice([1, 8, columns - width - 2])), int(random.uniform(0.0, 0.4) * rows)
    if random.random() < 0.6:
        table = [(level, level, level) for level in range(255, 0, -6)]
    else:
        half = np.linspace(255, 30, 20).astype(int).tolist()
        table = [(255, level, 0) for level in half] + [(0, 255 - level, 255) for level in half]
    canvas.burn(draw.bar(canvas, corner, (width, height), table), MarkClass.SCALE, Meaning.SCALE)


def logo(canvas: Canvas, random: Random, family: StyleFamily) -> None:
    """Draw a maker's name, with or without a sign, in an upper corner or at the bottom."""
    columns, rows = canvas.size
    name = words.maker(random)
    size = float(random.uniform(0.025, 0.05)) * min(canvas.size) + 4
    look = hand(random, family, size, korean=False)
    place = int(random.choice([6, int(0.7 * columns)])), int(random.choice([4, rows - int(2 * size) - 4]))
    stamps = []
    if random.random() < 0.6:
        stamps.append(Stamp(draw.emblem(canvas, random, place, int(size * 1.4)), look.colour))
    stamps += write(canvas, name, (place[0] + int(size * 1.7), place[1]), look)
    canvas.burn(stamps, MarkClass.LOGO, Meaning.LOGO, name)


DRAWERS: tuple[tuple[Drawer, float], ...] = (
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
    canvas: Canvas, random: Random, points: draw.Points, ink: Colour, kind: MarkClass = MarkClass.CALIPER
) -> None:
    gap, dot = float(random.choice([2, 3, 4, 4, 6, 8])), int(random.choice([1, 1, 2, 3]))
    alpha = draw.dotted_path(canvas, points, max(gap, dot + 1.0), dot, bool(random.random() < 0.5))
    meaning = Meaning.MEASUREMENT if kind is MarkClass.CALIPER else Meaning.ORIENTATION
    canvas.burn([Stamp(alpha, ink, float(random.choice([1.0, 0.8, 0.5])))], kind, meaning)


def _arm(canvas: Canvas, random: Random) -> int:
    """Half the width of a caliper's end: 3 pixels and more."""
    return max(3, round(float(random.uniform(0.008, 0.022)) * min(canvas.size)))


def _place(canvas: Canvas, random: Random, low: float, high: float) -> tuple[int, int]:
    columns, rows = canvas.size
    return int(random.uniform(low, high) * columns), int(random.uniform(low, high) * rows)


def _whole(point: draw.Points) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))
