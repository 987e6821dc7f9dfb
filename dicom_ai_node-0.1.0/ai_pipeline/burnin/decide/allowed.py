"""What a site lets stay besides what is proven harmless: words of its own, the date of the examination.

Whatever else stands in the same line still has to be proven: "R-CY SMITH" goes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from ai_pipeline.contract import ImageHeader

MOST_WORDS, LONGEST_WORD = 200, 24
"""Words that a site may name, and characters of one, at most."""
EXAMINED = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
"""Attributes of the header that say when an image was made."""
_NEWBORN_DAYS = 2
_MONTHS = ("jan", "feb", "ma[ry]", "apr", "ma[iy]", "jun", "jul", "aug", "sep", "o[ck]t", "nov", "de[cz]")
_TIME = r"(?<!\d)(?:[01]?\d|2[0-3])[:.][0-5]\d(?:[:.][0-5]\d)?(?: ?[ap]\.?m\.?)?(?![\d:])"
_BETWEEN = r"[-./ ]{1,2}"


@dataclass(frozen=True, slots=True)
class Allowed:
    """Text that need not be proven harmless: ``words``, in capitals or not, and ``dates``.

    With dates, times of day stay as well.
    """

    words: frozenset[str] = frozenset()
    dates: frozenset[date] = frozenset()

    @classmethod
    def from_options(cls, keep_words: Sequence[str], dates: str, header: ImageHeader) -> Allowed:
        """These words; with ``dates`` "keep" also the dates of the header.

        None of a patient of unknown age or less than two days old: it may be the birth date.
        """
        known = frozenset(word.casefold() for word in keep_words)
        if dates != "keep":
            return cls(known)
        if header.age_years is None or header.age_years * 365.25 < _NEWBORN_DAYS:
            return cls(known)
        days = (_date(header.attributes.get(keyword, "")) for keyword in EXAMINED)
        return cls(known, frozenset(filter(None, days)))

    def without(self, text: str) -> str:
        """The text without its allowed parts.

        Numbers and single letters, harmless elsewhere, are not harmless beside a date: together they may be
        an accession number, "20260107 45". Then the text is returned whole.
        """
        left = text
        for day in self.dates:
            left = re.sub(_spellings(day), " ", left, flags=re.IGNORECASE)
        if self.dates:
            left = re.sub(_TIME, " ", left, flags=re.IGNORECASE)
        if left != text and left.strip() and not re.search(r"[^\W\d_]{2}", left):
            return text
        return " ".join(word for word in left.split() if word.strip(",;:()[]").casefold() not in self.words)


NOTHING_MORE = Allowed()


def _spellings(day: date) -> str:
    """How consoles write a date: 2026-01-07, 07.01.2026, 1/7/26, 20260107, 07-Jan-2026, Jan 7, 2026."""
    year, month, number = f"(?:{day.year}|{day.year % 100:02})", f"0?{day.month}", f"0?{day.day}"
    name = rf"{_MONTHS[day.month - 1]}[a-z]*\.?"
    orders = (
        (str(day.year), month, number),
        (number, month, year),
        (month, number, year),
        (number, name, year),
    )
    ways = [_BETWEEN.join(order) for order in orders]
    ways += [f"{day:%Y%m%d}", rf"{name} ?{number},? {day.year}", rf"{number}{name}{year}"]
    return rf"(?<![^\s(])(?:{'|'.join(ways)})(?![^\s,;)])"


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text) if re.fullmatch(r"\d{8}", text) else None
    except ValueError:
        return None
