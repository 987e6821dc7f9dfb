"""The form of a text on a screen: its letters, and ``#`` for each number. "Gn 45" has the form "Gn#"."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

LONGEST: Final = 60
"""Characters of a text of a screen, at most."""
_UNIT: Final = r"(?:db|%|[km]?hz|fps|f/s|[cm]?m/s|mmhg|mm|cm|ms|ml|mw(?:/cm2)?|deg|°|bpm|s)(?![^\W\d_])"
_MEASURED: Final = re.compile(rf"#{_UNIT}", re.IGNORECASE)
_MONTH: Final = (
    "(?:jan|feb|f[eé]v|m[aäáà]r|mrz|apr|avr|abr|ma[iyg]|jun|juin|jul|juil|aug|ao[uû]|ago|sep|set|o[ck]t|out|nov|"
    "de[cz]|d[eé]c|dic|sty|lut|kwi|maj|cze|lip|sie|wrz|pa[zź]|lis|gru)"
)
_DATE: Final = re.compile(
    rf"\d{{4}}|#[./:,·|_\u2010-\u2015-]+#(?!{_UNIT})|#:#|#[.-]?{_MONTH}|{_MONTH}[^\W\d_]*[.-]?#|"
    r"#[ap]\.?m|[年月日]|A#B#",
    re.IGNORECASE,
)
"""What a form of a date, a time or an identifier has."""
_OF_A_BODY: Final = re.compile(
    r"#(?:y|yo|yrs?|years?|j|jahre|a|anni|anos|años|ans|lat|w|d|m|kg|lbs?|in|ft|['\"])(?![^\W\d_])|[岁歳]|"
    r"(?<![^\W\d_])(?:[fmw]|kg)[/:]?#|#/?[fmw](?![^\W\d_])",
    re.IGNORECASE,
)
"""An age, a weight, a height."""
_OF_A_PERSON: Final = frozenset(
    [
        "AGE",
        "ALTER",
        "EDAD",
        "ÂGE",
        "IDADE",
        "ETÀ",
        "WT",
        "HT",
        "WEIGHT",
        "HEIGHT",
        "GEWICHT",
        "GRÖSSE",
        "BW",
        "BMI",
        "BSA",
        "SEX",
        "GENDER",
        "DOB",
        "BORN",
        "GEB",
        "LMP",
        "EDD",
        "ID",
        "PID",
        "MRN",
        "ACC",
        "NAME",
        "PAT",
        "PATIENT",
        "DR",
        "PROF",
        "MD",
        "PHYS",
        "PHYSICIAN",
        "REF",
        "OPERATOR",
        "OP",
        "TECH",
        "USER",
        "HOSP",
        "HOSPITAL",
        "KLINIK",
        "KLINIKUM",
        "CLINIC",
        "CLÍNICA",
        "CLINIQUE",
        "PRAXIS",
        "CENTER",
        "CENTRE",
        "ZENTRUM",
        "WARD",
        "STATION",
        "ROOM",
        "RAUM",
        "BED",
        "BETT",
        "DEPT",
        "TEL",
        "DATE",
        "DATUM",
        "TIME",
        "ZEIT",
        "NR",
        "NO",
        "CASE",
    ]
)
"""Words beside what says something of a person or a place."""


_LONG_WORDS: Final = tuple(word for word in _OF_A_PERSON if len(word) > 4)
_TITLE: Final = re.compile(r"(?<![^\W\d_])(?:Dr|Prof|Mr|Mrs|Ms|Frau|Herr)\.?(?=[^\W\d_a-z])")
"""A title stuck to a name."""


def plain(text: str) -> str:
    """The text without blanks, in the usual forms of its characters."""
    return "".join(unicodedata.normalize("NFKC", text).split())


def form_of(text: str) -> str:
    """The form of a text, without blanks. A number of too many digits for a setting stays as it is: a year,
    an identifier, the height of a body in centimetres.
    """

    def written(number: re.Match[str]) -> str:
        """The number as the form has it."""
        whole, _, decimals = number[0].replace(",", ".").partition(".")
        unit = number.string[number.end() :].casefold()
        most = 4 if unit.startswith("hz") else 2 if re.match("cm(?!/)", unit) else 3
        return "#" if len(whole) <= most and len(decimals) <= 3 else number[0]

    return re.sub(r"\d+(?:[.,]\d+)?", written, plain(text))


def has_unit(text: str) -> bool:
    """Whether a number with a technical unit is in a text or form."""
    return _MEASURED.search(form_of(text)) is not None


def is_measured(text: str) -> bool:
    """Whether a text or form is a number with a technical unit and nothing else."""
    return _MEASURED.fullmatch(form_of(text)) is not None


def says_when(text: str) -> bool:
    """Whether a text or form has a date, a time or an identifier in it."""
    return _DATE.search(form_of(text)) is not None


def says_whose(text: str) -> bool:
    """Whether a text or form may be of a person or a place, whatever stands around it: a date, a time, an
    identifier, an age, a title, a single letter.
    """
    form = form_of(text)
    words = re.findall(r"[^\W\d_]+", text.upper())
    return (
        not (0 < len(form) <= LONGEST and form.isprintable())
        or (sum(map(str.isalpha, form)) < 2 and "#" not in form)
        or says_when(form)
        or _OF_A_BODY.search(form) is not None
        or _has_title(text, words)
    )


def _has_title(text: str, words: Sequence[str]) -> bool:
    """Whether a title, or a word for a person or a place, is in a text of these ``words`` in capitals; also
    stuck to a name, as a reader loses blanks: "KlinikNord".
    """
    return (
        not _OF_A_PERSON.isdisjoint(words)
        or any(word.startswith(_LONG_WORDS) for word in words)
        or _TITLE.search(text) is not None
    )
