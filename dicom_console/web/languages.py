"""The languages of the pages: one catalogue of texts for each (gettext), and the choice for a reader."""

import io
import re
from datetime import date, datetime
from functools import cache
from gettext import GNUTranslations, NullTranslations
from pathlib import Path
from typing import Final

from babel import Locale, negotiate_locale
from babel.dates import format_date, format_skeleton
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_decimal

LANGUAGES: Final = {"en": "English", "de": "Deutsch", "fr": "Français", "es": "Español"}
"""By their codes (ISO 639-1); the texts in the source are English."""
COOKIE: Final = "dicom-node-language"
CATALOGUES: Final = Path(__file__).parents[1] / "locale"
_FORMS: Final = {
    "seconds": ("%Y-%m-%d %H:%M:%S", "yMd", "Hms"),
    "minutes": ("%Y-%m-%d %H:%M", "yMd", "Hm"),
    "axis": ("%m-%d %H:%M", "Md", "Hm"),
}
"""Of a time: in English, and the fields that other languages have in their order (Unicode TR 35)."""
_LONGEST = 200  # of an Accept-Language that is read


def N_(text: str) -> str:
    """Return ``text`` unchanged; the call marks it for translation, which happens when a page is made."""
    return text


SAVED: Final = N_("%(name)s is saved.")
"""What a page says after a peer or a rule was changed."""


def wanted(chosen: str, accepted: str) -> str:
    """Return the code of the language to show.

    ``chosen``: the person's choice, "" for none; ``accepted``: the browser's Accept-Language header (RFC 9110
    12.5.4).
    """
    if chosen in LANGUAGES:
        return chosen
    weighed = []
    for place, part in enumerate(accepted[:_LONGEST].split(",")):
        name, _, weight = part.strip().partition(";q=")
        known = re.fullmatch(r"[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*", name)
        if known and re.fullmatch(r"(1|0(\.\d{1,3})?)?", weight):
            weighed.append((-float(weight or 1), place, name.replace("-", "_")))
    names = [name for weight, _, name in sorted(weighed) if weight]
    return negotiate_locale(names, list(LANGUAGES)) or "en"


@cache
def catalogue(language: str) -> NullTranslations:
    """Return the translations of a language; an empty catalogue for English, the language of the source."""
    path = CATALOGUES / f"{language}.po"
    if language == "en":
        return NullTranslations()
    compiled = io.BytesIO()
    with path.open("rb") as file:
        write_mo(compiled, read_po(file, locale=language))
    compiled.seek(0)
    return GNUTranslations(compiled)


def day(at: date, language: str) -> str:
    """Return a date in the format of the language; in English as ISO 8601, which the US and the UK read
    alike.
    """
    return at.isoformat() if language == "en" else format_date(at, "medium", locale=Locale(language))


def moment(at: datetime, language: str, form: str = "minutes") -> str:
    """Return a date and time in the format of the language.

    ``form``: "minutes", "seconds" or "axis" (short, for charts).
    """
    english, *skeletons = _FORMS[form]
    if language == "en":
        return f"{at:{english}}"
    return " ".join(format_skeleton(one, at, locale=Locale(language)) for one in skeletons)


def decimal(number: float, places: int = 0, language: str = "en") -> str:
    """Return a number in the format of the language, with ``places`` decimal places."""
    return format_decimal(number, format="0." + "0" * places if places else "0", locale=Locale(language))
