"""Read dates and times of a header (VR DA, TM and DT, PS3.5 6.2): one reading for all that use them.

Old scanners and converters write dates with dots (ACR-NEMA 300), dashes, strokes or colons, times with
colons, and a time behind a date. A day before its month is read with dots alone: with strokes either may be.
"""

import re
from datetime import date
from typing import Final

_DAY: Final = r"\d{8}|\d{4}(?P<mark>[./:-])\d{1,2}(?P=mark)\d{1,2}|\d{1,2}\.\d{1,2}\.\d{4}"
_TIME: Final = re.compile(r"(\d{2})(?::?(\d{2})(?::?(\d{2})(?:\.(\d+))?)?)?", re.ASCII)
_YEAR_OR_MONTH: Final = re.compile(r"\d{4}(0[1-9]|1[0-2])?", re.ASCII)
_DATE_TIME: Final = re.compile(
    rf"({_DAY})(?:[T ]?([\d:]+(?:\.\d+)?))?([+-](?:0\d|1[0-4]):?[0-5]\d)?", re.ASCII
)


def date_of(text: str) -> date | None:
    """The day in a DICOM date (VR DA or DT); None for any other text. A time after the day is ignored."""
    found = _DATE_TIME.fullmatch(text.strip(" \0"))
    if found is None:
        return None
    given = found[1]
    parts = (given[:4], given[4:6], given[6:]) if given.isdecimal() else re.split(r"\D", given)
    year, month, day = parts if len(parts[0]) == 4 else reversed(parts)
    try:
        return date(int(year), int(month), int(day))
    except ValueError:
        return None


def as_da(text: str) -> str | None:
    """Convert a written date to VR DA (YYYYMMDD); None if it names no day."""
    day = date_of(text)
    return f"{day:%Y%m%d}".zfill(8) if day else None


def as_tm(text: str) -> str | None:
    """Convert a written time to VR TM (HHMMSS.FFFFFF, as far as it is given); None if it is no time of
    day.
    """
    found = _TIME.fullmatch(text.strip(" \0"))
    if found is None:
        return None
    hour, minute, second, fraction = found.groups()
    if int(hour) > 23 or int(minute or 0) > 59 or int(second or 0) > 60:  # 60: a leap second
        return None
    return f"{hour}{minute or ''}{second or ''}" + (f".{fraction[:6]}" if fraction else "")


def as_dt(text: str) -> str | None:
    """Convert a written date and time to VR DT (YYYYMMDDHHMMSS.FFFFFF&ZZXX, as far as it is given); None if
    it is no moment.
    """
    text = text.strip(" \0")
    if _YEAR_OR_MONTH.fullmatch(text):
        return text
    found, day = _DATE_TIME.fullmatch(text), as_da(text)
    time = as_tm(found[3]) if found and found[3] else ""
    if found is None or day is None or time is None:
        return None
    return day + time + (found[4] or "").replace(":", "")
