"""What commands print: JSON for programs or tables for people; and a password that they ask for.

Text from outside is printed literally: no markup is read from it, and control characters appear as escapes.
"""

import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from operator import methodcaller
from typing import Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from dicom_node.base import logs
from dicom_node.base.actions.columns import Column, Time, Uid, local
from dicom_node.base.errors import NodeError

_GAP = "  "


def say(text: str, *, err: bool = False, bold: bool = False) -> None:
    """Print one line of text; ``err``: to standard error."""
    _line(Text(logs.printable(text), style="bold" if bold else ""), err=err)


def say_checked(subject: str, text: str, *, ok: bool) -> None:
    """Print the result of a check on one line: "ok" or "warning", its subject, and the text."""
    mark = Text("ok      ", "green") if ok else Text("warning ", "yellow")
    _line(mark + Text(logs.printable(subject), "bold") + f" {logs.printable(text)}")


def print_json(value: object) -> None:
    """Print one JSON document in UTF-8."""
    of_service = methodcaller("model_dump", mode="json")
    sys.stdout.write(
        logs.printable_json(json.dumps(value, ensure_ascii=False, indent=2, default=of_service)) + "\n"
    )


def print_rows(rows: Sequence[Any], columns: Sequence[Column], none: str = "") -> None:
    """Print rows as a table with these columns; without rows print the sentence ``none`` to standard error.

    Each row is one uncut line; times are in this machine's zone.
    """
    if not rows:
        say(none, err=True)
    else:
        values = [[column.value(row) for row in rows] for column in columns]
        if sys.stdout.isatty():
            values = [_shortened(column) for column in values]
        cells = [[_text(value) for value in column] for column in values]
        table = [[column.title for column in columns], *zip(*cells, strict=True)]
        widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
        for row in table:
            padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
            sys.stdout.write(_GAP.join(padded).rstrip() + "\n")


def print_part(heading: str, rows: Sequence[Any], columns: Sequence[Column]) -> None:
    """Print a table below a blank line and its heading; nothing without rows."""
    if rows:
        say("")
        say(heading.capitalize().replace("_", " "), bold=True)
        print_rows(rows, columns)


def print_details(row: Mapping[str, Any]) -> None:
    """Print one key and value per line; empty values are left out."""
    shown = [
        (key.replace("_", " "), _text(value)) for key, value in row.items() if value not in (None, "", [], {})
    ]
    width = max((len(key) for key, _ in shown), default=0)
    for key, value in shown:
        _line(Text(key.ljust(width), "bold") + f"{_GAP}{value}")


def never_fail_on_characters() -> None:
    """Print a backslash escape for a character that the terminal cannot show, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def prompt_password(read: Callable[[str], str] = str) -> str:
    """Ask for a password at the terminal, or read it from standard input; returns it.

    It is never an argument, which every user of this machine could read. ``read``: raises a NodeError for a
    password that cannot be used; at a terminal another one is asked for.
    """
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    while True:
        try:
            return read(
                typer.prompt(
                    "Password (twelve characters or more)", hide_input=True, confirmation_prompt=True
                )
            )
        except NodeError as error:  # typer's own words for a hidden answer are "the value was invalid"
            say(f"Error: {error}")


def _shortened(column: Sequence[object]) -> list[object]:
    """The values of a column with each UID cut to its end, just so long (19 characters or more) that UIDs
    stay different.
    """
    whole = {value for value in column if isinstance(value, Uid)}
    shown = 19
    while len({value[-shown:] for value in whole}) < len(whole):
        shown += 1
    return [
        "…" + value[-shown:] if isinstance(value, Uid) and len(value) > shown + 1 else value
        for value in column
    ]


def _line(text: Text, *, err: bool = False) -> None:
    """Print one line, with its colours on a terminal."""
    Console(stderr=err, highlight=False, markup=False, emoji=False).print(text, soft_wrap=True)


def _text(value: object) -> str:
    """A value as the text of a table's cell."""
    if isinstance(value, list | tuple):
        value = ", ".join(str(item) for item in value)
    elif isinstance(value, Mapping):
        value = ", ".join(f"{key}={item}" for key, item in value.items())
    elif isinstance(value, Time):
        value = local(value)
    return "" if value is None else logs.printable(str(value))
