"""The one module through which verbs print (a test enforces this).

Standard output has JSON for programs or tables for people, nothing else. Text from outside is printed
literally: no markup is read from it, and control characters appear as escapes.
"""

import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter, methodcaller
from typing import Any, Protocol

from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from dicom_node.printable import printable, printable_json


class PrintedRow(Protocol):
    """One row of a list: a mapping, or a typed result of a service."""

    def __getitem__(self, key: str, /) -> Any: ...


Column = tuple[str, Callable[[PrintedRow], object]]

# Columns that may be broken over lines; all others are words that a person reads or copies whole.
_FLEXIBLE = frozenset(
    {"reason", "details", "text", "why", "says", "patient", "results", "file", "address", "task"}
    | {"licence", "context", "architecture"}
)
_UID_LENGTH = 20  # of a shortened UID in a list, as long as that tells it from the others
_NARROWEST = 16  # columns of the terminal that a flexible column needs at least
_GAP = "  "


def fields(*keys: str) -> list[Column]:
    """Columns that show a value unchanged. A key gives the heading, or "heading: key" does."""
    return [(heading, itemgetter(key)) for heading, key in map(_heading_and_key, keys)]


def times(*keys: str) -> list[Column]:
    """Columns with times in UTC, which are shown in this machine's zone."""
    return [(heading, _local_time(key)) for heading, key in map(_heading_and_key, keys)]


def _heading_and_key(text: str) -> tuple[str, str]:
    heading, _, key = text.rpartition(": ")
    return (heading, key) if ": " in text else (key.replace("_", " "), key)


def _local_time(key: str) -> Callable[[PrintedRow], object]:
    return lambda row: local(row[key])


@dataclass(frozen=True, slots=True)
class Moment:
    """A time in a list, in this machine's zone; the heading of its column names the zone."""

    at: datetime

    def __str__(self) -> str:
        """The time in text; the year is left out if it is the present year."""
        this_year = self.at.year == datetime.now().astimezone().year
        return f"{self.at:%m-%d %H:%M:%S}" if this_year else f"{self.at:%Y-%m-%d %H:%M:%S}"

    @property
    def zone(self) -> str:
        """The offset from UTC, such as "+02:00"."""
        return self.at.isoformat()[-6:]


@dataclass(frozen=True, slots=True)
class Uid:
    """A UID in a list: complete in a file or a pipe, shortened in a terminal's table."""

    text: str
    length: int

    def __str__(self) -> str:
        return self.text


def say(text: str, *, err: bool = False, bold: bool = False) -> None:
    """Print one line."""
    _line(Text(printable(text), style="bold" if bold else ""), err=err)


def say_checked(subject: str, text: str, *, ok: bool) -> None:
    """Print the result of a check: "ok", or a warning."""
    mark = Text("ok      ", "green") if ok else Text("warning ", "yellow")
    _line(mark + Text(printable(subject), "bold") + f" {printable(text)}")


def print_document(text: str) -> None:
    """Print a text of the program, such as a sample configuration, unchanged."""
    sys.stdout.write(text)


def print_json(value: object) -> None:
    """Print one JSON document in UTF-8."""
    of_service = methodcaller("model_dump", mode="json")
    sys.stdout.write(
        printable_json(json.dumps(value, ensure_ascii=False, indent=2, default=of_service)) + "\n"
    )


def print_rows(rows: Sequence[PrintedRow], columns: Sequence[Column], *, as_json: bool, none: str) -> None:
    """Print a list as JSON or as a table; print the sentence ``none`` if it has no rows.

    In a pipe each row is one uncut line. The heading of the first column of times gives the time zone.
    """
    if as_json:
        print_json(list(rows))
    elif not rows:
        say(none, err=True)
    else:
        headings = [heading for heading, _ in columns]
        values = [[value(row) for row in rows] for _, value in columns]
        for number, column in enumerate(values):
            if zones := sorted({value.zone for value in column if isinstance(value, Moment)}):
                headings[number] += f" ({', '.join(zones)})"
                break
        to_a_terminal = sys.stdout.isatty()
        if to_a_terminal:
            values = [_shortened(column) for column in values]
        cells = [[_text(value) for value in row] for row in zip(*values, strict=True)]
        (_print_table if to_a_terminal else _print_lines)(headings, cells)


def print_part(heading: str, rows: Sequence[PrintedRow], columns: Sequence[Column]) -> None:
    """Print a table below a blank line and its heading; nothing without rows."""
    if rows:
        say("")
        say(heading, bold=True)
        print_rows(rows, columns, as_json=False, none="")


def print_details(row: Mapping[str, Any]) -> None:
    """Print one key and value per line, without empty values."""
    shown = [
        (key.replace("_", " "), _text(value)) for key, value in row.items() if value not in (None, "", [], {})
    ]
    width = max((len(key) for key, _ in shown), default=0)
    for key, value in shown:
        _line(Text(key.ljust(width), "bold") + f"{_GAP}{value}")


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show a progress bar on a terminal's standard error; call it once per finished item, with "" for no
    text.
    """
    screen = _console(err=True)
    bar = Progress(console=screen, disable=not screen.is_terminal, transient=True)
    with bar:
        task = bar.add_task(Text(printable(label)).markup, total=total)

        def advance(text: str) -> None:
            bar.advance(task)
            if text:
                bar.console.print(Text(printable(text)), soft_wrap=True)

        yield advance


def local(iso: str | None) -> Moment | str:
    """A UTC time in this machine's zone, for a person; "" if there is no time."""
    return Moment(datetime.fromisoformat(iso).astimezone()) if iso else ""


def short(uid: str | None, length: int = _UID_LENGTH) -> Uid | str:
    """A UID shortened for a terminal's table: its end, which differs between UIDs of one device.

    Verbs accept the shortened form as it is printed (``options.whole_or_end``).
    """
    return Uid(uid, length) if uid else "–"


def details(event: PrintedRow) -> str:
    """The fields of an event in words, without the study, which has its own column."""
    fields = {key: value for key, value in event["fields"].items() if value not in (None, "")}
    for known in ("study", "listener"):  # the association's own name begins with its listener's
        fields.pop(known, None)
    return " ".join(f"{key}={value}" for key, value in fields.items())


def never_fail_on_characters() -> None:
    """Make output to a terminal without UTF-8 print escapes instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _print_table(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """For a terminal: only flexible columns are folded; a narrow terminal wraps lines, words stay whole."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    needed = 0
    for heading, column in zip(headings, zip(*cells, strict=True), strict=True):
        flexible = heading in _FLEXIBLE
        table.add_column(Text(heading), overflow="fold", no_wrap=not flexible)
        widest = max(map(cell_len, (heading, *column)))
        needed += min(widest, _NARROWEST) if flexible else widest
    for row in cells:
        table.add_row(*map(Text, row))
    screen = _console()
    # Both of them: else rich takes a terminal without abilities for one of 80 columns.
    screen.size = ConsoleDimensions(max(screen.width, needed + len(_GAP) * len(headings)), screen.height)
    screen.print(table)


def _print_lines(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    widths = [max(map(cell_len, column)) for column in zip(headings, *cells, strict=True)]
    for row in (headings, *cells):
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(_GAP.join(padded).rstrip() + "\n")


def _shortened(column: Sequence[object]) -> list[object]:
    """The last figures of each UID: as many as its length allows, or as tell all of this list apart."""
    whole = {value.text for value in column if isinstance(value, Uid)}
    shown = next((value.length - 1 for value in column if isinstance(value, Uid)), 0)
    while len({text[-shown:] for text in whole}) < len(whole):
        shown += 1
    return [
        "…" + value.text[-shown:] if isinstance(value, Uid) and len(value.text) > shown + 1 else value
        for value in column
    ]


def _line(text: Text, *, err: bool = False) -> None:
    _console(err=err).print(text, soft_wrap=True)


def _console(*, err: bool = False) -> Console:
    return Console(stderr=err, highlight=False, markup=False, emoji=False)


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        value = ", ".join(str(item) for item in value)
    elif isinstance(value, Mapping):
        value = ", ".join(f"{key}={item}" for key, item in value.items())
    return "" if value is None else printable(str(value))
