"""Charts as SVG shapes: bars or lines over time, and a patient's measurements, in a small plot for each."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import groupby
from typing import Final, Literal

from dicom_console.views.activity import Series
from dicom_node.base.store.views import View
from dicom_node.results.envelope import StatedNumber

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 400, 170, 50, 22, 10
"""Of a chart, and what stays free for its numbers (pixels)."""
PLOT_WIDTH, PLOT_HEIGHT, MARGIN = 480, 140, 40
"""Size of a plot and what stays free around its points (pixels)."""
LABELS_APART = 80
"""Distance of two labels, at least (pixels); the newest point has one."""
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
    step = max(math.ceil(len(times) / 3), 1)
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
        "marks": [  # three times along the axis at most
            {"x": round(LEFT + (place + 0.5) * width, 1), "at": times[place]}
            for place in range(step // 2, len(times), step)
        ],
        "series": [_shape(one, times, width, end) for one in series],
        "empty": not any(value for one in series for value in one.values),
    }


def _shape(one: Series, times: Sequence[datetime], width: float, end: float) -> View:
    """The bars or lines of one series."""
    placed = [
        {"x": round(LEFT + (place + 0.5) * width, 1), "y": _y(value, end), "value": value, "at": times[place]}
        if value is not None
        else None
        for place, value in enumerate(one.values)
    ]
    runs = [list(run) for there, run in groupby(placed, key=bool) if there]
    return {"name": one.name, "dots": [dot for dot in placed if dot], "runs": runs}


def _y(value: float, end: float) -> float:
    """The vertical position of a value, in pixels."""
    return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / end, 1)


def _round_up(value: float) -> float:
    """The next number that is 1, 2, 2.5 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in _ROUND if step * power >= value * (1 - 1e-9))


@dataclass(frozen=True, slots=True)
class DatedNumber:
    """A number in a report, with the date of the study."""

    study: int
    on: date
    number: StatedNumber


def trends(measured: Sequence[DatedNumber]) -> list[View]:
    """Quantities that were measured on two days or more, with their points in pixels.

    If a study has several numbers of one quantity, none is shown: it is unknown which belong together.
    """
    ordered = sorted(measured, key=lambda one: (*_quantity(one), one.on))
    return [plot for _, group in groupby(ordered, _quantity) if (plot := _plot(list(group)))]


def _quantity(one: DatedNumber) -> tuple[str, str, str]:
    """What makes two numbers comparable: quantity, unit and model."""
    return one.number.meaning, one.number.unit[0], one.number.model


def _plot(group: Sequence[DatedNumber]) -> View:
    """The plot of one quantity; empty if it was measured on one day only."""
    numbers = Counter(one.study for one in group)
    single = [one for one in group if numbers[one.study] == 1]
    if len({one.on for one in single}) < 2:
        return {}
    name, unit, model = _quantity(single[0])
    return {
        "name": name,
        "unit": "" if unit == "1" or unit.startswith("{") else unit,  # UCUM: no unit, as of a {ratio}
        "model": model,
        "points": _points(single),
        "width": PLOT_WIDTH,
        "height": PLOT_HEIGHT,
    }


def _points(single: Sequence[DatedNumber]) -> list[View]:
    """The points of a plot."""
    points: list[View] = []
    values = [one.number.value for one in single]
    first, last = single[0].on.toordinal(), single[-1].on.toordinal()
    lowest, span = min(values), max(values) - min(values)
    labelled = PLOT_WIDTH + LABELS_APART
    for one in reversed(single):
        above = (one.number.value - lowest) / span if span else 0.5
        x = round(MARGIN + (PLOT_WIDTH - 2 * MARGIN) * (one.on.toordinal() - first) / (last - first))
        has_label = labelled - x >= LABELS_APART
        labelled = x if has_label else labelled
        points.append(
            {
                "x": x,
                "y": round(PLOT_HEIGHT - MARGIN - (PLOT_HEIGHT - 2 * MARGIN) * above),
                "day": one.on.isoformat(),
                "value": f"{one.number.value:.3g}",
                "study": one.study,
                "label": has_label,
            }
        )
    return points[::-1]
