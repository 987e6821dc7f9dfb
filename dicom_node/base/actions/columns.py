"""The columns of a list that persons see: a title, and what of a row stands below it.

Command and page show the same columns; each shows values of the types below in its own way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a list; ``value``: what of a row stands in it. A row is a mapping, or a typed result."""

    title: str
    value: Callable[[Any], object]


class Uid(str):
    """A UID in a list: printed complete to a file or a pipe, only its end in a terminal's table."""


class Time(str):
    """A UTC time (ISO 8601) in a list, "" for none: shown in this machine's zone."""


def local(iso: str | None) -> str:
    """The UTC time ``iso`` (ISO 8601) in this machine's zone, for a person, without the present year; "" for
    no time.
    """
    if not iso:
        return ""
    at, now = datetime.fromisoformat(iso).astimezone(), datetime.now().astimezone()
    return f"{at:%m-%d %H:%M:%S}" if at.year == now.year else f"{at:%Y-%m-%d %H:%M:%S}"


def _title_and_key(text: str) -> tuple[str, str]:
    """The title of a column and the key of its values in a row, from "title: key" or only a key."""
    title, _, key = text.rpartition(": ")
    return (title, key) if ": " in text else (key.replace("_", " "), key)


def fields(*keys: str) -> list[Column]:
    """Columns that show the values of these keys unchanged; a key may be given as "title: key"."""
    return [Column(title, itemgetter(key)) for title, key in map(_title_and_key, keys)]


def times(*keys: str) -> list[Column]:
    """Columns with the UTC times of these keys; a key may be given as "title: key"."""
    return [
        Column(title, lambda row, key=key: Time(row[key] or ""))  # type: ignore[misc]
        for title, key in map(_title_and_key, keys)
    ]


def uid(title: str, key: str) -> Column:
    """A column with the UIDs under this key."""
    return Column(title, lambda row: Uid(row[key] or "–"))


def yes_no(title: str, key: str, yes: str = "yes", no: str = "no") -> Column:
    """A column that shows one of two words, by whether the value under this key is true."""
    return Column(title, lambda row: yes if row[key] else no)


STUDY_UID: Final = uid("study", "study_instance_uid")
"""The study that a row is about."""


JOBS_OF_RULES: Final[Sequence[Column]] = (
    STUDY_UID,
    Column("rule", lambda row: row["rule"] or "–"),
    Column("pipeline", lambda row: row["pipeline"] or "–"),
    *fields("images: sources", "to: destinations"),
    yes_no("queued", "queued"),
    *fields("reason"),
)
"""What rules make of studies again."""


def details(event: Any) -> str:
    """The fields of an event as text, without those that have a column of their own or repeat the
    association's name.
    """
    return " ".join(
        f"{key}={value}"
        for key, value in event["fields"].items()
        if value not in (None, "") and key not in ("study", "listener")
    )
