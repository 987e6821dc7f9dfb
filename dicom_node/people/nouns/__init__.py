"""What persons list and do, by noun: each verb is declared once, with its input, columns, role and function.

The command (``serve/cli/verbs.py``) and the lists of the REST API and of the pages
(``dicom_console/web/faces.py``) follow from the declaration; the function notes in the audit what was done.
A declaration imports nothing heavy: the function is named by its place, and imported when it is called.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import import_module
from inspect import Parameter
from typing import Any, Final

from dicom_node.base.config.settings import did_you_mean
from dicom_node.base.errors import ExitCode
from dicom_node.base.kinds import UserRole
from dicom_node.people.nouns.columns import Column

NOUNS: Final[Mapping[str, str]] = {
    "peers": "configured", "rules": "configured", "models": "configured",
    "studies": "studies",
    "jobs": "work", "outbox": "work", "fetches": "work", "notifications": "work", "processes": "work",
    "events": "watched", "associations": "watched", "decisions": "watched",
    "users": "users", "tokens": "users",
}  # fmt: skip
"""The module of each noun in this package."""


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a verb. ``kind``: a type, or a function that reads it from text and raises ValueError.

    ``flag``: of the command, such as "--state"; without one it is given by its place. ``is_secret``: asked
    for at the terminal.
    """

    name: str
    kind: Callable[..., Any] = str
    help: str = ""
    flag: str = ""
    metavar: str | None = None
    default: Any = Parameter.empty
    many: bool = False
    least: int | None = None
    most: int | None = None
    is_secret: bool = False


@dataclass(frozen=True, slots=True)
class Verb:
    """One thing that a person lists or does.

    ``run``: the function, "people.queues:change_jobs" in ``dicom_node``; it gets a session of the database
    and the settings (as far as it has parameters of these names), the inputs, and ``fixed``. It returns rows,
    which have ``columns``, or anything else, which ``says`` puts into words ("{result}", "{s}" for its
    plural, and the inputs by name). ``none`` is said without rows, ``then`` below them. ``either``: inputs of
    which one is needed, of two no more. ``status``: the exit status that follows from the result. ``role``:
    who may do it at the console.
    """

    name: str
    run: str
    help: str
    example: str = "--config node.toml"
    why: str = ""
    inputs: Sequence[Input] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    columns: Sequence[Column] = ()
    none: str = ""
    says: str = ""
    then: str = ""
    either: Sequence[str] = ()
    status: Callable[[Any], int] = lambda _result: ExitCode.OK
    role: UserRole = UserRole.VIEWER

    def function(self) -> Callable[..., Any]:
        """The function that does it, imported now."""
        module, _, name = self.run.partition(":")
        function: Callable[..., Any] = getattr(import_module(f"dicom_node.{module}"), name)
        return function


@dataclass(frozen=True, slots=True)
class Noun:
    """What the verbs of one command group are about.

    ``key``: the number of a row, by which pages go on. ``rows``: what the REST API calls them.
    """

    name: str
    about: str
    verbs: Sequence[Verb]
    key: str = ""
    rows: str = ""

    def verb(self, name: str) -> Verb:
        """The verb of this name."""
        return next(verb for verb in self.verbs if verb.name == name)


def noun(name: str) -> Noun:
    """The noun of this name."""
    found: Noun = getattr(import_module(f"{__name__}.{NOUNS[name]}"), name.upper())
    return found


def all_of(key: str, otherwise: ExitCode = ExitCode.FAILED) -> Callable[[Any], int]:
    """The exit status for rows of which each should have this value."""
    return lambda rows: ExitCode.OK if all(row[key] for row in rows) else otherwise


def one_of(*words: str) -> Callable[[str], str]:
    """Reads one of these words, or values of an enumeration, and names a similar one for any other."""
    known = {str(word): word for word in words}

    def read(text: str) -> str:
        if text not in known:
            raise ValueError(f"{text!r} is no state; {did_you_mean(text, [*known], 'there are')}")
        return known[text]

    return read


def whole_or_end(uid: str) -> str:
    """A UID copied from a table, without the sign that replaces its cut beginning."""
    return uid.strip().removeprefix("…")


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
        raise ValueError(
            f"{text!r} is no time: write 2026-03-01T03:12, 03:12, or 30m, 2h, 3d for a time ago"
        ) from None


# Inputs that several verbs share.
UID_HELP: Final = "Study Instance UID, or the last figures of it."
STUDY: Final = Input("study_instance_uid", whole_or_end, UID_HELP, metavar="UID")
STUDIES: Final = Input(
    "study_instance_uids",
    whole_or_end,
    "Study Instance UIDs, or the last figures of each.",
    metavar="UID...",
    many=True,
)
OF_STUDY: Final = Input("study_instance_uid", whole_or_end, UID_HELP, "--study", "UID", "")
SINCE: Final = Input(
    "since",
    moment,
    "Not older than: 2026-03-01, 2026-03-01T03:12, 03:12 (today), or 90s, 30m, 2h, 3d ago. "
    "Local time, unless it carries a zone (…T03:12Z, …T03:12+02:00).",
    "--since",
    "WHEN",
    None,
)
BECAUSE: Final = Input("because", str, "Why, without names; it is shown to persons.", "--because", "TEXT")


def states(*words: str) -> Input:
    """The states that rows may have."""
    about = "Only in this state; repeatable."
    return Input("states", one_of(*words), about, "--state", "|".join(words), (), many=True)


def limit(rows: int) -> Input:
    """The most rows of a list; 0 for all."""
    return Input("limit", int, "At most this many rows; 0: all.", "--limit -n", default=rows, least=0)


def numbers(of: str, metavar: str, **more: Any) -> Input:
    """The numbers of rows, as the list of a noun shows them."""
    about = f"Numbers, as `{of} list` shows them."
    return Input("numbers", int, about, metavar=f"{metavar}...", many=True, least=0, **more)
