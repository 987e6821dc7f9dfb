"""Inputs that several actions share, and how what a person types is read."""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from dicom_node.base.actions.action import Input
from dicom_node.base.config.section import did_you_mean


def one_of(*words: str) -> Callable[[str], str]:
    """Make a function that returns its text if it is one of these words, and raises ValueError with a similar
    word if not.
    """
    known = {str(word): word for word in words}

    def read(text: str) -> str:
        """The text, if it is one of the words. Raises ValueError."""
        if text not in known:
            raise ValueError(f"{text!r} is none of them; {did_you_mean(text, [*known], 'there are')}")
        return known[text]

    return read


def whole_or_end(uid: str) -> str:
    """The UID as copied from a table, without the ellipsis in place of its cut beginning."""
    return uid.strip().removeprefix("…")


_AGO = re.compile(r"(\d+)\s*([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment(text: str, now: datetime | None = None) -> datetime | None:
    """Read the time that a person typed: an ISO time, a time of today, or a time ago such as "30m"; returns
    UTC, None for "". A time without a zone is in this machine's zone. ``now``: the present time, by default
    that of the clock. Raises ValueError.
    """
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


UID_HELP: Final = "Study Instance UID, or the last figures of it."
StudyUid = Annotated[str, Input(UID_HELP, metavar="UID", reads=whole_or_end)]
StudyUids = Annotated[
    Sequence[str],
    Input("Study Instance UIDs, or the last figures of each.", metavar="UID...", reads=whole_or_end),
]
OfStudy = Annotated[str, Input(UID_HELP, "--study", "UID", whole_or_end)]
SINCE: Final = Input(
    "Not older than: 2026-03-01, 2026-03-01T03:12, 03:12 (today), or 90s, 30m, 2h, 3d ago. "
    "Local time, unless it carries a zone (…T03:12Z, …T03:12+02:00).",
    "--since",
    "WHEN",
    moment,
)
Since = Annotated[datetime | None, SINCE]
Until = Annotated[
    datetime | None,
    Input("Only before this time, written as in --since.", "--until", "WHEN", reads=moment),
]
Reason = Annotated[str, Input("Why, without names; it is shown to persons.", "--because", "TEXT")]


def states(*words: str) -> Input:
    """The input ``--state`` of a list: one or more of these states."""
    return Input("Only in this state; repeatable.", "--state", "|".join(words), one_of(*words))


def limit(rows: int) -> Input:
    """The input ``--limit`` of a list: the most rows, by default ``rows``; 0 for all."""
    return Input("At most this many rows; 0: all.", "--limit -n", default=rows, least=0)


def numbers(of: str, metavar: str) -> Input:
    """The input for the numbers of rows, such as jobs; ``of``: the plural noun."""
    return Input(f"Numbers, as `{of} list` shows them.", metavar=f"{metavar}...", least=0)
