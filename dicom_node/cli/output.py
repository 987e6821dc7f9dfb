"""How verbs print: JSON for programs, tables of 100 columns for people, nothing else on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

Row = Mapping[str, Any]
Column = tuple[str, Callable[[Row], object]]

# Columns that may be broken over lines; all others are words that a person reads or copies whole.
_FLEXIBLE = frozenset(
    {"reason", "details", "text", "why", "says", "patient", "results", "file", "address", "task", "licence"}
    | {"architecture"}
)
_PLAIN_WIDTH = 100  # of a table that goes to a file or a pipe


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal, or 100 columns where there is none."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(
        stderr=stderr, width=None if stream.isatty() else _PLAIN_WIDTH, highlight=False, soft_wrap=False
    )


def print_json(value: object) -> None:
    """One JSON document, UTF-8."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def print_rows(rows: Sequence[Row], columns: Sequence[Column], *, as_json: bool, none: str) -> None:
    """A list: JSON, a table, or the sentence ``none``."""
    if as_json:
        print_json(list(rows))
        return
    if not rows:
        console(stderr=True).print(none)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, _ in columns:
        table.add_column(heading, overflow="fold", no_wrap=heading not in _FLEXIBLE)
    for row in rows:
        table.add_row(*(_text(value(row)) for _, value in columns))
    console().print(table)


def print_details(row: Row, labels: Mapping[str, str] | None = None) -> None:
    """Key and value per line; empty values are left out."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in row.items():
        if value not in (None, "", [], {}):
            table.add_row((labels or {}).get(key, key.replace("_", " ")), _text(value))
    console().print(table)


def local(iso: str | None) -> str:
    """A UTC time of a view in this machine's zone, for a person; the year where it is another one."""
    if not iso:
        return ""
    moment = datetime.fromisoformat(iso).astimezone()
    this_year = moment.year == datetime.now().astimezone().year
    return f"{moment:%m-%d %H:%M:%S}" if this_year else f"{moment:%Y-%m-%d %H:%M:%S}"


def short(uid: str | None, length: int = 26) -> str:
    """A UID that fits in a table: its last figures tell UIDs of one device apart."""
    if not uid:
        return "–"
    return uid if len(uid) <= length else "…" + uid[1 - length :]


def details(event: Row) -> str:
    """The fields of an event in words; its study is told elsewhere in the list."""
    told = {key: value for key, value in event["fields"].items() if value not in (None, "")}
    for known in ("study", "listener"):  # the association's own name begins with its listener's
        told.pop(known, None)
    return " ".join(f"{key}={value}" for key, value in told.items())


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return "" if value is None else str(value)
