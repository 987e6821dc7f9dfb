"""Format figures as text: intervals and Markdown tables, for terminals, reports and pages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

NOT_DIAGNOSTIC = "Not for diagnostic use."


def interval(values: Sequence[float | None] | None, digits: int = 3, minus: str = "-") -> str:
    """``[value, low, high]`` as ``0.690 [0.648, 0.730]``; a dash if there is no figure."""
    if values is None or values[0] is None:
        return "–"
    value, *ends = (None if number is None else f"{number:.{digits}f}" for number in values)
    text = str(value) if None in ends else f"{value} [{', '.join(map(str, ends))}]"
    return text.replace("-", minus)


def figures_text(figures: Mapping[str, Any]) -> str:
    """All figures of an evaluation for a terminal: names with values, and rows of one kind as tables."""
    return "\n".join([*_block("", figures), "", NOT_DIAGNOSTIC])


def sentence(text: str) -> str:
    """``text`` with a capital letter and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, followed by an empty line."""
    return [_line(headings), "|" + "---|" * len(headings), *map(_line, rows), ""]


def without_nan(value: Any) -> Any:
    """``value`` with None in place of NaN, which JSON does not have."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


def _block(title: str, figures: Mapping[str, Any]) -> Iterator[str]:
    """The values of ``figures``, then under titles of their own what they hold further."""
    values = {name: text for name, value in figures.items() if (text := _value(value)) is not None}
    if values:
        width = max(map(len, values)) + 2
        yield from ("", f"{title}:") if title else ()
        yield from (f"{name.replace('_', ' '):{width}}{text}" for name, text in values.items())
    further = {name: value for name, value in figures.items() if name not in values}
    if _alike(further.values()):
        yield from _table(title, list(further.items()))
        return
    for name, value in further.items():
        below = _joined(title, name)
        yield from _block(below, value) if isinstance(value, Mapping) else _table(below, _named(value))


def _table(title: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    """One line for each of ``rows``, a column for each value; below the table what rows hold further."""
    cells = [{name: _value(value) for name, value in row.items()} for _, row in rows]
    columns = [
        name
        for name in dict.fromkeys(name for row in cells for name in row)
        if any(row.get(name) for row in cells)
    ]
    if columns:
        lines = [["", *(name.replace("_", " ") for name in columns)]]
        lines += [
            [name, *(row.get(column) or "" for column in columns)]
            for (name, _), row in zip(rows, cells, strict=True)
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        yield from ("", f"{title}:") if title else ()
        yield from (
            "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )
    for (name, row), known in zip(rows, cells, strict=True):
        yield from _block(
            _joined(title, name), {key: value for key, value in row.items() if known[key] is None}
        )


def _alike(rows: Iterable[Any]) -> bool:
    """Whether these are several mappings that share a value of one name."""
    shared = [
        {name for name in row if _value(row[name])} if isinstance(row, Mapping) else set() for row in rows
    ]
    return len(shared) > 1 and bool(set.intersection(*shared))


def _named(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Each of ``rows`` without the words that it begins with, which are its name, or its number."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for number, row in enumerate(rows, start=1):
        words = dict(takewhile(lambda pair: isinstance(pair[1], str), row.items()))
        name = ", ".join(words.values()) or str(number)
        found.append((name, {key: value for key, value in row.items() if key not in words}))
    return found


def _joined(title: str, name: str) -> str:
    return ", ".join(part for part in (title, name.replace("_", " ")) if part)


def _value(value: Any) -> str | None:
    """``value`` in one line; None where it holds mappings."""
    if isinstance(value, Mapping):
        return None if value else "none"
    if isinstance(value, list | tuple):
        if len(value) == 3 and all(one is None or isinstance(one, float) for one in value):
            middle, low, high = map(_number, value)
            return middle if value[0] is None else f"{middle} [{low}, {high}]"
        parts = [_value(one) for one in value]
        return None if None in parts else ", ".join(map(str, parts)) or "none"
    return _number(value)


def _number(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
