"""Options that verbs share.

The one module through which verbs print (a test enforces this).

Standard output has JSON for programs or tables for people, nothing else. Text from outside is printed
literally: no markup is read from it, and control characters appear as escapes.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from dicom_node.base.kinds import Role
from dicom_node.base.printable import printable, printable_json
from dicom_node.people.nouns.columns import Column, Moment, PrintedRow, Uid

if TYPE_CHECKING:
    from dicom_node.base.config.settings import Settings

Config = Annotated[
    list[Path],
    typer.Option(
        "--config",
        "-c",
        envvar="DICOM_NODE_CONFIG",
        metavar="FILE",
        help="Configuration file; may be given more than once (peers and rules in files of their own).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table or words.")]
RoleOption = Annotated[
    Role,
    typer.Option(
        "--role",
        help="listener: receive, assemble, timers, console if enabled. worker: run models, deliver. "
        "delivery, console: that alone. all: everything.",
    ),
]


def load(files: Sequence[Path]) -> Settings:
    """The configuration. Raises ConfigurationError with every mistake."""
    from dicom_node.base.config import loading  # takes a moment: `--help` does without

    return loading.load(files)


@contextmanager
def reading(files: Sequence[Path]) -> Iterator[tuple[Any, Settings]]:
    """A session on the database, for a list. Mistakes that do not concern the database are only warnings."""
    from dicom_node import people
    from dicom_node.base.config import loading

    settings, mistakes = loading.load_to_read(files)
    if mistakes:
        say(f"The configuration has mistakes ({mistakes}): dicom-node check shows them.", err=True)
    with people.reading(settings) as session:
        yield session, settings


def group(about: str) -> typer.Typer:
    """A group of verbs, also if it has only one (typer would turn that verb into the group itself)."""
    app = typer.Typer(no_args_is_help=True, help=about)
    app.callback()(lambda: None)
    return app


_GAP = "  "


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

    Each row is one uncut line. The heading of the first column of times gives the time zone.
    """
    if as_json:
        print_json(list(rows))
    elif not rows:
        say(none, err=True)
    else:
        headings = [heading for heading, _ in columns]
        values = [[value(row) for row in rows] for _, value in columns]
        for number, column in enumerate(values):
            if zones := sorted({value.at.isoformat()[-6:] for value in column if isinstance(value, Moment)}):
                headings[number] += f" ({', '.join(zones)})"
                break
        if sys.stdout.isatty():
            values = [_shortened(column) for column in values]
        cells = [[_text(value) for value in column] for column in values]
        table = [headings, *zip(*cells, strict=True)]
        widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
        for row in table:
            padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
            sys.stdout.write(_GAP.join(padded).rstrip() + "\n")


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


def never_fail_on_characters() -> None:
    """Make output to a terminal without UTF-8 print escapes instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


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
