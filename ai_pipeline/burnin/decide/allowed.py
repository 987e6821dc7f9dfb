"""Text that a site keeps besides text that is proven harmless: words that it lists, dates of the examination.

The rest of the same line must still be proven harmless: in "R-CY SMITH", "SMITH" is removed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from ai_pipeline.contract import ImageHeader
from ai_pipeline.images.dates import date_of

MOST_WORDS, LONGEST_WORD = 200, 24
"""Words that a site may name, and characters of one, at most."""
EXAMINED = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
"""Attributes of the header that say when an image was made."""
_MONTHS = ("jan", "feb", "ma[ry]", "apr", "ma[iy]", "jun", "jul", "aug", "sep", "o[ck]t", "nov", "de[cz]")
_TIME = r"(?<!\d)(?:[01]?\d|2[0-3])[:.][0-5]\d(?:[:.][0-5]\d)?(?: ?[ap]\.?m\.?)?(?![\d:])"


@dataclass(frozen=True, slots=True)
class Allowed:
    """Text that need not be proven harmless: ``words``, in capitals or not, and ``dates``.

    If there are dates, times of day are allowed as well.
    """

    words: frozenset[str] = frozenset()
    dates: frozenset[date] = frozenset()

    @classmethod
    def from_options(cls, keep_words: Sequence[str], dates: str, header: ImageHeader) -> Allowed:
        """Allow ``keep_words`` and, if ``dates`` is "keep", the dates of the examination in the header.

        No date is allowed if the patient's age is unknown or below two days: it may be the birth date.
        """
        known = frozenset(word.casefold() for word in keep_words)
        if dates != "keep":
            return cls(known)
        if header.age_years is None or header.age_years * 365.25 < 2:
            return cls(known)
        days = (date_of(header.attributes.get(keyword, "")) for keyword in EXAMINED)
        return cls(known, frozenset(filter(None, days)))

    def without(self, text: str) -> str:
        """The text without its allowed parts.

        If only numbers and single letters are left beside a date, the text is returned whole: together with
        the date they may be an accession number, as in "20260107 45".
        """
        left = text
        for day in self.dates:
            # How consoles write a date: 2026-01-07, 07.01.2026, 1/7/26, 20260107, 07-Jan-2026, Jan 7, 2026.
            year, month, number = f"(?:{day.year}|{day.year % 100:02})", f"0?{day.month}", f"0?{day.day}"
            name = rf"{_MONTHS[day.month - 1]}[a-z]*\.?"
            orders = (
                (str(day.year), month, number),
                (number, month, year),
                (month, number, year),
                (number, name, year),
            )
            ways = [r"[-./ ]{1,2}".join(order) for order in orders]
            ways += [f"{day:%Y%m%d}", rf"{name} ?{number},? {day.year}", rf"{number}{name}{year}"]
            left = re.sub(rf"(?<![^\s(])(?:{'|'.join(ways)})(?![^\s,;)])", " ", left, flags=re.IGNORECASE)
        if self.dates:
            left = re.sub(_TIME, " ", left, flags=re.IGNORECASE)
        if left != text and left.strip() and not re.search(r"[^\W\d_]{2}", left):
            return text
        return " ".join(word for word in left.split() if word.strip(",;:()[]").casefold() not in self.words)


NOTHING_MORE = Allowed()
