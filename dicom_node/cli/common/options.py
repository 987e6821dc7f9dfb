"""Options that verbs share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dicom_node.cli.common.output import say
from dicom_node.config.mistakes import did_you_mean
from dicom_node.model.roles import Role

if TYPE_CHECKING:
    from dicom_node.config.settings import Settings

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
Json = Annotated[bool, typer.Option("--json", help="Print a JSON array instead of a table.")]
JsonObject = Annotated[bool, typer.Option("--json", help="Print a JSON object instead of a table.")]
RoleOption = Annotated[
    Role,
    typer.Option(
        "--role",
        help="listener: receive, assemble, timers, console if enabled. worker: run models, deliver. "
        "delivery, scheduler (timers), console: that alone. all: everything.",
    ),
]
Limit = Annotated[int, typer.Option("--limit", "-n", min=0, help="At most this many rows; 0: all.")]
Since = Annotated[
    str,
    typer.Option(
        "--since",
        metavar="WHEN",
        help="Not older than: 2026-03-01, 2026-03-01T03:12, 03:12 (today), or 90s, 30m, 2h, 3d ago. "
        "Local time, unless it carries a zone (…T03:12Z, …T03:12+02:00).",
    ),
]


def load(files: Sequence[Path]) -> Settings:
    """The configuration. Raises ConfigurationError with every mistake."""
    from dicom_node.config import loading  # takes a moment: `--help` does without

    return loading.load(files)


@contextmanager
def reading(files: Sequence[Path]) -> Iterator[tuple[Any, Settings]]:
    """A session on the database, for a list. Mistakes that do not concern the database are only warnings."""
    from dicom_node import services
    from dicom_node.config import loading

    settings, mistakes = loading.load_to_read(files)
    if mistakes:
        say(f"The configuration has mistakes ({mistakes}): dicom-node check shows them.", err=True)
    with services.reading(settings) as session:
        yield session, settings


def group(about: str) -> typer.Typer:
    """A group of verbs, also if it has only one (typer would turn that verb into the group itself)."""
    app = typer.Typer(no_args_is_help=True, help=about)
    app.callback()(lambda: None)
    return app


def states_option(states: type[StrEnum], *further: str) -> Any:
    """The option ``--state``, which accepts these states and further words."""
    known = [*states, *further]

    def read(text: str) -> str:
        if text not in known:
            raise typer.BadParameter(f"{text!r} is no state; {did_you_mean(text, known, 'there are')}")
        return text if text in further else states(text)

    words = "|".join(known)
    return typer.Option("--state", parser=read, metavar=words, help="Only in this state; repeatable.")


def number_argument(what: str, verb: str, metavar: str, about: str) -> Any:
    """An argument for the number of a job or delivery, as the list of that ``verb`` shows it."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal()):
            raise typer.BadParameter(f"{text!r} is no number of a {what}: `{verb}` shows them")
        return int(text)

    return typer.Argument(parser=read, metavar=metavar, help=about)


def whole_or_end(uid: str) -> str:
    """A UID copied from a table, without the sign that replaces its cut beginning."""
    return uid.strip().removeprefix("…")


StudyUid = Annotated[
    str,
    typer.Option(
        "--study", metavar="UID", callback=whole_or_end, help="Study Instance UID, or the last figures of it."
    ),
]
StudyArgument = Annotated[
    str,
    typer.Argument(
        metavar="UID", callback=whole_or_end, help="Study Instance UID, or the last figures of it."
    ),
]

_AGO = re.compile(r"(\d+)\s*([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment(text: str, now: datetime | None = None) -> datetime | None:
    """The time in ``text`` as UTC; a time without a zone is in this machine's zone. None for ""."""
    if not text:
        return None
    present = now or datetime.now(UTC)
    if ago := _AGO.fullmatch(text.strip()):
        with suppress(OverflowError):
            return present - timedelta(**{_UNITS[ago.group(2)]: int(ago.group(1))})
    if re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?", text.strip()):
        text = f"{present.astimezone():%Y-%m-%d}T{text.strip():0>5}"
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time: write 2026-03-01T03:12, 03:12, or 30m, 2h, 3d for a time ago"
        ) from None
