"""Columns of lists: a heading, and what of a row stands below it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any, Protocol


class PrintedRow(Protocol):
    """One row of a list: a mapping, or a typed result of a service."""

    def __getitem__(self, key: str, /) -> Any: ...


Column = tuple[str, Callable[[PrintedRow], object]]
_UID_LENGTH = 20  # of a shortened UID in a list, as long as that tells it from the others


@dataclass(frozen=True, slots=True)
class Moment:
    """A time in a list, in this machine's zone; the heading of its column names the zone."""

    at: datetime

    def __str__(self) -> str:
        """The time in text; the year is left out if it is the present year."""
        this_year = self.at.year == datetime.now().astimezone().year
        return f"{self.at:%m-%d %H:%M:%S}" if this_year else f"{self.at:%Y-%m-%d %H:%M:%S}"


@dataclass(frozen=True, slots=True)
class Uid:
    """A UID in a list: complete in a file or a pipe, shortened in a terminal's table."""

    text: str
    length: int

    def __str__(self) -> str:
        return self.text


def local(iso: str | None) -> Moment | str:
    """A UTC time in this machine's zone, for a person; "" if there is no time."""
    return Moment(datetime.fromisoformat(iso).astimezone()) if iso else ""


def short(uid: str | None, length: int = _UID_LENGTH) -> Uid | str:
    """A UID shortened for a terminal's table: its end, which differs between UIDs of one device.

    Verbs accept the shortened form as it is printed (``nouns.whole_or_end``).
    """
    return Uid(uid, length) if uid else "–"


def _heading_and_key(text: str) -> tuple[str, str]:
    heading, _, key = text.rpartition(": ")
    return (heading, key) if ": " in text else (key.replace("_", " "), key)


def fields(*keys: str) -> list[Column]:
    """Columns that show a value unchanged. A key gives the heading, or "heading: key" does."""
    return [(heading, itemgetter(key)) for heading, key in map(_heading_and_key, keys)]


def times(*keys: str) -> list[Column]:
    """Columns with times in UTC, which are shown in this machine's zone."""
    return [
        (heading, lambda row, key=key: local(row[key]))  # type: ignore[misc]
        for heading, key in map(_heading_and_key, keys)
    ]


def uid(heading: str, key: str, *length: int) -> Column:
    """A column of UIDs."""
    return heading, lambda row: short(row[key], *length)


def yes_no(heading: str, key: str, yes: str = "yes", no: str = "no") -> Column:
    """A column that says whether a value is true."""
    return heading, lambda row: yes if row[key] else no


def details(event: PrintedRow) -> str:
    """The fields of an event in words, without the study, which has its own column."""
    of_event = {key: value for key, value in event["fields"].items() if value not in (None, "")}
    for known in ("study", "listener"):  # the association's own name begins with its listener's
        of_event.pop(known, None)
    return " ".join(f"{key}={value}" for key, value in of_event.items())
