"""Templates → pages: times in this machine's zone, everything from outside escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dicom_node import __version__
from dicom_node.model.kinds import ResultKind
from dicom_node.model.roles import UserRole
from dicom_node.services.users import User

_KINDS: Mapping[str, str] = {
    ResultKind.SR: "report (SR)",
    ResultKind.GSPS: "presentation state",
    ResultKind.SC: "annotated picture",
    ResultKind.SUMMARY: "summary page",
    ResultKind.HEATMAP: "heat map",
    ResultKind.CLEANED: "cleaned image",
    ResultKind.SEG: "segmentation",
    ResultKind.REJECTION: "rejection note",
    ResultKind.ASSESSMENT: "assessment (SR)",
}
_HERE = Path(__file__).parents[1]


def render(template: str, status: int = 200, *, user: User | None, **values: Any) -> Response:
    """A page; ``user`` decides what it offers."""
    may = {role.value: user is not None and user.role.includes(role) for role in UserRole}
    text = _environment().get_template(template).render(user=user, may=may, version=__version__, **values)
    return HTMLResponse(text, status)


def static(name: str) -> bytes:
    """A file of ours that pages refer to."""
    return (_HERE / "static" / name).read_bytes()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=["jinja2.ext.i18n"],
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.install_null_translations(newstyle=True)  # type: ignore[attr-defined]  # the extension's
    environment.filters |= {
        "moment": moment,
        "stamp": stamp,
        "local_input": local_input,
        "ago": ago,
        "duration": duration,
        "keyword": keyword,
        "kind": kind,
        "size": size,
        "words": words,
        "counted": counted,
        "fault": fault,
        "date": date,
        "person": person,
        "unit": unit,
        "number_name": number_name,
        "decision": decision,
    }
    return environment


def moment(text: str | None) -> str:
    """A time of a view in this machine's zone; without the date where it is today's."""
    if not text:
        return ""
    at = datetime.fromisoformat(text).astimezone()
    today = at.date() == datetime.now().astimezone().date()
    return f"{at:%H:%M:%S}" if today else f"{at:%Y-%m-%d %H:%M}"


def stamp(text: str) -> str:
    """A time in this machine's zone, always with its date: lists of events reach over midnight."""
    return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}"


def local_input(text: str) -> str:
    """A time as the value of an input of type datetime-local, in this machine's zone; "" if it is no time."""
    try:
        return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%dT%H:%M}"
    except (ValueError, OverflowError):
        return ""


def ago(text: str | None) -> str:
    """How long ago that was, in its largest unit."""
    if not text:
        return ""
    return duration(max((datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds(), 0.0))


def duration(seconds: float) -> str:
    """A time in its largest unit; tenths of seconds where they are few."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def size(number: float) -> str:
    """Bytes in the unit that a person reads."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def date(text: str) -> str:
    """A DICOM date (DA, PS3.5 6.2) as ISO 8601 writes it; other text unchanged."""
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if len(text) == 8 and text.isdecimal() else text


def person(text: str) -> str:
    """A person's name (PN, PS3.5 6.2.1) without the signs between its parts."""
    return " ".join(text.replace("^", " ").replace("=", " = ").split())


def unit(number: str) -> str:
    """A number with its unit (UCUM): "{pixels}" without its braces, none for "{ratio}" and "1".

    Both numbers of "0.75 {ratio} (cut-off 0.41 {ratio})".
    """
    return re.sub(r"\{(.*?)\}", r"\1", re.sub(r" (\{ratio\}|1)(?=$| \(|\)$)", "", number))


def number_name(name: str) -> str:
    """A short name for a number, for the row of its finding: "score" for ``AI score of Mass``."""
    return re.sub(r"^AI (.*?)(?: (?:of|for) .*)?$", r"\1", name)


def decision(word: str) -> str:
    """A decision as the short result words it: "suspected" for ``present``."""
    return {"present": "suspected", "indeterminate": "not excluded", "absent": "not found"}.get(word, word)


def keyword(name: str) -> str:
    """A DICOM keyword as words: "PatientBirthDate" is "Patient Birth Date"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)


def kind(word: str) -> str:
    """The name of a kind of result for a person; tables say "sr"."""
    return _KINDS.get(word, word)


def counted(number: int, what: str) -> str:
    """So many of something."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def fault(status: str) -> str:
    """A DIMSE status (PS3.7 C) where it says more than Success."""
    return "" if status == "0000" else status


def words(text: str) -> str:
    """A state as words."""
    return text.replace("_", " ")
