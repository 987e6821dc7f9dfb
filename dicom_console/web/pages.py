"""Pages from templates: the reader's language, times in this machine's zone, all outside text escaped."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from fastapi import Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dicom_console.web import languages
from dicom_console.web.languages import decimal
from dicom_node import __version__
from dicom_node.base.actions.action import declared, role_of
from dicom_node.base.actions.columns import Time
from dicom_node.base.actions.in_words import is_sent_nowhere
from dicom_node.base.lifecycle import RESULT_KINDS, UserRole
from dicom_node.base.store.views import (
    ORIGINAL,
    list_associations,
    list_deliveries,
    list_jobs,
    list_studies,
)
from dicom_node.people.audit import LONGEST_REASON, SHORTEST_REASON
from dicom_node.people.fetches import list_fetches, missing_studies
from dicom_node.people.hl7_messages import list_messages, list_sent_under_former
from dicom_node.people.lost_decisions import waiting_decisions
from dicom_node.people.notifications import list_notifications
from dicom_node.people.registered import list_patients
from dicom_node.people.screens import list_screens
from dicom_node.people.users import User, list_sessions, list_users
from dicom_node.people.withdrawal import withdraw_studies

KINDS: Mapping[str, str] = {
    **{kind: result.name for kind, result in RESULT_KINDS.items()},
    ORIGINAL: "received object",
}
LAYERS = ("Cleaned", "Drawn into the picture", "Heat map")
"""What people.pictures calls the pictures of an image."""
DECISIONS: Mapping[str, str] = {
    "present": "suspected",
    "indeterminate": "not excluded",
    "absent": "not found",
}
LISTS: Mapping[str, Callable[..., Any]] = {
    "studies": list_studies,
    "jobs": list_jobs,
    "outbox": list_deliveries,
    "associations": list_associations,
    "fetches": list_fetches,
    "missing_studies": missing_studies,
    "notifications": list_notifications,
    "decisions": waiting_decisions,
    "patients": list_patients,
    "messages": list_messages,
    "former": list_sent_under_former,
    "screens": list_screens,
    "users": list_users,
    "sessions": list_sessions,
}
"""The functions that declare the columns of the pages' lists."""
_ACTIONS = {"withdraw": withdraw_studies}
"""Actions that pages offer, by the name in templates, and the function that declares the role of each."""
_HERE = Path(__file__).parents[1]


def render(
    template: str, status: int = 200, *, user: User | None, language: str = "en", **values: Any
) -> Response:
    """Return the page made of a template and ``values``.

    ``user``: decides which functions the page offers, None if nobody is signed in; ``language``: code of its
    language.
    """
    needed = {role.value: role for role in UserRole} | {
        name: role_of(function) for name, function in _ACTIONS.items()
    }
    may = {name: user is not None and user.role.includes(role) for name, role in needed.items()}
    page = _environment(language).get_template(template)
    return HTMLResponse(page.render(user=user, may=may, version=__version__, **values), status)


def static(name: str) -> bytes:
    """Return the content of a static file of the console, such as a style sheet."""
    return (_HERE / "static" / name).read_bytes()


@cache
def _environment(language: str) -> Environment:
    """Return the Jinja environment of the templates, with texts and filters of a language."""
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        extensions=["jinja2.ext.i18n"],
        trim_blocks=True,
        lstrip_blocks=True,
    )
    texts = languages.catalogue(language)
    environment.install_gettext_translations(texts, newstyle=True)  # type: ignore[attr-defined]
    columns = {name: declared(find).columns for name, find in LISTS.items()}
    environment.globals |= {"language": language, "languages": languages.LANGUAGES, "columns": columns}
    environment.globals |= {"shortest_reason": SHORTEST_REASON, "longest_reason": LONGEST_REASON}
    environment.tests["time"] = lambda value: isinstance(value, Time)
    environment.tests["sent_nowhere"] = is_sent_nowhere
    by_language: dict[str, Callable[..., str]] = {
        "moment": moment,
        "stamp": stamp,
        "ago": ago,
        "duration": duration,
        "size": size,
        "date": date,
        "decimal": decimal,
        "unit": unit,
    }
    environment.filters |= {name: partial(one, language=language) for name, one in by_language.items()}

    def translated(text: str) -> str:
        """Return the translation of a text that is in a variable; texts without one stay as they are."""
        return texts.gettext(text) if text else ""

    environment.filters |= {
        "local_input": local_input,
        "date_input": date_input,
        "person": person,
        "translated": translated,
        # The database has short names such as "sr", states such as "not_applicable", decisions as "present".
        "kind": lambda word: translated(KINDS.get(word, word)),
        "words": lambda word: translated(word.replace("_", " ")),
        "decision": lambda word: translated(DECISIONS.get(word, word)),
        # Of a picture made from an image: in "Heat map: Mass" the finding follows the colon.
        "layer": lambda name: ": ".join([translated(name.partition(": ")[0]), *name.split(": ", 1)[1:]]),
        # A DICOM keyword as words: "PatientBirthDate" is "Patient Birth Date".
        "keyword": lambda name: re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name),
        # A DIMSE status (PS3.7 C); "" for Success.
        "fault": lambda status: "" if status == "0000" else status,
        # The short name of a number in the row of its finding: "score" for "AI score of Mass".
        "number_name": lambda name: translated(re.sub(r"^AI (.*?)(?: (?:of|for) .*)?$", r"\1", name)),
    }
    return environment


def moment(text: str | None, language: str = "en") -> str:
    """Return an ISO time in this machine's zone, without the date if it is today; "" for None."""
    if not text:
        return ""
    at = datetime.fromisoformat(text).astimezone()
    today = at.date() == datetime.now().astimezone().date()
    return f"{at:%H:%M:%S}" if today else languages.moment(at, language, "seconds")


def stamp(text: str, *, short: bool = False, language: str = "en") -> str:
    """Return an ISO time in this machine's zone with its date, because lists of events reach over midnight.

    ``short``: for a chart's axis, without year and seconds.
    """
    at = datetime.fromisoformat(text).astimezone()
    return languages.moment(at, language, "axis" if short else "seconds")


def local_input(text: str) -> str:
    """Return an ISO time as value of an HTML input of type datetime-local, in this machine's zone; "" if it
    is no time.
    """
    try:
        return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%dT%H:%M}"
    except (ValueError, OverflowError):
        return ""


def ago(text: str | None, language: str = "en") -> str:
    """Return how long ago an ISO time was, in its largest unit; "" for None."""
    if not text:
        return ""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()
    return duration(max(seconds, 0.0), language)


def duration(seconds: float, language: str = "en") -> str:
    """Return a duration in its largest unit, such as "3 h"; below 10 seconds with tenths."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{decimal(seconds, 0 if seconds >= 10 else 1, language=language)} s"


def size(number: float, language: str = "en") -> str:
    """Return a number of bytes in a readable unit, such as "1.5 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{decimal(number, 0 if unit == 'B' else 1, language=language)} {unit}"
        number /= 1024
    return f"{decimal(number, 1, language=language)} TiB"


def date(text: str, language: str = "en") -> str:
    """Return a DICOM date (DA, PS3.5 6.2) in the format of the language; any other text unchanged."""
    try:
        return languages.day(datetime.strptime(text, "%Y%m%d").date(), language) if len(text) == 8 else text
    except ValueError:
        return text


def date_input(text: str) -> str:
    """Return a DICOM date (DA) as value of an HTML input of type date; any other text unchanged."""
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if re.fullmatch(r"\d{8}", text) else text


def person(text: str) -> str:
    """Return a DICOM person's name (PN, PS3.5 6.2.1) as "family name, other names"; its groups are joined by
    " = ".
    """
    groups = (group.partition("^")[::2] for group in text.split("="))
    words = ([" ".join(part.replace("^", " ").split()) for part in group] for group in groups)
    return " = ".join(filter(None, (", ".join(filter(None, group)) for group in words)))


def unit(number: str, language: str = "en") -> str:
    """Return a text such as "0.75 {ratio}" with its UCUM units in readable form: braces removed, "{ratio}"
    and "1" left out; decimal commas except in English.
    """
    text = re.sub(r"\{(.*?)\}", r"\1", re.sub(r" (\{ratio\}|1)(?=$| \(|\)$)", "", number))
    return text if language == "en" else re.sub(r"(?<=\d)\.(?=\d)", ",", text)
