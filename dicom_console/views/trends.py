"""A patient's measurements over time: one small plot for each quantity and model version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import groupby

from dicom_node.results import StatedNumber
from dicom_node.store.views import View

WIDTH, HEIGHT, MARGIN = 480, 140, 40
"""Size of a plot and what stays free around its points (pixels)."""
LABELS_APART = 80
"""Distance of two labels, at least (pixels); the newest point has one."""


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
    return one.number.meaning, one.number.unit[0], one.number.model


def _plot(group: Sequence[DatedNumber]) -> View:
    times = Counter(one.study for one in group)
    single = [one for one in group if times[one.study] == 1]
    if len({one.on for one in single}) < 2:
        return {}
    name, unit, model = _quantity(single[0])
    return {
        "name": name,
        "unit": "" if unit == "1" or unit.startswith("{") else unit,  # UCUM: no unit, as of a {ratio}
        "model": model,
        "points": _points(single),
        "width": WIDTH,
        "height": HEIGHT,
    }


def _points(single: Sequence[DatedNumber]) -> list[View]:
    points: list[View] = []
    values = [one.number.value for one in single]
    first, last = single[0].on.toordinal(), single[-1].on.toordinal()
    lowest, span = min(values), max(values) - min(values)
    labelled = WIDTH + LABELS_APART
    for one in reversed(single):
        value = one.number.value
        above = (value - lowest) / span if span else 0.5
        x = round(MARGIN + (WIDTH - 2 * MARGIN) * (one.on.toordinal() - first) / (last - first))
        has_label = labelled - x >= LABELS_APART
        labelled = x if has_label else labelled
        points.append(
            {
                "x": x,
                "y": round(HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * above),
                "day": one.on.isoformat(),
                "value": f"{value:.3g}",
                "study": one.study,
                "label": has_label,
            }
        )
    return points[::-1]
