"""Charts as SVG shapes: bars or lines over time, with round numbers on the axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import Final, Literal

from dicom_console.views.activity import Series
from dicom_node.store.views import View

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 400, 170, 50, 22, 10
"""Of a chart, and what stays free for its numbers (pixels)."""
_ROUND: Final = (1, 2, 2.5, 5, 10)
Kind = Literal["bars", "lines"]


def chart(
    title: str, unit: str, kind: Kind, times: Sequence[datetime], series: Sequence[Series], top: float = 0.0
) -> View:
    """A chart whose axis ends at a round number at or above all values and ``top``.

    ``unit``: "s", "%" (of values from 0 to 1) or "". Each series has ``dots`` (x, y, value, time) and
    ``runs`` of points without a gap; bars have a width ``bar``.
    """
    highest = max([top, *(value for one in series for value in one.values if value is not None)], default=0)
    end = _round_up(highest)
    width = (WIDTH - LEFT) / max(len(times), 1)
    return {
        "title": title,
        "unit": unit,
        "kind": kind,
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "bar": max(width - 1, 1),
        "base": HEIGHT - BOTTOM,
        "lines": [{"y": _y(end * part, end), "value": end * part} for part in (0, 0.5, 1)],
        "marks": _marks(times, width),
        "series": [_shape(one, times, width, end) for one in series],
        "empty": not any(value for one in series for value in one.values),
    }


def _shape(one: Series, times: Sequence[datetime], width: float, end: float) -> View:
    placed = [
        {"x": round(LEFT + (place + 0.5) * width, 1), "y": _y(value, end), "value": value, "at": times[place]}
        if value is not None
        else None
        for place, value in enumerate(one.values)
    ]
    runs = [list(run) for there, run in groupby(placed, key=bool) if there]
    return {"name": one.name, "dots": [dot for dot in placed if dot], "runs": runs}


def _y(value: float, end: float) -> float:
    return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / end, 1)


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in _ROUND if step * power >= value * (1 - 1e-9))


def _marks(times: Sequence[datetime], width: float) -> list[View]:
    """Three times along the axis at most."""
    step = max(math.ceil(len(times) / 3), 1)
    return [
        {"x": round(LEFT + (place + 0.5) * width, 1), "at": times[place]}
        for place in range(step // 2, len(times), step)
    ]
