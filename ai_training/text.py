"""Figures as text: intervals and Markdown tables, for terminals, reports and pages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NOT_DIAGNOSTIC = "Not for diagnostic use."


def interval(values: Sequence[float | None] | None, digits: int = 3, minus: str = "-") -> str:
    """``[value, low, high]`` as ``0.690 [0.648, 0.730]``; a dash where there is no figure."""
    if values is None or values[0] is None:
        return "–"
    value, *ends = (None if number is None else f"{number:.{digits}f}" for number in values)
    text = str(value) if None in ends else f"{value} [{', '.join(map(str, ends))}]"
    return text.replace("-", minus)


def verdict(met: bool) -> str:
    """The words after a figure that has a target."""
    return "  target met" if met else "  TARGET NOT MET"


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, with an empty one behind it."""
    return [_line(headings), "|" + "---|" * len(headings), *map(_line, rows), ""]


def without_nan(value: Any) -> Any:
    """``value`` with None for NaN, which JSON does not have."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
