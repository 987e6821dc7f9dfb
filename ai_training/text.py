"""Format figures as text: intervals and Markdown tables, for terminals, reports and pages."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

NOT_DIAGNOSTIC = "Not for diagnostic use."


def interval(values: Sequence[float | None] | None, digits: int = 3, minus: str = "-") -> str:
    """Write ``[value, low, high]`` as ``0.690 [0.648, 0.730]``; a dash if there is no figure. ``digits``:
    after the point. ``minus``: the sign for negative numbers.
    """
    if values is None or values[0] is None:
        return "–"
    value, *ends = (None if number is None else f"{number:.{digits}f}" for number in values)
    text = str(value) if None in ends else f"{value} [{', '.join(map(str, ends))}]"
    return text.replace("-", minus)


def figures_text(figures: Mapping[str, Any]) -> str:
    """Write all figures of an evaluation for a terminal: a line for each, and for each row of plain
    values.
    """
    return "\n".join([*_lines(figures, ""), "", NOT_DIAGNOSTIC])


def sentence(text: str) -> str:
    """Return ``text`` with a capital letter and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, followed by an empty line."""
    return [_line(headings), "|" + "---|" * len(headings), *map(_line, rows), ""]


def without_nan(value: Any) -> Any:
    """Return ``value`` with None in place of NaN, which JSON does not have."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


def _lines(figures: Mapping[str, Any], indent: str) -> Iterator[str]:
    """The lines of nested figures."""
    for name, value in figures.items():
        rows = _named(value)
        title = f"{indent}{name.replace('_', ' ')}"
        if not isinstance(rows, Mapping):
            yield f"{title}: {_value(rows)}"
        elif any(isinstance(_named(part), Mapping) for part in rows.values()):
            yield f"{title}:"
            yield from _lines(rows, f"{indent}  ")
        else:
            yield f"{title}: {'; '.join(f'{key} {_value(part)}' for key, part in rows.items()) or 'none'}"


def _named(value: Any) -> Any:
    """Turn a list of tables into a table of tables, by number and name."""
    if isinstance(value, list | tuple) and any(isinstance(row, Mapping) for row in value):
        return {f"{n} {row.get('label', row.get('name', ''))}".strip(): row for n, row in enumerate(value, 1)}
    return value


def _value(value: Any) -> str:
    """A figure as text: a number, a number with its interval, or a list."""
    if isinstance(value, list | tuple):
        if len(value) == 3 and all(isinstance(one, float) for one in value):
            return "{} [{}, {}]".format(*map(_number, value))
        return ", ".join(map(_value, value)) or "none"
    return _number(value)


def _number(value: Any) -> str:
    """A number with four digits; "–" if it is not known."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _line(cells: Sequence[str]) -> str:
    """A line of a table in Markdown."""
    return "| " + " | ".join(cells) + " |"
